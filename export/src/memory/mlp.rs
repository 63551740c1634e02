//! The MLP memory of `dla` and `titans`, and the gradient of its loss.
//!
//! Layer j of L: zⱼ = Wⱼ hⱼ₋₁ + bⱼ with h₀ = x and hⱼ = gelu(zⱼ); M(x) = z_L, plus x with `skip`.

use std::f32::consts::{FRAC_1_SQRT_2, PI};

use mcedge_models::contract::Role;
use mcedge_models::spec::{Deep, Memory, Objective, Sign};

use super::{Body, Factor, Inputs, Token, Written};
use crate::graph::{Graph, Value};

/// One layer's parameters.
struct Layer<'v> {
    /// `[B, lead…, out, in]`.
    w: &'v Value,
    /// `[B, lead…, out]`.
    b: Option<&'v Value>,
}

/// What the gradient needs of the forward run at k.
struct Trace {
    /// hⱼ₋₁ of each layer, `[B, H, in, 1]`.
    inputs: Vec<Value>,
    /// Each layer but the last.
    hidden: Vec<Hidden>,
}

/// A layer's sum, and the part of its gelu that the slope uses again.
struct Hidden {
    /// zⱼ, `[B, H, out, 1]`.
    z: Value,
    /// Φ(zⱼ) = (1 + erf(zⱼ / √2)) / 2.
    cdf: Value,
}

/// The gradient of the loss by M(k): `factor` · `error`.
struct Slope {
    /// `[B, H, dh, 1]`.
    error: Value,
    factor: f32,
    /// The loss itself, `[B, H]`, when the function gives it.
    loss: Option<Value>,
}

