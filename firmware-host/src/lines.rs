//! Whole lines out of bytes that come in any pieces, from a sender that may go and come back.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most bytes of a line without its end; a longer one is dropped.
pub const MOST_LINE_BYTES: usize = 1 << 20;

/// What has been seen of lines, for whoever wants to look while another thread reads.
#[derive(Debug, Default)]
pub struct LineCounters {
    /// Bytes that came.
    pub bytes: AtomicU64,
    /// Lines that were given.
    pub lines: AtomicU64,
    /// Lines that were dropped because their beginning or their end may be missing, or because they stood before the first
    /// row and were no header, as what a board says while it starts.
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
    /// but for a header that the row behind it shows to be whole.
    Anywhere,
}

/// What a sender's lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// Rows of numbers, with a header or without: see [`Lines`].
    Rows,
    /// Anything, as JSON and text are. None is a header.
    Any,
}

/// Finds the whole lines in bytes that come in any pieces.
///
/// # Headers
///
/// Of [`LineKind::Rows`] the lines before the first row are held back: the last of them is a header if it has names and no
/// number, and as many fields as the row (between commas, semicolons or tabs; in lines without any, words). What else stood
/// there is dropped, such as what a chip's ROM says. A row has numbers alone, or nothing in some fields; with as many fields
/// as the line before or the header, one number is enough. A header whose first name alone is cut cannot be told from a
/// whole one.
///
/// The header is given once: a board that starts over says it again. Another header after a sender has come back is given:
/// a reader of rows then refuses it, which is better than numbers under the wrong names. So are names at the beginning
/// of what may be cut, when the header does not end with them: they may be the end of another one.
///
/// # Invariants
///
/// - `whole` are lines with their ends; `part` is the beginning of one, of [`MOST_LINE_BYTES`] at most.
/// - `held` is none once this session's rows have begun.
#[derive(Debug)]
pub struct Lines {
    whole: Vec<u8>,
    /// Bytes of `whole` that have been taken.
    taken: usize,
    part: Vec<u8>,
    /// The line at hand is too long: its bytes are not kept.
    is_too_long: bool,
    begin: Begin,
    kind: LineKind,
    /// The line at hand is the session's first.
    is_first: bool,
    /// The session's rows have begun.
    has_rows: bool,
    /// Rows of any session have been given.
    has_given: bool,
    /// The last line before the rows.
    held: Option<Held>,
    header: Option<Vec<u8>>,
    counters: Arc<LineCounters>,
}

/// A line before the rows.
#[derive(Debug)]
struct Held {
    line: Vec<u8>,
    may_be_cut: bool,
}

