//! How surprising a sample is: a streaming robust z-score of residuals, and bits of a token.

use crate::snapshot::{Draft, Section, SnapshotError};

/// Scored samples whose score is 0, and whose residuals are learned from without clipping.
const WARM_UP: u64 = 30;
/// The memory of the running mean and scale, in samples.
const WINDOW: f64 = 600.0;
/// Past this many scales a residual teaches nothing more: an anomaly must not become the norm at once.
const CLIP: f64 = 3.0;
/// sqrt(π/2): from the mean absolute deviation to the standard deviation of a Gaussian.
const SIGMA_PER_DEVIATION: f64 = 1.2533;
/// The least scale, in standard deviations of the channel, or in its unit where those are not known.
const FLOOR: f64 = 1e-3;

/// A streaming robust z-score of a forecast's residuals.
///
/// The residual `r` of a channel is the sample less the prediction that was made for it one step before. For
/// each channel there is a running mean `m` and a running scale `s`, both 0 at the start; n counts the samples,
/// this one included. With a = max(1/n, 1/600), e = r − m and floor = 10⁻³ · std (10⁻³ without a std):
///
/// - z = e / max(s, floor), and the score is sqrt(mean of z² over the channels), or 0 while n ≤ 30;
/// - then, with e' = clamp(e, −3 max(s, floor), 3 max(s, floor)), or e while n ≤ 30:
///   m ← m + a e' and s ← s + a (1.2533 |e'| − s).
///
/// A score of 1 is a residual of the usual size; 5 is rare. The clipping lets a lasting change become the norm,
/// though not at once. The floor in it lets a channel come back that was constant through the warm-up, whose
/// scale is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    channels: Box<[Channel]>,
    /// Samples scored.
    samples: u64,
}

/// What is usual for one channel.
#[derive(Clone, Debug, PartialEq)]
struct Channel {
    mean: f64,
    scale: f64,
    /// Always positive.
    floor: f64,
}

impl Score {
    /// A score over `channels` channels, whose standard deviations are `std`: `[channels]`, or empty when they
    /// are not known.
    pub fn new(std: &[f32], channels: usize) -> Self {
        assert!(std.is_empty() || std.len() == channels, "{} stds for {channels} channels", std.len());
        let floor = |c: usize| match std.get(c) {
            Some(&std) if std > 0.0 && std.is_finite() => FLOOR * f64::from(std),
            _ => FLOOR,
        };
        let channels = (0..channels).map(|c| Channel { mean: 0.0, scale: 0.0, floor: floor(c) }).collect();
        Score { channels, samples: 0 }
    }

    /// The score of the next residual, `[channels]`.
    ///
    /// A residual that is not finite scores infinity, warm-up or not, and teaches nothing.
    pub fn push(&mut self, residual: &[f32]) -> f64 {
        assert_eq!(residual.len(), self.channels.len(), "channels of a residual");
        if !residual.iter().all(|r| r.is_finite()) {
            return f64::INFINITY;
        }
        self.samples += 1;
        let warm = self.samples > WARM_UP;
        let rate = (1.0 / self.samples as f64).max(1.0 / WINDOW);
        let mut squares = 0.0;
        for (channel, &r) in self.channels.iter_mut().zip(residual) {
            squares += channel.push(f64::from(r), rate, warm).powi(2);
        }
        if warm { (squares / self.channels.len() as f64).sqrt() } else { 0.0 }
    }

    /// Writes what is usual, for [`Score::read`].
    pub fn save(&self, draft: &mut Draft) {
        draft.u64(self.samples);
        for channel in &self.channels {
            draft.f64(channel.mean);
            draft.f64(channel.scale);
        }
    }

    /// As this score was when [`Score::save`] wrote it, of one over the same channels.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Content`] when a number is missing or not finite.
    pub fn read(&self, saved: &mut Section<'_>) -> Result<Self, SnapshotError> {
        let mut score = Self { samples: saved.counter("scored samples")?, ..self.clone() };
        for channel in &mut score.channels {
            (channel.mean, channel.scale) = (saved.f64("a mean")?, saved.f64("a scale")?);
        }
        Ok(score)
    }
}

impl Channel {
    /// z of the residual, from what was usual before it.
    fn push(&mut self, residual: f64, rate: f64, warm: bool) -> f64 {
        let error = residual - self.mean;
        let scale = self.scale.max(self.floor);
        let clipped = if warm { error.clamp(-CLIP * scale, CLIP * scale) } else { error };
        self.mean += rate * clipped;
        self.scale += rate * (SIGMA_PER_DEVIATION * clipped.abs() - self.scale);
        error / scale
    }
}

