//! One run of a memory function: its tensors, what a kernel makes of them, and what it should.

use half::f16;
use mcedge_kernel::{Cells, Isa, Kernel, Run};
use mcedge_models::contract::{Dtype, Lead, MemoryFunction, MemoryTensor, Role};
use mcedge_models::spec::{FeatureMap, Memory};

use crate::oracle::{self, Head, Token, Weights};
use crate::random::Random;

/// Relative to max(1, |expected|).
const TOLERANCE: f64 = 1e-5;

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub capacity: usize,
    pub live: usize,
    pub tokens: usize,
    /// Tokens in the online segment before.
    pub segment_length: usize,
}

impl Sizes {
    pub fn new(random: &mut Random) -> Self {
        let capacity = random.pick(&[1, 3, 9, 17]);
        Self {
            capacity,
            live: random.pick(&[0, 1, capacity / 2, capacity]),
            tokens: random.pick(&[1, 1, 3]),
            segment_length: random.pick(&[0, 1, 7]),
        }
    }
}

/// A cached tensor, `[H, N, …]`.
#[derive(Clone, Debug)]
pub enum Cache {
    F32(Vec<f32>),
    F16(Vec<f16>),
    /// With steps `[H, N]`.
    I8(Vec<i8>, Vec<f32>),
}

impl Cache {
    /// Rounds the cells of memories of `elements` each.
    fn new(cells: Vec<f32>, elements: usize, dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Cache::F32(cells),
            Dtype::F16 => Cache::F16(cells.into_iter().map(f16::from_f32).collect()),
            Dtype::I8 => {
                let step = |memory: &[f32]| memory.iter().fold(0f32, |max, x| x.abs().max(max)) / 127.0;
                let steps: Vec<f32> = cells.chunks(elements).map(step).collect();
                let rounded = cells.iter().enumerate().map(|(i, x)| (x / steps[i / elements]).round() as i8);
                Cache::I8(rounded.collect(), steps)
            }
        }
    }

    /// Makes every memory of `elements` that `is_dead`, by its index, NaN; in i8 by its step.
    pub fn kill(&mut self, elements: usize, is_dead: impl Fn(usize) -> bool) {
        let nan = |cells: &mut Vec<f32>, elements: usize| {
            let dead = cells.chunks_mut(elements).enumerate().filter(|(memory, _)| is_dead(*memory));
            dead.for_each(|(_, cells)| cells.fill(f32::NAN));
        };
        match self {
            Cache::F32(cells) => nan(cells, elements),
            Cache::F16(cells) => {
                let mut wide = cells.iter().map(|x| x.to_f32()).collect();
                nan(&mut wide, elements);
                *cells = wide.into_iter().map(f16::from_f32).collect();
            }
            Cache::I8(_, steps) => nan(steps, 1),
        }
    }

    fn cells(&self) -> Cells<'_> {
        match self {
            Cache::F32(cells) => Cells::F32(cells),
            Cache::F16(cells) => Cells::F16(cells),
            Cache::I8(cells, steps) => Cells::I8(cells, steps),
        }
    }

    /// Memory `index` of those of `elements`, in f64.
    fn memory(&self, index: usize, elements: usize) -> Vec<f64> {
        let part = index * elements..(index + 1) * elements;
        match self {
            Cache::F32(cells) => wide(&cells[part]),
            Cache::F16(cells) => cells[part].iter().map(|x| x.to_f64()).collect(),
            Cache::I8(cells, steps) => {
                cells[part].iter().map(|&x| f64::from(x) * f64::from(steps[index])).collect()
            }
        }
    }
}

/// A function, and the tensors of a run of it.
#[derive(Clone, Debug)]
pub struct Case {
    pub function: MemoryFunction,
    pub sizes: Sizes,
    /// The inputs that are no state and no cache.
    pub inputs: Vec<(Role, Vec<f32>)>,
    /// Empty for a tensor that is not carried.
    pub past: Vec<Vec<f32>>,
    pub cache: Vec<Cache>,
}

/// What a run leaves, as numbers of either precision.
#[derive(Debug)]
pub struct Outcome<T> {
    pub y: Vec<T>,
    pub gates: Vec<T>,
    pub loss: Vec<T>,
    pub present: Vec<Vec<T>>,
}

impl<T: Clone> Outcome<T> {
    /// All tensors, named.
    fn tensors<'a>(&'a self, function: &MemoryFunction) -> Vec<(String, &'a Vec<T>)> {
        let own = [("y", &self.y), ("gates", &self.gates), ("loss", &self.loss)];
        let own = own.into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
        own.chain(function.tensors().into_iter().map(|tensor| tensor.name).zip(&self.present)).collect()
    }
}

