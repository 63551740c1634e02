//! A block's memory as a local function of domain `org.mcedge`: what a token writes, then what it reads; and the mixer
//! around it, from the block's input to what its MLP is given.
//!
//! Inputs and outputs are those of [`MemoryFunction`], in its order; the body is standard operations of opset 17.
//! Everything else of a block, and every weight, stays outside ([`crate::block`]).
//!
//! Vectors of a head are columns, `[B, H, dh, 1]`, so that a matrix of the state or of the cache stands on the left
//! of every product and is never transposed.

mod attention;
mod chunk_read;
mod delta;
mod linear;
mod mixer;
mod mlp;
mod parallel;
mod read;
mod recurrent;
mod scan;

pub use mixer::normed;
pub use mlp::gelu;

use mcedge_models::contract::{Lead, MemoryFunction, Role};
use mcedge_models::spec::{Coefficient, Memory};

use crate::graph::{Element, Graph, TOKENS, Type, Value};

/// Keys and queries are divided by their norm, but by no less than this.
const MIN_NORM: f32 = 1e-6;
/// The score of what is not live: its weight is exactly 0 beside a live one's, and no softmax makes NaN of it as of −∞.
const DEAD: f32 = -1e30;

/// The sizes that a function's body is laid out for.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// B.
    pub batch: usize,
    /// N.
    pub capacity: usize,
    /// T: 1, or [`TOKENS`].
    pub tokens: usize,
    /// The most that T is.
    pub chunk: usize,
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
    /// The axis of a step's one token: `[1]`, or none in a `Scan`, which takes and gives tokens without it.
    row: &'static [usize],
}

/// What the function is given: its inputs, in the order of [`MemoryFunction::inputs`].
struct Inputs(Vec<(Role, Value)>);

impl Inputs {
    fn get(&self, role: Role) -> Option<&Value> {
        self.0.iter().find(|(own, _)| *own == role).map(|(_, value)| value)
    }

    /// One that the function's memory or read-out cannot be without.
    fn given(&self, role: Role) -> &Value {
        self.get(role).unwrap_or_else(|| panic!("the function has no input {role:?}"))
    }
}

/// What a token brings, a column `[B, H, dh, 1]` each.
struct Token {
    /// What M is asked: φ(q).
    query: Option<Value>,
    /// What M learns by: φ(k).
    key: Option<Value>,
    /// k as contexts add it up.
    k: Option<Value>,
    v: Option<Value>,
    /// What contexts are scored by: u, or q.
    score: Option<Value>,
    /// In the order of [`Memory::coefficients`].
    coefficients: Vec<Factor>,
}

/// A coefficient of an update.
#[derive(Clone)]
enum Factor {
    Constant(f32),
    /// `[B, H]`.
    Input(Value),
}

/// What a token's write leaves.
struct Written {
    /// The memory's own tensors, in the order of [`MemoryFunction::tensors`].
    tensors: Vec<Value>,
    /// The loss before the write, `[B, H]`, when the function gives it.
    loss: Option<Value>,
}

/// The outputs of a function.
struct Made {
    y: Value,
    /// In the order of [`MemoryFunction::tensors`].
    tensors: Vec<Value>,
    gates: Option<Value>,
    loss: Option<Value>,
}

/// The body of a memory function for one token, or for a chunk.
pub fn memory_function(function: &MemoryFunction, name: &str, layout: Layout) -> Graph {
    let (heads, size) = (function.num_heads, function.head_size);
    let mut body = Body { graph: Graph::new(name), function, layout, heads, size, row: &[1] };
    let given = body.inputs();
    let inputs = body.operands(&given);
    let mut made = match (layout.tokens, &function.memory) {
        (TOKENS, Memory::Attention { window }) => body.attend_chunk(&inputs, *window),
        (TOKENS, Memory::Linear { .. } | Memory::Swla { .. } | Memory::GatedDelta { .. }) => {
            body.parallel(&inputs)
        }
        (TOKENS, _) => body.scan(&inputs),
        _ => body.token(&inputs),
    };
    made.y = body.mixed(&given, made.y);
    let mut graph = body.graph;
    for role in function.outputs() {
        graph.output(made.value(role));
    }
    graph
}

impl Made {
    fn value(&self, role: Role) -> &Value {
        let value = match role {
            Role::Y => Some(&self.y),
            Role::State(index) => self.tensors.get(index),
            Role::Gates => self.gates.as_ref(),
            Role::Loss => self.loss.as_ref(),
            _ => None,
        };
        value.unwrap_or_else(|| panic!("the function makes no {role:?}"))
    }
}

