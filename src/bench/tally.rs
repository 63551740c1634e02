//! What the runs of one backend took.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::record::Latency;
use crate::pace::Times;

/// The most runs of a timeline besides the slowest.
const SAMPLED: usize = 2048;
/// The slowest runs, which a timeline keeps.
const SLOWEST: usize = 256;

/// A run of the graph.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    pub start: Instant,
    pub time: Duration,
    pub kind: Kind,
    /// Of all streams together.
    pub tokens: u64,
}

/// What a run was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Inside of a segment.
    Ordinary,
    /// It ended a segment.
    End,
    /// It had to be shorter than the others, for a segment ended: it counts for the throughput alone.
    Short,
}

/// Times of all rounds, in memory of fixed size.
pub struct Tally {
    pub ordinary: Times,
    pub ends: Times,
    round: Times,
    /// Medians of the ordinary runs, µs.
    pub rounds_us: Vec<f64>,
    tokens: u64,
    time: Duration,
    timeline: Timeline,
}

impl Tally {
    /// Nothing yet; the timeline begins at `began`.
    pub fn new(began: Instant) -> Self {
        Self {
            ordinary: Times::new(),
            ends: Times::new(),
            round: Times::new(),
            rounds_us: Vec::new(),
            tokens: 0,
            time: Duration::ZERO,
            timeline: Timeline::new(began),
        }
    }

    /// Counts a run.
    pub fn add(&mut self, ran: &Ran) {
        self.tokens += ran.tokens;
        self.time += ran.time;
        match ran.kind {
            Kind::Ordinary => self.round.record(ran.time),
            Kind::End => self.ends.record(ran.time),
            Kind::Short => return,
        }
        self.timeline.add(ran);
    }

    /// Ends a round.
    pub fn end_round(&mut self) {
        if self.round.count() > 0 {
            self.rounds_us.push(self.round.us(0.5));
        }
        self.ordinary.add(&self.round);
        self.round.clear();
    }

    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.time.as_secs_f64().max(1e-9)
    }

    /// Seconds since the bench began, µs, whether it ended a segment; in the order of time.
    pub fn timeline(&self) -> Vec<(f64, f64, bool)> {
        self.timeline.points()
    }
}

/// The quantiles of `times`.
pub fn latency(times: &Times) -> Latency {
    Latency {
        count: times.count(),
        min: times.least_us(),
        p50: times.us(0.5),
        p90: times.us(0.9),
        p99: times.us(0.99),
        p999: times.us(0.999),
        max: times.us(1.0),
    }
}

/// A point of the timeline: ns since the beginning, ns, whether it ended a segment.
type Point = (u64, u64, bool);

/// Runs in their order: every so many, and the slowest of all.
struct Timeline {
    began: Instant,
    seen: u64,
    /// Every `stride`-th is kept.
    stride: u64,
    /// At most [`SAMPLED`].
    sampled: Vec<Point>,
    /// At most [`SLOWEST`]; by time first, the least on top.
    slowest: BinaryHeap<Reverse<(u64, Point)>>,
}

impl Timeline {
    fn new(began: Instant) -> Self {
        let (sampled, slowest) = (Vec::with_capacity(SAMPLED), BinaryHeap::with_capacity(SLOWEST + 1));
        Self { began, seen: 0, stride: 1, sampled, slowest }
    }

    fn add(&mut self, ran: &Ran) {
        let time = ran.time.as_nanos() as u64;
        let point = (ran.start.duration_since(self.began).as_nanos() as u64, time, ran.kind == Kind::End);
        self.slowest.push(Reverse((time, point)));
        if self.slowest.len() > SLOWEST {
            self.slowest.pop();
        }
        if self.seen.is_multiple_of(self.stride) {
            if self.sampled.len() == SAMPLED {
                let mut index = 0;
                self.sampled.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.stride *= 2;
            }
            // The stride may have grown past this one.
            if self.seen.is_multiple_of(self.stride) {
                self.sampled.push(point);
            }
        }
        self.seen += 1;
    }

    fn points(&self) -> Vec<(f64, f64, bool)> {
        let slowest = self.slowest.iter().map(|Reverse((_, point))| *point);
        let mut points: Vec<Point> = self.sampled.iter().copied().chain(slowest).collect();
        points.sort_unstable();
        points.dedup();
        let point = |(at, time, is_end): Point| ((at / 1000) as f64 / 1e6, time as f64 / 1e3, is_end);
        points.into_iter().map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(began: Instant, at_us: u64, time_us: u64, kind: Kind) -> Ran {
        let start = began + Duration::from_micros(at_us);
        Ran { start, time: Duration::from_micros(time_us), kind, tokens: 2 }
    }

    #[test]
    fn a_timeline_is_bounded_and_keeps_the_slowest() {
        let began = Instant::now();
        let mut tally = Tally::new(began);
        for at in 0..100_000u64 {
            let time = if at % 10_007 == 0 { 1000 + at / 10_007 } else { 10 + at % 7 };
            tally.add(&ran(began, 20 * at, time, Kind::Ordinary));
        }
        let points = tally.timeline();
        assert!(points.len() <= SAMPLED + SLOWEST && points.len() > SAMPLED / 2, "{}", points.len());
        assert!(points.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(points.iter().filter(|point| point.1 >= 1000.0).count(), 10);
        // What is kept besides them is spread over all of the time.
        let quarters = [0.0, 0.5, 1.0, 1.5]
            .map(|from| points.iter().filter(|p| p.0 >= from && p.0 < from + 0.5).count());
        assert!(quarters.iter().all(|&count| count > 200), "{quarters:?}");
    }

    #[test]
    fn a_round_s_median_is_that_of_its_ordinary_runs() {
        let began = Instant::now();
        let mut tally = Tally::new(began);
        for (start, round) in [(0, [10, 20, 30]), (5, [40, 50, 60])] {
            for (at, time) in (start..).zip(round) {
                tally.add(&ran(began, at, time, Kind::Ordinary));
            }
            tally.add(&ran(began, start + 3, 1000, Kind::End));
            tally.add(&ran(began, start + 4, 2000, Kind::Short));
            tally.end_round();
        }
        let medians: Vec<i64> = tally.rounds_us.iter().map(|us| us.round() as i64).collect();
        assert_eq!(medians, [20, 50]);
        assert_eq!((tally.ordinary.count(), tally.ends.count()), (6, 2));
        // 10 runs of 2 tokens in 6210 µs.
        assert!((tally.tokens_per_second() * 6210e-6 - 20.0).abs() < 1e-9);
        assert_eq!(tally.timeline().iter().filter(|point| point.2).count(), 2);
    }
}
