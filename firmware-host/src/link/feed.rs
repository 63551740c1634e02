//! What came, to events: which samples are new, what is missing before them, and when they were taken.

use std::collections::VecDeque;

use mcedge_wire::{Samples, State, Status};

use super::LinkError;
use super::event::{Event, Gap, GapCause, Sample, Stream};
use super::inbox::{At, Head, Item};
use crate::clock::{Clock, ClockFit};
use crate::track::{Missing, Place, Track};

/// Takes items, gives events.
pub struct Feed {
    pub stream: Stream,
    pub track: Track,
    clock: Clock,
    frame: Frame,
    /// What is given before the frame's next sample: a handful at most, of one item.
    staged: VecDeque<Staged>,
    /// The last sample's time that was given.
    last_us: Option<i64>,
    /// The port has gone since the last sample.
    is_unplugged: bool,
    /// What is added to this machine's running time for the time of day.
    wall_us: Option<i64>,
    /// The end has been given.
    pub has_ended: bool,
    dropped_by_board: u64,
    /// Of the status before, since the board's start.
    dropped: u32,
}

enum Staged {
    Gap(Gap),
    Notice(String),
    End,
}

/// The samples of a record.
///
/// # Invariants
///
/// - `values` are `samples` rows of the stream's channels; rows `next..samples` are still to be given.
#[derive(Default)]
struct Frame {
    /// `[samples, channels]`, in units.
    values: Vec<f32>,
    sequence: u32,
    time_us: u64,
    span_us: u32,
    samples: usize,
    next: usize,
}

/// A time of day that is further off than this has been set, not kept badly.
const CLOCK_STEP_US: i64 = 100_000;

impl Feed {
    /// Nothing yet of this stream.
    pub fn new(stream: Stream) -> Self {
        Feed {
            stream,
            track: Track::default(),
            clock: Clock::new(),
            frame: Frame::default(),
            staged: VecDeque::new(),
            last_us: None,
            is_unplugged: false,
            wall_us: None,
            has_ended: false,
            dropped_by_board: 0,
            dropped: 0,
        }
    }

    /// The fit of the board's clock to the time of day.
    pub fn clock(&self) -> ClockFit {
        let fit = self.clock.fit();
        ClockFit { offset_us: fit.offset_us.saturating_add(self.wall_us.unwrap_or_default()), ..fit }
    }

    /// Whether there is nothing to give.
    pub fn is_empty(&self) -> bool {
        self.staged.is_empty() && self.frame.next >= self.frame.samples
    }

    /// Samples that the board says it had no room for.
    pub fn dropped_by_board(&self) -> u64 {
        self.dropped_by_board
    }

