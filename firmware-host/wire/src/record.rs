//! Records: what a board and a host say to each other.

use core::fmt;

use crate::fields::Fields;
use crate::{ALL_STREAMS, MAX_CHANNELS, VERSION};

/// Bytes of what every record begins with.
pub(crate) const HEADER_BYTES: usize = 16;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record<'a> {
    /// The stream of the board that it is about; [`ALL_STREAMS`] in a command for all, which a prediction cannot be.
    pub stream: u8,
    /// A number that differs from one start of the board to the next; 0 of a board that cannot tell, and of a host.
    pub boot: u8,
    /// Of samples, the number of the first; of a descriptor and a status, that of the next sample; of a prediction, that
    /// of the sample that it answers. Samples of a stream are counted from 0 at the board's start, wrapping at 2³².
    pub sequence: u32,
    /// The board's time since its start, in µs: when the first sample was taken, or when the record was made. Of a
    /// prediction, that of its sample; 0 in the other commands.
    pub time_us: u64,
    /// What it says.
    pub body: Body<'a>,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Body<'a> {
    /// From the board: what a stream is. Sent at the start, when asked, and when it changes.
    Descriptor(Descriptor<'a>),
    /// From the board: samples.
    Samples(Samples<'a>),
    /// From the board: how it fares. Sent when asked, once a second or so, and when it stops.
    Status(Status),
    /// To the board: send the descriptor and the status of this stream.
    Describe,
    /// To the board: send samples. One that does already goes on.
    Start,
    /// To the board: send no more samples.
    Stop,
    /// To the board: take samples at this rate, in Hz, or at the nearest that there is; a descriptor with it is the answer.
    Rate(f32),
    /// To the board: what the model says to a sample.
    Prediction(Prediction<'a>),
}

/// What a stream is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Descriptor<'a> {
    /// The stream's name, of at most 24 bytes, without control characters.
    pub name: &'a str,
    /// Samples a second, as the board means to take them; finite, above 0.
    pub rate_hz: f32,
    /// What its samples are sent as.
    pub element: Element,
    /// 1 to [`MAX_CHANNELS`].
    pub channels: Channels<'a>,
}

/// The channels of a stream.
#[derive(Clone, Copy)]
pub enum Channels<'a> {
    /// As a board lists them.
    Listed(&'a [Channel<'a>]),
    /// As they stand in a record, checked.
    Encoded(&'a [u8]),
}

/// A channel of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Channel<'a> {
    /// Its name, of at most 24 bytes, without control characters.
    pub name: &'a str,
    /// Its unit, of at most 8 bytes, without control characters.
    pub unit: &'a str,
    /// What a number of a sample is multiplied with to be in this unit; finite, not 0.
    pub scale: f32,
}

/// What a number of a sample is sent as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Two bytes, with a sign.
    I16,
    /// Four bytes, with a sign.
    I32,
    /// IEEE 754, of four bytes.
    F32,
}

/// Samples of a stream, one or several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Samples<'a> {
    /// µs from the first sample to the last, which are evenly spaced; 0 of one.
    pub span_us: u32,
    /// What the numbers are.
    pub element: Element,
    /// Numbers of a sample: 1 to [`MAX_CHANNELS`].
    pub channels: u8,
    /// Row-major `[samples, channels]`, little-endian; one sample at least.
    pub data: &'a [u8],
}

/// How a stream of a board fares. Counts are since its start, wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What the stream does.
    pub state: State,
    /// Samples that were counted and never sent: there was no room for them.
    pub dropped: u32,
    /// Records from the host that were understood.
    pub received: u32,
    /// Frames from the host that were not.
    pub bad: u32,
}

/// What a stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits to be started.
    Stopped,
    /// It sends samples.
    Running,
    /// It has sent the last sample that it will ever have: a recording has been played to its end.
    Ended,
}

/// What the model says to a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction<'a> {
    /// The anomaly score, where the model has one; NaN on the wire where it has none.
    pub score: Option<f32>,
    /// The model's output, 255 numbers at most.
    pub values: Values<'a>,
}

