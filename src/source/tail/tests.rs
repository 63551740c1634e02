use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::mpsc;

use super::*;

/// A folder that goes when the test ends, with a log in it.
struct Logs {
    folder: PathBuf,
    /// Lines written in all.
    written: u64,
}

impl Logs {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mcedge-tail-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self { folder, written: 0 }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("app.log{suffix}"))
    }

    fn write(&mut self, lines: u64) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path("")).unwrap();
        for _ in 0..lines {
            // All lines are as long, and alike but for their number.
            writeln!(file, "line {:09} of a log that repeats itself", self.written).unwrap();
            self.written += 1;
        }
    }

    fn shift(&self) {
        for number in (1..9).rev() {
            let _ = fs::rename(self.path(&format!(".{number}")), self.path(&format!(".{}", number + 1)));
        }
    }

    /// As logrotate does it.
    fn rotate(&mut self) {
        self.shift();
        fs::rename(self.path(""), self.path(".1")).unwrap();
        self.write(0);
    }

    /// As its `copytruncate` does it.
    fn copy_and_truncate(&self) {
        self.shift();
        fs::copy(self.path(""), self.path(".1")).unwrap();
        OpenOptions::new().write(true).open(self.path("")).unwrap().set_len(0).unwrap();
    }

    fn open(&self, query: &str, saved: Option<&Place>) -> (Tail, Mark) {
        self.open_with(query, saved, Times::default())
    }

    fn open_with(&self, query: &str, saved: Option<&Place>, times: Times) -> (Tail, Mark) {
        let uri = Uri::parse(&format!("tail://{}{query}", self.path("").display())).unwrap().unwrap();
        Tail::open(uri, saved, |line| line.starts_with(b"time,"), times, Teller::new("test")).unwrap()
    }
}

/// What `run` gives, unless that takes longer than any machine does.
#[track_caller]
fn soon<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, given) = mpsc::channel();
    thread::spawn(move || send.send(run()));
    given.recv_timeout(Duration::from_secs(60)).expect("it hangs, or has failed")
}

impl Drop for Logs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What has been read, and where it goes on.
struct Reader {
    tail: Tail,
    lines: Vec<String>,
    place: Place,
}

impl Reader {
    fn of((tail, mark): (Tail, Mark)) -> Self {
        let place = Place { cursor: mark.cursor, offset: mark.offset.unwrap(), last: [0; 2] };
        Self { tail, lines: Vec::new(), place }
    }

    fn read(&mut self) {
        let mut chunk = Vec::new();
        let came = self.tail.read(&mut chunk).unwrap();
        if let Came::Chunk(mark) = came {
            assert!(chunk.ends_with(b"\n"));
            let last = chunk.split_inclusive(|&byte| byte == b'\n').next_back().unwrap();
            if let Some(mark) = mark {
                let last = [last.len() as u32, crc32fast::hash(last)];
                self.place = Place { cursor: mark.cursor, offset: mark.offset.unwrap(), last };
            }
            self.lines.extend(String::from_utf8(chunk).unwrap().lines().map(str::to_owned));
        }
    }

    /// Reads until `count` lines have come, and a little longer.
    #[track_caller]
    fn read_to(&mut self, count: u64) {
        let start = Instant::now();
        while (self.lines.len() as u64) < count {
            assert!(start.elapsed() < Duration::from_secs(60), "{} of {count} lines", self.lines.len());
            self.read();
        }
        (0..3).for_each(|_| self.read());
    }

    /// All lines from the one of number `from` on, each once and in order.
    #[track_caller]
    fn check(&self, from: u64, to: u64) {
        let numbers: Vec<u64> = self.lines.iter().map(|line| line[5..14].parse().unwrap()).collect();
        assert_eq!(numbers, (from..to).collect::<Vec<u64>>());
    }
}

#[test]
fn a_log_is_followed_through_rotations_and_truncations() {
    let mut logs = Logs::new("follow");
    logs.write(5);
    let mut reader = Reader::of(logs.open("", None));
    for round in 0..5 {
        logs.write(1000);
        if round % 2 == 0 {
            // So that some of it is read by then and some is not.
            reader.read();
        }
        logs.rotate();
        logs.write(7);
        reader.read_to(logs.written - 5);
        logs.write(3000);
        reader.read_to(logs.written - 5 - 2000);
        logs.copy_and_truncate();
        logs.write(11);
        reader.read_to(logs.written - 5);
    }
    reader.check(5, logs.written);
}

