//! Every policy, against naive streams that keep what they keep in lists.

use super::toy::O;
use super::*;
use crate::Policy;

/// Two streams under every policy, in caches of few and of many checkpoints, and in a part of one.
pub fn setups_of_policies() -> Vec<Setup> {
    let mut setups = Vec::new();
    let sizes = [(1, None), (2, None), (3, None), (8, None), (8, Some(3)), (5, Some(9)), (3, Some(0))];
    for policy in Policy::ALL {
        for segmentation in [constant(1), constant(5), logarithmic(), surprise()] {
            for (init, context) in
                [("continue", "mean"), ("continue", "sum"), ("restart", "mean"), ("restart", "sum")]
            {
                for (capacity, slots) in sizes {
                    let segmentation = segmentation.clone();
                    let setup =
                        Setup { segmentation, init, context, capacity, slots, policy, ..Setup::default() };
                    setups.push(Setup { batch: 2, chunk: 7, gates: true, ..setup });
                }
            }
        }
    }
    setups
}

#[test]
fn what_a_policy_keeps_is_what_its_naive_model_keeps() {
    for (seed, setup) in (0u32..).zip(setups_of_policies()) {
        let random = &mut Random(seed);
        let (mut engine, ..) = setup.chunked();
        let mut naive = [0, 1].map(|stream| Naive::new(&setup, stream));
        let mut action = 0;
        while engine.tokens() < 110 {
            let what = format!("action {action} of {setup:?}");
            action += 1;
            let count = if random.below(4) == 0 { random.below(20) } else { 1 };
            let who = [0, 1].map(|_| random.below(4) > 0);
            let xs = [0, 1].map(|_| (0..count).map(|_| random.x()).collect::<Vec<_>>());
            let backlog: Vec<f32> = xs.iter().flatten().flat_map(|&x| [x, 0.0]).collect();
            let mut found = Vec::new();
            engine.catch_up_some(&who, Backlog::Features(&backlog), &mut found).unwrap();
            for stream in (0..2).filter(|&stream| who[stream]) {
                for (token, &x) in xs[stream].iter().enumerate() {
                    let row = (token * 2 + stream) * O;
                    assert_near(&found[row..row + O], &naive[stream].push(x), 1e-3, &what);
                }
                assert_kept(&engine, &setup, stream, &naive[stream], &what);
            }
        }
    }
}

/// Tokens, positions and contents of the live checkpoints.
#[track_caller]
fn assert_kept(engine: &Engine<Toy>, setup: &Setup, stream: usize, naive: &Naive, what: &str) {
    let slots = engine.cache().stream(stream);
    assert!(slots.len() <= setup.slots.unwrap_or(8).min(setup.capacity), "{what}");
    assert_eq!(tokens_by_age(engine, stream), naive.tokens(), "{what}");
    let ends: Vec<u64> = slots.by_age().map(|slot| slots.end(slot)).collect();
    assert_eq!(ends, naive.ends_by_age(), "{what}");
    for ((found, _), expected) in checkpoints(engine, setup, stream).iter().zip(naive.checkpoints()) {
        assert_near(&found.m, &expected.m, 1e-5, what);
        assert_near(&found.context, &expected.context, 1e-5, what);
        assert_near(&found.gate, &expected.gate, 1e-5, what);
    }
}

#[test]
fn what_is_kept_is_the_same_to_the_bit_however_a_stream_is_cut() {
    let setups = setups_of_policies().into_iter().filter(|setup| setup.context == "mean");
    for (seed, setup) in (0u32..).zip(setups) {
        for dtype in if setup.capacity == 3 { &["f32", "i8"][..] } else { &["f32"] } {
            let setup = Setup { batch: 1, dtype, ..setup.clone() };
            let xs = xs(seed, 60);
            let random = &mut Random(seed);
            let ((mut steps, _), (mut again, _), (mut chunks, ..)) =
                (setup.engine(), setup.engine(), setup.chunked());
            for x in &xs {
                steps.push(&[*x, 0.0]).unwrap();
                again.push(&[*x, 0.0]).unwrap();
            }
            let mut start = 0;
            while start < xs.len() {
                let end = (start + 1 + random.below(12)).min(xs.len());
                let backlog: Vec<f32> = xs[start..end].iter().flat_map(|&x| [x, 0.0]).collect();
                chunks.catch_up(Backlog::Features(&backlog), &mut Vec::new()).unwrap();
                start = end;
            }
            for other in [&again, &chunks] {
                assert_eq!(other.cache().tensors(), steps.cache().tensors(), "{setup:?}");
                assert_eq!(other.cache().steps(), steps.cache().steps(), "{setup:?}");
                assert_eq!(tokens_by_age(other, 0), tokens_by_age(&steps, 0), "{setup:?}");
            }
        }
    }
}

#[test]
fn who_was_least_read_is_known_by_gates_alone() {
    let setup = Setup { policy: Policy::LeastRead, ..Setup::default() };
    let options = EngineOptions { policy: setup.policy, ..EngineOptions::default() };
    let engine = |setup: &Setup| {
        Engine::new(&setup.model(), Toy::new(setup, &toy::Control::default()), options.clone())
            .err()
            .map(|e| e.to_string())
    };
    let error = engine(&setup).unwrap();
    assert!(error.contains("`least-read`") && error.contains("export it with --gates"), "{error}");
    assert_eq!(engine(&Setup { gates: true, ..setup }), None);
}
