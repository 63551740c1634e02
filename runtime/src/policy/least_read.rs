//! What is not read is not missed.

use super::{Decision, least};
use crate::cache::Slots;

/// The one goes whose gates were smallest on average; never the new one, which nothing could read yet.
pub(super) fn decide(slots: &Slots) -> Decision {
    Decision::Goes(least(slots.mean_gates()))
}