#[test]
fn rotations_between_two_looks_are_found() {
    let mut logs = Logs::new("fast");
    let mut reader = Reader::of(logs.open("", None));
    logs.write(9);
    reader.read_to(9);
    for _ in 0..5 {
        logs.write(20);
        logs.rotate();
    }
    logs.write(4);
    reader.read_to(logs.written);
    for _ in 0..3 {
        logs.write(200);
        logs.copy_and_truncate();
    }
    logs.write(4);
    reader.read_to(logs.written);
    reader.check(0, logs.written);
}

#[test]
fn what_is_written_to_a_renamed_file_is_read() {
    let mut logs = Logs::new("renamed");
    logs.write(3);
    let mut reader = Reader::of(logs.open("?from=start", None));
    let mut old = OpenOptions::new().append(true).open(logs.path("")).unwrap();
    logs.rotate();
    reader.read_to(3);
    // Its writer has not been told yet.
    for _ in 0..5 {
        writeln!(old, "line {:09}", logs.written).unwrap();
        logs.written += 1;
        reader.read();
    }
    logs.write(2);
    reader.read_to(logs.written);
    reader.check(0, logs.written);
}

#[test]
fn a_file_may_be_away_for_a_while() {
    let mut logs = Logs::new("away");
    let mut reader = Reader::of(logs.open("", None));
    assert_eq!(reader.place.cursor, "tail:");
    reader.read();
    logs.write(3);
    reader.read_to(3);
    fs::remove_file(logs.path("")).unwrap();
    (0..3).for_each(|_| reader.read());
    logs.write(4);
    reader.read_to(7);
    reader.check(0, 7);
}

#[test]
fn reading_goes_on_where_a_snapshot_stands() {
    let mut logs = Logs::new("resume");
    logs.write(5);
    let mut reader = Reader::of(logs.open("", None));
    let mut all = Vec::new();
    // Nothing has been read yet.
    logs.write(8);
    let changes: [fn(&mut Logs); 8] = [
        |logs| logs.write(100),
        |logs| logs.rotate(),
        |logs| {
            logs.write(50);
            logs.rotate();
            logs.write(60);
            logs.rotate();
        },
        |logs| logs.copy_and_truncate(),
        |logs| {
            logs.write(70);
            logs.copy_and_truncate();
            // Longer than what was read of it.
            logs.write(5000);
        },
        |logs| {
            logs.rotate();
            // A new file, maybe of an old inode.
            fs::remove_file(logs.path("")).unwrap();
            logs.write(1);
        },
        |logs| {
            logs.write(10);
            logs.copy_and_truncate();
            logs.write(20);
            logs.copy_and_truncate();
        },
        |_| {},
    ];
    for change in changes {
        let place = reader.place.clone();
        all.append(&mut reader.lines);
        drop(reader);
        change(&mut logs);
        reader = Reader::of(logs.open("", Some(&place)));
        logs.write(3);
        reader.read_to(logs.written - 5 - all.len() as u64);
    }
    all.append(&mut reader.lines);
    reader.lines = all;
    reader.check(5, logs.written);

    // What is in no file any more cannot be read, and what is there is.
    let place = reader.place.clone();
    for suffix in ["", ".1", ".2", ".3", ".4", ".5", ".6", ".7", ".8", ".9"] {
        let _ = fs::remove_file(logs.path(suffix));
    }
    let before = logs.written;
    logs.write(2);
    let mut reader = Reader::of(logs.open("", Some(&place)));
    reader.read_to(2);
    reader.check(before, before + 2);
}

#[test]
fn a_line_is_read_whole_or_not_at_all() {
    let logs = Logs::new("whole");
    fs::write(logs.path(""), "line 000000000\nline 0000").unwrap();
    let append = |bytes: &[u8]| {
        OpenOptions::new().append(true).open(logs.path("")).unwrap().write_all(bytes).unwrap();
    };
    let mut reader = Reader::of(logs.open("", None));
    reader.read();
    assert!(reader.lines.is_empty());
    append(b"00001\n");
    reader.read_to(1);
    append(&vec![b'x'; LINE_MAX + 5]);
    append(b"\nline 000000002\nline 00");
    reader.read_to(2);
    // Behind the snapshot's place is half a line.
    let mut resumed = Reader::of(logs.open("", Some(&reader.place)));
    append(b"0000003\n");
    reader.read_to(3);
    reader.check(1, 4);
    resumed.read_to(1);
    resumed.check(3, 4);
    // A line that is too long when reading begins.
    fs::write(logs.path(""), vec![b'x'; LINE_MAX + 9]).unwrap();
    let mut reader = Reader::of(logs.open("", None));
    append(b"x\nline 000000004\n");
    reader.read_to(1);
    reader.check(4, 5);
}

