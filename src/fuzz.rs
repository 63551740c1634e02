//! What holds for any bytes that come in as text: the bodies of the fuzz targets in `fuzz/`.
//!
//! The program has no library, and this is none of its modules: it is the root of the targets' crate, which has the inputs'
//! modules as the program has them.

#![allow(dead_code, unused_imports, reason = "the targets take what they are about")]

pub mod source;

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Cursor, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use mcedge_models::contract::Input;
use rumqttc::QoS;
use source::assembler::Assembler;
use source::live::{Came, Origin};
use source::mqtt::Address;
use source::saved::Place;
use source::tail::{Tail, Times};
use source::tell::Teller;
use source::uri::Uri;
use source::{Bytes, Format, Next, Options, Source};

/// Flags that cannot stand together.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Lines: any pieces give what the bytes give by the definition of a line.
///
/// | bytes | |
/// |---|---|
/// | 1 | the most bytes of a line |
/// | 4 | lengths of pieces, again and again |
/// | the rest | what comes |
pub fn lines(bytes: &[u8]) {
    let Some(([most, lengths @ ..], bytes)) = bytes.split_first_chunk::<5>() else { return };
    let most = usize::from(*most).max(1);
    let mut split: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    split.pop_if(|line| !line.ends_with(b"\n"));
    let expected = split.into_iter().filter(|line| line.len() <= most).collect::<Vec<_>>().concat();

    let (mut assembler, mut out) = (Assembler::new(most), Vec::new());
    let (mut offset, mut lengths) = (0, lengths.iter().cycle());
    while offset < bytes.len() {
        let length = lengths.next().map_or(1, |&length| usize::from(length) + 1);
        let piece = &bytes[offset..bytes.len().min(offset + length)];
        let mut chunk = Vec::new();
        let taken = assembler.push(piece, &mut chunk);
        assert!(taken > 0);
        offset += taken;
        let end = offset - assembler.pending() as usize;
        assert!(chunk.is_empty() || bytes[end - chunk.len()..end] == chunk);
        out.extend(chunk);
    }
    assert_eq!(out, expected);
}

/// A reader that gives its bytes in pieces.
struct Pieces {
    bytes: Cursor<Vec<u8>>,
    lengths: [u8; 4],
    turn: usize,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = (usize::from(self.lengths[self.turn % 4]) + 1).min(out.len());
        self.turn += 1;
        self.bytes.read(&mut out[..length])
    }
}

/// Records of CSV, JSON lines, arrays, text and bytes: those of a stream in any pieces are those of a file, and so is what is
/// wrong with them.
///
/// | bytes | |
/// |---|---|
/// | 1 | what the model takes, and what the input is said to be |
/// | 4 | lengths of pieces, again and again |
/// | the rest | what comes |
pub fn records(bytes: &[u8]) {
    let Some((&[kind, a, b, c, d], bytes)) = bytes.split_first_chunk::<5>() else { return };
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let input = match kind & 3 {
        0 => Input::Features { size: 2, names: names(&["a", "b"]), units: vec![], rate_hz: None },
        1 => Input::Features { size: 2, names: vec![], units: vec![], rate_hz: None },
        2 => Input::Tokens { vocab_size: 256 },
        _ => Input::Tokens { vocab_size: 9 },
    };
    let format = [None, Some(Format::Csv), Some(Format::Jsonl), Some(Format::Text), Some(Format::Bytes)];
    let options = Options {
        format: format[usize::from(kind >> 2 & 7).min(4)],
        stream_column: (kind & 32 != 0).then(|| "a".to_owned()),
        answers: (kind & 64 != 0).then_some(7),
        ..Options::default()
    };
    let path = if kind & 128 != 0 { "-" } else { "x.csv" };
    // Without a length, by which an array that is cut short is known before its rows.
    let file = Bytes::file(Cursor::new(bytes.to_vec()), None, Arc::clone(&options.stop));
    let pieces = Pieces { bytes: Cursor::new(bytes.to_vec()), lengths: [a, b, c, d], turn: 0 };
    let live = Bytes::live(pieces, Arc::clone(&options.stop)).expect("a thread");
    assert_eq!(told(path, live, &input, &options), told(path, file, &input, &options));
}

/// All records of an input, and how it ends, in words.
fn told(path: &str, bytes: Bytes, input: &Input, options: &Options) -> String {
    let mut told = String::new();
    let read = || -> anyhow::Result<()> {
        let mut source = Source::over("x", path, bytes, input, options)?;
        writeln!(told, "{:?}", source.fields())?;
        loop {
            match source.advance()? {
                Next::Record => writeln!(told, "{:?} {:?}", source.record(), source.answers())?,
                Next::Wait => std::thread::park_timeout(source::POLL),
                Next::Again => {}
                Next::End => return Ok(()),
            }
        }
    };
    let ended = read().map_err(|error| format!("{error:#}"));
    format!("{told}{ended:?}")
}

/// An entry of the journal: one line, or none.
pub fn journal(bytes: &[u8]) {
    let Some(entry) = source::journal::entry(bytes, &TimeZone::UTC) else { return };
    if let Some(line) = entry.line {
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1 && !line.contains('\r'));
    }
    if let Some(cursor) = entry.cursor {
        assert!(
            !cursor.is_empty() && cursor.len() < 1024 && cursor.bytes().all(|byte| byte.is_ascii_graphic())
        );
    }
}

