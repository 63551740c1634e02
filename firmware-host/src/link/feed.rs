//! What came, to events: which samples are new, what is missing before them, and when they were taken.

use std::collections::VecDeque;
use std::time::Instant;

use mcedge_wire::{Samples, State, Status};

use super::LinkError;
use super::event::{Event, Gap, GapCause, Sample, Stream};
use super::inbox::{At, Head, Item};
use super::notices::{Kind, Notices};
use crate::address::StreamName;
use crate::clock::{Clock, ClockFit};
use crate::track::{Missing, Place, Track};

/// Takes items, gives events.
pub struct Feed {
    pub stream: Stream,
    pub track: Track,
    meaning: Meaning,
    notices: Notices,
    clock: Clock,
    frame: Frame,
    /// What is given before the frame's next sample: a handful at most, of one item.
    staged: VecDeque<Staged>,
    /// The last sample's time that was given, in this machine's running time: nobody sets that.
    last_us: Option<i64>,
    /// The same by the board's clock, since its start.
    last_device_us: Option<u64>,
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

/// Whose samples mean what the stream says.
struct Meaning {
    /// What was asked for; nothing: the board's only stream.
    wanted: Option<StreamName>,
    /// The start of the board whose descriptor has told.
    boot: u8,
    /// The port has not gone since: behind it there may be another board.
    is_sure: bool,
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

/// More periods than this between two samples that follow each other are a pause.
const PAUSE_PERIODS: f64 = 8.0;
/// A count that has gone on by more from one status to the next has begun anew.
const MOST_DROPPED: u32 = 1 << 31;
/// A time of day that is further off than this has been set, not kept badly.
const CLOCK_STEP_US: i64 = 100_000;

impl Feed {
    /// Nothing yet of this stream, which start `boot` of the board has told of; `wanted` is what was asked for.
    pub fn new(stream: Stream, boot: u8, wanted: Option<StreamName>) -> Self {
        Feed {
            stream,
            meaning: Meaning { wanted, boot, is_sure: true },
            notices: Notices::default(),
            track: Track::default(),
            clock: Clock::new(),
            frame: Frame::default(),
            staged: VecDeque::new(),
            last_us: None,
            last_device_us: None,
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
        let running_us = self.clock.host_us(device_us);
        (self.last_us, self.last_device_us) = (Some(running_us), Some(device_us));
        let time_us = running_us.saturating_add(self.wall_us.unwrap_or_default());
        let channels = self.stream.channels.len();
        let values = &self.frame.values[at * channels..][..channels];
        Sample { sequence: self.frame.sequence.wrapping_add(at as u32), device_us, time_us, values }
    }

    /// From the last sample that was given to what was taken at `device_us`, by this machine's clock.
    fn since_last_us(&mut self, device_us: u64) -> Option<i64> {
        let running_us = self.clock.host_us(device_us);
        Some(running_us.saturating_sub(self.last_us?).max(0))
    }

    /// Tells a person something.
    pub fn notice(&mut self, kind: Kind, notice: String) {
        let notice = self.notices.tell(kind, notice, Instant::now());
        self.staged.extend(notice.map(Staged::Notice));
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
            Item::Descriptor { head, stream } if self.is_mine(*head, stream) => {
                self.take_descriptor(*head, stream)?;
            }
            Item::Status { head, status } if head.stream == self.stream.id => {
                self.take_status(*head, *status);
            }
            Item::Samples { .. } | Item::Descriptor { .. } | Item::Status { .. } => {}
            Item::Unplugged => {
                (self.is_unplugged, self.meaning.is_sure) = (true, false);
                self.notice(Kind::Gone, "the port has gone".into());
            }
            Item::Back { notice } => self.notice(Kind::Back, notice.clone()),
            Item::Notice(notice) => self.notice(Kind::Other, notice.clone()),
        }
        Ok(())
    }

    /// What an item's samples mean is not known yet: of another start of the board, or of a port that has been gone.
    pub fn is_strange(&self, item: &Item) -> bool {
        let Item::Samples { head, .. } = item else { return false };
        head.stream == self.stream.id && !(head.boot == self.meaning.boot && self.meaning.is_sure)
    }

