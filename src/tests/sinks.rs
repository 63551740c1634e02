//! Outputs that are more than one file: rotated files and a broker's messages.

use std::thread;
use std::time::{Duration, Instant};

use super::sources::{Broker, Random, own, text};
use super::*;

const RECORDING: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/models/host-telemetry-linear-ssc/recording.csv");

/// The rows of a file and of those that it has become, oldest first, each of which begins with the header.
#[track_caller]
fn all_rows(path: &Path, header: &str) -> String {
    let name = |number: usize| if number == 0 { text(path) } else { format!("{}.{number}", text(path)) };
    let last = (1..2000).take_while(|&number| Path::new(&name(number)).exists()).last().unwrap_or(0);
    let rows = |number: usize| {
        let content = fs::read_to_string(name(number)).unwrap();
        let rows = content.strip_prefix(header).unwrap_or_else(|| panic!("{} has no header", name(number)));
        rows.to_owned()
    };
    (0..=last).rev().map(rows).collect()
}

/// The output of a run over the recording, undisturbed: its header and its rows.
fn undisturbed(folder: &Path) -> (String, String) {
    let path = text(&folder.join("undisturbed.csv"));
    succeeds(&["run", TELEMETRY, "--input", RECORDING, "--output", &path]);
    let content = fs::read_to_string(path).unwrap();
    let (header, rows) = content.split_once('\n').unwrap();
    (format!("{header}\n"), rows.to_owned())
}

#[test]
fn a_file_is_left_when_it_is_full() {
    let folder = own("rotate");
    let (header, rows) = undisturbed(&folder);
    let output = folder.join("out.csv");
    let uri = format!("file://{}?rotate=100KiB&keep=200", text(&output));
    succeeds(&["run", TELEMETRY, "--input", RECORDING, "--output", &uri]);
    assert!(all_rows(&output, &header) == rows);
    let files = rows.len().div_ceil(100 << 10);
    for number in 1..files {
        let length = fs::metadata(format!("{}.{number}", text(&output))).unwrap().len();
        assert!((90 << 10..=100 << 10).contains(&length), "file {number} has {length} bytes");
    }
    // A second run leaves what is there, and no more stay than are to.
    let uri = uri.replace("keep=200", "keep=3");
    succeeds(&["run", TELEMETRY, "--input", RECORDING, "--output", &uri]);
    assert!(rows.ends_with(fs::read_to_string(&output).unwrap().strip_prefix(&header).unwrap()));
    let kept = |number: usize| Path::new(&format!("{}.{number}", text(&output))).exists();
    assert!(kept(1) && kept(2) && kept(3));

    let lines = folder.join("out.jsonl");
    let input = file("rotate.csv", format!("{HEADER}\n{}", format!("{ROW}\n").repeat(20)));
    let uri = format!("file://{}?rotate=1", text(&lines));
    succeeds(&["run", TELEMETRY, "--input", &input, "--output", &uri]);
    // A row that is larger than a file may be has one of its own; five stay besides the one that is written.
    assert_eq!(all_rows(&lines, "").lines().count(), 6);
}

#[test]
fn files_that_are_left_go_on_after_any_kill() {
    let folder = own("rotate-kill");
    let (header, rows) = undisturbed(&folder);
    let (output, state) = (folder.join("out.csv"), text(&folder.join("state")));
    let uri = format!("file://{}?rotate=50KiB&keep=900", text(&output));
    let args = ["run", TELEMETRY, "--input", RECORDING, "--output", &uri, "--state", &state, "--resume"];
    let args = [&args[..], &["--snapshot-every", "150"]].concat();
    let start = Instant::now();
    succeeds(&args);
    assert!(all_rows(&output, &header) == rows);
    let (time, mut random) = (start.elapsed(), Random(8));
    let (mut kills, mut resumed, mut tried) = (0, 0, 0);
    while resumed < 12 && tried < 200 {
        tried += 1;
        let mut child = mcedge(&args).stderr(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_micros(random.below(time.as_micros() as u64 / 2 + 1)));
        let had_ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        let said = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success() || !had_ended, "{stderr}");
        kills += usize::from(!had_ended);
        resumed += usize::from(stderr.contains("goes on behind row") && !stderr.contains("behind row 0,"));
        if had_ended {
            assert!(all_rows(&output, &header) == rows);
            for name in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
                fs::remove_file(name).unwrap();
            }
        }
    }
    println!("{tried} runs, {kills} killed, {resumed} went on from a snapshot");
    assert!(resumed > 0);
    succeeds(&args);
    assert!(all_rows(&output, &header) == rows);
}

