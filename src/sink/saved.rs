//! How far an output was written, in a snapshot.

use anyhow::{Context, Result, bail, ensure};
use mcedge_runtime::snapshot::{Draft, Section, SnapshotError};

use super::{Sink, Writer, path_of, target};

/// An output as a snapshot has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// What its rows are, in words.
    shape: String,
    /// Bytes written; none of a stream, which nothing can be taken back from.
    pub(super) bytes: Option<u64>,
    /// Rows of an array.
    pub(super) rows: u64,
}

impl Saved {
    /// What [`Sink::save`] has written.
    pub fn read(saved: &mut Section<'_>) -> Result<Self, SnapshotError> {
        let shape = saved.text("an output's columns")?.to_owned();
        let is_file = saved.flag("whether an output is a file")?;
        let bytes = saved.counter("bytes written")?;
        Ok(Self { shape, bytes: is_file.then_some(bytes), rows: saved.counter("rows written")? })
    }

    /// Whether the output at `uri` can be gone on with. Nothing changes.
    ///
    /// # Errors
    ///
    /// It is of another kind; a file is not there or has become shorter.
    pub fn check(&self, uri: &str) -> Result<()> {
        let path = path_of(uri);
        let is_stream = path == "-" || std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        let check = || match self.bytes {
            Some(bytes) if !is_stream => target::check(path, bytes),
            Some(bytes) => bail!("is a stream, the snapshot is of a file with {bytes} bytes"),
            None => {
                ensure!(is_stream, "is a file, the snapshot is of a stream");
                Ok(())
            }
        };
        check().with_context(|| format!("output {path}"))
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
        let (synced, rows) = match &mut self.writer {
            Writer::Csv(table) | Writer::Jsonl(table) => (table.sync(name), 0),
            Writer::Npy(npy) => (npy.sync(name).map(Some), npy.rows()),
        };
        let bytes = synced.with_context(|| format!("output {name}"))?;
        draft.text(shape);
        draft.flag(bytes.is_some());
        draft.u64(bytes.unwrap_or_default());
        draft.u64(rows);
        Ok(())
    }
}
