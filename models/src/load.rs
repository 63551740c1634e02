//! The one door for a model on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::pytorch::{self, PytorchError};
use crate::recurrent::{ConvertError, Converted, Settings, recurrent_from_state_dict};
use crate::shards::{self, Index, ShardError};
use crate::spec::{Spec, SpecError};
use crate::weights::{Weights, WeightsError};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const TENSORS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

const MAX_CONFIG_BYTES: u64 = 1 << 20;
const MAX_INDEX_BYTES: u64 = 16 << 20;
/// Of one file, or of all shards together.
const MAX_WEIGHTS_BYTES: u64 = 4 << 30;

/// The first bytes of a zip.
pub(crate) const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// Why a path holds no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Nothing at the path, or nothing that may be read.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Neither a model directory nor a checkpoint.
    #[error(
        "{}: neither a model directory (config.json and model.safetensors) nor a .pt checkpoint",
        path.display()
    )]
    NotModel {
        /// The path.
        path: PathBuf,
    },
    /// A model directory without one of its files.
    #[error("{}: the directory has no {file}, expected config.json and model.safetensors", path.display())]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// The file that is not there.
        file: &'static str,
    },
    /// A directory, a device or a socket in place of a file.
    #[error("{}: {found}, expected a file", path.display())]
    NotFile {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A file of no bytes.
    #[error("{}: the file is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file past the bound.
    #[error("{}: the file has {found} bytes, expected at most {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The bound.
        limit: u64,
    },
    /// `config.json` is none.
    #[error("{}: {error}", path.display())]
    Spec {
        /// The file.
        path: PathBuf,
        /// Why.
        error: SpecError,
    },
    /// `model.safetensors` is none, or not this model's.
    #[error("{}: {error}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// Why.
        error: WeightsError,
    },
    /// `model.safetensors.index.json` is none, or its shards are others than it says.
    #[error("{}: {error}", path.display())]
    Shards {
        /// The index.
        path: PathBuf,
        /// Why.
        error: ShardError,
    },
    /// A file that `mcedge convert` makes no model of.
    #[error("{}: {error}", path.display())]
    Convert {
        /// The file.
        path: PathBuf,
        /// Why.
        error: ConvertError,
    },
    /// The `.pt` is none.
    #[error("{}: {error}", path.display())]
    Pytorch {
        /// The file.
        path: PathBuf,
        /// Why.
        error: PytorchError,
    },
}

/// A model: what it is, and its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Checked.
    pub spec: Spec,
    /// Checked against `spec`.
    pub weights: Weights,
}

impl Model {
    /// Reads a model directory (`config.json` and `model.safetensors`) or a training checkpoint (`.pt`) of the PyPI
    /// package `memory-caching` 0.1.0.
    ///
    /// Where there is no `model.safetensors`, `model.safetensors.index.json` names the files beside it that hold the
    /// tensors (its `weight_map`), and they are read one after the other.
    ///
    /// # Errors
    ///
    /// [`LoadError`] names the path, what was found and what was expected.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let metadata = fs::metadata(path).map_err(|error| LoadError::Io { path: path.to_owned(), error })?;
        if metadata.is_dir() { Self::load_directory(path) } else { Self::load_checkpoint(path) }
    }

    /// Reads the state dictionary of a plain GRU or LSTM: what `torch.save` wrote, or a safetensors file. See
    /// [`recurrent_from_state_dict`].
    ///
    /// # Errors
    ///
    /// [`LoadError::Convert`] when the file or the settings are the reason; else as [`Model::load`].
    pub fn convert(path: impl AsRef<Path>, settings: &Settings) -> Result<Converted, LoadError> {
        let path = path.as_ref();
        let bytes = read(path, MAX_WEIGHTS_BYTES)?;
        recurrent_from_state_dict(&bytes, settings)
            .map_err(|error| LoadError::Convert { path: path.to_owned(), error })
    }

    /// The files that [`Model::load`] reads at `path`: what the model changes with.
    ///
    /// # Errors
    ///
    /// [`LoadError`] when the path is no model by its files' names, or by the index of its shards.
    pub fn files(path: impl AsRef<Path>) -> Result<Vec<PathBuf>, LoadError> {
        let path = path.as_ref();
        if path.is_dir() { Ok(Files::of(path)?.all(path)) } else { Ok(vec![path.to_owned()]) }
    }

    /// Reads the bytes of a `.pt`: an allow-list of pickle opcodes and names, and nothing is executed.
    ///
    /// # Errors
    ///
    /// [`PytorchError`].
    pub fn from_checkpoint(bytes: &[u8]) -> Result<Self, PytorchError> {
        pytorch::read(bytes)
    }

    fn load_directory(directory: &Path) -> Result<Self, LoadError> {
        let files = Files::of(directory)?;
        let spec = Spec::parse(&read(&files.config, MAX_CONFIG_BYTES)?)
            .map_err(|error| LoadError::Spec { path: files.config, error })?;
        let weights = match files.tensors {
            Tensors::One(path) => Weights::from_safetensors(&read(&path, MAX_WEIGHTS_BYTES)?, &spec)
                .map_err(|error| LoadError::Weights { path, error })?,
            Tensors::Shards(path, index) => load_shards(directory, &path, &index, &spec)?,
        };
        Ok(Model { spec, weights })
    }

    fn load_checkpoint(path: &Path) -> Result<Self, LoadError> {
        let bytes = read(path, MAX_WEIGHTS_BYTES)?;
        let called_pt = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("pt"));
        if !called_pt && !bytes.starts_with(ZIP_MAGIC) {
            return Err(LoadError::NotModel { path: path.to_owned() });
        }
        Self::from_checkpoint(&bytes).map_err(|error| LoadError::Pytorch { path: path.to_owned(), error })
    }
}

