//! `tail://PATH`: the lines that are written to a file, through rotation and truncation.
//!
//! The path is looked at every [`POLL`]. A file that is renamed is read to its end, and until the next has anything and the
//! writer of this one has been silent for [`GRACE`] since, before the next; one that is cut short (`copytruncate`) is read on in its copy, if that is found, and then from
//! its beginning. Files are told apart by device and inode, and one of the same inode by the bytes before the place where
//! reading goes on.
//!
//! | bound | |
//! |---|---|
//! | a line | [`LINE_MAX`] bytes; longer ones are dropped and counted |
//! | files held open | twice [`FILES_MAX`]; those behind them are found in the folder later |
//! | rotations unseen between two looks | as many as the folder keeps as `PATH.1`, `PATH-20260131` or the like, not compressed |

mod folder;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::assembler::Assembler;
use super::bytes::{CHUNK, LINE_MAX, POLL};
use super::live::{Came, Mark, Origin};
use super::saved::Place;
use super::tell::Teller;
use super::uri::Uri;
use folder::Folder;

/// What a cursor of a file begins with.
const SCHEME: &str = "tail";
/// How long the writer of a renamed file is silent, once the next has anything, before the next file's turn.
const GRACE: Duration = Duration::from_secs(1);
/// Files that are held open.
const FILES_MAX: usize = 16;
/// Bytes before the place where reading goes on by which a file is known again.
const WINDOW: u64 = 256;
/// Pieces without a line that are read at a time.
const PIECES: usize = 64;

/// What [`Tail`] waits for.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Between two looks.
    pub poll: Duration,
    /// How long the writer of a renamed file is silent, once the next has anything, before the next file's turn.
    pub grace: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { poll: POLL, grace: GRACE }
    }
}

/// A file's lines, as they are written.
pub struct Tail {
    folder: Folder,
    times: Times,
    teller: Teller,
    /// The file that is read, and those behind it, oldest first.
    files: VecDeque<Open>,
    assembler: Assembler,
    /// A line that goes before all others: the header of the file that is read on in.
    header: Vec<u8>,
    /// When the path was looked at.
    looked: Option<Instant>,
    /// Whether the path names nothing that can be followed, and that is told.
    is_gone: bool,
    /// What was read of a file and its window.
    buffer: Vec<u8>,
    /// Since when nothing has come of the first file though the next has something.
    quiet: Option<Instant>,
}

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    device: u64,
    inode: u64,
}

impl Id {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    fn cursor(self) -> String {
        format!("{SCHEME}:{}:{}", self.device, self.inode)
    }
}

/// What a cursor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Start {
    id: Id,
    /// CRC32 of the bytes before the place where reading begins, [`WINDOW`] at most, where nothing had been read yet: there is
    /// no last line to know the file by.
    window: Option<u32>,
}

impl Start {
    fn of(open: &Open) -> Self {
        let window = Some(&open.window).filter(|window| !window.is_empty());
        Self { id: open.id, window: window.map(|window| crc32fast::hash(window)) }
    }

    fn cursor(self) -> String {
        let window = self.window.map_or_else(String::new, |window| format!(":{window:08x}"));
        self.id.cursor() + &window
    }

    /// What [`Start::cursor`] or [`Id::cursor`] has written.
    fn parse(cursor: &str) -> Option<Self> {
        let mut parts = cursor.strip_prefix(SCHEME)?.strip_prefix(':')?.split(':');
        let id = Id { device: parts.next()?.parse().ok()?, inode: parts.next()?.parse().ok()? };
        let window = parts.next().map(|window| u32::from_str_radix(window, 16)).transpose().ok()?;
        parts.next().is_none().then_some(Self { id, window })
    }

    /// Whether a file has those bytes before the place, which is where reading was to begin unless a line has been read.
    fn is_in(self, file: &File, place: &Place) -> bool {
        let Some(window) = self.window.filter(|_| place.last[0] == 0) else { return true };
        bytes_before(file, place.offset).is_ok_and(|bytes| crc32fast::hash(&bytes) == window)
    }
}

/// The bytes before a place, [`WINDOW`] at most.
fn bytes_before(file: &File, at: u64) -> io::Result<Vec<u8>> {
    let length = at.min(WINDOW);
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, at - length)?;
    Ok(bytes)
}

