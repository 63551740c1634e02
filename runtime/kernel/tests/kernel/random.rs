//! Numbers and memory functions at random, the same on every machine.

use mcedge_models::contract::{Dtype, MemoryFunction};
use mcedge_models::spec::{
    Aggregation, Caching, Coefficient, Context, Deep, FeatureMap, FromInput, Init, Memory, Objective, Query,
    Segmentation, Sign,
};

/// A generator of numbers, from a seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()].clone()
    }

    /// −1 to 1.
    pub fn number(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }

    /// −`scale` to `scale`.
    pub fn numbers(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| scale * self.number()).collect()
    }

    pub fn between(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        (0..len).map(|_| low + (high - low) * (0.5 + 0.5 * self.number())).collect()
    }
}

const AGGREGATIONS: [Aggregation; 7] = [
    Aggregation::None,
    Aggregation::Residual,
    Aggregation::Grm,
    Aggregation::Soup,
    Aggregation::Ssc,
    Aggregation::Mean,
    Aggregation::Sigmoid,
];

/// Every memory with every aggregation that `config.json` allows and a block calls, the rest of them at random.
pub fn functions(random: &mut Random) -> Vec<MemoryFunction> {
    let mut functions = Vec::new();
    for aggregation in AGGREGATIONS {
        for memory in memories(random) {
            let allowed = match memory {
                Memory::Attention { .. } => aggregation == Aggregation::None,
                Memory::Gru {} | Memory::Lstm {} => aggregation != Aggregation::None,
                _ => aggregation != Aggregation::Sigmoid,
            };
            functions.extend(allowed.then(|| function(random, memory, aggregation)));
        }
    }
    functions
}

/// Every kind of memory, with every setting that is a branch, and with random numbers.
pub fn memories(random: &mut Random) -> Vec<Memory> {
    let mut memories = vec![Memory::Gru {}, Memory::Lstm {}];
    for feature_map in [FeatureMap::Identity, FeatureMap::Elu1, FeatureMap::Relu] {
        for normalized in [false, true] {
            memories.push(Memory::Linear { feature_map, normalized });
        }
    }
    for _ in 0..3 {
        let [alpha, beta, lambda] = [0.9, -0.4, 0.7].map(|number| coefficient(random, number));
        memories.push(Memory::Swla { alpha, beta, lambda });
        for correction in [true, false] {
            let [alpha, beta] = [0.9, 0.6].map(|number| coefficient(random, number));
            memories.push(Memory::GatedDelta { alpha, beta, correction });
        }
        memories.push(Memory::Attention { window: random.pick(&[1, 2, 7, 19]) });
    }
    for objective in [Objective::L2, Objective::Dot] {
        memories.push(Memory::Dla(deep(random, objective)));
        for sign in [None, Some(Sign::Descent), Some(Sign::Paper)] {
            memories.push(Memory::Titans(Deep { sign, ..deep(random, objective) }));
        }
    }
    memories
}

fn coefficient(random: &mut Random, number: f32) -> Coefficient {
    random.pick(&[Coefficient::Constant(number), Coefficient::Input(FromInput::Input)])
}

pub fn deep(random: &mut Random, objective: Objective) -> Deep {
    Deep {
        depth: random.pick(&[2, 2, 3, 4]),
        width: random.pick(&[1, 4, 8, 13, 24, 33]),
        bias: random.pick(&[true, false]),
        skip: random.pick(&[true, false]),
        objective,
        step_size: coefficient(random, 0.05),
        momentum: random.pick(&[0.0, 0.9]),
        retention: coefficient(random, 0.95),
        sign: None,
    }
}

pub fn function(random: &mut Random, memory: Memory, aggregation: Aggregation) -> MemoryFunction {
    let surprise = Segmentation::Surprise { window: 64, threshold: 2.0, min_size: 1, max_size: 64 };
    let queries: &[Query] = if memory.is_recurrent() { &[Query::U] } else { &[Query::U, Query::Q] };
    MemoryFunction {
        num_heads: random.pick(&[1, 2, 3]),
        head_size: random.pick(&[1, 3, 5, 8, 16, 20]),
        normalize_qk: random.pick(&[true, false]),
        memory,
        caching: Caching {
            aggregation,
            query: random.pick(queries),
            context: random.pick(&[Context::Mean, Context::Sum]),
            temperature: random.pick(&[1.0, 0.25, 3.0]),
            top_k: (aggregation == Aggregation::Ssc).then(|| random.pick(&[1, 2, 5, 100])),
            segmentation: random.pick(&[Segmentation::Constant { size: 64 }, surprise]),
            init: Init::Continue,
        },
        cache_dtype: random.pick(&[Dtype::F32, Dtype::F16, Dtype::I8]),
        gates: random.pick(&[true, false]),
        mixer: None,
    }
}
