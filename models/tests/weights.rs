//! The door of `model.safetensors`: every way to be wrong has its own message, and no bytes panic.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;

use std::collections::BTreeMap;

use common::{caching, config, mutate, random_tensors, random_weights, spec, titans};
use mcedge_models::{Tensor, Weights, parameters, write_safetensors};
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

/// Names of the parameters, optional ones with a `?`.
fn names(config: &Value) -> Vec<String> {
    let list = parameters(&spec(config)).into_iter();
    list.map(|p| format!("{}{}", p.name, if p.optional { "?" } else { "" })).collect()
}

/// The names of the first block, `blocks.0.` taken off.
fn block_names(config: &Value) -> String {
    let names = names(config);
    names.iter().filter_map(|name| name.strip_prefix("blocks.0.")).collect::<Vec<_>>().join(" ")
}

/// Changes a good model's tensors and returns the message.
fn message(config: &Value, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> String {
    let spec = spec(config);
    let mut tensors = random_tensors(&spec, 1);
    change(&mut tensors);
    Weights::new(tensors, &spec).unwrap_err().to_string()
}

#[test]
fn parameters_follow_the_config() {
    let linear = json!({"kind": "linear"});
    let mix = "norm.weight norm.bias mix.q.weight mix.k.weight mix.v.weight";
    let check = |memory: &Value, caching: Value, expected: &str| {
        assert_eq!(block_names(&config(memory.clone(), caching)), expected);
    };
    check(&linear, caching("none"), &format!("{mix} mix.o.weight memory.init.m?"));
    check(&linear, caching("grm"), &format!("{mix} mix.u.weight mix.o.weight memory.init.m?"));
    let mut by_query = caching("soup");
    by_query["query"] = json!("q");
    check(&linear, by_query, &format!("{mix} mix.o.weight memory.init.m?"));
    let swla = json!({"kind": "swla", "alpha": "input", "beta": 0.1, "lambda": 1.0});
    let alpha = "memory.alpha.weight memory.alpha.bias";
    check(&swla, caching("mean"), &format!("{mix} mix.o.weight memory.init.m? {alpha}"));
    let layers = "memory.init.w1? memory.init.b1? memory.init.w2? memory.init.b2?";
    check(&titans(), caching("ssc"), &format!("{mix} mix.u.weight mix.o.weight {layers}"));
    let mut dla = titans();
    dla["kind"] = json!("dla");
    dla["bias"] = json!(false);
    dla["step_size"] = json!("input");
    let eta = "memory.init.w1? memory.init.w2? memory.eta.weight memory.eta.bias";
    check(&dla, caching("residual"), &format!("{mix} mix.o.weight {eta}"));
    let cell = "memory.weight_ih memory.weight_hh memory.bias_ih memory.bias_hh";
    let norm = "norm.weight norm.bias";
    check(&json!({"kind": "gru"}), caching("none"), &format!("{norm} mix.o.weight? {cell}"));
    let gated = format!("{norm} mix.k.weight mix.u.weight mix.o.weight? {cell}");
    check(&json!({"kind": "lstm"}), caching("grm"), &gated);
    let gate = format!("{norm} mix.o.weight? {cell} memory.gate.weight memory.gate.bias");
    check(&json!({"kind": "lstm"}), caching("sigmoid"), &gate);
}

#[test]
fn parameters_outside_the_blocks_follow_the_config() {
    let mut config = config(json!({"kind": "linear"}), caching("none"));
    config["blocks"][0]["norm"] = json!("rms_norm");
    config["blocks"][0]["mlp"] = json!({"width": 5});
    config["input"] = json!({"kind": "tokens", "vocab_size": 11});
    config["final_norm"] = json!(true);
    let outer: Vec<_> = names(&config).into_iter().filter(|name| !name.contains("blocks")).collect();
    assert_eq!(outer, ["embed.weight", "norm.weight", "norm.bias", "head.weight", "head.bias?"]);
    let mix = "norm.weight mix.q.weight mix.k.weight mix.v.weight mix.o.weight memory.init.m?";
    let mlp = "mlp_norm.weight mlp.up.weight mlp.up.bias mlp.down.weight mlp.down.bias";
    assert_eq!(block_names(&config), format!("{mix} {mlp}"));
}

#[test]
fn shapes_are_pytorch_order_and_head_by_head() {
    let mut gru = config(json!({"kind": "gru"}), caching("none"));
    gru["blocks"][0]["mlp"] = json!({"width": 5});
    let shape = |config: &Value, name: &str| {
        parameters(&spec(config)).into_iter().find(|p| p.name == name).unwrap().shape
    };
    assert_eq!(shape(&gru, "input.weight"), [8, 3]);
    assert_eq!(shape(&gru, "head.weight"), [2, 8]);
    assert_eq!(shape(&gru, "blocks.0.memory.weight_ih"), [24, 8]);
    assert_eq!(shape(&gru, "blocks.0.mlp.up.weight"), [5, 8]);
    let deep = config(titans(), caching("none"));
    assert_eq!(shape(&deep, "blocks.0.memory.init.w1"), [2, 6, 4]);
    assert_eq!(shape(&deep, "blocks.0.memory.init.b2"), [2, 4]);
    let lstm = config(json!({"kind": "lstm"}), caching("sigmoid"));
    assert_eq!(shape(&lstm, "blocks.0.memory.bias_hh"), [32]);
    assert_eq!(shape(&lstm, "blocks.0.memory.gate.weight"), [8, 16]);
}

#[test]
fn each_fault_has_its_own_message() {
    let config = config(titans(), caching("grm"));
    let tensor = |shape: &[usize]| Tensor { shape: shape.to_vec(), data: vec![0.5; shape.iter().product()] };
    let q = "blocks.0.mix.q.weight";
    let missing = message(&config, |tensors| drop(tensors.remove(q)));
    assert_eq!(missing, format!("`{q}` is missing, the model declares it with shape [8, 8]"));
    let shape = message(&config, |tensors| drop(tensors.insert(q.into(), tensor(&[8, 4]))));
    assert_eq!(shape, format!("`{q}` has shape [8, 4], the model declares [8, 8]"));
    let transposed = message(&config, |tensors| drop(tensors.insert("head.weight".into(), tensor(&[8, 2]))));
    assert_eq!(transposed, "`head.weight` has shape [8, 2], the model declares [2, 8]");
    for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let message = message(&config, |tensors| tensors.get_mut(q).unwrap().data[5] = value);
        assert_eq!(message, format!("`{q}` holds {word} at element 5, expected finite numbers"));
    }
    let length = message(&config, |tensors| tensors.get_mut(q).unwrap().data.truncate(63));
    assert_eq!(length, format!("`{q}` of shape [8, 8] holds 63 numbers"));
}

