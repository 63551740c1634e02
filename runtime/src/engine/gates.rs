//! Who was read: the graph's gates, which are in the order of slots, in the order of age.

use mcedge_models::Policy;
use mcedge_models::contract::Contract;
use mcedge_models::spec::{Aggregation, Caching};

use crate::Error;
use crate::cache::Slots;

/// Who one block read for one token of one stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockGates<'a> {
    /// Index of the block.
    pub block: usize,
    /// Its heads, H.
    pub heads: usize,
    /// `[H, capacity + 1]`: the weight of the online memory, then of the checkpoints that were live when the token was
    /// read, from the youngest to the oldest, then zeros. All zeros before a stream's first token.
    pub weights: &'a [f32],
}

/// The gates of one block for the last token of each stream.
pub(super) struct Gates {
    pub(super) block: usize,
    heads: usize,
    /// `[B, H, capacity + 1]`, by age.
    weights: Vec<f32>,
}

/// The graph's output.
pub(super) fn name(block: usize) -> String {
    format!("gates.{block}")
}

/// The blocks that have gates, of which the graph's `outputs` have some.
pub(super) fn blocks(contract: &Contract, outputs: &[String]) -> Vec<usize> {
    let weighing = contract.blocks.iter().filter(|function| function.memory.has_gates());
    weighing.map(|function| function.block).filter(|&block| outputs.contains(&name(block))).collect()
}

/// Whether a policy that follows the gates has those of every block that weighs its checkpoints.
///
/// # Errors
///
/// [`Error::NoGates`] when it has not.
pub(super) fn check(contract: &Contract, policy: Policy, gated: &[usize]) -> Result<(), Error> {
    let weighs =
        |caching: &Caching| caching.aggregation.is_gated() || caching.aggregation == Aggregation::Sigmoid;
    let mut weighing = contract.blocks.iter().filter(|function| weighs(&function.memory.caching));
    let has_all = !gated.is_empty() && weighing.all(|function| gated.contains(&function.block));
    if policy.needs_gates() && !contract.cache.is_empty() && !has_all {
        return Err(Error::NoGates { policy });
    }
    Ok(())
}

fn heads(contract: &Contract, block: usize) -> usize {
    let function = contract.blocks.iter().find(|function| function.block == block);
    function.map_or(0, |function| function.memory.num_heads)
}

/// H · (capacity + 1) of a block.
pub(super) fn elements(contract: &Contract, block: usize) -> usize {
    heads(contract, block) * (contract.capacity + 1)
}

impl Gates {
    pub(super) fn new(contract: &Contract, block: usize) -> Self {
        let weights = vec![0.0; contract.batch * elements(contract, block)];
        Self { block, heads: heads(contract, block), weights }
    }

    pub(super) fn of(&self, stream: usize, batch: usize) -> BlockGates<'_> {
        let weights = super::part(&self.weights, stream, batch);
        BlockGates { block: self.block, heads: self.heads, weights }
    }

    /// Takes the gates of a stream's last token, `by_slot` `[H, capacity + 1]` with the online memory last, which was
    /// read when `slots` were live.
    pub(super) fn take(&mut self, stream: usize, batch: usize, by_slot: &[f32], slots: &Slots) {
        let rows = super::part_mut(&mut self.weights, stream, batch);
        let width = by_slot.len() / self.heads;
        for (to, from) in rows.chunks_exact_mut(width).zip(by_slot.chunks_exact(width)) {
            to.fill(0.0);
            to[0] = from[width - 1];
            for (weight, slot) in to[1..].iter_mut().zip(slots.by_age().rev()) {
                *weight = from[slot];
            }
        }
    }

    /// The weights of a stream, `[H, capacity + 1]`, to write.
    pub(super) fn weights_mut(&mut self, stream: usize, batch: usize) -> &mut [f32] {
        super::part_mut(&mut self.weights, stream, batch)
    }

    pub(super) fn clear(&mut self, stream: usize, batch: usize) {
        super::part_mut(&mut self.weights, stream, batch).fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_are_fewer_checkpoints_than_before_there_are_zeros() {
        let mut gates = Gates { block: 0, heads: 2, weights: vec![9.0; 2 * 8] };
        let mut slots = Slots::new(3);
        gates.take(1, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &slots);
        assert_eq!(gates.of(1, 2).weights, [4.0, 0.0, 0.0, 0.0, 8.0, 0.0, 0.0, 0.0]);
        let claimed: Vec<usize> = (1..4).map(|end| slots.add(1, end)).collect();
        assert_eq!((claimed, slots.replace(0, 1, 4)), (vec![0, 1, 2], 0));
        gates.take(1, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &slots);
        assert_eq!(gates.of(1, 2).weights, [4.0, 1.0, 3.0, 2.0, 8.0, 5.0, 7.0, 6.0]);
        assert_eq!(gates.of(0, 2).weights, [9.0; 8]);
    }
}
