//! The checkpoint cache: memories at past segments' ends, in slots that never grow.

use mcedge_models::Policy;
use mcedge_models::contract::{CacheTensor, Contract, Reset, Scale};
use mcedge_models::spec::{Init, Segmentation};

pub(crate) use self::saved::SavedCheckpoints;
pub use self::slots::Slots;
use self::table::{Table, add};
use crate::backend::{Buffer, Cells, CellsMut};

mod saved;
mod slots;
mod table;

/// The checkpoints of B streams, in tensors that the graph reads as they are.
///
/// Under logarithmic segmentation the two youngest checkpoints of a stream become one whenever they stand for as many
/// tokens: with `init: continue` the later memory stands for both and contexts add; with `init: restart` memories add
/// as well. Contexts that are means stay so, each weighted by its tokens. What has not merged then goes through the
/// policy when there is no slot left.
///
/// # Invariants
///
/// - `tensors` has one entry a cache tensor of the contract, each `[B, H, capacity, …]`; `steps` has one for each of
///   those that are i8, `[B, H, capacity]`. All is allocated once.
/// - `streams` has one entry a stream, whose slots `0..len()` hold checkpoints: every read is a sum over slots.
pub struct CheckpointCache<T> {
    tensors: Vec<T>,
    steps: Vec<T>,
    layouts: Vec<Layout>,
    streams: Vec<Slots>,
    policy: Policy,
    /// Whether the youngest merge.
    merges: bool,
    /// One row, `[inner]` of the longest.
    row: Vec<f32>,
}

/// Where a slot lies in a cache tensor `[B · rows, capacity, inner]`, row-major, and what goes into it.
struct Layout {
    /// Rows of one stream.
    rows: usize,
    capacity: usize,
    inner: usize,
    /// Index of the tensor's entry in `steps`, with i8.
    steps: Option<usize>,
    merge: Merge,
}

/// What becomes of two checkpoints that merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merge {
    /// The younger stands for both.
    Later,
    /// They add.
    Add,
    /// What is pushed is a sum over a segment's tokens, a checkpoint holds their mean; so does a merged one.
    Mean,
}

impl<T: Buffer> CheckpointCache<T> {
    /// An empty cache of `slots` checkpoints at most, of the contract's capacity when that is less, over `tensors`, one a cache tensor of the contract and of its shape, and `steps`, one a cache
    /// tensor that has any.
    pub(crate) fn new(
        contract: &Contract,
        tensors: Vec<T>,
        steps: Vec<T>,
        policy: Policy,
        slots: Option<usize>,
    ) -> Self {
        let mut layouts: Vec<Layout> =
            contract.cache.iter().map(|cache| Layout::new(contract, cache)).collect();
        let quantised = layouts.iter_mut().zip(&contract.cache).filter(|(_, cache)| cache.steps.is_some());
        quantised.enumerate().for_each(|(index, (layout, _))| layout.steps = Some(index));
        // A contract without a cache may declare any number.
        let most = slots.map_or(contract.capacity, |slots| slots.min(contract.capacity));
        let slots = if tensors.is_empty() { 0 } else { most };
        let longest = layouts.iter().map(|layout| layout.inner).max().unwrap_or_default();
        Self {
            tensors,
            steps,
            layouts,
            streams: (0..contract.batch).map(|_| Slots::new(slots)).collect(),
            policy,
            merges: matches!(contract.segmentation, Segmentation::Logarithmic {}),
            row: vec![0.0; longest],
        }
    }

    /// The tensors, one a cache tensor of the contract.
    pub fn tensors(&self) -> &[T] {
        &self.tensors
    }

    /// What an element of 1 stands for, `[B, H, capacity]`: one tensor for each of the contract's cache tensors that
    /// is i8, in their order.
    pub fn steps(&self) -> &[T] {
        &self.steps
    }

    /// The checkpoints of stream `stream`, `0..B`.
    pub fn stream(&self, stream: usize) -> &Slots {
        &self.streams[stream]
    }

    /// Live checkpoints, over all streams.
    pub fn len(&self) -> usize {
        self.streams.iter().map(Slots::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.streams.iter().all(Slots::is_empty)
    }

    /// Checkpoints made since the start, over all streams, those included that have been evicted or merged.
    pub fn pushed(&self) -> u64 {
        self.streams.iter().map(Slots::pushed).sum()
    }

    /// Keeps a copy of stream `stream`'s part of `source(i)`, `[B, …]`, for every cache tensor i, as the checkpoint of
    /// a segment of `tokens` tokens.
    pub(crate) fn push<'a>(&mut self, stream: usize, source: impl Fn(usize) -> &'a T, tokens: u64)
    where
        T: 'a,
    {
        if self.streams[stream].capacity() == 0 {
            return;
        }
        let slots = &mut self.streams[stream];
        // A twin takes the new one in at once: stored first, it might evict what need not go.
        let twin = slots.youngest_of(tokens).filter(|_| self.merges);
        let slot = match twin {
            Some(slot) => {
                slots.extend_youngest(tokens);
                slot
            }
            None => slots.claim(self.policy, tokens),
        };
        for (index, (tensor, layout)) in self.tensors.iter_mut().zip(&self.layouts).enumerate() {
            let Cells::F32(from) = source(index).cells() else { continue };
            let (keep, factor) = layout.factors(twin.is_some(), tokens);
            let mut table = layout.table(tensor, &mut self.steps);
            for (row, values) in layout.rows_of(stream).zip(layout.values(from, stream)) {
                let sum = &mut self.row[..layout.inner];
                sum.fill(0.0);
                if keep != 0.0 {
                    table.add_to(sum, row, slot, keep);
                }
                add(sum, values, factor);
                table.put(sum, row, slot);
            }
        }
        while self.merges
            && let Some((older, younger)) = self.streams[stream].twins()
        {
            self.merge(stream, older, younger);
        }
    }

