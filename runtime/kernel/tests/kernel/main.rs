//! The fused kernel against the equations, written out as plain loops in f64.

#![allow(clippy::unwrap_used, reason = "what a test lacks is a bug of the test")]

mod case;
mod oracle;
mod random;

use mcedge_kernel::{Isa, Kernel};
use mcedge_models::contract::{Dtype, MemoryFunction, Role};
use mcedge_models::spec::{Aggregation, Coefficient, Deep, FeatureMap, Memory, Objective, Query, Sign};

use case::{Cache, Case, Sizes};
use random::{Random, deep, function, functions};

#[test]
fn every_memory_and_aggregation_follows_the_equations() {
    let mut random = Random(1);
    for _ in 0..4 {
        for function in functions(&mut random) {
            Case::new(&mut random, function).check();
        }
    }
}

#[test]
fn heads_of_common_sizes_follow_the_equations() {
    let mut random = Random(2);
    for head_size in [32, 64] {
        for mut function in functions(&mut random) {
            if let Memory::Dla(deep) | Memory::Titans(deep) = &mut function.memory {
                deep.width = 64;
            }
            Case::new(&mut random, MemoryFunction { head_size, ..function }).check();
        }
    }
}

/// Reads grow by up to a million there, so nothing in them may cancel.
#[test]
fn a_normaliser_below_its_floor_counts_as_the_floor() {
    let mut random = Random(7);
    let memory = Memory::Linear { feature_map: FeatureMap::Identity, normalized: true };
    for aggregation in [Aggregation::None, Aggregation::Residual, Aggregation::Grm, Aggregation::Soup] {
        let function = function(&mut random, memory.clone(), aggregation);
        let function = MemoryFunction { head_size: 16, cache_dtype: Dtype::F32, ..function };
        let sizes = Sizes { tokens: 1, ..Sizes::new(&mut random) };
        let mut case = Case::sized(&mut random, function, sizes);
        let positive = |tensor: &mut Vec<f32>| tensor.iter_mut().for_each(|x| *x = x.abs());
        let negative = |tensor: &mut Vec<f32>| tensor.iter_mut().for_each(|x| *x = -9.0 * x.abs());
        case.inputs.iter_mut().for_each(|(_, tensor)| positive(tensor));
        positive(&mut case.past[0]);
        negative(&mut case.past[1]);
        if let [Cache::F32(m), Cache::F32(z), ..] = &mut case.cache[..] {
            positive(m);
            negative(z);
        }
        case.check();
    }
}

/// To the bit what they write, and what they read in a run that is too short to read checkpoints for many tokens at once.
#[test]
fn a_run_over_tokens_equals_runs_of_one() {
    let mut random = Random(3);
    for tokens in [3, 9, 37] {
        for function in functions(&mut random) {
            let sizes = Sizes { tokens, ..Sizes::new(&mut random) };
            let case = Case::sized(&mut random, calm(function), sizes);
            for isa in Isa::available() {
                let (whole, parts) = (case.run(isa), case.run_one_by_one(isa));
                if tokens == 3 {
                    assert_eq!(whole.bits(), parts.bits(), "{isa}, {:?}", case.function);
                }
                case.check_equal(&format!("runs of one on {isa}"), &whole, &parts);
            }
        }
    }
}

/// With steps that a deep memory does not diverge by, however many they are.
fn calm(mut function: MemoryFunction) -> MemoryFunction {
    if let Memory::Titans(deep) = &mut function.memory {
        deep.sign = Some(Sign::Descent);
    }
    if let Memory::Dla(deep) | Memory::Titans(deep) = &mut function.memory {
        (deep.step_size, deep.momentum) = (Coefficient::Constant(0.004), deep.momentum.min(0.5));
    }
    function
}

#[test]
fn runs_of_many_tokens_follow_the_equations() {
    let mut random = Random(10);
    for tokens in (2..=12).chain([15, 16, 17, 31, 32, 33, 36, 48, 63, 64, 65, 70]) {
        let functions = functions(&mut random);
        for _ in 0..10 {
            let head_size = random.pick(&[1, 3, 5, 16, 20, 32]);
            let mut function = calm(MemoryFunction { head_size, ..random.pick(&functions) });
            if let Memory::Dla(deep) | Memory::Titans(deep) = &mut function.memory {
                deep.width = random.pick(&[7, 16, 64]);
            }
            let sizes = Sizes { tokens, ..Sizes::new(&mut random) };
            Case::sized(&mut random, function, sizes).check();
        }
    }
}

/// A case of a function that is gated, whose one checkpoint is NaN, and has gate 0 for tokens of u = 1 and gate 1 for those
/// of u = −1.
fn with_a_dead_checkpoint(random: &mut Random, function: MemoryFunction, tokens: usize) -> Case {
    let mut function = calm(function);
    (function.caching.query, function.caching.temperature) = (Query::U, 1e-4);
    let sizes = Sizes { capacity: 3, live: 1, tokens, segment_length: 0 };
    let mut case = Case::sized(random, function, sizes);
    let (contexts, parameters) = case.cache.split_last_mut().unwrap();
    match contexts {
        Cache::F32(contexts) => contexts.fill(-900.0),
        Cache::F16(contexts) => contexts.fill(half::f16::from_f32(-900.0)),
        Cache::I8(..) => unreachable!("contexts are not i8"),
    }
    parameters.iter_mut().for_each(|tensor| tensor.kill(1, |_| true));
    case
}