#[test]
fn an_extra_tensor_says_what_keeps_it_out() {
    let check = |memory: Value, aggregation: &str, name: &str, expected: &str| {
        let message = message(&config(memory, caching(aggregation)), |tensors| {
            tensors.insert(name.into(), Tensor { shape: vec![1], data: vec![0.0] });
        });
        assert_eq!(message, format!("`{name}` has no place in the model: {expected}"));
    };
    let linear = || json!({"kind": "linear"});
    check(linear(), "mean", "blocks.0.mix.u.weight", "aggregation mean makes no scores");
    check(linear(), "mean", "blocks.1.mix.q.weight", "it has 1 blocks, counted from 0");
    check(linear(), "mean", "blocks.0.mlp.up.weight", "`blocks[0].mlp` is absent");
    check(linear(), "mean", "norm.weight", "`final_norm` is false");
    check(linear(), "mean", "embed.weight", "`input.kind` is features");
    check(linear(), "mean", "_extra", "no such name in the format");
    let other = "a block with a memory of kind linear has no such name";
    check(linear(), "mean", "blocks.0.memory.init.w1", other);
    let gate = "the aggregation is none, not sigmoid";
    check(json!({"kind": "gru"}), "none", "blocks.0.memory.gate.weight", gate);
    let no_use = "a memory of kind gru with aggregation none has no use for it";
    check(json!({"kind": "gru"}), "none", "blocks.0.mix.q.weight", no_use);
    let constant = "the coefficient theta is not \"input\" in the config";
    check(titans(), "none", "blocks.0.memory.theta.weight", constant);
    let mut unbiased = titans();
    unbiased["bias"] = json!(false);
    check(unbiased, "none", "blocks.0.memory.init.b1", "`blocks[0].memory.bias` is false");
}

#[test]
fn optional_tensors_may_be_left_out() {
    let spec = spec(&config(titans(), caching("grm")));
    let mut tensors = random_tensors(&spec, 1);
    tensors.retain(|name, _| !name.contains("init") && name != "head.bias");
    let weights = Weights::new(tensors, &spec).unwrap();
    assert_eq!(weights.get("head.bias"), None);
}

