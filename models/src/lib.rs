//! What a Memory-Caching model is.
//!
//! - [`spec`]: `config.json`, checked when it is parsed.
//! - [`Weights`]: `model.safetensors`, checked against the spec.
//! - [`Model::load`]: both, from a model directory (of one file of tensors, or of shards) or a training checkpoint (`.pt`),
//!   which is never executed.
//! - [`Model::convert`]: a model of a plain `torch.nn.GRU` or `LSTM`; [`Model::save`]: a model as a directory.
//! - [`replace_directory`]: a directory of files takes the place of an older one, whole.
//! - [`mod@reference`]: the model as its equations say it, in f64: what every other path is held against.
//! - [`Golden`]: a recorded run, `golden.safetensors`.
//! - [`contract`]: names, shapes and roles of a step graph's tensors, as they travel inside every `.onnx`.

pub mod contract;
mod golden;
mod load;
mod policy;
mod pytorch;
mod recurrent;
pub mod reference;
mod replace;
mod save;
mod shards;
pub mod spec;
mod tensor;
mod weights;

pub use golden::{Golden, GoldenError, Samples};
pub use load::{LoadError, Model};
pub use policy::{Policy, PolicyError};
pub use pytorch::{PickleError, PytorchError};
pub use recurrent::{ConvertError, Converted, HeadKind, Settings, Unsaid, recurrent_from_state_dict};
pub use replace::{ReplaceError, replace_directory};
pub use save::SaveError;
pub use shards::ShardError;
pub use tensor::{Tensor, write_safetensors};
pub use weights::{Parameter, Weights, WeightsError, collapses, parameters};
