//! What the host's predictions must be.

use core::fmt;

use mcedge_board::Answer;

use crate::STREAM;
use crate::imu::{signal, taken};

/// Samples whose predictions may still come.
const KEPT: usize = 1024;
/// How far a sample's time may be off: the host knows the first and the last of a frame, and spaces the others evenly.
const TIME_US: u64 = 10_000;
const CHANNELS: usize = 6;

/// Counts predictions, and holds them to the samples that were sent: each answers one, later than the one before, at its
/// time, with finite values, always as many. `.ci/board` runs a model whose output is its input: such echoes are counted.
pub struct Checks {
    /// The last samples, by their numbers modulo `KEPT`; nothing where one was not taken.
    sent: [Option<Sent>; KEPT],
    /// The number of the next sample, and of the next one that may be answered.
    next: u32,
    answered: u32,
    values: Option<usize>,
    good: u32,
    bad: u32,
    echoes: u32,
}

/// When a sample was taken, and which of the signal's it was.
#[derive(Clone, Copy)]
struct Sent {
    time_us: u64,
    of_signal: u32,
}

impl Checks {
    pub const fn new() -> Self {
        Checks { sent: [None; KEPT], next: 0, answered: 0, values: None, good: 0, bad: 0, echoes: 0 }
    }

    /// Notes that samples up to `next` were due by this time, of which the last was taken.
    pub fn sent(&mut self, next: u32, time_us: u64) {
        while self.next != next {
            let number = self.next;
            self.next = number.wrapping_add(1);
            let of_signal = taken().wrapping_sub(1);
            self.sent[number as usize % KEPT] = (self.next == next).then_some(Sent { time_us, of_signal });
        }
    }

    pub fn check(&mut self, answer: &Answer<'_>) {
        let Some(sent) = self.sample_of(answer).filter(|sent| self.is_good(answer, sent)) else {
            self.bad += 1;
            return;
        };
        self.good += 1;
        self.answered = answer.sequence.wrapping_add(1);
        self.values = Some(answer.prediction.values.len());
        self.echoes += u32::from(is_echo(answer, signal(sent.of_signal)));
    }

    /// The sample that a prediction answers.
    fn sample_of(&self, answer: &Answer<'_>) -> Option<Sent> {
        let age = self.next.wrapping_sub(answer.sequence);
        let is_kept = (1..=KEPT as u32).contains(&age) && answer.stream == STREAM;
        self.sent[answer.sequence as usize % KEPT].filter(|_| is_kept)
    }

    fn is_good(&self, answer: &Answer<'_>, sent: &Sent) -> bool {
        let values = answer.prediction.values;
        let is_in_order = (answer.sequence.wrapping_sub(self.answered) as i32) >= 0;
        is_in_order
            && answer.time_us.abs_diff(sent.time_us) <= TIME_US
            && !values.is_empty()
            && self.values.is_none_or(|count| count == values.len())
            && values.iter().all(f32::is_finite)
            && answer.prediction.score.is_none_or(f32::is_finite)
    }
}

/// Whether the values are the sample's, in m/s² and rad/s, to a step of the sensor.
fn is_echo(answer: &Answer<'_>, signal: [f32; CHANNELS]) -> bool {
    let values = answer.prediction.values;
    values.len() == CHANNELS
        && values.iter().zip(signal).enumerate().all(|(axis, (value, signal))| {
            let (unit, step) = if axis < 3 { (9.80665, 1.0 / 8192.0) } else { (0.017_453_293, 1.0 / 65.5) };
            (value - signal * unit).abs() <= 1.5 * step * unit
        })
}

impl fmt::Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checks { next, good, bad, echoes, .. } = self;
        write!(f, "samples {next}, predictions: good {good}, bad {bad}, echoes {echoes}")
    }
}
