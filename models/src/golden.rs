//! A recorded run: `golden.safetensors` with `input` and `output`.

use ndarray::{Array2, Ix2};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::reference::Stream;
use crate::tensor::{Float, little_endian};

/// Why a file is no recorded run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// Not a safetensors file, or one that cannot be written.
    #[error("not a safetensors file: {0}")]
    Format(safetensors::SafeTensorError),
    /// One of the two tensors.
    #[error("`{name}` is missing, a recorded run has `input` and `output`")]
    Missing {
        /// `input` or `output`.
        name: &'static str,
    },
    /// A tensor of another type or number of axes.
    #[error("`{name}` is {found}, expected {expected}")]
    Tensor {
        /// `input` or `output`.
        name: &'static str,
        /// Type and shape in the file.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// As many outputs as inputs.
    #[error("`output` has {found} rows, `input` has {expected}")]
    Length {
        /// Rows of `output`.
        found: usize,
        /// Rows of `input`.
        expected: usize,
    },
}

/// The input of a recorded run.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// `[T, F]`.
    Features(Array2<f32>),
    /// `[T]`.
    Tokens(Vec<i64>),
}

impl Samples {
    /// T.
    pub fn len(&self) -> usize {
        match self {
            Samples::Features(samples) => samples.nrows(),
            Samples::Tokens(tokens) => tokens.len(),
        }
    }

    /// Whether T is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A view, as the reference takes it.
    pub fn stream(&self) -> Stream<'_> {
        match self {
            Samples::Features(samples) => Stream::Features(samples.view()),
            Samples::Tokens(tokens) => Stream::Tokens(tokens),
        }
    }
}

/// One stream from its start, and what the model answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    /// `[T, F]` f32 or `[T]` int64.
    pub input: Samples,
    /// `[T, O]`.
    pub output: Array2<f32>,
}

impl Golden {
    /// Reads the bytes of a recorded run.
    ///
    /// # Errors
    ///
    /// [`GoldenError`] names the tensor, what was found and what was expected.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, GoldenError> {
        let file = SafeTensors::deserialize(bytes).map_err(GoldenError::Format)?;
        let view = |name| file.tensor(name).map_err(|_| GoldenError::Missing { name });
        let (input, output) = (view("input")?, view("output")?);
        let input = match input.dtype() {
            Dtype::I64 => Samples::Tokens(tokens(&input)?),
            _ => Samples::Features(rows("input", &input, "F32 [T, F] or I64 [T]")?),
        };
        let output = rows("output", &output, "F32 [T, O]")?;
        if output.nrows() != input.len() {
            return Err(GoldenError::Length { found: output.nrows(), expected: input.len() });
        }
        Ok(Golden { input, output })
    }

    /// The bytes of `golden.safetensors`.
    ///
    /// # Errors
    ///
    /// [`GoldenError::Format`], never for arrays in memory of this machine.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, GoldenError> {
        let (dtype, shape, input) = match &self.input {
            Samples::Features(samples) => (Dtype::F32, samples.shape().to_vec(), bytes(samples)),
            Samples::Tokens(tokens) => {
                let input = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
                (Dtype::I64, vec![tokens.len()], input)
            }
        };
        let output = bytes(&self.output);
        let view = |dtype, shape, data| TensorView::new(dtype, shape, data).map_err(GoldenError::Format);
        let input = view(dtype, shape, &input)?;
        let output = view(Dtype::F32, self.output.shape().to_vec(), &output)?;
        safetensors::serialize([("input", input), ("output", output)], None).map_err(GoldenError::Format)
    }
}

fn tokens(view: &TensorView<'_>) -> Result<Vec<i64>, GoldenError> {
    if view.shape().len() != 1 {
        return Err(wrong("input", view, "F32 [T, F] or I64 [T]"));
    }
    Ok(view.data().as_chunks::<8>().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect())
}

fn rows(
    name: &'static str,
    view: &TensorView<'_>,
    expected: &'static str,
) -> Result<Array2<f32>, GoldenError> {
    let array = match (view.dtype(), view.shape()) {
        (Dtype::F32, &[rows, columns]) => {
            Array2::from_shape_vec(Ix2(rows, columns), Float::F32.decode(view.data())).ok()
        }
        _ => None,
    };
    array.ok_or_else(|| wrong(name, view, expected))
}

fn wrong(name: &'static str, view: &TensorView<'_>, expected: &'static str) -> GoldenError {
    GoldenError::Tensor { name, found: format!("{:?} {:?}", view.dtype(), view.shape()), expected }
}

fn bytes(array: &Array2<f32>) -> Vec<u8> {
    little_endian(&array.iter().copied().collect::<Vec<_>>())
}
