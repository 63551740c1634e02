//! One stream's part of one cache tensor: rows of values in and out of slots, in whatever type the tensor has.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::backend::CellsMut;

/// The largest magnitude of a quantised value.
const I8_MAX: f32 = 127.0;
/// 1.5 · 2²³: a float of magnitude below 2²² that is added to it is rounded to an integer, which is then the low bits.
const ROUND: f32 = 12_582_912.0;

/// A cache tensor `[rows, capacity, inner]`, row-major.
pub(super) struct Table<'a> {
    pub(super) cells: CellsMut<'a>,
    /// With i8 `[rows, capacity]`: what an element of 1 stands for. Else empty.
    pub(super) steps: &'a mut [f32],
    pub(super) capacity: usize,
    pub(super) inner: usize,
}

impl Table<'_> {
    fn range(&self, row: usize, slot: usize) -> Range<usize> {
        let start = (row * self.capacity + slot) * self.inner;
        start..start + self.inner
    }

    /// Adds `factor` times what is in a slot to `sum`, `[inner]`.
    pub(super) fn add_to(&self, sum: &mut [f32], row: usize, slot: usize, factor: f32) {
        let range = self.range(row, slot);
        match &self.cells {
            CellsMut::F32(cells) => add(sum, &cells[range], factor),
            CellsMut::F16(cells) => {
                sum.iter_mut().zip(&cells[range]).for_each(|(sum, cell)| *sum += factor * cell.to_f32());
            }
            CellsMut::I8(cells) => {
                let factor = factor * self.steps[row * self.capacity + slot];
                sum.iter_mut().zip(&cells[range]).for_each(|(sum, &cell)| *sum += factor * f32::from(cell));
            }
            CellsMut::I64(_) => unreachable!("no cache is of integers: Contract::parse knows none"),
        }
    }

    /// Puts `values`, `[inner]`, into a slot.
    pub(super) fn put(&mut self, values: &[f32], row: usize, slot: usize) {
        let range = self.range(row, slot);
        match &mut self.cells {
            CellsMut::F32(cells) => cells[range].copy_from_slice(values),
            CellsMut::F16(cells) => {
                narrow(&mut cells[range], values);
            }
            CellsMut::I8(cells) => {
                self.steps[row * self.capacity + slot] = quantise(&mut cells[range], values);
            }
            CellsMut::I64(_) => unreachable!("no cache is of integers: Contract::parse knows none"),
        }
    }

    /// Copies slot `from` over slot `to`, bit by bit.
    pub(super) fn copy(&mut self, row: usize, from: usize, to: usize) {
        let (source, target) = (self.range(row, from), self.range(row, to).start);
        match &mut self.cells {
            CellsMut::F32(cells) => cells.copy_within(source, target),
            CellsMut::F16(cells) => cells.copy_within(source, target),
            CellsMut::I8(cells) => {
                cells.copy_within(source, target);
                self.steps[row * self.capacity + to] = self.steps[row * self.capacity + from];
            }
            CellsMut::I64(_) => unreachable!("no cache is of integers: Contract::parse knows none"),
        }
    }
}

/// Adds `factor` times `values` to `sum`.
pub(super) fn add(sum: &mut [f32], values: &[f32], factor: f32) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
}

/// The nearest f16 of finite `values`; past its range the largest, for an infinity would poison every read.
fn narrow(cells: &mut [f16], values: &[f32]) {
    const MAGNITUDE: u16 = 0x7fff;
    cells.convert_from_f32_slice(values);
    for cell in cells {
        let (sign, magnitude) = (cell.to_bits() & !MAGNITUDE, cell.to_bits() & MAGNITUDE);
        *cell = f16::from_bits(sign | magnitude.min(f16::MAX.to_bits()));
    }
}

/// The nearest multiples of a step that takes the largest of finite `values` to ±127; the step.
fn quantise(cells: &mut [i8], values: &[f32]) -> f32 {
    // Magnitudes are in the order of their bits, and a maximum of integers vectorises.
    let largest = values.iter().fold(0, |largest, value| value.abs().to_bits().max(largest));
    let largest = f32::from_bits(largest);
    let step = largest / I8_MAX;
    // Of values so small that their step is none there is nothing to keep; 1 in place of 0 makes zeros of them.
    let unit = if step > 0.0 { step } else { 1.0 };
    // The sum's low byte is the integer's, two's complement; a quotient is at most 127 and a rounding error.
    cells.iter_mut().zip(values).for_each(|(cell, value)| *cell = (value / unit + ROUND).to_bits() as i8);
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantised_value_is_within_half_a_step() {
        let check = |values: &[f32]| {
            let mut cells = vec![77; values.len()];
            let step = quantise(&mut cells, values);
            let largest = values.iter().fold(0.0f32, |m, v| if v.abs() > m { v.abs() } else { m });
            assert_eq!(step, largest / 127.0);
            for (&cell, &value) in cells.iter().zip(values) {
                assert!((-127..=127).contains(&cell));
                let error = (f64::from(cell) * f64::from(step) - f64::from(value)).abs();
                assert!(error <= 0.5001 * f64::from(step).max(1e-44), "{value} is {cell} steps of {step}");
            }
        };
        check(&(-1000..=1000).map(|i| i as f32 * 0.37).collect::<Vec<_>>());
        check(&[0.0, -0.0]);
        check(&[]);
        check(&[1e-45, -1e-45]);
        check(&[f32::MAX, -f32::MAX, 1.0]);
        check(&[-3.0, 0.011, 0.012, 1.4999, 1.5]);
    }

    #[test]
    fn f16_keeps_to_its_range() {
        let mut cells = [f16::ZERO; 4];
        narrow(&mut cells, &[1e30, -1e30, 0.5, -65504.0]);
        assert_eq!(cells, [f16::MAX, f16::MIN, f16::from_f32(0.5), f16::MIN]);
    }
}
