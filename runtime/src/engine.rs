//! Streams through a model's graphs: the owner of all that they remember.

use mcedge_models::Policy;
use mcedge_models::contract::{Contract, Input};

pub use self::backlog::Backlog;
pub use self::gates::BlockGates;
use self::graph::Graph;
pub use self::streams::RolledBack;
use self::streams::Streams;
use crate::backend::{Backend, Buffer, Cells, CellsMut};
use crate::cache::CheckpointCache;
use crate::{Error, Model, Spill};

mod backlog;
mod gates;
mod graph;
mod outputs;
mod saved;
mod streams;
#[cfg(test)]
mod tests;

/// A batch of B streams, independent of each other: state, checkpoint caches and positions, over a backend.
///
/// # Invariants
///
/// - State, cache and clock of a stream change together, after all that can fail: a failed call leaves every stream as
///   it was after its last committed token.
/// - Every buffer is allocated by [`Engine::new`] or handed over by the backend in exchange for one: memory does not
///   grow with the streams. The exceptions are bounded by the contract's batch and chunk: [`Engine::catch_up`]'s input, and the
///   rows that a kernel projects, for which it makes room at its first and its longest run.
pub struct Engine<B: Backend> {
    contract: Contract,
    /// Which model it is: [`Model`]'s.
    digest: [u8; 32],
    streams: Streams<B::Tensor>,
    step: Graph<B>,
    chunk: Option<Graph<B>>,
    max_norm: Option<f32>,
}

/// How an engine keeps its streams.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineOptions {
    /// What becomes of checkpoints when there is no room for another.
    pub policy: Policy,
    /// The most checkpoints that a stream keeps, where that is less than the contract's capacity; 0 keeps none.
    pub slots: Option<usize>,
    /// The largest norm of a state tensor or of an output before the stream counts as diverging; without, only numbers that
    /// are not finite do. With it every token is stepped: a chunk does not tell the states inside of it.
    pub max_norm: Option<f32>,
    /// Where memories go that RAM has no room for; all stay in RAM without.
    pub spill: Option<Spill>,
}

/// What a stream is given: one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sample<'a> {
    /// `[input.size]`, in the units of the model's card.
    Features(&'a [f32]),
    /// One token, `0..vocab_size`.
    Token(i64),
}

impl<B: Backend> Engine<B> {
    /// The model's batch of streams at their start, over `backend`, which has loaded `step.onnx`. Everything that they
    /// will ever hold is allocated here.
    ///
    /// # Errors
    ///
    /// [`Error::Policy`] when the policy has no meaning for the model, [`Error::NoGates`] when it follows gates that the
    /// graph does not give, [`Error::Spill`] when its memories cannot spill; [`Error::Graph`] when the graph's inputs and outputs are not those of the contract;
    /// [`Error::Backend`] when there is no memory.
    pub fn new(model: &Model, backend: B, options: EngineOptions) -> Result<Self, Error> {
        let contract = model.contract().clone();
        check_policy(&contract, options.policy)?;
        let gated = gates::blocks(&contract, backend.outputs());
        gates::check(&contract, options.policy, &gated)?;
        let step = Graph::new(backend, &contract, &gated)?;
        let streams = Streams::new(model, step.backend(), &gated, &options)?;
        let digest = model.digest();
        Ok(Self { contract, digest, streams, step, chunk: None, max_norm: options.max_norm })
    }

    /// The same streams with a graph for [`Engine::catch_up`]: `backend` has loaded `chunk.onnx`.
    ///
    /// # Errors
    ///
    /// As [`Engine::new`].
    pub fn with_chunks(mut self, backend: B) -> Result<Self, Error> {
        self.chunk = Some(Graph::new(backend, &self.contract, &self.streams.gated())?);
        Ok(self)
    }

    /// Runs one sample of the only stream and returns its output `[output.size]`, valid until the next call.
    ///
    /// `features` is one sample, `[input.size]`, in the units of the model's card.
    ///
    /// # Errors
    ///
    /// As [`Engine::push_batch`].
    pub fn push(&mut self, features: &[f32]) -> Result<&[f32], Error> {
        self.push_batch(&[Some(Sample::Features(features))])
    }

    /// Runs one token of the only stream and returns its output `[output.size]`, valid until the next call.
    ///
    /// # Errors
    ///
    /// As [`Engine::push_batch`].
    pub fn push_token(&mut self, token: i64) -> Result<&[f32], Error> {
        self.push_batch(&[Some(Sample::Token(token))])
    }

