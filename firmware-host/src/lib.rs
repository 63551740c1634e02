//! The host end of a sensor link: what a board sends over a serial line becomes timed samples.
//!
//! It knows no model and depends on no other crate of the workspace but its own wire protocol and board end.

mod address;
mod clock;
mod lines;
mod link;
mod port;
mod rate;
mod redial;
mod resample;
mod sensor;
mod serial;
#[cfg(target_os = "linux")]
pub mod sim;
mod text;
mod track;

pub use address::{Address, AddressError, I2cAddress, PortName, SensorKind, SerialAddress, StreamName};
pub use clock::{Clock, ClockFit};
pub use lines::{Begin, LineCounters, LineKind, Lines, MOST_LINE_BYTES};
pub use link::{
    BadFrames, Channel, Counters, Event, Gap, GapCause, Link, LinkError, LinkOptions, Responder, Sample,
    Stream,
};
pub use port::{PortError, PortInfo, PortTable, ports};
pub use rate::{RateCheck, RateError, RateGuess};
pub use resample::Resampler;
pub use sensor::SensorError;
pub use text::SerialText;
pub use track::{Missing, Place, Track, TrackCounts};
