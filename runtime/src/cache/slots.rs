//! Which slot of a cache holds what: one stream's checkpoints by age, and what is noted of each.

use std::collections::VecDeque;

use crate::snapshot::{Draft, Section, SnapshotError};

/// The checkpoints of one stream: which slots are live, how old each is, how many tokens it stands for and where in the
/// stream these end.
///
/// # Invariants
///
/// - `by_age` is a permutation of `0..len()`: the live slots, from the oldest checkpoint to the youngest.
/// - `notes` is `[capacity]`; that of a slot which is not live means nothing.
pub struct Slots {
    by_age: VecDeque<usize>,
    notes: Box<[Note]>,
    pushed: u64,
}

/// What is known of one checkpoint beside its tensors.
///
/// # Invariants
///
/// - `0 < tokens <= end`, and the tokens of each checkpoint end before those of the next younger one begin.
/// - `loss` is what both checkpoints' tensors say as they are now, or `None`: it can always be computed again. Of the
///   youngest, which has no younger neighbour, it is `None`.
#[derive(Clone, Copy, Debug, Default)]
struct Note {
    /// Tokens that it stands for.
    tokens: u64,
    /// The stream's tokens when it was made: where its last one lies.
    end: u64,
    /// What its gates add up to, over heads, blocks and tokens since it was made, those of finished segments faded.
    mass: f64,
    /// The tokens of which `mass` is the sum, faded alike.
    weight: f64,
    /// What would be lost if it and its younger neighbour became one.
    loss: Option<f64>,
}

/// Where a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a slot.
    Slot(usize),
    /// In none yet: it is being made.
    New,
}

impl Slots {
    /// Bytes that a slot takes here: its place by age and its note.
    pub(crate) const BYTES_A_SLOT: usize = size_of::<usize>() + size_of::<Note>();

