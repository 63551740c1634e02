//! What is shown: plain numbers, kept in memory of fixed size.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jiff::Zoned;
use mcedge_firmware_host::{ClockFit, Gap, Sample, Stream};

/// Points of a channel's past.
pub const PAST: usize = 256;
/// Points of the past a second.
const POINTS_HZ: f64 = 20.0;
/// Notices that are kept.
const NOTICES: usize = 64;
/// How far back the rate is measured, in µs, and how many marks that takes.
const RATE_US: i64 = 10_000_000;
const MARK_US: i64 = 250_000;

/// All that is shown of a stream.
pub struct View {
    /// Where it comes from.
    pub uri: String,
    /// Its name.
    pub name: String,
    /// Samples a second, as the board says, or as they are guessed to come; 0 where neither is known.
    pub nominal_hz: f64,
    /// The board has said what it is; else that is guessed from lines of text.
    pub has_spoken: bool,
    /// As they come.
    pub measured_hz: Option<f64>,
    /// Its channels.
    pub channels: Vec<Channel>,
    /// Samples that came.
    pub samples: u64,
    /// Samples that did not.
    pub missing: u64,
    /// Frames or lines that were none.
    pub bad: u64,
    /// All that is counted.
    pub sections: Vec<Section>,
    /// How the board's clock goes, where it has one.
    pub clock: Option<ClockFit>,
    /// What a person wants to know, with the time of day; the newest last.
    pub notices: VecDeque<(String, String)>,
    /// Notices in all.
    pub notices_total: u64,
    /// No more will come.
    pub has_ended: bool,
    /// Somebody has stopped the board.
    pub is_stopped: bool,
    /// How long ago the last sample came.
    pub silence: Duration,
    /// How long it has been watched.
    pub elapsed: Duration,
    began: Instant,
    last: Instant,
    marks: Marks,
    point: Point,
}

/// Things of a kind that are counted.
pub struct Section {
    /// The kind.
    pub name: &'static str,
    /// The things.
    pub counts: Vec<Count>,
}

/// A thing that is counted.
pub struct Count {
    /// What it is.
    pub name: &'static str,
    /// How many there were.
    pub count: u64,
    /// One of them is one too many.
    pub is_bad: bool,
}

/// A channel and its past.
pub struct Channel {
    /// Its name.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// The newest value.
    pub last: Option<f32>,
    /// The lowest so far.
    pub min: f32,
    /// The highest so far.
    pub max: f32,
    /// Means of a few samples each, the newest last; nothing where samples are missing.
    pub past: VecDeque<Option<f32>>,
}

/// Where the stream was, now and then.
#[derive(Default)]
struct Marks {
    /// Samples taken by the board since the beginning, lost ones too.
    samples: u64,
    /// That count, and the time.
    marks: VecDeque<(u64, i64)>,
}

/// The point of the past that is being made.
struct Point {
    /// Sums of the channels' values.
    sums: Vec<f64>,
    samples: u64,
    /// Samples of a point.
    full: u64,
}

impl View {
    /// Nothing yet of `stream`.
    pub fn new(uri: &str, stream: &Stream, has_spoken: bool) -> Self {
        let now = Instant::now();
        let mut view = View {
            uri: uri.into(),
            name: String::new(),
            nominal_hz: 0.0,
            has_spoken,
            measured_hz: None,
            channels: Vec::new(),
            samples: 0,
            missing: 0,
            bad: 0,
            sections: Vec::new(),
            clock: None,
            notices: VecDeque::new(),
            notices_total: 0,
            has_ended: false,
            is_stopped: false,
            silence: Duration::ZERO,
            elapsed: Duration::ZERO,
            began: now,
            last: now,
            marks: Marks::default(),
            point: Point { sums: Vec::new(), samples: 0, full: 1 },
        };
        let channel = |channel: &mcedge_firmware_host::Channel| Channel::new(&channel.name, &channel.unit);
        view.channels = stream.channels.iter().map(channel).collect();
        view.point.sums = vec![0.0; view.channels.len()];
        view.describe(stream);
        view
    }