impl Body<'_> {
    /// The formal parameters.
    fn inputs(&mut self) -> Inputs {
        let roles = self.function.inputs().into_iter();
        Inputs(roles.map(|role| (role, self.graph.input(self.formal(role), self.ty(role)))).collect())
    }

    /// The name of an input here.
    fn formal(&self, role: Role) -> String {
        let tensor = |index: usize| self.function.tensors().swap_remove(index).name;
        match role {
            Role::H => "h".into(),
            Role::NormWeight => "norm.weight".into(),
            Role::NormBias => "norm.bias".into(),
            Role::ProjectionWeight => "projections.T".into(),
            Role::ProjectionBias => "projections.bias".into(),
            Role::OutputWeight => "o.T".into(),
            Role::Q => "q".into(),
            Role::K => "k".into(),
            Role::V => "v".into(),
            Role::U => "u".into(),
            Role::X => "x".into(),
            Role::Coefficient(index) => self.function.memory.coefficients()[index].0.into(),
            Role::RecurrentWeight => "weight_hh".into(),
            Role::RecurrentBias => "bias_hh".into(),
            Role::GateWeight => "gate.weight".into(),
            Role::GateBias => "gate.bias".into(),
            Role::State(index) => format!("past.{}", tensor(index)),
            Role::SegmentLength => "segment.length".into(),
            Role::Cache(index) => format!("cache.{}", tensor(index)),
            Role::Steps(index) => format!("cache.{}.steps", tensor(index)),
            Role::CacheLength => "cache.length".into(),
            Role::Y | Role::Gates | Role::Loss => unreachable!("{role:?} is an output"),
        }
    }

    fn ty(&self, role: Role) -> Type {
        let (lead, rest) = self.function.shape(role, self.layout.capacity);
        let lead = match lead {
            Lead::Token => vec![self.layout.batch, self.layout.tokens],
            Lead::Stream => vec![self.layout.batch],
            Lead::Whole => vec![],
        };
        let element = match role {
            Role::Cache(index) => self.function.dtype(&self.function.tensors()[index]).into(),
            Role::SegmentLength | Role::CacheLength => Element::I64,
            _ => Element::F32,
        };
        Type { element, shape: [lead, rest].concat() }
    }

    /// The write and the read of one token.
    fn token(&mut self, inputs: &Inputs) -> Made {
        if let Memory::Attention { window } = self.function.memory {
            return self.attend(inputs, window);
        }
        let token = self.split_token(inputs);
        let Written { mut tensors, loss } = self.write(inputs, &token);
        let context = self.context(inputs, &token);
        let (y, gates) = self.read(inputs, &token, &tensors, context.as_ref());
        tensors.extend(context);
        let loss = loss.map(|loss| self.row(&loss, &[self.heads], "loss"));
        Made { y, tensors, gates, loss }
    }

    fn split_token(&mut self, inputs: &Inputs) -> Token {
        let q = inputs.get(Role::Q).map(|q| self.key(q, "q.column"));
        let k = inputs.get(Role::K).map(|k| self.key(k, "k.column"));
        let v = inputs.get(Role::V).map(|v| self.column(v, "v.column"));
        Token {
            query: q.as_ref().map(|q| self.features(q)),
            key: k.as_ref().map(|k| self.features(k)),
            k,
            v,
            score: inputs.get(Role::U).map(|u| self.column(u, "u.column")).or(q),
            coefficients: self.factors(inputs),
        }
    }

    fn factors(&mut self, inputs: &Inputs) -> Vec<Factor> {
        let coefficients = self.function.memory.coefficients().into_iter().enumerate();
        let factor = |(index, (_, coefficient)): (usize, (_, Coefficient))| match coefficient {
            Coefficient::Constant(value) => Factor::Constant(value),
            Coefficient::Input(_) => {
                let rows = inputs.given(Role::Coefficient(index));
                Factor::Input(self.graph.reshape(rows, &[self.heads]))
            }
        };
        coefficients.map(factor).collect()
    }

    /// `[B, 1, D]` as columns `[B, H, dh, 1]`, a new value of that name.
    fn column(&mut self, x: &Value, name: &str) -> Value {
        let x = self.graph.reshape(x, &[self.heads, self.size, 1]);
        self.graph.label(x, name)
    }

    /// What a token gives, `[B, 1, tail…]` of a step, a new value of that name.
    fn row(&mut self, x: &Value, tail: &[usize], name: &str) -> Value {
        let row = self.graph.reshape(x, &[self.row, tail].concat());
        // A reshape to the same shape is none, and x may have a name of its own.
        let row = if row == *x { self.graph.identity(x) } else { row };
        self.graph.label(row, name)
    }

    /// As [`Body::column`], each head divided by its norm under `normalize_qk`.
    fn key(&mut self, x: &Value, name: &str) -> Value {
        if !self.function.normalize_qk {
            return self.column(x, name);
        }
        let x = self.graph.reshape(x, &[self.heads, self.size]);
        let x = self.unit(&x);
        self.column(&x, name)
    }

    /// x / max(‖x‖₂, 1e-6) over the last axis.
    fn unit(&mut self, x: &Value) -> Value {
        let g = &mut self.graph;
        let norm = g.norm_last(x);
        let least = g.scalar(MIN_NORM);
        let norm = g.max(&norm, &least);
        g.div(x, &norm)
    }

    /// factor · a for `a` `[B, H, …]`.
    fn times(&mut self, a: &Value, factor: &Factor) -> Value {
        match factor {
            Factor::Constant(factor) => self.graph.scale(a, *factor),
            Factor::Input(factor) => {
                let ones = vec![1; a.shape().len() - 2];
                let factor = self.graph.reshape(factor, &[&[self.heads], &ones[..]].concat());
                self.graph.mul(a, &factor)
            }
        }
    }

    /// The memory's tensors after the token.
    fn write(&mut self, inputs: &Inputs, token: &Token) -> Written {
        match &self.function.memory {
            Memory::Dla(deep) | Memory::Titans(deep) => self.write_mlp(deep, inputs, token),
            Memory::GatedDelta { correction, .. } => self.write_delta(*correction, inputs, token),
            Memory::Gru {} => self.write_gru(inputs),
            Memory::Lstm {} => self.write_lstm(inputs),
            Memory::Swla { .. } => self.write_swla(inputs, token),
            _ => self.write_linear(inputs, token),
        }
    }

    /// context `[B, H, dh]` ← context + k, when reads are gated.
    fn context(&mut self, inputs: &Inputs, token: &Token) -> Option<Value> {
        let index = self.function.tensors().iter().position(|tensor| tensor.name == "context")?;
        let k = token.k.as_ref().expect("a gated read has keys");
        let k = self.graph.reshape(k, &[self.heads, self.size]);
        let sum = self.graph.add(inputs.given(Role::State(index)), &k);
        Some(self.graph.label(sum, "present.context"))
    }

    /// M(q) of memories side by side: `parameters` are `[B, lead…, …]` with `lead` = `[H]` or `[H, N]`; the result
    /// is `[B, lead…, dh]`.
    fn recall(&mut self, parameters: &[Value], query: Option<&Value>, lead: &[usize]) -> Value {
        let query = || query.expect("a memory that is asked has queries");
        match &self.function.memory {
            Memory::Dla(deep) | Memory::Titans(deep) => self.recall_mlp(deep, parameters, query(), lead),
            Memory::Gru {} | Memory::Lstm {} => parameters[0].clone(),
            _ => self.recall_linear(parameters, query(), lead),
        }
    }

    /// ‖error‖² of each head, `[B, H]`, for `error` `[B, H, dh, 1]`; when the function gives the loss.
    fn square_loss(&mut self, error: &Value) -> Option<Value> {
        self.function.has_loss().then(|| {
            let square = self.graph.mul(error, error);
            self.sum_of_head(&square)
        })
    }

    /// The sum of a column `[B, H, dh, 1]`: `[B, H]`.
    fn sum_of_head(&mut self, column: &Value) -> Value {
        let rows = self.graph.reshape(column, &[self.heads, self.size]);
        self.graph.reduce_sum(&rows, 2)
    }

    /// How many of the state tensors are the memory's parameters: what a checkpoint's read needs of it.
    fn parameter_count(&self) -> usize {
        match &self.function.memory {
            Memory::Dla(deep) | Memory::Titans(deep) => deep.depth * if deep.bias { 2 } else { 1 },
            Memory::Linear { normalized: true, .. } => 2,
            _ => 1,
        }
    }
}
