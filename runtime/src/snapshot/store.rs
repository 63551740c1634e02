//! Where snapshots are kept: two generations, of which one can be read whatever happens to the other.
//!
//! | file | |
//! |---|---|
//! | `FILE` | the last snapshot |
//! | `FILE.previous` | the one before it |
//! | `FILE.new` | one in the making; never read |

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::{Snapshot, SnapshotError};

#[cfg(test)]
mod tests;

/// What a store does with files.
pub trait Disk {
    /// The file at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be read, or has more than `most` bytes; nothing is allocated for it then.
    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>>;

    /// Makes `path` a file of `bytes`, which are on the disk when this returns.
    ///
    /// # Errors
    ///
    /// It cannot; what is at `path` is then anything.
    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Gives the file at `from` the name `to`, and takes it from whatever had it.
    ///
    /// # Errors
    ///
    /// It cannot; nothing has changed.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;

    /// Brings the names of the directory that `path` is in to the disk.
    ///
    /// # Errors
    ///
    /// It cannot, and they may be there or not.
    fn sync_directory(&mut self, path: &Path) -> io::Result<()>;

    /// Removes the file at `path`.
    ///
    /// # Errors
    ///
    /// It cannot.
    fn remove(&mut self, path: &Path) -> io::Result<()>;
}

/// The system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

impl Disk for Files {
    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        let invalid = |message: String| io::Error::new(ErrorKind::InvalidData, message);
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(invalid("is no file".into()));
        }
        if metadata.len() > most as u64 {
            let found = metadata.len();
            return Err(invalid(format!(
                "has {found} bytes, expected {most} at most; is it of another model?"
            )));
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        file.take(most as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        // Elsewhere a directory cannot be opened, and the file system sees to its names itself.
        if !cfg!(unix) {
            return Ok(());
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// Why a snapshot could not be kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is not what it should be.
    #[error("{}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: SnapshotError,
    },
    /// Both generations are unreadable.
    #[error("neither generation can be read: {first}{}; {second}{}", cause(first), cause(second))]
    Neither {
        /// Why the last is not.
        first: Box<StoreError>,
        /// Why the one before it is not.
        second: Box<StoreError>,
    },
}

/// A snapshot that was read.
#[derive(Debug)]
pub struct Loaded {
    /// The file, which [`Snapshot::parse`] takes.
    pub bytes: Vec<u8>,
    /// Why this is the generation before the last.
    pub instead_of: Option<StoreError>,
}

/// The two generations of one stream of snapshots.
///
/// # Invariants
///
/// At every moment one of `FILE` and `FILE.previous` is a whole snapshot, once there has been one.
pub struct Store<D> {
    disk: D,
    path: PathBuf,
    /// Whether what is at `path`, if anything is, is known to be whole: nothing else may become the generation before
    /// the last.
    stands: bool,
}

impl<D: Disk> Store<D> {
    /// The store whose last generation is at `path`.
    pub fn new(disk: D, path: &Path) -> Self {
        Self { disk, path: path.to_owned(), stands: false }
    }

    /// The last generation, and the one before it.
    pub fn generations(&self) -> [PathBuf; 2] {
        [self.path.clone(), self.beside("previous")]
    }

    /// Every file that it reads or writes: the generations, and one in the making.
    pub fn files(&self) -> [PathBuf; 3] {
        let [last, previous] = self.generations();
        [last, previous, self.beside("new")]
    }

    /// Reads the last generation, or the one before it where that is not to be had; nothing where neither is there.
    ///
    /// # Errors
    ///
    /// [`StoreError::Snapshot`] when one that is looked at is of another version: it is sound, and not to be passed over.
    /// [`StoreError::Neither`] when neither can be read.
    pub fn load(&mut self, most: usize) -> Result<Option<Loaded>, StoreError> {
        let [last, previous] = self.generations();
        let first = match self.read(&last, most) {
            Ok(bytes) => {
                self.stands = true;
                return Ok(Some(Loaded { bytes, instead_of: None }));
            }
            Err(error) if is_other_version(&error) => return Err(error),
            Err(error) => error,
        };
        match self.read(&previous, most) {
            Ok(bytes) => Ok(Some(Loaded { bytes, instead_of: Some(first) })),
            Err(error) if is_other_version(&error) => Err(error),
            Err(second) if is_missing(&first) && is_missing(&second) => Ok(None),
            Err(second) => Err(StoreError::Neither { first: first.into(), second: second.into() }),
        }
    }

    /// Keeps a snapshot as the last generation; the one that was the last becomes the one before it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Io`]. Then a later [`Store::load`] gives the generation that was the last, or this one; the call may
    /// be repeated.
    pub fn save(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let ([last, previous], new) = (self.generations(), self.beside("new"));
        if let Err(source) = self.disk.write(&new, bytes) {
            // A full disk has better use for what is there of it.
            let _ = self.disk.remove(&new);
            return Err(StoreError::Io { action: "write", path: new, source });
        }
        if self.stands {
            match self.disk.rename(&last, &previous) {
                // A save that failed after this has moved it already, or somebody has removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                moved => moved.map_err(io_error("rename", &last))?,
            }
        }
        self.disk.rename(&new, &last).map_err(io_error("rename", &new))?;
        self.stands = true;
        self.disk.sync_directory(&last).map_err(io_error("sync the directory of", &last))
    }

    /// A file that begins like a snapshot and is one.
    fn read(&self, path: &Path, most: usize) -> Result<Vec<u8>, StoreError> {
        let bytes = self.disk.read(path, most).map_err(io_error("read", path))?;
        match Snapshot::parse(&bytes) {
            Ok(_) => Ok(bytes),
            Err(source) => Err(StoreError::Snapshot { path: path.to_owned(), source }),
        }
    }

    fn beside(&self, role: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".");
        path.push(role);
        path.into()
    }
}

fn is_other_version(error: &StoreError) -> bool {
    matches!(error, StoreError::Snapshot { source: SnapshotError::Version { .. }, .. })
}

fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == ErrorKind::NotFound)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

/// What an error comes from, for a message that holds two of them.
fn cause(error: &StoreError) -> String {
    std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"))
}
