//! Every backend against the reference, token by token, over random small models.
//!
//! tract with the fused kernels, ONNX Runtime with them, and ONNX Runtime with the graph's plain bodies share the
//! exporter, but no arithmetic with the reference, which knows no graph. ONNX Runtime is skipped, saying so, where
//! there is none.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::collections::BTreeMap;

use mcedge_models::contract::Dtype;
use mcedge_models::spec::{
    Aggregation, Block, Caching, Coefficient, Context, Deep, FeatureMap, Head, Init, Input, Memory, Mlp,
    Norm, Objective, Query, Segmentation, Sign, Spec,
};
use mcedge_models::{Samples, Tensor, Weights, parameters, reference};
use mcedge_runtime::{Backend, Engine, Error, Model, OnnxRuntime, Ort, OrtOptions, Policy, Tract};
use ndarray::Array2;

/// Largest error allowed, relative to max(1, |expected|), over all tokens.
const TOLERANCE: f64 = 1e-4;
const MODELS: u64 = 96;

/// xorshift64*: reproducible, and nobody else's.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// 0 to `n` − 1.
    fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 33) as usize % n
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// −1 to 1.
    fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn uniforms(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.uniform()).collect()
    }
}

fn memory(random: &mut Random) -> Memory {
    let kind = random.below(3);
    if kind == 0 {
        return Memory::Linear { feature_map: FeatureMap::Identity, normalized: false };
    }
    let deep = Deep {
        depth: 2 + random.below(2),
        width: 1 + random.below(7),
        bias: random.coin(),
        skip: random.coin(),
        objective: random.pick(&[Objective::L2, Objective::Dot]),
        step_size: Coefficient::Constant(0.03),
        momentum: random.pick(&[0.0, 0.6]),
        retention: Coefficient::Constant(random.pick(&[1.0, 0.95])),
        sign: None,
    };
    if kind == 1 {
        return Memory::Dla(deep);
    }
    let sign = random.pick(&[None, Some(Sign::Descent), Some(Sign::Paper)]);
    // The paper's sign climbs the loss: a small step keeps it from diverging within the test.
    let step_size = if sign == Some(Sign::Paper) { Coefficient::Constant(0.005) } else { deep.step_size };
    Memory::Titans(Deep { sign, step_size, ..deep })
}

fn block(random: &mut Random, segmentation: Segmentation, init: Init, d_model: usize) -> Block {
    use Aggregation::{Grm, Mean, None, Residual, Soup, Ssc};
    let aggregation = random.pick(&[None, None, Residual, Grm, Grm, Soup, Soup, Ssc, Ssc, Mean]);
    let gru = aggregation == None && random.coin();
    let memory = if gru { Memory::Gru {} } else { memory(random) };
    Block {
        norm: random.pick(&[Norm::LayerNorm, Norm::RmsNorm, Norm::None]),
        residual: random.coin(),
        num_heads: random.pick(&[1, 2, d_model / 3]),
        // A deep memory with large keys diverges, and then no two roundings agree.
        normalize_qk: memory.deep().is_some() || random.coin(),
        memory,
        caching: Caching {
            aggregation,
            query: random.pick(&[Query::U, Query::Q]),
            context: random.pick(&[Context::Mean, Context::Sum]),
            temperature: random.pick(&[1.0, 0.5]),
            top_k: (aggregation == Ssc).then(|| 1 + random.below(4)),
            segmentation,
            init,
        },
        mlp: random.coin().then_some(Mlp { width: 5 }),
    }
}

fn spec(random: &mut Random) -> Spec {
    let d_model = random.pick(&[6, 12]);
    let segmentation = Segmentation::Constant { size: 1 + random.below(5) };
    let init = random.pick(&[Init::Continue, Init::Restart]);
    let size = 1 + random.below(3);
    let scaled = random.coin();
    let scale = |on: bool, random: &mut Random| {
        let values = random.uniforms(if on { size } else { 0 });
        (values.clone(), values.iter().map(|x| x.abs() + 0.5).collect::<Vec<f32>>())
    };
    let (mean, std) = scale(scaled, random);
    let input = match random.coin() {
        true => Input::Tokens { vocab_size: 7 },
        false => Input::Features { size, mean, std, names: Vec::new(), units: Vec::new(), rate_hz: None },
    };
    let (mean, std) = scale(random.coin(), random);
    let heads = [
        Head::Logits { size: 7 },
        Head::Regression { size, mean, std },
        Head::Classification { size: 4, labels: Vec::new() },
    ];
    Spec {
        format: mcedge_models::spec::FORMAT.into(),
        name: "random".into(),
        input,
        d_model,
        blocks: (0..1 + random.below(2)).map(|_| block(random, segmentation, init, d_model)).collect(),
        final_norm: random.coin(),
        head: random.pick(&heads),
    }
}

