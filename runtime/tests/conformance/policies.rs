//! Every policy on every path, against the reference: a decision that differs would be read for the rest of the stream.

use mcedge_export::Options;
use mcedge_models::reference::{self, Cache, ReferenceError};
use mcedge_models::spec::{Aggregation, Input, Spec};
use mcedge_models::{Samples, Weights};
use mcedge_runtime::{EngineOptions, Policy};
use ndarray::Array2;

use crate::models::{self, Random};
use crate::{TOLERANCE, export, none_is, paths};

const MODELS: u64 = 30;

/// A random model that has a cache. Its samples are numbers: segments of equal tokens make equal checkpoints, between
/// which roundings would choose.
fn spec(random: &mut Random) -> Spec {
    loop {
        let spec = models::spec(random);
        let is_cached = spec.blocks.iter().any(|block| block.caching.aggregation != Aggregation::None);
        if is_cached && matches!(spec.input, Input::Features { .. }) {
            return spec;
        }
    }
}

/// The reference's outputs; `None` when the policy has no meaning for the model.
fn expected(spec: &Spec, weights: &Weights, input: &Samples, cache: Cache) -> Option<Array2<f64>> {
    match reference::run(spec, weights, input.stream(), cache) {
        Err(ReferenceError::Policy(_)) => None,
        result => Some(result.unwrap()),
    }
}

#[test]
fn every_policy_keeps_on_every_path_what_the_reference_keeps() {
    let (mut wrong, mut runs) = (Vec::new(), [0; Policy::ALL.len()]);
    for seed in 6000..6000 + MODELS {
        let random = &mut Random::new(seed);
        let spec = spec(random);
        let weights = models::weights(random, &spec);
        let slots = 1 + random.below(4);
        let (capacity, chunk) = (slots + random.below(2), 1 + random.below(8));
        let input = [models::samples(random, &spec, models::overflowing(&spec, slots + 4))];
        let model = export(&spec, &weights, Options { capacity, chunk, gates: true, ..Options::default() });
        for (policy, runs) in Policy::ALL.into_iter().zip(&mut runs) {
            let cache = Cache { capacity: Some(slots), policy };
            let Some(expected) = expected(&spec, &weights, &input[0], cache) else { continue };
            *runs += 1;
            for path in paths::paths() {
                let keeping = EngineOptions { policy, slots: Some(slots), ..EngineOptions::default() };
                let found = paths::run_with(keeping, &model, path, &input, random).swap_remove(0);
                let error = paths::error(&found, &expected);
                if error > TOLERANCE {
                    wrong.push(format!(
                        "seed {seed}, {policy} of {slots}, {path}: {error:.1e}, {:?}",
                        spec.blocks
                    ));
                }
            }
        }
    }
    none_is(wrong);
    assert!(runs.iter().all(|&runs| runs >= MODELS / 3), "{runs:?}");
}
