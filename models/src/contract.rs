//! The contract of a step graph: the names, shapes and roles of its tensors, as JSON inside every `.onnx`.

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::spec::{Aggregation, Caching, Context, FeatureMap, Init, Memory, Query, Segmentation, SpecError};

/// The schema that this crate writes and reads, the value of `schema`.
pub const SCHEMA: &str = "mcedge.contract/1";
/// The key of the contract in a graph's `metadata_props`.
pub const METADATA_KEY: &str = "mcedge.contract";
/// The domain of the memory functions, whose bodies are standard ops and which a runtime may replace by a kernel.
pub const DOMAIN: &str = "org.mcedge";

/// The largest number of elements of one tensor that a contract may declare: 2 GiB of f32.
const MAX_ELEMENTS: usize = 1 << 29;

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
    /// A block whose memory function cannot be.
    #[error("the contract has a memory function that cannot be")]
    Block(#[from] SpecError),
    /// A block whose memory function this version does not know.
    #[error("the contract's block {block} needs {feature}, which this version of mcedge does not run")]
    Unsupported {
        /// Index of the block.
        block: usize,
        /// What is missing.
        feature: String,
    },
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

/// What a step graph takes and gives: everything a client needs to run it.
///
/// Readers ignore keys that they don't know.
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
    /// One entry for each block that calls a memory function, in the order of the blocks: the function and its
    /// meaning, for a runtime that puts a kernel in its place. A memory of standard operations alone has none.
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
    /// The `present` that is copied into a slot at a segment's end.
    pub from: String,
    /// `[B, H, N, …]`.
    pub shape: Vec<usize>,
    /// The axis of N.
    pub slot_axis: usize,
    /// f32 or f16.
    pub dtype: Dtype,
    /// What happens to the copy.
    pub scale: Scale,
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 => 2,
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

/// The memory function that a block calls.
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

/// What a memory function computes: one block's write and read, for d_model = `num_heads` · `head_size`.
///
/// Its inputs and outputs are the lists of [`MemoryFunction::inputs`] and [`MemoryFunction::outputs`]. Of a memory that
/// is not [called](MemoryFunction::is_called) there are only its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryFunction {
    /// H.
    pub num_heads: usize,
    /// dh.
    pub head_size: usize,
    /// As in [`Block`](crate::spec::Block).
    pub normalize_qk: bool,
    /// What a token writes.
    pub memory: Memory,
    /// What a token reads.
    pub caching: Caching,
}

/// One state tensor of a memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryTensor {
    /// `m`, `w1`, `b1`, `s_w1`, `context`, …
    pub name: String,
    /// Of one head: `[dh, dh]` for `m`, `[out, in]` for `w1`, `[out]` for `b1`, `[dh]` for `context`.
    pub shape: Vec<usize>,
    /// Whether a checkpoint keeps it.
    pub cached: bool,
}

/// What one input or output of a memory function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `[B, T, D]` f32: q before `normalize_qk`.
    Q,
    /// `[B, T, D]` f32: k before `normalize_qk`.
    K,
    /// `[B, T, D]` f32.
    V,
    /// `[B, T, D]` f32, when scores are made with u.
    U,
    /// Tensor `index` of [`MemoryFunction::tensors`], `[B, H, …]` f32.
    State(usize),
    /// `[B]` int64: tokens already in the online segment.
    SegmentLength,
    /// Tensor `index` of [`MemoryFunction::tensors`], `[B, H, N, …]` f32 or f16.
    Cache(usize),
    /// `[B]` int64: live slots.
    CacheLength,
    /// Output `[B, T, D]` f32: the heads' reads, concatenated.
    Y,
}

impl MemoryFunction {
    /// Whether a block calls it. A GRU or an LSTM without aggregation reads no checkpoint, which leaves a kernel nothing
    /// to stream: its step is standard operations of the main graph.
    pub fn is_called(&self) -> bool {
        !self.memory.is_recurrent() || self.is_cached()
    }

    /// The first thing in it that function bodies and kernels cannot compute yet, by its name in `config.json`.
    pub fn unsupported(&self) -> Option<String> {
        let caching = &self.caching;
        match &self.memory {
            Memory::Linear { feature_map: FeatureMap::Identity, normalized: false } => {}
            Memory::Linear { normalized: true, .. } => return Some("memory.normalized".into()),
            Memory::Linear { .. } => return Some("memory.feature_map other than identity".into()),
            Memory::Dla(deep) | Memory::Titans(deep) => {
                if deep.step_size.constant().is_none() {
                    return Some("memory.step_size \"input\"".into());
                }
                if deep.retention.constant().is_none() {
                    return Some("memory.retention \"input\"".into());
                }
            }
            memory => return Some(format!("memory.kind {}", memory.kind())),
        }
        caching.unsupported()
    }

