//! A NumPy array that grows row by row.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use super::target;

/// Bytes before the data, enough for any count of rows.
pub const HEADER_BYTES: usize = 128;

/// Bytes of a row of that shape.
pub fn row_bytes(shape: &[usize]) -> u64 {
    (shape.iter().product::<usize>() * size_of::<f32>()) as u64
}

/// An `.npy` of `[T, …]` f32, whole after each flush.
pub struct Npy {
    file: BufWriter<File>,
    /// Of one row.
    shape: Vec<usize>,
    /// Rows taken.
    rows: u64,
}

impl Npy {
    /// An array without rows; those to come are of `shape`, of a few axes.
    pub fn new(file: File, shape: &[usize]) -> io::Result<Self> {
        let mut npy = Npy { file: BufWriter::new(file), shape: shape.to_vec(), rows: 0 };
        npy.file.write_all(&npy.header())?;
        Ok(npy)
    }

    /// An array that goes on behind its first `rows` rows, in a file that ends there.
    pub fn resume(file: File, shape: &[usize], rows: u64) -> Self {
        Npy { file: BufWriter::new(file), shape: shape.to_vec(), rows }
    }

    /// Brings what was flushed to the disk, and says how many bytes that is.
    pub fn sync(&mut self, path: &str) -> io::Result<u64> {
        target::sync(self.file.get_mut(), path)
    }

    /// Takes a row, row-major.
    pub fn step(&mut self, row: &[f32]) -> io::Result<()> {
        assert_eq!(row.len(), self.shape.iter().product::<usize>(), "numbers in a row");
        for number in row {
            self.file.write_all(&number.to_le_bytes())?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Writes what was taken, then the header that counts it.
    pub fn flush(&mut self) -> io::Result<()> {
        // Seeking writes the buffer out first, so that the header never counts what is not there.
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&self.header())?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }

    fn header(&self) -> [u8; HEADER_BYTES] {
        let axes: String = self.shape.iter().map(|size| format!(", {size}")).collect();
        let shape = format!("({}{axes})", self.rows);
        let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
        let mut header = [b' '; HEADER_BYTES];
        header[..10].copy_from_slice(b"\x93NUMPY\x01\x00\x76\x00");
        header[10..10 + dictionary.len()].copy_from_slice(dictionary.as_bytes());
        header[HEADER_BYTES - 1] = b'\n';
        header
    }
}

/// A run that fails leaves what was done so far.
impl Drop for Npy {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}
