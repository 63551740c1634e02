//! Where samples come from, as a person writes it.

use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// Where samples come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    /// A board on a serial line: `serial:///dev/ttyUSB0?baud=921600`.
    Serial(SerialAddress),
    /// A sensor on an I²C bus of this machine: `i2c:///dev/i2c-1?sensor=mpu6050&rate=100`.
    I2c(I2cAddress),
}

/// A board on a serial line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialAddress {
    /// The port.
    pub port: PortName,
    /// Bits a second, 115,200 where nothing else is said; a USB device and a pseudo-terminal take any.
    pub baud: u32,
    /// The stream of the board; without it, the only one that there is.
    pub stream: Option<StreamName>,
    /// Whether a port that has gone is waited for (the default), or ends the input.
    pub reconnect: bool,
    /// Whether the driver is asked to hand bytes on at once (the default).
    pub low_latency: bool,
}

/// How a port is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortName {
    /// By its path, or that of a link to it.
    Path(PathBuf),
    /// By its name in `/dev/serial/by-id`.
    ById(String),
    /// By the vendor and product of its USB device.
    Usb {
        /// The vendor.
        vid: u16,
        /// The product.
        pid: u16,
    },
}

/// How a stream of a board is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamName {
    /// By its number.
    Id(u8),
    /// By its name.
    Name(String),
}

/// A sensor on an I²C bus of this machine.
#[derive(Clone, Debug, PartialEq)]
pub struct I2cAddress {
    /// The bus: `/dev/i2c-1`.
    pub bus: PathBuf,
    /// What hangs on it.
    pub sensor: SensorKind,
    /// Samples a second.
    pub rate_hz: f64,
    /// The sensor's address on the bus, 7 bits.
    pub address: u8,
}

/// A sensor that there is a driver for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SensorKind {
    /// An IMU: acceleration and rotation.
    Mpu6050,
    /// The air: temperature, pressure and humidity.
    Bme280,
}

/// Why a text is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// It begins with something else.
    #[error("`{found}` is no address of a sensor, expected serial://… or i2c://…")]
    Scheme {
        /// The text.
        found: String,
    },
    /// What stands behind `serial://` is no port.
    #[error(
        "`{found}` names no port, expected serial:///dev/…, serial://by-id/NAME or serial://VID:PID of four hex digits each"
    )]
    Port {
        /// What stands there.
        found: String,
    },
    /// What stands behind `i2c://` is no bus.
    #[error("`{found}` names no bus, expected i2c:///dev/i2c-N")]
    Bus {
        /// What stands there.
        found: String,
    },
    /// A key that is not known.
    #[error("key `{key}` is not known here, expected one of {expected}")]
    Key {
        /// The key.
        key: String,
        /// Those that are.
        expected: &'static str,
    },
    /// A key that stands there twice.
    #[error("key `{key}` is there twice, expected it once")]
    Twice {
        /// The key.
        key: String,
    },
    /// A key without which it does not go.
    #[error("key `{key}` is missing, expected {expected}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What it says.
        expected: &'static str,
    },
    /// A key with a value that cannot be.
    #[error("`{key}={found}` cannot be, expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
}

const SENSORS: &str = "mpu6050 or bme280";
/// A sample in 28 hours.
const LEAST_HZ: f64 = 1e-5;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(rest) = text.strip_prefix("serial://") {
            return rest.parse().map(Address::Serial);
        }
        match text.strip_prefix("i2c://") {
            Some(rest) => rest.parse().map(Address::I2c),
            None => Err(AddressError::Scheme { found: text.into() }),
        }
    }
}

impl SerialAddress {
    /// The port, and everything else as it is when nothing is said.
    pub fn new(port: PortName) -> Self {
        SerialAddress { port, baud: 115_200, stream: None, reconnect: true, low_latency: true }
    }
}

/// Of the text behind `serial://`.
impl FromStr for SerialAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (port, query) = split(text);
        let mut address = SerialAddress::new(port.parse()?);
        let mut query = Query::new(query)?;
        if let Some(found) = query.take("baud") {
            let baud = found.parse().ok().filter(|&baud| baud > 0);
            address.baud = baud.ok_or_else(|| value("baud", found, "a number of bits a second above 0"))?;
        }
        address.stream = query.take("stream").map(str::parse).transpose()?;
        address.reconnect = query.yes_or_no("reconnect")?;
        address.low_latency = query.yes_or_no("low-latency")?;
        query.end("baud, stream, reconnect, low-latency")?;
        Ok(address)
    }
}

impl FromStr for PortName {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > 1 && text.starts_with('/') {
            return Ok(PortName::Path(text.into()));
        }
        let name = text.strip_prefix("by-id/");
        if let Some(name) = name.filter(|name| !name.is_empty() && !name.contains('/')) {
            return Ok(PortName::ById(name.into()));
        }
        let usb = text.split_once(':').and_then(|(vid, pid)| Some((hex16(vid)?, hex16(pid)?)));
        let (vid, pid) = usb.ok_or_else(|| AddressError::Port { found: text.into() })?;
        Ok(PortName::Usb { vid, pid })
    }
}

