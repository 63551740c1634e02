//! Row-major matrices times vectors, whose lengths need not be whole vectors of the CPU.

use half::f16;

use super::ahead::Ahead;
use super::simd::{LANES, Simd, WIDE};

/// A vector's worth of f32 in memory.
type Lanes = [f32; LANES];
/// A wide vector's worth.
type WideLanes = [f32; WIDE];

/// What the products of a row add up in, lane by lane: a cache line, for an access that crosses into another takes twice as
/// long.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct RowSum([f32; WIDE]);

impl RowSum {
    pub(super) const ZERO: Self = Self([0.0; WIDE]);
}

/// An element that is read as f32.
pub(super) trait Cell: Copy {
    const ZERO: Self;

    fn load<S: Simd>(simd: S, cells: &[Self; LANES]) -> S::V;

    fn wide_load<S: Simd>(simd: S, cells: &[Self; WIDE]) -> S::W;
}

impl Cell for f32 {
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn load<S: Simd>(simd: S, cells: &[f32; LANES]) -> S::V {
        simd.load(cells)
    }

    #[inline(always)]
    fn wide_load<S: Simd>(simd: S, cells: &[f32; WIDE]) -> S::W {
        simd.wide_load(cells)
    }
}

impl Cell for f16 {
    const ZERO: f16 = f16::ZERO;

    #[inline(always)]
    fn load<S: Simd>(simd: S, cells: &[f16; LANES]) -> S::V {
        simd.load_f16(cells)
    }

    #[inline(always)]
    fn wide_load<S: Simd>(simd: S, cells: &[f16; WIDE]) -> S::W {
        simd.wide_load_f16(cells)
    }
}

impl Cell for i8 {
    const ZERO: i8 = 0;

    #[inline(always)]
    fn load<S: Simd>(simd: S, cells: &[i8; LANES]) -> S::V {
        simd.load_i8(cells)
    }

    #[inline(always)]
    fn wide_load<S: Simd>(simd: S, cells: &[i8; WIDE]) -> S::W {
        simd.wide_load_i8(cells)
    }
}

/// The cells, fewer than a vector, with zeros after them. Not inlined, because most sizes do without.
#[inline(never)]
pub(super) fn padded<A: Cell>(cells: &[A]) -> [A; LANES] {
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

/// What rows are multiplied by, in vectors of some width.
///
/// A trait, and not closures: these cannot be `#[inline(always)]`.
trait Products: Copy {
    /// y = the products of R rows, of which `rows` has one after the other, and x.
    fn products<S: Simd, A: Cell>(self, simd: S, rows: &[A], y: &mut [f32; LANES]);
    /// As `products`, of a row.
    fn product<S: Simd, A: Cell>(self, simd: S, row: &[A]) -> f32;
    /// Adds the products of R rows, lane by lane.
    fn add<S: Simd, A: Cell, const R: usize>(self, simd: S, rows: &[A], sums: &mut [RowSum; R]);
}

impl Products for &Multiplier<'_> {
    #[inline(always)]
    fn products<S: Simd, A: Cell>(self, simd: S, rows: &[A], y: &mut [f32; LANES]) {
        let mut sums = [simd.splat(0.0); LANES];
        add_products(simd, rows, self, &mut sums);
        simd.store(simd.sum_each(sums), y);
    }

    #[inline(always)]
    fn product<S: Simd, A: Cell>(self, simd: S, row: &[A]) -> f32 {
        let mut sums = [simd.splat(0.0)];
        add_products(simd, row, self, &mut sums);
        simd.sum(sums[0])
    }

    /// In the first half of the lanes.
    #[inline(always)]
    fn add<S: Simd, A: Cell, const R: usize>(self, simd: S, rows: &[A], lanes: &mut [RowSum; R]) {
        let mut sums = [simd.splat(0.0); R];
        for (sum, lanes) in sums.iter_mut().zip(lanes.iter()) {
            *sum = simd.load(&lanes.0.as_chunks::<LANES>().0[0]);
        }
        add_products(simd, rows, self, &mut sums);
        for (sum, lanes) in sums.iter().zip(lanes) {
            simd.store(*sum, &mut lanes.0.as_chunks_mut::<LANES>().0[0]);
        }
    }
}

/// A vector that rows are multiplied by, of whole wide vectors.
#[derive(Clone, Copy)]
struct WideMultiplier<'a>(&'a [WideLanes]);

impl WideMultiplier<'_> {
    /// As [`add_products`].
    #[inline(always)]
    fn add_products<S: Simd, A: Cell, const R: usize>(self, simd: S, rows: &[A], sums: &mut [S::W; R]) {
        let (cells, _) = rows.as_chunks::<WIDE>();
        let mut rows: [&[[A; WIDE]]; R] = [&[]; R];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = &cells[r * self.0.len()..][..self.0.len()];
        }
        for (i, x) in self.0.iter().enumerate() {
            let x = simd.wide_load(x);
            for (sum, row) in sums.iter_mut().zip(&rows) {
                *sum = simd.wide_mul_add(A::wide_load(simd, &row[i]), x, *sum);
            }
        }
    }
}

