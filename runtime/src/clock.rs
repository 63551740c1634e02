//! Where a stream is: its tokens, its online segment, and where that ends.

use std::collections::VecDeque;

use mcedge_models::contract::Contract;
use mcedge_models::spec::Segmentation;

use crate::snapshot::{Draft, Section, SnapshotError};

/// The least standard deviation of losses that a loss is measured in.
const LEAST_DEVIATION: f64 = 1e-6;

/// The position of one stream, and the rule that ends its segments.
///
/// # Invariants
///
/// - `start <= tokens`; the online segment is the tokens from `start` on, and is empty just after a segment's end.
/// - `losses` holds the losses of the last tokens, oldest first, and never more than the rule's window; it is empty
///   under any rule but surprise.
pub(crate) struct Clock {
    segmentation: Segmentation,
    /// Tokens committed since the start of the stream.
    tokens: u64,
    /// Tokens before the online segment.
    start: u64,
    losses: VecDeque<f64>,
}

impl Clock {
    /// The clock of a stream at its start. It allocates here and nowhere else.
    pub(crate) fn new(contract: &Contract) -> Self {
        let segmentation = contract.segmentation;
        let losses = VecDeque::with_capacity(window(segmentation));
        Self { segmentation, tokens: 0, start: 0, losses }
    }

    /// Bytes of what it allocates.
    pub(crate) fn bytes(contract: &Contract) -> usize {
        window(contract.segmentation) * size_of::<f64>()
    }

    /// Goes back to the start of a stream.
    pub(crate) fn reset(&mut self) {
        (self.tokens, self.start) = (0, 0);
        self.losses.clear();
    }

    /// Begins a new segment here; the tokens of the one that is given up.
    pub(crate) fn give_up(&mut self) -> u64 {
        let given_up = self.inside();
        self.start = self.tokens;
        given_up
    }

    /// Writes where the stream is, for [`Clock::read`].
    pub(crate) fn save(&self, draft: &mut Draft) {
        draft.u64(self.tokens);
        draft.u64(self.start);
        draft.count(self.losses.len());
        self.losses.iter().for_each(|&loss| draft.f64(loss));
    }

    /// What [`Clock::save`] has written of a stream of the same contract.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Content`] when it breaks an invariant, or when the online segment is longer than the rule lets
    /// it be.
    pub(crate) fn read(contract: &Contract, saved: &mut Section<'_>) -> Result<Self, SnapshotError> {
        let mut clock = Self::new(contract);
        (clock.tokens, clock.start) = (saved.counter("tokens")?, saved.counter("the segment's start")?);
        let longest = clock.longest();
        if clock.tokens.checked_sub(clock.start).is_none_or(|inside| inside >= longest) {
            let found = format!("a segment from token {} to {}", clock.start, clock.tokens);
            return Err(saved.wrong(found, &format!("one of fewer than {longest} tokens")));
        }
        for _ in 0..saved.count("losses", window(clock.segmentation))? {
            clock.losses.push_back(saved.f64("a loss")?);
        }
        Ok(clock)
    }

    /// Tokens committed since the start of the stream.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tokens in the online segment.
    pub(crate) fn inside(&self) -> u64 {
        self.tokens - self.start
    }

