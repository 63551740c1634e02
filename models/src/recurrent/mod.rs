//! A plain `torch.nn.GRU` or `torch.nn.LSTM` becomes a model, exactly.
//!
//! Each layer is one block of norm `none`, no residual and no projections, so that with aggregation `none` the model
//! computes what PyTorch computes, and with `residual` or `mean` it reads cached states besides: the two that need no
//! training. Where the layer takes more inputs than it has units, `d_model` is the number of inputs and the units that
//! are added have zero weights: they start at zero and stay there.

mod plan;
mod source;
mod weights;

use plan::Plan;
use source::Source;

use crate::load::Model;
use crate::pytorch::{PickleError, PytorchError};
use crate::spec::{
    Aggregation, Block, Caching, Context, FORMAT, Head, Init, Input, MAX_SIZE, Memory, Norm, Query,
    Segmentation, Spec, SpecError, wrong_name,
};
use crate::weights::WeightsError;

/// Tokens in a segment, when the aggregation reads no checkpoints and the number is of no effect.
const SEGMENT_TOKENS: usize = 256;

/// Why a file becomes no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// Not a file of tensors.
    #[error("neither what torch.save writes (a zip, since PyTorch 1.6) nor a safetensors file: {0}")]
    Format(safetensors::SafeTensorError),
    /// What `torch.save` wrote, and no state dictionary that is read.
    #[error(transparent)]
    Pytorch(PytorchError),
    /// More than a state dictionary: a whole module, or a training script's own classes.
    #[error("{0}; save the tensors alone, with torch.save(model.state_dict(), path)")]
    Foreign(PickleError),
    /// A tensor that is missing, or of another shape, type or value than a GRU or an LSTM has.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Neither a GRU nor an LSTM.
    #[error(
        "no tensor is called `weight_hh_l0`, expected the state dictionary of a torch.nn.GRU or torch.nn.LSTM; found {found}"
    )]
    NoRecurrent {
        /// Names of the file, the first few.
        found: String,
    },
    /// Several tensors for one place.
    #[error(
        "there are several of what the model has one of, {what}: {}; leave out all but one with --ignore",
        list(names)
    )]
    Several {
        /// The place.
        what: &'static str,
        /// The tensors.
        names: Vec<String>,
    },
    /// A recurrent network that the format cannot hold.
    #[error("`{name}` has shape {shape:?}: {reason}")]
    Refused {
        /// The tensor that shows it.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Why, and what would do.
        reason: String,
    },
    /// Tensors that the model has no place for.
    #[error(
        "no place in the model for {}; expected a GRU or an LSTM, an embedding (2 axes, called {}) and a head (2 axes, called {}), and the rest left out with --ignore NAME",
        list(names), plan::EMBEDDINGS.join(", "), plan::HEADS.join(", ")
    )]
    Unknown {
        /// Names, and what is there.
        names: Vec<String>,
    },
    /// What the file cannot say and the settings don't.
    #[error("{file}; it does not say: {}", unsaid.iter().map(Unsaid::to_string).collect::<Vec<_>>().join(", "))]
    Unsaid {
        /// What the file says.
        file: String,
        /// All that has to be said.
        unsaid: Vec<Unsaid>,
    },
    /// A setting that cannot be with this file.
    #[error("--{setting} is {found}, expected {expected}")]
    Setting {
        /// The setting, as on the command line.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        expected: String,
    },
    /// Tensors and settings that together make no model.
    #[error("the tensors and the settings make no model: {0}")]
    Spec(SpecError),
}

impl From<PytorchError> for ConvertError {
    fn from(error: PytorchError) -> Self {
        match error {
            PytorchError::Pickle(foreign @ PickleError::Foreign { .. }) => ConvertError::Foreign(foreign),
            error => ConvertError::Pytorch(error),
        }
    }
}

impl ConvertError {
    /// Whether other settings would do, with the same file.
    pub fn is_usage(&self) -> bool {
        matches!(self, ConvertError::Unsaid { .. } | ConvertError::Setting { .. })
    }
}

/// A setting that has to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsaid {
    /// The setting, as on the command line.
    pub setting: &'static str,
    /// What it may be.
    pub values: String,
}

