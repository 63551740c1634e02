//! Whole lines out of bytes that come in any pieces, from a sender that may go and come back.

use std::io::{self, ErrorKind, Read};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most bytes of a line without its end; a longer one is dropped.
pub const MOST_LINE_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 16 << 10;

/// What has been seen of lines, for whoever wants to look while another thread reads.
#[derive(Debug, Default)]
pub struct LineCounters {
    /// Bytes that came.
    pub bytes: AtomicU64,
    /// Lines that were given.
    pub lines: AtomicU64,
    /// Lines that were dropped because their beginning or their end may be missing.
    pub cut: AtomicU64,
    /// Lines that were dropped because they were longer than [`MOST_LINE_BYTES`].
    pub too_long: AtomicU64,
    /// Headers that came again.
    pub headers: AtomicU64,
    /// Times that the sender has come back.
    pub reconnects: AtomicU64,
}

/// How a sender's bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With a line, as a socket's do.
    Whole,
    /// Anywhere, as a serial port's do that is opened while the board talks. The first line is dropped, as it may be cut:
    /// but for a header at the very beginning, which has names and no number.
    Anywhere,
}

/// Finds the whole lines in bytes that come in any pieces.
///
/// A header (the first line, where it has names and no number) is given once: a board that starts over says it again.
///
/// # Invariants
///
/// - `whole` are lines with their ends; `part` is the beginning of one, of [`MOST_LINE_BYTES`] at most.
#[derive(Debug)]
pub struct Lines {
    whole: Vec<u8>,
    /// Bytes of `whole` that have been taken.
    taken: usize,
    part: Vec<u8>,
    /// The line at hand is too long: its bytes are not kept.
    is_too_long: bool,
    begin: Begin,
    is_first: bool,
    /// Lines of a sender before.
    has_come_back: bool,
    header: Option<Vec<u8>>,
    counters: Arc<LineCounters>,
}

impl Lines {
    /// No line yet, of a sender that begins like this.
    pub fn new(begin: Begin) -> Self {
        Lines {
            whole: Vec::new(),
            taken: 0,
            part: Vec::new(),
            is_too_long: false,
            begin,
            is_first: true,
            has_come_back: false,
            header: None,
            counters: Arc::default(),
        }
    }

    /// What has been seen so far.
    pub fn counters(&self) -> Arc<LineCounters> {
        self.counters.clone()
    }

    /// Whether there are bytes of whole lines to be taken.
    pub fn is_empty(&self) -> bool {
        self.taken == self.whole.len()
    }

    /// Takes bytes as they come. When all whole lines are taken before, and so many bytes at most come at a time, memory is
    /// bounded by them and twice [`MOST_LINE_BYTES`].
    pub fn push(&mut self, bytes: &[u8]) {
        add(&self.counters.bytes, bytes.len() as u64);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, has_end) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            if self.part.len() + text.len() > MOST_LINE_BYTES {
                self.is_too_long = true;
                self.part.clear();
            }
            if !self.is_too_long {
                self.part.extend_from_slice(text);
            }
            if has_end {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let is_first = mem::take(&mut self.is_first);
        if mem::take(&mut self.is_too_long) {
            return add(&self.counters.too_long, 1);
        }
        let line = mem::take(&mut self.part);
        match self.counter(&line, is_first) {
            Some(dropped) => add(dropped, 1),
            None => {
                if is_first && !self.has_come_back && is_header(&line) {
                    self.header = Some(line.trim_ascii_end().to_vec());
                }
                self.whole.extend_from_slice(&line);
                self.whole.push(b'\n');
                add(&self.counters.lines, 1);
            }
        }
        self.part = line;
        self.part.clear();
    }

    /// As what a line is dropped, where it is.
    fn counter(&self, line: &[u8], is_first: bool) -> Option<&AtomicU64> {
        if self.header.as_deref() == Some(line.trim_ascii_end()) {
            return Some(&self.counters.headers);
        }
        let may_be_cut = is_first && self.begin == Begin::Anywhere;
        (may_be_cut && (self.has_come_back || !is_header(line))).then_some(&self.counters.cut)
    }

    /// The sender has gone: what it has begun is dropped. Whole lines can still be taken.
    pub fn hang_up(&mut self) {
        add(&self.counters.cut, u64::from(!self.part.is_empty() || self.is_too_long));
        self.part.clear();
        (self.is_too_long, self.is_first, self.has_come_back) = (false, true, true);
    }

    /// The sender, or one like it, is there again.
    pub fn come_back(&mut self) {
        add(&self.counters.reconnects, 1);
    }

