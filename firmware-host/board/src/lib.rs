//! The board end of the sensor link, for firmware: sensors over `embedded-hal` in, frames out.
//!
//! A [`Sensor`] is read in its units: [`Mpu6050`] and [`Bme280`] are drivers over any I²C bus of `embedded-hal` 1.0, which
//! run on a microcontroller and on a machine with Linux alike. A [`Stream`] takes a sensor's samples in time, and a
//! [`Board`] sends the streams' frames over any serial writer of `embedded-io` and does what the host says.
//! `firmware-host/README.md` has a firmware's loop.
//!
//! Nothing here allocates, and nothing needs more than `core`.
#![no_std]

mod bme280;
mod board;
mod mpu6050;
mod sender;
mod sensor;
mod stream;

pub use bme280::Bme280;
pub use board::{Answer, Board};
pub use mpu6050::Mpu6050;
pub use sensor::{Error, Sensor};
pub use stream::Stream;
