//! `model.safetensors`: a model's parameters, checked against its [`Spec`] by name, shape, type and value.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::spec::{Aggregation, Block, Coefficient, Init, Input, Memory, Norm, Query, Segmentation, Spec};
use crate::tensor::{Float, Tensor, elements, write_safetensors};

/// The largest number of elements of one parameter: 2 GiB of f32.
const MAX_ELEMENTS: usize = 1 << 29;

/// Why tensors are not the weights of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// Not a safetensors file, or a broken one.
    #[error("not a safetensors file: {0}")]
    Format(safetensors::SafeTensorError),
    /// A tensor that the model needs.
    #[error("`{name}` is missing, the model declares it with shape {expected:?}")]
    Missing {
        /// The tensor.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
    },
    /// A tensor that the model has no use for.
    #[error("`{name}` has no place in the model: {reason}")]
    Extra {
        /// The tensor.
        name: String,
        /// What in the config keeps it out.
        reason: String,
    },
    /// A tensor of another shape.
    #[error("`{name}` has shape {found:?}, the model declares {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that the config implies.
        expected: Vec<usize>,
    },
    /// A tensor of a type that is not read.
    #[error("`{name}` has type {found}, expected F32, F16 or BF16")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// NaN or an infinity.
    #[error("`{name}` holds {value} at element {index}, expected finite numbers")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Row-major index of the first such element.
        index: usize,
        /// NaN, inf or -inf.
        value: f32,
    },
    /// A tensor whose data contradicts its own shape.
    #[error("`{name}` of shape {shape:?} holds {found} numbers")]
    Length {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Numbers in it.
        found: usize,
    },
    /// A config whose parameters no machine holds.
    #[error("`{name}` would have shape {shape:?}, expected at most {MAX_ELEMENTS} elements")]
    Size {
        /// The tensor.
        name: String,
        /// The shape that the config implies.
        shape: Vec<usize>,
    },
}

/// A tensor that a model has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// As in `model.safetensors`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether it may be left out: a memory's initial state is then zero, a head has no bias, and the read of a
    /// recurrent memory no projection.
    pub optional: bool,
}

/// A model's parameters.
///
/// # Invariants
///
/// Exactly the tensors of [`parameters`], except for optional ones that were left out; each of its declared shape,
/// with as many numbers as that, all finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
}

impl Weights {
    /// Reads and checks the bytes of `model.safetensors`; f32, f16 and bf16 become f32.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] names the tensor, what was found and what was expected. Names, shapes and types are checked
    /// before any data is read.
    pub fn from_safetensors(bytes: &[u8], spec: &Spec) -> Result<Self, WeightsError> {
        let file = SafeTensors::deserialize(bytes).map_err(WeightsError::Format)?;
        let views: BTreeMap<String, _> = file.tensors().into_iter().collect();
        check_names(spec, views.iter().map(|(name, view)| (name.as_str(), view.shape())))?;
        Self::from_named(decode(&file)?)
    }

    /// Checks tensors that were made in code.
    ///
    /// # Errors
    ///
    /// As [`Weights::from_safetensors`].
    pub fn new(tensors: BTreeMap<String, Tensor>, spec: &Spec) -> Result<Self, WeightsError> {
        check_names(spec, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice())))?;
        Self::from_named(tensors)
    }

    /// Weights without a meaning, for tests and benches: uniform numbers of variance 1 / (3 · fan-in). The same for the same
    /// spec, on every machine.
    pub fn made_up(spec: &Spec) -> Self {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut tensor = |parameter: Parameter| {
            let scale = 1.0 / (*parameter.shape.last().unwrap_or(&1) as f32).sqrt();
            let elements = parameter.shape.iter().product();
            let data = (0..elements).map(|_| uniform() * scale).collect();
            (parameter.name, Tensor { shape: parameter.shape, data })
        };
        Weights { tensors: parameters(spec).into_iter().map(&mut tensor).collect() }
    }

    /// Tensors whose names and shapes are known to be right.
    fn from_named(tensors: BTreeMap<String, Tensor>) -> Result<Self, WeightsError> {
        tensors.iter().try_for_each(|(name, tensor)| check_values(name, tensor))?;
        Ok(Weights { tensors })
    }

    /// The tensor of that name; `None` for an optional one that was left out.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors, by name in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The bytes of a `model.safetensors` with these weights as f32.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Format`] when the header passes the format's limit of 100 MB.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, WeightsError> {
        write_safetensors(&self.tensors).map_err(WeightsError::Format)
    }
}

