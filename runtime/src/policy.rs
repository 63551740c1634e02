//! Which checkpoint goes when the cache is full.

use crate::cache::Slots;

/// Which checkpoint goes when the cache is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// The oldest: the cache is a sliding window over the past's segments.
    #[default]
    Oldest,
}

impl Policy {
    /// The age of the checkpoint that goes, a position in [`Slots::by_age`], of which there is one at least.
    pub(crate) fn victim(self, _slots: &Slots) -> usize {
        match self {
            Policy::Oldest => 0,
        }
    }
}
