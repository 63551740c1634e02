//! A sensor on an I²C bus of this machine, sampled by a thread of its own.
//!
//! It gives what a board gives: a descriptor, and samples with numbers. A sample that was due and could not be taken has a
//! number too, so that it is missed like one that a line has lost. The board's clock is this machine's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use embedded_hal::delay::DelayNs;
use embedded_hal::i2c::I2c;
use mcedge_board::{Bme280, Mpu6050, Sensor};
use mcedge_wire::{Element, Samples};
use thiserror::Error;

use crate::address::{I2cAddress, SensorKind};
use crate::link::inbox::{Head, Item};
use crate::link::shared::Shared;
use crate::link::{Channel, Stream};
use crate::serial;

/// Why a sensor of this machine cannot be read.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SensorError {
    /// There is no such bus, or it does not open.
    #[error("{} does not open as an I²C bus: {reason}, expected one of: {there}", .bus.display())]
    Bus {
        /// The bus.
        bus: PathBuf,
        /// What the machine says.
        reason: String,
        /// Those that there are.
        there: String,
    },
    /// This user may not.
    #[error("{} may not be opened by this user{advice}", .bus.display())]
    Permission {
        /// The bus.
        bus: PathBuf,
        /// What to do about it.
        advice: String,
    },
    /// The sensor does not answer, or is another.
    #[error("at address {address:#04x} of {}: {error}", .bus.display())]
    Sensor {
        /// The bus.
        bus: PathBuf,
        /// The address on it.
        address: u8,
        /// What is wrong.
        error: mcedge_board::Error,
    },
    /// The sensor cannot be read so often.
    #[error("{sensor} gives {found_hz} samples a second, expected {expected_hz}")]
    Rate {
        /// The sensor.
        sensor: String,
        /// The rate that is nearest.
        found_hz: f32,
        /// The one that was asked for.
        expected_hz: f32,
    },
}

/// A sensor on any bus.
pub type AnySensor = Box<dyn Sensor + Send>;

/// Tries to read a sample, before it is missing.
const TRIES: usize = 3;
/// How often a sensor that does not answer is set up anew: it may have been without power.
const SET_UP: Duration = Duration::from_secs(1);
/// A sensor is asked for no lower rate while it runs.
const LEAST_HZ: f32 = 1e-5;
/// From one sample to the next, at most and at least, whatever rate a sensor says that it took.
const PERIODS: (Duration, Duration) = (Duration::from_micros(1), Duration::from_secs(100_000));
/// How often a sensor that takes no sample looks what is wanted of it.
const LOOK: Duration = Duration::from_millis(20);

/// Opens the bus and makes the sensor ready.
#[cfg(target_os = "linux")]
pub fn open(address: &I2cAddress) -> Result<AnySensor, SensorError> {
    let bus = &address.bus;
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            SensorError::Permission { bus: bus.clone(), advice: serial::advice_for(bus) }
        }
        _ => {
            SensorError::Bus { bus: bus.clone(), reason: error.to_string(), there: buses(Path::new("/dev")) }
        }
    };
    // Opened twice: the driver's error says less.
    std::fs::File::options().read(true).write(true).open(bus).map_err(failed)?;
    let i2c = linux_embedded_hal::I2cdev::new(bus).map_err(|error| failed(error.into()))?;
    open_on(i2c, linux_embedded_hal::Delay, address)
}

/// There is no such bus elsewhere.
#[cfg(not(target_os = "linux"))]
pub fn open(address: &I2cAddress) -> Result<AnySensor, SensorError> {
    let reason = "I²C is read on Linux alone".into();
    Err(SensorError::Bus { bus: address.bus.clone(), reason, there: buses(Path::new("/dev")) })
}

