//! What a bundle holds: names, shapes, order and roles, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;

use common::proto::{self, F16, F32, I64, Model, names};
use common::{DLA, GRU, LINEAR, TITANS, block, caching, spec, weights};
use mcedge_export::{Bundle, Error, Options, Warning, bundle, step_graph};
use mcedge_models::contract::{Contract, DOMAIN, Dtype, MemoryFunction, Reset, Role, Scale};
use mcedge_models::spec::{Aggregation, Memory, Spec};
use mcedge_models::{Golden, Tensor, Weights};
use prost::Message;
use safetensors::SafeTensors;

const OPTIONS: Options = Options { capacity: 3, cache_dtype: Dtype::F32 };

fn one(memory: &str, caching: &str) -> Spec {
    spec(&[block(memory, caching, "")])
}

fn export(spec: &Spec) -> Bundle {
    bundle(spec, &weights(spec), OPTIONS).unwrap()
}

fn model(bundle: &Bundle) -> Model {
    Model::decode(&bundle.step[..]).unwrap()
}

/// The name of a role's tensor in the function, from the contract's own words.
fn formal(function: &MemoryFunction, role: Role, side: &str) -> String {
    let tensor = |i: usize| function.tensors()[i].name.clone();
    match role {
        Role::Q => "q".into(),
        Role::K => "k".into(),
        Role::V => "v".into(),
        Role::U => "u".into(),
        Role::Y => "y".into(),
        Role::State(i) => format!("{side}.{}", tensor(i)),
        Role::Cache(i) => format!("cache.{}", tensor(i)),
        Role::SegmentLength => "segment.length".into(),
        Role::CacheLength => "cache.length".into(),
        role => unreachable!("{role:?} is no input of what is lowered"),
    }
}

#[test]
fn graphs_and_functions_have_the_names_shapes_and_order_of_the_contract() {
    for memory in [LINEAR, DLA, TITANS] {
        for aggregation in ["none", "residual", "grm", "soup", "ssc", "mean"] {
            for more in ["", r#""context": "sum", "query": "q","#] {
                check_structure(&one(memory, &caching(aggregation, "continue", more)));
            }
        }
    }
    for aggregation in ["none", "grm"] {
        let gru = block(GRU, &caching("none", "continue", ""), "");
        check_structure(&spec(&[gru.clone(), block(LINEAR, &caching(aggregation, "continue", ""), ""), gru]));
    }
    check_structure(&one(GRU, &caching("none", "restart", "")));
}

fn check_structure(spec: &Spec) {
    let bundle = export(spec);
    let contract = Contract::from_onnx(&bundle.step).unwrap();
    assert_eq!(contract, bundle.contract);
    let model = model(&bundle);
    check_versions(&model);
    check_main(&model, &contract);
    for (function, block) in model.functions.iter().zip(&contract.blocks) {
        let roles = |roles: Vec<Role>, side: &str| -> Vec<String> {
            roles.into_iter().map(|role| formal(&block.memory, role, side)).collect()
        };
        assert_eq!(function.inputs, roles(block.memory.inputs(), "past"));
        assert_eq!(function.outputs, roles(block.memory.outputs(), "present"));
        assert_eq!(function.name, block.function);
        assert_eq!(function.domain, DOMAIN);
        assert!(function.nodes.iter().all(|node| node.domain.is_empty()));
    }
}

fn check_versions(model: &Model) {
    assert_eq!(model.ir_version, 8);
    for opsets in std::iter::once(&model.opsets).chain(model.functions.iter().map(|f| &f.opsets)) {
        let opsets: Vec<_> = opsets.iter().map(|opset| (opset.domain.as_str(), opset.version)).collect();
        let expected = [("", 17), (DOMAIN, 1)];
        assert_eq!(opsets, expected[..if model.functions.is_empty() { 1 } else { 2 }]);
    }
    let nodes = model.graph.iter().flat_map(|graph| &graph.nodes);
    for node in nodes.chain(model.functions.iter().flat_map(|function| &function.nodes)) {
        assert!(!["Loop", "Scan", "If", "Einsum"].contains(&node.op.as_str()), "{}", node.op);
    }
}

fn check_main(model: &Model, contract: &Contract) {
    let graph = model.graph.as_ref().unwrap();
    let takes = |role| contract.blocks.iter().any(|block| block.memory.inputs().contains(&role));
    let mut expected = vec![("input".to_owned(), F32, vec![1, 1, 3])];
    expected.extend(contract.state.iter().map(|state| (state.past.clone(), F32, state.shape.clone())));
    if takes(Role::SegmentLength) {
        expected.push(("segment.length".to_owned(), I64, vec![1]));
    }
    expected.extend(contract.cache.iter().map(|cache| (cache.name.clone(), F32, cache.shape.clone())));
    if takes(Role::CacheLength) {
        expected.push(("cache.length".to_owned(), I64, vec![1]));
    }
    assert_eq!(typed(&graph.inputs), expected);
    let mut expected = vec![("output".to_owned(), F32, vec![1, 1, 2])];
    expected.extend(contract.state.iter().map(|state| (state.present.clone(), F32, state.shape.clone())));
    assert_eq!(typed(&graph.outputs), expected);
}

