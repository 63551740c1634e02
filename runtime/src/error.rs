//! What can go wrong between a bundle and its predictions.

use std::path::PathBuf;

use mcedge_models::contract::ContractError;

/// An error of the runtime. The stream that it came from is as it was before the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the bundle cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The graph's contract does not stand.
    #[error("{path} is not a graph that this version of mcedge runs")]
    Contract {
        /// The graph's file.
        path: PathBuf,
        /// Why not.
        source: ContractError,
    },
    /// `initial_state.safetensors` is not what the contract needs.
    #[error("initial state: {0}")]
    InitialState(String),
    /// The graph and its contract disagree.
    #[error("the graph has {found}, its contract declares {expected}")]
    Graph {
        /// What the graph has.
        found: String,
        /// What the contract declares.
        expected: String,
    },
    /// A sample of another length.
    #[error("a sample has {found} values, the model takes {expected}")]
    Length {
        /// Values given.
        found: usize,
        /// Channels of the model.
        expected: usize,
    },
    /// A token outside the vocabulary.
    #[error("token {found} is outside the vocabulary, 0 to {}", vocab_size - 1)]
    Token {
        /// The token given.
        found: i64,
        /// Tokens of the model.
        vocab_size: usize,
    },
    /// A sample for a model of tokens, or the other way round.
    #[error("the model takes {expected}, it was given {found}")]
    Kind {
        /// What was given.
        found: &'static str,
        /// What it takes.
        expected: &'static str,
    },
    /// The backend cannot load or run the graph.
    #[error("{backend}: {message}")]
    Backend {
        /// `tract` or `ort`.
        backend: &'static str,
        /// What it said.
        message: String,
    },
    /// No ONNX Runtime to load.
    #[error(
        "no ONNX Runtime found; looked at:{looked}\nGet one with `pip install onnxruntime` and activate that Python, or point ORT_DYLIB_PATH at libonnxruntime.so, 1.18 or newer"
    )]
    NoOnnxRuntime {
        /// A line each: where, and why not that one.
        looked: String,
    },
    /// A device was asked for and is not to be had.
    #[error(
        "device {device} was asked for and is not available: {message} (--allow-fallback runs on the CPU instead)"
    )]
    Device {
        /// `cuda` or `tensorrt`.
        device: &'static str,
        /// Why not.
        message: String,
    },
}