/// Makes the sensor on this bus ready.
pub fn open_on<I, D>(i2c: I, delay: D, address: &I2cAddress) -> Result<AnySensor, SensorError>
where
    I: I2c + Send + 'static,
    D: DelayNs + Send + 'static,
{
    let failed = |error| SensorError::Sensor { bus: address.bus.clone(), address: address.address, error };
    let mut sensor: AnySensor = match address.sensor {
        SensorKind::Mpu6050 => Box::new(Mpu6050::new(i2c, address.address, delay).map_err(failed)?),
        SensorKind::Bme280 => Box::new(Bme280::new(i2c, address.address, delay).map_err(failed)?),
    };
    let expected_hz = address.rate_hz as f32;
    let found_hz = sensor.set_rate(expected_hz).map_err(failed)?;
    if (found_hz / expected_hz - 1.0).abs() > 1e-3 {
        return Err(SensorError::Rate { sensor: sensor.name().into(), found_hz, expected_hz });
    }
    Ok(sensor)
}

/// The I²C buses in a folder of devices.
fn buses(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let is_bus =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("i2c-"));
    let mut buses: Vec<_> = files.filter(is_bus).map(|path| path.display().to_string()).collect();
    buses.sort();
    if buses.is_empty() { "(no I²C buses)".into() } else { buses.join(", ") }
}

/// What a sensor's stream is. Its samples are handed on in units.
pub fn stream(sensor: &dyn Sensor, rate_hz: f64) -> Stream {
    let channel = |channel: &mcedge_wire::Channel<'_>| Channel {
        name: channel.name.into(),
        unit: channel.unit.into(),
        scale: 1.0,
    };
    let channels = sensor.channels().iter().map(channel).collect();
    Stream { id: 0, name: sensor.name().into(), rate_hz, channels }
}

/// Samples a sensor until the link closes.
pub struct Sampler {
    shared: Arc<Shared>,
    sensor: AnySensor,
    rate_hz: f32,
    /// The number of the next sample: of all that were due.
    sequence: u32,
    values: Box<[f32]>,
    /// `values` as they are handed on.
    data: Vec<u8>,
    /// When the sensor was set up last, while it does not answer.
    lost: Option<Instant>,
}

impl Sampler {
    /// Of a sensor that is ready for this rate.
    pub fn new(shared: Arc<Shared>, sensor: AnySensor, rate_hz: f64) -> Self {
        let channels = sensor.channels().len();
        Sampler {
            shared,
            sensor,
            rate_hz: rate_hz as f32,
            sequence: 0,
            values: vec![0.0; channels].into(),
            data: Vec::with_capacity(4 * channels),
            lost: None,
        }
    }

    pub fn run(mut self) {
        let (mut due, mut rate_hz) = (Instant::now(), self.rate_hz);
        while !self.shared.is_closing() {
            let runs = self.obey();
            if rate_hz != self.rate_hz {
                // The sample that was due at the rate before may have been far away.
                (due, rate_hz) = (Instant::now(), self.rate_hz);
            }
            if !runs {
                thread::park_timeout(LOOK);
                due = Instant::now();
                continue;
            }
            let late = match Instant::now().checked_duration_since(due) {
                Some(late) => late,
                None => {
                    // What the link wants may change meanwhile.
                    thread::park_timeout(due.saturating_duration_since(Instant::now()).min(LOOK));
                    continue;
                }
            };
            let period = period(self.rate_hz);
            // Those for which this comes too late.
            let missed = u32::try_from(late.as_nanos() / period.as_nanos()).unwrap_or(u32::MAX - 1);
            self.sequence = self.sequence.wrapping_add(missed);
            due += period * (missed + 1);
            self.sample(due);
            self.sequence = self.sequence.wrapping_add(1);
        }
    }

    /// Does what the link wants; no while it wants no samples.
    fn obey(&mut self) -> bool {
        let mut outgoing = self.shared.outgoing();
        // There is no board to tell.
        outgoing.clear();
        // Asked once, however near it comes: what is wished for from now on is another rate.
        let (runs, rate_hz) = (outgoing.wishes.runs, outgoing.wishes.rate_hz.take());
        drop(outgoing);
        if let Some(rate_hz) = rate_hz.filter(|&rate_hz| rate_hz != self.rate_hz && rate_hz > 0.0) {
            self.set_rate(rate_hz);
        }
        runs
    }

