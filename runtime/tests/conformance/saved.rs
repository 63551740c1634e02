//! Streams that go on from a snapshot, on every path, for every memory and type of cache.

use mcedge_models::spec::{Aggregation, Init};
use mcedge_runtime::snapshot::{Draft, Snapshot};
use mcedge_runtime::{Backend, Backlog, EngineOptions, Policy};
use ndarray::s;

use super::*;
use crate::paths::{Path, Runner, engine};

/// The bits of what the engine gives for tokens `tokens` of its only stream, in pieces of 1 to 5.
fn run<B: Backend>(engine: &mut Engine<B>, input: &Samples, tokens: std::ops::Range<usize>) -> Vec<u32> {
    let mut output = Vec::new();
    let (mut start, mut piece) = (tokens.start, 1);
    while start < tokens.end {
        let end = tokens.end.min(start + piece);
        let backlog = match input {
            Samples::Features(samples) => {
                Backlog::Features(samples.slice(s![start..end, ..]).to_slice().unwrap())
            }
            Samples::Tokens(ids) => Backlog::Tokens(&ids[start..end]),
        };
        engine.catch_up(backlog, &mut output).unwrap();
        (start, piece) = (end, piece % 5 + 1);
    }
    output.iter().map(|x| x.to_bits()).collect()
}

fn check_engines<B: Backend>(open: impl Fn() -> Engine<B>, input: &Samples, cut: usize, what: &str) {
    let mut undisturbed = open();
    run(&mut undisturbed, input, 0..cut);
    let mut draft = Draft::default();
    draft.clear();
    undisturbed.save(&mut draft).unwrap();
    let bytes = draft.finish();
    let mut restored = open();
    restored.restore(&Snapshot::parse(bytes).unwrap()).unwrap();
    let rest = cut..input.len();
    assert_eq!(run(&mut restored, input, rest.clone()), run(&mut undisturbed, input, rest), "{what}");
}

fn check(model: &Model, policy: Policy, path: Path, input: &Samples, cut: usize, what: &str) {
    let keeping = || EngineOptions { policy, ..EngineOptions::default() };
    let what = format!("{what}, {path}, cut at {cut}");
    let options = OrtOptions { plain: path.runner == Runner::OrtPlain, ..Default::default() };
    match path.runner {
        Runner::Tract => {
            let chunks = || path.chunks.then(|| Tract::chunks(model).unwrap()).flatten();
            check_engines(
                || engine(keeping(), model, Tract::new(model).unwrap(), chunks()),
                input,
                cut,
                &what,
            );
        }
        Runner::Ort | Runner::OrtPlain => {
            let chunks = || path.chunks.then(|| Ort::chunks(model, &options).unwrap()).flatten();
            check_engines(
                || engine(keeping(), model, Ort::new(model, &options).unwrap(), chunks()),
                input,
                cut,
                &what,
            );
        }
    }
}

#[test]
fn a_restored_stream_goes_on_bit_for_bit() {
    let segmentations = [
        Segmentation::Constant { size: 4 },
        Segmentation::Surprise { window: 8, threshold: 0.7, min_size: 2, max_size: 6 },
        Segmentation::Logarithmic {},
    ];
    let mut models = 0;
    for (seed, (name, memory)) in (0..).zip(models::memories()) {
        for (index, &segmentation) in segmentations.iter().enumerate() {
            let cells = matches!(name, "gru" | "lstm");
            let aggregation = if name == "attention" { Aggregation::None } else { Aggregation::Grm };
            let init = if cells { Init::Continue } else { [Init::Continue, Init::Restart][seed % 2] };
            let spec = models::one_block(memory.clone(), aggregation, segmentation, init);
            if spec.check().is_err() {
                continue;
            }
            let random = &mut Random::new((100 * seed + index) as u64);
            let weights = models::weights(random, &spec);
            let (capacity, chunk) = (3, 4);
            let input = models::samples(random, &spec, models::overflowing(&spec, capacity));
            let cache_dtype = [Dtype::F32, Dtype::F16, Dtype::I8][(seed + index) % 3];
            let options = Options { capacity, cache_dtype, chunk, batch: 1, gates: true };
            let model = export(&spec, &weights, options);
            let block = &spec.blocks[0];
            let policy = Policy::ALL[(seed * 5 + index) % Policy::ALL.len()];
            let cached = (aggregation != Aggregation::None).then_some((&block.memory, &block.caching));
            let policy = policy.check(init, cached).map_or(Policy::Oldest, |()| policy);
            for path in paths::paths() {
                let cut = random.below(input.len());
                let what = format!("{name}, {segmentation:?}, {cache_dtype:?}, {policy}");
                check(&model, policy, path, &input, cut, &what);
            }
            models += 1;
        }
    }
    assert!(models >= 30, "{models}");
}
