//! One stream, sample by sample.

use super::toy::{C, DH, HEADS, weight};
use super::*;
use crate::Policy;

#[test]
fn a_stream_is_its_naive_model_past_the_capacity() {
    for setup in setups() {
        let (mut engine, control) = setup.engine();
        let mut naive = Naive::new(&setup, 0);
        let mut pushed = 0;
        for (t, x) in xs(1, 80).into_iter().enumerate() {
            let what = format!("token {t} of {setup:?}");
            let live = engine.cache().len();
            assert_near(engine.push(&[x, 0.0]).unwrap(), &naive.push(x), 1e-4, &what);
            assert_eq!(engine.tokens(), t as u64 + 1);
            assert_eq!(tokens_by_age(&engine, 0), naive.tokens(), "{what}");
            assert!(engine.cache().len() <= setup.capacity && engine.cache().len() <= live + 1);
            pushed += u64::from(engine.cache().pushed() > pushed);
            assert_eq!(engine.cache().pushed(), pushed, "{what}");
        }
        assert!(pushed >= 7, "{setup:?}");
        assert_eq!(control.runs.borrow().len(), 80);
    }
}

#[test]
fn logarithmic_checkpoints_are_the_binary_expansion_of_the_tokens() {
    for init in ["continue", "restart"] {
        let setup = Setup { capacity: 8, segmentation: logarithmic(), init, ..Setup::default() };
        let (mut engine, _) = setup.engine();
        for (t, x) in (1u64..200).zip(xs(2, 200)) {
            engine.push(&[x, 0.0]).unwrap();
            let expansion: Vec<u64> =
                (0..64).rev().map(|bit| t & (1 << bit)).filter(|&part| part > 0).collect();
            assert_eq!(tokens_by_age(&engine, 0), expansion);
        }
    }
}

#[test]
fn a_narrow_cache_is_as_near_as_its_rounding() {
    // (type, of what is cached; of the outputs, which add up a few). Under restart a memory of many tokens has been
    // rounded at each of its merges.
    for (dtype, near, far) in [("f16", 2e-3, 2e-2), ("i8", 1e-2, 2e-1)] {
        // What these decide has nothing to do with what is kept, however it rounds.
        for policy in [Policy::Oldest, Policy::Thin, Policy::Logarithmic] {
            for segmentation in [constant(5), logarithmic(), surprise()] {
                for (init, context) in [("continue", "mean"), ("restart", "sum"), ("restart", "mean")] {
                    let segmentation = segmentation.clone();
                    let setup =
                        Setup { capacity: 4, segmentation, init, context, dtype, policy, ..Setup::default() };
                    assert_rounded(&setup, near, far);
                }
            }
        }
    }
}

/// A stream's checkpoints are within `near` of those that round nothing, and its outputs within `far`.
#[track_caller]
fn assert_rounded(setup: &Setup, near: f32, far: f32) {
    let (mut engine, _) = setup.engine();
    let mut naive = Naive::new(setup, 0);
    let what = format!("{setup:?}");
    for x in xs(3, 40) {
        assert_near(engine.push(&[x, 0.0]).unwrap(), &naive.push(x), far, &what);
        for ((found, _), expected) in checkpoints(&engine, setup, 0).iter().zip(naive.checkpoints()) {
            let largest = expected.m.iter().fold(1.0f32, |largest, m| largest.max(m.abs()));
            assert_near(&found.m, &expected.m, near * largest, &what);
            let contexts = if setup.dtype == "i8" { 1e-5 } else { near };
            assert_near(&found.context, &expected.context, contexts, &what);
        }
        assert_eq!(tokens_by_age(&engine, 0), naive.tokens(), "{what}");
    }
}

