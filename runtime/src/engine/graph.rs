//! One graph in its backend: what its inputs are fed with, and what its outputs are.

use mcedge_models::contract::{Contract, Input};

use super::outputs::Outputs;
use super::streams::Streams;
use super::{Backlog, Sample, part_mut};
use crate::Error;
use crate::backend::{Backend, Buffer, CellsMut, Element};

/// One graph over a backend: `step.onnx` or `chunk.onnx`.
///
/// # Invariants
///
/// `feeds` has one entry an input of the graph; `input` is `[B, tokens, F]` f32 or `[B, tokens]` int64.
pub(super) struct Graph<B: Backend> {
    backend: B,
    feeds: Vec<Feed>,
    input: B::Tensor,
    /// Tokens of a run, T.
    tokens: usize,
    /// What the last run gave.
    pub(super) outputs: Outputs<B::Tensor>,
}

/// What a graph input is fed with.
#[derive(Clone, Copy)]
enum Feed {
    Input,
    Past(usize),
    Cache(usize),
    Steps(usize),
    SegmentLength,
    CacheLength,
}

impl<B: Backend> Graph<B> {
    /// A graph that takes and gives what `contract` says, and the gates of the blocks `gated`; for one token.
    pub(super) fn new(backend: B, contract: &Contract, gated: &[usize]) -> Result<Self, Error> {
        let feeds = backend.inputs().iter().map(|name| feed(contract, name)).collect::<Result<_, _>>()?;
        let names = contract.cache.iter().flat_map(|cache| std::iter::once(&cache.name).chain(&cache.steps));
        if let Some(name) = names.into_iter().find(|name| !backend.inputs().contains(name)) {
            return Err(Error::Graph { found: "no such input".into(), expected: format!("input `{name}`") });
        }
        let outputs = Outputs::new(&backend, contract, gated)?;
        let input = input_tensor(&backend, contract, 1)?;
        Ok(Self { backend, feeds, input, tokens: 1, outputs })
    }

    pub(super) fn backend(&self) -> &B {
        &self.backend
    }

    /// Makes room for runs of `tokens` tokens. The input is made anew when that changes.
    pub(super) fn fit(&mut self, contract: &Contract, tokens: usize) -> Result<(), Error> {
        if self.tokens != tokens {
            self.input = input_tensor(&self.backend, contract, tokens)?;
            self.tokens = tokens;
        }
        Ok(())
    }

    /// Writes the next sample of a stream, in a graph of one token. The sample has been checked.
    pub(super) fn feed(&mut self, stream: usize, sample: Sample<'_>) {
        match (self.input.cells_mut(), sample) {
            (CellsMut::F32(cells), Sample::Features(features)) => {
                let start = stream * features.len();
                cells[start..start + features.len()].copy_from_slice(features);
            }
            (CellsMut::I64(cells), Sample::Token(token)) => cells[stream] = token,
            _ => unreachable!("the sample has been checked"),
        }
    }

    /// Writes the tokens from `start` on of every active stream's backlog, as many as a run takes; zeros for the others,
    /// whose backlog has not been checked. `active` is `[B]`.
    pub(super) fn feed_backlog(&mut self, backlog: Backlog<'_>, start: usize, active: &[bool]) {
        let tokens = self.tokens;
        match (self.input.cells_mut(), backlog) {
            (CellsMut::F32(cells), Backlog::Features(features)) => {
                copy_rows(cells, features, start, tokens, active);
            }
            (CellsMut::I64(cells), Backlog::Tokens(values)) => {
                copy_rows(cells, values, start, tokens, active)
            }
            _ => unreachable!("the backlog has been checked"),
        }
    }

    /// Runs the graph once over its input and what the streams remember. The outputs are then of the contract's sizes.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`]; [`Error::Graph`] when the graph gives something else than the contract declares.
    pub(super) fn run(&mut self, streams: &mut Streams<B::Tensor>) -> Result<(), Error> {
        let inputs = self.feeds.iter().map(|feed| match *feed {
            Feed::Input => &self.input,
            Feed::Past(index) => &streams.past()[index],
            Feed::Cache(index) => &streams.cache().tensors()[index],
            Feed::Steps(index) => &streams.cache().steps()[index],
            Feed::SegmentLength => streams.segment_length(),
            Feed::CacheLength => streams.cache_length(),
        });
        let ran = self.backend.run(inputs, &mut self.outputs.tensors);
        // One that fails may have read as much.
        streams.touch(self.tokens, false);
        ran?;
        self.outputs.check(self.tokens)
    }
}

/// Copies `tokens` tokens from `start` on of every active stream: `to` is `[B, tokens, …]`, `from` `[B, more tokens, …]`.
fn copy_rows<T: Copy + Default>(to: &mut [T], from: &[T], start: usize, tokens: usize, active: &[bool]) {
    let batch = active.len();
    let size = to.len() / batch / tokens;
    for (stream, &is_active) in active.iter().enumerate() {
        let to = part_mut(to, stream, batch);
        if is_active {
            let from = super::part(from, stream, batch);
            to.copy_from_slice(&from[start * size..(start + tokens) * size]);
        } else {
            to.fill(T::default());
        }
    }
}

fn feed(contract: &Contract, name: &str) -> Result<Feed, Error> {
    let state = || contract.state.iter().position(|state| state.past == name).map(Feed::Past);
    let cache = || contract.cache.iter().position(|cache| cache.name == name).map(Feed::Cache);
    let steps = || contract.cache.iter().filter_map(|cache| cache.steps.as_ref());
    let feed = match name {
        "input" => Some(Feed::Input),
        "segment.length" => Some(Feed::SegmentLength),
        "cache.length" => Some(Feed::CacheLength),
        _ => state().or_else(cache).or_else(|| steps().position(|steps| steps == name).map(Feed::Steps)),
    };
    feed.ok_or_else(|| Error::Graph { found: format!("input `{name}`"), expected: "no such tensor".into() })
}

fn input_tensor<B: Backend>(backend: &B, contract: &Contract, tokens: usize) -> Result<B::Tensor, Error> {
    match contract.input {
        Input::Features { size, .. } => backend.zeros(Element::F32, &[contract.batch, tokens, size]),
        Input::Tokens { .. } => backend.zeros(Element::I64, &[contract.batch, tokens]),
    }
}
