//! The cache's tensors, and one stream's part of each with the checkpoint that is being made beside it.

use mcedge_models::contract::{CacheTensor, Contract, Scale};
use mcedge_models::spec::Init;

use super::slots::Place;
use super::table::{Table, add};
use crate::backend::{Buffer, Cells, CellsMut};
use crate::spill::Spilled;

/// The tensors of a cache.
///
/// # Invariants
///
/// - `tensors` and `layouts` have one entry a cache tensor of the contract, each tensor `[B, H, capacity, …]`; `steps` has
///   one for each of those that are i8, `[B, H, capacity]`, in their order.
pub(crate) struct Store<T> {
    /// Before the tensors, which it must not outlive.
    pub(super) spilled: Option<Spilled>,
    pub(super) tensors: Vec<T>,
    pub(super) steps: Vec<T>,
    pub(super) layouts: Vec<Layout>,
}

/// A checkpoint that is being made, of a segment of one stream.
pub(crate) struct New<'a, T> {
    /// Outputs of a graph.
    pub(crate) outputs: &'a [T],
    /// One a cache tensor: which of them its checkpoints are copied from, `[B, …]`.
    pub(crate) sources: &'a [usize],
    /// Tokens of the segment.
    pub(crate) tokens: u64,
    /// The stream's tokens, those of the segment included.
    pub(crate) end: u64,
}

/// Where a slot lies in a cache tensor `[B · rows, capacity, inner]`, row-major, and what goes into it.
pub(super) struct Layout {
    /// Rows of one stream.
    pub(super) rows: usize,
    pub(super) capacity: usize,
    pub(super) inner: usize,
    pub(super) is_quantised: bool,
    is_context: bool,
    merge: Merge,
}

/// What becomes of two checkpoints that merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merge {
    /// The younger stands for both.
    Later,
    /// They add.
    Add,
    /// What is made is a sum over a segment's tokens, a checkpoint holds their mean; so does a merged one.
    Mean,
}

/// One stream's part of one cache tensor.
pub(crate) struct Part<'a> {
    table: Table<'a>,
    /// The stream's rows of the table.
    first_row: usize,
    rows: usize,
    /// The checkpoint that is being made, `[rows, inner]`; empty when there is none.
    new: &'a [f32],
    /// What a checkpoint holds for each 1 of `new`.
    scale: f32,
    is_context: bool,
    merge: Merge,
}

impl<T: Buffer> Store<T> {
    pub(super) fn new(contract: &Contract, tensors: Vec<T>, steps: Vec<T>, spilled: Option<Spilled>) -> Self {
        let layouts = contract.cache.iter().map(|cache| Layout::new(contract, cache)).collect();
        Self { spilled, tensors, steps, layouts }
    }

    /// Elements of the longest row.
    pub(super) fn longest_row(&self) -> usize {
        self.layouts.iter().map(|layout| layout.inner).max().unwrap_or_default()
    }

    /// Stream `stream`'s part of every tensor, in the order of the contract, beside `new`.
    pub(super) fn parts<'a>(
        &'a mut self,
        stream: usize,
        new: Option<&'a New<'_, T>>,
    ) -> impl Iterator<Item = Part<'a>> {
        let mut steps = self.steps.iter_mut();
        // One a tensor, of those that spill.
        let mut spilled = self.spilled.as_mut().map(Spilled::all_cells_mut);
        let tensors = self.tensors.iter_mut().zip(&self.layouts).enumerate();
        tensors.map(move |(index, (tensor, layout))| {
            let cells = spilled.as_mut().and_then(|spilled| spilled.next().flatten());
            let steps = if layout.is_quantised { steps.next().map(T::cells_mut) } else { None };
            let steps = match steps {
                Some(CellsMut::F32(steps)) => steps,
                _ => &mut [],
            };
            let from = new.map(|new| new.outputs[new.sources[index]].cells());
            let new_values = match from {
                Some(Cells::F32(cells)) => layout.values(cells, stream),
                _ => &[],
            };
            Part {
                table: Table {
                    cells: cells.unwrap_or_else(|| tensor.cells_mut()),
                    steps,
                    capacity: layout.capacity,
                    inner: layout.inner,
                },
                first_row: stream * layout.rows,
                rows: layout.rows,
                new: new_values,
                scale: layout.scale(new.map_or(1, |new| new.tokens)),
                is_context: layout.is_context,
                merge: layout.merge,
            }
        })
    }
}

