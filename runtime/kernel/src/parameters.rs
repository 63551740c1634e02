//! The parameters of one memory, wherever they are: in the state, in a slot of the cache, in a soup.

use super::plan::{Layer, Plan, Scratch};
use super::simd::Simd;
use super::{Cells, math, ops};

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

    /// y = W x + b.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(&self, simd: S, layer: &Layer, x: &[f32], y: &mut [f32]) {
        matvec(simd, self.weight(layer), x, y);
        if let Some(bias) = self.bias(layer) {
            add_scaled(simd, 1.0, bias, y);
        }
    }

    /// zᵀx of the normaliser z `[dh]`, tensor `index`.
    #[inline(always)]
    pub(super) fn normalizer<S: Simd>(&self, simd: S, plan: &Plan, index: usize, x: &[f32]) -> f32 {
        let mut product = [0.0];
        matvec(simd, self.tensors[index].cells().block(self.index, plan.head_size), x, &mut product);
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
            if SLOPES {
                for (y, slope) in y.iter_mut().zip(&mut scratch.slopes[j + 1]) {
                    (*y, *slope) = math::gelu_with_slope(*y);
                }
            } else {
                for y in y {
                    *y = math::gelu(*y);
                }
            }
        }
    }
}

/// [`ops::matvec`] for any type of cells.
#[inline(always)]
pub(super) fn matvec<S: Simd>(simd: S, w: Cells<'_>, x: &[f32], y: &mut [f32]) {
    match w {
        Cells::F32(w) => ops::matvec(simd, w, x, y),
        Cells::F16(w) => ops::matvec(simd, w, x, y),
        Cells::I8(w, steps) => {
            ops::matvec(simd, w, x, y);
            for y in y {
                *y *= steps[0];
            }
        }
    }
}

/// [`ops::add_matvec`] of `w` over its [step](Cells::step), for any type of cells.
#[inline(always)]
pub(super) fn add_matvec<S: Simd>(simd: S, w: Cells<'_>, x: &[f32], sums: &mut [ops::Lanes]) {
    match w {
        Cells::F32(w) => ops::add_matvec(simd, w, x, sums),
        Cells::F16(w) => ops::add_matvec(simd, w, x, sums),
        Cells::I8(w, _) => ops::add_matvec(simd, w, x, sums),
    }
}

/// [`ops::add_scaled`] for any type of cells.
#[inline(always)]
pub(super) fn add_scaled<S: Simd>(simd: S, a: f32, x: Cells<'_>, y: &mut [f32]) {
    match x {
        Cells::F32(x) => ops::add_scaled(simd, a, x, y),
        Cells::F16(x) => ops::add_scaled(simd, a, x, y),
        Cells::I8(x, steps) => ops::add_scaled(simd, a * steps[0], x, y),
    }
}
