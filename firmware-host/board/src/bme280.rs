//! The environment sensor BME280: temperature, pressure, humidity.

use bme280::i2c::BME280 as Driver;
use bme280::{Configuration, Oversampling};
use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::{self, ErrorKind, ErrorType, I2c, Operation};
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

const CTRL_HUM: u8 = 0xF2;
const CTRL_MEAS: u8 = 0xF4;
const DATA: u8 = 0xF7;
/// What [`configuration`] makes of the two control registers. The lowest bits of the second are the mode.
const HUMIDITY_ONCE: u8 = 0b001;
const TEMPERATURE_TWICE_PRESSURE_EIGHT_TIMES: u8 = 0b0101_0000;
const MODE: u8 = 0b11;

/// A BME280: temperature in °C, pressure in Pa, relative humidity in %. [`Sensor::read`] starts a measurement and waits
/// 40 ms for it.
///
/// One that was without power measures nothing until [`Sensor::set_rate`] has set it up anew; until then its reads fail.
pub struct Bme280<I, D> {
    driver: Driver<Checked<I>>,
    delay: D,
}

impl<I: I2c, D: DelayNs> Bme280<I, D> {
    /// The one at `address` of the bus, which is 0x76, or 0x77 with its pin SDO high.
    ///
    /// # Errors
    ///
    /// The bus fails, or what answers is something else.
    pub fn new(mut i2c: I, address: u8, delay: D) -> Result<Self, Error> {
        identify(NAME, &mut i2c, address, ID, &[IDENTITY])?;
        let mut sensor = Bme280 { driver: Driver::new(Checked(i2c), address), delay };
        sensor.set_up()?;
        Ok(sensor)
    }

    fn set_up(&mut self) -> Result<(), Error> {
        self.driver.init_with_config(&mut self.delay, configuration()).map_err(bus)
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

    /// Up to 20 Hz. Resets the sensor, which takes 2 ms.
    fn set_rate(&mut self, rate_hz: f32) -> Result<f32, Error> {
        self.set_up()?;
        Ok(rate_hz.min(MAX_RATE_HZ))
    }

    fn read(&mut self, values: &mut [f32]) -> Result<(), Error> {
        let measured = self.driver.measure(&mut self.delay).map_err(bus)?;
        let numbers = [measured.temperature, measured.pressure, measured.humidity];
        values.iter_mut().zip(numbers).for_each(|(value, number)| *value = number);
        Ok(())
    }
}

/// By the datasheet's appendix B at most 27.7 ms, which are over when the driver reads. No filter: its time constant would
/// depend on the rate.
fn configuration() -> Configuration {
    Configuration::default()
        .with_temperature_oversampling(Oversampling::Oversampling2X)
        .with_pressure_oversampling(Oversampling::Oversampling8X)
        .with_humidity_oversampling(Oversampling::Oversampling1X)
}

fn bus<E: i2c::Error>(error: bme280::Error<Fault<E>>) -> Error {
    match error {
        bme280::Error::Bus(Fault::Bus(error)) => Error::bus(NAME, &error),
        bme280::Error::Bus(Fault::Skipped) => Error::Reset { sensor: NAME },
        _ => Error::Data { sensor: NAME },
    }
}

/// The bus, on which a measurement that the sensor has skipped is a fault: the driver makes plausible constants of it.
struct Checked<I>(I);

#[derive(Debug)]
enum Fault<E> {
    Bus(E),
    /// The sensor has not measured, as it has lost its settings.
    Skipped,
}

impl<E: i2c::Error> i2c::Error for Fault<E> {
    fn kind(&self) -> ErrorKind {
        match self {
            Fault::Bus(error) => error.kind(),
            Fault::Skipped => ErrorKind::Other,
        }
    }
}

impl<I: I2c> ErrorType for Checked<I> {
    type Error = Fault<I::Error>;
}

impl<I: I2c> I2c for Checked<I> {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), Self::Error> {
        self.0.transaction(address, operations).map_err(Fault::Bus)
    }

    fn write(&mut self, address: u8, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.write(address, bytes).map_err(Fault::Bus)
    }

    fn write_read(&mut self, address: u8, bytes: &[u8], answer: &mut [u8]) -> Result<(), Self::Error> {
        self.0.write_read(address, bytes, answer).map_err(Fault::Bus)?;
        if bytes == [DATA] && may_be_skipped(answer) && !self.is_set_up(address)? {
            return Err(Fault::Skipped);
        }
        Ok(())
    }
}

impl<I: I2c> Checked<I> {
    /// Whether it measures all that it is to.
    fn is_set_up(&mut self, address: u8) -> Result<bool, Fault<I::Error>> {
        let (mut humidity, mut others) = ([0], [0]);
        self.0.write_read(address, &[CTRL_HUM], &mut humidity).map_err(Fault::Bus)?;
        self.0.write_read(address, &[CTRL_MEAS], &mut others).map_err(Fault::Bus)?;
        Ok(humidity == [HUMIDITY_ONCE] && others[0] & !MODE == TEMPERATURE_TWICE_PRESSURE_EIGHT_TIMES)
    }
}

/// Whether one of pressure, temperature and humidity is what stands there without a measurement. It may be measured, too.
fn may_be_skipped(registers: &[u8]) -> bool {
    let [pressure @ .., _, _, _, _, _] = registers else { return false };
    let (temperature, humidity) = (registers.get(3..6), registers.get(6..8));
    let skipped: &[u8] = &[0x80, 0, 0];
    pressure == skipped || temperature == Some(skipped) || humidity == Some(&skipped[..2])
}
