//! What B streams remember, and how a run becomes part of it.

use std::mem;

use mcedge_models::contract::{CacheTensor, Contract, Dtype, Reset};

use super::gates::{BlockGates, Gates};
use super::outputs::Outputs;
use super::{EngineOptions, f32s, f32s_mut, part, part_mut};
use crate::backend::{Backend, Buffer, CellsMut, Element};
use crate::cache::{CheckpointCache, New};
use crate::clock::Clock;
use crate::spill::{self, Spilled};
use crate::{Error, Model};

mod saved;

/// How often a stream goes back to where its segment began before that state is no good: a burst of bad samples is no
/// reason to forget everything.
const MOST_BACK: u32 = 16;

/// How far a stream has gone back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolledBack {
    /// To the end of the segment before.
    ToSegment {
        /// Tokens that its memory has lost.
        tokens: u64,
    },
    /// To its start; its checkpoints are still there.
    ToStart,
}

/// The memory of B streams.
///
/// # Invariants
///
/// - `past`, `good` and `initial` have one entry a state tensor, each `[B, …]`; `clocks`, `times_back` and `active` one a
///   stream.
/// - `segment_length` and `cache_length`, `[B]`, are what the clocks and the cache say.
/// - All of it, `good` and `times_back` too, changes in [`Streams::commit`], [`Streams::roll_back`], [`Streams::reset`]
///   and [`Streams::take_over`] alone, which cannot fail; but for `active`, which says whom the run at hand is for.
pub(super) struct Streams<T> {
    initial: Vec<Vec<f32>>,
    resets: Vec<Reset>,
    past: Vec<T>,
    /// What `past` was when the online segment began: the last state that is known to be good.
    good: Vec<Vec<f32>>,
    /// How often a stream has gone back to it since it ended a segment, `[B]`; at most [`MOST_BACK`].
    times_back: Vec<u32>,
    cache: CheckpointCache<T>,
    clocks: Vec<Clock>,
    segment_length: T,
    cache_length: T,
    gates: Vec<Gates>,
    active: Vec<bool>,
}

impl<T: Buffer> Streams<T> {
    /// The streams of a model at their start, in tensors of `backend`.
    pub(super) fn new<B: Backend<Tensor = T>>(
        model: &Model,
        backend: &B,
        gated: &[usize],
        options: &EngineOptions,
    ) -> Result<Self, Error> {
        let contract = model.contract();
        let past = contract.state.iter().map(|state| backend.zeros(Element::F32, &state.shape));
        let mut streams = Self {
            initial: model.initial().to_vec(),
            resets: contract.state.iter().map(|state| state.reset).collect(),
            past: past.collect::<Result<_, _>>()?,
            good: model.initial().to_vec(),
            times_back: vec![0; contract.batch],
            cache: cache(contract, backend, options)?,
            clocks: (0..contract.batch).map(|_| Clock::new(contract)).collect(),
            segment_length: backend.zeros(Element::I64, &[contract.batch])?,
            cache_length: backend.zeros(Element::I64, &[contract.batch])?,
            gates: gated.iter().map(|&block| Gates::new(contract, block)).collect(),
            active: vec![false; contract.batch],
        };
        (0..contract.batch).for_each(|stream| streams.reset(stream));
        Ok(streams)
    }

    pub(super) fn past(&self) -> &[T] {
        &self.past
    }

    pub(super) fn cache(&self) -> &CheckpointCache<T> {
        &self.cache
    }

    pub(super) fn segment_length(&self) -> &T {
        &self.segment_length
    }

    pub(super) fn cache_length(&self) -> &T {
        &self.cache_length
    }

    pub(super) fn clock(&self, stream: usize) -> &Clock {
        &self.clocks[stream]
    }

    /// The streams that the run at hand is for, `[B]`.
    pub(super) fn active(&self) -> &[bool] {
        &self.active
    }

    pub(super) fn set_active(&mut self, stream: usize, is_active: bool) {
        self.active[stream] = is_active;
    }

