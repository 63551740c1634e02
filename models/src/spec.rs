//! `config.json`: what a model is, checked once when it is parsed.

use serde::{Deserialize, Serialize};

mod check;

pub(crate) use check::{MAX_SIZE, wrong_name};

/// The format that this crate reads, the value of `format` in `config.json`.
pub const FORMAT: &str = "mcedge/1";

/// Why a `config.json`, or a spec from elsewhere, is not a model.
///
/// It names the key and no file: who read the spec knows where it came from (`config.json`, a `.pt`, a graph's contract),
/// and says so around it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Not JSON, or JSON of another shape: an unknown key, a missing one, a value of another type.
    #[error("at `{path}`: {message}")]
    Json {
        /// Where in the document, as `blocks[0].memory`.
        path: String,
        /// What the parser found and expected.
        message: String,
    },
    /// Another version of the format.
    #[error("`format` is {found:?}, this version of mcedge reads {FORMAT:?}")]
    Format {
        /// The version that the file names.
        found: String,
    },
    /// A value that parses and cannot be.
    #[error("`{key}` is {found}, expected {expected}")]
    Value {
        /// The key, as `blocks[0].num_heads`.
        key: String,
        /// The value found.
        found: String,
        /// What would do.
        expected: String,
    },
}

/// A whole model: `config.json` of format `mcedge/1`.
///
/// # Invariants
///
/// A `Spec` from [`Spec::parse`] has been checked: sizes are in range, heads divide `d_model`, every list that
/// speaks of channels has one entry a channel, no two channels share a name, and all blocks share one segmentation
/// and one `init`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Always [`FORMAT`].
    pub format: String,
    /// The model's name, for people.
    pub name: String,
    /// What one token of the stream is.
    pub input: Input,
    /// Width of the residual stream.
    pub d_model: usize,
    /// At least one.
    pub blocks: Vec<Block>,
    /// Whether a layer norm stands before the head.
    #[serde(default)]
    pub final_norm: bool,
    /// What the model answers.
    pub head: Head,
}

/// What one token of the stream is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Input {
    /// A sample of `size` channels, f32 `[T, size]`, standardised in the graph as (x − mean) / std.
    Features {
        /// Channels in a sample.
        size: usize,
        /// `[size]`, in the channel's unit; zeros when empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mean: Vec<f32>,
        /// `[size]`, in the channel's unit, positive; ones when empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        std: Vec<f32>,
        /// `[size]` channel names, or empty: a table's columns are taken by them, so none is empty and none repeats.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        names: Vec<String>,
        /// `[size]` channel units, or empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        units: Vec<String>,
        /// Samples a second that the model was trained on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate_hz: Option<f64>,
    },
    /// A token of a vocabulary, int64 `[T]`; byte models have 256.
    Tokens {
        /// Tokens are `0..vocab_size`.
        vocab_size: usize,
    },
}

/// What the model answers for each token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Head {
    /// Scores of the next token's classes.
    Logits {
        /// Classes.
        size: usize,
    },
    /// Numbers; with `mean` and `std` the output is head · std + mean.
    Regression {
        /// Numbers a token.
        size: usize,
        /// `[size]`, or empty together with `std`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mean: Vec<f32>,
        /// `[size]`, positive, or empty together with `mean`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        std: Vec<f32>,
    },
    /// Scores of `size` classes.
    Classification {
        /// Classes.
        size: usize,
        /// `[size]` class names, or empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        labels: Vec<String>,
    },
}

/// One block: norm, memory with its cached checkpoints, residual, and an optional MLP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// The norm before the memory, and before the MLP.
    pub norm: Norm,
    /// Whether the block's input is added to the memory's output.
    #[serde(default = "yes")]
    pub residual: bool,
    /// Heads; divides `d_model`.
    pub num_heads: usize,
    /// Whether q and k are divided by max(‖·‖₂, 1e-6), head by head.
    #[serde(default)]
    pub normalize_qk: bool,
    /// The recurrent memory.
    pub memory: Memory,
    /// How checkpoints of it are made and read.
    pub caching: Caching,
    /// A pre-norm residual MLP after the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp: Option<Mlp>,
}