impl Layout {
    fn new(contract: &Contract, cache: &CacheTensor) -> Self {
        let is_context = contract.is_context(cache);
        let merge = match cache.scale {
            Scale::Mean => Merge::Mean,
            Scale::None if is_context || contract.init == Init::Restart => Merge::Add,
            Scale::None => Merge::Later,
        };
        Self {
            rows: cache.shape[1..cache.slot_axis].iter().product(),
            capacity: contract.capacity,
            inner: cache.shape[cache.slot_axis + 1..].iter().product(),
            is_quantised: cache.steps.is_some(),
            is_context,
            merge,
        }
    }

    /// What a checkpoint of `tokens` tokens holds for each 1 of what it is made from.
    fn scale(&self, tokens: u64) -> f32 {
        match self.merge {
            Merge::Mean => 1.0 / tokens as f32,
            Merge::Add | Merge::Later => 1.0,
        }
    }

    /// The rows of a stream in what is copied, `from` `[B · rows, inner]`.
    fn values<'a>(&self, from: &'a [f32], stream: usize) -> &'a [f32] {
        let elements = self.rows * self.inner;
        &from[stream * elements..(stream + 1) * elements]
    }
}

impl Part<'_> {
    /// Rows, each of [`Part::inner`] values: those of one head, or of something like it.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub(crate) fn inner(&self) -> usize {
        self.table.inner
    }

    /// Whether checkpoints are scored by it.
    pub(crate) fn is_context(&self) -> bool {
        self.is_context
    }

    /// A checkpoint's row, into `values`, `[inner]`. One that is being made has not been rounded to the cache's type.
    pub(crate) fn read(&self, values: &mut [f32], row: usize, place: Place) {
        values.fill(0.0);
        self.add_to(values, row, place, 1.0);
    }

    fn add_to(&self, sum: &mut [f32], row: usize, place: Place, factor: f32) {
        let inner = self.table.inner;
        match place {
            Place::Slot(slot) => self.table.add_to(sum, self.first_row + row, slot, factor),
            Place::New => add(sum, &self.new[row * inner..(row + 1) * inner], factor * self.scale),
        }
    }

    /// Copies a checkpoint into slot `to`. `room` is for a row.
    pub(super) fn copy(&mut self, from: Place, to: usize, room: &mut [f32]) {
        let values = &mut room[..self.table.inner];
        for row in 0..self.rows {
            match from {
                Place::Slot(from) => self.table.copy(self.first_row + row, from, to),
                Place::New => {
                    self.read(values, row, from);
                    self.table.put(values, self.first_row + row, to);
                }
            }
        }
    }

    /// What slot `older` holds and `younger` become one, in that slot; of its tokens each has one of these shares.
    pub(super) fn merge(&mut self, older: usize, younger: Place, shares: [f32; 2], room: &mut [f32]) {
        let [of_older, of_younger] = match self.merge {
            Merge::Later => return self.copy(younger, older, room),
            Merge::Add => [1.0; 2],
            Merge::Mean => shares,
        };
        let sum = &mut room[..self.table.inner];
        for row in 0..self.rows {
            sum.fill(0.0);
            self.add_to(sum, row, Place::Slot(older), of_older);
            self.add_to(sum, row, younger, of_younger);
            self.table.put(sum, self.first_row + row, older);
        }
    }
}
