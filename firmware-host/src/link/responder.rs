//! What sends answers to a board.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mcedge_wire::{Body, Prediction, Record, Values};

use super::shared::Shared;

/// Sends the model's answers to the board of a link, which it may outlive.
#[derive(Clone)]
pub struct Responder {
    pub(super) shared: Arc<Shared>,
}

impl Responder {
    /// Sends the model's answer to a sample, without a wait. A line that is full, or gone, drops it, which is counted.
    pub fn predict(&self, sequence: u32, device_us: u64, score: Option<f32>, values: &[f32]) {
        let body = Body::Prediction(Prediction { score, values: Values::Listed(values) });
        let mut outgoing = self.shared.outgoing();
        let record = Record { stream: outgoing.stream, boot: 0, sequence, time_us: device_us, body };
        outgoing.push_prediction(&record);
        drop(outgoing);
        self.shared.wake();
    }

    /// Waits until all that was sent has gone out, `most` at the most.
    pub fn flush(&self, most: Duration) {
        let began = Instant::now();
        while !self.shared.outgoing().is_empty() && began.elapsed() < most {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
