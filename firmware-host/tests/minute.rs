//! A minute of a line of 1 Mbaud that is never silent: nothing is lost.
//!
//! `cargo test -p mcedge-firmware-host --test minute -- --ignored --nocapture`
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use mcedge_firmware_host::sim::{Element, Format, SimOptions, Simulator, Source};
use mcedge_firmware_host::{Channel, Event, Link, LinkOptions};

const BAUD: u32 = 1_000_000;
const CHANNELS: u64 = 6;
const SAMPLES_PER_FRAME: usize = 20;
/// As many as a minute takes: a frame of 20 samples has 240 bytes of numbers and about 30 others, ten bits each.
const ROWS: u64 = 60 * (BAUD as u64 / 10) / 270 * SAMPLES_PER_FRAME as u64;

/// What sample `row` has of a channel, a whole number of 16 bits.
fn value(row: u64, channel: u64) -> i64 {
    ((row * 31 + channel * 7919) % 60_000) as i64 - 30_000
}

#[test]
#[ignore = "takes a minute"]
fn a_full_line_of_1_mbaud_loses_nothing_for_a_minute() {
    let channel = |at| Channel { name: format!("c{at}"), unit: "1".into(), scale: 1.0 };
    let source = Source {
        stream: 0,
        name: "minute".into(),
        rate_hz: ROWS as f32 / 60.0,
        has_any_rate: false,
        element: Element::I16,
        channels: (0..CHANNELS).map(channel).collect(),
    };
    let rows = (0..ROWS).map(|row| (0..CHANNELS).map(|channel| value(row, channel) as f32).collect());
    let format = Format::Frames { samples: SAMPLES_PER_FRAME };
    let options = SimOptions { format, speed: 0.0, baud: Some(BAUD), ..SimOptions::default() };
    let simulator = Simulator::new(source, rows, options).unwrap();
    let address = format!("serial://{}", simulator.path().display()).parse().unwrap();
    let board = thread::spawn(move || simulator.run(&AtomicBool::new(false)));

    let mut link = Link::open(&address, &LinkOptions::default(), Arc::default()).unwrap();
    let (began, mut sums, mut next) = (Instant::now(), [0; CHANNELS as usize], 0);
    loop {
        assert!(began.elapsed() < Duration::from_secs(300), "{:?}", link.counters());
        match link.poll().unwrap() {
            Some(Event::Sample(sample)) => {
                assert_eq!(u64::from(sample.sequence), next);
                sums.iter_mut().zip(sample.values).for_each(|(sum, &value)| *sum += value as i64);
                next += 1;
            }
            Some(Event::Gap(gap)) => panic!("{gap:?} before sample {next}"),
            Some(Event::End) => break,
            Some(Event::Notice(_)) => {}
            None => thread::park_timeout(Duration::from_millis(5)),
        }
    }
    let (seconds, counters) = (began.elapsed().as_secs_f64(), link.counters());
    drop(link);
    let ledger = board.join().unwrap().unwrap();
    let bytes_per_second = counters.bytes as f64 / seconds;
    println!(
        "{} bytes in {seconds:.2} s: {bytes_per_second:.0} a second, {:.1} % of the line; {next} samples in {} frames",
        counters.bytes,
        bytes_per_second * 1000.0 / f64::from(BAUD),
        counters.frames,
    );
    let expected: Vec<i64> =
        (0..CHANNELS).map(|channel| (0..ROWS).map(|row| value(row, channel)).sum()).collect();
    assert_eq!((next, &sums[..]), (ROWS, &expected[..]));
    assert_eq!((counters.samples, ledger.rows), (ROWS, ROWS));
    assert_eq!((counters.missing, counters.queue_overflows, counters.duplicates), (0, 0, 0));
}
