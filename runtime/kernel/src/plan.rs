//! What a memory function comes to: sizes, tensor indices and constants, worked out once.

use std::ops::Range;

use mcedge_models::contract::{Lead, MemoryFunction, MemoryTensor, Role};
use mcedge_models::spec::{
    Aggregation, Coefficient, Context, Deep, FeatureMap, Memory, Objective, Query, Sign,
};

use super::chunk::Block;
use super::matvec::{self, RowSum};
use super::ops::Step;
use super::simd::{Simd, WIDE};
use super::{Cells, Run, math};

/// One layer of a memory: y = W x + b.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Outputs.
    pub(super) rows: usize,
    /// Inputs.
    pub(super) cols: usize,
    /// Index of W, `[rows, cols]`, among the tensors.
    pub(super) weight: usize,
    /// Index of b, `[rows]`.
    pub(super) bias: Option<usize>,
}

impl Layer {
    /// Elements of W.
    pub(super) fn weights(&self) -> usize {
        self.rows * self.cols
    }
}

/// What the write steps along, as a vector of the memory's output.
#[derive(Clone, Copy, Debug)]
pub(super) enum Error {
    /// 2 (M(k) − v), the gradient of the loss.
    L2,
    /// −v, the gradient of the loss.
    Dot,
    /// v: not a gradient, but what matrix memories write.
    Value,
    /// v − α M k: what the delta rule writes.
    Delta,
}

/// How a memory is run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Head by head, as layers that are stepped and answer: matrix memories have one.
    Layers,
    /// All heads at once; a head reads its part of h.
    Gru,
    /// As `Gru`.
    Lstm,
    /// Head by head, over a window of tokens.
    Attention {
        /// Tokens.
        window: usize,
    },
}

/// What a token's coefficients are to the step of a write.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// M + v kᵀ.
    Sum,
    /// α M + λ v kᵀ: coefficients 0 and 2; 1 is β, of the token before.
    Swla,
    /// α M + β (…) kᵀ: coefficients 0 and 1.
    Delta,
    /// Coefficient 1 is the retention, and 0 times `factor` the rate.
    Deep {
        /// Of the step size in the rate.
        factor: f32,
        /// Of the momentum.
        momentum: f32,
        /// Of s in w.
        sign: f32,
    },
}

/// The normaliser z of linear memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Normalizer {
    /// Its index among the state tensors.
    pub(super) state: usize,
    /// Its index among the cached tensors; of no meaning without a cache.
    pub(super) cached: usize,
}

/// Where contexts are, and how they become scores.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scoring {
    /// Index of the context among the state tensors.
    pub(super) context: usize,
    /// Index of the contexts among the cached tensors.
    pub(super) cached_contexts: usize,
    /// Whether the online context is divided by its tokens.
    pub(super) mean: bool,
    /// Whether scores are made with u, not q.
    pub(super) with_u: bool,
    /// 1 / temperature.
    pub(super) scale: f32,
    /// The checkpoints that are read, at most.
    pub(super) top_k: usize,
}

/// How much of each memory is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Weights {
    /// 1 each.
    One,
    /// 1 / memories.
    Mean,
    /// Softmax of scores.
    Gates(Scoring),
}

/// A memory function, ready to run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) heads: usize,
    /// dh.
    pub(super) head_size: usize,
    /// Slots, N.
    pub(super) capacity: usize,
    normalize_qk: bool,
    pub(super) feature_map: FeatureMap,
    pub(super) kind: Kind,
    /// At least one under [`Kind::Layers`], with GELU between them; else none.
    pub(super) layers: Vec<Layer>,
    /// Whether the memory's input is added to its output.
    pub(super) skip: bool,
    pub(super) error: Error,
    rule: Rule,
    /// In the order of [`Memory::coefficients`].
    coefficients: Vec<Coefficient>,
    /// The layers' tensors; where there is momentum, that of tensor i is tensor `parameters + i`.
    pub(super) parameters: usize,
    pub(super) has_momentum: bool,
    pub(super) normalizer: Option<Normalizer>,
    /// Index of the previous token's k among the state tensors, of SWLA; its v is the next.
    pub(super) previous: Option<usize>,
    pub(super) weights: Weights,
    /// Whether reads are gated by h and each h_i, channel by channel.
    pub(super) sigmoid: bool,
    /// Whether parameters are averaged, not answers.
    pub(super) soup: bool,
    /// Whether the averaged memory's normaliser divides, not each memory's own.
    pub(super) normalizes_soup: bool,
    /// Whether checkpoints are read.
    pub(super) cached: bool,
    /// The inputs and outputs of which there is a row a token, and their columns.
    rows: Lengths,
    /// Those that all streams share, and their elements.
    weights_lengths: Lengths,
    /// Elements of each state tensor, `[H, …]`, and whether there is a past of it.
    state_lengths: Vec<(usize, bool)>,
    /// Elements of each cached tensor, `[H, N, …]`.
    cache_lengths: Vec<usize>,
}