impl Outcome<f32> {
    /// Equal bits are equal, NaN and the sign of zero included.
    pub fn bits(&self) -> Vec<u32> {
        let tensors = [&self.y, &self.gates, &self.loss].into_iter().chain(&self.present);
        tensors.flatten().map(|x| x.to_bits()).collect()
    }
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn elements(tensor: &MemoryTensor) -> usize {
    tensor.shape.iter().product()
}

impl Case {
    /// Random tensors; dead slots of the cache are NaN.
    pub fn new(random: &mut Random, function: MemoryFunction) -> Self {
        let sizes = Sizes::new(random);
        Self::sized(random, function, sizes)
    }

    pub fn sized(random: &mut Random, function: MemoryFunction, sizes: Sizes) -> Self {
        let Sizes { capacity, live, tokens, .. } = sizes;
        let inputs = function.inputs().into_iter().filter_map(|role| {
            let (lead, tail) = function.shape(role, capacity);
            let elements = tail.iter().product::<usize>();
            match lead {
                Lead::Token => Some((role, input(random, &function, role, tokens * elements))),
                Lead::Whole => Some((role, input(random, &function, role, elements))),
                Lead::Stream => None,
            }
        });
        let inputs = inputs.collect();
        let (mut past, mut cache) = (Vec::new(), Vec::new());
        for tensor in function.tensors() {
            let carried = if tensor.carried { function.num_heads } else { 0 };
            past.push(memories(random, &tensor, carried));
            if tensor.cached {
                let cells = memories(random, &tensor, function.num_heads * capacity);
                let mut cells = Cache::new(cells, elements(&tensor), function.dtype(&tensor));
                cells.kill(elements(&tensor), |memory| memory % capacity >= live);
                cache.push(cells);
            }
        }
        Self { function, sizes, inputs, past, cache }
    }

    /// The tensor of a role; empty where the function takes none.
    pub fn input(&self, role: Role) -> &[f32] {
        self.inputs.iter().find(|(found, _)| *found == role).map_or(&[], |(_, tensor)| tensor)
    }

    /// Columns of a tensor with a row a token.
    fn columns(&self, role: Role) -> usize {
        self.function.shape(role, self.sizes.capacity).1.iter().product()
    }

    /// Rows `start..start + count` of the tensor of a role.
    fn rows(&self, role: Role, start: usize, count: usize) -> &[f32] {
        let columns = self.columns(role);
        self.input(role).get(start * columns..(start + count) * columns).unwrap_or_default()
    }

    /// Runs tokens `start..start + count` from `past`.
    pub fn run_part(
        &self,
        kernel: &mut Kernel,
        past: &[Vec<f32>],
        start: usize,
        count: usize,
    ) -> Outcome<f32> {
        let output = |role, is_there| vec![f32::NAN; if is_there { count * self.columns(role) } else { 0 }];
        let (has_gates, has_loss) = (self.function.has_gates(), self.function.has_loss());
        let (mut y, mut gates, mut loss) =
            (output(Role::Y, true), output(Role::Gates, has_gates), output(Role::Loss, has_loss));
        let tensors = self.function.tensors();
        let undefined = |tensor| vec![f32::NAN; self.function.num_heads * elements(tensor)];
        let mut present: Vec<Vec<f32>> = tensors.iter().map(undefined).collect();
        let coefficients = (0..self.function.memory.coefficients().len()).map(Role::Coefficient);
        let carried = past.iter().zip(&tensors).map(|(x, tensor)| if tensor.carried { &x[..] } else { &[] });
        kernel.run(Run {
            q: self.rows(Role::Q, start, count),
            k: self.rows(Role::K, start, count),
            v: self.rows(Role::V, start, count),
            u: self.rows(Role::U, start, count),
            x: self.rows(Role::X, start, count),
            coefficients: &coefficients.map(|role| self.rows(role, start, count)).collect::<Vec<_>>(),
            recurrent_weight: self.input(Role::RecurrentWeight),
            recurrent_bias: self.input(Role::RecurrentBias),
            gate_weight: self.input(Role::GateWeight),
            gate_bias: self.input(Role::GateBias),
            past: &carried.collect::<Vec<_>>(),
            present: &mut present.iter_mut().map(|x| &mut x[..]).collect::<Vec<_>>(),
            segment_length: self.sizes.segment_length + start,
            cache: &self.cache.iter().map(Cache::cells).collect::<Vec<_>>(),
            cache_length: self.sizes.live,
            y: &mut y,
            gates: &mut gates,
            loss: &mut loss,
        });
        Outcome { y, gates, loss, present }
    }

