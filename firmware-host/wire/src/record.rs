//! Records: what a board and a host say to each other. Their bytes are in `codec`.

use core::fmt;

use crate::VERSION;
use crate::codec::CHANNEL_BYTES;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record<'a> {
    /// The stream of the board that it is about; [`ALL_STREAMS`](crate::ALL_STREAMS) in a command for all, which a prediction cannot be.
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
    /// 1 to [`MAX_CHANNELS`](crate::MAX_CHANNELS).
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
    /// Numbers of a sample: 1 to [`MAX_CHANNELS`](crate::MAX_CHANNELS).
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

impl<'a> Samples<'a> {
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
        // The bytes have been checked.
        let encoded = encoded.chunks_exact(CHANNEL_BYTES).filter_map(|bytes| Channel::decode(bytes).ok());
        listed.iter().copied().chain(encoded)
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
