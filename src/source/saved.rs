//! How far an input was read, in a snapshot, and whether it is still the same input.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::mem;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use mcedge_runtime::snapshot::{Draft, Section, SnapshotError};

use super::bytes::{Bytes, LINE_MAX};
use super::live::CURSOR_MAX;
use super::{Format, Reader, Source, is_live, shown};

/// Bytes at an input's beginning, and before a place in it, by which it is known again.
const WINDOW: u64 = 4096;

/// How far an input has been read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Position {
    /// Bytes consumed.
    pub offset: u64,
    /// Lines consumed; 0 where there are none.
    pub line: u64,
    /// Rows read, bad ones included.
    pub rows: u64,
    /// Rows skipped.
    pub bad: u64,
    /// The last record's time, empty where it has none.
    pub time: String,
    /// Whether the last line has no end, of a file: if it grows, the rest of that line has been missed.
    pub is_half: bool,
    /// Where a live stream goes on that can be resumed.
    pub place: Place,
}

/// Where a live stream goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// As [`Mark::cursor`](super::live::Mark); empty where there is none.
    pub cursor: String,
    /// The byte of it that is next.
    pub offset: u64,
    /// Bytes of the last line before that, and their CRC32: what the cursor names is known again by them.
    pub last: [u32; 2],
}

impl Position {
    /// Before anything of `bytes` has been consumed.
    pub(super) fn start(bytes: &Bytes) -> Self {
        let mut start = Self::default();
        start.place.go_to(bytes, &[]);
        start
    }
}

impl Place {
    fn read(saved: &mut Section<'_>) -> Result<Self, SnapshotError> {
        let cursor = saved.text("a cursor")?.to_owned();
        if cursor.len() > CURSOR_MAX {
            return Err(
                saved.wrong(format!("a cursor of {} bytes", cursor.len()), &format!("{CURSOR_MAX} at most"))
            );
        }
        let offset = saved.counter("where a stream goes on")?;
        Ok(Self { cursor, offset, last: [saved.u32("bytes of a line")?, saved.u32("a checksum")?] })
    }

    fn save(&self, draft: &mut Draft) {
        draft.text(&self.cursor);
        draft.u64(self.offset);
        self.last.into_iter().for_each(|number| draft.u32(number));
    }

    /// Goes to where `bytes` can be resumed, behind `line`.
    fn go_to(&mut self, bytes: &Bytes, line: &[u8]) {
        let Some((cursor, offset)) = bytes.mark() else { return };
        self.cursor.clear();
        self.cursor.push_str(cursor);
        self.offset = offset;
        self.last = [line.len() as u32, crc32fast::hash(line)];
    }
}

/// An input as a snapshot has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    format: Format,
    /// Whether it is a file that can be gone back in.
    is_file: bool,
    pub at: Position,
    /// CRC32 of the file's beginning, and of what is before the offset.
    checksums: [u32; 2],
    reading: Reading,
}

/// What of a record is taken for what; nothing where records have no names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// What separates the columns; 0 where nothing does.
    pub delimiter: u8,
    /// Whether names are those of a header; columns are numbered else.
    pub has_header: bool,
    /// The column or key of the time, empty where none is known before a record comes.
    pub time: Option<String>,
    /// That of the stream.
    pub stream: Option<String>,
    /// Those of the model's channels.
    pub channels: Vec<String>,
}

impl Reading {
    /// What [`Reading::save`] has written.
    fn read(saved: &mut Section<'_>) -> Result<Self, SnapshotError> {
        let delimiter = saved.bytes("a delimiter", 1)?[0];
        let has_header = saved.flag("whether there is a header")?;
        let [time, stream] = [name(saved)?, name(saved)?];
        let channels = (0..saved.count("columns", LINE_MAX)?).map(|_| Ok(saved.text("a column")?.to_owned()));
        Ok(Self { delimiter, has_header, time, stream, channels: channels.collect::<Result<_, _>>()? })
    }

    fn save(&self, draft: &mut Draft) {
        draft.bytes(&[self.delimiter]);
        draft.flag(self.has_header);
        for name in [&self.time, &self.stream] {
            draft.flag(name.is_some());
            draft.text(name.as_deref().unwrap_or_default());
        }
        draft.count(self.channels.len());
        self.channels.iter().for_each(|name| draft.text(name));
    }

    /// Whether records are read as those of a snapshot.
    fn check(&self, expected: &Self) -> Result<()> {
        let same = |what: &str, found: Option<&str>, expected: Option<&str>| {
            let name = |name: Option<&str>| name.map_or("none".into(), |name| format!("`{}`", shown(name)));
            let (is_same, found, expected) = (found == expected, name(found), name(expected));
            ensure!(is_same, "is read with {what} {found}, in the snapshot {expected}");
            Ok(())
        };
        let delimiters = [self, expected].map(|reading| (reading.delimiter as char).to_string());
        same("delimiter", Some(&delimiters[0]), Some(&delimiters[1]))?;
        if self.has_header != expected.has_header {
            // Numbers and names are not to be compared: a stream may go on without its header.
            return Ok(());
        }
        same("the time in column", self.time.as_deref(), expected.time.as_deref())?;
        same("the stream in column", self.stream.as_deref(), expected.stream.as_deref())?;
        for channel in 0..self.channels.len().max(expected.channels.len()) {
            let name = |reading: &'_ Self| reading.channels.get(channel).cloned();
            let what = format!("channel {channel} in column");
            same(&what, name(self).as_deref(), name(expected).as_deref())?;
        }
        Ok(())
    }
}

