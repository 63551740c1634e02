//! Small models for the tests, and a way to read what was exported that shares nothing with the exporter.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod client;
pub mod interpreter;
pub mod proto;

use std::collections::BTreeMap;

use mcedge_models::spec::Spec;
use mcedge_models::{Tensor, Weights, parameters};

pub const LINEAR: &str = r#"{"kind": "linear"}"#;
pub const GRU: &str = r#"{"kind": "gru"}"#;
pub const DLA: &str = r#"{"kind": "dla", "depth": 2, "width": 5, "bias": true, "objective": "dot", "step_size": 0.03,
    "momentum": 0.5}"#;
pub const TITANS: &str = r#"{"kind": "titans", "depth": 3, "width": 5, "skip": true, "objective": "l2",
    "step_size": 0.02, "momentum": 0.8, "retention": 0.98}"#;

pub const LSTM: &str = r#"{"kind": "lstm"}"#;
pub const NORMALIZED: &str = r#"{"kind": "linear", "feature_map": "elu1", "normalized": true}"#;
pub const SWLA: &str = r#"{"kind": "swla", "alpha": 0.9, "beta": -0.3, "lambda": 0.6}"#;
pub const SWLA_INPUT: &str = r#"{"kind": "swla", "alpha": "input", "beta": 0.4, "lambda": "input"}"#;
pub const DELTA: &str = r#"{"kind": "gated_delta", "alpha": "input", "beta": "input"}"#;
pub const DECAY: &str = r#"{"kind": "gated_delta", "alpha": 0.9, "beta": "input", "correction": false}"#;
pub const ATTENTION: &str = r#"{"kind": "attention", "window": 4}"#;

/// `caching` of segments of three tokens; `more` is further keys, each with a comma behind.
pub fn caching(aggregation: &str, init: &str, more: &str) -> String {
    let top_k = if aggregation == "ssc" { r#""top_k": 2,"# } else { "" };
    format!(
        r#"{{{top_k} {more} "aggregation": "{aggregation}", "init": "{init}",
            "segmentation": {{"kind": "constant", "size": 3}}}}"#
    )
}

/// A block of two heads; `more` as in [`caching`].
pub fn block(memory: &str, caching: &str, more: &str) -> String {
    format!(r#"{{{more} "norm": "layer_norm", "num_heads": 2, "memory": {memory}, "caching": {caching}}}"#)
}

/// A model of d_model 6, three channels in and two numbers out.
pub fn spec(blocks: &[String]) -> Spec {
    let input = r#"{"kind": "features", "size": 3, "mean": [1, 0, -1], "std": [2, 1, 0.5]}"#;
    spec_of(input, blocks, r#"{"kind": "regression", "size": 2}"#)
}

pub fn spec_of(input: &str, blocks: &[String], head: &str) -> Spec {
    let json = format!(
        r#"{{"format": "mcedge/1", "name": "test", "input": {input}, "d_model": 6, "blocks": [{}],
            "final_norm": true, "head": {head}}}"#,
        blocks.join(",")
    );
    Spec::parse(json.as_bytes()).unwrap()
}

/// Weights that look random, every optional one among them.
pub fn weights(spec: &Spec) -> Weights {
    let mut noise = 1u32;
    let mut number = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let tensors: BTreeMap<String, Tensor> = parameters(spec)
        .into_iter()
        .map(|parameter| {
            let data = (0..parameter.shape.iter().product()).map(|_| number()).collect();
            (parameter.name, Tensor { shape: parameter.shape, data })
        })
        .collect();
    Weights::new(tensors, spec).unwrap()
}