    fn set_rate(&mut self, rate_hz: f32) {
        match self.sensor.set_rate(rate_hz.max(LEAST_HZ)) {
            Ok(found_hz) => {
                self.rate_hz = found_hz;
                let stream = Box::new(stream(&*self.sensor, found_hz.into()));
                self.push(Item::Descriptor { head: self.head(), stream });
            }
            Err(error) => self.push(Item::Notice(error.to_string())),
        }
    }

    /// Takes a sample, with as many tries as there is time for before the next one is due.
    fn sample(&mut self, due: Instant) {
        if self.lost.is_some_and(|since| !self.set_up(since)) {
            return;
        }
        let head = self.head();
        for attempt in 1.. {
            match self.sensor.read(&mut self.values) {
                Ok(()) => return self.hand_on(head),
                Err(error) => {
                    self.shared.incoming().tally.sensor_errors += 1;
                    if attempt == TRIES || Instant::now() >= due {
                        return self.lose(&error);
                    }
                }
            }
        }
    }

    /// Whether a sensor that did not answer is to be read again.
    fn set_up(&mut self, since: Instant) -> bool {
        if since.elapsed() < SET_UP {
            return false;
        }
        self.lost = Some(Instant::now());
        let is_ready = self.sensor.set_rate(self.rate_hz).is_ok();
        if !is_ready {
            self.shared.incoming().tally.sensor_errors += 1;
        }
        is_ready
    }

    fn lose(&mut self, error: &mcedge_board::Error) {
        if self.lost.is_none() {
            self.lost = Some(Instant::now());
            self.push(Item::Notice(format!("{error}: samples are missing")));
        }
    }

    fn hand_on(&mut self, head: Head) {
        if self.lost.take().is_some() {
            self.push(Item::Notice(format!("{} answers again", self.sensor.name())));
        }
        self.data.clear();
        self.values.iter().for_each(|value| self.data.extend(value.to_le_bytes()));
        let channels = self.values.len() as u8;
        let samples = Samples { span_us: 0, element: Element::F32, channels, data: &self.data };
        let mut incoming = self.shared.incoming();
        incoming.tally.frames += 1;
        incoming.tally.bytes += self.data.len() as u64;
        if !incoming.inbox.push_samples(head, &samples) {
            incoming.tally.queue_overflows += 1;
        }
        drop(incoming);
        self.shared.unpark_owner();
    }

    /// Of the next sample, now: the board's time is this machine's.
    fn head(&self) -> Head {
        let at = self.shared.now();
        let time_us = at.mono_us.try_into().unwrap_or_default();
        Head { at, stream: 0, boot: 0, sequence: self.sequence, time_us }
    }

    fn push(&self, item: Item) {
        self.shared.incoming().inbox.push(item);
        self.shared.unpark_owner();
    }
}

