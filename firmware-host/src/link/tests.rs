//! A board on a pseudo-terminal, by hand, and what the link makes of it.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use mcedge_wire::{
    Body, Channel, Channels, Decoder, Descriptor, Element, MAX_FRAME, Prediction, Record, Samples, State,
    Status, Values, encode,
};
use serialport::{SerialPort, TTYPort};

mod strange;

use super::*;

/// The board's end of a pseudo-terminal.
struct Board {
    master: TTYPort,
    /// Keeps the other end open while the link has not opened it.
    _slave: TTYPort,
    path: PathBuf,
    heard: Decoder,
    /// Bytes that have been read and not heard.
    unheard: Vec<u8>,
    boot: u8,
}

const CHANNELS: [Channel<'static>; 2] =
    [Channel { name: "x", unit: "g", scale: 0.5 }, Channel { name: "y", unit: "g", scale: 2.0 }];
const DEADLINE: Duration = Duration::from_secs(20);

impl Board {
    fn new() -> Self {
        let (mut master, slave) = TTYPort::pair().unwrap();
        master.set_timeout(Duration::from_millis(1)).unwrap();
        let path = slave.name().unwrap().into();
        Board { master, _slave: slave, path, heard: Decoder::new(), unheard: Vec::new(), boot: 1 }
    }

    fn address(&self, query: &str) -> Address {
        format!("serial://{}{query}", self.path.display()).parse().unwrap()
    }

    fn send(&mut self, sequence: u32, time_us: u64, body: Body<'_>) {
        self.send_of(0, sequence, time_us, body);
    }

    fn send_of(&mut self, stream: u8, sequence: u32, time_us: u64, body: Body<'_>) {
        let record = Record { stream, boot: self.boot, sequence, time_us, body };
        let mut room = [0; MAX_FRAME];
        let frame = encode(&record, &mut room).unwrap();
        self.master.write_all(frame).unwrap();
    }

    fn describe(&mut self, sequence: u32) {
        let channels = Channels::Listed(&CHANNELS);
        let descriptor = Descriptor { name: "imu", rate_hz: 100.0, element: Element::I16, channels };
        self.send(sequence, u64::from(sequence) * 10_000, Body::Descriptor(descriptor));
    }

    /// Samples `[sequence, -sequence]`.
    fn samples(&mut self, sequence: u32, count: u32) {
        let numbers = (sequence..sequence + count).flat_map(|sample| [sample as i16, -(sample as i16)]);
        let data: Vec<u8> = numbers.flat_map(i16::to_le_bytes).collect();
        let span_us = (count - 1) * 10_000;
        let samples = Samples { span_us, element: Element::I16, channels: 2, data: &data };
        self.send(sequence, u64::from(sequence) * 10_000, Body::Samples(samples));
    }

    fn ended(&mut self, sequence: u32) {
        let status = Status { state: State::Ended, dropped: 0, received: 0, bad: 0 };
        self.send(sequence, u64::from(sequence) * 10_000, Body::Status(status));
    }

    /// Waits for a command that `is_it`.
    fn wait_for(&mut self, is_it: impl Fn(&Record<'_>) -> bool) {
        let until = Instant::now() + DEADLINE;
        let mut room = [0; 256];
        while Instant::now() < until {
            let mut bytes = &self.unheard[..];
            while let Some(record) = self.heard.next(&mut bytes) {
                if record.is_ok_and(|record| is_it(&record)) {
                    self.unheard = bytes.to_vec();
                    return;
                }
            }
            let count = self.master.read(&mut room).unwrap_or(0);
            self.unheard = room[..count].to_vec();
        }
        panic!("the command has not come");
    }

    /// Answers until it has been started.
    fn meet(&mut self) {
        self.wait_for(|record| record.body == Body::Describe);
        self.describe(0);
        self.wait_for(|record| record.body == Body::Start);
    }
}

fn open(address: Address) -> JoinHandle<Result<Link, LinkError>> {
    thread::spawn(move || Link::open(&address, &LinkOptions::default(), Arc::default()))
}

/// Everything up to the end, as text.
fn events(link: &mut Link) -> Vec<String> {
    let until = Instant::now() + DEADLINE;
    let mut events = Vec::new();
    while Instant::now() < until {
        match link.poll() {
            Ok(Some(Event::Sample(sample))) => {
                events.push(format!("{} {} {:?}", sample.sequence, sample.device_us, sample.values));
            }
            Ok(Some(Event::Gap(gap))) => events.push(format!("{:?} {:?}", gap.cause, gap.missing)),
            Ok(Some(Event::Notice(notice))) => events.push(notice),
            Ok(Some(Event::End)) => return events,
            Ok(None) => thread::park_timeout(Duration::from_millis(5)),
            Err(error) => {
                events.push(error.to_string());
                return events;
            }
        }
    }
    panic!("no end has come: {events:?}");
}

#[test]
fn samples_of_a_board_come_in_their_units_and_times() {
    let mut board = Board::new();
    let link = open(board.address(""));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    board.samples(0, 2);
    board.samples(2, 1);
    board.ended(3);
    assert_eq!(events(&mut link), ["0 0 [0.0, 0.0]", "1 10000 [0.5, -2.0]", "2 20000 [1.0, -4.0]"]);
    assert_eq!(link.stream().to_string(), "imu (0): x [g], y [g]");
    let counters = link.counters();
    assert_eq!(
        (counters.samples, counters.missing, counters.frames, counters.bad_frames.sum()),
        (3, 0, 4, 0)
    );
}

#[test]
fn what_is_lost_comes_twice_or_late_is_counted_in_samples() {
    let mut board = Board::new();
    let link = open(board.address(""));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    board.samples(2, 1); // 0 and 1 are lost
    board.master.write_all(b"\x05spoiled\0").unwrap();
    board.samples(5, 1); // 3 and 4 are lost
    board.samples(5, 1); // twice
    board.samples(4, 3); // late, twice, new
    board.ended(9); // 7 and 8 are lost
    let expected = [
        "Lost Some(2)",
        "2 20000 [1.0, -4.0]",
        "Lost Some(2)",
        "5 50000 [2.5, -10.0]",
        "6 60000 [3.0, -12.0]",
        "Lost Some(2)",
    ];
    assert_eq!(events(&mut link), expected);
    let Counters { samples, missing, duplicates, late, bad_frames, .. } = link.counters();
    assert_eq!((samples, missing, duplicates, late, bad_frames.sum()), (3, 6, 2, 1, 1));
    assert!(matches!(link.poll(), Ok(Some(Event::End))), "the end stays");
}

#[test]
fn a_board_that_starts_over_is_started_again() {
    let mut board = Board::new();
    let link = open(board.address(""));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    board.samples(0, 1);
    board.boot = 2;
    board.describe(0);
    board.wait_for(|record| record.body == Body::Start);
    board.samples(0, 1);
    board.ended(1);
    let over = "the board has started over";
    assert_eq!(events(&mut link), ["0 0 [0.0, 0.0]", over, "Restarted None", "0 0 [0.0, 0.0]"]);
    assert_eq!(link.counters().restarts, 1);
}

#[test]
fn samples_before_the_descriptor_are_used() {
    let mut board = Board::new();
    let link = open(board.address(""));
    board.wait_for(|record| record.body == Body::Describe);
    // It sends without being asked, and its descriptor comes at the second try.
    board.samples(0, 1);
    board.samples(1, 1);
    board.wait_for(|record| record.body == Body::Describe);
    board.describe(2);
    board.samples(2, 1);
    board.ended(3);
    let mut link = link.join().unwrap().unwrap();
    assert_eq!(events(&mut link), ["0 0 [0.0, 0.0]", "1 10000 [0.5, -2.0]", "2 20000 [1.0, -4.0]"]);
    assert_eq!(link.counters().missing, 0);
}

#[test]
fn a_port_that_comes_back_elsewhere_is_found_and_nothing_is_lost_uncounted() {
    let folder = std::env::temp_dir().join(format!("mcedge-link-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("board");
    let plug = |board: &Board| {
        let new = folder.join("new");
        symlink(&board.path, &new).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    let mut board = Board::new();
    plug(&board);
    let link = open(format!("serial://{}", path.display()).parse().unwrap());
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    let mut expected = Vec::new();
    let mut came = Vec::new();
    for time in 0..20 {
        let first = 5 * time;
        if time > 0 {
            // The board goes on counting without a port, and one frame is cut by the hangup.
            plug(&board);
            board.wait_for(|record| record.body == Body::Describe);
            board.describe(first);
            board.wait_for(|record| record.body == Body::Start);
            expected.push("Unplugged Some(3)".to_string());
        }
        board.samples(first, 1);
        board.samples(first + 1, 1);
        expected.extend([first, first + 1].map(|sample| sample.to_string()));
        let until = Instant::now() + DEADLINE;
        while !came.ends_with(&expected) && Instant::now() < until {
            match link.poll().unwrap() {
                Some(Event::Sample(sample)) => came.push(sample.sequence.to_string()),
                Some(Event::Gap(gap)) => came.push(format!("{:?} {:?}", gap.cause, gap.missing)),
                Some(Event::Notice(_)) => {}
                Some(Event::End) => panic!("an end"),
                None => thread::park_timeout(Duration::from_millis(5)),
            }
        }
        let before = link.bytes_read();
        board.master.write_all(b"\x09cut").unwrap();
        while link.bytes_read() == before && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        board = Board::new();
    }
    assert_eq!(came, expected);
    let counters = link.counters();
    assert_eq!((counters.samples, counters.missing, counters.reconnects), (40, 57, 19));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_end_of_a_port_is_the_end_where_it_is_not_waited_for() {
    let mut board = Board::new();
    let link = open(board.address("?reconnect=no"));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    board.samples(0, 1);
    while link.would_wait() {
        thread::park_timeout(Duration::from_millis(5));
    }
    drop(board);
    assert_eq!(events(&mut link), ["0 0 [0.0, 0.0]", "the port has gone"]);
}

#[test]
fn a_pseudo_terminal_that_has_gone_is_not_waited_for_by_its_number() {
    let mut board = Board::new();
    let link = open(board.address(""));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    let path = board.path.display().to_string();
    drop(board);
    let events = events(&mut link);
    assert_eq!(events[0], "the port has gone");
    assert!(events[1].starts_with(&format!("{path} is not waited for")), "{events:?}");
}

#[test]
fn a_stream_is_chosen_where_there_are_several() {
    let cases = [
        ("", Err("the board has several streams, expected a choice: ?stream= one of env (3), imu (0)")),
        ("?stream=imu", Ok(())),
        ("?stream=0", Ok(())),
        ("?stream=gps", Err("the board has no stream `gps`, expected one of env (3), imu (0)")),
    ];
    for (query, expected) in cases {
        let mut board = Board::new();
        let link = open(board.address(query));
        board.wait_for(|record| record.body == Body::Describe);
        let channels = Channels::Listed(&[Channel { name: "t", unit: "C", scale: 1.0 }]);
        let env = Descriptor { name: "env", rate_hz: 1.0, element: Element::F32, channels };
        board.send_of(3, 0, 0, Body::Descriptor(env));
        board.describe(0);
        let data = 20.0_f32.to_le_bytes();
        let one = Samples { span_us: 0, element: Element::F32, channels: 1, data: &data };
        board.send_of(3, 0, 0, Body::Samples(one));
        board.samples(0, 1);
        board.ended(1);
        let link = link.join().unwrap();
        match (link, expected) {
            (Ok(mut link), Ok(())) => assert_eq!(events(&mut link), ["0 0 [0.0, 0.0]"], "{query}"),
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected, "{query}"),
            (link, _) => panic!("{query}: {:?}", link.map(|link| link.stream().clone())),
        }
    }
}

#[test]
fn a_stream_may_change_its_rate_and_not_its_channels() {
    let mut board = Board::new();
    let link = open(board.address(""));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    let descriptor = |channels| Descriptor { name: "imu", rate_hz: 50.0, element: Element::I16, channels };
    board.send(0, 0, Body::Descriptor(descriptor(Channels::Listed(&CHANNELS))));
    board.samples(0, 1);
    board.send(1, 0, Body::Descriptor(descriptor(Channels::Listed(&CHANNELS[..1]))));
    let expected = [
        "the board's rate is 50 Hz now, 100 Hz before",
        "0 0 [0.0, 0.0]",
        "the board now sends imu (0): x [g], expected imu (0): x [g], y [g] as before",
    ];
    assert_eq!(events(&mut link), expected);
    assert_eq!(link.stream().rate_hz, 50.0);
}

#[test]
fn a_queue_that_is_full_drops_whole_frames_and_counts_their_samples() {
    let mut board = Board::new();
    let address = board.address("");
    let options = LinkOptions { queue_frames: 4, ..LinkOptions::default() };
    let link = thread::spawn(move || Link::open(&address, &options, Arc::default()));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    (0..20).for_each(|frame| board.samples(2 * frame, 2));
    board.ended(40);
    let until = Instant::now() + DEADLINE;
    while link.counters().frames < 22 && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(events(&mut link).last().unwrap(), "Lost Some(32)");
    let Counters { samples, missing, queue_overflows, .. } = link.counters();
    assert_eq!((samples, missing, queue_overflows), (8, 32, 32));
}

#[test]
fn a_board_that_does_not_read_stalls_nothing() {
    let mut board = Board::new();
    let link = open(board.address(""));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    let began = Instant::now();
    (0..1000).for_each(|sample| link.responder().predict(sample, 0, Some(0.5), &[1.0; 255]));
    board.samples(0, 1);
    board.ended(1);
    assert_eq!(events(&mut link), ["0 0 [0.0, 0.0]"]);
    let counters = link.counters();
    assert!(counters.predictions_dropped > 900, "{counters:?}");
    drop(link);
    assert!(began.elapsed() < DEADLINE);
}

#[test]
fn predictions_reach_the_board_before_the_link_goes() {
    let mut board = Board::new();
    let link = open(board.address(""));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    link.rate(50.0);
    link.responder().predict(7, 70, None, &[1.5, -2.5]);
    drop(link);
    board.wait_for(|record| record.body == Body::Rate(50.0) && record.stream == 0);
    let values = Values::Listed(&[1.5, -2.5]);
    let body = Body::Prediction(Prediction { score: None, values });
    board.wait_for(|record| *record == Record { stream: 0, boot: 0, sequence: 7, time_us: 70, body });
}

#[test]
fn a_board_of_another_version_is_an_error_that_names_both() {
    // Version 2, kind 1, and nothing else; its CRC is by Python's zlib.crc32.
    let mut board = Board::new();
    let link = open(board.address(""));
    board.wait_for(|record| record.body == Body::Describe);
    let [a, b, c, d] = 0x04e8_40eb_u32.to_le_bytes();
    board.master.write_all(&[7, 2, 1, a, b, c, d, 0]).unwrap();
    let error = link.join().unwrap().map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the board speaks version 2 of the protocol, expected version 1");
}

#[test]
fn a_port_is_one_programs_at_a_time() {
    let mut board = Board::new();
    let link = open(board.address(""));
    board.meet();
    let link = link.join().unwrap().unwrap();
    let error = open(board.address("")).join().unwrap().map(|_| ()).unwrap_err();
    let expected = format!("{} is open in another program", board.path.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert!(error.to_string().contains("this one"), "{error}");
    drop(link);
    // And another's again when it goes.
    let link = open(board.address(""));
    board.meet();
    link.join().unwrap().unwrap();
}

#[test]
fn what_comes_in_place_of_a_board_is_said() {
    let glance = |bytes: &[u8], records| {
        let mut glance = shared::Glance { records, ..Default::default() };
        glance.note(bytes);
        glance.instead(115_200)
    };
    assert_eq!(glance(b"", 0), "nothing has come: is the board running?");
    let text = glance(b"0.1,0.2\r\n0.3,0.4\r\n", 0);
    assert_eq!(text, "18 bytes have come that look like lines of text: --format csv reads those");
    let garbage = glance(&[0x80, 0xf8, 0, 1, 2, b'\n'], 0);
    assert_eq!(garbage, "6 bytes have come and no whole frame: is 115200 the board's baud rate?");
    assert_eq!(glance(&[1, 2, 3], 5), "5 good frames have come, and none says what the stream is");
}

#[test]
fn a_thread_that_panics_ends_the_link() {
    let inbox = LinkOptions::default().inbox();
    let fails = |_| || assert!(std::hint::black_box(false), "as a test wants it");
    let worker = Worker::start(inbox, fails).unwrap();
    let until = Instant::now() + DEADLINE;
    while worker.shared.incoming().end.is_none() && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(worker.shared.incoming().end, Some(Err(LinkError::Failed)));
}

#[test]
fn answers_to_a_board_that_has_gone_for_good_are_dropped() {
    let mut board = Board::new();
    let link = open(board.address("?reconnect=no"));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    let responder = link.responder();
    drop(board);
    events(&mut link);
    let began = Instant::now();
    while !link.worker.shared.outgoing().is_closed() {
        assert!(began.elapsed() < DEADLINE);
        thread::sleep(Duration::from_millis(1));
    }
    let before = link.counters().predictions_dropped;
    (0..5).for_each(|sample| responder.predict(sample, 0, None, &[1.0]));
    let began = Instant::now();
    responder.flush(2 * DEADLINE);
    assert!(began.elapsed() < DEADLINE, "there is nothing to wait for");
    assert_eq!(link.counters().predictions_dropped, before + 5);
}

#[test]
fn a_frame_that_is_too_long_and_cut_counts_as_cut() {
    let mut board = Board::new();
    let link = open(board.address("?reconnect=no"));
    board.meet();
    let mut link = link.join().unwrap().unwrap();
    let before = link.bytes_read();
    let overlong = vec![7; MAX_FRAME + 100];
    board.master.write_all(&overlong).unwrap();
    let until = Instant::now() + DEADLINE;
    while link.bytes_read() < before + overlong.len() as u64 && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    drop(board);
    events(&mut link);
    assert_eq!(link.counters().bad_frames, BadFrames { cut: 1, ..BadFrames::default() });
}
