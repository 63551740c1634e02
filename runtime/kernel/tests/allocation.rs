//! A run of the kernel allocates nothing: this file has the process, and so the allocator, to itself.

#[path = "../../tests/common/counting.rs"]
mod counting;

use counting::{ALLOCATIONS, LIVE_BYTES};
use half::f16;
use mcedge_kernel::{Cells, Isa, Kernel, Run};
use mcedge_models::contract::{Dtype, MemoryFunction, Role};
use mcedge_models::spec::{
    Aggregation, Caching, Coefficient, Context, Deep, FeatureMap, FromInput, Init, Memory, Objective, Query,
    Segmentation,
};

const CAPACITY: usize = 5;
/// Tokens of a run: of so few that each is read alone, and of a block and some more.
const TOKENS: [usize; 2] = [3, 40];
const INPUT: Coefficient = Coefficient::Input(FromInput::Input);

/// With everything that a function may have.
fn function(memory: Memory, aggregation: Aggregation, cache_dtype: Dtype) -> MemoryFunction {
    let caching = Caching {
        aggregation,
        query: if memory.is_recurrent() { Query::U } else { Query::Q },
        context: Context::Mean,
        temperature: 1.0,
        top_k: (aggregation == Aggregation::Ssc).then_some(2),
        segmentation: Segmentation::Surprise { window: 64, threshold: 2.0, min_size: 1, max_size: 64 },
        init: Init::Continue,
    };
    MemoryFunction {
        num_heads: 2,
        head_size: 11,
        normalize_qk: true,
        memory,
        caching,
        cache_dtype,
        gates: true,
        mixer: None,
    }
}

fn memories() -> [Memory; 7] {
    let deep = Deep {
        depth: 3,
        width: 9,
        bias: true,
        skip: true,
        objective: Objective::L2,
        step_size: INPUT,
        momentum: 0.9,
        retention: INPUT,
        sign: None,
    };
    [
        Memory::Linear { feature_map: FeatureMap::Elu1, normalized: true },
        Memory::Swla { alpha: INPUT, beta: INPUT, lambda: INPUT },
        Memory::GatedDelta { alpha: INPUT, beta: INPUT, correction: true },
        Memory::Titans(deep),
        Memory::Gru {},
        Memory::Lstm {},
        Memory::Attention { window: 4 },
    ]
}

/// The aggregations that go with a memory.
fn aggregations(memory: &Memory) -> Vec<Aggregation> {
    let cached =
        [Aggregation::Residual, Aggregation::Grm, Aggregation::Soup, Aggregation::Ssc, Aggregation::Mean];
    match memory {
        Memory::Attention { .. } => vec![Aggregation::None],
        Memory::Gru {} | Memory::Lstm {} => [&cached[..], &[Aggregation::Sigmoid]].concat(),
        _ => [&cached[..], &[Aggregation::None]].concat(),
    }
}

/// A cached tensor in every type, of which a run reads its own.
struct Cache {
    dtype: Dtype,
    wide: Vec<f32>,
    half: Vec<f16>,
    bytes: Vec<i8>,
    steps: Vec<f32>,
}

impl Cache {
    fn all(function: &MemoryFunction) -> Vec<Self> {
        let memories = function.num_heads * CAPACITY;
        let cached = function.tensors().into_iter().filter(|tensor| tensor.cached);
        let cache = cached.map(|tensor| {
            let len = memories * tensor.shape.iter().product::<usize>();
            Self {
                dtype: function.dtype(&tensor),
                wide: vec![0.1; len],
                half: vec![f16::ONE; len],
                bytes: vec![1; len],
                steps: vec![0.1; memories],
            }
        });
        cache.collect()
    }

    fn cells(&self) -> Cells<'_> {
        match self.dtype {
            Dtype::F32 => Cells::F32(&self.wide),
            Dtype::F16 => Cells::F16(&self.half),
            Dtype::I8 => Cells::I8(&self.bytes, &self.steps),
        }
    }
}

