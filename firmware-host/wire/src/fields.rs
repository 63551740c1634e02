//! Little-endian numbers in bytes, checked.

use crate::record::RecordError;

/// Reads the fields of a record one after the other; an error where there are no more bytes.
pub struct Fields<'a> {
    rest: &'a [u8],
    /// Bytes of the whole record.
    total: usize,
}

impl<'a> Fields<'a> {
    pub fn new(record: &'a [u8]) -> Self {
        Fields { rest: record, total: record.len() }
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], RecordError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or_else(|| self.length())?;
        self.rest = rest;
        Ok(bytes)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| self.length())?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub fn u8(&mut self) -> Result<u8, RecordError> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, RecordError> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn f32(&mut self) -> Result<f32, RecordError> {
        self.array().map(f32::from_le_bytes)
    }

    /// There must be no more bytes.
    pub fn end(self) -> Result<(), RecordError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.length()) }
    }

    fn length(&self) -> RecordError {
        RecordError::Length { found: self.total }
    }
}
