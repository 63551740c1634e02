//! The fuzz targets, on the inputs that fuzzing found worth keeping: `fuzz/corpus`.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

#[path = "common/bounded.rs"]
mod bounded;
#[path = "../fuzz/src/lib.rs"]
mod checks;
mod common;

use std::fs;
use std::path::{Path, PathBuf};

use checks::checkpoint::{Checkpoint, Item, View, dict, pickle};
use common::{caching, config, random_weights, spec, titans};
use mcedge_models::{Golden, Samples, Tensor, write_safetensors};
use ndarray::array;
use serde_json::json;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn replay(target: &str, check: fn(&[u8])) {
    let files: Vec<_> = fs::read_dir(corpus(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "no corpus of {target}");
    for file in files {
        // Shown when the check panics.
        eprintln!("{}", file.display());
        check(&fs::read(&file).unwrap());
    }
}

#[test]
fn config_json_is_read_or_refused() {
    replay("config", checks::config);
}

#[test]
fn safetensors_are_read_or_refused() {
    replay("safetensors", checks::safetensors);
}

#[test]
fn a_pt_is_read_or_refused() {
    replay("pt", checks::pt);
}

#[test]
fn a_contract_is_read_or_refused() {
    replay("contract", checks::contract);
}

/// Files that the targets get deep with, for a corpus to start from. Those of `contract` come from the runtime's test.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn write_seeds() {
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(corpus(target)).unwrap();
        fs::write(corpus(target).join(name), bytes).unwrap();
    };
    for (i, spec) in checks::SPECS.iter().enumerate() {
        write("config", &format!("small-{i}"), &serde_json::to_vec(spec).unwrap());
        let weights = random_weights(spec, i as u64 + 1).to_safetensors().unwrap();
        write("safetensors", &format!("small-{i}"), &weights);
    }
    for (name, config) in configs() {
        spec(&config);
        write("config", name, config.to_string().as_bytes());
    }
    let tokens = Golden { input: Samples::Tokens(vec![1, 0]), output: array![[0.5], [f32::NAN]] };
    let features = Golden { input: Samples::Features(array![[1.0, 2.0]]), output: array![[0.5]] };
    write("safetensors", "golden-tokens", &tokens.to_safetensors().unwrap());
    write("safetensors", "golden-features", &features.to_safetensors().unwrap());
    let tensors = STATE_DICT.map(|(name, shape)| {
        (name.to_owned(), Tensor { shape: shape.to_vec(), data: vec![0.25; shape.iter().product()] })
    });
    write("safetensors", "state-dict", &write_safetensors(&tensors.into()).unwrap());
    write("pt", "state-dict-pickle", &pickle(&state_dict()));
    write("pt", "state-dict-archive", &Checkpoint::new("linear", "grm").around(pickle(&state_dict())));
    for (name, checkpoint) in checkpoints() {
        write("pt", &format!("{name}-archive"), &checkpoint.bytes());
        write("pt", &format!("{name}-pickle"), &checkpoint.pickle());
    }
}

/// What the small specs do not say.
fn configs() -> Vec<(&'static str, serde_json::Value)> {
    let mut channels = config(titans(), caching("ssc"));
    channels["input"] = json!({
        "kind": "features", "size": 2, "mean": [0.5, -1], "std": [1, 2.5], "names": ["a", "b"], "units": ["m", ""],
        "rate_hz": 936.2395387648645,
    });
    channels["head"] = json!({"kind": "regression", "size": 1, "mean": [0], "std": [3]});
    channels["final_norm"] = json!(true);
    let mut surprise = config(titans(), caching("soup"));
    surprise["blocks"][0]["caching"]["segmentation"] =
        json!({"kind": "surprise", "window": 8, "threshold": 2.5, "min_size": 2, "max_size": 16});
    surprise["blocks"][0]["memory"]["sign"] = json!("paper");
    let mut logarithmic =
        config(json!({"kind": "linear", "feature_map": "elu1", "normalized": true}), caching("grm"));
    logarithmic["blocks"][0]["caching"]["segmentation"] = json!({"kind": "logarithmic"});
    logarithmic["blocks"][0]["caching"]["init"] = json!("restart");
    logarithmic["head"] = json!({"kind": "classification", "size": 2, "labels": ["yes", "no"]});
    let mut two = config(json!({"kind": "lstm"}), caching("grm"));
    let second = two["blocks"][0].clone();
    two["blocks"].as_array_mut().unwrap().push(second);
    two["blocks"][1]["memory"] =
        json!({"kind": "gated_delta", "alpha": "input", "beta": 1, "correction": false});
    two["blocks"][1]["caching"]["query"] = json!("q");
    two["blocks"][1]["caching"]["context"] = json!("sum");
    two["blocks"][1]["caching"]["temperature"] = json!(0.3);
    two["head"] = json!({"kind": "logits", "size": 3});
    vec![("channels", channels), ("surprise", surprise), ("logarithmic", logarithmic), ("two-blocks", two)]
}

/// An LSTM of one unit and two channels, with a head.
const STATE_DICT: [(&str, &[usize]); 6] = [
    ("rnn.weight_ih_l0", &[4, 2]),
    ("rnn.weight_hh_l0", &[4, 1]),
    ("rnn.bias_ih_l0", &[4]),
    ("rnn.bias_hh_l0", &[4]),
    ("fc.weight", &[3, 1]),
    ("fc.bias", &[3]),
];

/// All of it in the first storage of [`Checkpoint::new`].
fn state_dict() -> Item {
    dict(STATE_DICT.map(|(name, shape)| {
        let size: Vec<i32> = shape.iter().map(|&size| size as i32).collect();
        let stride = if let [_, columns] = size[..] { vec![columns, 1] } else { vec![1] };
        let view = View { class: "FloatStorage", key: "0".into(), elements: 28, offset: 1, size, stride };
        (name, Item::Tensor(view))
    }))
}

fn checkpoints() -> Vec<(&'static str, Checkpoint)> {
    let plain = |backend| Checkpoint::new(backend, "grm");
    let mut halves = plain("swla");
    halves.view("norm.bias").class = "HalfStorage";
    halves.storages[7].1.truncate(8);
    vec![
        ("linear", plain("linear")),
        ("dla", plain("dla")),
        ("every-key", Checkpoint::with_every_key()),
        ("halves", halves),
    ]
}
