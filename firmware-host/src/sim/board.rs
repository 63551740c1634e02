//! What the board says: rows and its own state, as frames or as lines.

use std::collections::VecDeque;
use std::fmt::Write;

use mcedge_wire::{
    Body, Channel, Channels, Descriptor, Element, EncodeError, MAX_CHANNELS, MAX_FRAME, MAX_RECORD, Record,
    Samples, State, Status, encode,
};

use super::{Format, SimError, Source};

/// Samples whose answers can still be told from others.
const REMEMBERED: usize = 1 << 16;
/// Bytes of a record of samples before them.
const SAMPLES_HEADER: usize = 24;

/// The board: what it is and how far it is.
///
/// # Invariants
///
/// - `times` are those of the samples up to `next`, the last ones.
pub struct Board {
    source: Source,
    format: Format,
    boot: u8,
    next: u64,
    times: VecDeque<u64>,
    /// Those of the start before this one, and its `next`: answers to them may still come.
    past: (u64, VecDeque<u64>),
    pub received: u32,
    pub bad: u32,
    pub dropped: u32,
    room: [u8; MAX_FRAME],
}

impl Board {
    /// Checks what the source says of itself.
    pub fn new(source: Source, format: Format) -> Result<Self, SimError> {
        let channels = source.channels.len();
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(SimError::Channels { found: channels });
        }
        let most = (MAX_RECORD - SAMPLES_HEADER) / (channels * source.element.bytes());
        match format {
            Format::Frames { samples } if !(1..=most).contains(&samples) => {
                return Err(SimError::SamplesPerFrame { found: samples, most });
            }
            _ => {}
        }
        let mut board = Board {
            source,
            format,
            boot: 1,
            next: 0,
            times: VecDeque::new(),
            past: (0, VecDeque::new()),
            received: 0,
            bad: 0,
            dropped: 0,
            room: [0; MAX_FRAME],
        };
        board.describe(0)?;
        Ok(board)
    }

    pub fn boot(&self) -> u8 {
        self.boot
    }

    /// The number of the next sample.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn rate_hz(&self) -> f64 {
        f64::from(self.source.rate_hz)
    }

    pub fn set_rate_hz(&mut self, rate_hz: f32) {
        self.source.rate_hz = rate_hz;
    }

    pub fn channels(&self) -> usize {
        self.source.channels.len()
    }

    pub fn is_text(&self) -> bool {
        !matches!(self.format, Format::Frames { .. })
    }

    /// Samples that go out together.
    pub fn samples_per_frame(&self) -> u64 {
        match self.format {
            Format::Frames { samples } => samples as u64,
            Format::Csv | Format::EdgeImpulse => 1,
        }
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.boot = self.boot.checked_add(1).unwrap_or(1);
        self.past = (self.next, std::mem::take(&mut self.times));
        self.next = 0;
        (self.received, self.bad, self.dropped) = (0, 0, 0);
    }

    /// Takes samples of these times, whether or not they are sent.
    pub fn take(&mut self, times_us: impl IntoIterator<Item = u64>) {
        for time_us in times_us {
            if self.times.len() == REMEMBERED {
                self.times.pop_front();
            }
            self.times.push_back(time_us);
            self.next += 1;
        }
    }

    /// What it says when it starts.
    pub fn greeting(&mut self, now_us: u64) -> Result<Vec<u8>, SimError> {
        match self.format {
            Format::Frames { .. } => {
                let mut greeting = vec![0];
                greeting.extend(self.describe(now_us)?);
                Ok(greeting)
            }
            Format::Csv => {
                let names: Vec<&str> =
                    self.source.channels.iter().map(|channel| channel.name.as_str()).collect();
                Ok(format!("{}\r\n", names.join(",")).into_bytes())
            }
            Format::EdgeImpulse => Ok(Vec::new()),
        }
    }

    pub fn describe(&mut self, now_us: u64) -> Result<&[u8], SimError> {
        let Source { name, rate_hz, element, channels, .. } = &self.source;
        let channels: Vec<Channel<'_>> = channels
            .iter()
            .map(|crate::Channel { name, unit, scale }| Channel { name, unit, scale: *scale })
            .collect();
        let channels = Channels::Listed(&channels);
        let body = Body::Descriptor(Descriptor { name, rate_hz: *rate_hz, element: *element, channels });
        let record = Self::record(&self.source, self.boot, self.next, now_us, body);
        encode(&record, &mut self.room).map_err(SimError::Record)
    }

    pub fn status(&mut self, state: State, now_us: u64) -> Result<&[u8], SimError> {
        let Board { dropped, received, bad, .. } = *self;
        let body = Body::Status(Status { state, dropped, received, bad });
        let record = Self::record(&self.source, self.boot, self.next, now_us, body);
        encode(&record, &mut self.room).map_err(SimError::Record)
    }

    /// A frame, or a line, of the rows that are taken next; `rows` is `[samples, channels]`.
    pub fn samples(&mut self, rows: &[f32], time_us: u64, span_us: u32) -> Result<&[u8], SimError> {
        if self.is_text() {
            return self.line(rows);
        }
        let (element, width) = (self.source.element, self.source.channels.len());
        let mut data = Vec::with_capacity(rows.len() * element.bytes());
        for (at, &value) in rows.iter().enumerate() {
            put(&mut data, element, value, self.source.channels[at % width].scale);
        }
        let body = Body::Samples(Samples { span_us, element, channels: width as u8, data: &data });
        let record = Self::record(&self.source, self.boot, self.next, time_us, body);
        encode(&record, &mut self.room).map_err(SimError::Record)
    }

    fn line(&mut self, row: &[f32]) -> Result<&[u8], SimError> {
        let mut line = String::new();
        for (at, value) in row.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            // A String takes all.
            let _ = write!(line, "{comma}{value}");
        }
        line.push_str("\r\n");
        let full = SimError::Record(EncodeError::Room { found: MAX_FRAME });
        let room = self.room.get_mut(..line.len()).ok_or(full)?;
        room.copy_from_slice(line.as_bytes());
        Ok(room)
    }

    fn record<'a>(source: &Source, boot: u8, sequence: u64, time_us: u64, body: Body<'a>) -> Record<'a> {
        Record { stream: source.stream, boot, sequence: sequence as u32, time_us, body }
    }

    /// Whether a prediction answers a sample that was taken, in this start or the one before.
    pub fn is_answer(&self, sequence: u32, time_us: u64) -> bool {
        let is_of = |next: u64, times: &VecDeque<u64>| {
            let back = (next as u32).wrapping_sub(sequence) as usize;
            back >= 1 && back <= times.len() && times[times.len() - back] == time_us
        };
        is_of(self.next, &self.times) || is_of(self.past.0, &self.past.1)
    }
}

/// A number as it is sent: what cannot be is the nearest that can.
fn put(data: &mut Vec<u8>, element: Element, value: f32, scale: f32) {
    let number = value / scale;
    match element {
        Element::I16 => data.extend((number.round() as i16).to_le_bytes()),
        Element::I32 => data.extend((number.round() as i32).to_le_bytes()),
        Element::F32 => data.extend(number.to_le_bytes()),
    }
}