/// The norm before a block's memory and MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Layer norm, eps 1e-5.
    LayerNorm,
    /// RMS norm, eps 1e-6.
    RmsNorm,
    /// None.
    None,
}

impl Norm {
    /// What is added to the variance, or to the mean square, before the root.
    pub fn epsilon(self) -> f32 {
        match self {
            Norm::LayerNorm => 1e-5,
            Norm::RmsNorm => 1e-6,
            Norm::None => 0.0,
        }
    }
}

/// A block's MLP: GELU (erf) between two linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mlp {
    /// Hidden size.
    pub width: usize,
}

/// The recurrent memory of a block: what a token writes and how M(q) is read.
///
/// DESIGN.md section 3 has the equations; the paper is arXiv 2602.24281.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Memory {
    /// M ← M + v φ(k)ᵀ; reads M φ(q).
    Linear {
        /// φ.
        #[serde(default)]
        feature_map: FeatureMap,
        /// Whether z ← z + φ(k) is kept and reads are divided by max(zᵀφ(q), 1e-6).
        #[serde(default)]
        normalized: bool,
    },
    /// M ← α M + β v₋₁k₋₁ᵀ + λ v kᵀ: sliding-window linear attention with a window of two tokens.
    Swla {
        /// α.
        alpha: Coefficient,
        /// β.
        beta: Coefficient,
        /// λ.
        lambda: Coefficient,
    },
    /// MLP memory; S ← μ S + η ∇ℓ, M ← α M − S.
    Dla(Deep),
    /// MLP memory; S ← μ S − θ ∇ℓ, M ← α M ± S.
    Titans(Deep),
    /// M ← α M (I − β k kᵀ) + β v kᵀ, the gated delta rule; without `correction`, M ← α M + β v kᵀ.
    ///
    /// One recurrence for four published ones (q, k, v as they come, values as columns):
    ///
    /// | model | α | β | `correction` |
    /// |---|---|---|---|
    /// | RetNet (arXiv 2307.08621) | a constant γ, or one a head: `"input"` with weight 0 and bias logit γ | 1 | no |
    /// | Mamba-2 (arXiv 2405.21060): scalar-gated linear attention | from the input | 1; its Δ is in v | no |
    /// | DeltaNet (arXiv 2406.06484) | 1 | from the input | yes |
    /// | Gated DeltaNet (arXiv 2412.06464) | from the input | from the input | yes |
    GatedDelta {
        /// α, in (0, 1].
        alpha: Coefficient,
        /// β, in (0, 1].
        beta: Coefficient,
        /// Whether what M answers to k is taken out before v is written.
        #[serde(default = "yes")]
        correction: bool,
    },
    /// Softmax attention over the last `window` tokens, this one included: Σ softmax(⟨q, k_j⟩ / √dh) v_j. It goes on
    /// through segments' ends, and has no checkpoints.
    Attention {
        /// Tokens that a query sees.
        window: usize,
    },
    /// PyTorch's GRU.
    Gru {},
    /// PyTorch's LSTM; only h is cached.
    Lstm {},
}

/// An MLP memory trained online by gradient steps, one a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deep {
    /// Layers, 2 or more.
    pub depth: usize,
    /// Hidden size.
    pub width: usize,
    /// Whether layers have biases.
    #[serde(default)]
    pub bias: bool,
    /// Whether the memory's input is added to its output.
    #[serde(default)]
    pub skip: bool,
    /// ℓ.
    pub objective: Objective,
    /// η of `dla`, θ of `titans`.
    pub step_size: Coefficient,
    /// μ.
    #[serde(default)]
    pub momentum: f32,
    /// α.
    #[serde(default = "Coefficient::one")]
    pub retention: Coefficient,
    /// The sign of S in the update of M, for `titans` alone; left out, it descends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign: Option<Sign>,
}

/// The loss that one write of an MLP memory steps down (or up: [`Sign`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// ‖M(k) − v‖², the sum over the head.
    L2,
    /// −⟨M(k), v⟩.
    Dot,
}

