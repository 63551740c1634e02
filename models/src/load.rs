//! The one door for a model on disk.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::pytorch::{self, PytorchError};
use crate::spec::{Spec, SpecError};
use crate::weights::{Weights, WeightsError};

const MAX_CONFIG_BYTES: u64 = 1 << 20;
const MAX_WEIGHTS_BYTES: u64 = 4 << 30;

/// The first bytes of a zip.
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

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
    /// # Errors
    ///
    /// [`LoadError`] names the path, what was found and what was expected.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let metadata = fs::metadata(path).map_err(|error| LoadError::Io { path: path.to_owned(), error })?;
        if metadata.is_dir() { Self::load_directory(path) } else { Self::load_checkpoint(path) }
    }

    /// Reads the bytes of a `.pt`: an allow-list of pickle opcodes and names, and nothing is executed.
    ///
    /// # Errors
    ///
    /// [`PytorchError`].
    pub fn from_checkpoint(bytes: &[u8]) -> Result<Self, PytorchError> {
        pytorch::read(bytes)
    }

    fn load_directory(path: &Path) -> Result<Self, LoadError> {
        let file = |name: &'static str| match path.join(name) {
            file if file.exists() => Ok(file),
            _ => Err(LoadError::Incomplete { path: path.to_owned(), file: name }),
        };
        let (config, tensors) = (file("config.json")?, file("model.safetensors")?);
        let spec = Spec::parse(&read(&config, MAX_CONFIG_BYTES)?)
            .map_err(|error| LoadError::Spec { path: config, error })?;
        let weights = Weights::from_safetensors(&read(&tensors, MAX_WEIGHTS_BYTES)?, &spec)
            .map_err(|error| LoadError::Weights { path: tensors, error })?;
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
