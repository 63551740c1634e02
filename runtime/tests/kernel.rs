//! The fused kernel against the equations, written out as plain loops in f64.

#![allow(clippy::unwrap_used, reason = "what a test lacks is a bug of the test")]

use std::collections::HashMap;

use half::f16;
use mcedge_models::contract::{Dtype, MemoryFunction};
use mcedge_models::spec::{
    Aggregation, Caching, Coefficient, Context, Deep, FeatureMap, Init, Memory, Objective, Query,
    Segmentation, Sign,
};
use mcedge_runtime::kernel::{Cells, Isa, Kernel, Run};

/// The equations of DESIGN.md section 3, one head at a time, for reading and not for speed.
mod oracle {
    use super::*;

    /// Tensors of one head by their names, row-major.
    pub type Head = HashMap<String, Vec<f64>>;

    fn erf(x: f64) -> f64 {
        if x.abs() > 4.0 {
            return x.signum();
        }
        let mut term = x;
        let mut sum = x;
        for n in 1..150 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn gelu(x: f64) -> f64 {
        0.5 * x * (1.0 + erf(x / 2f64.sqrt()))
    }

    fn gelu_slope(x: f64) -> f64 {
        0.5 * (1.0 + erf(x / 2f64.sqrt())) + x * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    fn normalized(x: &[f64]) -> Vec<f64> {
        let norm = dot(x, x).sqrt().max(1e-6);
        x.iter().map(|x| x / norm).collect()
    }

    /// W x + b of layer j, counted from 1.
    fn layer(head: &Head, j: usize, x: &[f64]) -> Vec<f64> {
        let mut y: Vec<f64> = head[&format!("w{j}")].chunks(x.len()).map(|row| dot(row, x)).collect();
        if let Some(bias) = head.get(&format!("b{j}")) {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
        y
    }

    /// M(x), and every layer's input and output.
    fn forward(deep: &Deep, head: &Head, x: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let (mut inputs, mut outputs) = (vec![x.to_vec()], Vec::new());
        for j in 1..=deep.depth {
            let y = layer(head, j, inputs.last().unwrap());
            if j < deep.depth {
                inputs.push(y.iter().map(|&y| gelu(y)).collect());
            }
            outputs.push(y);
        }
        let mut y = outputs.last().unwrap().clone();
        if deep.skip {
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
        }
        (y, inputs, outputs)
    }

    /// M(x).
    fn answer(function: &MemoryFunction, head: &Head, x: &[f64]) -> Vec<f64> {
        match function.memory.deep() {
            Some(deep) => forward(deep, head, x).0,
            None => head["m"].chunks(x.len()).map(|row| dot(row, x)).collect(),
        }
    }

    pub fn loss(deep: &Deep, head: &Head, k: &[f64], v: &[f64]) -> f64 {
        let y = forward(deep, head, k).0;
        match deep.objective {
            Objective::L2 => y.iter().zip(v).map(|(y, v)| (y - v) * (y - v)).sum(),
            Objective::Dot => -dot(&y, v),
        }
    }

    /// The gradient of the loss by every parameter.
    pub fn gradient(deep: &Deep, head: &Head, k: &[f64], v: &[f64]) -> Head {
        let (y, inputs, outputs) = forward(deep, head, k);
        let mut error: Vec<f64> = match deep.objective {
            Objective::L2 => y.iter().zip(v).map(|(y, v)| 2.0 * (y - v)).collect(),
            Objective::Dot => v.iter().map(|v| -v).collect(),
        };
        let mut gradient = Head::new();
        for j in (1..=deep.depth).rev() {
            let input = &inputs[j - 1];
            let w = error.iter().flat_map(|e| input.iter().map(move |x| e * x)).collect();
            gradient.insert(format!("w{j}"), w);
            if deep.bias {
                gradient.insert(format!("b{j}"), error.clone());
            }
            if j > 1 {
                let w = &head[&format!("w{j}")];
                let cols = input.len();
                let back = |c: usize| error.iter().enumerate().map(|(r, e)| w[r * cols + c] * e).sum::<f64>();
                error = (0..cols).map(|c| back(c) * gelu_slope(outputs[j - 2][c])).collect();
            }
        }
        gradient
    }

    fn write(function: &MemoryFunction, head: &mut Head, k: &[f64], v: &[f64]) {
        if let Some(context) = head.get_mut("context") {
            context.iter_mut().zip(k).for_each(|(c, k)| *c += k);
        }
        let Some(deep) = function.memory.deep() else {
            let m = head.get_mut("m").unwrap();
            for (r, v) in v.iter().enumerate() {
                for (c, k) in k.iter().enumerate() {
                    m[r * function.head_size + c] += v * k;
                }
            }
            return;
        };
        let size = f64::from(deep.step_size.constant().unwrap());
        let alpha = f64::from(deep.retention.constant().unwrap());
        let mu = f64::from(deep.momentum);
        for (name, gradient) in gradient(deep, head, k, v) {
            let mut s = head.get(&format!("s_{name}")).cloned().unwrap_or(vec![0.0; gradient.len()]);
            let m = head.get_mut(&name).unwrap();
            for i in 0..gradient.len() {
                match (&function.memory, deep.sign.unwrap_or_default()) {
                    (Memory::Dla(_), _) => {
                        s[i] = mu * s[i] + size * gradient[i];
                        m[i] = alpha * m[i] - s[i];
                    }
                    (_, Sign::Descent) => {
                        s[i] = mu * s[i] - size * gradient[i];
                        m[i] = alpha * m[i] + s[i];
                    }
                    (_, Sign::Paper) => {
                        s[i] = mu * s[i] - size * gradient[i];
                        m[i] = alpha * m[i] - s[i];
                    }
                }
            }
            if mu != 0.0 {
                head.insert(format!("s_{name}"), s);
            }
        }
    }

    fn softmax(scores: &[f64]) -> Vec<f64> {
        let max = scores.iter().cloned().fold(f64::NEG_INFINITY, f64::max);
        let exp: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = exp.iter().sum();
        exp.iter().map(|e| e / sum).collect()
    }

    /// Gates over `memories`, the online one last.
    fn gates(function: &MemoryFunction, memories: &[Head], tokens: usize, u: &[f64]) -> Vec<f64> {
        let caching = &function.caching;
        let online = memories.len() - 1;
        let score = |(i, memory): (usize, &Head)| {
            let mut context = memory["context"].clone();
            if i == online && caching.context == Context::Mean {
                context.iter_mut().for_each(|c| *c /= tokens as f64);
            }
            dot(&context, u) / f64::from(caching.temperature)
        };
        let mut scores: Vec<f64> = memories.iter().enumerate().map(score).collect();
        if let Some(top_k) = caching.top_k {
            let mut order: Vec<usize> = (0..online).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            for &dropped in order.iter().skip(top_k) {
                scores[dropped] = f64::NEG_INFINITY;
            }
        }
        softmax(&scores)
    }

    fn weighted(weights: &[f64], answers: &[Vec<f64>]) -> Vec<f64> {
        let at = |i: usize| weights.iter().zip(answers).map(|(w, a)| w * a[i]).sum();
        (0..answers[0].len()).map(at).collect()
    }

    /// One head's token: writes it to the state, then reads. `tokens` counts it in.
    pub fn token(
        function: &MemoryFunction,
        state: &mut Head,
        checkpoints: &[Head],
        tokens: usize,
        [q, k, v, u]: [&[f64]; 4],
    ) -> Vec<f64> {
        let (mut q, mut k) = (q.to_vec(), k.to_vec());
        if function.normalize_qk {
            (q, k) = (normalized(&q), normalized(&k));
        }
        write(function, state, &k, v);
        let u = if function.caching.query == Query::U { u } else { &q };
        let memories: Vec<Head> = checkpoints.iter().chain([&*state]).cloned().collect();
        let answers: Vec<Vec<f64>> = memories.iter().map(|memory| answer(function, memory, &q)).collect();
        match function.caching.aggregation {
            Aggregation::None => answers.last().unwrap().clone(),
            Aggregation::Residual => weighted(&vec![1.0; answers.len()], &answers),
            Aggregation::Mean => weighted(&vec![1.0 / answers.len() as f64; answers.len()], &answers),
            Aggregation::Grm | Aggregation::Ssc => weighted(&gates(function, &memories, tokens, u), &answers),
            Aggregation::Soup => {
                let gates = gates(function, &memories, tokens, u);
                let mut soup = state.clone();
                for (name, tensor) in &mut soup {
                    if name.starts_with("s_") {
                        continue;
                    }
                    let parts: Vec<Vec<f64>> = memories.iter().map(|memory| memory[name].clone()).collect();
                    *tensor = weighted(&gates, &parts);
                }
                answer(function, &soup, &q)
            }
            Aggregation::Sigmoid => unreachable!("not of these memories"),
        }
    }
}

/// A small generator of numbers, the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()].clone()
    }

    /// −1 to 1.
    fn number(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }

    fn numbers(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| scale * self.number()).collect()
    }
}

