//! The directory that `mcedge export` writes.

use std::collections::BTreeMap;
use std::path::Path;

use mcedge_models::contract::{Contract, Dtype, StateTensor};
use mcedge_models::spec::{Aggregation, Block, Init, Memory, Segmentation, Sign, Spec};
use mcedge_models::{ReplaceError, Tensor, Weights, replace_directory, write_safetensors};

use crate::error::{Error, Warning};
use crate::golden::golden;
use crate::lower::{Options, chunk_graph, step_graph};

const STEP: &str = "step.onnx";
const CHUNK: &str = "chunk.onnx";
const INITIAL_STATE: &str = "initial_state.safetensors";
const GOLDEN: &str = "golden.safetensors";
/// Everything that a bundle may hold, of this version or another.
const FILES: [&str; 4] = [STEP, CHUNK, INITIAL_STATE, GOLDEN];

/// A model ready to run: the bytes of a bundle's files.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// `step.onnx`.
    pub step: Vec<u8>,
    /// `chunk.onnx`, where segments have more than one token.
    pub chunk: Option<Vec<u8>>,
    /// `initial_state.safetensors`: every `past.*` at the start of a stream.
    pub initial_state: Vec<u8>,
    /// `golden.safetensors`: `input` and `output` of a run that the reference made.
    pub golden: Vec<u8>,
    /// The contract in the metadata of both graphs.
    pub contract: Contract,
    /// What the user should know.
    pub warnings: Vec<Warning>,
}

/// Exports a model.
///
/// The golden run fills and overflows a cache of `options.capacity`, in f32 whatever `options.cache_dtype` is. (Under
/// logarithmic segments, whose few checkpoints seldom fill a cache, it is long enough for several to merge.) Where that
/// would take more than 4096 tokens or some seconds, it fills what fits and [`Warning::GoldenTooShort`] says so; where the
/// model amplifies roundings until f32 and the reference part, it ends there and [`Warning::Unstable`] says so.
///
/// # Errors
///
/// [`Error`] says what is wrong with `spec`, `weights` or `options`, or why there is no golden run.
pub fn bundle(spec: &Spec, weights: &Weights, options: Options) -> Result<Bundle, Error> {
    let graph = step_graph(spec, weights, options)?;
    let chunk = chunk_graph(spec, weights, options)?;
    let (golden, golden_warnings) = golden(spec, weights, options.capacity)?;
    let mut warnings = climbing(spec);
    warnings.extend(saturating(spec, options));
    warnings.extend(golden_warnings);
    Ok(Bundle {
        step: graph.to_onnx(),
        chunk: chunk.map(|chunk| chunk.to_onnx()),
        initial_state: initial_state(weights, graph.contract())?,
        golden: golden.to_safetensors()?,
        contract: graph.contract().clone(),
        warnings,
    })
}

/// A warning for each block that climbs its loss.
fn climbing(spec: &Spec) -> Vec<Warning> {
    let climbs = |memory: &Memory| matches!(memory, Memory::Titans(deep) if deep.sign == Some(Sign::Paper));
    let blocks = spec.blocks.iter().enumerate();
    blocks
        .filter(|(_, block)| climbs(&block.memory))
        .map(|(block, _)| Warning::ClimbsLoss { block })
        .collect()
}

/// A warning for each block whose cache adds up states, in a type that ends at 65504.
fn saturating(spec: &Spec, options: Options) -> impl Iterator<Item = Warning> {
    let adds = spec.segmentation() == (Segmentation::Logarithmic {}) && spec.init() == Init::Restart;
    let is_cached = |block: &Block| block.caching.aggregation != Aggregation::None;
    let blocks = spec.blocks.iter().enumerate().filter(move |(_, block)| adds && is_cached(block));
    blocks.filter(move |_| options.cache_dtype == Dtype::F16).map(|(block, _)| Warning::Saturates { block })
}

/// Every `past.*`: `blocks.{i}.memory.init.*` for each stream of the batch, zeros where there is none.
fn initial_state(weights: &Weights, contract: &Contract) -> Result<Vec<u8>, Error> {
    let tensor = |state: &StateTensor| {
        let elements: usize = state.shape.iter().product();
        let data = match initial(weights, state) {
            Some(init) => init.data.repeat(elements / init.data.len()),
            None => vec![0.0; elements],
        };
        (state.past.clone(), Tensor { shape: state.shape.clone(), data })
    };
    let tensors: BTreeMap<String, Tensor> = contract.state.iter().map(tensor).collect();
    write_safetensors(&tensors).map_err(Error::InitialState)
}

/// The model's initial value of a state tensor, `[H, …]`.
fn initial<'w>(weights: &'w Weights, state: &StateTensor) -> Option<&'w Tensor> {
    let (block, name) = state.past.strip_prefix("past.")?.split_once('.')?;
    weights.get(&format!("blocks.{block}.memory.init.{name}"))
}

impl Bundle {
    /// Writes the bundle as a directory, in the place of an older one if there is one, as [`replace_directory`] does.
    ///
    /// # Errors
    ///
    /// [`Error::NotABundle`] when `path` holds anything but a bundle; [`Error::Io`] when something cannot be
    /// written. Then what was at `path` is still there.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let files = [(STEP, &self.step), (INITIAL_STATE, &self.initial_state), (GOLDEN, &self.golden)];
        let files = files.into_iter().chain(self.chunk.iter().map(|chunk| (CHUNK, chunk)));
        let files: Vec<(&str, &[u8])> = files.map(|(name, bytes)| (name, bytes.as_slice())).collect();
        replace_directory(path, &FILES, &files).map_err(not_written)
    }
}

fn not_written(error: ReplaceError) -> Error {
    match error {
        ReplaceError::Foreign { path, found } => Error::NotABundle { path, found },
        ReplaceError::Io { path, error } => Error::Io { path, source: error },
    }
}
