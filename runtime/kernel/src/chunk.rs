//! The read of many tokens of a run at once.
//!
//! Tokens are written one by one, for each sees the memory as the ones before have left it; but all of them read the same
//! checkpoints. So the checkpoints wait until a block of tokens has been written, and are then read by all of it: what was
//! a product of a matrix and a vector for each token is one of two matrices, and a checkpoint is loaded once a block.

use super::matmul::{BLOCK, Matmul, Row, TILE, widen};
use super::parameters::Parameters;
use super::plan::{Plan, Scratch, Weights};
use super::read::gates_of;
use super::simd::{Simd, Task, WIDE};
use super::{Run, math, matvec, ops};

/// A block of fewer is read token by token: lanes without a token cost as much as those with one.
const FEWEST: usize = 8;

/// What a block's tokens have left to be read with, and what is read; empty where a function is read token by token.
///
/// Lanes beyond the tokens of a block hold whatever the last one left, and nothing that is read depends on them.
#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    /// What scores are made with, `[dh]`; empty without scores.
    queries: Box<[Row]>,
    /// Each layer's input, `[cols]`.
    inputs: Vec<Box<[Row]>>,
    /// Of the live checkpoints and, after them, the online memory, `[N + 1]`.
    weights: Box<[Row]>,
    /// The normalisers' products of the same; empty without normalisers.
    divisors: Box<[Row]>,
    /// The checkpoints' answers, weighted and summed, `[dh]`.
    sums: Box<[Row]>,
    /// One checkpoint's answer, where some of the tokens do not read it, `[dh]`.
    answer: Box<[Row]>,
    /// A layer's bias as f32, `[rows]`; empty without biases.
    bias: Box<[f32]>,
    /// Rows of a matrix as f32, `[TILE, cols]`.
    widened: Box<[f32]>,
}

/// Zeros that nobody has written: a cache's worth of rows takes room as it is used.
fn rows(len: usize) -> Box<[Row]> {
    // SAFETY: zeros are an f32.
    unsafe { Box::new_zeroed_slice(len).assume_init() }
}

impl Block {
    pub(super) fn new(plan: &Plan) -> Self {
        if !plan.reads_blocks() {
            return Self::default();
        }
        let zeros = |len: usize| vec![0.0; len].into_boxed_slice();
        let rows_if = |is_there: bool, len: usize| rows(if is_there { len } else { 0 });
        let (dh, memories) = (plan.head_size, plan.capacity + 1);
        let widest = plan.layers.iter().map(|layer| layer.cols).max().unwrap_or(0);
        let bias = plan.layers.iter().filter(|layer| layer.bias.is_some()).map(|layer| layer.rows).max();
        Self {
            queries: rows_if(matches!(plan.weights, Weights::Gates(_)), dh),
            inputs: plan.layers.iter().map(|layer| rows(layer.cols)).collect(),
            weights: rows(memories),
            divisors: rows_if(plan.normalizer.is_some(), memories),
            sums: rows(dh),
            answer: rows(dh),
            bias: zeros(bias.unwrap_or(0)),
            widened: zeros(TILE * widest),
        }
    }

    /// Bytes of its elements.
    pub(super) fn bytes(&self) -> usize {
        // By name, one and all: a new field is counted, or this does not compile.
        let Self { queries, inputs, weights, divisors, sums, answer, bias, widened } = self;
        let rows = [queries, weights, divisors, sums, answer].into_iter().chain(inputs);
        let rows: usize = rows.map(|rows| size_of_val(&rows[..])).sum();
        rows + size_of_val(&bias[..]) + size_of_val(&widened[..])
    }
}

/// Tokens of the block that `token` is in, where a run of `tokens` is read by blocks there.
#[inline(always)]
pub(super) fn block_of(plan: &Plan, run: &Run<'_, '_>, token: usize, tokens: usize) -> Option<usize> {
    let count = (tokens - token / BLOCK * BLOCK).min(BLOCK);
    (count >= FEWEST && plan.reads_blocks() && plan.live(run) > 0).then_some(count)
}

/// Takes up a token that has been written, one of `count` of its block; after the last of them, y of all is there.
#[inline(always)]
pub(super) fn read<S: Simd>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    run: &mut Run<'_, '_>,
    head: usize,
    token: usize,
    count: usize,
) {
    take(simd, plan, scratch, run, head, token);
    if token % BLOCK + 1 == count {
        let tokens = Tokens { head, first: token + 1 - count, count };
        simd.apart(Read { plan, block: &mut scratch.block, run, tokens });
    }
}

/// A head's tokens of a block.
#[derive(Clone, Copy)]
struct Tokens {
    head: usize,
    /// Of the run.
    first: usize,
    count: usize,
}

impl Tokens {
    /// Wide vectors of a row that have them.
    #[inline(always)]
    fn vectors(self) -> usize {
        self.count.div_ceil(WIDE)
    }

