//! One call of a memory function: a graph's tensors on one side, the kernel's slices on the other. Both backends
//! come through here, so that there is one kernel and one reading of the seam.

use mcedge_kernel::{self as kernel, Kernel, Mixer, MixerWeights, Run};
use mcedge_models::contract::{Lead, MemoryFunction, Role};
use smallvec::SmallVec;

use super::Cells;

/// Room for the tensors of most functions without a heap allocation.
pub(crate) type Short<T> = SmallVec<[T; 24]>;
/// Room for the sizes of any tensor.
pub(crate) type Shape<D> = SmallVec<[D; 6]>;

/// A memory function with the kernel in its place.
pub(crate) struct Call {
    function: MemoryFunction,
    seam: Seam,
    kernel: Kernel,
    mixer: Option<Mixer>,
}

/// What a graph hands over and takes back.
struct Seam {
    inputs: Vec<Input>,
    outputs: Vec<Output>,
    /// How many tensors the function has.
    tensors: usize,
    /// Slots of the cache.
    capacity: usize,
}

/// One input of the function.
struct Input {
    role: Role,
    lead: Lead,
    /// Its elements: a token's, a stream's, or all.
    elements: usize,
}

/// One output of the function, whose shape ends in `tail`.
pub(crate) struct Output {
    role: Role,
    lead: Lead,
    tail: Vec<usize>,
}

impl Output {
    /// Its shape, of which the function's `first` input, `[B, T, …]`, knows the first two sizes.
    pub(crate) fn shape<D: Copy>(&self, first: &[D], of: impl Fn(usize) -> D) -> Shape<D> {
        let lead = match self.lead {
            Lead::Token => &first[..2],
            Lead::Stream => &first[..1],
            Lead::Whole => &[],
        };
        lead.iter().copied().chain(self.tail.iter().map(|&size| of(size))).collect()
    }
}

/// Streams and tokens of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    batch: usize,
    tokens: usize,
}

impl Rows {
    /// Elements of a whole tensor, for those of a token, of a stream or of all.
    fn elements(self, lead: Lead, elements: usize) -> usize {
        let times = match lead {
            Lead::Token => self.batch.saturating_mul(self.tokens),
            Lead::Stream => self.batch,
            Lead::Whole => 1,
        };
        times.saturating_mul(elements)
    }
}

/// Streams and tokens, by the shape of a function's first input: the door of what the kernel takes for granted.
pub(crate) fn rows_of(shape: &[usize]) -> Result<Rows, CallError> {
    match *shape {
        [batch, tokens, ..] if batch > 0 && tokens > 0 => Ok(Rows { batch, tokens }),
        _ => Err(CallError::Rows { found: shape.to_vec() }),
    }
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
    /// A first input without a row a token.
    #[error(
        "the first input of a memory function has shape {found:?}, expected [B, T, …] with a token of a stream"
    )]
    Rows { found: Vec<usize> },
    /// More live slots than there are.
    #[error("cache.length is {found}, the cache has {capacity} slots")]
    Length { found: usize, capacity: usize },
}

impl Call {
    pub(crate) fn new(function: &MemoryFunction, capacity: usize) -> Self {
        let input = |role: Role| {
            let (lead, tail) = function.shape(role, capacity);
            Input { role, lead, elements: tail.iter().product() }
        };
        let output = |role: Role| {
            let (lead, tail) = function.shape(role, capacity);
            Output { role, lead, tail }
        };
        let seam = Seam {
            inputs: function.inputs().into_iter().map(input).collect(),
            outputs: function.outputs().into_iter().map(output).collect(),
            tensors: function.tensors().len(),
            capacity,
        };
        let (kernel, mixer) = (Kernel::new(function, capacity), Mixer::new(function));
        Self { function: function.clone(), seam, kernel, mixer }
    }

    /// Inputs of the function.
    pub(crate) fn arity(&self) -> usize {
        self.seam.inputs.len()
    }

    /// The outputs of the function, in order.
    pub(crate) fn outputs(&self) -> &[Output] {
        &self.seam.outputs
    }

    /// The function that it computes, and its cache's slots.
    pub(crate) fn function(&self) -> (&MemoryFunction, usize) {
        (&self.function, self.seam.capacity)
    }