    /// The most tokens, 1 at least, that the online segment may yet take: at the last of them it ends, if not before.
    pub(crate) fn room(&self) -> usize {
        let room = self.longest().saturating_sub(self.inside()).max(1);
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// The most tokens of a segment.
    fn longest(&self) -> u64 {
        let longest = match self.segmentation {
            Segmentation::Constant { size } => size,
            Segmentation::Logarithmic {} => 1,
            Segmentation::Surprise { max_size, .. } => max_size,
        };
        longest as u64
    }

    /// The first of the next `tokens` tokens with which the online segment ends, `0..tokens`. Nothing changes.
    ///
    /// `losses` is `[tokens]` under surprise; no other rule looks at it.
    pub(crate) fn first_end(&self, tokens: usize, losses: &[f32]) -> Option<usize> {
        (0..tokens).position(|token| self.ends_with(token, losses))
    }

    /// Commits the next `tokens` tokens, of which none but the last may end the segment. The tokens of the segment,
    /// when it ended.
    pub(crate) fn advance(&mut self, tokens: usize, losses: &[f32]) -> Option<u64> {
        let ended = self.first_end(tokens, losses);
        debug_assert!(ended.is_none_or(|end| end + 1 == tokens), "a segment's end inside a piece");
        if let Segmentation::Surprise { window, .. } = self.segmentation {
            for &loss in losses {
                if self.losses.len() == window {
                    self.losses.pop_front();
                }
                self.losses.push_back(f64::from(loss));
            }
        }
        self.tokens += tokens as u64;
        let segment_tokens = self.inside();
        ended.map(|_| {
            self.start = self.tokens;
            segment_tokens
        })
    }

    /// Whether the segment ends with token `token` of those to come, when it has not ended with one before it.
    fn ends_with(&self, token: usize, losses: &[f32]) -> bool {
        let inside = self.inside() + token as u64 + 1;
        match self.segmentation {
            Segmentation::Constant { size } => inside >= size as u64,
            Segmentation::Logarithmic {} => true,
            Segmentation::Surprise { window, threshold, min_size, max_size } => {
                inside >= max_size as u64
                    || (inside >= min_size as u64
                        && self.z_score(window, &losses[..token], losses[token]) > f64::from(threshold))
            }
        }
    }

    /// z = (ℓ − m) / max(s, 10⁻⁶) of the loss ℓ, with mean m and standard deviation s of the `window` losses before
    /// it, of which the last ones are `pending`; 0 when there are fewer than two.
    ///
    /// Two passes over the window: a running sum would drift over an endless stream.
    fn z_score(&self, window: usize, pending: &[f32], loss: f32) -> f64 {
        let pending = &pending[pending.len().saturating_sub(window)..];
        let kept = self.losses.len().min(window - pending.len());
        let n = (kept + pending.len()) as f64;
        if n < 2.0 {
            return 0.0;
        }
        let before = || {
            let kept = self.losses.range(self.losses.len() - kept..).copied();
            kept.chain(pending.iter().map(|&loss| f64::from(loss)))
        };
        let mean = before().sum::<f64>() / n;
        let variance = before().map(|loss| (loss - mean) * (loss - mean)).sum::<f64>() / n;
        (f64::from(loss) - mean) / variance.sqrt().max(LEAST_DEVIATION)
    }
}

/// Losses that the rule looks back at.
fn window(segmentation: Segmentation) -> usize {
    match segmentation {
        Segmentation::Surprise { window, .. } => window,
        Segmentation::Constant { .. } | Segmentation::Logarithmic {} => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(segmentation: Segmentation) -> Clock {
        Clock { segmentation, tokens: 0, start: 0, losses: VecDeque::with_capacity(window(segmentation)) }
    }

    /// Losses of a small positive integer each, with a spike now and then.
    fn losses(tokens: usize) -> Vec<f32> {
        (0..tokens)
            .map(|t| ((t * t * 31 + t * 7) % 13) as f32 + if t % 17 == 16 { 90.0 } else { 0.0 })
            .collect()
    }

    /// Where segments end, straight from the words of [`Segmentation::Surprise`], over the whole history.
    fn ends(losses: &[f32], window: usize, threshold: f32, min_size: usize, max_size: usize) -> Vec<usize> {
        let (mut ends, mut size) = (Vec::new(), 0);
        for t in 0..losses.len() {
            size += 1;
            let before = &losses[t.saturating_sub(window)..t];
            let n = before.len() as f64;
            let m: f64 = before.iter().map(|&l| l as f64).sum::<f64>() / n;
            let square: f64 = before.iter().map(|&l| l as f64 * l as f64).sum::<f64>() / n;
            let s = (square - m * m).max(0.0).sqrt();
            let z =
                if before.len() < 2 { 0.0 } else { (losses[t] as f64 - m) / if s > 1e-6 { s } else { 1e-6 } };
            if size == max_size || (size >= min_size && z > threshold as f64) {
                ends.push(t);
                size = 0;
            }
        }
        ends
    }

    #[test]
    fn surprise_ends_segments_as_its_definition_says() {
        let check = |losses: &[f32], window, threshold, min_size, max_size| {
            let mut clock = clock(Segmentation::Surprise { window, threshold, min_size, max_size });
            let capacity = clock.losses.capacity();
            let mut found = Vec::new();
            for (t, loss) in losses.iter().enumerate() {
                let room = clock.room();
                assert!((1..=max_size).contains(&room));
                let inside = clock.inside();
                if let Some(tokens) = clock.advance(1, &[*loss]) {
                    assert_eq!((tokens, clock.inside()), (inside + 1, 0));
                    assert!(room > 1 || tokens == max_size as u64);
                    found.push(t);
                }
            }
            assert_eq!(found, ends(losses, window, threshold, min_size, max_size));
            assert!(found.len() > 2, "the losses end no segments: {found:?}");
            assert_eq!(clock.losses.capacity(), capacity, "the window was allocated at the start");
        };
        check(&losses(300), 8, 1.5, 3, 40);
        check(&losses(300), 2, 0.5, 1, 9);
        check(&losses(300), 64, 3.0, 5, 1000);
        // Losses that do not spread are measured in 1e-6.
        let mut flat = vec![2.0; 60];
        (flat[20], flat[40], flat[58]) = (2.001, 2.002, 2.003);
        check(&flat, 16, 1.0, 1, 30);
        check(&[1.0; 20], 4, -0.5, 2, 30);
    }

    #[test]
    fn the_first_end_of_a_piece_is_where_single_tokens_end() {
        let losses = losses(400);
        let rules = [
            Segmentation::Surprise { window: 8, threshold: 1.5, min_size: 2, max_size: 20 },
            Segmentation::Surprise { window: 64, threshold: 2.0, min_size: 4, max_size: 50 },
            Segmentation::Constant { size: 7 },
            Segmentation::Logarithmic {},
        ];
        for rule in rules {
            let (mut single, mut pieces, mut done) = (clock(rule), clock(rule), 0);
            for piece in (1..30).cycle() {
                let piece = piece.min(losses.len() - done);
                if piece == 0 {
                    break;
                }
                let ahead = &losses[done..done + piece];
                let tokens = pieces.first_end(piece, ahead).map_or(piece, |end| end + 1);
                let ended = pieces.advance(tokens, &ahead[..tokens]);
                let singly: Vec<_> = ahead[..tokens].iter().map(|loss| single.advance(1, &[*loss])).collect();
                assert!(singly[..tokens - 1].iter().all(Option::is_none), "{rule:?}");
                assert_eq!(singly[tokens - 1], ended, "{rule:?}");
                assert_eq!((single.tokens(), single.inside()), (pieces.tokens(), pieces.inside()));
                done += tokens;
            }
        }
    }

    #[test]
    fn a_reset_clock_is_a_new_one() {
        let rule = Segmentation::Surprise { window: 8, threshold: 1.0, min_size: 2, max_size: 20 };
        let run =
            |clock: &mut Clock| losses(50).iter().map(|loss| clock.advance(1, &[*loss])).collect::<Vec<_>>();
        let mut clock = clock(rule);
        let first = run(&mut clock);
        clock.reset();
        assert_eq!((clock.tokens(), clock.inside()), (0, 0));
        assert_eq!(run(&mut clock), first);
    }
}
