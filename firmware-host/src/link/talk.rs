//! What is said to a board, and when: who are you, begin.

use std::mem;
use std::time::{Duration, Instant};

use mcedge_wire::{ALL_STREAMS, Body, Record, State};

use super::outbox::Outbox;
use crate::address::StreamName;

/// How far it has come with a board.
///
/// First it is asked what it is, until the descriptor of the stream has come; then it is started, until a sample comes or
/// it says that it runs. In this order: the descriptor says what the next sample's number is, so that a board which
/// waits to be started loses none uncounted.
///
/// Anything that is said may be lost, and so may any answer: what has no answer is said again.
pub struct Talk {
    wanted: Option<StreamName>,
    /// The number of the stream, once a descriptor has told.
    stream: Option<u8>,
    phase: Phase,
    /// When the next thing is to be said.
    due: Instant,
    /// When it was asked last what it is.
    asked: Option<Instant>,
    /// The board's start whose descriptor has come.
    described: u8,
    boot: u8,
    sequence: u32,
    /// When the rate is said, or said again; nothing when a descriptor has come since it was.
    rate_due: Option<Instant>,
    /// The number of the wish for a rate that it is about.
    rate_wishes: u32,
    /// It runs, by what it said since this was looked at.
    runs: bool,
    /// When it may be told again to stop.
    stop_due: Option<Instant>,
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
    /// How often a rate has been wished for.
    pub rates: u32,
}

/// How often a board is asked that has not answered.
const ASK: Duration = Duration::from_secs(1);
/// How soon one is asked anew that has started over: each time, unless it does nothing else.
const ASK_ANEW: Duration = Duration::from_millis(100);
/// A board that says nothing for so long is asked again: it may have started over, and wait.
const SILENCE: Duration = Duration::from_secs(5);
/// How often any board is asked: it says once that a scale is another one, and that may be lost.
const RENEW: Duration = Duration::from_secs(60);

impl Talk {
    pub fn new(wanted: Option<StreamName>) -> Self {
        Talk {
            stream: number(wanted.as_ref()),
            wanted,
            phase: Phase::Ask,
            due: Instant::now(),
            asked: None,
            described: 0,
            boot: 0,
            sequence: 0,
            rate_due: None,
            rate_wishes: 0,
            runs: false,
            stop_due: None,
        }
    }

    /// Begins anew: the port has been opened, and what is behind it may have other streams.
    pub fn greet(&mut self) {
        self.stream = number(self.wanted.as_ref());
        (self.phase, self.due) = (Phase::Ask, Instant::now());
        (self.runs, self.stop_due) = (false, None);
    }

    /// Says what is due, and gives how long nothing else is.
    pub fn say(&mut self, outbox: &mut Outbox, now: Instant) -> Duration {
        let wishes = outbox.wishes;
        self.say_stop(outbox, now);
        if mem::replace(&mut self.rate_wishes, wishes.rates) != wishes.rates {
            // The link has said it already.
            self.rate_due = Some(now + ASK);
        }
        let is_known = self.phase != Phase::Ask;
        if is_known && self.rate_due.is_some_and(|due| now >= due) {
            self.rate_due = wishes.rate_hz.map(|_| now + ASK);
            if let Some(rate_hz) = wishes.rate_hz {
                let stream = self.stream.unwrap_or(ALL_STREAMS);
                outbox.push(&Record { stream, ..command(Body::Rate(rate_hz)) });
            }
        }
        if now >= self.due {
            match self.phase {
                Phase::Ask | Phase::Listen => {
                    self.asked = Some(now);
                    outbox.push(&command(Body::Describe));
                }
                Phase::Start if wishes.runs => outbox.push(&command(Body::Start)),
                Phase::Start => self.phase = Phase::Listen,
            }
            self.due = now + if self.phase == Phase::Listen { SILENCE } else { ASK };
        }
        let due = self.rate_due.filter(|_| is_known).map_or(self.due, |rate_due| self.due.min(rate_due));
        due - now
    }

    /// A board that runs and should not has not heard that.
    fn say_stop(&mut self, outbox: &mut Outbox, now: Instant) {
        let runs = mem::take(&mut self.runs);
        if runs && !outbox.wishes.runs && self.stop_due.is_none_or(|due| now >= due) {
            self.stop_due = Some(now + ASK);
            outbox.push(&command(Body::Stop));
        }
    }

