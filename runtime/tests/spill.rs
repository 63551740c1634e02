//! Checkpoints that spill into a file: the same answers, in as much RAM as was said.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

#[path = "common/resident.rs"]
mod resident;

use std::fs;
use std::path::PathBuf;

use mcedge_models::Weights;
use mcedge_models::spec::Spec;
use mcedge_runtime::contract::Dtype;
use mcedge_runtime::snapshot::{Draft, Snapshot, SnapshotError};
use mcedge_runtime::{
    Backend, Backlog, Engine, EngineOptions, Model, OnnxRuntime, Ort, OrtOptions, Policy, Spill, Tract,
};
use resident::resident_kib;

/// A history of 4096 checkpoints of 2 · 16 KiB.
const CAPACITY: usize = 4096;
const TOKENS: usize = 4300;

fn model(aggregation: &str, capacity: usize, size: usize, cache_dtype: Dtype) -> Model {
    gated(aggregation, capacity, size, cache_dtype, false)
}

fn gated(aggregation: &str, capacity: usize, size: usize, cache_dtype: Dtype, gates: bool) -> Model {
    let options = mcedge_export::Options { capacity, cache_dtype, gates, ..Default::default() };
    exported(aggregation, size, options)
}

fn exported(aggregation: &str, size: usize, options: mcedge_export::Options) -> Model {
    let block = format!(
        r#"{{"norm": "layer_norm", "num_heads": 1, "normalize_qk": true, "memory": {{"kind": "linear"}},
            "caching": {{"aggregation": {aggregation}, "init": "restart", "segmentation": {{"kind": "constant", "size": {size}}}}}}}"#
    );
    let config = format!(
        r#"{{"format": "mcedge/1", "name": "spill", "input": {{"kind": "tokens", "vocab_size": 64}}, "d_model": 64,
            "blocks": [{block}, {block}], "final_norm": true, "head": {{"kind": "logits", "size": 8}}}}"#
    );
    let spec = Spec::parse(config.as_bytes()).unwrap();
    let bundle = mcedge_export::bundle(&spec, &Weights::made_up(&spec), options).unwrap();
    Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state).unwrap()
}

const SSC: &str = r#""ssc", "top_k": 4"#;

/// A file of this test's own that is not there.
fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("mcedge-spill-{}-{name}", std::process::id()))
}

fn spilling(name: &str, resident_bytes: usize) -> EngineOptions {
    EngineOptions { spill: Some(Spill { path: path(name), resident_bytes }), ..EngineOptions::default() }
}

/// Runs the same tokens with and without a file; the growth of resident memory in KiB of the one that spills.
fn check<B: Backend>(
    name: &str,
    model: &Model,
    load: impl Fn() -> (B, Option<B>),
    resident_bytes: usize,
) -> Option<u64> {
    check_under(Policy::Oldest, name, model, load, resident_bytes)
}

fn check_under<B: Backend>(
    policy: Policy,
    name: &str,
    model: &Model,
    load: impl Fn() -> (B, Option<B>),
    resident_bytes: usize,
) -> Option<u64> {
    let engine = |options: EngineOptions| {
        let (step, chunk) = load();
        let engine = Engine::new(model, step, EngineOptions { policy, ..options }).unwrap();
        match chunk {
            Some(chunk) => engine.with_chunks(chunk).unwrap(),
            None => engine,
        }
    };
    let tokens: Vec<i64> = (0..TOKENS).map(|t| ((t * t * 7 + t) % 61) as i64).collect();
    let (mut spilled, before) = (engine(spilling(name, resident_bytes)), resident_kib());
    assert!(!path(name).exists(), "{name}: the file has a name still");
    let (mut found, mut most) = (Vec::new(), before);
    for piece in tokens.chunks(29) {
        spilled.catch_up(Backlog::Tokens(piece), &mut found).unwrap();
        most = most.max(resident_kib());
    }
    assert_eq!(spilled.cache().len(), model.contract().capacity, "{name}: the history is full");
    let mut expected = Vec::new();
    let mut in_ram = engine(EngineOptions::default());
    for piece in tokens.chunks(29) {
        in_ram.catch_up(Backlog::Tokens(piece), &mut expected).unwrap();
    }
    assert_eq!(found.len(), expected.len());
    let other = found.iter().zip(&expected).position(|(f, e)| f.to_bits() != e.to_bits());
    let other = other.map(|i| (i, found[i], expected[i]));
    assert_eq!(other, None, "{name}: other answers");
    most.zip(before).map(|(most, before)| most - before)
}

