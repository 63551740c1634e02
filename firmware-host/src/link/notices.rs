//! How often a person is told the same.

use std::time::{Duration, Instant};

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gone,
    Back,
    StartedOver,
    Rate,
    Number,
    ClockSet,
    LeftOut,
    Other,
}

/// Tells each kind of thing some times, then more and more seldom: a board that goes mad does so for months, at each frame.
///
/// What has not come for a while is told anew, so that a port that goes once a day is told of each day.
#[derive(Debug, Default)]
pub struct Notices {
    /// For each [`Kind`], how often it came in a row, and when it did last.
    counts: [(u64, Option<Instant>); KINDS],
}

const KINDS: usize = 8;
/// Times that all are told; behind them those are whose number is a power of two.
const ALL: u64 = 32;
const A_WHILE: Duration = Duration::from_secs(60);

impl Notices {
    /// The text as it is to be told now, if it is.
    pub fn tell(&mut self, kind: Kind, text: String, now: Instant) -> Option<String> {
        let (count, last) = &mut self.counts[kind as usize];
        if last.is_some_and(|last| now.saturating_duration_since(last) > A_WHILE) {
            *count = 0;
        }
        (*count, *last) = (*count + 1, Some(now));
        match *count {
            ..ALL => Some(text),
            ALL => Some(format!("{text}; from here on each is not told")),
            count if count.is_power_of_two() => Some(format!("{text}; {count} times by now")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_told_then_fewer_and_all_again_after_a_while() {
        let (mut notices, mut now) = (Notices::default(), Instant::now());
        let mut told = |notices: &mut Notices, kind, count| -> Vec<String> {
            let step = |_| {
                now += Duration::from_secs(1);
                notices.tell(kind, "x".into(), now)
            };
            (0..count).filter_map(step).collect()
        };
        let first = told(&mut notices, Kind::Rate, 1000);
        assert_eq!(first[..31], vec!["x"; 31]);
        let behind = [
            "x; from here on each is not told",
            "x; 64 times by now",
            "x; 128 times by now",
            "x; 256 times by now",
            "x; 512 times by now",
        ];
        assert_eq!(first[31..], behind);
        // Another kind counts for itself; and that took more than a minute.
        assert_eq!(told(&mut notices, Kind::Other, 61).len(), 32);
        assert_eq!(told(&mut notices, Kind::Rate, 2), ["x", "x"]);
    }
}
