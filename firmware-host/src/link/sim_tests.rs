//! The link on a simulated board, against what the board knows that it destroyed.

use std::collections::HashMap;

use super::*;
use crate::sim::{Every, Faults, Format, Ledger, SimOptions, Simulator, Source};

/// No test takes as long on the slowest machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a link gave.
#[derive(Default)]
struct Heard {
    /// How often each row came, by its number, which is its value.
    rows: HashMap<u64, u32>,
    /// What gaps told.
    missing: u64,
    restarts: u64,
    counters: Counters,
    /// From a sample to the next, each time that there was a hangup between.
    away: Vec<Duration>,
}

/// Plays so many rows with these faults, and reads them to the end.
fn play(name: &str, count: u64, options: SimOptions) -> (Heard, Ledger) {
    let path = std::env::temp_dir().join(format!("mcedge-link-{name}-{}", std::process::id()));
    let channel = |name: &str, scale| Channel { name: name.into(), unit: "V".into(), scale };
    let source = Source {
        stream: 7,
        name: "sim".into(),
        rate_hz: 1000.0,
        has_any_rate: false,
        element: mcedge_wire::Element::I32,
        channels: vec![channel("row", 1.0), channel("half", 0.5)],
    };
    let rows = (0..count).map(|row| vec![row as f32, row as f32 / 2.0]);
    let options = SimOptions { link: Some(path.clone()), ..options };
    let simulator = Simulator::new(source, rows, options).unwrap();
    let board = thread::spawn(move || simulator.run(&AtomicBool::new(false)));
    let address = format!("serial://{}", path.display()).parse().unwrap();
    let mut link = Link::open(&address, &LinkOptions::default(), Arc::default()).unwrap();
    let heard = hear(&mut link, count);
    drop(link);
    (heard, board.join().unwrap().unwrap())
}

fn hear(link: &mut Link, count: u64) -> Heard {
    let mut heard = Heard::default();
    let (by, mut last, mut reconnects) = (Instant::now() + DEADLINE, Instant::now(), 0);
    while Instant::now() < by {
        match link.poll().unwrap() {
            Some(Event::Sample(sample)) => {
                let [row, half] = *sample.values else { panic!("{sample:?}") };
                assert_eq!(half * 2.0, row);
                *heard.rows.entry(row as u64).or_default() += 1;
                let before = mem::replace(&mut last, Instant::now());
                let now = link.counters().reconnects;
                if now > mem::replace(&mut reconnects, now) {
                    heard.away.push(last - before);
                }
            }
            Some(Event::Gap(gap)) => {
                heard.missing += gap.missing.unwrap_or_default();
                heard.restarts += u64::from(gap.cause == GapCause::Restarted);
            }
            Some(Event::Notice(_)) => {}
            Some(Event::End) => {
                heard.counters = link.counters();
                return heard;
            }
            None => thread::park_timeout(Duration::from_millis(20)),
        }
    }
    panic!("no end: {} of {count} rows", heard.rows.len());
}

/// Every row that came out whole has been used, once, and what is missing is what was destroyed.
fn check(name: &str, count: u64, speed: f64, samples: usize, faults: Faults) -> (Heard, Ledger) {
    let options = SimOptions { format: Format::Frames { samples }, speed, faults, ..SimOptions::default() };
    let (heard, ledger) = play(name, count, options);
    let is_destroyed = |row: u64| ledger.ranges.iter().any(|range| range.contains(&row));
    for row in 0..count {
        let expected = u32::from(!is_destroyed(row));
        assert_eq!(
            heard.rows.get(&row).copied().unwrap_or_default(),
            expected,
            "{name}: row {row}: {ledger}"
        );
    }
    let Counters { samples, missing, duplicates, late, bad_frames, restarts, .. } = heard.counters;
    assert_eq!((samples, missing), (count - ledger.destroyed, ledger.knowable()), "{name}: {ledger}");
    assert_eq!((duplicates, late), (ledger.repeated, 0), "{name}: {ledger}");
    assert_eq!(bad_frames.sum(), ledger.bad_frames + ledger.cut_frames, "{name}: {bad_frames:?} {ledger}");
    assert_eq!(restarts, ledger.boots.len() as u64 - 1, "{name}");
    if restarts == 0 {
        assert_eq!(heard.missing, missing, "{name}: gaps tell all of it");
    }
    (heard, ledger)
}

fn every(rows: u64, ms: u64) -> Option<Every> {
    Some(Every { rows, time: Duration::from_millis(ms) })
}

#[test]
fn without_faults_every_row_comes() {
    for samples in [1, 16] {
        let (heard, _) = check("plain", 5_000, 0.0, samples, Faults::default());
        assert_eq!(heard.counters.samples, 5_000);
    }
}

#[test]
fn with_faults_every_whole_row_is_used_once_and_the_rest_is_missing() {
    for seed in 0..4 {
        let cable =
            Faults { seed, flip: 2e-4, lose: 2e-4, garbage: 0.01, oversized: 0.01, ..Faults::default() };
        let (_, ledger) = check("cable", 4_000, 0.0, 4, cable.clone());
        assert!(ledger.destroyed > 0 && ledger.bad_frames > 0, "{ledger}");
        let board = Faults { duplicate: 0.05, drop: 0.05, stall: every(1_000, 50), ..cable.clone() };
        let (heard, _) = check("board", 4_000, 0.0, 5, board.clone());
        assert!(heard.counters.dropped_by_board > 0 && heard.counters.duplicates > 0);
        let resets = Faults { reset: Some(700), ..board };
        let (heard, _) = check("resets", 4_000, 0.0, 3, resets);
        assert_eq!(heard.restarts, 5);
        let unplugs = Faults { unplug: every(900, 60), cut: true, ..cable };
        let (heard, ledger) = check("unplugs", 4_000, 10.0, 4, unplugs);
        assert_eq!(heard.counters.reconnects, ledger.unplugs);
        assert!(ledger.unplugs > 1 && ledger.cut_frames > 0, "{ledger}");
    }
}

#[test]
fn the_stream_goes_on_each_of_twenty_times_that_the_board_is_plugged_in_again() {
    // At 2,000 rows a second: out for 200 of each 1,000 rows, and back for the others.
    let out = Duration::from_millis(100);
    let faults = Faults { unplug: Some(Every { rows: 1_000, time: out }), ..Faults::default() };
    let (mut heard, ledger) = check("twenty", 20_900, 2.0, 2, faults);
    // A machine that is busy may miss one, and break the rule of a second now and then.
    heard.away.sort();
    assert!(ledger.unplugs == 20 && heard.away.len() >= 18, "{} {:?}", ledger.unplugs, heard.away);
    assert!(heard.away[15] < out + Duration::from_secs(1), "{:?}", heard.away);
}

#[test]
fn a_line_of_a_million_baud_that_never_rests_loses_nothing() {
    let options = SimOptions {
        format: Format::Frames { samples: 16 },
        speed: 0.0,
        baud: Some(1_000_000),
        ..SimOptions::default()
    };
    // About three seconds.
    let (heard, ledger) = play("mbaud", 30_000, options);
    assert_eq!((heard.counters.samples, heard.counters.missing, ledger.destroyed), (30_000, 0, 0));
}
