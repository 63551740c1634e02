//! Rates: what a board says, what it does, and what a model wants.

use std::collections::VecDeque;

use thiserror::Error;

/// A rate that would make a model's answers wrong without a word.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum RateError {
    /// Samples do not come as they should.
    #[error("samples come at {found_hz:.1} a second by the board's clock, expected {expected_hz} as it says")]
    Measured {
        /// As they come, Hz.
        found_hz: f64,
        /// As the board says, Hz.
        expected_hz: f64,
    },
    /// Resampling would make up most of the samples, or throw most away.
    #[error(
        "the board has {found_hz} samples a second, expected an eighth of {expected_hz} to eight times as many"
    )]
    Ratio {
        /// The board's, Hz.
        found_hz: f64,
        /// The model's, Hz.
        expected_hz: f64,
    },
}

/// Refuses rates that are not what they are said to be.
///
/// The rate is measured by the numbers of samples and the board's time, over windows. One that is off by more than 5 % for
/// three windows in a row is an error; a pause, which spoils one window, is none.
#[derive(Clone, Debug)]
pub struct RateCheck {
    nominal_hz: f64,
    /// The number and the board's time of the sample that begins the window.
    began: Option<(u64, u64)>,
    measured_hz: Option<f64>,
    /// Windows in a row that were off.
    off: u32,
}

/// A window has at least so many samples and lasts at least so long: a board that counts milliseconds is off by 1 % then.
const WINDOW_SAMPLES: u64 = 32;
const WINDOW_US: u64 = 200_000;
const OFF_WINDOWS: u32 = 3;
const MOST_OFF: f64 = 0.05;
const MOST_RATIO: f64 = 8.0;

impl RateCheck {
    /// Holds samples to this rate.
    pub fn new(nominal_hz: f64) -> Self {
        RateCheck { nominal_hz, began: None, measured_hz: None, off: 0 }
    }

    /// Takes a sample's number and the board's time of it. Numbers may leave some out: those count.
    ///
    /// # Errors
    ///
    /// [`RateError::Measured`], when samples have come at another rate for a while.
    pub fn push(&mut self, sequence: u32, device_us: u64) -> Result<(), RateError> {
        let (first, began_us) = *self.began.get_or_insert((sequence.into(), device_us));
        let samples = u64::from(sequence.wrapping_sub(first as u32));
        let lasts_us = device_us.saturating_sub(began_us);
        if samples > u64::from(u32::MAX / 2) || device_us < began_us {
            self.reset();
            return Ok(());
        }
        if samples < WINDOW_SAMPLES || lasts_us < WINDOW_US {
            return Ok(());
        }
        self.began = Some((sequence.into(), device_us));
        self.end_window(samples as f64 * 1e6 / lasts_us as f64)
    }

    fn end_window(&mut self, found_hz: f64) -> Result<(), RateError> {
        self.measured_hz = Some(found_hz);
        let is_off = (found_hz / self.nominal_hz - 1.0).abs() > MOST_OFF;
        self.off = if is_off { self.off + 1 } else { 0 };
        if self.off >= OFF_WINDOWS {
            return Err(RateError::Measured { found_hz, expected_hz: self.nominal_hz });
        }
        Ok(())
    }

    /// The rate of the last window, in Hz.
    pub fn measured_hz(&self) -> Option<f64> {
        self.measured_hz
    }

    /// The board has started over, or changed its rate.
    pub fn reset(&mut self) {
        *self = RateCheck::new(self.nominal_hz);
    }

    /// How many samples of the board go into one of the model.
    ///
    /// # Errors
    ///
    /// [`RateError::Ratio`], when they are more than eight, or fewer than an eighth.
    pub fn ratio(device_hz: f64, model_hz: f64) -> Result<f64, RateError> {
        let ratio = device_hz / model_hz;
        if (1.0 / MOST_RATIO..=MOST_RATIO).contains(&ratio) {
            Ok(ratio)
        } else {
            Err(RateError::Ratio { found_hz: device_hz, expected_hz: model_hz })
        }
    }
}

/// Guesses at what rate rows of text are taken, from when they come.
///
/// Rows come in bursts: a driver hands on what has gathered. Those that come at one time have gathered since the time
/// before, so the rate of a stretch is the rows behind its first burst, those of its last one included, by the time
/// between the two. The guess is the median of some stretches: a pause spoils one.
#[derive(Clone, Debug, Default)]
pub struct RateGuess {
    /// When the stretch's first burst came, and the rows since.
    began_us: Option<i64>,
    rows: u64,
    /// When the last burst came.
    newest_us: i64,
    /// The last stretches' rates, in Hz; at most [`STRETCHES`].
    stretches_hz: VecDeque<f64>,
}

const STRETCHES: usize = 31;
/// Rows that come closer than this are of one burst.
const BURST_US: i64 = 1_000;
/// A stretch has so many rows and lasts so long: a burst more or less is then a few percent.
const STRETCH_ROWS: u64 = 8;
const STRETCH_US: i64 = 500_000;

impl RateGuess {
    /// Nothing yet.
    pub fn new() -> Self {
        RateGuess::default()
    }

