//! The step graph of a whole model, and the contract that travels in it.

use std::fmt::{self, Display, Formatter};

use mcedge_models::contract::{
    self, BlockFunction, CacheTensor, Contract, Dtype, MemoryFunction, Output, OutputKind, Reset, Role,
    SCHEMA, Scale, StateTensor,
};
use mcedge_models::spec::{Block, Context, Head, Init, Input, Memory, Spec};
use mcedge_models::{Parameter, Weights, WeightsError, parameters};

use crate::block::Lowering;
use crate::error::Error;
use crate::graph::{Graph, Type, Value};
use crate::memory::{Layout, memory_function};
use crate::onnx;

/// Streams in one step.
const BATCH: usize = 1;
/// Tokens in one step.
const CHUNK: usize = 1;
/// The axis of N in a cache tensor `[B, H, N, …]`.
const SLOT_AXIS: usize = 2;

/// What an export can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Slots of the checkpoint cache, N; at least 1.
    pub capacity: usize,
    /// The element type of the cache.
    pub cache_dtype: Dtype,
}

impl Default for Options {
    /// 64 slots of f32.
    fn default() -> Self {
        Options { capacity: 64, cache_dtype: Dtype::F32 }
    }
}

/// The graph of one token, its memory functions and its contract.
///
/// `Display` is the text form: one line a value, the functions before the graph that calls them.
#[derive(Clone, Debug)]
pub struct StepGraph {
    main: Graph,
    functions: Vec<Graph>,
    contract: Contract,
}

impl StepGraph {
    /// The bytes of `step.onnx`.
    pub fn to_onnx(&self) -> Vec<u8> {
        onnx::encode(&self.main, &self.functions, &self.contract)
    }

    /// The contract in its metadata.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }
}

impl Display for StepGraph {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for function in &self.functions {
            writeln!(f, "function {}.{function}", contract::DOMAIN)?;
        }
        write!(f, "graph {}", self.main)
    }
}

/// Lowers a model to the graph of one token.
///
/// # Errors
///
/// [`Error::Unsupported`] names what cannot be lowered; [`Error::Option`], [`Error::Spec`], [`Error::Weights`] and
/// [`Error::Contract`] when the arguments are not a model and options for it.
pub fn step_graph(spec: &Spec, weights: &Weights, options: Options) -> Result<StepGraph, Error> {
    check(spec, weights, options)?;
    let function =
        |block| MemoryFunction { cache_dtype: options.cache_dtype, ..function_of(block, spec.d_model) };
    let functions: Vec<MemoryFunction> = spec.blocks.iter().map(function).collect();
    for (block, function) in functions.iter().enumerate() {
        if let Some(feature) = unsupported(function) {
            return Err(Error::Unsupported { block, feature });
        }
    }
    let contract = contract(spec, &functions, options);
    // Sizes that the graph could not declare are found here, before any tensor is made.
    let contract = Contract::parse(&contract.to_json())?;
    let bodies = bodies(&contract.blocks, options);
    let main = main_graph(spec, weights, &contract, &bodies);
    Ok(StepGraph { main, functions: bodies, contract })
}

/// The first thing in a block's memory that is not lowered yet.
fn unsupported(function: &MemoryFunction) -> Option<String> {
    match function.memory {
        Memory::Gru {} if function.is_called() => {
            Some("memory.kind gru with caching.aggregation other than none".into())
        }
        Memory::Gru {} => function.caching.unsupported(),
        _ => function.unsupported(),
    }
}

/// What a block's memory computes.
pub fn function_of(block: &Block, d_model: usize) -> MemoryFunction {
    MemoryFunction {
        num_heads: block.num_heads,
        head_size: d_model / block.num_heads,
        normalize_qk: block.normalize_qk,
        memory: block.memory.clone(),
        caching: block.caching.clone(),
        cache_dtype: Dtype::F32,
        gates: false,
    }
}

