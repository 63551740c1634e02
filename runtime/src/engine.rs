//! One stream through a step graph: the owner of all that the stream remembers.

use std::mem;

use mcedge_models::contract::{Contract, Dtype, Input, Reset};

use crate::backend::{Backend, Buffer, Cells, CellsMut, Element};
use crate::cache::CheckpointCache;
use crate::{Error, Model, Policy};

#[cfg(test)]
mod tests;

/// One stream: state, checkpoint cache and position, over a backend.
///
/// # Invariants
///
/// - `tokens` counts the committed steps; the online segment's length follows from it.
/// - `past`, the cache and `tokens` change together, after all that can fail: a failed step leaves the stream as
///   it was.
/// - Every buffer is allocated by [`Engine::new`] or handed over by the backend in exchange for one: memory does
///   not grow with the stream.
pub struct Engine<B: Backend> {
    backend: B,
    contract: Contract,
    /// One a graph input, in the backend's order.
    feeds: Vec<Feed>,
    /// Index of the graph output `output`.
    output: usize,
    /// Index of the graph output `present`, one a state tensor.
    present: Vec<usize>,
    /// One a state tensor, as `past`.
    initial: Vec<Vec<f32>>,
    past: Vec<B::Tensor>,
    /// The last run's, one a graph output.
    outputs: Vec<B::Tensor>,
    cache: CheckpointCache<B::Tensor>,
    input: B::Tensor,
    segment_length: B::Tensor,
    cache_length: B::Tensor,
    segment_tokens: usize,
    tokens: u64,
}

/// What a graph input is fed with.
#[derive(Clone, Copy)]
enum Feed {
    Input,
    Past(usize),
    Cache(usize),
    SegmentLength,
    CacheLength,
}

impl<B: Backend> Engine<B> {
    /// A stream at its start. Everything that it will ever hold is allocated here.
    ///
    /// # Errors
    ///
    /// [`Error::Graph`] when the graph's inputs and outputs are not those of the contract; [`Error::Backend`] when
    /// there is no memory.
    pub fn new(model: &Model, backend: B, policy: Policy) -> Result<Self, Error> {
        let contract = model.contract().clone();
        let segment_tokens = supported(&contract)?;
        let feeds = backend.inputs().iter().map(|name| feed(&contract, name)).collect::<Result<_, _>>()?;
        let find = |name: &str| {
            let found = backend.outputs().iter().position(|output| output == name);
            found.ok_or_else(|| {
                disagree(format!("outputs {:?}", backend.outputs()), format!("output `{name}`"))
            })
        };
        let output = find("output")?;
        let present = contract.state.iter().map(|state| find(&state.present)).collect::<Result<_, _>>()?;
        let zeros = |shape: &[usize]| backend.zeros(Element::F32, shape);
        let past = contract.state.iter().map(|state| zeros(&state.shape)).collect::<Result<_, _>>()?;
        let outputs = backend.outputs().iter().map(|_| zeros(&[1])).collect::<Result<_, _>>()?;
        let caches = contract.cache.iter().map(|cache| backend.zeros(element(cache.dtype), &cache.shape));
        let cache = CheckpointCache::new(&contract, caches.collect::<Result<_, _>>()?, policy);
        let mut engine = Self {
            input: input_tensor(&backend, &contract)?,
            segment_length: backend.zeros(Element::I64, &[contract.batch])?,
            cache_length: backend.zeros(Element::I64, &[contract.batch])?,
            initial: model.initial().to_vec(),
            tokens: 0,
            backend,
            contract,
            feeds,
            output,
            present,
            past,
            outputs,
            cache,
            segment_tokens,
        };
        engine.reset();
        Ok(engine)
    }

    /// Runs one sample and returns the output `[output.size]`, valid until the next call.
    ///
    /// `features` is one sample, `[input.size]`, in the units of the model's card.
    ///
    /// # Errors
    ///
    /// [`Error::Kind`] when the model takes tokens; [`Error::Length`] when `features` is not `[input.size]`;
    /// [`Error::Backend`] when the backend fails. Either way the stream is unchanged, and the call may be repeated.
    pub fn push(&mut self, features: &[f32]) -> Result<&[f32], Error> {
        let Input::Features { size, .. } = self.contract.input else {
            return Err(Error::Kind { found: "a sample", expected: "tokens" });
        };
        if features.len() != size {
            return Err(Error::Length { found: features.len(), expected: size });
        }
        if let CellsMut::F32(cells) = self.input.cells_mut() {
            cells.copy_from_slice(features);
        }
        self.step()
    }

    /// Runs one token and returns the output `[output.size]`, valid until the next call.
    ///
    /// # Errors
    ///
    /// [`Error::Kind`] when the model takes samples; [`Error::Token`] when `token` is outside the vocabulary;
    /// [`Error::Backend`] when the backend fails. Either way the stream is unchanged, and the call may be repeated.
    pub fn push_token(&mut self, token: i64) -> Result<&[f32], Error> {
        let Input::Tokens { vocab_size } = self.contract.input else {
            return Err(Error::Kind { found: "a token", expected: "samples" });
        };
        if !usize::try_from(token).is_ok_and(|token| token < vocab_size) {
            return Err(Error::Token { found: token, vocab_size });
        }
        set(&mut self.input, token);
        self.step()
    }

    /// Goes back to the start of a stream.
    pub fn reset(&mut self) {
        for (past, initial) in self.past.iter_mut().zip(&self.initial) {
            write(past, initial);
        }
        self.cache.clear();
        self.tokens = 0;
    }

