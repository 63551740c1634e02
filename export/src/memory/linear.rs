//! The linear memory: a matrix of each head.

use super::Body;
use crate::graph::Value;

impl Body<'_> {
    /// M `[B, H, dh, dh]` ← M + v kᵀ.
    pub(super) fn write_linear(&mut self, m: &Value, k: &Value, v: &Value) -> Vec<Value> {
        let k = self.graph.reshape(k, &[self.heads, 1, self.size]);
        let outer = self.graph.mul(v, &k); // [B, H, dh, dh]
        let m = self.graph.add(m, &outer);
        vec![self.graph.label(m, "present.m")]
    }

    /// M q for `m` `[B, lead…, dh, dh]`: one product of each head, its memories' rows below each other.
    pub(super) fn recall_linear(&mut self, m: &Value, q: &Value, lead: &[usize]) -> Value {
        let (heads, size) = (self.heads, self.size);
        let rows = lead[1..].iter().product::<usize>() * size;
        let m = self.graph.reshape(m, &[heads, rows, size]);
        let y = self.graph.matmul(&m, q); // [B, H, rows, 1]
        self.graph.reshape(&y, &[lead, &[size]].concat())
    }
}
