//! Runs that go on after kill -9 and give, byte for byte, what an undisturbed run gives.

use std::thread;
use std::time::{Duration, Instant};

use super::*;

fn path(name: &str) -> String {
    folder("state").join(name).to_str().unwrap().to_owned()
}

/// A file of this test's own, which is not there.
fn fresh(name: &str) -> String {
    let path = path(name);
    for name in [path.clone(), format!("{path}.previous"), format!("{path}.new")] {
        let _ = fs::remove_file(name);
    }
    path
}

/// The recording, `times` times.
fn long_recording(name: &str, times: usize) -> String {
    let recording = fs::read_to_string(format!("{TELEMETRY}/recording.csv")).unwrap();
    let (header, rows) = recording.split_once('\n').unwrap();
    file(name, format!("{header}\n{}", rows.repeat(times)))
}

/// Lines of text, of many lengths.
fn long_text(lines: usize) -> String {
    let line = |i: usize| format!("{i} {}\n", "the quick brown fox ".repeat(i * i % 7));
    (0..lines).map(line).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Runs `args` undisturbed to `outputs`, then again with kills at random moments, each time going on from the snapshot,
/// and compares.
///
/// `outputs` are a flag and a file each.
fn check_kills(name: &str, args: &[&str], outputs: &[(&str, &str)], kills: usize, seed: u64) {
    let to = |prefix: &str| -> Vec<String> {
        let flag =
            |(flag, file): &(&str, &str)| [(*flag).to_owned(), path(&format!("{name}-{prefix}-{file}"))];
        outputs.iter().flat_map(flag).collect()
    };
    let (undisturbed, killed) = (to("undisturbed"), to("killed"));
    let command = |outputs: &[String], flags: &[&str]| {
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        mcedge(&[&["run"], args, &outputs, flags].concat())
    };
    let start = Instant::now();
    assert!(command(&undisturbed, &["--quiet"]).status().unwrap().success());
    let time = start.elapsed();

    let state = fresh(&format!("{name}.state"));
    let flags = ["--state", state.as_str(), "--snapshot-every", "400", "--resume"];
    let (mut random, mut mid_run, mut resumed) = (Random(seed), 0, 0);
    let mut tried = 0;
    // How fast a machine is that others use changes while this runs: it goes on until enough kills have hit.
    while tried < kills || (resumed * 4 < kills && tried < 20 * kills) {
        tried += 1;
        // Most kills come while it opens or runs; a run from a snapshot has less to do each time.
        let mut child = command(&killed, &flags).stderr(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_micros(random.below(time.as_micros() as u64 / 2 + 1)));
        let had_ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || !had_ended, "{name}: {stderr}");
        mid_run += usize::from(!had_ended);
        resumed += usize::from(stderr.contains("goes on behind row") && !stderr.contains("behind row 0,"));
        if had_ended {
            // From the beginning once more: more moments to kill it at.
            fresh(&format!("{name}.state"));
        }
    }
    println!("{name}: {tried} kills, {mid_run} mid-run, {resumed} resumed from a snapshot; alone {time:?}");
    assert!(
        resumed > 0,
        "{name}: none of {tried} runs went on from a snapshot, {mid_run} were killed in time"
    );
    for _ in 0..2 {
        // The second has nothing to do.
        assert!(command(&killed, &flags).stderr(Stdio::null()).status().unwrap().success());
        for (found, expected) in killed.iter().zip(&undisturbed).skip(1).step_by(2) {
            assert!(
                fs::read(found).unwrap() == fs::read(expected).unwrap(),
                "{name}: {found} is not {expected}"
            );
        }
    }
}

#[test]
fn a_csv_goes_on_after_any_kill() {
    let input = long_recording("kill.csv", 3);
    check_kills("csv", &[TELEMETRY, "--input", &input], &[("--output", "out.csv")], 50, 1);
}

#[test]
fn lines_of_text_go_on_after_any_kill() {
    // The last line has no end, and is read again by each run that comes to it.
    let input = file("kill.log", long_text(400) + "last, without an end");
    check_kills("text", &[&byte_model(), "--input", &input], &[("--output", "out.csv")], 12, 2);
}

