//! What a host reads of a simulated board, against what the board says that it sent. The reading is by the decoder of
//! `mcedge-wire`, which shares no code with the ledger's.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mcedge_wire::{ALL_STREAMS, Body, Decoder, MAX_FRAME, Prediction, Record, State, Status, Values, encode};

use super::*;
use crate::Channel;

/// No test takes as long on the slowest machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a host read, from one opening of the port to its hangup.
#[derive(Default)]
struct Heard {
    bytes: u64,
    bad: u64,
    cut: u64,
    /// Boot, sequence, values.
    samples: Vec<(u8, u32, Vec<f32>)>,
    times_us: Vec<u64>,
    has_ended: bool,
    openings: u32,
}

fn source(element: Element, channels: usize) -> Source {
    let channel = |at: usize| Channel { name: format!("c{at}"), unit: "V".into(), scale: 0.5 };
    let channels = (0..channels).map(channel).collect();
    Source { stream: 0, name: "sim".into(), rate_hz: 1000.0, has_any_rate: false, element, channels }
}

/// Rows that all differ, zeros among their bytes, and that each element holds exactly.
fn rows(count: u64, channels: usize) -> impl Iterator<Item = Vec<f32>> + Send + 'static {
    (0..count).map(move |row| (0..channels).map(|at| (row * 256 % 16_000) as f32 + at as f32 * 0.5).collect())
}

fn link(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("mcedge-sim-{name}-{}", std::process::id()))
}

