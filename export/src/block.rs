//! What stands around the memory functions: embedding, MLPs, the head, and the weights that the functions are given.

use mcedge_models::Weights;
use mcedge_models::contract::{MemoryFunction, Role};
use mcedge_models::spec::{Head, Input, Norm, Spec};

use crate::graph::{Data, Graph, Value};
use crate::memory::{gelu, normed};

/// An output of a memory function, and what it is.
pub type Made = (Role, Value);

/// The main graph as it grows, and the model that it is made from.
pub struct Lowering<'a> {
    /// The main graph.
    pub graph: Graph,
    /// Checked.
    pub spec: &'a Spec,
    /// Checked against `spec`.
    pub weights: &'a Weights,
    /// The main graph's inputs behind `input`: what memory functions take, by name.
    pub inputs: Vec<Value>,
}

impl Lowering<'_> {
    /// `[B, T, F]` standardised and projected, or `[B, T]` looked up: `[B, T, D]`.
    pub fn embed(&mut self, input: &Value) -> Value {
        match &self.spec.input {
            Input::Tokens { .. } => {
                let table = self.weight("embed.weight");
                let h = self.graph.gather_rows(&table, input);
                self.graph.label(h, "embedding")
            }
            Input::Features { mean, std, .. } => {
                let mut x = input.clone();
                if !mean.is_empty() {
                    let mean = self.vector("input.mean", mean);
                    x = self.graph.sub(&x, &mean);
                }
                if !std.is_empty() {
                    let std = self.vector("input.std", std);
                    x = self.graph.div(&x, &std);
                }
                let h = self.linear("input", &x);
                self.graph.label(h, "embedding")
            }
        }
    }

    /// Block `i` on h `[B, T, D]`: its output, and all that its memory function makes but y. `body` is the function.
    pub fn block(
        &mut self,
        i: usize,
        body: &Graph,
        function: &MemoryFunction,
        h: &Value,
    ) -> (Value, Vec<Made>) {
        let block = &self.spec.blocks[i];
        let (mut y, made) = self.call(i, body, function, h);
        if block.mlp.is_some() {
            y = self.mlp(i, block.norm, &y);
        }
        (self.graph.label(y, format!("blocks.{i}.output")), made)
    }

    /// y `[B, T, D]` of the memory function of block `i`, and its other outputs.
    fn call(&mut self, i: usize, body: &Graph, function: &MemoryFunction, h: &Value) -> (Value, Vec<Made>) {
        let roles = function.inputs();
        let inputs: Vec<Value> = roles.into_iter().map(|role| self.argument(i, role, function, h)).collect();
        let roles = function.outputs();
        let names: Vec<String> = roles.iter().map(|&role| result(i, role, function)).collect();
        let mut outputs = self.graph.call(body, &inputs, &names);
        let y = outputs.remove(0);
        (y, roles.into_iter().skip(1).zip(outputs).collect())
    }

    /// The mean of losses `[B, T, H]` over heads, then over the blocks that have one: `[B, T]`.
    pub fn surprise(&mut self, losses: &[Value]) -> Value {
        let means: Vec<Value> = losses.iter().map(|loss| self.graph.mean_of_last(loss)).collect();
        let mut sum = means[0].clone();
        for mean in &means[1..] {
            sum = self.graph.add(&sum, mean);
        }
        let mean = self.graph.scale(&sum, 1.0 / means.len() as f32);
        self.graph.label(mean, "surprise")
    }

    /// What block `i` gives its memory function for one of its inputs.
    fn argument(&mut self, i: usize, role: Role, function: &MemoryFunction, h: &Value) -> Value {
        let tensor = |index: usize| function.tensors()[index].name.clone();
        let memory = |name: &str| format!("blocks.{i}.memory.{name}");
        match role {
            Role::H => h.clone(),
            Role::NormWeight => self.weight(&format!("blocks.{i}.norm.weight")),
            Role::NormBias => self.weight(&format!("blocks.{i}.norm.bias")),
            Role::ProjectionWeight => self.projection_weight(i, function),
            Role::ProjectionBias => self.projection_bias(i, function),
            Role::OutputWeight => self.transposed(&format!("blocks.{i}.mix.o.weight")),
            Role::RecurrentWeight => self.weight(&memory("weight_hh")),
            Role::RecurrentBias => self.weight(&memory("bias_hh")),
            Role::GateWeight => self.weight(&memory("gate.weight")),
            Role::GateBias => self.weight(&memory("gate.bias")),
            Role::State(index) => self.named(&format!("past.{i}.{}", tensor(index))),
            Role::Cache(index) => self.named(&format!("cache.{i}.{}", tensor(index))),
            Role::Steps(index) => self.named(&format!("cache.{i}.{}.steps", tensor(index))),
            Role::SegmentLength => self.named("segment.length"),
            Role::CacheLength => self.named("cache.length"),
            Role::Q | Role::K | Role::V | Role::U | Role::X | Role::Coefficient(_) => {
                unreachable!("{role:?} is made of h")
            }
            Role::Y | Role::Gates | Role::Loss => unreachable!("{role:?} is an output"),
        }
    }

    /// The weights of all projections of block `i`, `[D, C]`: row by row a row of each transposed, one after the other.
    fn projection_weight(&mut self, i: usize, function: &MemoryFunction) -> Value {
        let roles = function.projected();
        let tensors = roles.iter().map(|&(role, columns)| {
            let name = projection(i, role, function).0;
            (self.weights.get(&name).expect("weights are checked against the spec"), columns)
        });
        let tensors: Vec<_> = tensors.collect();
        let inputs = self.spec.d_model;
        let column = |n: usize| {
            tensors
                .iter()
                .flat_map(move |(tensor, columns)| (0..*columns).map(move |c| tensor.data[c * inputs + n]))
        };
        let data: Vec<f32> = (0..inputs).flat_map(column).collect();
        let columns = data.len() / inputs;
        self.graph.constant(format!("blocks.{i}.projections.T"), &[inputs, columns], Data::F32(data))
    }

    /// Their biases, `[C]`; 0 for a projection without one.
    fn projection_bias(&mut self, i: usize, function: &MemoryFunction) -> Value {
        let mut data = Vec::new();
        for (role, columns) in function.projected() {
            let bias = projection(i, role, function).1.and_then(|name| self.weights.get(&name));
            data.extend(bias.map_or(vec![0.0; columns], |bias| bias.data.clone()));
        }
        self.graph.constant(format!("blocks.{i}.projections.bias"), &[data.len()], Data::F32(data))
    }

    fn named(&self, name: &str) -> Value {
        let found = self.inputs.iter().find(|value| value.name == name);
        found.unwrap_or_else(|| panic!("the graph has no input %{name}")).clone()
    }

    /// h + down(gelu(up(norm(h)))).
    fn mlp(&mut self, i: usize, norm: Norm, h: &Value) -> Value {
        let at = |name: &str| format!("blocks.{i}.{name}");
        let x = self.norm(&at("mlp_norm"), norm, h);
        let up = self.linear(&at("mlp.up"), &x);
        let (up, _) = gelu(&mut self.graph, &up);
        let down = self.linear(&at("mlp.down"), &up);
        self.graph.add(h, &down)
    }

    /// The final norm, the head, and the scale of a regression: `[B, T, O]`.
    pub fn head(&mut self, h: &Value) -> Value {
        let mut y = h.clone();
        if self.spec.final_norm {
            y = self.norm("norm", Norm::LayerNorm, &y);
        }
        y = self.linear("head", &y);
        if let Head::Regression { mean, std, .. } = &self.spec.head
            && !std.is_empty()
        {
            let (mean, std) = (self.vector("head.mean", mean), self.vector("head.std", std));
            let scaled = self.graph.mul(&y, &std);
            y = self.graph.add(&scaled, &mean);
        }
        self.graph.label(y, "output")
    }

    fn norm(&mut self, name: &str, norm: Norm, x: &Value) -> Value {
        let weight = (norm != Norm::None).then(|| self.weight(&format!("{name}.weight")));
        let bias = (norm == Norm::LayerNorm).then(|| self.weight(&format!("{name}.bias")));
        normed(&mut self.graph, norm, x, weight.as_ref(), bias.as_ref())
    }

    /// W x + b of `{name}.weight` and `{name}.bias`, without b when the model has none.
    fn linear(&mut self, name: &str, x: &Value) -> Value {
        let weight = self.transposed(&format!("{name}.weight"));
        let y = self.graph.matmul(x, &weight);
        let bias = format!("{name}.bias");
        if self.weights.get(&bias).is_none() {
            return y;
        }
        let bias = self.weight(&bias);
        self.graph.add(&y, &bias)
    }

    /// W `[out, in]` transposed, as `{name}.T` `[in, out]`: what a row on its left needs.
    fn transposed(&mut self, name: &str) -> Value {
        let tensor = self.weights.get(name).expect("weights are checked against the spec");
        let [outputs, inputs] = tensor.shape[..] else { unreachable!("`{name}` is [out, in]") };
        let transposed =
            (0..inputs * outputs).map(|n| tensor.data[(n % outputs) * inputs + n / outputs]).collect();
        self.graph.constant(format!("{name}.T"), &[inputs, outputs], Data::F32(transposed))
    }

    /// A parameter as it is, under its own name.
    fn weight(&mut self, name: &str) -> Value {
        let tensor = self.weights.get(name).expect("weights are checked against the spec");
        self.graph.constant(name, &tensor.shape, Data::F32(tensor.data.clone()))
    }

    /// Numbers of the config.
    fn vector(&mut self, name: &str, data: &[f32]) -> Value {
        self.graph.constant(name, &[data.len()], Data::F32(data.to_vec()))
    }
}