    /// Those of a row.
    #[inline(always)]
    fn lanes(self, row: &Row) -> &[f32] {
        &row.tokens()[..self.count]
    }
}

/// The read of a block whose tokens have all been taken up.
struct Read<'r, 'a, 'b> {
    plan: &'r Plan,
    block: &'r mut Block,
    run: &'r mut Run<'a, 'b>,
    tokens: Tokens,
}

impl Task for Read<'_, '_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { plan, block, run, tokens } = self;
        weigh(simd, plan, block, run, tokens);
        block.sums.fill(Row::ZERO);
        for slot in 0..plan.live(run) {
            let weights = tokens.lanes(&block.weights[slot]);
            let reading = weights.iter().filter(|weight| **weight != 0.0).count();
            if reading > 0 {
                add_checkpoint(simd, plan, block, run, tokens, slot, reading == tokens.count);
            }
        }
        finish(plan, block, run, tokens);
    }
}

/// The token's query and input into its lane; of the online memory, as this token has left it, the score, the normaliser's
/// product, and the answer into y.
#[inline(always)]
fn take<S: Simd>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    run: &mut Run<'_, '_>,
    head: usize,
    token: usize,
) {
    let (dh, live, lane, part) = (plan.head_size, plan.live(run), token % BLOCK, plan.part(head, token));
    let online = Parameters::only(&*run.present, head);
    if let Weights::Gates(scoring) = plan.weights {
        let u = if scoring.with_u { &run.u[part.clone()] } else { &*scratch.q };
        put(&mut scratch.block.queries, lane, u);
        let tokens = if scoring.mean { run.segment_length + token + 1 } else { 1 };
        let context = &run.present[scoring.context][head * dh..][..dh];
        scratch.block.weights[live].tokens_mut()[lane] = matvec::dot(simd, context, u) / tokens as f32;
    }
    ops::map(plan.feature_map, &scratch.q, &mut scratch.inputs[0]);
    put(&mut scratch.block.inputs[0], lane, &scratch.inputs[0]);
    if let Some(normalizer) = plan.normalizer {
        let product = online.normalizer(simd, plan, normalizer.state, &scratch.inputs[0]);
        scratch.block.divisors[live].tokens_mut()[lane] = product;
    }
    online.hidden::<S, false>(simd, plan, scratch);
    let (y, last) = (&mut run.y[part], plan.layers.len() - 1);
    online.apply(simd, &plan.layers[last], &scratch.inputs[last], y);
    if plan.skip {
        ops::add_scaled(simd, 1.0, &scratch.q, y);
    }
}

/// x into the lane of as many rows.
#[inline(always)]
fn put(rows: &mut [Row], lane: usize, x: &[f32]) {
    for (row, x) in rows.iter_mut().zip(x) {
        row.tokens_mut()[lane] = *x;
    }
}

/// The memories' weights, as the answers are to be multiplied by.
#[inline(always)]
fn weigh<S: Simd>(simd: S, plan: &Plan, block: &mut Block, run: &mut Run<'_, '_>, tokens: Tokens) {
    let (live, first) = (plan.live(run), tokens.head * plan.capacity);
    let of_head = |tensor: usize| run.cache[tensor].blocks(first, live, plan.head_size);
    let Block { queries, inputs, weights, divisors, widened, .. } = block;
    let (weights, vectors) = (&mut weights[..=live], tokens.vectors());
    let mut multiply = |w, x: &[Row], y: &mut [Row]| {
        simd.apart(Matmul { w, x, bias: None, weight: None, y, vectors, widened, next: None });
    };
    match plan.weights {
        Weights::One => weights.fill(Row::all(1.0)),
        Weights::Mean => weights.fill(Row::all(1.0 / (live + 1) as f32)),
        Weights::Gates(scoring) => {
            multiply(of_head(scoring.cached_contexts), queries, &mut weights[..live]);
            softmax(scoring.scale, vectors, weights);
        }
    }
    if !run.gates.is_empty() {
        for lane in 0..tokens.count {
            let gates = gates_of(plan, run.gates, tokens.head, tokens.first + lane);
            gates[live..].fill(0.0);
            for (gate, weight) in gates.iter_mut().zip(&weights[..live]) {
                *gate = weight.tokens()[lane];
            }
            gates[plan.capacity] = weights[live].tokens()[lane];
        }
    }
    if let Some(normalizer) = plan.normalizer {
        multiply(of_head(normalizer.cached), &inputs[0], &mut divisors[..live]);
        normalize_weights(plan.normalizes_soup, divisors, weights);
    }
}