    /// Runs every stream of a batch: `inputs` and `outputs` are whole tensors in the function's order, `[B, …]`, the outputs
    /// of the sizes that the function declares for these rows.
    pub(crate) fn run(
        &mut self,
        rows: Rows,
        inputs: &[Cells<'_>],
        outputs: &mut [&mut [f32]],
    ) -> Result<(), CallError> {
        let Self { seam, kernel, mixer, .. } = self;
        for (index, (input, cells)) in seam.inputs.iter().zip(inputs).enumerate() {
            let expected = rows.elements(input.lead, input.elements);
            if cells.len() != expected {
                return Err(CallError::Size { index, found: cells.len(), expected });
            }
        }
        if let Some(mixer) = mixer {
            return seam.run_mixed(kernel, mixer, rows, inputs, outputs);
        }
        (0..rows.batch).try_for_each(|stream| {
            let view = seam.view(stream, rows.batch, inputs)?;
            seam.run(kernel, view, None, stream, rows.batch, outputs);
            Ok(())
        })
    }
}

impl Seam {
    /// All streams, a few at a time, so that they share each reading of the mixer's weights.
    fn run_mixed(
        &self,
        kernel: &mut Kernel,
        mixer: &mut Mixer,
        Rows { batch, tokens }: Rows,
        inputs: &[Cells<'_>],
        outputs: &mut [&mut [f32]],
    ) -> Result<(), CallError> {
        let (h, weights) = self.weights(inputs)?;
        let step = Mixer::streams_at_once(tokens);
        let d_model = h.len() / (batch * tokens);
        for first in (0..batch).step_by(step) {
            let streams = first..batch.min(first + step);
            let part = streams.start * tokens * d_model..streams.end * tokens * d_model;
            mixer.project(&h[part.clone()], &weights);
            for (index, stream) in streams.enumerate() {
                let mut view = self.view(stream, batch, inputs)?;
                let (operands, y) = mixer.stream(index, tokens);
                for (role, cells) in operands {
                    view.take(role, Cells::F32(cells))
                        .map_err(|expected| CallError::Type { index: 0, expected })?;
                }
                self.run(kernel, view, Some(y), stream, batch, outputs);
            }
            mixer.mix(&h[part.clone()], &weights, &mut outputs[0][part]);
        }
        Ok(())
    }

    /// What a mixer is given: the block's input and the weights.
    fn weights<'a>(&self, inputs: &[Cells<'a>]) -> Result<(&'a [f32], MixerWeights<'a>), CallError> {
        let (mut h, mut weights): (&[f32], _) = (&[], MixerWeights::default());
        for (index, (input, cells)) in self.inputs.iter().zip(inputs).enumerate() {
            let given = match input.role {
                Role::H => &mut h,
                Role::NormWeight => &mut weights.norm,
                Role::NormBias => &mut weights.norm_bias,
                Role::ProjectionWeight => &mut weights.projections,
                Role::ProjectionBias => &mut weights.projection_bias,
                Role::OutputWeight => &mut weights.output,
                _ => continue,
            };
            let Cells::F32(cells) = *cells else {
                return Err(CallError::Type { index, expected: "tensor of f32" });
            };
            *given = cells;
        }
        Ok((h, weights))
    }

    /// One stream, which answers into `y`, or, without, into the first output.
    fn run<'a>(
        &self,
        kernel: &mut Kernel,
        view: Stream<'a>,
        y: Option<&mut [f32]>,
        stream: usize,
        batch: usize,
        outputs: &mut [&mut [f32]],
    ) {
        let (mut own, mut gates, mut loss): (&mut [f32], &mut [f32], &mut [f32]) = Default::default();
        let mut present: Short<&mut [f32]> = Short::new();
        for (output, cells) in self.outputs.iter().zip(outputs) {
            let cells = row_mut(cells, stream, batch);
            match output.role {
                Role::Gates => gates = cells,
                Role::Loss => loss = cells,
                Role::State(_) => present.push(cells),
                _ => own = cells,
            }
        }
        kernel.run(Run {
            q: view.q,
            k: view.k,
            v: view.v,
            u: view.u,
            x: view.x,
            coefficients: &view.coefficients,
            recurrent_weight: view.recurrent_weight,
            recurrent_bias: view.recurrent_bias,
            gate_weight: view.gate_weight,
            gate_bias: view.gate_bias,
            past: &view.past,
            present: &mut present,
            segment_length: view.segment_length,
            cache: &view.cache,
            cache_length: view.cache_length,
            y: y.unwrap_or(own),
            gates,
            loss,
        });
    }

    /// One stream's part of the inputs, whose sizes are right.
    fn view<'a>(&self, stream: usize, batch: usize, inputs: &[Cells<'a>]) -> Result<Stream<'a>, CallError> {
        let mut view = Stream { past: Short::from_elem(&[][..], self.tensors), ..Stream::default() };
        for (index, (input, cells)) in self.inputs.iter().zip(inputs).enumerate() {
            let cells = if input.lead == Lead::Whole { *cells } else { row(*cells, stream, batch) };
            view.take(input.role, cells).map_err(|expected| CallError::Type { index, expected })?;
        }
        if view.cache_length > self.capacity {
            return Err(CallError::Length { found: view.cache_length, capacity: self.capacity });
        }
        Ok(view)
    }
}