/// A function, and the tensors of a run of it, on the stack of the test.
#[derive(Clone, Debug)]
struct Case {
    function: MemoryFunction,
    capacity: usize,
    live: usize,
    tokens: usize,
    segment_length: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    u: Vec<f32>,
    past: Vec<Vec<f32>>,
    cache_f32: Vec<Vec<f32>>,
    /// `cache_f32` rounded, when the cache is f16.
    cache_f16: Option<Vec<Vec<f16>>>,
}

/// What a run leaves.
#[derive(Debug, PartialEq)]
struct Outcome {
    y: Vec<f32>,
    present: Vec<Vec<f32>>,
}

impl Case {
    /// Random tensors; dead slots of the cache are NaN.
    fn new(random: &mut Random, function: MemoryFunction) -> Self {
        let (heads, dh) = (function.num_heads, function.head_size);
        let capacity = random.pick(&[1, 3, 9, 17]);
        let live = random.pick(&[0, 1, capacity / 2, capacity]);
        let tokens = random.pick(&[1, 1, 3]);
        let norm = 2.0 / (dh as f32).sqrt();
        let mut projection = || random.numbers(tokens * heads * dh, norm);
        let [q, k, v, u] = [projection(), projection(), projection(), projection()];
        let scale = |shape: &[usize]| 1.5 / (*shape.last().unwrap() as f32).sqrt();
        let (mut past, mut cache_f32) = (Vec::new(), Vec::new());
        for tensor in function.tensors() {
            let elements: usize = tensor.shape.iter().product();
            // A step has the size of momentum, not of a parameter.
            let scale = scale(&tensor.shape) * if tensor.name.starts_with("s_") { 0.1 } else { 1.0 };
            past.push(random.numbers(heads * elements, scale));
            if tensor.cached {
                let mut cells = random.numbers(heads * capacity * elements, scale);
                for head in cells.chunks_mut(capacity * elements) {
                    head[live * elements..].fill(f32::NAN);
                }
                cache_f32.push(cells);
            }
        }
        let mut cache_f16 = None;
        if random.next().is_multiple_of(2) {
            let halves = |x: &Vec<f32>| x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>();
            let rounded: Vec<_> = cache_f32.iter().map(halves).collect();
            let widened = |x: &Vec<f16>| x.iter().map(|x| x.to_f32()).collect();
            cache_f32 = rounded.iter().map(widened).collect();
            cache_f16 = Some(rounded);
        }
        let segment_length = random.pick(&[0, 1, 7]);
        Self { function, capacity, live, tokens, segment_length, q, k, v, u, past, cache_f32, cache_f16 }
    }

