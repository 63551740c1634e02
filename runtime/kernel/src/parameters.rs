//! The parameters of one memory, wherever they are: in the state, in a slot of the cache, in a soup.

use super::ahead::Ahead;
use super::matvec::{self, RowSum};
use super::plan::{Layer, Plan, Scratch};
use super::simd::{Simd, Task};
use super::{Cells, ops};

/// A tensor of parameters of many memories, one after the other.
pub(super) trait Tensor {
    /// All of it.
    fn cells(&self) -> Cells<'_>;
}

impl Tensor for &[f32] {
    #[inline(always)]
    fn cells(&self) -> Cells<'_> {
        Cells::F32(self)
    }
}

impl Tensor for &mut [f32] {
    #[inline(always)]
    fn cells(&self) -> Cells<'_> {
        Cells::F32(self)
    }
}

impl Tensor for Box<[f32]> {
    #[inline(always)]
    fn cells(&self) -> Cells<'_> {
        Cells::F32(self)
    }
}

impl Tensor for Cells<'_> {
    #[inline(always)]
    fn cells(&self) -> Cells<'_> {
        *self
    }
}

/// The parameters of memory `index` of those that lie in `tensors`.
#[derive(Debug)]
pub(super) struct Parameters<'a, T> {
    /// At least the parameters, in the order of the plan.
    pub(super) tensors: &'a [T],
    /// Head; or head · N + slot.
    pub(super) index: usize,
    /// What is read after it.
    pub(super) order: Order,
}

/// The order in which memories are read, so that each can ask for the next before its turn: those before `end` in turn, and
/// then from `then` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) end: usize,
    pub(super) then: usize,
}

impl Order {
    /// Of checkpoint `i` of `count` that a head reads, its first memory being `first`: those of `slots`, in that order, or the
    /// first, after which memory `then` is read.
    #[inline(always)]
    pub(super) fn of_checkpoint(
        first: usize,
        slots: Option<&[usize]>,
        count: usize,
        then: usize,
        i: usize,
    ) -> Self {
        let Some(slots) = slots else { return Self { end: first + count, then } };
        let index = first + slots[i];
        Self { end: index + 1, then: slots.get(i + 1).map_or(index, |next| first + next) }
    }
}

impl<'a, T> Parameters<'a, T> {
    /// Of a memory after which nothing is known to be read.
    #[inline(always)]
    pub(super) fn only(tensors: &'a [T], index: usize) -> Self {
        Self { tensors, index, order: Order { end: index + 1, then: index } }
    }
}

impl<T: Tensor> Parameters<'_, T> {
    /// W of a layer, `[rows, cols]`.
    #[inline(always)]
    pub(super) fn weight(&self, layer: &Layer) -> Cells<'_> {
        self.tensors[layer.weight].cells().block(self.index, layer.weights())
    }

    /// b of a layer, `[rows]`.
    #[inline(always)]
    pub(super) fn bias(&self, layer: &Layer) -> Option<Cells<'_>> {
        let bias = layer.bias?;
        Some(self.tensors[bias].cells().block(self.index, layer.rows))
    }

    /// What comes after W of a layer.
    #[inline(always)]
    fn ahead(&self, layer: &Layer) -> Ahead {
        Ahead::new(self.tensors[layer.weight].cells(), layer.weights(), self.order)
    }

    /// y = W x + b.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(&self, simd: S, layer: &Layer, x: &[f32], y: &mut [f32]) {
        matvec(simd, self.weight(layer), x, y, self.ahead(layer));
        if let Some(bias) = self.bias(layer) {
            add_scaled(simd, 1.0, bias, y);
        }
    }

    /// Adds W x over W's [step](Cells::step) to the sum of each row's lanes.
    #[inline(always)]
    pub(super) fn add_products<S: Simd>(&self, simd: S, layer: &Layer, x: &[f32], sums: &mut [RowSum]) {
        simd.apart(AddProducts { w: self.weight(layer), x, sums, ahead: self.ahead(layer) });
    }

    /// zᵀx of the normaliser z `[dh]`, tensor `index`.
    #[inline(always)]
    pub(super) fn normalizer<S: Simd>(&self, simd: S, plan: &Plan, index: usize, x: &[f32]) -> f32 {
        let mut product = [0.0];
        let cells = self.tensors[index].cells();
        let ahead = Ahead::new(cells, plan.head_size, self.order);
        matvec(simd, cells.block(self.index, plan.head_size), x, &mut product, ahead);
        product[0]
    }

    /// Runs the layers but the last on `inputs[0]`: fills the inputs after it and, where wanted, the slopes.
    #[inline(always)]
    pub(super) fn hidden<S: Simd, const SLOPES: bool>(&self, simd: S, plan: &Plan, scratch: &mut Scratch) {
        let (_, hidden) = plan.layers.split_last().expect("a layer");
        for (j, layer) in hidden.iter().enumerate() {
            let (before, after) = scratch.inputs.split_at_mut(j + 1);
            let y = &mut *after[0];
            self.apply(simd, layer, &before[j], y);
            ops::gelu(simd, y, SLOPES.then_some(&mut scratch.slopes[j + 1]));
        }
    }
}

struct AddProducts<'a> {
    w: Cells<'a>,
    x: &'a [f32],
    sums: &'a mut [RowSum],
    ahead: Ahead,
}

impl Task for AddProducts<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { w, x, sums, ahead } = self;
        match w {
            Cells::F32(w) => matvec::add_matvec(simd, w, x, sums, ahead),
            Cells::F16(w) => matvec::add_matvec(simd, w, x, sums, ahead),
            Cells::I8(w, _) => matvec::add_matvec(simd, w, x, sums, ahead),
        }
    }
}

/// [`matvec::matvec`] for any type of cells.
#[inline(always)]
pub(super) fn matvec<S: Simd>(simd: S, w: Cells<'_>, x: &[f32], y: &mut [f32], ahead: Ahead) {
    simd.apart(Matvec { w, x, y, ahead });
}

struct Matvec<'a> {
    w: Cells<'a>,
    x: &'a [f32],
    y: &'a mut [f32],
    ahead: Ahead,
}

impl Task for Matvec<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { w, x, y, ahead } = self;
        match w {
            Cells::F32(w) => matvec::matvec(simd, w, x, y, ahead),
            Cells::F16(w) => matvec::matvec(simd, w, x, y, ahead),
            Cells::I8(w, steps) => {
                matvec::matvec(simd, w, x, y, ahead);
                for y in y {
                    *y *= steps[0];
                }
            }
        }
    }
}

/// [`ops::add_scaled`] for any type of cells.
#[inline(always)]
pub(super) fn add_scaled<S: Simd>(simd: S, a: f32, x: Cells<'_>, y: &mut [f32]) {
    simd.apart(AddScaled { a, x, y });
}

struct AddScaled<'a> {
    a: f32,
    x: Cells<'a>,
    y: &'a mut [f32],
}

impl Task for AddScaled<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { a, x, y } = self;
        match x {
            Cells::F32(x) => ops::add_scaled(simd, a, x, y),
            Cells::F16(x) => ops::add_scaled(simd, a, x, y),
            Cells::I8(x, steps) => ops::add_scaled(simd, a * steps[0], x, y),
        }
    }
}
