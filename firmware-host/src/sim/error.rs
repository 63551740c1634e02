//! Why there is no simulated board, or no more.

use std::io;

use mcedge_wire::EncodeError;

/// Why there is no simulated board, or no more.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// No pseudo-terminal.
    #[error("no pseudo-terminal")]
    Pty(#[source] serialport::Error),
    /// Something of the system failed.
    #[error("{what}")]
    Io {
        /// What it was.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// Too many or none.
    #[error("the rows have {found} channels, expected 1 to {}", mcedge_wire::MAX_CHANNELS)]
    Channels {
        /// How many there are.
        found: usize,
    },
    /// A frame has no room for so many.
    #[error("{found} samples a frame, expected 1 to {most} of these")]
    SamplesPerFrame {
        /// How many were asked for.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// A row of another width.
    #[error("row {row} has {found} numbers, expected {expected}")]
    Row {
        /// Which, from 0.
        row: u64,
        /// Its width.
        found: usize,
        /// The count of channels.
        expected: usize,
    },
    /// A name, a unit, a rate or a scale that cannot be.
    #[error("the board cannot say what it is: {0}")]
    Record(EncodeError),
}
