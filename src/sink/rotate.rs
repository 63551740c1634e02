//! `file:///path/out.csv?rotate=10MiB&keep=5`: a file that is left when it is full, for a new one.
//!
//! `out.csv` becomes `out.csv.1`, that becomes `out.csv.2`, and of those the last `keep` stay. Rows are never split, and each
//! file has the header of a CSV. What is there when a run begins anew is left the same way.
//!
//! Of a run with snapshots a file is left only where a snapshot is made, and so may be larger by what is written between two:
//! no more than one file is left then that the last snapshot knows by another name. A run that goes on finds the file that
//! the snapshot has written by its inode, undoes what has happened behind it, and cuts it off there.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;

use crate::Usage;
use crate::source::uri::Uri;

/// Files that stay when nobody says how many.
const KEEP: u32 = 5;
/// The most files that stay.
const KEEP_MAX: u32 = 999;

/// When a file is full, and what stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// The most bytes of a file, but for a row that is larger.
    pub bytes: u64,
    /// Files that stay besides the one that is written.
    pub keep: u32,
}

impl Rotation {
    /// What the URI of a file says of it.
    ///
    /// # Errors
    ///
    /// It says something else, or what cannot be.
    pub fn parse(uri: &str) -> Result<Option<Self>> {
        let Some(mut uri) = Uri::parse(uri)?.filter(|uri| uri.scheme == "file") else { return Ok(None) };
        let (rotate, keep) = (uri.take("rotate")?, uri.take("keep")?);
        uri.end()?;
        let Some(rotate) = rotate else {
            ensure!(keep.is_none(), Usage("has keep= without rotate=".into()));
            return Ok(None);
        };
        let bytes = rotate.parse::<ByteSize>().ok().map(|size| size.as_u64()).filter(|&bytes| bytes > 0);
        let Some(bytes) = bytes else {
            bail!(Usage(format!("has rotate={rotate}, expected a size such as 10MiB")));
        };
        let keep = keep.map_or(Some(KEEP), |keep| keep.parse().ok());
        let Some(keep) = keep.filter(|keep| (1..=KEEP_MAX).contains(keep)) else {
            bail!(Usage(format!("has keep= of no number from 1 to {KEEP_MAX}")));
        };
        Ok(Some(Self { bytes, keep }))
    }
}

/// A file that is left when it is full.
pub struct Rotating {
    pub file: File,
    path: String,
    rotation: Rotation,
    /// What each file begins with.
    header: Vec<u8>,
    /// Bytes in the file.
    bytes: u64,
    /// Whether it is left only where a snapshot is made.
    at_snapshots: bool,
}

impl Rotating {
    /// Goes on in `file`, which is at `path`, and at its end.
    pub fn new(
        mut file: File,
        path: &str,
        rotation: Rotation,
        header: &[u8],
        at_snapshots: bool,
    ) -> io::Result<Self> {
        let bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, path: path.to_owned(), rotation, header: header.to_vec(), bytes, at_snapshots })
    }

    /// Whether a row of so many bytes is for the next file, where others have the bytes `waiting` before it.
    pub fn is_full(&self, waiting: usize, row: usize) -> bool {
        let bytes = self.bytes + waiting as u64;
        !self.at_snapshots && bytes > self.header.len() as u64 && bytes + row as u64 > self.rotation.bytes
    }

    /// Whether a snapshot is to leave it.
    pub fn is_due(&self) -> bool {
        self.at_snapshots && self.bytes > self.header.len() as u64 && self.bytes >= self.rotation.bytes
    }

    /// Leaves the file, all of whose rows have been written, for a new one.
    pub fn rotate(&mut self) -> io::Result<()> {
        shift(&self.path, self.rotation.keep)?;
        self.file = File::create(&self.path)?;
        self.file.write_all(&self.header)?;
        self.bytes = self.header.len() as u64;
        Ok(())
    }
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The name of a file that was left: the first is that of the one that is written.
fn left(path: &str, number: u32) -> String {
    if number == 0 { path.to_owned() } else { format!("{path}.{number}") }
}

/// Renames, where there is something to.
fn rename(from: &str, to: &str) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

/// Leaves the file at `path` and all before it: the oldest goes.
fn shift(path: &str, keep: u32) -> io::Result<()> {
    // Up to the first gap: there may be many names, and few files.
    let is_there = |number: &u32| Path::new(&left(path, *number)).exists();
    let last = (0..keep).take_while(is_there).last();
    for number in (0..=last.unwrap_or_default()).rev() {
        rename(&left(path, number), &left(path, number + 1))?;
    }
    Ok(())
}

/// Leaves a file that an earlier run has written rows to, behind a header of so many bytes.
///
/// # Errors
///
/// It cannot be renamed.
pub fn leave(path: &str, rotation: Rotation, header: usize) -> Result<()> {
    let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
    let has_rows = length > header as u64;
    if has_rows {
        shift(path, rotation.keep).with_context(|| format!("cannot rename {path}"))?;
    }
    Ok(())
}

/// Which file, 0 for the one at `path`, has what a snapshot has written: that of its inode, else the first.
pub fn find(path: &str, keep: u32, inode: u64, has_it: impl Fn(&str) -> Result<()>) -> Result<u32> {
    let is_it = |number: &u32| has_it(&left(path, *number)).is_ok();
    let is_same = |number: &u32| fs::metadata(left(path, *number)).is_ok_and(|file| file.ino() == inode);
    let found = (0..=keep).filter(is_same).find(is_it).or_else(|| (0..=keep).find(is_it));
    // What is wrong is said of the file at the path.
    found.map_or_else(|| has_it(path).map(|()| 0), Ok)
}

/// Makes the file of that number the one at `path` again: those behind it go, and come again.
///
/// # Errors
///
/// A file cannot be removed or renamed; what was done is then done again by the next try.
pub fn undo(path: &str, keep: u32, number: u32) -> io::Result<()> {
    for newer in 1..number {
        fs::remove_file(left(path, newer))?;
    }
    if number > 0 {
        rename(&left(path, number), path)?;
        for older in number + 1..=keep {
            rename(&left(path, older), &left(path, older - number))?;
        }
    }
    Ok(())
}
