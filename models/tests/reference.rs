//! The reference on models small enough to follow with a pencil, and what it refuses.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;

use std::collections::BTreeMap;

use common::{caching, config, random_tensors, random_weights, spec, titans};
use mcedge_models::reference::{Cache, Stream, Trace, run, trace};
use mcedge_models::{Policy, Tensor, Weights, parameters};
use ndarray::Array2;
use serde_json::{Value, json};

/// The output of one block that runs as in [`pencil_of`], with constant segments of two tokens.
fn pencil(memory: Value, mut caching: Value, cache: impl Into<Cache>, input: &[f32]) -> Vec<f64> {
    if caching["segmentation"]["kind"] == "constant" {
        caching["segmentation"]["size"] = json!(2);
    }
    output(&pencil_of(&[(memory, false)], &caching, cache, input))
}

fn output(trace: &Trace) -> Vec<f64> {
    trace.output.iter().copied().collect()
}

/// Runs a model of one channel, one head and d_model 1 whose projections are all 1 over `input`; everything else in the
/// weights is zero. A block is its memory, and whether its input is added to its output.
fn pencil_of(blocks: &[(Value, bool)], caching: &Value, cache: impl Into<Cache>, input: &[f32]) -> Trace {
    let block = |(memory, residual): &(Value, bool)| json!({"norm": "none", "residual": residual, "num_heads": 1, "memory": memory, "caching": caching});
    let config = json!({
        "format": "mcedge/1", "name": "pencil", "d_model": 1, "input": {"kind": "features", "size": 1},
        "blocks": blocks.iter().map(block).collect::<Vec<_>>(), "head": {"kind": "regression", "size": 1},
    });
    let spec = spec(&config);
    let tensor = |name: &str, shape: Vec<usize>| {
        let one = name.contains(".mix.") || name == "input.weight" || name == "head.weight";
        Tensor { data: vec![if one { 1.0 } else { 0.0 }; shape.iter().product()], shape }
    };
    let tensors: BTreeMap<_, _> =
        parameters(&spec).into_iter().map(|p| (p.name.clone(), tensor(&p.name, p.shape))).collect();
    let weights = Weights::new(tensors, &spec).unwrap();
    let input = Array2::from_shape_vec((input.len(), 1), input.to_vec()).unwrap();
    trace(&spec, &weights, Stream::Features(input.view()), cache).unwrap()
}

fn linear() -> Value {
    json!({"kind": "linear"})
}

#[track_caller]
fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-7, "{found} instead of {expected}");
    }
}

