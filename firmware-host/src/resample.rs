//! Samples to a uniform grid of another rate.

/// Samples at a rate of their own to samples on a uniform grid, by linear interpolation.
///
/// Nothing is filtered: what the samples have above half of a lower rate folds down into it.
///
/// # Invariants
///
/// - Grid point `k` lies at `origin_us + k / rate_hz`; the first sample after a reset is point 0.
/// - Points before `next` have been given, or lie before the newest but one sample.
#[derive(Clone, Debug)]
pub struct Resampler {
    rate_hz: f64,
    origin_us: i64,
    /// The next point of the grid.
    next: u64,
    /// The newest sample but one, and the newest: `[channels]` each.
    before: Box<[f32]>,
    newest: Box<[f32]>,
    before_us: i64,
    newest_us: i64,
    has_newest: bool,
    point: Box<[f32]>,
}

impl Resampler {
    /// Gives `rate_hz` samples of `channels` numbers a second.
    pub fn new(rate_hz: f64, channels: usize) -> Self {
        let row = || vec![0.0; channels].into_boxed_slice();
        Resampler {
            rate_hz,
            origin_us: 0,
            next: 0,
            before: row(),
            newest: row(),
            before_us: 0,
            newest_us: 0,
            has_newest: false,
            point: row(),
        }
    }

    /// Takes a sample of `[channels]`; then [`next`](Resampler::next) gives the points of the grid up to it. One whose
    /// time is not behind that of the sample before is not used. Points that have not been taken are given up.
    pub fn push(&mut self, time_us: i64, values: &[f32]) {
        assert_eq!(values.len(), self.newest.len(), "a sample has one number for each channel");
        if self.has_newest && time_us <= self.newest_us {
            return;
        }
        while self.has_newest && self.next_us() <= self.newest_us {
            self.next += 1;
        }
        std::mem::swap(&mut self.before, &mut self.newest);
        self.newest.copy_from_slice(values);
        self.before_us = if self.has_newest { self.newest_us } else { time_us };
        self.newest_us = time_us;
        if !self.has_newest {
            (self.has_newest, self.origin_us, self.next) = (true, time_us, 0);
        }
    }

    /// The next point of the grid that the samples reach, and its time.
    #[allow(clippy::should_implement_trait)] // what it gives is borrowed from it
    pub fn next(&mut self) -> Option<(i64, &[f32])> {
        let time_us = self.next_us();
        if !self.has_newest || time_us > self.newest_us {
            return None;
        }
        self.next += 1;
        let span_us = (self.newest_us - self.before_us).max(1) as f64;
        let share = if time_us == self.newest_us { 1.0 } else { (time_us - self.before_us) as f64 / span_us };
        for ((point, before), newest) in self.point.iter_mut().zip(&self.before).zip(&self.newest) {
            // Both ends are met exactly.
            *point = (f64::from(*before) * (1.0 - share) + f64::from(*newest) * share) as f32;
        }
        Some((time_us, &self.point))
    }

    /// Forgets everything: what comes next is not to be joined with what was.
    pub fn reset(&mut self) {
        self.has_newest = false;
    }

    fn next_us(&self) -> i64 {
        self.origin_us.saturating_add((self.next as f64 * 1e6 / self.rate_hz).round() as i64)
    }
}
