//! The drivers, register by register, against what the datasheets say.

use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
use embedded_hal_mock::eh1::delay::{CheckedDelay, NoopDelay, Transaction as Delay};
use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
use mcedge_board::{Bme280, Error, Mpu6050, Sensor};
use mcedge_wire::Element;

const IMU: u8 = 0x68;
const ENVIRONMENT: u8 = 0x77;

fn read(address: u8, register: u8, answer: &[u8]) -> Transaction {
    Transaction::write_read(address, vec![register], answer.to_vec())
}

fn write(address: u8, register: u8, value: u8) -> Transaction {
    Transaction::write(address, vec![register, value])
}

/// A reset, and what is set then, by the register map 4.2 of the MPU-6050: ±4 g and ±500 °/s are 1 in bits 3 and 4 of
/// ACCEL_CONFIG and GYRO_CONFIG, the clock of the X gyroscope is 1 in PWR_MGMT_1, the low pass stands in CONFIG.
fn mpu6050_set_up(filter: u8) -> Vec<Transaction> {
    vec![
        read(IMU, 0x6B, &[0x00]),
        write(IMU, 0x6B, 0x80),
        // It wakes from a reset asleep.
        read(IMU, 0x6B, &[0x40]),
        write(IMU, 0x6B, 0x00),
        read(IMU, 0x6B, &[0x00]),
        write(IMU, 0x6B, 0x01),
        read(IMU, 0x1C, &[0x00]),
        write(IMU, 0x1C, 0x08),
        read(IMU, 0x1B, &[0x00]),
        write(IMU, 0x1B, 0x08),
        read(IMU, 0x1A, &[0x00]),
        write(IMU, 0x1A, filter),
        write(IMU, 0x19, 0),
    ]
}

fn mpu6050_start() -> Vec<Transaction> {
    let awake = [read(IMU, 0x75, &[0x68]), read(IMU, 0x6B, &[0x40]), write(IMU, 0x6B, 0x00)];
    [&awake[..], &mpu6050_set_up(3)].concat()
}

#[test]
fn an_mpu6050_is_read_in_units() {
    // ACCEL_XOUT_H to GYRO_ZOUT_L, big-endian, the temperature between: 8192 a g, 65.5 a °/s.
    let registers = [0x20, 0x00, 0xF0, 0x00, 0x7F, 0xFF, 0x12, 0x34, 0x02, 0x8F, 0x80, 0x00, 0x00, 0x83];
    let mut bus = Mock::new(&[&mpu6050_start()[..], &[read(IMU, 0x3B, &registers)]].concat());
    let mut delay = CheckedDelay::new(&[Delay::delay_ms(200)]);
    let mut sensor = Mpu6050::new(bus.clone(), IMU, delay.clone()).unwrap();
    let mut values = [0.0; 6];
    sensor.read(&mut values).unwrap();
    let expected = [9.80665, -4.903325, 39.225403, 0.17453292, -8.731443, 0.03490659];
    for (value, expected) in values.iter().zip(expected) {
        assert!((value - expected).abs() < 1e-6 * expected.abs(), "{values:?}");
    }
    assert_eq!(sensor.element(), Element::I16);
    let units: Vec<_> = sensor.channels().iter().map(|channel| (channel.name, channel.unit)).collect();
    let (accel, gyro) = ("m/s^2", "rad/s");
    let named = [("accel_x", accel), ("accel_y", accel), ("accel_z", accel)];
    assert_eq!(units[..3], named);
    assert_eq!(units[3..], [("gyro_x", gyro), ("gyro_y", gyro), ("gyro_z", gyro)]);
    bus.done();
    delay.done();
}

