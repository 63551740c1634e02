//! What benches share: models that nobody trained, and the median of their times.

pub type Error = Box<dyn std::error::Error>;

/// Whether a bench is asked for: all are, or those whose name has a word of the command line in it.
pub fn wanted(name: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--")).peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}

/// The middle one; the upper of two.
pub fn median<T: Copy + PartialOrd>(times: &mut [T]) -> T {
    times.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    times[times.len() / 2]
}

/// What the benches' models are, in the shape of which DESIGN.md speaks.
pub struct Shape<'a> {
    /// `memory` of the configuration.
    pub memory: &'a str,
    /// `aggregation`, and what else belongs to it.
    pub aggregation: &'a str,
    /// Tokens in a segment.
    pub segment: usize,
    /// `init`.
    pub init: &'a str,
}

impl Default for Shape<'_> {
    /// Linear memory under `grm`, in segments of 32 tokens that start anew.
    fn default() -> Self {
        Self { memory: LINEAR, aggregation: r#""grm""#, segment: 32, init: "restart" }
    }
}

/// Linear memory.
pub const LINEAR: &str = r#"{"kind": "linear"}"#;
/// A memory of two layers that learns.
pub const TITANS: &str =
    r#"{"kind": "titans", "depth": 2, "width": 64, "objective": "l2", "step_size": 0.01, "momentum": 0.9}"#;

/// Two blocks of the shape, d_model 128 and 4 heads, over bytes.
pub fn config(shape: &Shape<'_>) -> String {
    let Shape { memory, aggregation, segment, init } = shape;
    let block = format!(
        r#"{{"norm": "layer_norm", "num_heads": 4, "normalize_qk": true, "memory": {memory},
            "caching": {{"aggregation": {aggregation}, "init": "{init}",
                         "segmentation": {{"kind": "constant", "size": {segment}}}}}}}"#
    );
    format!(
        r#"{{"format": "mcedge/1", "name": "bench", "input": {{"kind": "tokens", "vocab_size": 256}}, "d_model": 128,
            "blocks": [{block}, {block}], "final_norm": true, "head": {{"kind": "logits", "size": 256}}}}"#
    )
}
