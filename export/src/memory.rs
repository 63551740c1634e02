//! A block's memory as a local function of domain `org.mcedge`: one token's write, then its read.
//!
//! Inputs and outputs are those of [`MemoryFunction`], in its order; the body is standard operations of opset 17.
//! Everything else of a block, weights included, stays outside ([`crate::block`]).
//!
//! Vectors of a head are columns, `[B, H, dh, 1]`, so that a matrix of the state or of the cache stands on the left
//! of every product and is never transposed.

mod linear;
mod mlp;
mod read;

pub use mlp::gelu;

use mcedge_models::contract::{Dtype, MemoryFunction, Role};
use mcedge_models::spec::Memory;

use crate::graph::{Graph, Type, Value};

/// Keys and queries are divided by their norm, but by no less than this.
const MIN_NORM: f32 = 1e-6;

/// The sizes that a function's body is laid out for.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// B.
    pub batch: usize,
    /// N.
    pub capacity: usize,
    /// The element type of the cache.
    pub cache_dtype: Dtype,
}

/// The values of one memory function, as its body goes on.
struct Body<'a> {
    graph: Graph,
    function: &'a MemoryFunction,
    layout: Layout,
    /// H.
    heads: usize,
    /// dh.
    size: usize,
}

/// What the function is given, by role.
#[derive(Default)]
struct Inputs {
    q: Option<Value>,
    k: Option<Value>,
    v: Option<Value>,
    u: Option<Value>,
    /// In the order of [`MemoryFunction::tensors`].
    states: Vec<Value>,
    segment_length: Option<Value>,
    /// The cached ones of [`MemoryFunction::tensors`], in that order.
    cache: Vec<Value>,
    cache_length: Option<Value>,
}

/// The body of a memory function.
pub fn memory_function(function: &MemoryFunction, name: &str, layout: Layout) -> Graph {
    let (heads, size) = (function.num_heads, function.head_size);
    let mut body = Body { graph: Graph::new(name), function, layout, heads, size };
    let inputs = body.inputs();
    let given = |value: &Option<Value>| value.clone().expect("every memory function has q, k and v");
    let q = body.key(&given(&inputs.q), "q.column");
    let k = body.key(&given(&inputs.k), "k.column");
    let v = body.column(&given(&inputs.v), "v.column");

    let (states, context) = body.split_context(&inputs.states);
    let mut present = body.write(states, &k, &v);
    let context = context.map(|context| body.add_key(context, &k));
    let u = inputs.u.as_ref().map(|u| body.column(u, "u.column"));
    let y = body.read(&inputs, &present, context.as_ref(), &q, u.as_ref().unwrap_or(&q));
    present.extend(context);

    let mut graph = body.graph;
    graph.output(&y);
    present.iter().for_each(|value| graph.output(value));
    graph
}

impl Body<'_> {
    /// The formal parameters, in the order of [`MemoryFunction::inputs`].
    fn inputs(&mut self) -> Inputs {
        let tensors = self.function.tensors();
        let Layout { batch, capacity, cache_dtype } = self.layout;
        let vector = Type::f32(&[batch, 1, self.heads * self.size]);
        let count = Type::i64(&[batch]);
        let mut inputs = Inputs::default();
        for role in self.function.inputs() {
            let graph = &mut self.graph;
            match role {
                Role::Q => inputs.q = Some(graph.input("q", vector.clone())),
                Role::K => inputs.k = Some(graph.input("k", vector.clone())),
                Role::V => inputs.v = Some(graph.input("v", vector.clone())),
                Role::U => inputs.u = Some(graph.input("u", vector.clone())),
                Role::State(i) => {
                    let mut shape = vec![batch, self.heads];
                    shape.extend(&tensors[i].shape);
                    inputs.states.push(graph.input(format!("past.{}", tensors[i].name), Type::f32(&shape)));
                }
                Role::SegmentLength => {
                    inputs.segment_length = Some(graph.input("segment.length", count.clone()));
                }
                Role::Cache(i) => {
                    let mut shape = vec![batch, self.heads, capacity];
                    shape.extend(&tensors[i].shape);
                    let ty = Type { element: cache_dtype.into(), shape };
                    inputs.cache.push(graph.input(format!("cache.{}", tensors[i].name), ty));
                }
                Role::CacheLength => {
                    inputs.cache_length = Some(graph.input("cache.length", count.clone()));
                }
                role => unreachable!("{role:?} is no input of what is lowered"),
            }
        }
        inputs
    }

    /// `[B, 1, D]` as columns `[B, H, dh, 1]`, a new value of that name.
    fn column(&mut self, x: &Value, name: &str) -> Value {
        let x = self.graph.reshape(x, &[self.heads, self.size, 1]);
        self.graph.label(x, name)
    }

    /// As [`Body::column`], each head divided by its norm under `normalize_qk`.
    fn key(&mut self, x: &Value, name: &str) -> Value {
        if !self.function.normalize_qk {
            return self.column(x, name);
        }
        let g = &mut self.graph;
        let x = g.reshape(x, &[self.heads, self.size]);
        let norm = g.norm_last(&x);
        let least = g.scalar(MIN_NORM);
        let norm = g.max(&norm, &least);
        let x = g.div(&x, &norm);
        self.column(&x, name)
    }

    /// States of the memory itself, and the context behind them when there is one.
    fn split_context<'v>(&self, states: &'v [Value]) -> (&'v [Value], Option<&'v Value>) {
        match states {
            [states @ .., context] if self.function.caching.aggregation.is_gated() => (states, Some(context)),
            states => (states, None),
        }
    }

    /// The state after the token: parameters, then momenta.
    fn write(&mut self, states: &[Value], k: &Value, v: &Value) -> Vec<Value> {
        match &self.function.memory {
            Memory::Dla(deep) | Memory::Titans(deep) => self.write_mlp(deep, states, k, v),
            _ => self.write_linear(&states[0], k, v),
        }
    }

    /// context `[B, H, dh]` ← context + k.
    fn add_key(&mut self, context: &Value, k: &Value) -> Value {
        let k = self.graph.reshape(k, &[self.heads, self.size]);
        let sum = self.graph.add(context, &k);
        self.graph.label(sum, "present.context")
    }

    /// M(q) of memories side by side: `parameters` are `[B, lead…, …]` with `lead` = `[H]` or `[H, N]`; the result
    /// is `[B, lead…, dh]`.
    fn recall(&mut self, parameters: &[Value], q: &Value, lead: &[usize]) -> Value {
        match &self.function.memory {
            Memory::Dla(deep) | Memory::Titans(deep) => self.recall_mlp(deep, parameters, q, lead),
            _ => self.recall_linear(&parameters[0], q, lead),
        }
    }

    /// How many of the state tensors are the memory's parameters.
    fn parameter_count(&self) -> usize {
        match self.function.memory.deep() {
            Some(deep) => deep.depth * if deep.bias { 2 } else { 1 },
            None => 1,
        }
    }
}
