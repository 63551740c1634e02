//! What benches share: models that nobody trained, and the median of their times.

use std::time::Duration;

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