fn u(case: &mut Case) -> &mut Vec<f32> {
    &mut case.inputs.iter_mut().find(|(role, _)| *role == Role::U).unwrap().1
}

#[test]
fn a_checkpoint_of_gate_zero_is_not_read() {
    let mut random = Random(4);
    for tokens in [1, 40] {
        for function in functions(&mut random).into_iter().filter(|f| f.caching.aggregation.is_gated()) {
            let mut case = with_a_dead_checkpoint(&mut random, function, tokens);
            u(&mut case).fill(1.0);
            let mut online = case.clone();
            online.sizes.live = 0;
            for isa in Isa::available() {
                let (found, expected) = (case.run(isa), online.run(isa));
                if tokens == 1 {
                    assert_eq!(found.bits(), expected.bits(), "{isa}, {:?}", case.function);
                }
                case.check_equal(&format!("{isa} without the checkpoint"), &found, &expected);
            }
        }
    }
}

/// Many tokens read a checkpoint at once, and some of them do not.
#[test]
fn a_checkpoint_is_read_by_the_tokens_whose_gate_is_not_zero() {
    let mut random = Random(11);
    for function in functions(&mut random).into_iter().filter(|f| f.caching.aggregation.is_gated()) {
        let mut case = with_a_dead_checkpoint(&mut random, function, 40);
        let d_model = case.function.num_heads * case.function.head_size;
        let reads = |token: usize| token % 3 == 1;
        for (token, u) in u(&mut case).chunks_mut(d_model).enumerate() {
            u.fill(if reads(token) { -1.0 } else { 1.0 });
        }
        for isa in Isa::available() {
            for (token, y) in case.run(isa).y.chunks(d_model).enumerate() {
                let expected = |y: &f32| if reads(token) { y.is_nan() } else { y.is_finite() };
                assert!(y.iter().all(expected), "{isa}, token {token}, {:?}: {y:?}", case.function);
            }
        }
    }
}

#[test]
fn a_state_that_diverged_shows_in_the_answer() {
    let mut random = Random(5);
    for function in functions(&mut random) {
        let mut case = Case::new(&mut random, MemoryFunction { num_heads: 1, ..function });
        for (tensor, past) in case.function.tensors().iter().zip(&mut case.past) {
            past.fill(if tensor.name == "live" { 1.0 } else { f32::NAN });
        }
        shows(&case);
    }
}

#[test]
fn a_normaliser_that_diverged_shows_in_the_answer() {
    let mut random = Random(8);
    for aggregation in [Aggregation::None, Aggregation::Grm, Aggregation::Soup] {
        let memory = Memory::Linear { feature_map: FeatureMap::Elu1, normalized: true };
        let function = MemoryFunction { num_heads: 1, ..function(&mut random, memory, aggregation) };
        let mut case = Case::new(&mut random, function);
        case.past[1].fill(f32::NAN);
        shows(&case);
    }
}

#[test]
fn an_input_that_is_nan_shows_in_the_answer() {
    let mut random = Random(9);
    for function in functions(&mut random) {
        let mut case = Case::new(&mut random, MemoryFunction { num_heads: 1, ..function });
        let first = case.inputs.iter_mut().find(|(role, _)| matches!(role, Role::Q | Role::X)).unwrap();
        first.1.fill(f32::NAN);
        // A window of one weighs its token by 1, whatever it is asked.
        if !matches!(case.function.memory, Memory::Attention { window: 1 }) {
            shows(&case);
        }
    }
}

/// Every y of the first token is NaN.
#[track_caller]
fn shows(case: &Case) {
    for isa in Isa::available() {
        let kernel = &mut Kernel::with_isa(&case.function, case.sizes.capacity, isa);
        let y = case.run_part(kernel, &case.past, 0, 1).y;
        assert!(y.iter().all(|y| y.is_nan()), "{isa}, {:?}: {y:?}", case.function);
    }
}

/// The oracle's gradient is written out by hand, so it has an oracle of its own: differences of the loss.
#[test]
fn the_oracles_gradient_is_the_slope_of_the_loss() {
    let mut random = Random(6);
    for _ in 0..20 {
        let objective = random.pick(&[Objective::L2, Objective::Dot]);
        let deep = Deep { width: 4, ..deep(&mut random, objective) };
        let function = function(&mut random, Memory::Titans(deep.clone()), Aggregation::None);
        let case = Case::new(&mut random, MemoryFunction { head_size: 3, ..function });
        let head = case.state(0);
        let (k, v) = ([0.3, -0.8, 0.5], [1.0, 0.2, -0.4]);
        for (name, gradient) in oracle::gradient(&deep, &head, &k, &v) {
            for (i, gradient) in gradient.iter().enumerate() {
                let at = |delta: f64| {
                    let mut head = head.clone();
                    head.get_mut(&name).unwrap()[i] += delta;
                    oracle::loss(&case.function, &head, &k, &v)
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((gradient - slope).abs() < 1e-6, "{name}[{i}]: {gradient}, slope {slope}");
            }
        }
    }
}