impl Plan {
    pub(super) fn new(function: &MemoryFunction, capacity: usize) -> Self {
        // A function without a cache may be of any number.
        let capacity = if function.is_cached() { capacity } else { 0 };
        let tensors = function.tensors();
        let elements = |tensor: &MemoryTensor| function.num_heads * tensor.shape.iter().product::<usize>();
        let find = |name: &str| tensors.iter().position(|tensor| tensor.name == name);
        let cached: Vec<&MemoryTensor> = tensors.iter().filter(|tensor| tensor.cached).collect();
        let cached_index = |index: usize| tensors[..index].iter().filter(|tensor| tensor.cached).count();
        let deep = function.memory.deep();
        let kind = kind(&function.memory);
        let layers = if matches!(kind, Kind::Layers) { layers(function.head_size, deep) } else { Vec::new() };
        let aggregation = function.caching.aggregation;
        let normalized = matches!(function.memory, Memory::Linear { normalized: true, .. });
        let swla = matches!(function.memory, Memory::Swla { .. });
        let (rows, weights_lengths) = row_lengths(function, capacity);
        Self {
            heads: function.num_heads,
            head_size: function.head_size,
            capacity,
            normalize_qk: function.normalize_qk,
            feature_map: match function.memory {
                Memory::Linear { feature_map, .. } => feature_map,
                _ => FeatureMap::Identity,
            },
            kind,
            skip: deep.is_some_and(|deep| deep.skip),
            error: error(&function.memory),
            rule: rule(&function.memory),
            coefficients: function.memory.coefficients().into_iter().map(|(_, value)| value).collect(),
            parameters: layers.iter().map(|layer| 1 + usize::from(layer.bias.is_some())).sum(),
            has_momentum: deep.is_some_and(|deep| deep.momentum != 0.0),
            normalizer: find("z")
                .filter(|_| normalized)
                .map(|state| Normalizer { state, cached: cached_index(state) }),
            previous: find("k").filter(|_| swla),
            weights: weights(function, tensors.len() - 1, cached.len().saturating_sub(1)),
            sigmoid: aggregation == Aggregation::Sigmoid,
            // The answer of one layer is linear in its parameters, and a cell's is its h: the soup's is that of `grm`,
            // and needs no soup.
            soup: aggregation == Aggregation::Soup && layers.len() > 1,
            normalizes_soup: aggregation == Aggregation::Soup,
            cached: function.is_cached(),
            rows,
            weights_lengths,
            state_lengths: tensors.iter().map(|tensor| (elements(tensor), tensor.carried)).collect(),
            cache_lengths: cached.into_iter().map(|tensor| capacity * elements(tensor)).collect(),
            layers,
        }
    }

    pub(super) fn d_model(&self) -> usize {
        self.heads * self.head_size
    }

    /// Whether a memory is one matrix, and its answer this times its input.
    #[inline(always)]
    pub(super) fn is_matrix(&self) -> bool {
        matches!(&self.layers[..], [layer] if layer.bias.is_none()) && !self.skip && !self.soup
    }

    /// Where a head's part of a token is in a `[T, D]` tensor.
    #[inline(always)]
    pub(super) fn part(&self, head: usize, token: usize) -> Range<usize> {
        let start = token * self.d_model() + head * self.head_size;
        start..start + self.head_size
    }

    /// Live slots that the function reads.
    #[inline(always)]
    pub(super) fn live(&self, run: &Run<'_, '_>) -> usize {
        if self.cached { run.cache_length } else { 0 }
    }

