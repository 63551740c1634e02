//! NumPy arrays, read row by row.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use mcedge_models::contract::Input;

use super::bytes::{Bytes, Need};
use super::{Fields, Options, Read, Row, channel_names, check_finite, check_token};

/// What an `.npy` file begins with.
pub const MAGIC: &[u8] = b"\x93NUMPY";
/// The longest header read: a plain array's has 118 bytes.
const HEADER_MAX: usize = 1 << 16;

/// An array, open at its first row.
pub struct Npy {
    bytes: Bytes,
    dtype: Dtype,
    rows: u64,
    /// Rows read.
    read: u64,
    /// One row, as it is in the file.
    row: Vec<u8>,
    input: Input,
}

/// The whole array of the file at `path`: its shape and its numbers, row-major.
///
/// # Errors
///
/// No such file, no `.npy`, or one whose data is not as long as its shape says.
pub fn read(path: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let mut bytes = Bytes::open(path, Arc::default())?;
    let Header { dtype, shape } = Header::read(&mut bytes)?;
    let size = dtype.size();
    let shape = shape.into_iter().map(usize::try_from).collect::<Result<Vec<usize>, _>>()?;
    let expected = shape.iter().try_fold(size, |product, &size| product.checked_mul(size));
    let found = bytes.total().map(|total| total.saturating_sub(bytes.consumed()));
    ensure!(
        found.is_some() && found == expected.map(|bytes| bytes as u64),
        "has {found:?} bytes of data, expected those of {shape:?} {dtype:?}"
    );
    let mut data = vec![0; expected.unwrap_or_default()];
    ensure!(bytes.fill(&mut data)? == data.len(), "ends inside its data");
    Ok((shape, data.chunks_exact(size).map(|element| dtype.number(element)).collect()))
}

/// Element types, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dtype {
    F4,
    F8,
    I4,
    I8,
    U1,
}

/// What an array is.
#[derive(Debug, PartialEq)]
struct Header {
    dtype: Dtype,
    shape: Vec<u64>,
}

impl Npy {
    pub fn open(mut bytes: Bytes, input: &Input, options: &Options, fields: &mut Fields) -> Result<Self> {
        if options.columns.is_some() || options.time_column.is_some() {
            bail!("columns are not chosen from an .npy array");
        }
        let header = Header::read(&mut bytes)?;
        let (rows, width) = header.rows(input)?;
        ensure!(rows > 0, "has no rows: its shape is {:?}", header.shape);
        // The width is the model's, which is bounded.
        let row_bytes = width * header.dtype.size();
        if let Some(total) = bytes.total() {
            let expected = rows.checked_mul(row_bytes as u64);
            let found = total.saturating_sub(bytes.consumed());
            ensure!(
                expected == Some(found),
                "has {found} bytes of data, expected {} for {:?} {:?}",
                expected.map_or("more than there can be".into(), |bytes| bytes.to_string()),
                header.dtype,
                header.shape,
            );
        }
        if let Input::Features { names, size, .. } = input {
            fields.channels = channel_names(names, None, *size);
        }
        let row = vec![0; row_bytes];
        Ok(Npy { bytes, dtype: header.dtype, rows, read: 0, row, input: input.clone() })
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn bytes_mut(&mut self) -> &mut Bytes {
        &mut self.bytes
    }

    /// Goes to the byte at `offset`, with which row `rows` ends.
    pub fn go_to(&mut self, offset: u64, rows: u64) -> Result<()> {
        self.read = rows;
        self.bytes.go_to(offset)
    }

    pub fn would_wait(&mut self) -> bool {
        self.read < self.rows && self.bytes.would_wait(Need::Bytes(self.row.len()))
    }

    pub fn next(&mut self, row: &mut Row) -> Result<Read> {
        row.clear();
        if self.read == self.rows || self.bytes.stopped() {
            return Ok(Read::End);
        }
        if self.bytes.fill(&mut self.row)? < self.row.len() {
            ensure!(self.bytes.stopped(), "ends inside row {} of {}", self.read, self.rows);
            return Ok(Read::End);
        }
        self.read += 1;
        let parsed = self.parse(row).with_context(|| format!("row {}", self.read - 1));
        Ok(parsed.map_or_else(Read::Bad, |()| Read::Row))
    }

    fn parse(&self, row: &mut Row) -> Result<()> {
        for (channel, element) in self.row.chunks_exact(self.dtype.size()).enumerate() {
            match self.input {
                Input::Features { .. } => {
                    let number = check_finite(self.dtype.number(element));
                    row.features.push(number.with_context(|| format!("column {channel}"))?);
                }
                Input::Tokens { .. } => row.tokens.push(check_token(self.dtype.token(element), &self.input)?),
            }
        }
        Ok(())
    }
}

impl Dtype {
    fn parse(descr: &str) -> Result<Self> {
        Ok(match descr {
            "<f4" => Dtype::F4,
            "<f8" => Dtype::F8,
            "<i4" => Dtype::I4,
            "<i8" => Dtype::I8,
            "|u1" => Dtype::U1,
            _ => bail!("has elements {descr:?}, expected <f4, <f8, <i4, <i8 or |u1"),
        })
    }

