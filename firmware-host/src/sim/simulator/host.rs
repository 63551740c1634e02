//! What the host says to the board.

use std::time::Instant;

use mcedge_wire::Body;

use super::{Simulator, line_failed};
use crate::sim::{Answer, SimError};

impl<R: Iterator<Item = Vec<f32>>> Simulator<R> {
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
    fn hear(&mut self) -> Result<bool, SimError> {
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

    fn obey(&mut self, mut bytes: &[u8]) {
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