impl std::fmt::Display for Unsaid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "--{} ({})", self.setting, self.values)
    }
}

/// What a state dictionary cannot say.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The model's name, for people.
    pub name: String,
    /// `none`, `residual` or `mean`; has to be said.
    pub aggregation: Option<Aggregation>,
    /// Heads of every block; has to be said unless nothing is cached, and is 1 then.
    pub heads: Option<usize>,
    /// Tokens in a segment; has to be said unless nothing is cached.
    pub segment_tokens: Option<usize>,
    /// What a segment starts from.
    pub init: Init,
    /// What the head's numbers are; left out, logits where a model of tokens has one for each, else regression.
    pub head: Option<HeadKind>,
    /// Names of the channels, or empty; for features.
    pub names: Vec<String>,
    /// Samples a second; for features.
    pub rate_hz: Option<f64>,
    /// Tensors to leave out.
    pub ignore: Vec<String>,
}

impl Settings {
    /// Nothing said but the name.
    pub fn new(name: impl Into<String>) -> Self {
        Settings {
            name: name.into(),
            aggregation: None,
            heads: None,
            segment_tokens: None,
            init: Init::Continue,
            head: None,
            names: Vec::new(),
            rate_hz: None,
            ignore: Vec::new(),
        }
    }
}

/// What a head's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// Scores of the next token.
    Logits,
    /// Numbers.
    Regression,
    /// Scores of classes.
    Classification,
}

/// A model that was made of a state dictionary, and what was found there.
#[derive(Clone, Debug, PartialEq)]
pub struct Converted {
    /// The model.
    pub model: Model,
    /// What the file says, for people: kind, layers, sizes, and the names that were taken for embedding and head.
    pub found: String,
}

/// Makes a model of the bytes of a state dictionary: what `torch.save` wrote, or a safetensors file.
///
/// Layers, sizes, biases, embedding and head are read from the tensors; `settings` has the rest. The file is untrusted:
/// of a `.pt` nothing is executed, and names and shapes are checked before any data is read.
///
/// # Errors
///
/// [`ConvertError`] names the tensor or setting, what was found and what was expected.
pub fn recurrent_from_state_dict(bytes: &[u8], settings: &Settings) -> Result<Converted, ConvertError> {
    let mut source = Source::open(bytes)?;
    let plan = Plan::new(&source.shapes(), &settings.ignore)?;
    let spec = spec(&plan, settings)?;
    let weights = weights::read(&mut source, &plan, &spec)?;
    Ok(Converted { model: Model { spec, weights }, found: plan.to_string() })
}

fn spec(plan: &Plan, settings: &Settings) -> Result<Spec, ConvertError> {
    let caching = caching(plan, settings)?;
    let block = Block {
        norm: Norm::None,
        residual: false,
        num_heads: heads(plan, settings)?,
        normalize_qk: false,
        memory: if plan.gates == plan::GRU_GATES { Memory::Gru {} } else { Memory::Lstm {} },
        caching,
        mlp: None,
    };
    let spec = Spec {
        format: FORMAT.into(),
        name: settings.name.clone(),
        input: input(plan, settings)?,
        d_model: plan.d_model(),
        blocks: vec![block; plan.layers],
        final_norm: false,
        head: head(plan, settings)?,
    };
    spec.check().map_err(ConvertError::Spec)?;
    Ok(spec)
}

fn caching(plan: &Plan, settings: &Settings) -> Result<Caching, ConvertError> {
    let aggregation = said(plan, settings)?;
    if !matches!(aggregation, Aggregation::None | Aggregation::Residual | Aggregation::Mean) {
        let found = format!("{aggregation:?}").to_lowercase();
        let expected =
            "none, residual or mean: the others need trained gates, which a plain GRU or LSTM has not";
        return Err(setting("aggregation", found, expected));
    }
    let size = settings.segment_tokens.unwrap_or(SEGMENT_TOKENS);
    if !(1..=MAX_SIZE).contains(&size) {
        return Err(setting("segment", size, format!("1 to {MAX_SIZE} tokens")));
    }
    Ok(Caching {
        aggregation,
        query: Query::U,
        context: Context::Mean,
        temperature: 1.0,
        top_k: None,
        segmentation: Segmentation::Constant { size },
        init: settings.init,
    })
}