    fn size(self) -> usize {
        match self {
            Dtype::U1 => 1,
            Dtype::F4 | Dtype::I4 => 4,
            Dtype::F8 | Dtype::I8 => 8,
        }
    }

    fn is_integer(self) -> bool {
        !matches!(self, Dtype::F4 | Dtype::F8)
    }

    /// An element, `[size]` bytes, as a number.
    fn number(self, element: &[u8]) -> f32 {
        match self {
            Dtype::F4 => f32::from_le_bytes(bytes(element)),
            Dtype::F8 => f64::from_le_bytes(bytes(element)) as f32,
            _ => self.token(element) as f32,
        }
    }

    /// An element of an integer type, `[size]` bytes.
    fn token(self, element: &[u8]) -> i64 {
        match self {
            Dtype::I4 => i64::from(i32::from_le_bytes(bytes(element))),
            Dtype::I8 => i64::from_le_bytes(bytes(element)),
            _ => i64::from(element[0]),
        }
    }
}

/// An element's bytes, whose number the caller has made sure of.
fn bytes<const N: usize>(element: &[u8]) -> [u8; N] {
    element.try_into().expect("a whole element")
}

impl Header {
    fn read(bytes: &mut Bytes) -> Result<Self> {
        let mut start = [0; 8];
        ensure!(bytes.fill(&mut start)? == start.len() && start.starts_with(MAGIC), "is not an .npy file");
        let mut length = [0; 4];
        let length_bytes = match start[6] {
            1 => 2,
            2 | 3 => 4,
            version => bail!("is .npy version {version}, expected 1 to 3"),
        };
        let read = bytes.fill(&mut length[..length_bytes])?;
        let length = u32::from_le_bytes(length) as usize;
        ensure!(read == length_bytes && length <= HEADER_MAX, "has an .npy header of {length} bytes");
        let mut header = vec![0; length];
        ensure!(bytes.fill(&mut header)? == length, "ends inside its .npy header");
        let header = std::str::from_utf8(&header).context("its .npy header is not text")?;
        Header::parse(header).context("its .npy header")
    }

    /// Parses the Python dictionary that a header is.
    fn parse(header: &str) -> Result<Self> {
        let descr = field(header, "descr")?;
        let quoted = descr.strip_prefix(['\'', '"']).and_then(|rest| rest.split(['\'', '"']).next());
        let dtype = Dtype::parse(quoted.ok_or_else(|| anyhow!("has records, expected plain numbers"))?)?;
        let shape = field(header, "shape")?;
        let shape = shape.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(shape, _)| shape);
        let sizes = shape.ok_or_else(|| anyhow!("has no shape"))?.split(',').map(str::trim);
        let shape = sizes.filter(|size| !size.is_empty()).map(str::parse).collect::<Result<Vec<u64>, _>>();
        let shape = shape.context("has a shape that is not numbers")?;
        let fortran = field(header, "fortran_order")?.starts_with("True");
        let vector = shape.iter().filter(|&&size| size != 1).count() <= 1;
        ensure!(!fortran || vector, "is in Fortran order: save it with np.ascontiguousarray");
        Ok(Header { dtype, shape })
    }

    /// Rows, and elements of one, when the array suits the model.
    fn rows(&self, input: &Input) -> Result<(u64, usize)> {
        match (input, self.shape.as_slice()) {
            (Input::Features { size, .. }, &[rows, columns]) if columns == *size as u64 => Ok((rows, *size)),
            (Input::Features { size: 1, .. }, &[rows]) => Ok((rows, 1)),
            (Input::Features { size, .. }, shape) => {
                bail!("has shape {shape:?}, the model takes [T, {size}]")
            }
            (Input::Tokens { .. }, &[rows]) if self.dtype.is_integer() => Ok((rows, 1)),
            (Input::Tokens { .. }, shape) => {
                bail!("has shape {shape:?} and elements {:?}, the model takes integers [T]", self.dtype)
            }
        }
    }
}

/// What follows a key of the dictionary.
fn field<'a>(header: &'a str, key: &str) -> Result<&'a str> {
    let after = |quote: char| header.split_once(&format!("{quote}{key}{quote}")).map(|(_, after)| after);
    let value = after('\'').or_else(|| after('"')).and_then(|after| after.trim_start().strip_prefix(':'));
    value.map(str::trim_start).ok_or_else(|| anyhow!("has no `{key}`"))
}
