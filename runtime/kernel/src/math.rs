//! exp and GELU in plain arithmetic without branches, so that loops over them become vector code.
//!
//! Where the CPU has FMA these still multiply and add apart: the compiler may not fuse what is not written
//! fused, and `f32::mul_add` is a library call where there is none.

use std::f32::consts::LOG2_E;

/// 1 / √(2π).
const DENSITY_AT_ZERO: f32 = 0.398_942_3;

/// Below it exp(x) counts as 0; just above, it is still a normal number.
const EXP_FLOOR: f32 = -87.0;

/// exp(x) for x ≤ 0, within 2 ulp; exactly 0 below [`EXP_FLOOR`].
///
/// exp(x) = 2ⁿ exp(r) with n = round(x / ln 2), so |r| ≤ ln 2 / 2, where eight terms of the series are exact to
/// f32.
#[inline(always)]
pub(super) fn exp_of_negative(x: f32) -> f32 {
    /// Adding 1.5 · 2²³ rounds to an integer, which the low bits of the sum then hold.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts: n times the first is exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    // A NaN passes both comparisons and comes out as NaN.
    let clamped = if x < EXP_FLOOR { EXP_FLOOR } else { x };
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < EXP_FLOOR { 0.0 } else { p * two_to_n }
}

/// Φ(x) = (1 + erf(x / √2)) / 2, the normal distribution's function, and its derivative, both within 1e-7.
///
/// Φ(−a) exp(a² / 2) for a ≥ 0 falls smoothly from 1/2 like 1/a. Here it is t P(s) in t = 1 / (1 + a / 4) and
/// s = a t, with P of degree 6 fitted in the minimax sense (weighted least squares, weights iterated, 40 digits) to
/// the error of Φ, which it leaves at 2.7e-9: what remains is the rounding of f32. Nothing cancels in the lower
/// tail.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let a = x.abs();
    let e = exp_of_negative(-0.5 * a * a);
    let t = 1.0 / (1.0 + 0.25 * a);
    let s = a * t;
    let mut p = -2.176_148e-5;
    p = p * s + 2.009_656e-4;
    p = p * s + 2.645_016_5e-4;
    p = p * s - 0.012_458_66;
    p = p * s + 0.081_776_36;
    p = p * s - 0.273_942_08;
    p = p * s + 0.5;
    let tail = e * (t * p);
    (if x < 0.0 { tail } else { 1.0 - tail }, DENSITY_AT_ZERO * e)
}

/// The larger of the two; NaN where x is, which `f32::max` would drop.
#[inline(always)]
pub(super) fn at_least(x: f32, floor: f32) -> f32 {
    if x < floor { floor } else { x }
}

/// elu(x) + 1: x + 1 above 0, exp(x) below.
#[inline(always)]
pub(super) fn elu_plus_one(x: f32) -> f32 {
    let below = exp_of_negative(if x > 0.0 { 0.0 } else { x });
    if x > 0.0 { x + 1.0 } else { below }
}

/// 1 / (1 + exp(−x)), within 2e-7.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    let e = exp_of_negative(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// tanh(x), within 2e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let e = exp_of_negative(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

/// GELU(x) = x Φ(x).
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    x * normal(x).0
}

/// GELU(x) and its derivative, Φ(x) + x Φ′(x).
#[inline(always)]
pub(super) fn gelu_with_slope(x: f32) -> (f32, f32) {
    let (cdf, density) = normal(x);
    (x * cdf, cdf + x * density)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its Taylor series, which in f64 is good to 1e-9 where |x| ≤ 4.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    /// −5.6 to 5.6, past which erf(x / √2) is ±1 to f32.
    fn grid() -> impl Iterator<Item = f32> {
        (-56_000..=56_000).map(|i| i as f32 / 10_000.0)
    }

    #[test]
    fn the_normal_function_is_exact_to_1e_7() {
        for x in grid() {
            let x64 = f64::from(x);
            let cdf = 0.5 * (1.0 + erf(x64 * std::f64::consts::FRAC_1_SQRT_2));
            let density = (-0.5 * x64 * x64).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let (found_cdf, found_density) = normal(x);
            assert!((f64::from(found_cdf) - cdf).abs() < 1e-7, "Φ({x}) = {found_cdf}, expected {cdf}");
            assert!((f64::from(found_density) - density).abs() < 1e-7, "Φ′({x})");
        }
    }

    #[test]
    fn gelu_far_out_is_zero_or_the_identity() {
        for x in [20.0f32, 1e3, 1e18, f32::MAX] {
            assert_eq!(gelu_with_slope(x), (x, 1.0));
            assert_eq!(gelu_with_slope(-x), (-0.0, 0.0));
        }
        assert!(gelu(f32::NAN).is_nan());
    }

    #[test]
    fn a_cells_functions_are_exact_to_2e_7() {
        for x in grid() {
            let x64 = f64::from(x);
            let elu = if x64 > 0.0 { x64 + 1.0 } else { x64.exp() };
            assert!((f64::from(elu_plus_one(x)) - elu).abs() < 4e-7, "elu({x}) + 1");
            assert!((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-x64).exp())).abs() < 2e-7, "σ({x})");
            assert!((f64::from(tanh(x)) - x64.tanh()).abs() < 2e-7, "tanh({x})");
        }
        for (far, one) in [(1e4, 1.0), (f32::INFINITY, 1.0), (f32::NEG_INFINITY, -1.0)] {
            assert_eq!((tanh(far), sigmoid(far)), (one, (one + 1.0) / 2.0));
        }
        assert!(tanh(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan() && elu_plus_one(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_exact_to_two_ulp() {
        for i in 0..=870_000 {
            let x = -(i as f32) / 10_000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp_of_negative(x)) - expected).abs() / expected;
            assert!(error < 2.4e-7, "exp({x}): relative error {error}");
        }
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!(exp_of_negative(-87.5), 0.0);
        assert_eq!(exp_of_negative(f32::NEG_INFINITY), 0.0);
        assert!(exp_of_negative(f32::NAN).is_nan());
    }
}