    fn cache(&self) -> Vec<Cells<'_>> {
        match &self.cache_f16 {
            Some(cache) => cache.iter().map(|cells| Cells::F16(cells)).collect(),
            None => self.cache_f32.iter().map(|cells| Cells::F32(cells)).collect(),
        }
    }

    fn has_u(&self) -> bool {
        self.function.caching.aggregation.is_gated() && self.function.caching.query == Query::U
    }

    /// Runs tokens `start..start + count` from `past`.
    fn run_part(&self, kernel: &mut Kernel, past: &[Vec<f32>], start: usize, count: usize) -> Outcome {
        let d_model = self.function.num_heads * self.function.head_size;
        let part = start * d_model..(start + count) * d_model;
        let mut y = vec![f32::NAN; part.len()];
        let mut present: Vec<Vec<f32>> = past.iter().map(|x| vec![f32::NAN; x.len()]).collect();
        kernel.run(Run {
            q: &self.q[part.clone()],
            k: &self.k[part.clone()],
            v: &self.v[part.clone()],
            u: if self.has_u() { &self.u[part] } else { &[] },
            past: &past.iter().map(|x| &x[..]).collect::<Vec<_>>(),
            present: &mut present.iter_mut().map(|x| &mut x[..]).collect::<Vec<_>>(),
            segment_length: self.segment_length + start,
            cache: &self.cache(),
            cache_length: self.live,
            y: &mut y,
            ..Run::default()
        });
        Outcome { y, present }
    }

    fn run(&self, isa: Isa) -> Outcome {
        let mut kernel = Kernel::with_isa(&self.function, self.capacity, isa);
        let outcome = self.run_part(&mut kernel, &self.past, 0, self.tokens);
        // A kernel's second run knows nothing of its first.
        assert_eq!(outcome, self.run_part(&mut kernel, &self.past, 0, self.tokens));
        outcome
    }

    /// Tensor `index` of memory `memory` of those in `tensors`, by name.
    fn memory(&self, tensors: &[Vec<f32>], memory: usize, cached_only: bool) -> oracle::Head {
        let names = self.function.tensors().into_iter().filter(|tensor| tensor.cached || !cached_only);
        names
            .zip(tensors)
            .map(|(tensor, cells)| {
                let elements: usize = tensor.shape.iter().product();
                let cells = &cells[memory * elements..][..elements];
                (tensor.name, cells.iter().map(|&x| f64::from(x)).collect())
            })
            .collect()
    }

    /// What [`Case::run`] should leave, in f64.
    fn expected(&self) -> (Vec<f64>, Vec<Vec<f64>>) {
        let (heads, dh) = (self.function.num_heads, self.function.head_size);
        let mut y = vec![0.0; self.q.len()];
        let mut present: Vec<Vec<f64>> = vec![Vec::new(); self.past.len()];
        for head in 0..heads {
            let mut state = self.memory(&self.past, head, false);
            let slot = |slot| self.memory(&self.cache_f32, head * self.capacity + slot, true);
            let checkpoints: Vec<_> =
                if self.function.is_cached() { (0..self.live).map(slot).collect() } else { vec![] };
            for token in 0..self.tokens {
                let part = (token * heads + head) * dh..(token * heads + head + 1) * dh;
                let wide = |x: &[f32]| x[part.clone()].iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
                let x = [wide(&self.q), wide(&self.k), wide(&self.v), wide(&self.u)];
                let tokens = self.segment_length + token + 1;
                let answer = oracle::token(
                    &self.function,
                    &mut state,
                    &checkpoints,
                    tokens,
                    x.each_ref().map(|x| &x[..]),
                );
                y[part].copy_from_slice(&answer);
            }
            for (tensor, present) in self.function.tensors().iter().zip(&mut present) {
                present.extend(&state[&tensor.name]);
            }
        }
        (y, present)
    }

    #[track_caller]
    fn check(&self) {
        let (y, present) = self.expected();
        for isa in Isa::available() {
            let outcome = self.run(isa);
            self.compare(isa, "y", &outcome.y, &y);
            for (tensor, (found, expected)) in
                self.function.tensors().iter().zip(outcome.present.iter().zip(&present))
            {
                self.compare(isa, &tensor.name, found, expected);
            }
        }
    }

    #[track_caller]
    fn compare(&self, isa: Isa, name: &str, found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected).abs() / expected.abs().max(1.0);
            // Not `>=`: NaN fails too.
            assert!(
                error < TOLERANCE,
                "{name}[{i}] on {isa} is {found}, expected {expected}; {} of {} slots, {} tokens, f16 {}, {:?}",
                self.live,
                self.capacity,
                self.tokens,
                self.cache_f16.is_some(),
                self.function
            );
        }
    }
}

