//! `journal://?unit=ssh.service`: the systemd journal, as lines of a classic log.
//!
//! `journalctl -o json -f` is asked, and started again when it dies; each line says where the journal goes on behind it. `unit`,
//! `identifier` and `priority` choose entries as journalctl's flags of these names do, `since` where a new run begins, which is
//! else with what comes.
//!
//! | bound | |
//! |---|---|
//! | an entry | [`ENTRY_MAX`] bytes of JSON, and [`LINE_MAX`] of a line; longer ones are dropped and counted |
//! | output that waits | [`PIECES`] pieces; then journalctl waits |
//! | starts | one in [`Backoff`]'s time |

mod entry;
#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use jiff::tz::TimeZone;

use super::assembler::Assembler;
use super::bytes::{CHUNK, LINE_MAX, POLL};
use super::live::{CURSOR_MAX, Came, Mark, Origin};
use super::saved::Place;
use super::socket::Backoff;
use super::tell::Teller;
use super::uri::Uri;
pub use entry::entry;

/// The most bytes of an entry: of a message of bytes that are no text each is a number.
const ENTRY_MAX: usize = 8 * LINE_MAX;
/// Pieces of output that wait to be read.
const PIECES: usize = 4;
/// Bytes kept of what journalctl says when it fails.
const WORDS_MAX: u64 = 400;
/// The most units, or identifiers, that are asked for.
const CHOICES_MAX: usize = 64;

/// The journal's lines.
pub struct Journal {
    /// Flags that choose entries.
    choices: Vec<String>,
    from: From,
    teller: Teller,
    running: Option<Running>,
    backoff: Backoff,
    assembler: Assembler,
    /// Entries that have come, and bytes of them that were read.
    entries: Vec<u8>,
    read: usize,
    zone: TimeZone,
}

/// Where journalctl is to begin.
#[derive(Clone, Debug, PartialEq)]
enum From {
    /// With what it prints for this time, as it understands it.
    Since(String),
    /// Behind an entry.
    After(String),
}

impl From {
    const SINCE: &str = "journal@";
    const AFTER: &str = "journal:";

    /// What a snapshot has of it.
    fn cursor(&self) -> String {
        match self {
            From::Since(time) => format!("{}{time}", Self::SINCE),
            From::After(cursor) => format!("{}{cursor}", Self::AFTER),
        }
    }

    /// What [`From::cursor`] has written.
    fn parse(cursor: &str) -> Option<Self> {
        let after = cursor.strip_prefix(Self::AFTER).map(|cursor| From::After(cursor.to_owned()));
        after.or_else(|| cursor.strip_prefix(Self::SINCE).map(|time| From::Since(time.to_owned())))
    }

    fn flag(&self) -> String {
        match self {
            From::Since(time) => format!("--since={time}"),
            From::After(cursor) => format!("--after-cursor={cursor}"),
        }
    }
}

/// A journalctl that runs.
struct Running {
    child: Child,
    pieces: Receiver<Vec<u8>>,
    /// Reads its words.
    words: Option<JoinHandle<String>>,
}

impl Running {
    fn start(choices: &[String], from: &From) -> io::Result<Self> {
        let mut command = Command::new("journalctl");
        // Without --all it leaves long messages out, without --no-tail all but ten entries.
        command.args(["--output=json", "--follow", "--no-pager", "--all", "--no-tail", &from.flag()]);
        command.args(choices).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (send, pieces) = mpsc::sync_channel(PIECES);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        thread::Builder::new().name("journal".into()).spawn(move || {
            let Some(mut stdout) = stdout else { return };
            let mut buffer = vec![0; CHUNK];
            loop {
                match stdout.read(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => return,
                    Ok(read) if send.send(buffer[..read].to_vec()).is_err() => return,
                    Ok(_) => {}
                }
            }
        })?;
        let words = thread::Builder::new().name("journal".into()).spawn(move || {
            let Some(mut stderr) = stderr else { return String::new() };
            let mut words = Vec::new();
            let _ = stderr.by_ref().take(WORDS_MAX).read_to_end(&mut words);
            let _ = io::copy(&mut stderr, &mut io::sink());
            String::from_utf8_lossy(&words).split_whitespace().collect::<Vec<_>>().join(" ")
        })?;
        Ok(Self { child, pieces, words: Some(words) })
    }

