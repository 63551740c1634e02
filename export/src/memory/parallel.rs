//! A chunk of tokens at once, for the memories that are one matrix.
//!
//! With M_t = α_t M_{t−1} + Σ v kᵀ over what token t writes, M_t = D(t, 0) M₀ + Σ_{s ≤ t} D(t, s) v_s k_sᵀ, where
//! D(t, s) = α_{s+1} … α_t: every read is one masked product of all tokens with all tokens. The delta rule's correction
//! only changes what is written, and that is a triangular system (the WY form of DeltaNet, arXiv 2406.06484).
//!
//! Vectors of the tokens are rows, `[B, H, T, dh]`.

use mcedge_models::contract::Role;
use mcedge_models::spec::{Coefficient, Memory};

use super::{Body, Inputs, Made};
use crate::graph::{Data, TOKENS, Value};

/// Decays are added up as logarithms; one of 0 counts as this, whose products are 0 in f32 all the same.
const MIN_DECAY: f32 = 1e-30;

/// Where the tokens of a chunk stand.
pub(super) struct Time {
    /// T, `[1]`.
    pub tokens: Value,
    /// 0, 1, …, T − 1 as a column `[T, 1]`: the token that reads.
    pub t: Value,
    /// The same as a row `[T]`: the token that wrote.
    pub s: Value,
}

/// α over the chunk.
enum Decay {
    /// 1.
    None,
    /// The constant's powers from 0 on, `[chunk + 1]`.
    Powers(Value),
    /// Its logarithms, `[B, H, T, 1]`.
    Logs(Value),
}

/// D(t, s) and D(t, 0) of the states after the tokens, or before them.
struct Decays {
    /// `[T, T]` or `[B, H, T, T]`; 0 where s is not read yet.
    between: Value,
    /// `[T, 1]` or `[B, H, T, 1]`; `None` for 1.
    since_start: Option<Value>,
}

/// What the tokens bring, `[B, H, T, dh]` each.
struct Rows {
    query: Value,
    key: Value,
    k: Value,
    v: Value,
    score: Value,
}

/// The memory over the chunk.
struct Course {
    /// M₀.
    m: Value,
    /// z₀ of a normalised memory.
    z: Option<Value>,
    /// The keys and values that tokens write, in the order of the tokens.
    written: Vec<(Value, Value)>,
}

/// What memories answer, before a normalised one is divided.
pub(super) struct Answer {
    /// `[…, dh]`.
    pub y: Value,
    /// `[…, 1]`.
    pub normalizer: Option<Value>,
}