    /// The state tensors, in the order of the function's inputs and outputs: the memory's parameters (`m`; `h`; or
    /// `w1`, `b1`, `w2`, …), the momentum of each (`s_w1`, …) when there is one, and `context` when reads are gated.
    pub fn tensors(&self) -> Vec<MemoryTensor> {
        let dh = self.head_size;
        let tensor = |name: String, shape: Vec<usize>, cached| MemoryTensor { name, shape, cached };
        let mut tensors = Vec::new();
        match &self.memory {
            Memory::Dla(deep) | Memory::Titans(deep) => {
                let sizes = deep.layer_sizes(dh);
                let parameters = |prefix: &str, cached| {
                    let mut layers = Vec::new();
                    for (j, io) in sizes.windows(2).enumerate() {
                        layers.push(tensor(format!("{prefix}w{}", j + 1), vec![io[1], io[0]], cached));
                        if deep.bias {
                            layers.push(tensor(format!("{prefix}b{}", j + 1), vec![io[1]], cached));
                        }
                    }
                    layers
                };
                tensors.extend(parameters("", true));
                if deep.momentum != 0.0 {
                    tensors.extend(parameters("s_", false));
                }
            }
            Memory::Gru {} => tensors.push(tensor("h".into(), vec![dh], true)),
            _ => tensors.push(tensor("m".into(), vec![dh, dh], true)),
        }
        if self.caching.aggregation.is_gated() {
            tensors.push(tensor("context".into(), vec![dh], true));
        }
        if !self.is_cached() {
            tensors.iter_mut().for_each(|tensor| tensor.cached = false);
        }
        tensors
    }

    /// Whether reads touch checkpoints at all.
    pub fn is_cached(&self) -> bool {
        self.caching.aggregation != Aggregation::None
    }

    /// The inputs, in order.
    pub fn inputs(&self) -> Vec<Role> {
        let tensors = self.tensors();
        let gated = self.caching.aggregation.is_gated();
        let mut roles = vec![Role::Q, Role::K, Role::V];
        if gated && self.caching.query == Query::U {
            roles.push(Role::U);
        }
        roles.extend((0..tensors.len()).map(Role::State));
        if gated && self.caching.context == Context::Mean {
            roles.push(Role::SegmentLength);
        }
        if self.is_cached() {
            roles.extend((0..tensors.len()).filter(|&i| tensors[i].cached).map(Role::Cache));
            roles.push(Role::CacheLength);
        }
        roles
    }

    /// The outputs, in order.
    pub fn outputs(&self) -> Vec<Role> {
        let states = (0..self.tensors().len()).map(Role::State);
        std::iter::once(Role::Y).chain(states).collect()
    }

    /// For each output, the index of the input that it has the shape of: y that of q, a present that of its past.
    pub fn output_sources(&self) -> Vec<usize> {
        let inputs = self.inputs();
        let of = |role| inputs.iter().position(|input| *input == role);
        self.outputs().iter().map(|output| of(*output).unwrap_or(0)).collect()
    }
}

impl Caching {
    /// The first thing in it that graphs and runtimes cannot do yet, whatever the memory; by its name in `config.json`.
    pub fn unsupported(&self) -> Option<String> {
        match self.segmentation {
            Segmentation::Constant { .. } => None,
            Segmentation::Logarithmic {} => Some("caching.segmentation.kind logarithmic".into()),
        }
    }
}

impl crate::spec::Deep {
    /// Sizes of the layers' inputs and of the output, `[depth + 1]`: dh, width, …, width, dh.
    pub fn layer_sizes(&self, head_size: usize) -> Vec<usize> {
        let mut sizes = vec![self.width; self.depth + 1];
        sizes[0] = head_size;
        sizes[self.depth] = head_size;
        sizes
    }
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

    /// Tokens in a segment, when segments are constant.
    pub fn segment_tokens(&self) -> Option<usize> {
        match self.segmentation {
            Segmentation::Constant { size } => Some(size),
            Segmentation::Logarithmic {} => None,
        }
    }

