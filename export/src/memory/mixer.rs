//! The mixer around a memory: the norm and the projections before it, the output projection and the residual after it.

use mcedge_models::contract::Role;
use mcedge_models::spec::Norm;

use super::{Body, Inputs};
use crate::graph::{Graph, Value};

impl Body<'_> {
    /// What the memory takes, of what the function is given: all projections of the normed h are one product.
    pub(super) fn operands(&mut self, given: &Inputs) -> Inputs {
        let Some(mixer) = self.function.mixer else { return Inputs(given.0.clone()) };
        let (weight, bias) = (given.get(Role::NormWeight), given.get(Role::NormBias));
        let x = normed(&mut self.graph, mixer.norm, given.given(Role::H), weight, bias);
        let mut rows = self.graph.matmul(&x, given.given(Role::ProjectionWeight));
        if let Some(bias) = given.get(Role::ProjectionBias) {
            rows = self.graph.add(&rows, bias);
        }
        let projected = self.projected(rows);
        let operands = self.function.operands().into_iter().map(|role| {
            let own = projected.get(role).or_else(|| given.get(role));
            (role, own.unwrap_or_else(|| panic!("the function has no operand {role:?}")).clone())
        });
        Inputs(operands.collect())
    }

    /// The projections, side by side in `rows` `[B, T, C]`, each by its role.
    fn projected(&mut self, rows: Value) -> Inputs {
        let parts = self.function.projected();
        let name = |role| match role {
            Role::Coefficient(_) => format!("{}.logit", self.formal(role)),
            _ => self.formal(role),
        };
        let named: Vec<_> = parts.iter().map(|&(role, columns)| (name(role), columns)).collect();
        let values = match &named[..] {
            [(name, _)] => vec![self.graph.label(rows, name.clone())],
            _ => self.graph.split_each(&rows, &named),
        };
        let mut projected = Vec::new();
        for ((role, _), value) in parts.into_iter().zip(values) {
            let value = match role {
                Role::Coefficient(_) => {
                    let value = self.graph.sigmoid(&value);
                    let name = self.formal(role);
                    self.graph.label(value, name)
                }
                _ => value,
            };
            projected.push((role, value));
        }
        Inputs(projected)
    }

    /// What the function answers, for what the memory answers: y `[B, T, D]`.
    pub(super) fn mixed(&mut self, given: &Inputs, mut y: Value) -> Value {
        let Some(mixer) = self.function.mixer else { return y };
        if mixer.output {
            y = self.graph.matmul(&y, given.given(Role::OutputWeight));
        }
        if mixer.residual {
            y = self.graph.add(given.given(Role::H), &y);
        }
        if mixer.output || mixer.residual { self.graph.label(y, "output") } else { y }
    }
}

/// The norm of x over its last axis, with the norm's weight, and its bias where it has one.
pub fn normed(g: &mut Graph, norm: Norm, x: &Value, weight: Option<&Value>, bias: Option<&Value>) -> Value {
    let weight = || weight.expect("a norm has a weight");
    match norm {
        Norm::None => x.clone(),
        Norm::LayerNorm => g.layer_norm(x, weight(), bias.expect("a layer norm has a bias"), norm.epsilon()),
        Norm::RmsNorm => {
            let square = g.mul(x, x);
            let mean = g.mean_last(&square);
            let epsilon = g.scalar(norm.epsilon());
            let mean = g.add(&mean, &epsilon);
            let root = g.sqrt(&mean);
            let x = g.div(x, &root);
            g.mul(&x, weight())
        }
    }
}
