//! The fuzz target, on the inputs that fuzzing found worth keeping: `fuzz/corpus`.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

#[path = "../../models/tests/common/bounded.rs"]
mod bounded;
#[path = "../fuzz/src/lib.rs"]
mod checks;

use std::fs;
use std::path::{Path, PathBuf};

use mcedge_export::{Options, bundle, step_graph};
use mcedge_models::contract::Dtype;
use mcedge_models::spec::{Spec, SpecError};
use mcedge_models::{Tensor, Weights, parameters};
use serde_json::{Value, json};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(target)
}

#[test]
fn a_bundle_is_run_or_refused() {
    let files = fs::read_dir(corpus("fuzz/corpus/bundle")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.collect();
    assert!(!files.is_empty(), "no corpus of bundle");
    for file in files {
        // Shown when the check panics.
        eprintln!("{}", file.display());
        checks::bundle(&fs::read(&file).unwrap());
    }
}

/// Bundles that the target gets deep with, for a corpus to start from, and their contracts for that of the models crate.
#[test]
#[ignore = "writes into fuzz/corpus and models/fuzz/corpus"]
fn write_seeds() {
    let [bundles, contracts] = ["fuzz/corpus/bundle", "../models/fuzz/corpus/contract"].map(corpus);
    [&bundles, &contracts].into_iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    let deep = |kind: &str| {
        json!({"kind": kind, "depth": 2, "width": 1, "bias": true, "objective": "l2", "step_size": 0.1,
               "momentum": 0.5})
    };
    let from_input = |kind: &str, names: &[&str]| {
        let coefficients = names.iter().map(|name| ((*name).to_owned(), json!("input")));
        Value::Object([("kind".to_owned(), json!(kind))].into_iter().chain(coefficients).collect())
    };
    let memories = [
        json!({"kind": "linear", "feature_map": "elu1", "normalized": true}),
        from_input("swla", &["alpha", "beta", "lambda"]),
        deep("dla"),
        deep("titans"),
        from_input("gated_delta", &["alpha", "beta"]),
        json!({"kind": "attention", "window": 3}),
        json!({"kind": "gru"}),
        json!({"kind": "lstm"}),
    ];
    let segmentations = [
        json!({"kind": "constant", "size": 3}),
        json!({"kind": "logarithmic"}),
        json!({"kind": "surprise", "window": 4, "threshold": 1.5, "min_size": 2, "max_size": 4}),
    ];
    let dtypes = [Dtype::F32, Dtype::F16, Dtype::I8];
    let mut seeds = 0;
    for (i, memory) in memories.iter().enumerate() {
        for (j, aggregation) in
            ["none", "residual", "grm", "soup", "ssc", "mean", "sigmoid"].into_iter().enumerate()
        {
            let Ok(spec) = small(memory, aggregation, &segmentations[(i + j) % 3]) else { continue };
            let weights = Weights::new(parameters(&spec).into_iter().map(tensor).collect(), &spec).unwrap();
            let options = Options {
                capacity: 2,
                cache_dtype: dtypes[j % 3],
                chunk: 1 + i % 4,
                batch: 1 + j % 2,
                gates: true,
            };
            let Ok(graph) = step_graph(&spec, &weights, options) else { continue };
            let json = graph.contract().to_json();
            fs::write(contracts.join(format!("seed-{seeds}")), &json).unwrap();
            let joined = |step: &[u8], initial: &[u8]| {
                [&u32::try_from(step.len()).unwrap().to_le_bytes(), step, initial].concat()
            };
            fs::write(bundles.join(format!("seed-{seeds}")), joined(json.as_bytes(), &[])).unwrap();
            if i < 3 && aggregation == "none" {
                let bundle = bundle(&spec, &weights, options).unwrap();
                let bytes = joined(&bundle.step, &bundle.initial_state);
                fs::write(bundles.join(format!("seed-{seeds}-whole")), bytes).unwrap();
                fs::write(contracts.join(format!("seed-{seeds}-onnx")), &bundle.step).unwrap();
            }
            seeds += 1;
        }
    }
    assert!(seeds > 30, "only {seeds} exported");
}

fn small(memory: &Value, aggregation: &str, segmentation: &Value) -> Result<Spec, SpecError> {
    let mut caching = json!({"aggregation": aggregation, "segmentation": segmentation, "init": "continue"});
    if aggregation == "ssc" {
        caching["top_k"] = json!(1);
    }
    let config = json!({
        "format": "mcedge/1", "name": "small", "d_model": 2, "input": {"kind": "features", "size": 1},
        "blocks": [{"norm": "none", "num_heads": 1, "memory": memory, "caching": caching}],
        "head": {"kind": "regression", "size": 1, "mean": [0], "std": [1]},
    });
    Spec::parse(config.to_string().as_bytes())
}

fn tensor(parameter: mcedge_models::Parameter) -> (String, Tensor) {
    let elements = parameter.shape.iter().product();
    (parameter.name, Tensor { shape: parameter.shape, data: vec![0.125; elements] })
}