#[test]
fn a_header_goes_before_what_is_read_behind_it() {
    let logs = Logs::new("header");
    fs::write(logs.path(""), "time,a\n1,2\n").unwrap();
    let mut reader = Reader::of(logs.open("", None));
    assert_eq!(reader.place.offset, 11);
    OpenOptions::new().append(true).open(logs.path("")).unwrap().write_all(b"3,4\n").unwrap();
    reader.read_to(2);
    assert_eq!(reader.lines, ["time,a", "3,4"]);
    assert_eq!(reader.place.offset, 15);
    let mut reader = Reader::of(logs.open("?from=start", None));
    reader.read_to(3);
    assert_eq!(reader.lines, ["time,a", "1,2", "3,4"]);
}

#[test]
fn what_cannot_be_followed_says_why() {
    let logs = Logs::new("errors");
    let error = |what: &str| {
        let uri = Uri::parse(&format!("tail://{what}")).unwrap().unwrap();
        format!(
            "{:#}",
            Tail::open(uri, None, |_| false, Times::default(), Teller::new("test")).err().unwrap()
        )
    };
    assert!(error(logs.folder.to_str().unwrap()).contains("is a directory, expected a file"));
    assert!(error("/dev/null").contains("is no file, which alone can be followed"));
    assert!(error("x?from=middle").contains("has from=middle, expected start or end"));
    assert!(error("x?form=end").contains("has `form` behind the ?, expected `from`"));
    let uri = Uri::parse("tail://x").unwrap().unwrap();
    let other = Place { cursor: "s=12;i=3".into(), ..Place::default() };
    let error =
        Tail::open(uri, Some(&other), |_| false, Times::default(), Teller::new("test")).err().unwrap();
    assert!(error.to_string().contains("the snapshot is of another input"), "{error}");
}

/// Truncated and filled again to the very length that was read of it.
#[test]
fn a_file_of_the_same_length_is_another() {
    for round in 0..4 {
        let logs = Logs::new("same");
        let mut reader = Reader::of(logs.open("?from=start", None));
        fs::write(logs.path(""), "line 000000000\nline 000000001\n").unwrap();
        reader.read_to(2);
        if round % 2 == 0 {
            let mut file = OpenOptions::new().append(true).open(logs.path("")).unwrap();
            file.write_all(b"line 000000002\n").unwrap();
        }
        fs::copy(logs.path(""), logs.path(".1")).unwrap();
        let file = OpenOptions::new().write(true).open(logs.path("")).unwrap();
        file.set_len(0).unwrap();
        (&file).write_all(b"line 000000003\nline 000000004\n").unwrap();
        reader.read_to(if round % 2 == 0 { 5 } else { 4 });
        assert!(reader.lines.last().is_some_and(|line| line.ends_with('4')));
    }
}

/// More files than are looked for at a time, most of them empty.
#[test]
fn very_many_rotations_are_read_in_order() {
    let folder = Logs::new("many");
    let name = |number: usize| folder.path(&if number == 0 { String::new() } else { format!(".{number}") });
    for number in 0..=40 {
        fs::write(
            name(number),
            if number % 7 == 0 { format!("line {:09}\n", 40 - number) } else { String::new() },
        )
        .unwrap();
    }
    let oldest = Open::new(File::open(name(40)).unwrap(), 0).unwrap();
    let place = Place { cursor: oldest.cursor, ..Place::default() };
    let mut reader = Reader::of(folder.open("", Some(&place)));
    reader.read_to(6);
    let numbers: Vec<&str> = reader.lines.iter().map(|line| line[5..].trim_start_matches('0')).collect();
    assert_eq!(numbers, ["5", "12", "19", "26", "33", "40"]);
}

#[test]
fn what_becomes_of_the_path_is_waited_for() {
    let mut logs = Logs::new("becomes");
    logs.write(2);
    let mut reader = Reader::of(logs.open("?from=start", None));
    reader.read_to(2);
    let becomes: [fn(&Path); 4] = [
        |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        |path| drop(UnixListener::bind(path).unwrap()),
        |path| fs::create_dir(path).unwrap(),
        // As it is for a moment when another has made it. (Root may read it.)
        |path| {
            fs::write(path, "").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
        },
    ];
    for (round, become_that) in becomes.into_iter().enumerate() {
        logs.shift();
        fs::rename(logs.path(""), logs.path(".1")).unwrap();
        become_that(&logs.path(""));
        reader = soon(move || {
            (0..5).for_each(|_| reader.read());
            reader
        });
        if round == 3 {
            fs::set_permissions(logs.path(""), Permissions::from_mode(0o644)).unwrap();
        } else {
            fs::rename(logs.path(""), logs.path(&format!(".old{round}"))).unwrap();
        }
        logs.write(2);
        reader.read_to(logs.written);
    }
    reader.check(0, logs.written);
}

