//! What a step graph computes: the reference's outputs, through the contract alone.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;

use common::client::runs;
use common::{
    ATTENTION, DECAY, DELTA, DLA, GRU, LINEAR, LSTM, NORMALIZED, SWLA, SWLA_INPUT, TITANS, block, caching,
    spec, spec_of, weights,
};
use mcedge_export::{Bundle, Options, bundle};
use mcedge_models::contract::Dtype;
use mcedge_models::reference::{Trace, trace};
use mcedge_models::spec::Spec;
use mcedge_models::{Golden, Weights};

const OPTIONS: Options = Options { capacity: 3, cache_dtype: Dtype::F32, chunk: 64, batch: 1, gates: false };
const TOLERANCE: f32 = 1e-5;

const AGGREGATIONS: [&str; 6] = ["none", "residual", "grm", "soup", "ssc", "mean"];
/// Every kind of memory that has keys and checkpoints, with every kind of coefficient.
const KEYED: [&str; 8] = [LINEAR, NORMALIZED, SWLA, SWLA_INPUT, DELTA, DECAY, DLA, TITANS];

/// Runs a bundle's golden run as a client does that knows the contract only.
fn check(case: &str, spec: &Spec) {
    check_with(case, spec, &weights(spec), OPTIONS);
}

fn check_with(case: &str, spec: &Spec, weights: &Weights, options: Options) {
    let error = largest_error(case, spec, weights, options);
    assert!(error <= TOLERANCE, "{case}: {error:e} from the reference");
}

/// Of every stream of both graphs, relative to max(1, |y|).
fn largest_error(case: &str, spec: &Spec, weights: &Weights, options: Options) -> f32 {
    let bundle = bundle(spec, weights, options).unwrap();
    let golden = Golden::from_safetensors(&bundle.golden).unwrap();
    assert!(golden.input.len() >= 7, "{case}: {:?}", bundle.warnings);
    let trace = trace(spec, weights, golden.input.stream(), Some(options.capacity)).unwrap();
    let chunk =
        bundle.chunk.iter().map(|chunk| error_of(chunk, &bundle, &golden, &trace, bundle.contract.chunk));
    chunk.fold(error_of(&bundle.step, &bundle, &golden, &trace, 1), f32::max)
}

/// Of every stream of a graph that is given at most `tokens` tokens in a run: of outputs, and of losses and gates where
/// the graph says them.
fn error_of(graph: &[u8], bundle: &Bundle, golden: &Golden, trace: &Trace, tokens: usize) -> f32 {
    let mut largest = 0.0;
    let mut compare = |found: f32, expected: f64| {
        // A maximum drops NaN.
        assert!(found.is_finite(), "{found}, the reference has {expected}");
        let error = (f64::from(found) - expected).abs() / expected.abs().max(1.0);
        largest = f32::max(largest, error as f32);
    };
    for run in runs(graph, &bundle.initial_state, &golden.input, tokens) {
        assert_eq!(run.output.dim(), golden.output.dim());
        run.output.iter().zip(&golden.output).for_each(|(&y, &expected)| compare(y, f64::from(expected)));
        if bundle.contract.blocks.iter().any(|block| block.memory.has_loss()) {
            assert_eq!(run.losses.len(), trace.losses.len());
        }
        run.losses.iter().zip(&trace.losses).for_each(|(&loss, &expected)| compare(loss, expected));
        for ((found, expected), block) in run.gates.iter().zip(&trace.gates).zip(&bundle.contract.blocks) {
            assert_eq!(found.len(), if block.memory.has_gates() { golden.input.len() } else { 0 });
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert_eq!(found.len(), expected.len());
                found.iter().zip(expected).for_each(|(&gate, &expected)| compare(gate, expected));
            }
        }
    }
    largest
}

/// Runs the chunk graph on the golden run in chunks of each of these sizes.
fn check_chunks(case: &str, spec: &Spec, options: Options, sizes: &[usize]) {
    let weights = weights(spec);
    let bundle = bundle(spec, &weights, options).unwrap();
    let golden = Golden::from_safetensors(&bundle.golden).unwrap();
    let trace = trace(spec, &weights, golden.input.stream(), Some(options.capacity)).unwrap();
    for &size in sizes {
        assert!(size <= bundle.contract.chunk && bundle.contract.chunk <= golden.input.len());
        let error = error_of(bundle.chunk.as_ref().unwrap(), &bundle, &golden, &trace, size);
        assert!(error <= TOLERANCE, "{case} in chunks of {size}: {error:e} from the reference");
    }
}

