//! The read of many tokens of a run at once.
//!
//! Tokens are written one by one, for each sees the memory as the ones before have left it; but all of them read the same
//! checkpoints. So the checkpoints wait until a block of tokens has been written, and are then read by all of it: what was
//! a product of a matrix and a vector for each token is one of two matrices, and a checkpoint is loaded once a block.
//!
//! Lanes are tokens here: a vector has one feature of many tokens, and a checkpoint's element is multiplied by all of it.
//! Sizes need not be whole vectors then, sums need not be taken across lanes, and what is done with an answer (bias, GELU,
//! weight) is done to whole vectors.

use super::matvec;
use super::ops;
use super::parameters::{self, Parameters};
use super::plan::{Plan, Scratch, Weights};
use super::read::gates_of;
use super::simd::{Simd, WIDE};
use super::{Cells, Run, math};

/// Tokens in a block.
const BLOCK: usize = 32;

/// Wide vectors in a [`Row`].
const VECTORS: usize = BLOCK / WIDE;

/// A block of fewer is read token by token: lanes without a token cost as much as those with one.
const FEWEST: usize = 4;

/// Rows of a matrix that are multiplied side by side, where a wide vector is one register; half of them, where it is two.
const TILE: usize = 8;

/// One feature of all tokens of a block, in whole cache lines.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Row([[f32; WIDE]; VECTORS]);

impl Row {
    const ZERO: Self = Self([[0.0; WIDE]; VECTORS]);

    #[inline(always)]
    fn tokens(&self) -> &[f32; BLOCK] {
        self.0.as_flattened().first_chunk().expect("the tokens of a block")
    }

    #[inline(always)]
    fn tokens_mut(&mut self) -> &mut [f32; BLOCK] {
        self.0.as_flattened_mut().first_chunk_mut().expect("the tokens of a block")
    }
}

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

