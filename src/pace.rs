//! How fast an engine was, in memory of fixed size.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest step that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(60);

/// What an engine took for its work: each step's time, to three significant digits, and the time of all catching up.
pub struct Pace {
    steps_ns: Histogram<u64>,
    caught_up_tokens: u64,
    catching_up: Duration,
}

impl Pace {
    /// Nothing done yet.
    pub fn new() -> Self {
        let longest = LONGEST.as_nanos() as u64;
        let steps_ns =
            Histogram::new_with_max(longest, 3).expect("the bounds of the histogram are constants");
        Self { steps_ns, caught_up_tokens: 0, catching_up: Duration::ZERO }
    }

    /// Counts one step, of however many streams.
    pub fn step(&mut self, time: Duration) {
        self.steps_ns.saturating_record(time.as_nanos() as u64);
    }

    /// Counts tokens that ran many at once.
    pub fn catch_up(&mut self, tokens: u64, time: Duration) {
        self.caught_up_tokens += tokens;
        self.catching_up += time;
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (steps, tokens) = (self.steps_ns.len(), self.caught_up_tokens);
        if tokens > 0 {
            let seconds = self.catching_up.as_secs_f64().max(1e-9);
            write!(f, "{tokens} tokens caught up, {:.0} a second", tokens as f64 / seconds)?;
        }
        if tokens == 0 || steps > 0 {
            let us = |quantile| self.steps_ns.value_at_quantile(quantile) as f64 / 1e3;
            let (p50, p99, max) = (us(0.5), us(0.99), us(1.0));
            let comma = if tokens > 0 { "; " } else { "" };
            let s = if steps == 1 { "" } else { "s" };
            write!(f, "{comma}{steps} step{s}, p50 {p50:.1} µs, p99 {p99:.1} µs, max {max:.1} µs")?;
        }
        Ok(())
    }
}
