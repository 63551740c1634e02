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

#[cfg(test)]
mod tests {
    use mcedge_export::{Options, step_graph};
    use mcedge_models::Weights;
    use mcedge_models::contract::Dtype;
    use mcedge_models::spec::Spec;

    use super::*;

    /// d_model 8, 2 heads of 4, one block, 300 tokens.
    fn touched_by(
        memory: &str,
        caching: &str,
        dtype: Dtype,
        fill: usize,
        (batch, tokens): (usize, usize),
    ) -> Touched {
        let config = format!(
            r#"{{"format": "mcedge/1", "name": "m", "input": {{"kind": "tokens", "vocab_size": 300}}, "d_model": 8,
            "blocks": [{{"norm": "none", "num_heads": 2, "memory": {memory},
                "caching": {{{caching}, "init": "continue", "segmentation": {{"kind": "constant", "size": 5}}}}}}],
            "final_norm": false, "head": {{"kind": "logits", "size": 3}}}}"#
        );
        let spec = Spec::parse(config.as_bytes()).unwrap();
        let options = Options { capacity: 50, cache_dtype: dtype, batch, ..Options::default() };
        let graph = step_graph(&spec, &Weights::made_up(&spec), options).unwrap();
        let (weights, _) = weights(&graph.to_onnx()).unwrap();
        touched(&weights, graph.contract(), fill, tokens)
    }

    const LINEAR: &str = r#"{"kind": "linear"}"#;
    const GRM: &str = r#""aggregation": "grm""#;
    const SSC: &str = r#""aggregation": "ssc", "top_k": 3"#;

    #[test]
    fn of_an_embedding_the_rows_that_are_looked_up_are_touched() {
        // q, k, v, u, o of 8 × 8, a head of 3 × 8 with its bias, and a row of 8.
        let fixed = 4 * (5 * 64 + 24 + 3);
        let weights = |run| touched_by(LINEAR, GRM, Dtype::F32, 0, run).weights;
        let rows = |run| (weights(run) - fixed) / 32;
        assert_eq!([rows((1, 1)), rows((3, 1)), rows((3, 4)), rows((100, 5))], [1, 3, 12, 300]);
    }

    #[test]
    fn a_live_checkpoint_is_a_memory_and_a_context_of_each_head() {
        let bytes = |caching: &str, dtype, fill| touched_by(LINEAR, caching, dtype, fill, (1, 1)).cache;
        // Two heads; a memory of 16 and a context of 4, which is f32 whatever the memory is.
        assert_eq!(bytes(GRM, Dtype::F32, 7), 7 * 2 * (16 * 4 + 4 * 4));
        assert_eq!(bytes(GRM, Dtype::F16, 7), 7 * 2 * (16 * 2 + 4 * 4));
        assert_eq!(bytes(GRM, Dtype::I8, 7), 7 * 2 * (16 + 4 + 4 * 4));
        assert_eq!(bytes(SSC, Dtype::F32, 50), 2 * (3 * 16 * 4 + 50 * 4 * 4));
        assert_eq!(bytes(SSC, Dtype::I8, 2), 2 * (2 * (16 + 4) + 2 * 4 * 4));
        assert_eq!(bytes(r#""aggregation": "residual""#, Dtype::F32, 7), 7 * 2 * 16 * 4);
        assert_eq!(bytes(r#""aggregation": "none""#, Dtype::F32, 0), 0);
        assert_eq!(touched_by(LINEAR, GRM, Dtype::F32, 7, (3, 1)).cache, 3 * 7 * 2 * (16 * 4 + 4 * 4));
    }

    #[test]
    fn state_is_read_and_written() {
        let state = |batch| touched_by(LINEAR, GRM, Dtype::F32, 9, (batch, 1)).state;
        assert_eq!([state(1), state(3)], [2 * 2 * (16 + 4) * 4, 3 * 2 * 2 * (16 + 4) * 4]);
    }
}
