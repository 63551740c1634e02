//! A directory of few files takes the place of an older one, whole.

use std::path::{Path, PathBuf};
use std::{fs, io, process};

/// Why a directory was not replaced. What was there before is still there.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// Writing would destroy what is somebody else's.
    #[error("{}: the directory holds `{found}`, expected files that may be replaced", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// An entry of it that is none of the files.
        found: String,
    },
    /// Something that cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Makes `path` a directory of exactly `files` (name and bytes), in the place of an older one whose files are all among
/// `replaceable`; an empty directory and none at all do too. Nobody sees half of it: the files are written beside
/// `path`, and take its name together.
///
/// `Ok` says that the new directory stands, and nothing about the older one: where the system does not let that be
/// removed, what is left of it stays beside the new one as `.{name}.old-{number}`.
///
/// # Errors
///
/// [`ReplaceError::Foreign`] when `path` holds anything else; [`ReplaceError::Io`] when something cannot be read or
/// written. Then what was at `path` is still there. (If the new directory cannot take the name and then the older one
/// cannot take it back, the message says where the older one is.)
pub fn replace_directory(
    path: &Path,
    replaceable: &[&str],
    files: &[(&str, &[u8])],
) -> Result<(), ReplaceError> {
    let target = resolve(path)?;
    let exists = check_replaceable(&target, replaceable)?;
    let parent = target.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(parent).map_err(io_error(parent))?;
    let fresh = beside(&target, "new");
    fs::create_dir(&fresh).map_err(io_error(&fresh))?;
    let old = exists.then(|| beside(&target, "old"));
    let replaced = write(&fresh, files).and_then(|()| take_name(&fresh, &target, old.as_deref()));
    // What follows clears up: whether it succeeds changes nothing of what the caller asked for.
    let rest = if replaced.is_ok() { old } else { Some(fresh) };
    let _ = rest.map(fs::remove_dir_all);
    replaced
}

/// The directory itself where `path` is a link to it, or `.`; `path` where there is nothing yet.
fn resolve(path: &Path) -> Result<PathBuf, ReplaceError> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        resolved => resolved.map_err(io_error(path)),
    }
}

/// Whether a directory is at `path`, which may be replaced.
fn check_replaceable(path: &Path, replaceable: &[&str]) -> Result<bool, ReplaceError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(io_error(path))?,
    };
    for entry in entries {
        let entry = entry.map_err(io_error(path))?;
        let name = entry.file_name();
        let is_file = entry.file_type().map_err(io_error(path))?.is_file();
        if !is_file || replaceable.iter().all(|file| name != *file) {
            let found = name.to_string_lossy().into_owned();
            return Err(ReplaceError::Foreign { path: path.to_owned(), found });
        }
    }
    Ok(true)
}

/// A hidden name in the same directory as `path`, so that a rename between them stays on one file system. Nothing has
/// it yet: an earlier process of the same number may have left something behind.
fn beside(path: &Path, role: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut number = u64::from(process::id());
    loop {
        let beside = path.with_file_name(format!(".{name}.{role}-{number}"));
        if fs::symlink_metadata(&beside).is_err() {
            return beside;
        }
        number += 1;
    }
}

fn write(directory: &Path, files: &[(&str, &[u8])]) -> Result<(), ReplaceError> {
    files.iter().try_for_each(|(name, bytes)| {
        let file = directory.join(name);
        fs::write(&file, bytes).map_err(io_error(&file))
    })
}

/// `fresh` becomes `target`, and what was there becomes `old`.
fn take_name(fresh: &Path, target: &Path, old: Option<&Path>) -> Result<(), ReplaceError> {
    if let Some(old) = old {
        fs::rename(target, old).map_err(io_error(target))?;
    }
    fs::rename(fresh, target).map_err(|error| {
        let error = match old.map(|old| (old, fs::rename(old, target))) {
            Some((old, Err(_))) => {
                let moved = format!("{error}; what was there is now {}", old.display());
                io::Error::new(error.kind(), moved)
            }
            _ => error,
        };
        ReplaceError::Io { path: target.to_owned(), error }
    })
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ReplaceError {
    let path = path.to_owned();
    |error| ReplaceError::Io { path, error }
}
