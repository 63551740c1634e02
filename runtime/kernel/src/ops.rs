//! Loops over vectors and row-major matrices whose lengths need not be whole vectors.

use half::f16;
use mcedge_models::spec::FeatureMap;

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

impl Cell for i8 {
    const ZERO: i8 = 0;

    #[inline(always)]
    fn load<S: Simd>(simd: S, cells: &[i8; LANES]) -> S::V {
        simd.load_i8(cells)
    }
}

/// The cells, fewer than a vector, with zeros after them. Not inlined, because most sizes do without.
#[inline(never)]
fn padded<A: Cell>(cells: &[A]) -> [A; LANES] {
    let mut padded = [A::ZERO; LANES];
    for (padded, cell) in padded.iter_mut().zip(cells) {
        *padded = *cell;
    }
    padded
}

/// A vector that rows are multiplied by, `[cols]`.
///
/// Where cols is no multiple of a vector, `last` holds what `full` leaves, with zeros around it, for the last
/// [`LANES`] cells of a row: some of these have been multiplied already, and now count for nothing. Only rows
/// shorter than that have to be padded.
struct Multiplier<'a> {
    cols: usize,
    full: &'a [Lanes],
    last: Option<Lanes>,
}

impl<'a> Multiplier<'a> {
    #[inline(always)]
    fn new(x: &'a [f32]) -> Self {
        let (full, tail) = x.as_chunks::<LANES>();
        Self {
            cols: x.len(),
            full,
            last: if tail.is_empty() { None } else { Some(last_lanes(x, tail.len())) },
        }
    }
}

/// `Multiplier::last`; not inlined, as [`padded`].
#[inline(never)]
fn last_lanes(x: &[f32], tail: usize) -> Lanes {
    let Some(last) = x.last_chunk::<LANES>() else { return padded(x) };
    let mut last = *last;
    last[..LANES - tail].fill(0.0);
    last
}

/// `sums[r]` += the products of row r and x, lane by lane; `rows` is `[R, cols]`, `x` is `[cols]`.
///
/// R chains of additions run side by side, and each vector of x is loaded once for R rows.
#[inline(always)]
fn add_products<S: Simd, A: Cell, const R: usize>(
    simd: S,
    rows: &[A],
    x: &Multiplier<'_>,
    sums: &mut [S::V; R],
) {
    let mut full: [&[[A; LANES]]; R] = [&[]; R];
    for (r, full) in full.iter_mut().enumerate() {
        *full = &rows[r * x.cols..][..x.cols].as_chunks::<LANES>().0[..x.full.len()];
    }
    for (i, x) in x.full.iter().enumerate() {
        let x = simd.load(x);
        for (sum, row) in sums.iter_mut().zip(&full) {
            *sum = simd.mul_add(A::load(simd, &row[i]), x, *sum);
        }
    }
    if let Some(last) = &x.last {
        let last = simd.load(last);
        for (r, sum) in sums.iter_mut().enumerate() {
            let row = &rows[r * x.cols..][..x.cols];
            let cells = match row.last_chunk::<LANES>() {
                Some(cells) => A::load(simd, cells),
                None => A::load(simd, &padded(row)),
            };
            *sum = simd.mul_add(cells, last, *sum);
        }
    }
}

/// y = W x for W `[rows, cols]`, x `[cols]`, y `[rows]`.
#[inline(always)]
pub(super) fn matvec<S: Simd, A: Cell>(simd: S, w: &[A], x: &[f32], y: &mut [f32]) {
    let x = Multiplier::new(x);
    let (blocks, rest) = y.as_chunks_mut::<LANES>();
    let mut w = w;
    for y in blocks {
        let (rows, below) = w.split_at(LANES * x.cols);
        let mut sums = [simd.splat(0.0); LANES];
        add_products(simd, rows, &x, &mut sums);
        simd.store(simd.sum_each(sums), y);
        w = below;
    }
    for y in rest {
        let (row, below) = w.split_at(x.cols);
        let mut sums = [simd.splat(0.0)];
        add_products(simd, row, &x, &mut sums);
        *y = simd.sum(sums[0]);
        w = below;
    }
}

/// ⟨a, x⟩.
#[inline(always)]
pub(super) fn dot<S: Simd>(simd: S, a: &[f32], x: &[f32]) -> f32 {
    let mut sums = [simd.splat(0.0)];
    add_products(simd, a, &Multiplier::new(x), &mut sums);
    simd.sum(sums[0])
}

/// Adds W x to the sum of each row's lanes, for W `[rows, cols]`, x `[cols]`, `sums` `[rows]`: what many products
/// add up in, so that lanes are summed once at the end and not once a matrix.
#[inline(always)]
pub(super) fn add_matvec<S: Simd, A: Cell>(simd: S, w: &[A], x: &[f32], sums: &mut [Lanes]) {
    const ROWS: usize = 4;
    let x = Multiplier::new(x);
    let (blocks, rest) = sums.as_chunks_mut::<ROWS>();
    let mut w = w;
    for block in blocks {
        let (rows, below) = w.split_at(ROWS * x.cols);
        add_rows(simd, rows, &x, block);
        w = below;
    }
    for row_sum in rest.as_chunks_mut::<1>().0 {
        let (row, below) = w.split_at(x.cols);
        add_rows(simd, row, &x, row_sum);
        w = below;
    }
}

#[inline(always)]
fn add_rows<S: Simd, A: Cell, const R: usize>(
    simd: S,
    rows: &[A],
    x: &Multiplier<'_>,
    memory: &mut [Lanes; R],
) {
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
    match (update.w_past.is_some(), update.s.is_some()) {
        (false, false) => step_rows::<S, false, false>(simd, step, left, right, update, back),
        (false, true) => step_rows::<S, false, true>(simd, step, left, right, update, back),
        (true, false) => step_rows::<S, true, false>(simd, step, left, right, update, back),
        (true, true) => step_rows::<S, true, true>(simd, step, left, right, update, back),
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
    let right_lanes = right.as_chunks::<LANES>().0;
    let vectors = right_lanes.len();
    let w_past_lanes = if PAST { &w_past.as_chunks::<LANES>().0[..vectors] } else { &[] };
    let s_past_lanes = if PAST && MOMENTUM { &s_past.as_chunks::<LANES>().0[..vectors] } else { &[] };
    let w_lanes = &mut w.as_chunks_mut::<LANES>().0[..vectors];
    let s_lanes = if MOMENTUM { &mut s.as_chunks_mut::<LANES>().0[..vectors] } else { &mut [] };
    let (retention, momentum) = (simd.splat(step.retention), simd.splat(step.momentum));
    let (rates, signs) = (simd.splat(rate), simd.splat(step.sign));
    for i in 0..vectors {
        let mut change = simd.mul(rates, simd.load(&right_lanes[i]));
        if MOMENTUM {
            let old = simd.load(if PAST { &s_past_lanes[i] } else { &s_lanes[i] });
            change = simd.mul_add(momentum, old, change);
            simd.store(change, &mut s_lanes[i]);
        }
        let old = simd.load(if PAST { &w_past_lanes[i] } else { &w_lanes[i] });
        simd.store(simd.mul_add(signs, change, simd.mul(retention, old)), &mut w_lanes[i]);
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
