//! What a bundle holds: names, shapes, order and roles, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;

use common::proto::{self, F16, F32, I8, I64, Model, names};
use common::{
    ATTENTION, DELTA, DLA, GRU, LINEAR, LSTM, NORMALIZED, SWLA_INPUT, TITANS, block, caching, spec, weights,
};
use mcedge_export::{Bundle, Error, Options, Warning, bundle, step_graph, with_post_training_mean};
use mcedge_models::contract::{BlockFunction, Contract, DOMAIN, Dtype, MemoryFunction, Reset, Role, Scale};
use mcedge_models::spec::{Aggregation, Block, Init, Segmentation, Spec};
use mcedge_models::{Golden, Tensor, Weights};
use prost::Message;
use safetensors::SafeTensors;

/// The number of tokens in a chunk's graph: it has a name there, not a number.
const OPEN: usize = 0;
const OPTIONS: Options = Options { capacity: 3, cache_dtype: Dtype::F32, chunk: 64, batch: 1, gates: false };

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
        Role::H => "h".into(),
        Role::NormWeight => "norm.weight".into(),
        Role::NormBias => "norm.bias".into(),
        Role::ProjectionWeight => "projections.T".into(),
        Role::ProjectionBias => "projections.bias".into(),
        Role::OutputWeight => "o.T".into(),
        Role::Q => "q".into(),
        Role::K => "k".into(),
        Role::V => "v".into(),
        Role::U => "u".into(),
        Role::Y => "output".into(),
        Role::State(i) => format!("{side}.{}", tensor(i)),
        Role::Cache(i) => format!("cache.{}", tensor(i)),
        Role::SegmentLength => "segment.length".into(),
        Role::CacheLength => "cache.length".into(),
        Role::X => "x".into(),
        Role::Coefficient(i) => function.memory.coefficients()[i].0.into(),
        Role::RecurrentWeight => "weight_hh".into(),
        Role::RecurrentBias => "bias_hh".into(),
        Role::GateWeight => "gate.weight".into(),
        Role::GateBias => "gate.bias".into(),
        Role::Steps(i) => format!("cache.{}.steps", tensor(i)),
        Role::Gates => "gates".into(),
        Role::Loss => "loss".into(),
    }
}

#[test]
fn graphs_and_functions_have_the_names_shapes_and_order_of_the_contract() {
    for memory in [LINEAR, NORMALIZED, SWLA_INPUT, DELTA, DLA, TITANS] {
        for aggregation in ["none", "residual", "grm", "soup", "ssc", "mean"] {
            for more in ["", r#""context": "sum", "query": "q","#] {
                check_structure(&one(memory, &caching(aggregation, "continue", more)), OPTIONS);
            }
        }
    }
    for memory in [GRU, LSTM] {
        for aggregation in ["none", "residual", "grm", "soup", "ssc", "mean", "sigmoid"] {
            check_structure(&one(memory, &caching(aggregation, "restart", "")), OPTIONS);
        }
    }
    check_structure(&one(ATTENTION, &caching("none", "restart", "")), OPTIONS);
}

#[test]
fn options_change_shapes_and_types_as_the_contract_says() {
    let surprise = |memory, aggregation| {
        let constant = r#"{"kind": "constant", "size": 3}"#;
        let surprise = r#"{"kind": "surprise", "window": 8, "threshold": 0.5, "min_size": 2, "max_size": 5}"#;
        block(memory, &caching(aggregation, "continue", "").replace(constant, surprise), "")
    };
    let spec = spec(&[surprise(DLA, "ssc"), surprise(LSTM, "sigmoid"), surprise(NORMALIZED, "soup")]);
    for cache_dtype in [Dtype::F32, Dtype::F16, Dtype::I8] {
        for gates in [false, true] {
            check_structure(&spec, Options { cache_dtype, gates, batch: 2, ..OPTIONS });
        }
    }
}

fn check_structure(spec: &Spec, options: Options) {
    let bundle = bundle(spec, &weights(spec), options).unwrap();
    let contract = Contract::from_onnx(&bundle.step).unwrap();
    assert_eq!(contract, bundle.contract);
    assert_eq!(contract.blocks.len(), spec.blocks.len());
    check_graph(&model(&bundle), &contract, 1);
    let chunk = bundle.chunk.unwrap();
    assert_eq!(Contract::from_onnx(&chunk).unwrap(), contract);
    check_graph(&Model::decode(&chunk[..]).unwrap(), &contract, OPEN);
}

/// `tokens` is 1, or [`OPEN`].
fn check_graph(model: &Model, contract: &Contract, tokens: usize) {
    check_versions(model);
    check_operations(model, tokens);
    check_main(model, contract, tokens);
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
}