/// Every parameter, optional ones too, scaled so that activations stay near 1.
fn weights(random: &mut Random, spec: &Spec) -> Weights {
    let mut tensors = BTreeMap::new();
    for parameter in parameters(spec) {
        let fan_in = *parameter.shape.last().unwrap_or(&1) as f32;
        let scale = if parameter.shape.len() > 1 { 1.0 / fan_in.sqrt() } else { 0.5 };
        let elements = parameter.shape.iter().product();
        let data = random.uniforms(elements).into_iter().map(|x| x * scale).collect();
        tensors.insert(parameter.name, Tensor { shape: parameter.shape, data });
    }
    Weights::new(tensors, spec).unwrap()
}

fn samples(random: &mut Random, spec: &Spec, tokens: usize) -> Samples {
    match &spec.input {
        Input::Tokens { vocab_size } => {
            Samples::Tokens((0..tokens).map(|_| random.below(*vocab_size) as i64).collect())
        }
        Input::Features { size, .. } => {
            Samples::Features(Array2::from_shape_fn((tokens, *size), |_| 2.0 * random.uniform()))
        }
    }
}

/// The largest error of a stream over `backend`, relative to max(1, |expected|); NaN counts as infinite.
fn error<B: Backend>(model: &Model, backend: B, input: &Samples, expected: &Array2<f64>) -> f64 {
    let mut engine = Engine::new(model, backend, Policy::Oldest).unwrap();
    let mut worst = 0.0f64;
    for (token, expected) in expected.rows().into_iter().enumerate() {
        let output = match input {
            Samples::Features(features) => engine.push(features.row(token).as_slice().unwrap()).unwrap(),
            Samples::Tokens(tokens) => engine.push_token(tokens[token]).unwrap(),
        };
        for (&found, &expected) in output.iter().zip(expected) {
            let error = (f64::from(found) - expected).abs() / expected.abs().max(1.0);
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
        }
    }
    worst
}

/// Whether there is an ONNX Runtime; says so when there is none.
fn has_onnx_runtime() -> bool {
    match OnnxRuntime::load(None) {
        Ok(_) => true,
        Err(error @ Error::NoOnnxRuntime { .. }) => {
            println!("skipped ONNX Runtime: {error}");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

fn check(seed: u64, cache_dtype: Dtype, tolerance: f64, onnx_runtime: bool) -> Vec<String> {
    let random = &mut Random::new(seed);
    let spec = spec(random);
    spec.check().unwrap();
    let weights = weights(random, &spec);
    let capacity = 1 + random.below(4);
    let Segmentation::Constant { size } = spec.segmentation() else {
        unreachable!("the specs above are constant")
    };
    let input = samples(random, &spec, size * (capacity + 3) + 1);
    let expected = reference::run(&spec, &weights, input.stream(), Some(capacity)).unwrap();
    assert!(expected.iter().all(|x| x.is_finite()), "seed {seed} diverges: {spec:?}");
    let options = mcedge_export::Options { capacity, cache_dtype, ..Default::default() };
    let bundle = mcedge_export::bundle(&spec, &weights, options).unwrap();
    let model = Model::from_bytes(bundle.step, None, &bundle.initial_state).unwrap();
    let mut errors = vec![("tract", error(&model, Tract::new(&model).unwrap(), &input, &expected))];
    if onnx_runtime {
        for (name, plain) in [("ort", false), ("ort plain", true)] {
            let backend = Ort::new(&model, &OrtOptions { plain, ..Default::default() }).unwrap();
            errors.push((name, error(&model, backend, &input, &expected)));
        }
    }
    let wrong = errors.into_iter().filter(|(_, error)| *error > tolerance);
    wrong.map(|(name, error)| format!("seed {seed}, {name}: {error:.1e}, {:?}", spec.blocks)).collect()
}

#[test]
fn every_backend_computes_the_reference() {
    let onnx_runtime = has_onnx_runtime();
    let wrong: Vec<_> =
        (0..MODELS).flat_map(|seed| check(seed, Dtype::F32, TOLERANCE, onnx_runtime)).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// f16 rounds a checkpoint to 11 bits, so the reads are off by as much: 2⁻¹¹ of a cached value, and small multiples.
#[test]
fn a_cache_of_f16_is_as_near_as_its_rounding() {
    let onnx_runtime = has_onnx_runtime();
    let wrong: Vec<_> =
        (0..MODELS / 4).flat_map(|seed| check(seed, Dtype::F16, 2e-2, onnx_runtime)).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn sessions_may_be_made_at_once() {
    if !has_onnx_runtime() {
        return;
    }
    let random = &mut Random::new(3);
    let spec = spec(random);
    let bundle =
        mcedge_export::bundle(&spec, &weights(random, &spec), mcedge_export::Options::default()).unwrap();
    let model = Model::from_bytes(bundle.step, None, &bundle.initial_state).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| Ort::new(&model, &OrtOptions::default()).map(drop).unwrap());
        }
    });
}
