//! Small models with weights that nobody trained, and streams for them.

use std::collections::BTreeMap;

use mcedge_models::spec::{
    Aggregation, Block, Caching, Coefficient, Context, Deep, FeatureMap, FromInput, Head, Init, Input,
    Memory, Mlp, Norm, Objective, Query, Segmentation, Sign, Spec,
};
use mcedge_models::{Samples, Tensor, Weights, parameters};
use ndarray::Array2;

/// xorshift64*: reproducible, and nobody else's.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// 0 to `n` − 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 33) as usize % n
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    pub fn coin(&mut self) -> bool {
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

/// Every kind of memory, by the name that it has in a table.
pub fn memories() -> Vec<(&'static str, Memory)> {
    use Coefficient::Constant;
    let input = Coefficient::Input(FromInput::Input);
    let linear = |feature_map, normalized| Memory::Linear { feature_map, normalized };
    let deep = Deep {
        depth: 2,
        width: 7,
        bias: true,
        skip: false,
        objective: Objective::L2,
        step_size: Constant(0.03),
        momentum: 0.6,
        retention: Constant(0.95),
        sign: None,
    };
    let from_input = |depth| Deep { depth, step_size: input, retention: input, skip: true, ..deep.clone() };
    vec![
        ("linear", linear(FeatureMap::Identity, false)),
        ("linear, elu1, normalised", linear(FeatureMap::Elu1, true)),
        ("linear, relu, normalised", linear(FeatureMap::Relu, true)),
        ("swla", Memory::Swla { alpha: Constant(0.9), beta: Constant(0.4), lambda: Constant(0.7) }),
        ("swla, from the input", Memory::Swla { alpha: input, beta: input, lambda: input }),
        ("gated_delta", Memory::GatedDelta { alpha: Constant(0.95), beta: Constant(0.8), correction: true }),
        ("gated_delta, from the input", Memory::GatedDelta { alpha: input, beta: input, correction: true }),
        ("gated_delta, no correction", Memory::GatedDelta { alpha: input, beta: input, correction: false }),
        ("dla", Memory::Dla(deep.clone())),
        ("dla, from the input, depth 3", Memory::Dla(from_input(3))),
        ("titans", Memory::Titans(deep.clone())),
        ("titans, from the input", Memory::Titans(from_input(2))),
        ("gru", Memory::Gru {}),
        ("lstm", Memory::Lstm {}),
        ("attention", Memory::Attention { window: 9 }),
    ]
}

/// One block of `memory`, over features.
pub fn one_block(memory: Memory, aggregation: Aggregation, segmentation: Segmentation, init: Init) -> Spec {
    let caching = Caching {
        aggregation,
        query: Query::U,
        context: Context::Mean,
        temperature: 0.5,
        top_k: (aggregation == Aggregation::Ssc).then_some(2),
        segmentation,
        init,
    };
    let block = Block {
        norm: Norm::LayerNorm,
        residual: true,
        num_heads: 2,
        // A deep memory with large keys diverges, and then no two roundings agree.
        normalize_qk: true,
        memory,
        caching,
        mlp: None,
    };
    let (mean, std, names, units) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    Spec {
        format: mcedge_models::spec::FORMAT.into(),
        name: "conformance".into(),
        input: Input::Features { size: 3, mean, std, names, units, rate_hz: None },
        d_model: 12,
        blocks: vec![block],
        final_norm: false,
        head: Head::Logits { size: 4 },
    }
}

fn memory(random: &mut Random) -> Memory {
    let (_, mut memory) = random.pick(&memories());
    let narrow = random.below(7) + 1;
    let (depth, bias, skip) = (2 + random.below(2), random.coin(), random.coin());
    let objective = random.pick(&[Objective::L2, Objective::Dot]);
    let momentum = random.pick(&[0.0, 0.6]);
    let sign = random.pick(&[None, Some(Sign::Descent), Some(Sign::Paper)]);
    if let Memory::Dla(deep) | Memory::Titans(deep) = &mut memory {
        *deep = Deep { depth, width: narrow, bias, skip, objective, momentum, ..deep.clone() };
    }
    if let Memory::Titans(deep) = &mut memory {
        deep.sign = sign;
        // The paper's sign climbs the loss: a small step keeps it from diverging within the test.
        if sign == Some(Sign::Paper) {
            deep.step_size = Coefficient::Constant(0.005);
        }
    }
    match memory {
        Memory::Attention { .. } => Memory::Attention { window: 1 + random.below(12) },
        memory => memory,
    }
}

fn block(random: &mut Random, segmentation: Segmentation, init: Init, d_model: usize) -> Block {
    use Aggregation::{Grm, Mean, None, Residual, Sigmoid, Soup, Ssc};
    loop {
        let memory = memory(random);
        let aggregation = random.pick(&[None, None, Residual, Grm, Grm, Soup, Soup, Ssc, Ssc, Mean, Sigmoid]);
        let norm = random.pick(&[Norm::LayerNorm, Norm::RmsNorm, Norm::None]);
        let block = Block {
            norm,
            residual: random.coin(),
            num_heads: random.pick(&[1, 2, d_model / 3]),
            // Without a norm before it, and none of its keys, a memory's reads grow until roundings count.
            normalize_qk: memory.deep().is_some()
                || memory.kind() == "gated_delta"
                || norm == Norm::None
                || random.coin(),
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
        };
        // What has no meaning is drawn again: `Spec::check` knows.
        let alone = Spec { blocks: vec![block.clone()], ..one_block_of(&block, d_model) };
        if alone.check().is_ok() {
            return block;
        }
    }
}

fn one_block_of(block: &Block, d_model: usize) -> Spec {
    let Caching { aggregation, segmentation, init, .. } = block.caching;
    Spec { d_model, ..one_block(block.memory.clone(), aggregation, segmentation, init) }
}

pub fn segmentation(random: &mut Random) -> Segmentation {
    match random.below(6) {
        0 => Segmentation::Logarithmic {},
        1 => Segmentation::Surprise { window: 8, threshold: 0.7, min_size: 2, max_size: 6 },
        _ => Segmentation::Constant { size: 1 + random.below(6) },
    }
}

/// A model of one or two blocks of anything that has a meaning.
pub fn spec(random: &mut Random) -> Spec {
    let d_model = random.pick(&[6, 12]);
    let segmentation = segmentation(random);
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
pub fn weights(random: &mut Random, spec: &Spec) -> Weights {
    let mut tensors = BTreeMap::new();
    for parameter in parameters(spec) {
        let fan_in = *parameter.shape.last().unwrap_or(&1) as f32;
        let scale = if parameter.shape.len() > 1 { 1.0 / fan_in.sqrt() } else { 0.5 };
        let elements = parameter.shape.iter().product();
        let mut data: Vec<f32> = random.uniforms(elements).into_iter().map(|x| x * scale).collect();
        // A step size from the input is around 0.05, or a deep memory diverges.
        if parameter.name.ends_with("eta.bias") {
            data.iter_mut().for_each(|x| *x -= 3.0);
        }
        // A normaliser starts at 0, and so must what it normalises: the read would be M φ(q) · 10⁶.
        if parameter.name.ends_with("init.m") && spec.blocks.iter().any(is_normalized) {
            data.fill(0.0);
        }
        tensors.insert(parameter.name, Tensor { shape: parameter.shape, data });
    }
    Weights::new(tensors, spec).unwrap()
}

fn is_normalized(block: &Block) -> bool {
    matches!(block.memory, Memory::Linear { normalized: true, .. })
}

pub fn samples(random: &mut Random, spec: &Spec, tokens: usize) -> Samples {
    match &spec.input {
        Input::Tokens { vocab_size } => {
            Samples::Tokens((0..tokens).map(|_| random.below(*vocab_size) as i64).collect())
        }
        Input::Features { size, .. } => {
            Samples::Features(Array2::from_shape_fn((tokens, *size), |_| 2.0 * random.uniform()))
        }
    }
}

/// Tokens that overflow a cache of `capacity`, more than once where that is cheap.
pub fn overflowing(spec: &Spec, capacity: usize) -> usize {
    match spec.segmentation() {
        Segmentation::Constant { size } => size * (capacity + 3) + 1,
        Segmentation::Surprise { max_size, .. } => max_size * (capacity + 3),
        // Seven of eight numbers have more than a few bits set.
        Segmentation::Logarithmic {} => 70,
    }
}
