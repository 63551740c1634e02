//! What a broker keeps, told by one that runs on this machine.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
const BROKER: &str = "/usr/sbin/mosquitto";

struct Broker {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Broker {
    fn start(name: &str) -> Option<Self> {
        let found = |program: &str| Command::new(program).arg("--help").output().is_ok();
        if !found(BROKER) || !found("mosquitto_pub") {
            println!("skipped: mosquitto and mosquitto_pub are not both there");
            return None;
        }
        let folder = std::env::temp_dir().join(format!("mcedge-mqtt-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        Some(Self { child: serve(&folder, port), port, folder })
    }

    /// Ends it, so that it keeps what it has.
    fn stop(&mut self) {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap();
    }

    /// Goes on with what it has kept.
    fn serve_on(&mut self, port: u16) {
        (self.child, self.port) = (serve(&self.folder, port), port);
    }

    fn publish(&self, flags: &[&str], lines: &[String]) {
        let port = self.port.to_string();
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-l"]).args(flags);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        lines.iter().for_each(|line| writeln!(stdin, "{line}").unwrap());
        drop(stdin);
        assert!(child.wait().unwrap().success());
    }

    fn open(&self, what: &str) -> (Messages, Arc<Acks>) {
        let uri = Uri::parse(&format!("mqtt://127.0.0.1:{}/{what}", self.port)).unwrap().unwrap();
        Messages::open(uri, Teller::new("test")).unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn serve(folder: &std::path::Path, port: u16) -> Child {
    let config = folder.join("mosquitto.conf");
    let (location, listener) = (folder.display(), format!("listener {port} 127.0.0.1\nallow_anonymous true"));
    fs::write(
        &config,
        format!("{listener}\nuser root\npersistence true\npersistence_location {location}/\n"),
    )
    .unwrap();
    let mut command = Command::new(BROKER);
    let child = command.arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(10));
    }
    child
}

/// Reads until there are `count` lines.
fn read(messages: &mut Messages, count: usize) -> Vec<String> {
    let (mut lines, start) = (Vec::new(), Instant::now());
    while lines.len() < count {
        assert!(start.elapsed() < PATIENCE, "{lines:?}");
        let mut chunk = Vec::new();
        messages.read(&mut chunk).unwrap();
        lines.extend(String::from_utf8(chunk).unwrap().lines().map(str::to_owned));
    }
    lines
}

#[test]
fn what_has_not_been_run_comes_again_and_what_has_does_not() {
    let Some(broker) = Broker::start("kept") else { return };
    let rows: Vec<String> = (0..200).map(|row| format!("row {row}")).collect();
    let (mut messages, acks) = broker.open("t?client-id=test");
    // Until it is heard that somebody is there.
    broker.publish(&["-t", "t", "-r"], &["sync".to_owned()]);
    assert_eq!(read(&mut messages, 1), ["sync"]);
    acks.settle(5);
    drop(messages);
    broker.publish(&["-t", "t"], &rows);
    let (mut messages, acks) = broker.open("t?client-id=test");
    let lines = read(&mut messages, 10);
    let fifth = lines.iter().position(|line| *line == rows[4]).unwrap();
    acks.settle(lines[..=fifth].iter().map(|line| line.len() as u64 + 1).sum());
    drop(messages);
    let (mut messages, acks) = broker.open("t?client-id=test");
    let mut found = Vec::new();
    while !found.contains(&rows[199]) {
        found.extend(read(&mut messages, 1));
        acks.settle(messages.handed);
    }
    found.retain(|line| line != "sync");
    assert_eq!(found, rows[5..]);
    drop(messages);
    let (mut messages, _) = broker.open("t?client-id=test");
    broker.publish(&["-t", "t"], &["last".to_owned()]);
    let found = read(&mut messages, 1);
    assert!(found.iter().all(|line| line == "last" || line == "sync"), "{found:?}");
}

#[test]
fn what_was_retained_while_nobody_was_there_comes_once() {
    let Some(mut broker) = Broker::start("retained") else { return };
    let port = broker.port;
    let publish = |broker: &Broker, topic: &str, value: &str| {
        broker.publish(&["-r", "-t", &format!("t/{topic}")], &[value.to_owned()]);
    };
    publish(&broker, "a", "a1");
    publish(&broker, "b", "b1");
    let (mut messages, _acks) = broker.open("t/+");
    let mut found = read(&mut messages, 2);
    found.sort();
    assert_eq!(found, ["a1", "b1"]);
    broker.stop();
    // The connection finds nobody there while something is said elsewhere.
    broker.serve_on(free_port());
    publish(&broker, "a", "a2");
    broker.stop();
    broker.serve_on(port);
    assert_eq!(read(&mut messages, 1), ["a2"]);
    publish(&broker, "c", "end");
    assert_eq!(read(&mut messages, 1), ["end"]);
}
