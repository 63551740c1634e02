//! Runs a Memory-Caching bundle sample by sample.
//!
//! A bundle becomes a [`Model`], a [`Backend`] loads its step graph, and an [`Engine`] owns everything that the
//! stream remembers: state, [`CheckpointCache`] and position. A [`snapshot`] of it is a file from which another engine
//! goes on, bit for bit.
//!
//! This crate opens no device, starts no thread and reads no clock.

// The tests' tensors are shared with programs that know this crate by its name.
#[cfg(test)]
extern crate self as mcedge_runtime;

mod backend;
mod cache;
mod clock;
mod engine;
mod error;
mod footprint;
mod model;
mod policy;
mod score;
pub mod snapshot;
mod spill;

#[cfg(feature = "ort")]
pub use backend::ort::{Device, Ort, OrtOptions};
#[cfg(feature = "ort")]
pub use backend::ort_library::OnnxRuntime;
#[cfg(feature = "tract")]
pub use backend::tract::Tract;
pub use backend::{Backend, Buffer, Cells, CellsMut, Element};
pub use cache::{CheckpointCache, Slots, cache_bytes};
pub use engine::{Backlog, BlockGates, Engine, EngineOptions, RolledBack, Sample};
pub use error::Error;
pub use footprint::{Footprint, checkpoint_bytes};
pub use mcedge_kernel::Isa;
pub use mcedge_models::contract;
pub use mcedge_models::{Policy, PolicyError};
pub use model::Model;
pub use score::{Score, bits};
pub use spill::Spill;