    pub fn run(&self, isa: Isa) -> Outcome<f32> {
        let mut kernel = Kernel::with_isa(&self.function, self.sizes.capacity, isa);
        let outcome = self.run_part(&mut kernel, &self.past, 0, self.sizes.tokens);
        let again = self.run_part(&mut kernel, &self.past, 0, self.sizes.tokens);
        assert_eq!(outcome.bits(), again.bits(), "a kernel's second run knows nothing of its first");
        outcome
    }

    /// As [`Case::run`], in runs of one token.
    pub fn run_one_by_one(&self, isa: Isa) -> Outcome<f32> {
        let mut kernel = Kernel::with_isa(&self.function, self.sizes.capacity, isa);
        let (y, gates, loss) = (Vec::new(), Vec::new(), Vec::new());
        let mut parts = Outcome { y, gates, loss, present: self.past.clone() };
        for token in 0..self.sizes.tokens {
            let part = self.run_part(&mut kernel, &parts.present, token, 1);
            parts.y.extend(part.y);
            parts.gates.extend(part.gates);
            parts.loss.extend(part.loss);
            parts.present = part.present;
        }
        parts
    }

    /// A head's state before the run.
    pub fn state(&self, head: usize) -> Head {
        let tensors = self.function.tensors();
        let part = |(tensor, past): (&MemoryTensor, &Vec<f32>)| {
            let len = elements(tensor);
            let cells = if tensor.carried { wide(&past[head * len..][..len]) } else { vec![f64::NAN; len] };
            (tensor.name.clone(), cells)
        };
        tensors.iter().zip(&self.past).map(part).collect()
    }

    /// A head's live checkpoints.
    fn checkpoints(&self, head: usize) -> Vec<Head> {
        let cached: Vec<_> = self.function.tensors().into_iter().filter(|tensor| tensor.cached).collect();
        let memory = |slot: usize| {
            let index = head * self.sizes.capacity + slot;
            let tensor = |(tensor, cache): (&MemoryTensor, &Cache)| {
                (tensor.name.clone(), cache.memory(index, elements(tensor)))
            };
            cached.iter().zip(&self.cache).map(tensor).collect()
        };
        let live = if self.function.is_cached() { self.sizes.live } else { 0 };
        (0..live).map(memory).collect()
    }

    /// A head's part of a token.
    fn token(&self, head: usize, token: usize) -> Token {
        let size = self.function.head_size;
        let part = |role| {
            let row = self.rows(role, token, 1);
            wide(row.get(head * size..(head + 1) * size).unwrap_or_default())
        };
        let coefficients = self.function.memory.coefficients().into_iter().enumerate();
        let coefficients = coefficients.map(|(index, (name, coefficient))| {
            let value =
                coefficient.constant().unwrap_or_else(|| self.rows(Role::Coefficient(index), token, 1)[head]);
            (name, f64::from(value))
        });
        Token {
            q: part(Role::Q),
            k: part(Role::K),
            v: part(Role::V),
            u: part(Role::U),
            coefficients: coefficients.collect(),
        }
    }

    /// What [`Case::run`] should leave.
    fn expected(&self) -> Outcome<f64> {
        let (function, Sizes { capacity, tokens, segment_length, .. }) = (&self.function, self.sizes);
        let weights = Weights {
            recurrent: wide(self.input(Role::RecurrentWeight)),
            recurrent_bias: wide(self.input(Role::RecurrentBias)),
            gate: wide(self.input(Role::GateWeight)),
            gate_bias: wide(self.input(Role::GateBias)),
        };
        let mut states: Vec<Head> = (0..function.num_heads).map(|head| self.state(head)).collect();
        let checkpoints: Vec<_> = (0..function.num_heads).map(|head| self.checkpoints(head)).collect();
        let (mut y, mut gates, mut loss) = (Vec::new(), Vec::new(), Vec::new());
        for token in 0..tokens {
            let heads: Vec<Token> = (0..function.num_heads).map(|head| self.token(head, token)).collect();
            let x = wide(self.rows(Role::X, token, 1));
            let length = segment_length + token + 1;
            let answers = oracle::token(function, &weights, &mut states, &checkpoints, length, (&heads, &x));
            for answer in answers {
                y.extend(answer.y);
                loss.extend(function.has_loss().then_some(answer.loss));
                if function.has_gates() {
                    let (online, slots) = answer.gates.split_last().unwrap();
                    gates.extend(slots);
                    gates.extend(vec![0.0; capacity - slots.len()]);
                    gates.push(*online);
                }
            }
        }
        let of_heads = |name: &String| states.iter().flat_map(|state| state[name].clone()).collect();
        let present = function.tensors().iter().map(|tensor| of_heads(&tensor.name)).collect();
        Outcome { y, gates, loss, present }
    }