/// Where a model directory's files are.
struct Files {
    config: PathBuf,
    tensors: Tensors,
}

enum Tensors {
    One(PathBuf),
    /// The index, and what it says.
    Shards(PathBuf, Index),
}

impl Files {
    /// `model.safetensors` goes before an index, as in Hugging Face's own tools.
    fn of(directory: &Path) -> Result<Self, LoadError> {
        let file = |name: &'static str| match directory.join(name) {
            file if file.exists() => Ok(file),
            _ => Err(LoadError::Incomplete { path: directory.to_owned(), file: name }),
        };
        let config = file(CONFIG)?;
        let tensors = match (file(TENSORS), directory.join(INDEX)) {
            (Ok(tensors), _) => Tensors::One(tensors),
            (Err(absent), index) if !index.exists() => return Err(absent),
            (Err(_), path) => {
                let bytes = read(&path, MAX_INDEX_BYTES)?;
                match Index::parse(&bytes).and_then(|index| index.check_files(directory)) {
                    Ok(index) => Tensors::Shards(path, index),
                    Err(error) => return Err(LoadError::Shards { path, error }),
                }
            }
        };
        Ok(Files { config, tensors })
    }

    fn all(self, directory: &Path) -> Vec<PathBuf> {
        let mut all = vec![self.config];
        match self.tensors {
            Tensors::One(path) => all.push(path),
            Tensors::Shards(path, index) => {
                all.push(path);
                all.extend(index.shards().into_iter().map(|shard| directory.join(shard)));
            }
        }
        all
    }
}

/// One shard after the other: the bytes of one are gone before those of the next are read.
fn load_shards(directory: &Path, path: &Path, index: &Index, spec: &Spec) -> Result<Weights, LoadError> {
    let weights_of = |path: &Path| {
        let path = path.to_owned();
        |error| LoadError::Weights { path, error }
    };
    index.check(spec).map_err(weights_of(path))?;
    let (mut tensors, mut left) = (BTreeMap::new(), MAX_WEIGHTS_BYTES);
    for shard in index.shards() {
        let file = directory.join(shard);
        let bytes = read(&file, left)?;
        left -= bytes.len() as u64;
        let read = index.read(shard, &bytes, spec).map_err(|error| match error {
            shards::Error::Shard(error) => LoadError::Shards { path: path.to_owned(), error },
            shards::Error::Weights(error) => weights_of(&file)(error),
        })?;
        tensors.extend(read);
    }
    Weights::new(tensors, spec).map_err(weights_of(path))
}

/// The whole of a regular file that is neither empty nor longer than `limit` bytes.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    let io = |error| LoadError::Io { path: path.to_owned(), error };
    // Asked before opening: to open a pipe waits for its writer.
    let metadata = fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        return Err(LoadError::NotFile { path: path.to_owned(), found });
    }
    if metadata.len() > limit {
        return Err(LoadError::TooLarge { path: path.to_owned(), found: metadata.len(), limit });
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(io)?;
    if bytes.is_empty() {
        return Err(LoadError::Empty { path: path.to_owned() });
    }
    Ok(bytes)
}
