//! The write: one token's step on the online memory, and its key into the online context.

use std::mem;

use super::ops::{self, Step, Update};
use super::parameters::{Parameters, Tensor};
use super::plan::{Error, Plan, Scratch, Weights};
use super::simd::Simd;
use super::{Run, math, matvec};

/// Writes the token's k and v: from past to present for the first token of a run, in present for the others.
#[inline(always)]
pub(super) fn write<S: Simd>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    run: &mut Run<'_, '_>,
    head: usize,
    token: usize,
) {
    let value = &run.v[plan.part(head, token)];
    let step = plan.step(run, head, token);
    ops::map(plan.feature_map, &scratch.k, &mut scratch.inputs[0]);
    let loss = (!run.loss.is_empty()).then(|| &mut run.loss[token * plan.heads + head]);
    if token == 0 {
        let before = Parameters::only(run.past, head);
        observe(simd, plan, scratch, before, value, step.retention, loss);
    } else {
        let before = Parameters::only(run.present, head);
        observe(simd, plan, scratch, before, value, step.retention, loss);
    }
    let past = (token == 0).then_some(run.past);
    step_layers(simd, plan, step, scratch, past, run.present, head);
    if let Some(index) = plan.previous {
        let beta = plan.coefficient(run, 1, head, token);
        add_previous(simd, plan, beta, past, run.present, index, head);
        let part = head * plan.head_size..(head + 1) * plan.head_size;
        run.present[index][part.clone()].copy_from_slice(&scratch.k);
        run.present[index + 1][part].copy_from_slice(value);
    }
    if let Some(normalizer) = plan.normalizer {
        add(simd, plan, run, normalizer.state, head, token, &scratch.inputs[0]);
    }
    add_to_context(simd, plan, scratch, run, head, token);
}

/// context ← context + k, when reads are gated.
#[inline(always)]
pub(super) fn add_to_context<S: Simd>(
    simd: S,
    plan: &Plan,
    scratch: &Scratch,
    run: &mut Run<'_, '_>,
    head: usize,
    token: usize,
) {
    if let Weights::Gates(scoring) = plan.weights {
        add(simd, plan, run, scoring.context, head, token, &scratch.k);
    }
}

/// Adds x `[dh]` to a head's part of state tensor `index`, `[H, dh]`.
#[inline(always)]
fn add<S: Simd>(
    simd: S,
    plan: &Plan,
    run: &mut Run<'_, '_>,
    index: usize,
    head: usize,
    token: usize,
    x: &[f32],
) {
    let part = head * plan.head_size..(head + 1) * plan.head_size;
    let present = &mut run.present[index][part.clone()];
    if token == 0 {
        present.copy_from_slice(&run.past[index][part]);
    }
    ops::add_scaled(simd, 1.0, x, present);
}

/// M ← M + β v₋₁k₋₁ᵀ: SWLA's other half, with the previous token's k at state tensor `index` and v behind it.
#[inline(always)]
fn add_previous<S: Simd>(
    simd: S,
    plan: &Plan,
    beta: f32,
    past: Option<&[&[f32]]>,
    present: &mut [&mut [f32]],
    index: usize,
    head: usize,
) {
    let (size, matrix) = (plan.head_size, plan.layers[0].weights());
    let part = head * size..(head + 1) * size;
    let (m, previous) = present.split_at_mut(index);
    let (k, v) = match past {
        Some(past) => (&past[index][part.clone()], &past[index + 1][part]),
        None => (&previous[0][part.clone()], &previous[1][part]),
    };
    let step = Step { retention: 1.0, momentum: 0.0, rate: beta, sign: 1.0 };
    let w = &mut m[plan.layers[0].weight][head * matrix..(head + 1) * matrix];
    ops::step(simd, step, v, k, Update { w_past: None, w, s_past: None, s: None }, None);
}