impl Lines {
    /// No line yet, of a sender that begins like this and sends such lines.
    pub fn new(begin: Begin, kind: LineKind) -> Self {
        Lines {
            whole: Vec::new(),
            taken: 0,
            part: Vec::new(),
            is_too_long: false,
            begin,
            kind,
            is_first: true,
            has_rows: false,
            has_given: false,
            held: None,
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
    /// bounded by them and four times [`MOST_LINE_BYTES`].
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
        let may_be_cut = mem::take(&mut self.is_first) && self.begin == Begin::Anywhere;
        if mem::take(&mut self.is_too_long) {
            return add(&self.counters.too_long, 1);
        }
        let line = mem::take(&mut self.part);
        match self.kind {
            LineKind::Any if may_be_cut => add(&self.counters.cut, 1),
            LineKind::Any => self.give(&line),
            LineKind::Rows if self.header.as_deref() == Some(line.trim_ascii_end()) => {
                add(&self.counters.headers, 1);
                self.drop_held();
            }
            LineKind::Rows if self.has_rows => self.give(&line),
            LineKind::Rows => self.begin_rows(&line, may_be_cut),
        }
        self.part = line;
        self.part.clear();
    }

    fn give(&mut self, line: &[u8]) {
        self.whole.extend_from_slice(line);
        self.whole.push(b'\n');
        add(&self.counters.lines, 1);
    }

    /// Takes a line before the rows, or the first of them.
    fn begin_rows(&mut self, line: &[u8], may_be_cut: bool) {
        let (text, is_row) = (text(line), self.is_row(line));
        if text == Some("") || is_row && may_be_cut {
            return add(&self.counters.cut, 1);
        }
        if !is_row {
            self.drop_held();
            self.held = Some(Held { line: line.to_vec(), may_be_cut });
            return;
        }
        if let Some(held) = self.held.take() {
            self.judge(&held, text.unwrap_or_default());
        }
        self.give(line);
        (self.has_rows, self.has_given) = (true, true);
    }

    /// Gives or drops the line before the first row.
    fn judge(&mut self, held: &Held, row: &str) {
        let trimmed = held.line.trim_ascii_end();
        let names = text(&held.line).filter(|names| is_header(names));
        let is_whole = names.is_some_and(|names| fits(names, row));
        let is_end = held.may_be_cut && self.header.as_ref().is_some_and(|header| header.ends_with(trimmed));
        let may_be_another = held.may_be_cut && self.header.is_some();
        match self.has_given {
            false if is_whole => self.header = Some(trimmed.to_vec()),
            true if !is_end && names.is_some() && (is_whole || may_be_another) => {}
            _ => return add(&self.counters.cut, 1),
        }
        self.give(&held.line);
    }

    /// Whether a line is of numbers, or has one and as many fields as the line before or the header.
    fn is_row(&self, line: &[u8]) -> bool {
        let Some(row) = text(line) else { return false };
        let shape = Shape::of(row);
        let before = self.held.as_ref().map(|held| &held.line).into_iter().chain(&self.header);
        let mut before = before.filter_map(|line| text(line));
        let is_like = |other: &str| separated(other).count() == shape.fields;
        shape.numbers > 0 && (shape.others == 0 || separated(row).nth(1).is_some() && before.any(is_like))
    }

    fn drop_held(&mut self) {
        add(&self.counters.cut, u64::from(self.held.take().is_some()));
    }

    /// The sender has gone: what it has begun is dropped. Whole lines can still be taken.
    pub fn hang_up(&mut self) {
        add(&self.counters.cut, u64::from(!self.part.is_empty() || self.is_too_long));
        self.part.clear();
        self.drop_held();
        (self.is_too_long, self.is_first, self.has_rows) = (false, true, false);
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

/// A line without the blanks around it, where it is text.
fn text(line: &[u8]) -> Option<&str> {
    std::str::from_utf8(line.trim_ascii()).ok()
}

/// The fields of a line, between commas, semicolons or tabs that are not quoted.
fn separated(line: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    line.split(move |letter| {
        is_quoted ^= letter == '"';
        !is_quoted && matches!(letter, ',' | ';' | '\t')
    })
}

fn is_number(field: &str) -> bool {
    field.trim().trim_matches('"').parse::<f64>().is_ok()
}

/// Of the fields of a line, or of its words if it has one field.
#[derive(Default)]
struct Shape {
    fields: usize,
    numbers: usize,
    /// Neither a number nor empty.
    others: usize,
}

impl Shape {
    fn of(line: &str) -> Self {
        match separated(line).nth(1) {
            Some(_) => Shape::sum(separated(line)),
            None => Shape::sum(line.split_whitespace()),
        }
    }

    fn sum<'l>(fields: impl Iterator<Item = &'l str>) -> Self {
        fields.fold(Shape::default(), |shape, field| {
            let is_number = is_number(field);
            Shape {
                fields: shape.fields + 1,
                numbers: shape.numbers + usize::from(is_number),
                others: shape.others + usize::from(!is_number && !field.trim().is_empty()),
            }
        })
    }
}

/// Whether these names have the fields of this row. A name over a single number may have words.
fn fits(names: &str, row: &str) -> bool {
    let fields = separated(names).count();
    match separated(row).count() {
        1 if fields == 1 => {
            let words = row.split_whitespace().count();
            words == 1 || names.split_whitespace().count() == words
        }
        expected => fields == expected,
    }
}

/// Whether a line is of names: text with letters in it, no number among its fields, and no JSON.
fn is_header(line: &str) -> bool {
    let is_text = !line.chars().any(|letter| letter.is_control() && letter != '\t' || "{}".contains(letter));
    is_text && line.chars().any(char::is_alphabetic) && !separated(line).any(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is given of sessions of bytes, each handed over in pieces of `step`; and the counters cut, too long, headers.
    fn given(begin: Begin, kind: LineKind, sessions: &[&str], step: usize) -> (String, [u64; 3]) {
        let mut lines = Lines::new(begin, kind);
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

        let cases: [Case<'_>; 11] = [
            // A socket's first line is whole, its last one may not be.
            (Whole, &["1,2\n3,4\n5"], "1,2\n3,4\n", [1, 0, 0]),
            (Whole, &["a,b\n1,2\n", "a,b\n3,4\n"], "a,b\n1,2\n3,4\n", [0, 0, 1]),
            (Whole, &["1,2\n", "3,4\n"], "1,2\n3,4\n", [0, 0, 0]),
            // A board's first numbers may be cut; its names are a header.
            (Anywhere, &["2,2\n3,4\n"], "3,4\n", [1, 0, 0]),
            (Anywhere, &["ax,ay\r\n3,4\r\n"], "ax,ay\r\n3,4\r\n", [0, 0, 0]),
            (Anywhere, &["x\n1e-5\nnan\n", "inf\n2\n"], "x\n1e-5\nnan\n2\n", [1, 0, 0]),
            (Anywhere, &["1e5,-inf\n3,4\n"], "3,4\n", [1, 0, 0]),
            // After it has come back, the header is dropped wherever it stands.
            (Anywhere, &["a,b\n1,2\n3", "3,4\n5,6\n"], "a,b\n1,2\n5,6\n", [2, 0, 0]),
            (Anywhere, &["a,b\n1,2\n", "a,b\n3,4\n"], "a,b\n1,2\n3,4\n", [0, 0, 1]),
            (Anywhere, &["a,b\n1,2\n", ",2\na,b\n3,4\na,b\n5,6\n"], "a,b\n1,2\n3,4\n5,6\n", [1, 0, 2]),
            (Anywhere, &["", "\n", "1\n2\n"], "2\n", [2, 0, 0]),
        ];
        check(LineKind::Rows, &cases);
    }

    type Case<'c> = (Begin, &'c [&'c str], &'c str, [u64; 3]);

    fn check(kind: LineKind, cases: &[Case<'_>]) {
        for &(begin, sessions, text, counts) in cases {
            for step in [1, 2, 3, 100] {
                let found = given(begin, kind, sessions, step);
                assert_eq!(found, (text.into(), counts), "{sessions:?} by {step}");
            }
        }
    }

    #[test]
    fn lines_of_any_kind_are_all_given_but_for_one_that_may_be_cut() {
        let json = "{\"a\":2}\n{\"a\":2}\n";
        let cases: [Case<'_>; 4] = [
            (Begin::Anywhere, &["\":1}\n{\"a\":2}\n{\"a\":2}\n"], json, [1, 0, 0]),
            (Begin::Whole, &[json], json, [0, 0, 0]),
            (Begin::Whole, &["hello\nhello\n1\n", "hello\n"], "hello\nhello\n1\nhello\n", [0, 0, 0]),
            (Begin::Anywhere, &["el\nhello\n\n", "el\nhello\n"], "hello\n\nhello\n", [2, 0, 0]),
        ];
        check(LineKind::Any, &cases);
    }

    #[test]
    fn only_names_above_a_row_of_as_many_fields_are_a_header() {
        use Begin::{Anywhere, Whole};

        const ROM: &str = "ets Jul 29 2019 12:21:46\r\n\r\nrst:0x1 (POWERON_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)\r\n\
            mode:DIO, clock div:2\r\nload:0x3fff0030,len:1184\r\nentry 0x400805e4\r\n";
        let started = format!("{ROM}x,y,z\r\n1,2,3\r\n");
        let without = format!("{ROM}1,2,3\r\n");
        let cases: [Case<'_>; 14] = [
            (Anywhere, &[&started], "x,y,z\r\n1,2,3\r\n", [6, 0, 0]),
            (Whole, &[&without, &without], "1,2,3\r\n1,2,3\r\n", [12, 0, 0]),
            (Anywhere, &[&started, &started], "x,y,z\r\n1,2,3\r\n1,2,3\r\n", [12, 0, 1]),
            // A cut header has lost names.
            (Anywhere, &["el_x,accel_y\n1,2,3\n4,5,6\n"], "1,2,3\n4,5,6\n", [1, 0, 0]),
            // The end of a row from before the port's opening made the board start over.
            (Anywhere, &["3,4\na;b\n\n1;2\n"], "a;b\n1;2\n", [2, 0, 0]),
            (Anywhere, &["3,4a,b\na,b\n1,2\n"], "a,b\n1,2\n", [1, 0, 0]),
            // Words over words, and a name of two words over a number.
            (Whole, &["a b\n1 2\n", "a b\n3 4\n"], "a b\n1 2\n3 4\n", [0, 0, 1]),
            (Whole, &["sensor starts\n1 2 3\n"], "1 2 3\n", [1, 0, 0]),
            (Whole, &["room °C\n21.5\n"], "room °C\n21.5\n", [0, 0, 0]),
            // A quoted name may have a comma; a row may lack a number, or have a text among numbers.
            (Whole, &["\"x, m\",y\n1,\n"], "\"x, m\",y\n1,\n", [0, 0, 0]),
            (Whole, &["t,x\n12:21:46,1\n12:21:47,2\n"], "t,x\n12:21:46,1\n12:21:47,2\n", [0, 0, 0]),
            (Whole, &["12:21:46,1\n12:21:47,2\n"], "12:21:47,2\n", [1, 0, 0]),
            // Without a row there is nothing.
            (Whole, &["a,b\n", "c,d\n1,2\n"], "c,d\n1,2\n", [1, 0, 0]),
            (Whole, &["a,b\n,\n{\"a\":1}\n"], "", [3, 0, 0]),
        ];
        check(LineKind::Rows, &cases);
    }

    #[test]
    fn another_header_after_a_return_is_given_so_that_it_is_refused() {
        use Begin::{Anywhere, Whole};

        let cases: [Case<'_>; 8] = [
            (Anywhere, &["ax,ay\n1,2\n", "ay,ax\n20,10\n"], "ax,ay\n1,2\nay,ax\n20,10\n", [0, 0, 0]),
            (Whole, &["ax,ay\n1,2\n", "ay,ax\n20,10\n"], "ax,ay\n1,2\nay,ax\n20,10\n", [0, 0, 0]),
            (Whole, &["1,2\n", "ay,ax\n20,10\n"], "1,2\nay,ax\n20,10\n", [0, 0, 0]),
            // It may be cut, or stand behind what is.
            (Anywhere, &["ax,ay\n1,2\n", "ax\n20,10\n"], "ax,ay\n1,2\nax\n20,10\n", [0, 0, 0]),
            (Anywhere, &["ax,ay\n1,2\n", "3,4\nay,ax\n20,10\n"], "ax,ay\n1,2\nay,ax\n20,10\n", [1, 0, 0]),
            // The end of the header, and words that are no header.
            (Anywhere, &["ax,ay\n1,2\n", "x,ay\n3,4\n"], "ax,ay\n1,2\n3,4\n", [1, 0, 0]),
            (Anywhere, &["ax,ay\n1,2\n", "y\r\n3,4\n"], "ax,ay\n1,2\n3,4\n", [1, 0, 0]),
            (Anywhere, &["ax,ay\n1,2\n", "hi\nready\n3,4\n"], "ax,ay\n1,2\n3,4\n", [2, 0, 0]),
        ];
        check(LineKind::Rows, &cases);
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_alone() {
        let longest = "x".repeat(MOST_LINE_BYTES);
        let bytes = format!("1\n{longest}x\n2\n{longest}\n3\n{longest}xx");
        for step in [7, 4096, 1 << 22] {
            let (text, counts) = given(Begin::Whole, LineKind::Rows, &[&bytes], step);
            assert!(text == format!("1\n2\n{longest}\n3\n"), "by {step}");
            assert_eq!(counts, [1, 1, 0], "by {step}");
        }
    }

    #[test]
    fn lines_are_whole_across_a_reconnect() {
        let mut lines = Lines::new(Begin::Whole, LineKind::Rows);
        let (mut text, mut room) = (Vec::<u8>::new(), [0; 16]);
        let mut session = |lines: &mut Lines, bytes: &[u8]| {
            lines.push(bytes);
            lines.hang_up();
            let count = lines.take(&mut room);
            text.extend(&room[..count]);
        };
        session(&mut lines, b"a\n1\n2");
        lines.come_back();
        session(&mut lines, b"a\n3\n4");
        assert_eq!(text, b"a\n1\n3\n");
        let counters = lines.counters();
        let counts = [&counters.lines, &counters.cut, &counters.reconnects, &counters.bytes];
        assert_eq!(counts.map(|counter| counter.load(Ordering::Relaxed)), [3, 2, 1, 10]);
    }
}
