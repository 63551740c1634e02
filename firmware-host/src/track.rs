//! Which samples are new, and how many are missing.

use std::collections::VecDeque;
use std::ops::Range;

/// Follows the numbers of a stream's samples.
///
/// Numbers are 32 bits on the wire and 64 here, from the board's start. A gap of 2³¹ samples or more would be taken for
/// late samples: at 10 kHz that is two and a half days without a sample, of a board that goes on counting.
///
/// # Invariants
///
/// - Every sample below `expected` of this start of the board has been used or is counted in `missing`.
/// - `holes` are disjoint, ascending and below `expected`: the last gaps, so that what comes late is told from what comes
///   twice.
#[derive(Debug, Default)]
pub struct Track {
    boot: u8,
    /// The number of the next sample; nothing before anything has come.
    expected: Option<u64>,
    /// The board's time of the newest record: of the last one that was not behind.
    time_us: u64,
    holes: VecDeque<Range<u64>>,
    /// Samples that are missing since the last one that was used.
    gap: Missing,
    counts: TrackCounts,
}

/// What a [`Track`] has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackCounts {
    /// Samples that are to be used.
    pub used: u64,
    /// Samples that have a number and did not come in time.
    pub missing: u64,
    /// Samples that came again.
    pub duplicates: u64,
    /// Samples that came when later ones had been used; in `missing` too.
    pub late: u64,
    /// Times that the board has started over.
    pub restarts: u64,
}

/// What lies between the last sample that was used and the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Samples that are known to be missing.
    pub samples: u64,
    /// The board has started over: more may be missing than are known.
    pub has_restarted: bool,
}

/// What every record says of where the stream is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The start of the board.
    pub boot: u8,
    /// The number of the first sample, or of the next one.
    pub sequence: u32,
    /// The board's time.
    pub time_us: u64,
}

/// Gaps that are remembered.
const HOLES: usize = 64;
/// A board that cannot tell its starts has started over where its number and its time have both gone back, this by more;
/// what comes late is not as late as that.
const LATEST_US: u64 = 1_000_000;

impl Track {
    /// What has been seen.
    pub fn counts(&self) -> &TrackCounts {
        &self.counts
    }

    /// Takes what is missing before the sample that is used next.
    pub fn take_gap(&mut self) -> Option<Missing> {
        let gap = std::mem::take(&mut self.gap);
        (gap != Missing::default()).then_some(gap)
    }

    /// A record says that `place.sequence` is the next sample's number: everything before it should have come. A
    /// descriptor whose number has been says that the board has started over.
    pub fn told(&mut self, place: Place, is_descriptor: bool) {
        let expected = self.enter(place, is_descriptor);
        let next = unwrap(place.sequence, expected);
        if next > expected {
            self.miss(expected..next);
        }
    }

    /// `count` samples have come: those from the one that is given on are new, and to be used.
    pub fn samples(&mut self, place: Place, count: u64) -> u64 {
        let expected = self.enter(place, false);
        let first = unwrap(place.sequence, expected);
        if first > expected {
            self.miss(expected..first);
        }
        let old = expected.saturating_sub(first).min(count);
        self.count_old(first..first + old);
        self.counts.used += count - old;
        self.expected = Some(expected.max(first + count));
        old
    }

    /// The number of the next sample, on this start of the board.
    fn enter(&mut self, place: Place, is_descriptor: bool) -> u64 {
        let Place { boot, sequence, time_us } = place;
        let Some(expected) = self.expected else {
            (self.boot, self.time_us) = (boot, time_us);
            return *self.expected.insert(sequence.into());
        };
        let is_behind = unwrap(sequence, expected) < expected;
        let is_long_ago = boot == 0 && time_us.saturating_add(LATEST_US) < self.time_us;
        if boot != self.boot || is_behind && (is_descriptor || is_long_ago) {
            self.counts.restarts += 1;
            self.gap.has_restarted = true;
            self.holes.clear();
            (self.boot, self.time_us) = (boot, time_us);
            return *self.expected.insert(0);
        }
        if !is_behind {
            self.time_us = time_us;
        }
        expected
    }

    fn miss(&mut self, samples: Range<u64>) {
        let count = samples.end - samples.start;
        self.counts.missing += count;
        self.gap.samples += count;
        self.expected = Some(samples.end);
        while self.holes.len() >= HOLES {
            self.holes.pop_front();
        }
        self.holes.push_back(samples);
    }