#[test]
fn several_inputs_go_on_after_any_kill() {
    let (one, two) = (long_recording("kill-one.csv", 1), file("kill-two.jsonl", jsonl(3000)));
    // Three of a batch of four: a backlog does not end with a round of the inputs, and it matters whose turn it is.
    let three = file("kill-three.jsonl", jsonl(5000));
    let args = [TELEMETRY, "--input", &one, "--input", &two, "--input", &three, "--batch", "4"];
    check_kills("three", &args, &[("--output", "out.jsonl")], 12, 3);
    let input = file("kill-streams.jsonl", jsonl(9000));
    let args = [TELEMETRY, "--input", &input, "--stream-column", "pump", "--batch", "3"];
    check_kills("streams", &args, &[("--output", "out.csv")], 8, 4);
}

#[test]
fn arrays_go_on_after_any_kill() {
    let recording = fs::read_to_string(format!("{TELEMETRY}/recording.csv")).unwrap();
    let numbers = recording.lines().skip(1).flat_map(|line| line.split(',').skip(1));
    let numbers: Vec<u8> = numbers.flat_map(|cell| cell.parse::<f32>().unwrap().to_le_bytes()).collect();
    let rows = numbers.len() / 40;
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, 10), }}");
    let input = [b"\x93NUMPY\x01\x00\x76\x00", format!("{header:<117}\n").as_bytes(), &numbers].concat();
    let input = file("kill.npy", input);
    let outputs = [("--output", "out.npy"), ("--gates", "gates.npy")];
    check_kills("npy", &[TELEMETRY, "--input", &input], &outputs, 12, 5);
}

/// A line of [`TELEMETRY`]'s channels for each row, of one of three pumps.
fn jsonl(rows: usize) -> String {
    let names: Vec<&str> = HEADER.split(',').map(str::trim).skip(1).collect();
    let row = |i: usize| {
        let cell = |(c, name): (usize, &&str)| format!("\"{name}\":{}", (i * (c + 3) % 17) as f32 / 17.0);
        let cells: Vec<String> = names.iter().enumerate().map(cell).collect();
        format!("{{\"time_s\":{i},\"pump\":\"nr {}\",{}}}\n", i * i % 3, cells.join(","))
    };
    (0..rows).map(row).collect()
}

/// A log that grows between runs, as cron has them, cut anywhere: single tokens do not depend on where a backlog ends.
#[test]
fn a_file_that_grows_goes_on() {
    let check = |name: &str, model: &str, content: &str| {
        let (input, output, alone) =
            (path(name), path(&format!("{name}.csv")), path(&format!("{name}-alone.csv")));
        let state = fresh(&format!("{name}.state"));
        let args = ["run", model, "--input", &input, "--no-chunks", "--quiet"];
        let mut length = content.len() / 3;
        let mut random = Random(9);
        loop {
            fs::write(&input, &content[..length]).unwrap();
            // A row that is cut may be no row yet: the run stops there, and a later one has all of it.
            let _ = run(&[&args[..], &["--output", &output, "--state", &state, "--resume"]].concat());
            if length == content.len() {
                break;
            }
            length = content.len().min(length + 1 + random.below(content.len() as u64 / 4) as usize);
        }
        succeeds(&[&args[..], &["--output", &alone]].concat());
        assert_eq!(fs::read_to_string(&output).unwrap(), fs::read_to_string(&alone).unwrap(), "{name}");
    };
    check("grows.csv", TELEMETRY, &format!("{HEADER}\n{}", format!("{ROW}\n").repeat(40)));
    check("grows.jsonl", TELEMETRY, &jsonl(60));
    check("grows.log", &byte_model(), &(long_text(60) + "no end"));
    check("grows.bin", &byte_model(), &long_text(10));
}