/// [`ops::softmax`] of the scores times `scale`, lane by lane.
#[inline(always)]
fn softmax(scale: f32, vectors: usize, rows: &mut [Row]) {
    for vector in 0..vectors {
        let mut largest = [f32::NEG_INFINITY; WIDE];
        for row in rows.iter_mut() {
            for (x, largest) in row.0[vector].iter_mut().zip(&mut largest) {
                *x *= scale;
                *largest = if *x > *largest { *x } else { *largest };
            }
        }
        let mut sums = [0.0; WIDE];
        for row in rows.iter_mut() {
            for ((x, largest), sum) in row.0[vector].iter_mut().zip(&largest).zip(&mut sums) {
                *x = math::exp_of_negative(*x - largest);
                *sum += *x;
            }
        }
        let scales = sums.map(|sum| 1.0 / sum);
        for row in rows.iter_mut() {
            for (x, scale) in row.0[vector].iter_mut().zip(&scales) {
                *x *= scale;
            }
        }
    }
}

/// Divides the weights by the normalisers' products: each by its own memory's, a soup's by the soup's. A weight of 0 stays,
/// whatever its memory's product is.
#[inline(always)]
fn normalize_weights(of_soup: bool, products: &[Row], weights: &mut [Row]) {
    let mut soup = [0.0; BLOCK];
    for (weights, products) in weights.iter_mut().zip(products) {
        let pairs = weights.tokens_mut().iter_mut().zip(products.tokens()).zip(&mut soup);
        for ((weight, product), soup) in pairs {
            let is_read = *weight != 0.0;
            if of_soup {
                *soup += if is_read { *weight * product } else { 0.0 };
            } else {
                *weight = if is_read { *weight / math::at_least(*product, 1e-6) } else { 0.0 };
            }
        }
    }
    if of_soup {
        let scales = soup.map(|soup| 1.0 / math::at_least(soup, 1e-6));
        for weights in weights {
            weights.tokens_mut().iter_mut().zip(&scales).for_each(|(weight, scale)| *weight *= scale);
        }
    }
}

/// Adds a checkpoint's answers, weighted, to the sums of those tokens whose weight is not 0: of all of them, or not.
#[inline(always)]
fn add_checkpoint<S: Simd>(
    simd: S,
    plan: &Plan,
    block: &mut Block,
    run: &Run<'_, '_>,
    tokens: Tokens,
    slot: usize,
    of_all: bool,
) {
    let Block { inputs, weights, sums, answer, bias, widened, .. } = block;
    let (weights, vectors) = (&weights[slot], tokens.vectors());
    let of_slot = |slot: usize| {
        let index = tokens.head * plan.capacity + slot;
        Parameters::only(run.cache, index)
    };
    let (checkpoint, next) = (of_slot(slot), of_slot((slot + 1).min(plan.live(run) - 1)));
    for (j, layer) in plan.layers.iter().enumerate() {
        let bias = checkpoint.bias(layer).map(|cells| {
            widen(simd, cells, &mut bias[..layer.rows]);
            &bias[..layer.rows]
        });
        let (before, after) = inputs.split_at_mut(j + 1);
        let (x, w, next) = (&before[j], checkpoint.weight(layer), Some(next.weight(layer)));
        if let Some(y) = after.first_mut() {
            simd.apart(Matmul { w, x, bias, weight: None, y, vectors, widened, next });
            y.iter_mut().for_each(|row| gelu(&mut row.0[..vectors]));
        } else if of_all {
            simd.apart(Matmul { w, x, bias, weight: Some(weights), y: sums, vectors, widened, next });
        } else {
            simd.apart(Matmul { w, x, bias, weight: None, y: answer, vectors, widened, next });
            add_where_read(weights, answer, sums);
        }
    }
    if plan.skip {
        add_where_read(weights, &inputs[0], sums);
    }
}

#[inline(always)]
fn gelu(vectors: &mut [[f32; WIDE]]) {
    for vector in vectors {
        for x in vector {
            *x = math::gelu(*x);
        }
    }
}

/// sums += weight · x where the weight is not 0.
#[inline(always)]
fn add_where_read(weights: &Row, x: &[Row], sums: &mut [Row]) {
    for (sum, x) in sums.iter_mut().zip(x) {
        let lanes = sum.tokens_mut().iter_mut().zip(x.tokens()).zip(weights.tokens());
        for ((sum, x), weight) in lanes {
            *sum += if *weight == 0.0 { 0.0 } else { weight * x };
        }
    }
}

/// y, which has the online memory's answers, comes to be the weighted sum of all.
#[inline(always)]
fn finish(plan: &Plan, block: &Block, run: &mut Run<'_, '_>, tokens: Tokens) {
    let online = &block.weights[plan.live(run)];
    for (lane, &weight) in tokens.lanes(online).iter().enumerate() {
        let y = &mut run.y[plan.part(tokens.head, tokens.first + lane)];
        for (y, sum) in y.iter_mut().zip(&block.sums) {
            let online = if weight == 0.0 { 0.0 } else { weight * *y };
            *y = online + sum.tokens()[lane];
        }
    }
}
