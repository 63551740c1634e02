//! What a simulated board samples, when, and what goes wrong with it.

use std::time::{Duration, Instant};

use super::board::Board;
use super::clock::jitter_us;
use super::options::Faults;
use super::random::Random;
use super::{DRAIN, SimError, Simulator, Step, TICK};

/// The rows of a frame.
pub(super) struct Taken {
    /// `[samples, channels]`.
    rows: Vec<f32>,
    time_us: u64,
    span_us: u32,
}

impl<R: Iterator<Item = Vec<f32>>> Simulator<R> {
    /// Nobody listens: what is due is sampled and lost. A recording without a pace waits.
    pub(super) fn miss(&mut self) -> Result<Step, SimError> {
        while self.clock.pace > 0.0 && self.is_running && !self.is_played {
            if self.due_in() > Duration::ZERO {
                break;
            }
            self.sample(|_, _| Ok(()))?;
        }
        Ok(Step::Wait(TICK))
    }

    /// How long until the next frame is full.
    pub(super) fn due_in(&self) -> Duration {
        let last = self.board.next() + self.count() - 1;
        self.clock.due(last, self.board.rate_hz()).saturating_duration_since(Instant::now())
    }

    /// Samples of the next frame: none goes across a fault.
    pub(super) fn count(&self) -> u64 {
        let row = self.account.ledger.rows;
        let faults = [self.next_stall, self.next_unplug, self.next_reset];
        let until = faults.into_iter().filter(|&at| at > row).min().unwrap_or(u64::MAX);
        self.board.samples_per_frame().min(until - row)
    }

    /// The next frame, when it is due and no fault comes first.
    pub(super) fn play(&mut self) -> Result<Step, SimError> {
        let (row, now) = (self.account.ledger.rows, Instant::now());
        let Faults { stall, unplug, reset, cut, .. } = self.options.faults.clone();
        if row >= self.next_reset {
            self.next_reset = row + reset.unwrap_or(u64::MAX / 2).max(1);
            self.reset();
            return Ok(Step::Again);
        }
        if let Some(unplug) = unplug.filter(|_| row >= self.next_unplug) {
            self.next_unplug = row + unplug.rows.max(1);
            self.pull_by = Some(now + DRAIN);
            if cut {
                self.send_samples()?;
                self.out.truncate(self.out.len() / 2);
            }
            return Ok(Step::Again);
        }
        if let Some(stall) = stall.filter(|_| row >= self.next_stall) {
            self.next_stall = row + stall.rows.max(1);
            self.still_until = Some(now + stall.time);
            self.account.ledger.stalls += 1;
            return Ok(Step::Again);
        }
        let due = self.due_in();
        if due > Duration::ZERO && self.clock.pace > 0.0 {
            return Ok(Step::Wait(due.min(TICK)));
        }
        self.send_samples()?;
        Ok(Step::Again)
    }

    pub(super) fn send_samples(&mut self) -> Result<(), SimError> {
        let row = self.account.ledger.rows;
        let faults = &self.options.faults;
        let (drops, seed) = (faults.drop, faults.seed);
        if Random::of(seed, !row).happens(drops) {
            let taken = self.sample(|_, _| Ok(()))?;
            self.board.dropped = self.board.dropped.wrapping_add(taken as u32);
            self.account.ledger.dropped += taken;
            return Ok(());
        }
        let mut frame = Vec::new();
        let taken = self.sample(|board, samples| {
            frame.extend(board.samples(&samples.rows, samples.time_us, samples.span_us)?);
            Ok(())
        })?;
        if taken > 0 {
            if self.board.is_text() {
                self.account.expect_line(Some(row), &frame);
            }
            self.put(row << 1, &frame);
        }
        Ok(())
    }

    /// Takes the rows of a frame, after `see` has had them; says how many.
    pub(super) fn sample(
        &mut self,
        see: impl FnOnce(&mut Board, &Taken) -> Result<(), SimError>,
    ) -> Result<u64, SimError> {
        let (row, width, rate_hz) = (self.account.ledger.rows, self.board.channels(), self.board.rate_hz());
        let most = self.count();
        let (mut rows, mut count) = (Vec::new(), 0);
        for values in self.rows.by_ref().take(most as usize) {
            if values.len() != width {
                return Err(SimError::Row { row: row + count, found: values.len(), expected: width });
            }
            rows.extend(values);
            count += 1;
        }
        self.is_played |= self.rows.peek().is_none();
        if count == 0 {
            return Ok(0);
        }
        let first = self.board.next();
        let jitter_us = jitter_us(&self.options.faults, row);
        let time_of = |sequence| self.clock.time_us(sequence, rate_hz).saturating_add_signed(jitter_us);
        let time_us = time_of(first);
        let span_us = u32::try_from(time_of(first + count - 1) - time_us).unwrap_or(u32::MAX);
        see(&mut self.board, &Taken { rows, time_us, span_us })?;
        let of = |at: u64| time_us + u64::from(span_us) * at / (count - 1).max(1);
        self.board.take((0..count).map(of));
        self.account.take(count);
        Ok(count)
    }
}
