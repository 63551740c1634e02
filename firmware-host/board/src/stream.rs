//! A sensor's samples, taken in time and gathered into frames.

use embedded_io::Write;
use mcedge_wire::{
    ALL_STREAMS, Body, Channels, Descriptor, Element, MAX_CHANNELS, MAX_RECORD, Record, Samples, State,
    Status,
};

use crate::sender::Sender;
use crate::sensor::{Error, Sensor};

/// Bytes of numbers that a record holds.
const DATA: usize = MAX_RECORD - 24;

/// How often a sensor that could not be set up anew is tried again.
const SET_UP_US: u64 = 1_000_000;

/// What a board sends of one sensor.
///
/// # Invariants
///
/// - `data[..length]` are whole samples, of which the last is sample `sequence - 1`.
/// - `sequence` counts every sample that was due while the stream ran, those that `dropped` counts too.
pub struct Stream<'s> {
    sensor: &'s mut dyn Sensor,
    id: u8,
    rate_hz: f32,
    delay_us: u64,
    is_running: bool,
    /// When the sensor is set up anew; nothing while it is ready.
    set_up_us: Option<u64>,
    /// When the next sample is due; nothing: as soon as can be.
    due_ns: Option<u64>,
    sequence: u32,
    dropped: u32,
    data: [u8; DATA],
    length: usize,
    /// When the first and the last sample of `data` were taken.
    span_us: (u64, u64),
}

impl<'s> Stream<'s> {
    /// The stream `id`, below 255, of a sensor that is read `rate_hz` times a second, or as near to it as it can. A sample
    /// waits for others of its frame for `delay_us` at most. The stream waits to be started.
    ///
    /// # Errors
    ///
    /// The sensor cannot be made ready.
    ///
    /// # Panics
    ///
    /// With `id` 255, and when the sensor has no channels or more than [`MAX_CHANNELS`].
    pub fn new(sensor: &'s mut dyn Sensor, id: u8, rate_hz: f32, delay_us: u32) -> Result<Self, Error> {
        assert!(id != ALL_STREAMS, "{id} is all streams");
        assert!((1..=MAX_CHANNELS).contains(&sensor.channels().len()), "1 to {MAX_CHANNELS} channels");
        let rate_hz = sensor.set_rate(rate_hz)?;
        Ok(Stream {
            sensor,
            id,
            rate_hz,
            delay_us: u64::from(delay_us),
            is_running: false,
            set_up_us: None,
            due_ns: None,
            sequence: 0,
            dropped: 0,
            data: [0; DATA],
            length: 0,
            span_us: (0, 0),
        })
    }

    /// Takes samples from now on, as a host's Start makes it.
    pub fn start(&mut self) {
        if !self.is_running {
            (self.is_running, self.due_ns) = (true, None);
        }
    }

    /// Samples that were due so far: the number of the next one.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Samples that were due and not sent.
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    pub(crate) fn id(&self) -> u8 {
        self.id
    }

    /// When the next sample is due, in µs; nothing while none is.
    pub(crate) fn due_us(&self) -> Option<u64> {
        self.is_running.then(|| self.due_ns.unwrap_or(0).div_ceil(1000))
    }

    /// Takes a sample if one is due, and sends the frame if it is full.
    pub(crate) fn poll<W: Write>(&mut self, now_us: u64, sender: &mut Sender<W>) {
        let now_ns = now_us.saturating_mul(1000);
        let due_ns = *self.due_ns.get_or_insert(now_ns);
        if !self.is_running || now_ns < due_ns {
            return;
        }
        // Those for which this comes too late.
        let missed = (now_ns - due_ns) / self.period_ns();
        self.due_ns = Some(due_ns.saturating_add(missed.saturating_add(1).saturating_mul(self.period_ns())));
        if missed > 0 {
            self.skip(missed as u32, sender);
        }
        // No record spans more.
        if now_us.saturating_sub(self.span_us.0) > u64::from(u32::MAX) {
            self.flush(sender);
        }
        match self.set_up_us {
            None => match self.sample(now_us) {
                Ok(()) if self.is_due() => self.flush(sender),
                Ok(()) => {}
                Err(_) => self.lose(now_us, sender),
            },
            Some(set_up_us) if now_us >= set_up_us => self.lose(now_us, sender),
            Some(_) => self.skip(1, sender),
        }
    }

    /// Counts the sample, and sets the sensor up before it is read again: it may have been without power, and what it gives
    /// then may look like samples. No sample is taken now, as this may take a sensor longer than its time is true for.
    fn lose<W: Write>(&mut self, now_us: u64, sender: &mut Sender<W>) {
        self.skip(1, sender);
        let is_ready = self.sensor.set_rate(self.rate_hz).is_ok();
        self.set_up_us = (!is_ready).then(|| now_us.saturating_add(SET_UP_US));
    }