    /// Runs one sample of each stream that has one, and returns the outputs `[B, output.size]`, valid until the next
    /// call.
    ///
    /// `samples` is `[B]`. A stream without a sample stays exactly as it was; its row of the outputs means nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Batch`] when there are not B samples; [`Error::Kind`] when the model takes tokens and a sample has
    /// features, or the other way round; [`Error::Length`] when features are not `[input.size]`; [`Error::Token`] when a
    /// token is outside the vocabulary; [`Error::Diverged`] when a stream's numbers are finite no longer, or past
    /// [`EngineOptions::max_norm`];
    /// [`Error::Backend`] when the backend fails, [`Error::Graph`] when it gives something else than the contract declares.
    /// In a batch of several what is wrong with a sample says which stream's, as an [`Error::Stream`]. Whatever it is, no stream has changed, and the call may be repeated.
    pub fn push_batch(&mut self, samples: &[Option<Sample<'_>>]) -> Result<&[f32], Error> {
        if samples.len() != self.contract.batch {
            return Err(Error::Batch { found: samples.len(), expected: self.contract.batch });
        }
        for (stream, sample) in samples.iter().enumerate() {
            sample.map_or(Ok(()), |sample| self.check(stream, sample))?;
        }
        for (stream, sample) in samples.iter().enumerate() {
            self.streams.set_active(stream, sample.is_some());
            if let Some(sample) = *sample {
                self.step.feed(stream, sample);
            }
        }
        if samples.iter().any(Option::is_some) {
            self.run_step()?;
        }
        Ok(self.step.outputs.output())
    }

    /// Takes every stream back to its start.
    pub fn reset(&mut self) {
        (0..self.contract.batch).for_each(|stream| self.reset_stream(stream));
    }

    /// Takes stream `stream`, `0..B`, back to its start; the others go on.
    pub fn reset_stream(&mut self, stream: usize) {
        self.streams.reset(stream);
    }

    /// Takes stream `stream`, `0..B`, back to what it was at the end of its last segment, after it has
    /// [diverged](Error::Diverged): its state goes back, its checkpoints stay, a new segment begins. What goes back for the
    /// 17th time without having ended a segment goes to its start, for the end of that segment was no good.
    ///
    /// The position goes on: the tokens have been given and answered.
    pub fn roll_back(&mut self, stream: usize) -> RolledBack {
        self.streams.roll_back(stream)
    }

    /// Tokens committed since the start, over all streams.
    pub fn tokens(&self) -> u64 {
        (0..self.contract.batch).map(|stream| self.tokens_of(stream)).sum()
    }

    /// Tokens of stream `stream`, `0..B`, committed since its start.
    pub fn tokens_of(&self, stream: usize) -> u64 {
        self.streams.clock(stream).tokens()
    }

    /// The checkpoint cache of all streams.
    pub fn cache(&self) -> &CheckpointCache<B::Tensor> {
        self.streams.cache()
    }

    /// Who was read for the last token of stream `stream`, `0..B`, block by block; nothing when the graph has no
    /// `gates.{i}`.
    pub fn gates(&self, stream: usize) -> impl Iterator<Item = BlockGates<'_>> {
        self.streams.gates(stream)
    }

    /// What the graphs take and give.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// Whether stream `stream` can take this sample.
    fn check(&self, stream: usize, sample: Sample<'_>) -> Result<(), Error> {
        let result = match (sample, &self.contract.input) {
            (Sample::Features(features), &Input::Features { size, .. }) if features.len() != size => {
                Err(Error::Length { found: features.len(), expected: size })
            }
            (Sample::Token(token), &Input::Tokens { vocab_size })
                if !usize::try_from(token).is_ok_and(|token| token < vocab_size) =>
            {
                Err(Error::Token { found: token, vocab_size })
            }
            (Sample::Features(_), Input::Tokens { .. }) => Err(kind("a sample", "tokens")),
            (Sample::Token(_), Input::Features { .. }) => Err(kind("a token", "samples")),
            (Sample::Features(_), Input::Features { .. }) | (Sample::Token(_), Input::Tokens { .. }) => {
                Ok(())
            }
        };
        match result {
            Err(source) if self.contract.batch > 1 => Err(Error::Stream { stream, source: Box::new(source) }),
            result => result,
        }
    }

    /// Runs what the step graph has been fed with, and commits it.
    fn run_step(&mut self) -> Result<(), Error> {
        self.step.run(&mut self.streams)?;
        if let Some(found) = self.step.outputs.diverges(self.streams.active(), self.max_norm) {
            let token = self.tokens_of(found.stream);
            let stream = (self.contract.batch > 1).then_some(found.stream);
            return Err(Error::Diverged { tensor: found.tensor.to_owned(), over: found.over, token, stream });
        }
        self.streams.commit(&mut self.step.outputs, 1);
        Ok(())
    }
}

/// Whether the policy has a meaning for the blocks that have a cache.
fn check_policy(contract: &Contract, policy: Policy) -> Result<(), Error> {
    let cached = contract.blocks.iter().filter(|block| block.memory.is_cached());
    policy.check(contract.init, cached.map(|block| (&block.memory.memory, &block.memory.caching)))?;
    Ok(())
}

fn kind(found: &'static str, expected: &'static str) -> Error {
    Error::Kind { found, expected }
}

fn f32s<T: Buffer>(tensor: &T) -> &[f32] {
    match tensor.cells() {
        Cells::F32(cells) => cells,
        _ => &[],
    }
}

fn f32s_mut<T: Buffer>(tensor: &mut T) -> &mut [f32] {
    match tensor.cells_mut() {
        CellsMut::F32(cells) => cells,
        _ => &mut [],
    }
}

/// Stream `stream`'s part of a tensor `[B, …]`.
fn part<T>(cells: &[T], stream: usize, batch: usize) -> &[T] {
    let elements = cells.len() / batch;
    &cells[stream * elements..(stream + 1) * elements]
}

/// As [`part`], to write.
fn part_mut<T>(cells: &mut [T], stream: usize, batch: usize) -> &mut [T] {
    let elements = cells.len() / batch;
    &mut cells[stream * elements..(stream + 1) * elements]
}
