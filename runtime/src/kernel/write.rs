//! The write: one token's step on the online memory, and its key into the online context.

use std::mem;

use super::Run;
use super::ops::{self, Update};
use super::parameters::{Parameters, Tensor};
use super::plan::{Error, Plan, Scratch, Weights};
use super::simd::Simd;

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
    scratch.inputs[0].copy_from_slice(&scratch.k);
    if token == 0 {
        let before = Parameters { tensors: run.past, index: head };
        output_error(simd, plan, scratch, before, value);
    } else {
        let before = Parameters { tensors: run.present, index: head };
        output_error(simd, plan, scratch, before, value);
    }
    let past = (token == 0).then_some(run.past);
    step_layers(simd, plan, scratch, past, run.present, head);
    if let Weights::Gates(scoring) = plan.weights {
        let part = head * plan.head_size..(head + 1) * plan.head_size;
        let present = &mut run.present[scoring.context][part.clone()];
        if token == 0 {
            present.copy_from_slice(&run.past[scoring.context][part]);
        }
        ops::add_scaled(simd, 1.0, &scratch.k, present);
    }
}

/// The loss's gradient by the memory's output, and with it all layers' inputs and slopes, for `inputs[0]` = k.
#[inline(always)]
fn output_error<S: Simd, T: Tensor>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    before: Parameters<'_, T>,
    value: &[f32],
) {
    before.hidden::<S, true>(simd, plan, scratch);
    let error = &mut scratch.error[..plan.head_size];
    match plan.error {
        Error::Value => error.copy_from_slice(value),
        Error::Dot => {
            for (error, v) in error.iter_mut().zip(value) {
                *error = -v;
            }
        }
        Error::L2 => {
            let last = plan.layers.len() - 1;
            before.apply(simd, &plan.layers[last], &scratch.inputs[last], error);
            if plan.skip {
                ops::add_scaled(simd, 1.0, &scratch.k, error);
            }
            for (error, v) in error.iter_mut().zip(value) {
                *error = 2.0 * (*error - v);
            }
        }
    }
}

/// Steps every layer from the last to the first, each pass over a layer taking the error back through it too.
#[inline(always)]
fn step_layers<S: Simd>(
    simd: S,
    plan: &Plan,
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
        ops::step(simd, plan.step, left, &inputs[j], weight, (j > 0).then_some(&mut *back));
        if let Some(bias) = layer.bias {
            let bias = update(plan, past, present, bias, head, layer.rows);
            ops::step(simd, plan.step, &[1.0], left, bias, None);
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
