//! `config.json`: what a model is, checked once when it is parsed.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// The format that this crate reads, the value of `format` in `config.json`.
pub const FORMAT: &str = "mcedge/1";

/// The largest size of any one dimension: far past what an edge machine holds, near enough to keep products of
/// a few of them inside 64 bits.
pub(crate) const MAX_SIZE: usize = 1 << 20;
const MAX_BLOCKS: usize = 256;
const MAX_DEPTH: usize = 8;
/// The most losses that a segmentation by surprise looks back on: each is read again at every token.
const MAX_WINDOW: usize = 4096;

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

    /// Checks a `Spec` that was put together in code.
    ///
    /// # Errors
    ///
    /// As [`Spec::parse`].
    pub fn check(&self) -> Result<(), SpecError> {
        if self.format != FORMAT {
            return Err(SpecError::Format { found: self.format.clone() });
        }
        size("d_model", self.d_model)?;
        self.check_input()?;
        self.check_head()?;
        if self.blocks.is_empty() || self.blocks.len() > MAX_BLOCKS {
            return Err(value("blocks", self.blocks.len(), format!("1 to {MAX_BLOCKS} blocks")));
        }
        for (i, block) in self.blocks.iter().enumerate() {
            block.check(&format!("blocks[{i}]"), self.d_model)?;
            self.check_clock(i)?;
        }
        let surprises = matches!(self.segmentation(), Segmentation::Surprise { .. });
        if surprises && !self.blocks.iter().any(|block| block.memory.has_loss()) {
            let expected = "constant or logarithmic: no block's memory has a loss to be surprised by";
            return Err(value("blocks[0].caching.segmentation.kind", "surprise", expected));
        }
        Ok(())
    }

    /// The one segmentation of all blocks.
    pub fn segmentation(&self) -> Segmentation {
        self.blocks[0].caching.segmentation
    }

    /// The one `init` of all blocks.
    pub fn init(&self) -> Init {
        self.blocks[0].caching.init
    }

    fn check_input(&self) -> Result<(), SpecError> {
        match &self.input {
            Input::Features { size: channels, mean, std, names, units, rate_hz } => {
                size("input.size", *channels)?;
                scale("input", *channels, mean, std)?;
                length("input.names", names.len(), *channels)?;
                if let Some((i, expected)) = wrong_name(names) {
                    return Err(value(format!("input.names[{i}]"), format!("{:?}", names[i]), expected));
                }
                length("input.units", units.len(), *channels)?;
                match rate_hz {
                    Some(rate) if !(rate.is_finite() && *rate > 0.0) => {
                        Err(value("input.rate_hz", rate, "a positive number"))
                    }
                    _ => Ok(()),
                }
            }
            Input::Tokens { vocab_size } => size("input.vocab_size", *vocab_size),
        }
    }

    fn check_head(&self) -> Result<(), SpecError> {
        size("head.size", self.head.size())?;
        match &self.head {
            Head::Logits { .. } => Ok(()),
            Head::Regression { size, mean, std } => {
                scale("head", *size, mean, std)?;
                if mean.is_empty() != std.is_empty() {
                    return Err(value("head.mean", mean.len(), "as many numbers as `head.std`"));
                }
                Ok(())
            }
            Head::Classification { size, labels } => length("head.labels", labels.len(), *size),
        }
    }

    /// One clock: every block is cut where block 0 is, and starts its segments alike.
    fn check_clock(&self, i: usize) -> Result<(), SpecError> {
        let (first, caching) = (&self.blocks[0].caching, &self.blocks[i].caching);
        let key = |name| format!("blocks[{i}].caching.{name}");
        if caching.segmentation != first.segmentation {
            let (found, expected) =
                (format!("{:?}", caching.segmentation), format!("{:?}", first.segmentation));
            return Err(value(key("segmentation"), found, format!("that of block 0, {expected}")));
        }
        if caching.init != first.init {
            let (found, expected) = (format!("{:?}", caching.init), format!("{:?}", first.init));
            return Err(value(key("init"), found, format!("that of block 0, {expected}")));
        }
        Ok(())
    }
}

impl Block {
    fn check(&self, at: &str, d_model: usize) -> Result<(), SpecError> {
        let heads = self.num_heads;
        if heads == 0 || heads > d_model || !d_model.is_multiple_of(heads) {
            return Err(value(format!("{at}.num_heads"), heads, format!("a divisor of d_model, {d_model}")));
        }
        if let Some(mlp) = &self.mlp {
            size(&format!("{at}.mlp.width"), mlp.width)?;
        }
        self.memory.check(&format!("{at}.memory"))?;
        self.caching.check(&format!("{at}.caching"), &self.memory)
    }
}

