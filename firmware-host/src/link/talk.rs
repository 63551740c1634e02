//! What is said to a board, and when: who are you, begin.

use std::time::{Duration, Instant};

use mcedge_wire::{ALL_STREAMS, Body, Record, State};

use super::outbox::Outbox;
use crate::address::StreamName;

/// How far it has come with a board.
///
/// First it is asked what it is, until the descriptor of the stream has come; then it is started, until a sample comes or
/// it says that it runs. In this order: the descriptor says what the next sample's number is, so that a board which
/// waits to be started loses none uncounted.
pub struct Talk {
    wanted: Option<StreamName>,
    /// The number of the stream, once a descriptor has told.
    stream: Option<u8>,
    phase: Phase,
    /// When the next thing is to be said.
    due: Instant,
    boot: u8,
    sequence: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ask,
    Start,
    Listen,
}

/// What the link wants of the board, whenever it starts over.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    pub runs: bool,
    pub rate_hz: Option<f32>,
}

/// How often a board is asked that has not answered.
const ASK: Duration = Duration::from_secs(1);
/// A board that says nothing for so long is asked again: it may have started over, and wait.
const SILENCE: Duration = Duration::from_secs(5);

impl Talk {
    pub fn new(wanted: Option<StreamName>) -> Self {
        let stream = match &wanted {
            Some(StreamName::Id(id)) => Some(*id),
            _ => None,
        };
        Talk { wanted, stream, phase: Phase::Ask, due: Instant::now(), boot: 0, sequence: 0 }
    }

    /// Begins anew: the port has been opened.
    pub fn greet(&mut self) {
        (self.phase, self.due) = (Phase::Ask, Instant::now());
    }

    /// Says what is due, and gives how long nothing else is.
    pub fn say(&mut self, outbox: &mut Outbox, now: Instant) -> Duration {
        if now >= self.due {
            match self.phase {
                Phase::Ask | Phase::Listen => outbox.push(&command(Body::Describe)),
                Phase::Start => self.start(outbox),
            }
            self.due = now + if self.phase == Phase::Listen { SILENCE } else { ASK };
        }
        self.due - now
    }

    fn start(&mut self, outbox: &mut Outbox) {
        let Wishes { runs, rate_hz } = outbox.wishes;
        if let Some(rate_hz) = rate_hz {
            outbox
                .push(&Record { stream: self.stream.unwrap_or(ALL_STREAMS), ..command(Body::Rate(rate_hz)) });
        }
        if runs {
            outbox.push(&command(Body::Start));
        } else {
            self.phase = Phase::Listen;
        }
    }

    /// Hears what the board says.
    pub fn hear(&mut self, record: &Record<'_>, now: Instant) {
        if let Body::Descriptor(descriptor) = &record.body {
            let is_wanted = match &self.wanted {
                Some(StreamName::Name(name)) => descriptor.name == name,
                Some(StreamName::Id(id)) => *id == record.stream,
                None => self.stream.is_none_or(|stream| stream == record.stream),
            };
            if is_wanted {
                self.stream = Some(record.stream);
            }
        }
        if self.stream != Some(record.stream) {
            return;
        }
        let is_behind = (record.sequence.wrapping_sub(self.sequence) as i32) < 0;
        let has_restarted = record.boot != self.boot || is_behind;
        match &record.body {
            Body::Descriptor(_) if self.phase == Phase::Ask || has_restarted => {
                (self.phase, self.due) = (Phase::Start, now);
            }
            Body::Samples(_) => self.listen(now),
            Body::Status(status) => match status.state {
                State::Running | State::Ended => self.listen(now),
                // It may have started over, and the descriptor that said so may be lost.
                State::Stopped if self.phase == Phase::Listen => {
                    (self.phase, self.due) = (Phase::Start, now + ASK);
                }
                State::Stopped => {}
            },
            _ => {}
        }
        (self.boot, self.sequence) = (record.boot, record.sequence);
    }

    /// It runs. Before its descriptor has come it is still asked for that.
    fn listen(&mut self, now: Instant) {
        if self.phase != Phase::Ask {
            (self.phase, self.due) = (Phase::Listen, now + SILENCE);
        }
    }

    /// Whether a record may be of the stream: nothing says that it is of another.
    pub fn may_be_mine(&self, record: &Record<'_>) -> bool {
        self.stream.is_none_or(|stream| stream == record.stream)
    }
}

/// A command to all streams.
pub fn command(body: Body<'_>) -> Record<'_> {
    Record { stream: ALL_STREAMS, boot: 0, sequence: 0, time_us: 0, body }
}
