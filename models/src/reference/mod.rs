//! The model as its equations say it, in f64: what every other path is held against.
//!
//! The equations are those of DESIGN.md section 3 (arXiv 2602.24281), each as the obvious loop over one stream, one
//! token and one head at a time. There is no ring, no fusion and no reuse of buffers: a checkpoint is a clone.

mod block;
mod checkpoint;
mod clock;
mod math;
mod memory;
mod model;
mod policy;
mod read;
mod source;

use ndarray::{Array2, ArrayView2};

use crate::policy::{Policy, PolicyError};
use crate::spec::{Aggregation, Block, Input, Segmentation, Spec};
use crate::weights::{Weights, collapses};

/// One stream of input from its start.
#[derive(Clone, Copy, Debug)]
pub enum Stream<'a> {
    /// `[T, F]`, in the channels' units.
    Features(ArrayView2<'a, f32>),
    /// `[T]`.
    Tokens(&'a [i64]),
}

impl Stream<'_> {
    /// T.
    fn tokens(&self) -> usize {
        match self {
            Stream::Features(samples) => samples.nrows(),
            Stream::Tokens(tokens) => tokens.len(),
        }
    }
}

/// The checkpoint cache of every block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cache {
    /// The most checkpoints; `None` for all.
    pub capacity: Option<usize>,
    /// What makes room when there is one too many.
    pub policy: Policy,
}

impl From<Option<usize>> for Cache {
    fn from(capacity: Option<usize>) -> Self {
        Cache { capacity, policy: Policy::default() }
    }
}

/// Why a stream has no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Features for a model of tokens, or the other way round.
    #[error("the input is {found}, the model takes {expected}")]
    Kind {
        /// What the stream holds.
        found: &'static str,
        /// What `input.kind` says.
        expected: &'static str,
    },
    /// Samples of another size.
    #[error("the input has {found} channels, the model takes {expected}")]
    Channels {
        /// Channels in the stream.
        found: usize,
        /// Channels of the model.
        expected: usize,
    },
    /// A token outside the vocabulary.
    #[error("token {found} at position {position} is outside the vocabulary, expected 0 to {}", vocab_size - 1)]
    Token {
        /// Where in the stream.
        position: usize,
        /// The token.
        found: i64,
        /// Tokens of the model are `0..vocab_size`.
        vocab_size: usize,
    },
    /// A policy without a meaning for the model.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Weights that were checked against another spec.
    #[error("the weights are not this spec's: `{name}` is missing or has another shape than {expected:?}")]
    Weights {
        /// The tensor.
        name: String,
        /// The shape that the spec implies.
        expected: Vec<usize>,
    },
}

/// Runs one stream from its start and returns `[T, O]`.
///
/// `cache` says how many checkpoints every block keeps, and what goes when there is one more. A block that
/// [`collapses`] keeps all: there the function of all checkpoints costs no more than that of none.
///
/// # Errors
///
/// [`ReferenceError`]: a stream of another kind or size than the model's, a token outside the vocabulary, weights
/// of another spec, or a policy without a meaning for the model.
pub fn run(
    spec: &Spec,
    weights: &Weights,
    input: Stream<'_>,
    cache: impl Into<Cache>,
) -> Result<Array2<f64>, ReferenceError> {
    Ok(trace(spec, weights, input, cache)?.output)
}

/// Who was read by one token in one block, `[H]` of `[n + 1]`: the weight of each live checkpoint, oldest first, and of
/// the online memory last.
pub type Gates = Vec<Vec<f64>>;

/// A run, and what happened on its way.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Trace {
    /// `[T, O]`.
    pub output: Array2<f64>,
    /// Tokens of each finished segment, in order.
    pub segments: Vec<usize>,
    /// `[T]`: what a segmentation by [surprise](Segmentation::Surprise) follows; empty under another.
    pub losses: Vec<f64>,
    /// `[blocks]` of `[T]`. Of `grm`, `soup` and `ssc` these are the softmax's weights, 0 for a checkpoint that `ssc` does
    /// not read; of `sigmoid`, whose gates have a channel each, their mean over a head's channels, and 1 for the online
    /// memory. A block of another aggregation has an empty list.
    pub gates: Vec<Vec<Gates>>,
}

/// Runs one stream as [`run`] does, and says what was read, and where segments ended and why.
///
/// # Errors
///
/// As [`run`].
pub fn trace(
    spec: &Spec,
    weights: &Weights,
    input: Stream<'_>,
    cache: impl Into<Cache>,
) -> Result<Trace, ReferenceError> {
    let cache = cache.into();
    check(spec, input)?;
    check_policy(spec, weights, cache)?;
    let mut model = model::Model::new(spec, weights, cache)?;
    let output = Array2::zeros((input.tokens(), spec.head.size()));
    let gates = vec![Vec::new(); spec.blocks.len()];
    let mut trace = Trace { output, segments: Vec::new(), losses: Vec::new(), gates };
    let follows_loss = matches!(spec.segmentation(), Segmentation::Surprise { .. });
    for t in 0..input.tokens() {
        let x = match input {
            Stream::Features(samples) => model.embed_sample(samples.row(t)),
            Stream::Tokens(tokens) => model.embed_token(tokens[t] as usize),
        };
        let step = model.step(x);
        trace.output.row_mut(t).assign(&step.output);
        trace.segments.extend(step.segment);
        trace.losses.extend(follows_loss.then_some(step.loss));
        for (all, gates) in trace.gates.iter_mut().zip(step.gates) {
            all.extend((!gates.is_empty()).then_some(gates));
        }
    }
    Ok(trace)
}

/// Whether the policy has a meaning for the blocks whose caches are bounded.
fn check_policy(spec: &Spec, weights: &Weights, cache: Cache) -> Result<(), ReferenceError> {
    let is_bounded = |(i, block): &(usize, &Block)| {
        block.caching.aggregation != Aggregation::None && !collapses(spec, weights, *i)
    };
    let bounded = spec.blocks.iter().enumerate().filter(is_bounded);
    if cache.capacity.is_some() {
        cache.policy.check(spec.init(), bounded.map(|(_, block)| (&block.memory, &block.caching)))?;
    }
    Ok(())
}

fn check(spec: &Spec, input: Stream<'_>) -> Result<(), ReferenceError> {
    match (input, &spec.input) {
        (Stream::Features(samples), Input::Features { size, .. }) => match samples.ncols() {
            found if found == *size => Ok(()),
            found => Err(ReferenceError::Channels { found, expected: *size }),
        },
        (Stream::Tokens(tokens), &Input::Tokens { vocab_size }) => {
            let known = |token: i64| usize::try_from(token).is_ok_and(|token| token < vocab_size);
            match tokens.iter().position(|&token| !known(token)) {
                Some(position) => {
                    Err(ReferenceError::Token { position, found: tokens[position], vocab_size })
                }
                None => Ok(()),
            }
        }
        (Stream::Features(_), Input::Tokens { .. }) => {
            Err(ReferenceError::Kind { found: "features", expected: "tokens" })
        }
        (Stream::Tokens(_), Input::Features { .. }) => {
            Err(ReferenceError::Kind { found: "tokens", expected: "features" })
        }
    }
}
