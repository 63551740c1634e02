//! Answers by distance: how far back the token that asks was last seen.

use std::collections::HashMap;

use super::input::{Sequence, Values};

/// How many of the answers were right, by the distance of t to the last earlier place of its token: from 2ⁱ to 2ⁱ⁺¹ − 1
/// tokens each, and those whose token was not seen before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Distances {
    /// By i.
    powers: Vec<Tally>,
    first: Tally,
}

/// Answers, and those of them that were right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub answers: usize,
    pub right: usize,
}

/// One line of [`Distances`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The least and the largest distance; none where the token was new.
    pub distance: Option<(usize, usize)>,
    pub tally: Tally,
}

impl Distances {
    /// Takes an answer to a token that was last seen `distance` tokens ago.
    pub fn add(&mut self, distance: Option<usize>, is_right: bool) {
        let tally = match distance.and_then(usize::checked_ilog2) {
            Some(power) => {
                let power = power as usize;
                let powers = self.powers.len().max(power + 1);
                self.powers.resize(powers, Tally::default());
                &mut self.powers[power]
            }
            None => &mut self.first,
        };
        tally.answers += 1;
        tally.right += usize::from(is_right);
    }

    /// Those that have answers, near ones first.
    pub fn buckets(&self) -> impl Iterator<Item = Bucket> {
        let powers = self.powers.iter().enumerate();
        let near = powers.map(|(i, &tally)| Bucket { distance: Some((1 << i, (2 << i) - 1)), tally });
        let new = Bucket { distance: None, tally: self.first };
        near.chain([new]).filter(|bucket| bucket.tally.answers > 0)
    }
}

impl Tally {
    /// The part that was right.
    pub fn accuracy(self) -> f64 {
        self.right as f64 / self.answers as f64
    }
}

/// How long ago each token of a sequence was last seen, `[T]`; none of those that are new. Empty without answers.
pub fn last_seen(sequence: &Sequence) -> Vec<Option<usize>> {
    let Values::Tokens(tokens) = &sequence.values else { return Vec::new() };
    if sequence.answers.is_empty() {
        return Vec::new();
    }
    let mut last = HashMap::new();
    let seen = tokens.iter().enumerate();
    seen.map(|(at, token)| last.insert(token, at).map(|before| at - before)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_is_to_the_last_place_of_the_same_token() {
        let sequence = |answers| Sequence { values: Values::Tokens(vec![5, 6, 5, 5, 7, 6]), answers };
        let seen = last_seen(&sequence(vec![None; 6]));
        assert_eq!(seen, [None, None, Some(2), Some(1), None, Some(4)]);
        assert_eq!(last_seen(&sequence(vec![])), []);
    }

    #[test]
    fn buckets_are_powers_of_two() {
        let mut distances = Distances::default();
        for (distance, is_right) in
            [(Some(1), true), (Some(4), true), (Some(7), false), (None, true), (Some(8), false)]
        {
            distances.add(distance, is_right);
        }
        let found: Vec<_> =
            distances.buckets().map(|b| (b.distance, b.tally.answers, b.tally.right)).collect();
        let expected = [(Some((1, 1)), 1, 1), (Some((4, 7)), 2, 1), (Some((8, 15)), 1, 0), (None, 1, 1)];
        assert_eq!(found, expected);
    }
}
