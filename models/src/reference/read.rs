//! Reads of the checkpoints and the online memory as one: DESIGN.md section 3, **Read**.
//!
//! `memories` are the live checkpoints, oldest first, and the online memory last.

use ndarray::{Axis, concatenate, s};

use super::checkpoint::Checkpoint;
use super::math::{Matrix, Vector, sigmoid, softmax};
use super::memory::{HeadState, State};
use crate::spec::{Aggregation, Caching, Memory};

/// The read of one head, `[dh]`, with the weight of every memory in it.
pub fn head(
    memory: &Memory,
    caching: &Caching,
    memories: &[&Checkpoint],
    head: usize,
    q: &Vector,
    weights: &[f64],
) -> Vector {
    // What has no weight is not read: zero times infinity is not zero.
    let read: Vec<(f64, &State)> =
        weights.iter().zip(memories).filter(|(w, _)| **w != 0.0).map(|(&w, m)| (w, &m.state)).collect();
    if caching.aggregation == Aggregation::Soup
        && let Some(states) = heads(&read, head)
    {
        return HeadState::soup(memory, &states).read(memory, q);
    }
    let mut y = Vector::zeros(q.len());
    for (weight, state) in read {
        y.scaled_add(weight, &read_one(memory, state, head, q));
    }
    y
}

/// The weight of every memory in one head's read: `[n + 1]`, 0 for what is not read.
///
/// `score` is u, or q under `query: q`.
pub fn weights(caching: &Caching, memories: &[&Checkpoint], head: usize, score: &Vector) -> Vec<f64> {
    let n = memories.len();
    // s = ⟨u, c⟩ / temperature.
    let scores = || -> Vec<f64> {
        let product = |m: &&Checkpoint| score.dot(&m.context(caching.context, head));
        memories.iter().map(|m| product(m) / f64::from(caching.temperature)).collect()
    };
    match caching.aggregation {
        Aggregation::None => [vec![0.0; n - 1], vec![1.0]].concat(),
        Aggregation::Residual => vec![1.0; n],
        Aggregation::Mean => vec![1.0 / n as f64; n],
        Aggregation::Grm | Aggregation::Soup => softmax(&scores()),
        Aggregation::Ssc => softmax(&selected(caching, scores())),
        Aggregation::Sigmoid => unreachable!("sigmoid weighs channels, not heads"),
    }
}

/// The scores of the `top_k` best-scored checkpoints, all when there are fewer, and of the online memory; −∞ for others.
fn selected(caching: &Caching, mut scores: Vec<f64>) -> Vec<f64> {
    let mut worst_last: Vec<usize> = (0..scores.len() - 1).collect();
    worst_last.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    for &dropped in worst_last.iter().skip(caching.top_k.unwrap_or(usize::MAX)) {
        scores[dropped] = f64::NEG_INFINITY;
    }
    scores
}

/// σ(W_g [h; h_i] + b_g) of every checkpoint, `[n]` of `[D]`, and ones for the online memory.
pub fn channel_gates(memories: &[&Checkpoint], weight: &Matrix, bias: &Vector) -> Vec<Vector> {
    let (online, checkpoints) = memories.split_last().expect("the online memory is always there");
    let h = hidden(&online.state);
    let gate = |checkpoint: &&Checkpoint| {
        let both = concatenate![Axis(0), h.view(), hidden(&checkpoint.state).view()];
        (weight.dot(&both) + bias).mapv(sigmoid)
    };
    checkpoints.iter().map(gate).chain([Vector::ones(h.len())]).collect()
}

/// h + Σ gate ⊙ h_i, `[D]`.
pub fn gated_channels(memories: &[&Checkpoint], gates: &[Vector]) -> Vector {
    let mut y = Vector::zeros(gates[0].len());
    for (gate, memory) in gates.iter().zip(memories) {
        y += &(gate * hidden(&memory.state));
    }
    y
}

fn hidden(state: &State) -> &Vector {
    match state {
        State::Cell { h, .. } => h,
        State::Heads(_) => unreachable!("sigmoid reads gru and lstm"),
    }
}

/// One head's states; `None` for cells, whose parameters are their h and whose read is h: their soup is the sum.
fn heads<'a>(weighed: &[(f64, &'a State)], head: usize) -> Option<Vec<(f64, &'a HeadState)>> {
    let of = |&(weight, state): &(f64, &'a State)| match state {
        State::Heads(heads) => Some((weight, &heads[head])),
        State::Cell { .. } => None,
    };
    weighed.iter().map(of).collect()
}

fn read_one(memory: &Memory, state: &State, head: usize, q: &Vector) -> Vector {
    let dh = q.len();
    match state {
        State::Heads(heads) => heads[head].read(memory, q),
        State::Cell { h, .. } => h.slice(s![head * dh..(head + 1) * dh]).to_owned(),
    }
}