/// What stands around the functions is run by runtimes that know no more than one token's worth of it: there every size
/// but the number of tokens is known. A step needs no loop.
fn check_operations(model: &Model, tokens: usize) {
    let around = &model.graph.as_ref().unwrap().nodes;
    for node in around.iter().filter(|node| node.domain.is_empty()) {
        let known = [
            "Add",
            "Sub",
            "Mul",
            "Div",
            "Sqrt",
            "MatMul",
            "Gather",
            "Erf",
            "Sigmoid",
            "ReduceMean",
            "LayerNormalization",
        ];
        assert!(known.contains(&node.op.as_str()), "{}", node.op);
    }
    for node in model.functions.iter().flat_map(|function| &function.nodes) {
        assert!(!["Loop", "If", "Einsum"].contains(&node.op.as_str()), "{}", node.op);
        assert!(tokens == OPEN || node.op != "Scan");
    }
}

fn check_main(model: &Model, contract: &Contract, tokens: usize) {
    let graph = model.graph.as_ref().unwrap();
    let batch = contract.batch;
    let takes = |role| contract.blocks.iter().any(|block| block.memory.inputs().contains(&role));
    let mut expected = vec![("input".to_owned(), F32, vec![batch, tokens, 3])];
    expected.extend(contract.state.iter().map(|state| (state.past.clone(), F32, state.shape.clone())));
    if takes(Role::SegmentLength) {
        expected.push(("segment.length".to_owned(), I64, vec![batch]));
    }
    for cache in &contract.cache {
        let element = match cache.dtype {
            Dtype::F32 => F32,
            Dtype::F16 => F16,
            Dtype::I8 => I8,
        };
        expected.push((cache.name.clone(), element, cache.shape.clone()));
        expected.extend(cache.steps.iter().map(|steps| (steps.clone(), F32, cache.shape[..3].to_vec())));
    }
    if takes(Role::CacheLength) {
        expected.push(("cache.length".to_owned(), I64, vec![batch]));
    }
    assert_eq!(typed(&graph.inputs), expected);
    assert_eq!(typed(&graph.outputs), expected_outputs(contract, tokens));
}

/// Every tensor of every block, whether the next token needs it or a checkpoint alone; who was read; the surprise.
fn expected_outputs(contract: &Contract, tokens: usize) -> Vec<(String, i32, Vec<usize>)> {
    let batch = contract.batch;
    let mut expected = vec![("output".to_owned(), F32, vec![batch, tokens, 2])];
    for BlockFunction { block, memory, .. } in &contract.blocks {
        for tensor in memory.tensors() {
            let shape = [&[batch, memory.num_heads], &tensor.shape[..]].concat();
            expected.push((format!("present.{block}.{}", tensor.name), F32, shape));
        }
    }
    for BlockFunction { block, memory, .. } in contract.blocks.iter().filter(|block| block.memory.has_gates())
    {
        let shape = vec![batch, tokens, memory.num_heads, contract.capacity + 1];
        expected.push((format!("gates.{block}"), F32, shape));
    }
    if contract.blocks.iter().any(|block| block.memory.has_loss()) {
        expected.push(("surprise".to_owned(), F32, vec![batch, tokens]));
    }
    expected
}

fn typed(values: &[proto::ValueInfo]) -> Vec<(String, i32, Vec<usize>)> {
    let typed = |value: &proto::ValueInfo| {
        let (element, shape) = value.element_and_shape();
        (value.name.clone(), element, shape)
    };
    values.iter().map(typed).collect()
}