    /// A row has come. One whose time goes back is as new as the one before.
    pub fn push(&mut self, arrival_us: i64) {
        let Some(began_us) = self.began_us else {
            (self.began_us, self.newest_us) = (Some(arrival_us), arrival_us);
            return;
        };
        let is_burst = arrival_us.saturating_sub(self.newest_us) < BURST_US;
        let lasts_us = self.newest_us.saturating_sub(began_us);
        if !is_burst {
            if self.rows >= STRETCH_ROWS && lasts_us >= STRETCH_US {
                self.end_stretch(lasts_us);
            }
            self.newest_us = arrival_us;
        }
        // Rows of the first burst gathered before it.
        if self.began_us != Some(self.newest_us) {
            self.rows += 1;
        }
    }

    fn end_stretch(&mut self, lasts_us: i64) {
        if self.stretches_hz.len() == STRETCHES {
            self.stretches_hz.pop_front();
        }
        self.stretches_hz.push_back(self.rows as f64 * 1e6 / lasts_us as f64);
        (self.began_us, self.rows) = (Some(self.newest_us), 0);
    }

    /// The guess, in Hz; nothing before there are three stretches.
    pub fn rate_hz(&self) -> Option<f64> {
        let mut sorted: Vec<_> = self.stretches_hz.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        (sorted.len() >= 3).then(|| sorted[sorted.len() / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds samples at `rate_hz` until an error or `seconds` are over; of every `keep` samples one comes.
    fn check(nominal_hz: f64, rate_hz: f64, keep: u32, tick_us: u64) -> Result<Option<f64>, RateError> {
        let mut check = RateCheck::new(nominal_hz);
        for sample in (0..2_000_u32).step_by(keep as usize) {
            let device_us = (f64::from(sample) * 1e6 / rate_hz) as u64 / tick_us * tick_us;
            check.push(sample.wrapping_add(u32::MAX - 500), device_us)?;
        }
        Ok(check.measured_hz())
    }

    #[test]
    fn a_rate_that_is_off_is_an_error_that_names_both() {
        for (nominal_hz, rate_hz) in
            [(100.0, 100.0), (100.0, 96.0), (100.0, 104.0), (1_000.0, 990.0), (0.1, 0.1)]
        {
            for (keep, tick_us) in [(1, 1), (7, 1), (1, 1_000)] {
                let found_hz = check(nominal_hz, rate_hz, keep, tick_us).unwrap().unwrap();
                assert!((found_hz / rate_hz - 1.0).abs() < 0.02, "{rate_hz}: {found_hz}");
            }
        }
        for (nominal_hz, rate_hz) in [(100.0, 50.0), (100.0, 93.0), (100.0, 107.0), (1.0, 1_000.0)] {
            let error = check(nominal_hz, rate_hz, 1, 1).unwrap_err();
            let expected = format!(
                "samples come at {rate_hz:.1} a second by the board's clock, expected {nominal_hz} as it says"
            );
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn a_pause_and_a_restart_are_no_rate() {
        let mut check = RateCheck::new(100.0);
        let (mut sequence, mut device_us) = (0, 0);
        for round in 0..20 {
            for _ in 0..200 {
                check.push(sequence, device_us).unwrap();
                (sequence, device_us) = (sequence + 1, device_us + 10_000);
            }
            device_us += 10_000_000;
            if round % 5 == 0 {
                (sequence, device_us) = (0, 0);
            }
        }
    }

    #[test]
    fn ratios_within_eight_are_taken() {
        assert_eq!(RateCheck::ratio(800.0, 100.0), Ok(8.0));
        assert_eq!(RateCheck::ratio(12.5, 100.0), Ok(0.125));
        for (device_hz, model_hz) in [(801.0, 100.0), (12.4, 100.0), (0.0, 1.0), (f64::NAN, 1.0), (1.0, 0.0)]
        {
            assert!(RateCheck::ratio(device_hz, model_hz).is_err(), "{device_hz} {model_hz}");
        }
        let error = RateCheck::ratio(801.0, 100.0).unwrap_err().to_string();
        assert!(error.contains("801") && error.contains("100"), "{error}");
    }

    /// Rows at `rate_hz`, handed on each `burst_us`; one pause of three seconds.
    fn guess(rate_hz: f64, burst_us: i64, seconds: f64) -> Option<f64> {
        let mut guess = RateGuess::new();
        for row in 0..(rate_hz * seconds) as u64 {
            let taken_us = (row as f64 * 1e6 / rate_hz) as i64;
            let pause_us = if taken_us > 5_000_000 { 3_000_000 } else { 0 };
            // Rows of a burst are read some µs apart.
            guess.push((taken_us / burst_us + 1) * burst_us + pause_us + (row % 3) as i64 * 20);
        }
        guess.rate_hz()
    }

    #[test]
    fn a_rate_is_guessed_from_bursts_and_across_a_pause() {
        for rate_hz in [5.0, 20.0, 62.5, 100.0, 1_000.0, 3_333.0] {
            for burst_us in [1, 1_000, 16_000, 50_000, 100_000] {
                let found_hz = guess(rate_hz, burst_us, 30.0).unwrap();
                assert!((found_hz / rate_hz - 1.0).abs() < 0.05, "{rate_hz} by {burst_us}: {found_hz}");
            }
        }
        assert_eq!(guess(100.0, 16_000, 1.0), None, "too early");
    }
}
