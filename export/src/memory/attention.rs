//! Softmax attention over a window of the last tokens, which slides by one with each.

use mcedge_models::contract::Role;

use super::parallel::Time;
use super::{Body, DEAD, Inputs, Made};
use crate::graph::{TOKENS, Value};

impl Body<'_> {
    /// Σ softmax(⟨q, kⱼ⟩ / √dh) vⱼ over the window, the token in it.
    pub(super) fn attend(&mut self, inputs: &Inputs, window: usize) -> Made {
        let q = self.key(inputs.given(Role::Q), "q.column");
        let k = self.key(inputs.given(Role::K), "k.column");
        let v = self.column(inputs.given(Role::V), "v.column");
        let rows = [&[self.heads, 1], &[self.size][..]].concat();
        let [k, v] = [k, v].map(|column| self.graph.reshape(&column, &rows));
        let one = self.graph.scalar(1.0);
        let one = self.graph.expand(&one, &[self.layout.batch, self.heads, 1]);
        let slid = [(0, &k, "k"), (1, &v, "v"), (2, &one, "live")].map(|(index, new, name)| {
            let all = self.graph.concat(inputs.given(Role::State(index)), new, 2);
            let last = self.graph.last(&all, 2, window);
            self.graph.label(last, format!("present.{name}"))
        });
        let [keys, values, live] = &slid; // [B, H, W, dh], [B, H, W, dh], [B, H, W]

        let g = &mut self.graph;
        let q = g.scale(&q, 1.0 / (self.size as f32).sqrt());
        let scores = g.matmul(keys, &q); // [B, H, W, 1]
        let scores = g.reshape(&scores, &[self.heads, window]);
        let zero = g.scalar(0.0);
        let live = g.less(&zero, live);
        let scores = g.select(&live, &scores, DEAD);
        let weights = g.softmax(&scores);
        let weights = g.reshape(&weights, &[self.heads, 1, window]);
        let y = g.matmul(&weights, values); // [B, H, 1, dh]
        let y = self.row(&y, &[self.heads * self.size], "y");
        Made { y, tensors: slid.to_vec(), gates: None, loss: None }
    }

    /// As [`Body::attend`] for a chunk at once: of the window and the chunk behind each other, token t sees what stands
    /// at t + 1 to t + W.
    pub(super) fn attend_chunk(&mut self, inputs: &Inputs, window: usize) -> Made {
        let time = self.time(inputs.given(Role::Q));
        let q = self.key_rows(inputs.given(Role::Q), "q.rows");
        let k = self.key_rows(inputs.given(Role::K), "k.rows");
        let v = self.rows(inputs.given(Role::V), "v.rows");
        let one = self.graph.scalar(1.0);
        let one = self.graph.expand_like(&one, &k, 3);
        let [keys, values, live] = [(0, &k), (1, &v), (2, &one)]
            .map(|(index, new)| self.graph.concat(inputs.given(Role::State(index)), new, 2));
        let visible = self.visible(&time, &live, window);

        let g = &mut self.graph;
        let q = g.scale(&q, 1.0 / (self.size as f32).sqrt());
        let columns = g.transpose(&keys, &[0, 1, 3, 2]);
        let scores = g.matmul(&q, &columns); // [B, H, T, W + T]
        let scores = g.select(&visible, &scores, DEAD);
        let weights = g.softmax(&scores);
        let rows = g.matmul(&weights, &values);
        let y = self.y_of_rows(&rows);
        let tensors = [(&keys, "k"), (&values, "v"), (&live, "live")].map(|(all, name)| {
            let last = self.graph.last(all, 2, window);
            self.graph.label(last, format!("present.{name}"))
        });
        Made { y, tensors: tensors.to_vec(), gates: None, loss: None }
    }

    /// Who sees whom, `[B, H, T, W + T]`, for `live` `[B, H, W + T]`.
    fn visible(&mut self, time: &Time, live: &Value, window: usize) -> Value {
        let g = &mut self.graph;
        let size = g.ints(&[window as i64]);
        let end = g.add(&time.tokens, &size);
        let places = g.range("places", &[window + self.layout.chunk]);
        let places = g.prefix(&places, &end, TOKENS + window);
        let after = g.less(&time.t, &places);
        let size = g.ints(&[window as i64 + 1]);
        let end = g.add(&time.t, &size);
        let before = g.less(&places, &end);
        let near = g.and(&after, &before); // [T, W + T]
        let zero = g.scalar(0.0);
        let live = g.less(&zero, live);
        let live = g.unsqueeze(&live, 2);
        g.and(&near, &live)
    }
}
