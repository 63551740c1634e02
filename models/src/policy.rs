//! Which checkpoint goes when there is no room for another: the policies by name, and for which models each has a
//! meaning.

use std::fmt;
use std::str::FromStr;

use crate::spec::{Aggregation, Caching, Init, Memory};

/// Which checkpoint goes when there is no room for another.
///
/// A policy acts at a segment's end alone, when the cache is full and a new checkpoint has been made; it then looks at the
/// live ones, from the oldest to the youngest, and at the new one. All blocks do the same. Where two are alike to it, the
/// older goes, or the older two become one.
///
/// Of two checkpoints that become one, under `continue` the later state stands for both, under `restart` states of linear
/// memory add; contexts add, means weighted by their tokens. What is made of them lies where the later one did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The oldest: the cache is a sliding window over the past's segments.
    #[default]
    Oldest,
    /// The least read: that with the smallest mean gate, over heads, gated blocks and tokens since it was made. What was
    /// read long ago counts for less: by half after as many segments as the cache holds checkpoints. The new one, which
    /// nothing could read yet, stays.
    ///
    /// With every segment's end the sum of a checkpoint's gates becomes d times what it was and the gates of the segment's
    /// tokens, the number of its tokens alike, d = 2^(−1/slots); the mean is their ratio. Of two that become one, gates
    /// add, and the larger number of tokens stands.
    LeastRead,
    /// The one whose neighbours are closest in time, so that what is left covers the whole past evenly. A checkpoint lies
    /// at its segment's end. The first and the new one have one neighbour each, and stay (in a cache of one, the new one).
    ///
    /// In a cache of three or fewer there is too little choice for that: soon all but the youngest stay for ever.
    Thin,
    /// None: the two adjacent ones become one that lose least by it, those whose tensors are nearest to each other.
    ///
    /// The loss of a and b is Σ ‖a − b‖² / (‖a‖² + ‖b‖²) over the heads of all cached tensors, contexts included, without
    /// those where both are zero.
    Merge,
    /// The one most like the others, by the mean cosine of its contexts with theirs, over heads and gated blocks. It may
    /// be the new one. A context of length 0 is like no other; sums of cosines within 10⁻⁹ of each other are alike.
    Novel,
    /// None: as `Merge`, those two adjacent ones become one whose tokens together are the smallest part of the time since
    /// their beginning, so that checkpoints come to lie evenly on a logarithmic scale of age.
    Logarithmic,
}

/// A policy without a meaning for a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy `{policy}` has no meaning for this model: {reason}")]
pub struct PolicyError {
    /// The policy.
    pub policy: Policy,
    /// Why it has none.
    pub reason: &'static str,
}

impl Policy {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Policy::Oldest, Policy::LeastRead, Policy::Thin, Policy::Merge, Policy::Novel, Policy::Logarithmic];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Oldest => "oldest",
            Policy::LeastRead => "least-read",
            Policy::Thin => "thin",
            Policy::Merge => "merge",
            Policy::Novel => "novel",
            Policy::Logarithmic => "logarithmic",
        }
    }

    /// Whether it follows the gates, so that the graphs must have them.
    pub fn needs_gates(self) -> bool {
        self == Policy::LeastRead
    }

    /// Whether two checkpoints become one by it, in place of one that goes.
    pub fn merges(self) -> bool {
        matches!(self, Policy::Merge | Policy::Logarithmic)
    }

    /// Whether it has a meaning for a model whose blocks with a cache have these memories, read as these say, and whose
    /// segments start from `init`.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] with what stands in the way.
    pub fn check<'a>(
        self,
        init: Init,
        cached: impl IntoIterator<Item = (&'a Memory, &'a Caching)>,
    ) -> Result<(), PolicyError> {
        let (mut has_gates, mut has_contexts, mut adds, mut any) = (false, false, true, false);
        for (memory, caching) in cached {
            any = true;
            has_contexts |= caching.aggregation.is_gated();
            has_gates |= caching.aggregation.is_gated() || caching.aggregation == Aggregation::Sigmoid;
            adds &= matches!(memory, Memory::Linear { .. });
        }
        let reason = match self {
            _ if !any => return Ok(()),
            Policy::LeastRead if !has_gates => "no block weighs its checkpoints",
            Policy::Novel if !has_contexts => "no block has contexts: `grm`, `soup` and `ssc` have",
            Policy::Merge | Policy::Logarithmic if init == Init::Restart && !adds => {
                "it merges checkpoints, and of restarted segments only states of linear memory add"
            }
            _ => return Ok(()),
        };
        Err(PolicyError { policy: self, reason })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Policy::ALL.into_iter().find(|policy| policy.name() == name);
        found.ok_or_else(|| format!("{name:?} is none of {}", Policy::ALL.map(Policy::name).join(", ")))
    }
}
