//! What benches share: models that nobody trained, and the median of their times.

use std::collections::BTreeMap;
use std::time::Duration;

use mcedge_models::spec::Spec;
use mcedge_models::{Tensor, Weights, parameters};

pub type Error = Box<dyn std::error::Error>;

/// Whether a bench is asked for: all are, or those whose name has a word of the command line in it.
pub fn wanted(name: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--")).peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}

pub fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Two blocks of `memory`, d_model 128 and 4 heads, over bytes, in segments of `segment` tokens that start from `init`.
pub fn config(memory: &str, segment: usize, init: &str) -> String {
    let block = format!(
        r#"{{"norm": "layer_norm", "num_heads": 4, "normalize_qk": true, "memory": {memory},
            "caching": {{"aggregation": "grm", "init": "{init}",
                         "segmentation": {{"kind": "constant", "size": {segment}}}}}}}"#
    );
    format!(
        r#"{{"format": "mcedge/1", "name": "bench", "input": {{"kind": "tokens", "vocab_size": 256}}, "d_model": 128,
            "blocks": [{block}, {block}], "final_norm": true, "head": {{"kind": "logits", "size": 256}}}}"#
    )
}

/// Weights like those of an untrained model: uniform, scaled by the fan-in.
pub fn weights(spec: &Spec) -> Result<Weights, Error> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut tensors = BTreeMap::new();
    for parameter in parameters(spec) {
        let scale = 1.0 / (*parameter.shape.last().unwrap_or(&1) as f32).sqrt();
        let data = (0..parameter.shape.iter().product()).map(|_| uniform() * scale).collect();
        tensors.insert(parameter.name, Tensor { shape: parameter.shape, data });
    }
    Ok(Weights::new(tensors, spec)?)
}
