//! Softmax attention over a window of the last tokens, which slides by one with each.

use mcedge_models::contract::Role;

use super::{Body, DEAD, Inputs, Made};

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
}
