//! What a token costs in the kernel alone, by memory, type of cache and live checkpoints, and the bytes a second that this is.
//!
//! `cargo bench -p mcedge-kernel --bench kernel [-- linear/grm/f32/256]`. A token goes through two blocks of four heads of 32, each
//! with a cache of its own, so that a cache has gone from the CPU's nearest by its next turn when it would have in a model.
//! What the instructions of this CPU compute is compared with what plain Rust does before it is timed. Beside them,
//! `read` is a plain sum over the same bytes: what the memory of this machine gives.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use mcedge_kernel::{Cells, Isa, Kernel, Run};
use mcedge_models::contract::{Dtype, MemoryFunction, MemoryTensor};
use mcedge_models::spec::{
    Aggregation, Caching, Coefficient, Context, Deep, FeatureMap, Init, Memory, Objective, Query,
    Segmentation,
};

const HEADS: usize = 4;
const HEAD_SIZE: usize = 32;
const BLOCKS: usize = 2;
const TYPES: [(&str, Dtype); 3] = [("f32", Dtype::F32), ("f16", Dtype::F16), ("i8", Dtype::I8)];

/// A cached tensor, with a step a memory where it is i8.
enum Cache {
    F32(Vec<f32>),
    F16(Vec<f16>),
    I8(Vec<i8>, Vec<f32>),
}

impl Cache {
    /// Numbers below 1, of memories of `elements` each.
    fn new(numbers: Vec<f32>, elements: usize, dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32(numbers),
            Dtype::F16 => Self::F16(numbers.into_iter().map(f16::from_f32).collect()),
            _ => {
                let steps = vec![1.0 / 127.0; numbers.len() / elements];
                Self::I8(numbers.into_iter().map(|x| (127.0 * x) as i8).collect(), steps)
            }
        }
    }

    fn cells(&self) -> Cells<'_> {
        match self {
            Self::F32(cells) => Cells::F32(cells),
            Self::F16(cells) => Cells::F16(cells),
            Self::I8(cells, steps) => Cells::I8(cells, steps),
        }
    }

    /// Of its cells, and of its steps.
    fn sizes(&self) -> [usize; 2] {
        match self {
            Self::I8(_, steps) => [self.bytes().len(), size_of_val(&steps[..])],
            _ => [self.bytes().len(), 0],
        }
    }

    fn bytes(&self) -> &[u8] {
        fn bytes<T>(cells: &[T]) -> &[u8] {
            // SAFETY: numbers without padding, read as the bytes they are.
            unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), size_of_val(cells)) }
        }
        match self {
            Self::F32(cells) => bytes(cells),
            Self::F16(cells) => bytes(cells),
            Self::I8(cells, _) => bytes(cells),
        }
    }
}

/// A block: its kernel, its state before and after, and its full cache.
struct Block {
    kernel: Kernel,
    qkv: [Vec<f32>; 3],
    past: Vec<Vec<f32>>,
    present: Vec<Vec<f32>>,
    cache: Vec<Cache>,
    /// Of each cached tensor, the checkpoints of which it is read: contexts of all, memories of those that `ssc` chooses.
    read: Vec<usize>,
    live: usize,
    y: Vec<f32>,
}

impl Block {
    fn new(function: &MemoryFunction, live: usize, isa: Isa, seed: u64) -> Self {
        let mut seed = seed;
        let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| number(&mut seed)).collect() };
        let elements = |tensor: &MemoryTensor| tensor.shape.iter().product::<usize>();
        let tensors = function.tensors();
        let past: Vec<_> = tensors.iter().map(|tensor| numbers(HEADS * elements(tensor))).collect();
        let cached = || tensors.iter().filter(|tensor| tensor.cached);
        let chosen = function.caching.top_k.unwrap_or(live).min(live);
        let read = cached().map(|tensor| if tensor.name == "context" { live } else { chosen }).collect();
        let cache = cached().map(|tensor| {
            let elements = elements(tensor);
            Cache::new(numbers(HEADS * live.max(1) * elements), elements, function.dtype(tensor))
        });
        Self {
            kernel: Kernel::with_isa(function, live.max(1), isa),
            cache: cache.collect(),
            read,
            qkv: [(); 3].map(|()| numbers(HEADS * HEAD_SIZE)),
            present: past.clone(),
            past,
            live,
            y: vec![0.0; HEADS * HEAD_SIZE],
        }
    }

    fn run(&mut self) -> &[f32] {
        let [q, k, v] = &self.qkv;
        self.kernel.run(Run {
            q,
            k,
            v,
            past: &self.past.iter().map(|x| &x[..]).collect::<Vec<_>>(),
            present: &mut self.present.iter_mut().map(|x| &mut x[..]).collect::<Vec<_>>(),
            segment_length: 5,
            cache: &self.cache.iter().map(Cache::cells).collect::<Vec<_>>(),
            cache_length: self.live,
            y: &mut self.y,
            ..Run::default()
        });
        &self.y
    }

    /// The least that a token has to read and write: its state, twice, and what it reads of live checkpoints.
    fn bytes(&self) -> usize {
        let state: usize = self.past.iter().map(|tensor| size_of_val(&tensor[..])).sum();
        let share = |(cache, read): (&Cache, &usize)| {
            cache.sizes().map(|bytes| bytes / self.live.max(1) * read).iter().sum::<usize>()
        };
        2 * state + self.cache.iter().zip(&self.read).map(share).sum::<usize>()
    }
}