#[test]
fn a_config_that_no_machine_holds_is_refused_before_anything_is_allocated() {
    let mut config = config(json!({"kind": "linear"}), caching("none"));
    config["d_model"] = json!(1 << 20);
    config["blocks"][0]["num_heads"] = json!(1);
    config["blocks"][0]["norm"] = json!("none");
    let error = Weights::new(BTreeMap::new(), &spec(&config)).unwrap_err().to_string();
    assert!(error.starts_with("`input.weight` is missing"), "{error}");
    let tensor = |shape: &[usize]| Tensor { shape: shape.to_vec(), data: Vec::new() };
    let tensors = [("input.weight", tensor(&[1 << 20, 3])), ("input.bias", tensor(&[1 << 20]))];
    let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into();
    let error = Weights::new(tensors, &spec(&config)).unwrap_err().to_string();
    let expected =
        "`blocks.0.mix.q.weight` would have shape [1048576, 1048576], expected at most 536870912 elements";
    assert_eq!(error, expected);
}

#[test]
fn files_round_trip() {
    let spec = spec(&config(titans(), caching("grm")));
    let weights = random_weights(&spec, 7);
    let bytes = weights.to_safetensors().unwrap();
    assert_eq!(Weights::from_safetensors(&bytes, &spec).unwrap(), weights);
}

/// The model's file with every tensor stored as `dtype`, element by element through `encode`.
fn stored_as(spec: &mcedge_models::spec::Spec, dtype: Dtype, encode: fn(f32) -> Vec<u8>) -> Vec<u8> {
    let tensors = random_tensors(spec, 3);
    let bytes: Vec<Vec<u8>> =
        tensors.values().map(|t| t.data.iter().flat_map(|&x| encode(x)).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, tensor), bytes)| (name, TensorView::new(dtype, tensor.shape.clone(), bytes).unwrap()));
    serialize(views, None).unwrap()
}

#[test]
fn half_precision_becomes_f32_and_other_types_are_refused() {
    let spec = spec(&config(json!({"kind": "linear"}), caching("none")));
    let expected = random_tensors(&spec, 3);
    let check = |bytes: &[u8], epsilon: f32| {
        let weights = Weights::from_safetensors(bytes, &spec).unwrap();
        for (name, tensor) in weights.iter() {
            for (found, expected) in tensor.data.iter().zip(&expected[name].data) {
                assert!((found - expected).abs() <= epsilon * expected.abs().max(1e-3), "{name}");
            }
        }
    };
    check(&stored_as(&spec, Dtype::F32, |x| x.to_le_bytes().into()), 0.0);
    check(&stored_as(&spec, Dtype::F16, |x| half::f16::from_f32(x).to_le_bytes().into()), 5e-4);
    check(&stored_as(&spec, Dtype::BF16, |x| half::bf16::from_f32(x).to_le_bytes().into()), 4e-3);
    let double = stored_as(&spec, Dtype::F64, |x| f64::from(x).to_le_bytes().into());
    let error = Weights::from_safetensors(&double, &spec).unwrap_err().to_string();
    assert_eq!(error, "`blocks.0.memory.init.m` has type F64, expected F32, F16 or BF16");
    let infinite = stored_as(&spec, Dtype::F16, |_| half::f16::INFINITY.to_le_bytes().into());
    let error = Weights::from_safetensors(&infinite, &spec).unwrap_err().to_string();
    assert_eq!(error, "`blocks.0.memory.init.m` holds inf at element 0, expected finite numbers");
}

#[test]
fn no_bytes_panic_and_no_truncation_passes() {
    let spec = spec(&config(json!({"kind": "linear"}), caching("none")));
    let bytes = random_weights(&spec, 5).to_safetensors().unwrap();
    let full = bytes.len();
    mutate(&bytes, 20_000, |bytes| {
        let result = Weights::from_safetensors(bytes, &spec);
        if bytes.len() < full {
            let error = result.unwrap_err().to_string();
            assert!(error.starts_with("not a safetensors file: "), "{error}");
        }
    });
}

#[test]
fn a_tensor_that_contradicts_itself_is_not_written() {
    let tensors = [("x".to_owned(), Tensor { shape: vec![3], data: vec![0.0; 2] })].into();
    assert!(write_safetensors(&tensors).is_err());
}
