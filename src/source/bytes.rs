//! The bytes of a file or of a live stream, and their lines. Nothing here grows with the stream.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{iter, mem, thread};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};

use super::live::{Live, Mark, Origin as LiveOrigin};
use super::{Stopped, saved};

/// The most bytes that a line may have, its newline included.
pub const LINE_MAX: usize = 1 << 20;
/// Bytes in one piece of a live stream.
pub const CHUNK: usize = 1 << 16;
/// How soon a wait for a live stream sees that it should stop.
pub const POLL: Duration = Duration::from_millis(100);

/// Buffered bytes that know how many were consumed and when the next ones are not there yet.
pub struct Bytes {
    reader: BufReader<Feed>,
    /// Bytes in all, of a file.
    total: Option<u64>,
    /// Whether they come in whole lines, one day.
    has_lines: bool,
    /// What is read, where nothing else says it.
    what: String,
    /// Is told how many have been run.
    on_settled: Option<Box<dyn Fn(u64)>>,
    stop: Arc<AtomicBool>,
}

/// Where bytes come from, and how many came.
struct Feed {
    from: Origin,
    count: u64,
}

enum Origin {
    /// Has an answer at once.
    File(Box<dyn Seekable>),
    Live(Box<Live>),
}

/// What has an answer at once and can be gone back in.
trait Seekable: Read + Seek {}

impl<R: Read + Seek> Seekable for R {}

/// What a record needs to be whole.
#[derive(Clone, Copy)]
pub enum Need {
    /// So many bytes.
    Bytes(usize),
    /// A line.
    Line,
    /// What says what the input is: a line with anything on it, or as many bytes from there on.
    First(usize),
}

impl Need {
    /// Whether `parts`, one after the other, have it.
    fn is_met<'a>(self, parts: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut left = if let Need::Bytes(bytes) | Need::First(bytes) = self { bytes } else { 0 };
        let mut begun = !matches!(self, Need::First(_));
        for part in parts {
            let part = if begun { part } else { part.trim_ascii_start() };
            begun |= !part.is_empty();
            left = left.saturating_sub(part.len());
            let is_met = match self {
                Need::Bytes(_) => left == 0,
                Need::Line => part.contains(&b'\n'),
                Need::First(_) => begun && (left == 0 || part.contains(&b'\n')),
            };
            if is_met {
                return true;
            }
        }
        false
    }
}

impl Bytes {
    /// Opens a path, or standard input for `-`. When `stop` is set, a stream ends.
    pub fn open(path: &str, stop: Arc<AtomicBool>) -> Result<Self> {
        if path == "-" {
            return Self::live(io::stdin(), stop);
        }
        let metadata = Path::new(path).metadata()?;
        ensure!(!metadata.is_dir(), "is a directory, expected a file");
        let file = File::open(path)?;
        if metadata.is_file() {
            // Files of /proc have no length that is known.
            return Ok(Self::file(file, Some(metadata.len()).filter(|&len| len > 0), stop));
        }
        Self::live(file, stop)
    }

    /// Bytes that are there for the asking, `total` of them.
    pub fn file(reader: impl Read + Seek + 'static, total: Option<u64>, stop: Arc<AtomicBool>) -> Self {
        Self::new(Origin::File(Box::new(reader)), total, stop)
    }

    /// Bytes that come when they come.
    pub fn live(reader: impl Read + Send + 'static, stop: Arc<AtomicBool>) -> Result<Self> {
        let live = Live::blocking(reader, Arc::clone(&stop)).context("start a thread to read the stream")?;
        Ok(Self::new(Origin::Live(Box::new(live)), None, stop))
    }

    /// Whole lines that come when they come, from `start` on where the origin can say where that is.
    pub fn lines(
        origin: impl LiveOrigin + 'static,
        start: Option<Mark>,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let live =
            Live::new(origin, start, Arc::clone(&stop)).context("start a thread to read the stream")?;
        Ok(Self { has_lines: true, ..Self::new(Origin::Live(Box::new(live)), None, stop) })
    }

    fn new(from: Origin, total: Option<u64>, stop: Arc<AtomicBool>) -> Self {
        let reader = BufReader::with_capacity(CHUNK, Feed { from, count: 0 });
        Bytes { reader, total, has_lines: false, what: String::new(), on_settled: None, stop }
    }

    /// Says what is read, where it cannot be resumed but should not be taken for something else.
    pub fn named(self, what: String) -> Self {
        Self { what, ..self }
    }

    /// Tells `on_settled` how many have been run.
    pub fn settling(self, on_settled: impl Fn(u64) + 'static) -> Self {
        Self { on_settled: Some(Box::new(on_settled)), ..self }
    }

    /// So many of those that were consumed have been run.
    pub fn settle(&self, consumed: u64) {
        if let Some(on_settled) = &self.on_settled {
            on_settled(consumed);
        }
    }

    pub fn total(&self) -> Option<u64> {
        self.total
    }

    pub fn consumed(&self) -> u64 {
        self.reader.get_ref().count - self.reader.buffer().len() as u64
    }

    /// Whether one can go back in it: a file whose length is known.
    pub fn can_seek(&self) -> bool {
        self.total.is_some() && matches!(self.reader.get_ref().from, Origin::File(_))
    }

    /// Whether they come in whole lines, one day: it may be long until the first.
    pub fn has_lines(&self) -> bool {
        self.has_lines
    }

    /// Whether what has been consumed can be told from what has not, when it is opened again.
    pub fn can_resume(&self) -> bool {
        match &self.reader.get_ref().from {
            Origin::File(_) => self.can_seek(),
            Origin::Live(live) => live.has_marks(),
        }
    }

