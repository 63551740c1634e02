//! A chunk of tokens, one after the other: the step's body in a `Scan`.

use mcedge_models::contract::{Lead, Role};

use super::{Body, Inputs, Made};
use crate::graph::{Graph, Value};

impl Body<'_> {
    /// The write and the read of each token of a chunk.
    pub(super) fn scan(&mut self, inputs: &Inputs) -> Made {
        let mut body = Body { graph: self.graph.body("token"), row: &[], ..*self };
        let roles = |carried: bool| {
            let own = |role: &Role| if carried { self.is_carried(*role) } else { self.is_token(*role) };
            inputs.0.iter().map(|(role, _)| *role).filter(own).collect::<Vec<Role>>()
        };
        let (carried, tokens) = (roles(true), roles(false));
        let formal = |role: Role, graph: &mut Graph| {
            let mut ty = inputs.given(role).ty.clone();
            if self.is_token(role) {
                ty.shape.remove(1);
            }
            (role, graph.input(self.formal(role), ty))
        };
        let mut inside: Vec<(Role, Value)> =
            carried.iter().chain(&tokens).map(|&role| formal(role, &mut body.graph)).collect();
        // The rest, weights and cache, is the same for every token: the body sees the function's own.
        let outside = inputs.0.iter().filter(|(role, _)| !self.is_carried(*role) && !self.is_token(*role));
        inside.extend(outside.cloned());
        let made = body.token(&Inputs(inside.clone()));
        let count = Inputs(inside).get(Role::SegmentLength).map(|length| {
            let one = body.graph.ints(&[1]);
            body.graph.add(length, &one)
        });
        let (names, last) = body.give(&carried, &made, count.as_ref());
        let given = |roles: &[Role]| roles.iter().map(|&role| inputs.given(role).clone()).collect::<Vec<_>>();
        let outputs = self.graph.scan(body.graph, &given(&carried), &given(&tokens), &names);
        self.after_scan(&outputs, last)
    }

    fn is_carried(&self, role: Role) -> bool {
        matches!(role, Role::State(_) | Role::SegmentLength)
    }

    fn is_token(&self, role: Role) -> bool {
        self.function.shape(role, self.layout.capacity).0 == Lead::Token
    }

    /// Makes outputs of what a token leaves for the next, then of what it gives; their names outside, and the index of
    /// the first that is kept of the last token alone.
    fn give(&mut self, carried: &[Role], made: &Made, count: Option<&Value>) -> (Vec<String>, usize) {
        let names = self.function.tensors().into_iter().map(|tensor| format!("present.{}", tensor.name));
        let names: Vec<String> = names.collect();
        let mut given = Vec::new();
        for &role in carried {
            match role {
                Role::State(index) => given.push((names[index].clone(), &made.tensors[index])),
                _ => given.extend(count.map(|count| ("segment.length.after".to_owned(), count))),
            }
        }
        given.push(("y".to_owned(), &made.y));
        given.extend(made.gates.iter().map(|gates| ("gates".to_owned(), gates)));
        given.extend(made.loss.iter().map(|loss| ("loss".to_owned(), loss)));
        let last = given.len();
        for (index, tensor) in
            self.function.tensors().iter().enumerate().filter(|(_, tensor)| !tensor.carried)
        {
            given.push((format!("tokens.{}", tensor.name), &made.tensors[index]));
        }
        given.iter().for_each(|(_, value)| self.graph.output(value));
        (given.into_iter().map(|(name, _)| name).collect(), last)
    }

    /// The outputs of the scan by their names; of those from `last` on, that of the last token.
    fn after_scan(&mut self, outputs: &[Value], last: usize) -> Made {
        let (outputs, stacked) = outputs.split_at(last);
        let named = |name: &str| outputs.iter().find(|value| value.name == name).cloned();
        let mut stacked = stacked.iter();
        let mut tensors = Vec::new();
        for tensor in self.function.tensors() {
            let name = format!("present.{}", tensor.name);
            tensors.push(match named(&name) {
                Some(value) => value,
                None => {
                    let all = stacked.next().expect("what is not carried is stacked");
                    let last = self.graph.last(all, 1, 1);
                    let value = self.graph.reshape(&last, &[&[self.heads], &tensor.shape[..]].concat());
                    self.graph.label(value, name)
                }
            });
        }
        Made {
            y: named("y").expect("every function has y"),
            tensors,
            gates: named("gates"),
            loss: named("loss"),
        }
    }
}
