//! Bringing streams to where a bench begins: as many live checkpoints as are asked for.

use anyhow::{Result, ensure};
use mcedge_models::contract::Contract;
use mcedge_models::spec::Segmentation;

use super::input::Inputs;
use crate::stream::Stream;

/// Runs every stream from its start until it has `fill` live checkpoints; how many tokens each was given at most.
pub fn fill(stream: &mut Stream, inputs: &Inputs, fill: usize) -> Result<u64> {
    let contract = stream.contract().clone();
    let (mut given, mut outputs) = (inputs.buffer(), Vec::new());
    let longest = most_tokens(&contract, fill);
    let mut fed = 0;
    loop {
        let who: Vec<bool> = (0..contract.batch).map(|s| stream.live(s) < fill).collect();
        if !who.contains(&true) {
            return Ok(fed);
        }
        let left = longest.saturating_sub(fed);
        ensure!(left > 0, "{fill} checkpoints were not live after {fed} tokens");
        let tokens = left.min(piece(&contract) as u64) as usize;
        inputs.fill(&mut given, fed, tokens);
        outputs.clear();
        stream.catch_up_some(&who, given.backlog(), &mut outputs)?;
        fed += tokens as u64;
    }
}

/// The tokens after which there are `fill` checkpoints for certain, where none has to go.
pub fn most_tokens(contract: &Contract, fill: usize) -> u64 {
    match contract.segmentation {
        Segmentation::Constant { size } | Segmentation::Surprise { max_size: size, .. } => {
            (fill as u64).saturating_mul(size as u64)
        }
        // As many checkpoints as bits that are set.
        Segmentation::Logarithmic {} => 1u64.checked_shl(fill as u32).map_or(u64::MAX, |bit| bit - 1),
    }
}

/// Tokens at once, among which at most one of each stream ends a segment: one that has as many checkpoints as it should
/// is given no more.
fn piece(contract: &Contract) -> usize {
    match contract.segmentation {
        Segmentation::Constant { size } => size,
        Segmentation::Surprise { min_size, .. } => min_size,
        Segmentation::Logarithmic {} => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithmic_segments_need_a_token_for_each_bit_that_is_to_be_set() {
        let contract = Contract::parse(
            &serde_json::json!({
                "schema": "mcedge.contract/1", "name": "by hand", "batch": 1, "capacity": 1, "chunk": 1,
                "input": {"kind": "features", "size": 1}, "output": {"kind": "regression", "size": 1},
                "segmentation": {"kind": "logarithmic"}, "init": "continue", "cache": [], "state": [],
            })
            .to_string(),
        )
        .unwrap();
        for fill in [0u32, 1, 2, 5, 11] {
            let first = (0u64..).find(|tokens| tokens.count_ones() == fill).unwrap();
            assert_eq!(most_tokens(&contract, fill as usize), first);
        }
        assert_eq!(most_tokens(&contract, 64), u64::MAX);
    }
}
