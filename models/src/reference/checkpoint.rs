//! What a segment leaves behind, and what a block keeps of it.

use super::Gates;
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
    /// The stream's tokens when the segment ended.
    pub end: usize,
    /// Its gates: what they add up to, over heads and the tokens since.
    pub read: Read,
}

/// How much a checkpoint has been read.
#[derive(Clone, Copy, Default)]
pub struct Read {
    /// The gates of finished segments, which fade.
    pub mass: f64,
    /// The tokens of finished segments, which fade alike.
    pub weight: f64,
    /// The gates of the segment that has not ended.
    pub recent: f64,
}

impl Checkpoint {
    /// A segment of no tokens yet, of `heads` heads of size `dh`.
    pub fn empty(state: State, heads: usize, dh: usize) -> Self {
        Checkpoint {
            state,
            key_sums: vec![Vector::zeros(dh); heads],
            tokens: 0,
            end: 0,
            read: Read::default(),
        }
    }

    /// What the segment of one head is scored by, `[dh]`.
    pub fn context(&self, pooling: Context, head: usize) -> Vector {
        match pooling {
            Context::Sum => self.key_sums[head].clone(),
            Context::Mean => &self.key_sums[head] / self.tokens as f64,
        }
    }

    /// Of the segment before this one and of this one, as one, which lies where this one does.
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
        // Both were read when one was: their gates add, over the tokens of the one that has been there longer.
        self.read.mass += older.read.mass;
        self.read.weight = self.read.weight.max(older.read.weight);
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
    pub fn live(&self) -> &[Checkpoint] {
        &self.live
    }

    /// The most that are live, where there is a most and any are read.
    pub fn bound(&self) -> Option<usize> {
        self.capacity.filter(|_| self.block.caching.aggregation != Aggregation::None)
    }

    /// Keeps a finished segment's checkpoint where one is read. There may be one too many then.
    pub fn push(&mut self, checkpoint: Checkpoint) {
        let caching = &self.block.caching;
        if caching.aggregation == Aggregation::None {
            return;
        }
        self.fade(checkpoint.tokens);
        self.live.push(checkpoint);
        if caching.segmentation == (Segmentation::Logarithmic {}) {
            self.merge_equals();
        }
    }

    /// Adds a token's gates, `[H]` of `[n + 1]`, to those that are live.
    pub fn add_gates(&mut self, gates: &Gates) {
        for head in gates {
            for (checkpoint, gate) in self.live.iter_mut().zip(head) {
                checkpoint.read.recent += gate;
            }
        }
    }

    /// A segment of `tokens` tokens has ended: what was read before it counts for less by 2^(−1/capacity).
    fn fade(&mut self, tokens: usize) {
        let Some(capacity) = self.bound() else { return };
        let d = 2f64.powf(-1.0 / capacity as f64);
        for Checkpoint { read, .. } in &mut self.live {
            read.mass = d * read.mass + read.recent;
            read.weight = d * read.weight + tokens as f64;
            read.recent = 0.0;
        }
    }

    /// Forgets the checkpoint at `position`, from 0, the oldest.
    pub fn remove(&mut self, position: usize) {
        self.live.remove(position);
    }

    /// Makes one of the checkpoint at `position` and the next.
    pub fn unite(&mut self, position: usize) {
        let older = self.live.remove(position);
        self.live[position].merge(older, &self.block.memory, self.block.caching.init);
    }

    /// Merges the two youngest while they stand for as many tokens, as a binary counter carries.
    fn merge_equals(&mut self) {
        while let [.., older, younger] = &self.live[..]
            && older.tokens == younger.tokens
        {
            self.unite(self.live.len() - 2);
        }
    }
}