/// One stream's inputs.
#[derive(Default)]
struct Stream<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    u: &'a [f32],
    x: &'a [f32],
    coefficients: Short<&'a [f32]>,
    recurrent_weight: &'a [f32],
    recurrent_bias: &'a [f32],
    gate_weight: &'a [f32],
    gate_bias: &'a [f32],
    past: Short<&'a [f32]>,
    segment_length: usize,
    cache: Short<kernel::Cells<'a>>,
    cache_length: usize,
}

impl<'a> Stream<'a> {
    fn take(&mut self, role: Role, cells: Cells<'a>) -> Result<(), &'static str> {
        match (role, cells) {
            // Of all streams at once, before this one.
            (
                Role::H
                | Role::NormWeight
                | Role::NormBias
                | Role::ProjectionWeight
                | Role::ProjectionBias
                | Role::OutputWeight,
                _,
            ) => {}
            (Role::Q, Cells::F32(cells)) => self.q = cells,
            (Role::K, Cells::F32(cells)) => self.k = cells,
            (Role::V, Cells::F32(cells)) => self.v = cells,
            (Role::U, Cells::F32(cells)) => self.u = cells,
            (Role::X, Cells::F32(cells)) => self.x = cells,
            (Role::Coefficient(index), Cells::F32(cells)) => {
                self.coefficients.resize(index, &[]);
                self.coefficients.push(cells);
            }
            (Role::RecurrentWeight, Cells::F32(cells)) => self.recurrent_weight = cells,
            (Role::RecurrentBias, Cells::F32(cells)) => self.recurrent_bias = cells,
            (Role::GateWeight, Cells::F32(cells)) => self.gate_weight = cells,
            (Role::GateBias, Cells::F32(cells)) => self.gate_bias = cells,
            (Role::State(index), Cells::F32(cells)) => self.past[index] = cells,
            (Role::Cache(_), Cells::F32(cells)) => self.cache.push(kernel::Cells::F32(cells)),
            (Role::Cache(_), Cells::F16(cells)) => self.cache.push(kernel::Cells::F16(cells)),
            (Role::Cache(_), Cells::I8(cells)) => self.cache.push(kernel::Cells::I8(cells, &[])),
            (Role::Steps(_), Cells::F32(cells)) => match self.cache.last_mut() {
                Some(kernel::Cells::I8(_, steps)) => *steps = cells,
                _ => return Err("tensor after its cache of i8"),
            },
            (Role::SegmentLength, Cells::I64(cells)) => self.segment_length = length(cells)?,
            (Role::CacheLength, Cells::I64(cells)) => self.cache_length = length(cells)?,
            (Role::SegmentLength | Role::CacheLength, _) => return Err("tensor of lengths, int64"),
            (Role::Cache(_), _) => return Err("cache tensor, f32, f16 or i8"),
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
        Cells::I8(cells) => Cells::I8(part(cells, stream, batch)),
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
    use mcedge_models::contract::Dtype;
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
            cache_dtype: Dtype::F32,
            gates: false,
            mixer: None,
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
        let result = call().run(Rows { batch: 1, tokens: 1 }, &inputs, &mut [&mut y, &mut m]);
        result.map_or_else(|error| error.to_string(), |()| "ok".into())
    }

    #[test]
    fn a_call_has_a_token_of_a_stream() {
        for shape in [&[][..], &[1], &[0, 1, 6], &[1, 0, 6]] {
            assert!(rows_of(shape).unwrap_err().to_string().contains("expected [B, T, …]"));
        }
        assert!(rows_of(&[2, 3, 6]).is_ok());
        // Two tokens by the first input's shape, and elements of one.
        let x = [0.0; 6];
        let inputs = [Cells::F32(&x)];
        let error = call().run(Rows { batch: 1, tokens: 2 }, &inputs, &mut []).unwrap_err();
        assert!(error.to_string().contains("declares 12"), "{error}");
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