impl Block {
    pub(super) fn new(plan: &Plan) -> Self {
        if !plan.reads_blocks() {
            return Self::default();
        }
        let rows = |len: usize| vec![Row::ZERO; len].into_boxed_slice();
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
    if token % BLOCK + 1 < count {
        return;
    }
    let tokens = Tokens { first: token + 1 - count, count };
    let block = &mut scratch.block;
    weigh(simd, plan, block, run, head, tokens);
    block.sums.fill(Row::ZERO);
    for slot in 0..plan.live(run) {
        let reading = tokens.lanes(&block.weights[slot]).iter().filter(|weight| **weight != 0.0).count();
        if reading > 0 {
            let checkpoint = Parameters::only(run.cache, head * plan.capacity + slot);
            add_checkpoint(simd, plan, block, checkpoint, slot, tokens, reading == count);
        }
    }
    finish(plan, block, run, head, tokens);
}

/// The tokens of a block.
#[derive(Clone, Copy)]
struct Tokens {
    /// Of the run.
    first: usize,
    count: usize,
}

impl Tokens {
    /// Wide vectors that have them.
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
fn weigh<S: Simd>(
    simd: S,
    plan: &Plan,
    block: &mut Block,
    run: &mut Run<'_, '_>,
    head: usize,
    tokens: Tokens,
) {
    let live = plan.live(run);
    let of_head = |tensor: usize| run.cache[tensor].blocks(head * plan.capacity, live, plan.head_size);
    let (weights, widened) = (&mut block.weights[..=live], &mut block.widened);
    match plan.weights {
        Weights::One => weights.fill(Row([[1.0; WIDE]; VECTORS])),
        Weights::Mean => weights.fill(Row([[1.0 / (live + 1) as f32; WIDE]; VECTORS])),
        Weights::Gates(scoring) => {
            let product = Product { x: &block.queries, bias: None, weight: None, vectors: tokens.vectors() };
            multiply(simd, of_head(scoring.cached_contexts), product, &mut weights[..live], widened);
            softmax(scoring.scale, tokens.vectors(), weights);
        }
    }
    if !run.gates.is_empty() {
        for lane in 0..tokens.count {
            let gates = gates_of(plan, run.gates, head, tokens.first + lane);
            gates[live..].fill(0.0);
            for (gate, weight) in gates.iter_mut().zip(&weights[..live]) {
                *gate = weight.tokens()[lane];
            }
            gates[plan.capacity] = weights[live].tokens()[lane];
        }
    }
    if let Some(normalizer) = plan.normalizer {
        let product = Product { x: &block.inputs[0], bias: None, weight: None, vectors: tokens.vectors() };
        multiply(simd, of_head(normalizer.cached), product, &mut block.divisors[..live], widened);
        normalize_weights(plan.normalizes_soup, &block.divisors, weights);
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
    checkpoint: Parameters<'_, Cells<'_>>,
    slot: usize,
    tokens: Tokens,
    of_all: bool,
) {
    let Block { inputs, weights, sums, answer, bias, widened, .. } = block;
    let (weights, vectors) = (&weights[slot], tokens.vectors());
    for (j, layer) in plan.layers.iter().enumerate() {
        let bias = checkpoint.bias(layer).map(|cells| {
            widen(simd, cells, &mut bias[..layer.rows]);
            &bias[..layer.rows]
        });
        let (before, after) = inputs.split_at_mut(j + 1);
        let is_last = after.is_empty();
        let weight = (is_last && of_all).then_some(weights);
        let y = match after.first_mut() {
            Some(next) => next,
            None if of_all => &mut *sums,
            None => &mut *answer,
        };
        let product = Product { x: &before[j], bias, weight, vectors };
        multiply(simd, checkpoint.weight(layer), product, y, widened);
        if !is_last {
            y.iter_mut().for_each(|row| gelu(&mut row.0[..vectors]));
        }
    }
    if !of_all {
        add_where_read(weights, answer, sums);
    }
    if plan.skip {
        for (sum, x) in sums.iter_mut().zip(&inputs[0]) {
            add_where_weighted(weights, x, sum);
        }
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

#[inline(always)]
fn add_where_read(weights: &Row, answer: &[Row], sums: &mut [Row]) {
    for (sum, answer) in sums.iter_mut().zip(answer) {
        add_where_weighted(weights, answer, sum);
    }
}

/// sum += weight · x where the weight is not 0.
#[inline(always)]
fn add_where_weighted(weights: &Row, x: &Row, sum: &mut Row) {
    let lanes = sum.tokens_mut().iter_mut().zip(x.tokens()).zip(weights.tokens());
    for ((sum, x), weight) in lanes {
        *sum += if *weight == 0.0 { 0.0 } else { weight * x };
    }
}

/// y, which has the online memory's answers, comes to be the weighted sum of all.
#[inline(always)]
fn finish(plan: &Plan, block: &Block, run: &mut Run<'_, '_>, head: usize, tokens: Tokens) {
    let online = &block.weights[plan.live(run)];
    for (lane, &weight) in tokens.lanes(online).iter().enumerate() {
        let y = &mut run.y[plan.part(head, tokens.first + lane)];
        for (y, sum) in y.iter_mut().zip(&block.sums) {
            let online = if weight == 0.0 { 0.0 } else { weight * *y };
            *y = online + sum.tokens()[lane];
        }
    }
}

/// The cells as f32.
#[inline(always)]
fn widen<S: Simd>(simd: S, cells: Cells<'_>, y: &mut [f32]) {
    y.fill(0.0);
    parameters::add_scaled(simd, 1.0, cells, y);
}

/// What a matrix W `[rows, cols]` is multiplied by, and how it ends.
#[derive(Clone, Copy)]
struct Product<'a> {
    /// `[cols]`.
    x: &'a [Row],
    /// b, `[rows]`.
    bias: Option<&'a [f32]>,
    /// y += weight (W x + b), not y = W x + b.
    weight: Option<&'a Row>,
    /// Wide vectors that have tokens.
    vectors: usize,
}

/// The product of W and x, into y `[rows]`, by tiles of rows.
#[inline(always)]
fn multiply<S: Simd>(simd: S, w: Cells<'_>, product: Product<'_>, y: &mut [Row], widened: &mut [f32]) {
    let (cols, rows) = (product.x.len(), y.len());
    let tile = if S::WIDE_REGISTERS == 1 { TILE } else { TILE / 2 };
    for (start, y) in (0..rows).step_by(tile).zip(y.chunks_mut(tile)) {
        let w = match w.rows(start, y.len(), cols) {
            Cells::F32(w) => w,
            w => {
                widen_rows(simd, w, cols, &mut widened[..y.len() * cols]);
                &widened[..y.len() * cols]
            }
        };
        let bias = product.bias.map(|bias| &bias[start..][..y.len()]);
        let product = Product { bias, ..product };
        if S::WIDE_REGISTERS > 1 {
            for vector in 0..product.vectors {
                multiply_tile::<S, { TILE / 2 }, 1>(simd, w, product, vector, y);
            }
        } else if product.vectors == VECTORS {
            multiply_tile::<S, TILE, VECTORS>(simd, w, product, 0, y);
        } else {
            multiply_tile::<S, TILE, 1>(simd, w, product, 0, y);
        }
    }
}

/// Row by row, each by its own step or all by one.
#[inline(always)]
fn widen_rows<S: Simd>(simd: S, w: Cells<'_>, cols: usize, widened: &mut [f32]) {
    let each = matches!(w, Cells::I8(_, steps) if steps.len() > 1);
    let len = if each { cols } else { widened.len() };
    for (row, widened) in widened.chunks_exact_mut(len).enumerate() {
        widen(simd, w.rows(row, 1, len), widened);
    }
}

/// At most R rows, and C wide vectors of tokens from `vector` on.
///
/// All sums stay in registers over the columns. Where there are fewer than R rows, the last stands in for those that are
/// missing, so that this is one piece of code, and its other sums are dropped.
#[inline(always)]
fn multiply_tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    w: &[f32],
    product: Product<'_>,
    vector: usize,
    y: &mut [Row],
) {
    let (x, last) = (product.x, y.len() - 1);
    let mut rows: [&[f32]; R] = [&[]; R];
    let mut sums = [[simd.wide_splat(0.0); C]; R];
    for (r, (row, sums)) in rows.iter_mut().zip(&mut sums).enumerate() {
        *row = &w[r.min(last) * x.len()..][..x.len()];
        if let Some(bias) = product.bias {
            *sums = [simd.wide_splat(bias[r.min(last)]); C];
        }
    }
    for (i, x) in x.iter().enumerate() {
        let mut lanes = [simd.wide_splat(0.0); C];
        for (lanes, x) in lanes.iter_mut().zip(&x.0[vector..vector + C]) {
            *lanes = simd.wide_load(x);
        }
        for (row, sums) in rows.iter().zip(&mut sums) {
            let w = simd.wide_splat(row[i]);
            for (sum, lanes) in sums.iter_mut().zip(&lanes) {
                *sum = simd.wide_mul_add(w, *lanes, *sum);
            }
        }
    }
    for (sums, y) in sums.iter().zip(y) {
        for (j, sum) in sums.iter().enumerate() {
            let y = &mut y.0[vector + j];
            let sum = match product.weight {
                Some(weight) => {
                    simd.wide_mul_add(simd.wide_load(&weight.0[vector + j]), *sum, simd.wide_load(y))
                }
                None => *sum,
            };
            simd.wide_store(sum, y);
        }
    }
}