/// A snapshot that the last one gives way to may be from before a file was left.
#[test]
fn what_happened_behind_a_snapshot_is_undone() {
    let folder = own("rotate-undo");
    let (header, rows) = undisturbed(&folder);
    let (output, state) = (folder.join("out.csv"), folder.join("state"));
    let uri = format!("file://{}?rotate=20KiB&keep=900", text(&output));
    let to = text(&state);
    let args = ["run", TELEMETRY, "--input", RECORDING, "--output", &uri, "--state", &to, "--resume"];
    let args = [&args[..], &["--snapshot-every", "512"]].concat();
    for _ in 0..2 {
        succeeds(&args);
        assert!(all_rows(&output, &header) == rows);
        let before = fs::read_dir(&folder).unwrap().count();
        // The last generation is gone, and with it what was written since the one before it.
        fs::remove_file(&state).unwrap();
        succeeds(&args);
        assert!(all_rows(&output, &header) == rows);
        assert!(fs::read_dir(&folder).unwrap().count().abs_diff(before) <= 1);
    }
    // Somebody else's rows.
    fs::write(&output, "1,2\n").unwrap();
    for number in 1..900 {
        let _ = fs::remove_file(format!("{}.{number}", text(&output)));
    }
    check_fails(&args, 1, "has become shorter");
}

#[test]
fn what_cannot_be_left_for_a_new_file_says_why() {
    let folder = text(&own("rotate-errors"));
    let fails = |uri: &str, message: &str| {
        check_fails(&["run", TELEMETRY, "--input", RECORDING, "--output", uri], 2, message);
    };
    fails(&format!("file://{folder}/x.csv?rotate=0"), "has rotate=0, expected a size such as 10MiB");
    fails(&format!("file://{folder}/x.csv?rotate=many"), "has rotate=many, expected a size such as 10MiB");
    fails(&format!("file://{folder}/x.csv?rotate=1MiB&keep=0"), "has keep= of no number from 1 to 999");
    fails(&format!("file://{folder}/x.csv?keep=3"), "has keep= without rotate=");
    fails(&format!("file://{folder}/x.npy?rotate=1MiB"), "an .npy is one file");
    let null = ["run", TELEMETRY, "--input", RECORDING, "--output", "file:///dev/null?rotate=1MiB"];
    check_fails(&[&null[..], &["--output-format", "csv"]].concat(), 2, "is no file, which alone can be left");
    let other = format!("file://{folder}/x.csv?rotata=1MiB");
    check_fails(
        &["run", TELEMETRY, "--input", RECORDING, "--output", &other],
        1,
        "has `rotata` behind the ?",
    );
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn rows_reach_a_broker_also_after_its_restart() {
    let Some(mut broker) = Broker::start("mqtt-out") else { return };
    let input = file("mqtt.csv", format!("{HEADER}\n{}", format!("{ROW}\n").repeat(300)));
    let lines = text(&own("mqtt-rows").join("rows.jsonl"));
    succeeds(&["run", TELEMETRY, "--no-chunks", "--input", &input, "--output", &lines]);
    let rows = fs::read_to_string(&lines).unwrap();
    let rows: Vec<&str> = rows.lines().collect();

    // A listener whom the broker knows by name: it keeps what comes while he is away.
    let listener = broker.listener("out/rows");
    let to = broker.uri("out/rows");
    succeeds(&["run", TELEMETRY, "--no-chunks", "--input", &input, "--output", &to]);
    listener.wait_for(300);
    assert_eq!(listener.heard(), rows);

    // Row by row, of which the broker misses some.
    let mut child = mcedge(&["run", TELEMETRY, "--no-chunks", "--input", "-", "--output", &to])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{HEADER}").unwrap();
    (0..100).for_each(|_| writeln!(stdin, "{ROW}").unwrap());
    listener.wait_for(400);
    broker.stop("-TERM");
    (0..100).for_each(|_| writeln!(stdin, "{ROW}").unwrap());
    broker.start_again();
    (0..100).for_each(|_| writeln!(stdin, "{ROW}").unwrap());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("; tries again") && said.contains("is connected"), "{said}");
    // What was on its way may come twice.
    listener.wait_for(600);
    let start = Instant::now();
    loop {
        let heard = listener.heard();
        let missing: Vec<&&str> =
            rows.iter().filter(|row| !heard[300..].iter().any(|heard| heard == *row)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{} rows are missing", missing.len());
        thread::sleep(Duration::from_millis(50));
    }

    // CSV has no header here.
    let csv = ["run", TELEMETRY, "--input", &input, "--output", &to, "--output-format", "csv", "--no-chunks"];
    succeeds(&csv);
    listener
        .wait("a last row of CSV", |heard| heard.iter().filter(|row| row.starts_with("0,")).count() == 300);
    assert!(!listener.heard().iter().any(|row| row.starts_with("time")));
    broker.stop("-KILL");
    // Nobody takes them any more: that is told, and no success.
    let short = file("mqtt-short.csv", format!("{HEADER}\n{ROW}\n{ROW}\n"));
    check_fails(
        &["run", TELEMETRY, "--input", &short, "--output", &to],
        1,
        "lost rows: 2 that the broker has not acknowledged, 0 dropped while it took none",
    );
}