/// Numbers of a prediction.
#[derive(Clone, Copy)]
pub enum Values<'a> {
    /// As the host has them.
    Listed(&'a [f32]),
    /// As they stand in a record.
    Encoded(&'a [u8]),
}

/// Why a record cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// It is of another version of the protocol.
    Version {
        /// The version that it says.
        found: u8,
    },
    /// It is of no kind that is known.
    Kind {
        /// The kind that it says.
        found: u8,
    },
    /// It has fewer bytes or more than a record of its kind has.
    Length {
        /// Bytes of the record.
        found: usize,
    },
    /// A field is out of its range.
    Field(Field),
}

/// A field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A sample's or a descriptor's kind of number.
    Element,
    /// A count of channels.
    Channels,
    /// A count of samples.
    Samples,
    /// The time that samples span.
    Span,
    /// A rate.
    Rate,
    /// A channel's scale.
    Scale,
    /// A name or a unit.
    Text,
    /// A stream's state.
    State,
    /// The stream: all, where it must be one.
    Stream,
    /// The count of a prediction's values.
    Values,
}

/// Kinds of records, as they stand in the second byte.
mod kind {
    pub const DESCRIPTOR: u8 = 0x01;
    pub const SAMPLES: u8 = 0x02;
    pub const STATUS: u8 = 0x03;
    pub const DESCRIBE: u8 = 0x81;
    pub const START: u8 = 0x82;
    pub const STOP: u8 = 0x83;
    pub const RATE: u8 = 0x84;
    pub const PREDICTION: u8 = 0x85;
}

const NAME_BYTES: usize = 24;
const UNIT_BYTES: usize = 8;
const CHANNEL_BYTES: usize = NAME_BYTES + UNIT_BYTES + 4;

impl<'a> Record<'a> {
    /// The record that `bytes` are.
    ///
    /// # Errors
    ///
    /// They are none, or none of this version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let length = RecordError::Length { found: bytes.len() };
        let mut fields = Fields(bytes);
        let version = fields.u8().ok_or(length)?;
        if version != VERSION {
            return Err(RecordError::Version { found: version });
        }
        let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(length)?;
        let mut header = Fields(&header[1..]);
        let mut fields = Fields(body);
        let mut decode = || {
            let kind = header.u8()?;
            let (stream, boot, sequence, time_us) =
                (header.u8()?, header.u8()?, header.u32()?, header.u64()?);
            let body = Body::decode(kind, &mut fields)?;
            Some(body.map(|body| Record { stream, boot, sequence, time_us, body }))
        };
        let record = decode().ok_or(length)??;
        if !fields.0.is_empty() {
            return Err(length);
        }
        record.check()?;
        Ok(record)
    }

    /// Gives the record's bytes to `write`, some at a time.
    ///
    /// # Errors
    ///
    /// A field is out of its range; `write` fails.
    pub(crate) fn encode<E: From<RecordError>>(
        &self,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check()?;
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&[VERSION, self.body.kind(), self.stream, self.boot]);
        header[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        header[8..].copy_from_slice(&self.time_us.to_le_bytes());
        write(&header)?;
        self.body.encode(write)
    }

    fn check(&self) -> Result<(), RecordError> {
        let may_be_of_all = matches!(self.body, Body::Describe | Body::Start | Body::Stop | Body::Rate(_));
        ensure(may_be_of_all || self.stream != ALL_STREAMS, Field::Stream)?;
        self.body.check()
    }
}

impl<'a> Body<'a> {
    fn kind(&self) -> u8 {
        match self {
            Body::Descriptor(_) => kind::DESCRIPTOR,
            Body::Samples(_) => kind::SAMPLES,
            Body::Status(_) => kind::STATUS,
            Body::Describe => kind::DESCRIBE,
            Body::Start => kind::START,
            Body::Stop => kind::STOP,
            Body::Rate(_) => kind::RATE,
            Body::Prediction(_) => kind::PREDICTION,
        }
    }

