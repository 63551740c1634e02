//! What a step graph computes: the reference's outputs, through the contract alone.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;

use std::collections::HashMap;

use common::interpreter::{Value, run};
use common::{DLA, GRU, LINEAR, TITANS, block, caching, proto, spec, spec_of, weights};
use mcedge_export::{Bundle, Options, bundle};
use mcedge_models::Golden;
use mcedge_models::contract::{Contract, Reset, Scale};
use mcedge_models::spec::Spec;
use mcedge_models::{Samples, Weights};
use ndarray::{Array2, ArrayD, Axis, IxDyn};
use prost::Message;
use safetensors::SafeTensors;

const CAPACITY: usize = 3;
const TOLERANCE: f32 = 1e-5;

/// Runs a bundle's golden run as a client does that knows the contract only. Slots without a checkpoint hold NaN.
fn check(case: &str, spec: &Spec) {
    check_with(case, spec, &weights(spec));
}

fn check_with(case: &str, spec: &Spec, weights: &Weights) {
    let options = Options { capacity: CAPACITY, ..Options::default() };
    let bundle = bundle(spec, weights, options).unwrap();
    let golden = Golden::from_safetensors(&bundle.golden).unwrap();
    assert!(golden.input.len() >= 7, "{case}: {:?}", bundle.warnings);
    let found = client(&bundle, &golden.input);
    for (t, (found, expected)) in found.rows().into_iter().zip(golden.output.rows()).enumerate() {
        for (found, expected) in found.iter().zip(expected) {
            let error = (found - expected).abs() / expected.abs().max(1.0);
            assert!(error <= TOLERANCE, "{case}: token {t}: {found}, the reference has {expected}");
        }
    }
}

fn client(bundle: &Bundle, input: &Samples) -> Array2<f32> {
    let model = proto::Model::decode(&bundle.step[..]).unwrap();
    let contract = Contract::from_onnx(&bundle.step).unwrap();
    let size = contract.segment_tokens().unwrap();
    let initial = initial_state(&bundle.initial_state);
    let (mut state, mut cache) = (initial.clone(), HashMap::new());
    for tensor in &contract.cache {
        cache.insert(tensor.name.clone(), ArrayD::from_elem(IxDyn(&tensor.shape), f32::NAN));
    }
    let mut output = Array2::zeros((input.len(), contract.output.size));
    for t in 0..input.len() {
        let (inside, live) = (t % size, (t / size).min(contract.capacity));
        let mut scope = HashMap::from([
            ("input".to_owned(), sample(input, t)),
            ("segment.length".to_owned(), Value::I(ArrayD::from_elem(IxDyn(&[1]), inside as i64))),
            ("cache.length".to_owned(), Value::I(ArrayD::from_elem(IxDyn(&[1]), live as i64))),
        ]);
        let tensors = state.iter().chain(&cache);
        scope.extend(tensors.map(|(name, array)| (name.clone(), Value::F(array.clone()))));
        let made = run(&model, scope);
        output
            .row_mut(t)
            .assign(&made["output"].f().clone().into_shape_with_order(contract.output.size).unwrap());
        for tensor in &contract.state {
            state.insert(tensor.past.clone(), made[&tensor.present].f().clone());
        }
        if inside + 1 < size {
            continue;
        }
        for tensor in &contract.cache {
            let divisor = if tensor.scale == Scale::Mean { size as f32 } else { 1.0 };
            let slots = cache.get_mut(&tensor.name).unwrap();
            slots
                .index_axis_mut(Axis(tensor.slot_axis), t / size % contract.capacity)
                .assign(&made[&tensor.from].f().mapv(|x| x / divisor));
        }
        for tensor in contract.state.iter().filter(|tensor| tensor.reset != Reset::Never) {
            state.insert(tensor.past.clone(), initial[&tensor.past].clone());
        }
    }
    output
}

fn initial_state(bytes: &[u8]) -> HashMap<String, ArrayD<f32>> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let array = |view: safetensors::tensor::TensorView<'_>| {
        let data = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        ArrayD::from_shape_vec(view.shape(), data).unwrap()
    };
    file.tensors().into_iter().map(|(name, view)| (name, array(view))).collect()
}

fn sample(input: &Samples, t: usize) -> Value {
    match input {
        Samples::Features(rows) => {
            Value::F(rows.row(t).to_owned().insert_axis(Axis(0)).insert_axis(Axis(0)).into_dyn())
        }
        Samples::Tokens(ids) => Value::I(ArrayD::from_elem(IxDyn(&[1, 1]), ids[t])),
    }
}