#[test]
fn the_low_pass_of_an_mpu6050_ends_below_half_of_the_rate() {
    for (rate_hz, expected_hz, filter) in [
        (2000.0, 1000.0, 1),
        (400.0, 400.0, 1),
        (200.0, 200.0, 2),
        (100.0, 100.0, 3),
        (50.0, 50.0, 4),
        (25.0, 25.0, 5),
        (1.0, 1.0, 6),
    ] {
        let mut bus = Mock::new(&[mpu6050_start(), mpu6050_set_up(filter)].concat());
        let mut delay = CheckedDelay::new(&[Delay::delay_ms(200), Delay::delay_ms(200)]);
        let mut sensor = Mpu6050::new(bus.clone(), IMU, delay.clone()).unwrap();
        assert_eq!(sensor.set_rate(rate_hz), Ok(expected_hz));
        bus.done();
        delay.done();
    }
}

#[test]
fn what_is_no_mpu6050_is_refused_by_name() {
    let mut bus = Mock::new(&[read(0x69, 0x75, &[0x12])]);
    let mut delay = CheckedDelay::new(&[]);
    let error = Mpu6050::new(bus.clone(), 0x69, delay.clone()).err().unwrap();
    assert_eq!(error, Error::Device { sensor: "mpu6050", found: 0x12, expected: 0x68 });
    assert_eq!(error.to_string(), "mpu6050: what answers has identity 0x12, expected 0x68");
    bus.done();
    delay.done();
}

#[test]
fn a_bus_that_fails_says_so_and_the_next_read_may_be_better() {
    let kind = ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address);
    let nobody = read(IMU, 0x75, &[0]).with_error(kind);
    let mut bus = Mock::new(&[nobody]);
    let error = Mpu6050::new(bus.clone(), IMU, NoopDelay).err().unwrap();
    assert_eq!(error, Error::Bus { sensor: "mpu6050", kind });
    assert!(error.to_string().starts_with("mpu6050: the bus failed: "), "{error}");
    bus.done();

    let axes = [0x20, 0, 0x20, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let lost = [read(IMU, 0x3B, &axes).with_error(kind), read(IMU, 0x3B, &axes)];
    let mut bus = Mock::new(&[&mpu6050_start()[..], &lost].concat());
    let mut sensor = Mpu6050::new(bus.clone(), IMU, NoopDelay).unwrap();
    let mut values = [7.0; 6];
    assert_eq!(sensor.read(&mut values), Err(Error::Bus { sensor: "mpu6050", kind }));
    assert_eq!(values, [7.0; 6], "no values without a read");
    assert_eq!(sensor.read(&mut values), Ok(()));
    assert_eq!(values, [9.80665, 9.80665, 9.80665, 0.0, 0.0, 0.0]);
    bus.done();
}

