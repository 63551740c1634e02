//! What a sensor is.

use core::fmt;

use embedded_hal::i2c::{self, I2c};
use mcedge_wire::{Channel, Element};

/// What can be read again and again: an instant's numbers of some channels.
pub trait Sensor {
    /// What a stream of it is called.
    fn name(&self) -> &str;

    /// What it measures; of a stream of [`Element::I16`] or [`Element::I32`], the scales make whole numbers of the values.
    fn channels(&self) -> &[Channel<'_>];

    /// What its numbers are sent as without a loss.
    fn element(&self) -> Element;

    /// Makes ready to be read `rate_hz` times a second, or as near to it as can be, and gives that rate. It makes a sensor
    /// ready, too, that was without power meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Sensor::read`].
    fn set_rate(&mut self, rate_hz: f32) -> Result<f32, Error>;

    /// Reads it: `values`, one for each channel, are in the channels' units.
    ///
    /// # Errors
    ///
    /// The sensor did not answer, or not as its datasheet says. The next call may be better.
    fn read(&mut self, values: &mut [f32]) -> Result<(), Error>;
}

/// Why a sensor was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Its bus failed: nothing at this address, a cable, a short.
    Bus {
        /// The sensor.
        sensor: &'static str,
        /// What the bus says.
        kind: i2c::ErrorKind,
    },
    /// What answers is something else.
    Device {
        /// The sensor.
        sensor: &'static str,
        /// The identity that it gave.
        found: u8,
        /// That of the sensor.
        expected: u8,
    },
    /// It has lost its settings, as it does without power, and measures nothing: [`Sensor::set_rate`] sets it up anew.
    Reset {
        /// The sensor.
        sensor: &'static str,
    },
    /// It gave what it must not.
    Data {
        /// The sensor.
        sensor: &'static str,
    },
}

impl Error {
    pub(crate) fn bus(sensor: &'static str, error: &impl i2c::Error) -> Self {
        Error::Bus { sensor, kind: error.kind() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Bus { sensor, kind } => write!(f, "{sensor}: the bus failed: {kind}"),
            Error::Device { sensor, found, expected } => {
                write!(f, "{sensor}: what answers has identity {found:#04x}, expected {expected:#04x}")
            }
            Error::Reset { sensor } => {
                write!(f, "{sensor}: it measures nothing: it has lost its settings, as without power")
            }
            Error::Data { sensor } => write!(f, "{sensor}: it gave numbers that it must not"),
        }
    }
}

impl core::error::Error for Error {}

/// Fails unless register `register` of the device at `address` is one of `expected`.
pub(crate) fn identify<I: I2c>(
    sensor: &'static str,
    i2c: &mut I,
    address: u8,
    register: u8,
    expected: &[u8],
) -> Result<(), Error> {
    let mut found = [0];
    i2c.write_read(address, &[register], &mut found).map_err(|error| Error::bus(sensor, &error))?;
    match expected {
        all if all.contains(&found[0]) => Ok(()),
        all => {
            Err(Error::Device { sensor, found: found[0], expected: all.first().copied().unwrap_or_default() })
        }
    }
}