    /// Whether a descriptor is the stream's. Of a board that has started over, or may be another, it is by its name; and by
    /// any name where none was asked for: the board has but one.
    pub fn is_mine(&self, head: Head, stream: &Stream) -> bool {
        let Meaning { wanted, boot, is_sure } = &self.meaning;
        let (is_same, may_be_another) = (head.stream == self.stream.id, head.boot != *boot || !is_sure);
        match wanted {
            Some(StreamName::Id(_)) => is_same,
            Some(StreamName::Name(name)) => stream.name == *name || is_same && !may_be_another,
            None => is_same || may_be_another,
        }
    }

    /// Whether a descriptor may never come behind an item.
    pub fn is_last(&self, item: &Item) -> bool {
        match item {
            Item::Unplugged => true,
            Item::Status { head, status } => head.stream == self.stream.id && status.state == State::Ended,
            _ => false,
        }
    }

    /// Samples of start `boot` mean what a descriptor says that came behind them.
    ///
    /// # Errors
    ///
    /// The stream has become another.
    pub fn learn(&mut self, boot: u8, stream: &Stream) -> Result<(), LinkError> {
        if !self.stream.is_like(stream) {
            return Err(LinkError::Channels { found: stream.to_string(), expected: self.stream.to_string() });
        }
        if self.stream.rate_hz != stream.rate_hz {
            self.notice(
                Kind::Rate,
                format!("the board's rate is {} Hz now, {} Hz before", stream.rate_hz, self.stream.rate_hz),
            );
        }
        if self.stream.id != stream.id {
            self.notice(
                Kind::Number,
                format!("the stream's number is {} now, {} before", stream.id, self.stream.id),
            );
        }
        self.stream = stream.clone();
        (self.meaning.boot, self.meaning.is_sure) = (boot, true);
        Ok(())
    }

    /// No descriptor has come for a while: samples of the start that is known mean what they did. Those of another start
    /// mean nothing, as yet: no.
    pub fn trust(&mut self, item: &Item) -> bool {
        let is_known = matches!(item, Item::Samples { head, .. } if head.boot == self.meaning.boot);
        self.meaning.is_sure |= is_known;
        is_known
    }

    /// Takes samples that nobody will say the meaning of any more: they are missing.
    pub fn give_up(&mut self, head: Head, samples: u32) {
        let head = Head { sequence: head.sequence.wrapping_add(samples), ..head };
        self.track(head, |track, place| track.told(place, false));
        self.notice(
            Kind::LeftOut,
            format!("{samples} samples are left out: the board has not said what they are"),
        );
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
        self.learn(head.boot, stream)?;
        self.track(head, |track, place| track.told(place, true));
        Ok(())
    }

    fn take_status(&mut self, head: Head, status: Status) {
        let restarts = self.track.counts().restarts;
        self.track(head, |track, place| track.told(place, false));
        let before = if self.track.counts().restarts > restarts { 0 } else { self.dropped };
        let dropped = status.dropped.wrapping_sub(before);
        if dropped < MOST_DROPPED {
            self.dropped_by_board += u64::from(dropped);
        }
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
            self.last_device_us = None;
            self.dropped = 0;
            self.notice(Kind::StartedOver, "the board has started over".into());
        }
        followed
    }

    /// Says what is missing before what was taken at `device_us`.
    fn stage_gap(&mut self, device_us: u64) {
        let Some(Missing { samples, has_restarted }) = self.track.take_gap() else {
            return self.stage_pause(device_us);
        };
        let cause = match (has_restarted, self.is_unplugged) {
            (true, _) => GapCause::Restarted,
            (false, true) => GapCause::Unplugged,
            (false, false) => GapCause::Lost,
        };
        let alone_us = (samples as f64 * 1e6 / self.stream.rate_hz) as i64;
        let us = self.since_last_us(device_us).unwrap_or(alone_us);
        let missing = (!has_restarted).then_some(samples);
        self.staged.push_back(Staged::Gap(Gap { missing, us, cause }));
    }

    /// Says that time is missing, where no sample is. Where the board's clock alone has leapt, none is.
    fn stage_pause(&mut self, device_us: u64) {
        let Some(last_device_us) = self.last_device_us else { return };
        let rate_hz = self.stream.rate_hz;
        let periods = |us: f64| us * rate_hz / 1e6;
        if periods(device_us.saturating_sub(last_device_us) as f64) <= PAUSE_PERIODS {
            return;
        }
        let us = self.since_last_us(device_us).unwrap_or_default();
        if periods(us as f64) > PAUSE_PERIODS / 2.0 {
            self.staged.push_back(Staged::Gap(Gap { missing: Some(0), us, cause: GapCause::Paused }));
        }
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
            self.notice(
                Kind::ClockSet,
                format!("this machine's clock has been set by {:+.3} s", step_us as f64 / 1e6),
            );
        }
    }
}

