//! GRU and LSTM: the step of all heads at once, and the read whose gates have a channel each.

use super::ahead::Ahead;
use super::parameters;
use super::plan::{Kind, Plan, Scratch};
use super::read::gates_of;
use super::simd::Simd;
use super::{Cells, Run, math, ops, write};

/// The state tensors in their order, `[D]` each: h; c, of an LSTM.
const H: usize = 0;
const C: usize = 1;

/// The token of all heads when `head` is the first, and the head's key into its context.
#[inline(always)]
pub(super) fn write<S: Simd>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    run: &mut Run<'_, '_>,
    head: usize,
    token: usize,
) {
    if head == 0 {
        step(simd, plan, scratch, run, token);
    }
    write::add_to_context(simd, plan, scratch, run, head, token);
}

/// One token of PyTorch's GRU or LSTM: h, c and the gates' parts that are h's.
#[inline(always)]
fn step<S: Simd>(simd: S, plan: &Plan, scratch: &mut Scratch, run: &mut Run<'_, '_>, token: usize) {
    let from_h = &mut *scratch.gates;
    let past = (token == 0).then_some(run.past);
    let h: &[f32] = past.map_or(&*run.present[H], |past| past[H]);
    parameters::matvec(simd, Cells::F32(run.recurrent_weight), h, from_h, Ahead::NOTHING);
    ops::add_scaled(simd, 1.0, run.recurrent_bias, from_h);
    let from_x = &run.x[token * from_h.len()..][..from_h.len()];
    if let Some(past) = past {
        run.present[H].copy_from_slice(past[H]);
    }
    match plan.kind {
        Kind::Lstm => {
            let [h, c, ..] = &mut *run.present else { unreachable!("an LSTM has h and c") };
            if let Some(past) = past {
                c.copy_from_slice(past[C]);
            }
            lstm(from_x, from_h, h, c);
        }
        _ => gru(from_x, from_h, run.present[H]),
    }
    if plan.sigmoid {
        gate_parts(simd, scratch, run);
    }
}

/// Gates r, z, n: h ← n + z (h − n) with n = tanh(nₓ + r nₕ); all `[D]` of `[3 D]`.
#[inline(always)]
fn gru(from_x: &[f32], from_h: &[f32], h: &mut [f32]) {
    let d = h.len();
    let [r_x, z_x, n_x] = [0, 1, 2].map(|gate| &from_x[gate * d..][..d]);
    let [r_h, z_h, n_h] = [0, 1, 2].map(|gate| &from_h[gate * d..][..d]);
    for (i, h) in h.iter_mut().enumerate() {
        let r = math::sigmoid(r_x[i] + r_h[i]);
        let z = math::sigmoid(z_x[i] + z_h[i]);
        let n = math::tanh(n_x[i] + r * n_h[i]);
        *h = n + z * (*h - n);
    }
}

/// Gates i, f, g, o: c ← f c + i tanh(g), h ← o tanh(c); all `[D]` of `[4 D]`.
#[inline(always)]
fn lstm(from_x: &[f32], from_h: &[f32], h: &mut [f32], c: &mut [f32]) {
    let d = h.len();
    let [i_x, f_x, g_x, o_x] = [0, 1, 2, 3].map(|gate| &from_x[gate * d..][..d]);
    let [i_h, f_h, g_h, o_h] = [0, 1, 2, 3].map(|gate| &from_h[gate * d..][..d]);
    for (n, (h, c)) in h.iter_mut().zip(c).enumerate() {
        let (i, f) = (math::sigmoid(i_x[n] + i_h[n]), math::sigmoid(f_x[n] + f_h[n]));
        *c = f * *c + i * math::tanh(g_x[n] + g_h[n]);
        *h = math::sigmoid(o_x[n] + o_h[n]) * math::tanh(*c);
    }
}

/// W_g [h; h_i] + b_g is the sum of a part of h, into the scratch, and one of h_i, which a checkpoint keeps: the last of
/// the state tensors. Row by row W_g is these parts' W in turn, and both see this h.
#[inline(always)]
fn gate_parts<S: Simd>(simd: S, scratch: &mut Scratch, run: &mut Run<'_, '_>) {
    let (gate, states) = run.present.split_last_mut().expect("`gate` is the last tensor");
    parameters::matvec(simd, Cells::F32(run.gate_weight), states[H], &mut scratch.gate_parts, Ahead::NOTHING);
    let parts = scratch.gate_parts.as_chunks::<2>().0.iter().zip(run.gate_bias);
    for (([of_h, of_h_i], bias), (online, gate)) in parts.zip(scratch.gate.iter_mut().zip(gate.iter_mut())) {
        *online = of_h + bias;
        *gate = *of_h_i;
    }
}

/// y = h + Σ σ(gate + gate_i) ⊙ h_i for one head; the gates' means over the head, where wanted.
#[inline(always)]
pub(super) fn read_sigmoid<S: Simd>(
    simd: S,
    plan: &Plan,
    scratch: &mut Scratch,
    run: &mut Run<'_, '_>,
    head: usize,
    token: usize,
) {
    let (size, live) = (plan.head_size, plan.live(run));
    let of_head = head * size..(head + 1) * size;
    let y = &mut run.y[plan.part(head, token)];
    y.copy_from_slice(&run.present[H][of_head.clone()]);
    let online = &scratch.gate[of_head];
    let [gate, h] = &mut scratch.checkpoint;
    let (cached_h, cached_gate) = (run.cache[0], run.cache[run.cache.len() - 1]);
    let mut gates = (!run.gates.is_empty()).then(|| gates_of(plan, run.gates, head, token));
    if let Some(gates) = &mut gates {
        gates.fill(0.0);
        gates[plan.capacity] = 1.0;
    }
    for slot in 0..live {
        let index = head * plan.capacity + slot;
        widen(simd, cached_gate.block(index, size), gate);
        widen(simd, cached_h.block(index, size), h);
        for (gate, online) in gate.iter_mut().zip(online) {
            *gate = math::sigmoid(*gate + online);
        }
        for ((y, gate), h) in y.iter_mut().zip(&**gate).zip(&**h) {
            *y += gate * h;
        }
        if let Some(gates) = &mut gates {
            gates[slot] = ops::sum(gate) / size as f32;
        }
    }
}

/// The cells as f32.
#[inline(always)]
fn widen<S: Simd>(simd: S, cells: Cells<'_>, y: &mut [f32]) {
    y.fill(0.0);
    parameters::add_scaled(simd, 1.0, cells, y);
}
