//! What a policy does at a segment's end when the cache is full: its decision, from what is known of the live checkpoints
//! and the new one. [`Policy`] says it in words.
//!
//! A checkpoint's position is its place in the order of age, from 0, the oldest; the new one's is the number of live ones.

use mcedge_models::Policy;

use crate::backend::Buffer;
use crate::cache::{Contents, Slots};

mod least_read;
mod logarithmic;
mod merge;
mod novel;
mod oldest;
mod thin;

/// What makes room for the new checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The one at this position goes; where that is the new one, it is not kept.
    Goes(usize),
    /// The one at this position and the next become one; the next may be the new one.
    Unites(usize),
}

/// Room for what the policies compute with, that deciding allocates nothing. What is in it means nothing between calls.
pub(crate) struct Scratch {
    /// Each of a cache tensor's longest row.
    rows: [Box<[f32]>; 2],
    /// As long.
    sum: Box<[f64]>,
    /// One a position, the new one's included.
    scores: Box<[f64]>,
}

impl Scratch {
    /// For `slots` checkpoints, whose longest row has so many values.
    pub(crate) fn new(slots: usize, longest_row: usize) -> Self {
        Self {
            rows: [vec![0.0; longest_row].into(), vec![0.0; longest_row].into()],
            sum: vec![0.0; longest_row].into(),
            scores: vec![0.0; slots + 1].into(),
        }
    }

    /// Bytes of its elements.
    pub(crate) fn bytes(slots: usize, longest_row: usize) -> usize {
        longest_row * (2 * size_of::<f32>() + size_of::<f64>()) + (slots + 1) * size_of::<f64>()
    }

    /// Room for a row.
    pub(crate) fn row(&mut self) -> &mut [f32] {
        &mut self.rows[0]
    }
}

/// What the policy does, when there is no room beside the live checkpoints, of which there is one at least.
pub(crate) fn decide<T: Buffer>(
    policy: Policy,
    slots: &mut Slots,
    contents: Contents<'_, T>,
    scratch: &mut Scratch,
) -> Decision {
    let new = contents.new;
    match policy {
        Policy::Oldest => oldest::decide(),
        Policy::LeastRead => least_read::decide(slots),
        Policy::Thin => thin::decide(slots, new.end),
        Policy::Merge => merge::decide(slots, contents, scratch),
        Policy::Novel => novel::decide(slots, contents, scratch),
        Policy::Logarithmic => logarithmic::decide(slots, new.tokens, new.end),
    }
}

/// The position of the least, the first of several.
fn least(values: impl Iterator<Item = f64>) -> usize {
    let least = values.enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b));
    least.map_or(0, |(position, _)| position)
}

/// Σ term(a_i, b_i) of two vectors as long. Several sums go side by side, which a processor adds at once.
fn sum<A: Copy, B: Copy>(a: &[A], b: &[B], term: impl Fn(A, B) -> f64) -> f64 {
    const LANES: usize = 8;
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        (0..LANES).for_each(|lane| sums[lane] += term(a[lane], b[lane]));
    }
    for (sum, (&a, &b)) in sums.iter_mut().zip(rest_a.iter().zip(rest_b)) {
        *sum += term(a, b);
    }
    sums.iter().sum()
}
