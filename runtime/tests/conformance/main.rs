//! Every way through which an output can come, against the reference, token by token, over small models.
//!
//! tract with the fused kernels, ONNX Runtime with them, and ONNX Runtime with the graph's plain bodies, by steps and by
//! chunks, share the exporter, but no arithmetic with the reference, which knows no graph. ONNX Runtime is skipped,
//! saying so, where there is none.
//!
//! `cargo test --release --workspace --test conformance -- --nocapture the_table` prints README's table.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod models;
mod paths;
mod plain;
mod policies;
mod saved;
mod table;

use mcedge_export::Options;
use mcedge_models::contract::Dtype;
use mcedge_models::spec::{Aggregation, Input, Segmentation, Spec};
use mcedge_models::{Samples, Weights, reference};
use mcedge_runtime::{Engine, EngineOptions, Model, OnnxRuntime, Ort, OrtOptions, Sample, Tract};
use ndarray::Array2;

use models::Random;

/// Largest error allowed, relative to max(1, |expected|), over all tokens.
const TOLERANCE: f64 = 1e-4;
const MODELS: u64 = 160;

/// The engine's model of an export.
fn export(spec: &Spec, weights: &Weights, options: Options) -> Model {
    let bundle = mcedge_export::bundle(spec, weights, options).unwrap();
    Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state).unwrap()
}

fn reference_of(spec: &Spec, weights: &Weights, input: &Samples, capacity: usize) -> Array2<f64> {
    let expected = reference::run(spec, weights, input.stream(), Some(capacity)).unwrap();
    assert!(expected.iter().all(|x| x.is_finite()), "diverges: {spec:?}");
    expected
}

/// A random model, what `batch` streams of it are given, and what they should make of it.
struct Case {
    spec: Spec,
    model: Model,
    inputs: Vec<Samples>,
    expected: Vec<Array2<f64>>,
}

impl Case {
    fn new(random: &mut Random, cache_dtype: Dtype, batch: usize) -> Self {
        let spec = models::spec(random);
        spec.check().unwrap();
        let weights = models::weights(random, &spec);
        let capacity = 1 + random.below(4);
        let tokens = models::overflowing(&spec, capacity);
        let inputs: Vec<Samples> = (0..batch).map(|_| models::samples(random, &spec, tokens)).collect();
        let expected = inputs.iter().map(|input| reference_of(&spec, &weights, input, capacity)).collect();
        let chunk = 1 + random.below(8);
        let options = Options { capacity, cache_dtype, chunk, batch, gates: random.coin() };
        Self { model: export(&spec, &weights, options), spec, inputs, expected }
    }

    /// The largest error of each stream that is over `tolerance`, of a run that `what` names.
    fn wrong(&self, found: &[Array2<f32>], tolerance: f64, what: &str) -> Vec<String> {
        let errors = found.iter().zip(&self.expected).map(|(found, expected)| paths::error(found, expected));
        let wrong = errors.enumerate().filter(|(_, error)| *error > tolerance);
        wrong
            .map(|(stream, error)| format!("{what}, stream {stream}: {error:.1e}, {:?}", self.spec.blocks))
            .collect()
    }
}

/// A random model on every path, in a batch of `batch` streams; what is out of tolerance.
fn check(seed: u64, cache_dtype: Dtype, batch: usize, tolerance: f64) -> Vec<String> {
    let random = &mut Random::new(seed);
    let case = Case::new(random, cache_dtype, batch);
    let mut wrong = Vec::new();
    for path in paths::paths() {
        let found = paths::run(&case.model, path, &case.inputs, random);
        wrong.extend(case.wrong(&found, tolerance, &format!("seed {seed}, {path}")));
    }
    wrong
}

