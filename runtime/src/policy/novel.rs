//! What says nothing new is not kept.

use super::{Decision, Scratch};
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
    let Scratch { rows: [values, _], sum, scores } = scratch;
    scores.fill(0.0);
    for part in contents.parts().filter(|part| part.is_context()) {
        let (values, sum) = (&mut values[..part.inner()], &mut sum[..part.inner()]);
        for row in 0..part.rows() {
            sum.fill(0.0);
            for position in 0..=slots.len() {
                part.read(values, row, slots.place(position));
                let length = length(values);
                sum.iter_mut().zip(&*values).for_each(|(sum, &c)| *sum += f64::from(c) / length);
            }
            for (position, score) in scores.iter_mut().enumerate() {
                part.read(values, row, slots.place(position));
                let length = length(values);
                let cosine = |(&c, sum): (&f32, &f64)| {
                    let unit = f64::from(c) / length;
                    unit * (sum - unit)
                };
                *score += values.iter().zip(&*sum).map(cosine).sum::<f64>();
            }
        }
    }
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Decision::Goes(scores.iter().position(|score| *score >= most - ALIKE).unwrap_or_default())
}

/// ‖c‖, and 1 where that is 0: c divided by it is then 0, which is like nothing.
fn length(c: &[f32]) -> f64 {
    let square: f64 = c.iter().map(|&c| f64::from(c) * f64::from(c)).sum();
    if square > 0.0 { square.sqrt() } else { 1.0 }
}
