//! Inputs that are neither files nor standard input: the same lines give the same rows, whatever happens on the way.

use std::fs::OpenOptions;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

/// More than any machine takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder of one test's own, empty.
pub(super) fn own(name: &str) -> PathBuf {
    let _ = fs::remove_dir_all(folder("sources").join(name));
    folder(&format!("sources/{name}"))
}

pub(super) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Lines of many lengths, numbered from `from` on.
fn lines(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|i| format!("{i} {}", "the quick brown fox ".repeat(i * i % 5))).collect()
}

fn append(path: &Path, lines: &[String]) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    for line in lines {
        writeln!(file, "{line}").unwrap();
    }
}

/// The rows of a run over a file of these lines.
fn rows_of(folder: &Path, lines: &[String]) -> String {
    let (input, output) = (folder.join("all.log"), text(&folder.join("all.csv")));
    fs::write(&input, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    succeeds(&["run", &byte_model(), "--input", &text(&input), "--output", &output, "--no-chunks"]);
    fs::read_to_string(output).unwrap()
}

/// A run of the byte model that is waited for.
struct Live {
    child: Child,
    said: Arc<Mutex<String>>,
    output: PathBuf,
}

impl Live {
    fn start(output: &Path, inputs: &[&str], flags: &[&str]) -> Self {
        let path = std::env::var("PATH").unwrap();
        Self::start_with(output, inputs, flags, &path)
    }

    fn start_with(output: &Path, inputs: &[&str], flags: &[&str], path: &str) -> Self {
        let (model, to) = (byte_model(), text(output));
        let inputs: Vec<&str> = inputs.iter().flat_map(|input| ["--input", input]).collect();
        let args = [&["run", &model, "--no-chunks", "--output", &to][..], &inputs, flags].concat();
        let mut child = mcedge(&args).env("PATH", path).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (mut stderr, into) = (child.stderr.take().unwrap(), Arc::clone(&said));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut bytes) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Self { child, said, output: output.to_owned() }
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    #[track_caller]
    fn wait(&mut self, what: &str, is_there: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_there(self) {
            assert!(start.elapsed() < PATIENCE, "{what} is not there: {}", self.said());
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() || is_there(self), "ended before {what}: {}", self.said());
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn wait_for_words(&mut self, words: &str) {
        self.wait(words, |live| live.said().contains(words));
    }

    /// Waits for rows besides the header.
    #[track_caller]
    fn wait_for_rows(&mut self, rows: usize) {
        self.wait(&format!("row {rows}"), |live| live.rows().lines().count() > rows);
    }

    fn rows(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Ends it as Ctrl-C does; what it has said.
    #[track_caller]
    fn stop(mut self) -> String {
        // Before it says what it runs it may not listen for signals yet.
        self.wait("what it runs", |live| live.said().contains("in all"));
        Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.said());
        self.said()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A run that a test leaves, by its panic, goes with it.
impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// The port that a run listens on.
fn port(live: &mut Live) -> u16 {
    live.wait_for_words("listens on 127.0.0.1:");
    live.wait("a port", |live| live.said().split("listens on 127.0.0.1:").nth(1).unwrap().contains('\n'));
    let said = live.said();
    said.split("listens on 127.0.0.1:").nth(1).unwrap().lines().next().unwrap().parse().unwrap()
}

#[test]
fn lines_that_are_sent_give_the_rows_of_a_file() {
    let folder = own("sent");
    let lines = lines(0, 60);
    let expected = rows_of(&folder, &lines);
    let send = |mut to: Box<dyn Write>| {
        for line in &lines {
            let (head, tail) = line.split_at(line.len() / 2);
            write!(to, "{head}").unwrap();
            writeln!(to, "{tail}").unwrap();
        }
        // Cut off: no row.
        write!(to, "half").unwrap();
    };
    let output = folder.join("tcp-listen.csv");
    let mut live = Live::start(&output, &["tcp-listen://127.0.0.1:0"], &[]);
    let port = port(&mut live);
    // One who says nothing holds nobody up.
    let _silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    send(Box::new(TcpStream::connect(("127.0.0.1", port)).unwrap()));
    live.wait_for_rows(60);
    live.wait_for_words("cut off and is dropped");
    live.stop();
    assert_eq!(fs::read_to_string(output).unwrap(), expected);

    let (socket, output) = (folder.join("lines.sock"), folder.join("unix.csv"));
    let uri = format!("unix://{}", text(&socket));
    let mut live = Live::start(&output, &[&uri], &[]);
    live.wait("the socket", |_| socket.exists());
    live.wait_for_words("nobody listens there yet: listens");
    send(Box::new(UnixStream::connect(&socket).unwrap()));
    live.wait_for_rows(60);
    live.stop();
    assert_eq!(fs::read_to_string(output).unwrap(), expected);
    assert!(!socket.exists());

    // It is connected to, in three connections.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("tcp://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let output = folder.join("tcp.csv");
    let mut live = Live::start(&output, &[&uri], &[]);
    for lines in lines.chunks(20) {
        let (mut stream, _) = listener.accept().unwrap();
        lines.iter().for_each(|line| writeln!(stream, "{line}").unwrap());
        write!(stream, "half").unwrap();
    }
    live.wait_for_rows(60);
    live.stop();
    assert_eq!(fs::read_to_string(output).unwrap(), expected);
}

#[test]
fn a_log_gives_the_rows_of_a_file_through_rotations_and_truncations() {
    let folder = own("rotated");
    let (log, output) = (folder.join("app.log"), folder.join("out.csv"));
    let suffixed = |number: usize| folder.join(format!("app.log.{number}"));
    append(&log, &lines(0, 10));
    let uri = format!("tail://{}?from=start", text(&log));
    let mut live = Live::start(&output, &[&uri], &[]);
    // Before that it may not have opened the log.
    live.wait_for_rows(10);
    let mut written = 10;
    for round in 0..5 {
        append(&log, &lines(written, written + 7));
        (1..9).rev().for_each(|number| drop(fs::rename(suffixed(number), suffixed(number + 1))));
        if round % 2 == 0 {
            fs::rename(&log, suffixed(1)).unwrap();
        } else {
            fs::copy(&log, suffixed(1)).unwrap();
            OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
        }
        append(&log, &lines(written + 7, written + 12));
        written += 12;
        live.wait_for_rows(written);
    }
    live.stop();
    assert_eq!(fs::read_to_string(output).unwrap(), rows_of(&folder, &lines(0, written)));
}

#[test]
fn a_log_that_becomes_a_fifo_holds_no_run_up() {
    let folder = own("fifo");
    let (log, output) = (folder.join("app.log"), folder.join("out.csv"));
    append(&log, &lines(0, 3));
    let mut live = Live::start(&output, &[&format!("tail://{}?from=start", text(&log))], &[]);
    live.wait_for_rows(3);
    fs::rename(&log, folder.join("app.log.1")).unwrap();
    assert!(Command::new("mkfifo").arg(&log).status().unwrap().success());
    live.wait_for_words("waits for the file: what is there is no file");
    live.stop();
}

/// Runs, with kills at random moments, of lines that come meanwhile, and compares with an undisturbed run over all of them.
fn check_kills(name: &str, uri: impl Fn(&Path) -> String, path: &str, mut more: impl FnMut(&Path, usize)) {
    let folder = own(name);
    let (output, state) = (folder.join("out.csv"), text(&folder.join("state")));
    let flags = ["--state", &state, "--snapshot-every", "700", "--resume"];
    let (uri, mut random, mut resumed) = (uri(&folder), Random(3), 0);
    more(&folder, 0);
    for round in 1..12 {
        let mut live = Live::start_with(&output, &[&uri], &flags, path);
        // Before its first snapshot a run begins anew.
        live.wait("a snapshot", |_| Path::new(&state).exists());
        thread::sleep(Duration::from_millis(random.below(150)));
        more(&folder, round);
        thread::sleep(Duration::from_millis(random.below(300)));
        resumed += usize::from(live.said().contains("goes on behind row"));
        live.kill();
    }
    let mut live = Live::start_with(&output, &[&uri], &flags, path);
    live.wait_for_rows(12 * 20);
    let said = live.stop();
    println!("{name}: {resumed} of 11 runs went on from a snapshot");
    assert!(resumed > 0 && said.contains("goes on behind row"), "{said}");
    assert_eq!(fs::read_to_string(output).unwrap(), rows_of(&folder, &lines(0, 12 * 20)));
}

#[test]
fn a_followed_log_goes_on_after_any_kill() {
    let uri = |folder: &Path| format!("tail://{}?from=start", text(&folder.join("app.log")));
    let path = std::env::var("PATH").unwrap();
    check_kills("kill-tail", uri, &path, |folder, round| {
        let log = folder.join("app.log");
        let suffixed = |number: usize| folder.join(format!("app.log.{number}"));
        append(&log, &lines(round * 20, round * 20 + 13));
        let shift =
            || (1..19).rev().for_each(|number| drop(fs::rename(suffixed(number), suffixed(number + 1))));
        match round % 3 {
            1 => {
                shift();
                fs::rename(&log, suffixed(1)).unwrap();
            }
            2 => {
                shift();
                fs::copy(&log, suffixed(1)).unwrap();
                OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
            }
            _ => {}
        }
        append(&log, &lines(round * 20 + 13, round * 20 + 20));
    });
}

/// A `journalctl` first in PATH, of the entries in a file: the Nth line has cursor `c=N`.
fn fake_journal(folder: &Path, script: &str) -> String {
    let program = folder.join("bin").join("journalctl");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", text(program.parent().unwrap()), std::env::var("PATH").unwrap())
}

fn script(folder: &Path, then: &str) -> String {
    format!(
        "#!/bin/sh\ncd {}\necho \"$@\" >>asked\nafter=0\nfor flag in \"$@\"; do\n  case \"$flag\" in \
         --after-cursor=*) after=\"${{flag#--after-cursor=c=}}\" ;;\n  esac\ndone\n{then}\n",
        text(folder)
    )
}

/// An entry of the journal with this line as its message, and the line of a log that it is.
fn entry(number: usize, line: &str) -> (String, String) {
    let time = 1_120_607_999_000_000u64;
    let json = format!(
        "{{\"__CURSOR\":\"c={number}\",\"__REALTIME_TIMESTAMP\":\"{time}\",\"_HOSTNAME\":\"pump\",\
         \"SYSLOG_IDENTIFIER\":\"test\",\"_PID\":\"7\",\"MESSAGE\":\"{line}\"}}"
    );
    (json, format!("Jul  5 23:59:59 pump test[7]: {}", line.trim_end()))
}

#[test]
fn the_journal_goes_on_after_any_kill() {
    // The time in the log is local: rows are of what the fake prints, as the first run has made it.
    let folder = folder("sources/fake-journal");
    let entries = |from: usize, to: usize| -> Vec<String> {
        lines(from, to).iter().zip(from + 1..).map(|(line, number)| entry(number, line).0).collect()
    };
    let path = fake_journal(&folder, &script(&folder, "exec tail -n +$((after + 1)) -f entries"));
    let _ = fs::remove_file(folder.join("entries"));
    let folder = &folder;
    let own = own("kill-journal");
    let (output, state) = (own.join("out.csv"), text(&own.join("state")));
    let flags = ["--state", &state, "--snapshot-every", "700", "--resume"];
    let (mut random, mut resumed) = (Random(5), 0);
    for round in 0..10 {
        append(&folder.join("entries"), &entries(round * 20, round * 20 + 20));
        let live = Live::start_with(&output, &["journal://?unit=test.service"], &flags, &path);
        thread::sleep(Duration::from_millis(100 + random.below(400)));
        resumed += usize::from(live.said().contains("goes on behind row"));
        live.kill();
    }
    let mut live = Live::start_with(&output, &["journal://?unit=test.service"], &flags, &path);
    live.wait_for_rows(200);
    live.stop();
    assert!(resumed > 0);
    let asked = fs::read_to_string(folder.join("asked")).unwrap();
    assert!(asked.contains("--follow") && asked.contains("--unit=test.service"), "{asked}");
    assert!(asked.contains("--since=@") && asked.contains("--after-cursor=c="), "{asked}");
    let time = local_time(&output);
    let all: Vec<String> = lines(0, 200).iter().map(|line| entry(1, line).1.replace(LOGGED, &time)).collect();
    assert_eq!(fs::read_to_string(output).unwrap(), rows_of(&own, &all));
}

/// The time of [`entry`] in UTC.
const LOGGED: &str = "Jul  5 23:59:59";

/// The time of [`entry`] as this machine's zone has it, in the first row's text.
fn local_time(output: &Path) -> String {
    let rows = fs::read_to_string(output).unwrap();
    let text = rows.lines().nth(1).unwrap().splitn(4, ',').nth(3).unwrap();
    text.trim_start_matches('"')[..LOGGED.len()].to_owned()
}

#[test]
fn a_journal_that_dies_and_babbles_loses_and_repeats_nothing() {
    let folder = own("babbling");
    // Thirty entries a life, and each life ends in half an entry.
    let then = "echo 'no journal files were found' >&2\ntail -n +$((after + 1)) entries | head -n 30\nprintf '{\"MESS'\nexit 3";
    let path = fake_journal(&folder, &script(&folder, then));
    let mut all = Vec::new();
    let mut expected = Vec::new();
    for (number, line) in (1..).zip(lines(0, 80)) {
        let (json, logged) = entry(number, &line);
        all.push(match number % 10 {
            // Garbage has no cursor: it may come again.
            4 => format!("-- garbage {number} --"),
            5 => json.replace(&format!("\"{line}\""), "null"),
            6 => json.replace("\"pump\"", "[\"pump\",\"other\"]").replace("\"7\"", "[\"7\"]"),
            7 => json.replace(&format!("\"{line}\""), &format!("{:?}", line.as_bytes())),
            8 => json.replace("}", &format!(",\"HUGE\":\"{}\"}}", "x".repeat(300_000))),
            9 => json.replace(&line, &"y".repeat(1 << 20)),
            _ => json,
        });
        if ![4, 5, 9].contains(&(number % 10)) {
            expected.push(logged);
        }
    }
    append(&folder.join("entries"), &all);
    let output = folder.join("out.csv");
    let mut live = Live::start_with(&output, &["journal://"], &[], &path);
    live.wait_for_rows(expected.len());
    live.wait_for_words("exit status: 3: no journal files were found; starts it again");
    let said = live.stop();
    assert!(
        said.contains("left out what is no entry") && said.contains("longer than 1048576 bytes"),
        "{said}"
    );
    let time = local_time(&output);
    let expected: Vec<String> = expected.iter().map(|line| line.replace(LOGGED, &time)).collect();
    assert_eq!(fs::read_to_string(output).unwrap(), rows_of(&folder, &expected));

    let empty = text(&own("no-journalctl"));
    let mut command = mcedge(&["run", &byte_model(), "--input", "journal://"]);
    let output = command.env("PATH", empty).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("input journal://: needs journalctl of systemd, which is not in PATH"), "{said}");
}

#[test]
fn several_live_inputs_are_each_as_if_alone() {
    let folder = own("several");
    let (log, output) = (folder.join("app.log"), folder.join("out.csv"));
    let (first, second) = (lines(0, 30), lines(500, 540));
    append(&log, &first[..10]);
    let tail = format!("tail://{}?from=start", text(&log));
    let mut live = Live::start(&output, &[&tail, "tcp-listen://127.0.0.1:0"], &[]);
    let mut stream = TcpStream::connect(("127.0.0.1", port(&mut live))).unwrap();
    for (i, line) in second.iter().enumerate() {
        writeln!(stream, "{line}").unwrap();
        append(&log, &first[first.len().min(10 + i)..first.len().min(11 + i)]);
    }
    live.wait_for_rows(70);
    live.stop();
    let rows = fs::read_to_string(output).unwrap();
    for (name, lines) in [("app", first), ("127.0.0.1:0", second)] {
        let own: Vec<&str> = rows.lines().filter_map(|row| row.strip_prefix(&format!("{name},"))).collect();
        let alone = rows_of(&folder, &lines);
        // Side by side: the same but for roundings.
        let key = |row: &str| -> Vec<String> {
            let cells = row.splitn(4, ',').enumerate().filter(|(i, _)| *i != 2);
            cells.map(|(_, cell)| cell.to_owned()).collect()
        };
        let keys = |rows: &[&str]| rows.iter().map(|row| key(row)).collect::<Vec<_>>();
        assert_eq!(keys(&own), keys(&alone.lines().skip(1).collect::<Vec<_>>()), "{name}");
    }
}

#[test]
fn numbers_are_followed_with_their_header() {
    let folder = own("numbers");
    let (log, output) = (folder.join("app.csv"), text(&folder.join("out.csv")));
    let write = |content: &str| {
        let mut file = OpenOptions::new().append(true).create(true).open(&log).unwrap();
        write!(file, "{content}").unwrap();
    };
    let row = |i: usize| ROW.replacen('0', &i.to_string(), 1);
    let rows = |from: usize, to: usize| (from..to).map(|i| row(i) + "\n").collect::<String>();
    write(&format!("{HEADER}\n{}", rows(0, 5)));
    let (state, tail) = (text(&folder.join("state")), format!("tail://{}", text(&log)));
    let flags = ["--no-chunks", "--output", &output, "--state", &state, "--snapshot-every", "3", "--resume"];
    let args = [&["run", TELEMETRY, "--input", &tail][..], &flags].concat();
    let count = || fs::read_to_string(&output).map_or(0, |rows| rows.lines().count());
    for (i, wanted) in [(1, 21), (2, 41), (3, 61)] {
        // From its end, behind the header; then on from a snapshot.
        let mut child = mcedge(&args).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        // Where the first run begins is known when its snapshot is there; that is after its first row.
        while count() < wanted {
            assert!(start.elapsed() < PATIENCE, "{} rows", count());
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            if i == 1 && count() == 0 {
                write(&rows(5, 6));
            } else if count() >= 2 {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        write(&rows(100 * i, 100 * i + 30));
        if i == 2 {
            fs::rename(&log, folder.join("app.csv.1")).unwrap();
            // The header comes again, and is no row.
            write(&format!("{HEADER}\n{}", rows(900, 905)));
        }
        let last = if i == 2 { "904," } else { &format!("{},", 100 * i + 29) };
        let is_there =
            || fs::read_to_string(&output).is_ok_and(|rows| rows.lines().any(|row| row.starts_with(last)));
        while !is_there() {
            assert!(start.elapsed() < PATIENCE, "row {last} is not there");
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let rows = fs::read_to_string(&output).unwrap();
    let times: Vec<usize> =
        rows.lines().skip(1).map(|row| row.split(',').next().unwrap().parse().unwrap()).collect();
    let fresh: Vec<usize> = times.iter().copied().skip_while(|&time| time == 5).collect();
    let expected: Vec<usize> = (100..130).chain(200..230).chain(900..905).chain(300..330).collect();
    assert_eq!(fresh, expected);
}

/// A broker on a free port of this machine.
pub(super) struct Broker {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Broker {
    pub(super) fn start(name: &str) -> Option<Self> {
        let found = |program: &str| Command::new(program).arg("--help").output().is_ok();
        if !found("/usr/sbin/mosquitto") || !found("mosquitto_pub") || !found("mosquitto_sub") {
            println!("skipped: mosquitto, mosquitto_pub and mosquitto_sub are not all there");
            return None;
        }
        let folder = own(name);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\npersistence_location {}/\n",
            text(&folder)
        );
        fs::write(folder.join("mosquitto.conf"), config).unwrap();
        let mut broker = Self { child: Self::spawn(&folder), port, folder };
        broker.wait();
        Some(broker)
    }

    fn spawn(folder: &Path) -> Child {
        let config = folder.join("mosquitto.conf");
        let mut command = Command::new("/usr/sbin/mosquitto");
        command.arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn wait(&mut self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < PATIENCE && self.child.try_wait().unwrap().is_none());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it, so that it keeps what it has or does not.
    pub(super) fn stop(&mut self, signal: &str) {
        Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        self.child.wait().unwrap();
    }

    pub(super) fn start_again(&mut self) {
        self.child = Self::spawn(&self.folder);
        self.wait();
    }

    fn publish(&self, topic: &str, lines: &[String]) {
        let port = self.port.to_string();
        let mut command = Command::new("mosquitto_pub");
        let command = command.args(["-h", "127.0.0.1", "-p", &port, "-t", topic, "-q", "1", "-l"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        lines.iter().for_each(|line| writeln!(stdin, "{line}").unwrap());
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }

    /// Publishes until a run hears it.
    fn sync(&self, topic: &str, live: &mut Live) {
        let (start, before) = (Instant::now(), live.rows().matches("sync").count());
        while live.rows().matches("sync").count() == before {
            assert!(start.elapsed() < PATIENCE, "nothing is heard: {}", live.said());
            self.publish(topic, &["sync".to_owned()]);
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(super) fn uri(&self, topic: &str) -> String {
        format!("mqtt://127.0.0.1:{}/{topic}", self.port)
    }
}

impl Broker {
    /// Somebody who listens to a topic, and whom the broker keeps messages for.
    pub(super) fn listener(&self, topic: &str) -> Listener {
        let port = self.port.to_string();
        let mut command = Command::new("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-t", topic, "-q", "1", "-c", "-i", "listener"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (stdout, into) = (child.stdout.take().unwrap(), Arc::clone(&heard));
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                into.lock().unwrap().push(line);
            }
        });
        let (listener, start) = (Listener { child, heard }, Instant::now());
        while listener.heard.lock().unwrap().is_empty() {
            assert!(start.elapsed() < PATIENCE, "the listener hears nothing");
            self.publish(topic, &["sync".to_owned()]);
            thread::sleep(Duration::from_millis(50));
        }
        listener
    }
}

/// What a client of a broker hears.
pub(super) struct Listener {
    child: Child,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    pub(super) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().iter().filter(|line| *line != "sync").cloned().collect()
    }

    #[track_caller]
    pub(super) fn wait_for(&self, rows: usize) {
        self.wait(&format!("row {rows}"), |heard| heard.len() >= rows);
    }

    #[track_caller]
    pub(super) fn wait(&self, what: &str, is_there: impl Fn(&[String]) -> bool) {
        let start = Instant::now();
        while !is_there(&self.heard()) {
            assert!(start.elapsed() < PATIENCE, "{what} is not there: {} rows", self.heard().len());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The texts of rows, but for those that only say that somebody is there.
fn texts(rows: &str) -> Vec<String> {
    let rows = rows.lines().skip(1).map(|row| row.splitn(4, ',').nth(3).unwrap().to_owned());
    rows.filter(|text| text != "sync").collect()
}

#[test]
fn messages_of_a_broker_are_lines_also_after_its_restart() {
    let Some(mut broker) = Broker::start("mqtt") else { return };
    let output = broker.folder.join("out.csv");
    let mut live = Live::start(&output, &[&broker.uri("plant/+/log?qos=1")], &[]);
    broker.sync("plant/a/log", &mut live);
    broker.publish("plant/b/log", &lines(0, 40));
    broker.publish("plant/b/other", &["not asked for".to_owned()]);
    live.wait("40 lines", |live| texts(&live.rows()).len() == 40);
    broker.stop("-KILL");
    live.wait_for_words("; tries again");
    broker.start_again();
    live.wait_for_words("is connected");
    broker.sync("plant/a/log", &mut live);
    broker.publish("plant/a/log", &lines(40, 80));
    live.wait("80 lines", |live| texts(&live.rows()).len() == 80);
    live.stop();
    assert_eq!(texts(&fs::read_to_string(output).unwrap()), lines(0, 80));

    // What comes while it is away, of a client that the broker knows by name.
    let output = broker.folder.join("named.csv");
    let uri = broker.uri("plant/log?client-id=test");
    let mut live = Live::start(&output, &[&uri], &[]);
    broker.sync("plant/log", &mut live);
    live.stop();
    broker.publish("plant/log", &lines(0, 30));
    let mut live = Live::start(&output, &[&uri], &[]);
    live.wait("30 lines", |live| texts(&live.rows()).len() == 30);
    live.stop();
    assert_eq!(texts(&fs::read_to_string(output).unwrap()), lines(0, 30));

    // What has come and is not run when a run is stopped comes to the next.
    broker.publish("plant/log", &lines(0, 300));
    let [first, second] = ["first.csv", "second.csv"].map(|name| broker.folder.join(name));
    let mut live = Live::start(&first, &[&uri], &[]);
    live.wait("a line", |live| !texts(&live.rows()).is_empty());
    live.stop();
    let mut found = texts(&fs::read_to_string(first).unwrap());
    let last = lines(299, 300).remove(0);
    let mut live = Live::start(&second, &[&uri], &[]);
    live.wait("the rest", |live| found.contains(&last) || texts(&live.rows()).contains(&last));
    live.stop();
    found.extend(texts(&fs::read_to_string(second).unwrap_or_default()));
    found.sort();
    found.dedup();
    let mut expected = lines(0, 300);
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn what_is_no_live_input_says_why() {
    let fails = |uri: &str, message: &str| check_fails(&["run", &byte_model(), "--input", uri], 1, message);
    fails("tail:///dev/null", "is no file, which alone can be followed");
    fails("tail://x?form=end", "has `form` behind the ?, expected `from`");
    fails("tcp://nowhere", "has address \"nowhere\", expected HOST:PORT");
    fails("tcp-listen://127.0.0.1:0?x=1", "has `x` behind the ?, tcp-listen:// takes nothing there");
    fails("unix:///dev/null", "/dev/null is no socket");
    fails("mqtt://me:secret@host", "input mqtt://host: is not mqtt://");
    fails("mqtts://me:secret@host/t", "input \"mqtts://host/t\": expected a path");
    fails("gopher://host", "or one of `serial://`, `i2c://`, `tail://`, `journal://`, `tcp-listen://`");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    fails(&format!("tcp-listen://{}", taken.local_addr().unwrap()), "cannot listen on 127.0.0.1:");
    let folder = own("taken");
    let log = text(&folder.join("x.log"));
    fs::write(&log, "").unwrap();
    let tail = format!("tail://{log}");
    let args = ["run", &byte_model(), "--input", &tail, "--output", &log, "--output-format", "csv"];
    check_fails(&args, 1, "is the input");
    assert!(fs::read(&log).unwrap().is_empty());
}
