//! What a Memory-Caching model is.
//!
//! - [`spec`]: `config.json`, checked when it is parsed.
//! - [`Weights`]: `model.safetensors`, checked against the spec.
//! - [`Model::load`]: both, from a model directory or a training checkpoint (`.pt`), which is never executed.
//! - [`mod@reference`]: the model as its equations say it, in f64: what every other path is held against.
//! - [`Golden`]: a recorded run, `golden.safetensors`.
//! - [`contract`]: names, shapes and roles of a step graph's tensors, as they travel inside every `.onnx`.

pub mod contract;
mod golden;
mod load;
mod pytorch;
pub mod reference;
pub mod spec;
mod tensor;
mod weights;

pub use golden::{Golden, GoldenError, Samples};
pub use load::{LoadError, Model};
pub use pytorch::{PickleError, PytorchError};
pub use tensor::{Tensor, write_safetensors};
pub use weights::{Parameter, Weights, WeightsError, collapses, parameters};