    /// Reads the body of a record of this kind; nothing where there are too few bytes.
    fn decode(kind: u8, fields: &mut Fields<'a>) -> Option<Result<Self, RecordError>> {
        Some(Ok(match kind {
            kind::DESCRIPTOR => match Descriptor::decode(fields)? {
                Ok(descriptor) => Body::Descriptor(descriptor),
                Err(error) => return Some(Err(error)),
            },
            kind::SAMPLES => match Samples::decode(fields)? {
                Ok(samples) => Body::Samples(samples),
                Err(error) => return Some(Err(error)),
            },
            kind::STATUS => {
                let Some(state) = State::from_byte(fields.u32()?) else {
                    return Some(Err(RecordError::Field(Field::State)));
                };
                let (dropped, received, bad) = (fields.u32()?, fields.u32()?, fields.u32()?);
                Body::Status(Status { state, dropped, received, bad })
            }
            kind::DESCRIBE => Body::Describe,
            kind::START => Body::Start,
            kind::STOP => Body::Stop,
            kind::RATE => Body::Rate(fields.f32()?),
            kind::PREDICTION => {
                let (score, count) = (fields.f32()?, fields.u32()?);
                let score = Some(score).filter(|score| !score.is_nan());
                let values = Values::Encoded(fields.bytes(usize::try_from(count).ok()?.checked_mul(4)?)?);
                Body::Prediction(Prediction { score, values })
            }
            found => return Some(Err(RecordError::Kind { found })),
        }))
    }

    fn encode<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        match self {
            Body::Descriptor(descriptor) => descriptor.encode(write),
            Body::Samples(samples) => samples.encode(write),
            Body::Status(Status { state, dropped, received, bad }) => {
                write(&u32::from(state.byte()).to_le_bytes())?;
                [dropped, received, bad].into_iter().try_for_each(|count| write(&count.to_le_bytes()))
            }
            Body::Describe | Body::Start | Body::Stop => Ok(()),
            Body::Rate(rate_hz) => write(&rate_hz.to_le_bytes()),
            Body::Prediction(Prediction { score, values }) => {
                write(&score.unwrap_or(f32::NAN).to_le_bytes())?;
                write(&(values.len() as u32).to_le_bytes())?;
                values.iter().try_for_each(|value| write(&value.to_le_bytes()))
            }
        }
    }

    fn check(&self) -> Result<(), RecordError> {
        match self {
            Body::Descriptor(descriptor) => descriptor.check(),
            Body::Samples(samples) => samples.check(),
            Body::Rate(rate_hz) => ensure(is_rate(*rate_hz), Field::Rate),
            Body::Prediction(prediction) => ensure(prediction.values.len() <= 255, Field::Values),
            Body::Status(_) | Body::Describe | Body::Start | Body::Stop => Ok(()),
        }
    }
}

impl<'a> Descriptor<'a> {
    fn decode(fields: &mut Fields<'a>) -> Option<Result<Self, RecordError>> {
        let rate_hz = fields.f32()?;
        let element = Element::from_byte(fields.u8()?);
        let channels = usize::from(fields.u8()?);
        let rest = fields.u16()?;
        let name = text(fields.bytes(NAME_BYTES)?);
        let channels = Channels::Encoded(fields.bytes(channels * CHANNEL_BYTES)?);
        let Some(element) = element else { return Some(Err(RecordError::Field(Field::Element))) };
        let (Some(name), 0) = (name, rest) else { return Some(Err(RecordError::Field(Field::Text))) };
        let Channels::Encoded(bytes) = channels else { return None };
        let has_text = |channel: &[u8]| {
            text(&channel[..NAME_BYTES]).is_some() && text(&channel[NAME_BYTES..][..UNIT_BYTES]).is_some()
        };
        if !bytes.chunks_exact(CHANNEL_BYTES).all(has_text) {
            return Some(Err(RecordError::Field(Field::Text)));
        }
        Some(Ok(Descriptor { name, rate_hz, element, channels }))
    }