/// Bits of surprise in `token`: −log₂ of the softmax of `logits` at it; `logits` is `[classes]`.
///
/// A uniform guess over 256 bytes costs 8. Infinite when the token was given no chance, NaN when a logit is NaN.
pub fn bits(logits: &[f32], token: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(max)).exp()).sum();
    (sum.ln() + (f64::from(max) - f64::from(logits[token]))) / std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The formula as it is written, one channel at a time over the whole history.
    fn naive(residuals: &[Vec<f32>], std: &[f32]) -> Vec<f64> {
        let channels = residuals[0].len();
        let mut squares = vec![0.0f64; residuals.len()];
        for c in 0..channels {
            let floor = if std.is_empty() { 1e-3 } else { 1e-3 * std[c] as f64 };
            let (mut m, mut s) = (0.0f64, 0.0f64);
            for (t, residual) in residuals.iter().enumerate() {
                let n = t + 1;
                let a = if n < 600 { 1.0 / n as f64 } else { 1.0 / 600.0 };
                let unit = if s > floor { s } else { floor };
                let e = residual[c] as f64 - m;
                squares[t] += (e / unit) * (e / unit);
                let limit = if n > 30 { 3.0 * unit } else { f64::INFINITY };
                let e = if e.abs() <= limit { e } else { limit * e.signum() };
                m += a * e;
                s = (1.0 - a) * s + a * 1.2533 * e.abs();
            }
        }
        let score = |(t, sum): (usize, f64)| if t < 30 { 0.0 } else { (sum / channels as f64).sqrt() };
        squares.into_iter().enumerate().map(score).collect()
    }

    /// Numbers in −1..1 without a pattern.
    fn noise(samples: usize, channels: usize) -> Vec<Vec<f32>> {
        let mut x = 1u32;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..samples).map(|_| (0..channels).map(|_| next()).collect()).collect()
    }

    #[test]
    fn the_score_is_the_formula() {
        let check = |std: &[f32], residuals: &[Vec<f32>]| {
            let mut score = Score::new(std, residuals[0].len());
            for (t, (residual, expected)) in residuals.iter().zip(naive(residuals, std)).enumerate() {
                let found = score.push(residual);
                assert!((found - expected).abs() <= 1e-9 * expected.max(1.0), "{t}: {found}, not {expected}");
            }
        };
        let mut spiked = noise(1500, 3);
        spiked[5][0] = 40.0;
        spiked[700][1] = 1e6;
        spiked[701][2] = -1e30;
        let shifted: Vec<_> = noise(2000, 1).iter().map(|r| vec![r[0] + 3.0]).collect();
        let mut constant = vec![vec![0.0]; 1000];
        constant[500][0] = 0.5;
        check(&[], &noise(1500, 1));
        check(&[2.0, 0.1, 5000.0], &spiked);
        check(&[], &shifted);
        check(&[1.0], &constant);
    }

    #[test]
    fn a_spike_stands_out_and_does_not_move_the_norm() {
        let mut residuals = noise(1000, 2);
        residuals[900] = vec![50.0, 50.0];
        let mut score = Score::new(&[], 2);
        let scores: Vec<f64> = residuals.iter().map(|r| score.push(r)).collect();
        assert!(scores[..30].iter().all(|&s| s == 0.0), "warm-up");
        assert!(scores[30..900].iter().all(|&s| s > 0.0 && s < 5.0), "noise");
        assert!(scores[900] > 50.0, "spike: {}", scores[900]);
        assert!(scores[901..].iter().all(|&s| s < 5.0), "after the spike");
    }

    #[test]
    fn a_channel_that_was_constant_comes_to_know_its_noise() {
        let mut score = Score::new(&[], 1);
        for _ in 0..100 {
            score.push(&[0.0]);
        }
        assert!(score.push(&[1.0]) > 100.0);
        let last = noise(20_000, 1).iter().map(|r| score.push(r)).last();
        assert!(last.is_some_and(|s| s < 5.0), "{last:?}");
    }

    #[test]
    fn a_residual_that_is_not_finite_scores_infinity_and_is_forgotten() {
        let mut score = Score::new(&[], 2);
        for residual in noise(100, 2) {
            score.push(&residual);
        }
        let before = score.clone();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(score.push(&[0.0, bad]), f64::INFINITY);
        }
        assert_eq!(score, before);
    }

    #[test]
    fn bits_are_the_logarithm_of_the_softmax() {
        let check = |logits: &[f32], token: usize, expected: f64| {
            let found = bits(logits, token);
            assert!(
                found == expected || (found - expected).abs() < 1e-9,
                "{logits:?}: {found}, not {expected}"
            );
        };
        let naive = |logits: &[f32], token: usize| {
            let sum: f64 = logits.iter().map(|&l| (l as f64).exp()).sum();
            -((logits[token] as f64).exp() / sum).log2()
        };
        check(&[0.0; 256], 17, 8.0);
        check(&[3.5], 0, 0.0);
        for token in 0..4 {
            let logits = [0.3, -2.0, 5.5, 1.0];
            check(&logits, token, naive(&logits, token));
        }
        // Where exp overflows and underflows.
        check(&[1e4, 0.0], 0, 0.0);
        check(&[1e4, 0.0], 1, 1e4 / std::f64::consts::LN_2);
        check(&[-1e30, -1e30], 1, 1.0);
        check(&[f32::NEG_INFINITY, 0.0], 0, f64::INFINITY);
        check(&[f32::NEG_INFINITY, 0.0], 1, 0.0);
        assert!(bits(&[f32::NAN, 0.0], 1).is_nan());
    }
}
