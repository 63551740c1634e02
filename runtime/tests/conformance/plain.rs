//! Plain bodies in tract: of what it runs, every token is the reference's; what it cannot run, it says.
//!
//! It runs every step. A chunk of a memory that learns by a gradient or a gate is a `Scan`, which tract's optimiser may not come
//! back from.

use mcedge_models::contract::Dtype;
use mcedge_models::spec::Memory;
use mcedge_runtime::{EngineOptions, Tract};

use crate::models::Random;
use crate::{Case, MODELS, TOLERANCE, none_is, paths};

/// Whether a chunk of it is a `Scan`.
fn is_scanned(memory: &Memory) -> bool {
    matches!(memory, Memory::Dla(_) | Memory::Titans(_) | Memory::Gru {} | Memory::Lstm {})
}

/// A random model in tract with plain bodies, stepped and, where it can, in chunks; what is out of tolerance.
fn check(seed: u64, dtype: Dtype, batch: usize, tolerance: f64) -> Vec<String> {
    let random = &mut Random::new(seed);
    let case = Case::new(random, dtype, batch);
    let scanned = case.spec.blocks.iter().any(|block| is_scanned(&block.memory));
    let chunks = match Tract::plain_chunks(&case.model) {
        Ok(chunks) => {
            assert!(!scanned || chunks.is_none(), "seed {seed}: tract is said not to run a Scan");
            chunks
        }
        Err(error) => {
            assert!(scanned && error.to_string().contains("Scan"), "seed {seed}: {error}");
            None
        }
    };
    let mut wrong = Vec::new();
    for chunks in [None, Some(chunks)] {
        let (in_chunks, step) = (chunks.is_some(), Tract::plain(&case.model).unwrap());
        let engine = paths::engine(EngineOptions::default(), &case.model, step, chunks.flatten());
        let found = paths::drive(engine, in_chunks, &case.inputs, random);
        wrong.extend(case.wrong(&found, tolerance, &format!("seed {seed}, in chunks: {in_chunks}")));
    }
    wrong
}

#[test]
fn plain_bodies_in_tract_compute_the_reference() {
    none_is((6000..6000 + MODELS / 2).flat_map(|seed| check(seed, Dtype::F32, 1, TOLERANCE)).collect());
}

#[test]
fn plain_bodies_in_tract_take_batches() {
    none_is((7000..7000 + MODELS / 8).flat_map(|seed| check(seed, Dtype::F32, 3, TOLERANCE)).collect());
}

#[test]
fn plain_bodies_in_tract_read_f16_and_i8() {
    let f16 = (8000..8000 + MODELS / 8).flat_map(|seed| check(seed, Dtype::F16, 1, 2e-2));
    let i8 = (9000..9000 + MODELS / 8).flat_map(|seed| check(seed, Dtype::I8, 1, 1e-1));
    none_is(f16.chain(i8).collect());
}
