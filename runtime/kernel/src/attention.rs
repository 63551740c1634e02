//! Softmax attention over a window of tokens that moves on with each.

use super::ahead::Ahead;
use super::plan::{Plan, Scratch};
use super::simd::Simd;
use super::{Cells, Run, ops, parameters};

/// The state tensors of one head, in their order: `[W, dh]`, `[W, dh]` and `[W]`, the newest token last.
const KEYS: usize = 0;
const VALUES: usize = 1;
const LIVE: usize = 2;

/// The token's k and v go into the window, the oldest leave it, and y = Σ softmax(⟨q, k_j⟩ / √dh) v_j.
#[inline(always)]
pub(super) fn step<S: Simd>(
    simd: S,
    plan: &Plan,
    window: usize,
    scratch: &mut Scratch,
    run: &mut Run<'_, '_>,
    head: usize,
    token: usize,
) {
    let (size, part) = (plan.head_size, plan.part(head, token));
    let past = (token == 0).then_some(run.past);
    push(past, run.present, KEYS, head, &scratch.k, window);
    push(past, run.present, VALUES, head, &run.v[part.clone()], window);
    push(past, run.present, LIVE, head, &[1.0], window);

    let of_head = |index: usize, width: usize| &run.present[index][head * window * width..][..window * width];
    let scores = &mut scratch.weights[..window];
    parameters::matvec(simd, Cells::F32(of_head(KEYS, size)), &scratch.q, scores, Ahead::NOTHING);
    let scale = 1.0 / (size as f32).sqrt();
    for (score, &live) in scores.iter_mut().zip(of_head(LIVE, 1)) {
        *score = if live > 0.0 { *score * scale } else { f32::NEG_INFINITY };
    }
    ops::softmax(simd, &mut scratch.weights, window);
    let y = &mut run.y[part];
    y.fill(0.0);
    for (weight, v) in scratch.weights.iter().zip(of_head(VALUES, size).chunks_exact(size)) {
        if *weight != 0.0 {
            ops::add_scaled(simd, *weight, v, y);
        }
    }
}

/// A head's part of state tensor `index`, `[W, width]`, moves up by a row, and `row` is its last: out of the past, or in
/// place without one.
#[inline(always)]
fn push(
    past: Option<&[&[f32]]>,
    present: &mut [&mut [f32]],
    index: usize,
    head: usize,
    row: &[f32],
    window: usize,
) {
    let len = window * row.len();
    let part = head * len..(head + 1) * len;
    let present = &mut present[index][part.clone()];
    match past {
        Some(past) => present[..len - row.len()].copy_from_slice(&past[index][part][row.len()..]),
        None => present.copy_within(row.len().., 0),
    }
    present[len - row.len()..].copy_from_slice(row);
}
