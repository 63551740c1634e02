//! A state dictionary: named tensors, and no word about what they are for.

use std::collections::BTreeMap;

use super::archive::Archive;
use super::pickle::{Id, Object, Objects, TensorRef};
use super::{PytorchError, convert};
use crate::tensor::{Tensor, elements};

/// Keys under which training scripts keep the state dictionary when they save more than that.
const WRAPPERS: [&str; 2] = ["state_dict", "model_state_dict"];

/// An opened state dictionary; a tensor's numbers are read when it is asked for.
pub struct StateDict<'a> {
    archive: Archive<'a>,
    objects: Objects,
    /// What is no tensor, as words.
    entries: BTreeMap<String, Result<TensorRef, String>>,
    /// Numbers that may yet be read.
    left: usize,
}

impl<'a> StateDict<'a> {
    /// Opens what `torch.save` wrote: the dictionary itself, or one that holds it as `state_dict` or
    /// `model_state_dict`.
    pub fn open(bytes: &'a [u8]) -> Result<Self, PytorchError> {
        let (archive, objects, payload) = super::open(bytes)?;
        if objects.entry(payload, "model_spec").is_some() && objects.entry(payload, "model_state").is_some() {
            return Err(PytorchError::TrainingCheckpoint);
        }
        let root = wrapped(&objects, payload).unwrap_or(payload);
        let Object::Dict(pairs) = objects.get(root) else { unreachable!("both are dictionaries") };
        let mut entries = BTreeMap::new();
        for &(key, value) in pairs {
            let Object::Str(name) = objects.get(key) else {
                let found = format!("a dictionary with {}", convert::described(objects.get(key)));
                let expected = "names of tensors as its keys".into();
                return Err(PytorchError::Value { key: "payload".into(), found, expected });
            };
            let entry = match objects.get(value) {
                Object::Tensor(tensor) => Ok(tensor.clone()),
                object => Err(convert::described(object)),
            };
            entries.insert(name.clone(), entry);
        }
        // An honest file has each number once, or a few times where weights are tied, in two bytes or more.
        Ok(StateDict { archive, objects, entries, left: bytes.len() })
    }

    /// Every entry by name: the shape of a tensor, or what is there in its place.
    pub fn shapes(&self) -> BTreeMap<String, Result<Vec<usize>, String>> {
        let shape = |entry: &Result<TensorRef, String>| match entry {
            Ok(tensor) => Ok(tensor.size.clone()),
            Err(found) => Err(found.clone()),
        };
        self.entries.iter().map(|(name, entry)| (name.clone(), shape(entry))).collect()
    }

    /// The tensor of that name; `None` when there is none.
    pub fn tensor(&mut self, name: &str) -> Result<Option<Tensor>, PytorchError> {
        let Some(Ok(tensor)) = self.entries.get(name) else { return Ok(None) };
        let left = elements(&tensor.size).and_then(|count| self.left.checked_sub(count));
        self.left = left.ok_or_else(|| PytorchError::Overlap { name: name.to_owned() })?;
        self.archive.tensor(name, &self.objects, tensor).map(Some)
    }
}

/// The dictionary that a training script's own holds.
fn wrapped(objects: &Objects, payload: Id) -> Option<Id> {
    let values = WRAPPERS.iter().filter_map(|key| objects.entry(payload, key));
    values.into_iter().find(|&value| matches!(objects.get(value), Object::Dict(_)))
}

/// A tensor of a GRU or an LSTM, when the payload is a state dictionary with one.
pub fn recurrent_name(objects: &Objects, payload: Id) -> Option<String> {
    let Object::Dict(pairs) = objects.get(wrapped(objects, payload).unwrap_or(payload)) else { return None };
    pairs.iter().find_map(|&(key, _)| match objects.get(key) {
        Object::Str(name) if name.ends_with("weight_hh_l0") => Some(name.clone()),
        _ => None,
    })
}
