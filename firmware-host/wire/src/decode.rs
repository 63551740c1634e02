//! Bytes to records.

use core::fmt;

use crate::MAX_FRAME;
use crate::frame::{CRC, CRC_BYTES};
use crate::record::{Record, RecordError};

/// Finds the records in a stream of bytes that come in any pieces.
///
/// Whatever comes, the next zero byte ends a frame, and the one behind it is good again. `N` bounds the bytes of a frame
/// without its zero; a longer one is an error, once. A host takes the default; a board, to which short commands come, may
/// take less.
///
/// # Invariants
///
/// - `frame[..length]` are the bytes since the last zero, when they fit and no record has been given since.
/// - `length` is 0 in a frame that is too long.
pub struct Decoder<const N: usize = MAX_FRAME> {
    frame: [u8; N],
    length: usize,
    /// The frame at hand is longer than `N`: its bytes are not kept.
    is_oversized: bool,
    counts: Counts,
}

/// What a [`Decoder`] has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes in all.
    pub bytes: u64,
    /// Frames with a record.
    pub records: u64,
    /// Frames that were no COBS, or too short for a CRC.
    pub stuffing: u64,
    /// Frames whose CRC was another.
    pub crc: u64,
    /// Frames that were too long.
    pub oversized: u64,
    /// Frames with a right CRC and no record of this version in it.
    pub record: u64,
}

/// Why a frame has no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Its bytes are not COBS, or too few for a CRC.
    Stuffing,
    /// Its CRC is not that of its bytes.
    Crc {
        /// The one that it has.
        found: u32,
        /// That of its bytes.
        expected: u32,
    },
    /// It is longer than any frame may be.
    Oversized,
    /// It came whole, and what it has is no record.
    Record(RecordError),
}

impl Counts {
    /// Frames without a record.
    pub fn bad(&self) -> u64 {
        self.stuffing + self.crc + self.oversized + self.record
    }
}

impl<const N: usize> Default for Decoder<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Decoder<N> {
    /// Nothing yet: the next byte begins a frame.
    pub const fn new() -> Self {
        let counts = Counts { bytes: 0, records: 0, stuffing: 0, crc: 0, oversized: 0, record: 0 };
        Decoder { frame: [0; N], length: 0, is_oversized: false, counts }
    }

    /// What has been seen so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Bytes of a frame that has begun: what is lost when no more come; 0 of one that is too long already.
    pub fn pending(&self) -> usize {
        self.length
    }

    /// Whether a frame has begun, one that is too long included: it is lost when no more come.
    pub fn has_begun(&self) -> bool {
        self.length > 0 || self.is_oversized
    }

    /// Forgets the frame that has begun, as if a zero had come: what comes next is of another stream of bytes.
    pub fn restart(&mut self) {
        (self.length, self.is_oversized) = (0, false);
    }

    /// Takes bytes off the front of `bytes` up to the end of the next frame, and gives its record; nothing when the bytes
    /// end before.
    ///
    /// # Errors
    ///
    /// The frame has none. The next call goes on behind it.
    pub fn next<'d>(&'d mut self, bytes: &mut &[u8]) -> Option<Result<Record<'d>, FrameError>> {
        loop {
            let Some(end) = memchr::memchr(0, bytes) else {
                self.keep(bytes);
                *bytes = &[];
                return None;
            };
            let (part, rest) = bytes.split_at(end);
            *bytes = &rest[1..];
            self.keep(part);
            self.counts.bytes += 1;
            let length = core::mem::take(&mut self.length);
            if core::mem::take(&mut self.is_oversized) {
                self.counts.oversized += 1;
                return Some(Err(FrameError::Oversized));
            }
            // Zeros may stand between frames: a board begins with one, to end what stood there before it.
            if length > 0 {
                return Some(self.open(length));
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.counts.bytes += bytes.len() as u64;
        match self.frame.get_mut(self.length..self.length + bytes.len()) {
            Some(room) if !self.is_oversized => {
                room.copy_from_slice(bytes);
                self.length += bytes.len();
            }
            _ => {
                self.is_oversized = true;
                self.length = 0;
            }
        }
    }

    /// The record in the first `length` bytes.
    fn open(&mut self, length: usize) -> Result<Record<'_>, FrameError> {
        let Decoder { frame, counts, .. } = self;
        let opened = open(&mut frame[..length]);
        match &opened {
            Ok(_) => counts.records += 1,
            Err(FrameError::Stuffing) => counts.stuffing += 1,
            Err(FrameError::Crc { .. }) => counts.crc += 1,
            Err(FrameError::Oversized) => counts.oversized += 1,
            Err(FrameError::Record(_)) => counts.record += 1,
        }
        opened
    }
}

/// The record in a frame without its zero.
fn open(frame: &mut [u8]) -> Result<Record<'_>, FrameError> {
    let length = cobs::decode_in_place(frame).map_err(|_| FrameError::Stuffing)?;
    let (record, crc) = frame[..length].split_last_chunk::<CRC_BYTES>().ok_or(FrameError::Stuffing)?;
    let (found, expected) = (u32::from_le_bytes(*crc), CRC.checksum(record));
    if found != expected {
        return Err(FrameError::Crc { found, expected });
    }
    Record::decode(record).map_err(FrameError::Record)
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Stuffing => f.write_str("a frame is not COBS with a CRC in it"),
            FrameError::Crc { found, expected } => {
                write!(f, "a frame's CRC is {found:08x}, that of its bytes {expected:08x}")
            }
            FrameError::Oversized => write!(f, "a frame is too long: {MAX_FRAME} bytes are the most of any"),
            FrameError::Record(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for FrameError {}
