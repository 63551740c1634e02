//! How far an output was written, in a snapshot.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail, ensure};
use mcedge_runtime::snapshot::{Draft, Section, SnapshotError};

use super::rotate::{self, Rotation};
use super::{Sink, Writer, is_broker, npy, path_of, target};
use crate::source::checksums;
use crate::source::uri::told;

/// An output as a snapshot has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// What its rows are, in words.
    shape: String,
    /// Bytes written; none of a stream, which nothing can be taken back from.
    pub(super) bytes: Option<u64>,
    /// Bytes at the beginning of a file that are written again as it grows.
    header: u64,
    /// CRC32 of the first and of the last bytes written behind the header.
    checksums: [u32; 2],
    /// The file's inode, by which one is known that has been renamed.
    inode: u64,
}

impl Saved {
    /// What [`Sink::save`] has written.
    pub fn read(saved: &mut Section<'_>) -> Result<Self, SnapshotError> {
        let shape = saved.text("an output's columns")?.to_owned();
        let is_file = saved.flag("whether an output is a file")?;
        let bytes = saved.counter("bytes written")?;
        let header = saved.counter("bytes of a header")?;
        if is_file && header > bytes {
            return Err(saved.wrong(format!("a header of {header} bytes"), &format!("{bytes} at most")));
        }
        let checksums = [saved.u32("a checksum")?, saved.u32("a checksum")?];
        let inode = saved.u64("an inode")?;
        Ok(Self { shape, bytes: is_file.then_some(bytes), header, checksums, inode })
    }

    /// Whether the output at `uri` can be gone on with. Nothing changes.
    ///
    /// # Errors
    ///
    /// It is of another kind; a file is not there, has become shorter, or is not the one that was written.
    pub fn check(&self, uri: &str) -> Result<()> {
        let path = path_of(uri);
        let is_stream = path == "-" || is_broker(uri);
        let is_stream = is_stream || std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        let check = || match self.bytes {
            Some(_) if !is_stream => {
                let keep = Rotation::parse(uri)?.map_or(0, |rotation| rotation.keep);
                self.find(path, keep).map(drop)
            }
            Some(bytes) => bail!("is a stream, the snapshot is of a file with {bytes} bytes"),
            None => {
                ensure!(is_stream, "is a file, the snapshot is of a stream");
                Ok(())
            }
        };
        check().with_context(|| format!("output {}", told(path)))
    }

    /// Which file has what was written, of those that the one at `path` has become: 0 for that itself.
    pub(super) fn find(&self, path: &str, keep: u32) -> Result<u32> {
        let bytes = self.bytes.unwrap_or_default();
        rotate::find(path, keep, self.inode, |path| self.check_file(path, bytes))
    }

    /// Whether the file at `path` begins with the `bytes` that were written.
    fn check_file(&self, path: &str, bytes: u64) -> Result<()> {
        target::check(path, bytes)?;
        let found = checksums(&mut File::open(path)?, self.header..bytes)?;
        for ((place, found), expected) in ["first", "last"].iter().zip(found).zip(self.checksums) {
            ensure!(
                found == expected,
                "is not what the snapshot has written: the {place} of its first {bytes} bytes have checksum {found:08x}, \
                 expected {expected:08x}"
            );
        }
        Ok(())
    }

    /// Whether what was written has the rows that are to come.
    pub(super) fn check_shape(&self, shape: &str) -> Result<()> {
        ensure!(shape == self.shape, "has rows of {shape}, the snapshot has written rows of {}", self.shape);
        Ok(())
    }
}

impl Sink {
    /// Brings all that was taken to the disk, and writes where that is, for [`Saved::read`].
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn save(&mut self, draft: &mut Draft) -> Result<()> {
        self.flush()?;
        let (name, shape) = (&self.name, &self.shape);
        let synced = match &mut self.writer {
            Writer::Csv(table) | Writer::Jsonl(table) => table.sync(name),
            Writer::Npy(npy) => npy.sync(name).map(Some),
        };
        let bytes = synced.with_context(|| format!("output {name}"))?;
        draft.text(shape);
        draft.flag(bytes.is_some());
        draft.u64(bytes.unwrap_or_default());
        let header = if matches!(self.writer, Writer::Npy(_)) { npy::HEADER_BYTES as u64 } else { 0 };
        let checksums = match bytes {
            // By its name, by which it is gone on with.
            Some(bytes) => checksums(&mut File::open(&self.name)?, header..bytes)
                .with_context(|| format!("output {}", self.name))?,
            None => [0; 2],
        };
        draft.u64(header);
        checksums.into_iter().for_each(|checksum| draft.u32(checksum));
        let inode = bytes.and_then(|_| std::fs::metadata(&self.name).ok()).map(|metadata| metadata.ino());
        draft.u64(inode.unwrap_or_default());
        Ok(())
    }
}