#[test]
fn a_chunk_is_no_longer_than_a_segment() {
    let chunk = |segmentation: &str, chunk: usize| {
        let constant = r#"{"kind": "constant", "size": 3}"#;
        let spec = one(LINEAR, &caching("grm", "continue", "").replace(constant, segmentation));
        let options = Options { chunk, ..OPTIONS };
        let bundle = bundle(&spec, &weights(&spec), options).unwrap();
        assert_eq!(bundle.chunk.is_some(), bundle.contract.chunk > 1);
        bundle.contract.chunk
    };
    let surprise = r#"{"kind": "surprise", "window": 8, "threshold": 1, "min_size": 2, "max_size": 9}"#;
    for (segmentation, asked, expected) in [
        (r#"{"kind": "constant", "size": 3}"#, 64, 3),
        (r#"{"kind": "constant", "size": 3}"#, 2, 2),
        (r#"{"kind": "constant", "size": 1}"#, 64, 1),
        (r#"{"kind": "constant", "size": 3}"#, 1, 1),
        (surprise, 64, 9),
        (r#"{"kind": "logarithmic"}"#, 64, 1),
    ] {
        assert_eq!(chunk(segmentation, asked), expected, "{segmentation}");
    }
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
fn a_contract_whose_blocks_have_other_tensors_is_refused() {
    let contract =
        export(&spec(&[LINEAR, DLA].map(|memory| block(memory, &caching("grm", "restart", ""), ""))));
    let contract = contract.contract;
    let refused = |change: &dyn Fn(&mut Contract)| {
        let mut contract = contract.clone();
        change(&mut contract);
        Contract::parse(&contract.to_json()).unwrap_err().to_string()
    };
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
fn what_is_never_restarted_says_so() {
    let resets = |memory: &str, aggregation: &str, without: &str| -> Vec<Reset> {
        let spec = one(memory, &caching(aggregation, "restart", ""));
        let all = weights(&spec);
        let kept = all.iter().filter(|(name, _)| without.is_empty() || !name.ends_with(without));
        let kept = kept.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
        let bundle = bundle(&spec, &Weights::new(kept, &spec).unwrap(), OPTIONS).unwrap();
        assert_eq!(bundle.contract.cache.is_empty(), bundle.contract.state[0].reset == Reset::Never);
        bundle.contract.state.iter().map(|state| state.reset).collect()
    };
    assert_eq!(resets(ATTENTION, "none", ""), [Reset::Never; 3]);
    assert_eq!(resets(LINEAR, "residual", "init.m"), [Reset::Never], "it collapses");
    assert_eq!(resets(LINEAR, "residual", ""), [Reset::Restart], "it starts elsewhere than at zero");
    assert_eq!(resets(NORMALIZED, "residual", "init.m"), [Reset::Restart; 2], "its reads do not add");
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
fn an_f16_cache_is_f16_and_nothing_else_is_nor_its_contexts() {
    let spec = one(TITANS, &caching("soup", "continue", ""));
    let bundle = bundle(&spec, &weights(&spec), Options { cache_dtype: Dtype::F16, ..OPTIONS }).unwrap();
    for input in model(&bundle).graph.unwrap().inputs {
        let is_f16 = input.element_and_shape().0 == F16;
        let is_cached = input.name.starts_with("cache.0.") && input.name != "cache.0.context";
        assert_eq!(is_f16, is_cached, "{}", input.name);
    }
    for cache in &bundle.contract.cache {
        let expected = if cache.name == "cache.0.context" { Dtype::F32 } else { Dtype::F16 };
        assert_eq!(cache.dtype, expected, "{}", cache.name);
    }
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
fn a_cache_after_training_changes_the_reads_and_the_segments_alone() {
    let plain = |memory| block(memory, &caching("none", "restart", ""), "");
    let trained = spec(&[plain(TITANS), plain(ATTENTION), plain(GRU)]);
    let cached = with_post_training_mean(&trained, 5).unwrap();
    let expected = [Aggregation::Mean, Aggregation::None, Aggregation::Mean];
    for ((block, before), aggregation) in cached.blocks.iter().zip(&trained.blocks).zip(expected) {
        assert_eq!(block.caching.aggregation, aggregation);
        assert_eq!(block.caching.segmentation, Segmentation::Constant { size: 5 });
        assert_eq!(block.caching.init, Init::Continue);
        assert_eq!(Block { caching: before.caching.clone(), ..block.clone() }, *before);
    }
    bundle(&cached, &weights(&trained), OPTIONS).unwrap();

    let caches = spec(&[plain(TITANS), block(LINEAR, &caching("mean", "restart", ""), "")]);
    let error = with_post_training_mean(&caches, 5).unwrap_err();
    assert!(matches!(error, Error::AlreadyCached { block: 1, .. }), "{error}");
    let error = with_post_training_mean(&spec(&[plain(ATTENTION)]), 5).unwrap_err();
    assert!(matches!(error, Error::NothingToCache), "{error}");
    assert!(matches!(with_post_training_mean(&trained, 0), Err(Error::Spec(_))));
}

#[test]
fn arguments_that_do_not_fit_are_errors() {
    let spec = one(LINEAR, &caching("grm", "continue", ""));
    let other = one(LINEAR, &caching("residual", "continue", ""));
    let huge = Options { capacity: usize::MAX / 2, ..OPTIONS };
    let found = |weights: &Weights, options| step_graph(&spec, weights, options).unwrap_err();
    for (none, name) in [
        (Options { capacity: 0, ..OPTIONS }, "capacity"),
        (Options { chunk: 0, ..OPTIONS }, "chunk"),
        (Options { batch: 0, ..OPTIONS }, "batch"),
    ] {
        let error = found(&weights(&spec), none);
        assert!(matches!(error, Error::Option { option, .. } if option == name), "{error}");
    }
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
    assert_eq!(Some(std::fs::read(path.join("chunk.onnx")).unwrap()), bundle.chunk);
    let bundle = Bundle { chunk: None, ..bundle };
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
