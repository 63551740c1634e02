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

#[cfg(test)]
mod tests {
    use mcedge_wire::{Channel, Channels, Decoder, Descriptor, Element, Samples, Status};

    use super::*;

    /// A talk, its clock, and what it says.
    struct Scene {
        talk: Talk,
        outbox: Outbox,
        now: Instant,
    }

    impl Scene {
        fn new(stream: Option<&str>) -> Self {
            let talk = Talk::new(stream.map(|name| name.parse().unwrap()));
            Scene { talk, outbox: Outbox::new(), now: Instant::now() + Duration::from_secs(100) }
        }

        /// What is said within so many seconds: the first letters of the commands, and dots for seconds.
        fn said(&mut self, seconds: u32) -> String {
            let mut said = String::new();
            for _ in 0..seconds {
                self.talk.say(&mut self.outbox, self.now);
                let bytes: Vec<u8> = self.outbox.first().to_vec();
                self.outbox.sent(bytes.len());
                let (mut decoder, mut bytes) = (Decoder::<256>::new(), &bytes[..]);
                while let Some(record) = decoder.next(&mut bytes) {
                    said.push(match record.unwrap().body {
                        Body::Describe => 'd',
                        Body::Start => 's',
                        Body::Rate(_) => 'r',
                        body => panic!("{body:?}"),
                    });
                }
                said.push('.');
                self.now += Duration::from_secs(1);
            }
            said
        }

        fn hear(&mut self, stream: u8, boot: u8, sequence: u32, body: Body<'_>) {
            self.talk.hear(&Record { stream, boot, sequence, time_us: 0, body }, self.now);
        }

        fn descriptor(&mut self, stream: u8, boot: u8, sequence: u32, name: &str) {
            let channels = Channels::Listed(&[Channel { name: "x", unit: "", scale: 1.0 }]);
            let body = Body::Descriptor(Descriptor { name, rate_hz: 1.0, element: Element::F32, channels });
            self.hear(stream, boot, sequence, body);
        }

        fn samples(&mut self, stream: u8, boot: u8, sequence: u32) {
            let samples = Samples { span_us: 0, element: Element::F32, channels: 1, data: &[0; 4] };
            self.hear(stream, boot, sequence, Body::Samples(samples));
        }

        fn status(&mut self, boot: u8, sequence: u32, state: State) {
            self.hear(0, boot, sequence, Body::Status(Status { state, dropped: 0, received: 0, bad: 0 }));
        }
    }

    #[test]
    fn a_board_is_asked_then_started_and_then_left_alone() {
        let mut scene = Scene::new(None);
        assert_eq!(scene.said(3), "d.d.d.");
        scene.descriptor(0, 1, 0, "imu");
        assert_eq!(scene.said(3), "s.s.s.", "a start may be lost");
        for sequence in 0..10 {
            scene.samples(0, 1, sequence);
            assert_eq!(scene.said(1), ".");
        }
        assert_eq!(scene.said(11), "....d.....d..", "and asked when it says nothing");
        scene.talk.greet();
        scene.now = Instant::now() + Duration::from_secs(1000);
        assert_eq!(scene.said(1), "d.", "and asked anew by another port");
    }

    #[test]
    fn a_board_that_runs_already_is_still_asked_what_it_is() {
        let mut scene = Scene::new(None);
        scene.samples(0, 1, 70);
        scene.status(1, 71, State::Running);
        assert_eq!(scene.said(2), "d.d.");
        scene.descriptor(0, 1, 72, "imu");
        assert_eq!(scene.said(1), "s.");
        scene.status(1, 72, State::Running);
        assert_eq!(scene.said(2), "..");
    }

    #[test]
    fn a_board_that_has_started_over_is_started_again_at_its_rate() {
        let mut scene = Scene::new(None);
        scene.outbox.wishes.rate_hz = Some(50.0);
        scene.descriptor(0, 1, 0, "imu");
        assert_eq!(scene.said(1), "rs.");
        scene.samples(0, 1, 0);
        // The answer to a rate is no new start.
        scene.descriptor(0, 1, 1, "imu");
        assert_eq!(scene.said(1), ".");
        scene.descriptor(0, 2, 0, "imu");
        assert_eq!(scene.said(1), "rs.");
        scene.samples(0, 2, 9);
        // One that cannot tell its starts.
        scene.descriptor(0, 2, 0, "imu");
        assert_eq!(scene.said(1), "rs.");
        scene.samples(0, 2, 0);
        // Its descriptor was lost: it waits, and says so each second.
        for said in [".", "rs."] {
            scene.status(2, 0, State::Stopped);
            assert_eq!(scene.said(1), said);
        }
    }

    #[test]
    fn a_board_that_was_stopped_stays_so() {
        let mut scene = Scene::new(None);
        scene.outbox.wishes.runs = false;
        scene.descriptor(0, 1, 0, "imu");
        for _ in 0..4 {
            scene.status(1, 0, State::Stopped);
            assert_eq!(scene.said(1), ".");
        }
    }

    #[test]
    fn another_streams_records_start_nothing() {
        for (wanted, id) in [("imu", 4), ("4", 4)] {
            let mut scene = Scene::new(Some(wanted));
            scene.descriptor(3, 1, 0, "env");
            scene.samples(3, 1, 0);
            assert_eq!(scene.said(2), "d.d.", "{wanted}");
            scene.descriptor(id, 1, 0, "imu");
            scene.samples(3, 1, 1);
            assert_eq!(scene.said(2), "s.s.", "{wanted}");
        }
    }
}
