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
    /// The board's time of the newest record.
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
/// A board whose number and time have both gone back by more has started over; what comes late is not as late as that.
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
        let is_long_ago = time_us.saturating_add(LATEST_US) < self.time_us;
        if boot != self.boot || is_behind && (is_descriptor || is_long_ago) {
            self.counts.restarts += 1;
            self.gap.has_restarted = true;
            self.holes.clear();
            (self.boot, self.time_us) = (boot, time_us);
            return *self.expected.insert(0);
        }
        self.time_us = self.time_us.max(time_us);
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
