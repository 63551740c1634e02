//! How far an input was read, in a snapshot, and whether it is still the same input.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use mcedge_runtime::snapshot::{Draft, Section, SnapshotError};

use super::bytes::LINE_MAX;
use super::{Format, Reader, Source, shown};

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
        let at = Position { offset, line, rows, bad, time, is_half };
        Ok(Self { format, is_file, at, checksums })
    }

    /// The most bytes of an input in a snapshot.
    pub const fn most_bytes() -> usize {
        LINE_MAX + 256
    }

    /// Whether what is at `path` can be gone on with: it is of the same kind, and a file begins with what was read of it.
    ///
    /// # Errors
    ///
    /// It is of another kind; it has become shorter; what was read of it is not what is there now; or its last line, which
    /// was read, had no end and has grown.
    pub fn check(&self, path: &str) -> Result<()> {
        let is_file = path != "-" && std::fs::metadata(path)?.is_file();
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
    pub fn can_go_back(&self) -> bool {
        self.bytes().can_seek()
    }

    /// Where it goes on, in words.
    pub fn place(&self) -> String {
        let Position { offset, rows, time, .. } = &self.at;
        let time = if time.is_empty() { String::new() } else { format!(" ({})", shown(time)) };
        match self.can_go_back() {
            true => format!("input {} goes on behind row {rows}{time}, byte {offset}", self.name),
            false => format!("input {} goes on with what comes, behind row {rows}{time}", self.name),
        }
    }

    /// Takes the record that [`Source::advance`] came to: the position is behind it.
    pub fn take(&mut self) {
        let (lines, offset) = (self.lines(), self.bytes().consumed());
        let is_half = lines.is_some_and(|lines| lines.is_half()) && self.can_go_back();
        let line = lines.map_or(0, |lines| lines.number());
        (self.at.offset, self.at.line, self.at.is_half) = (offset, line, is_half);
        (self.at.rows, self.at.bad) = (self.rows, self.bad);
        self.at.time.clear();
        if self.row.has_time {
            self.at.time.push_str(&self.row.time);
        }
    }

    /// Writes that the input was read up to `at`, for [`Saved::read`].
    ///
    /// # Errors
    ///
    /// What was read cannot be read again.
    pub fn save(&mut self, at: &Position, draft: &mut Draft) -> Result<()> {
        let is_file = self.can_go_back();
        let checksums = match is_file {
            true => self.bytes_mut().checksums(at.offset).with_context(|| format!("input {}", self.name))?,
            false => [0; 2],
        };
        draft.text(self.format().to_possible_value().unwrap_or_default().get_name());
        draft.flag(is_file);
        [at.offset, at.line, at.rows, at.bad].into_iter().for_each(|number| draft.u64(number));
        draft.text(&at.time);
        draft.flag(at.is_half);
        checksums.into_iter().for_each(|checksum| draft.u32(checksum));
        Ok(())
    }

    /// Goes on where a snapshot stands: behind what was read of a file, with what comes of a stream. [`Saved::check`] has
    /// been asked.
    ///
    /// # Errors
    ///
    /// It is of another format; the file cannot be gone to that place in.
    pub(super) fn resume(&mut self, saved: &Saved) -> Result<()> {
        let (found, expected) = (self.format(), saved.format);
        ensure!(found == expected, "is read as {found:?}, the snapshot is of {expected:?}");
        if self.can_go_back() && saved.at.offset > 0 {
            let Position { offset, line, rows, .. } = saved.at;
            match &mut self.reader {
                Reader::Csv(csv) => csv.lines.go_to(offset, line)?,
                Reader::Jsonl(jsonl) => jsonl.lines.go_to(offset, line)?,
                Reader::Npy(npy) => npy.go_to(offset, rows)?,
                Reader::Text(lines) => lines.go_to(offset, line)?,
                Reader::Bytes(bytes) => bytes.go_to(offset)?,
            }
        }
        (self.rows, self.bad) = (saved.at.rows, saved.at.bad);
        self.at = saved.at.clone();
        Ok(())
    }

    fn format(&self) -> Format {
        match &self.reader {
            Reader::Csv(_) => Format::Csv,
            Reader::Jsonl(_) => Format::Jsonl,
            Reader::Npy(_) => Format::Npy,
            Reader::Text(_) => Format::Text,
            Reader::Bytes(_) => Format::Bytes,
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