/// Relative to max(1, |expected|).
const TOLERANCE: f64 = 1e-5;

const AGGREGATIONS: [Aggregation; 6] = [
    Aggregation::None,
    Aggregation::Residual,
    Aggregation::Grm,
    Aggregation::Soup,
    Aggregation::Ssc,
    Aggregation::Mean,
];

fn linear() -> Memory {
    Memory::Linear { feature_map: FeatureMap::Identity, normalized: false }
}

fn random_deep(random: &mut Random, objective: Objective) -> Deep {
    Deep {
        depth: random.pick(&[2, 2, 3, 4]),
        width: random.pick(&[1, 4, 8, 13, 24, 33]),
        bias: random.pick(&[true, false]),
        skip: random.pick(&[true, false]),
        objective,
        step_size: Coefficient::Constant(0.05),
        momentum: random.pick(&[0.0, 0.9]),
        retention: Coefficient::Constant(random.pick(&[1.0, 0.95])),
        sign: None,
    }
}

/// Every kind of memory with random settings.
fn memories(random: &mut Random) -> Vec<Memory> {
    let mut memories = vec![linear()];
    for objective in [Objective::L2, Objective::Dot] {
        memories.push(Memory::Dla(random_deep(random, objective)));
        for sign in [None, Some(Sign::Descent), Some(Sign::Paper)] {
            memories.push(Memory::Titans(Deep { sign, ..random_deep(random, objective) }));
        }
    }
    memories
}

