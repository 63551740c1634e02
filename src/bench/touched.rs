//! What an ordinary run has to read and write at least.

use anyhow::Result;
use mcedge_export::{Initializer, initializers};
use mcedge_models::contract::{BlockFunction, Contract};
use mcedge_models::spec::Aggregation;

use super::record::Touched;

/// Bytes of a run of `tokens` tokens of every stream, with `fill` live checkpoints each; `weights` are those of the graph.
pub fn touched(weights: &[Initializer], contract: &Contract, fill: usize, tokens: usize) -> Touched {
    let rows = (contract.batch * tokens) as u64;
    let read = |weight: &Initializer| match weight.is_looked_up {
        true => weight.bytes().min(weight.row_bytes().saturating_mul(rows)),
        false => weight.bytes(),
    };
    let state =
        contract.state.iter().map(|state| 2 * state.shape.iter().product::<usize>() * state.dtype.size());
    Touched {
        weights: weights.iter().map(read).sum(),
        state: state.sum::<usize>() as u64,
        cache: cache(contract, fill),
    }
}

/// The weights of a graph, and how many numbers they are.
pub fn weights(onnx: &[u8]) -> Result<(Vec<Initializer>, u64)> {
    let weights = initializers(onnx)?;
    let elements = weights.iter().map(Initializer::elements).sum();
    Ok((weights, elements))
}

/// Bytes of the checkpoints that are read.
fn cache(contract: &Contract, fill: usize) -> u64 {
    let mut bytes = 0;
    for cache in &contract.cache {
        let slot: usize = cache.shape[cache.slot_axis + 1..].iter().product();
        let heads: usize = cache.shape[..cache.slot_axis].iter().product();
        // What an element of 1 stands for is read with the elements.
        let step = if cache.steps.is_some() { size_of::<f32>() } else { 0 };
        let of_a_slot = heads * (slot * cache.dtype.size() + step);
        let block = contract.blocks.iter().find(|block| is_of(&cache.name, block));
        bytes += of_a_slot * block.map_or(fill, |block| read(contract.is_context(cache), block, fill));
    }
    bytes as u64
}

/// Whether a tensor of the cache is the block's: `cache.{i}.*`.
fn is_of(name: &str, block: &BlockFunction) -> bool {
    let index = name.strip_prefix("cache.").and_then(|rest| rest.split('.').next());
    index.is_some_and(|index| index.parse() == Ok(block.block))
}

/// Of how many checkpoints a tensor is read: `ssc` looks at the contexts of all, and chooses.
fn read(is_context: bool, block: &BlockFunction, fill: usize) -> usize {
    let caching = &block.memory.caching;
    match caching.aggregation {
        Aggregation::Ssc if !is_context => fill.min(caching.top_k.unwrap_or(fill)),
        _ => fill,
    }
}