    fn encode<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        write(&self.rate_hz.to_le_bytes())?;
        write(&[self.element.byte(), self.channels.len() as u8, 0, 0])?;
        write(&padded::<NAME_BYTES>(self.name))?;
        self.channels.iter().try_for_each(|channel| {
            write(&padded::<NAME_BYTES>(channel.name))?;
            write(&padded::<UNIT_BYTES>(channel.unit))?;
            write(&channel.scale.to_le_bytes())
        })
    }

    fn check(&self) -> Result<(), RecordError> {
        let Descriptor { name, rate_hz, channels, .. } = *self;
        ensure((1..=MAX_CHANNELS).contains(&channels.len()), Field::Channels)?;
        ensure(is_rate(rate_hz), Field::Rate)?;
        ensure(is_text(name, NAME_BYTES), Field::Text)?;
        channels.iter().try_for_each(|Channel { name, unit, scale }| {
            ensure(is_text(name, NAME_BYTES) && is_text(unit, UNIT_BYTES), Field::Text)?;
            ensure(scale.is_finite() && scale != 0.0, Field::Scale)
        })
    }
}

impl<'a> Samples<'a> {
    fn decode(fields: &mut Fields<'a>) -> Option<Result<Self, RecordError>> {
        let span_us = fields.u32()?;
        let element = Element::from_byte(fields.u8()?);
        let (channels, samples) = (fields.u8()?, usize::from(fields.u16()?));
        let Some(element) = element else { return Some(Err(RecordError::Field(Field::Element))) };
        let data = fields.bytes(samples * usize::from(channels) * element.bytes())?;
        Some(Ok(Samples { span_us, element, channels, data }))
    }

    fn encode<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        write(&self.span_us.to_le_bytes())?;
        write(&[self.element.byte(), self.channels])?;
        write(&(self.len() as u16).to_le_bytes())?;
        write(self.data)
    }

    fn check(&self) -> Result<(), RecordError> {
        let sample = usize::from(self.channels) * self.element.bytes();
        ensure((1..=MAX_CHANNELS).contains(&usize::from(self.channels)), Field::Channels)?;
        let is_whole = !self.data.is_empty() && self.data.len().is_multiple_of(sample);
        ensure(is_whole && self.data.len() <= crate::MAX_RECORD - HEADER_BYTES - 8, Field::Samples)?;
        ensure(self.len() > 1 || self.span_us == 0, Field::Span)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.data.len() / (usize::from(self.channels) * self.element.bytes()).max(1)
    }

    /// Whether there are none, which no record has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers as they were sent, `[samples, channels]`, without the channels' scales. An i32 past 2²⁴ is rounded.
    pub fn numbers(&self) -> impl ExactSizeIterator<Item = f32> + 'a {
        let element = self.element;
        self.data.chunks_exact(element.bytes()).map(move |bytes| element.number(bytes))
    }

    /// The time of sample `sample` from the first one, in µs, rounded down.
    pub fn offset_us(&self, sample: usize) -> u64 {
        let gaps = (self.len().max(2) - 1) as u64;
        u64::from(self.span_us) * sample as u64 / gaps
    }
}

impl Element {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Element::I16 => 2,
            Element::I32 | Element::F32 => 4,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Element::I16 => 0,
            Element::I32 => 1,
            Element::F32 => 2,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Element::I16, Element::I32, Element::F32].into_iter().find(|element| element.byte() == byte)
    }

    /// `bytes` are as many as [`Element::bytes`].
    fn number(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Element::I16, &[a, b]) => f32::from(i16::from_le_bytes([a, b])),
            (Element::I32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32,
            (Element::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            _ => f32::NAN,
        }
    }
}

impl State {
    fn byte(self) -> u8 {
        match self {
            State::Stopped => 0,
            State::Running => 1,
            State::Ended => 2,
        }
    }

    fn from_byte(byte: u32) -> Option<Self> {
        [State::Stopped, State::Running, State::Ended]
            .into_iter()
            .find(|state| u32::from(state.byte()) == byte)
    }
}

