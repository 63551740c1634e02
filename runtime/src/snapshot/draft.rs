//! A snapshot in the making.

use half::f16;
use sha2::{Digest, Sha256};

use super::{HEADER_BYTES, MAGIC, VERSION};

/// A snapshot in the making, in a buffer that is used again for the next.
///
/// # Invariants
///
/// After [`Draft::clear`] `bytes` begins with a header whose sections and length are those of [`Draft::finish`]; what
/// comes behind are whole sections, but for the length and the checksum of the last one, whose payload begins at
/// `payload`.
#[derive(Default)]
pub struct Draft {
    bytes: Vec<u8>,
    sections: u32,
    payload: usize,
}

impl Draft {
    /// Begins anew.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.extend(MAGIC);
        self.bytes.extend(VERSION.to_le_bytes());
        self.bytes.resize(HEADER_BYTES, 0);
        (self.sections, self.payload) = (0, 0);
    }

    /// Begins a section; what follows is its payload. No two have one name.
    pub fn section(&mut self, name: &str) {
        self.seal();
        self.text(name);
        // Its length and its checksum, which are not known yet.
        self.bytes.extend([0; 12]);
        self.sections += 1;
        self.payload = self.bytes.len();
    }

    /// Ends the last section.
    fn seal(&mut self) {
        if self.sections > 0 {
            let payload = &self.bytes[self.payload..];
            let (length, checksum) = (payload.len() as u64, crc32fast::hash(payload));
            let start = self.payload - 12;
            self.bytes[start..start + 8].copy_from_slice(&length.to_le_bytes());
            self.bytes[start + 8..self.payload].copy_from_slice(&checksum.to_le_bytes());
        }
    }

    /// Ends the snapshot: the bytes of its file.
    pub fn finish(&mut self) -> &[u8] {
        self.seal();
        let length = (self.bytes.len() + super::DIGEST_BYTES) as u64;
        self.bytes[12..16].copy_from_slice(&self.sections.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&length.to_le_bytes());
        let digest = Sha256::digest(&self.bytes);
        self.bytes.extend(digest);
        &self.bytes
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A yes or no.
    pub fn flag(&mut self, flag: bool) {
        self.bytes.push(u8::from(flag));
    }

    /// A number.
    pub fn u32(&mut self, number: u32) {
        self.bytes.extend(number.to_le_bytes());
    }

    /// A number.
    pub fn u64(&mut self, number: u64) {
        self.bytes.extend(number.to_le_bytes());
    }

    /// How many there are of something, or where it is.
    pub fn count(&mut self, count: usize) {
        self.u64(count as u64);
    }

    /// A number.
    pub fn f64(&mut self, number: f64) {
        self.bytes.extend(number.to_le_bytes());
    }

    /// Numbers, one after the other.
    pub fn f32s(&mut self, numbers: &[f32]) {
        self.cells(numbers, f32::to_le_bytes);
    }

    pub(crate) fn f16s(&mut self, numbers: &[f16]) {
        self.cells(numbers, f16::to_le_bytes);
    }

    pub(crate) fn i8s(&mut self, numbers: &[i8]) {
        self.cells(numbers, i8::to_le_bytes);
    }

    /// Writes into room that is there already, which a compiler makes a copy of.
    fn cells<T: Copy, const N: usize>(&mut self, cells: &[T], to_bytes: impl Fn(T) -> [u8; N]) {
        let start = self.bytes.len();
        self.bytes.resize(start + cells.len() * N, 0);
        let (room, _) = self.bytes[start..].as_chunks_mut::<N>();
        room.iter_mut().zip(cells).for_each(|(room, &cell)| *room = to_bytes(cell));
    }

    /// A text.
    pub fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes(text.as_bytes());
    }
}
