//! `mcedge bench`: what its record holds, and what ends it. Never how fast anything was.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

/// A bench of a few steps on tract, and its record.
fn record(name: &str, args: &[&str]) -> Value {
    let json = folder("bench").join(format!("{name}.json"));
    let _ = fs::remove_file(&json);
    let few = ["--warm-up", "0", "--json", json.to_str().unwrap()];
    let text = succeeds(&[&["bench"], args, &few[..]].concat());
    let record: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(record["schema"], "mcedge.bench/1");
    for run in record["runs"].as_array().unwrap() {
        check_run(run);
        assert!(text.contains(run["backend"].as_str().unwrap()), "{text}");
    }
    record
}

/// What holds of every run.
fn check_run(run: &Value) {
    for times in [&run["ordinary"], &run["segment_end"]] {
        if times["count"].as_u64().unwrap_or(0) > 0 {
            let quantiles =
                ["min", "p50", "p90", "p99", "p999", "max"].map(|name| times[name].as_f64().unwrap());
            assert!(quantiles.is_sorted() && quantiles[0] > 0.0, "{quantiles:?}");
        }
    }
    let in_buckets: u64 = array(&run["histogram"]).iter().map(|bucket| bucket[1].as_u64().unwrap()).sum();
    assert_eq!(in_buckets, run["ordinary"]["count"].as_u64().unwrap());
    let timeline = array(&run["timeline"]);
    assert!(timeline.is_sorted_by(|a, b| a[0].as_f64() <= b[0].as_f64()), "in the order of time");
    let slowest = timeline.iter().filter(|point| point[2] == false).map(|point| point[1].as_f64().unwrap());
    let (slowest, max) = (slowest.fold(0.0, f64::max), run["ordinary"]["max"].as_f64().unwrap());
    assert!(slowest <= max && slowest > 0.99 * max, "the slowest is in the timeline: {slowest} of {max}");
    let (error, tolerance) =
        (run["check"]["error"].as_f64().unwrap(), run["check"]["tolerance"].as_f64().unwrap());
    assert!(error <= tolerance && run["check"]["tokens"].as_u64().unwrap() > 0);
    for key in ["load_ms", "first_us", "tokens_per_second", "bandwidth_bytes_per_second"] {
        assert!(run[key].as_f64().unwrap() > 0.0, "{key}");
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// Fill, capacity, ordinary runs and segment ends of each run.
fn counts(record: &Value) -> Vec<[u64; 4]> {
    let count = |value: &Value| value["count"].as_u64().unwrap_or(0);
    let runs = array(&record["runs"]).iter();
    let number = |value: &Value| value.as_u64().unwrap();
    runs.map(|run| {
        [number(&run["fill"]), number(&run["capacity"]), count(&run["ordinary"]), count(&run["segment_end"])]
    })
    .collect()
}

/// The byte model's bundle, with room for 3 checkpoints; its segments have 5 tokens.
fn bundle(name: &str) -> PathBuf {
    let bundle = folder("bench").join(name);
    succeeds(&["export", &byte_model(), "-o", bundle.to_str().unwrap(), "--capacity", "3"]);
    bundle
}

#[test]
fn a_model_is_timed_at_every_fill_for_as_many_steps_as_asked() {
    let model = byte_model();
    let record = record("model", &[&model, "--fill", "0,2,3", "--steps", "20", "--rounds", "3"]);
    // Every fifth step ends a segment. Where none is live, one that has come takes the stream back to its start, and the first
    // step after that settles: of a segment of 5, it would be too many.
    assert_eq!(counts(&record), [[0, 1, 48, 12], [2, 2, 48, 12], [3, 3, 48, 12]]);
    for run in array(&record["runs"]) {
        assert_eq!(run["rounds_us"].as_array().unwrap().len(), 3);
        assert_eq!((&run["chunk"], &run["threads"], &run["paced"]), (&1.into(), &1.into(), &Value::Null));
    }
    assert_eq!(record["model"]["segment"], 5);
    assert!(record["machine"]["cpus"].as_u64().unwrap() > 0);
}

#[test]
fn a_bundle_is_timed_at_fills_up_to_its_capacity() {
    let bundle = bundle("fills");
    let path = bundle.to_str().unwrap();
    let default = record("fills", &[path, "--steps", "5", "--rounds", "1"]);
    assert_eq!(counts(&default), [[0, 3, 4, 1], [3, 3, 4, 1]]);
    let chosen = record("fills", &[path, "--fill", "2", "--steps", "5", "--rounds", "2"]);
    assert_eq!(counts(&chosen), [[2, 3, 8, 2]]);
    check_fails(&["bench", path, "--fill", "4"], 2, "capacity of 3");
    check_fails(&["bench", path, "--cache-dtype", "f16"], 2, "the bundle's cache is f32");
    check_fails(&["bench", path, "--batch", "2"], 2, "the bundle runs 1 streams");
}

#[test]
fn batches_chunks_and_element_types_are_runs_of_their_own() {
    let model = byte_model();
    let args = [
        "--fill",
        "2",
        "--steps",
        "6",
        "--rounds",
        "1",
        "--batch",
        "3",
        "--chunk",
        "2",
        "--cache-dtype",
        "f16,i8",
    ];
    let record = record("batch", &[&[&model[..]], &args[..]].concat());
    let runs = array(&record["runs"]);
    let dtypes: Vec<&str> = runs.iter().map(|run| run["cache_dtype"].as_str().unwrap()).collect();
    assert_eq!(dtypes, ["f16", "i8"]);
    for run in runs {
        assert_eq!((&run["batch"], &run["chunk"]), (&3.into(), &2.into()));
        // Chunks of 2 do not end where a segment of 5 does: that is a shorter one, which is not timed.
        assert_eq!((&run["ordinary"]["count"], &run["segment_end"]), (&6.into(), &Value::Null));
    }
    check_fails(&["bench", &model, "--chunk", "6"], 2, "at most 5 tokens of a segment");
}

#[test]
fn a_rate_is_kept_to_or_what_missed_it_is_counted() {
    let model = byte_model();
    let record =
        record("paced", &[&model, "--fill", "1", "--steps", "10", "--rounds", "1", "--rate", "2000"]);
    let run = &record["runs"][0];
    assert_eq!(run["paced"]["rate_hz"], 2000.0);
    assert!(run["paced"]["missed"].as_u64().unwrap() <= 10);
    let first = run["timeline"][0][0].as_f64().unwrap();
    let last = run["timeline"][9][0].as_f64().unwrap();
    // Nine periods of 0.5 ms: later is possible on any machine, earlier is not.
    assert!(last - first > 0.0044, "{first} to {last}");
}

#[test]
fn every_backend_is_held_against_the_first() {
    if !has_onnx_runtime() {
        return;
    }
    let model = byte_model();
    let record =
        record("all", &[&model, "--backend", "all", "--fill", "0,2", "--steps", "12", "--rounds", "2"]);
    let names: Vec<String> = array(&record["runs"])
        .iter()
        .map(|run| format!("{} {}", run["backend"].as_str().unwrap(), run["kernels"].as_str().unwrap()))
        .collect();
    assert_eq!(names, [["tract fused", "ort fused", "ort plain"]; 2].concat());
    for (index, run) in array(&record["runs"]).iter().enumerate() {
        let against = array(&run["check"]["against"]);
        assert_eq!(against[..2], ["golden run", "plain bodies"]);
        assert_eq!(against.len(), if index % 3 == 0 { 2 } else { 3 }, "{against:?}");
    }
}

#[test]
fn wrong_outputs_are_not_timed() {
    let bundle = bundle("altered");
    let golden = bundle.join("golden.safetensors");
    let mut bytes = fs::read(&golden).unwrap();
    // The last number of the outputs, or of the inputs, whichever lies last: neither fits the other then.
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&1e3f32.to_le_bytes());
    fs::write(&golden, bytes).unwrap();
    let json = folder("bench").join("altered.json");
    let (path, file) = (bundle.to_str().unwrap(), json.to_str().unwrap());
    let _ = fs::remove_file(&json);
    check_fails(&["bench", path, "--steps", "5", "--json", file], 1, "is off the golden run");
    assert_eq!(names_in(&folder("bench"), "altered.json"), Vec::<String>::new());
    // Nothing is as wrong as no tolerance at all.
    check_fails(
        &["bench", &byte_model(), "--steps", "5", "--fill", "1", "--atol", "0"],
        1,
        "is off the golden run",
    );
}

fn names_in(folder: &Path, start: &str) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(start)).collect()
}