fn check(spec: &Spec, weights: &Weights, options: Options) -> Result<(), Error> {
    spec.check()?;
    if options.capacity == 0 {
        let (found, expected) = ("0".to_owned(), "1 or more".to_owned());
        return Err(Error::Option { option: "capacity", found, expected });
    }
    for Parameter { name, shape: expected, optional } in parameters(spec) {
        match weights.get(&name) {
            None if optional => {}
            None => return Err(WeightsError::Missing { name, expected }.into()),
            Some(tensor) if tensor.shape != expected => {
                return Err(WeightsError::Shape { name, found: tensor.shape.clone(), expected }.into());
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// `{kind}_{aggregation}`; a different function under a name already given gets a number behind, equal ones share
/// theirs. A block that calls none has no entry.
fn name_functions(functions: &[MemoryFunction]) -> Vec<BlockFunction> {
    let mut named: Vec<BlockFunction> = Vec::new();
    for (block, memory) in functions.iter().enumerate().filter(|(_, memory)| memory.is_called()) {
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

/// One body for each name.
fn bodies(blocks: &[BlockFunction], options: Options) -> Vec<Graph> {
    let layout = Layout { batch: BATCH, capacity: options.capacity, cache_dtype: options.cache_dtype };
    let mut bodies: Vec<Graph> = Vec::new();
    for block in blocks {
        if bodies.iter().all(|body| body.name() != block.function) {
            bodies.push(memory_function(&block.memory, &block.function, layout));
        }
    }
    bodies
}

/// `functions` has one entry a block.
fn contract(spec: &Spec, functions: &[MemoryFunction], options: Options) -> Contract {
    let state = functions.iter().enumerate().flat_map(|(i, function)| states(i, function, spec.init()));
    let cache = functions.iter().enumerate().flat_map(|(i, function)| caches(i, function, options));
    Contract {
        schema: SCHEMA.to_owned(),
        name: spec.name.clone(),
        batch: BATCH,
        capacity: options.capacity,
        chunk: CHUNK,
        input: contract_input(&spec.input),
        output: contract_output(&spec.head),
        segmentation: spec.segmentation(),
        init: spec.init(),
        state: state.collect(),
        cache: cache.collect(),
        blocks: name_functions(functions),
    }
}

fn states(block: usize, function: &MemoryFunction, init: Init) -> Vec<StateTensor> {
    let reset = |name: &str| match (name, init) {
        ("context", _) => Reset::Segment,
        (_, Init::Restart) => Reset::Restart,
        (_, Init::Continue) => Reset::Never,
    };
    let state = |tensor: contract::MemoryTensor| StateTensor {
        past: format!("past.{block}.{}", tensor.name),
        present: format!("present.{block}.{}", tensor.name),
        shape: [&[BATCH, function.num_heads], &tensor.shape[..]].concat(),
        dtype: Dtype::F32,
        reset: reset(&tensor.name),
    };
    function.tensors().into_iter().map(state).collect()
}

fn caches(block: usize, function: &MemoryFunction, options: Options) -> Vec<CacheTensor> {
    let scale = |name: &str| match (name, function.caching.context) {
        ("context", Context::Mean) => Scale::Mean,
        _ => Scale::None,
    };
    let cache = |tensor: contract::MemoryTensor| CacheTensor {
        name: format!("cache.{block}.{}", tensor.name),
        from: format!("present.{block}.{}", tensor.name),
        shape: [&[BATCH, function.num_heads, options.capacity], &tensor.shape[..]].concat(),
        slot_axis: SLOT_AXIS,
        dtype: options.cache_dtype,
        scale: scale(&tensor.name),
        steps: None,
    };
    function.tensors().into_iter().filter(|tensor| tensor.cached).map(cache).collect()
}

fn contract_input(input: &Input) -> contract::Input {
    match input.clone() {
        Input::Features { size, names, units, rate_hz, .. } => {
            contract::Input::Features { size, names, units, rate_hz }
        }
        Input::Tokens { vocab_size } => contract::Input::Tokens { vocab_size },
    }
}

fn contract_output(head: &Head) -> Output {
    let output = |kind, size| Output { kind, size, labels: Vec::new(), std: Vec::new() };
    match head.clone() {
        Head::Logits { size } => output(OutputKind::Logits, size),
        Head::Regression { size, std, .. } => Output { std, ..output(OutputKind::Regression, size) },
        Head::Classification { size, labels } => {
            Output { labels, ..output(OutputKind::Classification, size) }
        }
    }
}

/// Everything but the memories: inputs, embedding, blocks, head.
fn main_graph(spec: &Spec, weights: &Weights, contract: &Contract, bodies: &[Graph]) -> Graph {
    let mut graph = Graph::new("step");
    let input = match &spec.input {
        Input::Features { size, .. } => graph.input("input", Type::f32(&[BATCH, CHUNK, *size])),
        Input::Tokens { .. } => graph.input("input", Type::i64(&[BATCH, CHUNK])),
    };
    let inputs = memory_inputs(&mut graph, contract);
    let mut lowering = Lowering { graph, spec, weights, inputs };
    let mut h = lowering.embed(&input);
    let mut present = Vec::new();
    for i in 0..spec.blocks.len() {
        let called = contract.blocks.iter().find(|called| called.block == i);
        let called = called.map(|called| {
            let body = bodies.iter().find(|body| body.name() == called.function);
            (body.expect("a body of every name"), &called.memory)
        });
        let (output, states) = lowering.block(i, called, &h);
        h = output;
        present.extend(states);
    }
    let output = lowering.head(&h);
    let mut graph = lowering.graph;
    graph.output(&output);
    present.iter().for_each(|value| graph.output(value));
    graph
}

/// `past.*`, `segment.length`, `cache.*` and `cache.length`, those that a block takes.
fn memory_inputs(graph: &mut Graph, contract: &Contract) -> Vec<Value> {
    let takes = |role| contract.blocks.iter().any(|block| block.memory.inputs().contains(&role));
    let count = Type::i64(&[BATCH]);
    let mut inputs = Vec::new();
    for state in &contract.state {
        inputs.push(graph.input(state.past.clone(), Type::f32(&state.shape)));
    }
    if takes(Role::SegmentLength) {
        inputs.push(graph.input("segment.length", count.clone()));
    }
    for cache in &contract.cache {
        let ty = Type { element: cache.dtype.into(), shape: cache.shape.clone() };
        inputs.push(graph.input(cache.name.clone(), ty));
    }
    if takes(Role::CacheLength) {
        inputs.push(graph.input("cache.length", count));
    }
    inputs
}