impl std::fmt::Display for PortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PortName::Path(path) => path.display().fmt(f),
            PortName::ById(name) => write!(f, "by-id/{name}"),
            PortName::Usb { vid, pid } => write!(f, "{vid:04x}:{pid:04x}"),
        }
    }
}

impl FromStr for StreamName {
    type Err = AddressError;

    /// Digits are a number, anything else a name.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            let is_name = (1..=24).contains(&text.len());
            let name = is_name.then(|| StreamName::Name(text.into()));
            return name.ok_or_else(|| value("stream", text, "a number to 254, or a name of 1 to 24 bytes"));
        }
        let id = text.parse().ok().filter(|&id| id < mcedge_wire::ALL_STREAMS);
        id.map(StreamName::Id).ok_or_else(|| value("stream", text, "a number to 254, or a name"))
    }
}

impl std::fmt::Display for StreamName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StreamName::Id(id) => id.fmt(f),
            StreamName::Name(name) => name.fmt(f),
        }
    }
}

/// Of the text behind `i2c://`.
impl FromStr for I2cAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (bus, query) = split(text);
        if bus.len() < 2 || !bus.starts_with('/') {
            return Err(AddressError::Bus { found: bus.into() });
        }
        let mut query = Query::new(query)?;
        let sensor = query.take("sensor");
        let sensor: SensorKind =
            sensor.ok_or(AddressError::Missing { key: "sensor", expected: SENSORS })?.parse()?;
        let mut i2c = I2cAddress::new(bus.into(), sensor);
        if let Some(found) = query.take("rate") {
            let (most_hz, expected) = sensor.rates();
            let rate_hz = found.parse().ok().filter(|rate_hz| (LEAST_HZ..=most_hz).contains(rate_hz));
            i2c.rate_hz = rate_hz.ok_or_else(|| value("rate", found, expected))?;
        }
        if let Some(found) = query.take("address") {
            let address = number(found).filter(|address| (0x08..0x78).contains(address));
            i2c.address = address.ok_or_else(|| value("address", found, "0x08 to 0x77"))?;
        }
        query.end("sensor, rate, address")?;
        Ok(i2c)
    }
}

impl I2cAddress {
    /// The sensor at the address that it has from the factory, at a rate that suits it.
    pub fn new(bus: PathBuf, sensor: SensorKind) -> Self {
        let (rate_hz, address) = match sensor {
            SensorKind::Mpu6050 => (100.0, 0x68),
            SensorKind::Bme280 => (1.0, 0x76),
        };
        I2cAddress { bus, sensor, rate_hz, address }
    }
}

impl SensorKind {
    /// The most samples a second that it gives, and what is said about it.
    fn rates(self) -> (f64, &'static str) {
        match self {
            SensorKind::Mpu6050 => (1000.0, "a number of Hz above 0, 1000 at most"),
            SensorKind::Bme280 => (20.0, "a number of Hz above 0, 20 at most"),
        }
    }
}

impl FromStr for SensorKind {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text {
            "mpu6050" => Ok(SensorKind::Mpu6050),
            "bme280" => Ok(SensorKind::Bme280),
            _ => Err(value("sensor", text, SENSORS)),
        }
    }
}

/// The place, and what stands behind the first question mark.
fn split(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

fn value(key: &'static str, found: &str, expected: &'static str) -> AddressError {
    AddressError::Value { key, found: found.into(), expected }
}

/// One to four hex digits, and no sign.
fn hex16(text: &str) -> Option<u16> {
    let is_hex = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u16::from_str_radix(text, 16).ok()).flatten()
}

/// A number, in hex behind `0x`.
fn number(text: &str) -> Option<u8> {
    match text.strip_prefix("0x") {
        Some(hex) => hex16(hex).and_then(|number| number.try_into().ok()),
        None => text.parse().ok(),
    }
}