    /// Samples that have been used, or given up: those in a hole are late, and fill it.
    fn count_old(&mut self, samples: Range<u64>) {
        if samples.is_empty() {
            return;
        }
        let size = |holes: &VecDeque<Range<u64>>| holes.iter().map(|hole| hole.end - hole.start).sum::<u64>();
        let before = size(&self.holes);
        let sides = |hole: Range<u64>| {
            [hole.start..hole.end.min(samples.start), hole.start.max(samples.end)..hole.end]
        };
        self.holes = self.holes.drain(..).flat_map(sides).filter(|hole| !hole.is_empty()).collect();
        let late = before - size(&self.holes);
        self.counts.late += late;
        self.counts.duplicates += samples.end - samples.start - late;
    }
}

/// The number that is `sequence` on the wire and nearest to `expected`.
fn unwrap(sequence: u32, expected: u64) -> u64 {
    let ahead = i64::from(sequence.wrapping_sub(expected as u32) as i32);
    expected.checked_add_signed(ahead).unwrap_or(sequence.into())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// A generator of numbers, the same ones each time.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }
    }

    /// A frame of samples: the start of the board as it truly is, the first sample, and how many there are.
    #[derive(Clone, Copy)]
    struct Frame {
        start: u64,
        first: u64,
        count: u64,
    }

    const SAMPLE_US: u64 = 1_000;

    fn place(frame: Frame, is_silent: bool) -> Place {
        let boot = if is_silent { 0 } else { 1 + (frame.start % 250) as u8 };
        Place { boot, sequence: frame.first as u32, time_us: frame.first * SAMPLE_US }
    }

    /// What a line does to the frames of one start of a board: it loses some, sends some twice, and some a little later.
    /// The first and the last come as they were sent.
    fn line(frames: &[Frame], dice: &mut Dice) -> Vec<Frame> {
        let mut come: Vec<(u64, Frame)> = Vec::new();
        for (at, &frame) in frames.iter().enumerate() {
            let (at, is_end) = (10 * at as u64, at == 0 || at + 1 == frames.len());
            match dice.roll(if is_end { 1 } else { 10 }) {
                1 | 2 => {}
                3 => come.extend([(at, frame), (at + 10 * dice.roll(5) + 1, frame)]),
                4 => come.push((at + 10 * dice.roll(5) + 5, frame)),
                _ => come.push((at, frame)),
            }
        }
        // What would come behind the last frame has been lost.
        come.retain(|(at, _)| *at <= 10 * (frames.len() as u64 - 1));
        come.sort_by_key(|(at, _)| *at);
        come.into_iter().map(|(_, frame)| frame).collect()
    }

    /// Frames of one to eight samples from `first`; some begin with samples that the one before has had.
    fn frames(start: u64, begin: u64, dice: &mut Dice) -> Vec<Frame> {
        let mut first = begin;
        (0..20 + dice.roll(200))
            .map(|_| {
                let again = if dice.roll(8) == 0 { dice.roll(4).min(first - begin) } else { 0 };
                let frame = Frame { start, first: first - again, count: again + 1 + dice.roll(8) };
                first = frame.first + frame.count;
                frame
            })
            .collect()
    }

    /// What is to be used of the samples that come, one by one: each number that is above all before it.
    fn naive(come: &[Frame]) -> Vec<(u64, u64)> {
        let mut used = Vec::new();
        let mut newest: Option<(u64, u64)> = None;
        for frame in come {
            for sample in frame.first..frame.first + frame.count {
                if newest.is_none_or(|newest| (frame.start, sample) > newest) {
                    used.push((frame.start, sample));
                    newest = Some((frame.start, sample));
                }
            }
        }
        used
    }

    #[test]
    fn every_sample_is_used_once_or_missing() {
        for seed in 0..500 {
            let mut dice = Dice(seed);
            // Numbers wrap on the wire within the first start of some boards.
            let first = [0, 5, u64::from(u32::MAX) - 100][dice.roll(3) as usize];
            let mut track = Track::default();
            let (mut sent, mut come) = (0, Vec::new());
            for start in 0..1 + dice.roll(4) {
                let frames = frames(start, if start == 0 { first } else { 0 }, &mut dice);
                let (begin, end) =
                    (frames[0].first, frames.last().map_or(0, |frame| frame.first + frame.count));
                sent += end - begin;
                come.extend(line(&frames, &mut dice));
            }
            let mut used = Vec::new();
            let mut gaps = 0;
            for &frame in &come {
                let skip = track.samples(place(frame, false), frame.count);
                used.extend(
                    (frame.first + skip..frame.first + frame.count).map(|sample| (frame.start, sample)),
                );
                if skip < frame.count {
                    gaps += track.take_gap().map_or(0, |gap| gap.samples);
                }
            }
            assert_eq!(used, naive(&come), "seed {seed}");
            let counts = *track.counts();
            assert_eq!(counts.used, used.len() as u64, "seed {seed}");
            assert_eq!((counts.missing, gaps), (sent - counts.used, sent - counts.used), "seed {seed}");
            // Late samples are those that came and were not used; the others that came again are duplicates.
            let used: HashSet<_> = used.into_iter().collect();
            let every = |frame: &Frame| {
                (frame.first..frame.first + frame.count).map(|at| (frame.start, at)).collect()
            };
            let came: Vec<(u64, u64)> = come.iter().flat_map(every as fn(&Frame) -> Vec<_>).collect();
            let once: HashSet<_> = came.iter().copied().collect();
            assert_eq!(counts.late, once.difference(&used).count() as u64, "seed {seed}");
            assert_eq!(counts.duplicates, (came.len() - once.len()) as u64, "seed {seed}");
        }
    }

    #[test]
    fn a_status_tells_what_is_missing_at_the_end() {
        let at = |first| place(Frame { start: 0, first, count: 0 }, false);
        let mut track = Track::default();
        track.told(at(0), true);
        assert_eq!(track.samples(at(0), 10), 0);
        track.told(at(10), false);
        assert_eq!(track.take_gap(), None);
        track.told(at(17), false);
        assert_eq!(track.take_gap(), Some(Missing { samples: 7, has_restarted: false }));
        // A second one says nothing new, and samples from there on are new.
        track.told(at(17), false);
        assert_eq!(track.samples(at(17), 1), 0);
        assert_eq!(track.take_gap(), None);
        assert_eq!(track.counts(), &TrackCounts { used: 11, missing: 7, ..TrackCounts::default() });
    }

    #[test]
    fn a_board_that_cannot_tell_its_starts_is_known_by_its_descriptor_or_its_time() {
        let at = |first| place(Frame { start: 0, first, count: 0 }, true);
        let restarted = |samples| Some(Missing { samples, has_restarted: true });
        let mut track = Track::default();
        track.samples(at(5_000), 10);
        // A descriptor of a number that has been.
        track.told(at(0), true);
        assert_eq!(track.samples(at(0), 10), 0);
        assert_eq!(track.take_gap(), restarted(0));
        // The descriptor was lost, with the first three samples, and its time has gone back by more than a late one's.
        track.samples(at(10), 5_000);
        track.told(at(5_010), false);
        assert_eq!(track.samples(at(3), 1), 0);
        assert_eq!(track.take_gap(), restarted(3));
        assert_eq!(track.counts().restarts, 2);
        // A little back is late.
        track.samples(at(4), 500);
        assert_eq!(track.samples(at(400), 10), 10);
        assert_eq!(track.counts().restarts, 2);
    }

    #[test]
    fn a_time_that_is_bad_once_is_no_restart() {
        // A board that can tell its starts, and one that cannot.
        for (boot, newest) in [(7, 1), (0, 2)] {
            let at = |sequence, bad_us| {
                let time_us = 5_000_000 + u64::from(sequence) * SAMPLE_US + bad_us;
                Place { boot, sequence, time_us }
            };
            let mut track = Track::default();
            let mut old = 0;
            track.samples(at(0, 0), 1);
            track.samples(at(1, 1 << 32), 1);
            // Each number up to the newest, the one with the bad time too, comes once more.
            for sequence in 2..=newest {
                old += track.samples(at(sequence, 0), 1);
            }
            for sequence in 0..=newest {
                old += track.samples(at(sequence, 0), 1);
            }
            old += track.samples(at(newest + 1, 0), 1);
            let (used, duplicates) = (u64::from(newest) + 2, u64::from(newest) + 1);
            assert_eq!(old, duplicates, "boot {boot}");
            let counts = TrackCounts { used, duplicates, ..TrackCounts::default() };
            assert_eq!(track.counts(), &counts, "boot {boot}");
        }
    }

    #[test]
    fn a_board_that_starts_over_has_lost_what_it_counted_since() {
        let at = |start, first| place(Frame { start, first, count: 0 }, false);
        let mut track = Track::default();
        track.samples(at(0, 7), 3);
        assert_eq!(track.samples(at(1, 40), 2), 0);
        assert_eq!(track.take_gap(), Some(Missing { samples: 40, has_restarted: true }));
        assert_eq!(
            track.counts(),
            &TrackCounts { used: 5, missing: 40, restarts: 1, ..TrackCounts::default() }
        );
    }
}
