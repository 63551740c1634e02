//! What a policy does at a segment's end.

use mcedge_models::Policy;

use crate::cache::Slots;

/// The age of the checkpoint that goes, a position in [`Slots::by_age`], of which there is one at least.
pub(crate) fn victim(policy: Policy, _slots: &Slots) -> usize {
    match policy {
        Policy::Oldest => 0,
        other => unreachable!("{other} is refused by Engine::new"),
    }
}
