//! Reads: what the checkpoints and the online memory answer, and how that becomes one.
//!
//! A slot at or past `cache.length` may hold anything, NaN too. Scores and reads of such slots are replaced
//! (`Where`) before they meet those of live ones.

use mcedge_models::spec::{Aggregation, Context};

use super::{Body, Inputs};
use crate::graph::{Graph, Value};

/// The score of a slot that is not live: its gate is exactly 0 beside the online score, and no softmax makes NaN of
/// it as of −∞.
const DEAD: f32 = -1e30;

/// The checkpoints of one read, S of them.
struct Slots {
    /// The memories' parameters, `[B, H, S, …]`.
    parameters: Vec<Value>,
    /// Whether a slot holds a checkpoint, `[B, 1, S, 1]` or `[B, H, S, 1]`.
    live: Value,
    /// S.
    count: usize,
}

impl Body<'_> {
    /// y `[B, 1, D]` for q `[B, H, dh, 1]`, from the state after the write.
    pub(super) fn read(
        &mut self,
        inputs: &Inputs,
        present: &[Value],
        context: Option<&Value>,
        q: &Value,
        u: &Value,
    ) -> Value {
        let online = &present[..self.parameter_count()];
        let y = match (self.function.caching.aggregation, context) {
            (Aggregation::None, _) => self.recall(online, q, &[self.heads]),
            (_, None) => self.read_evenly(inputs, online, q),
            (_, Some(context)) => self.read_gated(inputs, online, context, q, u),
        };
        let y = self.graph.reshape(&y, &[1, self.heads * self.size]);
        self.graph.label(y, "y")
    }

    /// `residual` and `mean`: M(q) + Σ Mᵢ(q), and that divided by n + 1; `[B, H, dh]`.
    fn read_evenly(&mut self, inputs: &Inputs, online: &[Value], q: &Value) -> Value {
        let slots = self.slots(inputs);
        let cached = self.recall_slots(&slots, q); // [B, H, N, dh]
        let online = self.recall(online, q, &[self.heads]);
        let g = &mut self.graph;
        let cached = g.reduce_sum(&cached, 2);
        let sum = g.add(&online, &cached);
        if self.function.caching.aggregation != Aggregation::Mean {
            return sum;
        }
        let length = g.f32_of(cache_length(inputs));
        let one = g.scalar(1.0);
        let memories = g.add(&length, &one);
        let memories = g.label(memories, "memories");
        let memories = g.reshape(&memories, &[1, 1]);
        g.div(&sum, &memories)
    }

    /// `grm`, `soup` and `ssc`: reads weighted by the softmax of their scores.
    fn read_gated(
        &mut self,
        inputs: &Inputs,
        online: &[Value],
        context: &Value,
        q: &Value,
        u: &Value,
    ) -> Value {
        let u = self.graph.scale(u, 1.0 / self.function.caching.temperature);
        let context = self.online_context(context, inputs.segment_length.as_ref());
        let online_score = self.graph.matmul(&context, &u);
        let online_score = self.graph.label(online_score, "online_score"); // [B, H, 1, 1]
        let mut slots = self.slots(inputs);
        let mut scores = self.scores(inputs, &slots, &u);
        let aggregation = self.function.caching.aggregation;
        if aggregation == Aggregation::Ssc {
            (slots, scores) = self.select(inputs, slots, scores);
        }
        let gates = gates(&mut self.graph, &scores, &online_score); // [B, H, 1, S + 1]
        // A linear memory's read is linear in the memory: there the soup's read is the sum of the reads.
        if aggregation == Aggregation::Soup && self.function.memory.deep().is_some() {
            self.read_soup(&slots, online, &gates, q)
        } else {
            self.read_sum(&slots, online, &gates, q)
        }
    }

    /// Σ γᵢ Mᵢ(q), `[B, H, 1, dh]`.
    fn read_sum(&mut self, slots: &Slots, online: &[Value], gates: &Value, q: &Value) -> Value {
        let cached = self.recall_slots(slots, q);
        let online = self.recall(online, q, &[self.heads]);
        let g = &mut self.graph;
        let online = g.reshape(&online, &[self.heads, 1, self.size]);
        let reads = g.concat(&cached, &online, 2);
        let reads = g.label(reads, "reads"); // [B, H, S + 1, dh]
        g.matmul(gates, &reads)
    }

    /// M*(q) of the memory whose parameters are Σ γᵢ · those of Mᵢ, `[B, H, dh]`.
    fn read_soup(&mut self, slots: &Slots, online: &[Value], gates: &Value, q: &Value) -> Value {
        let g = &mut self.graph;
        let (cached_gates, online_gate) = g.split_last(gates, slots.count);
        let mut soup = Vec::new();
        for (cached, online) in slots.parameters.iter().zip(online) {
            let width = online.shape()[2..].iter().product();
            let cached = g.f32_of(cached);
            let cached = g.reshape(&cached, &[self.heads, slots.count, width]);
            let cached = g.select(&slots.live, &cached, 0.0);
            let cached = g.matmul(&cached_gates, &cached); // [B, H, 1, width]
            let flat = g.reshape(online, &[self.heads, 1, width]);
            let flat = g.mul(&online_gate, &flat);
            let sum = g.add(&cached, &flat);
            soup.push(g.reshape(&sum, &online.shape()[1..]));
        }
        self.recall(&soup, q, &[self.heads])
    }

    /// The whole cache.
    fn slots(&mut self, inputs: &Inputs) -> Slots {
        let count = self.layout.capacity;
        let g = &mut self.graph;
        let index = g.range("slots", &[count, 1]);
        let length = g.reshape(cache_length(inputs), &[1, 1, 1]);
        let live = g.less(&index, &length);
        let live = g.label(live, "live"); // [B, 1, N, 1]
        Slots { parameters: inputs.cache[..self.parameter_count()].to_vec(), live, count }
    }

    /// s `[B, H, N, 1]` of the cache's slots.
    fn scores(&mut self, inputs: &Inputs, slots: &Slots, u: &Value) -> Value {
        let g = &mut self.graph;
        let contexts = g.f32_of(inputs.cache.last().expect("a gated read caches contexts"));
        let scores = g.matmul(&contexts, u);
        let scores = g.select(&slots.live, &scores, DEAD);
        g.label(scores, "scores")
    }

    /// The `top_k` best-scored slots, gathered: only they are read. Where fewer are live, the others stay dead.
    fn select(&mut self, inputs: &Inputs, slots: Slots, scores: Value) -> (Slots, Value) {
        let count = self.function.caching.top_k.expect("ssc has a top_k").min(slots.count);
        if count == slots.count {
            return (slots, scores);
        }
        let g = &mut self.graph;
        let scores = g.reshape(&scores, &[self.heads, slots.count]);
        let (scores, indices) = g.top_k(&scores, count);
        let indices = g.reshape(&indices, &[self.heads, count, 1]);
        let parameters = slots.parameters.iter().map(|cached| g.gather_slots(cached, &indices)).collect();
        let length = g.reshape(cache_length(inputs), &[1, 1, 1]);
        let live = g.less(&indices, &length);
        let live = g.label(live, "selected_live"); // [B, H, K, 1]
        (Slots { parameters, live, count }, scores)
    }

    /// The online context as scores use it, a row `[B, H, 1, dh]`: the sum, or the mean over the segment's tokens,
    /// this one included.
    fn online_context(&mut self, context: &Value, segment_length: Option<&Value>) -> Value {
        let g = &mut self.graph;
        let mut context = context.clone();
        if let (Context::Mean, Some(length)) = (self.function.caching.context, segment_length) {
            let length = g.f32_of(length);
            let one = g.scalar(1.0);
            let tokens = g.add(&length, &one);
            let tokens = g.label(tokens, "tokens");
            let tokens = g.reshape(&tokens, &[1, 1]);
            context = g.div(&context, &tokens);
        }
        g.reshape(&context, &[self.heads, 1, self.size])
    }

    /// Mᵢ(q) `[B, H, S, dh]`; 0 of slots that are not live.
    fn recall_slots(&mut self, slots: &Slots, q: &Value) -> Value {
        let parameters: Vec<Value> = slots.parameters.iter().map(|value| self.graph.f32_of(value)).collect();
        let reads = self.recall(&parameters, q, &[self.heads, slots.count]);
        self.graph.select(&slots.live, &reads, 0.0)
    }
}

/// γ = softmax(s), `[B, H, 1, S + 1]`, the online memory last.
fn gates(g: &mut Graph, scores: &Value, online_score: &Value) -> Value {
    let (heads, count) = (scores.shape()[1], scores.shape()[2]);
    let scores = g.reshape(scores, &[heads, 1, count]);
    let scores = g.concat(&scores, online_score, 3);
    let gates = g.softmax(&scores);
    g.label(gates, "gates")
}

fn cache_length(inputs: &Inputs) -> &Value {
    inputs.cache_length.as_ref().expect("a cached read has `cache.length`")
}
