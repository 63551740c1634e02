//! Reads of a chunk of tokens at once: those of [`super::read`], with an axis of tokens.

use mcedge_models::contract::Role;
use mcedge_models::spec::{Aggregation, Context};

use super::parallel::{Answer, Time};
use super::{Body, DEAD, Inputs};
use crate::graph::{TOKENS, Value};

/// What checkpoints answer to every token.
struct Reads {
    /// `[B, H, T, N, dh]`; 0 of slots that are not live.
    y: Value,
    /// zᵢᵀφ(q) `[B, H, T, N, 1]`, when reads are not divided by it yet.
    normalizer: Option<Value>,
}

impl Body<'_> {
    /// y `[B, T, D]`, and who was read, `[B, T, H, N + 1]`, when the function says it. `contexts` are the segment's key
    /// sums after each token, `[B, H, T, dh]`.
    pub(super) fn read_chunk(
        &mut self,
        inputs: &Inputs,
        time: &Time,
        query: &Value,
        score: &Value,
        online: Answer,
        contexts: Option<&Value>,
    ) -> (Value, Option<Value>) {
        let (rows, gates) = match (self.function.caching.aggregation, contexts) {
            (Aggregation::None, _) => (self.divided(&online), None),
            (_, None) => (self.read_chunk_evenly(inputs, query, &online), None),
            (_, Some(contexts)) => {
                let gates = self.chunk_gates(inputs, time, score, contexts);
                (self.read_chunk_gated(inputs, query, &online, &gates), Some(gates))
            }
        };
        let y = self.y_of_rows(&rows);
        let gates = gates.filter(|_| self.function.has_gates()).map(|gates| {
            let gates = self.graph.transpose(&gates, &[0, 2, 1, 3]);
            self.graph.label(gates, "gates")
        });
        (y, gates)
    }

    /// `residual` and `mean`, `[B, H, T, dh]`.
    fn read_chunk_evenly(&mut self, inputs: &Inputs, query: &Value, online: &Answer) -> Value {
        let cached = self.cached_reads(inputs, query, true);
        let online = self.divided(online);
        let cached = self.graph.reduce_sum(&cached.y, 3);
        let sum = self.graph.add(&online, &cached);
        if self.function.caching.aggregation != Aggregation::Mean {
            return sum;
        }
        let memories = self.memories(inputs);
        let memories = self.graph.reshape(&memories, &[1, 1, 1]);
        self.graph.div(&sum, &memories)
    }

    /// Σ γᵢ Mᵢ(q), or the read of the soup; `[B, H, T, dh]`.
    fn read_chunk_gated(&mut self, inputs: &Inputs, query: &Value, online: &Answer, gates: &Value) -> Value {
        let soup = self.function.caching.aggregation == Aggregation::Soup;
        let cached = self.cached_reads(inputs, query, !soup);
        let (cached_gates, online_gate) = self.graph.split_last(gates, self.layout.capacity);
        let cached_gates = self.graph.reshape(&cached_gates, &[self.heads, TOKENS, 1, self.layout.capacity]);
        let gates = (&cached_gates, &online_gate);
        match (&cached.normalizer, &online.normalizer) {
            (Some(cached_sums), Some(online_sums)) => {
                let y = self.weigh_rows(gates, &cached.y, &online.y);
                let normalizer = self.weigh_rows(gates, cached_sums, online_sums);
                self.divide(&y, &normalizer)
            }
            _ => {
                let online = self.divided(online);
                self.weigh_rows(gates, &cached.y, &online)
            }
        }
    }

    /// Σ γᵢ yᵢ `[B, H, T, width]` of `cached` `[B, H, T, N, width]` and `online` `[B, H, T, width]`, whose gates are
    /// `[B, H, T, 1, N]` and `[B, H, T, 1]`.
    fn weigh_rows(&mut self, gates: (&Value, &Value), cached: &Value, online: &Value) -> Value {
        let g = &mut self.graph;
        let cached = g.matmul(gates.0, cached); // [B, H, T, 1, width]
        let cached = g.reshape(&cached, &[self.heads, TOKENS, online.shape()[3]]);
        let online = g.mul(gates.1, online);
        g.add(&cached, &online)
    }

    /// γ of every token, `[B, H, T, N + 1]`, the online memory last.
    fn chunk_gates(&mut self, inputs: &Inputs, time: &Time, score: &Value, contexts: &Value) -> Value {
        let score = self.graph.scale(score, 1.0 / self.function.caching.temperature);
        let online = self.online_contexts(inputs, time, contexts);
        let online = self.graph.mul(&online, &score);
        let online = self.graph.sum_last(&online); // [B, H, T, 1]
        let cached = self.cached(inputs, "context");
        let cached = self.dequantized(&cached);
        let live = self.live_slots(inputs, &[1, 1, self.layout.capacity]);
        let g = &mut self.graph;
        let columns = g.transpose(&score, &[0, 1, 3, 2]);
        let scores = g.matmul(&cached, &columns); // [B, H, N, T]
        let scores = g.transpose(&scores, &[0, 1, 3, 2]);
        let scores = g.select(&live, &scores, DEAD);
        let scores = g.label(scores, "scores");
        let scores = self.best(scores);
        let g = &mut self.graph;
        let scores = g.concat(&scores, &online, 3);
        let gates = g.softmax(&scores);
        g.label(gates, "weights")
    }

    /// Under `ssc` the `top_k` best scores of each token, in their places: what is not chosen is dead.
    fn best(&mut self, scores: Value) -> Value {
        let capacity = self.layout.capacity;
        let count = match (self.function.caching.aggregation, self.function.caching.top_k) {
            (Aggregation::Ssc, Some(count)) if count < capacity => count,
            _ => return scores,
        };
        let g = &mut self.graph;
        let (_, indices) = g.top_k(&scores, count);
        let indices = g.reshape(&indices, &[self.heads, TOKENS, count, 1]);
        let places = g.range("places", &[capacity]);
        let places = g.equal(&indices, &places); // [B, H, T, K, N]
        let places = g.f32_of(&places);
        let chosen = g.reduce_sum(&places, 3);
        let zero = g.scalar(0.0);
        let chosen = g.less(&zero, &chosen);
        g.select(&chosen, &scores, DEAD)
    }

    /// The online context of each token as scores use it, `[B, H, T, dh]`.
    fn online_contexts(&mut self, inputs: &Inputs, time: &Time, contexts: &Value) -> Value {
        if self.function.caching.context == Context::Sum {
            return contexts.clone();
        }
        let g = &mut self.graph;
        let length = g.reshape(inputs.given(Role::SegmentLength), &[1, 1, 1]);
        let one = g.ints(&[1]);
        let own = g.add(&time.t, &one);
        let tokens = g.add(&length, &own); // [B, 1, T, 1]
        let tokens = g.f32_of(&tokens);
        g.div(contexts, &tokens)
    }

    /// Whether a slot holds a checkpoint, `[B, shape…]` where `shape` is ones and N.
    fn live_slots(&mut self, inputs: &Inputs, shape: &[usize]) -> Value {
        let g = &mut self.graph;
        let slots = g.shared_range(&[&[1], shape].concat());
        let length = g.reshape(inputs.given(Role::CacheLength), &vec![1; shape.len()]);
        g.less(&slots, &length)
    }

    /// Mᵢ(q) of every slot and token. `divides`: by zᵢᵀφ(q), where the memory is normalised.
    fn cached_reads(&mut self, inputs: &Inputs, query: &Value, divides: bool) -> Reads {
        let capacity = self.layout.capacity;
        let live = self.live_slots(inputs, &[1, 1, capacity, 1]);
        let m = self.cached(inputs, "m");
        let m = self.dequantized(&m);
        let columns = self.graph.transpose(query, &[0, 1, 3, 2]); // [B, H, dh, T]
        let y = self.products(&m, &columns, self.size);
        let mut reads = Answer { y, normalizer: None };
        if self.parameter_count() > 1 {
            let z = self.cached(inputs, "z");
            let z = self.dequantized(&z);
            reads.normalizer = Some(self.products(&z, &columns, 1));
        }
        if divides {
            reads = Answer { y: self.divided(&reads), normalizer: None };
        }
        let g = &mut self.graph;
        let normalizer = reads.normalizer.map(|sums| g.select(&live, &sums, 0.0));
        Reads { y: g.select(&live, &reads.y, 0.0), normalizer }
    }

    /// `matrices` `[B, H, N, (rows,) dh]` times the tokens' `columns` `[B, H, dh, T]`: `[B, H, T, N, rows]`.
    fn products(&mut self, matrices: &Value, columns: &Value, rows: usize) -> Value {
        let (heads, capacity) = (self.heads, self.layout.capacity);
        let g = &mut self.graph;
        let matrices = g.reshape(matrices, &[heads, capacity * rows, self.size]);
        let products = g.matmul(&matrices, columns); // [B, H, N · rows, T]
        let products = g.transpose(&products, &[0, 1, 3, 2]);
        g.reshape(&products, &[heads, TOKENS, capacity, rows])
    }
}
