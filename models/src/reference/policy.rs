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
        Policy::LeastRead => Decision::Goes(first_least((0..new).map(|i| mean_gate(blocks, i)), Of::Least)),
        Policy::Thin => {
            let span = |i: usize| (checkpoints[i + 1].end - checkpoints[i - 1].end) as f64;
            Decision::Goes(if new == 1 { 0 } else { 1 + first_least((1..new).map(span), Of::Least) })
        }
        Policy::Merge => Decision::Unites(first_least(pairs.map(|i| loss(blocks, i)), Of::Least)),
        Policy::Novel => Decision::Goes(first_least((0..=new).map(|i| -likeness(blocks, i)), Of::One)),
        Policy::Logarithmic => {
            let now = checkpoints[new].end;
            let part = |i: usize| part(&checkpoints[i], &checkpoints[i + 1], now);
            Decision::Unites(first_least(pairs.map(part), Of::Least))
        }
    }
}

/// What numbers that are equal but for their rounding differ by, in parts of [`ROUNDING`].
#[derive(Clone, Copy)]
enum Of {
    /// Of the least itself: a mean gate may be as small as it likes.
    Least,
    /// Of 1: sums of cosines cancel, and round like what they are sums of.
    One,
}

const ROUNDING: f64 = 1e-9;

/// The position of the least number, the first of those that differ from it by rounding alone.
fn first_least(values: impl Iterator<Item = f64>, rounding: Of) -> usize {
    let values: Vec<f64> = values.collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let unit = if let Of::One = rounding { 1.0 } else { least.abs() };
    values.iter().position(|&value| value <= least + ROUNDING * unit).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_are_told_apart_and_roundings_are_not() {
        let first = |values: [f64; 3], rounding| first_least(values.into_iter(), rounding);
        assert_eq!(first([3e-12, 1e-12, 2e-12], Of::Least), 1);
        assert_eq!(first([0.5, 0.1 + 0.2, 0.3], Of::Least), 1);
        assert_eq!(first([1.0, 0.0, 0.0], Of::Least), 1);
        // Of two, each is as much like the other, whatever a cosine rounds to.
        assert_eq!(first([1.0, 1e-16, -1e-16], Of::One), 1);
        assert_eq!(first([1.0, 1e-8, -1e-8], Of::One), 2);
    }
}
