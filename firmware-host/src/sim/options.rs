//! What is played, and how.

use std::path::PathBuf;
use std::time::Duration;

use mcedge_wire::Element;

use crate::Channel;

/// What a simulated board samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The number of its stream; 0 to 254.
    pub stream: u8,
    /// The stream's name, of at most 24 bytes.
    pub name: String,
    /// Rows a second.
    pub rate_hz: f32,
    /// Whether a host may ask for another rate.
    pub has_any_rate: bool,
    /// What numbers are sent as.
    pub element: Element,
    /// What a row has, 1 to 32; names of at most 24 bytes, units of at most 8. Rows are in the units.
    pub channels: Vec<Channel>,
}

/// How a board talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The protocol of `mcedge-wire`.
    Frames {
        /// Samples a frame.
        samples: usize,
    },
    /// A header, then a line of numbers a row, commas between.
    Csv,
    /// Such lines without a header.
    EdgeImpulse,
}

/// How a recording is played.
#[derive(Clone, Debug, PartialEq)]
pub struct SimOptions {
    /// A link that leads to the pseudo-terminal; gone while the line is pulled out.
    pub link: Option<PathBuf>,
    /// How the board talks.
    pub format: Format,
    /// How many times as fast as the rate; 0: as fast as the line takes it.
    pub speed: f64,
    /// Bits a second of the line, ten a byte; else as fast as it goes.
    pub baud: Option<u32>,
    /// Does not wait to be started.
    pub free_run: bool,
    /// How long a host is told that all has been played, if it does not hang up.
    pub grace: Duration,
    /// What goes wrong.
    pub faults: Faults,
}

/// What goes wrong: none of it by default. The seed decides what happens to which frame; probabilities are 0 to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// What all chance comes from.
    pub seed: u64,
    /// Of a byte, that a bit of it turns.
    pub flip: f64,
    /// Of a byte, that it is lost.
    pub lose: f64,
    /// Of a frame, that it comes twice.
    pub duplicate: f64,
    /// Of a frame, that there is garbage before it.
    pub garbage: f64,
    /// Of a frame, that one before it is longer than any may be.
    pub oversized: f64,
    /// Of a frame of samples, that the board has no room for it, and counts it.
    pub drop: f64,
    /// Nothing is sent for a time; what was sampled comes late.
    pub stall: Option<Every>,
    /// The line is pulled out for a time; what is sampled meanwhile is lost.
    pub unplug: Option<Every>,
    /// Pulls it out in the middle of a frame.
    pub cut: bool,
    /// The board has its power from the line: pulled out, it starts over, and the recording waits.
    pub power_cycle: bool,
    /// The board starts over after so many rows.
    pub reset: Option<u64>,
    /// How much faster its clock is than true, in millionths.
    pub drift_ppm: f64,
    /// A frame's time is off by up to this, in µs, either way.
    pub jitter_us: u32,
}

/// A fault that comes again and again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Every {
    /// Rows from one to the next.
    pub rows: u64,
    /// How long it holds.
    pub time: Duration,
}

impl Default for SimOptions {
    fn default() -> Self {
        SimOptions {
            link: None,
            format: Format::Frames { samples: 1 },
            speed: 1.0,
            baud: None,
            free_run: false,
            grace: Duration::from_secs(5),
            faults: Faults::default(),
        }
    }
}
