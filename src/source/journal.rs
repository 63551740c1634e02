//! `journal://?unit=ssh.service`: the systemd journal, as lines of a classic log.
//!
//! `journalctl -o json -f` is asked, and started again when it dies; each line says where the journal goes on behind it. One
//! that fails at its first start, before any entry, is not started again: what it was asked cannot be answered. `unit`,
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
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{mem, thread};

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
const WORDS_MAX: usize = 400;
/// How long they are waited for once it has ended: a child of its own may hold standard error for ever.
const WORDS_WAIT: Duration = Duration::from_secs(1);
/// What is asked.
const PROGRAM: &str = "journalctl";
/// The most units, or identifiers, that are asked for.
const CHOICES_MAX: usize = 64;

/// The journal's lines.
pub struct Journal {
    /// [`PROGRAM`].
    program: String,
    /// Flags that choose entries.
    choices: Vec<String>,
    from: From,
    teller: Teller,
    running: Option<Running>,
    /// Whether it has started once only, and no entry has come: what it was asked may be at fault then.
    is_new: bool,
    backoff: Backoff,
    assembler: Assembler,
    /// Entries that have come, and bytes of them that were read.
    entries: Vec<u8>,
    read: usize,
    zone: TimeZone,
}

/// What entries are asked for, as a snapshot has it behind where it stands: nothing where all are.
fn asked(choices: &[String]) -> String {
    const MOST: usize = CURSOR_MAX / 4;
    let asked = choices.concat();
    match asked.len() {
        0 => asked,
        1..=MOST => format!("\n{}", choices.join(" ")),
        _ => format!("\n{} choices of checksum {:08x}", choices.len(), crc32fast::hash(asked.as_bytes())),
    }
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
    /// Its words, piece by piece.
    words: Receiver<Vec<u8>>,
}

impl Running {
    fn start(program: &str, choices: &[String], from: &From) -> io::Result<Self> {
        let mut command = Command::new(program);
        // Not to be ended by the Ctrl-C of a terminal, before what it has found is read.
        command.process_group(0);
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
        Ok(Self { child, pieces, words: words(stderr)? })
    }

    /// Why it has ended, and whether it says itself that it has failed.
    fn why(&mut self) -> (String, bool) {
        let ended = self.child.wait();
        let has_failed = ended.as_ref().is_ok_and(|status| status.code().is_some_and(|code| code != 0));
        let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        let (mut words, until) = (Vec::new(), Instant::now() + WORDS_WAIT);
        while let Ok(piece) = self.words.recv_timeout(until.saturating_duration_since(Instant::now())) {
            words.extend(piece);
        }
        let words = tame(&words);
        (if words.is_empty() { status } else { format!("{status}: {words}") }, has_failed)
    }
}

/// Reads what journalctl has to say, [`WORDS_MAX`] bytes of it and then on, so that it need not wait.
fn words(stderr: Option<ChildStderr>) -> io::Result<Receiver<Vec<u8>>> {
    let (send, words) = mpsc::channel();
    thread::Builder::new().name("journal".into()).spawn(move || {
        let Some(mut stderr) = stderr else { return };
        let (mut buffer, mut left) = (vec![0; WORDS_MAX], WORDS_MAX);
        loop {
            match stderr.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    let kept = read.min(left);
                    left -= kept;
                    // Of what nobody asks any more nothing is lost.
                    let _ = if kept > 0 { send.send(buffer[..kept].to_vec()) } else { Ok(()) };
                }
            }
        }
    })?;
    Ok(words)
}

/// Words in one line, in which there is nothing that a terminal would obey.
fn tame(words: &[u8]) -> String {
    let words = String::from_utf8_lossy(words).split_whitespace().collect::<Vec<_>>().join(" ");
    let escaped = |char: char| match char {
        '"' | '\'' | '\\' => char.to_string(),
        char => char.escape_debug().to_string(),
    };
    words.chars().map(escaped).collect()
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
    pub fn open(uri: Uri, saved: Option<&Place>, teller: Teller) -> Result<(Self, Mark)> {
        Self::ask(PROGRAM, uri, saved, teller)
    }

    /// As [`Journal::open`], of a program that answers as journalctl does.
    fn ask(program: &str, mut uri: Uri, saved: Option<&Place>, teller: Teller) -> Result<(Self, Mark)> {
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
            Some(cursor) => match From::parse(cursor.split('\n').next().unwrap_or_default()) {
                Some(from) => {
                    let found = asked(&choices);
                    let expected = cursor.find('\n').map_or("", |at| &cursor[at..]);
                    let [found_told, expected_told] = [&found, expected]
                        .map(|asked| if asked.is_empty() { "all entries" } else { asked.trim_start() });
                    ensure!(
                        found == expected,
                        "asks for {found_told:?}, the snapshot is of {expected_told:?}: a run that goes on has the same entries"
                    );
                    from
                }
                None => bail!("the snapshot is of another input, {cursor:?}, expected the journal"),
            },
            None => From::Since(since.unwrap_or_else(now)),
        };
        let is_line = |from: &From| !from.cursor().contains(char::is_control);
        ensure!(is_line(&from), "begins at {:?}, expected a time in one line", super::shown(&from.cursor()));
        let cursor = from.cursor() + &asked(&choices);
        ensure!(cursor.len() <= CURSOR_MAX, "begins at {cursor:?}, expected {CURSOR_MAX} bytes at most");
        let running = match Running::start(program, &choices, &from) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("needs journalctl of systemd, which is not in PATH")
            }
            running => running.context("cannot start journalctl")?,
        };
        let journal = Self {
            program: program.to_owned(),
            choices,
            from,
            teller,
            running: Some(running),
            is_new: true,
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
                match Running::start(&self.program, &self.choices, &self.from) {
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
                let (why, has_failed) = running.why();
                self.running = None;
                if has_failed && mem::take(&mut self.is_new) {
                    return Err(io::Error::other(format!("journalctl has failed: {why}")));
                }
                self.is_new = false;
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
        self.is_new = false;
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
        Some(Mark { cursor: self.from.cursor() + &asked(&self.choices), offset: None })
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