impl Frame {
    fn device_us(&self, sample: usize) -> u64 {
        let gaps = self.samples.max(2) as u64 - 1;
        self.time_us.saturating_add(u64::from(self.span_us) * sample as u64 / gaps)
    }
}

#[cfg(test)]
mod tests {
    use mcedge_wire::Element;

    use super::*;
    use crate::link::Channel;

    /// Noon, and when the link was opened.
    const NOON_US: i64 = 1_763_726_400_000_000;

    fn feed() -> Feed {
        let channel = Channel { name: "x".into(), unit: "g".into(), scale: 2.0 };
        let stream = Stream { id: 3, name: "imu".into(), rate_hz: 100.0, channels: vec![channel] };
        Feed::new(stream, 1, None)
    }

    /// What comes 2 ms after it was taken, with the time of day off by `wall_us`.
    fn head(boot: u8, sequence: u32, wall_us: i64) -> Head {
        let time_us = u64::from(sequence) * 10_000;
        let mono_us = time_us as i64 + 2_000;
        Head { at: At { mono_us, wall_us: NOON_US + mono_us + wall_us }, stream: 3, boot, sequence, time_us }
    }

    /// Events of samples with these heads, each of one number.
    fn samples(feed: &mut Feed, head: Head) -> Vec<String> {
        let data = 1.5_f32.to_le_bytes();
        let item = Item::Samples { head, span_us: 0, element: Element::F32, channels: 1, bytes: 4 };
        feed.take(&item, &data).unwrap();
        events(feed)
    }

    fn status(feed: &mut Feed, head: Head, state: State, dropped: u32) -> Vec<String> {
        let status = Status { state, dropped, received: 0, bad: 0 };
        feed.take(&Item::Status { head, status }, &[]).unwrap();
        events(feed)
    }

    fn events(feed: &mut Feed) -> Vec<String> {
        let mut events = Vec::new();
        while let Some(event) = feed.next() {
            events.push(match event {
                Event::Sample(Sample { sequence, time_us, values, .. }) => {
                    format!("{sequence} at {} is {values:?}", time_us - NOON_US)
                }
                Event::Gap(Gap { missing, us, cause }) => format!("{cause:?} {missing:?} {us}"),
                Event::Notice(notice) => notice,
                Event::End => "end".into(),
            });
        }
        events
    }

    #[test]
    fn times_are_of_the_day_and_follow_its_clock_when_it_is_set() {
        let mut feed = feed();
        assert_eq!(samples(&mut feed, head(1, 5, 0)), ["5 at 52000 is [3.0]"]);
        assert_eq!(samples(&mut feed, head(1, 6, 99_000)), ["6 at 62000 is [3.0]"], "that is no step");
        let set = "this machine's clock has been set by -3600.000 s";
        let before = samples(&mut feed, head(1, 7, -3_600_000_000));
        assert_eq!(before, [set, "7 at -3599928000 is [3.0]"]);
        assert_eq!(feed.clock().offset_us, NOON_US + 2_000 - 3_600_000_000);
    }

    #[test]
    fn time_without_samples_is_a_gap_in_which_none_are_missing() {
        let mut feed = feed();
        samples(&mut feed, head(1, 0, 0));
        let late = |sequence, late_us: u64| {
            let mut head = head(1, sequence, 0);
            head.time_us += late_us;
            (head.at.mono_us, head.at.wall_us) =
                (head.at.mono_us + late_us as i64, head.at.wall_us + late_us as i64);
            head
        };
        assert_eq!(samples(&mut feed, late(1, 70_000)), ["1 at 82000 is [3.0]"], "eight periods");
        assert_eq!(samples(&mut feed, late(2, 150_001)), ["Paused Some(0) 90001", "2 at 172001 is [3.0]"]);
        assert_eq!(feed.track.counts().missing, 0);
    }