fn caching(random: &mut Random, aggregation: Aggregation, query: Query, context: Context) -> Caching {
    Caching {
        aggregation,
        query,
        context,
        temperature: random.pick(&[1.0, 0.25, 3.0]),
        top_k: (aggregation == Aggregation::Ssc).then(|| random.pick(&[1, 2, 5, 100])),
        segmentation: Segmentation::Constant { size: 64 },
        init: Init::Continue,
    }
}

fn function(random: &mut Random, memory: Memory, caching: Caching) -> MemoryFunction {
    MemoryFunction {
        num_heads: random.pick(&[1, 2, 3]),
        head_size: random.pick(&[1, 3, 5, 8, 16, 20]),
        normalize_qk: random.pick(&[true, false]),
        memory,
        caching,
        cache_dtype: Dtype::F32,
        gates: false,
    }
}

#[test]
fn every_memory_and_aggregation_follows_the_equations() {
    let mut random = Random(1);
    for aggregation in AGGREGATIONS {
        for query in [Query::U, Query::Q] {
            for context in [Context::Mean, Context::Sum] {
                for memory in memories(&mut random) {
                    let caching = caching(&mut random, aggregation, query, context);
                    let function = function(&mut random, memory, caching);
                    Case::new(&mut random, function).check();
                }
            }
        }
    }
}

#[test]
fn heads_of_common_sizes_follow_the_equations() {
    let mut random = Random(2);
    for aggregation in AGGREGATIONS {
        for head_size in [32, 64] {
            let caching = caching(&mut random, aggregation, Query::U, Context::Mean);
            let deep = Deep { width: 64, ..random_deep(&mut random, Objective::L2) };
            for memory in [linear(), Memory::Titans(deep)] {
                let function = MemoryFunction { head_size, ..function(&mut random, memory, caching.clone()) };
                Case::new(&mut random, function).check();
            }
        }
    }
}

