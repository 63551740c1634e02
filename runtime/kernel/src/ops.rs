//! Loops over vectors whose lengths need not be whole vectors of the CPU.

use std::ops::Add;

use mcedge_models::spec::FeatureMap;

use super::math;
use super::matvec::{Cell, padded};
use super::simd::{LANES, Simd, Task, WIDE};

/// y += a x for x, y of one length.
#[inline(always)]
pub(super) fn add_scaled<S: Simd, A: Cell>(simd: S, a: f32, x: &[A], y: &mut [f32]) {
    let lanes = simd.splat(a);
    let (x_full, x_tail) = x[..y.len()].as_chunks::<LANES>();
    let (y_full, y_tail) = y.as_chunks_mut::<LANES>();
    for (x, y) in x_full.iter().zip(y_full) {
        simd.store(simd.mul_add(lanes, A::load(simd, x), simd.load(y)), y);
    }
    if !y_tail.is_empty() {
        let mut product = [0.0; LANES];
        simd.store(simd.mul(lanes, A::load(simd, &padded(x_tail))), &mut product);
        for (y, product) in y_tail.iter_mut().zip(product) {
            *y += product;
        }
    }
}

/// y = φ(x).
#[inline(always)]
pub(super) fn map(map: FeatureMap, x: &[f32], y: &mut [f32]) {
    match map {
        FeatureMap::Identity => y.copy_from_slice(x),
        FeatureMap::Relu => y.iter_mut().zip(x).for_each(|(y, x)| *y = math::at_least(*x, 0.0)),
        FeatureMap::Elu1 => y.iter_mut().zip(x).for_each(|(y, x)| *y = math::elu_plus_one(*x)),
    }
}

/// Σ x.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    let (full, tail) = x.as_chunks::<LANES>();
    let mut sums = padded(tail);
    for x in full {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum += x;
        }
    }
    sums.iter().sum()
}

/// y = a x for x, y of one length.
#[inline(always)]
pub(super) fn scaled<S: Simd>(simd: S, a: f32, x: &[f32], y: &mut [f32]) {
    let lanes = simd.splat(a);
    let (x_full, x_tail) = x[..y.len()].as_chunks::<LANES>();
    let (y_full, y_tail) = y.as_chunks_mut::<LANES>();
    for (x, y) in x_full.iter().zip(y_full) {
        simd.store(simd.mul(lanes, simd.load(x)), y);
    }
    for (x, y) in x_tail.iter().zip(y_tail) {
        *y = a * x;
    }
}

/// Scores into gates, for the first `count` of x: x ← exp(x) / Σ exp(x). A score of −∞, or far enough below the largest,
/// has gate 0 exactly; one NaN makes all of them NaN. What x holds after them, to a whole wide vector, is lost.
#[inline(always)]
pub(super) fn softmax<S: Simd>(simd: S, x: &mut [f32], count: usize) {
    let x = &mut x[..count.next_multiple_of(WIDE)];
    x[count..].fill(f32::NEG_INFINITY);
    simd.apart(Softmax(x.as_chunks_mut().0));
}

struct Softmax<'a>(&'a mut [[f32; WIDE]]);

/// Loops over arrays, which become vector code with nothing left over.
impl Task for Softmax<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let largest = max(self.0);
        let mut sums = [0.0; WIDE];
        for x in self.0.iter_mut() {
            for (x, sum) in x.iter_mut().zip(&mut sums) {
                *x = math::exp_of_negative(*x - largest);
                *sum += *x;
            }
        }
        let scale = 1.0 / fold(sums, Add::add);
        for x in self.0.as_flattened_mut() {
            *x *= scale;
        }
    }
}

/// The largest of x, NaN aside; −∞ when there is none.
#[inline(always)]
fn max(x: &[[f32; WIDE]]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut largest = [f32::NEG_INFINITY; WIDE];
    for x in x {
        for (largest, &x) in largest.iter_mut().zip(x) {
            *largest = larger(*largest, x);
        }
    }
    fold(largest, larger)
}

