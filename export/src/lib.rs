//! A Memory-Caching model as ONNX: `Spec` and `Weights` to the graph that an edge machine runs.
//!
//! [`bundle`] makes everything that `mcedge export` writes. [`step_graph`] and [`chunk_graph`] are the graphs alone:
//! their `Display` is a readable text form, [`ModelGraph::to_onnx`] their bytes.
//!
//! A graph runs one token, or a chunk of them. Its state comes in as `past.*` and `cache.*` and goes out as `present.*`; it never
//! writes the cache. Each block's memory is a local function of domain `org.mcedge` with a body of standard
//! operations, so that any runtime can inline it, or put a kernel in its place.

mod block;
mod bundle;
mod contract;
mod error;
mod golden;
mod graph;
mod lower;
mod memory;
mod onnx;
mod post_training;

pub use bundle::{Bundle, bundle};
pub use error::{Error, Warning};
pub use lower::{ModelGraph, Options, chunk_graph, step_graph};
pub use onnx::{Initializer, NotOnnx, initializers};
pub use post_training::with_post_training_mean;