/// A URI: its parts, or why it has none.
pub fn uri(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    assert!(source::is_live(text) || source::stream_name(text).is_none());
    assert!(source::is_live(text) || source::local_path(text).is_none());
    let Ok(Some(mut uri)) = Uri::parse(text) else { return };
    assert!(text.starts_with(&format!("{}://{}", uri.scheme, uri.what)));
    let _ = Address::parse(uri.clone(), QoS::AtMostOnce);
    let _ = (uri.what("PATH"), uri.take_all("unit"), uri.take("since"), uri.choose("from", &[("start", 1)]));
    let left = uri.clone();
    assert!(uri.take_all("unit").is_empty());
    assert_eq!(uri.end().is_ok(), left.end().is_ok());
}

/// A log that is written, rotated, cut short and read, in any order: each of its lines is read once, in order.
///
/// Each byte is a step: what is done, and how much of it.
pub fn tail(steps: &[u8]) {
    let mut log = Log::new();
    let mut reader = log.open(None);
    for &step in steps.iter().take(60) {
        let count = usize::from(step >> 3) + 1;
        match step & 7 {
            0 | 1 => log.write(count),
            2 => log.rotate(),
            3 => {
                if log.is_fresh {
                    // Of a file that is not begun to be read nothing is known by which its copy could be.
                    log.write(1);
                    reader.drain();
                }
                log.copy_and_truncate();
            }
            // A run that ends and goes on: of what was read of a file there is a last line.
            4 if reader.place.last[0] > 0 => {
                let (place, lines) = (reader.place.clone(), std::mem::take(&mut reader.lines));
                reader = log.open(Some(&place));
                reader.lines = lines;
            }
            5 => log.write_half(count),
            _ => drop(reader.read()),
        }
    }
    log.write(1);
    reader.drain();
    let expected: Vec<String> = (0..log.written).map(|number| format!("line {number:05}")).collect();
    assert_eq!(reader.lines, expected);
}

/// A log in a folder of its own, in memory where the system has a place for that.
struct Log {
    folder: PathBuf,
    written: usize,
    /// Whether nothing of the file at the path can have been read.
    is_fresh: bool,
    /// Bytes of the next line that are written already.
    half: usize,
}

impl Log {
    fn new() -> Self {
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let folder = base.join(format!("mcedge-fuzz-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        let log = Self { folder, written: 0, is_fresh: true, half: 0 };
        fs::write(log.path(0), "").expect("a log");
        log
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.join(if number == 0 { "log".to_owned() } else { format!("log.{number}") })
    }

    fn append(&self, text: &str) {
        let file = OpenOptions::new().append(true).create(true).open(self.path(0));
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a log");
    }

    fn write(&mut self, lines: usize) {
        for _ in 0..lines {
            let line = format!("line {:05}\n", self.written);
            self.append(&line[self.half..]);
            self.half = 0;
            self.written += 1;
        }
    }

    /// Writes a part of a line.
    fn write_half(&mut self, bytes: usize) {
        let line = format!("line {:05}", self.written);
        let end = (self.half + bytes % 4).min(line.len());
        self.append(&line[self.half..end]);
        self.half = end;
    }

    /// Makes room for a new first file: no line is in two.
    fn shift(&mut self) {
        if self.half > 0 {
            self.write(1);
        }
        for number in (1..70).rev().filter(|&number| self.path(number).exists()) {
            fs::rename(self.path(number), self.path(number + 1)).expect("a log that is renamed");
        }
        self.is_fresh = true;
    }

    fn rotate(&mut self) {
        self.shift();
        fs::rename(self.path(0), self.path(1)).expect("a log that is renamed");
        self.append("");
    }

    fn copy_and_truncate(&mut self) {
        self.shift();
        fs::copy(self.path(0), self.path(1)).expect("a copy");
        let file = OpenOptions::new().write(true).open(self.path(0));
        file.and_then(|file| file.set_len(0)).expect("a log cut short");
    }

    fn open(&self, place: Option<&Place>) -> Reader {
        let text = format!("tail://{}?from=start", self.path(0).display());
        let uri = Uri::parse(&text).ok().flatten().expect("a URI");
        let times = Times { poll: Duration::ZERO, grace: Duration::ZERO };
        let (tail, mark) = Tail::open(uri, place, |_| false, times, Teller::new("log")).expect("a log");
        let start = Place { cursor: mark.cursor, offset: mark.offset.expect("a byte"), last: [0; 2] };
        let is_there = |place: &&Place| place.cursor == start.cursor && place.offset == start.offset;
        let place = place.filter(is_there).cloned().unwrap_or(start);
        Reader { tail, lines: Vec::new(), place }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What reads a log.
struct Reader {
    tail: Tail,
    lines: Vec<String>,
    place: Place,
}

impl Reader {
    /// Reads a piece; whether there was one.
    fn read(&mut self) -> bool {
        let mut chunk = Vec::new();
        let Came::Chunk(mark) = self.tail.read(&mut chunk).expect("a log") else { return false };
        let mark = mark.expect("a place");
        assert!(chunk.ends_with(b"\n"));
        let last = chunk.split_inclusive(|&byte| byte == b'\n').next_back().unwrap_or_default();
        let last = [last.len() as u32, crc32fast::hash(last)];
        self.place = Place { cursor: mark.cursor, offset: mark.offset.expect("a byte"), last };
        self.lines.extend(String::from_utf8_lossy(&chunk).lines().map(str::to_owned));
        true
    }

    /// Reads until nothing comes any more.
    fn drain(&mut self) {
        let mut silent = 0;
        while silent < 8 {
            silent = if self.read() { 0 } else { silent + 1 };
        }
    }
}
