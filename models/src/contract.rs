//! The contract of a bundle's graphs: the names, shapes and roles of its tensors, as JSON inside every `.onnx`.

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::spec::{Init, Segmentation, SpecError};

mod check;
mod function;

pub use function::{Lead, MemoryFunction, MemoryTensor, Mixer, Role};

/// The schema that this crate writes and reads, the value of `schema`.
pub const SCHEMA: &str = "mcedge.contract/1";
/// The key of the contract in a graph's `metadata_props`.
pub const METADATA_KEY: &str = "mcedge.contract";
/// The domain of the memory functions, whose bodies are standard ops and which a runtime may replace by a kernel.
pub const DOMAIN: &str = "org.mcedge";

/// Why a file holds no contract that this version can run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContractError {
    /// Not an ONNX file.
    #[error("not an ONNX model")]
    Onnx(#[from] prost::DecodeError),
    /// An ONNX file of somebody else's.
    #[error("the ONNX model has no `{METADATA_KEY}` in its metadata: export it with `mcedge export`")]
    Missing,
    /// Another version of the contract.
    #[error("the contract has schema {found:?}, this version of mcedge reads {SCHEMA:?}")]
    Schema {
        /// The schema that the file names.
        found: String,
    },
    /// Not the JSON of a contract.
    #[error("the contract does not parse")]
    Json(#[from] serde_json::Error),
    /// Segments or a block's memory function that cannot be.
    #[error("the contract has a memory or segments that cannot be")]
    Block(#[from] SpecError),
    /// A contract that contradicts itself.
    #[error("the contract's `{key}` is {found}, expected {expected}")]
    Value {
        /// What is wrong.
        key: String,
        /// The value found.
        found: String,
        /// What would do.
        expected: String,
    },
}

/// What a bundle's graphs take and give: everything a client needs to run them.
///
/// A graph may have two kinds of outputs more than `output` and every `present.*`: `gates.{i}` `[B, T, H, N + 1]`, who was
/// read in block i ([`Role::Gates`]), and, where segments end by surprise, `surprise` `[B, T]`
/// ([`Segmentation::Surprise`]). What a chunk's graph gives as `present.*` is that after its last token.
///
/// Readers ignore keys that they don't know, but for those inside `segmentation` and `blocks`: these are in the words of
/// `config.json`, and a runtime must not compute half of what a block means.
///
/// # Invariants
///
/// A contract from [`Contract::parse`] has been checked: sizes are positive and bounded, and `state`, `cache` and
/// `blocks` agree with each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contract {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The model's name.
    pub name: String,
    /// Streams in one step.
    pub batch: usize,
    /// Slots of the checkpoint cache, N; at least 1.
    pub capacity: usize,
    /// The most tokens that one run of `chunk.onnx` takes.
    pub chunk: usize,
    /// The graph's `input`.
    pub input: Input,
    /// The graph's `output`.
    pub output: Output,
    /// Where the runtime ends a segment.
    pub segmentation: Segmentation,
    /// What a segment starts from.
    pub init: Init,
    /// Tensors carried from step to step.
    pub state: Vec<StateTensor>,
    /// Tensors of the checkpoint cache; empty when nothing is read back.
    pub cache: Vec<CacheTensor>,
    /// One entry for each block, in the order of the blocks: the memory function that it calls and its meaning, for a
    /// runtime that puts a kernel in its place.
    #[serde(default)]
    pub blocks: Vec<BlockFunction>,
}

/// The graph's `input`: `[B, T, size]` f32 or `[B, T]` int64.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Input {
    /// Samples.
    Features {
        /// Channels.
        size: usize,
        /// `[size]` or empty.
        #[serde(default)]
        names: Vec<String>,
        /// `[size]` or empty.
        #[serde(default)]
        units: Vec<String>,
        /// Samples a second.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate_hz: Option<f64>,
    },
    /// Tokens.
    Tokens {
        /// Tokens are `0..vocab_size`.
        vocab_size: usize,
    },
}

/// The graph's `output`: `[B, T, size]` f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// What the numbers are.
    pub kind: OutputKind,
    /// Numbers a token.
    pub size: usize,
    /// Class names of a classification, or empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The scale of a regression's channels, `[size]` or empty: what an error is measured in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub std: Vec<f32>,
}

