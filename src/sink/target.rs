//! Where the bytes of an output go: a file, which can be gone on with, or a stream.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Result, ensure};
use mcedge_runtime::snapshot::store::{Disk, Files};

use super::publish::Publisher;
use super::rotate::Rotating;

/// Where the bytes of an output go.
pub enum Target {
    /// A file, whose end is where bytes go.
    File(File),
    /// A file that is left when it is full.
    Rotating(Rotating),
    /// What cannot be gone back in: standard output, a pipe, a device.
    Stream(Box<dyn Write>),
    /// A broker, which takes rows and no bytes.
    Messages(Publisher),
}

impl Target {
    /// Opens `path`, or standard output for `-`. A file is made anew, or cut off after `keep` bytes.
    ///
    /// # Errors
    ///
    /// It cannot be written; it is not there, or has fewer than `keep` bytes.
    pub fn open(path: &str, keep: Option<u64>) -> Result<Self> {
        if path == "-" {
            return Ok(Target::Stream(Box::new(io::stdout())));
        }
        let is_stream = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        match keep {
            _ if is_stream => Ok(Target::Stream(Box::new(OpenOptions::new().write(true).open(path)?))),
            None => Ok(Target::File(File::create(path)?)),
            Some(bytes) => Ok(Target::File(keep_file(path, bytes)?)),
        }
    }

    /// Brings a file to the disk, its name too, and says how many bytes it has; none of a stream.
    pub fn sync(&mut self, path: &str) -> io::Result<Option<u64>> {
        match self {
            Target::File(file) => sync(file, path).map(Some),
            Target::Rotating(rotating) => {
                if rotating.is_due() {
                    // What is left is on the disk before its name changes.
                    rotating.file.sync_all()?;
                    rotating.rotate()?;
                }
                sync(&mut rotating.file, path).map(Some)
            }
            Target::Stream(_) => Ok(None),
            Target::Messages(publisher) => publisher.sync().map(|()| None),
        }
    }

    /// Ends it: as [`Publisher::finish`].
    pub fn finish(&mut self) -> io::Result<()> {
        match self {
            Target::Messages(publisher) => publisher.finish(),
            Target::File(_) | Target::Rotating(_) | Target::Stream(_) => Ok(()),
        }
    }
}

/// What the bytes of a file are rows of.
#[derive(Clone, Copy)]
pub enum Rows {
    /// Lines, but for newlines in quotes.
    Csv,
    /// Lines.
    Lines,
    /// So many bytes each, from any end of a row on.
    Array {
        /// Above 0.
        row_bytes: u64,
    },
}

impl Rows {
    /// Where the last whole row of the file at `path` ends, one of which ends at `from`.
    pub fn end(self, path: &str, from: u64) -> Result<u64> {
        check(path, from)?;
        let mut file = File::open(path)?;
        if let Rows::Array { row_bytes } = self {
            let length = file.metadata()?.len();
            return Ok(length - (length - from) % row_bytes);
        }
        let (mut end, mut at, mut is_quoted) = (from, from, false);
        file.seek(SeekFrom::Start(from))?;
        for byte in BufReader::new(file).bytes() {
            at += 1;
            match byte? {
                // One quote in quotes is written as two.
                b'"' if matches!(self, Rows::Csv) => is_quoted = !is_quoted,
                b'\n' if !is_quoted => end = at,
                _ => {}
            }
        }
        Ok(end)
    }
}

/// The file at `path` without what is behind its first `bytes`, at its end.
pub fn keep_file(path: &str, bytes: u64) -> Result<File> {
    check(path, bytes)?;
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.set_len(bytes)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

/// Whether a file has the bytes that a snapshot says were written to it.
pub fn check(path: &str, bytes: u64) -> Result<()> {
    let found = fs::metadata(path)?.len();
    ensure!(found >= bytes, "has become shorter: {found} bytes, the snapshot has written {bytes}");
    Ok(())
}

/// Brings a file to the disk, its name too, and says how many bytes are before its cursor.
pub fn sync(file: &mut File, path: &str) -> io::Result<u64> {
    file.sync_all()?;
    Files.sync_directory(Path::new(path))?;
    file.stream_position()
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::File(file) => file.write(bytes),
            Target::Rotating(rotating) => rotating.write(bytes),
            Target::Stream(stream) => stream.write(bytes),
            Target::Messages(_) => Err(io::Error::other("a broker takes rows")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Target::File(file) => file.flush(),
            Target::Rotating(rotating) => rotating.flush(),
            Target::Stream(stream) => stream.flush(),
            Target::Messages(_) => Ok(()),
        }
    }
}