fn typed(values: &[proto::ValueInfo]) -> Vec<(String, i32, Vec<usize>)> {
    let typed = |value: &proto::ValueInfo| {
        let (element, shape) = value.element_and_shape();
        (value.name.clone(), element, shape)
    };
    values.iter().map(typed).collect()
}

#[test]
fn a_titans_model_has_the_tensors_of_its_layers() {
    let graph = model(&export(&one(TITANS, &caching("grm", "continue", "")))).graph.unwrap();
    let parameters = ["w1", "w2", "w3"];
    let mut expected = vec!["input".to_owned()];
    expected.extend(parameters.iter().map(|name| format!("past.0.{name}")));
    expected.extend(parameters.iter().map(|name| format!("past.0.s_{name}")));
    expected.extend(["past.0.context", "segment.length"].map(str::to_owned));
    expected.extend(parameters.iter().map(|name| format!("cache.0.{name}")));
    expected.extend(["cache.0.context", "cache.length"].map(str::to_owned));
    assert_eq!(names(&graph.inputs), expected);
    let shape =
        |name: &str| graph.inputs.iter().find(|input| input.name == name).unwrap().element_and_shape().1;
    assert_eq!(shape("past.0.w1"), [1, 2, 5, 3]);
    assert_eq!(shape("cache.0.w3"), [1, 2, 3, 3, 5]);
    assert_eq!(shape("cache.0.context"), [1, 2, 3, 3]);
}

#[test]
fn a_model_without_a_cache_has_no_cache_inputs() {
    let bundle = export(&one(LINEAR, &caching("none", "continue", "")));
    assert_eq!(names(&model(&bundle).graph.unwrap().inputs), ["input", "past.0.m"]);
    assert!(bundle.contract.cache.is_empty());
}

#[test]
fn a_gru_without_aggregation_is_standard_operations_of_the_main_graph() {
    let gru = block(GRU, &caching("none", "restart", ""), "");
    let bundle = export(&spec(&[gru.clone(), block(LINEAR, &caching("ssc", "restart", ""), "")]));
    let blocks = &bundle.contract.blocks;
    let called: Vec<_> = blocks.iter().map(|block| (block.block, block.function.as_str())).collect();
    assert_eq!(called, [(1, "linear_ssc")]);
    let state = &bundle.contract.state[0];
    assert_eq!((state.past.as_str(), state.present.as_str()), ("past.0.h", "present.0.h"));
    assert_eq!((&state.shape[..], state.reset), (&[1, 2, 3][..], Reset::Restart));
    assert!(bundle.contract.cache.iter().all(|cache| cache.name.starts_with("cache.1.")));

    let alone = export(&one(GRU, &caching("none", "continue", "")));
    assert!(alone.contract.blocks.is_empty() && alone.contract.cache.is_empty());
    assert_eq!(alone.contract.state[0].reset, Reset::Never);
    let model = model(&alone);
    assert!(model.functions.is_empty());
    let graph = model.graph.unwrap();
    assert_eq!(names(&graph.inputs), ["input", "past.0.h"]);
    assert!(graph.nodes.iter().all(|node| node.domain.is_empty()));
}

#[test]
fn a_contract_that_calls_for_what_no_kernel_computes_is_refused() {
    let contract =
        export(&spec(&[LINEAR, DLA].map(|memory| block(memory, &caching("grm", "restart", ""), ""))));
    let contract = contract.contract;
    let refused = |change: &dyn Fn(&mut Contract)| {
        let mut contract = contract.clone();
        change(&mut contract);
        Contract::parse(&contract.to_json()).unwrap_err().to_string()
    };
    let gru = |contract: &mut Contract| {
        contract.blocks[0].memory.memory = Memory::Gru {};
        contract.blocks[0].memory.caching.aggregation = Aggregation::None;
    };
    let error = refused(&gru);
    assert!(error.contains("memory.kind gru"), "{error}");
    for [first, second] in [[1, 0], [1, 1]] {
        let error = refused(&|contract| {
            (contract.blocks[0].block, contract.blocks[1].block) = (first, second);
        });
        assert!(error.contains("blocks[].block"), "{error}");
    }
    let error = refused(&|contract| contract.blocks[1].block = 2);
    assert!(error.contains("past.2."), "{error}");
}

