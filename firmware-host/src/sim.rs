//! A simulated board: plays rows over a pseudo-terminal, in the protocol or as text, with faults on demand.
//!
//! What it destroys is known exactly: the [`Ledger`] is read back from the bytes that a host could read.

mod board;
mod clock;
mod damage;
mod ledger;
mod line;
mod options;
mod random;
mod simulator;
#[cfg(test)]
mod tests;

use std::io;

pub use mcedge_wire::Element;
use mcedge_wire::EncodeError;

pub use ledger::{Boot, Ledger};
pub use options::{Every, Faults, Format, SimOptions, Source};
pub use simulator::Simulator;

/// An answer of the model, as the board got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The sample that it answers.
    pub sequence: u32,
    /// That sample's time.
    pub time_us: u64,
    /// The anomaly score, where there is one.
    pub score: Option<f32>,
    /// The model's output.
    pub values: Vec<f32>,
    /// Such a sample was taken at this time.
    pub is_right: bool,
}

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
