//! What a segment leaves behind, and what a block keeps of it.

use super::math::Vector;
use super::memory::State;
use crate::spec::{self, Aggregation, Context, Init, Memory, Segmentation};

/// A memory and the segment whose end it stands at; of the online memory, so far.
#[derive(Clone)]
pub struct Checkpoint {
    pub state: State,
    /// `[H]` of `[dh]`: the sum of the segment's keys.
    pub key_sums: Vec<Vector>,
    /// Tokens in the segment.
    pub tokens: usize,
}

impl Checkpoint {
    /// A segment of no tokens yet, of `heads` heads of size `dh`.
    pub fn empty(state: State, heads: usize, dh: usize) -> Self {
        Checkpoint { state, key_sums: vec![Vector::zeros(dh); heads], tokens: 0 }
    }

    /// What the segment of one head is scored by, `[dh]`.
    pub fn context(&self, pooling: Context, head: usize) -> Vector {
        match pooling {
            Context::Sum => self.key_sums[head].clone(),
            Context::Mean => &self.key_sums[head] / self.tokens as f64,
        }
    }

    /// Of the segment before this one and of this one, as one.
    ///
    /// Under `continue` this state has gone on from the older one and stands for both. Under `restart` each knows its
    /// own tokens alone, and they add: the memory is linear, and an initial state counts once for each.
    fn merge(&mut self, older: Checkpoint, memory: &Memory, init: Init) {
        if init == Init::Restart {
            self.state.add(memory, &older.state);
        }
        for (sum, older) in self.key_sums.iter_mut().zip(&older.key_sums) {
            *sum += older;
        }
        self.tokens += older.tokens;
    }
}

/// The checkpoints of one block.
pub struct Checkpoints<'a> {
    block: &'a spec::Block,
    /// Oldest first.
    live: Vec<Checkpoint>,
    /// The most that are live; `None` for all.
    capacity: Option<usize>,
}

impl<'a> Checkpoints<'a> {
    pub fn new(block: &'a spec::Block, capacity: Option<usize>) -> Self {
        Checkpoints { block, live: Vec::new(), capacity }
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Checkpoint> {
        self.live.iter()
    }

    /// Keeps a finished segment's checkpoint where one is read, and lets the oldest go when there is one too many.
    pub fn push(&mut self, checkpoint: Checkpoint) {
        let caching = &self.block.caching;
        if caching.aggregation == Aggregation::None {
            return;
        }
        self.live.push(checkpoint);
        if caching.segmentation == (Segmentation::Logarithmic {}) {
            self.merge_equals();
        }
        if self.capacity.is_some_and(|capacity| self.live.len() > capacity) {
            self.live.remove(0);
        }
    }

    /// Merges the two youngest while they stand for as many tokens, as a binary counter carries.
    fn merge_equals(&mut self) {
        while let [.., older, younger] = &self.live[..]
            && older.tokens == younger.tokens
        {
            let older = self.live.remove(self.live.len() - 2);
            if let Some(younger) = self.live.last_mut() {
                younger.merge(older, &self.block.memory, self.block.caching.init);
            }
        }
    }
}