/// What the memory before the token makes of φ(k) = `inputs[0]`: the loss, where wanted; what the write steps along, into
/// the first `dh` of `error`; and all layers' inputs and slopes.
#[inline(always)]
fn observe<S: Simd, T: Tensor>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    before: Parameters<'_, T>,
    value: &[f32],
    retention: f32,
    loss: Option<&mut f32>,
) {
    before.hidden::<S, true>(simd, plan, scratch);
    if loss.is_some() || matches!(plan.error, Error::L2 | Error::Delta) {
        answer(simd, plan, scratch, &before);
    }
    if let Some(loss) = loss {
        *loss = loss_of(simd, plan, scratch, &before, value);
    }
    let error = scratch.error[..plan.head_size].iter_mut().zip(value);
    match plan.error {
        Error::Value => error.for_each(|(error, v)| *error = *v),
        Error::Dot => error.for_each(|(error, v)| *error = -v),
        Error::L2 => error.for_each(|(error, v)| *error = 2.0 * (*error - v)),
        Error::Delta => error.for_each(|(error, v)| *error = v - retention * *error),
    }
}

/// M(k), but for a normaliser, into the first `dh` of `error`; the layers' inputs are there.
#[inline(always)]
fn answer<S: Simd, T: Tensor>(simd: S, plan: &Plan, scratch: &mut Scratch, before: &Parameters<'_, T>) {
    let answer = &mut scratch.error[..plan.head_size];
    let last = plan.layers.len() - 1;
    before.apply(simd, &plan.layers[last], &scratch.inputs[last], answer);
    if plan.skip {
        ops::add_scaled(simd, 1.0, &scratch.k, answer);
    }
}

/// ‖M(k) − v‖², or −⟨M(k), v⟩ where that is the memory's objective, from the [`answer`].
#[inline(always)]
fn loss_of<S: Simd, T: Tensor>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    before: &Parameters<'_, T>,
    value: &[f32],
) -> f32 {
    let answer = &scratch.error[..plan.head_size];
    if matches!(plan.error, Error::Dot) {
        return -matvec::dot(simd, answer, value);
    }
    let scale = plan.normalizer.map_or(1.0, |normalizer| {
        let product = before.normalizer(simd, plan, normalizer.state, &scratch.inputs[0]);
        1.0 / math::at_least(product, 1e-6)
    });
    let difference = &mut scratch.error_back[..plan.head_size];
    for ((difference, answer), v) in difference.iter_mut().zip(answer).zip(value) {
        *difference = answer * scale - v;
    }
    matvec::dot(simd, difference, difference)
}

/// Steps every layer from the last to the first, each pass over a layer taking the error back through it too.
#[inline(always)]
fn step_layers<S: Simd>(
    simd: S,
    plan: &Plan,
    step: Step,
    scratch: &mut Scratch,
    past: Option<&[&[f32]]>,
    present: &mut [&mut [f32]],
    head: usize,
) {
    let Scratch { inputs, slopes, error, error_back, .. } = scratch;
    for (j, layer) in plan.layers.iter().enumerate().rev() {
        let back = &mut error_back[..layer.cols];
        back.fill(0.0);
        let weight = update(plan, past, present, layer.weight, head, layer.weights());
        let left = &error[..layer.rows];
        ops::step(simd, step, left, &inputs[j], weight, (j > 0).then_some(&mut *back));
        if let Some(bias) = layer.bias {
            let bias = update(plan, past, present, bias, head, layer.rows);
            ops::step(simd, step, &[1.0], left, bias, None);
        }
        if j > 0 {
            for (back, slope) in back.iter_mut().zip(&slopes[j]) {
                *back *= slope;
            }
            mem::swap(error, error_back);
        }
    }
}

/// A head's part of parameter tensor `index` and of its momentum, `len` elements each.
#[inline(always)]
fn update<'s>(
    plan: &Plan,
    past: Option<&[&'s [f32]]>,
    present: &'s mut [&mut [f32]],
    index: usize,
    head: usize,
    len: usize,
) -> Update<'s> {
    let part = head * len..(head + 1) * len;
    let (parameters, momentum) = present.split_at_mut(plan.parameters);
    let (mut w_past, mut s_past, mut s) = (None, None, None);
    if let Some(past) = past {
        w_past = Some(&past[index][part.clone()]);
    }
    if plan.has_momentum {
        if let Some(past) = past {
            s_past = Some(&past[plan.parameters + index][part.clone()]);
        }
        s = Some(&mut momentum[index][part.clone()]);
    }
    Update { w_past, w: &mut parameters[index][part], s_past, s }
}
