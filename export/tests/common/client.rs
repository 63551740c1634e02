//! Runs a bundle as a client does that knows the contract only: it keeps state and cache, and ends segments.
//!
//! Slots without a checkpoint hold NaN, or in an i8 cache numbers with NaN for their step.

use std::collections::HashMap;

use mcedge_models::Samples;
use mcedge_models::contract::{CacheTensor, Contract, Dtype, Reset, Scale};
use mcedge_models::spec::{Init, Segmentation};
use ndarray::{Array2, ArrayD, ArrayViewD, Axis, IxDyn};
use prost::Message;
use safetensors::SafeTensors;

use super::interpreter::{Value, run};
use super::proto::Model;

/// The tokens between the starts of two streams of a batch: no multiple of the segments that the tests use.
const STAGGER: usize = 4;

/// The batch in the middle of its streams.
struct Client {
    model: Model,
    contract: Contract,
    initial: HashMap<String, ArrayD<f32>>,
    state: HashMap<String, ArrayD<f32>>,
    cache: HashMap<String, Value>,
    streams: Vec<Stream>,
}

/// One stream's clock.
#[derive(Clone, Default)]
struct Stream {
    /// Tokens in the online segment.
    inside: usize,
    /// Checkpoints so far, without those of logarithmic segments.
    pushed: usize,
    /// Tokens that each live slot stands for.
    slots: Vec<usize>,
    losses: Vec<f32>,
}

/// What one stream gave, from its start.
pub struct Run {
    /// `[T, O]`.
    pub output: Array2<f32>,
    /// `[T]`, where segments are cut by surprise.
    pub losses: Vec<f32>,
    /// `[blocks]` of `[T]` of `[H]` of the weights of the live checkpoints, oldest first, and of the online memory; empty
    /// for a block that has none.
    pub gates: Vec<Vec<Vec<Vec<f32>>>>,
}

/// What one run of a graph gave.
struct Made {
    values: HashMap<String, Value>,
    /// Live slots of each stream in the order of their age, as they were read.
    slots: Vec<Vec<usize>>,
}

/// What each stream of the batch gives, all of the same input but started one after the other, from runs of at most
/// `chunk` tokens.
pub fn runs(graph: &[u8], initial_state: &[u8], input: &Samples, chunk: usize) -> Vec<Run> {
    let mut client = Client::new(graph, initial_state);
    let batch = client.contract.batch;
    let starts: Vec<usize> = (0..batch).map(|b| b * STAGGER).collect();
    let end = input.len() + starts[batch - 1];
    let mut runs: Vec<Run> = starts.iter().map(|_| client.empty_run()).collect();
    let mut t = 0;
    while t < end {
        for b in (1..batch).filter(|&b| starts[b] == t) {
            client.restart(b);
        }
        let next = starts.iter().copied().filter(|&start| start > t).min().unwrap_or(end);
        let tokens = chunk.min(next - t).min(client.room());
        // Before its start a stream runs on what comes first, after its end on what comes last.
        let at = |b: usize, t: usize| if t < starts[b] { t } else { (t - starts[b]).min(input.len() - 1) };
        let rows = |tokens: usize| -> Vec<Vec<usize>> {
            (0..batch).map(|b| (t..t + tokens).map(|t| at(b, t)).collect()).collect()
        };
        let made = client.push(tokens, |tokens| samples(input, &rows(tokens)));
        let tokens = made.values["output"].shape()[1];
        for b in 0..batch {
            let own = |i: &usize| (starts[b]..starts[b] + input.len()).contains(&(t + i));
            (0..tokens).filter(own).for_each(|i| runs[b].record(&made, b, i));
        }
        t += tokens;
    }
    runs
}