    fn check(&self) -> Result<(), ContractError> {
        positive("batch", self.batch)?;
        positive("capacity", self.capacity)?;
        positive("chunk", self.chunk)?;
        positive("input.size", self.input.size())?;
        positive("output.size", self.output.size)?;
        if let Some(tokens) = self.segment_tokens() {
            positive("segmentation.size", tokens)?;
        }
        self.state.iter().try_for_each(|state| self.check_state(state))?;
        self.cache.iter().try_for_each(|cache| self.check_cache(cache))?;
        self.check_blocks()
    }

    fn check_state(&self, state: &StateTensor) -> Result<(), ContractError> {
        shape(&state.past, &state.shape)?;
        if state.dtype != Dtype::F32 {
            return Err(value(format!("state {}", state.past), format!("{:?}", state.dtype), "f32"));
        }
        if state.shape.first() != Some(&self.batch) {
            let expected = format!("[{}, …]", self.batch);
            return Err(value(format!("state {}", state.past), format!("{:?}", state.shape), expected));
        }
        Ok(())
    }

    /// A cache tensor is its source with a slot axis of `capacity` put in.
    fn check_cache(&self, cache: &CacheTensor) -> Result<(), ContractError> {
        shape(&cache.name, &cache.shape)?;
        let key = format!("cache {}", cache.name);
        let Some(state) = self.state.iter().find(|state| state.present == cache.from) else {
            return Err(value(format!("{key} from"), &cache.from, "the `present` of a state tensor"));
        };
        if cache.slot_axis > state.shape.len() {
            return Err(value(format!("{key} slot_axis"), cache.slot_axis, "an axis of the tensor"));
        }
        let mut expected = state.shape.clone();
        expected.insert(cache.slot_axis, self.capacity);
        if cache.shape != expected {
            return Err(value(format!("{key} shape"), format!("{:?}", cache.shape), format!("{expected:?}")));
        }
        Ok(())
    }

    /// Every block's function has its tensors in `state` and `cache`, with the shapes that it implies.
    fn check_blocks(&self) -> Result<(), ContractError> {
        if let Some(pair) = self.blocks.windows(2).find(|pair| pair[0].block >= pair[1].block) {
            let expected = format!("more than {}, the entry's before it", pair[0].block);
            return Err(value("blocks[].block", pair[1].block, expected));
        }
        for block in &self.blocks {
            let i = block.block;
            let at = format!("blocks[{i}]");
            block.memory.memory.check(&at)?;
            block.memory.caching.check(&at, &block.memory.memory)?;
            positive(&format!("{at}.num_heads"), block.memory.num_heads)?;
            positive(&format!("{at}.head_size"), block.memory.head_size)?;
            if let Some(feature) = block.memory.unsupported() {
                return Err(ContractError::Unsupported { block: i, feature });
            }
            for tensor in block.memory.tensors() {
                let past = format!("past.{i}.{}", tensor.name);
                let mut expected = vec![self.batch, block.memory.num_heads];
                expected.extend(&tensor.shape);
                let found = self.state.iter().find(|state| state.past == past).map(|state| &state.shape);
                if found != Some(&expected) {
                    return Err(value(
                        format!("state {past}"),
                        format!("{found:?}"),
                        format!("{expected:?}"),
                    ));
                }
                let name = format!("cache.{i}.{}", tensor.name);
                if tensor.cached != self.cache.iter().any(|cache| cache.name == name) {
                    let found = if tensor.cached { "absent" } else { "present" };
                    return Err(value(format!("cache {name}"), found, "what the block's aggregation reads"));
                }
            }
        }
        Ok(())
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

fn value(key: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> ContractError {
    ContractError::Value { key: key.into(), found: found.to_string(), expected: expected.into() }
}

fn positive(key: &str, found: usize) -> Result<(), ContractError> {
    if (1..=MAX_ELEMENTS).contains(&found) {
        return Ok(());
    }
    Err(value(key, found, format!("1 to {MAX_ELEMENTS}")))
}

fn shape(name: &str, shape: &[usize]) -> Result<(), ContractError> {
    let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    match elements {
        Some(1..=MAX_ELEMENTS) => Ok(()),
        _ => Err(value(
            format!("shape of {name}"),
            format!("{shape:?}"),
            format!("1 to {MAX_ELEMENTS} elements"),
        )),
    }
}