    /// Takes bytes of whole lines.
    pub fn take(&mut self, room: &mut [u8]) -> usize {
        let ready = &self.whole[self.taken..];
        let count = ready.len().min(room.len());
        room[..count].copy_from_slice(&ready[..count]);
        self.taken += count;
        if self.is_empty() {
            self.whole.clear();
            self.taken = 0;
        }
        count
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Whether a line is of names: text with letters in it, no number among its fields, and no JSON.
fn is_header(line: &[u8]) -> bool {
    let Ok(line) = std::str::from_utf8(line.trim_ascii()) else { return false };
    let is_text = !line.chars().any(|letter| letter.is_control() && letter != '\t' || "{}".contains(letter));
    let is_number = |field: &str| field.trim().trim_matches('"').parse::<f64>().is_ok();
    is_text && line.chars().any(char::is_alphabetic) && !line.split([',', ';', '\t']).any(is_number)
}

/// The bytes of the whole lines of a reader: a line that never ends is never seen.
#[derive(Debug)]
pub struct WholeLines<R> {
    reader: R,
    lines: Lines,
    room: Box<[u8]>,
}

impl<R: Read> WholeLines<R> {
    /// Of a reader whose bytes begin like this.
    pub fn new(reader: R, begin: Begin) -> Self {
        WholeLines { reader, lines: Lines::new(begin), room: vec![0; READ_BYTES].into() }
    }

    /// What has been seen so far.
    pub fn counters(&self) -> Arc<LineCounters> {
        self.lines.counters()
    }

    /// Goes on with another reader, of the same sender: it has been away.
    pub fn reconnect(&mut self, reader: R) {
        self.reader = reader;
        self.lines.hang_up();
        self.lines.come_back();
    }
}

impl<R: Read> Read for WholeLines<R> {
    /// Waits for whole lines. At the reader's end the line that has begun is dropped.
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.lines.is_empty() {
            match self.reader.read(&mut self.room) {
                Ok(0) => {
                    self.lines.hang_up();
                    return Ok(0);
                }
                Ok(count) => self.lines.push(&self.room[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.lines.take(room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is given of sessions of bytes, each handed over in pieces of `step`; and the counters cut, too long, headers.
    fn given(begin: Begin, sessions: &[&str], step: usize) -> (String, [u64; 3]) {
        let mut lines = Lines::new(begin);
        let (mut text, mut room) = (Vec::new(), [0; 5]);
        for session in sessions {
            for piece in session.as_bytes().chunks(step) {
                lines.push(piece);
                while !lines.is_empty() {
                    let count = lines.take(&mut room);
                    text.extend(&room[..count]);
                }
            }
            lines.hang_up();
        }
        let counters = lines.counters();
        let counts = [&counters.cut, &counters.too_long, &counters.headers];
        let counts = counts.map(|counter| counter.load(Ordering::Relaxed));
        (String::from_utf8(text).unwrap(), counts)
    }

    #[test]
    fn only_lines_that_are_surely_whole_are_given() {
        use Begin::{Anywhere, Whole};

        let cases: [(Begin, &[&str], &str, [u64; 3]); 12] = [
            // A socket's first line is whole, its last one may not be.
            (Whole, &["1,2\n3,4\n5"], "1,2\n3,4\n", [1, 0, 0]),
            (Whole, &["a,b\n1,2\n", "a,b\n3,4\n"], "a,b\n1,2\n3,4\n", [0, 0, 1]),
            (Whole, &["1,2\n", "3,4\n"], "1,2\n3,4\n", [0, 0, 0]),
            // A board's first numbers may be cut; its names are a header.
            (Anywhere, &["2,2\n3,4\n"], "3,4\n", [1, 0, 0]),
            (Anywhere, &["ax,ay\r\n3,4\r\n"], "ax,ay\r\n3,4\r\n", [0, 0, 0]),
            (Anywhere, &["x\n1e-5\nnan\n", "inf\n2\n"], "x\n1e-5\nnan\n2\n", [1, 0, 0]),
            (Anywhere, &["1e5,-inf\n3,4\n"], "3,4\n", [1, 0, 0]),
            (Anywhere, &["\":1}\n{\"a\":2}\n{\"a\":2}\n"], "{\"a\":2}\n{\"a\":2}\n", [1, 0, 0]),
            // After it has come back, the header is dropped wherever it stands.
            (Anywhere, &["a,b\n1,2\n3", "3,4\n5,6\n"], "a,b\n1,2\n5,6\n", [2, 0, 0]),
            (Anywhere, &["a,b\n1,2\n", "a,b\n3,4\n"], "a,b\n1,2\n3,4\n", [0, 0, 1]),
            (Anywhere, &["a,b\n1,2\n", ",2\na,b\n3,4\na,b\n5,6\n"], "a,b\n1,2\n3,4\n5,6\n", [1, 0, 2]),
            (Anywhere, &["", "\n", "1\n2\n"], "2\n", [2, 0, 0]),
        ];
        for (begin, sessions, text, counts) in cases {
            for step in [1, 2, 3, 100] {
                assert_eq!(given(begin, sessions, step), (text.into(), counts), "{sessions:?} by {step}");
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_alone() {
        let longest = "x".repeat(MOST_LINE_BYTES);
        let bytes = format!("1\n{longest}x\n2\n{longest}\n3\n{longest}xx");
        for step in [7, 4096, 1 << 22] {
            let (text, counts) = given(Begin::Whole, &[&bytes], step);
            assert!(text == format!("1\n2\n{longest}\n3\n"), "by {step}");
            assert_eq!(counts, [1, 1, 0], "by {step}");
        }
    }

    #[test]
    fn a_reader_gives_whole_lines_across_a_reconnect() {
        let mut lines = WholeLines::new(&b"a\n1\n2"[..], Begin::Whole);
        let mut text = String::new();
        lines.read_to_string(&mut text).unwrap();
        lines.reconnect(&b"a\n3\n4"[..]);
        lines.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a\n1\n3\n");
        let counters = lines.counters();
        let counts = [&counters.lines, &counters.cut, &counters.reconnects, &counters.bytes];
        assert_eq!(counts.map(|counter| counter.load(Ordering::Relaxed)), [3, 2, 1, 10]);
    }
}
