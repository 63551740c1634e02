//! An engine and what follows from its outputs: what it expected of the next sample or token, and how far off it
//! was.

use std::time::Instant;

use anyhow::Result;
use mcedge_runtime::{Score, bits};

use crate::latency::Latency;
use crate::stream::Stream;

/// A stream whose outputs are taken as predictions of what comes next.
pub struct Forecaster {
    stream: Stream,
    score: Score,
    latency: Latency,
    /// The last output: what the model expects next. Empty before the first.
    expected: Vec<f32>,
    /// The last sample less what was expected of it; empty when nothing was.
    residual: Vec<f32>,
}

impl Forecaster {
    /// A stream at its start.
    pub fn new(stream: Stream) -> Self {
        let output = &stream.contract().output;
        let score = Score::new(&output.std, output.size);
        let (expected, residual) = (Vec::with_capacity(output.size), Vec::with_capacity(output.size));
        Self { score, latency: Latency::new(), expected, residual, stream }
    }

    /// Runs one sample. Its anomaly score, when the model had an expectation of it: then [`Forecaster::residual`]
    /// is the sample less that.
    pub fn sample(&mut self, features: &[f32]) -> Result<Option<f64>> {
        let start = Instant::now();
        let output = self.stream.push(features)?;
        self.latency.record(start.elapsed());
        self.residual.clear();
        if self.expected.len() == features.len() {
            self.residual.extend(features.iter().zip(&self.expected).map(|(x, expected)| x - expected));
        }
        self.expected.clear();
        self.expected.extend_from_slice(output);
        Ok((!self.residual.is_empty()).then(|| self.score.push(&self.residual)))
    }

    /// Runs one token. The bits that it took the model by surprise with, when the model had an expectation.
    pub fn token(&mut self, token: i64) -> Result<Option<f64>> {
        let start = Instant::now();
        let output = self.stream.push_token(token)?;
        self.latency.record(start.elapsed());
        let index = usize::try_from(token).ok().filter(|&token| token < self.expected.len());
        let surprise = index.map(|token| bits(&self.expected, token));
        self.expected.clear();
        self.expected.extend_from_slice(output);
        Ok(surprise)
    }

    /// The last output, `[O]`.
    pub fn output(&self) -> &[f32] {
        &self.expected
    }

    /// The last sample less what was expected of it, `[O]`; empty when nothing was.
    pub fn residual(&self) -> &[f32] {
        &self.residual
    }

    /// The stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// One line on what was done.
    pub fn summary(&self) -> String {
        let (tokens, live, pushed) = self.stream.position();
        format!("{tokens} steps, {pushed} checkpoints made, {live} live; {}", self.latency)
    }
}