#[test]
fn every_memory_and_aggregation_is_the_reference() {
    for memory in [LINEAR, DLA, TITANS] {
        for aggregation in ["none", "residual", "grm", "soup", "ssc", "mean"] {
            for init in ["continue", "restart"] {
                let block = block(memory, &caching(aggregation, init, ""), "");
                check(&format!("{aggregation} {init} {memory}"), &spec(&[block]));
            }
        }
    }
}

#[test]
fn a_gru_is_the_reference_with_every_surrounding() {
    for init in ["continue", "restart"] {
        for heads in [1, 2] {
            for more in ["", r#""residual": false,"#, r#""mlp": {"width": 7}, "residual": false,"#] {
                let gru = block(GRU, &caching("none", init, ""), more)
                    .replace(r#""num_heads": 2"#, &format!(r#""num_heads": {heads}"#));
                check(&format!("{init} {heads} {more}"), &spec(std::slice::from_ref(&gru)));
                let ssc = block(LINEAR, &caching("ssc", init, ""), "");
                check(&format!("{init} {heads} {more} and ssc"), &spec(&[gru, ssc]));
            }
        }
    }
}

#[test]
fn a_gru_without_an_output_projection_is_the_reference() {
    let bare = block(GRU, &caching("none", "restart", ""), r#""residual": false,"#);
    let spec = spec(&[bare]);
    let all = weights(&spec);
    let kept = all.iter().filter(|(name, _)| !name.ends_with("mix.o.weight"));
    let kept = kept.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    check_with("without o", &spec, &Weights::new(kept, &spec).unwrap());
}

#[test]
fn queries_contexts_and_temperatures_are_the_reference() {
    for (memory, aggregation) in [(LINEAR, "grm"), (DLA, "soup"), (TITANS, "ssc")] {
        for query in ["u", "q"] {
            for context in ["sum", "mean"] {
                let more = format!(r#""query": "{query}", "context": "{context}", "temperature": 0.7,"#);
                let caching = caching(aggregation, "continue", &more);
                let block = block(memory, &caching, r#""normalize_qk": true,"#);
                check(&format!("{aggregation} {more}"), &spec(&[block]));
            }
        }
    }
}

#[test]
fn every_gradient_is_the_reference() {
    for kind in ["dla", "titans"] {
        for objective in ["l2", "dot"] {
            for (depth, bias, skip) in
                [(2, false, false), (2, true, true), (3, true, false), (4, false, true)]
            {
                for rest in [r#""momentum": 0.7"#, r#""retention": 0.9"#] {
                    let memory = format!(
                        r#"{{"kind": "{kind}", "depth": {depth}, "width": 4, "bias": {bias}, "skip": {skip},
                            "objective": "{objective}", "step_size": 0.05, {rest}}}"#
                    );
                    check(&memory, &spec(&[block(&memory, &caching("grm", "continue", ""), "")]));
                }
            }
        }
    }
}

#[test]
fn a_sign_of_paper_is_the_reference() {
    let memory = r#"{"kind": "titans", "depth": 2, "width": 4, "objective": "l2", "step_size": 0.01,
        "momentum": 0.5, "sign": "paper"}"#;
    check("paper", &spec(&[block(memory, &caching("grm", "restart", ""), "")]));
}

#[test]
fn blocks_norms_inputs_and_heads_are_the_reference() {
    let features = r#"{"kind": "features", "size": 3}"#;
    let tokens = r#"{"kind": "tokens", "vocab_size": 11}"#;
    let heads = [
        r#"{"kind": "logits", "size": 4}"#,
        r#"{"kind": "regression", "size": 2, "mean": [3, -1], "std": [2, 0.5]}"#,
        r#"{"kind": "classification", "size": 2, "labels": ["calm", "wild"]}"#,
    ];
    for input in [features, tokens] {
        for (head, norm) in heads.iter().zip(["layer_norm", "rms_norm", "none"]) {
            let blocks = [(LINEAR, "grm"), (TITANS, "ssc"), (DLA, "mean")].map(|(memory, aggregation)| {
                let more = r#""mlp": {"width": 7},"#;
                let block = block(memory, &caching(aggregation, "restart", ""), more);
                block.replace("layer_norm", norm)
            });
            // Without norms, three blocks of random weights amplify roundings too much to compare.
            let blocks = if norm == "none" { &blocks[..1] } else { &blocks[..] };
            check(&format!("{input} {norm} {head}"), &spec_of(input, blocks, head));
        }
    }
}
