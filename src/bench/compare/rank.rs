//! The rank test of Mann and Whitney, exact: of all ways to deal the rounds to two sides, how many set these as far apart.

/// The most rounds of a side that are dealt; of more, as many are taken evenly.
const MOST: usize = 30;

/// The part of all ways to deal `before` and `after` anew in which the sides' ranks lie as far apart as they do, or farther.
/// None where a side has no rounds, or one that is no number.
///
/// That is how often the two would look as different if nothing but noise set them apart.
pub fn chance(before: &[f64], after: &[f64]) -> Option<f64> {
    let is_number = before.iter().chain(after).all(|median| median.is_finite());
    if before.is_empty() || after.is_empty() || !is_number {
        return None;
    }
    let (before, after) = (thinned(before), thinned(after));
    let ranks = ranks(&[before.as_slice(), &after].concat());
    let sum: usize = ranks[..before.len()].iter().sum();
    // Of all ranks, the part that falls to a side of its size on average. Doubled ranks add up to n (n + 1).
    let middle = before.len() * (ranks.len() + 1);
    let ways = ways(&ranks, before.len());
    let total: f64 = ways.iter().sum();
    let is_far = |other: &usize| other.abs_diff(middle) >= sum.abs_diff(middle);
    let far: f64 = (0..ways.len()).filter(is_far).map(|sum| ways[sum]).sum();
    Some(far / total)
}

/// The least [`chance`] that `before` and `after` rounds can have: when each side is all on one end. 1 when a side has none.
pub fn least(before: usize, after: usize) -> f64 {
    let (before, after) = (before.min(MOST), after.min(MOST));
    if before == 0 || after == 0 {
        return 1.0;
    }
    let deals: f64 = (1..=before).map(|i| (after + i) as f64 / i as f64).product();
    (2.0 / deals).min(1.0)
}

/// At most [`MOST`] of them, evenly.
fn thinned(medians: &[f64]) -> Vec<f64> {
    let count = medians.len().min(MOST);
    (0..count).map(|i| medians[i * medians.len() / count]).collect()
}

/// Twice each one's rank, from 2; equals share the mean of theirs.
fn ranks(medians: &[f64]) -> Vec<usize> {
    let below = |median: &f64| medians.iter().filter(|other| *other < median).count();
    let not_above = |median: &f64| medians.iter().filter(|other| *other <= median).count();
    medians.iter().map(|median| below(median) + 1 + not_above(median)).collect()
}

/// In how many ways `count` of the ranks add up to each sum.
fn ways(ranks: &[usize], count: usize) -> Vec<f64> {
    let sums: usize = ranks.iter().sum::<usize>() + 1;
    // [ranks taken, sum]
    let mut ways = vec![vec![0.0; sums]; count + 1];
    ways[0][0] = 1.0;
    for &rank in ranks {
        for taken in (1..=count).rev() {
            let (fewer, more) = ways.split_at_mut(taken);
            for sum in rank..sums {
                more[0][sum] += fewer[taken - 1][sum - rank];
            }
        }
    }
    ways.swap_remove(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every deal, one by one.
    fn chance_by_dealing(before: &[f64], after: &[f64]) -> f64 {
        let all: Vec<f64> = [before, after].concat();
        let mean_rank = |x: &f64| {
            let below = all.iter().filter(|y| *y < x).count() as f64;
            below + (all.iter().filter(|y| *y == x).count() as f64 + 1.0) / 2.0
        };
        let middle = before.len() as f64 * (all.len() as f64 + 1.0) / 2.0;
        let far = |mask: u32| {
            let dealt = (0..all.len()).filter(|i| mask >> i & 1 == 1);
            (dealt.map(|i| mean_rank(&all[i])).sum::<f64>() - middle).abs()
        };
        let found = far((1 << before.len()) - 1);
        let deals: Vec<u32> =
            (0..1u32 << all.len()).filter(|mask| mask.count_ones() as usize == before.len()).collect();
        deals.iter().filter(|mask| far(**mask) >= found - 1e-9).count() as f64 / deals.len() as f64
    }

    #[test]
    fn the_chance_is_that_of_all_deals() {
        let cases: [(&[f64], &[f64]); 8] = [
            (&[1.0, 2.0, 3.0, 4.0, 5.0], &[6.0, 7.0, 8.0, 9.0, 10.0]),
            (&[1.0, 2.0, 3.0, 4.0, 6.0], &[5.0, 7.0, 8.0, 9.0, 10.0]),
            (&[6.0, 7.0, 8.0, 9.0, 5.5], &[1.0, 2.0, 5.5, 4.0, 5.0]),
            (&[1.0, 1.0, 1.0, 2.0], &[1.0, 2.0, 2.0, 2.0, 3.0]),
            (&[1.0, 1.0], &[1.0, 1.0, 1.0]),
            (&[1.0], &[2.0]),
            (&[3.0, 3.0, 1.0, 4.0, 1.0, 5.0, 9.0], &[2.0, 6.0, 5.0, 3.0, 5.0]),
            (&[1.0, 2.0, 3.0], &[2.5, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
        ];
        for (before, after) in cases {
            let (found, expected) = (chance(before, after).unwrap(), chance_by_dealing(before, after));
            assert!((found - expected).abs() < 1e-12, "{before:?} {after:?}: {found} {expected}");
            assert!(found >= least(before.len(), after.len()) - 1e-12);
            assert_eq!(chance(after, before), Some(found));
        }
        assert!((chance(cases[0].0, cases[0].1).unwrap() - least(5, 5)).abs() < 1e-12);
        assert!((least(5, 5) - 2.0 / 252.0).abs() < 1e-12);
    }

    #[test]
    fn many_rounds_are_thinned_and_none_are_none() {
        let many = |from: f64| (0..1000).map(|i| from + f64::from(i) * 1e-6).collect::<Vec<_>>();
        let apart = chance(&many(1.0), &many(2.0)).unwrap();
        assert!(apart > 0.0 && (apart / least(1000, 1000) - 1.0).abs() < 1e-6, "{apart}");
        assert!(chance(&many(1.0), &many(1.0)).unwrap() > 0.9);
        assert_eq!((chance(&[], &[1.0]), chance(&[1.0], &[f64::NAN]), least(0, 5)), (None, None, 1.0));
    }
}
