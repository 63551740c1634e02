//! When a board's samples are due, and what its clock says.

use std::time::{Duration, Instant};

use super::options::Faults;
use super::random::Random;

/// When samples are due, and what the board's clock says.
pub struct Clock {
    /// When sample `from` is due.
    pub start: Instant,
    pub from: u64,
    /// The board's time of it.
    pub from_us: u64,
    /// True seconds for a second of the recording; 0: it is played as fast as it goes.
    pub pace: f64,
}

impl Clock {
    /// When sample `sequence` is due.
    pub fn due(&self, sequence: u64, rate_hz: f64) -> Instant {
        let recorded = sequence.saturating_sub(self.from) as f64 / rate_hz;
        self.start + Duration::try_from_secs_f64(recorded * self.pace).unwrap_or(Duration::MAX / 4)
    }

    /// The board's time of sample `sequence`.
    pub fn time_us(&self, sequence: u64, rate_hz: f64) -> u64 {
        self.from_us + (sequence.saturating_sub(self.from) as f64 * 1e6 / rate_hz).round() as u64
    }

    /// Sample `next` is due now, and the board's clock has gone on.
    pub fn start_at(&mut self, next: u64, now: Instant) {
        if next > 0 && self.pace > 0.0 {
            self.from_us += ((now - self.start).as_secs_f64() * 1e6 / self.pace) as u64;
        } else if next > 0 {
            return;
        }
        (self.start, self.from) = (now, next);
    }

    /// From sample `next` on, another rate holds.
    pub fn turn(&mut self, next: u64, rate_hz: f64) {
        (self.start, self.from_us) = (self.due(next, rate_hz), self.time_us(next, rate_hz));
        self.from = next;
    }
}

/// How far the time of the frame that begins with `row` is off.
pub fn jitter_us(faults: &Faults, row: u64) -> i64 {
    let width = 2 * u64::from(faults.jitter_us) + 1;
    Random::of(!faults.seed, row).below(width) as i64 - i64::from(faults.jitter_us)
}