#[test]
fn flags_that_cannot_be_are_told() {
    let model = byte_model();
    let check =
        |args: &[&str], message: &str| check_fails(&[&["bench", &model[..]], args].concat(), 2, message);
    check(&["--threads", "2"], "tract runs on one");
    check(&["--backend", "all", "--device", "cuda"], "name it");
    check(&["--chunk", "2", "--no-chunks"], "--no-chunks leaves out");
    check(&["--steps", "1", "--duration", "1"], "cannot be used with");
    check(&["--rate", "10", "--idle-gap", "10"], "cannot be used with");
    check(&["--fill", "99999999999"], "tokens to fill");
    for (flag, value) in [
        ("--steps", "0"),
        ("--rounds", "0"),
        ("--rate", "0"),
        ("--rate", "NaN"),
        ("--duration", "-1"),
        ("--duration", "inf"),
        ("--idle-gap", "1e9"),
        ("--fill", "-1"),
        ("--batch", "0"),
        ("--chunk", "0"),
        ("--atol", "-1"),
        ("--threads", "0"),
    ] {
        check(&[&format!("{flag}={value}")], flag);
    }
    check_fails(&["bench", &model, "--json", "nowhere/at/all.json"], 1, "no directory");
    let directory = folder("bench");
    check_fails(&["bench", &model, "--json", directory.to_str().unwrap()], 1, "is a directory");
    check_fails(&["bench", "nowhere"], 1, "nowhere");
    check_fails(&["bench", &model, "--pin", "99999"], 1, "cannot keep to CPU 99999");
    let none = format!("{}/models/recall-none", env!("CARGO_MANIFEST_DIR"));
    check_fails(&["bench", &none, "--fill", "4"], 2, "expected 0");
}

