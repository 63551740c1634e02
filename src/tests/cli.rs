//! The program as a user meets it: its files, its streams, its messages and its exit codes.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod bench;
mod budget;
mod link;
mod models;
mod policies;
mod sinks;
mod sources;
mod state;
mod streams;
mod sweep;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use mcedge_models::Weights;
use mcedge_models::spec::Spec;
use mcedge_runtime::OnnxRuntime;

const TELEMETRY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/host-telemetry-linear-ssc");
const HEADER: &str = "time_s,cpu_user,cpu_system,cpu_iowait,load1,memory_used,disk_read,disk_write,net_received,\
                      net_sent,context_switches";
const ROW: &str = "0,0.1,0.1,0,1,0.1,0,0,0,0,2";

fn mcedge(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcedge"));
    // The cache folder of a model directory: not the user's.
    command.args(args).env("XDG_CACHE_HOME", folder("cache")).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    mcedge(args).output().unwrap()
}

/// A folder of this test's own, made if it is not there.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A file of this test's own.
fn file(name: &str, content: impl AsRef<[u8]>) -> String {
    let path = folder("files").join(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

fn has_onnx_runtime() -> bool {
    let found = OnnxRuntime::load(None);
    if let Err(error) = &found {
        println!("skipped ONNX Runtime: {error}");
    }
    found.is_ok()
}

/// A small byte model with weights that nobody trained, in a directory.
///
/// It is written once: tests that read it run side by side.
fn byte_model() -> String {
    static MODEL: OnceLock<String> = OnceLock::new();
    MODEL.get_or_init(write_byte_model).clone()
}

fn write_byte_model() -> String {
    let config = r#"{"format": "mcedge/1", "name": "bytes", "input": {"kind": "tokens", "vocab_size": 256}, "d_model": 8,
        "blocks": [{"norm": "layer_norm", "num_heads": 2, "normalize_qk": true, "memory": {"kind": "linear"},
                    "caching": {"aggregation": "grm", "init": "restart", "segmentation": {"kind": "constant", "size": 5}}}],
        "final_norm": true, "head": {"kind": "logits", "size": 256}}"#;
    let spec = Spec::parse(config.as_bytes()).unwrap();
    let folder = folder("byte-model");
    fs::write(folder.join("config.json"), config).unwrap();
    let weights = Weights::made_up(&spec).to_safetensors().unwrap();
    fs::write(folder.join("model.safetensors"), weights).unwrap();
    folder.to_str().unwrap().to_owned()
}

/// Runs the program, which is to succeed, and gives what it printed.
#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {stdout}{stderr}");
    stdout
}

