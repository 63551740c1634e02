//! A stream's checkpoints in a snapshot: its live slots alone, bit by bit.

use std::ops::Range;

use half::f16;
use mcedge_models::Policy;

use super::store::{Layout, Store};
use super::{CheckpointCache, Slots};
use crate::backend::{Buffer, Cells, CellsMut};
use crate::snapshot::{Draft, Section, SnapshotError, read_cells};

/// One stream's checkpoints as a snapshot has them; all of it has been checked.
pub(crate) struct SavedCheckpoints<'a> {
    slots: Slots,
    /// One a cache tensor: its elements, `[rows, live, inner]`, and its steps, `[rows, live]` with i8, else empty.
    tensors: Vec<(&'a [u8], &'a [u8])>,
}

impl<T: Buffer> CheckpointCache<T> {
    /// What goes when there is no room.
    pub(crate) fn policy(&self) -> Policy {
        self.policy
    }

    /// Writes a stream's checkpoints, for [`CheckpointCache::read`].
    pub(crate) fn save(&self, stream: usize, draft: &mut Draft) {
        let slots = &self.streams[stream];
        slots.save(draft);
        let mut all_steps = self.store.steps.iter();
        for (tensor, layout) in self.store.tensors.iter().zip(&self.store.layouts) {
            for range in layout.live(stream, slots.len(), layout.inner) {
                save(tensor, range, draft);
            }
            let steps = if layout.is_quantised { all_steps.next() } else { None };
            for range in layout.live(stream, slots.len(), 1) {
                steps.into_iter().for_each(|steps| save(steps, range.clone(), draft));
            }
        }
    }

    /// What [`CheckpointCache::save`] has written of a stream of the same contract and so many tokens. Nothing
    /// changes.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Content`] when it cannot be.
    pub(crate) fn read<'a>(
        &self,
        stream: usize,
        stream_tokens: u64,
        saved: &mut Section<'a>,
    ) -> Result<SavedCheckpoints<'a>, SnapshotError> {
        let slots = Slots::read(self.streams[stream].capacity(), stream_tokens, saved)?;
        let live = slots.len();
        let tensors = self.store.tensors.iter().zip(&self.store.layouts).map(|(tensor, layout)| {
            let elements = layout.rows * live * layout.inner;
            let cells = match tensor.cells() {
                Cells::F32(_) => saved.cells::<f32>("a checkpoint", elements),
                Cells::F16(_) => saved.cells::<f16>("a checkpoint", elements),
                Cells::I8(_) | Cells::I64(_) => saved.cells::<i8>("a checkpoint", elements),
            };
            let steps = if layout.is_quantised { layout.rows * live } else { 0 };
            Ok((cells?, saved.cells::<f32>("a checkpoint's steps", steps)?))
        });
        let tensors = tensors.collect::<Result<_, _>>()?;
        Ok(SavedCheckpoints { slots, tensors })
    }

    /// Takes a stream's checkpoints over, in the place of its own, which are in RAM.
    pub(crate) fn restore(&mut self, stream: usize, saved: SavedCheckpoints<'_>) {
        assert!(!self.is_spilled(), "tensors that lie in a file are written through it alone");
        let live = saved.slots.len();
        let Store { tensors, steps: all_steps, layouts, .. } = &mut self.store;
        let mut all_steps = all_steps.iter_mut();
        for ((tensor, layout), (cells, steps)) in tensors.iter_mut().zip(layouts).zip(saved.tensors) {
            restore(tensor, layout.live(stream, live, layout.inner), cells);
            let own_steps = if layout.is_quantised { all_steps.next() } else { None };
            if let Some(own_steps) = own_steps {
                restore(own_steps, layout.live(stream, live, 1), steps);
            }
        }
        self.streams[stream] = saved.slots;
    }
}

impl Layout {
    /// Where a stream's `live` slots lie, row by row, in a tensor of `inner` elements a slot.
    fn live(&self, stream: usize, live: usize, inner: usize) -> impl Iterator<Item = Range<usize>> {
        let capacity = self.capacity;
        let rows = stream * self.rows..(stream + 1) * self.rows;
        rows.map(move |row| row * capacity * inner..(row * capacity + live) * inner)
    }
}

fn save<T: Buffer>(tensor: &T, range: Range<usize>, draft: &mut Draft) {
    match tensor.cells() {
        Cells::F32(cells) => draft.f32s(&cells[range]),
        Cells::F16(cells) => draft.f16s(&cells[range]),
        Cells::I8(cells) => draft.i8s(&cells[range]),
        Cells::I64(_) => unreachable!("no cache is of integers: Contract::parse knows none"),
    }
}

/// Fills `ranges` of a tensor with what `bytes` hold, one after the other.
fn restore<T: Buffer>(tensor: &mut T, ranges: impl Iterator<Item = Range<usize>>, mut bytes: &[u8]) {
    for range in ranges {
        bytes = match tensor.cells_mut() {
            CellsMut::F32(cells) => read_cells(&mut cells[range], bytes),
            CellsMut::F16(cells) => read_cells(&mut cells[range], bytes),
            CellsMut::I8(cells) => read_cells(&mut cells[range], bytes),
            CellsMut::I64(_) => unreachable!("no cache is of integers: Contract::parse knows none"),
        };
    }
}
