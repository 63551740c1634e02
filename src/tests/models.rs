//! Models and bundles: what an export can choose, what verify holds, and what is made of a plain network.

use super::*;

/// The models that the reference is tested on, and plain networks saved by PyTorch.
const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tests");

fn backends() -> &'static str {
    if has_onnx_runtime() { "all" } else { "tract" }
}

#[test]
fn whatever_an_export_chooses_is_verified_step_and_chunk() {
    let check = |model: &str, flags: &[&str], lines: usize| {
        let printed = succeeds(&[&["verify", model, "--backend", backends()], flags].concat());
        let runs = if backends() == "all" { 4 } else { 1 };
        assert_eq!(printed.matches(": ok").count(), lines * runs, "{flags:?}: {printed}");
        let count = |word: &str| printed.matches(&format!(" {word} ")).count();
        assert_eq!((count("step"), count("chunk")), (runs, (lines - 1) * runs), "{printed}");
    };
    check(TELEMETRY, &[], 2);
    check(TELEMETRY, &["--no-chunks"], 1);
    check(TELEMETRY, &["--chunk", "1"], 1);
    check(TELEMETRY, &["--cache-dtype", "f16", "--chunk", "3", "--capacity", "5"], 2);
    check(TELEMETRY, &["--cache-dtype", "i8", "--batch", "3", "--gates"], 2);
    check(&byte_model(), &["--batch", "4", "--chunk", "1000"], 2);
    // Segments of one token have no chunk.
    check(&format!("{CASES}/cases/logarithmic-lstm-mean"), &["--batch", "2"], 1);
    // More streams than tokens.
    check(&byte_model(), &["--capacity", "1", "--batch", "40"], 2);
}

#[test]
fn a_bundle_says_what_its_export_chose() {
    let bundle = folder("chosen").join("bundle");
    let bundle = bundle.to_str().unwrap();
    let flags = ["--capacity", "9", "--cache-dtype", "i8", "--chunk", "4", "--batch", "2", "--gates"];
    let told = succeeds(&[&["export", TELEMETRY, "-o", bundle], &flags[..]].concat());
    assert!(told.contains("chunk.onnx"), "{told}");
    let json: serde_json::Value = serde_json::from_str(&succeeds(&["inspect", bundle, "--json"])).unwrap();
    let contract = &json["contract"];
    assert_eq!(
        (&contract["capacity"], &contract["batch"], &contract["chunk"]),
        (&9.into(), &2.into(), &4.into())
    );
    assert_eq!(contract["cache"][0]["dtype"], "i8");
    let size = fs::metadata(Path::new(bundle).join("chunk.onnx")).unwrap().len();
    assert_eq!(json["bytes"]["chunk"], size);
    let table = succeeds(&["inspect", bundle]);
    for word in ["2 side by side", "2 to 4 tokens", "linear, read-out ssc of 4", "gates.0", " i8", "9 slots"]
    {
        assert!(table.contains(word), "{word}: {table}");
    }
    for flag in [&["--chunk", "8"][..], &["--batch", "3"], &["--cache-dtype", "f16"], &["--gates"]] {
        check_fails(&[&["verify", bundle], flag].concat(), 2, "a bundle has its own");
    }
    for flag in ["--capacity", "--chunk", "--batch", "--post-training-mean"] {
        check_fails(&["export", TELEMETRY, "-o", "unused", flag, "0"], 2, flag);
    }
    check_fails(&["export", TELEMETRY, "-o", "unused", "--cache-dtype", "i4"], 2, "i8");
    check_fails(&["export", TELEMETRY, "-o", "unused", "--capacity", "4294967295"], 1, "expected 1 to");
}

#[test]
fn a_plain_network_is_converted_or_says_what_is_missing() {
    let network = format!("{CASES}/recurrent/gru.pt");
    let model = folder("converted").join("gru");
    let model = model.to_str().unwrap();
    for flag in ["--aggregation", "--heads", "--segment"] {
        // All that has to be said, in one error.
        check_fails(&["convert", &network, "-o", model], 2, flag);
    }
    let gated = ["convert", &network, "-o", model, "--heads", "2", "--segment", "4", "--aggregation", "grm"];
    check_fails(&gated, 2, "none, residual or mean");
    check_fails(&["convert", "nowhere.pt", "-o", model, "--aggregation", "none"], 1, "nowhere.pt");
    check_fails(&["convert", &file("no.pt", "no network"), "-o", model, "--aggregation", "none"], 1, "no.pt");
    let told = succeeds(&["convert", &network, "-o", model, "--aggregation", "none"]);
    assert!(told.contains("mcedge export"), "{told}");
    assert!(succeeds(&["verify", model, "--backend", backends()]).contains(": ok"));

    // It was trained without a cache, and may read one after all.
    let mean = ["verify", model, "--backend", backends(), "--post-training-mean", "6", "--capacity", "3"];
    let printed = succeeds(&mean);
    assert!(printed.contains(" chunk ") && printed.contains(": ok"), "{printed}");
    let json = succeeds(&["inspect", model, "--json", "--post-training-mean", "6"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["contract"]["segmentation"]["size"], 6);
    assert_eq!(json["contract"]["blocks"][0]["caching"]["aggregation"], "mean");
    check_fails(&["export", TELEMETRY, "-o", "unused", "--post-training-mean", "6"], 1, "caches already");
}