#[test]
fn an_i8_checkpoint_is_within_half_of_its_steps() {
    for init in ["continue", "restart"] {
        let segmentation = surprise();
        let setup = Setup { capacity: 4, segmentation, init, dtype: "i8", ..Setup::default() };
        let (mut engine, _) = setup.engine();
        let mut naive = Naive::new(&setup, 0);
        for x in xs(4, 60) {
            engine.push(&[x, 0.0]).unwrap();
            naive.push(x);
            let expected = naive.checkpoints();
            assert_eq!(checkpoints(&engine, &setup, 0).len(), expected.len());
            for ((found, steps), expected) in checkpoints(&engine, &setup, 0).iter().zip(&expected) {
                for (head, &step) in steps.iter().enumerate() {
                    let rows = |m: &[f32]| m[head * DH * DH..(head + 1) * DH * DH].to_vec();
                    let (found, expected) = (rows(&found.m), rows(&expected.m));
                    let largest = expected.iter().fold(0.0f32, |largest, m| largest.max(m.abs()));
                    assert!((step - largest / 127.0).abs() <= 1e-5 * step);
                    for (f, e) in found.iter().zip(expected) {
                        assert!((f - e).abs() <= 0.501 * step, "{f}, not {e}, in steps of {step}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_failed_step_leaves_the_stream_as_it_was() {
    for segmentation in [constant(3), logarithmic(), surprise()] {
        let setup = Setup { segmentation, init: "restart", gates: false, ..Setup::default() };
        let ((mut sure, _), (mut flaky, control)) = (setup.engine(), setup.engine());
        for (t, x) in xs(5, 30).into_iter().enumerate() {
            let expected = sure.push(&[x, 0.0]).unwrap().to_vec();
            control.fails.set(true);
            assert!(matches!(flaky.push(&[x, 0.0]), Err(Error::Backend { .. })));
            assert!(matches!(flaky.push(&[0.0]), Err(Error::Length { found: 1, expected: 2 })));
            assert!(matches!(flaky.push_token(0), Err(Error::Kind { .. })));
            assert!(matches!(flaky.push_batch(&[]), Err(Error::Batch { found: 0, expected: 1 })));
            assert_eq!(flaky.tokens(), t as u64);
            assert_eq!(flaky.push(&[x, 0.0]).unwrap(), expected);
        }
        assert_eq!(tokens_by_age(&flaky, 0), tokens_by_age(&sure, 0));
    }
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error() {
    let setup = Setup { tokens: true, ..Setup::default() };
    let (mut engine, _) = setup.engine();
    let mut naive = Naive::new(&setup, 0);
    for token in [3, 9, 0, 0, 5, 7] {
        for bad in [-1, 10, i64::MAX] {
            assert!(matches!(engine.push_token(bad), Err(Error::Token { vocab_size: 10, .. })));
        }
        assert!(matches!(engine.push(&[1.0]), Err(Error::Kind { .. })));
        assert_near(engine.push_token(token).unwrap(), &naive.push(token as f32), 1e-4, "tokens");
    }
}

#[test]
fn a_reset_stream_is_a_new_one() {
    for setup in setups() {
        let (mut engine, _) = setup.engine();
        let mut run =
            || xs(6, 30).into_iter().map(|x| engine.push(&[x, 0.0]).unwrap().to_vec()).collect::<Vec<_>>();
        let first = run();
        engine.reset();
        assert_eq!((engine.tokens(), engine.cache().len(), engine.cache().pushed()), (0, 0, 0));
        assert!(engine.cache().is_empty());
        let mut run =
            || xs(6, 30).into_iter().map(|x| engine.push(&[x, 0.0]).unwrap().to_vec()).collect::<Vec<_>>();
        assert_eq!(run(), first, "{setup:?}");
    }
}

#[test]
fn gates_are_in_the_order_of_age_as_it_was_when_the_token_was_read() {
    for (capacity, size) in [(1, 2), (3, 2), (3, 1), (5, 3)] {
        let setup = Setup { capacity, segmentation: constant(size), gates: true, ..Setup::default() };
        let (mut engine, _) = setup.engine();
        let mut naive = Naive::new(&setup, 0);
        assert!(engine.gates(0).all(|gates| gates.weights.iter().all(|&weight| weight == 0.0)));
        for x in xs(7, 30) {
            let before = naive.checkpoints();
            engine.push(&[x, 0.0]).unwrap();
            naive.push(x);
            let gates: Vec<_> = engine.gates(0).collect();
            assert_eq!((gates.len(), gates[0].block, gates[0].heads), (1, 0, HEADS));
            for (head, weights) in gates[0].weights.chunks(capacity + 1).enumerate() {
                let mut expected: Vec<f32> = before.iter().rev().map(|c| weight(&c.m, head, x)).collect();
                expected.resize(capacity, 0.0);
                assert_eq!(weights[1..], expected);
                assert!(weights[0] != 0.0 && weights[0] != -99.0);
            }
        }
        engine.reset();
        assert!(engine.gates(0).all(|gates| gates.weights.iter().all(|&weight| weight == 0.0)));
    }
    assert_eq!(Setup::default().engine().0.gates(0).count(), 0);
}

#[test]
fn a_cache_counts_its_steps() {
    let bytes =
        |dtype| crate::cache_bytes(&Setup { dtype, batch: 2, capacity: 3, ..Setup::default() }.contract());
    let (m, c) = (2 * 3 * HEADS * DH * DH, 2 * 3 * C);
    assert_eq!(bytes("f32"), 4 * (m + 2 * c));
    assert_eq!(bytes("f16"), 2 * (m + 2 * c));
    assert_eq!(bytes("i8"), m + 4 * c + c + 2 * 4 * 2 * 3 * HEADS);
}
