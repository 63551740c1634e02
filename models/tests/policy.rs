//! For which models a policy has a meaning, and under which name.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;

use common::{caching, config, random_weights, spec, titans};
use mcedge_models::Policy;
use mcedge_models::reference::{Cache, ReferenceError, Stream, run};
use ndarray::Array2;
use serde_json::{Value, json};

/// Why the reference does not run a model of one block under the policy; empty when it does.
fn refusal(policy: Policy, memory: Value, aggregation: &str, init: &str) -> String {
    let mut caching = caching(aggregation);
    caching["init"] = json!(init);
    let spec = spec(&config(memory, caching));
    let input = Array2::from_shape_fn((17, 3), |(t, i)| (t * 3 + i) as f32 % 5.0);
    let cache = Cache { capacity: Some(2), policy };
    match run(&spec, &random_weights(&spec, 1), Stream::Features(input.view()), cache) {
        Err(ReferenceError::Policy(error)) => error.to_string(),
        result => result.map(|_| String::new()).unwrap(),
    }
}

#[test]
fn a_policy_without_a_meaning_says_why() {
    let linear = || json!({"kind": "linear"});
    let gru = || json!({"kind": "gru"});
    let check = |policy, refused: [(Value, &str, &str); 6], reasons: [&str; 6]| {
        for ((memory, aggregation, init), reason) in refused.into_iter().zip(reasons) {
            let what = format!("{policy} {memory} {aggregation} {init}");
            let refusal = refusal(policy, memory, aggregation, init);
            assert!(
                refusal.contains(reason) && refusal.is_empty() == reason.is_empty(),
                "{what}: {refusal:?}"
            );
        }
    };
    let models = || {
        [
            (linear(), "grm", "restart"),
            (linear(), "mean", "continue"),
            (gru(), "sigmoid", "continue"),
            (gru(), "soup", "restart"),
            (titans(), "ssc", "restart"),
            (titans(), "none", "restart"),
        ]
    };
    let (gates, contexts, adds) =
        ("no block weighs", "no block has contexts", "only states of linear memory add");
    check(Policy::Oldest, models(), [""; 6]);
    check(Policy::Thin, models(), [""; 6]);
    check(Policy::LeastRead, models(), ["", gates, "", "", "", ""]);
    check(Policy::Novel, models(), ["", contexts, contexts, "", "", ""]);
    check(Policy::Merge, models(), ["", "", "", adds, adds, ""]);
    check(Policy::Logarithmic, models(), ["", "", "", adds, adds, ""]);
}

#[test]
fn a_policy_is_known_by_its_name() {
    for policy in Policy::ALL {
        assert_eq!(policy.name().parse(), Ok(policy));
        assert_eq!(policy.needs_gates(), policy.name() == "least-read");
    }
    let error = "newest".parse::<Policy>().unwrap_err();
    assert!(error.contains("oldest, least-read, thin, merge, novel, logarithmic"), "{error}");
}