impl Run {
    /// Token `i` of a run of the graph, for stream `b`.
    fn record(&mut self, made: &Made, b: usize, i: usize) {
        let token = |name: &str| {
            let value = made.values.get(name)?;
            Some(value.f().index_axis(Axis(0), b).index_axis(Axis(0), i).to_owned())
        };
        let output = token("output").unwrap();
        self.output.push_row(output.into_dimensionality::<ndarray::Ix1>().unwrap().view()).unwrap();
        self.losses.extend(token("surprise").iter().flatten());
        for (block, all) in self.gates.iter_mut().enumerate() {
            let Some(gates) = token(&format!("gates.{block}")) else { continue };
            let head = |gates: ArrayViewD<'_, f32>| {
                let live = made.slots[b].iter().copied().chain([gates.len() - 1]);
                live.map(|slot| gates[[slot]]).collect()
            };
            all.push(gates.outer_iter().map(head).collect());
        }
    }
}

/// `[B, n, F]` or `[B, n]`: the samples at these rows.
fn samples(input: &Samples, rows: &[Vec<usize>]) -> Value {
    match input {
        Samples::Features(features) => {
            let shape = [rows.len(), rows[0].len(), features.ncols()];
            let at = |i: IxDyn| features[[rows[i[0]][i[1]], i[2]]];
            Value::F(ArrayD::from_shape_fn(&shape[..], at))
        }
        Samples::Tokens(ids) => {
            let at = |i: IxDyn| ids[rows[i[0]][i[1]]];
            Value::I(ArrayD::from_shape_fn(&[rows.len(), rows[0].len()][..], at))
        }
    }
}

impl Client {
    fn new(graph: &[u8], initial_state: &[u8]) -> Self {
        let contract = Contract::from_onnx(graph).unwrap();
        let initial = tensors(initial_state);
        let mut cache = HashMap::new();
        for CacheTensor { name, shape, dtype, steps, .. } in &contract.cache {
            let value = match dtype {
                Dtype::I8 => Value::I(ArrayD::from_elem(&shape[..], 77)),
                _ => Value::F(ArrayD::from_elem(&shape[..], f32::NAN)),
            };
            cache.insert(name.clone(), value);
            if let Some(steps) = steps {
                cache.insert(steps.clone(), Value::F(ArrayD::from_elem(&shape[..3], f32::NAN)));
            }
        }
        let streams = vec![Stream::default(); contract.batch];
        let model = Model::decode(graph).unwrap();
        Client { model, contract, state: initial.clone(), initial, cache, streams }
    }

    /// Starts stream `b` anew.
    fn restart(&mut self, b: usize) {
        for (name, state) in &mut self.state {
            let initial = self.initial[name].index_axis(Axis(0), b);
            state.index_axis_mut(Axis(0), b).assign(&initial);
        }
        self.streams[b] = Stream::default();
    }

    /// Tokens until a stream's segment surely ends.
    fn room(&self) -> usize {
        let longest = match self.contract.segmentation {
            Segmentation::Constant { size } | Segmentation::Surprise { max_size: size, .. } => size,
            Segmentation::Logarithmic {} => 1,
        };
        self.streams.iter().map(|stream| longest - stream.inside).min().unwrap()
    }

    /// Runs `tokens` tokens, fewer where a loss ends the segment before.
    fn push(&mut self, tokens: usize, input: impl Fn(usize) -> Value) -> Made {
        let mut made = self.run(input(tokens));
        if let Some(losses) = made.get("surprise").map(|losses| losses.f().clone()) {
            let ended = (0..tokens).find(|&i| (0..self.streams.len()).any(|b| self.ends(b, &losses, i)));
            if let Some(last) = ended.filter(|&last| last + 1 < tokens) {
                made = self.run(input(last + 1));
            }
        }
        let tokens = made["output"].shape()[1];
        self.check_dead(&made, tokens);
        let slots = self.streams.iter().map(|stream| self.by_age(stream)).collect();
        self.commit(&made, tokens);
        Made { values: made, slots }
    }

    fn empty_run(&self) -> Run {
        let output = Array2::zeros((0, self.contract.output.size));
        Run { output, losses: Vec::new(), gates: vec![Vec::new(); self.contract.blocks.len()] }
    }