    /// Holds the kernel on all instructions against the equations.
    #[track_caller]
    pub fn check(&self) {
        let expected = self.expected();
        for isa in Isa::available() {
            let outcome = self.run(isa);
            let tensors = outcome.tensors(&self.function).into_iter().zip(expected.tensors(&self.function));
            for ((name, found), (_, expected)) in tensors {
                self.compare(&format!("{name} on {isa}"), found, expected);
            }
            for gates in outcome.gates.chunks(self.sizes.capacity + 1) {
                let dead = &gates[self.sizes.live..self.sizes.capacity];
                assert!(dead.iter().all(|gate| gate.to_bits() == 0), "dead slots' gates are {dead:?}");
            }
        }
    }

    /// Holds what was written to the other's bits, and what was read to its numbers.
    #[track_caller]
    pub fn check_equal(&self, name: &str, found: &Outcome<f32>, expected: &Outcome<f32>) {
        let written = |outcome: &Outcome<f32>| {
            let (y, gates) = (Vec::new(), Vec::new());
            Outcome { y, gates, loss: outcome.loss.clone(), present: outcome.present.clone() }.bits()
        };
        assert_eq!(written(found), written(expected), "{name}, {:?}", self.function);
        self.compare(&format!("y, {name}"), &found.y, &wide(&expected.y));
        self.compare(&format!("gates, {name}"), &found.gates, &wide(&expected.gates));
    }

    #[track_caller]
    fn compare(&self, name: &str, found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len(), "elements of {name}, {:?}", self.function);
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected).abs() / expected.abs().max(1.0);
            // Not `>=`: NaN fails too.
            assert!(
                error < TOLERANCE,
                "{name}[{i}] is {found}, expected {expected}; {:?}, {:?}",
                self.sizes,
                self.function
            );
        }
    }
}

/// Numbers of the size that the input has in a model.
fn input(random: &mut Random, function: &MemoryFunction, role: Role, len: usize) -> Vec<f32> {
    let (size, d_model) = (function.head_size as f32, (function.num_heads * function.head_size) as f32);
    match role {
        // Where φ lets a sum of products cancel, a read divided by it would be of any size.
        Role::Q | Role::K if cancels(&function.memory) => random.between(len, 0.1, 2.0 / size.sqrt()),
        Role::Coefficient(0) if function.memory.deep().is_some() => random.between(len, 0.0, 0.1),
        Role::Coefficient(1) if function.memory.deep().is_some() => random.between(len, 0.8, 1.0),
        Role::Coefficient(_) => random.between(len, 0.0, 1.0),
        Role::RecurrentWeight | Role::GateWeight => random.numbers(len, 2.0 / d_model.sqrt()),
        Role::X | Role::RecurrentBias | Role::GateBias => random.numbers(len, 2.0),
        _ => random.numbers(len, 2.0 / size.sqrt()),
    }
}

fn cancels(memory: &Memory) -> bool {
    matches!(memory, Memory::Linear { feature_map: FeatureMap::Identity, normalized: true })
}

/// A state tensor of `count` memories, `[count, …]`.
fn memories(random: &mut Random, tensor: &MemoryTensor, count: usize) -> Vec<f32> {
    let len = count * elements(tensor);
    let scale = 1.5 / (*tensor.shape.last().unwrap() as f32).sqrt();
    match &tensor.name[..] {
        // A sum of features, which are positive.
        "z" => random.between(len, 0.5, 1.5),
        // The newest tokens are last.
        "live" => {
            let window = elements(tensor);
            let live = |seen: usize| (0..window).map(move |j| f32::from(u8::from(j + seen >= window)));
            (0..count).flat_map(|_| live(random.next() as usize % (window + 1))).collect()
        }
        // A step has the size of momentum, not of a parameter.
        name if name.starts_with("s_") => random.numbers(len, 0.1 * scale),
        _ => random.numbers(len, scale),
    }
}
