//! The checkpoint cache: memories at past segments' ends, in slots that never grow.

use half::f16;
use mcedge_models::contract::{CacheTensor, Contract, Scale};

use crate::backend::{Buffer, Cells, CellsMut};
use crate::policy::Policy;

/// The checkpoints of a stream, in tensors that the graph reads as they are.
///
/// # Invariants
///
/// - `tensors` has one entry a cache tensor of the contract, each `[B, H, capacity, …]`, allocated once.
/// - Slots `0..len()` hold checkpoints, in no particular order: every read is a sum over slots.
pub struct CheckpointCache<T> {
    tensors: Vec<T>,
    layouts: Vec<Layout>,
    capacity: usize,
    policy: Policy,
    /// Checkpoints pushed since the start of the stream; may exceed the capacity.
    pushed: u64,
}

/// Where a slot lies in a cache tensor `[outer, capacity, inner]`, row-major.
struct Layout {
    outer: usize,
    inner: usize,
    /// Index of the source among the contract's state tensors.
    source: usize,
    scale: Scale,
}

impl<T: Buffer> CheckpointCache<T> {
    /// An empty cache over `tensors`, one a cache tensor of the contract and of its shape.
    pub(crate) fn new(contract: &Contract, tensors: Vec<T>, policy: Policy) -> Self {
        let layouts = contract.cache.iter().map(|cache| Layout::new(contract, cache)).collect();
        Self { tensors, layouts, capacity: contract.capacity, policy, pushed: 0 }
    }

    /// The tensors, one a cache tensor of the contract.
    pub fn tensors(&self) -> &[T] {
        &self.tensors
    }

    /// Live checkpoints.
    pub fn len(&self) -> usize {
        usize::try_from(self.pushed).map_or(self.capacity, |pushed| pushed.min(self.capacity))
    }

    /// Whether nothing has been pushed yet.
    pub fn is_empty(&self) -> bool {
        self.pushed == 0
    }

    /// Checkpoints pushed since the start of the stream, the evicted ones included.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Keeps a copy of `state`, one entry a state tensor of the contract, as the checkpoint of a segment of
    /// `segment_tokens` tokens; the policy gives the slot.
    pub(crate) fn push(&mut self, state: &[T], segment_tokens: usize) {
        if self.tensors.is_empty() {
            return;
        }
        let slot = self.policy.slot(self.pushed, self.capacity);
        for (tensor, layout) in self.tensors.iter_mut().zip(&self.layouts) {
            layout.write(tensor, &state[layout.source], slot, self.capacity, segment_tokens);
        }
        self.pushed += 1;
    }

    /// Forgets every checkpoint.
    pub(crate) fn clear(&mut self) {
        self.pushed = 0;
    }
}

impl Layout {
    fn new(contract: &Contract, cache: &CacheTensor) -> Self {
        let source = contract.state.iter().position(|state| state.present == cache.from);
        Self {
            outer: cache.shape[..cache.slot_axis].iter().product(),
            inner: cache.shape[cache.slot_axis + 1..].iter().product(),
            source: source.expect("the engine has looked for every `from`"),
            scale: cache.scale,
        }
    }

    /// Copies `from` `[outer, inner]` into slot `slot` of `to` `[outer, capacity, inner]`.
    fn write<T: Buffer>(&self, to: &mut T, from: &T, slot: usize, capacity: usize, segment_tokens: usize) {
        let factor = match self.scale {
            Scale::None => 1.0,
            Scale::Mean => 1.0 / segment_tokens as f32,
        };
        let Cells::F32(from) = from.cells() else { unreachable!("state is f32: Contract::parse checks") };
        for (row, values) in from.chunks_exact(self.inner).enumerate().take(self.outer) {
            let start = (row * capacity + slot) * self.inner;
            match to.cells_mut() {
                CellsMut::F32(cells) => {
                    let slot = &mut cells[start..start + self.inner];
                    slot.iter_mut().zip(values).for_each(|(cell, value)| *cell = value * factor);
                }
                CellsMut::F16(cells) => {
                    let slot = &mut cells[start..start + self.inner];
                    slot.iter_mut().zip(values).for_each(|(cell, value)| *cell = to_f16(value * factor));
                }
                CellsMut::I8(_) | CellsMut::I64(_) => unreachable!("the engine takes no such cache"),
            }
        }
    }
}

/// The nearest f16; past its range the largest, for an infinity would poison every read.
fn to_f16(value: f32) -> f16 {
    f16::from_f32(value.clamp(-f16::MAX.to_f32(), f16::MAX.to_f32()))
}

/// Bytes of the cache that `contract` declares, over all its tensors.
pub fn cache_bytes(contract: &Contract) -> usize {
    let bytes = |cache: &CacheTensor| cache.shape.iter().product::<usize>() * cache.dtype.size();
    contract.cache.iter().map(bytes).sum()
}
