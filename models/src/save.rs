//! A model as a directory.

use std::path::{Path, PathBuf};
use std::{fs, io, process};

use crate::load::{CONFIG, Model, TENSORS};
use crate::weights::WeightsError;

/// Why a model was not written. What was there before is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// Writing would destroy what is no model.
    #[error(
        "{}: the directory holds {found}, expected config.json and model.safetensors, nothing in it, or no directory",
        path.display()
    )]
    NotModel {
        /// Where the model was to go.
        path: PathBuf,
        /// What keeps it from being replaced.
        found: String,
    },
    /// Something that cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Weights that no file holds.
    #[error("{}: {error}", path.display())]
    Weights {
        /// Where the model was to go.
        path: PathBuf,
        /// Why.
        error: WeightsError,
    },
}

impl Model {
    /// Writes the model as a directory, `config.json` and `model.safetensors` (f32), in the place of an older one if
    /// there is one. Nobody sees half a model: the files are written beside `path` and take its name together.
    ///
    /// # Errors
    ///
    /// [`SaveError::NotModel`] when `path` holds anything but a model, a card beside it included;
    /// [`SaveError::Io`] when something cannot be written. Then what was at `path` is still there.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), SaveError> {
        let target = resolve(path.as_ref())?;
        let exists = check_replaceable(&target)?;
        let (fresh, old) = (beside(&target, "new"), beside(&target, "old"));
        let written = self.write_files(&fresh).and_then(|()| {
            if exists {
                fs::rename(&target, &old).map_err(io_error(&target))?;
            }
            fs::rename(&fresh, &target).map_err(|error| {
                // Whatever the reason, the older model goes back; a second failure has nothing to add.
                let _ = fs::rename(&old, &target);
                SaveError::Io { path: target.clone(), error }
            })
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&fresh);
        } else if exists {
            fs::remove_dir_all(&old).map_err(io_error(&old))?;
        }
        written
    }

    fn write_files(&self, directory: &Path) -> Result<(), SaveError> {
        let weights = self.weights.to_safetensors();
        let weights = weights.map_err(|error| SaveError::Weights { path: directory.to_owned(), error })?;
        fs::create_dir_all(directory).map_err(io_error(directory))?;
        [(CONFIG, self.spec.to_json().as_bytes()), (TENSORS, &weights)].into_iter().try_for_each(
            |(name, bytes)| {
                let file = directory.join(name);
                fs::write(&file, bytes).map_err(io_error(&file))
            },
        )
    }
}

/// The directory itself where `path` is a link to it, or `.`; `path` where there is nothing yet.
fn resolve(path: &Path) -> Result<PathBuf, SaveError> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        resolved => resolved.map_err(io_error(path)),
    }
}

/// Whether something is at `path`, which may be replaced: a model, or an empty directory.
fn check_replaceable(path: &Path) -> Result<bool, SaveError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(io_error(path))?,
    };
    let not_model = |found: String| SaveError::NotModel { path: path.to_owned(), found };
    let mut files = 0;
    for entry in entries {
        let entry = entry.map_err(io_error(path))?;
        let name = entry.file_name();
        let is_file = entry.file_type().map_err(io_error(path))?.is_file();
        if !is_file || (name != CONFIG && name != TENSORS) {
            return Err(not_model(format!("`{}`", name.to_string_lossy())));
        }
        files += 1;
    }
    if files == 1 { Err(not_model("one of a model's two files".into())) } else { Ok(true) }
}

/// A hidden name in the same directory as `path`, so that a rename between them stays on one file system.
fn beside(path: &Path, role: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{role}-{}", process::id()))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> SaveError {
    let path = path.to_owned();
    |error| SaveError::Io { path, error }
}
