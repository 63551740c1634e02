//! Functions of one number or one vector.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use ndarray::{Array1, Array2, Axis};

pub type Vector = Array1<f64>;
pub type Matrix = Array2<f64>;

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// x Φ(x), exact.
pub fn gelu(x: f64) -> f64 {
    x * normal_cdf(x)
}

/// d/dx x Φ(x) = Φ(x) + x φ(x).
pub fn gelu_slope(x: f64) -> f64 {
    normal_cdf(x) + x * (-x * x / 2.0).exp() / (2.0 * PI).sqrt()
}

fn normal_cdf(x: f64) -> f64 {
    0.5 * (1.0 + libm::erf(x * FRAC_1_SQRT_2))
}

pub fn softmax(scores: &[f64]) -> Vec<f64> {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// a bᵀ.
pub fn outer(a: &Vector, b: &Vector) -> Matrix {
    let column = a.view().insert_axis(Axis(1));
    let row = b.view().insert_axis(Axis(0));
    column.dot(&row)
}

/// x / max(‖x‖₂, 1e-6).
pub fn unit(x: &Vector) -> Vector {
    x / x.dot(x).sqrt().max(1e-6)
}

/// (x − mean) / √(variance + 1e-5) · w + b, over one vector.
pub fn layer_norm(x: &Vector, weight: &Vector, bias: &Vector) -> Vector {
    let n = x.len() as f64;
    let centred = x - x.sum() / n;
    let variance = centred.dot(&centred) / n;
    centred / (variance + 1e-5).sqrt() * weight + bias
}

/// x / √(mean square + 1e-6) · w.
pub fn rms_norm(x: &Vector, weight: &Vector) -> Vector {
    let mean_square = x.dot(x) / x.len() as f64;
    x / (mean_square + 1e-6).sqrt() * weight
}