#[test]
fn a_fifo_of_the_inode_of_a_snapshot_is_no_log() {
    let logs = Logs::new("inode");
    assert!(Command::new("mkfifo").arg(logs.path("")).status().unwrap().success());
    let cursor = Id::of(&fs::metadata(logs.path("")).unwrap()).cursor();
    let uri = Uri::parse(&format!("tail://{}", logs.path("").display())).unwrap().unwrap();
    let place = Place { cursor, offset: 0, last: [0; 2] };
    let error = soon(move || {
        let teller = Teller::new("test");
        Tail::open(uri, Some(&place), |_| false, Times::default(), teller).err().unwrap().to_string()
    });
    assert!(error.contains("is no file"), "{error}");
}

/// A writer that has not been told of the rotation, of a log to which nobody else writes.
#[test]
fn who_writes_late_to_a_renamed_file_is_read() {
    let mut logs = Logs::new("late");
    logs.write(3);
    let times = Times { poll: Duration::from_millis(1), grace: Duration::from_millis(200) };
    let mut reader = Reader::of(logs.open_with("?from=start", None, times));
    reader.read_to(3);
    let mut old = OpenOptions::new().append(true).open(logs.path("")).unwrap();
    // Long before it is renamed it has been silent.
    let read_for_long = |reader: &mut Reader| {
        let start = Instant::now();
        while start.elapsed() < times.grace * 2 {
            reader.read();
        }
    };
    read_for_long(&mut reader);
    logs.rotate();
    for _ in 0..3 {
        read_for_long(&mut reader);
        writeln!(old, "line {:09}", logs.written).unwrap();
        logs.written += 1;
        reader.read_to(logs.written);
    }
    logs.write(4);
    reader.read_to(logs.written);
    reader.check(0, logs.written);
}

#[test]
fn no_line_is_read_from_its_middle() {
    let logs = Logs::new("middle");
    fs::write(logs.path(""), "line 000000000\nline 000000001\n").unwrap();
    let place = Reader::of(logs.open("", None)).place;
    assert_eq!(place.offset, 30);
    let check = |place: &Place, text: &str, from: u64, to: u64| {
        // The file that it was, cut short and filled again.
        fs::write(logs.path(""), text).unwrap();
        let mut reader = Reader::of(logs.open("", Some(place)));
        reader.read_to(to - from);
        reader.check(from, to);
    };
    let same = "line 000000000\nline 000000001\nline 000000002\nline 000000003\n";
    let longer = "line 000000002, and more of it\nline 000000003\n";
    let as_long = "line 000000002\nline 000000003\nline 000000004\n";
    check(&place, same, 2, 4);
    check(&place, longer, 2, 4);
    check(&place, as_long, 2, 5);
    // A snapshot that says nothing of the bytes before.
    let cursor = place.cursor.rsplit_once(':').unwrap().0.to_owned();
    let older = Place { cursor, ..place.clone() };
    check(&older, same, 2, 4);
    check(&older, longer, 2, 4);
    // It has been copied before it was cut short.
    fs::write(logs.path(".1"), same).unwrap();
    check(&place, "line 000000004\n", 2, 5);
    fs::remove_file(logs.path(".1")).unwrap();

    // In the midst of a line that is too long.
    let long = "x".repeat(LINE_MAX + 9);
    fs::write(logs.path(""), &long).unwrap();
    let place = Reader::of(logs.open("", None)).place;
    assert_eq!(place.offset, LINE_MAX as u64 + 9);
    check(&place, &format!("{long}xx\nline 000000000\n"), 0, 1);
}

#[test]
fn a_cursor_is_read_as_it_was_written() {
    let id = Id { device: 7, inode: u64::MAX };
    for start in [Start { id, window: None }, Start { id, window: Some(12) }] {
        assert_eq!(Start::parse(&start.cursor()), Some(start));
    }
    assert_eq!(Start::parse(&id.cursor()), Some(Start { id, window: None }));
    for cursor in ["", "tail:", "tail:1", "tail:1:x", "tail:1:2:", "tail:1:2:g", "tail:1:2:3:4", "s=1:2"] {
        assert_eq!(Start::parse(cursor), None, "{cursor}");
    }
}
