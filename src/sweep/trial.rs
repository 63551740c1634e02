//! One run of the input, and what came of it.

use anyhow::{Error, Result};
use indicatif::ProgressBar;
use mcedge_runtime::{EngineOptions, Model};

use super::distance::{Distances, last_seen};
use super::input::Sequence;
use super::loss::{Losses, Task};
use crate::stream::{BackendArg, Placement, Stream};

/// The most tokens of one piece, and the most numbers of its outputs.
const MOST_TOKENS: usize = 512;
const MOST_NUMBERS: usize = 1 << 20;

/// What all runs of a sweep share.
pub struct Trial<'a> {
    pub model: &'a Model,
    pub backend: BackendArg,
    pub placement: &'a Placement,
    pub sequences: &'a [Sequence],
    pub task: &'a Task,
    pub progress: &'a ProgressBar,
}

/// What one run came to.
pub struct Measured {
    pub losses: Losses,
    /// Empty but for [`Task::Answers`].
    pub distances: Distances,
    /// The most checkpoints that any sequence made.
    pub made: usize,
}

/// How far outputs are from those that they are held against.
pub struct Difference<'a> {
    expected: &'a [f32],
    /// Numbers compared.
    done: usize,
    square: f64,
    expected_square: f64,
    largest: f64,
}

impl Trial<'_> {
    /// An engine for [`Trial::run`].
    pub fn open(&self, options: EngineOptions) -> Result<Stream> {
        Stream::open(self.model, self.backend, self.placement, options)
    }

    /// Runs every sequence from the start of a stream, and hands each piece's outputs `[T, O]` to `take`.
    ///
    /// # Errors
    ///
    /// The engine fails.
    pub fn run(&self, mut stream: Stream, mut take: impl FnMut(&[f32])) -> Result<Measured> {
        let contract = self.model.contract();
        let losses = Losses::new(self.task.scored(contract, self.sequences));
        let mut measured = Measured { losses, distances: Distances::default(), made: 0 };
        let (size, mut outputs) = (contract.output.size, Vec::new());
        let piece = (MOST_NUMBERS / size).clamp(1, MOST_TOKENS);
        for (index, sequence) in self.sequences.iter().enumerate() {
            let (tokens, seen) = (sequence.tokens(contract), last_seen(sequence));
            stream.reset();
            for start in (0..tokens).step_by(piece) {
                let end = tokens.min(start + piece);
                outputs.clear();
                let ran = stream.catch_up_some(&[true], sequence.piece(start, end, contract), &mut outputs);
                ran.map_err(|error| self.named(error, index))?;
                take(&outputs);
                for (token, output) in (start..end).zip(outputs.chunks_exact(size)) {
                    measured.take(self.task.loss(sequence, token, output), seen.get(token).copied());
                }
                self.progress.inc((end - start) as u64);
            }
            let (_, _, made) = stream.position();
            measured.made = measured.made.max(usize::try_from(made).unwrap_or(usize::MAX));
        }
        Ok(measured)
    }

    /// An error of the engine, with the sequence that it is about where there are several.
    fn named(&self, error: mcedge_runtime::Error, index: usize) -> Error {
        match self.sequences.len() {
            1 => error.into(),
            _ => Error::new(error).context(format!("sequence {}", index + 1)),
        }
    }
}

impl Measured {
    /// Takes a token's loss, where it has one; `seen` is how long ago the token was last seen, where there are answers.
    fn take(&mut self, loss: Option<f64>, seen: Option<Option<usize>>) {
        let Some(loss) = loss else { return };
        self.losses.add(loss);
        if let Some(distance) = seen {
            self.distances.add(distance, loss == 0.0);
        }
    }
}

impl<'a> Difference<'a> {
    /// Of outputs that come piece by piece from `expected`, all of them.
    pub fn from(expected: &'a [f32]) -> Self {
        Self { expected, done: 0, square: 0.0, expected_square: 0.0, largest: 0.0 }
    }

    /// Takes the next outputs.
    pub fn take(&mut self, found: &[f32]) {
        let expected = &self.expected[self.done..self.done + found.len()];
        for (found, expected) in found.iter().zip(expected) {
            let (found, expected) = (f64::from(*found), f64::from(*expected));
            self.square += (found - expected).powi(2);
            self.expected_square += expected.powi(2);
            self.largest = self.largest.max((found - expected).abs());
        }
        self.done += found.len();
    }

    /// ‖y − y∞‖ / ‖y∞‖; 0 where both are 0.
    pub fn relative(&self) -> f64 {
        match self.square {
            0.0 => 0.0,
            square => (square / self.expected_square).sqrt(),
        }
    }

    /// The largest |y − y∞|.
    pub fn largest(&self) -> f64 {
        self.largest
    }
}
