//! The seam between the engine and what runs a graph.

use half::f16;

use crate::Error;

#[cfg(any(feature = "tract", feature = "ort"))]
pub(crate) mod call;
#[cfg(feature = "ort")]
pub(crate) mod ort;
#[cfg(feature = "ort")]
pub(crate) mod ort_library;
#[cfg(feature = "ort")]
mod ort_raw;
#[cfg(feature = "tract")]
pub(crate) mod tract;

/// The element type of a [`Buffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// 8-bit integers: caches.
    I8,
    /// 64-bit integers: tokens and lengths.
    I64,
}

/// The elements of a tensor, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Cells<'a> {
    /// IEEE binary32.
    F32(&'a [f32]),
    /// IEEE binary16.
    F16(&'a [f16]),
    /// 8-bit integers.
    I8(&'a [i8]),
    /// 64-bit integers.
    I64(&'a [i64]),
}

impl Cells<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Cells::F32(cells) => cells.len(),
            Cells::F16(cells) => cells.len(),
            Cells::I8(cells) => cells.len(),
            Cells::I64(cells) => cells.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The elements of a tensor, row-major, to write.
#[derive(Debug)]
pub enum CellsMut<'a> {
    /// IEEE binary32.
    F32(&'a mut [f32]),
    /// IEEE binary16.
    F16(&'a mut [f16]),
    /// 8-bit integers.
    I8(&'a mut [i8]),
    /// 64-bit integers.
    I64(&'a mut [i64]),
}

/// A tensor in the memory that a backend reads without a copy; the engine owns it.
pub trait Buffer {
    /// Its elements.
    fn cells(&self) -> Cells<'_>;
    /// Its elements, to write. The engine calls it between runs, when nothing else refers to the tensor.
    fn cells_mut(&mut self) -> CellsMut<'_>;
}

/// Runs one graph over tensors that the engine owns.
pub trait Backend {
    /// A tensor that this backend reads without a copy.
    type Tensor: Buffer;

    /// The graph's inputs, in the order that [`run`](Backend::run) takes them.
    fn inputs(&self) -> &[String];

    /// The graph's outputs, in the order that [`run`](Backend::run) gives them.
    fn outputs(&self) -> &[String];

    /// A tensor of zeros.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] when there is no memory for it.
    fn zeros(&self, element: Element, shape: &[usize]) -> Result<Self::Tensor, Error>;

    /// A tensor of anything, whose memory nobody has touched: it takes room when it is written.
    ///
    /// # Errors
    ///
    /// As [`Backend::zeros`].
    fn reserve(&self, element: Element, shape: &[usize]) -> Result<Self::Tensor, Error> {
        self.zeros(element, shape)
    }

    /// Runs the graph once and replaces `outputs` by what it gave.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`]; what `outputs` holds is then of no meaning.
    fn run<'a>(
        &mut self,
        inputs: impl Iterator<Item = &'a Self::Tensor>,
        outputs: &mut [Self::Tensor],
    ) -> Result<(), Error>
    where
        Self::Tensor: 'a;
}
