//! The contract of a bundle's graphs: the names, shapes and roles of its tensors, as JSON inside every `.onnx`.

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::spec::{Aggregation, Caching, Context, Deep, Init, Memory, Query, Segmentation, SpecError};

/// The schema that this crate writes and reads, the value of `schema`.
pub const SCHEMA: &str = "mcedge.contract/1";
/// The key of the contract in a graph's `metadata_props`.
pub const METADATA_KEY: &str = "mcedge.contract";
/// The domain of the memory functions, whose bodies are standard ops and which a runtime may replace by a kernel.
pub const DOMAIN: &str = "org.mcedge";

/// The largest number of elements of one tensor that a contract may declare: 2 GiB of f32.
const MAX_ELEMENTS: usize = 1 << 29;
/// The most tensors of a state, and of a cache: more than any `config.json` comes to, and few enough that each may be
/// looked for among all.
const MAX_TENSORS: usize = 1 << 14;
/// The most streams of a batch: each costs a runtime a little, even where the contract has no tensor for it.
const MAX_BATCH: usize = 1 << 12;

/// The largest number of elements of state and cache together: 4 GiB of f32.
const MAX_TOTAL: usize = 1 << 30;

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
/// Its inputs and outputs are the lists of [`MemoryFunction::inputs`] and [`MemoryFunction::outputs`].
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
    /// Element type of its cache; contexts stay f32, so that a narrower one moves no gate.
    #[serde(default = "Dtype::f32")]
    pub cache_dtype: Dtype,
    /// Whether it says who was read: [`Role::Gates`].
    #[serde(default)]
    pub gates: bool,
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
    /// Whether the next token needs it: it has a `past`. What is made for checkpoints alone has none.
    pub carried: bool,
}

/// What the shape of an input or output begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// `[B, T, …]`: a row a token.
    Token,
    /// `[B, …]`: one a stream.
    Stream,
    /// `[…]`: one for all streams, a weight.
    Whole,
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
    /// `[B, T, G · D]` f32: W_ih x + b_ih of a GRU's (G = 3) or an LSTM's (G = 4) gates, in PyTorch's order.
    X,
    /// `[B, T, H]` f32: entry `index` of [`Memory::coefficients`], where it comes from the input; after the sigmoid.
    Coefficient(usize),
    /// `[G · D, D]` f32: W_hh of a GRU or an LSTM.
    RecurrentWeight,
    /// `[G · D]` f32: b_hh.
    RecurrentBias,
    /// `[D, 2 D]` f32: W_g of the aggregation `sigmoid`.
    GateWeight,
    /// `[D]` f32: b_g.
    GateBias,
    /// Tensor `index` of [`MemoryFunction::tensors`], `[B, H, …]` f32.
    State(usize),
    /// `[B]` int64: tokens already in the online segment.
    SegmentLength,
    /// Tensor `index` of [`MemoryFunction::tensors`], `[B, H, N, …]` f32, f16 or i8.
    Cache(usize),
    /// What an element of 1 stands for in `Cache` of the same index, when that is i8: `[B, H, N]` f32.
    Steps(usize),
    /// `[B]` int64: live slots.
    CacheLength,
    /// Output `[B, T, D]` f32: the heads' reads, concatenated.
    Y,
    /// Output `[B, T, H, N + 1]` f32: the weight of each slot in the read (0 where nothing is live), the online memory
    /// last. Of `sigmoid`, whose gates have a channel each: their mean over the head's channels, and 1 for the online
    /// memory.
    Gates,
    /// Output `[B, T, H]` f32: the loss of the token's write, before it; see [`Segmentation::Surprise`].
    Loss,
}

