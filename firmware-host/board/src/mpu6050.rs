//! The inertial sensors of the MPU-6050's family: six axes.

use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::I2c;
use mcedge_wire::{Channel, Element};
use mpu6050_dmp::accel::AccelFullScale;
use mpu6050_dmp::address::Address;
use mpu6050_dmp::clock_source::ClockSource;
use mpu6050_dmp::config::DigitalLowPassFilter;
use mpu6050_dmp::error::Error as DriverError;
use mpu6050_dmp::gyro::GyroFullScale;
use mpu6050_dmp::sensor::Mpu6050 as Driver;

use crate::sensor::{Error, Sensor, identify};

const NAME: &str = "mpu6050";
const WHO_AM_I: u8 = 0x75;
/// What an MPU-6050 says it is, and an MPU-6500, an MPU-9250 and an MPU-9255. Their registers are alike, but that these set
/// the accelerometer's low pass elsewhere: it stays at its widest.
const IDENTITIES: [u8; 4] = [0x68, 0x70, 0x71, 0x73];
/// In m/s², at ±4 g: 8192 a g.
const ACCELERATION: f32 = 9.80665 / 8192.0;
/// In rad/s, at ±500 °/s: 65.5 a °/s.
const ROTATION: f32 = core::f32::consts::PI / 180.0 / 65.5;
const CHANNELS: [Channel<'static>; 6] = [
    Channel { name: "accel_x", unit: "m/s^2", scale: ACCELERATION },
    Channel { name: "accel_y", unit: "m/s^2", scale: ACCELERATION },
    Channel { name: "accel_z", unit: "m/s^2", scale: ACCELERATION },
    Channel { name: "gyro_x", unit: "rad/s", scale: ROTATION },
    Channel { name: "gyro_y", unit: "rad/s", scale: ROTATION },
    Channel { name: "gyro_z", unit: "rad/s", scale: ROTATION },
];
/// It takes a sample each millisecond.
const MAX_RATE_HZ: f32 = 1000.0;
/// The rate that it is made ready for at first.
const FIRST_RATE_HZ: f32 = 100.0;

/// An MPU-6050 or its like: acceleration in m/s² at ±4 g, and rotation in rad/s at ±500 °/s.
///
/// One that was without power wakes asleep: its reads fail until [`Sensor::set_rate`] has set it up anew.
pub struct Mpu6050<I: I2c, D> {
    driver: Driver<I>,
    delay: D,
}

impl<I: I2c, D: DelayNs> Mpu6050<I, D> {
    /// The one at `address` of the bus, which is 0x68, or 0x69 with its pin AD0 high, reset and awake.
    ///
    /// # Errors
    ///
    /// The bus fails, or what answers is something else.
    pub fn new(mut i2c: I, address: u8, delay: D) -> Result<Self, Error> {
        identify(NAME, &mut i2c, address, WHO_AM_I, &IDENTITIES)?;
        let driver = Driver::new(i2c, Address(address)).map_err(|failed| bus(failed.error))?;
        let mut sensor = Mpu6050 { driver, delay };
        sensor.set_rate(FIRST_RATE_HZ)?;
        Ok(sensor)
    }

    /// The driver sets bits and clears none: what is to change is reset first.
    fn configure(&mut self, filter: DigitalLowPassFilter) -> Result<(), DriverError<I>> {
        self.driver.reset(&mut self.delay)?;
        self.driver.disable_sleep()?;
        // The datasheet's advice: a gyroscope's clock is steadier than the internal one.
        self.driver.set_clock_source(ClockSource::Xgyro)?;
        self.driver.set_accel_full_scale(AccelFullScale::G4)?;
        self.driver.set_gyro_full_scale(GyroFullScale::Deg500)?;
        self.driver.set_digital_lowpass_filter(filter)?;
        self.driver.set_sample_rate_divider(0)
    }
}

impl<I: I2c, D: DelayNs> Sensor for Mpu6050<I, D> {
    fn name(&self) -> &str {
        NAME
    }

    fn channels(&self) -> &[Channel<'_>] {
        &CHANNELS
    }

    fn element(&self) -> Element {
        Element::I16
    }

    /// Up to 1000 Hz. Resets the sensor, which takes 200 ms, and sets its low pass below half of the rate.
    fn set_rate(&mut self, rate_hz: f32) -> Result<f32, Error> {
        let rate_hz = rate_hz.min(MAX_RATE_HZ);
        self.configure(filter(rate_hz)).map_err(bus)?;
        Ok(rate_hz)
    }

    fn read(&mut self, values: &mut [f32]) -> Result<(), Error> {
        // One read of all registers, which the sensor keeps as they are meanwhile: the axes are of one instant.
        let (accel, gyro) = self.driver.motion6().map_err(bus)?;
        let axes = [accel.x(), accel.y(), accel.z(), gyro.x(), gyro.y(), gyro.z()];
        // It wakes from a loss of power asleep, with nothing in its registers. Six axes at rest have noise.
        if axes == [0; 6] {
            return Err(Error::Reset { sensor: NAME });
        }
        for ((value, axis), channel) in values.iter_mut().zip(axes).zip(&CHANNELS) {
            *value = f32::from(axis) * channel.scale;
        }
        Ok(())
    }
}

/// The widest low pass that ends below half of the rate, which keeps what is faster out of the samples.
fn filter(rate_hz: f32) -> DigitalLowPassFilter {
    match rate_hz / 2.0 {
        half if half >= 184.0 => DigitalLowPassFilter::Filter1,
        half if half >= 94.0 => DigitalLowPassFilter::Filter2,
        half if half >= 44.0 => DigitalLowPassFilter::Filter3,
        half if half >= 21.0 => DigitalLowPassFilter::Filter4,
        half if half >= 10.0 => DigitalLowPassFilter::Filter5,
        _ => DigitalLowPassFilter::Filter6,
    }
}

fn bus<I: I2c>(error: DriverError<I>) -> Error {
    match error {
        DriverError::WriteError(error) | DriverError::WriteReadError(error) => Error::bus(NAME, &error),
        DriverError::WrongDevice => Error::Data { sensor: NAME },
    }
}