    /// Hears what the board says.
    pub fn hear(&mut self, record: &Record<'_>, now: Instant) {
        if let Body::Descriptor(descriptor) = &record.body {
            let is_wanted = match &self.wanted {
                Some(StreamName::Name(name)) => descriptor.name == name,
                Some(StreamName::Id(id)) => *id == record.stream,
                // Where it has started over its one stream may have another number.
                None => self.stream.is_none_or(|stream| stream == record.stream) || record.boot != self.boot,
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
            Body::Descriptor(_) => {
                self.described = record.boot;
                if self.phase == Phase::Ask || has_restarted {
                    (self.phase, self.due) = (Phase::Start, now);
                    self.rate_due = Some(now);
                } else {
                    self.rate_due = None;
                }
            }
            Body::Samples(_) | Body::Status(_) if record.boot != self.described => self.ask(now),
            Body::Samples(_) => self.listen(now),
            Body::Status(status) => match status.state {
                State::Running => self.listen(now),
                State::Ended => self.listen_only(now),
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

    /// It has started over, and its descriptor has been lost.
    fn ask(&mut self, now: Instant) {
        if self.phase != Phase::Ask {
            self.phase = Phase::Ask;
            self.due = self.asked.map_or(now, |asked| now.max(asked + ASK_ANEW));
        }
    }

    /// It runs.
    fn listen(&mut self, now: Instant) {
        self.runs = true;
        self.listen_only(now);
    }

    /// Nothing is to be said, for a while. Before its descriptor has come it is still asked for that.
    fn listen_only(&mut self, now: Instant) {
        if self.phase != Phase::Ask {
            self.phase = Phase::Listen;
            let silence = now + SILENCE;
            self.due = self.asked.map_or(silence, |asked| silence.min(now.max(asked + RENEW)));
        }
    }

    /// Whether a record may be of the stream: nothing says that it is of another.
    pub fn may_be_mine(&self, record: &Record<'_>) -> bool {
        self.stream.is_none_or(|stream| stream == record.stream)
    }
}

/// The number of the stream, where it was chosen by that.
fn number(wanted: Option<&StreamName>) -> Option<u8> {
    match wanted {
        Some(StreamName::Id(id)) => Some(*id),
        _ => None,
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
                        Body::Stop => 'x',
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
        scene.descriptor(0, 2, 0, "imu");
        scene.samples(0, 2, 0);
        // Its descriptor was lost: it waits, and says so each second.
        for said in [".", "s."] {
            scene.status(2, 0, State::Stopped);
            assert_eq!(scene.said(1), said);
        }
    }

    #[test]
    fn a_board_whose_descriptor_is_lost_is_asked_for_it() {
        let mut scene = Scene::new(None);
        scene.descriptor(0, 1, 0, "imu");
        scene.samples(0, 1, 0);
        assert_eq!(scene.said(1), ".");
        // It has started over and sends by itself, or says that it runs.
        for boot in [2, 4] {
            for sequence in 0..3 {
                scene.samples(0, boot, sequence);
                assert_eq!(scene.said(1), "d.");
            }
            scene.descriptor(0, boot, 3, "imu");
            scene.samples(0, boot, 3);
            assert_eq!(scene.said(1), ".");
            scene.status(boot + 1, 4, State::Running);
            assert_eq!(scene.said(1), "d.");
            scene.descriptor(0, boot + 1, 4, "imu");
            assert_eq!(scene.said(1), "s.");
        }
    }

    #[test]
    fn a_board_that_runs_is_asked_once_a_minute_what_it_is() {
        let mut scene = Scene::new(None);
        scene.said(1);
        scene.descriptor(0, 1, 0, "imu");
        scene.said(1);
        let mut said = String::new();
        for sequence in 0..177 {
            scene.samples(0, 1, sequence);
            said += &scene.said(1);
        }
        assert_eq!(said.matches('d').count(), 2, "{said}");
    }

    #[test]
    fn a_rate_is_said_until_a_descriptor_answers() {
        let mut scene = Scene::new(None);
        scene.descriptor(0, 1, 0, "imu");
        assert_eq!(scene.said(1), "s.");
        scene.outbox.wishes = Wishes { rate_hz: Some(50.0), rates: 1, ..scene.outbox.wishes };
        for (sequence, said) in [".", "r.", "r.", "r."].into_iter().enumerate() {
            scene.samples(0, 1, sequence as u32);
            assert_eq!(scene.said(1), said);
        }
        scene.descriptor(0, 1, 4, "imu");
        scene.samples(0, 1, 4);
        assert_eq!(scene.said(3), "...");
        // One that stands still is told once.
        scene.outbox.wishes.runs = false;
        scene.descriptor(0, 2, 0, "imu");
        assert_eq!(scene.said(1), "r.");
        scene.descriptor(0, 2, 0, "imu");
        for _ in 0..6 {
            scene.status(2, 0, State::Stopped);
            assert_eq!(scene.said(1), ".");
        }
    }

    #[test]
    fn a_board_that_has_not_heard_that_it_is_to_stop_is_told_again() {
        let mut scene = Scene::new(None);
        scene.descriptor(0, 1, 0, "imu");
        assert_eq!(scene.said(1), "s.");
        scene.outbox.wishes.runs = false;
        for sequence in 0..3 {
            scene.samples(0, 1, sequence);
            scene.status(1, sequence + 1, State::Running);
            assert_eq!(scene.said(1), "x.");
        }
        for _ in 0..4 {
            scene.status(1, 3, State::Stopped);
            assert_eq!(scene.said(1), ".");
        }
    }

    #[test]
    fn a_stream_that_has_another_number_is_found_again() {
        for wanted in [None, Some("imu")] {
            let mut scene = Scene::new(wanted);
            scene.descriptor(0, 1, 0, "imu");
            scene.samples(0, 1, 0);
            scene.descriptor(4, 2, 0, "imu");
            assert_eq!(scene.said(1), "s.", "{wanted:?}");
            scene.samples(4, 2, 0);
            scene.talk.greet();
            scene.samples(6, 2, 1);
            scene.descriptor(6, 2, 2, "imu");
            scene.now = Instant::now() + Duration::from_secs(1000);
            assert_eq!(scene.said(1), "s.", "{wanted:?}");
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
