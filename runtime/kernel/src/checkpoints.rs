//! The read of checkpoints that are a matrix each: what most of a step is, once the cache has filled.

use super::Cells;
use super::ahead::Ahead;
use super::matvec::{self, Cell, RowSum};
use super::ops;
use super::parameters::Order;
use super::simd::{Simd, Task};

/// Adds Σ weight · W x over some checkpoints of a head to the sum of each row's lanes. A checkpoint of weight 0 is not
/// touched.
pub(super) struct Checkpoints<'a> {
    /// Of all heads, `[H, N, rows, cols]`.
    pub(super) w: Cells<'a>,
    /// head · N.
    pub(super) first: usize,
    /// Whose slots these are, where they are not the first.
    pub(super) slots: Option<&'a [usize]>,
    /// The memory that is read after these.
    pub(super) then: usize,
    /// One a checkpoint.
    pub(super) weights: &'a [f32],
    /// `[cols]`.
    pub(super) x: &'a [f32],
    /// x times a weight, `[cols]`.
    pub(super) weighted: &'a mut [f32],
    /// `[rows]`.
    pub(super) sums: &'a mut [RowSum],
}

impl Checkpoints<'_> {
    #[inline(always)]
    fn add<S: Simd, A: Cell>(self, simd: S, cells: &[A], steps: Option<&[f32]>) {
        let len = self.x.len() * self.sums.len();
        for (i, &weight) in self.weights.iter().enumerate() {
            if weight == 0.0 {
                continue;
            }
            let order = Order::of_checkpoint(self.first, self.slots, self.weights.len(), self.then, i);
            let index = self.first + self.slots.map_or(i, |slots| slots[i]);
            let factor = steps.map_or(weight, |steps| weight * steps[index]);
            ops::scaled(simd, factor, self.x, self.weighted);
            let ahead = Ahead::new(self.w, len, order);
            matvec::add_matvec(simd, &cells[index * len..][..len], self.weighted, self.sums, ahead);
        }
    }
}

impl Task for Checkpoints<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.w {
            Cells::F32(cells) => self.add(simd, cells, None),
            Cells::F16(cells) => self.add(simd, cells, None),
            Cells::I8(cells, steps) => self.add(simd, cells, Some(steps)),
        }
    }
}
