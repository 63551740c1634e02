//! Budgets: how they are written, and that no cache is ever more than its own.

use std::path::Path;

use mcedge_models::Model as Trained;
use mcedge_models::contract::{Dtype, Input};
use mcedge_runtime::{Buffer, Cells, Engine, EngineOptions, Model, Sample, Tract};

use super::*;

#[test]
fn bytes_are_read_as_people_write_them() {
    let check = |text: &str, bytes: u64| assert_eq!(text.parse(), Ok(Budget { bytes }), "{text}");
    check("65536", 65_536);
    check("64KiB", 65_536);
    check("8MiB", 8 << 20);
    check("1GiB", 1 << 30);
    check("500kB", 500_000);
    check("1MB", 1_000_000);
    check("1.5 KiB", 1_536);
    check("0", 0);
    for text in ["", "8MiBs", "-1", "many", "KiB", "0x10", "1e6"] {
        assert!(text.parse::<Budget>().is_err(), "{text}");
    }
}

/// Numbers without a pattern.
struct Random(u64);

impl Random {
    /// `0..below`.
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// Bytes of a tensor's elements.
fn bytes(tensor: &impl Buffer) -> usize {
    match tensor.cells() {
        Cells::F32(cells) => size_of_val(cells),
        Cells::F16(cells) => size_of_val(cells),
        Cells::I8(cells) => size_of_val(cells),
        Cells::I64(cells) => size_of_val(cells),
    }
}

/// Bytes of the live checkpoints of all streams, by the tensors that they are in.
fn live_bytes(engine: &Engine<Tract>) -> usize {
    let (cache, contract) = (engine.cache(), engine.contract());
    let all: usize = cache.tensors().iter().chain(cache.steps()).map(bytes).sum();
    all * cache.len() / (contract.capacity * contract.batch)
}

/// Runs `tokens` tokens of every stream; the bytes of live checkpoints after each.
fn run(engine: &mut Engine<Tract>, tokens: usize, random: &mut Random) -> Vec<usize> {
    let (batch, input) = (engine.contract().batch, engine.contract().input.clone());
    let mut live = Vec::new();
    for _ in 0..tokens {
        let features: Vec<f32> = (0..input.size()).map(|_| random.below(100) as f32 / 100.0).collect();
        let sample = match input {
            Input::Features { .. } => Sample::Features(&features),
            Input::Tokens { vocab_size } => Sample::Token(random.below(vocab_size) as i64),
        };
        engine.push_batch(&vec![Some(sample); batch]).unwrap();
        live.push(live_bytes(engine));
    }
    live
}

#[test]
fn live_checkpoints_never_take_more_than_the_budget_and_one_more_would() {
    let cases = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/tests/cases"));
    let mut cases: Vec<_> = cases.read_dir().unwrap().map(|case| case.unwrap().path()).collect();
    cases.retain(|case| case.join("config.json").is_file());
    cases.sort();
    let mut random = Random(7);
    let mut full = 0;
    for case in cases {
        let trained = Trained::load(&case).unwrap();
        let options = mcedge_export::Options {
            capacity: 1 + random.below(12),
            cache_dtype: [Dtype::F32, Dtype::F16, Dtype::I8][random.below(3)],
            batch: 1 + random.below(3),
            ..mcedge_export::Options::default()
        };
        let bundle = mcedge_export::bundle(&trained.spec, &trained.weights, options).unwrap();
        let contract = bundle.contract.clone();
        let one = checkpoint_bytes(&contract) * options.batch;
        let budget = Budget { bytes: (one + random.below(9 * one + 1)) as u64 };
        let allowed = budget.checkpoints(&contract).unwrap();
        assert_eq!(allowed.is_some(), !contract.cache.is_empty(), "{}", case.display());
        let Some(allowed) = allowed else { continue };

        // As a bundle of its own capacity keeps it, and as an export of just that capacity.
        let exact = mcedge_export::Options { capacity: allowed, ..options };
        let exact = mcedge_export::bundle(&trained.spec, &trained.weights, exact).unwrap();
        let within = allowed.min(options.capacity);
        for (bundle, slots) in [(bundle, Some(within)), (exact, None)] {
            let model = Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state).unwrap();
            let options = EngineOptions { slots, ..EngineOptions::default() };
            let mut engine = Engine::new(&model, Tract::new(&model).unwrap(), options).unwrap();
            let live = run(&mut engine, 80, &mut random);
            let most = live.into_iter().max().unwrap();
            assert!(most as u64 <= budget.bytes, "{}: {most} of {budget}", case.display());
            if slots.is_none() && engine.cache().len() == allowed * engine.contract().batch {
                assert!((most + one) as u64 > budget.bytes, "{}: {most} of {budget}", case.display());
                full += 1;
            }
        }
        let too_little = Budget { bytes: one as u64 - 1 };
        let error = too_little.checkpoints(&contract).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains(&one.to_string()), "{error}");
    }
    assert!(full > 10, "{full} caches were full");
}