/// The tensors of a file, as f32.
pub(crate) fn decode(file: &SafeTensors<'_>) -> Result<BTreeMap<String, Tensor>, WeightsError> {
    // By name in order, so that of several faults it is always the same one that is told.
    let views: BTreeMap<&str, TensorView<'_>> = file.iter().collect();
    views.into_iter().map(|(name, view)| Ok((name.to_owned(), decode_one(name, &view)?))).collect()
}

/// One tensor of a file, as f32.
pub(crate) fn decode_one(name: &str, view: &TensorView<'_>) -> Result<Tensor, WeightsError> {
    let Some(float) = Float::from_safetensors(view.dtype()) else {
        return Err(WeightsError::Dtype { name: name.to_owned(), found: format!("{:?}", view.dtype()) });
    };
    Ok(Tensor { shape: view.shape().to_vec(), data: float.decode(view.data()) })
}

/// As many numbers as the shape says, all of them finite.
pub(crate) fn check_values(name: &str, tensor: &Tensor) -> Result<(), WeightsError> {
    let name = || name.to_owned();
    if elements(&tensor.shape) != Some(tensor.data.len()) {
        let (shape, found) = (tensor.shape.clone(), tensor.data.len());
        return Err(WeightsError::Length { name: name(), shape, found });
    }
    match tensor.data.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(WeightsError::NotFinite { name: name(), index, value: tensor.data[index] }),
        None => Ok(()),
    }
}

/// Holds a shape against the declared one.
pub(crate) fn check_shape(name: &str, found: &[usize], expected: &[usize]) -> Result<(), WeightsError> {
    if found == expected {
        return Ok(());
    }
    Err(WeightsError::Shape { name: name.to_owned(), found: found.to_vec(), expected: expected.to_vec() })
}

fn check_size(parameter: &Parameter) -> Result<(), WeightsError> {
    if elements(&parameter.shape).is_some_and(|n| n <= MAX_ELEMENTS) {
        return Ok(());
    }
    Err(WeightsError::Size { name: parameter.name.clone(), shape: parameter.shape.clone() })
}

/// No parameter is too large to be made.
pub(crate) fn check_sizes(spec: &Spec) -> Result<(), WeightsError> {
    parameters(spec).iter().try_for_each(check_size)
}

/// Whether all that a block ever reads is one matrix that is never reset: the residual sum of restarted segments of a
/// linear memory that is not normalised and starts at zero. Such a block needs no checkpoints to compute what it would
/// with all of them.
///
/// Logarithmic segments are left out: a cache too small for their few checkpoints was meant to forget. So are those cut
/// by surprise: their losses are those of a memory that restarts.
pub fn collapses(spec: &Spec, weights: &Weights, block: usize) -> bool {
    let Some(Block { memory, caching, .. }) = spec.blocks.get(block) else { return false };
    let initial = weights.get(&format!("blocks.{block}.memory.init.m"));
    matches!(memory, Memory::Linear { normalized: false, .. })
        && caching.aggregation == Aggregation::Residual
        && caching.init == Init::Restart
        && matches!(caching.segmentation, Segmentation::Constant { .. })
        && initial.is_none_or(|m| m.data.iter().all(|&x| x == 0.0))
}

