//! What stands around the memory functions: embedding, norms, projections, coefficients, MLPs and the head.

use mcedge_models::Weights;
use mcedge_models::contract::{MemoryFunction, Role};
use mcedge_models::spec::{Head, Input, Norm, Spec};

use crate::graph::{Data, Graph, Value};
use crate::memory::gelu;

/// An output of a memory function, and what it is.
pub type Made = (Role, Value);

const LAYER_NORM_EPSILON: f32 = 1e-5;
const RMS_NORM_EPSILON: f32 = 1e-6;

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
        let at = |name: &str| format!("blocks.{i}.{name}");
        let x = self.norm(&at("norm"), block.norm, h);
        let (mut y, made) = self.call(i, body, function, &x);
        if self.weights.get(&at("mix.o.weight")).is_some() {
            y = self.linear(&at("mix.o"), &y);
        }
        if block.residual {
            y = self.graph.add(h, &y);
        }
        if block.mlp.is_some() {
            y = self.mlp(i, block.norm, &y);
        }
        (self.graph.label(y, at("output")), made)
    }

    /// y `[B, T, D]` of the memory function of block `i`, and its other outputs.
    fn call(&mut self, i: usize, body: &Graph, function: &MemoryFunction, x: &Value) -> (Value, Vec<Made>) {
        let roles = function.inputs();
        let inputs: Vec<Value> = roles.into_iter().map(|role| self.argument(i, role, function, x)).collect();
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
    fn argument(&mut self, i: usize, role: Role, function: &MemoryFunction, x: &Value) -> Value {
        let tensor = |index: usize| function.tensors()[index].name.clone();
        let memory = |name: &str| format!("blocks.{i}.memory.{name}");
        match role {
            Role::Q => self.projection(i, "q", x),
            Role::K => self.projection(i, "k", x),
            Role::V => self.projection(i, "v", x),
            Role::U => self.projection(i, "u", x),
            Role::X => {
                let x = self.affine(&memory("weight_ih"), &memory("bias_ih"), x);
                self.graph.label(x, format!("blocks.{i}.x"))
            }
            Role::Coefficient(index) => {
                let (name, _) = function.memory.coefficients()[index];
                let logits = self.linear(&memory(name), x);
                let value = self.graph.sigmoid(&logits);
                self.graph.label(value, format!("blocks.{i}.{name}"))
            }
            Role::RecurrentWeight => self.weight(&memory("weight_hh")),
            Role::RecurrentBias => self.weight(&memory("bias_hh")),
            Role::GateWeight => self.weight(&memory("gate.weight")),
            Role::GateBias => self.weight(&memory("gate.bias")),
            Role::State(index) => self.named(&format!("past.{i}.{}", tensor(index))),
            Role::Cache(index) => self.named(&format!("cache.{i}.{}", tensor(index))),
            Role::Steps(index) => self.named(&format!("cache.{i}.{}.steps", tensor(index))),
            Role::SegmentLength => self.named("segment.length"),
            Role::CacheLength => self.named("cache.length"),
            Role::Y | Role::Gates | Role::Loss => unreachable!("{role:?} is an output"),
        }
    }

    fn projection(&mut self, i: usize, name: &str, x: &Value) -> Value {
        let y = self.linear(&format!("blocks.{i}.mix.{name}"), x);
        self.graph.label(y, format!("blocks.{i}.{name}"))
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
        match norm {
            Norm::None => x.clone(),
            Norm::LayerNorm => {
                let weight = self.weight(&format!("{name}.weight"));
                let bias = self.weight(&format!("{name}.bias"));
                self.graph.layer_norm(x, &weight, &bias, LAYER_NORM_EPSILON)
            }
            Norm::RmsNorm => {
                let weight = self.weight(&format!("{name}.weight"));
                let g = &mut self.graph;
                let square = g.mul(x, x);
                let mean = g.mean_last(&square);
                let epsilon = g.scalar(RMS_NORM_EPSILON);
                let mean = g.add(&mean, &epsilon);
                let root = g.sqrt(&mean);
                let x = g.div(x, &root);
                g.mul(&x, &weight)
            }
        }
    }

    /// W x + b of `{name}.weight` and `{name}.bias`.
    fn linear(&mut self, name: &str, x: &Value) -> Value {
        self.affine(&format!("{name}.weight"), &format!("{name}.bias"), x)
    }

    /// W x + b, without b when the model has none. W `[out, in]` is stored transposed, as `{weight}.T` `[in, out]`:
    /// what a row on its left needs.
    fn affine(&mut self, weight: &str, bias: &str, x: &Value) -> Value {
        let tensor = self.weights.get(weight).expect("weights are checked against the spec");
        let [outputs, inputs] = tensor.shape[..] else { unreachable!("`{weight}` is [out, in]") };
        let transposed =
            (0..inputs * outputs).map(|n| tensor.data[(n % outputs) * inputs + n / outputs]).collect();
        let weight = self.graph.constant(format!("{weight}.T"), &[inputs, outputs], Data::F32(transposed));
        let y = self.graph.matmul(x, &weight);
        if self.weights.get(bias).is_none() {
            return y;
        }
        let bias = self.weight(bias);
        self.graph.add(&y, &bias)
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

/// The name in the main graph of what the memory function of block `i` makes.
fn result(i: usize, role: Role, function: &MemoryFunction) -> String {
    match role {
        Role::State(index) => format!("present.{i}.{}", function.tensors()[index].name),
        Role::Gates => format!("gates.{i}"),
        Role::Loss => format!("blocks.{i}.loss"),
        _ => format!("blocks.{i}.y"),
    }
}