    #[test]
    fn a_board_whose_clock_leaps_has_not_paused() {
        let mut feed = feed();
        samples(&mut feed, head(1, 0, 0));
        let bad = |sequence: u32, bad_us: i64| {
            let head = head(1, sequence, 0);
            Head { time_us: head.time_us.wrapping_add_signed(bad_us), ..head }
        };
        // Bad once; leapt ahead for good; and back, as 32 bits wrap.
        for (sequence, bad_us) in
            [(1, 1 << 32), (2, 0), (3, 1 << 40), (4, 1 << 40), (5, -10_000), (6, -10_000)]
        {
            let sample = format!("{sequence} at {} is [3.0]", 2_000 + 10_000 * sequence);
            assert_eq!(samples(&mut feed, bad(sequence, bad_us)), [sample]);
        }
    }

    #[test]
    fn a_gap_is_as_long_when_the_clock_is_set_in_it() {
        for set_us in [3_600_000_000, -3_600_000_000] {
            let mut feed = feed();
            samples(&mut feed, head(1, 0, 0));
            assert_eq!(samples(&mut feed, head(1, 10, set_us))[1], "Lost Some(9) 100000");
        }
    }

    #[test]
    fn a_gap_lasts_from_the_sample_before_to_the_one_behind() {
        let mut feed = feed();
        samples(&mut feed, head(1, 0, 0));
        let gap = "Lost Some(9) 100000";
        assert_eq!(samples(&mut feed, head(1, 10, 0)), [gap, "10 at 102000 is [3.0]"]);
        feed.take(&Item::Unplugged, &[]).unwrap();
        assert_eq!(events(&mut feed), ["the port has gone"]);
        // Nothing was lost meanwhile.
        assert_eq!(samples(&mut feed, head(1, 11, 0)), ["11 at 112000 is [3.0]"]);
        assert_eq!(samples(&mut feed, head(1, 13, 0))[0], "Lost Some(1) 20000");
        // A new start: its clock begins at 0, this machine's goes on.
        let later = Head { at: At { mono_us: 532_000, wall_us: NOON_US + 532_000 }, ..head(2, 0, 0) };
        let over = "the board has started over";
        assert_eq!(samples(&mut feed, later), [over, "Restarted None 400000", "0 at 532000 is [3.0]"]);
        assert_eq!(status(&mut feed, head(2, 4, 0), State::Ended, 0), ["Lost Some(3) 40000", "end"]);
        assert!(feed.has_ended);
    }

    #[test]
    fn what_a_board_drops_is_counted_over_its_starts() {
        let mut feed = feed();
        status(&mut feed, head(1, 0, 0), State::Running, 3);
        status(&mut feed, head(1, 0, 0), State::Running, 5);
        status(&mut feed, head(2, 0, 0), State::Running, 4);
        status(&mut feed, head(2, 0, 0), State::Running, 4);
        assert_eq!(feed.dropped_by_board(), 9);
        // A board that begins to count anew and does not tell its start; and one whose count wraps.
        status(&mut feed, head(2, 0, 0), State::Running, 1);
        status(&mut feed, head(2, 0, 0), State::Running, 2);
        assert_eq!(feed.dropped_by_board(), 10);
        status(&mut feed, head(3, 0, 0), State::Running, 1 << 30);
        for count in [2 << 30, 3 << 30, 0] {
            status(&mut feed, head(3, 0, 0), State::Running, count);
        }
        assert_eq!(feed.dropped_by_board(), 10 + (1 << 32));
    }

    #[test]
    fn a_board_that_goes_mad_is_not_told_of_at_each_frame() {
        let mut feed = feed();
        let boots = [1, 2].into_iter().cycle().take(5_000);
        let told: Vec<_> = boots.flat_map(|boot| samples(&mut feed, head(boot, 0, 0))).collect();
        assert_eq!(told.iter().filter(|told| told.contains(" at ")).count(), 5_000);
        let over = told.iter().filter(|told| told.contains("has started over")).count();
        assert!((10..60).contains(&over), "{over}");
    }

    #[test]
    fn samples_of_another_width_are_an_error() {
        let item =
            Item::Samples { head: head(1, 0, 0), span_us: 0, element: Element::F32, channels: 2, bytes: 8 };
        let error = feed().take(&item, &[0; 8]).unwrap_err().to_string();
        assert_eq!(error, "the board now sends 2 channels, expected imu (3): x [g] as before");
    }
}