impl Products for WideMultiplier<'_> {
    #[inline(always)]
    fn products<S: Simd, A: Cell>(self, simd: S, rows: &[A], y: &mut [f32; LANES]) {
        let mut sums = [simd.wide_splat(0.0); LANES];
        self.add_products(simd, rows, &mut sums);
        let mut folded = [simd.splat(0.0); LANES];
        for (folded, sum) in folded.iter_mut().zip(sums) {
            *folded = simd.wide_fold(sum);
        }
        simd.store(simd.sum_each(folded), y);
    }

    #[inline(always)]
    fn product<S: Simd, A: Cell>(self, simd: S, row: &[A]) -> f32 {
        let mut sums = [simd.wide_splat(0.0)];
        self.add_products(simd, row, &mut sums);
        simd.sum(simd.wide_fold(sums[0]))
    }

    #[inline(always)]
    fn add<S: Simd, A: Cell, const R: usize>(self, simd: S, rows: &[A], lanes: &mut [RowSum; R]) {
        let mut sums = [simd.wide_splat(0.0); R];
        for (sum, lanes) in sums.iter_mut().zip(lanes.iter()) {
            *sum = simd.wide_load(&lanes.0);
        }
        self.add_products(simd, rows, &mut sums);
        for (sum, lanes) in sums.iter().zip(lanes) {
            simd.wide_store(*sum, &mut lanes.0);
        }
    }
}

/// x in wide vectors, where it is whole ones and loops go by them.
#[inline(always)]
fn as_wide<S: Simd>(x: &[f32]) -> Option<&[WideLanes]> {
    let (wide, tail) = x.as_chunks::<WIDE>();
    (S::IS_WIDE && tail.is_empty()).then_some(wide)
}

/// y = W x for W `[rows, cols]`, x `[cols]`, y `[rows]`; W is somewhere in what `ahead` is over.
#[inline(always)]
pub(super) fn matvec<S: Simd, A: Cell>(simd: S, w: &[A], x: &[f32], y: &mut [f32], ahead: Ahead) {
    match (as_wide::<S>(x), x.len()) {
        // Of the usual lengths the compiler makes loops without a counter.
        (Some(x), 32) => multiply(simd, w, WideMultiplier(&x[..2]), 32, y, ahead),
        (Some(x), 64) => multiply(simd, w, WideMultiplier(&x[..4]), 64, y, ahead),
        (Some(x), cols) => multiply(simd, w, WideMultiplier(x), cols, y, ahead),
        (None, cols) => multiply(simd, w, &Multiplier::new(x), cols, y, ahead),
    }
}

#[inline(always)]
fn multiply<S: Simd, A: Cell>(simd: S, w: &[A], x: impl Products, cols: usize, y: &mut [f32], ahead: Ahead) {
    let (blocks, rest) = y.as_chunks_mut::<LANES>();
    let mut w = w;
    for y in blocks {
        let (rows, below) = w.split_at(LANES * cols);
        ahead.prefetch(simd, rows);
        x.products(simd, rows, y);
        w = below;
    }
    for y in rest {
        let (row, below) = w.split_at(cols);
        *y = x.product(simd, row);
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
/// add up in, so that lanes are summed once at the end and not once a matrix. W is somewhere in what `ahead` is over.
#[inline(always)]
pub(super) fn add_matvec<S: Simd, A: Cell>(simd: S, w: &[A], x: &[f32], sums: &mut [RowSum], ahead: Ahead) {
    match (as_wide::<S>(x), x.len()) {
        (Some(x), 32) => add_blocks::<_, _, 8>(simd, w, WideMultiplier(&x[..2]), 32, sums, ahead),
        (Some(x), 64) => add_blocks::<_, _, 8>(simd, w, WideMultiplier(&x[..4]), 64, sums, ahead),
        (Some(x), cols) => add_blocks::<_, _, 8>(simd, w, WideMultiplier(x), cols, sums, ahead),
        (None, cols) => add_blocks::<_, _, 4>(simd, w, &Multiplier::new(x), cols, sums, ahead),
    }
}

/// As [`add_matvec`], R rows at a time.
#[inline(always)]
fn add_blocks<S: Simd, A: Cell, const R: usize>(
    simd: S,
    w: &[A],
    x: impl Products,
    cols: usize,
    sums: &mut [RowSum],
    ahead: Ahead,
) {
    let (blocks, rest) = sums.as_chunks_mut::<R>();
    let mut w = w;
    for sums in blocks {
        let (rows, below) = w.split_at(R * cols);
        ahead.prefetch(simd, rows);
        x.add(simd, rows, sums);
        w = below;
    }
    for sum in rest.as_chunks_mut::<1>().0 {
        let (row, below) = w.split_at(cols);
        x.add(simd, row, sum);
        w = below;
    }
}

/// `y[r]` += the sum of `sums[r]`'s lanes; both are `[rows]`.
#[inline(always)]
pub(super) fn add_lane_sums<S: Simd>(simd: S, sums: &[RowSum], y: &mut [f32]) {
    let (sum_blocks, sums_left) = sums.as_chunks::<LANES>();
    let (y_blocks, y_left) = y.as_chunks_mut::<LANES>();
    for (sums, y) in sum_blocks.iter().zip(y_blocks) {
        let mut folded = [simd.splat(0.0); LANES];
        for (folded, lanes) in folded.iter_mut().zip(sums) {
            *folded = simd.wide_fold(simd.wide_load(&lanes.0));
        }
        simd.store(simd.mul_add(simd.sum_each(folded), simd.splat(1.0), simd.load(y)), y);
    }
    for (lanes, y) in sums_left.iter().zip(y_left) {
        *y += simd.sum(simd.wide_fold(simd.wide_load(&lanes.0)));
    }
}
