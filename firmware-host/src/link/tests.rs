//! A board on a pseudo-terminal, by hand, and what the link makes of it.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use mcedge_wire::{
    Body, Channel, Channels, Decoder, Descriptor, Element, MAX_FRAME, Record, Samples, State, Status, encode,
};
use serialport::{SerialPort, TTYPort};

use super::*;

/// The board's end of a pseudo-terminal.
struct Board {
    master: TTYPort,
    /// Keeps the other end open while the link has not opened it.
    _slave: TTYPort,
    path: PathBuf,
    heard: Decoder,
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
        Board { master, _slave: slave, path, heard: Decoder::new(), boot: 1 }
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
        let mut bytes = [0; 256];
        while Instant::now() < until {
            let count = self.master.read(&mut bytes).unwrap_or(0);
            let mut bytes = &bytes[..count];
            while let Some(record) = self.heard.next(&mut bytes) {
                if record.is_ok_and(|record| is_it(&record)) {
                    return;
                }
            }
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

fn open(address: Address) -> std::thread::JoinHandle<Result<Link, LinkError>> {
    std::thread::spawn(move || Link::open(&address, &LinkOptions::default(), Arc::default()))
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
            Ok(None) => std::thread::park_timeout(Duration::from_millis(5)),
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
