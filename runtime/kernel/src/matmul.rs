//! Matrices times many tokens: lanes are tokens here.
//!
//! A vector has one feature of many tokens, and a matrix's element is multiplied by all of it. Sizes need not be whole vectors
//! then, sums need not be taken across lanes, and what is done with an answer (bias, weight) is done to whole vectors.

use super::Cells;
use super::simd::{Simd, Task, WIDE};

/// Tokens in a block.
pub(super) const BLOCK: usize = 32;

/// Wide vectors in a [`Row`].
pub(super) const VECTORS: usize = BLOCK / WIDE;

/// Rows of a matrix that are multiplied side by side, where a wide vector is one register; half of them, where it is two.
pub(super) const TILE: usize = 8;

/// Of a cache line, where it is not larger.
const LINE_BYTES: usize = 64;

/// One feature of all tokens of a block, in whole cache lines.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Row(pub(super) [[f32; WIDE]; VECTORS]);

impl Row {
    pub(super) const ZERO: Self = Self::all(0.0);

    pub(super) const fn all(x: f32) -> Self {
        Self([[x; WIDE]; VECTORS])
    }

    #[inline(always)]
    pub(super) fn tokens(&self) -> &[f32; BLOCK] {
        self.0.as_flattened().first_chunk().expect("the tokens of a block")
    }

    #[inline(always)]
    pub(super) fn tokens_mut(&mut self) -> &mut [f32; BLOCK] {
        self.0.as_flattened_mut().first_chunk_mut().expect("the tokens of a block")
    }
}

/// y = W x + b for the tokens of a block, with a W of any type of cells.
pub(super) struct Matmul<'a> {
    /// W, `[rows, cols]`, of one memory or with a memory a row.
    pub(super) w: Cells<'a>,
    /// `[cols]`.
    pub(super) x: &'a [Row],
    /// b, `[rows]`; none is 0.
    pub(super) bias: Option<&'a [f32]>,
    /// Where it is given, weight (W x + b) is added to y.
    pub(super) weight: Option<&'a Row>,
    /// `[rows]`.
    pub(super) y: &'a mut [Row],
    /// Wide vectors of a row that have tokens.
    pub(super) vectors: usize,
    /// Room for rows of W as f32, `[TILE, cols]`.
    pub(super) widened: &'a mut [f32],
    /// The matrix whose turn comes next, of the same shape.
    pub(super) next: Option<Cells<'a>>,
}

impl Task for Matmul<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let cols = self.x.len();
        let tile = if S::IS_WIDE { TILE } else { TILE / 2 };
        for (start, y) in (0..self.y.len()).step_by(tile).zip(self.y.chunks_mut(tile)) {
            if let Some(next) = self.next {
                prefetch(simd, next.rows(start, y.len(), cols));
            }
            let w = match self.w.rows(start, y.len(), cols) {
                Cells::F32(w) => w,
                w => {
                    let widened = &mut self.widened[..y.len() * cols];
                    widen_rows(simd, w, cols, widened);
                    widened
                }
            };
            let bias = self.bias.map(|bias| &bias[start..][..y.len()]);
            let rows = Rows { w, x: self.x, bias, weight: self.weight };
            if !S::IS_WIDE {
                for vector in 0..self.vectors {
                    rows.multiply::<S, { TILE / 2 }, 1>(simd, vector, y);
                }
            } else if self.vectors == VECTORS {
                rows.multiply::<S, TILE, VECTORS>(simd, 0, y);
            } else {
                rows.multiply::<S, TILE, 1>(simd, 0, y);
            }
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

/// Some rows of a [`Matmul`], as f32.
struct Rows<'a> {
    w: &'a [f32],
    x: &'a [Row],
    bias: Option<&'a [f32]>,
    weight: Option<&'a Row>,
}

impl Rows<'_> {
    /// At most R rows, for C wide vectors of tokens from `vector` on.
    ///
    /// All sums stay in registers over the columns. Where there are fewer than R rows, the last stands in for those that are
    /// missing, so that this is one piece of code, and its other sums are dropped.
    #[inline(always)]
    fn multiply<S: Simd, const R: usize, const C: usize>(&self, simd: S, vector: usize, y: &mut [Row]) {
        let (cols, last) = (self.x.len(), y.len() - 1);
        let mut rows: [&[f32]; R] = [&[]; R];
        let mut sums = [[simd.wide_splat(0.0); C]; R];
        for (r, (row, sums)) in rows.iter_mut().zip(&mut sums).enumerate() {
            *row = &self.w[r.min(last) * cols..][..cols];
            if let Some(bias) = self.bias {
                *sums = [simd.wide_splat(bias[r.min(last)]); C];
            }
        }
        for (i, x) in self.x.iter().enumerate() {
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
        // By R and not by the rows of y, for only with constant indices do the sums stay in registers.
        for (r, sums) in sums.into_iter().enumerate() {
            let Some(y) = y.get_mut(r) else { break };
            for (j, sum) in sums.into_iter().enumerate() {
                let y = &mut y.0[vector + j];
                let y_new = match self.weight {
                    Some(weight) => {
                        simd.wide_mul_add(simd.wide_load(&weight.0[vector + j]), sum, simd.wide_load(y))
                    }
                    None => sum,
                };
                simd.wide_store(y_new, y);
            }
        }
    }
}

/// The cells, of one memory, as f32.
#[inline(always)]
pub(super) fn widen<S: Simd>(simd: S, cells: Cells<'_>, y: &mut [f32]) {
    let step = cells.step();
    let (vectors, tail) = y.as_chunks_mut::<WIDE>();
    match cells {
        Cells::F32(x) => y.copy_from_slice(x),
        Cells::F16(x) => {
            let (x, x_tail) = x.as_chunks::<WIDE>();
            for (y, x) in vectors.iter_mut().zip(x) {
                simd.wide_store(simd.wide_load_f16(x), y);
            }
            tail.iter_mut().zip(x_tail).for_each(|(y, x)| *y = x.to_f32());
        }
        Cells::I8(x, _) => {
            let (x, x_tail) = x.as_chunks::<WIDE>();
            let steps = simd.wide_splat(step);
            for (y, x) in vectors.iter_mut().zip(x) {
                simd.wide_store(simd.wide_mul(steps, simd.wide_load_i8(x)), y);
            }
            tail.iter_mut().zip(x_tail).for_each(|(y, x)| *y = step * f32::from(*x));
        }
    }
}

/// Asks for all cache lines of the cells.
#[inline(always)]
fn prefetch<S: Simd>(simd: S, cells: Cells<'_>) {
    match cells {
        Cells::F32(cells) => cells.iter().step_by(LINE_BYTES / 4).for_each(|cell| simd.prefetch(cell)),
        Cells::F16(cells) => cells.iter().step_by(LINE_BYTES / 2).for_each(|cell| simd.prefetch(cell)),
        Cells::I8(cells, _) => cells.iter().step_by(LINE_BYTES).for_each(|cell| simd.prefetch(cell)),
    }
}