    /// The next event of the items that were taken.
    pub fn next(&mut self) -> Option<Event<'_>> {
        match self.staged.pop_front() {
            Some(Staged::Gap(gap)) => Some(Event::Gap(gap)),
            Some(Staged::Notice(notice)) => Some(Event::Notice(notice)),
            Some(Staged::End) => {
                self.has_ended = true;
                Some(Event::End)
            }
            None if self.is_empty() => None,
            None => Some(Event::Sample(self.next_sample())),
        }
    }

    fn next_sample(&mut self) -> Sample<'_> {
        let at = self.frame.next;
        self.frame.next += 1;
        let device_us = self.frame.device_us(at);
        let time_us = self.time_us(device_us);
        self.last_us = Some(time_us);
        let channels = self.stream.channels.len();
        let values = &self.frame.values[at * channels..][..channels];
        Sample { sequence: self.frame.sequence.wrapping_add(at as u32), device_us, time_us, values }
    }

    fn time_us(&mut self, device_us: u64) -> i64 {
        self.clock.host_us(device_us).saturating_add(self.wall_us.unwrap_or_default())
    }

    /// Tells a person something.
    pub fn notice(&mut self, notice: String) {
        self.staged.push_back(Staged::Notice(notice));
    }

    /// Takes an item, when the ones before have been given; `data` are the bytes of its samples.
    ///
    /// # Errors
    ///
    /// The stream has become another.
    pub fn take(&mut self, item: &Item, data: &[u8]) -> Result<(), LinkError> {
        match item {
            Item::Samples { head, span_us, element, channels, .. } if head.stream == self.stream.id => {
                let samples = Samples { span_us: *span_us, element: *element, channels: *channels, data };
                self.take_samples(*head, &samples)?;
            }
            Item::Descriptor { head, stream } if head.stream == self.stream.id => {
                self.take_descriptor(*head, stream)?;
            }
            Item::Status { head, status } if head.stream == self.stream.id => {
                self.take_status(*head, *status);
            }
            Item::Samples { .. } | Item::Descriptor { .. } | Item::Status { .. } => {}
            Item::Unplugged => {
                self.is_unplugged = true;
                self.notice("the port has gone".into());
            }
            Item::Back { notice } => self.notice(notice.clone()),
            Item::Notice(notice) => self.notice(notice.clone()),
        }
        Ok(())
    }

    fn take_samples(&mut self, head: Head, samples: &Samples<'_>) -> Result<(), LinkError> {
        let channels = self.stream.channels.len();
        if usize::from(samples.channels) != channels {
            return Err(LinkError::Channels {
                found: format!("{} channels", samples.channels),
                expected: self.stream.to_string(),
            });
        }
        let count = samples.len();
        let skip = self.track(head, |track, place| track.samples(place, count as u64)) as usize;
        if skip >= count {
            return Ok(());
        }
        // A frame goes out when its last sample has been taken.
        self.clock.arrived(head.time_us.saturating_add(samples.span_us.into()), head.at.mono_us);
        self.set_wall(head.at);
        let scales = self.stream.channels.iter().map(|channel| channel.scale).cycle();
        self.frame.values.clear();
        self.frame.values.extend(samples.numbers().zip(scales).map(|(number, scale)| number * scale));
        self.frame.sequence = head.sequence;
        (self.frame.time_us, self.frame.span_us) = (head.time_us, samples.span_us);
        (self.frame.samples, self.frame.next) = (count, skip);
        self.stage_gap(self.frame.device_us(skip));
        self.is_unplugged = false;
        Ok(())
    }

    fn take_descriptor(&mut self, head: Head, stream: &Stream) -> Result<(), LinkError> {
        if !self.stream.is_like(stream) {
            return Err(LinkError::Channels { found: stream.to_string(), expected: self.stream.to_string() });
        }
        self.track(head, |track, place| track.told(place, true));
        if self.stream.rate_hz != stream.rate_hz {
            self.notice(format!(
                "the board's rate is {} Hz now, {} Hz before",
                stream.rate_hz, self.stream.rate_hz
            ));
        }
        self.stream = stream.clone();
        Ok(())
    }

    fn take_status(&mut self, head: Head, status: Status) {
        let restarts = self.track.counts().restarts;
        self.track(head, |track, place| track.told(place, false));
        let before = if self.track.counts().restarts > restarts { 0 } else { self.dropped };
        self.dropped_by_board += u64::from(status.dropped.wrapping_sub(before));
        self.dropped = status.dropped;
        if status.state == State::Ended {
            self.stage_gap(head.time_us);
            self.staged.push_back(Staged::End);
        }
    }

    /// Follows the numbers; a board that has started over has a new clock.
    fn track<T>(&mut self, head: Head, follow: impl FnOnce(&mut Track, Place) -> T) -> T {
        let restarts = self.track.counts().restarts;
        let place = Place { boot: head.boot, sequence: head.sequence, time_us: head.time_us };
        let followed = follow(&mut self.track, place);
        if self.track.counts().restarts > restarts {
            self.clock.restart();
            self.dropped = 0;
            self.notice("the board has started over".into());
        }
        followed
    }

    /// Says what is missing before what was taken at `device_us`.
    fn stage_gap(&mut self, device_us: u64) {
        let Some(Missing { samples, has_restarted }) = self.track.take_gap() else { return };
        let cause = match (has_restarted, self.is_unplugged) {
            (true, _) => GapCause::Restarted,
            (false, true) => GapCause::Unplugged,
            (false, false) => GapCause::Lost,
        };
        let next_us = self.time_us(device_us);
        let alone_us = (samples as f64 * 1e6 / self.stream.rate_hz) as i64;
        let us = self.last_us.map_or(alone_us, |last_us| next_us.saturating_sub(last_us));
        let missing = (!has_restarted).then_some(samples);
        self.staged.push_back(Staged::Gap(Gap { missing, us, cause }));
    }

    /// Keeps to the time of day, which somebody may set.
    fn set_wall(&mut self, at: At) {
        let now_us = at.wall_us - at.mono_us;
        let Some(before_us) = self.wall_us else {
            self.wall_us = Some(now_us);
            return;
        };
        let step_us = now_us - before_us;
        if step_us.abs() > CLOCK_STEP_US {
            self.wall_us = Some(now_us);
            self.notice(format!("this machine's clock has been set by {:+.3} s", step_us as f64 / 1e6));
        }
    }
}

impl Frame {
    fn device_us(&self, sample: usize) -> u64 {
        let gaps = self.samples.max(2) as u64 - 1;
        self.time_us.saturating_add(u64::from(self.span_us) * sample as u64 / gaps)
    }
}
