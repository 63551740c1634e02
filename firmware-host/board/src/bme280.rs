//! The environment sensor BME280: temperature, pressure, humidity.

use bme280::i2c::BME280 as Driver;
use bme280::{Configuration, Oversampling};
use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::{self, I2c};
use mcedge_wire::{Channel, Element};

use crate::sensor::{Error, Sensor, identify};

const NAME: &str = "bme280";
const ID: u8 = 0xD0;
/// Of a BME280. The BMP280, which has no humidity, is 0x58: its zeros would pass for dry air.
const IDENTITY: u8 = 0x60;
const CHANNELS: [Channel<'static>; 3] = [
    Channel { name: "temperature", unit: "°C", scale: 1.0 },
    Channel { name: "pressure", unit: "Pa", scale: 1.0 },
    Channel { name: "humidity", unit: "%", scale: 1.0 },
];
/// A measurement is waited for, 40 ms.
const MAX_RATE_HZ: f32 = 20.0;

/// A BME280: temperature in °C, pressure in Pa, relative humidity in %. [`Sensor::read`] starts a measurement and waits
/// 40 ms for it.
pub struct Bme280<I, D> {
    driver: Driver<I>,
    delay: D,
}

impl<I: I2c, D: DelayNs> Bme280<I, D> {
    /// The one at `address` of the bus, which is 0x76, or 0x77 with its pin SDO high.
    ///
    /// # Errors
    ///
    /// The bus fails, or what answers is something else.
    pub fn new(mut i2c: I, address: u8, mut delay: D) -> Result<Self, Error> {
        identify(NAME, &mut i2c, address, ID, &[IDENTITY])?;
        let mut driver = Driver::new(i2c, address);
        // By the datasheet's appendix B at most 27.7 ms, which are over when the driver reads. No filter: its time constant
        // would depend on the rate.
        let configuration = Configuration::default()
            .with_temperature_oversampling(Oversampling::Oversampling2X)
            .with_pressure_oversampling(Oversampling::Oversampling8X)
            .with_humidity_oversampling(Oversampling::Oversampling1X);
        driver.init_with_config(&mut delay, configuration).map_err(bus)?;
        Ok(Bme280 { driver, delay })
    }
}

impl<I: I2c, D: DelayNs> Sensor for Bme280<I, D> {
    fn name(&self) -> &str {
        NAME
    }

    fn channels(&self) -> &[Channel<'_>] {
        &CHANNELS
    }

    fn element(&self) -> Element {
        Element::F32
    }

    /// Up to 20 Hz.
    fn set_rate(&mut self, rate_hz: f32) -> Result<f32, Error> {
        Ok(rate_hz.min(MAX_RATE_HZ))
    }

    fn read(&mut self, values: &mut [f32]) -> Result<(), Error> {
        let measured = self.driver.measure(&mut self.delay).map_err(bus)?;
        let numbers = [measured.temperature, measured.pressure, measured.humidity];
        values.iter_mut().zip(numbers).for_each(|(value, number)| *value = number);
        Ok(())
    }
}

fn bus<E: i2c::Error>(error: bme280::Error<E>) -> Error {
    match error {
        bme280::Error::Bus(error) => Error::bus(NAME, &error),
        _ => Error::Data { sensor: NAME },
    }
}
