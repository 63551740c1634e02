//! What says nothing new is not kept.

use super::{Decision, Scratch, sum};
use crate::backend::Buffer;
use crate::cache::{Contents, Slots};

/// Sums of cosines that differ by less are alike: that is their rounding, and of two checkpoints each is as much like the
/// other.
const ALIKE: f64 = 1e-9;

/// The one goes whose contexts have the largest cosines with those of the others; it may be the new one.
///
/// With ĉ = c / ‖c‖ and S the sum of all, Σ_j≠i ⟨ĉ_i, ĉ_j⟩ is ⟨ĉ_i, S⟩ − ⟨ĉ_i, ĉ_i⟩: linear in the number of checkpoints.
pub(super) fn decide<T: Buffer>(
    slots: &Slots,
    mut contents: Contents<'_, T>,
    scratch: &mut Scratch,
) -> Decision {
    let Scratch { rows: [values, _], sum: units, scores } = scratch;
    scores.fill(0.0);
    for part in contents.parts().filter(|part| part.is_context()) {
        let (values, units) = (&mut values[..part.inner()], &mut units[..part.inner()]);
        for row in 0..part.rows() {
            units.fill(0.0);
            for position in 0..=slots.len() {
                part.read(values, row, slots.place(position));
                let to_unit = to_unit(values);
                units.iter_mut().zip(&*values).for_each(|(sum, &c)| *sum += to_unit * f64::from(c));
            }
            for (position, score) in scores.iter_mut().enumerate() {
                part.read(values, row, slots.place(position));
                let to_unit = to_unit(values);
                let with_all = to_unit * sum(values, units, |c, sum| f64::from(c) * sum);
                *score += with_all - to_unit * to_unit * square(values);
            }
        }
    }
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Decision::Goes(scores.iter().position(|score| *score >= most - ALIKE).unwrap_or_default())
}

/// What makes c a vector of length 1; 0 where it has none, so that it is like nothing.
fn to_unit(c: &[f32]) -> f64 {
    let square = square(c);
    if square > 0.0 { square.sqrt().recip() } else { 0.0 }
}

/// ‖c‖².
fn square(c: &[f32]) -> f64 {
    sum(c, c, |a, b| f64::from(a) * f64::from(b))
}