/// All lanes as one, half by half.
#[inline(always)]
fn fold(lanes: [f32; WIDE], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = lanes;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}

/// x ← GELU(x), and its slopes where there is room for them.
#[inline(always)]
pub(super) fn gelu<S: Simd>(simd: S, x: &mut [f32], slopes: Option<&mut [f32]>) {
    simd.apart(Gelu { x, slopes });
}

struct Gelu<'a> {
    x: &'a mut [f32],
    slopes: Option<&'a mut [f32]>,
}

impl Task for Gelu<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Some(slopes) = self.slopes else {
            for x in self.x {
                *x = math::gelu(*x);
            }
            return;
        };
        for (x, slope) in self.x.iter_mut().zip(slopes) {
            (*x, *slope) = math::gelu_with_slope(*x);
        }
    }
}

/// One step of the write, for parameters w, their momentum s and gradient g: s ← μ s + rate · g, w ← α w + sign · s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// α.
    pub(super) retention: f32,
    /// μ; without momentum, s is rate · g alone.
    pub(super) momentum: f32,
    /// η, or −θ.
    pub(super) rate: f32,
    /// Of s in w.
    pub(super) sign: f32,
}

/// The parameters that a step changes, `[rows, cols]` each.
pub(super) struct Update<'a> {
    /// Where w comes from; `None` is from `w` itself.
    pub(super) w_past: Option<&'a [f32]>,
    pub(super) w: &'a mut [f32],
    /// As `w_past`, for `s`.
    pub(super) s_past: Option<&'a [f32]>,
    /// Absent without momentum.
    pub(super) s: Option<&'a mut [f32]>,
}

/// A step with the gradient `left rightᵀ` on a matrix `[rows, cols]`, for left `[rows]`, right `[cols]`; to `back`,
/// `[cols]`, it adds Wᵀ left with W as it was before. Each parameter is read once and written once.
#[inline(always)]
pub(super) fn step<S: Simd>(
    simd: S,
    step: Step,
    left: &[f32],
    right: &[f32],
    update: Update<'_>,
    back: Option<&mut [f32]>,
) {
    simd.apart(StepMatrix { step, left, right, update, back });
}

struct StepMatrix<'a> {
    step: Step,
    left: &'a [f32],
    right: &'a [f32],
    update: Update<'a>,
    back: Option<&'a mut [f32]>,
}

impl Task for StepMatrix<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match (self.update.w_past.is_some(), self.update.s.is_some()) {
            (false, false) => self.rows::<S, false, false>(simd),
            (false, true) => self.rows::<S, false, true>(simd),
            (true, false) => self.rows::<S, true, false>(simd),
            (true, true) => self.rows::<S, true, true>(simd),
        }
    }
}

impl StepMatrix<'_> {
    #[inline(always)]
    fn rows<S: Simd, const PAST: bool, const MOMENTUM: bool>(self, simd: S) {
        let Self { step, left, right, update, back } = self;
        match right.len() {
            // Of the usual lengths the compiler makes loops without a counter.
            32 => step_rows::<S, PAST, MOMENTUM>(simd, step, left, &right[..32], update, back),
            64 => step_rows::<S, PAST, MOMENTUM>(simd, step, left, &right[..64], update, back),
            _ => step_rows::<S, PAST, MOMENTUM>(simd, step, left, right, update, back),
        }
    }
}

