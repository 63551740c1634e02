//! The checkpoint cache: memories at past segments' ends, in slots that never grow.

use mcedge_models::Policy;
use mcedge_models::contract::{CacheTensor, Contract};
use mcedge_models::spec::Segmentation;

pub(crate) use self::saved::SavedCheckpoints;
pub(crate) use self::slots::Place;
pub use self::slots::Slots;
use self::store::Store;
pub(crate) use self::store::{New, Part};
use crate::EngineOptions;
use crate::backend::Buffer;
use crate::policy::{self, Decision, Scratch};
use crate::spill::Spilled;

mod saved;
mod slots;
mod store;
mod table;

/// The checkpoints of B streams, in tensors that the graph reads as they are.
///
/// Under logarithmic segmentation the two youngest checkpoints of a stream become one whenever they stand for as many
/// tokens. What has not merged then goes through the policy when there is no slot left. Where two become one, with
/// `init: continue` the later memory stands for both and contexts add; with `init: restart` memories add as well.
/// Contexts that are means stay so, each weighted by its tokens.
///
/// # Invariants
///
/// - The tensors hold B streams' slots, and `streams` has one entry a stream, whose slots `0..len()` hold checkpoints:
///   every read is a sum over slots.
/// - All is allocated once.
pub struct CheckpointCache<T> {
    store: Store<T>,
    streams: Vec<Slots>,
    policy: Policy,
    /// Whether the youngest merge.
    merges: bool,
    /// What is left of a gate's weight with every segment.
    retention: f64,
    /// Slots of the tensors, of which those of `streams` may be fewer.
    capacity: usize,
    scratch: Scratch,
}

/// What one stream's checkpoints hold, and the one that is being made.
pub(crate) struct Contents<'a, T> {
    store: &'a mut Store<T>,
    stream: usize,
    pub(crate) new: &'a New<'a, T>,
}

impl<T: Buffer> Contents<'_, T> {
    /// The stream's part of every tensor.
    pub(crate) fn parts(&mut self) -> impl Iterator<Item = Part<'_>> {
        self.store.parts(self.stream, Some(self.new))
    }
}

impl<T: Buffer> CheckpointCache<T> {
    /// An empty cache of `options.slots` checkpoints at most, of the contract's capacity when that is less, over `tensors`, one a
    /// cache tensor of the contract and of its shape, and `steps`, one a cache tensor that has any.
    pub(crate) fn new(
        contract: &Contract,
        tensors: Vec<T>,
        steps: Vec<T>,
        spilled: Option<Spilled>,
        options: &EngineOptions,
    ) -> Self {
        // A contract without a cache may declare any number.
        let most = options.slots.map_or(contract.capacity, |slots| slots.min(contract.capacity));
        let slots = if tensors.is_empty() { 0 } else { most };
        let store = Store::new(contract, tensors, steps, spilled);
        Self {
            streams: (0..contract.batch).map(|_| Slots::new(slots)).collect(),
            policy: options.policy,
            merges: matches!(contract.segmentation, Segmentation::Logarithmic {}),
            retention: 0.5f64.powf(1.0 / slots.max(1) as f64),
            capacity: contract.capacity,
            scratch: Scratch::new(slots, store.longest_row()),
            store,
        }
    }

    /// Whether memories lie in a file.
    pub(crate) fn is_spilled(&self) -> bool {
        self.store.spilled.is_some()
    }

    /// Where memories lie in a file, if they do.
    pub(crate) fn spilled(&mut self) -> Option<&mut Spilled> {
        self.store.spilled.as_mut()
    }

    /// The tensors, one a cache tensor of the contract.
    pub fn tensors(&self) -> &[T] {
        &self.store.tensors
    }