/// The cursor of a file that is not there yet.
fn nothing() -> String {
    format!("{SCHEME}:")
}

/// A file that is read.
#[derive(Debug)]
struct Open {
    file: File,
    id: Id,
    cursor: String,
    /// The byte that is next.
    at: u64,
    /// The bytes before it, [`WINDOW`] at most.
    window: Vec<u8>,
    /// When it had been changed when it was read: a copy of it is no older.
    changed: (i64, i64),
    /// Whether nobody writes to it.
    is_done: bool,
}

/// What was found of a file.
enum Piece {
    /// Bytes behind its window, in the buffer.
    Bytes,
    /// None yet.
    Nothing,
    /// It does not have what was read of it any more.
    CutShort,
}

impl Open {
    fn new(file: File, at: u64) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let (id, changed) = (Id::of(&metadata), changed(&metadata));
        let window = bytes_before(&file, at)?;
        Ok(Self { file, id, cursor: id.cursor(), at, window, changed, is_done: false })
    }

    /// Reads what is behind the window into `buffer`, which is left at the bytes behind it.
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<Piece> {
        let window = self.window.len();
        buffer.resize(window + CHUNK, 0);
        let read = self.file.read_at(buffer, self.at - window as u64)?;
        buffer.truncate(read);
        Ok(match read.checked_sub(window) {
            Some(0) if *buffer == self.window => Piece::Nothing,
            Some(_) if buffer.starts_with(&self.window) => Piece::Bytes,
            _ => Piece::CutShort,
        })
    }

    /// Which file it is, and when it was last written to.
    fn age(&self) -> io::Result<(Id, (i64, i64))> {
        Ok((self.id, changed(&self.file.metadata()?)))
    }

    /// Goes on behind bytes that were taken.
    fn advance(&mut self, taken: &[u8]) {
        self.at += taken.len() as u64;
        self.window.extend_from_slice(&taken[taken.len().saturating_sub(WINDOW as usize)..]);
        let more = self.window.len().saturating_sub(WINDOW as usize);
        self.window.drain(..more);
    }
}

