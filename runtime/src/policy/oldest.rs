//! A sliding window over the past's segments.

use super::Decision;

/// The oldest goes.
pub(super) fn decide() -> Decision {
    Decision::Goes(0)
}
