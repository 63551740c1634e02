//! What a link gives.

use mcedge_wire as wire;

/// What a stream of a board is.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// Its number on the board.
    pub id: u8,
    /// Its name.
    pub name: String,
    /// Samples a second, as the board means to take them.
    pub rate_hz: f64,
    /// What a sample is made of.
    pub channels: Vec<Channel>,
}

/// A channel of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    /// Its name.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// What a number on the wire is multiplied with to be in this unit.
    pub scale: f32,
}

/// What a link gives, in the order in which it came.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// A sample.
    Sample(Sample<'a>),
    /// Samples are missing before the next one, or before the end.
    Gap(Gap),
    /// What a person wants to know: that the board has been unplugged, is back, has started over.
    Notice(String),
    /// No more will come.
    End,
}

/// A sample of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Its number since the board's start, wrapping at 2³².
    pub sequence: u32,
    /// When it was taken: µs since the board's start by the board's clock.
    pub device_us: u64,
    /// When it was taken: µs since the Unix epoch by this machine's clock, from the running fit.
    pub time_us: i64,
    /// Its numbers, `[channels]`, in the channels' units.
    pub values: &'a [f32],
}

/// Samples that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// How many; nothing after a restart of the board, which took an unknown number of samples to its grave.
    pub missing: Option<u64>,
    /// µs from the sample before to the one behind, by this machine's clock.
    pub us: i64,
    /// Why.
    pub cause: GapCause,
}

/// Why samples are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapCause {
    /// The board dropped them, the line spoiled them, or the queue was full.
    Lost,
    /// The board has started over.
    Restarted,
    /// The port was gone for a while.
    Unplugged,
    /// The board took none for a while, by its own clock: none are missing by their numbers.
    Paused,
}

/// What a link has seen and done since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Samples that were given.
    pub samples: u64,
    /// Samples that the board has counted and that were not given, exactly: by their numbers.
    pub missing: u64,
    /// Samples that came once more; not given again.
    pub duplicates: u64,
    /// Samples that came when later ones had been given; not given, and in `missing`.
    pub late: u64,
    /// Frames with a record.
    pub frames: u64,
    /// Frames without one.
    pub bad_frames: BadFrames,
    /// Bytes read.
    pub bytes: u64,
    /// Samples that the board says it had no room for, since its start; in `missing` too.
    pub dropped_by_board: u64,
    /// Samples that the queue had no room for; in `missing` too.
    pub queue_overflows: u64,
    /// Reads of a sensor of this machine that failed; those that were tried again in time lost nothing.
    pub sensor_errors: u64,
    /// Times that the port has come back.
    pub reconnects: u64,
    /// Times that the board has started over.
    pub restarts: u64,
    /// Predictions that went out.
    pub predictions_sent: u64,
    /// Predictions that did not: the line was full, or gone.
    pub predictions_dropped: u64,
}

/// Frames without a record, by what was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BadFrames {
    /// No COBS, or too short for a CRC.
    pub stuffing: u64,
    /// Another CRC.
    pub crc: u64,
    /// Too long.
    pub oversized: u64,
    /// A right CRC and no record in it.
    pub record: u64,
    /// Begun and never ended: the port went in the middle.
    pub cut: u64,
}

impl BadFrames {
    /// All of them.
    pub fn sum(&self) -> u64 {
        self.stuffing + self.crc + self.oversized + self.record + self.cut
    }
}

impl Stream {
    /// What a descriptor says.
    pub(crate) fn new(id: u8, descriptor: &wire::Descriptor<'_>) -> Self {
        let channel = |channel: wire::Channel<'_>| Channel {
            name: channel.name.into(),
            unit: channel.unit.into(),
            scale: channel.scale,
        };
        Stream {
            id,
            name: descriptor.name.into(),
            rate_hz: f64::from(descriptor.rate_hz),
            channels: descriptor.channels.iter().map(channel).collect(),
        }
    }

    /// Whether the other one's samples mean the same: names and units are alike. A scale may change, as a range does, and so
    /// may the number that the board has for it.
    pub(crate) fn is_like(&self, other: &Stream) -> bool {
        let same = |(a, b): (&Channel, &Channel)| (&a.name, &a.unit) == (&b.name, &b.unit);
        self.channels.len() == other.channels.len() && self.channels.iter().zip(&other.channels).all(same)
    }
}

/// `imu (0): ax [m/s^2], ay [m/s^2]`.
impl std::fmt::Display for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}):", self.name, self.id)?;
        for (at, Channel { name, unit, .. }) in self.channels.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma} {name} [{unit}]")?;
        }
        Ok(())
    }
}