/// From one sample to the next.
fn period(rate_hz: f32) -> Duration {
    let (least, most) = PERIODS;
    Duration::try_from_secs_f32(1.0 / rate_hz).unwrap_or(most).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use embedded_hal::i2c::{ErrorKind, NoAcknowledgeSource};
    use embedded_hal_mock::eh1::delay::NoopDelay;
    use embedded_hal_mock::eh1::i2c::{Mock, Transaction};
    use mcedge_board::Error;

    use super::*;
    use crate::link::{Event, Gap, GapCause, Link, LinkOptions};

    const BUS: Error =
        Error::Bus { sensor: "fake", kind: ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address) };

    /// Counts its reads; those in `failing` fail, and the eighth takes 50 ms.
    struct Fake {
        reads: u32,
        failing: std::ops::Range<u32>,
        set_ups: Arc<Mutex<u32>>,
    }

    impl Sensor for Fake {
        fn name(&self) -> &str {
            "fake"
        }

        fn channels(&self) -> &[mcedge_wire::Channel<'_>] {
            &[mcedge_wire::Channel { name: "n", unit: "1", scale: 0.25 }]
        }

        fn element(&self) -> Element {
            Element::I16
        }

        fn set_rate(&mut self, rate_hz: f32) -> Result<f32, Error> {
            *self.set_ups.lock().unwrap() += 1;
            Ok(rate_hz)
        }

        fn read(&mut self, values: &mut [f32]) -> Result<(), Error> {
            self.reads += 1;
            values[0] = self.reads as f32;
            if self.reads == 8 {
                thread::sleep(Duration::from_millis(50));
            }
            if self.failing.contains(&self.reads) { Err(BUS) } else { Ok(()) }
        }
    }

    /// Waits for events until `is_last`.
    fn events(link: &mut Link, mut is_last: impl FnMut(&Event<'_>) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            match link.poll().unwrap() {
                Some(event) if is_last(&event) => return,
                Some(_) => {}
                None => thread::park_timeout(Duration::from_millis(5)),
            }
        }
        panic!("the last event has not come");
    }

    #[test]
    fn what_cannot_be_read_is_missing_by_its_number() {
        let set_ups = Arc::new(Mutex::new(0));
        // Reads 5 and 6 fail and are tried again; 11 to 13 are all the tries of a sample.
        for (failing, errors, notices) in [(5..7, 2, 0), (11..14, 3, 2)] {
            let fake = Fake { reads: 0, failing, set_ups: set_ups.clone() };
            let mut link = Link::open_sensor(Box::new(fake), 100.0, &LinkOptions::default()).unwrap();
            assert_eq!(link.stream().to_string(), "fake (0): n [1]");
            let (mut said, mut last, mut numbers) = (Vec::new(), None::<(u32, i64)>, 0);
            let (mut missing, mut late_us) = (0, Vec::new());
            events(&mut link, |event| {
                match event {
                    Event::Notice(notice) => said.push(notice.clone()),
                    Event::Gap(Gap { missing: Some(gap), cause: GapCause::Lost, .. }) => missing += gap,
                    Event::Sample(sample) => {
                        let (sequence, time_us) = last.unwrap_or((0, 0));
                        assert!(numbers == 0 || sample.sequence > sequence && sample.time_us > time_us);
                        last = Some((sample.sequence, sample.time_us));
                        numbers += 1;
                        late_us.push(sample.device_us as i64 - i64::from(sample.sequence) * 10_000);
                    }
                    event => panic!("{event:?}"),
                }
                numbers == 30
            });
            let counters = link.counters();
            assert_eq!((counters.sensor_errors, said.len()), (errors, notices), "{said:?}");
            let (sequence, _) = last.unwrap();
            assert_eq!(u64::from(sequence) + 1, numbers + missing, "every number is used or missing");
            assert!(missing >= 4, "{missing}: the samples of 50 ms");
            // Numbers keep to the time, whatever was missed: of the last samples one at least is no later than the first.
            let on_time = late_us[20..].iter().min().unwrap() - late_us[0];
            assert!(on_time < 20_000, "{late_us:?}");
        }
        assert_eq!(*set_ups.lock().unwrap(), 1, "it was set up anew when it did not answer");
    }

    #[test]
    fn a_sensor_is_stopped_started_and_set_to_another_rate() {
        let fake = Fake { reads: 0, failing: 0..0, set_ups: Arc::default() };
        let mut link = Link::open_sensor(Box::new(fake), 200.0, &LinkOptions::default()).unwrap();
        events(&mut link, |event| matches!(event, Event::Sample(_)));
        link.rate(100.0);
        let expected = "the board's rate is 100 Hz now, 200 Hz before";
        events(&mut link, |event| matches!(event, Event::Notice(notice) if notice == expected));
        link.stop_board();
        link.responder().predict(0, 0, None, &[1.0]);
        link.start();
        events(&mut link, |event| matches!(event, Event::Sample(_)));
        assert_eq!((link.stream().rate_hz, link.counters().predictions_sent), (100.0, 0));
    }

    #[test]
    fn no_rate_ends_the_sampling() {
        for rate_hz in [f32::MIN_POSITIVE, 1e-38, 1e-12, 1e30, f32::MAX, f32::INFINITY, f32::NAN, 0.0, -1.0] {
            assert!((PERIODS.0..=PERIODS.1).contains(&period(rate_hz)), "{rate_hz}");
        }
        let fake = Fake { reads: 0, failing: 0..0, set_ups: Arc::default() };
        let mut link = Link::open_sensor(Box::new(fake), 200.0, &LinkOptions::default()).unwrap();
        events(&mut link, |event| matches!(event, Event::Sample(_)));
        link.rate(f32::MIN_POSITIVE);
        events(
            &mut link,
            |event| matches!(event, Event::Notice(notice) if notice.contains("rate is 0.0000")),
        );
        link.rate(100.0);
        events(
            &mut link,
            |event| matches!(event, Event::Notice(notice) if notice.contains("rate is 100 Hz")),
        );
        events(&mut link, |event| matches!(event, Event::Sample(_)));
    }

    #[test]
    fn a_driver_of_the_board_reads_the_bus_of_this_machine() {
        const IMU: u8 = 0x68;
        let read = |register, answer: &[u8]| Transaction::write_read(IMU, vec![register], answer.to_vec());
        let write = |register, value| Transaction::write(IMU, vec![register, value]);
        let set_up = [
            read(0x6B, &[0x00]),
            write(0x6B, 0x80),
            read(0x6B, &[0x40]),
            write(0x6B, 0x00),
            read(0x6B, &[0x00]),
            write(0x6B, 0x01),
            read(0x1C, &[0x00]),
            write(0x1C, 0x08),
            read(0x1B, &[0x00]),
            write(0x1B, 0x08),
            read(0x1A, &[0x00]),
        ];
        // 8192 is 1 g, and 8384 are 128 °/s.
        let axes = [0x20, 0, 0, 0, 0xE0, 0, 0, 0, 0, 0, 0x20, 0xC0, 0, 0];
        let found = [
            &[read(0x75, &[IMU]), read(0x6B, &[0x40]), write(0x6B, 0x00)],
            &set_up[..],
            &[write(0x1A, 3), write(0x19, 0)],
            &set_up[..],
            &[write(0x1A, 6), write(0x19, 0)],
            &[read(0x3B, &axes)],
        ];
        let mut bus = Mock::new(&found.concat());
        let address: I2cAddress = "/dev/i2c-1?sensor=mpu6050&rate=0.01".parse().unwrap();
        let sensor = open_on(bus.clone(), NoopDelay, &address).unwrap();
        let mut link = Link::open_sensor(sensor, address.rate_hz, &LinkOptions::default()).unwrap();
        assert_eq!(link.stream().channels[5].unit, "rad/s");
        events(&mut link, |event| {
            let Event::Sample(sample) = event else { panic!("{event:?}") };
            let expected = [9.80665, 0.0, -9.80665, 0.0, 2.2340214, 0.0];
            let is_close = sample.values.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(is_close, "{:?}", sample.values);
            true
        });
        drop(link);
        bus.done();
    }

    #[test]
    fn what_does_not_answer_is_named() {
        let address: I2cAddress = "/dev/i2c-1?sensor=bme280".parse().unwrap();
        let mut bus = Mock::new(&[Transaction::write_read(0x76, vec![0xD0], vec![0x58])]);
        let error = open_on(bus.clone(), NoopDelay, &address).map(|_| ()).unwrap_err();
        let expected = "at address 0x76 of /dev/i2c-1: bme280: what answers has identity 0x58, expected 0x60";
        assert_eq!(error.to_string(), expected);
        bus.done();
        let address = I2cAddress { bus: "/dev/i2c-999".into(), ..address };
        let error = open(&address).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("/dev/i2c-999 does not open as an I²C bus: No such file"), "{error}");
    }
}