    /// No checkpoints, and room for `capacity`.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            by_age: VecDeque::with_capacity(capacity),
            notes: vec![Note::default(); capacity].into_boxed_slice(),
            pushed: 0,
        }
    }

    /// The most checkpoints.
    pub fn capacity(&self) -> usize {
        self.notes.len()
    }

    /// Live checkpoints.
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    /// Whether there is no room for another.
    pub(crate) fn is_full(&self) -> bool {
        self.len() == self.capacity()
    }

    /// Checkpoints made since the start of the stream, those included that have been evicted or merged, or not been kept.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// The live slots, from the oldest checkpoint to the youngest.
    pub fn by_age(&self) -> impl DoubleEndedIterator<Item = usize> + ExactSizeIterator {
        self.by_age.iter().copied()
    }

    /// Tokens that the checkpoint in `slot` stands for; 0 when the slot is not live.
    pub fn tokens(&self, slot: usize) -> u64 {
        if slot < self.len() { self.notes[slot].tokens } else { 0 }
    }

    /// The stream's tokens up to and with the last that the checkpoint in `slot` stands for; 0 when the slot is not live.
    pub fn end(&self, slot: usize) -> u64 {
        if slot < self.len() { self.notes[slot].end } else { 0 }
    }

    /// The slot of the live checkpoint at position `position` by age.
    pub(crate) fn slot(&self, position: usize) -> usize {
        self.by_age[position]
    }

    /// Where the checkpoint at position `position` by age is; at `len()` is the one that is being made.
    pub(crate) fn place(&self, position: usize) -> Place {
        self.by_age.get(position).map_or(Place::New, |&slot| Place::Slot(slot))
    }

    /// Where each live checkpoint lies, from the oldest to the youngest: its tokens, and the stream's up to their end.
    pub(crate) fn spans(&self) -> impl Iterator<Item = (u64, u64)> {
        self.by_age().map(|slot| (self.notes[slot].tokens, self.notes[slot].end))
    }

    /// The tokens of the youngest.
    pub(crate) fn youngest_tokens(&self) -> Option<u64> {
        self.by_age.back().map(|&slot| self.notes[slot].tokens)
    }

    /// Whether the two youngest stand for as many tokens.
    pub(crate) fn has_twins(&self) -> bool {
        let mut youngest = self.by_age.iter().rev().map(|&slot| self.notes[slot].tokens);
        youngest.next().zip(youngest.next()).is_some_and(|(younger, older)| younger == older)
    }

    /// The mean of each live checkpoint's gates, from the oldest to the youngest. It is a number after the first token that
    /// could read the checkpoint: at a segment's end, for all.
    pub(crate) fn mean_gates(&self) -> impl Iterator<Item = f64> {
        self.by_age().map(|slot| self.notes[slot].mass / self.notes[slot].weight)
    }

    /// What would be lost if the checkpoint at `position` and the next became one; `None` when that has to be computed.
    pub(crate) fn loss(&self, position: usize) -> Option<f64> {
        self.notes[self.slot(position)].loss
    }

    /// Notes that loss.
    pub(crate) fn set_loss(&mut self, position: usize, loss: f64) {
        self.notes[self.by_age[position]].loss = Some(loss);
    }

    /// Writes all of it, for [`Slots::read`].
    pub(crate) fn save(&self, draft: &mut Draft) {
        draft.u64(self.pushed);
        draft.count(self.len());
        for slot in self.by_age() {
            draft.count(slot);
            let Note { tokens, end, mass, weight, loss: _ } = self.notes[slot];
            [tokens, end].into_iter().for_each(|count| draft.u64(count));
            [mass, weight].into_iter().for_each(|sum| draft.f64(sum));
        }
    }

    /// What [`Slots::save`] has written of a stream of so many tokens with as much room.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Content`] when it breaks an invariant.
    pub(crate) fn read(
        capacity: usize,
        stream_tokens: u64,
        saved: &mut Section<'_>,
    ) -> Result<Self, SnapshotError> {
        let mut slots = Self::new(capacity);
        slots.pushed = saved.counter("checkpoints made")?;
        let live = saved.count("live checkpoints", capacity)?;
        if slots.pushed < live as u64 {
            return Err(
                saved.wrong(format!("{} checkpoints made", slots.pushed), &format!("{live} at least"))
            );
        }
        let mut last_end = 0;
        for _ in 0..live {
            let slot = saved.count("a slot", live - 1)?;
            if slots.notes[slot].tokens != 0 {
                return Err(saved.wrong(format!("slot {slot} twice"), "each once"));
            }
            let (tokens, end) =
                (saved.counter("a checkpoint's tokens")?, saved.counter("a checkpoint's end")?);
            let is_behind = end.checked_sub(last_end).is_some_and(|most| (1..=most).contains(&tokens));
            if !is_behind || end > stream_tokens {
                let found = format!("a checkpoint of {tokens} tokens that ends with token {end}");
                let expected = format!("one of tokens from {last_end} to {stream_tokens}, one at least");
                return Err(saved.wrong(found, &expected));
            }
            let (mass, weight) = (saved.f64("a checkpoint's gates")?, saved.f64("a checkpoint's weight")?);
            // What two would lose as one is computed again.
            slots.notes[slot] = Note { tokens, end, mass, weight, loss: None };
            slots.by_age.push_back(slot);
            last_end = end;
        }
        Ok(slots)
    }

    /// Forgets every checkpoint.
    pub(crate) fn clear(&mut self) {
        self.by_age.clear();
        self.pushed = 0;
    }

    /// A token has been read, for which the live slots had these gates in one head.
    pub(crate) fn add_gates(&mut self, gates: &[f32]) {
        let live = self.len();
        let notes = self.notes[..live].iter_mut();
        notes.zip(gates).for_each(|(note, &gate)| note.mass += f64::from(gate));
    }

    /// As many tokens have been read.
    pub(crate) fn add_read_tokens(&mut self, tokens: usize) {
        let live = self.len();
        self.notes[..live].iter_mut().for_each(|note| note.weight += tokens as f64);
    }

    /// What has been read so far counts for `retention` times as much from now on.
    pub(crate) fn fade(&mut self, retention: f64) {
        let live = self.len();
        for note in &mut self.notes[..live] {
            note.mass *= retention;
            note.weight *= retention;
        }
    }

    /// Makes room for nobody: the new checkpoint is not kept.
    pub(crate) fn decline(&mut self) {
        self.pushed += 1;
    }

    /// The slot for a new checkpoint of `tokens` tokens up to `end`, where there is room for it.
    pub(crate) fn add(&mut self, tokens: u64, end: u64) -> usize {
        let slot = self.len();
        self.by_age.push_back(slot);
        self.notes[slot] = Note { tokens, end, ..Note::default() };
        self.pushed += 1;
        slot
    }

    /// As [`Slots::add`], the slot of the checkpoint at `position`, which goes.
    pub(crate) fn replace(&mut self, position: usize, tokens: u64, end: u64) -> usize {
        self.forget_loss_before(position);
        let slot = self.by_age.remove(position).unwrap_or_default();
        self.by_age.push_back(slot);
        self.notes[slot] = Note { tokens, end, ..Note::default() };
        self.pushed += 1;
        slot
    }

    /// The youngest has become one with a new one of `tokens` tokens up to `end`.
    pub(crate) fn extend_youngest(&mut self, tokens: u64, end: u64) {
        let Some(youngest) = self.len().checked_sub(1) else { return };
        self.forget_loss_before(youngest);
        let note = &mut self.notes[self.by_age[youngest]];
        note.tokens += tokens;
        note.end = end;
        self.pushed += 1;
    }

    /// The checkpoint at `position` and the next have become one, in the slot of the first. The slot whose checkpoint must
    /// move, and to where, that the live slots stay `0..len()`.
    ///
    /// Both were read when one of them was: their gates add, over the tokens of that which has been there longer.
    pub(crate) fn unite(&mut self, position: usize) -> Option<(usize, usize)> {
        self.forget_loss_before(position);
        let free = self.by_age.remove(position + 1)?;
        let younger = self.notes[free];
        let note = &mut self.notes[self.by_age[position]];
        note.tokens += younger.tokens;
        note.end = younger.end;
        note.mass += younger.mass;
        note.weight = note.weight.max(younger.weight);
        note.loss = None;
        let last = self.by_age.len();
        let moved = self.by_age.iter_mut().find(|slot| **slot == last)?;
        *moved = free;
        self.notes[free] = self.notes[last];
        Some((last, free))
    }

    /// The checkpoint at `position` is about to change: so does what its older neighbour would lose with it.
    fn forget_loss_before(&mut self, position: usize) {
        if let Some(&older) = position.checked_sub(1).and_then(|position| self.by_age.get(position)) {
            self.notes[older].loss = None;
        }
    }
}
