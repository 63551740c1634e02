//! Snapshots: what streams remember, in a file that notices whatever has happened to it.
//!
//! All numbers are little endian.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `mcedge`, 0x1a, newline |
//! | 4 | version of the format, 2 |
//! | 4 | sections |
//! | 8 | bytes of the file |
//! | | sections: 8 bytes of the name's length, the name, 8 of the payload's length, 4 of its CRC32, the payload |
//! | 32 | SHA-256 of all that |
//!
//! A snapshot is untrusted input: [`Snapshot::parse`] and [`Section`] check every length against what is there before
//! anything is made of it.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

pub use self::draft::Draft;
pub use self::error::SnapshotError;
pub use self::section::Section;
pub(crate) use self::section::read_cells;

mod draft;
mod error;
mod section;
pub mod store;
#[cfg(test)]
mod tests;

/// What a snapshot begins with.
const MAGIC: [u8; 8] = *b"mcedge\x1a\n";
/// The version of the format that is written, and the only one that is read.
const VERSION: u32 = 2;
/// Magic, version, sections, bytes.
const HEADER_BYTES: usize = 24;
/// SHA-256.
const DIGEST_BYTES: usize = 32;

/// A snapshot whose checksums hold.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// In the file's order; no two of a name.
    sections: Vec<Section<'a>>,
}

impl<'a> Snapshot<'a> {
    /// Checks a whole file.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Foreign`], [`SnapshotError::Truncated`] or [`SnapshotError::Damaged`]; [`SnapshotError::Version`]
    /// of a file that is as it was written, which ends with its SHA-256 whatever its version.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SnapshotError> {
        let start = &bytes[..bytes.len().min(MAGIC.len())];
        if !MAGIC.starts_with(start) {
            return Err(SnapshotError::Foreign { found: start.to_vec() });
        }
        let truncated = |expected: u64| SnapshotError::Truncated { found: bytes.len() as u64, expected };
        let least = truncated((HEADER_BYTES + DIGEST_BYTES) as u64);
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Err(least) };
        let mut header = Section::new("header", &header[MAGIC.len()..]);
        let version = header.u32("version")?;
        if version != VERSION {
            check_digest(bytes)?;
            return Err(SnapshotError::Version { found: version, expected: VERSION });
        }
        let (sections, length) = (header.u32("sections")?, header.u64("bytes")?);
        if length != bytes.len() as u64 {
            return Err(truncated(length));
        }
        let Some((body, _)) = rest.split_last_chunk::<DIGEST_BYTES>() else { return Err(least) };
        let sections = split(Section::new("sections", body), sections)?;
        check_digest(bytes)?;
        Ok(Self { sections })
    }

    /// The section of that name, from its beginning.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Content`] when there is none.
    pub fn section(&self, name: &str) -> Result<Section<'a>, SnapshotError> {
        let found = self.sections.iter().find(|section| section.name() == name);
        found.cloned().ok_or_else(|| SnapshotError::Content {
            section: name.to_owned(),
            found: "no such section".into(),
            expected: "one".into(),
        })
    }
}

/// Whether a file, of any version, ends with the SHA-256 of what is before.
fn check_digest(bytes: &[u8]) -> Result<(), SnapshotError> {
    let (body, digest) = bytes.split_at(bytes.len().saturating_sub(DIGEST_BYTES));
    let found = Sha256::digest(body);
    if found[..] == *digest { Ok(()) } else { Err(damaged("the whole", &hex(&found), &hex(digest))) }
}

/// The sections of a file's body, whose checksums hold.
fn split(mut body: Section<'_>, count: u32) -> Result<Vec<Section<'_>>, SnapshotError> {
    let (mut sections, mut names) = (Vec::new(), HashSet::new());
    for _ in 0..count {
        let name = body.text("a section's name")?;
        let (length, checksum) = (body.u64("a section's length")?, body.u32("a section's checksum")?);
        let payload = body.bytes("a section", usize::try_from(length).unwrap_or(usize::MAX))?;
        let found = crc32fast::hash(payload);
        if found != checksum {
            let part = format!("section `{name}`");
            return Err(damaged(&part, &format!("{found:08x}"), &format!("{checksum:08x}")));
        }
        if !names.insert(name) {
            return Err(body.wrong(format!("two sections `{name}`"), "one"));
        }
        sections.push(Section::new(name, payload));
    }
    body.end()?;
    Ok(sections)
}

fn damaged(part: &str, found: &str, expected: &str) -> SnapshotError {
    SnapshotError::Damaged { part: part.into(), found: found.into(), expected: expected.into() }
}

/// The beginning of a digest, for a message.
pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
