//! The engine over a toy backend, against naive streams.

use super::*;

mod batches;
mod chunks;
mod diverging;
mod graphs;
mod naive;
mod policies;
mod saved;
mod streams;
mod toy;

use naive::Naive;
use toy::{Checkpoint, DH, HEADS, Plain, Setup, Toy, constant, logarithmic, surprise};

/// Numbers without a pattern.
struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.0 >> 8
    }

    /// `0..below`.
    fn below(&mut self, below: usize) -> usize {
        self.next() as usize % below
    }

    /// A sample, −1..1, and now and then one that surprises.
    fn x(&mut self) -> f32 {
        let x = self.next() as f32 / (1 << 23) as f32 - 1.0;
        if self.below(9) == 0 { 8.0 * x } else { x }
    }
}

fn xs(seed: u32, tokens: usize) -> Vec<f32> {
    let mut random = Random(seed);
    (0..tokens).map(|_| random.x()).collect()
}

/// Every segmentation with everything that a contract says of its checkpoints.
fn setups() -> Vec<Setup> {
    let mut setups = Vec::new();
    for segmentation in [constant(1), constant(5), logarithmic(), surprise()] {
        for (init, context) in
            [("continue", "mean"), ("continue", "sum"), ("restart", "mean"), ("restart", "sum")]
        {
            for capacity in [1, 3, 8] {
                let segmentation = segmentation.clone();
                setups.push(Setup { segmentation, init, context, capacity, ..Setup::default() });
            }
        }
    }
    setups
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "{found:?}, not {expected:?}: {what}");
    }
}

/// The one stream's tokens of each checkpoint, from the oldest to the youngest.
fn tokens_by_age(engine: &Engine<Toy>, stream: usize) -> Vec<u64> {
    let slots = engine.cache().stream(stream);
    slots.by_age().map(|slot| slots.tokens(slot)).collect()
}

/// A stream's checkpoints from the oldest to the youngest, and the steps of each of their memory's rows.
fn checkpoints(engine: &Engine<Toy>, setup: &Setup, stream: usize) -> Vec<(Checkpoint, [f32; HEADS])> {
    let cache = engine.cache();
    let n = setup.capacity;
    let get = |tensor: usize, steps: Option<&Plain>, slot: usize, inner: usize| -> (Vec<f32>, [f32; HEADS]) {
        let cells = cache.tensors()[tensor].numbers();
        let step =
            |head: usize| steps.map_or(1.0, |steps| steps.numbers()[(stream * HEADS + head) * n + slot]);
        let values = (0..HEADS).flat_map(|head| {
            let start = ((stream * HEADS + head) * n + slot) * inner;
            cells[start..start + inner].iter().map(|x| x * step(head)).collect::<Vec<_>>()
        });
        (values.collect(), std::array::from_fn(step))
    };
    let checkpoint = |slot| {
        let (m, steps) = get(0, cache.steps().first(), slot, DH * DH);
        let (context, gate) = (get(1, None, slot, DH).0, get(2, cache.steps().get(1), slot, DH).0);
        (Checkpoint { m, context, gate }, steps)
    };
    cache.stream(stream).by_age().map(checkpoint).collect()
}