/// The sign of S in the `titans` update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// M ← α M + S: descends the loss.
    #[default]
    Descent,
    /// M ← α M − S: what arXiv 2602.24281 prints; it climbs the loss.
    Paper,
}

/// φ of the `linear` memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureMap {
    /// φ(x) = x.
    #[default]
    Identity,
    /// φ(x) = elu(x) + 1.
    Elu1,
    /// φ(x) = max(x, 0).
    Relu,
}

/// A coefficient of an update: one number, or sigmoid(W x + b) of the block's normed input, head by head.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number or \"input\"")]
pub enum Coefficient {
    /// The same for every token.
    Constant(f32),
    /// From the token: `"input"`.
    Input(FromInput),
}

/// The word `"input"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromInput {
    /// sigmoid(W x + b).
    Input,
}

impl Coefficient {
    fn one() -> Self {
        Coefficient::Constant(1.0)
    }

    /// The number, when it is one.
    pub fn constant(self) -> Option<f32> {
        match self {
            Coefficient::Constant(value) => Some(value),
            Coefficient::Input(_) => None,
        }
    }
}

/// How checkpoints of a block's memory are made and read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caching {
    /// How reads of checkpoints and of the online memory become one.
    pub aggregation: Aggregation,
    /// The projection that scores are made with.
    #[serde(default)]
    pub query: Query,
    /// How the keys of a segment become its context.
    #[serde(default)]
    pub context: Context,
    /// Scores are divided by it; positive.
    #[serde(default = "one")]
    pub temperature: f32,
    /// Checkpoints that `ssc` reads; present exactly with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Where the stream is cut.
    pub segmentation: Segmentation,
    /// What a segment starts from.
    pub init: Init,
}

/// How reads of checkpoints and of the online memory become one: DESIGN.md section 3, **Read**.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The online memory alone.
    None,
    /// The sum.
    Residual,
    /// The sum weighted by softmax gates (gated residual memory).
    Grm,
    /// One memory whose parameters are the gated sum.
    Soup,
    /// `grm` over the `top_k` best-scored checkpoints (sparse selective caching).
    Ssc,
    /// The mean.
    Mean,
    /// h + Σ σ(W_g [h; h_i] + b_g) ⊙ h_i, for `gru` and `lstm`.
    Sigmoid,
}

impl Aggregation {
    /// Whether contexts are scored: `grm`, `soup`, `ssc`.
    pub fn is_gated(self) -> bool {
        matches!(self, Aggregation::Grm | Aggregation::Soup | Aggregation::Ssc)
    }
}

/// The projection that scores are made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// Its own, `mix.u`.
    #[default]
    U,
    /// The memory's query, q.
    Q,
}

/// How the keys of a segment become its context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// Where the stream is cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Segmentation {
    /// Every `size` tokens.
    Constant {
        /// Tokens in a segment.
        size: usize,
    },
    /// After t tokens the past is cut by the binary expansion of t (a Fenwick tree's segments): every token is a
    /// segment, and whenever the two youngest checkpoints stand for as many tokens they become one.
    Logarithmic {},
    /// Where a token surprises the memory.
    ///
    /// A token's surprise ℓ is ‖M(k) − v‖² (for a `dot` objective −⟨M(k), v⟩) at the state before it, the mean over
    /// the heads of a block and then over the blocks that have such a loss. Its z-score is (ℓ − m) / max(s, 1e-6) with
    /// the mean m and the standard deviation s (divided by n, not n − 1) of the n ≤ `window` losses before it in the
    /// stream, 0 while n < 2. A graph gives ℓ as its output `surprise`, `[B, T]`. The segment ends with the token when it has `max_size` tokens, or at least `min_size` and
    /// the z-score is over `threshold`.
    Surprise {
        /// Losses that a token's is held against.
        window: usize,
        /// z-scores over it end a segment.
        threshold: f32,
        /// The shortest segment.
        min_size: usize,
        /// The longest segment.
        max_size: usize,
    },
}

/// What a segment starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// The last one's end state.
    Continue,
    /// The initial state.
    Restart,
}