    pub(super) fn gates(&self, stream: usize) -> impl Iterator<Item = BlockGates<'_>> {
        self.gates.iter().map(move |gates| gates.of(stream, self.clocks.len()))
    }

    /// The blocks that have gates.
    pub(super) fn gated(&self) -> Vec<usize> {
        self.gates.iter().map(|gates| gates.block).collect()
    }

    /// The most tokens, 1 at least, that all active streams may take before any of their segments ends for certain, that
    /// token included.
    pub(super) fn room(&self) -> usize {
        self.active_clocks().map(|(_, clock)| clock.room()).min().unwrap_or(1)
    }

    /// The most tokens, 1 at least, of one run, that what it reads stays in its budget.
    pub(super) fn most_tokens(&mut self) -> usize {
        self.cache.spilled().map_or(usize::MAX, |spilled| spilled.most_tokens())
    }

    /// Says that a run of `tokens` tokens has read the cache, or that checkpoints have been `made`.
    pub(super) fn touch(&mut self, tokens: usize, made: bool) {
        if let Some(spilled) = self.cache.spilled() {
            spilled.touch(tokens, made);
        }
    }

    /// The first of a run's `tokens` tokens with which any active stream's segment ends, `0..tokens`.
    pub(super) fn first_end(&self, outputs: &Outputs<T>, tokens: usize) -> Option<usize> {
        let ends = |(stream, clock): (usize, &Clock)| clock.first_end(tokens, outputs.losses(stream));
        self.active_clocks().filter_map(ends).min()
    }

    fn active_clocks(&self) -> impl Iterator<Item = (usize, &Clock)> {
        self.clocks.iter().enumerate().filter(|(stream, _)| self.active[*stream])
    }

    /// Makes a run of `tokens` tokens part of the active streams, whose segments end with no token of it but the last.
    /// The outputs have been checked.
    pub(super) fn commit(&mut self, outputs: &mut Outputs<T>, tokens: usize) {
        let batch = self.clocks.len();
        for (stream, clock) in self.clocks.iter_mut().enumerate().filter(|(stream, _)| self.active[*stream]) {
            // Before this token's own segment ends: it has read the checkpoints as they still are.
            for (gates, &index) in self.gates.iter_mut().zip(&outputs.gates) {
                let all = part(f32s(&outputs.tensors[index]), stream, batch);
                let last = part(all, tokens - 1, tokens);
                gates.take(stream, batch, last, self.cache.stream(stream));
            }
            let gates = outputs.gates.iter().map(|&index| part(f32s(&outputs.tensors[index]), stream, batch));
            self.cache.follow(stream, tokens, gates);
            if let Some(tokens) = clock.advance(tokens, outputs.losses(stream)) {
                let (outputs, sources) = (&outputs.tensors, &outputs.sources);
                self.cache.push(stream, &New { outputs, sources, tokens, end: clock.tokens() });
            }
        }
        for (past, &present) in self.past.iter_mut().zip(&outputs.present) {
            mem::swap(past, &mut outputs.tensors[present]);
        }
        for stream in 0..batch {
            if !self.active[stream] {
                self.restore(stream, outputs);
            } else if self.clocks[stream].inside() == 0 {
                self.restart(stream, |reset| reset != Reset::Never);
                self.keep(stream);
            }
        }
        let made = self.active_clocks().any(|(_, clock)| clock.inside() == 0);
        self.touch(0, made);
        self.publish();
    }

    /// Takes a stream back to its start.
    pub(super) fn reset(&mut self, stream: usize) {
        self.restart(stream, |_| true);
        self.keep(stream);
        self.cache.clear(stream);
        self.clocks[stream].reset();
        let batch = self.clocks.len();
        self.gates.iter_mut().for_each(|gates| gates.clear(stream, batch));
        self.publish();
    }

    /// Takes a stream's state back to the beginning of its online segment, or, when it has been there too often, to that of
    /// the stream.
    pub(super) fn roll_back(&mut self, stream: usize) -> RolledBack {
        let batch = self.clocks.len();
        self.gates.iter_mut().for_each(|gates| gates.clear(stream, batch));
        let tokens = self.clocks[stream].give_up();
        let back = if self.times_back[stream] == MOST_BACK {
            self.restart(stream, |_| true);
            self.keep(stream);
            RolledBack::ToStart
        } else {
            for (past, good) in self.past.iter_mut().zip(&self.good) {
                part_mut(f32s_mut(past), stream, batch).copy_from_slice(part(good, stream, batch));
            }
            self.times_back[stream] += 1;
            RolledBack::ToSegment { tokens }
        };
        self.publish();
        back
    }

    /// Keeps a stream's state as one to go back to.
    fn keep(&mut self, stream: usize) {
        let batch = self.clocks.len();
        for (good, past) in self.good.iter_mut().zip(&self.past) {
            part_mut(good, stream, batch).copy_from_slice(part(f32s(past), stream, batch));
        }
        self.times_back[stream] = 0;
    }

    /// Gives an idle stream back its state, which has been swapped for what the run made of it.
    fn restore(&mut self, stream: usize, outputs: &Outputs<T>) {
        let batch = self.clocks.len();
        for (past, &present) in self.past.iter_mut().zip(&outputs.present) {
            let old = part(f32s(&outputs.tensors[present]), stream, batch);
            part_mut(f32s_mut(past), stream, batch).copy_from_slice(old);
        }
    }

    /// Sets those of a stream's state tensors back to their initial value whose `reset` is `chosen`.
    fn restart(&mut self, stream: usize, chosen: impl Fn(Reset) -> bool) {
        let batch = self.clocks.len();
        for ((past, initial), &reset) in self.past.iter_mut().zip(&self.initial).zip(&self.resets) {
            if chosen(reset) {
                part_mut(f32s_mut(past), stream, batch).copy_from_slice(part(initial, stream, batch));
            }
        }
    }

    /// Tells the graphs where the streams are.
    fn publish(&mut self) {
        if let CellsMut::I64(lengths) = self.segment_length.cells_mut() {
            let inside = self.clocks.iter().map(Clock::inside);
            lengths.iter_mut().zip(inside).for_each(|(length, inside)| *length = inside as i64);
        }
        if let CellsMut::I64(lengths) = self.cache_length.cells_mut() {
            let live = (0..self.clocks.len()).map(|stream| self.cache.stream(stream).len());
            lengths.iter_mut().zip(live).for_each(|(length, live)| *length = live as i64);
        }
    }
}