/// Holds names and shapes against the spec, both ways.
pub(crate) fn check_names<'a>(
    spec: &Spec,
    found: impl Iterator<Item = (&'a str, &'a [usize])>,
) -> Result<(), WeightsError> {
    let mut found: BTreeMap<&str, &[usize]> = found.collect();
    for parameter in parameters(spec) {
        check_size(&parameter)?;
        let Parameter { name, shape: expected, optional } = parameter;
        match found.remove(name.as_str()) {
            None if optional => {}
            None => return Err(WeightsError::Missing { name, expected }),
            Some(found) => check_shape(&name, found, &expected)?,
        }
    }
    match found.keys().next() {
        Some(&name) => Err(WeightsError::Extra { name: name.to_owned(), reason: reason(spec, name) }),
        None => Ok(()),
    }
}

/// The parameters of a model, in the order of the data's way through it: name and shape of each.
pub fn parameters(spec: &Spec) -> Vec<Parameter> {
    let d = spec.d_model;
    let mut list = List::default();
    match spec.input {
        Input::Tokens { vocab_size } => list.add("embed.weight", &[vocab_size, d]),
        Input::Features { size, .. } => list.linear("input", size, d),
    }
    for (i, block) in spec.blocks.iter().enumerate() {
        list.prefix = format!("blocks.{i}.");
        list.block(block, d);
    }
    list.prefix.clear();
    if spec.final_norm {
        list.norm("norm", Norm::LayerNorm, d);
    }
    list.add("head.weight", &[spec.head.size(), d]);
    list.add_optional("head.bias", &[spec.head.size()]);
    list.parameters
}

#[derive(Default)]
struct List {
    parameters: Vec<Parameter>,
    /// Goes before every name.
    prefix: String,
}

impl List {
    fn add(&mut self, name: &str, shape: &[usize]) {
        let name = format!("{}{name}", self.prefix);
        self.parameters.push(Parameter { name, shape: shape.to_vec(), optional: false });
    }

    fn add_optional(&mut self, name: &str, shape: &[usize]) {
        let name = format!("{}{name}", self.prefix);
        self.parameters.push(Parameter { name, shape: shape.to_vec(), optional: true });
    }

    fn linear(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.add(&format!("{name}.weight"), &[outputs, inputs]);
        self.add(&format!("{name}.bias"), &[outputs]);
    }

    fn norm(&mut self, name: &str, norm: Norm, d: usize) {
        if norm != Norm::None {
            self.add(&format!("{name}.weight"), &[d]);
        }
        if norm == Norm::LayerNorm {
            self.add(&format!("{name}.bias"), &[d]);
        }
    }

    fn block(&mut self, block: &Block, d: usize) {
        self.norm("norm", block.norm, d);
        self.mix(block, d);
        self.memory(block, d);
        if let Some(mlp) = &block.mlp {
            self.norm("mlp_norm", block.norm, d);
            self.linear("mlp.up", d, mlp.width);
            self.linear("mlp.down", mlp.width, d);
        }
    }

    fn mix(&mut self, block: &Block, d: usize) {
        let (recurrent, gated) = (block.memory.is_recurrent(), block.caching.aggregation.is_gated());
        if !recurrent {
            self.add("mix.q.weight", &[d, d]);
        }
        if !recurrent || gated {
            self.add("mix.k.weight", &[d, d]);
        }
        if !recurrent {
            self.add("mix.v.weight", &[d, d]);
        }
        if gated && block.caching.query == Query::U {
            self.add("mix.u.weight", &[d, d]);
        }
        if recurrent { self.add_optional("mix.o.weight", &[d, d]) } else { self.add("mix.o.weight", &[d, d]) }
    }