/// The aggregation, when everything is said that has to be.
fn said(plan: &Plan, settings: &Settings) -> Result<Aggregation, ConvertError> {
    let mut unsaid = Vec::new();
    let mut add = |setting, values: String| unsaid.push(Unsaid { setting, values });
    if settings.aggregation != Some(Aggregation::None) {
        if settings.heads.is_none() {
            add("heads", format!("a divisor of {}", plan.d_model()));
        }
        if settings.segment_tokens.is_none() {
            add("segment", "tokens from one checkpoint to the next".into());
        }
    }
    match settings.aggregation {
        Some(aggregation) if unsaid.is_empty() => Ok(aggregation),
        aggregation => {
            if aggregation.is_none() {
                let values = "mean or residual; or none, which needs neither heads nor segment";
                unsaid.push(Unsaid { setting: "aggregation", values: values.into() });
            }
            Err(ConvertError::Unsaid { file: format!("the file holds {plan}"), unsaid })
        }
    }
}

fn heads(plan: &Plan, settings: &Settings) -> Result<usize, ConvertError> {
    let (heads, d_model) = (settings.heads.unwrap_or(1), plan.d_model());
    if heads == 0 || heads > d_model || !d_model.is_multiple_of(heads) {
        return Err(setting("heads", heads, format!("a divisor of {d_model}")));
    }
    Ok(heads)
}

fn input(plan: &Plan, settings: &Settings) -> Result<Input, ConvertError> {
    if let Some(embedding) = &plan.embedding {
        let expected = format!("nothing: `{}` makes a model of tokens, not of channels", embedding.name);
        if !settings.names.is_empty() {
            return Err(setting("names", settings.names.join(","), expected));
        }
        if let Some(rate) = settings.rate_hz {
            return Err(setting("rate", rate, expected));
        }
        return Ok(Input::Tokens { vocab_size: embedding.rows });
    }
    let (channels, names) = (plan.inputs, settings.names.len());
    if names != 0 && names != channels {
        return Err(setting("names", format!("{names} names"), format!("{channels}, one a channel")));
    }
    if let Some((i, expected)) = wrong_name(&settings.names) {
        let found = format!("{:?} for channel {i}", settings.names[i]);
        return Err(setting("names", found, expected));
    }
    if let Some(rate) = settings.rate_hz.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
        return Err(setting("rate", rate, "a positive number"));
    }
    Ok(Input::Features {
        size: channels,
        mean: Vec::new(),
        std: Vec::new(),
        names: settings.names.clone(),
        units: Vec::new(),
        rate_hz: settings.rate_hz,
    })
}

fn head(plan: &Plan, settings: &Settings) -> Result<Head, ConvertError> {
    let regression = |size| Head::Regression { size, mean: Vec::new(), std: Vec::new() };
    let Some(head) = &plan.head else {
        return match settings.head {
            None | Some(HeadKind::Regression) => Ok(regression(plan.hidden)),
            Some(kind) => {
                let expected = "regression: the file has no head, and the output is the hidden state";
                Err(setting("head", format!("{kind:?}").to_lowercase(), expected))
            }
        };
    };
    let size = head.rows;
    let next_token = plan.embedding.as_ref().is_some_and(|embedding| embedding.rows == size);
    match settings.head {
        Some(HeadKind::Logits) if !next_token => {
            let expected = format!(
                "regression or classification: logits are of the next token, and `{}` has {size} rows for {}",
                head.name,
                plan.input_words()
            );
            Err(setting("head", "logits", expected))
        }
        Some(HeadKind::Classification) => Ok(Head::Classification { size, labels: Vec::new() }),
        None | Some(HeadKind::Logits) if next_token => Ok(Head::Logits { size }),
        _ => Ok(regression(size)),
    }
}

fn setting(setting: &'static str, found: impl ToString, expected: impl Into<String>) -> ConvertError {
    ConvertError::Setting { setting, found: found.to_string(), expected: expected.into() }
}

/// The first few names.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "nothing".into(),
        count if count > SHOWN => format!("{shown} and {} more", count - SHOWN),
        _ => shown,
    }
}