    /// Whether many tokens may read the checkpoints at once: all of them, by layers, as they are.
    #[inline(always)]
    pub(super) fn reads_blocks(&self) -> bool {
        let is_layers = matches!(self.kind, Kind::Layers);
        // By the function alone, not by the capacity: a cache of fewer slots rounds as a larger one that is not full.
        let reads_all = !matches!(self.weights, Weights::Gates(scoring) if scoring.top_k < usize::MAX);
        is_layers && self.cached && !self.soup && reads_all
    }

    /// A token's coefficient for a head.
    #[inline(always)]
    pub(super) fn coefficient(&self, run: &Run<'_, '_>, index: usize, head: usize, token: usize) -> f32 {
        match self.coefficients[index] {
            Coefficient::Constant(value) => value,
            Coefficient::Input(_) => run.coefficients[index][token * self.heads + head],
        }
    }

    /// The step of a token's write.
    #[inline(always)]
    pub(super) fn step(&self, run: &Run<'_, '_>, head: usize, token: usize) -> Step {
        let coefficient = |index| self.coefficient(run, index, head, token);
        match self.rule {
            Rule::Sum => Step { retention: 1.0, momentum: 0.0, rate: 1.0, sign: 1.0 },
            Rule::Swla => Step { retention: coefficient(0), momentum: 0.0, rate: coefficient(2), sign: 1.0 },
            Rule::Delta => Step { retention: coefficient(0), momentum: 0.0, rate: coefficient(1), sign: 1.0 },
            Rule::Deep { factor, momentum, sign } => {
                Step { retention: coefficient(1), momentum, rate: factor * coefficient(0), sign }
            }
        }
    }

    /// Asserts that every tensor is there and has its length.
    pub(super) fn check(&self, run: &Run<'_, '_>) {
        let (elements, d_model) = (run.y.len(), self.d_model());
        assert!(elements > 0 && elements.is_multiple_of(d_model), "y has {elements}, d_model is {d_model}");
        let tokens = elements / d_model;
        for &(role, columns) in &self.rows {
            assert_eq!(
                row_tensor(run, role).len(),
                tokens * columns,
                "elements of {role:?}, {tokens} tokens"
            );
        }
        for &(role, expected) in &self.weights_lengths {
            assert_eq!(row_tensor(run, role).len(), expected, "elements of {role:?}");
        }
        let past = self.state_lengths.iter().map(|&(length, carried)| if carried { length } else { 0 });
        assert!(run.past.iter().map(|x| x.len()).eq(past), "past's lengths");
        let present = self.state_lengths.iter().map(|&(length, _)| length);
        assert!(run.present.iter().map(|x| x.len()).eq(present), "present's lengths");
        assert!(run.cache.iter().map(|x| x.len()).eq(self.cache_lengths.iter().copied()), "cache's lengths");
        let memories = self.heads * self.capacity;
        let has_steps = |cells: &Cells<'_>| !matches!(cells, Cells::I8(_, steps) if steps.len() != memories);
        assert!(run.cache.iter().all(has_steps), "cache's steps");
        assert!(
            run.cache_length <= self.capacity || !self.cached,
            "{} live slots of {}",
            run.cache_length,
            self.capacity
        );
    }

    /// The token's q and k, those that there are, normalised if so wanted, into the scratch.
    #[inline(always)]
    pub(super) fn normalize<S: Simd>(
        &self,
        simd: S,
        scratch: &mut Scratch,
        run: &Run<'_, '_>,
        head: usize,
        token: usize,
    ) {
        let part = self.part(head, token);
        for (x, source) in [(&mut scratch.q, run.q), (&mut scratch.k, run.k)] {
            let Some(source) = source.get(part.clone()) else { continue };
            x.copy_from_slice(source);
            if self.normalize_qk {
                let scale = 1.0 / math::at_least(matvec::dot(simd, x, x).sqrt(), 1e-6);
                for x in x {
                    *x *= scale;
                }
            }
        }
    }
}

/// Tensors by role, with a number of elements.
type Lengths = Vec<(Role, usize)>;

