//! What keeps a model from becoming a bundle, and what is said about one that does.

use std::path::PathBuf;

use mcedge_models::contract::ContractError;
use mcedge_models::reference::ReferenceError;
use mcedge_models::spec::{Aggregation, SpecError};
use mcedge_models::{GoldenError, WeightsError};

/// Why a model is not exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option that cannot be.
    #[error("{option} is {found}, expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// The value given.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A cache after training for a model that has one.
    #[error(
        "blocks[{block}].caching.aggregation is {aggregation:?}, expected None: the model caches already"
    )]
    AlreadyCached {
        /// Index of the block.
        block: usize,
        /// How it reads checkpoints.
        aggregation: Aggregation,
    },
    /// A cache after training for a model whose blocks have no checkpoints.
    #[error("every block's memory is attention, expected one that has checkpoints")]
    NothingToCache,
    /// The spec is none.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The weights are not this spec's.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The graph's tensors are past what a contract may declare: a smaller capacity does.
    #[error(transparent)]
    Contract(#[from] ContractError),
    /// The reference does not run the model.
    #[error("cannot make the golden run")]
    Reference(#[from] ReferenceError),
    /// The golden run has nothing to record: its first output is no number.
    #[error("the golden run: the model's first output is {found}, expected finite numbers")]
    Diverges {
        /// NaN, inf or -inf.
        found: f32,
    },
    /// The golden run cannot be written.
    #[error("cannot write golden.safetensors")]
    Golden(#[from] GoldenError),
    /// The initial state cannot be written.
    #[error("initial_state.safetensors: {0}")]
    InitialState(safetensors::SafeTensorError),
    /// Writing would destroy what is no bundle.
    #[error("{path} holds `{found}`, expected a bundle, an empty directory or nothing")]
    NotABundle {
        /// Where the bundle was to go.
        path: PathBuf,
        /// An entry of the directory that no bundle has.
        found: String,
    },
    /// A file or directory that cannot be written.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Something to know about a model that is exported all the same.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// `sign: paper` climbs the loss that it is meant to descend.
    #[error(
        "blocks[{block}].memory.sign is \"paper\": its writes climb the loss; keep it only for weights trained so"
    )]
    ClimbsLoss {
        /// Index of the block.
        block: usize,
    },
    /// An f16 cache of sums: a long stream's are past its range.
    #[error(
        "blocks[{block}]: merged segments add up, and an f16 cache holds no more than 65504: a long stream saturates it; i8 and f32 do not"
    )]
    Saturates {
        /// Index of the block.
        block: usize,
    },
    /// The golden run ends early: from there on the model amplifies roundings, or its activations pass 1e6.
    #[error(
        "the golden run ends after {tokens} tokens: from there on the model diverges, or rounding alone moves it"
    )]
    Unstable {
        /// Tokens of the golden run.
        tokens: usize,
    },
    /// The golden run is not long enough to replace a checkpoint.
    #[error("the golden run of {tokens} tokens does not overflow the cache, which takes {needed} tokens")]
    GoldenTooShort {
        /// Tokens of the golden run.
        tokens: usize,
        /// Tokens until a checkpoint is replaced.
        needed: usize,
    },
}