impl MemoryFunction {
    /// The state tensors, in the order of the function's inputs and outputs.
    ///
    /// | memory | tensors |
    /// |---|---|
    /// | `linear` | `m`, and `z` when normalised |
    /// | `swla` | `m`, and the previous token's `k` and `v` |
    /// | `gated_delta` | `m` |
    /// | `dla`, `titans` | `w1`, `b1`, `w2`, …, then the momentum of each, `s_w1`, …, when there is one |
    /// | `gru`, `lstm` | `h`, and `c` of an LSTM; with `sigmoid` also `gate`, the part of W_g \[h; h_i\] that is h_i's |
    /// | `attention` | the window's `k` and `v`, oldest first, and `live`: 1 where it holds a token, else 0 |
    ///
    /// Last comes `context` when reads are gated.
    pub fn tensors(&self) -> Vec<MemoryTensor> {
        let (dh, is_cached) = (self.head_size, self.is_cached());
        let carried = |name: &str, shape: &[usize], cached: bool| MemoryTensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            cached: cached && is_cached,
            carried: true,
        };
        let mut tensors = match &self.memory {
            Memory::Linear { normalized: true, .. } => {
                vec![carried("m", &[dh, dh], true), carried("z", &[dh], true)]
            }
            Memory::Linear { .. } | Memory::GatedDelta { .. } => vec![carried("m", &[dh, dh], true)],
            Memory::Swla { .. } => {
                vec![carried("m", &[dh, dh], true), carried("k", &[dh], false), carried("v", &[dh], false)]
            }
            Memory::Dla(deep) | Memory::Titans(deep) => deep_tensors(deep, dh, carried),
            Memory::Gru {} => vec![carried("h", &[dh], true)],
            Memory::Lstm {} => vec![carried("h", &[dh], true), carried("c", &[dh], false)],
            Memory::Attention { window } => vec![
                carried("k", &[*window, dh], false),
                carried("v", &[*window, dh], false),
                carried("live", &[*window], false),
            ],
        };
        if self.caching.aggregation == Aggregation::Sigmoid {
            tensors.push(MemoryTensor { carried: false, ..carried("gate", &[dh], true) });
        }
        if self.caching.aggregation.is_gated() {
            tensors.push(carried("context", &[dh], true));
        }
        tensors
    }

    /// Whether reads touch checkpoints at all.
    pub fn is_cached(&self) -> bool {
        self.caching.aggregation != Aggregation::None
    }

    /// Whether it gives [`Role::Loss`].
    pub fn has_loss(&self) -> bool {
        matches!(self.caching.segmentation, Segmentation::Surprise { .. }) && self.memory.has_loss()
    }

    /// Whether it gives [`Role::Gates`]: when asked to, and some are weighed more than others.
    pub fn has_gates(&self) -> bool {
        self.gates
            && (self.caching.aggregation.is_gated() || self.caching.aggregation == Aggregation::Sigmoid)
    }

    /// Element type of a cached tensor.
    pub fn dtype(&self, tensor: &MemoryTensor) -> Dtype {
        match self.cache_dtype {
            _ if tensor.name == "context" => Dtype::F32,
            dtype => dtype,
        }
    }

    /// The inputs, in order. The first has a row a token.
    pub fn inputs(&self) -> Vec<Role> {
        let tensors = self.tensors();
        let (gated, sigmoid) =
            (self.caching.aggregation.is_gated(), self.caching.aggregation == Aggregation::Sigmoid);
        let recurrent = self.memory.is_recurrent();
        let mut roles = Vec::new();
        let mut add = |role, is_there: bool| roles.extend(is_there.then_some(role));
        add(Role::X, recurrent);
        add(Role::Q, !recurrent);
        add(Role::K, !recurrent || gated);
        add(Role::V, !recurrent);
        add(Role::U, gated && self.caching.query == Query::U);
        for (index, (_, coefficient)) in self.memory.coefficients().into_iter().enumerate() {
            add(Role::Coefficient(index), coefficient.constant().is_none());
        }
        add(Role::RecurrentWeight, recurrent);
        add(Role::RecurrentBias, recurrent);
        add(Role::GateWeight, sigmoid);
        add(Role::GateBias, sigmoid);
        for (index, tensor) in tensors.iter().enumerate() {
            add(Role::State(index), tensor.carried);
        }
        add(Role::SegmentLength, gated && self.caching.context == Context::Mean);
        for (index, tensor) in tensors.iter().enumerate() {
            add(Role::Cache(index), tensor.cached);
            add(Role::Steps(index), tensor.cached && self.dtype(tensor) == Dtype::I8);
        }
        add(Role::CacheLength, self.is_cached());
        roles
    }

    /// The outputs, in order: y, every one of [`MemoryFunction::tensors`], and what else it has.
    pub fn outputs(&self) -> Vec<Role> {
        let mut roles = vec![Role::Y];
        roles.extend((0..self.tensors().len()).map(Role::State));
        roles.extend(self.has_gates().then_some(Role::Gates));
        roles.extend(self.has_loss().then_some(Role::Loss));
        roles
    }

    /// The shape of an input or output with a cache of `capacity` slots: what it begins with, and the rest.
    pub fn shape(&self, role: Role, capacity: usize) -> (Lead, Vec<usize>) {
        let (heads, d) = (self.num_heads, self.num_heads * self.head_size);
        let gates = self.memory.cell_gates().unwrap_or_default();
        let tensor = |index: usize| self.tensors().swap_remove(index).shape;
        match role {
            Role::Q | Role::K | Role::V | Role::U | Role::Y => (Lead::Token, vec![d]),
            Role::X => (Lead::Token, vec![gates * d]),
            Role::Coefficient(_) | Role::Loss => (Lead::Token, vec![heads]),
            Role::Gates => (Lead::Token, vec![heads, capacity + 1]),
            Role::RecurrentWeight => (Lead::Whole, vec![gates * d, d]),
            Role::RecurrentBias => (Lead::Whole, vec![gates * d]),
            Role::GateWeight => (Lead::Whole, vec![d, 2 * d]),
            Role::GateBias => (Lead::Whole, vec![d]),
            Role::State(index) => (Lead::Stream, [&[heads], &tensor(index)[..]].concat()),
            Role::Cache(index) => (Lead::Stream, [&[heads, capacity], &tensor(index)[..]].concat()),
            Role::Steps(_) => (Lead::Stream, vec![heads, capacity]),
            Role::SegmentLength | Role::CacheLength => (Lead::Stream, vec![]),
        }
    }
}