    /// The two youngest checkpoints become one.
    fn merge(&mut self, stream: usize, older: usize, younger: usize) {
        for (tensor, layout) in self.tensors.iter_mut().zip(&self.layouts) {
            // They stand for as many tokens.
            let factor = match layout.merge {
                Merge::Later | Merge::Add => 1.0,
                Merge::Mean => 0.5,
            };
            let mut table = layout.table(tensor, &mut self.steps);
            for row in layout.rows_of(stream) {
                if layout.merge == Merge::Later {
                    table.copy(row, younger, older);
                    continue;
                }
                let sum = &mut self.row[..layout.inner];
                sum.fill(0.0);
                table.add_to(sum, row, older, factor);
                table.add_to(sum, row, younger, factor);
                table.put(sum, row, older);
            }
        }
        if let Some((from, to)) = self.streams[stream].unite(older, younger) {
            for (tensor, layout) in self.tensors.iter_mut().zip(&self.layouts) {
                let mut table = layout.table(tensor, &mut self.steps);
                layout.rows_of(stream).for_each(|row| table.copy(row, from, to));
            }
        }
    }

    /// Forgets every checkpoint of a stream.
    pub(crate) fn clear(&mut self, stream: usize) {
        self.streams[stream].clear();
    }
}

impl Layout {
    fn new(contract: &Contract, cache: &CacheTensor) -> Self {
        let state = contract.state.iter().find(|state| state.present == cache.from);
        let is_context = state.is_some_and(|state| state.reset == Reset::Segment);
        let merge = match cache.scale {
            Scale::Mean => Merge::Mean,
            Scale::None if is_context || contract.init == Init::Restart => Merge::Add,
            Scale::None => Merge::Later,
        };
        Self {
            rows: cache.shape[1..cache.slot_axis].iter().product(),
            capacity: contract.capacity,
            inner: cache.shape[cache.slot_axis + 1..].iter().product(),
            steps: None,
            merge,
        }
    }

    /// What a slot's old value and a new one of `tokens` tokens are multiplied by before they add up. The old one is a
    /// twin, of as many tokens, or goes.
    fn factors(&self, is_twin: bool, tokens: u64) -> (f32, f32) {
        match self.merge {
            Merge::Add if is_twin => (1.0, 1.0),
            // The slot holds a mean, the new one is a sum still.
            Merge::Mean if is_twin => (0.5, 0.5 / tokens as f32),
            Merge::Mean => (0.0, 1.0 / tokens as f32),
            Merge::Add | Merge::Later => (0.0, 1.0),
        }
    }

    fn table<'a, T: Buffer>(&self, tensor: &'a mut T, steps: &'a mut [T]) -> Table<'a> {
        let steps = match self.steps.map(|index| steps[index].cells_mut()) {
            Some(CellsMut::F32(steps)) => steps,
            _ => &mut [],
        };
        Table { cells: tensor.cells_mut(), steps, capacity: self.capacity, inner: self.inner }
    }

    /// The rows of a stream.
    fn rows_of(&self, stream: usize) -> std::ops::Range<usize> {
        stream * self.rows..(stream + 1) * self.rows
    }

    /// The rows of a stream in what is copied, `from` `[B · rows, inner]`.
    fn values<'a>(&self, from: &'a [f32], stream: usize) -> std::slice::ChunksExact<'a, f32> {
        let elements = self.rows * self.inner;
        from[stream * elements..(stream + 1) * elements].chunks_exact(self.inner)
    }
}

/// Bytes of the cache that `contract` declares, over all its tensors and the steps of those that are i8.
pub fn cache_bytes(contract: &Contract) -> usize {
    let bytes = |cache: &CacheTensor| {
        let steps: usize = match cache.steps {
            Some(_) => cache.shape[..=cache.slot_axis].iter().product(),
            None => 0,
        };
        cache.shape.iter().product::<usize>() * cache.dtype.size() + steps * size_of::<f32>()
    };
    contract.cache.iter().map(bytes).sum()
}
