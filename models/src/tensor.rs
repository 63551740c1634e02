//! Named f32 tensors, and the safetensors files they are kept in.

use std::collections::BTreeMap;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};

/// A dense f32 tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Sizes of the axes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Row-major, as many as the product of `shape`.
    pub data: Vec<f32>,
}

/// The product of `shape`, or `None` when it does not fit.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}

/// The element types that become f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Float {
    F32,
    F16,
    Bf16,
}

impl Float {
    pub(crate) fn from_safetensors(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Float::F32),
            Dtype::F16 => Some(Float::F16),
            Dtype::BF16 => Some(Float::Bf16),
            _ => None,
        }
    }

    /// Little-endian bytes to f32; each of the three fits without rounding. Bytes past the last whole element are
    /// dropped.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let pairs = bytes.as_chunks::<2>().0;
        match self {
            Float::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Float::F16 => pairs.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            Float::Bf16 => pairs.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        }
    }
}

/// The bytes of a safetensors file that holds `tensors` as f32.
///
/// # Errors
///
/// When a tensor's data has another length than its shape, or the header passes the format's limit of 100 MB.
pub fn write_safetensors(
    tensors: &BTreeMap<String, Tensor>,
) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let bytes: Vec<Vec<u8>> = tensors.values().map(|tensor| little_endian(&tensor.data)).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, tensor), bytes)| Ok((name, TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?)));
    safetensors::serialize(views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?, None)
}

pub(crate) fn little_endian(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|x| x.to_le_bytes()).collect()
}