fn yes() -> bool {
    true
}

fn one() -> f32 {
    1.0
}

impl Input {
    /// Channels of a sample, or tokens of the vocabulary.
    pub fn size(&self) -> usize {
        match self {
            Input::Features { size, .. } => *size,
            Input::Tokens { vocab_size } => *vocab_size,
        }
    }
}

impl Head {
    /// Numbers a token.
    pub fn size(&self) -> usize {
        match self {
            Head::Logits { size } | Head::Regression { size, .. } | Head::Classification { size, .. } => {
                *size
            }
        }
    }
}

impl Head {
    /// Mean and standard deviation of a regression's channels, `[size]` each, when the output is put back into
    /// their units.
    pub fn scale(&self) -> Option<(&[f32], &[f32])> {
        match self {
            Head::Regression { mean, std, .. } if !mean.is_empty() => Some((mean, std)),
            _ => None,
        }
    }
}

impl Memory {
    /// The MLP memory's own part, for `dla` and `titans`.
    pub fn deep(&self) -> Option<&Deep> {
        match self {
            Memory::Dla(deep) | Memory::Titans(deep) => Some(deep),
            _ => None,
        }
    }

    /// Whether it is `gru` or `lstm`.
    pub fn is_recurrent(&self) -> bool {
        matches!(self, Memory::Gru {} | Memory::Lstm {})
    }

    /// Whether a token's write has a loss, which a segmentation by surprise follows: every memory that maps a key to a
    /// value.
    pub fn has_loss(&self) -> bool {
        !self.is_recurrent() && !matches!(self, Memory::Attention { .. })
    }

    /// The gates of `gru` (3) and `lstm` (4), stacked in the rows of their weights.
    pub fn cell_gates(&self) -> Option<usize> {
        match self {
            Memory::Gru {} => Some(3),
            Memory::Lstm {} => Some(4),
            _ => None,
        }
    }

    /// The word in `config.json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Memory::Linear { .. } => "linear",
            Memory::Swla { .. } => "swla",
            Memory::Dla(_) => "dla",
            Memory::Titans(_) => "titans",
            Memory::GatedDelta { .. } => "gated_delta",
            Memory::Attention { .. } => "attention",
            Memory::Gru {} => "gru",
            Memory::Lstm {} => "lstm",
        }
    }

    /// The coefficients of the update under their names in the weights, for those that may come from the input.
    pub fn coefficients(&self) -> Vec<(&'static str, Coefficient)> {
        match self {
            Memory::Swla { alpha, beta, lambda } => {
                vec![("alpha", *alpha), ("beta", *beta), ("lambda", *lambda)]
            }
            Memory::GatedDelta { alpha, beta, .. } => vec![("alpha", *alpha), ("beta", *beta)],
            Memory::Dla(deep) => vec![("eta", deep.step_size), ("alpha", deep.retention)],
            Memory::Titans(deep) => vec![("theta", deep.step_size), ("alpha", deep.retention)],
            _ => Vec::new(),
        }
    }
}

impl Spec {
    /// Parses and checks `config.json`.
    ///
    /// # Errors
    ///
    /// [`SpecError`] names the key, what was found and what was expected.
    pub fn parse(json: &[u8]) -> Result<Self, SpecError> {
        let deserializer = &mut serde_json::Deserializer::from_slice(json);
        let spec: Spec = serde_path_to_error::deserialize(&mut *deserializer).map_err(|error| {
            SpecError::Json { path: error.path().to_string(), message: error.inner().to_string() }
        })?;
        let end = deserializer.end();
        end.map_err(|error| SpecError::Json { path: ".".into(), message: error.to_string() })?;
        spec.check()?;
        Ok(spec)
    }

    /// `config.json`, for people to read too.
    pub fn to_json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("a spec has string keys and plain values");
        json.push('\n');
        json
    }

    /// The one segmentation of all blocks.
    pub fn segmentation(&self) -> Segmentation {
        self.blocks[0].caching.segmentation
    }

    /// The one `init` of all blocks.
    pub fn init(&self) -> Init {
        self.blocks[0].caching.init
    }
}
