//! One section of a snapshot, read from its beginning to its end.

use super::SnapshotError;

/// 36 years of a token every nanosecond.
const COUNTER_MAX: u64 = 1 << 60;

/// What is left of a section. Every take names what it takes, for the error.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    name: &'a str,
    rest: &'a [u8],
}

impl<'a> Section<'a> {
    pub(super) fn new(name: &'a str, bytes: &'a [u8]) -> Self {
        Self { name, rest: bytes }
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Content`] when there are fewer; so do all that follow.
    pub fn bytes(&mut self, what: &str, count: usize) -> Result<&'a [u8], SnapshotError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or_else(|| {
            self.wrong(format!("{} bytes left", self.rest.len()), &format!("{count} of {what}"))
        })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], SnapshotError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(what, N)?);
        Ok(array)
    }

    /// A yes or no.
    ///
    /// # Errors
    ///
    /// As [`Section::bytes`]; a byte that is neither 0 nor 1.
    pub fn flag(&mut self, what: &str) -> Result<bool, SnapshotError> {
        match self.array(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => Err(self.wrong(format!("{what} {byte}"), "0 or 1")),
        }
    }

    /// A number.
    ///
    /// # Errors
    ///
    /// As [`Section::bytes`].
    pub fn u32(&mut self, what: &str) -> Result<u32, SnapshotError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A number.
    ///
    /// # Errors
    ///
    /// As [`Section::bytes`].
    pub fn u64(&mut self, what: &str) -> Result<u64, SnapshotError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// What counts up for as long as a stream goes on: so far from the end of a `u64` that no sum of a few of them
    /// comes there.
    ///
    /// # Errors
    ///
    /// As [`Section::bytes`]; it has counted further than any stream goes.
    pub fn counter(&mut self, what: &str) -> Result<u64, SnapshotError> {
        let found = self.u64(what)?;
        if found > COUNTER_MAX {
            return Err(self.wrong(format!("{found} {what}"), &format!("{COUNTER_MAX} at most")));
        }
        Ok(found)
    }

    /// How many there are of something, `most` at most.
    ///
    /// # Errors
    ///
    /// As [`Section::bytes`]; there are more.
    pub fn count(&mut self, what: &str, most: usize) -> Result<usize, SnapshotError> {
        let found = self.u64(what)?;
        let count = usize::try_from(found).ok().filter(|&count| count <= most);
        count.ok_or_else(|| self.wrong(format!("{found} {what}"), &format!("{most} at most")))
    }

    /// A finite number.
    ///
    /// # Errors
    ///
    /// As [`Section::bytes`]; it is not finite.
    pub fn f64(&mut self, what: &str) -> Result<f64, SnapshotError> {
        let number = self.array(what).map(f64::from_le_bytes)?;
        if !number.is_finite() {
            return Err(self.wrong(format!("{what} {number}"), "a finite number"));
        }
        Ok(number)
    }

    /// `count` finite numbers, as they are in the file: see [`Cell`].
    ///
    /// # Errors
    ///
    /// As [`Section::bytes`]; one is not finite.
    pub(crate) fn cells<T: Cell>(&mut self, what: &str, count: usize) -> Result<&'a [u8], SnapshotError> {
        let bytes = self.bytes(what, count.saturating_mul(size_of::<T>()))?;
        let odd = bytes.chunks_exact(size_of::<T>()).position(|cell| !T::read(cell).is_finite());
        match odd {
            Some(index) => Err(self.wrong(format!("{what} that is not finite at {index}"), "finite numbers")),
            None => Ok(bytes),
        }
    }

    /// `count` finite numbers.
    ///
    /// # Errors
    ///
    /// As [`Section::bytes`]; one is not finite.
    pub fn f32s(&mut self, what: &str, count: usize) -> Result<Vec<f32>, SnapshotError> {
        let bytes = self.cells::<f32>(what, count)?;
        Ok(bytes.chunks_exact(size_of::<f32>()).map(f32::read).collect())
    }

    /// A text.
    ///
    /// # Errors
    ///
    /// As [`Section::bytes`]; it is not UTF-8.
    pub fn text(&mut self, what: &str) -> Result<&'a str, SnapshotError> {
        let length = self.count(what, usize::MAX)?;
        let bytes = self.bytes(what, length)?;
        std::str::from_utf8(bytes).map_err(|error| self.wrong(format!("{what}: {error}"), "UTF-8"))
    }

    /// Ends the section.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Content`] when something is left.
    pub fn end(self) -> Result<(), SnapshotError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.wrong(format!("{left} bytes more"), "its end")),
        }
    }

    /// An error about what is in here.
    pub fn wrong(&self, found: String, expected: &str) -> SnapshotError {
        SnapshotError::Content { section: self.name.into(), found, expected: expected.into() }
    }
}

/// An element of a tensor, as it is in a file: little endian.
pub(crate) trait Cell: Copy {
    /// From its bytes, of which there are as many as it has.
    fn read(bytes: &[u8]) -> Self;
    fn is_finite(self) -> bool;
}

macro_rules! cell {
    ($type:ty, $is_finite:expr) => {
        impl Cell for $type {
            fn read(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$type>()];
                array.copy_from_slice(bytes);
                <$type>::from_le_bytes(array)
            }

            fn is_finite(self) -> bool {
                $is_finite(self)
            }
        }
    };
}

cell!(f32, f32::is_finite);
cell!(half::f16, half::f16::is_finite);
cell!(i8, |_| true);

/// Fills `cells` from `bytes`, of which there are enough; what is left of them.
pub(crate) fn read_cells<'a, T: Cell>(cells: &mut [T], bytes: &'a [u8]) -> &'a [u8] {
    let (bytes, rest) = bytes.split_at(size_of_val(cells));
    let values = bytes.chunks_exact(size_of::<T>());
    cells.iter_mut().zip(values).for_each(|(cell, bytes)| *cell = T::read(bytes));
    rest
}