/// Parameters of an MLP memory, then their momenta.
fn deep_tensors(
    deep: &Deep,
    head_size: usize,
    carried: impl Fn(&str, &[usize], bool) -> MemoryTensor,
) -> Vec<MemoryTensor> {
    let sizes = deep.layer_sizes(head_size);
    let parameters = |prefix: &str, cached| {
        let mut layers = Vec::new();
        for (j, io) in (1..).zip(sizes.windows(2)) {
            layers.push(carried(&format!("{prefix}w{j}"), &[io[1], io[0]], cached));
            layers.extend(deep.bias.then(|| carried(&format!("{prefix}b{j}"), &[io[1]], cached)));
        }
        layers
    };
    let mut tensors = parameters("", true);
    if deep.momentum != 0.0 {
        tensors.extend(parameters("s_", false));
    }
    tensors
}

impl Deep {
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
            Segmentation::Logarithmic {} | Segmentation::Surprise { .. } => None,
        }
    }

    fn check(&self) -> Result<(), ContractError> {
        if !(1..=MAX_BATCH).contains(&self.batch) {
            return Err(value("batch", self.batch, format!("1 to {MAX_BATCH}")));
        }
        positive("capacity", self.capacity)?;
        positive("chunk", self.chunk)?;
        positive("input.size", self.input.size())?;
        shape("output", &[self.batch, self.output.size])?;
        if let Input::Features { size, .. } = self.input {
            shape("input", &[self.batch, size])?;
        }
        self.segmentation.check("segmentation")?;
        self.check_lists()?;
        self.check_size()?;
        self.state.iter().try_for_each(|state| self.check_state(state))?;
        self.cache.iter().try_for_each(|cache| self.check_cache(cache))?;
        self.check_blocks()
    }

    /// All that a stream remembers fits a machine.
    fn check_size(&self) -> Result<(), ContractError> {
        let shapes =
            self.state.iter().map(|state| &state.shape).chain(self.cache.iter().map(|cache| &cache.shape));
        let total = shapes.fold(0usize, |total, shape| {
            let elements = shape.iter().fold(1usize, |product, &size| product.saturating_mul(size));
            total.saturating_add(elements)
        });
        if total > MAX_TOTAL {
            let expected = format!("at most {MAX_TOTAL} elements");
            return Err(value("state and cache", format!("{total} elements"), expected));
        }
        Ok(())
    }

    /// Lists are no longer than a model's, those that speak of channels have one entry a channel or none, and no two
    /// tensors share a name.
    fn check_lists(&self) -> Result<(), ContractError> {
        for (key, found) in [("state", self.state.len()), ("cache", self.cache.len())] {
            if found > MAX_TENSORS {
                return Err(value(
                    key,
                    format!("a list of {found}"),
                    format!("at most {MAX_TENSORS} tensors"),
                ));
            }
        }
        if let Input::Features { size, names, units, .. } = &self.input {
            listed("input.names", names.len(), *size)?;
            listed("input.units", units.len(), *size)?;
        }
        listed("output.labels", self.output.labels.len(), self.output.size)?;
        listed("output.std", self.output.std.len(), self.output.size)?;
        let std = &self.output.std;
        if let Some(i) = std.iter().position(|x| !(x.is_finite() && *x > 0.0)) {
            return Err(value(format!("output.std[{i}]"), std[i], "a positive number"));
        }
        let state = self.state.iter().flat_map(|state| [&state.past, &state.present]);
        let caches = self.cache.iter().flat_map(|cache| std::iter::once(&cache.name).chain(&cache.steps));
        let mut names: Vec<&String> = state.chain(caches).collect();
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(value("tensors", format!("`{}` twice", pair[0]), "a name for each")),
            None => Ok(()),
        }
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

    /// A cache tensor has a slot axis of `capacity`, and is otherwise like the state that it is copied from.
    fn check_cache(&self, cache: &CacheTensor) -> Result<(), ContractError> {
        shape(&cache.name, &cache.shape)?;
        let key = format!("cache {}", cache.name);
        let found = format!("{:?}", cache.shape);
        if cache.slot_axis == 0 || cache.shape.get(cache.slot_axis) != Some(&self.capacity) {
            let expected =
                format!("{} slots at axis {}, which is not the batch's", self.capacity, cache.slot_axis);
            return Err(value(format!("{key} shape"), found, expected));
        }
        if cache.shape[0] != self.batch {
            return Err(value(format!("{key} shape"), found, format!("[{}, …]", self.batch)));
        }
        let state = self.state.iter().find(|state| state.present == cache.from);
        let mut source = cache.shape.clone();
        source.remove(cache.slot_axis);
        if let Some(state) = state.filter(|state| state.shape != source) {
            let expected = format!("{:?} with an axis of {} slots", state.shape, self.capacity);
            return Err(value(format!("{key} shape"), found, expected));
        }
        match (cache.dtype, &cache.steps) {
            (Dtype::I8, None) => {
                Err(value(format!("{key} steps"), "absent", "the name of an input, with i8"))
            }
            (Dtype::I8, Some(_)) if cache.slot_axis != 2 => {
                Err(value(format!("{key} slot_axis"), cache.slot_axis, "2, with i8"))
            }
            (Dtype::F32 | Dtype::F16, Some(_)) => {
                Err(value(format!("{key} steps"), "present", "no such key without i8"))
            }
            _ => Ok(()),
        }
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
            block.memory.memory.check(&format!("{at}.memory"))?;
            block.memory.caching.check(&format!("{at}.caching"), &block.memory.memory)?;
            self.check_clock(&at, &block.memory.caching)?;
            let twin = self.blocks.iter().find(|twin| twin.function == block.function);
            if twin.is_some_and(|twin| twin.memory != block.memory) {
                let expected = "one meaning for each name";
                return Err(value(format!("{at}.function"), &block.function, expected));
            }
            positive(&format!("{at}.num_heads"), block.memory.num_heads)?;
            positive(&format!("{at}.head_size"), block.memory.head_size)?;
            for tensor in block.memory.tensors() {
                self.check_tensor(block, &tensor)?;
            }
        }
        Ok(())
    }

    /// When a tensor of a block's function may go back to its start. A linear memory that reads no checkpoint may be one
    /// whose segments have collapsed into a matrix that is never reset.
    fn resets(&self, function: &MemoryFunction, tensor: &MemoryTensor) -> &'static [Reset] {
        match (&function.memory, self.init) {
            _ if tensor.name == "context" => &[Reset::Segment],
            (Memory::Attention { .. }, _) | (_, Init::Continue) => &[Reset::Never],
            (Memory::Linear { .. }, Init::Restart) if !function.is_cached() => {
                &[Reset::Restart, Reset::Never]
            }
            (_, Init::Restart) => &[Reset::Restart],
        }
    }

    /// A block is cut where the stream is, and starts its segments alike.
    fn check_clock(&self, at: &str, caching: &Caching) -> Result<(), ContractError> {
        if caching.segmentation != self.segmentation {
            let (found, expected) =
                (format!("{:?}", caching.segmentation), format!("{:?}, the contract's", self.segmentation));
            return Err(value(format!("{at}.caching.segmentation"), found, expected));
        }
        if caching.init != self.init {
            let (found, expected) =
                (format!("{:?}", caching.init), format!("{:?}, the contract's", self.init));
            return Err(value(format!("{at}.caching.init"), found, expected));
        }
        Ok(())
    }

    /// A tensor of a block's function is there as state and as cache, exactly where the function has it.
    fn check_tensor(&self, block: &BlockFunction, tensor: &MemoryTensor) -> Result<(), ContractError> {
        let (i, function, name) = (block.block, &block.memory, &tensor.name);
        let past = format!("past.{i}.{name}");
        let expected = [&[self.batch, function.num_heads], &tensor.shape[..]].concat();
        let state = self.state.iter().find(|state| state.past == past);
        let found = state.map(|state| &state.shape);
        if found != tensor.carried.then_some(&expected) {
            let expected = if tensor.carried { format!("{expected:?}") } else { "no such tensor".into() };
            return Err(value(format!("state {past}"), format!("{found:?}"), expected));
        }
        let resets = self.resets(function, tensor);
        if let Some(state) = state.filter(|state| !resets.contains(&state.reset)) {
            let (found, expected) = (format!("{:?}", state.reset), format!("{:?}", resets[0]));
            return Err(value(format!("state {past} reset"), found, expected));
        }
        let cached = format!("cache.{i}.{name}");
        let cache = self.cache.iter().find(|cache| cache.name == cached);
        if tensor.cached != cache.is_some() {
            let found = if tensor.cached { "absent" } else { "present" };
            return Err(value(format!("cache {cached}"), found, "what the block's aggregation reads"));
        }
        let Some(cache) = cache else { return Ok(()) };
        let (from, dtype) = (format!("present.{i}.{name}"), function.dtype(tensor));
        if cache.from != from || cache.slot_axis != 2 || cache.dtype != dtype {
            let found = format!("{:?} from {} at slot axis {}", cache.dtype, cache.from, cache.slot_axis);
            return Err(value(
                format!("cache {cached}"),
                found,
                format!("{dtype:?} from {from} at slot axis 2"),
            ));
        }
        let is_mean = tensor.name == "context" && function.caching.context == Context::Mean;
        let scale = if is_mean { Scale::Mean } else { Scale::None };
        if cache.scale != scale {
            let (found, expected) = (format!("{:?}", cache.scale), format!("{scale:?}"));
            return Err(value(format!("cache {cached} scale"), found, expected));
        }
        let expected = [&[self.batch, function.num_heads, self.capacity], &tensor.shape[..]].concat();
        if cache.shape != expected {
            let found = format!("{:?}", cache.shape);
            return Err(value(format!("cache {cached} shape"), found, format!("{expected:?}")));
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

fn listed(key: &str, found: usize, channels: usize) -> Result<(), ContractError> {
    if found == 0 || found == channels {
        return Ok(());
    }
    Err(value(key, format!("a list of {found}"), format!("{channels} entries, or none")))
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
