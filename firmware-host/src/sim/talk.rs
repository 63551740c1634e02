//! What goes over a simulated board's line, either way.

use std::time::{Duration, Instant};

use mcedge_wire::Body;

use super::damage::damage;
use super::{Answer, ROOM, SimError, Simulator, TICK, line_failed};

impl<R: Iterator<Item = Vec<f32>>> Simulator<R> {
    /// Puts a frame into the cable.
    pub(super) fn put(&mut self, thing: u64, frame: &[u8]) {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        damage(&self.options.faults, thing, frame, &mut self.out, &mut self.account.ledger);
    }

    /// Writes what the line takes now.
    pub(super) fn write(&mut self) -> Result<(), SimError> {
        if self.still_until.is_some() {
            return Ok(());
        }
        let Some(line) = self.line.as_mut().filter(|line| line.is_ready()) else { return Ok(()) };
        while self.sent < self.out.len() {
            let now = Instant::now();
            let mut piece = &self.out[self.sent..];
            if let Some(baud) = self.options.baud {
                if now < self.free_at {
                    return Ok(());
                }
                // As much as goes in a millisecond: a real line has no larger buffer that empties at once.
                piece = &piece[..piece.len().min((baud as usize / 10_000).max(1))];
            }
            let count = line.write(piece).map_err(line_failed)?;
            if count == 0 {
                return Ok(());
            }
            self.account.write(&piece[..count]);
            self.sent += count;
            if let Some(baud) = self.options.baud {
                // A loop that woke late catches up a little.
                let from = self.free_at.max(now.checked_sub(TICK).unwrap_or(now));
                self.free_at = from + Duration::from_secs_f64(count as f64 * 10.0 / f64::from(baud.max(1)));
            }
        }
        Ok(())
    }

    pub(super) fn wait(&mut self, time: Duration) -> Result<(), SimError> {
        let now = Instant::now();
        let has_more = self.sent < self.out.len() && self.still_until.is_none();
        match &self.line {
            // Nothing tells when there is room again.
            Some(line) if has_more && line.is_ready() => line.wait(time.min((self.free_at - now).max(ROOM))),
            Some(line) => line.wait(time),
            None => {
                std::thread::sleep(time);
                Ok(())
            }
        }
        .map_err(line_failed)
    }

    /// Gives a host the time to read the rest; says how many bytes it did not.
    pub(super) fn drain(&mut self, most: Duration) -> Result<usize, SimError> {
        let Some(line) = &mut self.line else { return Ok(0) };
        let by = Instant::now() + most;
        while line.is_open() && !line.is_drained().map_err(line_failed)? && Instant::now() < by {
            line.wait(ROOM).map_err(line_failed)?;
        }
        line.take_unread().map_err(line_failed)
    }

    /// Takes what the host says, and sees whether it has gone.
    pub(super) fn listen(&mut self) -> Result<(), SimError> {
        let has_spoken = self.hear()?;
        let Some(line) = &mut self.line else { return Ok(()) };
        if line.has_lost_its_host(has_spoken).map_err(line_failed)? {
            // What it said last may have come since.
            self.hear()?;
            self.hang_up()?;
            // Nobody is left who could be told that all was played.
            self.ended = self.ended.and_then(|ended| ended.checked_sub(self.options.grace));
        }
        Ok(())
    }

    /// Takes all that has come; whether there was anything.
    pub(super) fn hear(&mut self) -> Result<bool, SimError> {
        let (mut room, mut has_spoken) = ([0; 4096], false);
        loop {
            let Some(line) = &mut self.line else { return Ok(has_spoken) };
            let count = line.read(&mut room).map_err(line_failed)?;
            if count == 0 {
                return Ok(has_spoken);
            }
            has_spoken = true;
            if !self.board.is_text() {
                self.obey(&room[..count]);
            }
        }
    }

    pub(super) fn obey(&mut self, mut bytes: &[u8]) {
        let (board, ledger) = (&mut self.board, &mut self.account.ledger);
        while let Some(record) = self.decoder.next(&mut bytes) {
            let Ok(record) = record else {
                board.bad = board.bad.wrapping_add(1);
                ledger.bad_commands += 1;
                continue;
            };
            board.received = board.received.wrapping_add(1);
            ledger.commands += 1;
            match record.body {
                Body::Describe => (self.replies.describe, self.replies.status) = (true, true),
                Body::Start if !self.is_running => {
                    (self.is_running, self.is_held) = (true, false);
                    self.clock.start_at(board.next(), Instant::now());
                }
                Body::Stop => (self.is_running, self.is_held) = (false, true),
                Body::Rate(rate_hz) => {
                    if self.has_any_rate {
                        self.clock.turn(board.next(), board.rate_hz());
                        board.set_rate_hz(rate_hz);
                    }
                    self.replies.describe = true;
                }
                Body::Prediction(prediction) => {
                    let is_right = board.is_answer(record.sequence, record.time_us);
                    ledger.predictions += 1;
                    ledger.wrong_predictions += u64::from(!is_right);
                    (self.on_answer)(&Answer {
                        sequence: record.sequence,
                        time_us: record.time_us,
                        score: prediction.score,
                        values: prediction.values.iter().collect(),
                        is_right,
                    });
                }
                Body::Start | Body::Descriptor(_) | Body::Samples(_) | Body::Status(_) => {}
            }
        }
    }
}
