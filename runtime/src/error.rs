//! What can go wrong between a bundle and its predictions.

use std::path::PathBuf;

use mcedge_models::contract::ContractError;

/// An error of the runtime. The streams that it came from are as they were after their last committed token.
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
    /// `chunk.onnx` and `step.onnx` are of different exports.
    #[error("chunk.onnx and step.onnx are not of one export: their contracts differ in `{key}`")]
    Chunk {
        /// The first key of the contract that differs.
        key: &'static str,
    },
    /// A bundle that declares chunks without a graph for them.
    #[error("the bundle has no chunk.onnx, step.onnx declares chunks of {tokens} tokens")]
    NoChunk {
        /// The most tokens of a chunk.
        tokens: usize,
    },
    /// The model's numbers have left the finite or their bounds: it diverges, or the input is far from what it was trained
    /// on.
    #[error("{}", diverged(tensor, *over, *token, *stream))]
    Diverged {
        /// The graph's output at fault: `present.0.m`, `output`, …
        tensor: String,
        /// Its norm and the most that it may be, when its numbers are finite still.
        over: Option<(f32, f32)>,
        /// Index of the token in its stream, from 0.
        token: u64,
        /// The stream, in a batch of several.
        stream: Option<usize>,
    },
    /// A policy without a meaning for the model.
    #[error(transparent)]
    Policy(#[from] mcedge_models::PolicyError),
    /// Memories that cannot go into a file.
    #[error("cannot spill: {message}")]
    Spill {
        /// What is in the way.
        message: String,
    },
    /// A policy that follows the gates, over graphs that have none.
    #[error(
        "policy `{policy}` follows who is read, and the bundle's graphs do not say it: export it with --gates"
    )]
    NoGates {
        /// The policy.
        policy: mcedge_models::Policy,
    },
    /// What is wrong with one stream of a batch of several.
    #[error("stream {stream}")]
    Stream {
        /// The stream.
        stream: usize,
        /// What is wrong.
        source: Box<Error>,
    },
    /// Samples for another number of streams.
    #[error("found samples for {found} of the model's streams, expected one or none for each of {expected}")]
    Batch {
        /// Samples given.
        found: usize,
        /// Streams of the model.
        expected: usize,
    },
    /// A backlog whose streams are not equally many whole samples.
    #[error("a backlog of {found} values, expected a multiple of {multiple}: one sample for each stream")]
    Backlog {
        /// Values given.
        found: usize,
        /// Values of one sample for each stream.
        multiple: usize,
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

/// Names the block and its tensor, where the graph's name of it has them.
fn diverged(tensor: &str, over: Option<(f32, f32)>, token: u64, stream: Option<usize>) -> String {
    let stream = stream.map_or_else(String::new, |stream| format!("stream {stream}: "));
    let what = match over {
        Some((norm, most)) => format!("has norm {norm}, expected {most} at most,"),
        None => "is not finite".to_owned(),
    };
    let memory = tensor.strip_prefix("present.").and_then(|rest| rest.split_once('.'));
    match memory {
        Some((block, name)) => {
            format!("{stream}block {block}'s memory `{name}` {what} after token {token}: the model diverges")
        }
        None => format!("{stream}`{tensor}` {what} for token {token}: the model diverges"),
    }
}