/// What the numbers of an output are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// Scores of the next token's classes.
    Logits,
    /// Numbers.
    Regression,
    /// Scores of classes.
    Classification,
}

/// A tensor that the graph takes as `past` and gives back as `present`, f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateTensor {
    /// Graph input.
    pub past: String,
    /// Graph output.
    pub present: String,
    /// `[B, …]`.
    pub shape: Vec<usize>,
    /// Always f32.
    pub dtype: Dtype,
    /// When it goes back to its initial value.
    pub reset: Reset,
}

/// A tensor of the checkpoint cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CacheTensor {
    /// Graph input.
    pub name: String,
    /// The `present` that is copied into a slot at a segment's end: a state tensor's, or an output of its own that
    /// only checkpoints need.
    pub from: String,
    /// `[B, H, N, …]`.
    pub shape: Vec<usize>,
    /// The axis of N.
    pub slot_axis: usize,
    /// f32, f16 or i8.
    pub dtype: Dtype,
    /// What happens to the copy.
    pub scale: Scale,
    /// With i8, the graph input `[B, H, N]` f32 that says what an element of 1 stands for, head by head and slot by
    /// slot: max |x| / 127 of what was copied. A `[B, H, N, …]` tensor of shape has the first three axes alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<String>,
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Signed 8-bit integers in steps of [`CacheTensor::steps`]; of caches alone.
    I8,
}

impl Dtype {
    fn f32() -> Self {
        Dtype::F32
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 => 2,
            Dtype::I8 => 1,
        }
    }
}

/// When a state tensor goes back to its initial value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reset {
    /// Never.
    Never,
    /// At every segment's end: a context.
    Segment,
    /// At every segment's end: a memory under `init: restart`.
    Restart,
}

/// What happens to a tensor on its way into the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Nothing.
    None,
    /// It is divided by the segment's length: a sum becomes a mean.
    Mean,
}

/// The function that a block calls: its memory, with what the mixer has around it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockFunction {
    /// Index of the block, the `i` of its `past.{i}.*` and `cache.{i}.*`.
    pub block: usize,
    /// Its name in [`DOMAIN`]; blocks with equal functions share one.
    pub function: String,
    /// What it computes.
    #[serde(flatten)]
    pub memory: MemoryFunction,
}

/// The one field of ONNX's `ModelProto` that a contract travels in; the rest is skipped.
#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<Entry>,
}

/// ONNX's `StringStringEntryProto`.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

impl Contract {
    /// Reads the contract out of the bytes of an `.onnx` file.
    ///
    /// # Errors
    ///
    /// [`ContractError`]: not an ONNX file, no contract in it, another schema, or a contract that contradicts
    /// itself.
    pub fn from_onnx(bytes: &[u8]) -> Result<Self, ContractError> {
        let metadata = Metadata::decode(bytes)?;
        let entry = metadata.metadata_props.iter().find(|entry| entry.key == METADATA_KEY);
        Self::parse(&entry.ok_or(ContractError::Missing)?.value)
    }

    /// Parses and checks a contract's JSON.
    ///
    /// # Errors
    ///
    /// As [`Contract::from_onnx`].
    pub fn parse(json: &str) -> Result<Self, ContractError> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: String,
        }
        let Versioned { schema } = serde_json::from_str(json)?;
        if schema != SCHEMA {
            return Err(ContractError::Schema { found: schema });
        }
        let contract: Contract = serde_json::from_str(json)?;
        contract.check()?;
        Ok(contract)
    }

    /// The JSON that travels in `metadata_props`.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a contract is plain data")
    }

    /// Whether a cache tensor holds contexts, which reads are scored by, and not memories.
    pub fn is_context(&self, cache: &CacheTensor) -> bool {
        let state = self.state.iter().find(|state| state.present == cache.from);
        state.is_some_and(|state| state.reset == Reset::Segment)
    }

    /// Tokens in a segment, when segments are constant.
    pub fn segment_tokens(&self) -> Option<usize> {
        match self.segmentation {
            Segmentation::Constant { size } => Some(size),
            Segmentation::Logarithmic {} | Segmentation::Surprise { .. } => None,
        }
    }
}

impl Input {
    /// Channels, or tokens of the vocabulary.
    pub fn size(&self) -> usize {
        match self {
            Input::Features { size, .. } => *size,
            Input::Tokens { vocab_size } => *vocab_size,
        }
    }
}
