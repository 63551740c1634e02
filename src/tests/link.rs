//! Boards on a line: a simulated one on a pseudo-terminal, and the runs that read it.

use std::io::Read as _;
use std::process::{Child, ChildStdout};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;

const PUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/pump-titans-grm");
/// How long anything here may take on a machine that others use.
const PATIENCE: Duration = Duration::from_secs(120);

fn path(name: &str) -> String {
    folder("link").join(name).to_str().unwrap().to_owned()
}

/// A recording for the pump's model that nobody measured: `rows` samples around its means.
fn recording(name: &str, rows: usize) -> String {
    let config: Value =
        serde_json::from_str(&fs::read_to_string(format!("{PUMP}/config.json")).unwrap()).unwrap();
    let list = |key: &str| config["input"][key].as_array().unwrap().clone();
    let header: Vec<String> = list("names").iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    let number = |key: &str, channel: usize| list(key)[channel].as_f64().unwrap();
    let columns: Vec<(f64, f64)> = (0..header.len()).map(|c| (number("mean", c), number("std", c))).collect();
    let row = |t: usize| {
        let cells = columns.iter().enumerate();
        let cells = cells.map(|(c, (mean, std))| (mean + std * ((t * (c + 2)) as f64 * 0.37).sin()) as f32);
        cells.map(|cell| cell.to_string()).collect::<Vec<_>>().join(",")
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    file(name, format!("{}\n{}\n", header.join(","), rows.join("\n")))
}

/// The recording without the rows `missing`.
fn without(name: &str, recording: &str, missing: impl Fn(usize) -> bool) -> String {
    let text = fs::read_to_string(recording).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    let kept = rows.lines().enumerate().filter(|(row, _)| !missing(*row)).map(|(_, line)| line);
    file(name, format!("{header}\n{}\n", kept.collect::<Vec<_>>().join("\n")))
}

/// A simulated board, which ends with this.
struct Board {
    child: Child,
    uri: String,
    ledger: String,
}

impl Board {
    /// `mcedge simulate` with a stable name.
    fn start(name: &str, args: &[&str]) -> Self {
        let (link, ledger) = (path(&format!("{name}.tty")), path(&format!("{name}.json")));
        let _ = fs::remove_file(&ledger);
        let own = ["simulate", "--port", "pty", "--link", &link, "--ledger", &ledger];
        let mut child =
            mcedge(&[&own, args].concat()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout: BufReader<ChildStdout> = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert!(line.starts_with("serial://"), "{line:?}");
        thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        Board { child, uri: format!("serial://{link}"), ledger }
    }

    /// What it has destroyed, when it has ended.
    fn ledger(&mut self) -> Value {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "the simulated board does not end");
            thread::sleep(Duration::from_millis(20));
        }
        serde_json::from_str(&fs::read_to_string(&self.ledger).unwrap()).unwrap()
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the pump's model on a board, token by token, and gives the raw outputs and what was said.
#[track_caller]
fn outputs(name: &str, input: &str, flags: &[&str]) -> (Vec<u8>, String) {
    let output = path(&format!("{name}.npy"));
    let args = ["run", PUMP, "--no-chunks", "--input", input, "--output", &output];
    let ran = run(&[&args, flags].concat());
    let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{name}: {stderr}");
    (fs::read(&output).unwrap(), stderr)
}

/// The number before `what` in the summary of a run.
#[track_caller]
fn counted(summary: &str, what: &str) -> u64 {
    let line = summary.lines().find(|line| line.contains(" samples came")).unwrap_or_default();
    let before = line.split(what).next().unwrap_or_default();
    let number = before.trim_end().rsplit([' ', '(', ':']).next().unwrap_or_default();
    number.parse().unwrap_or_else(|_| panic!("no number before {what:?} in {summary}"))
}

#[test]
fn a_board_gives_what_its_samples_give_from_a_file() {
    let recording = recording("board.csv", 1500);
    for (name, per_frame) in [("one", "1"), ("eight", "8")] {
        let mut board = Board::start(
            &format!("plain-{name}"),
            &["--input", &recording, "--rate", "1", "--speed", "0", "--samples-per-frame", per_frame],
        );
        let (found, said) = outputs(&format!("plain-{name}"), &board.uri, &[]);
        let (expected, _) = outputs("plain-file", &recording, &[]);
        assert!(found == expected, "{said}");
        assert_eq!((counted(&said, " samples came"), counted(&said, " missing")), (1500, 0), "{said}");
        assert_eq!(board.ledger()["destroyed"], 0);
    }
}

/// The rows that never came out whole, in ranges.
fn destroyed(ledger: &Value) -> Vec<std::ops::Range<usize>> {
    let ranges = ledger["destroyed_rows"].as_array().unwrap().iter();
    ranges.map(|range| range[0].as_u64().unwrap() as usize..range[1].as_u64().unwrap() as usize).collect()
}

/// Plays a recording with these faults at this speed, and holds the run against one on what has survived.
fn check_faults(name: &str, speed: &str, faults: &[&str]) -> (Value, String) {
    let recording = recording(&format!("{name}.csv"), 4000);
    let own = ["--input", recording.as_str(), "--rate", "1", "--speed", speed, "--samples-per-frame", "4"];
    let mut board = Board::start(name, &[&own, faults].concat());
    let (found, said) = outputs(name, &board.uri, &[]);
    let ledger = board.ledger();
    let (missing, rows) = (ledger["knowable"].as_u64().unwrap(), destroyed(&ledger).into_iter().flatten());
    let rows: Vec<usize> = rows.collect();
    assert!(!rows.is_empty(), "{name}: nothing was destroyed: {ledger}");
    let survived =
        without(&format!("{name}-survived.csv"), &recording, |row| rows.binary_search(&row).is_ok());
    let (expected, _) = outputs(&format!("{name}-file"), &survived, &[]);
    assert!(found == expected, "{name}: {said}{ledger}");
    assert_eq!(counted(&said, " missing"), missing, "{name}: {said}{ledger}");
    assert_eq!(counted(&said, " samples came"), 4000 - rows.len() as u64, "{name}: {said}{ledger}");
    (ledger, said)
}

#[test]
fn of_a_bad_cable_every_whole_sample_is_used_once() {
    for seed in ["1", "2", "3"] {
        let name = format!("bad-{seed}");
        let faults =
            ["--flip", "1e-4", "--lose", "1e-4", "--duplicate", "0.02", "--garbage", "1e-4", "--seed", seed];
        let (ledger, said) = check_faults(&name, "0", &faults);
        assert_eq!(counted(&said, " twice"), ledger["repeated"].as_u64().unwrap(), "{said}{ledger}");
    }
}

#[test]
fn a_stream_goes_on_after_being_unplugged_twenty_times() {
    let start = Instant::now();
    let (ledger, said) = check_faults("unplugged", "500", &["--unplug", "190:50ms"]);
    // How long the port was gone, and how long it took to see that it was back.
    let waits = said
        .lines()
        .filter_map(|line| line.split_once(" is back after ")?.1.strip_suffix(" s")?.parse().ok());
    let waits: Vec<f64> = waits.collect();
    println!("{} unplugs in {:?}, back after {waits:?} s", ledger["unplugs"], start.elapsed());
    assert_eq!(waits.len() as u64, ledger["unplugs"].as_u64().unwrap(), "{said}");
    assert!(waits.iter().all(|&wait| wait < 1.05), "{waits:?}");
    assert!(ledger["unplugs"].as_u64().unwrap() >= 20, "{ledger}");
    assert_eq!(counted(&said, " reconnects"), ledger["unplugs"].as_u64().unwrap(), "{said}");
}

#[test]
fn answers_go_back_to_the_board() {
    let recording = recording("answers.csv", 600);
    let mut board = Board::start("answers", &["--input", &recording, "--rate", "1", "--speed", "300"]);
    let (_, said) = outputs("answers", &board.uri, &["--answer"]);
    let ledger = board.ledger();
    assert_eq!(
        (ledger["predictions"].as_u64(), ledger["wrong_predictions"].as_u64()),
        (Some(600), Some(0)),
        "{said}"
    );
}

#[test]
fn a_gap_does_what_was_asked_for() {
    let recording = recording("gaps.csv", 1000);
    let start = |name: &str| {
        let own =
            ["--input", recording.as_str(), "--rate", "1", "--speed", "0", "--flip", "1e-4", "--seed", "5"];
        Board::start(name, &own)
    };
    let text = fs::read_to_string(&recording).unwrap();
    let (header, rows) = text.split_once('\n').unwrap();
    let rows: Vec<&str> = rows.lines().collect();
    let values = |bytes: &[u8]| bytes[128..].chunks(32).map(<[u8]>::to_vec).collect::<Vec<_>>();

    // Held: the last sample stands for each that is missing, and has no output.
    let mut board = start("hold");
    let (found, said) = outputs("hold", &board.uri, &["--on-gap", "hold"]);
    let missing = destroyed(&board.ledger());
    assert!(missing.len() > 2, "{missing:?}");
    assert!(missing[0].start > 0, "choose another seed: {missing:?}");
    let mut held = rows.clone();
    for gap in &missing {
        let last = rows[gap.start - 1];
        held[gap.clone()].fill(last);
    }
    let held = file("held.csv", format!("{header}\n{}\n", held.join("\n")));
    let (expected, _) = outputs("hold-file", &held, &[]);
    let is_missing = |row: &usize| missing.iter().any(|gap| gap.contains(row));
    let expected: Vec<_> = values(&expected)
        .into_iter()
        .enumerate()
        .filter(|(row, _)| !is_missing(row))
        .map(|(_, v)| v)
        .collect();
    assert!(values(&found) == expected, "{said}");

    // Reset: each stretch between two gaps is a stream of its own.
    let mut board = start("reset");
    let (found, said) = outputs("reset", &board.uri, &["--on-gap", "reset"]);
    let missing = destroyed(&board.ledger());
    let starts = [0].into_iter().chain(missing.iter().map(|gap| gap.end));
    let ends = missing.iter().map(|gap| gap.start).chain([1000]);
    let mut expected = Vec::new();
    for (start, end) in starts.zip(ends).filter(|(start, end)| start < end) {
        let part = file("stretch.csv", format!("{header}\n{}\n", rows[start..end].join("\n")));
        expected.extend(values(&outputs("stretch", &part, &[]).0));
    }
    assert!(values(&found) == expected, "{said}");

    let board = start("stop");
    let output = path("stop.npy");
    let args = ["run", PUMP, "--input", &board.uri, "--output", &output, "--on-gap", "stop"];
    check_fails(&args, 1, "missing, ");
}

#[test]
fn a_board_of_text_gives_what_its_lines_give_from_a_file() {
    let recording = recording("text.csv", 300);
    let own = ["--input", recording.as_str(), "--rate", "1", "--speed", "100", "--format", "csv"];
    let board = Board::start("text", &own);
    let output = path("text-board.npy");
    let uri = format!("{}?reconnect=no", board.uri);
    let args =
        ["run", PUMP, "--no-chunks", "--input", &uri, "--format", "csv", "--output", &output, "--any-rate"];
    let ran = run(&args);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{said}");
    let (expected, _) = outputs("text-file", &recording, &[]);
    assert!(fs::read(&output).unwrap() == expected, "{said}");
    assert!(said.contains("rows a second"), "{said}");
    assert!(said.contains("301 lines came; dropped 0 that may be cut, 0 too long, 0 headers"), "{said}");
}

#[test]
fn samples_at_another_rate_are_resampled_or_refused() {
    let recording = recording("rates.csv", 400);
    let board =
        |name: &str, rate: &str| Board::start(name, &["--input", &recording, "--rate", rate, "--speed", "0"]);
    let tokens = |name: &str, uri: &str, flags: &[&str]| {
        let (found, said) = outputs(name, uri, flags);
        ((found.len() - 128) / 32, said)
    };
    // Twice as many a second as the model takes: one of two is left, between the first and the last.
    let (found, said) = tokens("twice", &board("twice", "2").uri, &[]);
    assert!((199..=200).contains(&found), "{found}: {said}");
    assert!(said.contains("the board sends 2 Hz, the model takes 1 Hz"), "{said}");
    assert_eq!(tokens("any", &board("any", "2").uri, &["--any-rate"]).0, 400);
    let fast = board("fast", "100");
    let args = ["run", PUMP, "--input", &fast.uri, "--output", &path("fast.csv")];
    check_fails(&args, 1, "--any-rate takes samples as they come");
}

#[test]
fn a_run_on_a_board_goes_on_from_its_snapshot() {
    let recording = recording("resumed.csv", 1000);
    let mut board = Board::start("resumed", &["--input", &recording, "--rate", "400"]);
    let (output, state) = (path("resumed.csv"), path("resumed.state"));
    for old in [output.clone(), state.clone(), format!("{state}.previous")] {
        let _ = fs::remove_file(old);
    }
    let args = [
        "run",
        PUMP,
        "--any-rate",
        "--input",
        &board.uri,
        "--output",
        &output,
        "--state",
        &state,
        "--resume",
    ];
    let mut first = mcedge(&args).stderr(Stdio::piped()).spawn().unwrap();
    let lines = || fs::read_to_string(&output).unwrap_or_default().lines().count();
    let start = Instant::now();
    while lines() < 100 {
        assert!(start.elapsed() < PATIENCE, "no rows come");
        thread::sleep(Duration::from_millis(5));
    }
    let interrupted = Command::new("kill").args(["-TERM", &first.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert!(first.wait().unwrap().success());
    let before = lines();
    let second = run(&args);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.success(), "{said}");
    assert!(said.contains(&format!("behind row {}", before - 1)), "{before}: {said}");
    let rows = fs::read_to_string(&output).unwrap();
    let times = rows.lines().skip(1).map(|row| row.split(',').next().unwrap().parse::<f64>().unwrap());
    let times: Vec<f64> = times.collect();
    assert!(times.is_sorted(), "{said}");
    assert!(said.contains("or nobody read it"), "what came between the runs is a gap: {said}");
    // Rows of both runs, and of the board's samples at most those between the two are missing.
    assert!(times.len() > before && times.len() <= 1000, "{}: {said}", times.len());
    assert_eq!(board.ledger()["rows"], 1000);
}

#[test]
fn what_is_no_board_says_so() {
    let run = |uri: &str| ["run", PUMP, "--output", "-", "--input", uri].map(str::to_owned);
    let check = |uri: &str, code: i32, message: &str| {
        let args = run(uri);
        check_fails(&args.each_ref().map(String::as_str), code, message);
    };
    check("serial:///dev/not-there", 1, "there is no port");
    check("serial://by-id/nobody", 1, "there is no port");
    check("serial:///dev/ttyS9?bauds=9600", 1, "bauds");
    check("i2c:///dev/i2c-99?sensor=mpu6050&rate=100", 1, "i2c-99");
    check("i2c:///dev/i2c-1?sensor=thermometer&rate=100", 1, "thermometer");
    let model = ["run", TELEMETRY, "--output", "-", "--answer", "--input"];
    let file = format!("{TELEMETRY}/recording.csv");
    check_fails(&[&model[..], &[&file]].concat(), 2, "--answer");
    let of_gaps = ["run", TELEMETRY, "--output", "-", "--on-gap", "stop", "--input"];
    check_fails(&[&of_gaps[..], &[&file]].concat(), 2, "--on-gap");
}