/// Rows that take longer to read than to run, so that most runs are stopped while a backlog is gathered. A backlog that is
/// cut elsewhere shows where it leaves a token alone, which is stepped: after one stop in four, or so.
#[cfg(unix)]
#[test]
fn a_run_that_is_stopped_goes_on_byte_for_byte() {
    let junk = format!("{{\"junk\":[{}0],", "0,".repeat(2000));
    let input = file("stop.jsonl", jsonl(1600).replace('{', &junk));
    let (output, alone) = (path("stop.csv"), path("stop-alone.csv"));
    let start = Instant::now();
    succeeds(&["run", TELEMETRY, "--input", &input, "--output", &alone]);
    let (time, mut random) = (start.elapsed(), Random(6));
    for _ in 0..24 {
        let state = fresh("stop.state");
        let args = ["run", TELEMETRY, "--input", &input, "--output", &output, "--state", &state, "--resume"];
        let mut child = mcedge(&args).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_micros(random.below(time.as_micros() as u64)));
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        // Before it listens, it ends as any process does.
        child.wait().unwrap();
        succeeds(&args);
        assert!(fs::read(&output).unwrap() == fs::read(&alone).unwrap());
    }
}

#[test]
fn a_row_that_cannot_be_used_is_met_again() {
    let bad = ROW.replace("0.1", "much");
    let content =
        format!("{HEADER}\n{}{bad}\n{}", format!("{ROW}\n").repeat(9), format!("{ROW}\n").repeat(9));
    let (input, output, state) = (file("met.csv", &content), path("met.csv"), fresh("met.state"));
    let args = ["run", TELEMETRY, "--input", &input, "--output", &output, "--state", &state, "--resume"];
    for _ in 0..2 {
        check_fails(&args, 1, "line 11: column `cpu_user`");
        assert_eq!(fs::read_to_string(&output).unwrap().lines().count(), 10);
    }
    succeeds(&[&args[..], &["--on-bad", "skip"]].concat());
    let output = fs::read_to_string(&output).unwrap();
    assert_eq!(output.lines().count(), 19);
}

#[test]
fn a_stream_goes_on_with_what_comes() {
    let state = fresh("stdin.state");
    let run = |rows: usize| {
        let args = ["run", TELEMETRY, "--input", "-", "--state", &state, "--resume"];
        let mut child = mcedge(&args);
        let mut child =
            child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        write!(child.stdin.take().unwrap(), "{HEADER}\n{}", format!("{ROW}\n").repeat(rows)).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        assert!(output.status.success());
        (text(output.stdout), text(output.stderr))
    };
    let (first, said) = run(5);
    assert_eq!(first.lines().count(), 6);
    assert!(said.contains("no snapshot in") && said.contains("from the beginning"), "{said}");
    assert!(said.contains("2 snapshots in"), "{said}");
    let (second, said) = run(3);
    assert!(said.contains("input standard input goes on with what comes, behind row 5 (0)"), "{said}");
    assert!(said.contains("8 tokens"), "{said}");
    // No second header, and an expectation of the first row.
    assert_eq!(second.lines().count(), 3);
    assert!(second.lines().all(|line| !line.contains(",,")), "{second}");
}

/// A run of 20 rows with its snapshot: its flags, and its files.
struct Ended {
    input: String,
    output: String,
    state: String,
}

impl Ended {
    fn new(name: &str) -> Self {
        let input = file(&format!("{name}.csv"), format!("{HEADER}\n{}", format!("{ROW}\n").repeat(20)));
        let ended =
            Self { input, output: path(&format!("{name}.out.csv")), state: fresh(&format!("{name}.state")) };
        succeeds(&ended.args(TELEMETRY));
        ended
    }

    fn args<'a>(&'a self, model: &'a str) -> Vec<&'a str> {
        let Self { input, output, state } = self;
        vec!["run", model, "--input", input, "--output", output, "--state", state, "--snapshot-every", "5"]
    }

    /// Going on fails, says why, and leaves output and snapshot as they were.
    #[track_caller]
    fn fails(&self, flags: &[&str], code: i32, message: &str) {
        let read = || (fs::read(&self.output).ok(), fs::read(&self.state).ok());
        let before = read();
        check_fails(&[&self.args(TELEMETRY)[..], flags].concat(), code, message);
        assert!(read() == before, "{message}: something has changed");
    }
}