#[test]
fn every_memory_and_aggregation_is_the_reference() {
    for memory in KEYED {
        for aggregation in AGGREGATIONS {
            for init in ["continue", "restart"] {
                let block = block(memory, &caching(aggregation, init, ""), "");
                check(&format!("{aggregation} {init} {memory}"), &spec(&[block]));
            }
        }
    }
}

#[test]
fn cells_are_the_reference_with_every_aggregation() {
    for memory in [GRU, LSTM] {
        for aggregation in ["none", "residual", "grm", "soup", "ssc", "mean", "sigmoid"] {
            for init in ["continue", "restart"] {
                let block = block(memory, &caching(aggregation, init, ""), r#""normalize_qk": true,"#);
                check(&format!("{aggregation} {init} {memory}"), &spec(&[block]));
            }
        }
    }
}

#[test]
fn attention_is_the_reference_and_goes_on_through_segments() {
    for window in [1, 2, 4, 30] {
        for init in ["continue", "restart"] {
            let memory = format!(r#"{{"kind": "attention", "window": {window}}}"#);
            let attention = block(&memory, &caching("none", init, ""), r#""normalize_qk": true,"#);
            let linear = block(LINEAR, &caching("grm", init, ""), "");
            check(&format!("{window} {init}"), &spec(&[attention, linear]));
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
    check_with("without o", &spec, &Weights::new(kept, &spec).unwrap(), OPTIONS);
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

#[test]
fn feature_maps_are_the_reference() {
    for feature_map in ["identity", "elu1", "relu"] {
        for normalized in [false, true] {
            for aggregation in ["soup", "ssc"] {
                let memory = format!(
                    r#"{{"kind": "linear", "feature_map": "{feature_map}", "normalized": {normalized}}}"#
                );
                // Without features a normaliser may come near zero, where f32 and f64 part.
                let more = if feature_map == "identity" { r#""normalize_qk": true,"# } else { "" };
                let block = block(&memory, &caching(aggregation, "continue", r#""query": "q","#), more);
                check(&format!("{aggregation} {memory}"), &spec(&[block]));
            }
        }
    }
}

#[test]
fn coefficients_of_the_input_are_the_reference() {
    for kind in ["dla", "titans"] {
        for objective in ["l2", "dot"] {
            let memory = format!(
                r#"{{"kind": "{kind}", "depth": 2, "width": 4, "bias": true, "objective": "{objective}",
                    "step_size": "input", "retention": "input", "momentum": 0.2}}"#
            );
            let block = block(&memory, &caching("grm", "continue", ""), r#""normalize_qk": true,"#);
            check(&memory, &spec(&[block]));
        }
    }
}

/// One model of each kind of cache tensor, of several blocks.
fn mixed(segmentation: &str, init: &str) -> Spec {
    let cached = |memory, aggregation| {
        let caching =
            caching(aggregation, init, "").replace(r#"{"kind": "constant", "size": 3}"#, segmentation);
        block(memory, &caching, r#""normalize_qk": true,"#)
    };
    let blocks =
        [(TITANS, "ssc"), (NORMALIZED, "soup"), (DELTA, "residual"), (LSTM, "sigmoid"), (ATTENTION, "none")];
    spec(&blocks.map(|(memory, aggregation)| cached(memory, aggregation)))
}

const CONSTANT: &str = r#"{"kind": "constant", "size": 3}"#;

#[test]
fn streams_of_a_batch_are_the_reference_whatever_their_lengths() {
    for init in ["continue", "restart"] {
        let spec = mixed(CONSTANT, init);
        check_with(init, &spec, &weights(&spec), Options { batch: 3, ..OPTIONS });
    }
    for (memory, aggregation) in [(GRU, "mean"), (SWLA_INPUT, "mean"), (DLA, "soup"), (LINEAR, "grm")] {
        let spec = spec(&[block(memory, &caching(aggregation, "restart", ""), "")]);
        check_with(memory, &spec, &weights(&spec), Options { batch: 2, ..OPTIONS });
    }
}

#[test]
fn gates_are_the_reads_own() {
    let cached = |memory, aggregation| block(memory, &caching(aggregation, "continue", ""), "");
    for aggregation in ["grm", "soup", "ssc"] {
        for memory in [LINEAR, NORMALIZED, TITANS, GRU] {
            let spec = spec(&[cached(memory, aggregation), cached(LSTM, "sigmoid")]);
            check_with(aggregation, &spec, &weights(&spec), Options { gates: true, batch: 2, ..OPTIONS });
        }
    }
}

#[test]
fn smaller_caches_are_near_the_reference() {
    for (cache_dtype, tolerance) in [(Dtype::F16, 3e-3), (Dtype::I8, 3e-2)] {
        for memory in [LINEAR, NORMALIZED, DLA, GRU] {
            for aggregation in ["residual", "soup", "ssc"] {
                let spec =
                    spec(&[block(memory, &caching(aggregation, "continue", ""), r#""normalize_qk": true,"#)]);
                let options = Options { cache_dtype, ..OPTIONS };
                let case = format!("{cache_dtype:?} {aggregation} {memory}");
                let error = largest_error(&case, &spec, &weights(&spec), options);
                assert!(error <= tolerance, "{case}: {error:e}");
                assert!(error > TOLERANCE, "{case}: {error:e} is no smaller cache's");
            }
        }
    }
}

#[test]
fn logarithmic_segments_are_the_reference() {
    for (memory, init) in [
        (LINEAR, "restart"),
        (NORMALIZED, "restart"),
        (TITANS, "continue"),
        (DELTA, "continue"),
        (GRU, "continue"),
    ] {
        for (aggregation, context) in
            [("grm", "mean"), ("soup", "sum"), ("ssc", "mean"), ("residual", "mean")]
        {
            let caching = caching(aggregation, init, &format!(r#""context": "{context}","#))
                .replace(CONSTANT, r#"{"kind": "logarithmic"}"#);
            let spec = spec(&[block(memory, &caching, r#""normalize_qk": true,"#)]);
            let options = Options { capacity: 7, gates: true, ..OPTIONS };
            check_with(&format!("{aggregation} {context} {memory}"), &spec, &weights(&spec), options);
        }
    }
}

const SURPRISE: &str = r#"{"kind": "surprise", "window": 8, "threshold": 0.5, "min_size": 2, "max_size": 5}"#;

#[test]
fn segments_cut_by_surprise_are_the_reference() {
    for (memory, init) in KEYED.into_iter().zip(["continue", "restart"].into_iter().cycle()) {
        let caching = |aggregation| caching(aggregation, init, "").replace(CONSTANT, SURPRISE);
        let block = |memory, aggregation| block(memory, &caching(aggregation), r#""normalize_qk": true,"#);
        check(&format!("{init} {memory}"), &spec(&[block(memory, "grm")]));
        let all = [block(GRU, "mean"), block(memory, "none"), block(LINEAR, "residual")];
        check(&format!("{init} {memory} and others"), &spec(&all));
    }
}

#[test]
fn a_block_that_collapses_is_the_reference_without_a_bound() {
    let residual = block(LINEAR, &caching("residual", "restart", ""), "");
    let spec = spec(&[residual, block(TITANS, &caching("grm", "restart", ""), "")]);
    let all = weights(&spec);
    let kept = all.iter().filter(|(name, _)| !name.ends_with("init.m"));
    let kept = kept.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    check_with("collapsed", &spec, &Weights::new(kept, &spec).unwrap(), OPTIONS);
}

#[test]
fn chunks_are_the_reference_however_a_stream_is_cut() {
    let long = r#"{"kind": "constant", "size": 11}"#;
    let alphas = ["1", "-0.7", "0", r#""input""#];
    let swla = alphas.map(|alpha| SWLA.replace("0.9", alpha));
    let attention = [1, 3, 9].map(|window| ATTENTION.replace('4', &window.to_string()));
    let cached = KEYED.map(|memory| (memory, "grm")).into_iter();
    let cached = cached.chain(swla.iter().map(|memory| (memory.as_str(), "ssc")));
    let cached = cached.chain([(NORMALIZED, "soup"), (GRU, "ssc"), (LSTM, "sigmoid")]);
    let cached = cached.chain(attention.iter().map(|memory| (memory.as_str(), "none")));
    for (memory, aggregation) in cached {
        let caching = caching(aggregation, "continue", "").replace(CONSTANT, long);
        let spec = spec(&[block(memory, &caching, r#""normalize_qk": true,"#)]);
        let options = Options { chunk: 7, ..OPTIONS };
        check_chunks(&format!("{aggregation} {memory}"), &spec, options, &[1, 2, 3, 6, 7]);
    }
}

/// Keys of one channel are 1 or −1: the triangular system of the delta rule is as far from the identity as it can be.
#[test]
fn a_long_chunk_of_parallel_keys_is_the_reference() {
    for (alpha, beta) in [("1", "1"), ("0.97", "0.9"), (r#""input""#, r#""input""#)] {
        let memory = format!(r#"{{"kind": "gated_delta", "alpha": {alpha}, "beta": {beta}}}"#);
        let caching =
            caching("none", "continue", "").replace(CONSTANT, r#"{"kind": "constant", "size": 50}"#);
        let block = block(&memory, &caching, r#""normalize_qk": true,"#);
        let spec = spec(&[block.replace(r#""num_heads": 2"#, r#""num_heads": 6"#)]);
        check_chunks(&memory, &spec, OPTIONS, &[50]);
    }
}
