//! The gated delta rule: M ← α M (I − β k kᵀ) + β v kᵀ, which is α M + β (v − α M k) kᵀ.

use mcedge_models::contract::Role;

use super::{Body, Inputs, Token, Written};

impl Body<'_> {
    /// M `[B, H, dh, dh]` after the token; without `correction`, α M + β v kᵀ.
    pub(super) fn write_delta(&mut self, correction: bool, inputs: &Inputs, token: &Token) -> Written {
        let (k, v) = token.pair();
        let [alpha, beta] = &token.coefficients[..] else { unreachable!("gated_delta has two") };
        let m = inputs.given(Role::State(0));
        let (mut added, mut loss) = (v.clone(), None);
        if correction || self.function.has_loss() {
            let answer = self.graph.matmul(m, k); // [B, H, dh, 1]
            let answer = self.graph.label(answer, "answer");
            if self.function.has_loss() {
                let error = self.graph.sub(&answer, v);
                loss = self.square_loss(&error);
            }
            if correction {
                let kept = self.times(&answer, alpha);
                added = self.graph.sub(v, &kept);
            }
        }
        let kept = self.times(m, alpha);
        let added = self.times(&added, beta);
        let outer = self.outer(&added, k);
        let m = self.graph.add(&kept, &outer);
        Written { tensors: vec![self.graph.label(m, "present.m")], loss }
    }
}
