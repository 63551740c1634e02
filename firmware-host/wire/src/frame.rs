//! Records to frames.

use core::fmt;

use cobs::CobsEncoder;
use crc::{CRC_32_ISO_HDLC, Crc, Table};

use crate::record::{Record, RecordError};

pub(crate) const CRC_BYTES: usize = 4;

/// Of zip and Ethernet.
#[cfg(feature = "std")]
pub(crate) static CRC: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISO_HDLC);
/// Of zip and Ethernet.
#[cfg(not(feature = "std"))]
pub(crate) static CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISO_HDLC);

/// Why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The record cannot be.
    Record(RecordError),
    /// The frame has more bytes than there is room for.
    Room {
        /// Bytes of the room; [`MAX_FRAME`](crate::MAX_FRAME) are always enough.
        found: usize,
    },
}

impl From<RecordError> for EncodeError {
    fn from(error: RecordError) -> Self {
        EncodeError::Record(error)
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::Record(error) => error.fmt(f),
            EncodeError::Room { found } => write!(f, "a frame does not fit into {found} bytes"),
        }
    }
}

impl core::error::Error for EncodeError {}

/// Writes `record` as a frame into `room`, and gives the frame, its zero at the end included.
///
/// # Errors
///
/// A field of the record is out of its range; there is not enough room, for which [`MAX_FRAME`](crate::MAX_FRAME) bytes
/// are.
pub fn encode<'r>(record: &Record<'_>, room: &'r mut [u8]) -> Result<&'r [u8], EncodeError> {
    let full = EncodeError::Room { found: room.len() };
    let mut stuffed = CobsEncoder::new(room);
    let mut crc = CRC.digest();
    record.encode(|bytes| {
        crc.update(bytes);
        stuffed.push(bytes).map_err(|_| full)
    })?;
    stuffed.push(&crc.finalize().to_le_bytes()).map_err(|_| full)?;
    let end = stuffed.finalize();
    *room.get_mut(end).ok_or(full)? = 0;
    Ok(&room[..=end])
}
