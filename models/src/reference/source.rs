//! A model's parameters in f64, by name and expected shape.

use ndarray::Array1;

use super::ReferenceError;
use super::math::{Matrix, Vector, layer_norm, rms_norm};
use crate::spec;
use crate::tensor::elements;
use crate::weights::Weights;

/// W `[out, in]` and b `[out]`.
pub struct Linear {
    pub weight: Matrix,
    pub bias: Vector,
}

impl Linear {
    pub fn apply(&self, x: &Vector) -> Vector {
        self.weight.dot(x) + &self.bias
    }
}

pub enum Norm {
    Layer(Vector, Vector),
    Rms(Vector),
    None,
}

impl Norm {
    pub fn apply(&self, x: &Vector) -> Vector {
        match self {
            Norm::Layer(weight, bias) => layer_norm(x, weight, bias),
            Norm::Rms(weight) => rms_norm(x, weight),
            Norm::None => x.clone(),
        }
    }
}

/// Tensors of `weights` in f64, by name and expected shape.
pub struct Source<'a> {
    pub weights: &'a Weights,
    /// Goes before every name.
    pub prefix: String,
}

impl Source<'_> {
    pub fn data(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f64>>, ReferenceError> {
        let name = format!("{}{name}", self.prefix);
        match self.weights.get(&name) {
            None => Ok(None),
            Some(tensor) if tensor.shape == shape => {
                Ok(Some(tensor.data.iter().map(|&x| f64::from(x)).collect()))
            }
            Some(_) => Err(ReferenceError::Weights { name, expected: shape.to_vec() }),
        }
    }

    pub fn required(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>, ReferenceError> {
        self.data(name, shape)?.ok_or_else(|| ReferenceError::Weights {
            name: format!("{}{name}", self.prefix),
            expected: shape.to_vec(),
        })
    }

    pub fn zeros_when_absent(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>, ReferenceError> {
        Ok(self.data(name, shape)?.unwrap_or_else(|| vec![0.0; elements(shape).unwrap_or_default()]))
    }

    pub fn vector(&self, name: &str, n: usize) -> Result<Vector, ReferenceError> {
        Ok(Array1::from(self.required(name, &[n])?))
    }

    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, ReferenceError> {
        let data = self.required(name, &[rows, columns])?;
        Ok(Matrix::from_shape_vec((rows, columns), data).expect("data has its shape's length"))
    }

    pub fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, ReferenceError> {
        let weight = self.matrix(&format!("{name}.weight"), outputs, inputs)?;
        Ok(Linear { weight, bias: self.vector(&format!("{name}.bias"), outputs)? })
    }

    pub fn norm(&self, name: &str, norm: spec::Norm, d: usize) -> Result<Norm, ReferenceError> {
        let weight = || self.vector(&format!("{name}.weight"), d);
        Ok(match norm {
            spec::Norm::LayerNorm => Norm::Layer(weight()?, self.vector(&format!("{name}.bias"), d)?),
            spec::Norm::RmsNorm => Norm::Rms(weight()?),
            spec::Norm::None => Norm::None,
        })
    }
}
