//! One call of a memory function: a graph's tensors on one side, the kernel's slices on the other. Both backends
//! come through here, so that there is one kernel and one reading of the seam.

use mcedge_models::contract::{MemoryFunction, Role};
use smallvec::SmallVec;

use super::Cells;
use crate::kernel::{self, Kernel, Run};

/// Room for the tensors of most functions without a heap allocation.
pub(crate) type Short<T> = SmallVec<[T; 24]>;

/// A memory function with the kernel in its place.
pub(crate) struct Call {
    function: MemoryFunction,
    inputs: Vec<Role>,
    kernel: Kernel,
}

/// What stands in the way of a call: an input of another type or size than the function's.
#[derive(Debug, thiserror::Error)]
#[error("memory function input {index} is not a {expected}")]
pub(crate) struct CallError {
    index: usize,
    expected: &'static str,
}

impl Call {
    pub(crate) fn new(function: &MemoryFunction, capacity: usize) -> Self {
        Self {
            function: function.clone(),
            inputs: function.inputs(),
            kernel: Kernel::new(function, capacity),
        }
    }

    /// Inputs of the function.
    pub(crate) fn arity(&self) -> usize {
        self.inputs.len()
    }

    /// Runs every stream of a batch: `inputs` and `outputs` are whole tensors in the function's order, `[B, …]`.
    pub(crate) fn run(
        &mut self,
        batch: usize,
        inputs: &[Cells<'_>],
        outputs: &mut [&mut [f32]],
    ) -> Result<(), CallError> {
        for stream in 0..batch {
            self.run_stream(stream, batch, inputs, outputs)?;
        }
        Ok(())
    }

    fn run_stream(
        &mut self,
        stream: usize,
        batch: usize,
        inputs: &[Cells<'_>],
        outputs: &mut [&mut [f32]],
    ) -> Result<(), CallError> {
        let mut view = Stream::default();
        for (index, (role, cells)) in self.inputs.iter().zip(inputs).enumerate() {
            view.take(*role, row(*cells, stream, batch)).map_err(|expected| CallError { index, expected })?;
        }
        let mut rows = outputs.iter_mut().map(|output| row_mut(output, stream, batch));
        let y = rows.next().unwrap_or_default();
        let mut present: Short<&mut [f32]> = rows.collect();
        self.kernel.run(Run {
            q: view.q,
            k: view.k,
            v: view.v,
            u: view.u,
            past: &view.past,
            present: &mut present,
            segment_length: view.segment_length,
            cache: &view.cache,
            cache_length: view.cache_length,
            y,
        });
        Ok(())
    }

    /// The function that it computes.
    pub(crate) fn function(&self) -> &MemoryFunction {
        &self.function
    }
}

/// One stream's inputs.
#[derive(Default)]
struct Stream<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    u: Option<&'a [f32]>,
    past: Short<&'a [f32]>,
    segment_length: usize,
    cache: Short<kernel::Cells<'a>>,
    cache_length: usize,
}

impl<'a> Stream<'a> {
    fn take(&mut self, role: Role, cells: Cells<'a>) -> Result<(), &'static str> {
        match (role, cells) {
            (Role::Q, Cells::F32(cells)) => self.q = cells,
            (Role::K, Cells::F32(cells)) => self.k = cells,
            (Role::V, Cells::F32(cells)) => self.v = cells,
            (Role::U, Cells::F32(cells)) => self.u = Some(cells),
            (Role::State(_), Cells::F32(cells)) => self.past.push(cells),
            (Role::Cache(_), Cells::F32(cells)) => self.cache.push(kernel::Cells::F32(cells)),
            (Role::Cache(_), Cells::F16(cells)) => self.cache.push(kernel::Cells::F16(cells)),
            (Role::SegmentLength, Cells::I64(cells)) => self.segment_length = length(cells)?,
            (Role::CacheLength, Cells::I64(cells)) => self.cache_length = length(cells)?,
            (Role::SegmentLength | Role::CacheLength, _) => return Err("tensor of lengths, int64"),
            (Role::Cache(_), _) => return Err("cache tensor, f32 or f16"),
            _ => return Err("tensor of f32"),
        }
        Ok(())
    }
}

fn length(cells: &[i64]) -> Result<usize, &'static str> {
    cells.first().and_then(|&length| usize::try_from(length).ok()).ok_or("length of 0 or more")
}

/// The part of a whole tensor `[batch, …]` that belongs to one stream.
fn row(cells: Cells<'_>, stream: usize, batch: usize) -> Cells<'_> {
    match cells {
        Cells::F32(cells) => Cells::F32(part(cells, stream, batch)),
        Cells::F16(cells) => Cells::F16(part(cells, stream, batch)),
        Cells::I64(cells) => Cells::I64(part(cells, stream, batch)),
    }
}

fn part<T>(cells: &[T], stream: usize, batch: usize) -> &[T] {
    let size = cells.len() / batch;
    &cells[stream * size..(stream + 1) * size]
}

fn row_mut<'a>(cells: &'a mut &mut [f32], stream: usize, batch: usize) -> &'a mut [f32] {
    let size = cells.len() / batch;
    &mut cells[stream * size..(stream + 1) * size]
}
