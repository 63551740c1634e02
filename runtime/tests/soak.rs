//! Long streams: their memory stays where it was, and a resumed one does not drift.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

#[path = "common/resident.rs"]
mod resident;

use mcedge_models::Weights;
use mcedge_models::spec::Spec;
use mcedge_runtime::snapshot::{Draft, Snapshot};
use mcedge_runtime::{Backend, Engine, EngineOptions, Model, OnnxRuntime, Ort, OrtOptions, Policy, Tract};
use resident::resident_kib;

const TOKENS: u64 = 1_000_000;
/// Of the long soak, which is run by hand: some minutes.
const MANY_TOKENS: u64 = 10_000_000;
/// How often the resumed stream of the long soak is resumed.
const RESUMED_EVERY: u64 = 500_000;
/// Room for noise; a leak of one byte a token comes to more over the second half of the stream.
const SLACK_KIB: u64 = 300;

const CONFIG: &str = r#"{"format": "mcedge/1", "name": "soak", "input": {"kind": "tokens", "vocab_size": 16}, "d_model": 8,
    "blocks": [{"norm": "layer_norm", "num_heads": 2, "normalize_qk": true,
                "memory": {"kind": "titans", "depth": 2, "width": 4, "objective": "l2", "step_size": 0.05, "momentum": 0.9,
                           "retention": 0.99},
                "caching": {"aggregation": "grm", "init": "continue", "segmentation": {"kind": "constant", "size": 16}}}],
    "final_norm": true, "head": {"kind": "logits", "size": 16}}"#;

fn model() -> Model {
    let spec = Spec::parse(CONFIG.as_bytes()).unwrap();
    let weights = Weights::made_up(&spec);
    let options = mcedge_export::Options { capacity: 8, gates: true, ..Default::default() };
    let bundle = mcedge_export::bundle(&spec, &weights, options).unwrap();
    Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state).unwrap()
}

fn soak<B: Backend>(name: &str, model: &Model, backend: B) {
    let mut engine = Engine::new(model, backend, EngineOptions::default()).unwrap();
    stays(name, TOKENS, |t| {
        let output = engine.push_token((t * 7 % 16) as i64).unwrap();
        assert!(output.iter().all(|x| x.is_finite()), "token {t}: {output:?}");
    });
}

/// Runs `tokens` tokens; the process's memory does not grow over the second half of them.
fn stays(name: &str, tokens: u64, mut push: impl FnMut(u64)) {
    let (mut early, mut middle) = (None, None);
    for t in 0..tokens {
        if t == tokens / 10 {
            early = resident_kib();
        }
        if t == tokens / 2 {
            middle = resident_kib();
        }
        push(t);
    }
    // ONNX Runtime's allocator takes some 300,000 steps to have all the pages that it will ever have.
    match (early, middle, resident_kib()) {
        (Some(early), Some(middle), Some(late)) => {
            println!(
                "{name}: resident {early} KiB at 10 %, {middle} at 50 %, {late} at 100 % of {tokens} tokens"
            );
            assert!(late <= middle + SLACK_KIB, "{name} grew from {middle} to {late} KiB");
        }
        _ => println!("skipped: this system does not tell a process its resident memory"),
    }
}

// One test for both backends: they share the process whose memory is measured.
#[test]
fn memory_does_not_grow_with_the_stream() {
    let model = model();
    soak("tract", &model, Tract::new(&model).unwrap());
    match OnnxRuntime::load(None) {
        Ok(_) => soak("ort", &model, Ort::new(&model, &OrtOptions::default()).unwrap()),
        Err(error) => println!("skipped ONNX Runtime: {error}"),
    }
}

#[test]
#[ignore = "takes minutes; README has what it printed"]
fn ten_million_tokens_and_a_resumed_stream_does_not_drift() {
    let model = model();
    let options = || EngineOptions { policy: Policy::LeastRead, ..EngineOptions::default() };
    let engine = || Engine::new(&model, Tract::new(&model).unwrap(), options()).unwrap();
    let (mut undisturbed, mut resumed) = (engine(), engine());
    let mut draft = Draft::default();
    stays("tract, least-read, resumed every 500,000 tokens", MANY_TOKENS, |t| {
        if t % RESUMED_EVERY == RESUMED_EVERY / 3 {
            draft.clear();
            resumed.save(&mut draft).unwrap();
            let mut fresh = engine();
            fresh.restore(&Snapshot::parse(draft.finish()).unwrap()).unwrap();
            resumed = fresh;
        }
        let token = (t * t % 251 * 7 % 16) as i64;
        let (output, expected) = (resumed.push_token(token).unwrap(), undisturbed.push_token(token).unwrap());
        assert!(output.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()), "token {t}");
    });
    assert_eq!(resumed.cache().pushed(), MANY_TOKENS / 16);
}