    /// Tokens committed since the start of the stream.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The checkpoint cache.
    pub fn cache(&self) -> &CheckpointCache<B::Tensor> {
        &self.cache
    }

    /// What the graph takes and gives.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    fn step(&mut self) -> Result<&[f32], Error> {
        let inside = self.inside() as i64;
        set(&mut self.segment_length, inside);
        set(&mut self.cache_length, self.cache.len() as i64);
        let inputs = self.feeds.iter().map(|feed| match *feed {
            Feed::Input => &self.input,
            Feed::Past(i) => &self.past[i],
            Feed::Cache(i) => &self.cache.tensors()[i],
            Feed::SegmentLength => &self.segment_length,
            Feed::CacheLength => &self.cache_length,
        });
        self.backend.run(inputs, &mut self.outputs)?;
        check_outputs(&self.contract, &self.outputs, &self.present, self.output, self.tokens)?;

        // Commit. Nothing below this line can fail.
        for (past, &present) in self.past.iter_mut().zip(&self.present) {
            mem::swap(past, &mut self.outputs[present]);
        }
        self.tokens += 1;
        if self.inside() == 0 {
            self.end_segment();
        }
        Ok(f32s(&self.outputs[self.output]))
    }

    /// Tokens in the online segment.
    fn inside(&self) -> usize {
        // The remainder is below the segment's length, so it fits.
        (self.tokens % self.segment_tokens as u64) as usize
    }

    fn end_segment(&mut self) {
        self.cache.push(&self.past, self.segment_tokens);
        for (i, state) in self.contract.state.iter().enumerate() {
            if state.reset != Reset::Never {
                write(&mut self.past[i], &self.initial[i]);
            }
        }
    }
}

/// The backend's outputs have the contract's sizes; a graph that lies about them must not reach the state.
fn check_outputs<T: Buffer>(
    contract: &Contract,
    outputs: &[T],
    present: &[usize],
    output: usize,
    tokens: u64,
) -> Result<(), Error> {
    let check = |name: &str, tensor: &T, expected: usize| match tensor.cells() {
        Cells::F32(cells) if cells.len() == expected => Ok(()),
        Cells::F32(cells) => {
            Err(disagree(format!("{} values in `{name}`", cells.len()), expected.to_string()))
        }
        _ => Err(disagree(format!("`{name}` of another type"), "f32".into())),
    };
    check("output", &outputs[output], contract.batch * contract.output.size)?;
    if f32s(&outputs[output]).iter().any(|x| !x.is_finite()) {
        return Err(Error::Diverged { token: tokens });
    }
    for (state, &index) in contract.state.iter().zip(present) {
        check(&state.present, &outputs[index], state.shape.iter().product())?;
    }
    Ok(())
}

/// Tokens in a segment, for a contract that this engine can run.
fn supported(contract: &Contract) -> Result<usize, Error> {
    if contract.batch != 1 {
        return Err(Error::Unsupported { found: format!("batch {}", contract.batch), expected: "1" });
    }
    for cache in &contract.cache {
        let unsupported = |found: String, expected| Err(Error::Unsupported { found, expected });
        if contract.state.iter().all(|state| state.present != cache.from) {
            return unsupported(
                format!("`{}`, copied from `{}`", cache.name, cache.from),
                "copies of the state",
            );
        }
        if cache.dtype == Dtype::I8 {
            return unsupported(format!("`{}` of type i8", cache.name), "f32 and f16 caches");
        }
    }
    let tokens = contract.segment_tokens();
    tokens.ok_or_else(|| Error::Unsupported {
        found: format!("segments {:?}", contract.segmentation),
        expected: "constant segments",
    })
}

fn feed(contract: &Contract, name: &str) -> Result<Feed, Error> {
    let state = contract.state.iter().position(|state| state.past == name).map(Feed::Past);
    let cache = || contract.cache.iter().position(|cache| cache.name == name).map(Feed::Cache);
    let feed = match name {
        "input" => Some(Feed::Input),
        "segment.length" => Some(Feed::SegmentLength),
        "cache.length" => Some(Feed::CacheLength),
        _ => state.or_else(cache),
    };
    feed.ok_or_else(|| disagree(format!("input `{name}`"), "no such tensor".into()))
}

fn disagree(found: String, expected: String) -> Error {
    Error::Graph { found, expected }
}

fn input_tensor<B: Backend>(backend: &B, contract: &Contract) -> Result<B::Tensor, Error> {
    match contract.input {
        Input::Features { size, .. } => backend.zeros(Element::F32, &[contract.batch, 1, size]),
        Input::Tokens { .. } => backend.zeros(Element::I64, &[contract.batch, 1]),
    }
}

fn element(dtype: Dtype) -> Element {
    match dtype {
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::I8 => Element::I8,
    }
}

fn set<T: Buffer>(tensor: &mut T, value: i64) {
    if let CellsMut::I64(cells) = tensor.cells_mut() {
        cells.fill(value);
    }
}

fn write<T: Buffer>(tensor: &mut T, values: &[f32]) {
    if let CellsMut::F32(cells) = tensor.cells_mut() {
        cells.copy_from_slice(values);
    }
}

fn f32s<T: Buffer>(tensor: &T) -> &[f32] {
    match tensor.cells() {
        Cells::F32(cells) => cells,
        _ => &[],
    }
}
