//! The past at even distances, which grow as it does.

use super::Decision;
use crate::cache::Slots;

/// The one goes whose neighbours lie closest to each other: of those but the first and the new one, which lies at `end`.
/// In a cache of one it is the one that is there.
pub(super) fn decide(slots: &Slots, end: u64) -> Decision {
    let ends = || slots.spans().map(|(_, end)| end).chain([end]);
    let gaps = ends().zip(ends().skip(2)).map(|(before, after)| after - before);
    // `min_by_key` finds the first of several: the oldest.
    let closest = gaps.enumerate().min_by_key(|&(_, gap)| gap);
    Decision::Goes(closest.map_or(0, |(before, _)| before + 1))
}