    /// The stream as it is now: its rate may change, its channels do not.
    pub fn describe(&mut self, stream: &Stream) {
        self.name = clean(&stream.name);
        // A guess moves a little all the time.
        let is_other = (self.nominal_hz - stream.rate_hz).abs()
            > if self.has_spoken { 0.0 } else { 0.2 * self.nominal_hz };
        if is_other {
            self.point.full = (stream.rate_hz / POINTS_HZ).round().max(1.0) as u64;
            self.marks = Marks::default();
        }
        self.nominal_hz = stream.rate_hz;
    }

    /// A sample has come.
    pub fn sample(&mut self, sample: &Sample<'_>) {
        self.last = Instant::now();
        self.samples += 1;
        for ((channel, &value), sum) in self.channels.iter_mut().zip(sample.values).zip(&mut self.point.sums)
        {
            channel.last = Some(value);
            (channel.min, channel.max) = (channel.min.min(value), channel.max.max(value));
            *sum += f64::from(value);
        }
        self.point.samples += 1;
        if self.point.samples >= self.point.full {
            self.end_point();
        }
        self.marks.sample(sample.time_us);
        self.measured_hz = self.marks.rate_hz();
    }

    /// Samples are missing.
    pub fn gap(&mut self, gap: &Gap) {
        if self.point.samples > 0 {
            self.end_point();
        }
        match gap.missing {
            Some(missing) => self.marks.samples += missing,
            None => self.marks = Marks::default(),
        }
        let points = gap.missing.unwrap_or(1).div_ceil(self.point.full).min(PAST as u64);
        for channel in &mut self.channels {
            (0..points).for_each(|_| channel.push(None));
        }
    }

    fn end_point(&mut self) {
        let samples = std::mem::take(&mut self.point.samples) as f64;
        for (channel, sum) in self.channels.iter_mut().zip(&mut self.point.sums) {
            channel.push(Some((std::mem::take(sum) / samples) as f32));
        }
    }

    /// Something for a person.
    pub fn notice(&mut self, notice: &str) {
        if self.notices.len() == NOTICES {
            self.notices.pop_front();
        }
        self.notices_total += 1;
        self.notices.push_back((Zoned::now().strftime("%H:%M:%S").to_string(), clean(notice)));
    }

    /// No more will come.
    pub fn end(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            self.notice("the stream has ended");
        }
    }

    /// What was counted.
    pub fn update(&mut self, sections: Vec<Section>, missing: u64, bad: u64, clock: Option<ClockFit>) {
        (self.sections, self.missing, self.bad, self.clock) = (sections, missing, bad, clock);
        (self.elapsed, self.silence) = (self.began.elapsed(), self.last.elapsed());
    }

    /// What the stream does, in a word or two.
    pub fn state(&self) -> String {
        let is_late = self.silence.as_secs_f64() > 2.0_f64.max(10.0 / self.nominal_hz.max(0.1));
        match (self.has_ended, self.is_stopped) {
            (true, _) => "ended".into(),
            (_, true) => "stopped".into(),
            _ if is_late => format!("silent for {:.0} s", self.silence.as_secs_f64()),
            _ if self.samples == 0 => "waiting".into(),
            _ => "running".into(),
        }
    }

    /// Seconds of a point of the past, where the rate is known.
    pub fn point_s(&self) -> Option<f64> {
        (self.nominal_hz > 0.0).then(|| self.point.full as f64 / self.nominal_hz)
    }
}

impl Section {
    /// `counts` of this kind.
    pub fn new(name: &'static str, counts: Vec<Count>) -> Self {
        Section { name, counts }
    }
}

impl Count {
    /// So many, which is as it should be.
    pub fn good(name: &'static str, count: u64) -> Self {
        Count { name, count, is_bad: false }
    }

    /// So many, of which there should be none.
    pub fn bad(name: &'static str, count: u64) -> Self {
        Count { name, count, is_bad: true }
    }
}

