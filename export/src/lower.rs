//! The graphs of a whole model: everything around its memory functions, and the functions.

use std::fmt::{self, Display, Formatter};

use mcedge_models::contract::{self, Contract, Dtype, Role};
use mcedge_models::spec::{Input, Spec};
use mcedge_models::{Parameter, Weights, WeightsError, parameters};

use crate::block::{Lowering, Made};
use crate::contract::contract;
use crate::error::Error;
use crate::graph::{Graph, TOKENS, Type, Value};
use crate::memory::{Layout, memory_function};
use crate::onnx;

/// What an export can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Slots of the checkpoint cache, N; at least 1.
    pub capacity: usize,
    /// The element type of the cache.
    pub cache_dtype: Dtype,
    /// The most tokens of one run of `chunk.onnx`; at least 1, and less where segments are shorter.
    pub chunk: usize,
    /// Streams in one run, B; at least 1.
    pub batch: usize,
    /// Whether the graphs say who was read: `gates.{i}`.
    pub gates: bool,
}

impl Default for Options {
    /// 64 slots of f32, chunks of 64 tokens, one stream, no gates.
    fn default() -> Self {
        Options { capacity: 64, cache_dtype: Dtype::F32, chunk: 64, batch: 1, gates: false }
    }
}

/// A graph of a whole model, its memory functions and its contract.
///
/// `Display` is the text form: one line a value, the functions before the graph that calls them.
#[derive(Clone, Debug)]
pub struct ModelGraph {
    main: Graph,
    functions: Vec<Graph>,
    contract: Contract,
}

impl ModelGraph {
    /// The bytes of the `.onnx` file.
    pub fn to_onnx(&self) -> Vec<u8> {
        onnx::encode(&self.main, &self.functions, &self.contract)
    }

    /// The contract in its metadata.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }
}

impl Display for ModelGraph {
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
/// [`Error::Option`], [`Error::Spec`], [`Error::Weights`] and [`Error::Contract`] when the arguments are not a model and
/// options for it.
pub fn step_graph(spec: &Spec, weights: &Weights, options: Options) -> Result<ModelGraph, Error> {
    let contract = checked_contract(spec, weights, options)?;
    Ok(model_graph(spec, weights, contract, 1))
}

/// Lowers a model to the graph of a chunk: 1 to [`Contract::chunk`] tokens of one segment. `None` where that is 1.
///
/// # Errors
///
/// As [`step_graph`].
pub fn chunk_graph(spec: &Spec, weights: &Weights, options: Options) -> Result<Option<ModelGraph>, Error> {
    let contract = checked_contract(spec, weights, options)?;
    Ok((contract.chunk > 1).then(|| model_graph(spec, weights, contract, TOKENS)))
}

fn checked_contract(spec: &Spec, weights: &Weights, options: Options) -> Result<Contract, Error> {
    check(spec, weights, options)?;
    // Sizes that the graph could not declare are found here, before any tensor is made.
    Ok(Contract::parse(&contract(spec, weights, options).to_json())?)
}

/// The graph of `tokens`, 1 or [`TOKENS`].
fn model_graph(spec: &Spec, weights: &Weights, contract: Contract, tokens: usize) -> ModelGraph {
    let functions = bodies(&contract, tokens);
    let main = main_graph(spec, weights, &contract, &functions, tokens);
    ModelGraph { main, functions, contract }
}

fn check(spec: &Spec, weights: &Weights, options: Options) -> Result<(), Error> {
    spec.check()?;
    for (option, size) in [("capacity", options.capacity), ("chunk", options.chunk), ("batch", options.batch)]
    {
        if size == 0 {
            let (found, expected) = ("0".to_owned(), "1 or more".to_owned());
            return Err(Error::Option { option, found, expected });
        }
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

/// One body for each name.
fn bodies(contract: &Contract, tokens: usize) -> Vec<Graph> {
    let Contract { batch, capacity, chunk, .. } = *contract;
    let layout = Layout { batch, capacity, tokens, chunk };
    let mut bodies: Vec<Graph> = Vec::new();
    for block in &contract.blocks {
        if bodies.iter().all(|body| body.name() != block.function) {
            bodies.push(memory_function(&block.memory, &block.function, layout));
        }
    }
    bodies
}

/// Everything but the memories: inputs, embedding, blocks, head.
fn main_graph(spec: &Spec, weights: &Weights, contract: &Contract, bodies: &[Graph], tokens: usize) -> Graph {
    let mut graph = Graph::new(if tokens == 1 { "step" } else { "chunk" });
    let input = match &spec.input {
        Input::Features { size, .. } => graph.input("input", Type::f32(&[contract.batch, tokens, *size])),
        Input::Tokens { .. } => graph.input("input", Type::i64(&[contract.batch, tokens])),
    };
    let inputs = memory_inputs(&mut graph, contract);
    let mut lowering = Lowering { graph, spec, weights, inputs };
    let mut h = lowering.embed(&input);
    let mut made = Vec::new();
    for called in &contract.blocks {
        let body = bodies.iter().find(|body| body.name() == called.function);
        let body = body.expect("a body of every name");
        let (output, rest) = lowering.block(called.block, body, &called.memory, &h);
        h = output;
        made.extend(rest);
    }
    let output = lowering.head(&h);
    let losses = of_role(&made, |role| role == Role::Loss);
    let surprise = (!losses.is_empty()).then(|| lowering.surprise(&losses));
    let mut graph = lowering.graph;
    graph.output(&output);
    let present = of_role(&made, |role| matches!(role, Role::State(_)));
    let gates = of_role(&made, |role| role == Role::Gates);
    present.iter().chain(&gates).chain(&surprise).for_each(|value| graph.output(value));
    graph
}

fn of_role(made: &[Made], is_it: impl Fn(Role) -> bool) -> Vec<Value> {
    made.iter().filter(|(role, _)| is_it(*role)).map(|(_, value)| value.clone()).collect()
}

/// `past.*`, `segment.length`, `cache.*` and `cache.length`, those that a block takes.
fn memory_inputs(graph: &mut Graph, contract: &Contract) -> Vec<Value> {
    let takes = |role| contract.blocks.iter().any(|block| block.memory.inputs().contains(&role));
    let count = Type::i64(&[contract.batch]);
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
        if let Some(steps) = &cache.steps {
            inputs.push(graph.input(steps.clone(), Type::f32(&cache.shape[..3])));
        }
    }
    if takes(Role::CacheLength) {
        inputs.push(graph.input("cache.length", count));
    }
    inputs
}
