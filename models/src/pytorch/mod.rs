//! What `torch.save` wrote (`.pt`): training checkpoints of the PyPI package `memory-caching` 0.1.0, and state
//! dictionaries.
//!
//! A checkpoint is a zip with a pickle inside, and a pickle is a program: it is untrusted, read by a machine that
//! knows a few harmless names and never executes anything.

mod archive;
mod convert;
mod pickle;
mod state_dict;

use std::collections::BTreeMap;

use archive::Archive;
use pickle::{Id, Object, Objects};

use crate::load::Model;
use crate::spec::{Spec, SpecError};
use crate::weights::{Weights, WeightsError, parameters};

pub use pickle::PickleError;
pub use state_dict::StateDict;

/// Why a `.pt` holds no model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PytorchError {
    /// Not a zip, or a broken one.
    #[error("not a checkpoint of torch.save (a zip): {0}")]
    Zip(String),
    /// A zip of something else.
    #[error("the archive has no entry `{name}`, expected what torch.save writes")]
    Entry {
        /// The entry, without the archive's folder.
        name: String,
    },
    /// Written on a big-endian machine.
    #[error("the archive's byteorder is {found}, expected little")]
    ByteOrder {
        /// What the entry says.
        found: String,
    },
    /// A pickle that asks for more than data, or is broken.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// A value of the payload.
    #[error("the checkpoint's `{key}` is {found}, expected {expected}")]
    Value {
        /// The key, as `model_spec.titans.step_size`.
        key: String,
        /// The value found.
        found: String,
        /// What would do.
        expected: String,
    },
    /// Values that each are right and together make no model.
    #[error("the checkpoint's `model_spec` makes no model: {0}")]
    Spec(SpecError),
    /// A tensor that the model needs.
    #[error("the checkpoint's `model_state` has no `{name}`")]
    Missing {
        /// The package's name.
        name: &'static str,
    },
    /// A tensor that the model does not have.
    #[error("the checkpoint's `model_state` has {name}, which a TinyMemoryCachingLM has not")]
    Extra {
        /// The key.
        name: String,
    },
    /// A tensor of a type that is not read.
    #[error("the checkpoint's `{name}` has type {found}, expected F32, F16 or BF16")]
    Dtype {
        /// The package's name.
        name: String,
        /// Its type.
        found: &'static str,
    },
    /// A tensor that points outside its storage, or more than once into it.
    #[error(
        "the checkpoint's `{name}` is a view of size {size:?}, stride {stride:?} and offset {offset}, expected one inside its storage of {elements} elements"
    )]
    View {
        /// The package's name.
        name: String,
        /// In elements.
        offset: usize,
        /// Sizes of the axes.
        size: Vec<usize>,
        /// In elements, one an axis.
        stride: Vec<usize>,
        /// Elements of the storage.
        elements: usize,
    },
    /// A storage of another length than the pickle says.
    #[error("the archive's `data/{key}` has {found} elements, the pickle declares {expected}")]
    Storage {
        /// The storage.
        key: String,
        /// Elements in the archive.
        found: usize,
        /// Elements by the pickle.
        expected: usize,
    },
    /// Tensors of one storage that are many times what the storage is.
    #[error(
        "the tensors up to `{name}` are views with more numbers than the file has bytes, expected each number once or twice"
    )]
    Overlap {
        /// The tensor that passed the bound.
        name: String,
    },
    /// A state dictionary in place of a training checkpoint.
    #[error(
        "the file is a state dictionary (it has `{name}`), expected a training checkpoint of memory-caching 0.1.0; `mcedge convert` makes a model of the state dictionary of a GRU or an LSTM"
    )]
    StateDict {
        /// A tensor of it.
        name: String,
    },
    /// A training checkpoint in place of a state dictionary.
    #[error(
        "the file is a training checkpoint of memory-caching 0.1.0, expected a state dictionary; it is a model as it is, for `mcedge export`"
    )]
    TrainingCheckpoint,
    /// Tensors that are not the model's.
    #[error("the checkpoint's weights, under mcedge's names: {0}")]
    Weights(WeightsError),
}

/// Reads the bytes of a `.pt`.
pub fn read(bytes: &[u8]) -> Result<Model, PytorchError> {
    let (mut archive, objects, payload) = open(bytes)?;
    if let Some(name) = state_dict::recurrent_name(&objects, payload) {
        return Err(PytorchError::StateDict { name });
    }
    let spec = convert::spec(&objects, payload)?;
    let state = dictionary(&objects, payload, "model_state")?;
    let weights = weights(&mut archive, &objects, state, &spec)?;
    Ok(Model { spec, weights })
}

/// The archive, what its pickle makes, and the dictionary at the root of that.
fn open(bytes: &[u8]) -> Result<(Archive<'_>, Objects, Id), PytorchError> {
    let mut archive = Archive::open(bytes)?;
    let (objects, payload) = pickle::read(&archive.pickle()?)?;
    if !matches!(objects.get(payload), Object::Dict(_)) {
        let found = convert::described(objects.get(payload));
        return Err(PytorchError::Value { key: "payload".into(), found, expected: "a dictionary".into() });
    }
    Ok((archive, objects, payload))
}

/// A dictionary that the payload has to hold.
fn dictionary(objects: &Objects, payload: Id, key: &str) -> Result<Id, PytorchError> {
    let wrong = |found: String| PytorchError::Value {
        key: key.to_owned(),
        found,
        expected: "the dictionary that a training checkpoint of memory-caching 0.1.0 has".into(),
    };
    let id = objects.entry(payload, key).ok_or_else(|| wrong("absent".into()))?;
    match objects.get(id) {
        Object::Dict(_) => Ok(id),
        object => Err(wrong(convert::described(object))),
    }
}

fn weights(
    archive: &mut Archive<'_>,
    objects: &Objects,
    state: Id,
    spec: &Spec,
) -> Result<Weights, PytorchError> {
    refuse_extra(objects, state)?;
    let wanted: Vec<String> = parameters(spec).into_iter().map(|parameter| parameter.name).collect();
    let mut tensors = BTreeMap::new();
    for (theirs, ours) in convert::TENSORS {
        let id = objects.entry(state, theirs).ok_or(PytorchError::Missing { name: theirs })?;
        let Object::Tensor(tensor) = objects.get(id) else {
            let found = convert::described(objects.get(id));
            let key = format!("model_state.{theirs}");
            return Err(PytorchError::Value { key, found, expected: "a tensor".into() });
        };
        // The package makes u whether or not the aggregation scores with it.
        if wanted.iter().any(|name| name == ours) {
            tensors.insert(ours.to_owned(), archive.tensor(theirs, objects, tensor)?);
        }
    }
    Weights::new(tensors, spec).map_err(PytorchError::Weights)
}

fn refuse_extra(objects: &Objects, state: Id) -> Result<(), PytorchError> {
    let Object::Dict(entries) = objects.get(state) else { return Ok(()) };
    for &(key, _) in entries {
        let known = |key: &str| convert::TENSORS.iter().any(|(theirs, _)| *theirs == key);
        if !matches!(objects.get(key), Object::Str(key) if known(key)) {
            return Err(PytorchError::Extra { name: convert::described(objects.get(key)) });
        }
    }
    Ok(())
}
