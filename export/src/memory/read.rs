//! Reads: what the checkpoints and the online memory answer, and how that becomes one.
//!
//! A slot at or past `cache.length` may hold anything, NaN too. Scores and reads of such slots are replaced
//! (`Where`) before they meet those of live ones.

use mcedge_models::contract::Role;
use mcedge_models::spec::{Aggregation, Context, Memory};

use super::{Body, DEAD, Inputs, Token};
use crate::graph::{Graph, Value};

/// A tensor of the checkpoints, `[B, H, S, …]`, as it lies in the cache.
#[derive(Clone)]
pub(super) struct Cached {
    value: Value,
    /// `[B, H, S]`: what an element of 1 of an i8 cache stands for.
    steps: Option<Value>,
}

/// The checkpoints of one read, S of them.
struct Slots {
    /// The memories' parameters.
    parameters: Vec<Cached>,
    /// Whether a slot holds a checkpoint, `[B, 1, S, 1]` or `[B, H, S, 1]`.
    live: Value,
    /// S.
    count: usize,
    /// Where in the cache they lie, `[B, H, S, 1]`; `None` when they are all of it.
    indices: Option<Value>,
}

impl Body<'_> {
    /// y `[B, 1, D]` from the memory's tensors after the write, and who was read, `[B, 1, H, N + 1]`, when the function
    /// says it.
    pub(super) fn read(
        &mut self,
        inputs: &Inputs,
        token: &Token,
        tensors: &[Value],
        context: Option<&Value>,
    ) -> (Value, Option<Value>) {
        let online = &tensors[..self.parameter_count()];
        let query = token.query.as_ref();
        let (y, gates) = match (self.function.caching.aggregation, context) {
            (Aggregation::None, _) => (self.recall(online, query, &[self.heads]), None),
            (Aggregation::Sigmoid, _) => self.read_sigmoid(inputs, &online[0]),
            (_, None) => (self.read_evenly(inputs, online, query), None),
            (_, Some(context)) => self.read_gated(inputs, token, online, context),
        };
        let y = self.row(&y, &[self.heads * self.size], "y");
        let tail = [self.heads, self.layout.capacity + 1];
        (y, gates.map(|gates| self.row(&gates, &tail, "gates")))
    }

    /// `residual` and `mean`: M(q) + Σ Mᵢ(q), and that divided by n + 1; `[B, H, dh]`.
    fn read_evenly(&mut self, inputs: &Inputs, online: &[Value], query: Option<&Value>) -> Value {
        let slots = self.slots(inputs);
        let cached = self.recall_slots(&slots, query); // [B, H, N, dh]
        let online = self.recall(online, query, &[self.heads]);
        let g = &mut self.graph;
        let cached = g.reduce_sum(&cached, 2);
        let sum = g.add(&online, &cached);
        if self.function.caching.aggregation != Aggregation::Mean {
            return sum;
        }
        let memories = self.memories(inputs);
        let memories = self.graph.reshape(&memories, &[1, 1]);
        self.graph.div(&sum, &memories)
    }

    /// n + 1 of each stream, `[B]`.
    pub(super) fn memories(&mut self, inputs: &Inputs) -> Value {
        let g = &mut self.graph;
        let length = g.f32_of(inputs.given(Role::CacheLength));
        let one = g.scalar(1.0);
        let memories = g.add(&length, &one);
        g.label(memories, "memories")
    }

    /// h + Σ σ(W_g \[h; hᵢ\] + b_g) ⊙ hᵢ `[B, H, dh]`, and the gates' means over their channels.
    fn read_sigmoid(&mut self, inputs: &Inputs, h: &Value) -> (Value, Option<Value>) {
        let slots = self.slots(inputs);
        let online = self.online_gate(inputs, h);
        let [h_i, gate_i] = ["h", "gate"].map(|name| {
            let cached = self.cached(inputs, name);
            self.dequantized(&cached)
        });
        let g = &mut self.graph;
        let online = g.reshape(&online, &[self.heads, 1, self.size]);
        let sums = g.add(&online, &gate_i);
        let gates = g.sigmoid(&sums); // [B, H, N, dh]
        let gates = g.label(gates, "channel_gates");
        let reads = g.mul(&gates, &h_i);
        let reads = g.select(&slots.live, &reads, 0.0);
        let reads = g.reduce_sum(&reads, 2);
        let y = g.add(h, &reads);
        let shown = self.function.has_gates().then(|| {
            let means = g.mean_last(&gates);
            let means = g.select(&slots.live, &means, 0.0); // [B, H, N, 1]
            let one = g.scalar(1.0);
            let one = g.expand(&one, &[self.layout.batch, self.heads, 1, 1]);
            g.concat(&means, &one, 2)
        });
        (y, shown)
    }

    /// `grm`, `soup` and `ssc`: reads weighted by the softmax of their scores.
    fn read_gated(
        &mut self,
        inputs: &Inputs,
        token: &Token,
        online: &[Value],
        context: &Value,
    ) -> (Value, Option<Value>) {
        let score = token.score.as_ref().expect("a gated read has u or q");
        let score = self.graph.scale(score, 1.0 / self.function.caching.temperature);
        let context = self.online_context(context, inputs.get(Role::SegmentLength));
        let online_score = self.graph.matmul(&context, &score);
        let online_score = self.graph.label(online_score, "online_score"); // [B, H, 1, 1]
        let mut slots = self.slots(inputs);
        let mut scores = self.scores(inputs, &slots, &score);
        let aggregation = self.function.caching.aggregation;
        if aggregation == Aggregation::Ssc {
            (slots, scores) = self.select(inputs, slots, scores);
        }
        let gates = weights(&mut self.graph, &scores, &online_score); // [B, H, 1, S + 1]
        let y = match &self.function.memory {
            Memory::Dla(_) | Memory::Titans(_) if aggregation == Aggregation::Soup => {
                self.read_soup(&slots, online, &gates, token.query.as_ref())
            }
            Memory::Linear { normalized: true, .. } if aggregation == Aggregation::Soup => {
                self.read_normalized_soup(&slots, online, &gates, token.query.as_ref())
            }
            // Where a read is linear in the memory, the soup's read is the sum of the reads.
            _ => self.read_sum(&slots, online, &gates, token.query.as_ref()),
        };
        let shown = self.function.has_gates().then(|| self.whole_gates(&slots, &gates));
        (y, shown)
    }

    /// Σ γᵢ Mᵢ(q), `[B, H, 1, dh]`.
    fn read_sum(&mut self, slots: &Slots, online: &[Value], gates: &Value, query: Option<&Value>) -> Value {
        let cached = self.recall_slots(slots, query);
        let online = self.recall(online, query, &[self.heads]);
        self.weigh(&cached, &online, gates)
    }

    /// Σ γᵢ yᵢ `[B, H, 1, width]` of `cached` `[B, H, S, width]` and `online` `[B, H, width]`.
    fn weigh(&mut self, cached: &Value, online: &Value, gates: &Value) -> Value {
        let width = online.shape()[2];
        let g = &mut self.graph;
        let online = g.reshape(online, &[self.heads, 1, width]);
        let reads = g.concat(cached, &online, 2); // [B, H, S + 1, width]
        g.matmul(gates, &reads)
    }

    /// (Σ γᵢ Mᵢ φ(q)) / (Σ γᵢ zᵢ)ᵀφ(q), `[B, H, 1, dh]`: the read of the memory whose M and z are the gated sums.
    fn read_normalized_soup(
        &mut self,
        slots: &Slots,
        online: &[Value],
        gates: &Value,
        query: Option<&Value>,
    ) -> Value {
        let query = query.expect("a linear memory has queries");
        let lead = [self.heads, slots.count];
        let [m, z] = [0, 1].map(|index| self.dequantized(&slots.parameters[index]));
        let (cached, sums) = (self.recall_matrix(&m, query, &lead), self.normalizer(&z, query, &lead));
        let [cached, sums] = [cached, sums].map(|reads| self.graph.select(&slots.live, &reads, 0.0));
        let (heads, lead) = (self.heads, [self.heads]);
        let own = self.recall_matrix(&online[0], query, &lead);
        let own_sum = self.normalizer(&online[1], query, &lead);
        let y = self.weigh(&cached, &own, gates);
        let normalizer = self.weigh(&sums, &own_sum, gates);
        let normalizer = self.graph.reshape(&normalizer, &[heads, 1, 1]);
        self.divide(&y, &normalizer)
    }

    /// M*(q) of the memory whose parameters are Σ γᵢ · those of Mᵢ, `[B, H, dh]`.
    fn read_soup(&mut self, slots: &Slots, online: &[Value], gates: &Value, query: Option<&Value>) -> Value {
        let (cached_gates, online_gate) = self.graph.split_last(gates, slots.count);
        let mut soup = Vec::new();
        for (cached, online) in slots.parameters.iter().zip(online) {
            let width = online.shape()[2..].iter().product();
            let cached = self.dequantized(cached);
            let g = &mut self.graph;
            let cached = g.reshape(&cached, &[self.heads, slots.count, width]);
            let cached = g.select(&slots.live, &cached, 0.0);
            let cached = g.matmul(&cached_gates, &cached); // [B, H, 1, width]
            let flat = g.reshape(online, &[self.heads, 1, width]);
            let flat = g.mul(&online_gate, &flat);
            let sum = g.add(&cached, &flat);
            soup.push(g.reshape(&sum, &online.shape()[1..]));
        }
        self.recall(&soup, query, &[self.heads])
    }

    /// The whole cache.
    fn slots(&mut self, inputs: &Inputs) -> Slots {
        let count = self.layout.capacity;
        let g = &mut self.graph;
        let index = g.range("slots", &[count, 1]);
        let length = g.reshape(inputs.given(Role::CacheLength), &[1, 1, 1]);
        let live = g.less(&index, &length);
        let live = g.label(live, "live"); // [B, 1, N, 1]
        let tensors = self.function.tensors().into_iter().take(self.parameter_count());
        let parameters = tensors.map(|tensor| self.cached(inputs, &tensor.name)).collect();
        Slots { parameters, live, count, indices: None }
    }

    /// A tensor of the checkpoints by its name.
    pub(super) fn cached(&self, inputs: &Inputs, name: &str) -> Cached {
        let index = self.function.tensors().iter().position(|tensor| tensor.name == name);
        let index = index.unwrap_or_else(|| panic!("the function caches no {name}"));
        let steps = inputs.get(Role::Steps(index)).cloned();
        Cached { value: inputs.given(Role::Cache(index)).clone(), steps }
    }

    /// Its numbers, f32.
    pub(super) fn dequantized(&mut self, cached: &Cached) -> Value {
        let value = self.graph.f32_of(&cached.value);
        let Some(steps) = &cached.steps else { return value };
        let ones = vec![1; value.shape().len() - 3];
        let steps = self.graph.reshape(steps, &[&value.shape()[1..3], &ones[..]].concat());
        self.graph.mul(&value, &steps)
    }

    /// s `[B, H, N, 1]` of the cache's slots.
    fn scores(&mut self, inputs: &Inputs, slots: &Slots, score: &Value) -> Value {
        let contexts = self.cached(inputs, "context");
        let contexts = self.dequantized(&contexts);
        let g = &mut self.graph;
        let scores = g.matmul(&contexts, score);
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
        let mut gathered = |cached: &Cached| Cached {
            value: g.gather_slots(&cached.value, &indices),
            steps: cached.steps.as_ref().map(|steps| g.gather_slots(steps, &indices)),
        };
        let parameters = slots.parameters.iter().map(&mut gathered).collect();
        let length = g.reshape(inputs.given(Role::CacheLength), &[1, 1, 1]);
        let live = g.less(&indices, &length);
        let live = g.label(live, "selected_live"); // [B, H, K, 1]
        (Slots { parameters, live, count, indices: Some(indices) }, scores)
    }

    /// `gates` `[B, H, 1, S + 1]` at the places of the whole cache, `[B, H, 1, N + 1]`.
    fn whole_gates(&mut self, slots: &Slots, gates: &Value) -> Value {
        let Some(indices) = &slots.indices else { return gates.clone() };
        let g = &mut self.graph;
        let (cached, online) = g.split_last(gates, slots.count);
        let places = g.range("places", &[self.layout.capacity]);
        let places = g.equal(indices, &places);
        let places = g.f32_of(&places); // [B, H, S, N], a 1 a row
        let cached = g.matmul(&cached, &places);
        g.concat(&cached, &online, 3)
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
    fn recall_slots(&mut self, slots: &Slots, query: Option<&Value>) -> Value {
        let parameters: Vec<Value> = slots.parameters.iter().map(|cached| self.dequantized(cached)).collect();
        let reads = self.recall(&parameters, query, &[self.heads, slots.count]);
        self.graph.select(&slots.live, &reads, 0.0)
    }
}

/// γ = softmax(s), `[B, H, 1, S + 1]`, the online memory last.
fn weights(g: &mut Graph, scores: &Value, online_score: &Value) -> Value {
    let (heads, count) = (scores.shape()[1], scores.shape()[2]);
    let scores = g.reshape(scores, &[heads, 1, count]);
    let scores = g.concat(&scores, online_score, 3);
    let gates = g.softmax(&scores);
    g.label(gates, "weights")
}
