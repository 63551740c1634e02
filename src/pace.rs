//! How fast an engine was, in memory of fixed size.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest step that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(60);
/// Upper edge of the first of [`Times::buckets`].
const NARROWEST_NS: u64 = 1000;

/// Times, to three significant digits, in memory of fixed size.
#[derive(Clone)]
pub struct Times(Histogram<u64>);

impl Times {
    /// None yet.
    pub fn new() -> Self {
        let longest = LONGEST.as_nanos() as u64;
        Self(Histogram::new_with_max(longest, 3).expect("the bounds of the histogram are constants"))
    }

    /// Adds one.
    pub fn record(&mut self, time: Duration) {
        self.0.saturating_record(time.as_nanos() as u64);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time, µs, that `quantile`, `0.0..=1.0`, of them do not exceed; 0 when there are none.
    pub fn us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The least, µs; 0 when there are none.
    pub fn least_us(&self) -> f64 {
        self.0.min() as f64 / 1e3
    }

    /// Adds all of `others`.
    pub fn add(&mut self, others: &Self) {
        self.0.add(&others.0).expect("histograms of the same bounds");
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// How many there are by time: the upper edge of a bucket, µs, and the times in it. A bucket's edge is `ratio` times that
    /// of the one before; empty buckets are left out.
    pub fn buckets(&self, ratio: f64) -> Vec<(f64, u64)> {
        let buckets = self.0.iter_log(NARROWEST_NS, ratio);
        let buckets =
            buckets.map(|at| (at.value_iterated_to() as f64 / 1e3, at.count_since_last_iteration()));
        buckets.filter(|&(_, count)| count > 0).collect()
    }
}

/// What an engine took for its work: each step's time, and the time of all catching up.
pub struct Pace {
    steps: Times,
    caught_up_tokens: u64,
    catching_up: Duration,
}

impl Pace {
    /// Nothing done yet.
    pub fn new() -> Self {
        Self { steps: Times::new(), caught_up_tokens: 0, catching_up: Duration::ZERO }
    }

    /// Counts one step, of however many streams.
    pub fn step(&mut self, time: Duration) {
        self.steps.record(time);
    }

    /// Counts tokens that ran many at once.
    pub fn catch_up(&mut self, tokens: u64, time: Duration) {
        self.caught_up_tokens += tokens;
        self.catching_up += time;
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (steps, tokens) = (self.steps.count(), self.caught_up_tokens);
        if tokens > 0 {
            let seconds = self.catching_up.as_secs_f64().max(1e-9);
            write!(f, "{tokens} tokens caught up, {:.0} a second", tokens as f64 / seconds)?;
        }
        if tokens == 0 || steps > 0 {
            let [p50, p99, max] = [0.5, 0.99, 1.0].map(|quantile| self.steps.us(quantile));
            let comma = if tokens > 0 { "; " } else { "" };
            let s = if steps == 1 { "" } else { "s" };
            write!(f, "{comma}{steps} step{s}, p50 {p50:.1} µs, p99 {p99:.1} µs, max {max:.1} µs")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_a_bucket_no_wider_than_the_ratio_says() {
        let mut times = Times::new();
        let ns = |i: u64| 300 + 37 * i * i;
        (0..2000).for_each(|i| times.record(Duration::from_nanos(ns(i))));
        let buckets = times.buckets(1.05);
        let mut least_us = 0.0;
        for (edge_us, count) in buckets {
            // Three significant digits of a time are kept.
            let inside =
                (0..2000).filter(|&i| (least_us..edge_us).contains(&(ns(i) as f64 / 1e3))).count() as u64;
            assert!(count > 0 && inside.abs_diff(count) <= 2, "{count} up to {edge_us} µs, not {inside}");
            least_us = edge_us;
        }
        assert_eq!(times.buckets(1.05).iter().map(|bucket| bucket.1).sum::<u64>(), 2000);
        assert!((times.us(0.5) / (ns(999) as f64 / 1e3) - 1.0).abs() < 2e-3);
        assert!((times.least_us() - 0.3).abs() < 1e-3);
    }

    #[test]
    fn there_may_be_no_times() {
        let mut times = Times::new();
        assert_eq!(
            (times.count(), times.us(0.99), times.least_us(), times.buckets(1.05)),
            (0, 0.0, 0.0, vec![])
        );
        times.record(Duration::from_secs(3600));
        assert!((times.us(1.0) / 60e6 - 1.0).abs() < 1e-2, "no longer than the longest: {}", times.us(1.0));
        times.clear();
        assert_eq!(times.count(), 0);
    }
}
