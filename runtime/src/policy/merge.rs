//! What is alike is kept once.

use super::{Decision, Scratch, least, sum};
use crate::backend::Buffer;
use crate::cache::{Contents, Place, Slots};

/// Those two neighbours become one that lose least by it.
///
/// A loss is kept until one of the two changes: at a segment's end three or so are computed, and the whole cache is not
/// read. What is kept is what would be computed again, bit by bit.
pub(super) fn decide<T: Buffer>(
    slots: &mut Slots,
    mut contents: Contents<'_, T>,
    scratch: &mut Scratch,
) -> Decision {
    let youngest = slots.len() - 1;
    for position in 0..youngest {
        if slots.loss(position).is_none() {
            let (older, younger) = (slots.place(position), slots.place(position + 1));
            slots.set_loss(position, loss(&mut contents, older, younger, scratch));
        }
    }
    let with_new = loss(&mut contents, slots.place(youngest), Place::New, scratch);
    let losses = (0..youngest).filter_map(|position| slots.loss(position));
    Decision::Unites(least(losses.chain([with_new])))
}

/// Σ ‖a − b‖² / (‖a‖² + ‖b‖²) over cached tensors and heads of two checkpoints a and b, without those where both are zero.
fn loss<T: Buffer>(contents: &mut Contents<'_, T>, a: Place, b: Place, scratch: &mut Scratch) -> f64 {
    let [row_a, row_b] = &mut scratch.rows;
    let mut loss = 0.0;
    for part in contents.parts() {
        let (row_a, row_b) = (&mut row_a[..part.inner()], &mut row_b[..part.inner()]);
        for row in 0..part.rows() {
            part.read(row_a, row, a);
            part.read(row_b, row, b);
            let difference = |a, b| f64::from(a) - f64::from(b);
            let distance = sum(row_a, row_b, |a, b| difference(a, b) * difference(a, b));
            let norms = sum(row_a, row_b, |a, b| f64::from(a) * f64::from(a) + f64::from(b) * f64::from(b));
            loss += if norms > 0.0 { distance / norms } else { 0.0 };
        }
    }
    loss
}