impl Body<'_> {
    /// The writes and the reads of a chunk of `linear`, `swla` and `gated_delta`.
    pub(super) fn parallel(&mut self, inputs: &Inputs) -> Made {
        let time = self.time(inputs.given(Role::Q));
        let rows = self.all_rows(inputs);
        let decay = self.decay(inputs);
        let after = self.decays(&decay, &time, false);
        let course = self.course(inputs, &rows, &after, &time);
        let loss = self.function.has_loss().then(|| self.chunk_loss(&course, &rows, &decay, &time));
        let online = self.answer(&course, &rows.query, &after);
        let mut tensors = self.end_of(&course, &after);
        tensors.extend(self.last_pair(&rows));
        let contexts = self.contexts(inputs, &rows.k);
        let (y, gates) = self.read_chunk(inputs, &time, &rows.query, &rows.score, online, contexts.as_ref());
        tensors.extend(contexts.map(|contexts| self.last_row(&contexts, "present.context")));
        Made { y, tensors, gates, loss }
    }

    /// `x` is an input with a row a token.
    pub(super) fn time(&mut self, x: &Value) -> Time {
        let g = &mut self.graph;
        let tokens = g.shape_of(x, 1..2);
        let tokens = g.label(tokens, "tokens");
        let all = g.range("positions", &[self.layout.chunk]);
        let s = g.prefix(&all, &tokens, TOKENS);
        let s = g.label(s, "s");
        let t = g.reshape(&s, &[1]);
        let t = g.label(t, "t");
        Time { tokens, t, s }
    }

    fn all_rows(&mut self, inputs: &Inputs) -> Rows {
        let q = self.key_rows(inputs.given(Role::Q), "q.rows");
        let k = self.key_rows(inputs.given(Role::K), "k.rows");
        let v = self.rows(inputs.given(Role::V), "v.rows");
        let score = inputs.get(Role::U).map(|u| self.rows(u, "u.rows"));
        Rows { query: self.features(&q), key: self.features(&k), k, v, score: score.unwrap_or(q) }
    }

    /// `[B, T, D]` as rows `[B, H, T, dh]`, a new value of that name.
    pub(super) fn rows(&mut self, x: &Value, name: &str) -> Value {
        let x = self.graph.reshape(x, &[TOKENS, self.heads, self.size]);
        let rows = self.graph.transpose(&x, &[0, 2, 1, 3]);
        self.graph.label(rows, name)
    }

    /// As [`Body::rows`], each head divided by its norm under `normalize_qk`.
    pub(super) fn key_rows(&mut self, x: &Value, name: &str) -> Value {
        let rows = self.rows(x, name);
        if self.function.normalize_qk { self.unit(&rows) } else { rows }
    }

    /// What tokens give, `[B, H, T, width]`, as `[B, T, H · width]`.
    pub(super) fn y_of_rows(&mut self, rows: &Value) -> Value {
        let rows = self.graph.transpose(rows, &[0, 2, 1, 3]);
        let y = self.graph.reshape(&rows, &[TOKENS, self.heads * self.size]);
        self.graph.label(y, "y")
    }

    /// Coefficient `index` as `[B, H, T, 1]`, when it comes from the input.
    fn coefficient_rows(&mut self, inputs: &Inputs, index: usize) -> Option<Value> {
        let rows = inputs.get(Role::Coefficient(index))?;
        let rows = self.graph.transpose(rows, &[0, 2, 1]);
        Some(self.graph.reshape(&rows, &[self.heads, TOKENS, 1]))
    }

    /// Coefficient `index` of each token times its row.
    fn weighed(&mut self, inputs: &Inputs, index: usize, rows: &Value) -> Value {
        match (self.coefficient_rows(inputs, index), self.function.memory.coefficients()[index].1) {
            (Some(coefficient), _) => self.graph.mul(rows, &coefficient),
            (None, coefficient) => {
                self.graph.scale(rows, coefficient.constant().expect("a number, or from the input"))
            }
        }
    }

    fn decay(&mut self, inputs: &Inputs) -> Decay {
        let Some((_, alpha)) = self.function.memory.coefficients().first().copied() else {
            return Decay::None;
        };
        match alpha {
            Coefficient::Constant(1.0) => Decay::None,
            Coefficient::Constant(alpha) => {
                let power = |n: usize| f64::from(alpha).powi(n as i32) as f32;
                let powers: Vec<f32> = (0..=self.layout.chunk).map(power).collect();
                Decay::Powers(self.graph.constant("powers", &[powers.len()], Data::F32(powers)))
            }
            Coefficient::Input(_) => {
                let alpha = self.coefficient_rows(inputs, 0).expect("it comes from the input");
                let least = self.graph.scalar(MIN_DECAY);
                let alpha = self.graph.max(&alpha, &least);
                Decay::Logs(self.graph.log(&alpha))
            }
        }
    }

    /// Of the states that tokens leave, or with `before` of those that they find.
    ///
    /// Logarithms are added up from s on, not taken apart: a difference of long sums has lost its digits.
    fn decays(&mut self, decay: &Decay, time: &Time, before: bool) -> Decays {
        let g = &mut self.graph;
        let one = g.ints(&[1]);
        // The writes that the state of token t has seen, or its own as well.
        let seen = if before { time.t.clone() } else { g.add(&time.t, &one) };
        let is_seen = g.less(&time.s, &seen);
        match decay {
            Decay::None => Decays { between: g.f32_of(&is_seen), since_start: None },
            Decay::Powers(powers) => {
                let since = g.sub(&seen, &one);
                let since = g.sub(&since, &time.s);
                let zero = g.ints(&[0]);
                let since = g.max(&since, &zero);
                let between = g.gather(powers, &since);
                let between = g.select(&is_seen, &between, 0.0);
                Decays { between, since_start: Some(g.gather(powers, &seen)) }
            }
            Decay::Logs(logs) => {
                let later = g.less(&time.s, &time.t);
                let between = g.select(&later, logs, 0.0); // [B, H, T, T]
                let between = g.cumulative(&between, 2, before);
                let between = g.exp(&between);
                let between = g.select(&is_seen, &between, 0.0);
                let since_start = g.cumulative(logs, 2, before);
                Decays { between, since_start: Some(g.exp(&since_start)) }
            }
        }
    }

    fn course(&mut self, inputs: &Inputs, rows: &Rows, after: &Decays, time: &Time) -> Course {
        let (key, v) = (&rows.key, &rows.v);
        let m = inputs.given(Role::State(0)).clone();
        match self.function.memory {
            Memory::Swla { .. } => {
                let [before_k, before_v] = [(1, key), (2, v)]
                    .map(|(index, rows)| self.delayed(rows, inputs.given(Role::State(index))));
                let before_v = self.weighed(inputs, 1, &before_v);
                let v = self.weighed(inputs, 2, v);
                Course { m, z: None, written: vec![(before_k, before_v), (key.clone(), v)] }
            }
            Memory::GatedDelta { correction, .. } => {
                let v = match correction {
                    true => self.corrected(inputs, &m, key, v, after, time),
                    false => self.weighed(inputs, 1, v),
                };
                Course { m, z: None, written: vec![(key.clone(), v)] }
            }
            _ => {
                let z = (self.parameter_count() > 1).then(|| inputs.given(Role::State(1)).clone());
                Course { m, z, written: vec![(key.clone(), v.clone())] }
            }
        }
    }

    /// The rows of the tokens before, of which the first is `past` `[B, H, dh]`.
    fn delayed(&mut self, rows: &Value, past: &Value) -> Value {
        let past = self.graph.reshape(past, &[self.heads, 1, self.size]);
        let all = self.graph.concat(&past, rows, 2);
        self.graph.all_but_last(&all, 2)
    }

    /// What the delta rule writes in the place of v: u with u_t = β_t (v_t − α_t M_{t−1} k_t), which by the sum for
    /// M_{t−1} is (I + L) u = β (v − D(t, 0) M₀ k) with L(t, s) = β_t D(t, s) ⟨k_t, k_s⟩ for s < t.
    fn corrected(
        &mut self,
        inputs: &Inputs,
        m: &Value,
        key: &Value,
        v: &Value,
        after: &Decays,
        time: &Time,
    ) -> Value {
        let answer = self.start_part(m, key, after);
        let error = self.graph.sub(v, &answer);
        let error = self.weighed(inputs, 1, &error);
        let similar = self.similar(key, key, after);
        let similar = self.weighed(inputs, 1, &similar);
        let earlier = self.graph.less(&time.s, &time.t);
        let similar = self.graph.select(&earlier, &similar, 0.0);
        let inverse = self.inverse(&similar, time);
        let written = self.graph.matmul(&inverse, &error);
        self.graph.label(written, "corrected")
    }

    /// (I + L)⁻¹ of a strictly lower triangular L, `[B, H, T, T]`: blocks of the diagonal are inverted two by two, each
    /// pair by \[\[A, 0\], \[C, B\]\]⁻¹ = \[\[A⁻¹, 0\], \[−B⁻¹ C A⁻¹, B⁻¹\]\]. Nothing grows on the way that is not in
    /// the result, as powers of L would.
    fn inverse(&mut self, lower: &Value, time: &Time) -> Value {
        let g = &mut self.graph;
        let diagonal = g.equal(&time.t, &time.s);
        let mut inverse = g.f32_of(&diagonal);
        let mut block = 1;
        while block < self.layout.chunk {
            let in_pair = g.same_block(&time.t, &time.s, 2 * block);
            let in_block = g.same_block(&time.t, &time.s, block);
            let apart = g.not(&in_block);
            let is_coupling = g.and(&in_pair, &apart);
            let coupling = g.select(&is_coupling, lower, 0.0);
            let change = g.matmul(&coupling, &inverse);
            let change = g.matmul(&inverse, &change);
            inverse = g.sub(&inverse, &change);
            block *= 2;
        }
        inverse
    }

    /// D(t, 0) M₀ x_t, `[B, H, T, dh]`.
    fn start_part(&mut self, m: &Value, rows: &Value, decays: &Decays) -> Value {
        let g = &mut self.graph;
        let transposed = g.transpose(m, &[0, 1, 3, 2]);
        let answer = g.matmul(rows, &transposed);
        match &decays.since_start {
            Some(decay) => g.mul(&answer, decay),
            None => answer,
        }
    }

    /// D(t, s) ⟨x_t, k_s⟩, `[B, H, T, T]`.
    fn similar(&mut self, rows: &Value, key: &Value, decays: &Decays) -> Value {
        let g = &mut self.graph;
        let key = g.transpose(key, &[0, 1, 3, 2]);
        let products = g.matmul(rows, &key);
        g.mul(&products, &decays.between)
    }

    /// M_t x_t `[B, H, T, dh]`, and z_tᵀ x_t of a normalised memory.
    fn answer(&mut self, course: &Course, rows: &Value, decays: &Decays) -> Answer {
        let mut y = self.start_part(&course.m, rows, decays);
        let mut normalizer = None;
        for (key, v) in &course.written {
            let similar = self.similar(rows, key, decays);
            let read = self.graph.matmul(&similar, v);
            y = self.graph.add(&y, &read);
            normalizer = course.z.as_ref().map(|z| {
                let g = &mut self.graph;
                let z = g.reshape(z, &[self.heads, self.size, 1]);
                let start = g.matmul(rows, &z); // [B, H, T, 1]
                let sum = g.sum_last(&similar);
                g.add(&start, &sum)
            });
        }
        Answer { y, normalizer }
    }

    /// ‖M_{t−1}(k_t) − v_t‖², `[B, T, H]`.
    fn chunk_loss(&mut self, course: &Course, rows: &Rows, decay: &Decay, time: &Time) -> Value {
        let before = self.decays(decay, time, true);
        let answer = self.answer(course, &rows.key, &before);
        let answer = self.divided(&answer);
        let g = &mut self.graph;
        let error = g.sub(&answer, &rows.v);
        let square = g.mul(&error, &error);
        let loss = g.reduce_sum(&square, 3); // [B, H, T]
        let loss = g.transpose(&loss, &[0, 2, 1]);
        g.label(loss, "loss")
    }

    /// The read of a normalised memory, divided.
    pub(super) fn divided(&mut self, answer: &Answer) -> Value {
        match &answer.normalizer {
            Some(normalizer) => self.divide(&answer.y, normalizer),
            None => answer.y.clone(),
        }
    }

    /// M, and z, after the chunk.
    fn end_of(&mut self, course: &Course, after: &Decays) -> Vec<Value> {
        let g = &mut self.graph;
        let axis = after.between.shape().len() - 2;
        let decay = g.last(&after.between, axis, 1); // [1, T] or [B, H, 1, T]
        let mut m = course.m.clone();
        if let Some(since_start) = &after.since_start {
            let since_start = g.last(since_start, axis, 1);
            m = g.mul(&m, &since_start);
        }
        for (key, v) in &course.written {
            let columns = g.transpose(v, &[0, 1, 3, 2]); // [B, H, dh, T]
            let columns = g.mul(&columns, &decay);
            let added = g.matmul(&columns, key);
            m = g.add(&m, &added);
        }
        let mut tensors = vec![g.label(m, "present.m")];
        if let Some(z) = &course.z {
            let sum = g.reduce_sum(&course.written[0].0, 2);
            let z = g.add(z, &sum);
            tensors.push(g.label(z, "present.z"));
        }
        tensors
    }

    /// The last token's k and v, which `swla` keeps for the next.
    fn last_pair(&mut self, rows: &Rows) -> Vec<Value> {
        if !matches!(self.function.memory, Memory::Swla { .. }) {
            return Vec::new();
        }
        [(&rows.k, "present.k"), (&rows.v, "present.v")]
            .map(|(rows, name)| self.last_row(rows, name))
            .to_vec()
    }

    /// `[B, H, dh]` of the last token, a new value of that name.
    fn last_row(&mut self, rows: &Value, name: &str) -> Value {
        let last = self.graph.last(rows, 2, 1);
        let last = self.graph.reshape(&last, &[self.heads, self.size]);
        self.graph.label(last, name)
    }

    /// The sum of the segment's keys after each token, `[B, H, T, dh]`, when reads are gated.
    fn contexts(&mut self, inputs: &Inputs, k: &Value) -> Option<Value> {
        let index = self.function.tensors().iter().position(|tensor| tensor.name == "context")?;
        let g = &mut self.graph;
        let past = g.reshape(inputs.given(Role::State(index)), &[self.heads, 1, self.size]);
        let sums = g.cumulative(k, 2, false);
        Some(g.add(&past, &sums))
    }
}
