//! What a memory function comes to: sizes, tensor indices and constants, worked out once.

use std::ops::Range;

use mcedge_models::contract::{MemoryFunction, MemoryTensor};
use mcedge_models::spec::{Aggregation, Coefficient, Context, Deep, Memory, Objective, Query, Sign};

use super::Run;
use super::ops::{self, Lanes, Step};
use super::simd::{LANES, Simd};

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

/// The gradient of the memory's loss by its output.
#[derive(Clone, Copy, Debug)]
pub(super) enum Error {
    /// 2 (M(k) − v).
    L2,
    /// −v.
    Dot,
    /// v: not a loss, but what linear memory writes.
    Value,
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
    pub(super) normalize_qk: bool,
    /// At least one; GELU stands between them.
    pub(super) layers: Vec<Layer>,
    /// Whether the memory's input is added to its output.
    pub(super) skip: bool,
    pub(super) error: Error,
    pub(super) step: Step,
    /// Parameter tensors; where there is momentum, that of tensor i is tensor `parameters + i`.
    pub(super) parameters: usize,
    pub(super) has_momentum: bool,
    pub(super) weights: Weights,
    /// Whether parameters are averaged, not answers.
    pub(super) soup: bool,
    /// Whether checkpoints are read.
    pub(super) cached: bool,
    /// Elements of each state tensor, `[H, …]`.
    state_lengths: Vec<usize>,
    /// Elements of each cached tensor, `[H, N, …]`.
    cache_lengths: Vec<usize>,
}

impl Plan {
    pub(super) fn new(function: &MemoryFunction, capacity: usize) -> Self {
        if let Some(feature) = function.unsupported() {
            panic!("no kernel for {feature}");
        }
        let tensors = function.tensors();
        let elements = |tensor: &MemoryTensor| function.num_heads * tensor.shape.iter().product::<usize>();
        let deep = function.memory.deep();
        let layers = layers(function.head_size, deep);
        let has_momentum = deep.is_some_and(|deep| deep.momentum != 0.0);
        let parameters = layers.iter().map(|layer| 1 + usize::from(layer.bias.is_some())).sum();
        Self {
            heads: function.num_heads,
            head_size: function.head_size,
            capacity,
            normalize_qk: function.normalize_qk,
            skip: deep.is_some_and(|deep| deep.skip),
            error: match deep.map(|deep| deep.objective) {
                Some(Objective::L2) => Error::L2,
                Some(Objective::Dot) => Error::Dot,
                None => Error::Value,
            },
            step: step(&function.memory),
            parameters,
            has_momentum,
            weights: weights(function, tensors.len() - 1, parameters),
            // The answer of one layer is linear in its parameters: the soup's is that of `grm`, and needs no soup.
            soup: function.caching.aggregation == Aggregation::Soup && layers.len() > 1,
            cached: function.is_cached(),
            state_lengths: tensors.iter().map(elements).collect(),
            cache_lengths: tensors.iter().filter(|t| t.cached).map(|t| capacity * elements(t)).collect(),
            layers,
        }
    }

    pub(super) fn d_model(&self) -> usize {
        self.heads * self.head_size
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

    /// Asserts that every tensor is there and has its length.
    pub(super) fn check(&self, run: &Run<'_, '_>) {
        let elements = run.y.len();
        let d_model = self.d_model();
        assert!(elements > 0 && elements.is_multiple_of(d_model), "y has {elements}, d_model is {d_model}");
        for (name, x) in [("q", run.q), ("k", run.k), ("v", run.v), ("u", run.u.unwrap_or(run.q))] {
            assert_eq!(x.len(), elements, "elements of {name} and y");
        }
        assert_eq!(run.u.is_some(), matches!(self.weights, Weights::Gates(s) if s.with_u), "u is there");
        assert!(run.past.iter().map(|x| x.len()).eq(self.state_lengths.iter().copied()), "past's lengths");
        assert!(
            run.present.iter().map(|x| x.len()).eq(self.state_lengths.iter().copied()),
            "present's lengths"
        );
        assert!(run.cache.iter().map(|x| x.len()).eq(self.cache_lengths.iter().copied()), "cache's lengths");
        assert!(
            run.cache_length <= self.capacity || !self.cached,
            "{} live slots of {}",
            run.cache_length,
            self.capacity
        );
    }

    /// The token's q and k, normalised if so wanted, into the scratch.
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
            x.copy_from_slice(&source[part.clone()]);
            if self.normalize_qk {
                let scale = 1.0 / ops::dot(simd, x, x).sqrt().max(1e-6);
                for x in x {
                    *x *= scale;
                }
            }
        }
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

fn step(memory: &Memory) -> Step {
    let Some(deep) = memory.deep() else {
        return Step { retention: 1.0, momentum: 0.0, rate: 1.0, sign: 1.0 };
    };
    let constant = |coefficient: Coefficient| coefficient.constant().expect("a supported function");
    let size = constant(deep.step_size);
    let (rate, sign) = match (memory, deep.sign) {
        (Memory::Dla(_), _) => (size, -1.0),
        (_, Some(Sign::Paper)) => (-size, -1.0),
        (_, Some(Sign::Descent) | None) => (-size, 1.0),
    };
    Step { retention: constant(deep.retention), momentum: deep.momentum, rate, sign }
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
    pub(super) sums: Box<[Lanes]>,
    /// Of the live checkpoints and, after them, the online memory, `[N + 1]`.
    pub(super) weights: Box<[f32]>,
    /// Live slots, to be selected from, `[N]`.
    pub(super) slots: Box<[usize]>,
    /// The parameters of the mean memory, each `[…]` of one head; empty but for `soup`.
    pub(super) soup: Vec<Box<[f32]>>,
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
        Self {
            q: zeros(plan.head_size),
            k: zeros(plan.head_size),
            slopes: inputs.clone(),
            error: zeros(widest),
            error_back: zeros(widest),
            weighted: inputs.last().cloned().unwrap_or_default(),
            inputs,
            sums: vec![[0.0; LANES]; plan.head_size].into_boxed_slice(),
            weights: zeros(plan.capacity + 1),
            slots: vec![0; plan.capacity].into_boxed_slice(),
            soup: soup.iter().flat_map(parameters).collect(),
        }
    }
}
