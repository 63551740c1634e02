//! The wire protocol between a board that samples sensors and a host that runs a model on them.
//!
//! A [`Record`] is a fixed little-endian layout; a frame is a record with its CRC-32 behind it, COBS-stuffed and ended by
//! a zero byte. [`encode`] makes frames, [`Decoder`] takes any bytes in any pieces and gives records. The layouts are in
//! `firmware-host/README.md`, with test vectors.
//!
//! Nothing here allocates, and nothing needs more than `core`: firmware uses it as it is. Feature
//! `std` makes the CRC faster with tables of 16 KiB in place of 1 KiB.
#![no_std]

mod codec;
mod decode;
mod fields;
mod frame;
mod record;

pub use decode::{Counts, Decoder, FrameError};
pub use frame::{EncodeError, encode};
pub use record::{
    Body, Channel, Channels, Descriptor, Element, Field, Prediction, Record, RecordError, Samples, State,
    Status, Values,
};

/// The version of the protocol that every record begins with.
pub const VERSION: u8 = 1;
/// The most channels of a stream.
pub const MAX_CHANNELS: usize = 32;
/// The most bytes of a record: those of a descriptor of [`MAX_CHANNELS`].
pub const MAX_RECORD: usize = 48 + 36 * MAX_CHANNELS;
/// The most bytes of a frame, its zero included.
pub const MAX_FRAME: usize = cobs::max_encoding_length(MAX_RECORD + frame::CRC_BYTES) + 1;
/// In a command, every stream of the board.
pub const ALL_STREAMS: u8 = 255;