#[test]
fn what_cannot_be_gone_on_with_says_why() {
    let ended = Ended::new("errors");
    let (input, output) = (fs::read(&ended.input).unwrap(), fs::read(&ended.output).unwrap());
    ended.fails(&[], 2, "is there already: --resume goes on from it; to start anew, remove ");
    let resume = |message: &str| ended.fails(&["--resume"], 1, message);

    let other = |flags: &[&str], message: &str| ended.fails(&[&["--resume"], flags].concat(), 1, message);
    other(&["--capacity", "3"], "the snapshot is of model `host-telemetry-linear-ssc` (its files: ");
    other(&["--batch", "2"], "the snapshot is of 1 stream, expected 2 streams");
    other(&["--output-format", "jsonl"], "has rows of ");
    let columns = "cpu_user,cpu_system,cpu_iowait,memory_used,disk_read,disk_write,net_received,net_sent,context_switches";
    let with = |flags: &[&str], more: &str, message: &str| {
        let columns = format!("{columns},{more}");
        other(&[flags, &["--columns", &columns]].concat(), message);
    };
    with(
        &["--time-column", "load1"],
        "time_s",
        "is read with the time in column `load1`, in the snapshot `time_s`",
    );
    with(&[], "load1", "is read with channel 3 in column `memory_used`, in the snapshot `load1`");
    let log = file("errors.log", "text\n");
    let model = byte_model();
    let args =
        ["run", &model, "--input", &log, "--output", &ended.output, "--state", &ended.state, "--resume"];
    check_fails(&args, 1, "the snapshot is of model `host-telemetry-linear-ssc`");
    let to_stdout = ["run", TELEMETRY, "--input", &ended.input, "--state", &ended.state, "--resume"];
    check_fails(&to_stdout, 1, "output -: is a stream, the snapshot is of a file with ");
    let from_stdin = ["run", TELEMETRY, "--input", "-", "--state", &ended.state, "--resume"];
    check_fails(&from_stdin, 1, "input standard input: is a stream, the snapshot is of a file");

    fs::write(&ended.input, &input[..input.len() - 5]).unwrap();
    let (short, long) = (input.len() - 5, input.len());
    resume(&format!("has become shorter: {short} bytes, the snapshot has read {long} of it"));
    let mut rewritten = input.clone();
    rewritten[long - 3] ^= 1;
    fs::write(&ended.input, rewritten).unwrap();
    resume(&format!("has changed: the snapshot has read up to byte {long}, and its first {long} bytes"));
    fs::remove_file(&ended.input).unwrap();
    resume("errors.csv: No such file");
    fs::write(&ended.input, &input).unwrap();

    // A file of another run.
    for at in [1, output.len() - 2] {
        let mut other = output.clone();
        other[at] ^= 1;
        fs::write(&ended.output, [&other[..], b"more"].concat()).unwrap();
        resume("errors.out.csv: is not what the snapshot has written: the ");
    }
    fs::write(&ended.output, &output[..output.len() - 1]).unwrap();
    let (short, long) = (output.len() - 1, output.len());
    resume(&format!("has become shorter: {short} bytes, the snapshot has written {long}"));
    fs::remove_file(&ended.output).unwrap();
    resume("errors.out.csv: No such file");
    // Rows behind the snapshot come again.
    fs::write(&ended.output, [&output[..], b"half a row"].concat()).unwrap();
    succeeds(&[&ended.args(TELEMETRY)[..], &["--resume"]].concat());
    assert!(fs::read(&ended.output).unwrap() == output);

    let usage = |flags: &[&str], message: &str| {
        check_fails(&[&["run", TELEMETRY, "--input", &ended.input], flags].concat(), 2, message);
    };
    usage(&["--resume"], "--state");
    usage(&["--snapshot-every", "5"], "--state");
    usage(&["--state", "unused", "--snapshot-every", "0"], "no count and no time");
    usage(&["--state", "unused", "--snapshot-every", "5 parsecs"], "no count and no time");
    // However it is written, and whether it is there or not.
    usage(&["--state", &ended.input], "is an input or an output");
    let (folder, name) = ended.input.rsplit_once('/').unwrap();
    let dotted = format!("{folder}/./../files/{name}");
    usage(&["--state", &dotted], "is an input or an output");
    let none = fresh("none");
    let csv = format!("{none}.csv");
    let by_uri = format!("file://{folder}/../state/none.csv");
    for (state, flag, file) in [
        (&csv, "--output", &csv),
        (&csv, "--output", &by_uri),
        (&csv, "--gates", &by_uri),
        (&none, "--output", &format!("{none}.new")),
        (&none, "--gates", &format!("{none}.previous")),
    ] {
        usage(&["--state", state, flag, file, "--output-format", "csv"], "is an input or an output");
        assert!(!Path::new(file).exists(), "{file}");
    }
}