fn open(path: &Path) -> File {
    let by = Instant::now() + DEADLINE;
    loop {
        match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path) {
            Ok(port) => return port,
            Err(error) => assert!(Instant::now() < by, "{}: {error}", path.display()),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn command(body: Body<'_>) -> Vec<u8> {
    let record = Record { stream: ALL_STREAMS, boot: 0, sequence: 0, time_us: 0, body };
    encode(&record, &mut [0; MAX_FRAME]).expect("a frame").to_vec()
}

/// A host that goes on until the board says that it has ended.
fn hear(path: &Path, answers: bool) -> Heard {
    let mut heard = Heard::default();
    let by = Instant::now() + DEADLINE;
    while !heard.has_ended {
        assert!(Instant::now() < by, "no end after {} samples", heard.samples.len());
        let mut port = open(path);
        heard.openings += 1;
        let hello = [vec![0], command(Body::Describe), command(Body::Start)].concat();
        if port.write_all(&hello).is_ok() {
            read(&mut port, &mut heard, answers);
        }
    }
    heard
}

fn read(port: &mut File, heard: &mut Heard, answers: bool) {
    let (mut decoder, mut room) = (<Decoder>::new(), [0; 1 << 14]);
    while let Ok(count @ 1..) = port.read(&mut room) {
        let mut bytes = &room[..count];
        heard.bytes += count as u64;
        while let Some(record) = decoder.next(&mut bytes) {
            let Ok(Record { boot, sequence, time_us, body, .. }) = record else {
                heard.bad += 1;
                continue;
            };
            match body {
                Body::Samples(samples) => {
                    let numbers: Vec<f32> = samples.numbers().map(|number| number * 0.5).collect();
                    for (at, row) in numbers.chunks(usize::from(samples.channels)).enumerate() {
                        heard.samples.push((boot, sequence + at as u32, row.to_vec()));
                        heard.times_us.push(time_us + samples.offset_us(at));
                        if answers {
                            let (time_us, values) = (time_us + samples.offset_us(at), Values::Listed(row));
                            let body = Body::Prediction(Prediction { score: Some(0.5), values });
                            let answer =
                                Record { stream: 0, boot: 0, sequence: sequence + at as u32, time_us, body };
                            port.write_all(encode(&answer, &mut [0; MAX_FRAME]).expect("a frame"))
                                .expect("room");
                        }
                    }
                }
                // It has started over, and waits.
                Body::Descriptor(_) | Body::Status(Status { state: State::Stopped, .. }) => {
                    // A port that has gone is told by the next read.
                    let _ = port.write_all(&command(Body::Start));
                }
                Body::Status(status) => heard.has_ended |= status.state == State::Ended,
                _ => {}
            }
        }
        // The rest of what was sent is read, so that both sides have seen the same bytes.
        if heard.has_ended && bytes.is_empty() && count < room.len() {
            return;
        }
    }
    heard.cut += u64::from(decoder.pending() > 0);
}

fn play(
    name: &str,
    source: Source,
    rows: impl Iterator<Item = Vec<f32>> + Send + 'static,
    options: SimOptions,
) -> (Heard, Ledger) {
    let link = link(name);
    let options = SimOptions { link: Some(link.clone()), ..options };
    let simulator = Simulator::new(source, rows, options).expect("a simulator");
    let board = thread::spawn(move || simulator.run(&AtomicBool::new(false)));
    let heard = hear(&link, false);
    let ledger = board.join().expect("no panic").expect("no error");
    assert!(link.symlink_metadata().is_err(), "the link is gone with the board");
    (heard, ledger)
}

fn fast(samples: usize, faults: Faults) -> SimOptions {
    SimOptions { format: Format::Frames { samples }, speed: 0.0, faults, ..SimOptions::default() }
}

#[test]
fn without_faults_all_rows_come_in_their_order() {
    for (element, samples) in [(Element::I16, 1), (Element::I32, 7), (Element::F32, 16)] {
        let (heard, ledger) =
            play("whole", source(element, 3), rows(1000, 3), fast(samples, Faults::default()));
        let expected: Vec<_> = rows(1000, 3).zip(0..).map(|(row, sequence)| (1, sequence, row)).collect();
        assert_eq!(heard.samples, expected);
        let times: Vec<u64> = (0..1000).map(|sample| sample * 1000).collect();
        assert_eq!(heard.times_us, times);
        assert_eq!((heard.bad, heard.openings), (0, 1));
        assert_eq!((ledger.rows, ledger.destroyed, ledger.bad_frames), (1000, 0, 0));
    }
}

/// Plays with `faults`, and holds the ledger against what a host has read.
fn check(name: &str, count: u64, samples: usize, faults: Faults) -> Ledger {
    let all: Vec<Vec<f32>> = rows(count, 2).collect();
    let (heard, ledger) = play(name, source(Element::I16, 2), rows(count, 2), fast(samples, faults));
    assert_eq!(ledger.rows, count, "{name}: all rows are played");
    let mut is_whole = vec![false; all.len()];
    let mut repeated = 0;
    let mut boot = 0;
    for (number, sequence, values) in &heard.samples {
        while ledger.boots[boot].boot != *number {
            boot += 1;
        }
        let row = (ledger.boots[boot].first_row + u64::from(*sequence)) as usize;
        assert_eq!(*values, all[row], "{name}: row {row} has its own values");
        repeated += u64::from(std::mem::replace(&mut is_whole[row], true));
    }
    let mut is_intact = vec![true; all.len()];
    for range in &ledger.ranges {
        is_intact[range.start as usize..range.end as usize].fill(false);
    }
    let other: Vec<usize> = (0..all.len()).filter(|&row| is_intact[row] != is_whole[row]).collect();
    assert!(other.is_empty(), "{name}: the ledger says another thing of rows {other:?}: {ledger}");
    assert_eq!(ledger.destroyed, is_whole.iter().filter(|&&is_whole| !is_whole).count() as u64, "{name}");
    assert_eq!(ledger.destroyed, ledger.boots.iter().map(|boot| boot.destroyed).sum::<u64>(), "{name}");
    assert_eq!(ledger.repeated, repeated, "{name}: repeated");
    assert_eq!(ledger.bad_frames, heard.bad, "{name}: bad frames");
    assert_eq!(ledger.cut_frames, heard.cut, "{name}: cut frames");
    assert_eq!(ledger.bytes, heard.bytes, "{name}: bytes");
    ledger
}

#[test]
fn the_ledger_is_what_a_host_misses() {
    let seed = 7;
    let faults = Faults { seed, ..Faults::default() };
    let every = |rows, ms| Some(Every { rows, time: Duration::from_millis(ms) });
    let ledger = check("flip", 5000, 4, Faults { flip: 1e-3, ..faults.clone() });
    assert!(ledger.destroyed > 0 && ledger.flips > 0);
    let ledger = check("lose", 5000, 3, Faults { lose: 1e-3, ..faults.clone() });
    assert!(ledger.destroyed > 0 && ledger.lost_bytes > 0);
    let ledger = check("duplicate", 2000, 3, Faults { duplicate: 0.1, ..faults.clone() });
    assert!(ledger.destroyed == 0 && ledger.repeated > 0);
    let ledger = check("garbage", 2000, 3, Faults { garbage: 0.1, ..faults.clone() });
    assert!(ledger.destroyed > 0 && ledger.bad_frames > 0);
    let ledger = check("oversized", 2000, 3, Faults { oversized: 0.1, ..faults.clone() });
    assert!(ledger.destroyed == 0 && ledger.bad_frames >= ledger.oversized && ledger.oversized > 0);
    let ledger = check("drop", 2000, 3, Faults { drop: 0.1, ..faults.clone() });
    assert!(ledger.destroyed == ledger.dropped && ledger.dropped > 0);
    let ledger = check("stall", 2000, 3, Faults { stall: every(500, 20), ..faults.clone() });
    assert!(ledger.destroyed == 0 && ledger.stalls == 3);
    let ledger = check("unplug", 2000, 3, Faults { unplug: every(500, 30), ..faults.clone() });
    // At 1000 rows a second, 30 ms are 30 rows.
    assert_eq!((ledger.unplugs, ledger.destroyed), (3, 90));
    let ledger = check("cut", 2000, 3, Faults { unplug: every(500, 30), cut: true, ..faults.clone() });
    assert_eq!((ledger.unplugs, ledger.destroyed), (3, 99));
    let ledger =
        check("power", 2000, 3, Faults { unplug: every(500, 30), power_cycle: true, ..faults.clone() });
    assert_eq!((ledger.unplugs, ledger.destroyed, ledger.boots.len()), (3, 0, 4));
    let ledger = check("reset", 2000, 3, Faults { reset: Some(300), ..faults.clone() });
    assert_eq!((ledger.destroyed, ledger.boots.len()), (0, 7));
    let all = Faults {
        flip: 2e-4,
        lose: 2e-4,
        duplicate: 0.02,
        garbage: 0.02,
        oversized: 0.02,
        drop: 0.01,
        stall: every(700, 10),
        unplug: every(900, 20),
        reset: Some(1100),
        jitter_us: 300,
        ..faults
    };
    for seed in 0..4 {
        let ledger = check("all", 6000, 5, Faults { seed, cut: seed % 2 == 0, ..all.clone() });
        assert!(ledger.knowable() <= ledger.destroyed);
    }
}

#[test]
fn a_seed_destroys_the_same_rows_again() {
    let faults = Faults { seed: 3, flip: 1e-3, lose: 1e-3, duplicate: 0.05, ..Faults::default() };
    let of =
        |faults: &Faults| play("seed", source(Element::F32, 2), rows(3000, 2), fast(4, faults.clone())).1;
    let (first, second) = (of(&faults), of(&faults));
    assert_eq!(first.ranges, second.ranges);
    assert_ne!(first.ranges, of(&Faults { seed: 4, ..faults }).ranges);
}

#[test]
fn lines_of_text_come_as_they_are() {
    for (format, header) in [(Format::Csv, "c0,c1\r\n"), (Format::EdgeImpulse, "")] {
        let options = SimOptions { format, speed: 0.0, ..SimOptions::default() };
        let simulator = Simulator::new(source(Element::F32, 2), rows(100, 2), options).expect("a simulator");
        let path = simulator.path().to_path_buf();
        let board = thread::spawn(move || simulator.run(&AtomicBool::new(false)));
        let (mut port, mut text, mut room) = (open(&path), Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = port.read(&mut room) {
            text.extend(&room[..count]);
        }
        let lines: String = rows(100, 2).map(|row| format!("{},{}\r\n", row[0], row[1])).collect();
        assert_eq!(String::from_utf8(text).expect("text"), format!("{header}{lines}"));
        let ledger = board.join().expect("no panic").expect("no error");
        assert_eq!((ledger.rows, ledger.destroyed, ledger.bad_frames), (100, 0, 0));
    }
}

#[test]
fn answers_are_held_against_the_samples() {
    let options = fast(4, Faults { jitter_us: 200, ..Faults::default() });
    let mut simulator = Simulator::new(source(Element::I16, 2), rows(500, 2), options).expect("a simulator");
    let answers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&answers);
    simulator.on_answer(move |answer| seen.lock().expect("no panic").push(answer.clone()));
    let path = simulator.path().to_path_buf();
    let board = thread::spawn(move || simulator.run(&AtomicBool::new(false)));
    hear(&path, true);
    let ledger = board.join().expect("no panic").expect("no error");
    let answers = answers.lock().expect("no panic");
    assert_eq!((ledger.predictions, ledger.wrong_predictions, answers.len()), (500, 0, 500));
    for (answer, row) in answers.iter().zip(rows(500, 2)) {
        assert_eq!((&answer.values, answer.score, answer.is_right), (&row, Some(0.5), true));
    }
}

#[test]
fn a_rate_paces_the_rows_and_a_stop_ends_them() {
    let simulator = Simulator::new(source(Element::I16, 2), rows(u64::MAX, 2), SimOptions::default())
        .expect("a simulator");
    let path = simulator.path().to_path_buf();
    let stop = Arc::new(AtomicBool::new(false));
    let board = thread::spawn({
        let stop = Arc::clone(&stop);
        move || simulator.run(&stop)
    });
    let mut port = open(&path);
    port.write_all(&[vec![0], command(Body::Start)].concat()).expect("room");
    let (began, mut room, mut bytes) = (Instant::now(), [0; 4096], 0);
    // Half a second's worth of frames of 16 + 8 + 4 + 4 bytes and two of stuffing.
    while bytes < 500 * 34 {
        bytes += port.read(&mut room).expect("bytes");
    }
    assert!(began.elapsed() >= Duration::from_millis(400), "took {:?}", began.elapsed());
    stop.store(true, Ordering::Relaxed);
    drop(port);
    let ledger = board.join().expect("no panic").expect("no error");
    assert!(ledger.rows >= 490, "{ledger}");
}

#[test]
fn what_cannot_be_is_told() {
    let of = |source, options| {
        Simulator::new(source, rows(1, 2), options).map(drop).expect_err("no board").to_string()
    };
    let options = SimOptions::default();
    assert!(of(source(Element::I16, 0), options.clone()).contains("0 channels, expected 1 to 32"));
    let many = SimOptions { format: Format::Frames { samples: 295 }, ..options.clone() };
    assert!(of(source(Element::I16, 2), many).contains("295 samples a frame, expected 1 to 294"));
    let taken = link("taken");
    std::fs::write(&taken, "").expect("a file");
    let text = of(source(Element::I16, 2), SimOptions { link: Some(taken.clone()), ..options });
    std::fs::remove_file(&taken).expect("still there");
    assert!(text.contains("taken"), "{text}");
}
