//! Where the stream is cut into segments: one clock for all blocks.

use crate::spec::Segmentation;

/// Counts tokens, and says where a segment ends.
pub struct Clock {
    segmentation: Segmentation,
    /// Tokens in the current segment.
    tokens: usize,
}

impl Clock {
    pub fn new(segmentation: Segmentation) -> Self {
        Clock { segmentation, tokens: 0 }
    }

    /// Counts a token, and gives the tokens of the segment when this was its last.
    pub fn tick(&mut self) -> Option<usize> {
        self.tokens += 1;
        let ends = match self.segmentation {
            Segmentation::Constant { size } => self.tokens == size,
            Segmentation::Logarithmic {} => true,
            Segmentation::Surprise { .. } => unreachable!("refused before"),
        };
        ends.then(|| std::mem::take(&mut self.tokens))
    }
}
