//! `model.safetensors.index.json`: weights over several files, as Hugging Face's tools write large models.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use safetensors::SafeTensors;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use crate::spec::Spec;
use crate::tensor::Tensor;
use crate::weights::{self, WeightsError};

/// Why an index and its shards are not the weights of a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// Not JSON, no `weight_map`, or one that names a tensor twice.
    #[error("not an index of shards: {0}")]
    Json(String),
    /// A shard elsewhere than beside the index.
    #[error("`{tensor}` is said to be in {shard:?}, expected the plain name of a file beside the index")]
    FileName {
        /// The tensor.
        tensor: String,
        /// What the index says.
        shard: String,
    },
    /// No such file.
    #[error("`{tensor}` is said to be in `{shard}`, which is not there")]
    NoShard {
        /// A tensor of that shard.
        tensor: String,
        /// The file.
        shard: String,
    },
    /// A tensor that its shard has not got.
    #[error("`{tensor}` is said to be in `{shard}`, which has no such tensor")]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The file.
        shard: String,
    },
    /// A tensor in a shard that the index does not name.
    #[error("`{tensor}` is in `{shard}`, and nowhere in the index, expected every tensor there")]
    NotInIndex {
        /// The tensor.
        tensor: String,
        /// The file.
        shard: String,
    },
    /// A tensor in two shards, or in another than the index says.
    #[error("`{tensor}` is in `{shard}`, expected it in `{expected}` alone, where the index places it")]
    OtherShard {
        /// The tensor.
        tensor: String,
        /// The file that holds it.
        shard: String,
        /// The file of the index.
        expected: String,
    },
}

/// Which file holds which tensor.
///
/// # Invariants
///
/// Every file name is plain: of one part, so that it is beside the index.
#[derive(Debug)]
pub struct Index {
    /// Tensor to file.
    files: BTreeMap<String, String>,
}

impl Index {
    /// Parses the index; `metadata` and other keys than `weight_map` are read over.
    pub fn parse(json: &[u8]) -> Result<Self, ShardError> {
        let document: Document =
            serde_json::from_slice(json).map_err(|error| ShardError::Json(error.to_string()))?;
        let files = document.weight_map.0;
        match files.iter().find(|(_, file)| !is_plain(file)) {
            Some((tensor, shard)) => {
                Err(ShardError::FileName { tensor: tensor.clone(), shard: shard.clone() })
            }
            None => Ok(Index { files }),
        }
    }

    /// The files, in order, each once.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.files.values().map(String::as_str).collect()
    }

    /// Every file is there.
    pub fn check_files(self, directory: &Path) -> Result<Self, ShardError> {
        match self.files.iter().find(|(_, file)| !directory.join(file).exists()) {
            Some((tensor, shard)) => {
                Err(ShardError::NoShard { tensor: tensor.clone(), shard: shard.clone() })
            }
            None => Ok(self),
        }
    }

    /// Holds the names against the spec: before any shard is read.
    pub fn check(&self, spec: &Spec) -> Result<(), WeightsError> {
        let declared = weights::parameters(spec);
        let shapes: BTreeMap<&str, &[usize]> =
            declared.iter().map(|p| (p.name.as_str(), p.shape.as_slice())).collect();
        // An unknown name has no shape that could be wrong.
        let found =
            self.files.keys().map(|name| (name.as_str(), *shapes.get(name.as_str()).unwrap_or(&&[][..])));
        weights::check_names(spec, found)
    }

    /// The tensors of one shard, whose names are held against the index, and names and shapes before any data.
    pub fn read(&self, shard: &str, bytes: &[u8], spec: &Spec) -> Result<BTreeMap<String, Tensor>, Error> {
        let file = SafeTensors::deserialize(bytes).map_err(WeightsError::Format)?;
        let names: BTreeSet<&str> = file.names().into_iter().collect();
        self.check_shard(shard, &names)?;
        for parameter in weights::parameters(spec) {
            let Ok(view) = file.tensor(&parameter.name) else { continue };
            weights::check_shape(&parameter.name, view.shape(), &parameter.shape)?;
        }
        let tensors = weights::decode(&file)?;
        tensors.iter().try_for_each(|(name, tensor)| weights::check_values(name, tensor))?;
        Ok(tensors)
    }

    fn check_shard(&self, shard: &str, names: &BTreeSet<&str>) -> Result<(), ShardError> {
        let shard_of = |tensor: &str| self.files.get(tensor).map(String::as_str);
        let expected = self.files.iter().filter(|(_, file)| *file == shard);
        if let Some((tensor, _)) = expected.into_iter().find(|(tensor, _)| !names.contains(tensor.as_str())) {
            return Err(ShardError::NotInShard { tensor: tensor.clone(), shard: shard.to_owned() });
        }
        let Some(&tensor) = names.iter().find(|tensor| shard_of(tensor) != Some(shard)) else {
            return Ok(());
        };
        let (tensor, shard, place) = (tensor.to_owned(), shard.to_owned(), shard_of(tensor));
        Err(match place {
            Some(expected) => ShardError::OtherShard { tensor, shard, expected: expected.to_owned() },
            None => ShardError::NotInIndex { tensor, shard },
        })
    }
}

/// Whose fault a shard's is: the index's or the weights' own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Shard(#[from] ShardError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// Whether `name` is a file's own name on any system: of one part, none of them `.` or `..`.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['/', '\\', ':', '\0'])
        && Path::new(name).file_name().is_some_and(|own| own == name)
}

#[derive(Deserialize)]
struct Document {
    weight_map: WeightMap,
}

/// Tensor to file; a tensor that is named twice is an error, where a plain map would keep the last.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EveryNameOnce)
    }
}

struct EveryNameOnce;

impl<'de> Visitor<'de> for EveryNameOnce {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tensors to files")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<WeightMap, A::Error> {
        let mut files = BTreeMap::new();
        while let Some((tensor, file)) = access.next_entry::<String, String>()? {
            match files.entry(tensor) {
                Entry::Vacant(entry) => entry.insert(file),
                Entry::Occupied(entry) => {
                    let (tensor, first) = entry.remove_entry();
                    return Err(A::Error::custom(format!("`{tensor}` is in `{first}` and in `{file}`")));
                }
            };
        }
        Ok(WeightMap(files))
    }
}