    fn memory(&mut self, block: &Block, d: usize) {
        let heads = block.num_heads;
        let dh = d / heads;
        match &block.memory {
            Memory::Linear { .. } | Memory::Swla { .. } | Memory::GatedDelta { .. } => {
                self.add_optional("memory.init.m", &[heads, dh, dh]);
            }
            Memory::Dla(deep) | Memory::Titans(deep) => {
                for (j, io) in deep.layer_sizes(dh).windows(2).enumerate() {
                    self.add_optional(&format!("memory.init.w{}", j + 1), &[heads, io[1], io[0]]);
                    if deep.bias {
                        self.add_optional(&format!("memory.init.b{}", j + 1), &[heads, io[1]]);
                    }
                }
            }
            Memory::Attention { .. } => {}
            Memory::Gru {} | Memory::Lstm {} => {
                let gates = block.memory.cell_gates().unwrap_or_default();
                self.recurrent(gates, block, d);
            }
        }
        for (name, coefficient) in block.memory.coefficients() {
            if let Coefficient::Input(_) = coefficient {
                self.add(&format!("memory.{name}.weight"), &[heads, d]);
                self.add(&format!("memory.{name}.bias"), &[heads]);
            }
        }
    }

    fn recurrent(&mut self, gates: usize, block: &Block, d: usize) {
        self.add("memory.weight_ih", &[gates * d, d]);
        self.add("memory.weight_hh", &[gates * d, d]);
        self.add("memory.bias_ih", &[gates * d]);
        self.add("memory.bias_hh", &[gates * d]);
        if block.caching.aggregation == Aggregation::Sigmoid {
            self.linear("memory.gate", 2 * d, d);
        }
    }
}

/// Why the model has no tensor of that name.
fn reason(spec: &Spec, name: &str) -> String {
    if name.starts_with("embed.") || name.starts_with("input.") {
        let kind = if matches!(spec.input, Input::Tokens { .. }) { "tokens" } else { "features" };
        return format!("`input.kind` is {kind}");
    }
    if name.starts_with("norm.") && !spec.final_norm {
        return "`final_norm` is false".into();
    }
    block_reason(spec, name).unwrap_or_else(|| "no such name in the format".into())
}

fn block_reason(spec: &Spec, name: &str) -> Option<String> {
    let (i, name) = name.strip_prefix("blocks.")?.split_once('.')?;
    let count = spec.blocks.len();
    let Some(block) = i.parse::<usize>().ok().and_then(|i| spec.blocks.get(i)) else {
        return Some(format!("it has {count} blocks, counted from 0"));
    };
    let (kind, caching) = (block.memory.kind(), &block.caching);
    let aggregation = format!("{:?}", caching.aggregation).to_lowercase();
    Some(match name {
        "norm.weight" | "norm.bias" => format!("`blocks[{i}].norm` is {}", norm_word(block.norm)),
        _ if name.starts_with("mlp") && block.mlp.is_none() => format!("`blocks[{i}].mlp` is absent"),
        "mlp_norm.weight" | "mlp_norm.bias" => {
            format!("`blocks[{i}].norm` is {}", norm_word(block.norm))
        }
        "mix.u.weight" if caching.aggregation.is_gated() => "scores are made with q, not u".into(),
        "mix.u.weight" => format!("aggregation {aggregation} makes no scores"),
        "mix.q.weight" | "mix.v.weight" | "mix.k.weight" if block.memory.is_recurrent() => {
            format!("a memory of kind {kind} with aggregation {aggregation} has no use for it")
        }
        _ if name.starts_with("memory.gate.") => format!("the aggregation is {aggregation}, not sigmoid"),
        _ if name.starts_with("memory.init.b") && block.memory.deep().is_some_and(|deep| !deep.bias) => {
            format!("`blocks[{i}].memory.bias` is false")
        }
        _ => {
            let coefficient = name.strip_prefix("memory.").and_then(|name| name.split('.').next());
            let known = block.memory.coefficients().into_iter().map(|(name, _)| name);
            match known.into_iter().find(|known| Some(*known) == coefficient) {
                Some(name) => format!("the coefficient {name} is not \"input\" in the config"),
                None => format!("a block with a memory of kind {kind} has no such name"),
            }
        }
    })
}

fn norm_word(norm: Norm) -> &'static str {
    match norm {
        Norm::LayerNorm => "layer_norm",
        Norm::RmsNorm => "rms_norm",
        Norm::None => "none",
    }
}