#[track_caller]
fn none_is(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_path_computes_the_reference() {
    none_is((0..MODELS).flat_map(|seed| check(seed, Dtype::F32, 1, TOLERANCE)).collect());
}

/// Streams of a batch have positions of their own where segments end by surprise.
#[test]
fn a_batch_of_streams_is_as_many_runs() {
    none_is((0..MODELS / 4).flat_map(|seed| check(1000 + seed, Dtype::F32, 3, TOLERANCE)).collect());
}

/// f16 rounds a checkpoint to 11 bits, so the reads are off by as much: 2⁻¹¹ of a cached value, and small multiples.
#[test]
fn a_cache_of_f16_is_as_near_as_its_rounding() {
    none_is((0..MODELS / 4).flat_map(|seed| check(2000 + seed, Dtype::F16, 1, 2e-2)).collect());
}

/// i8 rounds a checkpoint to 1/254 of its largest value.
#[test]
fn a_cache_of_i8_is_as_near_as_its_rounding() {
    none_is((0..MODELS / 4).flat_map(|seed| check(3000 + seed, Dtype::I8, 1, 1e-1)).collect());
}

/// Streams that have no sample now and then, and so come to different positions in their segments.
#[test]
fn a_stream_without_a_sample_stays_as_it_is() {
    for seed in 4000..4000 + MODELS / 4 {
        let random = &mut Random::new(seed);
        let spec = models::spec(random);
        let weights = models::weights(random, &spec);
        let (batch, capacity) = (3, 2);
        let tokens = models::overflowing(&spec, capacity);
        let inputs: Vec<Samples> = (0..batch).map(|_| models::samples(random, &spec, tokens)).collect();
        let expected: Vec<_> =
            inputs.iter().map(|input| reference_of(&spec, &weights, input, capacity)).collect();
        let model = export(&spec, &weights, Options { capacity, batch, ..Options::default() });
        let mut engine = Engine::new(&model, Tract::new(&model).unwrap(), EngineOptions::default()).unwrap();
        let mut done = [0; 3];
        while done.iter().any(|&done| done < tokens) {
            let has: Vec<bool> = done.iter().map(|&done| done < tokens && random.coin()).collect();
            let samples: Vec<Option<Sample<'_>>> =
                (0..batch).map(|b| has[b].then(|| paths::sample(&inputs[b], done[b]))).collect();
            let output = engine.push_batch(&samples).unwrap().to_vec();
            for b in (0..batch).filter(|&b| has[b]) {
                let row = output[b * spec.head.size()..(b + 1) * spec.head.size()].to_vec();
                let found = Array2::from_shape_vec((1, row.len()), row).unwrap();
                let expected = expected[b].slice(ndarray::s![done[b]..=done[b], ..]).to_owned();
                let error = paths::error(&found, &expected);
                assert!(error <= TOLERANCE, "seed {seed}, stream {b}, token {}: {error:.1e}", done[b]);
                done[b] += 1;
            }
        }
    }
}

/// Gates of the engine, by age, against those of the reference.
#[test]
fn who_was_read_is_who_the_reference_reads() {
    for seed in 5000..5000 + MODELS / 4 {
        let random = &mut Random::new(seed);
        let spec = models::spec(random);
        if let Input::Tokens { .. } = spec.input {
            // Segments of equal tokens make equal checkpoints, of which `ssc` may read either.
            continue;
        }
        let weights = models::weights(random, &spec);
        let capacity = 1 + random.below(4);
        let input = models::samples(random, &spec, models::overflowing(&spec, capacity));
        let expected = reference::trace(&spec, &weights, input.stream(), Some(capacity)).unwrap();
        let model = export(&spec, &weights, Options { capacity, gates: true, ..Options::default() });
        let mut engine = Engine::new(&model, Tract::new(&model).unwrap(), EngineOptions::default()).unwrap();
        for token in 0..input.len() {
            engine.push_batch(&[Some(paths::sample(&input, token))]).unwrap();
            let found: Vec<_> = engine.gates(0).collect();
            let gated = expected.gates.iter().filter(|gates| !gates.is_empty());
            assert_eq!(found.len(), gated.count(), "seed {seed}: blocks with gates");
            for gates in found {
                for (head, found) in gates.weights.chunks(capacity + 1).enumerate() {
                    let mut expected = expected.gates[gates.block][token][head].clone();
                    expected.reverse();
                    expected.resize(capacity + 1, 0.0);
                    let near =
                        |(found, expected): (&f32, &f64)| (f64::from(*found) - expected).abs() < TOLERANCE;
                    assert!(
                        found.iter().zip(&expected).all(near),
                        "seed {seed}, token {token}, head {head}: {found:?}, not {expected:?}: {:?}",
                        spec.blocks[gates.block]
                    );
                }
            }
        }
    }
}

/// A block that collapses has no cache, and computes what its cached twin does while nothing has been evicted.
#[test]
fn a_collapsed_model_is_the_cached_one() {
    let (_, linear) = models::memories().swap_remove(0);
    let segmentation = Segmentation::Constant { size: 3 };
    let residual = Aggregation::Residual;
    let spec = models::one_block(linear, residual, segmentation, mcedge_models::spec::Init::Restart);
    let random = &mut Random::new(1);
    let cached = models::weights(random, &spec);
    let zero_start = |scale: f32| {
        let tensors = cached.iter().map(|(name, tensor)| {
            let mut tensor = tensor.clone();
            if name.ends_with("init.m") {
                tensor.data.iter_mut().for_each(|x| *x = scale * x.signum());
            }
            (name.to_owned(), tensor)
        });
        Weights::new(tensors.collect(), &spec).unwrap()
    };
    // As near to zero as makes no difference, and yet a block that does not collapse.
    let (collapsed, cached) = (zero_start(0.0), zero_start(1e-9));
    let options = Options { capacity: 40, ..Options::default() };
    let (collapsed, cached) = (export(&spec, &collapsed, options), export(&spec, &cached, options));
    assert!(collapsed.contract().cache.is_empty() && !cached.contract().cache.is_empty());
    let input = [models::samples(random, &spec, 100)];
    for path in paths::paths() {
        let found = paths::run(&collapsed, path, &input, random).swap_remove(0);
        let expected = paths::run(&cached, path, &input, random).swap_remove(0).mapv(f64::from);
        assert!(paths::error(&found, &expected) < TOLERANCE, "{path}");
    }
}

#[test]
fn sessions_may_be_made_at_once() {
    if OnnxRuntime::load(None).is_err() {
        println!("skipped: no ONNX Runtime");
        return;
    }
    let random = &mut Random::new(3);
    let spec = models::spec(random);
    let model = export(&spec, &models::weights(random, &spec), Options::default());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| Ort::new(&model, &OrtOptions::default()).map(drop).unwrap());
        }
    });
}