/// `key=value&key=value`, each key once.
struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    fn new(text: &'a str) -> Result<Self, AddressError> {
        let parts = text.split('&').filter(|part| !part.is_empty());
        let pairs: Vec<_> = parts.map(|part| part.split_once('=').unwrap_or((part, ""))).collect();
        let twice = |(at, (key, _)): (usize, &(&str, &str))| {
            pairs[..at]
                .iter()
                .any(|(other, _)| other == key)
                .then(|| AddressError::Twice { key: (*key).into() })
        };
        match pairs.iter().enumerate().find_map(twice) {
            Some(error) => Err(error),
            None => Ok(Query(pairs)),
        }
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|(other, _)| *other == key)?;
        Some(self.0.swap_remove(at).1)
    }

    fn yes_or_no(&mut self, key: &'static str) -> Result<bool, AddressError> {
        match self.take(key) {
            None | Some("yes") => Ok(true),
            Some("no") => Ok(false),
            Some(found) => Err(value(key, found, "yes or no")),
        }
    }

    /// Nothing may be left.
    fn end(&self, expected: &'static str) -> Result<(), AddressError> {
        match self.0.first() {
            Some((key, _)) => Err(AddressError::Key { key: (*key).into(), expected }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(port: PortName) -> SerialAddress {
        SerialAddress::new(port)
    }

    #[test]
    fn an_address_says_a_port_and_its_settings() {
        let usb0 = || serial(PortName::Path("/dev/ttyUSB0".into()));
        let imu = Some(StreamName::Name("imu".into()));
        let i2c = || I2cAddress::new("/dev/i2c-1".into(), SensorKind::Mpu6050);
        let bme = I2cAddress::new("/dev/i2c-0".into(), SensorKind::Bme280);
        let cases = [
            ("serial:///dev/ttyUSB0", Address::Serial(usb0())),
            ("serial:///dev/ttyUSB0?", Address::Serial(usb0())),
            (
                "serial:///dev/ttyUSB0?baud=921600&stream=imu&reconnect=no",
                Address::Serial(SerialAddress { baud: 921_600, stream: imu, reconnect: false, ..usb0() }),
            ),
            (
                "serial:///dev/pts/3?low-latency=no&stream=2",
                Address::Serial(SerialAddress {
                    low_latency: false,
                    stream: Some(StreamName::Id(2)),
                    ..serial(PortName::Path("/dev/pts/3".into()))
                }),
            ),
            (
                "serial://by-id/usb-Arduino_Uno-if00",
                Address::Serial(serial(PortName::ById("usb-Arduino_Uno-if00".into()))),
            ),
            ("serial://2341:0043", Address::Serial(serial(PortName::Usb { vid: 0x2341, pid: 0x43 }))),
            ("serial://1A86:7523", Address::Serial(serial(PortName::Usb { vid: 0x1a86, pid: 0x7523 }))),
            (
                "i2c:///dev/i2c-1?sensor=mpu6050&rate=50&address=0x69",
                Address::I2c(I2cAddress { rate_hz: 50.0, address: 0x69, ..i2c() }),
            ),
            ("i2c:///dev/i2c-1?sensor=mpu6050", Address::I2c(i2c())),
            ("i2c:///dev/i2c-0?sensor=bme280", Address::I2c(bme)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        let cases = [
            ("tcp://host", "`tcp://host` is no address"),
            ("serial:/dev/ttyUSB0", "`serial:/dev/ttyUSB0` is no address"),
            ("serial://", "`` names no port"),
            ("serial://COM3", "`COM3` names no port"),
            ("serial://by-id/", "`by-id/` names no port"),
            ("serial://by-id/../x", "`by-id/../x` names no port"),
            ("serial://23410:0043", "`23410:0043` names no port"),
            ("serial://+341:0043", "`+341:0043` names no port"),
            ("serial:///dev/ttyUSB0?bauds=9600", "key `bauds` is not known"),
            ("serial:///dev/ttyUSB0?format=csv", "key `format` is not known"),
            ("serial:///dev/ttyUSB0?baud=fast", "`baud=fast` cannot be"),
            ("serial:///dev/ttyUSB0?baud=0", "`baud=0` cannot be"),
            ("serial:///dev/ttyUSB0?baud", "`baud=` cannot be"),
            ("serial:///dev/ttyUSB0?baud=1&baud=2", "key `baud` is there twice"),
            ("serial:///dev/ttyUSB0?reconnect=maybe", "`reconnect=maybe` cannot be"),
            ("serial:///dev/ttyUSB0?stream=", "`stream=` cannot be"),
            ("serial:///dev/ttyUSB0?stream=255", "`stream=255` cannot be"),
            ("i2c://dev/i2c-1", "`dev/i2c-1` names no bus"),
            ("i2c:///dev/i2c-1", "key `sensor` is missing"),
            ("i2c:///dev/i2c-1?sensor=lis3dh", "`sensor=lis3dh` cannot be"),
            ("i2c:///dev/i2c-1?sensor=bme280&rate=-1", "`rate=-1` cannot be"),
            ("i2c:///dev/i2c-1?sensor=bme280&rate=NaN", "`rate=NaN` cannot be"),
            ("i2c:///dev/i2c-1?sensor=bme280&rate=21", "`rate=21` cannot be"),
            ("i2c:///dev/i2c-1?sensor=mpu6050&rate=1001", "`rate=1001` cannot be"),
            ("i2c:///dev/i2c-1?sensor=bme280&address=0x80", "`address=0x80` cannot be"),
            ("i2c:///dev/i2c-1?sensor=bme280&baud=9600", "key `baud` is not known"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(error.contains("expected"), "{text}: {error}");
        }
    }
}
