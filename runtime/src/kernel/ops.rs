//! Loops over vectors and row-major matrices whose lengths need not be whole vectors.

use std::array;

use half::f16;

use super::math;
use super::simd::{LANES, Simd};

/// A vector's worth of f32 in memory.
pub(super) type Lanes = [f32; LANES];

/// An element that is read as f32.
pub(super) trait Cell: Copy {
    const ZERO: Self;

    fn load<S: Simd>(simd: S, cells: &[Self; LANES]) -> S::V;
}

impl Cell for f32 {
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn load<S: Simd>(simd: S, cells: &[f32; LANES]) -> S::V {
        simd.load(cells)
    }
}

impl Cell for f16 {
    const ZERO: f16 = f16::ZERO;

    #[inline(always)]
    fn load<S: Simd>(simd: S, cells: &[f16; LANES]) -> S::V {
        simd.load_f16(cells)
    }
}

/// The cells, fewer than a vector, with zeros after them.
#[inline(always)]
fn padded<A: Cell>(cells: &[A]) -> [A; LANES] {
    let mut padded = [A::ZERO; LANES];
    padded[..cells.len()].copy_from_slice(cells);
    padded
}

/// `sums[r]` += the products of row r and x, lane by lane; `rows` is `[R, cols]`, `x` is `[cols]`.
///
/// R chains of additions run side by side, and each vector of x is loaded once for R rows.
#[inline(always)]
fn add_products<S: Simd, A: Cell, const R: usize>(simd: S, rows: &[A], x: &[f32], sums: &mut [S::V; R]) {
    let cols = x.len();
    let (x_full, x_tail) = x.as_chunks::<LANES>();
    let rows: [&[A]; R] = array::from_fn(|r| &rows[r * cols..][..cols]);
    let full: [&[[A; LANES]]; R] = array::from_fn(|r| &rows[r].as_chunks::<LANES>().0[..x_full.len()]);
    for (i, x) in x_full.iter().enumerate() {
        let x = simd.load(x);
        for (sum, row) in sums.iter_mut().zip(full) {
            *sum = simd.mul_add(A::load(simd, &row[i]), x, *sum);
        }
    }
    if !x_tail.is_empty() {
        let x = simd.load(&padded(x_tail));
        for (sum, row) in sums.iter_mut().zip(rows) {
            let tail = padded(&row[cols - x_tail.len()..]);
            *sum = simd.mul_add(A::load(simd, &tail), x, *sum);
        }
    }
}

/// y = W x for W `[rows, cols]`, x `[cols]`, y `[rows]`.
#[inline(always)]
pub(super) fn matvec<S: Simd, A: Cell>(simd: S, w: &[A], x: &[f32], y: &mut [f32]) {
    let cols = x.len();
    let (w_blocks, w_rest) = w[..y.len() * cols].split_at(y.len() / LANES * LANES * cols);
    let (y_blocks, y_rest) = y.as_chunks_mut::<LANES>();
    for (rows, y) in w_blocks.chunks_exact(LANES * cols).zip(y_blocks) {
        let mut sums = [simd.splat(0.0); LANES];
        add_products(simd, rows, x, &mut sums);
        simd.store(simd.sum_each(sums), y);
    }
    for (row, y) in w_rest.chunks_exact(cols).zip(y_rest) {
        *y = dot(simd, row, x);
    }
}

/// ⟨a, x⟩.
#[inline(always)]
pub(super) fn dot<S: Simd, A: Cell>(simd: S, a: &[A], x: &[f32]) -> f32 {
    let mut sums = [simd.splat(0.0)];
    add_products(simd, a, x, &mut sums);
    simd.sum(sums[0])
}