/// −0.2 to 0.2.
fn number(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    0.2 * ((*seed >> 33) as f32 / (1u64 << 30) as f32 - 1.0)
}

fn function(memory: Memory, top_k: Option<usize>, cache_dtype: Dtype) -> MemoryFunction {
    let caching = Caching {
        aggregation: if top_k.is_some() { Aggregation::Ssc } else { Aggregation::Grm },
        query: Query::Q,
        context: Context::Mean,
        temperature: 1.0,
        top_k,
        segmentation: Segmentation::Constant { size: 64 },
        init: Init::Continue,
    };
    MemoryFunction {
        num_heads: HEADS,
        head_size: HEAD_SIZE,
        normalize_qk: true,
        memory,
        caching,
        cache_dtype,
        gates: false,
        mixer: None,
    }
}

/// Times a token through all blocks, and where the caches are read in full, a sum over their bytes.
fn token(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, function: &MemoryFunction, live: usize) {
    let blocks = |isa| (0..BLOCKS).map(move |block| Block::new(function, live, isa, block as u64));
    let mut plain: Vec<Block> = blocks(Isa::Portable).collect();
    let mut fast: Vec<Block> = blocks(Isa::detect()).collect();
    for (plain, fast) in plain.iter_mut().zip(&mut fast) {
        let (expected, isa) = (plain.run(), fast.kernel.isa());
        for (found, expected) in fast.run().iter().zip(expected) {
            let error = (found - expected).abs() / expected.abs().max(1.0);
            assert!(error < 1e-5, "{name}/{live}: {isa} computes {found}, plain Rust {expected}");
        }
    }
    drop(plain);
    group.throughput(Throughput::Bytes(fast.iter().map(Block::bytes).sum::<usize>() as u64));
    group.bench_function(BenchmarkId::new(name, live), |bench| {
        bench.iter(|| fast.iter_mut().map(|block| black_box(block.run())[0]).sum::<f32>());
    });
    if live > 0 && function.caching.top_k.is_none() {
        let caches = || fast.iter().flat_map(|block| block.cache.iter().map(Cache::bytes));
        group.throughput(Throughput::Bytes(caches().map(|bytes| bytes.len() as u64).sum()));
        group.bench_function(BenchmarkId::new(format!("{name}/read"), live), |bench| {
            bench.iter(|| caches().map(sum).fold(0, u64::wrapping_add));
        });
    }
}

/// As fast as bytes come: sixteen sums side by side.
fn sum(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 16];
    for line in bytes.as_chunks::<128>().0 {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

fn kernel(criterion: &mut Criterion) {
    let linear = Memory::Linear { feature_map: FeatureMap::Identity, normalized: false };
    let titans = Memory::Titans(Deep {
        depth: 2,
        width: 64,
        bias: false,
        skip: false,
        objective: Objective::L2,
        step_size: Coefficient::Constant(0.01),
        momentum: 0.9,
        retention: Coefficient::Constant(1.0),
        sign: None,
    });
    let mut group = criterion.benchmark_group("kernel");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for (memory_name, memory, fills) in
        [("linear", linear, [0, 16, 64, 256, 4096]), ("titans", titans, [0, 16, 64, 256, 1024])]
    {
        for (aggregation, top_k) in [("grm", None), ("ssc", Some(4))] {
            for (type_name, dtype) in TYPES {
                for live in fills {
                    let name = format!("{memory_name}/{aggregation}/{type_name}");
                    token(&mut group, &name, &function(memory.clone(), top_k, dtype), live);
                }
            }
        }
    }
    group.finish();
}

criterion_group!(benches, kernel);
criterion_main!(benches);
