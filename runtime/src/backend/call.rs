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
    inputs: Vec<Input>,
    /// Slots of the cache.
    capacity: usize,
    kernel: Kernel,
}

/// One input of the function.
struct Input {
    role: Role,
    /// Its elements a stream; a token, for those that have one row a token.
    elements: usize,
}

/// What stands in the way of a call: the graph hands over something that its contract does not declare.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// An input of another type.
    #[error("input {index} of a memory function is not a {expected}")]
    Type { index: usize, expected: &'static str },
    /// An input of another size.
    #[error("input {index} of a memory function has {found} elements, its contract declares {expected}")]
    Size { index: usize, found: usize, expected: usize },
    /// More live slots than there are.
    #[error("cache.length is {found}, the cache has {capacity} slots")]
    Length { found: usize, capacity: usize },
}

impl Call {
    pub(crate) fn new(function: &MemoryFunction, capacity: usize) -> Self {
        let tensors = function.tensors();
        let state = |i: usize| function.num_heads * tensors[i].shape.iter().product::<usize>();
        let elements = |role: Role| match role {
            Role::Q | Role::K | Role::V | Role::U | Role::Y => function.num_heads * function.head_size,
            Role::State(i) => state(i),
            Role::Cache(i) => state(i) * capacity,
            Role::SegmentLength | Role::CacheLength => 1,
        };
        let input = |role: Role| Input { role, elements: elements(role) };
        Self {
            inputs: function.inputs().into_iter().map(input).collect(),
            function: function.clone(),
            capacity,
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
        // Rows of q, and so tokens: the door of what the kernel takes for granted.
        let tokens = inputs.first().map_or(0, |q| q.len() / batch / self.inputs[0].elements.max(1));
        for (index, (input, cells)) in self.inputs.iter().zip(inputs).enumerate() {
            let cells = row(*cells, stream, batch);
            let expected = match input.role {
                Role::Q | Role::K | Role::V | Role::U | Role::Y => tokens * input.elements,
                _ => input.elements,
            };
            if cells.len() != expected {
                return Err(CallError::Size { index, found: cells.len(), expected });
            }
            view.take(input.role, cells).map_err(|expected| CallError::Type { index, expected })?;
        }
        if view.cache_length > self.capacity {
            return Err(CallError::Length { found: view.cache_length, capacity: self.capacity });
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

#[cfg(test)]
mod tests {
    use mcedge_models::spec::{Aggregation, Caching, Context, FeatureMap, Init, Memory, Query, Segmentation};

    use super::*;

    fn call() -> Call {
        let function = MemoryFunction {
            num_heads: 2,
            head_size: 3,
            normalize_qk: false,
            memory: Memory::Linear { feature_map: FeatureMap::Identity, normalized: false },
            caching: Caching {
                aggregation: Aggregation::Mean,
                query: Query::Q,
                context: Context::Mean,
                temperature: 1.0,
                top_k: None,
                segmentation: Segmentation::Constant { size: 4 },
                init: Init::Continue,
            },
        };
        Call::new(&function, 5)
    }

    /// Runs with inputs of these sizes and this `cache.length`, and says what stood in the way.
    fn check(sizes: [usize; 5], cache_length: i64) -> String {
        let floats: Vec<Vec<f32>> = sizes.iter().map(|&size| vec![0.0; size]).collect();
        let length = [cache_length];
        let mut inputs: Vec<Cells<'_>> = floats.iter().map(|cells| Cells::F32(cells)).collect();
        inputs.push(Cells::I64(&length));
        let (mut y, mut m) = (vec![0.0; 6], vec![0.0; 18]);
        let result = call().run(1, &inputs, &mut [&mut y, &mut m]);
        result.map_or_else(|error| error.to_string(), |()| "ok".into())
    }

    #[test]
    fn a_graph_that_is_not_its_contract_is_an_error_before_the_kernel() {
        assert_eq!(check([6, 6, 6, 18, 90], 5), "ok");
        assert!(check([6, 5, 6, 18, 90], 0).contains("input 1 of a memory function has 5 elements"));
        assert!(check([6, 6, 6, 18, 72], 0).contains("declares 90"));
        assert!(check([6, 6, 6, 18, 90], 6).contains("cache.length is 6"));
        assert!(check([6, 6, 6, 18, 90], -1).contains("length of 0 or more"));
    }
}