/// What is told of a run is told of all of it, and that it goes on otherwise.
#[test]
fn what_is_counted_goes_on_and_a_change_is_told() {
    let huge = ROW.replace("0.1", "3e38");
    let rows = |rows: usize| format!("{HEADER}\n{ROW}\n{huge}\n{}", format!("{ROW}\n").repeat(rows));
    let (input, output, state) = (path("counted.csv"), path("counted.out.csv"), fresh("counted.state"));
    let go = |flags: &[&str]| {
        let args = ["run", TELEMETRY, "--input", &input, "--output", &output, "--state", &state, "--resume"];
        let ran = run(&[&args, flags].concat());
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "{said}");
        said
    };
    fs::write(&input, rows(5)).unwrap();
    assert!(go(&[]).contains("6 tokens; 1 without an answer"));
    fs::write(&input, rows(9)).unwrap();
    let said = go(&[]);
    assert!(said.contains("10 tokens; 1 without an answer") && !said.contains("warning"), "{said}");
    let said = go(&["--no-chunks"]);
    assert!(said.contains("many tokens at once, ") && said.contains("tokens one by one, "), "{said}");
    assert!(said.contains("what follows is not bit for bit"), "{said}");
    assert!(go(&["--no-chunks", "--max-norm", "1e9"]).contains("--max-norm 1000000000: what follows"));
}

#[test]
fn a_damaged_generation_gives_way_to_the_one_before_it() {
    let ended = Ended::new("damaged");
    let output = fs::read(&ended.output).unwrap();
    fs::write(&ended.input, format!("{HEADER}\n{}", format!("{ROW}\n").repeat(30))).unwrap();
    let args = [&ended.args(TELEMETRY)[..], &["--resume"]].concat();
    succeeds(&args);
    let (bytes, previous) = (fs::read(&ended.output).unwrap(), format!("{}.previous", ended.state));
    assert!(bytes.starts_with(&output) && bytes.len() > output.len());
    let resume = |message: &str| {
        let output = run(&args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && stderr.contains(message), "{stderr}");
        assert!(stderr.contains("warning") && stderr.contains("goes on from"), "{stderr}");
        assert!(fs::read(&ended.output).unwrap() == bytes);
    };
    let damage = |path: &str| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(path, bytes).unwrap();
    };
    damage(&ended.state);
    resume("is damaged: the checksum of section `stream 0` is ");
    let mut versioned = fs::read(&ended.state).unwrap();
    versioned[8] = 7;
    fs::write(&ended.state, versioned).unwrap();
    resume("is damaged: the checksum of the whole is ");
    fs::write(&ended.state, "not a snapshot").unwrap();
    resume("is no snapshot of mcedge: it begins with \"not a sn\"");
    fs::remove_file(&ended.state).unwrap();
    resume("No such file");
    damage(&ended.state);
    damage(&previous);
    ended.fails(&["--resume"], 1, "neither generation can be read");
    fs::remove_file(&ended.state).unwrap();
    ended.fails(&[], 2, "damaged.state.previous is there already");
}

