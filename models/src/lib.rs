//! What a Memory-Caching model is.
//!
//! - [`spec`]: `config.json`, checked when it is parsed.
//! - [`Weights`]: `model.safetensors`, checked against the spec.
//! - [`contract`]: names, shapes and roles of a step graph's tensors, as they travel inside every `.onnx`.

pub mod contract;
pub mod spec;
mod tensor;
mod weights;

pub use tensor::{Tensor, write_safetensors};
pub use weights::{Parameter, Weights, WeightsError, parameters};
