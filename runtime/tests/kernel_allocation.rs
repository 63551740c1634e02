//! A run of the kernel allocates nothing: this file has the process, and so the allocator, to itself.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use half::f16;
use mcedge_models::contract::{Dtype, MemoryFunction};
use mcedge_models::spec::{
    Aggregation, Caching, Coefficient, Context, Deep, FeatureMap, Init, Memory, Objective, Query,
    Segmentation,
};
use mcedge_runtime::kernel::{Cells, Isa, Kernel, Run};

thread_local! {
    /// Allocations by this thread; the test harness has threads of its own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on as it came; counting touches a thread-local number that needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const CAPACITY: usize = 5;
const TOKENS: usize = 3;

fn function(memory: Memory, aggregation: Aggregation) -> MemoryFunction {
    let caching = Caching {
        aggregation,
        query: Query::Q,
        context: Context::Mean,
        temperature: 1.0,
        top_k: (aggregation == Aggregation::Ssc).then_some(2),
        segmentation: Segmentation::Constant { size: 64 },
        init: Init::Continue,
    };
    MemoryFunction {
        num_heads: 2,
        head_size: 11,
        normalize_qk: true,
        memory,
        caching,
        cache_dtype: Dtype::F32,
        gates: false,
    }
}

fn deep() -> Memory {
    Memory::Titans(Deep {
        depth: 3,
        width: 9,
        bias: true,
        skip: true,
        objective: Objective::L2,
        step_size: Coefficient::Constant(0.01),
        momentum: 0.9,
        retention: Coefficient::Constant(0.99),
        sign: None,
    })
}

#[track_caller]
fn check(function: &MemoryFunction, half: bool) {
    let elements: Vec<usize> =
        function.tensors().iter().map(|t| 2 * t.shape.iter().product::<usize>()).collect();
    let past: Vec<Vec<f32>> = elements.iter().map(|&n| vec![0.1; n]).collect();
    let mut present = past.clone();
    let cached = function
        .tensors()
        .iter()
        .zip(&elements)
        .filter(|(t, _)| t.cached)
        .map(|(_, n)| n * CAPACITY)
        .collect::<Vec<_>>();
    let wide: Vec<Vec<f32>> = cached.iter().map(|&n| vec![0.1; n]).collect();
    let narrow: Vec<Vec<f16>> = cached.iter().map(|&n| vec![f16::ONE; n]).collect();
    let cache: Vec<Cells<'_>> = if half {
        narrow.iter().map(|cells| Cells::F16(cells)).collect()
    } else {
        wide.iter().map(|cells| Cells::F32(cells)).collect()
    };
    let (x, mut y) = (vec![0.3; TOKENS * 22], vec![0.0; TOKENS * 22]);
    let past: Vec<&[f32]> = past.iter().map(|x| &x[..]).collect();
    let mut present: Vec<&mut [f32]> = present.iter_mut().map(|x| &mut x[..]).collect();
    for isa in Isa::available() {
        let mut kernel = Kernel::with_isa(function, CAPACITY, isa);
        let before = ALLOCATIONS.get();
        kernel.run(Run {
            q: &x,
            k: &x,
            v: &x,
            past: &past,
            present: &mut present,
            segment_length: 4,
            cache: &cache,
            cache_length: CAPACITY,
            y: &mut y,
            ..Run::default()
        });
        assert_eq!(ALLOCATIONS.get() - before, 0, "allocations on {isa}, {function:?}");
    }
}

#[test]
fn a_run_allocates_nothing() {
    let linear = Memory::Linear { feature_map: FeatureMap::Identity, normalized: false };
    for aggregation in [
        Aggregation::None,
        Aggregation::Residual,
        Aggregation::Grm,
        Aggregation::Soup,
        Aggregation::Ssc,
        Aggregation::Mean,
    ] {
        for memory in [linear.clone(), deep()] {
            for half in [false, true] {
                check(&function(memory.clone(), aggregation), half);
            }
        }
    }
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1, "the allocator counts");
}