impl Memory {
    pub(crate) fn check(&self, at: &str) -> Result<(), SpecError> {
        let coefficients = match self.deep() {
            // The weights have the letters of the equations, the config has words.
            Some(deep) => vec![("step_size", deep.step_size), ("retention", deep.retention)],
            None => self.coefficients(),
        };
        for (key, coefficient) in coefficients {
            if let Some(found) = coefficient.constant().filter(|x| !x.is_finite()) {
                return Err(value(format!("{at}.{key}"), found, "a finite number"));
            }
        }
        match self {
            Memory::GatedDelta { alpha, beta, .. } => {
                for (name, coefficient) in [("alpha", alpha), ("beta", beta)] {
                    if let Some(found) = coefficient.constant().filter(|&x| !(x > 0.0 && x <= 1.0)) {
                        return Err(value(format!("{at}.{name}"), found, "more than 0, at most 1"));
                    }
                }
            }
            Memory::Attention { window } => size(&format!("{at}.window"), *window)?,
            _ => {}
        }
        let Some(deep) = self.deep() else { return Ok(()) };
        if deep.depth < 2 || deep.depth > MAX_DEPTH {
            return Err(value(format!("{at}.depth"), deep.depth, format!("2 to {MAX_DEPTH}")));
        }
        size(&format!("{at}.width"), deep.width)?;
        if deep.sign.is_some() && matches!(self, Memory::Dla(_)) {
            return Err(value(format!("{at}.sign"), "present", "no such key with `dla`"));
        }
        if !(0.0..1.0).contains(&deep.momentum) {
            return Err(value(format!("{at}.momentum"), deep.momentum, "0 or more, below 1"));
        }
        if deep.retention.constant().is_some_and(|x| !(0.0..=1.0).contains(&x)) {
            return Err(value(format!("{at}.retention"), format!("{:?}", deep.retention), "0 to 1"));
        }
        Ok(())
    }
}

impl Caching {
    pub(crate) fn check(&self, at: &str, memory: &Memory) -> Result<(), SpecError> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(value(format!("{at}.temperature"), self.temperature, "a positive number"));
        }
        match (self.aggregation, self.top_k) {
            (Aggregation::Ssc, Some(1..=MAX_SIZE)) => {}
            (Aggregation::Ssc, Some(found)) => {
                return Err(value(format!("{at}.top_k"), found, format!("1 to {MAX_SIZE}")));
            }
            (Aggregation::Ssc, None) => {
                return Err(value(format!("{at}.top_k"), "absent", "a number, with `ssc`"));
            }
            (_, Some(found)) => return Err(value(format!("{at}.top_k"), found, "no such key without `ssc`")),
            (_, None) => {}
        }
        if self.aggregation == Aggregation::Sigmoid && !memory.is_recurrent() {
            let expected = "a memory of kind gru or lstm with it";
            return Err(value(format!("{at}.aggregation"), "sigmoid", expected));
        }
        if memory.is_recurrent() && self.aggregation.is_gated() && self.query == Query::Q {
            let expected = format!("u: a memory of kind {} has no projection q", memory.kind());
            return Err(value(format!("{at}.query"), "q", expected));
        }
        if matches!(memory, Memory::Attention { .. }) && self.aggregation != Aggregation::None {
            let (found, expected) = (format!("{:?}", self.aggregation), "none: attention has no checkpoints");
            return Err(value(format!("{at}.aggregation"), found.to_lowercase(), expected));
        }
        self.segmentation.check(&format!("{at}.segmentation"))?;
        let merges = self.segmentation == (Segmentation::Logarithmic {}) && self.init == Init::Restart;
        if merges && self.aggregation != Aggregation::None && !matches!(memory, Memory::Linear { .. }) {
            let expected =
                "`continue`: logarithmic segments merge, and only linear states of restarted segments add";
            return Err(value(format!("{at}.init"), "restart", expected));
        }
        Ok(())
    }
}

impl Segmentation {
    pub(crate) fn check(&self, at: &str) -> Result<(), SpecError> {
        let at = |name: &str| format!("{at}.{name}");
        match *self {
            Segmentation::Constant { size: tokens } => size(&at("size"), tokens),
            Segmentation::Logarithmic {} => Ok(()),
            Segmentation::Surprise { window, threshold, min_size, max_size } => {
                if !(2..=MAX_WINDOW).contains(&window) {
                    return Err(value(at("window"), window, format!("2 to {MAX_WINDOW}")));
                }
                if !threshold.is_finite() {
                    return Err(value(at("threshold"), threshold, "a finite number"));
                }
                size(&at("min_size"), min_size)?;
                size(&at("max_size"), max_size)?;
                if min_size > max_size {
                    return Err(value(at("min_size"), min_size, format!("at most `max_size`, {max_size}")));
                }
                Ok(())
            }
        }
    }
}

fn value(key: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> SpecError {
    SpecError::Value { key: key.into(), found: found.to_string(), expected: expected.into() }
}

fn size(key: &str, found: usize) -> Result<(), SpecError> {
    if (1..=MAX_SIZE).contains(&found) { Ok(()) } else { Err(value(key, found, format!("1 to {MAX_SIZE}"))) }
}

/// A list that speaks of channels is empty or has one entry a channel.
fn length(key: &str, found: usize, expected: usize) -> Result<(), SpecError> {
    if found == 0 || found == expected {
        return Ok(());
    }
    Err(value(key, format!("a list of {found}"), format!("{expected} entries, one a channel, or none")))
}

/// Index of the first channel's name that no column can be taken by, and what would do.
pub(crate) fn wrong_name(names: &[String]) -> Option<(usize, &'static str)> {
    let mut before = HashSet::new();
    names.iter().enumerate().find_map(|(i, name)| {
        if name.is_empty() {
            Some((i, "a name that is not empty"))
        } else if !before.insert(name) {
            Some((i, "a name that no channel before it has"))
        } else {
            None
        }
    })
}

fn scale(at: &str, channels: usize, mean: &[f32], std: &[f32]) -> Result<(), SpecError> {
    length(&format!("{at}.mean"), mean.len(), channels)?;
    length(&format!("{at}.std"), std.len(), channels)?;
    if let Some(i) = mean.iter().position(|x| !x.is_finite()) {
        return Err(value(format!("{at}.mean[{i}]"), mean[i], "a finite number"));
    }
    if let Some(i) = std.iter().position(|x| !(x.is_finite() && *x > 0.0)) {
        return Err(value(format!("{at}.std[{i}]"), std[i], "a positive number"));
    }
    Ok(())
}
