//! What can be wrong with a snapshot.

/// Why a snapshot was not taken up. Whatever was to be restored is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Another kind of file.
    #[error("is no snapshot of mcedge: it begins with \"{}\", expected \"mcedge\"", found.escape_ascii())]
    Foreign {
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// A snapshot of another version of the format.
    #[error(
        "is a snapshot of version {found}, expected version {expected}: resume it with the mcedge that wrote it"
    )]
    Version {
        /// The file's.
        found: u32,
        /// The one that is read.
        expected: u32,
    },
    /// A file that is not as long as it says, or too short to say it.
    #[error("is torn: it has {found} bytes, expected {expected}")]
    Truncated {
        /// Bytes that are there.
        found: u64,
        /// Bytes that it is to have.
        expected: u64,
    },
    /// Bytes that are not those that were written.
    #[error("is damaged: the checksum of {part} is {found}, expected {expected}")]
    Damaged {
        /// The section, or the whole.
        part: String,
        /// Checksum of what is there.
        found: String,
        /// Checksum of what was written.
        expected: String,
    },
    /// Something in a section that cannot be.
    #[error("section `{section}` of the snapshot has {found}, expected {expected}")]
    Content {
        /// The section.
        section: String,
        /// What is there.
        found: String,
        /// What can be.
        expected: String,
    },
    /// A snapshot of something else than what is to go on from it.
    #[error("the snapshot is of {found}, expected {expected}")]
    Other {
        /// What it is of.
        found: String,
        /// What is to go on.
        expected: String,
    },
    /// Memories that lie in a file are neither saved nor restored: see [`EngineOptions::spill`](crate::EngineOptions).
    #[error(
        "memories that are spilled to a file are in no snapshot, expected an engine that keeps them in RAM"
    )]
    Spilled,
}