#[track_caller]
fn check(function: &MemoryFunction, tokens: usize) {
    let elements = |role: Role, rows: usize| {
        let is_there = function.inputs().contains(&role) || function.outputs().contains(&role);
        if is_there { rows * function.shape(role, CAPACITY).1.iter().product::<usize>() } else { 0 }
    };
    let tensor = |role: Role, rows: usize| vec![0.3; elements(role, rows)];
    let states = 0..function.tensors().len();
    let past: Vec<Vec<f32>> = states.clone().map(|i| tensor(Role::State(i), 1)).collect();
    let mut present = past.clone();
    let carried = function.tensors().into_iter().zip(&past);
    let past: Vec<&[f32]> = carried.map(|(tensor, x)| if tensor.carried { &x[..] } else { &[] }).collect();
    let mut present: Vec<&mut [f32]> = present.iter_mut().map(|x| &mut x[..]).collect();
    let cache = Cache::all(function);
    let cache: Vec<Cells<'_>> = cache.iter().map(Cache::cells).collect();
    let coefficients: Vec<Vec<f32>> = (0..3).map(|i| tensor(Role::Coefficient(i), tokens)).collect();
    let coefficients: Vec<&[f32]> = coefficients.iter().map(|x| &x[..]).collect();
    let [q, k, v, u, x] = [Role::Q, Role::K, Role::V, Role::U, Role::X].map(|role| tensor(role, tokens));
    let weights = [Role::RecurrentWeight, Role::RecurrentBias, Role::GateWeight, Role::GateBias];
    let [recurrent_weight, recurrent_bias, gate_weight, gate_bias] = weights.map(|role| tensor(role, 1));
    let [mut y, mut gates, mut loss] = [Role::Y, Role::Gates, Role::Loss].map(|role| tensor(role, tokens));
    for isa in Isa::available() {
        let mut kernel = Kernel::with_isa(function, CAPACITY, isa);
        let before = ALLOCATIONS.get();
        kernel.run(Run {
            q: &q,
            k: &k,
            v: &v,
            u: &u,
            x: &x,
            coefficients: &coefficients,
            recurrent_weight: &recurrent_weight,
            recurrent_bias: &recurrent_bias,
            gate_weight: &gate_weight,
            gate_bias: &gate_bias,
            past: &past,
            present: &mut present,
            segment_length: 4,
            cache: &cache,
            cache_length: CAPACITY,
            y: &mut y,
            gates: &mut gates,
            loss: &mut loss,
        });
        assert_eq!(ALLOCATIONS.get() - before, 0, "allocations on {isa}, {function:?}");
    }
}

#[test]
fn a_run_allocates_nothing() {
    for memory in memories() {
        for aggregation in aggregations(&memory) {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::I8] {
                for tokens in TOKENS {
                    check(&function(memory.clone(), aggregation, dtype), tokens);
                }
            }
        }
    }
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1, "the allocator counts");
}

#[test]
fn a_kernel_says_what_it_works_in() {
    // What a kernel holds besides does not know of the capacity, and is small.
    let held = |function: &MemoryFunction, capacity: usize| {
        let before = LIVE_BYTES.get();
        let kernel = Kernel::new(function, capacity);
        (LIVE_BYTES.get() - before, kernel.scratch_bytes())
    };
    for memory in memories() {
        for aggregation in aggregations(&memory) {
            let function = function(memory.clone(), aggregation, Dtype::F32);
            let [(small, small_said), (large, large_said)] = [7, 300].map(|slots| held(&function, slots));
            assert_eq!(large - small, large_said - small_said, "{function:?}");
            let besides = small - small_said;
            assert!(besides < 2_000, "{besides} bytes besides scratch: {function:?}");
            // A factor of ten in the size of a head shows in both.
            let wide = MemoryFunction { head_size: 110, ..function.clone() };
            let (wide, wide_said) = held(&wide, 7);
            assert_eq!(wide - small, wide_said - small_said, "{function:?}");
        }
    }
}