#[test]
#[cfg(unix)]
fn a_link_is_written_through_and_stays_one() {
    let (link, target) = (folder("bench").join("link.svg"), folder("bench").join("target.svg"));
    let _ = (fs::remove_file(&link), fs::remove_file(&target));
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let few = ["--fill", "0", "--steps", "5", "--rounds", "1", "--warm-up", "0"];
    let svg = ["--svg", link.to_str().unwrap()];
    succeeds(&[&["bench", &byte_model()[..]], &few[..], &svg[..]].concat());
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(fs::read_to_string(&target).unwrap().starts_with("<svg"));
}

#[test]
#[cfg(unix)]
fn a_record_is_written_also_when_nobody_reads_the_table() {
    let json = folder("bench").join("unread.json");
    let _ = fs::remove_file(&json);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let few = ["--fill", "0", "--steps", "5", "--rounds", "1", "--warm-up", "0"];
    let status = Command::new(env!("CARGO_BIN_EXE_mcedge"))
        .args(["bench", &byte_model()])
        .args(few)
        .arg("--json")
        .arg(&json)
        .stdout(writer)
        .status()
        .unwrap();
    assert!(status.success());
    let record: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(record["schema"], "mcedge.bench/1");
}

#[test]
fn records_become_pages_and_are_compared() {
    let at = |name: &str| folder("bench").join(name).to_str().unwrap().to_owned();
    let (model, json, html, svg) = (byte_model(), at("pages.json"), at("page.html"), at("plot.svg"));
    let few = ["--fill", "0,1", "--steps", "5", "--rounds", "5", "--warm-up", "0"];
    let files = ["--json", &json, "--html", &html, "--svg", &svg];
    succeeds(&[&["bench", &model[..]], &few[..], &files[..]].concat());
    let read = |path: &str| fs::read_to_string(path).unwrap();
    assert!(read(&html).starts_with("<!DOCTYPE html>") && read(&html).contains("bytes"));
    assert!(read(&svg).starts_with("<svg") && read(&svg).contains("bytes"));
    let record: Value = serde_json::from_str(&read(&json)).unwrap();
    assert_eq!(array(&record["conditions"]).len(), 2);

    let compared = succeeds(&["bench", "--compare", &json, &json]);
    assert!(compared.contains("did not move") && !compared.contains("SLOWER"), "{compared}");
    let mut slower = record.clone();
    for round in slower["runs"][1]["rounds_us"].as_array_mut().unwrap() {
        *round = (round.as_f64().unwrap() * 100.0).into();
    }
    let other = file("slower.json", slower.to_string());
    assert!(succeeds(&["bench", "--compare", &json, &other]).contains("SLOWER"));
    let newer = file("newer.json", read(&json).replace("mcedge.bench/1", "mcedge.bench/2"));
    check_fails(
        &["bench", "--compare", &json, &newer],
        1,
        "its schema is mcedge.bench/2, expected mcedge.bench/1",
    );
    check_fails(&["bench", "--compare", &json, "nowhere.json"], 1, "nowhere.json");
    check_fails(&["bench", "--compare", &json], 2, "--compare");
    check_fails(&["bench", &model, "--compare", &json, &json], 2, "--compare");
    check_fails(&["bench"], 2, "BUNDLE");
}