impl<'a> Channels<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Channels::Listed(channels) => channels.len(),
            Channels::Encoded(bytes) => bytes.len() / CHANNEL_BYTES,
        }
    }

    /// Whether there are none, which no record has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The channels in their order.
    pub fn iter(&self) -> impl Iterator<Item = Channel<'a>> {
        let (listed, encoded) = match *self {
            Channels::Listed(channels) => (channels, &[][..]),
            Channels::Encoded(bytes) => (&[][..], bytes),
        };
        listed.iter().copied().chain(encoded.chunks_exact(CHANNEL_BYTES).map(Channel::decode))
    }
}

impl PartialEq for Channels<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl fmt::Debug for Channels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> Channel<'a> {
    /// `bytes` are [`CHANNEL_BYTES`] whose texts have been checked.
    fn decode(bytes: &'a [u8]) -> Self {
        let mut fields = Fields(bytes);
        let mut of = |count| fields.bytes(count).and_then(text).unwrap_or_default();
        let (name, unit) = (of(NAME_BYTES), of(UNIT_BYTES));
        Channel { name, unit, scale: fields.f32().unwrap_or_default() }
    }
}

impl<'a> Values<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Values::Listed(values) => values.len(),
            Values::Encoded(bytes) => bytes.len() / 4,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers in their order.
    pub fn iter(&self) -> impl Iterator<Item = f32> + 'a {
        let (listed, encoded) = match *self {
            Values::Listed(values) => (values, &[][..]),
            Values::Encoded(bytes) => (&[][..], bytes),
        };
        listed.iter().copied().chain(encoded.chunks_exact(4).map(|bytes| Element::F32.number(bytes)))
    }
}

impl PartialEq for Values<'_> {
    /// Bit for bit: NaN is like itself.
    fn eq(&self, other: &Self) -> bool {
        self.iter().map(f32::to_bits).eq(other.iter().map(f32::to_bits))
    }
}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn ensure(holds: bool, field: Field) -> Result<(), RecordError> {
    if holds { Ok(()) } else { Err(RecordError::Field(field)) }
}

fn is_rate(rate_hz: f32) -> bool {
    rate_hz.is_finite() && rate_hz > 0.0
}

fn is_text(text: &str, most: usize) -> bool {
    text.len() <= most && !text.chars().any(char::is_control)
}

/// The text of a field, which is UTF-8 and then zeros. It has no control characters: it is shown on terminals.
fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let (text, rest) = field.split_at(end);
    let is_padded = rest.iter().all(|&byte| byte == 0);
    core::str::from_utf8(text).ok().filter(|text| is_padded && is_text(text, field.len()))
}

/// `text`, of `N` bytes at most, and then zeros.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    field[..text.len()].copy_from_slice(text.as_bytes());
    field
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordError::Version { found } => {
                write!(f, "a record is of version {found} of the protocol, expected version {VERSION}")
            }
            RecordError::Kind { found } => write!(f, "a record is of kind {found:#04x}, which is not known"),
            RecordError::Length { found } => {
                write!(f, "a record has {found} bytes, which no record of its kind has")
            }
            RecordError::Field(field) => f.write_str(field.rule()),
        }
    }
}

impl core::error::Error for RecordError {}

impl Field {
    fn rule(self) -> &'static str {
        match self {
            Field::Element => "numbers are of a kind that is not known, expected i16, i32 or f32",
            Field::Channels => "the count of channels is out of range, expected 1 to 32",
            Field::Samples => "the samples are not whole, none, or more than a record holds",
            Field::Span => "a single sample spans a time, expected 0",
            Field::Rate => "a rate is not a number of Hz above 0",
            Field::Scale => "a channel's scale is 0 or not finite",
            Field::Text => {
                "a name or a unit is not UTF-8 with zeros behind it, or has control characters, or too many bytes"
            }
            Field::State => "a stream's state is not known",
            Field::Stream => "a record that only one stream can have is of all",
            Field::Values => "a prediction has too many values, expected 255 at most",
        }
    }
}