/// When a file was last written to.
fn changed(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

impl Tail {
    /// Follows the file of `uri` from its end, from its start, or from where a snapshot stands; and where that is.
    ///
    /// `is_header` says whether a first line is a header, which goes before what is read behind it.
    ///
    /// # Errors
    ///
    /// The URI is none of a file to follow; the file is a directory or a stream, or cannot be read. One that is not there
    /// is waited for.
    pub fn open(
        mut uri: Uri,
        saved: Option<&Place>,
        is_header: impl Fn(&[u8]) -> bool,
        times: Times,
        teller: Teller,
    ) -> Result<(Self, Mark)> {
        let path = path(&uri)?;
        let from_start = uri.choose("from", &[("start", true), ("end", false)])?.unwrap_or(false);
        uri.end()?;
        let mut tail = Self {
            folder: Folder::of(path),
            times,
            teller,
            files: VecDeque::new(),
            assembler: Assembler::new(LINE_MAX),
            header: Vec::new(),
            looked: None,
            is_gone: false,
            buffer: Vec::new(),
            quiet: None,
        };
        let saved = saved.filter(|place| !place.cursor.is_empty());
        match saved {
            Some(place) => tail.resume(place)?,
            None => tail.begin(from_start)?,
        }
        let Some(open) = tail.files.front() else {
            return Ok((tail, Mark { cursor: nothing(), offset: Some(0) }));
        };
        if open.at > 0 {
            tail.header = first_line(&open.file)?.filter(|line| is_header(line)).unwrap_or_default();
        }
        // A last line that was read says more.
        let has_line = saved.is_some_and(|place| place.last[0] > 0);
        let cursor = if has_line { open.cursor.clone() } else { Start::of(open).cursor() };
        let mark = Mark { cursor, offset: Some(open.at - tail.assembler.pending()) };
        Ok((tail, mark))
    }

    /// Begins with the file as it is.
    fn begin(&mut self, from_start: bool) -> Result<()> {
        let Some(file) = self.folder.open()? else { return Ok(()) };
        let length = file.metadata()?.len();
        let at = if from_start { 0 } else { line_start(&file, length)? };
        self.go_to(file, at)
    }

    /// Reads a file from a byte on, at which a line begins, or one goes on that is too long already.
    fn go_to(&mut self, file: File, at: u64) -> Result<()> {
        if at > 0 && !ends_a_line(&file, at)? {
            self.assembler.skip_line();
        }
        self.files.push_back(Open::new(file, at)?);
        Ok(())
    }

    /// Goes on where a snapshot stands.
    fn resume(&mut self, place: &Place) -> Result<()> {
        if place.cursor == nothing() {
            return self.begin(true);
        }
        let Some(start) = Start::parse(&place.cursor) else {
            bail!("the snapshot is of another input, {:?}, expected a file that is followed", place.cursor);
        };
        match self.folder.find(start, place) {
            Some((file, is_done)) => {
                self.go_to(file, place.offset)?;
                self.files.iter_mut().for_each(|open| open.is_done = is_done);
                Ok(())
            }
            None => {
                self.teller.tell(format_args!(
                    "what the snapshot has read up to byte {} is in no file any more: goes on with the start of {}",
                    place.offset,
                    self.folder.path().display()
                ));
                self.begin(true)
            }
        }
    }

    /// Looks whether the path names another file by now, and takes it in, and those between.
    fn look(&mut self) {
        if self.looked.is_some_and(|looked| looked.elapsed() < self.times.poll)
            || self.files.len() >= FILES_MAX
        {
            return;
        }
        self.looked = Some(Instant::now());
        match self.look_at_path() {
            Ok(()) => self.is_gone = false,
            Err(error) => self.gone(&error),
        }
    }

    fn look_at_path(&mut self) -> io::Result<()> {
        let metadata = fs::metadata(self.folder.path())?;
        if self.files.iter().any(|open| open.id == Id::of(&metadata)) {
            return Ok(());
        }
        // Before the folder is listed: what cannot be opened now is asked for often.
        drop(self.folder.now()?);
        let last = self.files.back().map(Open::age).transpose()?;
        self.take_in_behind(last, FILES_MAX, self.files.len())
    }

    /// Takes in what is behind a file, `most` of it, at that place among the files.
    fn take_in_behind(&mut self, last: Option<(Id, (i64, i64))>, most: usize, at: usize) -> io::Result<()> {
        let (behind, is_complete) = self.folder.behind(last, most);
        self.take_in(behind, at)?;
        is_complete
    }

    /// Takes in those of `files` that are not known yet, each behind the one before it, the first at that place.
    fn take_in(&mut self, files: Vec<File>, mut at: usize) -> io::Result<()> {
        for file in files {
            let open = Open::new(file, 0)?;
            match self.files.iter().position(|known| known.id == open.id) {
                Some(known) => at = known + 1,
                // Those behind it are found when there is room.
                None if self.files.len() >= 2 * FILES_MAX => return Ok(()),
                None => {
                    self.files.insert(at, open);
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// Takes in what is behind the first file and is not known: files that have come and gone between two looks, and copies
    /// of those that were cut short before they were read.
    fn look_behind_first(&mut self) -> io::Result<()> {
        let Some(first) = self.files.front() else { return Ok(()) };
        let age = first.age()?;
        if let Err(error) = self.take_in_behind(Some(age), 2 * FILES_MAX, 1) {
            self.gone(&error);
        }
        Ok(())
    }

    /// What cannot be found or read may come back: a new log has its mode and its owner after its name.
    fn gone(&mut self, error: &io::Error) {
        if !self.is_gone {
            self.is_gone = true;
            self.teller.tell(format_args!("waits for the file: {error}"));
        }
    }

    /// Goes on in the copy of the first file, which has been cut short, and then from its start.
    fn cut_short(&mut self) -> io::Result<()> {
        let Some(open) = self.files.front_mut() else { return Ok(()) };
        let copy = self.folder.copy(open.id, open.at, &open.window, open.changed);
        let (at, window) = (std::mem::take(&mut open.at), std::mem::take(&mut open.window));
        let copy = copy.and_then(|file| Open::new(file, at).ok()).filter(|copy| copy.window == window);
        let Some(copy) = copy else {
            self.lose_the_rest(at);
            return Ok(());
        };
        self.files.push_front(Open { is_done: true, ..copy });
        // It may have been cut short more than once.
        self.look_behind_first()
    }

    fn lose_the_rest(&mut self, at: u64) {
        self.assembler.cut();
        self.teller.count(&mut self.assembler);
        self.teller.tell(format_args!(
            "was cut short behind byte {at}, of which no copy is found: goes on with its start"
        ));
    }

    /// Whether the first file will bring nothing more, and there is one behind it.
    fn is_over(&mut self) -> bool {
        match (self.files.get(1), self.files.len()) {
            (None, _) => false,
            // Somebody may still write to a file that was renamed, at least as long as nobody writes to the next.
            (Some(next), 2) if !self.files[0].is_done => {
                if next.file.metadata().is_ok_and(|metadata| metadata.len() == 0) {
                    self.quiet = None;
                    return false;
                }
                self.quiet.get_or_insert_with(Instant::now).elapsed() >= self.times.grace
            }
            _ => true,
        }
    }

    /// Leaves the first file.
    fn next_file(&mut self) -> io::Result<()> {
        self.look_behind_first()?;
        self.assembler.cut();
        self.teller.count(&mut self.assembler);
        self.files.pop_front();
        self.quiet = None;
        Ok(())
    }

    /// Reads a piece of the first file; whether it is worth to ask again at once.
    fn read_piece(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        let Some(open) = self.files.front_mut() else { return Ok(false) };
        // Before it is read: whatever is copied of it is copied later.
        let changed = changed(&open.file.metadata()?);
        match open.read(&mut self.buffer)? {
            Piece::Bytes => {
                self.quiet = None;
                open.changed = changed;
                let bytes = &self.buffer[open.window.len()..];
                let taken = self.assembler.push(bytes, chunk);
                open.advance(&bytes[..taken]);
                self.teller.count(&mut self.assembler);
            }
            Piece::CutShort => self.cut_short()?,
            Piece::Nothing if self.is_over() => self.next_file()?,
            Piece::Nothing => return Ok(false),
        }
        Ok(true)
    }
}

impl Origin for Tail {
    fn read(&mut self, chunk: &mut Vec<u8>) -> io::Result<Came> {
        if !self.header.is_empty() {
            chunk.append(&mut self.header);
            return Ok(Came::Chunk(None));
        }
        for _ in 0..PIECES {
            self.look();
            let goes_on = self.read_piece(chunk)?;
            if !chunk.is_empty() {
                let open = &self.files[0];
                let offset = Some(open.at - self.assembler.pending());
                return Ok(Came::Chunk(Some(Mark { cursor: open.cursor.clone(), offset })));
            }
            if !goes_on {
                thread::sleep(self.times.poll);
                return Ok(Came::Nothing);
            }
        }
        Ok(Came::Nothing)
    }
}

/// The path of a URI.
pub fn path(uri: &Uri) -> Result<PathBuf> {
    Ok(PathBuf::from(uri.what("PATH")?))
}

/// Where the line begins that the first `length` bytes of a file end in; their end where it is too long.
fn line_start(file: &File, length: u64) -> io::Result<u64> {
    let last = length.min(LINE_MAX as u64);
    let mut bytes = vec![0; last as usize];
    file.read_exact_at(&mut bytes, length - last)?;
    let ends = bytes.iter().rposition(|&byte| byte == b'\n');
    Ok(match ends {
        Some(end) => length - (bytes.len() - 1 - end) as u64,
        None if bytes.len() < LINE_MAX => 0,
        None => length,
    })
}

fn ends_a_line(file: &File, length: u64) -> io::Result<bool> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, length - 1)?;
    Ok(byte == *b"\n")
}

/// The first line of a file, with its end; none where it is too long or has none.
fn first_line(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; CHUNK];
    let read = file.read_at(&mut bytes, 0)?;
    let end = bytes[..read].iter().position(|&byte| byte == b'\n');
    Ok(end.map(|end| bytes[..=end].to_vec()))
}

/// A file to follow; none where there is none.
fn open_file(path: &Path) -> Result<Option<File>> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        metadata => metadata?,
    };
    ensure!(!metadata.is_dir(), "is a directory, expected a file");
    ensure!(metadata.is_file(), "is no file, which alone can be followed: give its path as it is");
    folder::open_regular(path).map(Some).context("cannot be read")
}