/// Adds W x to the sum of each row's lanes, for W `[rows, cols]`, x `[cols]`, `sums` `[rows]`: what many products
/// add up in, so that lanes are summed once at the end and not once a matrix.
#[inline(always)]
pub(super) fn add_matvec<S: Simd, A: Cell>(simd: S, w: &[A], x: &[f32], sums: &mut [Lanes]) {
    const ROWS: usize = 4;
    let cols = x.len();
    let (w_blocks, w_rest) = w[..sums.len() * cols].split_at(sums.len() / ROWS * ROWS * cols);
    let (blocks, rest) = sums.as_chunks_mut::<ROWS>();
    for (rows, block) in w_blocks.chunks_exact(ROWS * cols).zip(blocks) {
        add_rows::<S, A, ROWS>(simd, rows, x, block);
    }
    for (row, sum) in w_rest.chunks_exact(cols).zip(rest) {
        add_rows::<S, A, 1>(simd, row, x, array::from_mut(sum));
    }
}

#[inline(always)]
fn add_rows<S: Simd, A: Cell, const R: usize>(simd: S, rows: &[A], x: &[f32], memory: &mut [Lanes; R]) {
    let mut sums = [simd.splat(0.0); R];
    for (sum, lanes) in sums.iter_mut().zip(memory.iter()) {
        *sum = simd.load(lanes);
    }
    add_products(simd, rows, x, &mut sums);
    for (sum, lanes) in sums.iter().zip(memory) {
        simd.store(*sum, lanes);
    }
}

/// `y[r]` += the sum of `sums[r]`'s lanes; both are `[rows]`.
#[inline(always)]
pub(super) fn add_lane_sums<S: Simd>(simd: S, sums: &[Lanes], y: &mut [f32]) {
    for (sum, y) in sums.iter().zip(y) {
        *y += simd.sum(simd.load(sum));
    }
}

