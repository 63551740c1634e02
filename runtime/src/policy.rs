//! Which checkpoint goes when the cache is full.

/// Which checkpoint goes when the cache is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// The oldest: the cache is a sliding window over the past's segments.
    #[default]
    Oldest,
}

impl Policy {
    /// The slot for the next checkpoint, `0..capacity`, after `pushed` of them.
    pub(crate) fn slot(self, pushed: u64, capacity: usize) -> usize {
        match self {
            // The remainder is below the capacity, so it fits.
            Policy::Oldest => (pushed % capacity as u64) as usize,
        }
    }
}