/// A name that may not be there.
fn name(saved: &mut Section<'_>) -> Result<Option<String>, SnapshotError> {
    let is_there = saved.flag("whether a column is known")?;
    let name = saved.text("a column")?;
    Ok(is_there.then(|| name.to_owned()))
}

impl Saved {
    /// What [`Source::save`] has written.
    pub fn read(saved: &mut Section<'_>) -> Result<Self, SnapshotError> {
        let name = saved.text("an input's format")?;
        let format = Format::from_str(name, false)
            .map_err(|_| saved.wrong(format!("an input's format {name:?}"), "one that is known"))?;
        let is_file = saved.flag("whether an input is a file")?;
        let mut number = |what: &str| saved.counter(what);
        let (offset, line) = (number("bytes consumed")?, number("lines consumed")?);
        let (rows, bad) = (number("rows read")?, number("rows skipped")?);
        let time = saved.text("a time")?.to_owned();
        let is_half = saved.flag("whether the last line has no end")?;
        let checksums = [saved.u32("a checksum")?, saved.u32("a checksum")?];
        let place = if is_file { Place::default() } else { Place::read(saved)? };
        let at = Position { offset, line, rows, bad, time, is_half, place };
        Ok(Self { format, is_file, at, checksums, reading: Reading::read(saved)? })
    }

    /// Where a live stream goes on.
    pub fn place(&self) -> &Place {
        &self.at.place
    }

    /// The most bytes of an input in a snapshot: a time, the names of columns, which are of a line, and their lengths.
    pub const fn most_bytes() -> usize {
        8 * LINE_MAX
    }

    /// Whether what is at `path` can be gone on with: it is of the same kind, and a file begins with what was read of it.
    ///
    /// # Errors
    ///
    /// It is of another kind; it has become shorter; what was read of it is not what is there now; or its last line, which
    /// was read, had no end and has grown.
    pub fn check(&self, path: &str) -> Result<()> {
        let is_file = path != "-" && !is_live(path) && std::fs::metadata(path)?.is_file();
        let kind = |is_file: bool| if is_file { "a file" } else { "a stream" };
        ensure!(is_file == self.is_file, "is {}, the snapshot is of {}", kind(is_file), kind(self.is_file));
        let offset = self.at.offset;
        if !is_file || offset == 0 {
            return Ok(());
        }
        let found = match checksums(&mut File::open(path)?, 0..offset) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                let length = std::fs::metadata(path)?.len();
                bail!("has become shorter: {length} bytes, the snapshot has read {offset} of it");
            }
            found => found?,
        };
        let places = [
            format!("its first {} bytes", offset.min(WINDOW)),
            format!("the {} bytes before {offset}", offset.min(WINDOW)),
        ];
        for ((place, found), expected) in places.iter().zip(found).zip(self.checksums) {
            ensure!(
                found == expected,
                "has changed: the snapshot has read up to byte {offset}, and {place} have checksum {found:08x}, expected \
                 {expected:08x}"
            );
        }
        let length = std::fs::metadata(path)?.len();
        ensure!(
            !self.at.is_half || length == offset,
            "has grown: {length} bytes, the snapshot has read {offset}, up to the end of a line that was not whole"
        );
        Ok(())
    }
}

impl Source {
    /// How far the input has been read, up to the last record that was taken.
    pub fn position(&self) -> &Position {
        &self.at
    }

    /// Whether it is a file, in which one can go back.
    pub fn is_file(&self) -> bool {
        self.bytes().is_some_and(Bytes::can_seek)
    }

    /// Whether what was read behind a snapshot comes again to a run that goes on from it.
    pub fn can_go_back(&self) -> bool {
        self.bytes().is_some_and(Bytes::can_resume)
    }

    /// Where it goes on, in words.
    pub fn place(&self) -> String {
        let Position { offset, rows, time, .. } = &self.at;
        let time = if time.is_empty() { String::new() } else { format!(" ({})", shown(time)) };
        match self.can_go_back() {
            true if self.is_file() => {
                format!("input {} goes on behind row {rows}{time}, byte {offset}", self.name)
            }
            true => format!("input {} goes on behind row {rows}{time}", self.name),
            false => format!("input {} goes on with what comes, behind row {rows}{time}", self.name),
        }
    }

    /// What was taken has been run.
    pub fn settle(&self) {
        if let Some(bytes) = self.bytes() {
            bytes.settle(self.at.offset);
        }
    }