    /// A ring's oldest slot is the next to be written; those of logarithmic segments lie in order.
    fn by_age(&self, stream: &Stream) -> Vec<usize> {
        let live = stream.slots.len();
        let oldest = match self.contract.segmentation {
            Segmentation::Logarithmic {} => 0,
            _ if live < self.contract.capacity => 0,
            _ => stream.pushed % live,
        };
        (0..live).map(|slot| (oldest + slot) % live).collect()
    }

    fn run(&self, input: Value) -> HashMap<String, Value> {
        let counts = |count: &dyn Fn(&Stream) -> usize| {
            let counts = self.streams.iter().map(|stream| count(stream) as i64).collect();
            Value::I(ArrayD::from_shape_vec(IxDyn(&[self.streams.len()]), counts).unwrap())
        };
        let mut scope = HashMap::from([
            ("input".to_owned(), input),
            ("segment.length".to_owned(), counts(&|stream| stream.inside)),
            ("cache.length".to_owned(), counts(&|stream| stream.slots.len())),
        ]);
        scope.extend(self.state.iter().map(|(name, array)| (name.clone(), Value::F(array.clone()))));
        scope.extend(self.cache.iter().map(|(name, value)| (name.clone(), value.clone())));
        run(&self.model, scope)
    }

    /// Whether stream `b`'s segment ends with token `i` of a run with these losses `[B, n]`.
    fn ends(&self, b: usize, losses: &ArrayD<f32>, i: usize) -> bool {
        let Segmentation::Surprise { window, threshold, min_size, max_size } = self.contract.segmentation
        else {
            return false;
        };
        let stream = &self.streams[b];
        let now = losses.index_axis(Axis(0), b);
        let mut before = stream.losses.clone();
        before.extend(now.iter().take(i));
        let recent = &before[before.len().saturating_sub(window)..];
        let n = recent.len() as f64;
        let mean = recent.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = recent.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        let score = (f64::from(now[[i]]) - mean) / variance.sqrt().max(1e-6);
        let score = if recent.len() < 2 { 0.0 } else { score };
        let inside = stream.inside + i + 1;
        inside == max_size || (inside >= min_size && score > f64::from(threshold))
    }

    /// A slot that is not live weighs nothing.
    fn check_dead(&self, made: &HashMap<String, Value>, tokens: usize) {
        for block in self.contract.blocks.iter().filter(|block| block.memory.has_gates()) {
            let gates = made[&format!("gates.{}", block.block)].f();
            let (heads, slots) = (block.memory.num_heads, self.contract.capacity + 1);
            assert_eq!(gates.shape(), [self.streams.len(), tokens, heads, slots]);
            for (b, stream) in self.streams.iter().enumerate() {
                for row in gates.index_axis(Axis(0), b).lanes(Axis(2)) {
                    let row = row.to_vec();
                    assert!(row[stream.slots.len()..slots - 1].iter().all(|&gate| gate == 0.0), "{row:?}");
                }
            }
        }
    }

    fn commit(&mut self, made: &HashMap<String, Value>, tokens: usize) {
        for tensor in &self.contract.state {
            self.state.insert(tensor.past.clone(), made[&tensor.present].f().clone());
        }
        for b in 0..self.streams.len() {
            let mut ended = self.room_of(b) == tokens;
            if let Some(losses) = made.get("surprise").map(Value::f) {
                ended = self.ends(b, losses, tokens - 1);
                self.streams[b].losses.extend(losses.index_axis(Axis(0), b));
            }
            self.streams[b].inside += tokens;
            if ended {
                self.end_segment(b, made);
            }
        }
    }

    fn room_of(&self, b: usize) -> usize {
        match self.contract.segmentation {
            Segmentation::Constant { size } => size - self.streams[b].inside,
            Segmentation::Logarithmic {} => 1,
            Segmentation::Surprise { .. } => 0,
        }
    }

