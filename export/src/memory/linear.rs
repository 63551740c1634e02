//! The matrix memories `linear` and `swla`, and the read that `gated_delta` shares.

use mcedge_models::contract::Role;
use mcedge_models::spec::{FeatureMap, Memory};

use super::{Body, Inputs, Token, Written};
use crate::graph::Value;

/// A normalised read is divided by zᵀφ(q), but by no less than this.
const MIN_NORMALIZER: f32 = 1e-6;

impl Body<'_> {
    /// φ(x), element by element; x itself of every memory but `linear`.
    pub(super) fn features(&mut self, x: &Value) -> Value {
        let Memory::Linear { feature_map, .. } = self.function.memory else { return x.clone() };
        let g = &mut self.graph;
        match feature_map {
            FeatureMap::Identity => x.clone(),
            FeatureMap::Relu => g.relu(x),
            FeatureMap::Elu1 => {
                // elu(x) + 1 = exp(min(x, 0)) + max(x, 0), which loses nothing where the exponential is small.
                let zero = g.scalar(0.0);
                let negative = g.min(x, &zero);
                let power = g.exp(&negative);
                let positive = g.relu(x);
                g.add(&power, &positive)
            }
        }
    }

    /// M `[B, H, dh, dh]` ← M + v φ(k)ᵀ and, of a normalised memory, z `[B, H, dh]` ← z + φ(k).
    pub(super) fn write_linear(&mut self, inputs: &Inputs, token: &Token) -> Written {
        let (key, v) = token.pair();
        let states: Vec<Value> =
            (0..self.parameter_count()).map(|index| inputs.given(Role::State(index)).clone()).collect();
        let loss = self.recall_loss(&states, token);
        let outer = self.outer(v, key);
        let m = self.graph.add(&states[0], &outer);
        let mut tensors = vec![self.graph.label(m, "present.m")];
        if let Some(z) = states.get(1) {
            let key = self.graph.reshape(key, &[self.heads, self.size]);
            let z = self.graph.add(z, &key);
            tensors.push(self.graph.label(z, "present.z"));
        }
        Written { tensors, loss }
    }

    /// M ← α M + β v₋₁k₋₁ᵀ + λ v kᵀ, and the token's k and v for the next.
    pub(super) fn write_swla(&mut self, inputs: &Inputs, token: &Token) -> Written {
        let (key, value) = token.pair();
        let [alpha, beta, lambda] = &token.coefficients[..] else { unreachable!("swla has three") };
        let [m, k, v] = [0, 1, 2].map(|index| inputs.given(Role::State(index)).clone());
        let loss = self.recall_loss(std::slice::from_ref(&m), token);
        let kept = self.times(&m, alpha);
        let v = self.graph.reshape(&v, &[self.heads, self.size, 1]);
        let v = self.times(&v, beta);
        let before = self.outer(&v, &k);
        let v = self.times(value, lambda);
        let now = self.outer(&v, key);
        let m = self.graph.add(&kept, &before);
        let m = self.graph.add(&m, &now);
        let m = self.graph.label(m, "present.m");
        let [k, v] = [(key, "present.k"), (value, "present.v")].map(|(column, name)| {
            let row = self.graph.reshape(column, &[self.heads, self.size]);
            self.graph.label(row, name)
        });
        Written { tensors: vec![m, k, v], loss }
    }

    /// v kᵀ `[B, H, dh, dh]` of a column v and a k of `[B, H, dh]` or a column.
    pub(super) fn outer(&mut self, v: &Value, k: &Value) -> Value {
        let k = self.graph.reshape(k, &[self.heads, 1, self.size]);
        self.graph.mul(v, &k)
    }

    /// ‖M(k) − v‖² at `states`, those before the token.
    fn recall_loss(&mut self, states: &[Value], token: &Token) -> Option<Value> {
        if !self.function.has_loss() {
            return None;
        }
        let (key, v) = token.pair();
        let answer = self.recall_linear(states, key, &[self.heads]);
        let answer = self.graph.reshape(&answer, &[self.heads, self.size, 1]);
        let error = self.graph.sub(&answer, v);
        self.square_loss(&error)
    }

    /// M φ(q) for M `[B, lead…, dh, dh]`, divided by zᵀφ(q) when there is a z.
    pub(super) fn recall_linear(&mut self, parameters: &[Value], query: &Value, lead: &[usize]) -> Value {
        let y = self.recall_matrix(&parameters[0], query, lead);
        match parameters.get(1) {
            None => y,
            Some(z) => {
                let normalizer = self.normalizer(z, query, lead);
                self.divide(&y, &normalizer)
            }
        }
    }

    /// M q for `m` `[B, lead…, dh, dh]`: one product of each head, its memories' rows below each other.
    pub(super) fn recall_matrix(&mut self, m: &Value, query: &Value, lead: &[usize]) -> Value {
        let (heads, size) = (self.heads, self.size);
        let rows = lead[1..].iter().product::<usize>() * size;
        let m = self.graph.reshape(m, &[heads, rows, size]);
        let y = self.graph.matmul(&m, query); // [B, H, rows, 1]
        self.graph.reshape(&y, &[lead, &[size]].concat())
    }

    /// zᵀφ(q) `[B, lead…, 1]` for z `[B, lead…, dh]`.
    pub(super) fn normalizer(&mut self, z: &Value, query: &Value, lead: &[usize]) -> Value {
        let rows = lead[1..].iter().product::<usize>();
        let z = self.graph.reshape(z, &[self.heads, rows, self.size]);
        let sums = self.graph.matmul(&z, query); // [B, H, rows, 1]
        self.graph.reshape(&sums, &[lead, &[1]].concat())
    }

    /// y / max(normalizer, 1e-6).
    pub(super) fn divide(&mut self, y: &Value, normalizer: &Value) -> Value {
        let least = self.graph.scalar(MIN_NORMALIZER);
        let normalizer = self.graph.max(normalizer, &least);
        self.graph.div(y, &normalizer)
    }
}

impl Token {
    /// φ(k) and v, of a memory that has them.
    pub(super) fn pair(&self) -> (&Value, &Value) {
        let pair = self.key.as_ref().zip(self.v.as_ref());
        pair.expect("a memory that maps keys to values is given both")
    }
}
