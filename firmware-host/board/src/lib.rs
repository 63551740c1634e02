//! The board end of the sensor link, for firmware: sensors over `embedded-hal` in, frames out.
//!
//! A [`Sensor`] is read in its units: [`Mpu6050`] and [`Bme280`] are drivers over any I²C bus of `embedded-hal` 1.0, which
//! run on a microcontroller and on a machine with Linux alike.
//!
//! Nothing here allocates, and nothing needs more than `core`.
#![cfg_attr(not(test), no_std)]

mod bme280;
mod mpu6050;
mod sensor;

pub use bme280::Bme280;
pub use mpu6050::Mpu6050;
pub use sensor::{Error, Sensor};
