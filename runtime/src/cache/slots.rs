//! Which slot of a cache holds what: one stream's checkpoints by age.

use std::collections::VecDeque;

use mcedge_models::Policy;

use crate::policy;
use crate::snapshot::{Draft, Section, SnapshotError};

/// The checkpoints of one stream: which slots are live, how old each is, and how many tokens it stands for.
///
/// # Invariants
///
/// - `by_age` is a permutation of `0..len()`: the live slots, from the oldest checkpoint to the youngest.
/// - `tokens` is `[capacity]`; of a live slot it is positive, of another it means nothing.
pub struct Slots {
    by_age: VecDeque<usize>,
    tokens: Box<[u64]>,
    pushed: u64,
}

impl Slots {
    /// No checkpoints, and room for `capacity`.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            by_age: VecDeque::with_capacity(capacity),
            tokens: vec![0; capacity].into_boxed_slice(),
            pushed: 0,
        }
    }

    /// The most checkpoints.
    pub fn capacity(&self) -> usize {
        self.tokens.len()
    }

    /// Live checkpoints.
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    /// Checkpoints made since the start of the stream, those included that have been evicted or merged.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// The live slots, from the oldest checkpoint to the youngest.
    pub fn by_age(&self) -> impl DoubleEndedIterator<Item = usize> + ExactSizeIterator {
        self.by_age.iter().copied()
    }

    /// Tokens that the checkpoint in `slot` stands for; 0 when the slot is not live.
    pub fn tokens(&self, slot: usize) -> u64 {
        if slot < self.len() { self.tokens[slot] } else { 0 }
    }

    /// Writes all of it, for [`Slots::read`].
    pub(crate) fn save(&self, draft: &mut Draft) {
        draft.u64(self.pushed);
        draft.count(self.len());
        for slot in self.by_age() {
            draft.count(slot);
            draft.u64(self.tokens[slot]);
        }
    }

    /// What [`Slots::save`] has written of a stream with as much room.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Content`] when it breaks an invariant.
    pub(crate) fn read(capacity: usize, saved: &mut Section<'_>) -> Result<Self, SnapshotError> {
        let mut slots = Self::new(capacity);
        slots.pushed = saved.counter("checkpoints made")?;
        let live = saved.count("live checkpoints", capacity)?;
        if slots.pushed < live as u64 {
            return Err(
                saved.wrong(format!("{} checkpoints made", slots.pushed), &format!("{live} at least"))
            );
        }
        for _ in 0..live {
            let slot = saved.count("a slot", live - 1)?;
            if slots.tokens[slot] != 0 {
                return Err(saved.wrong(format!("slot {slot} twice"), "each once"));
            }
            slots.by_age.push_back(slot);
            slots.tokens[slot] = saved.counter("a checkpoint's tokens")?;
            if slots.tokens[slot] == 0 {
                return Err(saved.wrong("a checkpoint of no tokens".into(), "one at least"));
            }
        }
        Ok(slots)
    }

    /// Forgets every checkpoint.
    pub(crate) fn clear(&mut self) {
        self.by_age.clear();
        self.pushed = 0;
    }

    /// The slot for a checkpoint of `tokens` tokens: a free one, or that of the policy's victim.
    pub(crate) fn claim(&mut self, policy: Policy, tokens: u64) -> usize {
        let mut slot = self.len();
        if slot == self.tokens.len() {
            let victim = policy::victim(policy, self);
            slot = self.by_age.remove(victim).unwrap_or_default();
        }
        self.by_age.push_back(slot);
        self.tokens[slot] = tokens;
        self.pushed += 1;
        slot
    }

    /// The slot of the youngest checkpoint, when it stands for `tokens` tokens.
    pub(crate) fn youngest_of(&self, tokens: u64) -> Option<usize> {
        self.by_age.back().copied().filter(|&slot| self.tokens[slot] == tokens)
    }

    /// The youngest checkpoint stands for `tokens` more: a pushed one has been merged into it.
    pub(crate) fn extend_youngest(&mut self, tokens: u64) {
        if let Some(&slot) = self.by_age.back() {
            self.tokens[slot] += tokens;
        }
        self.pushed += 1;
    }

    /// The two youngest checkpoints, when they stand for as many tokens: the older's slot and the younger's.
    pub(crate) fn twins(&self) -> Option<(usize, usize)> {
        let mut youngest = self.by_age.iter().rev();
        let (&younger, &older) = (youngest.next()?, youngest.next()?);
        (self.tokens[older] == self.tokens[younger]).then_some((older, younger))
    }

    /// The two youngest have become one, in the older's slot. The slot whose checkpoint must move, and to where, that
    /// the live slots stay `0..len()`.
    pub(crate) fn unite(&mut self, older: usize, younger: usize) -> Option<(usize, usize)> {
        self.tokens[older] += self.tokens[younger];
        self.by_age.pop_back();
        let last = self.by_age.len();
        let moved = self.by_age.iter_mut().find(|slot| **slot == last)?;
        *moved = younger;
        self.tokens[younger] = self.tokens[last];
        Some((last, younger))
    }
}