    fn end_segment(&mut self, b: usize, made: &HashMap<String, Value>) {
        let logarithmic = matches!(self.contract.segmentation, Segmentation::Logarithmic {});
        let stream = &mut self.streams[b];
        let tokens = std::mem::take(&mut stream.inside);
        let capacity = self.contract.capacity;
        let slot = if logarithmic { stream.slots.len() } else { stream.pushed % capacity };
        assert!(slot < capacity, "a cache of {capacity} is too small for this test");
        stream.pushed += 1;
        if slot == stream.slots.len() {
            stream.slots.push(tokens);
        }
        for tensor in self.contract.cache.clone() {
            let divisor = if tensor.scale == Scale::Mean { tokens as f32 } else { 1.0 };
            let value = made[&tensor.from].f().index_axis(Axis(0), b).mapv(|x| x / divisor);
            self.store(&tensor, b, slot, &value);
        }
        while logarithmic && self.merges(b) {}
        for tensor in self.contract.state.iter().filter(|tensor| tensor.reset != Reset::Never) {
            let initial = self.initial[&tensor.past].index_axis(Axis(0), b);
            self.state.get_mut(&tensor.past).unwrap().index_axis_mut(Axis(0), b).assign(&initial);
        }
    }

    /// Makes one of the two youngest checkpoints when they stand for as many tokens.
    fn merges(&mut self, b: usize) -> bool {
        let slots = &mut self.streams[b].slots;
        let [.., older, younger] = slots[..] else { return false };
        if older != younger {
            return false;
        }
        slots.pop();
        let last = slots.len();
        slots[last - 1] = older + younger;
        for tensor in self.contract.cache.clone() {
            let slots = self.cache[&tensor.name].f().index_axis(Axis(0), b).to_owned();
            let [old, young] = [last - 1, last].map(|slot| slots.index_axis(Axis(1), slot));
            let adds = tensor.name.ends_with(".context") || self.contract.init == Init::Restart;
            let merged = match (adds, tensor.scale) {
                (false, _) => young.to_owned(),
                (true, Scale::None) => &old + &young,
                (true, Scale::Mean) => (&old + &young) / 2.0,
            };
            self.store(&tensor, b, last - 1, &merged);
        }
        true
    }

    /// Puts `value` `[H, …]` into a slot, as the tensor's type has it.
    fn store(&mut self, tensor: &CacheTensor, b: usize, slot: usize, value: &ArrayD<f32>) {
        assert_eq!(tensor.slot_axis, 2);
        match (self.cache.get_mut(&tensor.name).unwrap(), &tensor.steps) {
            (Value::F(slots), None) => {
                let round = if tensor.dtype == Dtype::F16 { f16 } else { |x| x };
                slots.index_axis_mut(Axis(0), b).index_axis_mut(Axis(1), slot).assign(&value.mapv(round));
            }
            (Value::I(slots), Some(steps)) => {
                let largest = |head: ArrayViewD<'_, f32>| head.fold(0.0f32, |most, x| most.max(x.abs()));
                let heads: Vec<f32> = value.outer_iter().map(|head| largest(head) / 127.0).collect();
                for (h, head) in value.outer_iter().enumerate() {
                    let step = heads[h].max(f32::MIN_POSITIVE);
                    let mut slots = slots.index_axis_mut(Axis(0), b);
                    let mut slots = slots.index_axis_mut(Axis(0), h);
                    slots.index_axis_mut(Axis(0), slot).assign(&head.mapv(|x| (x / step).round() as i64));
                }
                let Value::F(steps) = self.cache.get_mut(steps).unwrap() else { panic!("steps are f32") };
                for (h, step) in heads.into_iter().enumerate() {
                    steps[[b, h, slot]] = step;
                }
            }
            (value, steps) => panic!("{value:?} with steps {steps:?}"),
        }
    }
}

/// x to eleven bits.
fn f16(x: f32) -> f32 {
    if x == 0.0 {
        return 0.0;
    }
    let unit = 2f32.powi(x.abs().log2().floor() as i32 - 10);
    (x / unit).round_ties_even() * unit
}

fn tensors(bytes: &[u8]) -> HashMap<String, ArrayD<f32>> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let array = |view: safetensors::tensor::TensorView<'_>| {
        let data = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        ArrayD::from_shape_vec(view.shape(), data).unwrap()
    };
    file.tensors().into_iter().map(|(name, view)| (name, array(view))).collect()
}
