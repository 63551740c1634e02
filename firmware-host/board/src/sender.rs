//! Records onto a serial line.

use embedded_io::Write;
use mcedge_wire::{MAX_FRAME, Record, encode};

/// Writes records as frames.
pub struct Sender<W> {
    writer: W,
    boot: u8,
    /// A frame may stand on the line without its end: a zero has to come first.
    is_torn: bool,
    room: [u8; MAX_FRAME],
}

impl<W: Write> Sender<W> {
    pub fn new(writer: W, boot: u8) -> Self {
        Sender { writer, boot, is_torn: true, room: [0; MAX_FRAME] }
    }

    /// Whether the record has been written whole.
    pub fn send(&mut self, record: &Record<'_>) -> bool {
        let record = Record { boot: self.boot, ..*record };
        let Ok(frame) = encode(&record, &mut self.room) else { return false };
        if self.is_torn && self.writer.write_all(&[0]).is_err() {
            return false;
        }
        self.is_torn = self.writer.write_all(frame).is_err();
        !self.is_torn
    }
}