    /// Counts samples that were due and that nobody took. Those of a frame follow each other: it ends here.
    fn skip<W: Write>(&mut self, count: u32, sender: &mut Sender<W>) {
        self.flush(sender);
        self.sequence = self.sequence.wrapping_add(count);
        self.dropped = self.dropped.wrapping_add(count);
    }

    /// Reads the sensor and keeps its sample.
    fn sample(&mut self, now_us: u64) -> Result<(), Error> {
        let mut values = [0.0; MAX_CHANNELS];
        let values = &mut values[..self.sensor.channels().len()];
        self.sensor.read(values)?;

        // Commit. Nothing below this line can fail.
        let element = self.sensor.element();
        if self.length == 0 {
            self.span_us.0 = now_us;
        }
        for (value, channel) in values.iter().zip(self.sensor.channels()) {
            let number = encoded(value / channel.scale, element);
            let number = &number[..element.bytes()];
            self.data[self.length..][..number.len()].copy_from_slice(number);
            self.length += number.len();
        }
        self.span_us.1 = now_us;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    /// Whether the frame has to go: there is no room for another sample, or the first one would wait too long for it.
    fn is_due(&self) -> bool {
        let next_us = self.due_us().unwrap_or(u64::MAX);
        self.length + self.sample_bytes() > DATA || next_us > self.span_us.0.saturating_add(self.delay_us)
    }

    fn sample_bytes(&self) -> usize {
        self.sensor.channels().len() * self.sensor.element().bytes()
    }

    fn period_ns(&self) -> u64 {
        ((1e9 / f64::from(self.rate_hz)) as u64).max(1)
    }

    /// Sends what has been gathered.
    pub(crate) fn flush<W: Write>(&mut self, sender: &mut Sender<W>) {
        let count = (self.length / self.sample_bytes()) as u32;
        if count == 0 {
            return;
        }
        let span_us = self.span_us.1.saturating_sub(self.span_us.0) as u32;
        let channels = self.sensor.channels().len() as u8;
        let data = &self.data[..self.length];
        let body = Body::Samples(Samples { span_us, element: self.sensor.element(), channels, data });
        let sequence = self.sequence.wrapping_sub(count);
        if !sender.send(&self.record(sequence, self.span_us.0, body)) {
            self.dropped = self.dropped.wrapping_add(count);
        }
        self.length = 0;
    }

    /// Sends what the stream is.
    pub(crate) fn describe<W: Write>(&mut self, now_us: u64, sender: &mut Sender<W>) {
        self.flush(sender);
        let body = Body::Descriptor(Descriptor {
            name: self.sensor.name(),
            rate_hz: self.rate_hz,
            element: self.sensor.element(),
            channels: Channels::Listed(self.sensor.channels()),
        });
        sender.send(&self.record(self.sequence, now_us, body));
    }

    /// Sends how the stream fares.
    pub(crate) fn report<W: Write>(&mut self, now_us: u64, commands: (u32, u32), sender: &mut Sender<W>) {
        self.flush(sender);
        let state = if self.is_running { State::Running } else { State::Stopped };
        let (received, bad) = commands;
        let body = Body::Status(Status { state, dropped: self.dropped, received, bad });
        sender.send(&self.record(self.sequence, now_us, body));
    }

    /// Takes no more samples, and sends those that it has.
    pub(crate) fn stop<W: Write>(&mut self, sender: &mut Sender<W>) {
        self.flush(sender);
        self.is_running = false;
    }

    /// Takes the rate that a host asks for; the one before stays where the sensor fails.
    pub(crate) fn set_rate<W: Write>(&mut self, rate_hz: f32, sender: &mut Sender<W>) {
        self.flush(sender);
        if let Ok(rate_hz) = self.sensor.set_rate(rate_hz) {
            (self.rate_hz, self.due_ns, self.set_up_us) = (rate_hz, None, None);
        }
    }

    fn record<'r>(&self, sequence: u32, time_us: u64, body: Body<'r>) -> Record<'r> {
        Record { stream: self.id, boot: 0, sequence, time_us, body }
    }
}

/// A number as it is sent, in the first bytes. What is no number is 0 among whole numbers.
fn encoded(number: f32, element: Element) -> [u8; 4] {
    // `as` ends at the bounds.
    let rounded = (number + 0.5_f32.copysign(number)) as i32;
    match element {
        Element::I16 => rounded.clamp(i16::MIN.into(), i16::MAX.into()).to_le_bytes(),
        Element::I32 => rounded.to_le_bytes(),
        Element::F32 => number.to_le_bytes(),
    }
}
