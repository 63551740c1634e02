//! Latency of single steps, in a histogram of fixed size.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest step that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(60);

/// Step times, to three significant digits, in memory that does not grow.
pub struct Latency {
    nanoseconds: Histogram<u64>,
}

impl Latency {
    /// No steps yet.
    pub fn new() -> Self {
        let longest = LONGEST.as_nanos() as u64;
        let nanoseconds =
            Histogram::new_with_max(longest, 3).expect("the bounds of the histogram are constants");
        Self { nanoseconds }
    }

    /// Counts one step.
    pub fn record(&mut self, step: Duration) {
        self.nanoseconds.saturating_record(step.as_nanos() as u64);
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |quantile| self.nanoseconds.value_at_quantile(quantile) as f64 / 1e3;
        write!(f, "step p50 {:.1} µs, p99 {:.1} µs, max {:.1} µs", us(0.5), us(0.99), us(1.0))
    }
}
