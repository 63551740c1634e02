//! What a segment leaves behind, and what a block keeps of it.

use super::math::Vector;
use super::memory::State;
use crate::spec::Context;

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
}

/// The checkpoints of one block.
pub struct Checkpoints {
    /// Oldest first.
    live: Vec<Checkpoint>,
    /// The most that are live; `None` for all.
    capacity: Option<usize>,
}

impl Checkpoints {
    pub fn new(capacity: Option<usize>) -> Self {
        Checkpoints { live: Vec::new(), capacity }
    }

    /// Oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Checkpoint> {
        self.live.iter()
    }

    /// Keeps a finished segment's checkpoint, and lets the oldest go when there is one too many.
    pub fn push(&mut self, checkpoint: Checkpoint) {
        self.live.push(checkpoint);
        if self.capacity.is_some_and(|capacity| self.live.len() > capacity) {
            self.live.remove(0);
        }
    }
}