#[test]
fn a_snapshot_that_cannot_be_written_is_no_end_of_the_run() {
    let input = long_recording("nowhere.csv", 1);
    let (output, state) = (path("nowhere.csv"), path("no folder/state"));
    let args = ["run", TELEMETRY, "--input", &input, "--output", &output, "--state", &state];
    let ran = run(&[&args[..], &["--snapshot-every", "4000"]].concat());
    let stderr = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{stderr}");
    assert!(stderr.contains("warning: no snapshot at token ") && stderr.contains("cannot write"), "{stderr}");
    assert!(stderr.contains("0 snapshots in") && stderr.contains(", 3 failed"), "{stderr}");
    assert_eq!(fs::read_to_string(&output).unwrap().lines().count(), 8586);
}

/// A file whose last line has no end has been read long ago, and a stream goes on.
#[test]
fn half_a_line_is_no_end_of_the_snapshots() {
    let content = format!("{HEADER}\n{ROW}");
    let (input, output, state) = (file("half.csv", &content), path("half.csv"), fresh("half.state"));
    let args = ["run", TELEMETRY, "--input", &input, "--input", "-", "--output", &output, "--state", &state];
    let args = [&args[..], &["--snapshot-every", "4", "--resume"]].concat();
    let mut child = mcedge(&args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{HEADER}").unwrap();
    for rows in [5, 10, 15] {
        write!(stdin, "{}", format!("{ROW}\n").repeat(5)).unwrap();
        let start = Instant::now();
        while fs::read_to_string(&output).map_or(0, |rows| rows.lines().count()) < rows + 2 {
            assert!(start.elapsed() < Duration::from_secs(60), "{rows} rows are not there");
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(150));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = || {
        let output = run(&args);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    fs::write(&input, format!("{content}5\n{ROW}\n")).unwrap();
    let (succeeded, said) = resumed();
    let (short, long) = (content.len(), content.len() + ROW.len() + 3);
    assert!(
        !succeeded && said.contains(&format!("has grown: {long} bytes, the snapshot has read {short}")),
        "{said}"
    );
    fs::write(&input, &content).unwrap();
    let mut child = mcedge(&args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    write!(child.stdin.take().unwrap(), "{HEADER}\n{ROW}\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("half.csv goes on behind row 1 (0)"), "{said}");
    assert!(said.contains("standard input goes on with what comes, behind row 15 (0)"), "{said}");
}

/// What was answered cannot be read again, and is not taken back.
#[test]
fn rows_of_a_stream_outlive_a_kill() {
    let (csv, npy, state) = (path("live.csv"), path("live.npy"), fresh("live.state"));
    let check = |output: &str, every: &str| {
        fresh("live.state");
        let gates = path("live-gates.npy");
        let args = ["run", TELEMETRY, "--input", "-", "--output", output, "--gates", &gates];
        let args = [&args[..], &["--state", &state, "--snapshot-every", every, "--resume"]].concat();
        let mut child = mcedge(&args).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        write!(stdin, "{HEADER}\n{}", format!("{ROW}\n").repeat(7)).unwrap();
        let length = || fs::metadata(output).map_or(0, |metadata| metadata.len());
        let start = Instant::now();
        let (mut before, mut still) = (0, 0);
        while still < 10 {
            assert!(start.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(50));
            still = if before == length() && before > 200 { still + 1 } else { 0 };
            before = length();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let whole = fs::read(output).unwrap();
        fs::write(output, [&whole[..], b"1,2"].concat()).unwrap();
        let mut child = mcedge(&args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        write!(child.stdin.take().unwrap(), "{HEADER}\n{ROW}\n{ROW}\n").unwrap();
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        (whole, fs::read(output).unwrap())
    };
    for every in ["1h", "3"] {
        let (whole, found) = check(&csv, every);
        assert!(found.starts_with(&whole), "{}", String::from_utf8_lossy(&found));
        assert_eq!(String::from_utf8(found).unwrap().lines().count(), 1 + 7 + 2, "{every}");
        let (whole, found) = check(&npy, every);
        assert!(found[128..].starts_with(&whole[128..]));
        assert_eq!(found.len(), 128 + 9 * 40);
        assert!(String::from_utf8_lossy(&found[..128]).contains("(9, 10)"));
    }
}