/// `PAST`: from the pasts, not in place. `MOMENTUM`: there is an s.
#[inline(always)]
fn step_rows<S: Simd, const PAST: bool, const MOMENTUM: bool>(
    simd: S,
    step: Step,
    left: &[f32],
    right: &[f32],
    update: Update<'_>,
    mut back: Option<&mut [f32]>,
) {
    let cols = right.len();
    let Update { w_past, w, s_past, s } = update;
    let (w_past, s_past, s) = (w_past.unwrap_or_default(), s_past.unwrap_or_default(), s.unwrap_or_default());
    for (i, &left) in left.iter().enumerate() {
        let row = i * cols..(i + 1) * cols;
        let row_if = |is_there: bool| if is_there { row.clone() } else { 0..0 };
        let (w_past, w) = (&w_past[row_if(PAST)], &mut w[row.clone()]);
        let (s_past, s) = (&s_past[row_if(PAST && MOMENTUM)], &mut s[row_if(MOMENTUM)]);
        if let Some(back) = &mut back {
            add_scaled(simd, left, if PAST { w_past } else { w }, back);
        }
        step_row::<S, PAST, MOMENTUM>(simd, step, left, right, w_past, w, s_past, s);
    }
}

/// One row, `[cols]` each: s ← μ s + (rate · left) right, w ← α w + sign · s.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a row of each of the tensors of a step")]
fn step_row<S: Simd, const PAST: bool, const MOMENTUM: bool>(
    simd: S,
    step: Step,
    left: f32,
    right: &[f32],
    w_past: &[f32],
    w: &mut [f32],
    s_past: &[f32],
    s: &mut [f32],
) {
    let rate = step.rate * left;
    let tail = right.len() / LANES * LANES;
    if S::IS_WIDE && right.len().is_multiple_of(WIDE) {
        wide_step_lanes::<S, PAST, MOMENTUM>(simd, step, rate, right, w_past, w, s_past, s);
    } else {
        step_lanes::<S, PAST, MOMENTUM>(simd, step, rate, right, w_past, w, s_past, s);
    }
    for i in tail..right.len() {
        let mut change = rate * right[i];
        if MOMENTUM {
            change += step.momentum * if PAST { s_past[i] } else { s[i] };
            s[i] = change;
        }
        w[i] = step.sign * change + step.retention * if PAST { w_past[i] } else { w[i] };
    }
}

/// Defines the loop of [`step_row`] over whole vectors of a width.
macro_rules! step_lanes {
    ($name:ident, $lanes:ident, $splat:ident, $load:ident, $store:ident, $mul:ident, $mul_add:ident) => {
        #[inline(always)]
        #[expect(clippy::too_many_arguments, reason = "a row of each of the tensors of a step")]
        fn $name<S: Simd, const PAST: bool, const MOMENTUM: bool>(
            simd: S,
            step: Step,
            rate: f32,
            right: &[f32],
            w_past: &[f32],
            w: &mut [f32],
            s_past: &[f32],
            s: &mut [f32],
        ) {
            let right = right.as_chunks::<$lanes>().0;
            let vectors = right.len();
            let w_past = if PAST { &w_past.as_chunks::<$lanes>().0[..vectors] } else { &[] };
            let s_past = if PAST && MOMENTUM { &s_past.as_chunks::<$lanes>().0[..vectors] } else { &[] };
            let w = &mut w.as_chunks_mut::<$lanes>().0[..vectors];
            let s = if MOMENTUM { &mut s.as_chunks_mut::<$lanes>().0[..vectors] } else { &mut [] };
            let (retention, momentum) = (simd.$splat(step.retention), simd.$splat(step.momentum));
            let (rates, signs) = (simd.$splat(rate), simd.$splat(step.sign));
            for i in 0..vectors {
                let mut change = simd.$mul(rates, simd.$load(&right[i]));
                if MOMENTUM {
                    let old = simd.$load(if PAST { &s_past[i] } else { &s[i] });
                    change = simd.$mul_add(momentum, old, change);
                    simd.$store(change, &mut s[i]);
                }
                let old = simd.$load(if PAST { &w_past[i] } else { &w[i] });
                simd.$store(simd.$mul_add(signs, change, simd.$mul(retention, old)), &mut w[i]);
            }
        }
    };
}

step_lanes!(step_lanes, LANES, splat, load, store, mul, mul_add);
step_lanes!(wide_step_lanes, WIDE, wide_splat, wide_load, wide_store, wide_mul, wide_mul_add);