/// The names of the weight `[columns, D]` of what block `i` projects h to, and of its bias.
fn projection(i: usize, role: Role, function: &MemoryFunction) -> (String, Option<String>) {
    let mix = |name: &str| (format!("blocks.{i}.mix.{name}.weight"), None);
    let memory = |weight: &str, bias: &str| {
        let name = |name: &str| format!("blocks.{i}.memory.{name}");
        (name(weight), Some(name(bias)))
    };
    match role {
        Role::Q => mix("q"),
        Role::K => mix("k"),
        Role::V => mix("v"),
        Role::U => mix("u"),
        Role::X => memory("weight_ih", "bias_ih"),
        Role::Coefficient(index) => {
            let (name, _) = function.memory.coefficients()[index];
            memory(&format!("{name}.weight"), &format!("{name}.bias"))
        }
        _ => unreachable!("{role:?} is not made of h"),
    }
}

/// The name in the main graph of what the memory function of block `i` makes.
fn result(i: usize, role: Role, function: &MemoryFunction) -> String {
    match role {
        Role::State(index) => format!("present.{i}.{}", function.tensors()[index].name),
        Role::Gates => format!("gates.{i}"),
        Role::Loss => format!("blocks.{i}.loss"),
        _ => format!("blocks.{i}.y"),
    }
}
