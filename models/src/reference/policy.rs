//! What makes room when bounded caches have one checkpoint too many: [`Policy`]'s words, as loops over lists.

use super::block::Block;
use super::checkpoint::Checkpoint;
use super::math::Vector;
use crate::policy::Policy;

/// What every block does with its checkpoints, of which the last is the new one.
#[derive(Clone, Copy)]
pub enum Decision {
    /// Lets the one at this position go.
    Goes(usize),
    /// Makes one of the one at this position and the next.
    Unites(usize),
}

/// The decision for `blocks`, which have as many checkpoints, two or more, made at the same times.
pub fn decide(policy: Policy, blocks: &[&Block<'_>]) -> Decision {
    let checkpoints = blocks[0].checkpoints().live();
    let new = checkpoints.len() - 1;
    let pairs = 0..new;
    match policy {
        Policy::Oldest => Decision::Goes(0),
        Policy::LeastRead => Decision::Goes(first_least((0..new).map(|i| mean_gate(blocks, i)))),
        Policy::Thin => {
            let span = |i: usize| (checkpoints[i + 1].end - checkpoints[i - 1].end) as f64;
            Decision::Goes(if new == 1 { 0 } else { 1 + first_least((1..new).map(span)) })
        }
        Policy::Merge => Decision::Unites(first_least(pairs.map(|i| loss(blocks, i)))),
        Policy::Novel => Decision::Goes(first_least((0..=new).map(|i| -likeness(blocks, i)))),
        Policy::Logarithmic => {
            let now = checkpoints[new].end;
            Decision::Unites(first_least(pairs.map(|i| part(&checkpoints[i], &checkpoints[i + 1], now))))
        }
    }
}

/// The position of the least number, the first of those that are within 10⁻⁹ of it: that is rounding.
fn first_least(values: impl Iterator<Item = f64>) -> usize {
    let values: Vec<f64> = values.collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    values.iter().position(|&value| value <= least + 1e-9).unwrap_or_default()
}

/// The mean gate of checkpoint i, over all blocks.
fn mean_gate(blocks: &[&Block<'_>], i: usize) -> f64 {
    let read = |block: &&Block<'_>| block.checkpoints().live()[i].read;
    blocks.iter().map(|block| read(block).mass).sum::<f64>() / read(&blocks[0]).weight
}

/// The part of the time since its beginning that a merged checkpoint stands for.
fn part(older: &Checkpoint, younger: &Checkpoint, now: usize) -> f64 {
    let beginning = older.end - older.tokens;
    (older.tokens + younger.tokens) as f64 / (now - beginning) as f64
}

/// How far checkpoint i is from the next, over all blocks and all that a cache keeps.
fn loss(blocks: &[&Block<'_>], i: usize) -> f64 {
    let mut loss = 0.0;
    for block in blocks {
        let live = block.checkpoints().live();
        for (a, b) in block.kept(&live[i]).iter().zip(block.kept(&live[i + 1])) {
            let norms = a.dot(a) + b.dot(&b);
            let difference = a - &b;
            loss += if norms == 0.0 { 0.0 } else { difference.dot(&difference) / norms };
        }
    }
    loss
}

/// How much the contexts of checkpoint i are like those of all others.
fn likeness(blocks: &[&Block<'_>], i: usize) -> f64 {
    let mut likeness = 0.0;
    for block in blocks {
        let live = block.checkpoints().live();
        for (_, other) in live.iter().enumerate().filter(|(j, _)| *j != i) {
            let heads = block.contexts(&live[i]).into_iter().zip(block.contexts(other));
            likeness += heads.map(|(a, b)| cosine(&a, &b)).sum::<f64>();
        }
    }
    likeness
}

fn cosine(a: &Vector, b: &Vector) -> f64 {
    let lengths = a.dot(a).sqrt() * b.dot(b).sqrt();
    if lengths == 0.0 { 0.0 } else { a.dot(b) / lengths }
}