/// The inputs and outputs with a row a token, with their columns, and those that all streams share, with their elements.
fn row_lengths(function: &MemoryFunction, capacity: usize) -> (Lengths, Lengths) {
    let (mut rows, mut shared) = (Vec::new(), Vec::new());
    for role in function.operands().into_iter().chain(function.outputs()) {
        let (lead, tail) = function.shape(role, capacity);
        let elements = tail.iter().product();
        match lead {
            Lead::Token => rows.push((role, elements)),
            Lead::Whole => shared.push((role, elements)),
            Lead::Stream => {}
        }
    }
    (rows, shared)
}

/// The tensor of a role that is no state and no cache.
fn row_tensor<'r>(run: &'r Run<'_, '_>, role: Role) -> &'r [f32] {
    match role {
        Role::Q => run.q,
        Role::K => run.k,
        Role::V => run.v,
        Role::U => run.u,
        Role::X => run.x,
        Role::Coefficient(index) => run.coefficients.get(index).copied().unwrap_or_default(),
        Role::RecurrentWeight => run.recurrent_weight,
        Role::RecurrentBias => run.recurrent_bias,
        Role::GateWeight => run.gate_weight,
        Role::GateBias => run.gate_bias,
        Role::Y => run.y,
        Role::Gates => run.gates,
        Role::Loss => run.loss,
        _ => &[],
    }
}

fn kind(memory: &Memory) -> Kind {
    match *memory {
        Memory::Gru {} => Kind::Gru,
        Memory::Lstm {} => Kind::Lstm,
        Memory::Attention { window } => Kind::Attention { window },
        _ => Kind::Layers,
    }
}

fn error(memory: &Memory) -> Error {
    match (memory, memory.deep().map(|deep| deep.objective)) {
        (_, Some(Objective::L2)) => Error::L2,
        (_, Some(Objective::Dot)) => Error::Dot,
        (Memory::GatedDelta { correction: true, .. }, _) => Error::Delta,
        _ => Error::Value,
    }
}

fn layers(head_size: usize, deep: Option<&Deep>) -> Vec<Layer> {
    let Some(deep) = deep else {
        return vec![Layer { rows: head_size, cols: head_size, weight: 0, bias: None }];
    };
    let sizes = deep.layer_sizes(head_size);
    let stride = 1 + usize::from(deep.bias);
    let layer = |(j, io): (usize, &[usize])| {
        let weight = j * stride;
        Layer { rows: io[1], cols: io[0], weight, bias: deep.bias.then_some(weight + 1) }
    };
    sizes.windows(2).enumerate().map(layer).collect()
}

fn rule(memory: &Memory) -> Rule {
    match memory {
        Memory::Swla { .. } => Rule::Swla,
        Memory::GatedDelta { .. } => Rule::Delta,
        Memory::Dla(deep) => Rule::Deep { factor: 1.0, momentum: deep.momentum, sign: -1.0 },
        Memory::Titans(deep) => {
            let sign = if deep.sign == Some(Sign::Paper) { -1.0 } else { 1.0 };
            Rule::Deep { factor: -1.0, momentum: deep.momentum, sign }
        }
        _ => Rule::Sum,
    }
}

fn weights(function: &MemoryFunction, context: usize, cached_contexts: usize) -> Weights {
    let caching = &function.caching;
    match caching.aggregation {
        Aggregation::Mean => Weights::Mean,
        _ if caching.aggregation.is_gated() => Weights::Gates(Scoring {
            context,
            cached_contexts,
            mean: caching.context == Context::Mean,
            with_u: caching.query == Query::U,
            scale: 1.0 / caching.temperature,
            top_k: caching.top_k.unwrap_or(usize::MAX),
        }),
        _ => Weights::One,
    }
}

