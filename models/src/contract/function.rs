//! A memory function: what a block computes, and the tensors that it takes and gives.

use serde::{Deserialize, Serialize};

use super::Dtype;
use crate::spec::{Aggregation, Caching, Context, Deep, Memory, Norm, Query, Segmentation};

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
    /// What it computes of the block around the memory: all of the mixer, or, without, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixer: Option<Mixer>,
}

/// What stands around the memory of a function that computes a block's whole mixer: from the block's input h,
/// y = h + W_o m(W norm(h) + b), where m is the memory, asked with all of its projections at once.
///
/// A function without one is given what the memory itself takes: [`MemoryFunction::operands`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixer {
    /// Of h, before the projections.
    pub norm: Norm,
    /// Whether there is a W_o: [`Role::OutputWeight`].
    pub output: bool,
    /// Whether h is added.
    pub residual: bool,
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
    /// `[B, T, D]` f32: the block's input h, before its norm. This and the next five are a [`Mixer`]'s.
    H,
    /// `[D]` f32: the norm's weight.
    NormWeight,
    /// `[D]` f32: a layer norm's bias.
    NormBias,
    /// `[D, C]` f32: W transposed, for a row on its left, the columns of each of [`MemoryFunction::projected`] in turn.
    ProjectionWeight,
    /// `[C]` f32: b, where one of them has a bias, 0 for the others.
    ProjectionBias,
    /// `[D, D]` f32: W_o transposed.
    OutputWeight,
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
        let operands = self.operands();
        let Some(mixer) = self.mixer else { return operands };
        let projected = self.projected();
        let is_projected = |role: &Role| projected.iter().any(|(own, _)| own == role);
        let mut roles = vec![Role::H];
        roles.extend((mixer.norm != Norm::None).then_some(Role::NormWeight));
        roles.extend((mixer.norm == Norm::LayerNorm).then_some(Role::NormBias));
        roles.push(Role::ProjectionWeight);
        roles.extend(projected.iter().any(|(role, _)| role.has_bias()).then_some(Role::ProjectionBias));
        roles.extend(mixer.output.then_some(Role::OutputWeight));
        roles.extend(operands.into_iter().filter(|role| !is_projected(role)));
        roles
    }

    /// What a [`Mixer`] projects h to, with its columns: the operands that have a row a token, in their order.
    pub fn projected(&self) -> Vec<(Role, usize)> {
        let columns = |role| match self.shape(role, 0) {
            (Lead::Token, columns) => Some((role, columns.iter().product())),
            _ => None,
        };
        self.operands().into_iter().filter_map(columns).collect()
    }

    /// C, the columns of all that is [projected](MemoryFunction::projected).
    fn projections(&self) -> usize {
        self.projected().iter().map(|(_, columns)| columns).sum()
    }

    /// What the memory itself takes, in order: all inputs of a function without a [`Mixer`]. The first has a row a token.
    pub fn operands(&self) -> Vec<Role> {
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
            Role::H | Role::Q | Role::K | Role::V | Role::U | Role::Y => (Lead::Token, vec![d]),
            Role::NormWeight | Role::NormBias => (Lead::Whole, vec![d]),
            Role::ProjectionWeight => (Lead::Whole, vec![d, self.projections()]),
            Role::ProjectionBias => (Lead::Whole, vec![self.projections()]),
            Role::OutputWeight => (Lead::Whole, vec![d, d]),
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

impl Role {
    /// Whether a [`Mixer`]'s projection to it has a bias.
    fn has_bias(self) -> bool {
        matches!(self, Role::X | Role::Coefficient(_))
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
