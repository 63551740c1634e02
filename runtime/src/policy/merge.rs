//! What is alike is kept once.

use super::{Decision, Scratch, least};
use crate::backend::Buffer;
use crate::cache::{Contents, Place, Slots};

/// Sums side by side, which a processor adds at once. Their number is part of how a loss is rounded.
const LANES: usize = 8;

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
            let (distance, norms) = distance_and_norms(row_a, row_b);
            loss += if norms > 0.0 { distance / norms } else { 0.0 };
        }
    }
    loss
}

/// ‖a − b‖² and ‖a‖² + ‖b‖² of two vectors as long.
fn distance_and_norms(a: &[f32], b: &[f32]) -> (f64, f64) {
    let (mut distances, mut norms) = ([0.0; LANES], [0.0; LANES]);
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for (lane, (&a, &b)) in a.iter().zip(b).enumerate() {
            let (a, b) = (f64::from(a), f64::from(b));
            distances[lane] += (a - b) * (a - b);
            norms[lane] += a * a + b * b;
        }
    }
    (distances.iter().sum(), norms.iter().sum())
}
