//! Budgets of bytes: what an export gets, what a bundle leaves unused, and what is refused.

use super::*;

/// What a run said on standard error, which is to succeed.
#[track_caller]
fn told(args: &[&str]) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {stderr}");
    stderr
}

fn inspected(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&succeeds(&[&["inspect", "--json"], args].concat())).unwrap()
}

#[test]
fn a_budget_is_a_capacity() {
    // Four heads of 8 x 8 and 8 numbers of f32.
    let (checkpoint, bundle) = (4 * (64 + 8) * 4, folder("budgeted").join("bundle"));
    let bundle = bundle.to_str().unwrap();
    let check = |budget: &str, flags: &[&str], capacity: usize| {
        let args = [&[TELEMETRY, "--cache-budget", budget], flags].concat();
        assert_eq!(inspected(&args)["contract"]["capacity"], capacity, "{budget} {flags:?}");
        succeeds(&[&["export", "-o", bundle], &args[..]].concat());
        assert_eq!(inspected(&[bundle])["contract"]["capacity"], capacity, "{budget} {flags:?}");
    };
    check("64KiB", &[], 65_536 / checkpoint);
    check("64KiB", &["--batch", "3"], 65_536 / 3 / checkpoint);
    check("10kB", &["--cache-dtype", "f16"], 10_000 / (4 * (64 * 2 + 8 * 4)));
    // A step for each head.
    check("10000", &["--cache-dtype", "i8"], 10_000 / (4 * (64 + 8 * 4 + 4)));
    check(&checkpoint.to_string(), &[], 1);

    let less = (checkpoint - 1).to_string();
    let inputs = ["--input", "-"];
    for command in [&["export", "-o", bundle][..], &[&["run"], &inputs[..]].concat(), &["inspect"]] {
        let args = [command, &[TELEMETRY, "--cache-budget", &less]].concat();
        check_fails(&args, 2, &format!("({checkpoint} bytes), expected that or more"));
        check_fails(&[&args[..], &["--capacity", "3"]].concat(), 2, "cannot stand together");
    }
    check_fails(&["inspect", TELEMETRY, "--cache-budget", "8 megs"], 2, "expected bytes");
    let two = (2 * checkpoint - 1).to_string();
    let streams = ["--cache-budget", &two, "--batch", "2"];
    check_fails(&[&["inspect", TELEMETRY], &streams[..]].concat(), 2, "of each of 2 streams");
}

#[test]
fn a_bundle_leaves_slots_unused() {
    let (checkpoint, bundle) = (4 * (64 + 8) * 4, folder("of-ten").join("bundle"));
    let (bundle, input) = (bundle.to_str().unwrap(), format!("{TELEMETRY}/recording.csv"));
    succeeds(&["export", TELEMETRY, "-o", bundle, "--capacity", "10"]);
    let outputs = ["bundle", "model"].map(|name| folder("files").join(format!("within-{name}.npy")));
    let [of_bundle, of_model] = outputs.each_ref().map(|path| path.to_str().unwrap());
    let budget = (checkpoint * 4 - 1).to_string();
    assert_eq!(inspected(&[bundle, "--cache-budget", &budget])["slots"], 3);
    assert_eq!(inspected(&[bundle])["slots"], 10);
    let args = ["run", "--input", &input, "--cache-budget", &budget, "--output"];
    let said = told(&[&args[..], &[of_bundle, bundle]].concat());
    assert!(said.contains("3 of 10 slots"), "{said}");
    assert!(said.contains("3 live"), "{said}");
    let said = told(&[&args[..], &[of_model, TELEMETRY]].concat());
    assert!(said.contains("3 checkpoints of cache"), "{said}");
    // The same three checkpoints, in a cache of ten slots and in one of three.
    assert_eq!(fs::read(of_bundle).unwrap(), fs::read(of_model).unwrap());
    let said = told(&["run", bundle, "--input", &input, "--output", of_bundle, "--cache-budget", "1MiB"]);
    assert!(said.contains("10 checkpoints of cache"), "{said}");
    let table = succeeds(&["inspect", bundle, "--cache-budget", &budget]);
    assert!(table.contains("3 of 10 slots"), "{table}");
    check_fails(&["verify", bundle, "--cache-budget", "1MiB"], 2, "its own capacity");
}

#[test]
fn without_a_cache_there_is_nothing_to_bound() {
    let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tests/cases");
    for case in ["attention-window", "collapsed-elu-residual-restart"] {
        let (model, bundle) = (format!("{cases}/{case}"), folder(case).join("bundle"));
        let bundle = bundle.to_str().unwrap();
        let said = succeeds(&["export", &model, "-o", bundle, "--cache-budget", "1"]);
        assert!(said.contains("nothing to bound"), "{said}");
        let size = inspected(&[bundle])["contract"]["input"]["size"].as_u64();
        let row = match size {
            Some(size) => format!("[{}]\n", vec!["0.5"; size as usize].join(",")),
            None => "[1]\n".into(),
        };
        let input = file(&format!("{case}.jsonl"), row.repeat(3));
        for path in [&model, bundle] {
            let said = told(&["run", path, "--input", &input, "--cache-budget", "1"]);
            assert!(said.contains("nothing to bound") && said.contains("no checkpoints"), "{said}");
        }
    }
    // Merging keeps few, and a budget is a budget all the same.
    let logarithmic = format!("{cases}/logarithmic-lstm-mean");
    assert_eq!(inspected(&[&logarithmic, "--cache-budget", "1kB"])["contract"]["capacity"], 1000 / (8 * 4));
}

#[test]
fn a_run_and_inspect_say_the_same_sums() {
    let input = file("one-row.csv", format!("{HEADER}\n{ROW}\n"));
    let said = told(&["run", TELEMETRY, "--input", &input, "--batch", "2"]);
    let table = succeeds(&["inspect", TELEMETRY, "--batch", "2"]);
    for part in ["weights", "state", "cache", "scratch", "in all", "each stream"] {
        let row = table.lines().find(|line| line.starts_with("  memory") && line.contains(part)).unwrap();
        let bytes = row.rsplit_once("  ").unwrap().1.trim();
        assert!(said.contains(bytes), "{part} {bytes}: {said}");
    }
}