#[test]
fn a_run_over_tokens_equals_runs_of_one() {
    let mut random = Random(3);
    for aggregation in AGGREGATIONS {
        for memory in memories(&mut random) {
            let caching = caching(&mut random, aggregation, Query::U, Context::Mean);
            let function = function(&mut random, memory, caching);
            let case = Case::new(&mut random, function);
            for isa in Isa::available() {
                let whole = case.run(isa);
                let mut kernel = Kernel::with_isa(&case.function, case.capacity, isa);
                let mut parts = Outcome { y: Vec::new(), present: case.past.clone() };
                for token in 0..case.tokens {
                    let part = case.run_part(&mut kernel, &parts.present, token, 1);
                    parts.y.extend(part.y);
                    parts.present = part.present;
                }
                assert_eq!(whole, parts, "{isa}, {:?}", case.function);
            }
        }
    }
}

#[test]
fn a_checkpoint_of_gate_zero_is_not_read() {
    let mut random = Random(4);
    for aggregation in [Aggregation::Grm, Aggregation::Soup, Aggregation::Ssc] {
        for memory in memories(&mut random) {
            let caching =
                Caching { temperature: 1e-4, ..caching(&mut random, aggregation, Query::U, Context::Mean) };
            let function = MemoryFunction { head_size: 5, ..function(&mut random, memory, caching) };
            let mut case = Case::new(&mut random, function);
            (case.live, case.cache_f16, case.tokens) = (1, None, 1);
            for part in [&mut case.q, &mut case.k, &mut case.v, &mut case.u] {
                part.truncate(case.function.num_heads * 5);
            }
            case.u.fill(1.0);
            let (contexts, parameters) = case.cache_f32.split_last_mut().unwrap();
            contexts.fill(-1.0);
            parameters.iter_mut().for_each(|tensor| tensor.fill(f32::NAN));
            let mut online = case.clone();
            online.live = 0;
            for isa in Isa::available() {
                assert_eq!(case.run(isa), online.run(isa), "{isa}, {:?}", case.function);
            }
        }
    }
}

#[test]
fn a_state_that_diverged_shows_in_the_answer() {
    let mut random = Random(5);
    for aggregation in AGGREGATIONS {
        for memory in memories(&mut random) {
            let caching = caching(&mut random, aggregation, Query::Q, Context::Sum);
            let function = MemoryFunction { num_heads: 1, ..function(&mut random, memory, caching) };
            let mut case = Case::new(&mut random, function);
            case.past.iter_mut().for_each(|tensor| tensor.fill(f32::NAN));
            for isa in Isa::available() {
                let y = case
                    .run_part(&mut Kernel::with_isa(&case.function, case.capacity, isa), &case.past, 0, 1)
                    .y;
                assert!(y.iter().all(|y| y.is_nan()), "{isa}, {:?}: {y:?}", case.function);
            }
        }
    }
}

/// The oracle's gradient is written out by hand, so it has an oracle of its own: differences of the loss.
#[test]
fn the_oracles_gradient_is_the_slope_of_the_loss() {
    let mut random = Random(6);
    for _ in 0..20 {
        let objective = random.pick(&[Objective::L2, Objective::Dot]);
        let deep = Deep { width: 4, ..random_deep(&mut random, objective) };
        let memory = Memory::Titans(deep.clone());
        let caching = caching(&mut random, Aggregation::None, Query::U, Context::Mean);
        let function =
            MemoryFunction { head_size: 3, num_heads: 1, ..function(&mut random, memory, caching) };
        let case = Case::new(&mut random, function);
        let head = case.memory(&case.past, 0, false);
        let (k, v) = ([0.3, -0.8, 0.5], [1.0, 0.2, -0.4]);
        for (name, gradient) in oracle::gradient(&deep, &head, &k, &v) {
            for (i, gradient) in gradient.iter().enumerate() {
                let at = |delta: f64| {
                    let mut head = head.clone();
                    head.get_mut(&name).unwrap()[i] += delta;
                    oracle::loss(&deep, &head, &k, &v)
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((gradient - slope).abs() < 1e-6, "{name}[{i}]: {gradient}, slope {slope}");
            }
        }
    }
}