    /// Why it has ended.
    fn why(&mut self) -> String {
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        let words = self.words.take().and_then(|words| words.join().ok()).unwrap_or_default();
        if words.is_empty() { status } else { format!("{status}: {words}") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Journal {
    /// Opens `journal://?…`, where a snapshot stands if there is one; and says where that is.
    ///
    /// # Errors
    ///
    /// The URI is none of the journal; the snapshot is of something else; there is no journalctl.
    pub fn open(mut uri: Uri, saved: Option<&Place>, teller: Teller) -> Result<(Self, Mark)> {
        ensure!(uri.what.is_empty(), "has {:?} behind ://, expected journal://?unit=NAME", uri.what);
        let mut choices = Vec::new();
        for (key, flag) in [("unit", "--unit"), ("identifier", "--identifier"), ("priority", "--priority")] {
            let values = uri.take_all(key);
            ensure!(
                values.len() <= CHOICES_MAX,
                "has `{key}` {} times, expected {CHOICES_MAX}",
                values.len()
            );
            choices.extend(values.into_iter().map(|value| format!("{flag}={value}")));
        }
        let since = uri.take("since")?;
        uri.end()?;
        let saved = saved.map(|place| place.cursor.as_str()).filter(|cursor| !cursor.is_empty());
        let from = match saved {
            Some(cursor) => match From::parse(cursor) {
                Some(from) => from,
                None => bail!("the snapshot is of another input, {cursor:?}, expected the journal"),
            },
            None => From::Since(since.unwrap_or_else(now)),
        };
        let cursor = from.cursor();
        ensure!(cursor.len() <= CURSOR_MAX, "begins at {cursor:?}, expected {CURSOR_MAX} bytes at most");
        let running = match Running::start(&choices, &from) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("needs journalctl of systemd, which is not in PATH")
            }
            running => running.context("cannot start journalctl")?,
        };
        let journal = Self {
            choices,
            from,
            teller,
            running: Some(running),
            backoff: Backoff::default(),
            assembler: Assembler::new(ENTRY_MAX),
            entries: Vec::new(),
            read: 0,
            zone: TimeZone::system(),
        };
        Ok((journal, Mark { cursor, offset: None }))
    }

    /// Waits a while for more entries.
    fn wait(&mut self) -> io::Result<()> {
        let Some(running) = &mut self.running else {
            if self.backoff.wait() {
                match Running::start(&self.choices, &self.from) {
                    Ok(running) => self.running = Some(running),
                    Err(error) => {
                        self.teller.tell(format_args!("cannot start journalctl: {error}"));
                        self.backoff.fail();
                    }
                }
            }
            return Ok(());
        };
        match running.pieces.recv_timeout(POLL) {
            Ok(piece) => {
                self.entries.clear();
                self.read = 0;
                self.assembler.push_all(&piece, &mut self.entries);
                self.teller.count(&mut self.assembler);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let why = running.why();
                self.running = None;
                self.assembler.cut();
                // Half an entry comes again.
                self.assembler.take_counts();
                self.teller.tell(format_args!("journalctl has ended: {why}; starts it again"));
                self.backoff.fail();
            }
        }
        Ok(())
    }

    /// The next entry's line, where it has one.
    fn next(&mut self, chunk: &mut Vec<u8>) -> Option<Mark> {
        let rest = &self.entries[self.read..];
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        self.read += end + 1;
        let Some(entry) = entry(&rest[..end], &self.zone) else {
            self.teller.tell("left out what is no entry");
            return None;
        };
        if let Some(cursor) = entry.cursor {
            self.from = From::After(cursor);
            self.backoff.succeed();
        }
        let line = entry.line?;
        if line.len() > LINE_MAX {
            self.teller.too_long(1);
            return None;
        }
        chunk.extend_from_slice(line.as_bytes());
        Some(Mark { cursor: self.from.cursor(), offset: None })
    }
}

impl Origin for Journal {
    fn read(&mut self, chunk: &mut Vec<u8>) -> io::Result<Came> {
        if self.read == self.entries.len() {
            self.wait()?;
        }
        while self.read < self.entries.len() {
            if let Some(mark) = self.next(chunk) {
                return Ok(Came::Chunk(Some(mark)));
            }
        }
        Ok(Came::Nothing)
    }
}

/// The time, as journalctl takes it.
fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("@{}.{:06}", now.as_secs(), now.subsec_micros())
}
