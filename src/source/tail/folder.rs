//! The folder of a file that is followed: where the file goes when it is rotated.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, DirEntry, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::super::bytes::LINE_MAX;
use super::super::saved::Place;
use super::{Id, Start, changed, line_start, open_file};

/// Entries of a folder that are looked at.
const ENTRIES: usize = 10_000;

/// A file's path, and the files beside it.
pub struct Folder {
    path: PathBuf,
}

/// A file beside it that was it once.
struct Rotated {
    path: PathBuf,
    metadata: Metadata,
    /// N of `PATH.N`, which grows with age.
    number: Option<u32>,
}

impl Folder {
    pub fn of(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file at the path; none where there is none.
    pub fn open(&self) -> Result<Option<File>> {
        open_file(&self.path)
    }

    /// The file at the path, once it has been there.
    ///
    /// # Errors
    ///
    /// It is not there, is no file any more, or cannot be read: all of it may pass.
    pub fn now(&self) -> io::Result<File> {
        open_regular(&self.path)
    }

    /// The files behind the one of that identity and age, oldest first, `most` of them; the last of all is at the path, unless
    /// it cannot be opened: then why.
    pub fn behind(&self, last: Option<(Id, (i64, i64))>, most: usize) -> (Vec<File>, io::Result<()>) {
        let behind = last.map_or_else(Vec::new, |(id, age)| self.rotated_behind(id, age));
        let is_all = behind.len() < most;
        // One that goes between listing and opening is found under its next name, by the next look.
        let opened = behind.into_iter().take(most).map_while(|rotated| open_regular(&rotated.path).ok());
        let mut files: Vec<File> = opened.collect();
        if !is_all {
            return (files, Ok(()));
        }
        let last = match self.now() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            file => {
                files.extend(file);
                Ok(())
            }
        };
        (files, last)
    }

    fn rotated_behind(&self, id: Id, age: (i64, i64)) -> Vec<Rotated> {
        let mut rotated: Vec<Rotated> = self.rotated().collect();
        let own = rotated.iter().find(|rotated| Id::of(&rotated.metadata) == id).map(|own| own.number);
        rotated.retain(|rotated| match (own, rotated.number) {
            _ if Id::of(&rotated.metadata) == id => false,
            (Some(Some(own)), Some(number)) => number < own,
            _ => changed(&rotated.metadata) > age,
        });
        rotated.sort_by_key(|rotated| (Reverse(rotated.number), changed(&rotated.metadata)));
        rotated
    }

    /// The file of which a snapshot has read up to a place, and whether nobody writes to it: by its inode, where it has
    /// what is known of the bytes before; else a copy that has.
    pub fn find(&self, start: Start, place: &Place) -> Option<(File, bool)> {
        let id = start.id;
        let is_it = |path: &Path| {
            let file = open_regular(path).ok()?;
            (has_line(&file, place) && start.is_in(&file, place)).then_some(file)
        };
        let is_same = |path: &Path| {
            fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && Id::of(&metadata) == id)
        };
        if is_same(&self.path)
            && let Some(file) = is_it(&self.path)
        {
            return Some((file, false));
        }
        let others = self.entries().map(|entry| entry.path()).filter(|path| *path != self.path);
        if let Some(file) = others.filter(|path| is_same(path)).find_map(|path| is_it(&path)) {
            return Some((file, false));
        }
        // Without any bytes there is nothing to know a copy by.
        let is_known = place.last[0] > 0 || start.window.is_some();
        let mut copies: Vec<Rotated> = self.rotated().filter(|_| is_known).collect();
        copies.sort_by_key(|copy| Reverse(changed(&copy.metadata)));
        copies.iter().find_map(|copy| is_it(&copy.path)).map(|file| (file, true))
    }

    /// The copy of the file of that identity, no older than it, which has `window` before byte `at`.
    pub fn copy(&self, id: Id, at: u64, window: &[u8], age: (i64, i64)) -> Option<File> {
        let is_copy =
            |rotated: &Rotated| Id::of(&rotated.metadata) != id && changed(&rotated.metadata) >= age;
        let mut copies: Vec<Rotated> = self.rotated().filter(is_copy).collect();
        copies.sort_by_key(|copy| Reverse(changed(&copy.metadata)));
        copies.iter().find_map(|copy| {
            let file = open_regular(&copy.path).ok()?;
            let mut found = vec![0; window.len()];
            file.read_exact_at(&mut found, at - window.len() as u64).ok()?;
            (found == window).then_some(file)
        })
    }

    /// Files whose names are the path's with digits behind, of a number or a date.
    fn rotated(&self) -> impl Iterator<Item = Rotated> {
        self.entries().filter_map(|entry| {
            let name = entry.file_name();
            let suffix = name.as_bytes().strip_prefix(self.name().as_bytes())?;
            let is_suffix = matches!(suffix.first(), Some(b'.' | b'-' | b'_'))
                && suffix.iter().any(u8::is_ascii_digit)
                && suffix.iter().all(|&byte| byte.is_ascii_digit() || b".-_T:Z+".contains(&byte));
            let metadata = entry.path().metadata().ok().filter(|_| is_suffix)?;
            let number =
                suffix.strip_prefix(b".").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            metadata.is_file().then(|| Rotated { path: entry.path(), metadata, number })
        })
    }

    fn entries(&self) -> impl Iterator<Item = DirEntry> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten();
        entries.flatten().take(ENTRIES)
    }

    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

/// Opens a file. What has become of a path is not waited for: a FIFO's writer may never come.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("what is there is no file")) }
}

/// Whether a file has the last line that was read of it, before the place where reading goes on; where none was, whether a
/// line begins there.
fn has_line(file: &File, place: &Place) -> bool {
    let [length, checksum] = place.last;
    let Some(start) = place.offset.checked_sub(length.into()) else { return false };
    if length as usize > LINE_MAX || file.metadata().map_or(0, |metadata| metadata.len()) < place.offset {
        return false;
    }
    if length == 0 {
        return line_start(file, place.offset).is_ok_and(|start| start == place.offset);
    }
    let mut line = vec![0; length as usize];
    file.read_exact_at(&mut line, start).is_ok() && crc32fast::hash(&line) == checksum
}
