//! What follows from a stream's outputs: what was expected of the next sample or token, and how far off it was.

use mcedge_models::contract::Output;
use mcedge_runtime::snapshot::{Draft, Section, SnapshotError};
use mcedge_runtime::{Score, bits};

/// The outputs of one stream, each taken as a prediction of what comes next.
pub struct Forecast {
    score: Score,
    /// The last output: what the model expects next. Empty before the first.
    expected: Vec<f32>,
    /// The last sample less what was expected of it; empty when nothing was.
    residual: Vec<f32>,
}

impl Forecast {
    /// A stream at its start.
    pub fn new(output: &Output) -> Self {
        let (expected, residual) = (Vec::with_capacity(output.size), Vec::with_capacity(output.size));
        Self { score: Score::new(&output.std, output.size), expected, residual }
    }

    /// Takes a sample and the output that it gave. Its anomaly score, when the model had an expectation of it: then
    /// [`Forecast::residual`] is the sample less that.
    pub fn sample(&mut self, features: &[f32], output: &[f32]) -> Option<f64> {
        self.residual.clear();
        if self.expected.len() == features.len() {
            self.residual.extend(features.iter().zip(&self.expected).map(|(x, expected)| x - expected));
        }
        self.expect(output);
        (!self.residual.is_empty()).then(|| self.score.push(&self.residual))
    }

    /// Takes a token and the output that it gave. The bits that the token took the model by surprise with, when it had
    /// an expectation.
    pub fn token(&mut self, token: i64, output: &[f32]) -> Option<f64> {
        let index = usize::try_from(token).ok().filter(|&token| token < self.expected.len());
        let surprise = index.map(|token| bits(&self.expected, token));
        self.expect(output);
        surprise
    }

    /// The last sample less what was expected of it, `[O]`; empty when nothing was.
    pub fn residual(&self) -> &[f32] {
        &self.residual
    }

    /// Nothing is expected of what comes next.
    pub fn forget(&mut self) {
        self.expected.clear();
    }

    /// Writes what is expected and what is usual, for [`Forecast::read`].
    pub fn save(&self, draft: &mut Draft) {
        draft.flag(!self.expected.is_empty());
        draft.f32s(&self.expected);
        self.score.save(draft);
    }

    /// As this stream of `size` outputs was when [`Forecast::save`] wrote it.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Content`] when it cannot be.
    pub fn read(&self, size: usize, saved: &mut Section<'_>) -> Result<Self, SnapshotError> {
        let size = if saved.flag("whether anything is expected")? { size } else { 0 };
        let expected = saved.f32s("what is expected", size)?;
        Ok(Self { score: self.score.read(saved)?, expected, residual: Vec::new() })
    }

    /// Takes an output, of whatever sample, as what is expected of the next.
    pub fn expect(&mut self, output: &[f32]) {
        self.expected.clear();
        self.expected.extend_from_slice(output);
    }
}
