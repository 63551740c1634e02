//! The past at distances that grow with age: half of the checkpoints for the last hour, half for all the days before.

use super::Decision;
use crate::cache::Slots;

/// Those two neighbours become one whose tokens together are the smallest part of the time since their beginning. The new
/// one is of `tokens` tokens up to `end`, which is now.
pub(super) fn decide(slots: &Slots, tokens: u64, end: u64) -> Decision {
    let spans = || slots.spans().chain([(tokens, end)]);
    let parts = spans().zip(spans().skip(1)).map(|((older, older_end), (younger, _))| {
        let age = end - (older_end - older);
        (u128::from(older + younger), u128::from(age))
    });
    // a / b < c / d is a · d < c · b: exact, so that equal parts are equal.
    let smallest = parts.enumerate().min_by(|(_, (a, b)), (_, (c, d))| (a * d).cmp(&(c * b)));
    Decision::Unites(smallest.map_or(0, |(position, _)| position))
}
