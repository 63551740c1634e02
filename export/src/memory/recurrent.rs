//! PyTorch's GRU and LSTM, for which the part of the input, W_ih x + b_ih, comes from outside.

use mcedge_models::contract::Role;
use mcedge_models::spec::Aggregation;

use super::{Body, Inputs, Written};
use crate::graph::Value;

impl Body<'_> {
    /// r, z = σ(x + W h + b), n = tanh(x + r ⊙ (W h + b)), h ← (1 − z) ⊙ n + z ⊙ h, which is n + z ⊙ (h − n).
    pub(super) fn write_gru(&mut self, inputs: &Inputs) -> Written {
        let d = self.heads * self.size;
        let past = self.flat(inputs, 0);
        let from_h = self.hidden_part(inputs, &past);
        let g = &mut self.graph;
        let from_x = g.reshape(inputs.given(Role::X), &[3 * d]);
        let (gates_x, n_x) = g.split_last(&from_x, 2 * d);
        let (gates_h, n_h) = g.split_last(&from_h, 2 * d);
        let gates = g.add(&gates_x, &gates_h);
        let gates = g.sigmoid(&gates);
        let (r, z) = g.split_last(&gates, d);
        let n_h = g.mul(&r, &n_h);
        let n = g.add(&n_x, &n_h);
        let n = g.tanh(&n);
        let kept = g.sub(&past, &n);
        let kept = g.mul(&z, &kept);
        let h = g.add(&n, &kept);
        self.written(inputs, &h, None)
    }

    /// i, f, g, o = x + W h + b; c ← σ(f) ⊙ c + σ(i) ⊙ tanh(g), h ← σ(o) ⊙ tanh(c).
    pub(super) fn write_lstm(&mut self, inputs: &Inputs) -> Written {
        let d = self.heads * self.size;
        let (past, c) = (self.flat(inputs, 0), self.flat(inputs, 1));
        let from_h = self.hidden_part(inputs, &past);
        let graph = &mut self.graph;
        let from_x = graph.reshape(inputs.given(Role::X), &[4 * d]);
        let gates = graph.add(&from_x, &from_h);
        let (i_f, g_o) = graph.split_last(&gates, 2 * d);
        let i_f = graph.sigmoid(&i_f);
        let (i, f) = graph.split_last(&i_f, d);
        let (g, o) = graph.split_last(&g_o, d);
        let (g, o) = (graph.tanh(&g), graph.sigmoid(&o));
        let (kept, added) = (graph.mul(&f, &c), graph.mul(&i, &g));
        let c = graph.add(&kept, &added);
        let shown = graph.tanh(&c);
        let h = graph.mul(&o, &shown);
        self.written(inputs, &h, Some(&c))
    }

    /// W_hh h + b_hh, `[B, G · D]`, for h `[B, D]`.
    fn hidden_part(&mut self, inputs: &Inputs, h: &Value) -> Value {
        let weight = inputs.given(Role::RecurrentWeight);
        self.affine(weight, inputs.given(Role::RecurrentBias), h)
    }

    /// W h + b, `[B, rows]`, for W `[rows, D]` and h `[B, D]`.
    fn affine(&mut self, weight: &Value, bias: &Value, h: &Value) -> Value {
        let g = &mut self.graph;
        let h = g.reshape(h, &[h.shape()[1], 1]);
        let product = g.matmul(weight, &h); // [B, rows, 1]
        let product = g.reshape(&product, &[weight.shape()[0]]);
        g.add(&product, bias)
    }

    /// State `index` as `[B, D]`.
    fn flat(&mut self, inputs: &Inputs, index: usize) -> Value {
        self.graph.reshape(inputs.given(Role::State(index)), &[self.heads * self.size])
    }

    /// h and c `[B, D]` cut into heads, and under `sigmoid` what the gates of later reads need of this h.
    fn written(&mut self, inputs: &Inputs, h: &Value, c: Option<&Value>) -> Written {
        let mut tensors = vec![self.cut(h, "present.h")];
        tensors.extend(c.map(|c| self.cut(c, "present.c")));
        if self.function.caching.aggregation == Aggregation::Sigmoid {
            let (_, of_checkpoint) = self.gate_weights(inputs);
            let column = self.graph.reshape(h, &[self.heads * self.size, 1]);
            let gate = self.graph.matmul(&of_checkpoint, &column);
            tensors.push(self.cut(&gate, "present.gate"));
        }
        Written { tensors, loss: None }
    }

    /// `[B, D]` as `[B, H, dh]`, a new value of that name.
    fn cut(&mut self, x: &Value, name: &str) -> Value {
        // One head is cut by nothing, and an output must be made by something.
        let column = self.graph.reshape(x, &[self.heads, self.size, 1]);
        let heads = self.graph.reshape(&column, &[self.heads, self.size]);
        self.graph.label(heads, name)
    }

    /// The halves of W_g, `[D, D]` each: what multiplies h, and what multiplies a checkpoint's.
    pub(super) fn gate_weights(&mut self, inputs: &Inputs) -> (Value, Value) {
        self.graph.split_last(inputs.given(Role::GateWeight), self.heads * self.size)
    }

    /// The part of W_g \[h; hᵢ\] + b_g that is the online memory's, `[B, H, dh]`.
    pub(super) fn online_gate(&mut self, inputs: &Inputs, h: &Value) -> Value {
        let (of_online, _) = self.gate_weights(inputs);
        let h = self.graph.reshape(h, &[self.heads * self.size]);
        let sums = self.affine(&of_online, inputs.given(Role::GateBias), &h);
        self.graph.reshape(&sums, &[self.heads, self.size])
    }
}