fn cache<B: Backend>(
    contract: &Contract,
    backend: &B,
    options: &EngineOptions,
) -> Result<CheckpointCache<B::Tensor>, Error> {
    if options.spill.is_some() {
        spill::check(contract, options.policy)?;
    }
    let tensor = |cache: &CacheTensor| match &options.spill {
        Some(_) if spill::is_spilled(contract, cache) => backend.reserve(element(cache.dtype), &cache.shape),
        _ => backend.zeros(element(cache.dtype), &cache.shape),
    };
    let tensors = contract.cache.iter().map(tensor);
    let quantised = contract.cache.iter().filter(|cache| cache.steps.is_some());
    let steps = quantised.map(|cache| backend.zeros(Element::F32, &cache.shape[..=cache.slot_axis]));
    let (mut tensors, steps) = (tensors.collect::<Result<Vec<_>, _>>()?, steps.collect::<Result<_, _>>()?);
    // SAFETY: the cache keeps both, drops the tensors last, never gives one away and asks those that spill for nothing: what
    // would, `CheckpointCache::restore`, is not called where `CheckpointCache::is_spilled`.
    let spilled = options.spill.as_ref().map(|spill| unsafe { Spilled::new(contract, &mut tensors, spill) });
    Ok(CheckpointCache::new(contract, tensors, steps, spilled.transpose()?, options))
}

fn element(dtype: Dtype) -> Element {
    match dtype {
        Dtype::F32 => Element::F32,
        Dtype::F16 => Element::F16,
        Dtype::I8 => Element::I8,
    }
}