#[track_caller]
fn check_fails(args: &[&str], code: i32, message: &str) {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains(message), "{args:?}: {stderr:?} does not contain {message:?}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn a_model_becomes_a_bundle_that_verifies() {
    let bundle = folder("exported").join("bundle");
    let bundle = bundle.to_str().unwrap();
    let exported = run(&["export", TELEMETRY, "-o", bundle, "--capacity", "3"]);
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    for file in ["step.onnx", "chunk.onnx", "initial_state.safetensors", "golden.safetensors"] {
        assert!(Path::new(bundle).join(file).is_file(), "{file} is missing");
        assert!(String::from_utf8_lossy(&exported.stdout).contains(file), "{file} is not told");
    }
    let verified = run(&["verify", bundle, "--backend", "tract"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    // One rounding is more than no tolerance at all.
    assert_eq!(run(&["verify", bundle, "--backend", "tract", "--atol", "0"]).status.code(), Some(1));
    let inspected = run(&["inspect", bundle, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(json["contract"]["capacity"], 3);
    if has_onnx_runtime() {
        assert!(run(&["verify", bundle, "--backend", "all"]).status.success());
    }
}

#[test]
fn a_recording_gives_the_same_predictions_on_every_backend() {
    let input = format!("{TELEMETRY}/recording.csv");
    let predictions = |flags: &[&str]| {
        let path = folder("files").join(format!("predictions{}.npy", flags.join("")));
        let output = path.to_str().unwrap();
        let args = [&["run", TELEMETRY, "--input", &input, "--output", output], flags].concat();
        let ran = run(&args);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let bytes = fs::read(&path).unwrap();
        let values = bytes[128..].chunks_exact(4).map(|cell| f32::from_le_bytes(cell.try_into().unwrap()));
        values.collect::<Vec<f32>>()
    };
    let tract = predictions(&["--backend", "tract"]);
    assert_eq!(tract.len() % 10, 0);
    let mut others = vec![vec!["--backend", "tract", "--plain"]];
    if has_onnx_runtime() {
        others.extend([vec!["--backend", "ort"], vec!["--backend", "ort", "--plain"]]);
    }
    for flags in others {
        let other = predictions(&flags);
        assert_eq!(other.len(), tract.len());
        let far = |(a, b): &(&f32, &f32)| (*a - *b).abs() > 1e-3 * b.abs().max(1.0);
        // `ssc` chooses checkpoints: where two scores are equal but for rounding, backends may choose differently.
        let differing = tract.iter().zip(&other).filter(far).count();
        assert!(differing <= tract.len() / 1000, "{differing} of {} differ", tract.len());
    }
}

/// A deep memory's chunk is a `Scan`, with a plain body.
#[test]
fn what_tract_cannot_run_plain_is_told_with_the_way_around_it() {
    let pump = concat!(env!("CARGO_MANIFEST_DIR"), "/models/pump-titans-grm");
    let rows = file("pump-plain.csv", "0\n".repeat(3));
    let plain = ["run", pump, "--backend", "tract", "--plain", "--input", &rows];
    check_fails(&plain, 1, "--no-chunks leaves out");
    let verified = succeeds(&["verify", pump, "--backend", "tract", "--plain"]);
    assert!(verified.contains("chunk  not run: ") && verified.matches(": ok").count() == 1, "{verified}");
}

#[test]
fn a_live_stream_is_answered_row_by_row() {
    let mut child = mcedge(&["run", TELEMETRY, "--input", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    writeln!(stdin, "{HEADER}\n{ROW}").unwrap();
    assert!(lines.next().unwrap().unwrap().starts_with("time,cpu_user.prediction"));
    // Each answer is read before the next question is asked: nothing waits for the end of the input.
    for _ in 0..40 {
        assert_eq!(lines.next().unwrap().unwrap().split(',').count(), 22);
        writeln!(stdin, "{ROW}").unwrap();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_who_leaves_is_no_failure() {
    for args in [&["inspect", TELEMETRY][..], &["verify", TELEMETRY, "--backend", "tract"], &["doctor"]] {
        let mut child = mcedge(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn many_may_export_the_same_model_at_once() {
    let input = file("two.csv", format!("{HEADER}\n{ROW}\n{ROW}\n"));
    // A capacity of its own: nobody has exported it yet.
    fs::remove_dir_all(folder("cold-cache")).unwrap();
    let start = |_| {
        let args = ["run", TELEMETRY, "--capacity", "7", "--backend", "tract", "--input", &input];
        mcedge(&args).env("XDG_CACHE_HOME", folder("cold-cache")).stdout(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..6).map(start).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_done() {
    let output = folder("files").join("interrupted.csv");
    // An earlier run's would end the wait below too soon.
    let _ = fs::remove_file(&output);
    let mut child = mcedge(&["run", TELEMETRY, "--input", "-", "--output", output.to_str().unwrap()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{HEADER}\n{ROW}\n{ROW}").unwrap();
    while fs::read_to_string(&output).unwrap_or_default().lines().count() < 3 {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_to_string(&output).unwrap().lines().count(), 3);
}

#[test]
fn text_has_bits_per_byte_line_by_line() {
    let (model, input) = (byte_model(), file("three.log", "one line\nanother\n\nlast, without an end"));
    let output = run(&["run", &model, "--input", &input]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[0], "line,bytes,bits_per_byte,text");
    assert_eq!(lines.len(), 5, "{stdout}");
    let bits: f64 = lines[1].split(',').nth(2).unwrap().parse().unwrap();
    assert!((4.0..12.0).contains(&bits), "untrained, a byte takes about 8 bits, not {bits}");
}

#[test]
fn bad_input_is_told_with_its_place() {
    let run_on = |name: &str, content: &str, flags: &[&str], message: &str| {
        let path = file(name, content);
        check_fails(
            &[&["run", TELEMETRY, "--backend", "tract", "--input", &path], flags].concat(),
            1,
            message,
        );
    };
    run_on("empty.csv", "", &[], "is empty");
    run_on("missing.csv", "time_s,cpu_user\n0,1\n", &[], "cpu_system");
    run_on("text.csv", &format!("{HEADER}\n{ROW}\n{}\n", ROW.replace("0.1", "much")), &[], "much");
    run_on("nan.csv", &format!("{HEADER}\n{ROW}\n{}\n", ROW.replace("0.1", "NaN")), &[], "NaN");
    check_fails(&["run", TELEMETRY, "--input", env!("CARGO_TARGET_TMPDIR")], 1, "is a directory");
    check_fails(&["run", TELEMETRY, "--input", "nowhere.csv"], 1, "nowhere.csv");
    check_fails(&["run", "nowhere", "--input", "-"], 1, "nowhere");
    check_fails(&["run", TELEMETRY, "--input", "-", "--backend", "abacus"], 2, "abacus");
    check_fails(
        &["run", TELEMETRY, "--input", "-", "--backend", "tract", "--device", "cuda"],
        2,
        "--device cpu",
    );
    check_fails(&["export", TELEMETRY, "-o", "unused", "--capacity", "0"], 2, "capacity");
}

#[test]
fn a_bad_row_can_be_skipped() {
    let bad = ROW.replace("0.1", "NaN");
    let path = file("skip.csv", format!("{HEADER}\n{ROW}\n{bad}\n{ROW}\n"));
    let output = run(&["run", TELEMETRY, "--input", &path, "--on-bad", "skip"]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 3);
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 bad rows skipped"));
}

#[test]
fn a_broken_model_or_bundle_is_told() {
    let broken = |name: &str, change: &dyn Fn(&Path)| {
        let copy = folder(name);
        for file in ["config.json", "model.safetensors"] {
            fs::copy(Path::new(TELEMETRY).join(file), copy.join(file)).unwrap();
        }
        change(&copy);
        copy.to_str().unwrap().to_owned()
    };
    let edit = |file: &'static str, from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let path = folder.join(file);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from));
            fs::write(path, text.replace(from, to)).unwrap();
        }
    };
    let export = |model: &str, message: &str| check_fails(&["export", model, "-o", "unused"], 1, message);
    export(
        &broken("unknown-key", &edit("config.json", "\"d_model\"", "\"d_modle\": 1, \"d_model\"")),
        "d_modle",
    );
    export(&broken("impossible", &edit("config.json", "\"num_heads\": 4", "\"num_heads\": 5")), "num_heads");
    export(&broken("version", &edit("config.json", "mcedge/1", "mcedge/2")), "mcedge/2");
    let truncate = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() - 7]).unwrap();
    };
    export(&broken("truncated", &truncate), "model.safetensors");
    export(&broken("empty", &|folder| fs::write(folder.join("model.safetensors"), []).unwrap()), "empty");

    let bundle = folder("broken").join("bundle");
    let path = bundle.to_str().unwrap();
    assert!(run(&["export", TELEMETRY, "-o", path]).status.success());
    let step = fs::read(bundle.join("step.onnx")).unwrap();
    let at = step.windows(17).position(|window| window == b"mcedge.contract/1").unwrap();
    let mut other = step.clone();
    other[at + 16] = b'9';
    fs::write(bundle.join("step.onnx"), other).unwrap();
    check_fails(&["verify", path], 1, "mcedge.contract/9");
    fs::write(bundle.join("step.onnx"), &step[..step.len() / 2]).unwrap();
    check_fails(&["verify", path], 1, "step.onnx");
}

#[test]
fn the_demo_verifies_and_finds_something() {
    let output = run(&["demo"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}");
    assert!(stdout.contains("tract on cpu, fused kernels") && stdout.contains(": ok"), "{stdout}");
    assert!(stdout.contains("score"), "{stdout}");
    assert!(run(&["doctor"]).status.success());
}
