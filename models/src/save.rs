//! A model as a directory.

use std::io;
use std::path::{Path, PathBuf};

use crate::load::{CONFIG, Model, TENSORS};
use crate::replace::{ReplaceError, replace_directory};
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
    /// there is one, as [`replace_directory`] does.
    ///
    /// # Errors
    ///
    /// [`SaveError::NotModel`] when `path` holds anything but a model, a card beside it included;
    /// [`SaveError::Weights`] when no file holds the weights; [`SaveError::Io`] when something cannot be written. Then
    /// what was at `path` is still there.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), SaveError> {
        let path = path.as_ref();
        if path.join(CONFIG).exists() != path.join(TENSORS).exists() {
            let found = "one of a model's two files".into();
            return Err(SaveError::NotModel { path: path.to_owned(), found });
        }
        let weights = self.weights.to_safetensors();
        let weights = weights.map_err(|error| SaveError::Weights { path: path.to_owned(), error })?;
        let config = self.spec.to_json();
        let files = [(CONFIG, config.as_bytes()), (TENSORS, &weights)];
        Ok(replace_directory(path, &[CONFIG, TENSORS], &files)?)
    }
}

impl From<ReplaceError> for SaveError {
    fn from(error: ReplaceError) -> Self {
        match error {
            ReplaceError::Foreign { path, found } => {
                SaveError::NotModel { path, found: format!("`{found}`") }
            }
            ReplaceError::Io { path, error } => SaveError::Io { path, error },
        }
    }
}
