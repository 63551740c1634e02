//! The directory that `mcedge export` writes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io, process};

use mcedge_models::contract::{Contract, Dtype, StateTensor};
use mcedge_models::spec::{Aggregation, Block, Init, Memory, Segmentation, Sign, Spec};
use mcedge_models::{Tensor, Weights, write_safetensors};

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
    /// Writes the bundle as a directory, in the place of an older one if there is one. Nobody sees half a bundle: the
    /// files are written beside `path` and take its name together.
    ///
    /// # Errors
    ///
    /// [`Error::NotABundle`] when `path` holds anything but a bundle; [`Error::Io`] when something cannot be
    /// written. Then what was at `path` is still there.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let target = resolve(path)?;
        let exists = check_replaceable(&target)?;
        let (fresh, old) = (beside(&target, "new"), beside(&target, "old"));
        let written = self.write_files(&fresh).and_then(|()| {
            if exists {
                fs::rename(&target, &old).map_err(io_error(&target))?;
            }
            fs::rename(&fresh, &target).map_err(|source| {
                // Whatever the reason, the older bundle goes back; a second failure has nothing to add.
                let _ = fs::rename(&old, &target);
                Error::Io { path: target.clone(), source }
            })
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&fresh);
        } else if exists {
            fs::remove_dir_all(&old).map_err(io_error(&old))?;
        }
        written
    }

    fn write_files(&self, directory: &Path) -> Result<(), Error> {
        fs::create_dir_all(directory).map_err(io_error(directory))?;
        let files = [(STEP, &self.step), (INITIAL_STATE, &self.initial_state), (GOLDEN, &self.golden)];
        let chunk = self.chunk.iter().map(|chunk| (CHUNK, chunk));
        files.into_iter().chain(chunk).try_for_each(|(name, bytes)| {
            let file = directory.join(name);
            fs::write(&file, bytes).map_err(io_error(&file))
        })
    }
}

/// The directory itself where `path` is a link to it, or `.`; `path` where there is nothing yet.
fn resolve(path: &Path) -> Result<PathBuf, Error> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        resolved => resolved.map_err(io_error(path)),
    }
}

/// Whether something is at `path`, which may be replaced.
fn check_replaceable(path: &Path) -> Result<bool, Error> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(io_error(path))?,
    };
    for entry in entries {
        let entry = entry.map_err(io_error(path))?;
        let name = entry.file_name();
        let is_file = entry.file_type().map_err(io_error(path))?.is_file();
        if !is_file || FILES.iter().all(|file| name != *file) {
            let found = name.to_string_lossy().into_owned();
            return Err(Error::NotABundle { path: path.to_owned(), found });
        }
    }
    Ok(true)
}

/// A hidden name in the same directory as `path`, so that a rename between them stays on one file system.
fn beside(path: &Path, role: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{role}-{}", process::id()))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}