/// y += a x for x, y of one length.
#[inline(always)]
pub(super) fn add_scaled<S: Simd, A: Cell>(simd: S, a: f32, x: &[A], y: &mut [f32]) {
    let a = simd.splat(a);
    let (x_full, x_tail) = x[..y.len()].as_chunks::<LANES>();
    let (y_full, y_tail) = y.as_chunks_mut::<LANES>();
    for (x, y) in x_full.iter().zip(y_full) {
        simd.store(simd.mul_add(a, A::load(simd, x), simd.load(y)), y);
    }
    if !y_tail.is_empty() {
        let mut y = padded(y_tail);
        simd.store(simd.mul_add(a, A::load(simd, &padded(x_tail)), simd.load(&y)), &mut y);
        y_tail.copy_from_slice(&y[..y_tail.len()]);
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

/// The largest of x, NaN aside; −∞ when there is none.
#[inline(always)]
fn max(x: &[f32]) -> f32 {
    let (full, tail) = x.as_chunks::<LANES>();
    let mut largest = [f32::NEG_INFINITY; LANES];
    for x in full {
        for (largest, &x) in largest.iter_mut().zip(x) {
            *largest = if x > *largest { x } else { *largest };
        }
    }
    tail.iter().chain(&largest).fold(f32::NEG_INFINITY, |a, &b| a.max(b))
}

/// Scores into gates: x ← exp(x) / Σ exp(x). A score of −∞, or far enough below the largest, has gate 0 exactly;
/// one NaN makes all of them NaN.
#[inline(always)]
pub(super) fn softmax(x: &mut [f32]) {
    let largest = max(x);
    for x in x.iter_mut() {
        *x = math::exp_of_negative(*x - largest);
    }
    let scale = 1.0 / sum(x);
    for x in x.iter_mut() {
        *x *= scale;
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

/// What one step changes: a matrix `[rows, cols]`, a row of it, or vectors of a row.
pub(super) struct Update<'a, T> {
    /// Where w comes from; `None` is from `w` itself.
    pub(super) w_past: Option<&'a [T]>,
    pub(super) w: &'a mut [T],
    /// As `w_past`, for `s`.
    pub(super) s_past: Option<&'a [T]>,
    /// Absent without momentum.
    pub(super) s: Option<&'a mut [T]>,
}

/// A step with the gradient `left rightᵀ` on a matrix `[rows, cols]`, for left `[rows]`, right `[cols]`; to `back`,
/// `[cols]`, it adds Wᵀ left with W as it was before. Each parameter is read once and written once.
#[inline(always)]
pub(super) fn step<S: Simd>(
    simd: S,
    step: Step,
    left: &[f32],
    right: &[f32],
    parameters: Update<'_, f32>,
    mut back: Option<&mut [f32]>,
) {
    let Update { w_past, w, s_past, mut s } = parameters;
    let cols = right.len();
    for (i, &left) in left.iter().enumerate() {
        let row = i * cols..(i + 1) * cols;
        let row = Update {
            w_past: w_past.map(|w| &w[row.clone()]),
            w: &mut w[row.clone()],
            s_past: s_past.map(|s| &s[row.clone()]),
            s: s.as_deref_mut().map(|s| &mut s[row]),
        };
        step_row(simd, step, left, right, row, back.as_deref_mut());
    }
}

#[inline(always)]
fn step_row<S: Simd>(
    simd: S,
    step: Step,
    left: f32,
    right: &[f32],
    row: Update<'_, f32>,
    back: Option<&mut [f32]>,
) {
    let (right, right_tail) = right.as_chunks::<LANES>();
    let (w_past, w_past_tail) = row.w_past.map(|w| w.as_chunks::<LANES>()).unzip();
    let (w, w_tail) = row.w.as_chunks_mut::<LANES>();
    let (s_past, s_past_tail) = row.s_past.map(|s| s.as_chunks::<LANES>()).unzip();
    let (s, s_tail) = row.s.map(|s| s.as_chunks_mut::<LANES>()).unzip();
    let (back, back_tail) = back.map(|back| back.as_chunks_mut::<LANES>()).unzip();
    step_lanes(simd, step, left, right, Update { w_past, w, s_past, s }, back);
    if right_tail.is_empty() {
        return;
    }

    // The tail goes through vectors of its own, padded with zeros. What is only written is not read: it may never
    // have been written before.
    let right = [padded(right_tail)];
    let (w_past, s_past) = (w_past_tail.map(|w| [padded(w)]), s_past_tail.map(|s| [padded(s)]));
    let mut w = [if w_past.is_some() { [0.0; LANES] } else { padded(w_tail) }];
    let mut s = s_tail.as_deref().map(|s| [if s_past.is_some() { [0.0; LANES] } else { padded(s) }]);
    let mut back = back_tail.as_deref().map(|back| [padded(back)]);
    let lanes = Update {
        w_past: w_past.as_ref().map(|w| w.as_slice()),
        w: &mut w,
        s_past: s_past.as_ref().map(|s| s.as_slice()),
        s: s.as_mut().map(|s| s.as_mut_slice()),
    };
    step_lanes(simd, step, left, &right, lanes, back.as_mut().map(|back| back.as_mut_slice()));
    let tail = w_tail.len();
    w_tail.copy_from_slice(&w[0][..tail]);
    if let (Some(s_tail), Some(s)) = (s_tail, s) {
        s_tail.copy_from_slice(&s[0][..tail]);
    }
    if let (Some(back_tail), Some(back)) = (back_tail, back) {
        back_tail.copy_from_slice(&back[0][..tail]);
    }
}

#[inline(always)]
fn step_lanes<S: Simd>(
    simd: S,
    step: Step,
    left: f32,
    right: &[Lanes],
    row: Update<'_, Lanes>,
    mut back: Option<&mut [Lanes]>,
) {
    let Update { w_past, w, s_past, mut s } = row;
    let (retention, momentum) = (simd.splat(step.retention), simd.splat(step.momentum));
    let (rate, sign) = (simd.splat(step.rate * left), simd.splat(step.sign));
    let left = simd.splat(left);
    for (i, right) in right.iter().enumerate() {
        let old = simd.load(&w_past.unwrap_or(w)[i]);
        if let Some(back) = &mut back {
            simd.store(simd.mul_add(left, old, simd.load(&back[i])), &mut back[i]);
        }
        let mut change = simd.mul(rate, simd.load(right));
        if let Some(s) = &mut s {
            let old = simd.load(&s_past.unwrap_or(s)[i]);
            change = simd.mul_add(momentum, old, change);
            simd.store(change, &mut s[i]);
        }
        simd.store(simd.mul_add(sign, change, simd.mul(retention, old)), &mut w[i]);
    }
}