// One test for all: they share the process whose memory is measured.
#[test]
fn a_history_in_a_file_reads_like_one_in_ram_and_keeps_to_its_budget() {
    if cfg!(not(target_os = "linux")) {
        println!("skipped: only Linux maps files over memory");
        return;
    }
    let budget = 6 << 20;
    let large = model(SSC, CAPACITY, 1, Dtype::F32);
    let grown = check("tract", &large, || (Tract::new(&large).unwrap(), None), budget);
    println!("tract: 128 MiB of history took {grown:?} KiB of RAM");
    // 2 MiB for what is no cache.
    assert!(grown.is_none_or(|kib| kib < (budget as u64 >> 10) + 2048), "{grown:?} KiB");
    for dtype in [Dtype::F16, Dtype::I8] {
        let chunked = model(SSC, 100, 7, dtype);
        let load = || (Tract::new(&chunked).unwrap(), Tract::chunks(&chunked).unwrap());
        check(&format!("{dtype:?}"), &chunked, load, 32 << 20);
    }
    for policy in [Policy::Thin, Policy::Novel, Policy::Logarithmic, Policy::LeastRead] {
        let small = gated(SSC, 150, 7, Dtype::F32, policy.needs_gates());
        let load = || (Tract::new(&small).unwrap(), None);
        check_under(policy, policy.name(), &small, load, 3 << 20);
    }
    match OnnxRuntime::load(None) {
        Ok(_) => {
            // Chunks so short that the budget leaves them whole: a token alone rounds otherwise than among others.
            let options = mcedge_export::Options { capacity: 600, chunk: 2, ..Default::default() };
            let chunked = exported(SSC, 7, options);
            let options = OrtOptions::default();
            let load = || {
                let step = Ort::new(&chunked, &options).unwrap();
                (step, Ort::chunks(&chunked, &options).unwrap())
            };
            check("ort", &chunked, load, 17 << 20);
        }
        Err(error) => println!("skipped ONNX Runtime: {error}"),
    }
}

#[test]
fn what_cannot_spill_is_an_error_that_says_why() {
    let refused = |aggregation: &str, name: &str, resident_bytes: usize| {
        let model = model(aggregation, 8, 4, Dtype::F32);
        let options = spilling(name, resident_bytes);
        Engine::new(&model, Tract::new(&model).unwrap(), options).err().unwrap().to_string()
    };
    let all = refused(r#""grm""#, "grm", 1 << 24);
    assert_eq!(
        all,
        "cannot spill: block 0 reads every checkpoint for every token, expected `ssc`, which reads those that it selects"
    );
    let none = refused(r#""none""#, "none", 1 << 24);
    assert_eq!(none, "cannot spill: the model has no cache");
    let small = refused(SSC, "small", 5000);
    assert!(small.starts_with("cannot spill: a budget of 5000 bytes, expected "), "{small}");
    fs::write(path("there"), "somebody's").unwrap();
    let there = refused(SSC, "there", 1 << 24);
    assert!(there.contains("exists"), "{there}");
    assert_eq!(fs::read_to_string(path("there")).unwrap(), "somebody's");
    fs::remove_file(path("there")).unwrap();
}

#[test]
fn a_history_in_a_file_is_in_no_snapshot() {
    if cfg!(not(target_os = "linux")) {
        println!("skipped: only Linux maps files over memory");
        return;
    }
    let model = model(SSC, 100, 7, Dtype::F32);
    let engine = |options: EngineOptions| Engine::new(&model, Tract::new(&model).unwrap(), options).unwrap();
    let tokens: Vec<i64> = (0..300).map(|t| t * t % 61).collect();
    let (mut in_ram, mut spilled) = (engine(EngineOptions::default()), engine(spilling("saved", 32 << 20)));
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    in_ram.catch_up(Backlog::Tokens(&tokens), &mut expected).unwrap();
    spilled.catch_up(Backlog::Tokens(&tokens), &mut found).unwrap();

    let mut draft = Draft::default();
    draft.clear();
    assert!(matches!(spilled.save(&mut draft), Err(SnapshotError::Spilled)));
    in_ram.save(&mut draft).unwrap();
    let restored = spilled.restore(&Snapshot::parse(draft.finish()).unwrap());
    assert!(matches!(restored, Err(SnapshotError::Spilled)));
    // Nothing has changed.
    in_ram.catch_up(Backlog::Tokens(&tokens), &mut expected).unwrap();
    spilled.catch_up(Backlog::Tokens(&tokens), &mut found).unwrap();
    assert!(found.iter().zip(&expected).all(|(f, e)| f.to_bits() == e.to_bits()));
}