impl Channel {
    /// Nothing yet.
    pub fn new(name: &str, unit: &str) -> Self {
        Channel {
            name: clean(name),
            unit: clean(unit),
            last: None,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            past: VecDeque::with_capacity(PAST),
        }
    }

    fn push(&mut self, point: Option<f32>) {
        if self.past.len() == PAST {
            self.past.pop_front();
        }
        self.past.push_back(point);
    }
}

/// `text` with nothing in it that a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

impl Marks {
    fn sample(&mut self, time_us: i64) {
        self.samples += 1;
        let is_due = self.marks.back().is_none_or(|&(_, last_us)| time_us - last_us >= MARK_US);
        if is_due {
            self.marks.push_back((self.samples, time_us));
        }
        while self.marks.front().is_some_and(|&(_, first_us)| time_us - first_us > RATE_US)
            && self.marks.len() > 2
        {
            self.marks.pop_front();
        }
    }

    /// Samples a second over the marks.
    fn rate_hz(&self) -> Option<f64> {
        let (&(first, first_us), &(last, last_us)) = (self.marks.front()?, self.marks.back()?);
        (last_us > first_us).then(|| (last - first) as f64 * 1e6 / (last_us - first_us) as f64)
    }
}

#[cfg(test)]
pub mod tests {
    use mcedge_firmware_host::GapCause;

    use super::*;

    /// A stream of `channels` at 100 Hz.
    pub fn stream(channels: &[(&str, &str)]) -> Stream {
        let channel = |&(name, unit): &(&str, &str)| mcedge_firmware_host::Channel {
            name: name.into(),
            unit: unit.into(),
            scale: 1.0,
        };
        let channels = channels.iter().map(channel).collect();
        Stream { id: 0, name: "imu".into(), rate_hz: 100.0, channels }
    }

    fn push(view: &mut View, sequence: u32, values: &[f32]) {
        let device_us = u64::from(sequence) * 10_000;
        view.sample(&Sample { sequence, device_us, time_us: device_us as i64, values });
    }

    #[test]
    fn the_rate_counts_what_is_missing() {
        let mut view = View::new("x", &stream(&[("a", "V")]), true);
        for sequence in (0..1500).filter(|sequence| !(500..700).contains(sequence)) {
            if sequence == 700 {
                view.gap(&Gap { missing: Some(200), us: 2_000_000, cause: GapCause::Lost });
            }
            push(&mut view, sequence, &[1.0]);
        }
        assert!((view.measured_hz.expect("a rate") - 100.0).abs() < 1e-6);
        // A point has five samples: two hundred are forty points.
        let blank = view.channels[0].past.iter().filter(|point| point.is_none()).count();
        assert_eq!(blank, 40.min(PAST));
    }

    #[test]
    fn a_channel_knows_its_last_its_least_and_its_most() {
        let mut view = View::new("x", &stream(&[("a", "V"), ("b", "V")]), true);
        for (sequence, value) in [3.0, -1.0, 2.0].into_iter().enumerate() {
            push(&mut view, sequence as u32, &[value, 10.0 * value]);
        }
        let [a, b] = &view.channels[..] else { panic!("two channels") };
        assert_eq!((a.last, a.min, a.max), (Some(2.0), -1.0, 3.0));
        assert_eq!((b.last, b.min, b.max), (Some(20.0), -10.0, 30.0));
    }

    #[test]
    fn nothing_grows_without_end() {
        let mut view = View::new("x", &stream(&[("a", "V")]), true);
        for sequence in 0..20_000 {
            push(&mut view, sequence, &[0.0]);
            view.notice("again");
        }
        view.gap(&Gap { missing: Some(u64::MAX / 2), us: 0, cause: GapCause::Lost });
        assert_eq!((view.channels[0].past.len(), view.notices.len()), (PAST, NOTICES));
        assert!(view.marks.marks.len() <= (RATE_US / MARK_US + 2) as usize);
    }
}