    /// Takes the record that [`Source::advance`] came to: the position is behind it.
    pub fn take(&mut self) {
        let (lines, offset) = (self.lines(), self.bytes().map_or(0, Bytes::consumed));
        let is_half = lines.is_some_and(|lines| lines.is_half()) && self.is_file();
        let line = lines.map_or(0, |lines| lines.number());
        (self.at.offset, self.at.line, self.at.is_half) = (offset, line, is_half);
        (self.at.rows, self.at.bad) = (self.rows, self.bad);
        self.at.time.clear();
        if self.row.has_time {
            self.at.time.push_str(&self.row.time);
        }
        let mut place = mem::take(&mut self.at.place);
        if let Some(bytes) = self.bytes() {
            place.go_to(bytes, self.lines().map_or(&[], |lines| lines.line()));
        }
        self.at.place = place;
    }

    /// Writes that the input was read up to `at`, for [`Saved::read`].
    ///
    /// # Errors
    ///
    /// What was read cannot be read again.
    pub fn save(&mut self, at: &Position, draft: &mut Draft) -> Result<()> {
        let is_file = self.is_file();
        let checksums = match self.bytes_mut().filter(|_| is_file).map(|bytes| bytes.checksums(at.offset)) {
            Some(checksums) => checksums.with_context(|| format!("input {}", self.name))?,
            None => [0; 2],
        };
        draft.text(self.format().to_possible_value().unwrap_or_default().get_name());
        draft.flag(is_file);
        [at.offset, at.line, at.rows, at.bad].into_iter().for_each(|number| draft.u64(number));
        draft.text(&at.time);
        draft.flag(at.is_half);
        checksums.into_iter().for_each(|checksum| draft.u32(checksum));
        if !is_file {
            at.place.save(draft);
        }
        self.reading().save(draft);
        Ok(())
    }

    /// Goes on where a snapshot stands: behind what was read of a file, with what comes of a stream. [`Saved::check`] has
    /// been asked.
    ///
    /// # Errors
    ///
    /// It is of another format, or is read otherwise; the file cannot be gone to that place in.
    pub(super) fn resume(&mut self, saved: &Saved) -> Result<()> {
        let (found, expected) = (self.format(), saved.format);
        ensure!(found == expected, "is read as {found:?}, the snapshot is of {expected:?}");
        self.reading().check(&saved.reading)?;
        if self.is_file() && saved.at.offset > 0 {
            let Position { offset, line, rows, .. } = saved.at;
            match &mut self.reader {
                Reader::Csv(csv) => csv.lines.go_to(offset, line)?,
                Reader::Jsonl(jsonl) => jsonl.lines.go_to(offset, line)?,
                Reader::Npy(npy) => npy.go_to(offset, rows)?,
                Reader::Text(lines) => lines.go_to(offset, line)?,
                Reader::Bytes(bytes) => bytes.go_to(offset)?,
                Reader::Link(_) => {}
            }
        }
        if let Reader::Link(link) = &mut self.reader {
            link.resume(&saved.at.time);
        }
        (self.rows, self.bad) = (saved.at.rows, saved.at.bad);
        let (is_file, offset) = (self.is_file(), self.at.offset);
        let started = mem::replace(&mut self.at, saved.at.clone()).place;
        if !is_file {
            // Of a stream it is counted from where this run begins.
            self.at.offset = offset;
        }
        if (&started.cursor, started.offset) != (&self.at.place.cursor, self.at.place.offset) {
            // What the snapshot has read is not there any more: the stream goes on elsewhere.
            self.at.place = started;
        }
        Ok(())
    }

    fn reading(&self) -> Reading {
        match &self.reader {
            Reader::Csv(csv) => csv.reading(),
            Reader::Jsonl(jsonl) => jsonl.reading(),
            Reader::Link(link) => Reading { channels: link.channels().to_vec(), ..Reading::default() },
            Reader::Npy(_) | Reader::Text(_) | Reader::Bytes(_) => Reading::default(),
        }
    }

    fn format(&self) -> Format {
        match &self.reader {
            Reader::Csv(_) => Format::Csv,
            Reader::Jsonl(_) => Format::Jsonl,
            Reader::Npy(_) => Format::Npy,
            Reader::Text(_) => Format::Text,
            Reader::Bytes(_) => Format::Bytes,
            Reader::Link(_) => Format::Frames,
        }
    }
}

/// CRC32 of the first bytes of a part of a file, and of its last, [`WINDOW`] of each at most. Leaves the reader anywhere.
pub fn checksums(reader: &mut (impl Read + Seek + ?Sized), part: Range<u64>) -> io::Result<[u32; 2]> {
    let length = (part.end - part.start).min(WINDOW);
    let mut window = vec![0; length as usize];
    let mut checksum = |start: u64| {
        reader.seek(SeekFrom::Start(start))?;
        reader.read_exact(&mut window)?;
        Ok::<_, io::Error>(crc32fast::hash(&window))
    };
    Ok([checksum(part.start)?, checksum(part.end - length)?])
}
