//! What comes over the line from a board, and what it does with what comes to it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use embedded_io::{ErrorKind, ErrorType, Write};
use mcedge_board::{Answer, Board, Error, Sensor, Stream};
use mcedge_wire::*;

/// A sensor whose reads are counted: read `n` gives `n` and `-n`, in units of 0.5, or fails.
struct Counter {
    channels: [Channel<'static>; 2],
    element: Element,
    reads: i32,
    fails: fn(i32) -> bool,
}

impl Counter {
    fn new(element: Element) -> Self {
        let channel = Channel { name: "count", unit: "1", scale: 0.5 };
        Counter {
            channels: [channel, Channel { name: "minus", ..channel }],
            element,
            reads: 0,
            fails: |_| false,
        }
    }
}

impl Sensor for Counter {
    fn name(&self) -> &str {
        "counter"
    }

    fn channels(&self) -> &[Channel<'_>] {
        &self.channels
    }

    fn element(&self) -> Element {
        self.element
    }

    fn set_rate(&mut self, rate_hz: f32) -> Result<f32, Error> {
        if rate_hz == 13.0 { Err(Error::Data { sensor: "counter" }) } else { Ok(rate_hz.min(1000.0)) }
    }

    fn read(&mut self, values: &mut [f32]) -> Result<(), Error> {
        self.reads += 1;
        if (self.fails)(self.reads) {
            return Err(Error::Data { sensor: "counter" });
        }
        values.copy_from_slice(&[self.reads as f32 * 0.5, self.reads as f32 * -0.5]);
        Ok(())
    }
}

/// A serial line; `refuses` says which writes fail, half of whose bytes get through.
#[derive(Clone, Default)]
struct Line {
    bytes: Rc<RefCell<Vec<u8>>>,
    refusals: Rc<RefCell<VecDeque<bool>>>,
}

impl ErrorType for Line {
    type Error = ErrorKind;
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        let refuses = self.refusals.borrow_mut().pop_front().unwrap_or(false);
        let length = if refuses { bytes.len() / 2 } else { bytes.len() };
        self.bytes.borrow_mut().extend_from_slice(&bytes[..length]);
        if refuses { Err(ErrorKind::TimedOut) } else { Ok(length) }
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

/// What a host has heard.
#[derive(Debug, Default)]
struct Heard {
    descriptors: Vec<(u32, f32)>,
    /// Number and value of each sample.
    samples: Vec<(u32, f32)>,
    times_us: Vec<u64>,
    /// Samples of each frame.
    frames: Vec<usize>,
    statuses: Vec<(u64, u32, Status)>,
    bad: u64,
}

impl Line {
    /// What has come since the last call.
    fn heard(&self) -> Heard {
        let (mut heard, mut decoder): (_, Decoder) = (Heard::default(), Decoder::new());
        let bytes = std::mem::take(&mut *self.bytes.borrow_mut());
        let mut rest = &bytes[..];
        while let Some(decoded) = decoder.next(&mut rest) {
            let Ok(record) = decoded else { continue };
            assert_eq!((record.stream, record.boot), (4, 77));
            match record.body {
                Body::Descriptor(descriptor) => {
                    assert_eq!((descriptor.name, descriptor.channels.len()), ("counter", 2));
                    heard.descriptors.push((record.sequence, descriptor.rate_hz));
                }
                Body::Samples(samples) => {
                    let numbers: Vec<_> = samples.numbers().collect();
                    heard.frames.push(samples.len());
                    let times_us =
                        (0..samples.len()).map(|sample| record.time_us + samples.offset_us(sample));
                    heard.times_us.extend(times_us);
                    for (number, sample) in numbers.chunks(2).zip(record.sequence..) {
                        assert_eq!(number[0], -number[1]);
                        heard.samples.push((sample, number[0]));
                    }
                }
                Body::Status(status) => heard.statuses.push((record.time_us, record.sequence, status)),
                other => panic!("a board says {other:?}"),
            }
        }
        heard.bad = decoder.counts().bad();
        heard
    }
}

fn command(stream: u8, body: Body<'_>) -> Vec<u8> {
    let record = Record { stream, boot: 0, sequence: 5, time_us: 6, body };
    encode(&record, &mut [0; MAX_FRAME]).expect("a frame").to_vec()
}

/// Runs `check` on a board at 100 Hz whose samples wait for 45 ms at most.
fn with_board(counter: &mut Counter, check: impl FnOnce(&mut Board<'_, '_, Line>, &Line)) {
    let line = Line::default();
    let mut streams = [Stream::new(counter, 4, 100.0, 45_000).expect("a sensor that is ready")];
    check(&mut Board::new(line.clone(), 77, &mut streams), &line);
}

fn nobody(answer: &Answer<'_>) {
    panic!("{answer:?}");
}

#[test]
fn a_board_says_what_it_has_and_waits_for_start() {
    with_board(&mut Counter::new(Element::I16), |board, line| {
        assert_eq!(board.poll(0), 1_000_000);
        assert_eq!(line.bytes.borrow()[0], 0, "what stood on the line before ends here");
        let heard = line.heard();
        assert_eq!((heard.descriptors, heard.samples), (vec![(0, 100.0)], vec![]));
        board.receive(&command(ALL_STREAMS, Body::Start), 500_000, nobody);
        assert!(board.poll(500_000) <= 510_000);
    });
}

#[test]
fn every_sample_is_sent_once_and_in_time() {
    for element in [Element::I16, Element::I32, Element::F32] {
        with_board(&mut Counter::new(element), |board, line| {
            board.receive(&command(4, Body::Start), 0, nobody);
            let mut now_us = 0;
            while now_us < 10_000_000 {
                now_us = board.poll(now_us).max(now_us + 1);
            }
            let heard = line.heard();
            assert_eq!(heard.bad, 0);
            for (i, &(sequence, number)) in heard.samples.iter().enumerate() {
                assert_eq!((sequence, number), (i as u32, i as f32 + 1.0), "{element:?}");
                assert!(heard.times_us[i].abs_diff(heard.times_us[0] + i as u64 * 10_000) < 10);
            }
            assert!((995..=1000).contains(&heard.samples.len()), "{}", heard.samples.len());
            // Samples 0, 10, 20, 30 and 40 ms after the first; one at 50 ms would be too late for it.
            assert_eq!(heard.frames.iter().max(), Some(&5));
            assert!(heard.frames.iter().filter(|&&samples| samples < 5).count() <= 10, "{:?}", heard.frames);
            assert_eq!(heard.statuses.len(), 9);
            let (_, sequence, status) = heard.statuses[8];
            assert_eq!(sequence, 901);
            assert_eq!(status, Status { state: State::Running, dropped: 0, received: 1, bad: 0 });
        });
    }
}

/// What was due is either sent or counted, and the numbers of what is sent are those of its times.
#[test]
fn samples_that_the_loop_missed_are_counted_as_dropped() {
    with_board(&mut Counter::new(Element::I16), |board, line| {
        board.receive(&command(4, Body::Start), 0, nobody);
        for now_us in [0, 10_000, 20_500, 55_000, 60_000, 99_999, 100_000, 1_000_000] {
            board.poll(now_us);
        }
        let heard = line.heard();
        let samples: Vec<_> = heard.samples.iter().map(|&(sequence, _)| sequence).collect();
        assert_eq!(samples, [0, 1, 2, 5, 6, 9, 10, 100]);
        let (_, sequence, status) = *heard.statuses.last().unwrap();
        assert_eq!((sequence, status.dropped), (101, 93));
    });
}

#[test]
fn a_frame_that_is_full_is_sent() {
    for (element, most) in [(Element::I16, 294), (Element::F32, 147)] {
        let (mut counter, line) = (Counter::new(element), Line::default());
        let mut streams = [Stream::new(&mut counter, 4, 1000.0, u32::MAX).unwrap()];
        streams[0].start();
        let mut board: Board<_> = Board::new(line.clone(), 77, &mut streams);
        (0..900).for_each(|sample| _ = board.poll(sample * 1000));
        let heard = line.heard();
        assert_eq!(heard.frames, vec![most; 900 / most]);
        assert!(heard.samples.iter().all(|&(sequence, number)| number == sequence as f32 + 1.0));
    }
}

/// A sample an hour, of which one comes almost an hour late: no record can span that.
#[test]
fn a_slow_stream_keeps_its_times() {
    const HOUR_US: u64 = 3_600_000_000;
    let (mut counter, line) = (Counter::new(Element::I16), Line::default());
    let mut streams = [Stream::new(&mut counter, 4, 1.0 / 3600.0, u32::MAX).unwrap()];
    streams[0].start();
    let mut board: Board<_> = Board::new(line.clone(), 77, &mut streams);
    for now_us in [0, 2 * HOUR_US - 1_000_000, 2 * HOUR_US, 3 * HOUR_US] {
        board.poll(now_us);
    }
    board.receive(&command(4, Body::Stop), 3 * HOUR_US, nobody);
    let heard = line.heard();
    assert_eq!(heard.samples.iter().map(|sample| sample.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(heard.times_us, [0, 2 * HOUR_US - 1_000_000, 2 * HOUR_US, 3 * HOUR_US]);
    assert_eq!(heard.bad, 0);
}

#[test]
fn a_sensor_that_fails_loses_its_sample_and_no_other() {
    let mut counter = Counter::new(Element::I16);
    counter.fails = |read| read % 7 == 3;
    with_board(&mut counter, |board, line| {
        board.receive(&command(4, Body::Start), 0, nobody);
        (0..100).for_each(|sample| _ = board.poll(sample * 10_000));
        board.receive(&command(4, Body::Stop), 1_000_000, nobody);
        let heard = line.heard();
        let expected: Vec<_> =
            (0..100).filter(|sample| sample % 7 != 2).map(|sample| (sample, sample as f32 + 1.0)).collect();
        assert_eq!(heard.samples, expected);
        let (_, sequence, status) = *heard.statuses.last().unwrap();
        assert_eq!(status, Status { state: State::Stopped, dropped: 14, received: 2, bad: 0 });
        assert_eq!(sequence, 100);
    });
}

/// Its power goes at read 5. When it is back it gives zeros until it is set up.
#[test]
fn a_sensor_that_was_without_power_is_set_up_before_it_is_read_again() {
    struct Weak {
        reads: u32,
        has_power: bool,
        is_ready: bool,
        set_ups: u32,
    }
    const CHANNELS: [Channel<'static>; 2] =
        [Channel { name: "count", unit: "1", scale: 1.0 }, Channel { name: "minus", unit: "1", scale: 1.0 }];
    impl Sensor for Weak {
        fn name(&self) -> &str {
            "counter"
        }
        fn channels(&self) -> &[Channel<'_>] {
            &CHANNELS
        }
        fn element(&self) -> Element {
            Element::I16
        }
        fn set_rate(&mut self, rate_hz: f32) -> Result<f32, Error> {
            self.set_ups += 1;
            // It has come back before the third time that it is set up anew.
            self.has_power |= self.set_ups == 4;
            self.is_ready = self.has_power;
            if self.has_power { Ok(rate_hz) } else { Err(Error::Data { sensor: "counter" }) }
        }
        fn read(&mut self, values: &mut [f32]) -> Result<(), Error> {
            self.reads += 1;
            if self.reads == 5 {
                (self.has_power, self.is_ready) = (false, false);
                return Err(Error::Data { sensor: "counter" });
            }
            values.copy_from_slice(if self.is_ready { &[1.0, -1.0] } else { &[0.0, 0.0] });
            Ok(())
        }
    }
    let mut sensor = Weak { reads: 0, has_power: true, is_ready: false, set_ups: 0 };
    let line = Line::default();
    let mut streams = [Stream::new(&mut sensor, 4, 100.0, 45_000).unwrap()];
    streams[0].start();
    let mut board: Board<_> = Board::new(line.clone(), 77, &mut streams);
    (0..400).for_each(|sample| _ = board.poll(sample * 10_000));
    board.receive(&command(4, Body::Stop), 4_000_000, nobody);
    let heard = line.heard();
    // Tried at once, and each second: samples 4, 104 and 204 are given up for it.
    let expected: Vec<_> = (0..4).chain(205..400).map(|sample| (sample, 1.0)).collect();
    assert_eq!(heard.samples, expected);
    assert_eq!(
        heard.statuses.last().map(|(_, sequence, status)| (*sequence, status.dropped)),
        Some((400, 201))
    );
    assert_eq!(sensor.set_ups, 4);
}

#[test]
fn a_line_that_fails_loses_whole_frames_and_counts_them() {
    with_board(&mut Counter::new(Element::I16), |board, line| {
        board.receive(&command(4, Body::Start), 0, nobody);
        board.poll(0);
        line.heard();
        // Every third write fails, with half of its bytes on the line.
        line.refusals.borrow_mut().extend((0..90).map(|write| write % 3 == 1));
        (1..=400).for_each(|sample| _ = board.poll(sample * 10_000));
        board.receive(&command(4, Body::Stop), 4_010_000, nobody);
        let heard = line.heard();
        let (_, sequence, status) = *heard.statuses.last().unwrap();
        assert_eq!(sequence, 401);
        assert!(status.dropped > 100, "{status:?}");
        assert_eq!(heard.samples.len() as u32 + status.dropped, sequence);
        assert!(heard.samples.iter().all(|&(sequence, number)| number == sequence as f32 + 1.0));
    });
}

#[test]
fn a_rate_is_answered_by_a_descriptor() {
    with_board(&mut Counter::new(Element::I16), |board, line| {
        board.receive(&command(4, Body::Start), 0, nobody);
        (0..10).for_each(|sample| _ = board.poll(sample * 10_000));
        board.receive(&command(ALL_STREAMS, Body::Rate(2000.0)), 90_500, nobody);
        (0..10).for_each(|sample| _ = board.poll(91_000 + sample * 1000));
        // The sensor cannot, and stays as it is.
        board.receive(&command(4, Body::Rate(13.0)), 100_500, nobody);
        board.poll(101_000);
        board.receive(&command(4, Body::Describe), 101_500, nobody);
        let heard = line.heard();
        assert_eq!(heard.descriptors, [(0, 100.0), (10, 1000.0), (20, 1000.0), (21, 1000.0)]);
        let expected: Vec<_> = (0..21).map(|sample| (sample, sample as f32 + 1.0)).collect();
        assert_eq!(heard.samples, expected);
        assert_eq!(heard.statuses.last().map(|status| status.0), Some(101_500));
        assert_eq!(board.streams()[0].dropped(), 0);
    });
}

#[test]
fn commands_come_in_any_pieces_and_what_is_none_is_counted() {
    let values = [0.5, -1.5];
    let prediction = Prediction { score: Some(3.0), values: Values::Listed(&values) };
    let mut stream = vec![1, 2, 3, 0];
    stream.extend(command(9, Body::Start));
    stream.extend(command(9, Body::Describe));
    stream.extend(command(4, Body::Prediction(prediction)));
    stream.extend(command(4, Body::Status(Status { state: State::Ended, dropped: 0, received: 0, bad: 0 })));
    stream.extend(vec![7; 1000]);
    stream.push(0);
    stream.extend(command(4, Body::Start));
    for length in 1..stream.len() {
        with_board(&mut Counter::new(Element::F32), |board, line| {
            board.poll(0);
            line.heard();
            let mut answers = 0;
            for piece in stream.chunks(length) {
                board.receive(piece, 1, |answer| {
                    assert_eq!(*answer, Answer { stream: 4, sequence: 5, time_us: 6, prediction });
                    answers += 1;
                });
            }
            assert_eq!(answers, 1);
            assert_eq!(board.commands(), (5, 2));
            let heard = line.heard();
            assert!(heard.descriptors.is_empty() && heard.statuses.is_empty(), "stream 9 is none of ours");
            board.poll(10);
            assert_eq!(board.streams()[0].sequence(), 1, "it was started");
        });
    }
}

#[test]
fn numbers_that_do_not_fit_end_at_the_bounds() {
    struct Extreme([f32; 4]);
    const CHANNELS: [Channel<'static>; 4] = [Channel { name: "x", unit: "g", scale: 0.001 }; 4];
    impl Sensor for Extreme {
        fn name(&self) -> &str {
            "extreme"
        }
        fn channels(&self) -> &[Channel<'_>] {
            &CHANNELS
        }
        fn element(&self) -> Element {
            Element::I16
        }
        fn set_rate(&mut self, rate_hz: f32) -> Result<f32, Error> {
            Ok(rate_hz)
        }
        fn read(&mut self, values: &mut [f32]) -> Result<(), Error> {
            values.copy_from_slice(&self.0);
            Ok(())
        }
    }
    for (values, expected) in [
        ([1e9, -1e9, f32::INFINITY, f32::NAN], [32767.0, -32768.0, 32767.0, 0.0]),
        ([0.0014, 0.0016, -0.0014, -0.0016], [1.0, 2.0, -1.0, -2.0]),
    ] {
        let (mut sensor, line) = (Extreme(values), Line::default());
        let mut streams = [Stream::new(&mut sensor, 0, 1.0, 0).unwrap()];
        streams[0].start();
        Board::<_>::new(line.clone(), 0, &mut streams).poll(0);
        let bytes = line.bytes.borrow();
        let (mut rest, mut decoder): (_, Decoder) = (&bytes[..], Decoder::new());
        decoder.next(&mut rest).unwrap().unwrap();
        let Some(Ok(Record { body: Body::Samples(samples), .. })) = decoder.next(&mut rest) else { panic!() };
        assert_eq!(samples.numbers().collect::<Vec<_>>(), expected);
    }
}
