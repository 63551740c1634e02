//! What a Memory-Caching model is.
//!
//! - [`spec`]: `config.json`, checked when it is parsed.
//! - [`contract`]: names, shapes and roles of a step graph's tensors, as they travel inside every `.onnx`.

pub mod contract;
pub mod spec;
