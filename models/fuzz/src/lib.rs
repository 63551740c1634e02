//! What holds for any bytes that come in by one of this crate's doors: the body of every fuzz target.
//!
//! `tests/fuzz_corpus.rs` includes this file too, and runs it on the corpus without a fuzzer.

#[path = "../../tests/common/checkpoint.rs"]
pub mod checkpoint;
mod onnx;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use checkpoint::Checkpoint;
use mcedge_models::contract::Contract;
use mcedge_models::spec::{Aggregation, Spec};
use mcedge_models::{Golden, Model, Settings, Weights, parameters, recurrent_from_state_dict};
use serde_json::{Value, json};

/// `config.json`: what parses lists its parameters, and comes back from JSON as it was.
pub fn config(bytes: &[u8]) {
    let Ok(spec) = Spec::parse(bytes) else { return };
    check_spec(&spec);
    assert!(Spec::parse(&[bytes, b"0"].concat()).is_err(), "more behind the end is no config.json");
}

fn check_spec(spec: &Spec) {
    let json = serde_json::to_vec(spec).expect("a spec is plain data");
    assert_eq!(&Spec::parse(&json).expect("what was written"), spec);
    let mut names = BTreeSet::new();
    for parameter in parameters(spec) {
        let elements = parameter.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        assert!(elements.is_some_and(|n| n > 0), "{parameter:?} has no number of elements");
        assert!(names.insert(parameter.name.clone()), "{parameter:?} twice");
    }
}

/// `model.safetensors`, `golden.safetensors`, and the state dictionary of a GRU or an LSTM: what is read comes back from
/// a file as it was.
pub fn safetensors(bytes: &[u8]) {
    convert(bytes);
    for spec in SPECS.iter() {
        if let Ok(weights) = Weights::from_safetensors(bytes, spec) {
            check_weights(&weights, spec);
        }
    }
    if let Ok(golden) = Golden::from_safetensors(bytes) {
        // The bytes, for a recorded run may hold NaN.
        let written = golden.to_safetensors().expect("what was read");
        let again = Golden::from_safetensors(&written).expect("what was written");
        assert_eq!(again.to_safetensors().expect("what was read"), written);
    }
}

/// `mcedge convert`.
fn convert(bytes: &[u8]) {
    let mut settings = Settings::new("converted");
    settings.aggregation = Some(Aggregation::Residual);
    (settings.heads, settings.segment_tokens) = (Some(1), Some(2));
    if let Ok(converted) = recurrent_from_state_dict(bytes, &settings) {
        check_model(&converted.model);
    }
}

fn check_model(Model { spec, weights }: &Model) {
    check_spec(spec);
    // A state dictionary of a wide input makes a model much larger than itself.
    if weights.iter().map(|(_, tensor)| tensor.data.len()).sum::<usize>() <= 1 << 20 {
        check_weights(weights, spec);
    }
}

fn check_weights(weights: &Weights, spec: &Spec) {
    let written = weights.to_safetensors().expect("what was read");
    assert_eq!(&Weights::from_safetensors(&written, spec).expect("what was written"), weights);
    assert!(weights.iter().all(|(_, tensor)| tensor.data.iter().all(|x| x.is_finite())), "not finite");
}

/// A small model of every kind of memory: two channels, two outputs, d_model 2.
pub static SPECS: LazyLock<Vec<Spec>> = LazyLock::new(|| {
    let deep = json!({"depth": 2, "width": 1, "bias": true, "objective": "l2", "step_size": "input"});
    let with_kind = |kind: &str, mut memory: Value| {
        memory["kind"] = json!(kind);
        memory
    };
    let memories = [
        (json!({"kind": "linear"}), "grm"),
        (json!({"kind": "swla", "alpha": "input", "beta": 0.5, "lambda": 1}), "none"),
        (with_kind("dla", deep.clone()), "residual"),
        (with_kind("titans", deep), "soup"),
        (json!({"kind": "gated_delta", "alpha": 1, "beta": "input"}), "mean"),
        (json!({"kind": "attention", "window": 2}), "none"),
        (json!({"kind": "gru"}), "sigmoid"),
        (json!({"kind": "lstm"}), "none"),
    ];
    memories.into_iter().map(|(memory, aggregation)| small(memory, aggregation)).collect()
});

fn small(memory: Value, aggregation: &str) -> Spec {
    // One of the two inputs, and the MLP that few have, by turns.
    let input = match aggregation {
        "none" => json!({"kind": "tokens", "vocab_size": 2}),
        _ => json!({"kind": "features", "size": 2}),
    };
    let config = json!({
        "format": "mcedge/1", "name": "small", "d_model": 2, "input": input,
        "blocks": [{
            "norm": "rms_norm", "num_heads": 1, "memory": memory, "mlp": {"width": 1},
            "caching": {
                "aggregation": aggregation, "segmentation": {"kind": "constant", "size": 2}, "init": "continue",
            },
        }],
        "head": {"kind": "regression", "size": 2},
    });
    Spec::parse(config.to_string().as_bytes()).expect("a config of ours")
}

/// `.pt`: an archive as it is; anything else is taken for the pickle of one, which the archive's checksums would keep
/// from the fuzzer. What is read comes back from a model directory's files as it was.
pub fn pt(bytes: &[u8]) {
    static AROUND: LazyLock<Checkpoint> = LazyLock::new(|| Checkpoint::new("titans", "ssc"));
    let wrapped = (!bytes.starts_with(b"PK")).then(|| AROUND.around(bytes.to_vec()));
    let archive = wrapped.as_deref().unwrap_or(bytes);
    if let Ok(model) = Model::from_checkpoint(archive) {
        check_model(&model);
    }
    convert(archive);
}

/// A contract, as JSON or inside an `.onnx`: what parses has tensors and shapes, and comes back from JSON as it was.
pub fn contract(bytes: &[u8]) {
    if let Ok(contract) = Contract::from_onnx(bytes) {
        check_contract(&contract);
    }
    let Ok(json) = std::str::from_utf8(bytes) else { return };
    let Ok(contract) = Contract::parse(json) else { return };
    check_contract(&contract);
    assert_eq!(Contract::from_onnx(&onnx::around(json)).expect("the same JSON"), contract);
}

fn check_contract(contract: &Contract) {
    assert_eq!(&Contract::parse(&contract.to_json()).expect("what was written"), contract);
    for block in &contract.blocks {
        let function = &block.memory;
        let tensors = function.tensors();
        assert!(!tensors.is_empty(), "a memory of nothing");
        tensors.iter().for_each(|tensor| assert!(function.dtype(tensor).size() > 0));
        for role in function.inputs().into_iter().chain(function.outputs()) {
            let (_, shape) = function.shape(role, contract.capacity);
            let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
            assert!(elements.is_some_and(|n| n > 0), "{role:?} of shape {shape:?}");
        }
    }
}
