//! The two files that a state dictionary comes in.

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use super::ConvertError;
use crate::load::ZIP_MAGIC;
use crate::pytorch::StateDict;
use crate::tensor::Tensor;
use crate::weights;

/// The shape of a tensor, or what is there in its place.
pub type Shapes = BTreeMap<String, Result<Vec<usize>, String>>;

/// Named tensors, each read when it is asked for.
pub enum Source<'a> {
    Pytorch(StateDict<'a>),
    Safetensors(SafeTensors<'a>),
}

impl<'a> Source<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, ConvertError> {
        if bytes.starts_with(ZIP_MAGIC) {
            return Ok(Source::Pytorch(StateDict::open(bytes)?));
        }
        SafeTensors::deserialize(bytes).map(Source::Safetensors).map_err(ConvertError::Format)
    }

    pub fn shapes(&self) -> Shapes {
        match self {
            Source::Pytorch(file) => file.shapes(),
            Source::Safetensors(file) => {
                file.iter().map(|(name, view)| (name.to_owned(), Ok(view.shape().to_vec()))).collect()
            }
        }
    }

    /// The tensor of that name, which is one of [`Source::shapes`], with finite numbers.
    pub fn tensor(&mut self, name: &str) -> Result<Tensor, ConvertError> {
        let tensor = match self {
            Source::Pytorch(file) => file.tensor(name)?,
            Source::Safetensors(file) => match file.tensor(name) {
                Ok(view) => Some(weights::decode_one(name, &view)?),
                Err(_) => None,
            },
        };
        let tensor =
            tensor.unwrap_or_else(|| unreachable!("the plan names tensors of the file, not `{name}`"));
        weights::check_values(name, &tensor)?;
        Ok(tensor)
    }
}