#[test]
fn a_checkpoint_is_read_from_the_token_after_its_segment() {
    // With ones, M counts tokens: checkpoints are 2, 4, 6.
    let ones = [1.0; 6];
    close(&pencil(linear(), caching("none"), None, &ones), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    close(&pencil(linear(), caching("residual"), None, &ones), &[1.0, 2.0, 5.0, 6.0, 11.0, 12.0]);
    close(&pencil(linear(), caching("mean"), None, &ones), &[1.0, 2.0, 2.5, 3.0, 11.0 / 3.0, 4.0]);
}

#[test]
fn restart_begins_every_segment_from_the_initial_state() {
    let mut caching = caching("residual");
    caching["init"] = json!("restart");
    close(&pencil(linear(), caching, None, &[1.0; 6]), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[test]
fn a_policy_makes_room_by_its_own_rule() {
    // With ones, a checkpoint is the number of its segment's end, twice: the reads say which are live. Of two that merge
    // under `continue` the later stands for both.
    let check = |policy, capacity, expected: &[f64]| {
        let cache = Cache { capacity: Some(capacity), policy };
        let outputs = pencil(linear(), caching("residual"), cache, &[1.0; 15]);
        let live: Vec<f64> = (1..8).map(|segments| (outputs[2 * segments] - outputs[0]) / 2.0).collect();
        let expected: Vec<f64> =
            (1u8..).zip(expected).map(|(segments, sum)| f64::from(segments) + sum).collect();
        close(&live, &expected);
    };
    // 1, 2, 3, then 2 3 4, 3 4 5, 4 5 6, 5 6 7.
    check(Policy::Oldest, 3, &[1.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0]);
    // 2 and then 3 are as close to both neighbours: the older goes. 1 3 4, 1 3 5, 1 3 6, 1 3 7.
    check(Policy::Thin, 3, &[1.0, 3.0, 6.0, 8.0, 9.0, 10.0, 11.0]);
    check(Policy::Thin, 1, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    // Numbers that follow each other are the more alike the larger they are: 1 and the new one.
    check(Policy::Merge, 2, &[1.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    // Of 4 segments the first two are the smallest part, 2 / 4, then 3 / 5; of 6, where 4 / 6 is 2 / 3, the older two; of 7
    // the second and third, 2 / 3, and not 5 / 7: 4 6 7.
    check(Policy::Logarithmic, 3, &[1.0, 3.0, 6.0, 9.0, 12.0, 15.0, 17.0]);
    for policy in [Policy::Oldest, Policy::Thin, Policy::Merge, Policy::Logarithmic] {
        check(policy, 0, &[0.0; 7]);
    }
}

#[test]
fn a_full_cache_drops_its_oldest_checkpoint() {
    let ones = [1.0; 8];
    let bounded = |capacity| pencil(linear(), caching("residual"), Some(capacity), &ones);
    close(&bounded(1), &[1.0, 2.0, 5.0, 6.0, 9.0, 10.0, 13.0, 14.0]);
    close(&bounded(2), &[1.0, 2.0, 5.0, 6.0, 11.0, 12.0, 17.0, 18.0]);
    close(&bounded(0), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(bounded(3), pencil(linear(), caching("residual"), None, &ones));
}

#[test]
fn merged_checkpoints_leave_room_in_the_cache() {
    // With ones, a checkpoint is its segment's tokens: two slots hold 1 | 2 | 2 1 | 4 | 4 1 | 4 2 | 2 1 | 4 | ….
    let mut caching = caching("residual");
    caching["init"] = json!("restart");
    caching["segmentation"] = json!({"kind": "logarithmic"});
    let bounded = |capacity| pencil(linear(), caching.clone(), Some(capacity), &[1.0; 12]);
    close(&bounded(2), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 4.0, 5.0, 6.0, 7.0, 4.0]);
    close(&bounded(1), &[1.0, 2.0, 3.0, 2.0, 3.0, 2.0, 3.0, 2.0, 3.0, 2.0, 3.0, 2.0]);
    close(&bounded(0), &[1.0; 12]);
    let all: Vec<f64> = (1..=12).map(f64::from).collect();
    close(&bounded(4), &all);
}

/// Restarted segments that end by surprise, without a read of checkpoints.
fn surprise(window: usize, threshold: f64, min_size: usize, max_size: usize) -> Value {
    let mut caching = caching("none");
    caching["init"] = json!("restart");
    caching["segmentation"] = json!({
        "kind": "surprise", "window": window, "threshold": threshold, "min_size": min_size, "max_size": max_size,
    });
    caching
}

#[test]
fn a_segment_ends_with_the_token_that_surprises() {
    // With ones, M counts the segment's tokens, which is the output, and a token's loss is (M − 1)² before it:
    // 1 0 1 4 9 16 … . Of the fourth, z = (4 − ½) / ½ = 7 after 0 and 1; of the third and the fifth, 1 and 4⅓.
    let run = |caching| pencil(linear(), caching, None, &[1.0; 9]);
    let counts = |sizes: &[u32]| -> Vec<f64> { sizes.iter().flat_map(|&n| (1..=n).map(f64::from)).collect() };
    close(&run(surprise(2, 2.0, 1, 99)), &counts(&[4, 4, 1]));
    close(&run(surprise(2, 2.0, 5, 99)), &counts(&[5, 4]));
    close(&run(surprise(2, 2.0, 1, 3)), &counts(&[3, 3, 3]));
    close(&run(surprise(2, 6.99, 1, 99)), &counts(&[4, 4, 1]));
    close(&run(surprise(2, 7.0, 1, 99)), &counts(&[9]));
    // The window goes on through segments' ends. Against 1, 0 and 1 a 4 has z = (4 − ⅔) / √(2/9) = 7.07; against all
    // seven before the eighth, z = 2.3.
    close(&run(surprise(3, 7.0, 1, 99)), &counts(&[4, 4, 1]));
    close(&run(surprise(99, 7.0, 1, 99)), &counts(&[4, 5]));
    // A z-score is 0 before there are two losses, which is over a negative threshold.
    close(&run(surprise(2, -0.5, 2, 99))[..3], &counts(&[2, 1]));
}

#[test]
fn losses_that_do_not_differ_have_a_deviation_of_a_millionth() {
    // Zeros have no loss and write nothing; then a one has a loss of 1, and z = 10⁶.
    let fourth = |threshold| pencil(linear(), surprise(9, threshold, 1, 99), None, &[0.0, 0.0, 1.0, 1.0])[3];
    close(&[fourth(0.99e6), fourth(1.01e6)], &[1.0, 2.0]);
}

#[test]
fn all_blocks_end_a_segment_by_the_mean_of_their_losses() {
    // Losses 1 0 1 and 1 0 144: the mean's third has z = (72.5 − ½) / ½ = 144, neither block's has.
    let both = [(linear(), false), (linear(), false)];
    let run = |threshold| pencil_of(&both, &surprise(2, threshold, 1, 99), None, &[1.0; 4]);
    close(&output(&run(143.5)), &[1.0, 10.0, 42.0, 1.0]);
    close(&output(&run(144.5)), &[1.0, 10.0, 42.0, 120.0]);
    close(&run(144.5).losses, &[1.0, 0.0, 72.5, (4.0 + 52.0 * 52.0) / 2.0]);
}

#[test]
fn a_memory_without_a_loss_does_not_dilute_the_others() {
    // A GRU of zeros answers zero, attention over one token its value: both blocks pass on what they are given.
    let one = (linear(), false);
    for mute in [(json!({"kind": "gru"}), true), (json!({"kind": "attention", "window": 1}), false)] {
        let fourth = |threshold| {
            let caching = surprise(9, threshold, 1, 99);
            output(&pencil_of(&[mute.clone(), one.clone()], &caching, None, &[0.0, 0.0, 1.0, 1.0]))[3]
        };
        close(&[fourth(0.99e6), fourth(1.01e6)], &[1.0, 2.0]);
    }
}

#[test]
fn gates_score_the_segments_context() {
    // Token 3 reads the checkpoint 2 and the online 3. Sums: contexts 2 and 1; means: 1 and 1.
    let third = |context: &str, temperature: f64| {
        let mut caching = caching("grm");
        caching["context"] = json!(context);
        caching["temperature"] = json!(temperature);
        pencil(linear(), caching, None, &[1.0; 3])[2]
    };
    let gated = |a: f64, b: f64| (2.0 * a.exp() + 3.0 * b.exp()) / (a.exp() + b.exp());
    close(&[third("sum", 1.0), third("sum", 2.0)], &[gated(2.0, 1.0), gated(1.0, 0.5)]);
    close(&[third("mean", 1.0)], &[2.5]);
}

#[test]
fn ssc_reads_the_best_scored_checkpoints() {
    // Contexts (sums) 2, 6, 1; checkpoints 2, 2 + 18 = 20; online 21. The second is read, the first is not.
    let mut caching = caching("ssc");
    caching["context"] = json!("sum");
    caching["top_k"] = json!(1);
    let found = pencil(linear(), caching, None, &[1.0, 1.0, 3.0, 3.0, 1.0]);
    let (six, one) = (6f64.exp(), 1f64.exp());
    close(&found[4..], &[(20.0 * six + 21.0 * one) / (six + one)]);
}

#[test]
fn a_trace_says_where_segments_ended_and_by_which_losses() {
    let run = |segmentation: Value| {
        let mut caching = surprise(2, 2.0, 1, 99);
        caching["segmentation"] = segmentation;
        pencil_of(&[(linear(), false)], &caching, None, &[1.0; 7])
    };
    let surprised = run(surprise(2, 2.0, 1, 99)["segmentation"].clone());
    assert_eq!(surprised.segments, [4]);
    close(&surprised.losses, &[1.0, 0.0, 1.0, 4.0, 1.0, 0.0, 1.0]);
    let constant = run(json!({"kind": "constant", "size": 3}));
    assert_eq!((constant.segments, constant.losses), (vec![3, 3], vec![]));
    let logarithmic = run(json!({"kind": "logarithmic"}));
    assert_eq!((logarithmic.segments, logarithmic.losses), (vec![1; 7], vec![]));
}

#[test]
fn a_trace_says_who_was_read() {
    // As above: the first block's contexts (sums) are 2, 6 and 1.
    let gates = |aggregation: &str, capacity| {
        let mut caching = caching(aggregation);
        caching["segmentation"]["size"] = json!(2);
        caching["context"] = json!("sum");
        if aggregation == "ssc" {
            caching["top_k"] = json!(1);
        }
        let memory = if aggregation == "sigmoid" { json!({"kind": "gru"}) } else { linear() };
        let blocks = [(memory.clone(), false), (memory, false)];
        let gates = pencil_of(&blocks, &caching, capacity, &[1.0, 1.0, 3.0, 3.0, 1.0]).gates;
        assert_eq!(gates.len(), 2);
        gates
    };
    let [two, six, one] = [2f64, 6.0, 1.0].map(f64::exp);
    let sum = two + six + one;
    for aggregation in ["grm", "soup"] {
        let all = gates(aggregation, None);
        assert_eq!(all[0].iter().map(|token| token[0].len()).collect::<Vec<_>>(), [1, 1, 2, 2, 3]);
        close(&all[0][4][0], &[two / sum, six / sum, one / sum]);
        close(&gates(aggregation, Some(1))[0][4][0], &[six / (six + one), one / (six + one)]);
    }
    close(&gates("ssc", None)[0][4][0], &[0.0, six / (six + one), one / (six + one)]);
    close(&gates("sigmoid", None)[0][4][0], &[0.5, 0.5, 1.0]);
    for aggregation in ["none", "residual", "mean"] {
        assert!(gates(aggregation, None)[0].is_empty());
    }
}

#[test]
fn a_gate_of_channels_is_traced_as_their_mean_over_the_head() {
    let spec = spec(&config(json!({"kind": "lstm"}), caching("sigmoid")));
    let mut tensors = random_tensors(&spec, 1);
    tensors.get_mut("blocks.0.memory.gate.weight").unwrap().data.fill(0.0);
    let bias = tensors["blocks.0.memory.gate.bias"].data.clone();
    let weights = Weights::new(tensors, &spec).unwrap();
    let input = Array2::ones((9, 3));
    let trace = trace(&spec, &weights, Stream::Features(input.view()), None).unwrap();
    let mean = |bias: &[f32]| bias.iter().map(|&b| 1.0 / (1.0 + (-f64::from(b)).exp())).sum::<f64>() / 4.0;
    for (head, bias) in bias.chunks(4).enumerate() {
        close(&trace.gates[0][8][head], &[mean(bias), mean(bias), 1.0]);
    }
}

#[test]
fn swla_writes_the_previous_token_again() {
    // M ← M/2 + ¼·(previous x²) + x², read times x; a restart forgets the previous token too.
    let memory = json!({"kind": "swla", "alpha": 0.5, "beta": 0.25, "lambda": 1.0});
    let input = [2.0, 1.0, 1.0];
    close(&pencil(memory.clone(), caching("none"), None, &input), &[8.0, 4.0, 3.25]);
    let mut restart = caching("none");
    restart["init"] = json!("restart");
    close(&pencil(memory, restart, None, &input), &[8.0, 4.0, 1.0]);
}

#[test]
fn gated_delta_takes_out_what_the_memory_answers_before_it_writes() {
    // M ← M/2 (1 − x²/4) + x²/4, read times x; without correction M ← M/2 + x²/4.
    let memory =
        |correction| json!({"kind": "gated_delta", "alpha": 0.5, "beta": 0.25, "correction": correction});
    let input = [1.0, 2.0, 1.0];
    close(&pencil(memory(true), caching("none"), None, &input), &[0.25, 2.0, 0.625]);
    close(&pencil(memory(false), caching("none"), None, &input), &[0.25, 2.25, 0.8125]);
}

#[test]
fn a_deep_memory_from_zero_moves_its_last_bias_alone() {
    // y = b and ∇ℓ = 2 (b − x): a step of 0.1 from 0 with x = 1 makes b = 0.2, with the paper's sign −0.2.
    let memory = |kind: &str| json!({"kind": kind, "depth": 2, "width": 3, "bias": true, "objective": "l2", "step_size": 0.1});
    close(&pencil(memory("titans"), caching("none"), None, &[1.0]), &[f64::from(0.1f32) * 2.0]);
    close(&pencil(memory("dla"), caching("none"), None, &[1.0]), &[f64::from(0.1f32) * 2.0]);
    let mut paper = memory("titans");
    paper["sign"] = json!("paper");
    close(&pencil(paper, caching("none"), None, &[1.0]), &[f64::from(0.1f32) * -2.0]);
}

#[test]
fn input_and_output_are_in_their_channels_units() {
    let mut config = config(linear(), caching("none"));
    let features = json!({"kind": "features", "size": 3, "mean": [1.0, 2.0, 3.0], "std": [2.0, 4.0, 0.5]});
    let weights = random_weights(&spec(&config), 1);
    let plain = Array2::from_shape_vec((2, 3), vec![0.5, -1.0, 2.0, 1.0, 0.0, -3.0]).unwrap();
    let scaled = Array2::from_shape_vec((2, 3), vec![2.0, -2.0, 4.0, 3.0, 2.0, 1.5]).unwrap();
    let expected = run(&spec(&config), &weights, Stream::Features(plain.view()), None).unwrap();
    config["input"] = features;
    let standardised = run(&spec(&config), &weights, Stream::Features(scaled.view()), None).unwrap();
    close(standardised.as_slice().unwrap(), expected.as_slice().unwrap());
    config["head"] = json!({"kind": "regression", "size": 2, "mean": [10.0, 20.0], "std": [2.0, 3.0]});
    let output = run(&spec(&config), &weights, Stream::Features(scaled.view()), None).unwrap();
    let in_units: Vec<f64> =
        expected.rows().into_iter().flat_map(|y| [y[0] * 2.0 + 10.0, y[1] * 3.0 + 20.0]).collect();
    close(output.as_slice().unwrap(), &in_units);
}

#[test]
fn an_input_that_is_not_the_models_is_refused() {
    let features = config(titans(), caching("grm"));
    let mut tokens = features.clone();
    tokens["input"] = json!({"kind": "tokens", "vocab_size": 5});
    let message = |config: &Value, stream: Stream<'_>| {
        let spec = spec(config);
        run(&spec, &random_weights(&spec, 1), stream, None).unwrap_err().to_string()
    };
    let two = Array2::zeros((4, 2));
    let channels = message(&features, Stream::Features(two.view()));
    assert_eq!(channels, "the input has 2 channels, the model takes 3");
    let kind = message(&tokens, Stream::Features(two.view()));
    assert_eq!(kind, "the input is features, the model takes tokens");
    assert_eq!(message(&features, Stream::Tokens(&[1])), "the input is tokens, the model takes features");
    for bad in [5, -1, i64::MIN, i64::MAX] {
        let expected = format!("token {bad} at position 1 is outside the vocabulary, expected 0 to 4");
        assert_eq!(message(&tokens, Stream::Tokens(&[4, bad])), expected);
    }
    let three = Array2::zeros((4, 3));
    let foreign = random_weights(&spec(&config(linear(), caching("none"))), 1);
    let error =
        run(&spec(&features), &foreign, Stream::Features(three.view()), None).unwrap_err().to_string();
    assert!(error.starts_with("the weights are not this spec's: `blocks.0.mix.u.weight`"), "{error}");
}

#[test]
fn an_empty_stream_has_an_empty_output() {
    let spec = spec(&config(titans(), caching("grm")));
    let none = Array2::zeros((0, 3));
    let output = run(&spec, &random_weights(&spec, 1), Stream::Features(none.view()), None).unwrap();
    assert_eq!(output.dim(), (0, 2));
}