impl Body<'_> {
    /// S ← μ S ± η ∇ℓ and M ← α M ± S, for every parameter: the parameters, then the momenta.
    pub(super) fn write_mlp(&mut self, deep: &Deep, inputs: &Inputs, token: &Token) -> Written {
        let state = |index| inputs.given(Role::State(index)).clone();
        let count = self.parameter_count();
        let parameters: Vec<Value> = (0..count).map(state).collect();
        let momenta: Vec<Value> = match deep.momentum {
            0.0 => Vec::new(),
            _ => (count..2 * count).map(state).collect(),
        };
        let [step_size, retention] = &token.coefficients[..] else { unreachable!("an MLP memory has two") };
        let (sign, adds) = match (&self.function.memory, deep.sign.unwrap_or_default()) {
            (Memory::Dla(_), _) => (1.0, false),
            (_, Sign::Descent) => (-1.0, true),
            (_, Sign::Paper) => (-1.0, false),
        };
        let (steps, loss) = self.steps(deep, &parameters, token, sign, step_size);
        let names: Vec<String> = self.function.tensors().into_iter().map(|tensor| tensor.name).collect();
        let (mut tensors, mut moved) = (Vec::new(), Vec::new());
        for (j, (parameter, mut s)) in parameters.iter().zip(steps).enumerate() {
            if let Some(momentum) = momenta.get(j) {
                let kept = self.graph.scale(momentum, deep.momentum);
                let sum = self.graph.add(&kept, &s);
                s = self.graph.label(sum, format!("present.s_{}", names[j]));
                moved.push(s.clone());
            }
            let kept = self.times(parameter, retention);
            let g = &mut self.graph;
            let present = if adds { g.add(&kept, &s) } else { g.sub(&kept, &s) };
            tensors.push(g.label(present, format!("present.{}", names[j])));
        }
        tensors.extend(moved);
        Written { tensors, loss }
    }

    /// M(q) of memories side by side, `[B, lead…, dh]`.
    pub(super) fn recall_mlp(
        &mut self,
        deep: &Deep,
        parameters: &[Value],
        q: &Value,
        lead: &[usize],
    ) -> Value {
        let layers = layers(deep, parameters);
        let mut x = self.first_layer(&layers[0], q, lead);
        for layer in &layers[1..] {
            let (h, _) = gelu(&mut self.graph, &x);
            let z = self.graph.matmul(layer.w, &h);
            x = add_bias(&mut self.graph, z, layer, lead);
        }
        let tail = [lead, &[self.size]].concat();
        let y = self.graph.reshape(&x, &tail);
        if !deep.skip {
            return y;
        }
        let ones = vec![1; lead.len() - 1];
        let q = self.graph.reshape(q, &[&[self.heads], &ones[..], &[self.size]].concat());
        self.graph.add(&y, &q)
    }

    /// z₁ `[B, lead…, out, 1]`: every memory sees the same q, so one product of each head, their rows below each
    /// other.
    fn first_layer(&mut self, layer: &Layer<'_>, q: &Value, lead: &[usize]) -> Value {
        let [.., out, size] = *layer.w.shape() else { unreachable!("a layer is a matrix") };
        let rows = lead[1..].iter().product::<usize>() * out;
        let w = self.graph.reshape(layer.w, &[self.heads, rows, size]);
        let z = self.graph.matmul(&w, q);
        let z = self.graph.reshape(&z, &[lead, &[out, 1]].concat());
        add_bias(&mut self.graph, z, layer, lead)
    }

    /// sign · step size · ∇ℓ with respect to each of `parameters`, in their order and shapes, and ℓ when the function
    /// gives it. The gradient is linear in that of the loss, a vector: the factors go there.
    fn steps(
        &mut self,
        deep: &Deep,
        parameters: &[Value],
        token: &Token,
        sign: f32,
        step_size: &Factor,
    ) -> (Vec<Value>, Option<Value>) {
        let (k, v) = token.pair();
        let layers = layers(deep, parameters);
        let Trace { inputs, hidden } = self.forward(&layers, k);
        let Slope { error, factor, loss } = self.error(deep, &layers, &inputs, k, v);
        let delta = match step_size {
            Factor::Constant(step_size) => {
                let factor = self.graph.scalar(sign * factor * step_size);
                self.graph.mul(&error, &factor)
            }
            Factor::Input(_) => {
                let error = self.graph.scale(&error, sign * factor);
                self.times(&error, step_size)
            }
        };
        let mut delta = self.graph.label(delta, format!("delta{}", layers.len())); // factor · ∂ℓ/∂z_L
        let mut gradients = Vec::new();
        for (j, (layer, input)) in layers.iter().zip(&inputs).enumerate().rev() {
            let [_, _, out, size] = *layer.w.shape() else { unreachable!("[B, H, out, in]") };
            let g = &mut self.graph;
            if layer.b.is_some() {
                gradients.push(g.reshape(&delta, &[self.heads, out]));
            }
            let input = g.reshape(input, &[self.heads, 1, size]);
            let outer = g.mul(&delta, &input); // factor · ∂ℓ/∂Wⱼ [B, H, out, in]
            gradients.push(g.label(outer, format!("step.w{}", j + 1)));
            if j > 0 {
                let row = g.reshape(&delta, &[self.heads, 1, out]);
                let back = g.matmul(&row, layer.w); // factor · ∂ℓ/∂hⱼ₋₁ᵀ [B, H, 1, in]
                let back = g.reshape(&back, &[self.heads, size, 1]);
                let slope = gelu_slope(g, &hidden[j - 1]);
                let product = g.mul(&back, &slope);
                delta = g.label(product, format!("delta{j}")); // factor · ∂ℓ/∂zⱼ₋₁ [B, H, in, 1]
            }
        }
        gradients.reverse();
        (gradients, loss)
    }

    /// The layers' inputs at k; the last layer's sum is left to the loss.
    fn forward(&mut self, layers: &[Layer<'_>], k: &Value) -> Trace {
        let mut trace = Trace { inputs: vec![k.clone()], hidden: Vec::new() };
        for (layer, j) in layers[..layers.len() - 1].iter().zip(1..) {
            let z = self.layer(layer, &trace.inputs[j - 1]);
            let (h, cdf) = gelu(&mut self.graph, &z);
            trace.inputs.push(self.graph.label(h, format!("h{j}")));
            trace.hidden.push(Hidden { z, cdf });
        }
        trace
    }

    /// The gradient of the loss by the memory's answer: 2 (M(k) − v) of `l2`, −v of `dot`.
    fn error(&mut self, deep: &Deep, layers: &[Layer<'_>], inputs: &[Value], k: &Value, v: &Value) -> Slope {
        match deep.objective {
            Objective::L2 => {
                let answer = self.answer_mlp(deep, layers, inputs, k);
                let error = self.graph.sub(&answer, v);
                Slope { loss: self.square_loss(&error), error, factor: 2.0 }
            }
            Objective::Dot => {
                let loss = self.function.has_loss().then(|| {
                    let answer = self.answer_mlp(deep, layers, inputs, k);
                    let product = self.graph.mul(&answer, v);
                    let sum = self.sum_of_head(&product);
                    self.graph.scale(&sum, -1.0)
                });
                Slope { loss, error: v.clone(), factor: -1.0 }
            }
        }
    }

    /// M(k) of the online memory, `[B, H, dh, 1]`.
    fn answer_mlp(&mut self, deep: &Deep, layers: &[Layer<'_>], inputs: &[Value], k: &Value) -> Value {
        let last = layers.len() - 1;
        let z = self.layer(&layers[last], &inputs[last]);
        if deep.skip { self.graph.add(&z, k) } else { z }
    }

    /// zⱼ `[B, H, out, 1]` of the online memory.
    fn layer(&mut self, layer: &Layer<'_>, input: &Value) -> Value {
        let z = self.graph.matmul(layer.w, input);
        add_bias(&mut self.graph, z, layer, &[self.heads])
    }
}

/// `parameters` are w1, b1, w2, …, or w1, w2, … without biases.
fn layers<'v>(deep: &Deep, parameters: &'v [Value]) -> Vec<Layer<'v>> {
    if deep.bias {
        parameters.chunks(2).map(|pair| Layer { w: &pair[0], b: Some(&pair[1]) }).collect()
    } else {
        parameters.iter().map(|w| Layer { w, b: None }).collect()
    }
}

/// z `[B, lead…, out, 1]` plus the layer's bias.
fn add_bias(g: &mut Graph, z: Value, layer: &Layer<'_>, lead: &[usize]) -> Value {
    let Some(b) = layer.b else { return z };
    let out = b.shape()[b.shape().len() - 1];
    let b = g.reshape(b, &[lead, &[out, 1]].concat());
    g.add(&z, &b)
}

/// gelu(z) = z Φ(z), and Φ(z) = (1 + erf(z / √2)) / 2.
pub fn gelu(g: &mut Graph, z: &Value) -> (Value, Value) {
    let scaled = g.scale(z, FRAC_1_SQRT_2);
    let erf = g.erf(&scaled);
    let one = g.scalar(1.0);
    let sum = g.add(&erf, &one);
    let cdf = g.scale(&sum, 0.5);
    (g.mul(z, &cdf), cdf)
}

/// gelu'(z) = Φ(z) + z exp(−z² / 2) / √(2π).
fn gelu_slope(g: &mut Graph, Hidden { z, cdf }: &Hidden) -> Value {
    let square = g.mul(z, z);
    let exponent = g.scale(&square, -0.5);
    let bell = g.exp(&exponent);
    let density = g.scale(&bell, 1.0 / (2.0 * PI).sqrt());
    let rise = g.mul(z, &density);
    g.add(cdf, &rise)
}