#[test]
fn contexts_end_with_the_segment_and_memories_under_restart() {
    let resets = |init: &str| -> Vec<Reset> {
        let contract = export(&one(DLA, &caching("grm", init, ""))).contract;
        contract.state.iter().map(|state| state.reset).collect()
    };
    let (memories, context) = (8, [Reset::Segment]);
    assert_eq!(resets("continue"), [&vec![Reset::Never; memories], &context[..]].concat());
    assert_eq!(resets("restart"), [&vec![Reset::Restart; memories], &context[..]].concat());
}

#[test]
fn only_the_context_is_scaled_and_only_to_a_mean() {
    let scales = |context: &str| -> Vec<Scale> {
        let more = format!(r#""context": "{context}","#);
        let contract = export(&one(LINEAR, &caching("grm", "continue", &more))).contract;
        contract.cache.iter().map(|cache| cache.scale).collect()
    };
    assert_eq!(scales("sum"), [Scale::None, Scale::None]);
    assert_eq!(scales("mean"), [Scale::None, Scale::Mean]);
}

#[test]
fn an_f16_cache_is_f16_and_nothing_else_is() {
    let spec = one(TITANS, &caching("soup", "continue", ""));
    let bundle = bundle(&spec, &weights(&spec), Options { cache_dtype: Dtype::F16, ..OPTIONS }).unwrap();
    for input in model(&bundle).graph.unwrap().inputs {
        let is_f16 = input.element_and_shape().0 == F16;
        assert_eq!(is_f16, input.name.starts_with("cache.0."), "{}", input.name);
    }
    assert!(bundle.contract.cache.iter().all(|cache| cache.dtype == Dtype::F16));
}

#[test]
fn equal_functions_are_shared_and_others_are_numbered() {
    let grm = caching("grm", "continue", "");
    let warm = caching("grm", "continue", r#""temperature": 2.0,"#);
    let blocks = [(LINEAR, &grm), (LINEAR, &warm), (LINEAR, &grm), (DLA, &grm)];
    let bundle = export(&spec(&blocks.map(|(memory, caching)| block(memory, caching, ""))));
    let called: Vec<&str> = bundle.contract.blocks.iter().map(|block| block.function.as_str()).collect();
    assert_eq!(called, ["linear_grm", "linear_grm_2", "linear_grm", "dla_grm"]);
    let model = model(&bundle);
    let defined: Vec<&str> = model.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(defined, ["linear_grm", "linear_grm_2", "dla_grm"]);
    let calls = model.graph.unwrap().nodes.into_iter().filter(|node| node.domain == DOMAIN);
    assert_eq!(calls.map(|node| node.op).collect::<Vec<_>>(), called);
}

#[test]
fn the_initial_state_is_the_weights_or_zero() {
    let spec = one(TITANS, &caching("grm", "restart", ""));
    let (bundle, weights) = (export(&spec), weights(&spec));
    let file = SafeTensors::deserialize(&bundle.initial_state).unwrap();
    assert_eq!(file.len(), bundle.contract.state.len());
    for state in &bundle.contract.state {
        let view = file.tensor(&state.past).unwrap();
        assert_eq!(view.shape(), state.shape);
        let name = state.past.replace("past.0.", "blocks.0.memory.init.");
        let zeros = Tensor { shape: vec![], data: vec![0.0; view.data().len() / 4] };
        let expected = weights.get(&name).unwrap_or(&zeros);
        let bytes: Vec<u8> = expected.data.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(view.data(), bytes, "{}", state.past);
    }
}

#[test]
fn the_golden_run_overflows_the_cache_and_is_always_the_same() {
    let spec = one(LINEAR, &caching("grm", "continue", ""));
    let bundle = export(&spec);
    let golden = Golden::from_safetensors(&bundle.golden).unwrap();
    assert!(golden.input.len() / 3 > OPTIONS.capacity);
    assert!(bundle.warnings.is_empty());
    assert_eq!(export(&spec).golden, bundle.golden);
}

#[test]
fn a_golden_run_that_is_too_short_says_so() {
    let spec = one(LINEAR, &caching("residual", "continue", "").replace(r#""size": 3"#, r#""size": 3000"#));
    let warnings = export(&spec).warnings;
    assert_eq!(warnings, [Warning::GoldenTooShort { tokens: 4096, needed: 16_500 }]);
}

#[test]
fn a_model_that_grows_without_end_has_a_short_golden_run() {
    let memory = r#"{"kind": "dla", "depth": 2, "width": 5, "objective": "dot", "step_size": 0.9}"#;
    let bundle =
        export(&one(memory, &caching("residual", "continue", "").replace(r#""size": 3"#, r#""size": 99"#)));
    let tokens = Golden::from_safetensors(&bundle.golden).unwrap().input.len();
    assert!(bundle.warnings.contains(&Warning::Unstable { tokens }), "{:?}", bundle.warnings);
}

#[test]
fn a_sign_of_paper_is_warned_of() {
    let memory = r#"{"kind": "titans", "depth": 2, "width": 5, "objective": "l2", "step_size": 0.001,
        "sign": "paper"}"#;
    let warnings = export(&one(memory, &caching("grm", "restart", ""))).warnings;
    assert!(warnings.contains(&Warning::ClimbsLoss { block: 0 }), "{warnings:?}");
}

#[test]
fn what_cannot_be_lowered_is_refused_by_name() {
    let deep =
        |rest: &str| format!(r#"{{"kind": "titans", "depth": 2, "width": 5, "objective": "l2", {rest}}}"#);
    let cases = [
        (GRU.to_owned(), "memory.kind gru with caching.aggregation other than none"),
        (r#"{"kind": "lstm"}"#.to_owned(), "memory.kind lstm"),
        (r#"{"kind": "swla", "alpha": 1, "beta": 0, "lambda": 1}"#.to_owned(), "memory.kind swla"),
        (r#"{"kind": "linear", "normalized": true}"#.to_owned(), "memory.normalized"),
        (r#"{"kind": "linear", "feature_map": "elu1"}"#.to_owned(), "memory.feature_map"),
        (deep(r#""step_size": "input""#), "memory.step_size"),
        (deep(r#""step_size": 0.1, "retention": "input""#), "memory.retention"),
    ];
    for (memory, feature) in cases {
        let sound = block(LINEAR, &caching("grm", "continue", ""), "");
        check_refused(&spec(&[sound, block(&memory, &caching("grm", "continue", ""), "")]), 1, feature);
    }
    for aggregation in ["residual", "grm", "sigmoid", "mean"] {
        let gru = one(GRU, &caching(aggregation, "continue", ""));
        check_refused(&gru, 0, "memory.kind gru with caching.aggregation other than none");
    }
    check_refused(&one(r#"{"kind": "lstm"}"#, &caching("none", "continue", "")), 0, "memory.kind lstm");
    for (memory, aggregation) in [(LINEAR, "grm"), (GRU, "none")] {
        let logarithmic = format!(
            r#"{{"aggregation": "{aggregation}", "init": "continue", "segmentation": {{"kind": "logarithmic"}}}}"#
        );
        check_refused(&one(memory, &logarithmic), 0, "caching.segmentation.kind logarithmic");
    }
}

fn check_refused(spec: &Spec, block: usize, feature: &str) {
    match bundle(spec, &weights(spec), OPTIONS) {
        Err(Error::Unsupported { block: found, feature: name }) => {
            assert_eq!(found, block);
            assert!(name.starts_with(feature), "{name}, expected {feature}");
        }
        other => panic!("{feature}: {other:?}"),
    }
}

#[test]
fn arguments_that_do_not_fit_are_errors() {
    let spec = one(LINEAR, &caching("grm", "continue", ""));
    let other = one(LINEAR, &caching("residual", "continue", ""));
    let none = Options { capacity: 0, ..OPTIONS };
    let huge = Options { capacity: usize::MAX / 2, ..OPTIONS };
    let found = |weights: &Weights, options| step_graph(&spec, weights, options).unwrap_err();
    assert!(matches!(found(&weights(&spec), none), Error::Option { option: "capacity", .. }));
    assert!(matches!(found(&weights(&spec), huge), Error::Contract(_)));
    let error = found(&weights(&other), OPTIONS).to_string();
    assert!(error.contains("blocks.0.mix.u.weight"), "{error}");
}

#[test]
fn a_bundle_is_written_over_a_bundle_and_over_nothing_else() {
    let bundle = export(&one(LINEAR, &caching("grm", "continue", "")));
    let root = std::env::temp_dir().join(format!("mcedge-export-{}", std::process::id()));
    let path = root.join("a").join("bundle");
    std::fs::create_dir_all(root.join("a")).unwrap();
    bundle.write(&path).unwrap();
    std::fs::write(path.join("step.onnx"), b"old").unwrap();
    std::fs::write(path.join("chunk.onnx"), b"old").unwrap();
    bundle.write(&path).unwrap();
    assert_eq!(std::fs::read(path.join("step.onnx")).unwrap(), bundle.step);
    assert_eq!(std::fs::read(path.join("initial_state.safetensors")).unwrap(), bundle.initial_state);
    assert_eq!(std::fs::read(path.join("golden.safetensors")).unwrap(), bundle.golden);
    assert!(!path.join("chunk.onnx").exists(), "a file of the older bundle is left");
    std::fs::write(path.join("notes.txt"), b"mine").unwrap();
    let refused = bundle.write(&path);
    assert!(matches!(&refused, Err(Error::NotABundle { found, .. }) if found == "notes.txt"), "{refused:?}");
    assert_eq!(std::fs::read(path.join("notes.txt")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(root.join("a")).unwrap().count(), 1, "a temporary directory is left");
    std::fs::remove_dir_all(root).unwrap();
}