    /// What an element of 1 stands for, `[B, H, capacity]`: one tensor for each of the contract's cache tensors that
    /// is i8, in their order.
    pub fn steps(&self) -> &[T] {
        &self.store.steps
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

    /// Notes who was read, where the policy follows it: `tokens` tokens of stream `stream`, by the checkpoints that are
    /// live, in `blocks`, each `[tokens, H, capacity + 1]` of gates by slot.
    ///
    /// Tokens come before blocks, so that the sums are the same, bit by bit, however tokens are cut into runs.
    pub(crate) fn follow<'a>(
        &mut self,
        stream: usize,
        tokens: usize,
        blocks: impl Iterator<Item = &'a [f32]> + Clone,
    ) {
        let slots = &mut self.streams[stream];
        if !self.policy.needs_gates() || slots.is_empty() {
            return;
        }
        for token in 0..tokens {
            for gates in blocks.clone() {
                let heads = gates.len() / tokens;
                let heads = gates[token * heads..(token + 1) * heads].chunks_exact(self.capacity + 1);
                heads.for_each(|gates| slots.add_gates(gates));
            }
        }
        slots.add_read_tokens(tokens);
    }

    /// A segment of stream `stream` has ended, and leaves a checkpoint.
    pub(crate) fn push(&mut self, stream: usize, new: &New<'_, T>) {
        let slots = &mut self.streams[stream];
        if slots.capacity() == 0 {
            return;
        }
        // A twin takes the new one in at once: stored first, it might evict what need not go.
        if self.merges && slots.youngest_tokens() == Some(new.tokens) {
            self.merge(stream, self.streams[stream].len() - 1, Some(new));
            while self.streams[stream].has_twins() {
                self.merge(stream, self.streams[stream].len() - 2, None);
            }
        } else if !slots.is_full() {
            self.add(stream, new);
        } else {
            self.evict(stream, new);
        }
        self.streams[stream].fade(self.retention);
    }

    /// Does what the policy decides of a cache that has no room for the new one.
    fn evict(&mut self, stream: usize, new: &New<'_, T>) {
        let slots = &mut self.streams[stream];
        let contents = Contents { store: &mut self.store, stream, new };
        match policy::decide(self.policy, slots, contents, &mut self.scratch) {
            Decision::Goes(position) if position == slots.len() => slots.decline(),
            Decision::Goes(position) => {
                let slot = slots.replace(position, new.tokens, new.end);
                self.copy(stream, Place::New, slot, Some(new));
            }
            Decision::Unites(position) if position + 1 == slots.len() => {
                self.merge(stream, position, Some(new));
            }
            Decision::Unites(position) => {
                self.merge(stream, position, None);
                self.add(stream, new);
            }
        }
    }

    /// Keeps the new one where there is room.
    fn add(&mut self, stream: usize, new: &New<'_, T>) {
        let slot = self.streams[stream].add(new.tokens, new.end);
        self.copy(stream, Place::New, slot, Some(new));
    }

    fn copy(&mut self, stream: usize, from: Place, to: usize, new: Option<&New<'_, T>>) {
        let room = self.scratch.row();
        self.store.parts(stream, new).for_each(|mut part| part.copy(from, to, room));
    }

    /// The checkpoint at `position` and the next younger one, or `new` when there is none, become one.
    fn merge(&mut self, stream: usize, position: usize, new: Option<&New<'_, T>>) {
        let slots = &mut self.streams[stream];
        let (older, younger) = (slots.slot(position), slots.place(position + 1));
        let tokens = [
            slots.tokens(older),
            new.map_or_else(|| slots.tokens(slots.slot(position + 1)), |new| new.tokens),
        ];
        let all = (tokens[0] + tokens[1]) as f64;
        let shares = tokens.map(|tokens| (tokens as f64 / all) as f32);
        let room = self.scratch.row();
        self.store.parts(stream, new).for_each(|mut part| part.merge(older, younger, shares, room));
        match new {
            Some(new) => slots.extend_youngest(new.tokens, new.end),
            None => {
                if let Some((from, to)) = slots.unite(position) {
                    self.copy(stream, Place::Slot(from), to, None);
                }
            }
        }
    }

    /// Forgets every checkpoint of a stream.
    pub(crate) fn clear(&mut self, stream: usize) {
        self.streams[stream].clear();
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
