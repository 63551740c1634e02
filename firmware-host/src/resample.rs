//! Samples to a uniform grid of another rate.

/// Samples at a rate of their own to samples on a uniform grid, by linear interpolation.
///
/// Nothing is filtered: what the samples have above half of a lower rate folds down into it.
///
/// Samples are joined over 64 periods of the grid or a second, whichever is more: over more than eight periods of a board
/// whose rate is an eighth of the grid's. Over more, or where time has gone back by more than a period of the grid, the
/// grid starts over, as it does after [`reset`](Resampler::reset): one bad time makes no points up, and holds none back.
///
/// # Invariants
///
/// - Grid point `k` lies at `origin_us + k / rate_hz`; the first sample after a reset is point 0.
/// - From `before_us` to `newest_us` it is `most_us` at most.
/// - Points before `next` have been given, or lie before the newest but one sample.
#[derive(Clone, Debug)]
pub struct Resampler {
    rate_hz: f64,
    /// Samples that are further apart are not joined.
    most_us: i64,
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

/// Periods of the grid and µs between samples that are joined, whichever is more, and never more than some years.
const MOST_PERIODS: f64 = 64.0;
const MOST_US: f64 = 1e6;
const EVER_US: f64 = 1e15;
/// Times are whole µs: a finer grid has none.
const MOST_HZ: f64 = 1e6;

impl Resampler {
    /// Gives `rate_hz` samples of `channels` numbers a second, a million at most.
    ///
    /// # Panics
    ///
    /// The rate is no number of Hz above 0.
    pub fn new(rate_hz: f64, channels: usize) -> Self {
        assert!(rate_hz.is_finite() && rate_hz > 0.0, "a rate is a number of Hz above 0");
        let row = || vec![0.0; channels].into_boxed_slice();
        let rate_hz = rate_hz.min(MOST_HZ);
        Resampler {
            rate_hz,
            most_us: (MOST_PERIODS * 1e6 / rate_hz).clamp(MOST_US, EVER_US) as i64,
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
    /// time is that of the sample before, or up to a period of the grid earlier, is not used. Points that have not been
    /// taken are given up.
    ///
    /// # Panics
    ///
    /// There is not one number for each channel.
    pub fn push(&mut self, time_us: i64, values: &[f32]) {
        assert_eq!(values.len(), self.newest.len(), "a sample has one number for each channel");
        let ahead_us = time_us.saturating_sub(self.newest_us);
        if ahead_us > self.most_us || (ahead_us as f64) < -1e6 / self.rate_hz {
            self.reset();
        } else if self.has_newest && ahead_us <= 0 {
            return;
        }
        self.give_up();
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
        let time_us = self.next_us().filter(|&us| self.has_newest && us <= self.newest_us)?;
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

    /// Goes on behind the newest sample.
    fn give_up(&mut self) {
        if self.has_newest {
            let reached = self.newest_us.saturating_sub(self.origin_us) as f64 * self.rate_hz / 1e6;
            self.next = self.next.max(reached as u64);
            while self.next_us().is_some_and(|us| us <= self.newest_us) {
                self.next += 1;
            }
        }
    }

    /// The time of the next point; none at the end of all times.
    fn next_us(&self) -> Option<i64> {
        let since_us = (self.next as f64 * 1e6 / self.rate_hz).round();
        if since_us < i64::MAX as f64 { self.origin_us.checked_add(since_us as i64) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (i64, Vec<f32>);

    /// Everything that a resampler gives, taken as it comes.
    fn resample(rate_hz: f64, samples: &[Row]) -> Vec<Row> {
        let mut resampler = Resampler::new(rate_hz, samples[0].1.len());
        let mut points = Vec::new();
        for (time_us, values) in samples {
            resampler.push(*time_us, values);
            while let Some((time_us, values)) = resampler.next() {
                points.push((time_us, values.to_vec()));
            }
        }
        points
    }

    /// The grid from the first sample to the last, each point looked for from the start.
    fn naive(rate_hz: f64, samples: &[Row]) -> Vec<Row> {
        let (first_us, last_us) = (samples[0].0, samples[samples.len() - 1].0);
        let mut points = Vec::new();
        for point in 0.. {
            let time_us = first_us + (f64::from(point) / rate_hz * 1e6).round() as i64;
            if time_us > last_us {
                return points;
            }
            let behind = samples.iter().position(|(sample_us, _)| *sample_us >= time_us).unwrap();
            let (b_us, b) = &samples[behind];
            let (a_us, a) = &samples[behind.saturating_sub(1)];
            let between = |(a, b): (&f32, &f32)| {
                let slope = f64::from(b - a) / (b_us - a_us).max(1) as f64;
                if *b_us == time_us { *b } else { (f64::from(*a) + slope * (time_us - a_us) as f64) as f32 }
            };
            points.push((time_us, a.iter().zip(b).map(between).collect()));
        }
        unreachable!()
    }

    #[test]
    fn points_are_those_of_a_plain_interpolation() {
        let mut state = 1_u64;
        let mut roll = |sides: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % sides
        };
        for rate_hz in [1.0, 3.0, 44.1, 50.0, 99.9, 100.0, 104.0, 800.0] {
            let mut time_us = 1_763_760_000_000_000;
            let samples: Vec<Row> = (0..300)
                .map(|_| {
                    time_us += 9_000 + roll(2_000) as i64;
                    (time_us, (0..3).map(|_| roll(1 << 20) as f32 / 1024.0 - 512.0).collect())
                })
                .collect();
            let (found, expected) = (resample(rate_hz, &samples), naive(rate_hz, &samples));
            assert_eq!(found.len(), expected.len(), "{rate_hz}");
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found.0, expected.0, "{rate_hz}");
                for (a, b) in found.1.iter().zip(&expected.1) {
                    assert!((a - b).abs() <= 1e-3, "{rate_hz} at {}: {a} {b}", found.0);
                }
            }
        }
    }

    #[test]
    fn samples_on_the_grid_pass_bit_for_bit() {
        let samples: Vec<Row> = (0..100).map(|at| (5 + 10_000 * at, vec![(at as f32 * 0.1).sin()])).collect();
        assert_eq!(resample(100.0, &samples), samples);
    }

    #[test]
    fn nothing_is_joined_across_a_reset() {
        let mut resampler = Resampler::new(1.0, 1);
        let given = |resampler: &mut Resampler, time_us, value| {
            resampler.push(time_us, &[value]);
            let mut points = Vec::new();
            while let Some((time_us, values)) = resampler.next() {
                points.push((time_us, values[0]));
            }
            points
        };
        assert_eq!(given(&mut resampler, 0, 1.0), [(0, 1.0)]);
        assert_eq!(given(&mut resampler, 1_500_000, 4.0), [(1_000_000, 3.0)]);
        resampler.reset();
        assert_eq!(given(&mut resampler, 3_700_000, 9.0), [(3_700_000, 9.0)]);
        assert_eq!(given(&mut resampler, 4_700_000, 7.0), [(4_700_000, 7.0)]);
        // Time that stands or goes back is not used.
        assert_eq!(given(&mut resampler, 4_700_000, 100.0), []);
        assert_eq!(given(&mut resampler, 4_000_000, 100.0), []);
        assert_eq!(given(&mut resampler, 5_700_000, 5.0), [(5_700_000, 5.0)]);
    }

    #[test]
    fn no_points_are_made_up_over_a_bad_time() {
        let us = |at: i64| 1_000_000 + 10_000 * at;
        for bad_us in [990_001, 1 << 32, 1 << 62, i64::MAX, -990_001, -(1 << 32), i64::MIN] {
            let mut times_us: Vec<i64> = (0..20).map(us).collect();
            times_us[10] = times_us[10].saturating_add(bad_us);
            let samples: Vec<Row> = times_us.iter().map(|&time_us| (time_us, vec![1.0])).collect();
            // Each sample is on the grid, or begins one.
            assert_eq!(resample(100.0, &samples), samples, "{bad_us}");
        }
    }

    #[test]
    fn samples_are_joined_over_a_second_or_64_points() {
        for (rate_hz, most_us) in [(100.0, 1_000_000), (8.0, 8_000_000), (0.5, 128_000_000)] {
            for (apart_us, points) in [(most_us, most_us as f64 * rate_hz * 1e-6 + 1.0), (most_us + 1, 2.0)] {
                let samples: Vec<Row> = [5, 5 + apart_us].map(|time_us| (time_us, vec![1.0])).into();
                assert_eq!(resample(rate_hz, &samples).len(), points as usize, "{rate_hz} {apart_us}");
            }
        }
    }

    #[test]
    fn any_rate_and_times_end() {
        for rate_hz in [f64::MIN_POSITIVE, 1e-9, 1.0, 1e6, f64::MAX] {
            for first_us in [i64::MIN, -1, 0, i64::MAX - 3] {
                let times_us = [0, 1, 3, 2, 5_000, i64::MAX, i64::MIN, 0];
                let samples = times_us.map(|us| (first_us.saturating_add(us), vec![1.0]));
                let points = resample(rate_hz, &samples);
                assert!(!points.is_empty() && points.len() < 6_000, "{rate_hz} {first_us}: {}", points.len());
            }
        }
    }

    #[test]
    fn points_that_nobody_takes_are_given_up() {
        let mut resampler = Resampler::new(10.0, 1);
        resampler.push(0, &[0.0]);
        resampler.push(1_000_000, &[10.0]);
        resampler.push(1_050_000, &[10.5]);
        assert_eq!(resampler.next(), None);
        resampler.push(1_150_000, &[11.5]);
        assert_eq!(resampler.next(), Some((1_100_000, &[11.0][..])));
    }
}