#[test]
fn an_mpu6050_that_sleeps_gives_no_numbers_until_it_is_set_up() {
    let still = [0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let asleep = [read(IMU, 0x3B, &[0; 14])];
    let awake = [read(IMU, 0x3B, &still)];
    let mut bus = Mock::new(&[&mpu6050_start()[..], &asleep, &mpu6050_set_up(3), &awake].concat());
    let mut sensor = Mpu6050::new(bus.clone(), IMU, NoopDelay).unwrap();
    let mut values = [7.0; 6];
    assert_eq!(sensor.read(&mut values), Err(Error::Reset { sensor: "mpu6050" }));
    assert_eq!(values, [7.0; 6], "no values without a measurement");
    assert_eq!((sensor.set_rate(100.0), sensor.read(&mut values)), (Ok(100.0), Ok(())));
    assert_eq!(values, [9.80665, 0.0, 0.0, 0.0, 0.0, 0.0]);
    bus.done();
}

/// The calibration of the datasheet's worked example of temperature and pressure (T1 27504, T2 26435, T3 −1000, P1 36477,
/// …), and one of humidity (H1 75, H2 362, H4 313, H5 50, H6 30).
const CALIBRATION: [u8; 26] = [
    0x70, 0x6B, 0x43, 0x67, 0x18, 0xFC, 0x7D, 0x8E, 0x43, 0xD6, 0xD0, 0x0B, 0x27, 0x0B, 0x8C, 0x00, 0xF9,
    0xFF, 0x8C, 0x3C, 0xF8, 0xC6, 0x70, 0x17, 0x00, 0x4B,
];
const HUMIDITY_CALIBRATION: [u8; 7] = [0x6A, 0x01, 0x00, 0x13, 0x29, 0x03, 0x1E];

fn bme280_start() -> Vec<Transaction> {
    [vec![read(ENVIRONMENT, 0xD0, &[0x60])], bme280_set_up()].concat()
}

fn bme280_set_up() -> Vec<Transaction> {
    let at = ENVIRONMENT;
    vec![
        read(at, 0xD0, &[0x60]),
        write(at, 0xE0, 0xB6),
        read(at, 0x88, &CALIBRATION),
        read(at, 0xE1, &HUMIDITY_CALIBRATION),
        read(at, 0xF4, &[0x00]),
        // Humidity once; temperature twice (2 in bits 5 to 7) and pressure eight times (4 in bits 2 to 4); no filter.
        write(at, 0xF2, 0x01),
        read(at, 0xF4, &[0x00]),
        write(at, 0xF4, 0x50),
        read(at, 0xF5, &[0x00]),
        write(at, 0xF5, 0x00),
    ]
}

/// One measurement is asked for, and read when it is there.
fn bme280_measures(registers: &[u8; 8]) -> Vec<Transaction> {
    let at = ENVIRONMENT;
    vec![read(at, 0xF4, &[0x50]), read(at, 0xF4, &[0x50]), write(at, 0xF4, 0x51), read(at, 0xF7, registers)]
}

/// The values are those of the datasheet's formulas for integers, which are other formulas than the driver's.
#[test]
fn a_bme280_is_read_in_units() {
    let cases = [
        ([0x65, 0x5A, 0xC0, 0x7E, 0xED, 0x00, 0x75, 0x30], [25.08, 100_653.25, 54.997]),
        ([0x5C, 0xC6, 0x00, 0x83, 0xD6, 0x00, 0x61, 0xA8], [31.38, 107_760.93, 26.898]),
        ([0x66, 0x8A, 0x00, 0x5C, 0xC6, 0x00, 0x70, 0x00], [-18.97, 93_193.71, 46.401]),
    ];
    let measures = cases.iter().flat_map(|(registers, _)| bme280_measures(registers));
    let mut bus = Mock::new(&bme280_start().into_iter().chain(measures).collect::<Vec<_>>());
    let delays = [2, 40, 40, 40].map(Delay::delay_ms);
    let mut delay = CheckedDelay::new(&delays);
    let mut sensor = Bme280::new(bus.clone(), ENVIRONMENT, delay.clone()).unwrap();
    for (_, expected) in cases {
        let mut values = [0.0; 3];
        sensor.read(&mut values).unwrap();
        for ((value, expected), tolerance) in values.iter().zip(expected).zip([0.01, 0.5, 0.01]) {
            assert!((value - expected).abs() <= tolerance, "{values:?}, expected {expected}");
        }
    }
    let units: Vec<_> = sensor.channels().iter().map(|channel| (channel.name, channel.unit)).collect();
    assert_eq!(units, [("temperature", "°C"), ("pressure", "Pa"), ("humidity", "%")]);
    assert_eq!((sensor.element(), sensor.name()), (Element::F32, "bme280"));
    bus.done();
    delay.done();
}

#[test]
fn a_bme280_is_set_up_with_each_rate() {
    let mut bus = Mock::new(&[bme280_start(), bme280_set_up(), bme280_set_up()].concat());
    let mut sensor = Bme280::new(bus.clone(), ENVIRONMENT, NoopDelay).unwrap();
    assert_eq!((sensor.set_rate(1.0), sensor.set_rate(100.0)), (Ok(1.0), Ok(20.0)));
    bus.done();
}

/// The values of the registers without a measurement, by the datasheet's table 18 and its chapter 5.4.
#[test]
fn a_bme280_that_was_without_power_gives_no_numbers_until_it_is_set_up() {
    let at = ENVIRONMENT;
    let nothing = [0x80, 0, 0, 0x80, 0, 0, 0x80, 0];
    // Its settings are gone, and the forced mode measures nothing.
    let without = vec![
        read(at, 0xF4, &[0x00]),
        read(at, 0xF4, &[0x00]),
        write(at, 0xF4, 0x01),
        read(at, 0xF7, &nothing),
        read(at, 0xF2, &[0x00]),
        read(at, 0xF4, &[0x00]),
    ];
    let measured = bme280_measures(&[0x65, 0x5A, 0xC0, 0x7E, 0xED, 0x00, 0x75, 0x30]);
    let mut bus = Mock::new(&[bme280_start(), without, bme280_set_up(), measured].concat());
    let mut sensor = Bme280::new(bus.clone(), at, NoopDelay).unwrap();
    let mut values = [7.0; 3];
    assert_eq!(sensor.read(&mut values), Err(Error::Reset { sensor: "bme280" }));
    assert_eq!(values, [7.0; 3], "no values without a measurement");
    assert_eq!((sensor.set_rate(1.0), sensor.read(&mut values)), (Ok(1.0), Ok(())));
    assert!((values[0] - 25.08).abs() < 0.01, "{values:?}");
    bus.done();
}

/// A number that stands there without a measurement may be measured, too: the settings tell.
#[test]
fn a_bme280_that_skips_one_number_is_known_by_its_settings() {
    let skipped = Err(Error::Reset { sensor: "bme280" });
    let pressure = [0x80, 0, 0, 0x7E, 0xED, 0, 0x75, 0x30];
    let temperature = [0x65, 0x5A, 0xC0, 0x80, 0, 0, 0x75, 0x30];
    let humidity = [0x65, 0x5A, 0xC0, 0x7E, 0xED, 0, 0x80, 0];
    for (registers, settings, expected) in [
        (pressure, [0x01, 0x40], skipped),
        (temperature, [0x01, 0x10], skipped),
        (humidity, [0x00, 0x50], skipped),
        (pressure, [0x01, 0x50], Ok(())),
        (temperature, [0x01, 0x51], Ok(())),
        (humidity, [0x01, 0x50], Ok(())),
    ] {
        let asked = vec![read(ENVIRONMENT, 0xF2, &settings[..1]), read(ENVIRONMENT, 0xF4, &settings[1..])];
        let mut bus = Mock::new(&[bme280_start(), bme280_measures(&registers), asked].concat());
        let mut sensor = Bme280::new(bus.clone(), ENVIRONMENT, NoopDelay).unwrap();
        assert_eq!(sensor.read(&mut [0.0; 3]), expected, "{registers:x?} {settings:x?}");
        bus.done();
    }
}

#[test]
fn a_bmp280_is_no_bme280() {
    let mut bus = Mock::new(&[read(ENVIRONMENT, 0xD0, &[0x58])]);
    let error = Bme280::new(bus.clone(), ENVIRONMENT, NoopDelay).err().unwrap();
    assert_eq!(error, Error::Device { sensor: "bme280", found: 0x58, expected: 0x60 });
    bus.done();
}

/// A pressure calibration of zeros, which the formula divides by.
#[test]
fn a_bme280_without_a_calibration_gives_no_numbers() {
    let mut start = bme280_start();
    start[3] = read(ENVIRONMENT, 0x88, &[0; 26]);
    let mut bus =
        Mock::new(&[start, bme280_measures(&[0x65, 0x5A, 0xC0, 0x7E, 0xED, 0, 0x75, 0x30])].concat());
    let mut sensor = Bme280::new(bus.clone(), ENVIRONMENT, NoopDelay).unwrap();
    assert_eq!(sensor.read(&mut [0.0; 3]), Err(Error::Data { sensor: "bme280" }));
    bus.done();
}