/// Everything a run needs beside its tensors, for one head and token at a time.
#[derive(Clone, Debug)]
pub(super) struct Scratch {
    /// `[dh]`.
    pub(super) q: Box<[f32]>,
    /// `[dh]`.
    pub(super) k: Box<[f32]>,
    /// Each layer's input, `[cols]`.
    pub(super) inputs: Vec<Box<[f32]>>,
    /// The slope of the GELU that each layer's input comes out of, `[cols]`; the first has none.
    pub(super) slopes: Vec<Box<[f32]>>,
    /// The gradient of the loss by a layer's output, `[rows]`, at its start.
    pub(super) error: Box<[f32]>,
    /// As `error`, for the layer before.
    pub(super) error_back: Box<[f32]>,
    /// The last layer's input times a weight, `[cols]`.
    pub(super) weighted: Box<[f32]>,
    /// The last layer's answers, weighted and summed but for the lanes, `[dh]`.
    pub(super) sums: Box<[RowSum]>,
    /// Of the live checkpoints and, after them, the online memory, `[N + 1]`; of attention, of the window's tokens. There is
    /// room after them, to whole wide vectors.
    pub(super) weights: Box<[f32]>,
    /// The slots that `ssc` reads, `[top_k]`; empty for other reads and where it reads all.
    pub(super) slots: Box<[usize]>,
    /// The parameters of the mean memory, each `[…]` of one head; empty but for `soup`.
    pub(super) soup: Vec<Box<[f32]>>,
    /// A cell's gates from h, `[G · D]`; empty without a cell.
    pub(super) gates: Box<[f32]>,
    /// W_g's products with h, `[D, 2]`; empty but for `sigmoid`.
    pub(super) gate_parts: Box<[f32]>,
    /// The part of W_g [h; h_i] + b_g that is h's, `[D]`; empty but for `sigmoid`.
    pub(super) gate: Box<[f32]>,
    /// A checkpoint's gate and h, `[dh]` each; empty but for `sigmoid`.
    pub(super) checkpoint: [Box<[f32]>; 2],
    /// Of the reads of many tokens at once.
    pub(super) block: Block,
}

impl Scratch {
    pub(super) fn new(plan: &Plan) -> Self {
        let zeros = |len: usize| vec![0.0; len].into_boxed_slice();
        let inputs: Vec<_> = plan.layers.iter().map(|layer| zeros(layer.cols)).collect();
        let widest = plan.layers.iter().map(|layer| layer.rows.max(layer.cols)).max().unwrap_or(0);
        let soup = if plan.soup { &plan.layers[..] } else { &[] };
        let parameters = |layer: &Layer| {
            [Some(zeros(layer.weights())), layer.bias.map(|_| zeros(layer.rows))].into_iter().flatten()
        };
        let d_model = plan.d_model();
        let (gates, scores) = match plan.kind {
            Kind::Gru => (3 * d_model, 0),
            Kind::Lstm => (4 * d_model, 0),
            Kind::Attention { window } => (0, window),
            Kind::Layers => (0, 0),
        };
        let top_k = match plan.weights {
            Weights::Gates(scoring) if scoring.top_k < plan.capacity => scoring.top_k,
            _ => 0,
        };
        let sigmoid = |len: usize| zeros(if plan.sigmoid { len } else { 0 });
        Self {
            q: zeros(plan.head_size),
            k: zeros(plan.head_size),
            slopes: inputs.clone(),
            error: zeros(widest),
            error_back: zeros(widest),
            weighted: inputs.last().cloned().unwrap_or_default(),
            inputs,
            sums: vec![RowSum::ZERO; plan.head_size].into_boxed_slice(),
            weights: zeros(scores.max(plan.capacity + 1).next_multiple_of(WIDE)),
            slots: vec![0; top_k].into_boxed_slice(),
            soup: soup.iter().flat_map(parameters).collect(),
            gates: zeros(gates),
            gate_parts: sigmoid(2 * d_model),
            gate: sigmoid(d_model),
            checkpoint: [sigmoid(plan.head_size), sigmoid(plan.head_size)],
            block: Block::new(plan),
        }
    }

    /// Bytes of its elements.
    pub(super) fn bytes(&self) -> usize {
        // By name, one and all: a new field is counted, or this does not compile.
        let Self {
            q,
            k,
            inputs,
            slopes,
            error,
            error_back,
            weighted,
            sums,
            weights,
            slots,
            soup,
            gates,
            gate_parts,
            gate,
            checkpoint,
            block,
        } = self;
        let vectors = [q, k, error, error_back, weighted, weights, gates, gate_parts, gate];
        let lists = inputs.iter().chain(slopes).chain(soup).chain(checkpoint);
        let numbers: usize = vectors.into_iter().chain(lists).map(|vector| size_of_val(&vector[..])).sum();
        numbers + size_of_val(&sums[..]) + size_of_val(&slots[..]) + block.bytes()
    }
}
