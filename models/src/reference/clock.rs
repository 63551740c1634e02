//! Where the stream is cut into segments: one clock for all blocks.

use std::collections::VecDeque;

use crate::spec::Segmentation;

/// Counts tokens, and says where a segment ends.
pub struct Clock {
    segmentation: Segmentation,
    /// Tokens in the current segment.
    tokens: usize,
    /// The stream's last losses that a segmentation by surprise looks back on, oldest first.
    losses: VecDeque<f64>,
}

impl Clock {
    pub fn new(segmentation: Segmentation) -> Self {
        Clock { segmentation, tokens: 0, losses: VecDeque::new() }
    }

    /// Counts a token of that loss, and gives the tokens of the segment when this was its last.
    ///
    /// Only a segmentation by surprise follows the loss.
    pub fn tick(&mut self, loss: f64) -> Option<usize> {
        self.tokens += 1;
        let ends = match self.segmentation {
            Segmentation::Constant { size } => self.tokens == size,
            Segmentation::Logarithmic {} => true,
            Segmentation::Surprise { window, threshold, min_size, max_size } => {
                let surprises = self.surprise(loss, window) > f64::from(threshold);
                self.tokens == max_size || (self.tokens >= min_size && surprises)
            }
        };
        ends.then(|| std::mem::take(&mut self.tokens))
    }

    /// The z-score of a loss among those before it, at most `window`; then it is one of them.
    fn surprise(&mut self, loss: f64, window: usize) -> f64 {
        let z = z_score(loss, &self.losses);
        self.losses.push_back(loss);
        if self.losses.len() > window {
            self.losses.pop_front();
        }
        z
    }
}

/// (ℓ − m) / max(s, 1e-6); 0 among fewer than two.
fn z_score(loss: f64, losses: &VecDeque<f64>) -> f64 {
    if losses.len() < 2 {
        return 0.0;
    }
    let n = losses.len() as f64;
    let mean = losses.iter().sum::<f64>() / n;
    let variance = losses.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / n;
    (loss - mean) / variance.sqrt().max(1e-6)
}
