use std::fs::OpenOptions;
use std::io::Write;

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
        let uri = Uri::parse(&format!("tail://{}{query}", self.path("").display())).unwrap().unwrap();
        Tail::open(uri, saved, |line| line.starts_with(b"time,"), Times::default(), Teller::new("test"))
            .unwrap()
    }
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
