//! Reads of the checkpoints and the online memory as one: DESIGN.md section 3, **Read**.

use ndarray::{concatenate, s};

use super::checkpoint::Checkpoint;
use super::math::{Matrix, Vector, sigmoid, softmax};
use super::memory::{HeadState, State};
use crate::spec::{Aggregation, Caching, Memory};

/// The read of one head over `memories`, the live checkpoints and the online memory last.
///
/// `score` is u, or q under `query: q`.
pub fn head(
    memory: &Memory,
    caching: &Caching,
    memories: &[&Checkpoint],
    head: usize,
    q: &Vector,
    score: &Vector,
) -> Vector {
    let read = |checkpoint: &Checkpoint| read_one(memory, &checkpoint.state, head, q);
    let sum = |gated: &[(f64, &Checkpoint)]| {
        let mut y = Vector::zeros(q.len());
        gated.iter().for_each(|(gate, checkpoint)| y.scaled_add(*gate, &read(checkpoint)));
        y
    };
    let online = memories.len() - 1;
    match caching.aggregation {
        Aggregation::None => read(memories[online]),
        Aggregation::Residual => sum(&memories.iter().map(|&m| (1.0, m)).collect::<Vec<_>>()),
        Aggregation::Mean => {
            sum(&memories.iter().map(|&m| (1.0 / memories.len() as f64, m)).collect::<Vec<_>>())
        }
        Aggregation::Grm => sum(&gates(caching, memories, head, score)),
        Aggregation::Ssc => sum(&gates(caching, &select(caching, memories, head, score), head, score)),
        Aggregation::Soup => {
            let gated = gates(caching, memories, head, score);
            let mut states = Vec::new();
            for (gate, checkpoint) in &gated {
                match &checkpoint.state {
                    State::Heads(heads) => states.push((*gate, &heads[head])),
                    // A cell's parameters are its h, and its read is h: the soup is the sum.
                    State::Cell { .. } => return sum(&gated),
                }
            }
            HeadState::soup(memory, &states).read(memory, q)
        }
        Aggregation::Sigmoid => unreachable!("sigmoid reads the block, not a head"),
    }
}

/// h + Σ σ(W_g [h; h_i] + b_g) ⊙ h_i, `[D]`.
pub fn sigmoid_gated(memories: &[&Checkpoint], weight: &Matrix, bias: &Vector) -> Vector {
    let hidden = |checkpoint: &Checkpoint| match &checkpoint.state {
        State::Cell { h, .. } => h.clone(),
        State::Heads(_) => unreachable!("sigmoid reads gru and lstm"),
    };
    let online = memories.len() - 1;
    let h = hidden(memories[online]);
    let mut y = h.clone();
    for checkpoint in &memories[..online] {
        let h_i = hidden(checkpoint);
        let both = concatenate![ndarray::Axis(0), h, h_i];
        let gate = (weight.dot(&both) + bias).mapv(sigmoid);
        y += &(gate * h_i);
    }
    y
}

fn read_one(memory: &Memory, state: &State, head: usize, q: &Vector) -> Vector {
    let dh = q.len();
    match state {
        State::Heads(heads) => heads[head].read(memory, q),
        State::Cell { h, .. } => h.slice(s![head * dh..(head + 1) * dh]).to_owned(),
    }
}

/// s = ⟨u, c⟩ / temperature.
fn score_of(caching: &Caching, checkpoint: &Checkpoint, head: usize, score: &Vector) -> f64 {
    score.dot(&checkpoint.context(caching.context, head)) / f64::from(caching.temperature)
}

fn gates<'a>(
    caching: &Caching,
    memories: &[&'a Checkpoint],
    head: usize,
    score: &Vector,
) -> Vec<(f64, &'a Checkpoint)> {
    let scores: Vec<f64> = memories.iter().map(|m| score_of(caching, m, head, score)).collect();
    softmax(&scores).into_iter().zip(memories.iter().copied()).collect()
}

/// The `top_k` best-scored checkpoints, all when there are fewer, and the online memory.
fn select<'a>(
    caching: &Caching,
    memories: &[&'a Checkpoint],
    head: usize,
    score: &Vector,
) -> Vec<&'a Checkpoint> {
    let (online, cached) = memories.split_last().expect("the online memory is always there");
    let mut best = cached.to_vec();
    best.sort_by(|a, b| {
        let [a, b] = [a, b].map(|m| score_of(caching, m, head, score));
        b.total_cmp(&a)
    });
    best.truncate(caching.top_k.unwrap_or(best.len()));
    best.push(online);
    best
}
