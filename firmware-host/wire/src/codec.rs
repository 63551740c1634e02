//! Records to bytes and back: the one door, on both ways of which every field is checked.

use crate::fields::Fields;
use crate::record::{
    Body, Channel, Channels, Descriptor, Element, Field, Prediction, Record, RecordError, Samples, State,
    Status, Values,
};
use crate::{ALL_STREAMS, MAX_CHANNELS, MAX_RECORD, VERSION};

/// Bytes of what every record begins with.
const HEADER_BYTES: usize = 16;

/// The most values of a prediction.
const MAX_VALUES: u32 = 255;

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
pub(crate) const CHANNEL_BYTES: usize = NAME_BYTES + UNIT_BYTES + 4;

impl<'a> Record<'a> {
    /// The record that `bytes` are.
    ///
    /// # Errors
    ///
    /// They are none, or none of this version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut fields = Fields::new(bytes);
        // A later version may have another header.
        match bytes.first() {
            Some(&found) if found != VERSION => return Err(RecordError::Version { found }),
            _ => {}
        }
        let [_, kind, stream, boot, s0, s1, s2, s3, time_us @ ..] = fields.array::<HEADER_BYTES>()?;
        let (sequence, time_us) = (u32::from_le_bytes([s0, s1, s2, s3]), u64::from_le_bytes(time_us));
        let body = Body::decode(kind, &mut fields)?;
        fields.end()?;
        let record = Record { stream, boot, sequence, time_us, body };
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

    fn decode(kind: u8, fields: &mut Fields<'a>) -> Result<Self, RecordError> {
        Ok(match kind {
            kind::DESCRIPTOR => Body::Descriptor(Descriptor::decode(fields)?),
            kind::SAMPLES => Body::Samples(Samples::decode(fields)?),
            kind::STATUS => {
                let state = State::from_number(fields.u32()?)?;
                let (dropped, received, bad) = (fields.u32()?, fields.u32()?, fields.u32()?);
                Body::Status(Status { state, dropped, received, bad })
            }
            kind::DESCRIBE => Body::Describe,
            kind::START => Body::Start,
            kind::STOP => Body::Stop,
            kind::RATE => Body::Rate(fields.f32()?),
            kind::PREDICTION => {
                let (score, count) = (fields.f32()?, fields.u32()?);
                ensure(count <= MAX_VALUES, Field::Values)?;
                let score = Some(score).filter(|score| !score.is_nan());
                let values = Values::Encoded(fields.bytes(count as usize * 4)?);
                Body::Prediction(Prediction { score, values })
            }
            found => return Err(RecordError::Kind { found }),
        })
    }

    fn encode<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        match self {
            Body::Descriptor(descriptor) => descriptor.encode(write),
            Body::Samples(samples) => samples.encode(write),
            Body::Status(Status { state, dropped, received, bad }) => {
                write(&state.number().to_le_bytes())?;
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
            Body::Prediction(prediction) => {
                ensure(prediction.values.len() <= MAX_VALUES as usize, Field::Values)
            }
            Body::Status(_) | Body::Describe | Body::Start | Body::Stop => Ok(()),
        }
    }
}

impl<'a> Descriptor<'a> {
    fn decode(fields: &mut Fields<'a>) -> Result<Self, RecordError> {
        let rate_hz = fields.f32()?;
        let element = Element::from_byte(fields.u8()?)?;
        let (count, zero) = (usize::from(fields.u8()?), fields.u16()?);
        let name = text(fields.bytes(NAME_BYTES)?)?;
        let channels = fields.bytes(count * CHANNEL_BYTES)?;
        ensure(zero == 0, Field::Text)?;
        channels.chunks_exact(CHANNEL_BYTES).try_for_each(|channel| Channel::decode(channel).map(drop))?;
        Ok(Descriptor { name, rate_hz, element, channels: Channels::Encoded(channels) })
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
    fn decode(fields: &mut Fields<'a>) -> Result<Self, RecordError> {
        let span_us = fields.u32()?;
        let element = Element::from_byte(fields.u8()?)?;
        let (channels, samples) = (fields.u8()?, usize::from(fields.u16()?));
        let data = fields.bytes(samples * usize::from(channels) * element.bytes())?;
        Ok(Samples { span_us, element, channels, data })
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
        ensure(is_whole && self.data.len() <= MAX_RECORD - HEADER_BYTES - 8, Field::Samples)?;
        ensure(self.len() > 1 || self.span_us == 0, Field::Span)
    }
}

impl Element {
    fn byte(self) -> u8 {
        match self {
            Element::I16 => 0,
            Element::I32 => 1,
            Element::F32 => 2,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, RecordError> {
        match byte {
            0 => Ok(Element::I16),
            1 => Ok(Element::I32),
            2 => Ok(Element::F32),
            _ => Err(RecordError::Field(Field::Element)),
        }
    }
}

impl State {
    fn number(self) -> u32 {
        match self {
            State::Stopped => 0,
            State::Running => 1,
            State::Ended => 2,
        }
    }

    fn from_number(number: u32) -> Result<Self, RecordError> {
        match number {
            0 => Ok(State::Stopped),
            1 => Ok(State::Running),
            2 => Ok(State::Ended),
            _ => Err(RecordError::Field(Field::State)),
        }
    }
}

impl<'a> Channel<'a> {
    /// `bytes` are [`CHANNEL_BYTES`].
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut fields = Fields::new(bytes);
        let (name, unit) = (text(fields.bytes(NAME_BYTES)?)?, text(fields.bytes(UNIT_BYTES)?)?);
        Ok(Channel { name, unit, scale: fields.f32()? })
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
fn text(field: &[u8]) -> Result<&str, RecordError> {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let (text, padding) = field.split_at(end);
    let is_padded = padding.iter().all(|&byte| byte == 0);
    let text = core::str::from_utf8(text).ok().filter(|text| is_padded && is_text(text, field.len()));
    text.ok_or(RecordError::Field(Field::Text))
}

/// `text`, of `N` bytes at most, and then zeros.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    field[..text.len()].copy_from_slice(text.as_bytes());
    field
}
