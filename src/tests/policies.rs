//! `run --evict`: every policy on a model, and what a policy asks of a bundle.

use super::*;

#[test]
fn a_model_runs_under_every_policy() {
    let recording = fs::read_to_string(format!("{TELEMETRY}/recording.csv")).unwrap();
    let lines: Vec<&str> = recording.lines().take(1500).collect();
    let input = file("evicting.csv", lines.join("\n"));
    let run = |policy: &str, flags: &[&str]| {
        let args = ["run", TELEMETRY, "--capacity", "3", "--input", &input, "--evict", policy];
        succeeds(&[&args, flags].concat())
    };
    let oldest = run("oldest", &[]);
    assert_eq!(oldest.lines().count(), lines.len());
    for policy in ["least-read", "thin", "merge", "novel", "logarithmic"] {
        let found = run(policy, &[]);
        assert_eq!(found.lines().count(), lines.len());
        assert_ne!(found, oldest, "{policy} keeps something else");
    }
}

#[test]
fn a_policy_that_follows_the_gates_says_that_a_bundle_has_none() {
    let bundle = folder("not-followed").join("bundle");
    let bundle = bundle.to_str().unwrap();
    succeeds(&["export", TELEMETRY, "-o", bundle]);
    let input = file("followed.csv", format!("{HEADER}\n{ROW}\n"));
    check_fails(&["run", bundle, "--input", &input, "--evict", "least-read"], 2, "export it with --gates");
    succeeds(&["run", bundle, "--input", &input, "--evict", "thin"]);
    let ungated = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tests/cases/identity-mean");
    let samples = file("identity.jsonl", "[0,0,0]\n");
    let args = ["run", ungated, "--input", &samples, "--evict"];
    check_fails(&[&args[..], &["least-read"]].concat(), 2, "no block weighs its checkpoints");
    check_fails(&[&args[..], &["newest"]].concat(), 2, "possible values: oldest, least-read");
}
