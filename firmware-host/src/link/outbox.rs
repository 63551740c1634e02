//! What goes to the board, on its way.

use std::collections::VecDeque;

use mcedge_wire::{MAX_FRAME, Record, encode};

use super::talk::Wishes;

/// Frames that wait for the line: whole ones, in memory of fixed size.
///
/// # Invariants
///
/// - `bytes` is as long as the lengths in `frames` together, less what of the first one has been taken.
/// - `bytes` stays within [`OUTBOX_BYTES`].
#[derive(Debug)]
pub struct Outbox {
    bytes: VecDeque<u8>,
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that are gone.
    taken: usize,
    pub predictions_sent: u64,
    pub predictions_dropped: u64,
    pub wishes: Wishes,
    /// The number of the stream that is answered.
    pub stream: u8,
    /// Nobody takes anything any more, and nothing is put in.
    is_closed: bool,
}

#[derive(Debug)]
struct Frame {
    length: usize,
    is_prediction: bool,
}

/// A slow line holds up a prediction by as much as stands before it: 16 KiB are 1.4 s at 115,200 baud.
const OUTBOX_BYTES: usize = 16 << 10;

impl Outbox {
    pub fn new() -> Self {
        Outbox {
            bytes: VecDeque::with_capacity(OUTBOX_BYTES),
            frames: VecDeque::new(),
            taken: 0,
            predictions_sent: 0,
            predictions_dropped: 0,
            wishes: Wishes { runs: true, rate_hz: None, rates: 0 },
            stream: 0,
            is_closed: false,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether nobody takes anything any more.
    #[cfg(test)]
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Takes a command; a full box takes none, and the next second's will do.
    pub fn push(&mut self, record: &Record<'_>) {
        self.push_frame(record, false);
    }

    /// Takes a prediction, or counts it as dropped.
    pub fn push_prediction(&mut self, record: &Record<'_>) {
        if !self.push_frame(record, true) {
            self.predictions_dropped += 1;
        }
    }

    fn push_frame(&mut self, record: &Record<'_>, is_prediction: bool) -> bool {
        let mut room = [0; MAX_FRAME];
        encode(record, &mut room).is_ok_and(|frame| self.push_bytes(frame, is_prediction))
    }

    /// Takes the zero byte that ends whatever stood on the line before.
    pub fn push_zero(&mut self) {
        self.push_bytes(&[0], false);
    }

    fn push_bytes(&mut self, frame: &[u8], is_prediction: bool) -> bool {
        let has_room = !self.is_closed && self.bytes.len() + frame.len() <= OUTBOX_BYTES;
        if has_room {
            self.bytes.extend(frame);
            self.frames.push_back(Frame { length: frame.len(), is_prediction });
        }
        has_room
    }

    /// The first bytes that wait.
    pub fn first(&self) -> &[u8] {
        self.bytes.as_slices().0
    }

    /// So many of the first bytes have gone out.
    pub fn sent(&mut self, count: usize) {
        self.bytes.drain(..count);
        self.taken += count;
        while let Some(frame) = self.frames.front().filter(|frame| frame.length <= self.taken) {
            self.taken -= frame.length;
            self.predictions_sent += u64::from(frame.is_prediction);
            self.frames.pop_front();
        }
    }

    /// The line has gone, and what waits for it is of no use to whoever comes next.
    pub fn clear(&mut self) {
        let dropped = self.frames.iter().filter(|frame| frame.is_prediction).count();
        self.predictions_dropped += dropped as u64;
        self.bytes.clear();
        self.frames.clear();
        self.taken = 0;
    }

    /// The thread at the line has gone: what waits, and what would be put in, is dropped.
    pub fn close(&mut self) {
        self.clear();
        self.is_closed = true;
    }
}

#[cfg(test)]
mod tests {
    use mcedge_wire::{ALL_STREAMS, Body, Decoder, Prediction, Values};

    use super::*;

    fn prediction(values: &[f32]) -> Record<'_> {
        let body = Body::Prediction(Prediction { score: None, values: Values::Listed(values) });
        Record { stream: 0, boot: 0, sequence: 0, time_us: 0, body }
    }

    #[test]
    fn whole_frames_go_out_in_any_pieces_and_the_rest_is_counted() {
        for step in [1, 7, 100, 5000] {
            let mut outbox = Outbox::new();
            let describe = Record { stream: ALL_STREAMS, body: Body::Describe, ..prediction(&[]) };
            outbox.push_zero();
            outbox.push(&describe);
            (0..1000).for_each(|_| outbox.push_prediction(&prediction(&[1.0; 50])));
            let waiting = 1000 - outbox.predictions_dropped;
            assert!((40..100).contains(&waiting), "{waiting}");
            // Half of it goes out, then the line goes.
            let mut decoder = Decoder::<2000>::new();
            let mut sent = 0;
            while sent < OUTBOX_BYTES / 2 {
                let bytes = outbox.first();
                let bytes = bytes[..bytes.len().min(step)].to_vec();
                sent += bytes.len();
                let mut rest = &bytes[..];
                while let Some(record) = decoder.next(&mut rest) {
                    record.unwrap();
                }
                outbox.sent(bytes.len());
            }
            assert_eq!(decoder.counts().records, outbox.predictions_sent + 1, "by {step}");
            outbox.clear();
            assert!(outbox.is_empty());
            assert_eq!(outbox.predictions_sent + outbox.predictions_dropped, 1000, "by {step}");
            // What comes next is whole again.
            outbox.push_prediction(&prediction(&[2.0]));
            let (bytes, mut decoder) = (outbox.first().to_vec(), Decoder::<2000>::new());
            assert!(decoder.next(&mut &bytes[..]).is_some_and(|record| record.is_ok()));
        }
    }

    #[test]
    fn a_prediction_that_cannot_be_sent_is_dropped() {
        let mut outbox = Outbox::new();
        outbox.push_prediction(&prediction(&[0.0; 256]));
        assert_eq!((outbox.is_empty(), outbox.predictions_dropped), (true, 1));
    }
}