    /// Where a live stream can be resumed behind what has been consumed: a cursor, and a byte behind it.
    pub fn mark(&self) -> Option<(&str, u64)> {
        match &self.reader.get_ref().from {
            Origin::File(_) => None,
            Origin::Live(live) => {
                let what = Some((self.what.as_str(), 0)).filter(|(what, _)| !what.is_empty());
                live.mark(self.reader.buffer().len()).or(what)
            }
        }
    }

    /// Goes to the byte at `offset`.
    pub fn go_to(&mut self, offset: u64) -> Result<()> {
        let Origin::File(file) = &mut self.reader.get_mut().from else { bail!("cannot be gone back in") };
        file.seek(SeekFrom::Start(offset))?;
        self.reader.consume(self.reader.buffer().len());
        self.reader.get_mut().count = offset;
        Ok(())
    }

    /// As [`saved::checksums`].
    pub fn checksums(&mut self, offset: u64) -> Result<[u32; 2]> {
        let Feed { from, count } = self.reader.get_mut();
        let Origin::File(file) = from else { bail!("cannot be gone back in") };
        let checksums = saved::checksums(file, 0..offset);
        // The buffered bytes end where reading goes on.
        file.seek(SeekFrom::Start(*count))?;
        Ok(checksums?)
    }

    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The next bytes without consuming them; none at the end.
    pub fn peek(&mut self) -> Result<&[u8]> {
        Ok(self.reader.fill_buf()?)
    }

    /// What says what the input is: its first bytes, up to and with `count` behind white space, or a line; fewer at the end.
    pub fn first(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut first = self.peek()?.to_vec();
        while !first.is_empty() && !self.stopped() && self.would_wait(Need::First(count)) {
            thread::park_timeout(POLL);
        }
        if let Origin::Live(live) = &self.reader.get_ref().from {
            live.parts().for_each(|part| first.extend_from_slice(part));
        }
        Ok(first)
    }

    /// Consumes bytes of the last [`peek`](Self::peek).
    pub fn consume(&mut self, count: usize) {
        self.reader.consume(count);
    }

    /// Fills `out` as far as there are bytes, and says how far.
    pub fn fill(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            let read = self.reader.read(&mut out[filled..])?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        Ok(filled)
    }

    /// Whether reading on would wait: there is not enough of what has come.
    pub fn would_wait(&mut self, need: Need) -> bool {
        if need.is_met(iter::once(self.reader.buffer())) {
            return false;
        }
        let Origin::Live(live) = &mut self.reader.get_mut().from else { return false };
        live.take_what_has_come();
        let Origin::Live(live) = &self.reader.get_ref().from else { return false };
        !live.is_over() && !need.is_met(iter::once(self.reader.buffer()).chain(live.parts()))
    }
}

impl Read for Feed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            let read = match &mut self.from {
                Origin::File(file) => file.read(out),
                Origin::Live(live) => live.read(out),
            };
            match read {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        self.count += read as u64;
        Ok(read)
    }
}

/// Bytes, line by line.
pub struct Lines {
    bytes: Bytes,
    /// At most [`LINE_MAX`] bytes, newline included.
    line: Vec<u8>,
    /// Number of `line`, from 1.
    number: u64,
    /// The next line is `line` once more.
    again: bool,
}

impl Lines {
    pub fn new(bytes: Bytes) -> Self {
        Lines { bytes, line: Vec::new(), number: 0, again: false }
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn bytes_mut(&mut self) -> &mut Bytes {
        &mut self.bytes
    }

    /// Goes to the byte at `offset`, with which line `line` ends.
    pub fn go_to(&mut self, offset: u64, line: u64) -> Result<()> {
        self.bytes.go_to(offset)?;
        self.line.clear();
        (self.number, self.again) = (line, false);
        Ok(())
    }

    /// Whether the current line is one that has no end yet.
    pub fn is_half(&self) -> bool {
        !self.line.is_empty() && !self.line.ends_with(b"\n")
    }

    /// The current line with its newline; the last one of a file may have none.
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// The current line without its newline, and without the byte order mark at a file's start.
    pub fn text(&self) -> &[u8] {
        let line = match self.number {
            1 => self.line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&self.line),
            _ => &self.line,
        };
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line.strip_suffix(b"\r").unwrap_or(line)
    }

    /// Number of the current line, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Goes to the next line, whenever it is complete; false at the end, or when told to stop.
    pub fn advance(&mut self) -> Result<bool> {
        if self.bytes.stopped() {
            return Ok(false);
        }
        if mem::take(&mut self.again) {
            return Ok(true);
        }
        self.line.clear();
        let limit = LINE_MAX as u64 + 1;
        let read = self.bytes.reader.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
        if read > LINE_MAX {
            bail!("line {} is longer than {LINE_MAX} bytes", self.number + 1);
        }
        self.number += u64::from(read > 0);
        let cut = self.bytes.stopped() && !self.line.ends_with(b"\n");
        Ok(read > 0 && !cut)
    }

    /// Goes to the next line that has anything on it.
    pub fn advance_to_text(&mut self) -> Result<bool> {
        while self.advance()? {
            if !self.text().trim_ascii().is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Why there is no line: that somebody has stopped the input, or else `why`.
    pub fn nothing(&self, why: String) -> Error {
        if self.bytes.stopped() { Stopped.into() } else { anyhow!(why) }
    }

    /// Makes the next line the current one once more.
    pub fn put_back(&mut self) {
        self.again = true;
    }

    /// Whether [`Lines::advance`] would wait.
    pub fn would_wait(&mut self) -> bool {
        !self.again && self.bytes.would_wait(Need::Line)
    }
}
