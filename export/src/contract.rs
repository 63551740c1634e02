//! The contract of a model's graphs: what a client reads in their metadata.

use mcedge_models::contract::{
    BlockFunction, CacheTensor, Contract, Dtype, Input, MemoryFunction, MemoryTensor, Mixer, Output,
    OutputKind, Reset, SCHEMA, Scale, StateTensor,
};
use mcedge_models::spec::{
    self, Aggregation, Block, Caching, Context, Head, Init, Memory, Segmentation, Spec,
};
use mcedge_models::{Weights, collapses};

use crate::lower::Options;

/// The axis of N in a cache tensor `[B, H, N, …]`.
const SLOT_AXIS: usize = 2;

/// What a block's memory computes, by itself.
pub fn function_of(block: &Block, d_model: usize) -> MemoryFunction {
    MemoryFunction {
        num_heads: block.num_heads,
        head_size: d_model / block.num_heads,
        normalize_qk: block.normalize_qk,
        memory: block.memory.clone(),
        caching: block.caching.clone(),
        cache_dtype: Dtype::F32,
        gates: false,
        mixer: None,
    }
}

/// What block `i` of the model computes as it is exported: a block that [collapses] is one matrix, never reset, which
/// it reads alone.
pub fn exported_function(spec: &Spec, weights: &Weights, i: usize) -> MemoryFunction {
    let function = function_of(&spec.blocks[i], spec.d_model);
    match collapses(spec, weights, i) {
        true => {
            let caching = Caching { aggregation: Aggregation::None, ..function.caching };
            MemoryFunction { caching, ..function }
        }
        false => function,
    }
}

/// What stands around the memory of block `i`.
fn mixer(block: &Block, weights: &Weights, i: usize) -> Mixer {
    let output = weights.get(&format!("blocks.{i}.mix.o.weight")).is_some();
    Mixer { norm: block.norm, output, residual: block.residual }
}

/// The contract of the model's graphs, not checked yet.
pub fn contract(spec: &Spec, weights: &Weights, options: Options) -> Contract {
    let function = |i| {
        let function = exported_function(spec, weights, i);
        let mixer = Some(mixer(&spec.blocks[i], weights, i));
        MemoryFunction { cache_dtype: options.cache_dtype, gates: options.gates, mixer, ..function }
    };
    let functions: Vec<MemoryFunction> = (0..spec.blocks.len()).map(function).collect();
    let (mut state, mut cache) = (Vec::new(), Vec::new());
    for (i, function) in functions.iter().enumerate() {
        let restarts = spec.init() == Init::Restart && !collapses(spec, weights, i);
        state.extend(states(i, function, restarts, options.batch));
        cache.extend(caches(i, function, options));
    }
    Contract {
        schema: SCHEMA.to_owned(),
        name: spec.name.clone(),
        batch: options.batch,
        capacity: options.capacity,
        chunk: options.chunk.min(longest_segment(spec.segmentation())),
        input: input(&spec.input),
        output: output(&spec.head),
        segmentation: spec.segmentation(),
        init: spec.init(),
        state,
        cache,
        blocks: name_functions(&functions),
    }
}

/// Tokens: a chunk never goes over a segment's end.
fn longest_segment(segmentation: Segmentation) -> usize {
    match segmentation {
        Segmentation::Constant { size } | Segmentation::Surprise { max_size: size, .. } => size,
        Segmentation::Logarithmic {} => 1,
    }
}

/// `{kind}_{aggregation}`; a different function under a name already given gets a number behind, equal ones share
/// theirs.
fn name_functions(functions: &[MemoryFunction]) -> Vec<BlockFunction> {
    let mut named: Vec<BlockFunction> = Vec::new();
    for (block, memory) in functions.iter().enumerate() {
        let known = named.iter().find(|known| known.memory == *memory).map(|known| known.function.clone());
        let function = known.unwrap_or_else(|| {
            let aggregation = format!("{:?}", memory.caching.aggregation).to_lowercase();
            let name = format!("{}_{aggregation}", memory.memory.kind());
            let taken = |name: &str| named.iter().any(|known| known.function == name);
            let numbered = (2..).map(|number| format!("{name}_{number}"));
            let mut names = std::iter::once(name.clone()).chain(numbered);
            names.find(|name| !taken(name)).expect("numbers do not end")
        });
        named.push(BlockFunction { block, function, memory: memory.clone() });
    }
    named
}

fn states(block: usize, function: &MemoryFunction, restarts: bool, batch: usize) -> Vec<StateTensor> {
    let restarts = restarts && !matches!(function.memory, Memory::Attention { .. });
    let reset = |name: &str| match name {
        "context" => Reset::Segment,
        _ if restarts => Reset::Restart,
        _ => Reset::Never,
    };
    let state = |tensor: MemoryTensor| StateTensor {
        past: format!("past.{block}.{}", tensor.name),
        present: format!("present.{block}.{}", tensor.name),
        shape: [&[batch, function.num_heads], &tensor.shape[..]].concat(),
        dtype: Dtype::F32,
        reset: reset(&tensor.name),
    };
    function.tensors().into_iter().filter(|tensor| tensor.carried).map(state).collect()
}

fn caches(block: usize, function: &MemoryFunction, options: Options) -> Vec<CacheTensor> {
    let scale = |name: &str| match (name, function.caching.context) {
        ("context", Context::Mean) => Scale::Mean,
        _ => Scale::None,
    };
    let cache = |tensor: MemoryTensor| {
        let name = format!("cache.{block}.{}", tensor.name);
        let dtype = function.dtype(&tensor);
        CacheTensor {
            from: format!("present.{block}.{}", tensor.name),
            shape: [&[options.batch, function.num_heads, options.capacity], &tensor.shape[..]].concat(),
            slot_axis: SLOT_AXIS,
            scale: scale(&tensor.name),
            steps: (dtype == Dtype::I8).then(|| format!("{name}.steps")),
            dtype,
            name,
        }
    };
    function.tensors().into_iter().filter(|tensor| tensor.cached).map(cache).collect()
}

fn input(input: &spec::Input) -> Input {
    match input.clone() {
        spec::Input::Features { size, names, units, rate_hz, .. } => {
            Input::Features { size, names, units, rate_hz }
        }
        spec::Input::Tokens { vocab_size } => Input::Tokens { vocab_size },
    }
}

fn output(head: &Head) -> Output {
    let output = |kind, size| Output { kind, size, labels: Vec::new(), std: Vec::new() };
    match head.clone() {
        Head::Logits { size } => output(OutputKind::Logits, size),
        Head::Regression { size, std, .. } => Output { std, ..output(OutputKind::Regression, size) },
        Head::Classification { size, labels } => {
            Output { labels, ..output(OutputKind::Classification, size) }
        }
    }
}
