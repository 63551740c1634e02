//! The door of a path: every thing that may lie there in place of a model.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;
#[path = "common/checkpoint.rs"]
mod make;

use std::fs;
use std::path::{Path, PathBuf};

use common::{caching, config, mutate, random_weights, spec};
use make::{Checkpoint, Item};
use mcedge_models::spec::{Aggregation, Input, Spec};
use mcedge_models::{Model, Settings, Tensor, write_safetensors};
use serde_json::json;

/// An empty directory of that name.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("load").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A good model directory of that name.
fn model(name: &str) -> PathBuf {
    let folder = folder(name);
    let config = config(json!({"kind": "linear"}), caching("grm"));
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let weights = random_weights(&spec(&config), 1).to_safetensors().unwrap();
    fs::write(folder.join("model.safetensors"), weights).unwrap();
    folder
}

/// The message for `path`, which goes before it.
fn message(path: &Path, before: &Path) -> String {
    let message = Model::load(path).unwrap_err().to_string();
    let rest = message.strip_prefix(&format!("{}: ", before.display()));
    rest.unwrap_or_else(|| panic!("{message}: expected {} first", before.display())).to_owned()
}

#[test]
fn a_directory_or_a_checkpoint_is_a_model() {
    let directory = Model::load(model("good")).unwrap();
    assert_eq!(directory.spec.name, "test");
    let file = folder("good-pt").join("model.pt");
    fs::write(&file, Checkpoint::new("linear", "grm").bytes()).unwrap();
    assert_eq!(Model::load(&file).unwrap().spec.name, "by hand");
    let other_name = file.with_extension("bin");
    fs::rename(&file, &other_name).unwrap();
    assert_eq!(Model::load(&other_name).unwrap().spec.name, "by hand");
}

#[test]
fn each_thing_in_place_of_a_model_has_its_own_message() {
    let nowhere = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nowhere");
    assert!(message(&nowhere, &nowhere).contains("No such file"), "{}", message(&nowhere, &nowhere));
    let empty = folder("empty");
    let expected = "the directory has no config.json, expected config.json and model.safetensors";
    assert_eq!(message(&empty, &empty), expected);
    let half = model("half");
    fs::remove_file(half.join("model.safetensors")).unwrap();
    let expected = "the directory has no model.safetensors, expected config.json and model.safetensors";
    assert_eq!(message(&half, &half), expected);
    let good = model("file");
    let config = good.join("config.json");
    let expected = "neither a model directory (config.json and model.safetensors) nor a .pt checkpoint";
    assert_eq!(message(&config, &config), expected);
    for name in ["config.json", "model.safetensors"] {
        let path = model("directory").join(name);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(message(path.parent().unwrap(), &path), "a directory, expected a file");
        let path = model("no-bytes").join(name);
        fs::write(&path, "").unwrap();
        assert_eq!(message(path.parent().unwrap(), &path), "the file is empty");
    }
    let pt = folder("pt").join("model.pt");
    fs::write(&pt, "").unwrap();
    assert_eq!(message(&pt, &pt), "the file is empty");
    fs::write(&pt, "text").unwrap();
    assert!(message(&pt, &pt).starts_with("not a checkpoint of torch.save (a zip): "));
    let large = model("large").join("config.json");
    fs::write(&large, vec![b' '; (1 << 20) + 1]).unwrap();
    let expected = "the file has 1048577 bytes, expected at most 1048576";
    assert_eq!(message(large.parent().unwrap(), &large), expected);
}

#[test]
fn a_fault_in_a_file_names_the_file() {
    let truncated = model("truncated").join("model.safetensors");
    let bytes = fs::read(&truncated).unwrap();
    fs::write(&truncated, &bytes[..bytes.len() / 2]).unwrap();
    let found = message(truncated.parent().unwrap(), &truncated);
    assert!(found.starts_with("not a safetensors file: "), "{found}");
    let unknown = model("unknown-key").join("config.json");
    let text = fs::read_to_string(&unknown).unwrap().replace("\"d_model\"", "\"dmodel\"");
    fs::write(&unknown, text).unwrap();
    let found = message(unknown.parent().unwrap(), &unknown);
    assert!(found.starts_with("at `dmodel`: unknown field `dmodel`, expected one of"), "{found}");
}

#[test]
fn a_spec_that_cannot_be_is_blamed_on_the_file_it_came_from() {
    let good = model("no-heads").join("config.json");
    let text = fs::read_to_string(&good).unwrap().replace("\"num_heads\":2", "\"num_heads\":3");
    fs::write(&good, text).unwrap();
    let fault = "`blocks[0].num_heads` is 3, expected a divisor of d_model, 8";
    assert_eq!(message(good.parent().unwrap(), &good), fault);
    let pt = folder("no-heads-pt").join("model.pt");
    let mut checkpoint = Checkpoint::new("linear", "grm");
    checkpoint.set("num_heads", Item::Int(3));
    fs::write(&pt, checkpoint.bytes()).unwrap();
    let fault = "the checkpoint's `model_spec` makes no model: `blocks[0].num_heads` is 3, expected a divisor of d_model, 4";
    assert_eq!(message(&pt, &pt), fault);
    // A GRU of more layers than a model has blocks.
    let tensors = (0..257).flat_map(|layer| {
        let zeros = Tensor { shape: vec![3, 1], data: vec![0.0; 3] };
        ["ih", "hh"].map(|gate| (format!("weight_{gate}_l{layer}"), zeros.clone()))
    });
    let file = folder("many-layers").join("gru.safetensors");
    fs::write(&file, write_safetensors(&tensors.collect()).unwrap()).unwrap();
    let mut settings = Settings::new("test");
    settings.aggregation = Some(Aggregation::None);
    let fault = "the tensors and the settings make no model: `blocks` is 257, expected 1 to 256 blocks";
    let found = Model::convert(&file, &settings).unwrap_err().to_string();
    assert_eq!(found, format!("{}: {fault}", file.display()));
}

#[test]
fn impossible_configs_have_their_own_messages() {
    let check = |pointer: &str, value: serde_json::Value, expected: &str| {
        let mut config = config(json!({"kind": "linear"}), caching("grm"));
        *config.pointer_mut(pointer).unwrap() = value;
        let error = Spec::parse(config.to_string().as_bytes()).unwrap_err().to_string();
        assert_eq!(error, expected);
    };
    check("/d_model", json!(0), "`d_model` is 0, expected 1 to 1048576");
    check("/d_model", json!(1u64 << 40), "`d_model` is 1099511627776, expected 1 to 1048576");
    check("/blocks", json!([]), "`blocks` is 0, expected 1 to 256 blocks");
    check("/blocks/0/num_heads", json!(3), "`blocks[0].num_heads` is 3, expected a divisor of d_model, 8");
    let expected = "`blocks[0].caching.segmentation.size` is 0, expected 1 to 1048576";
    check("/blocks/0/caching/segmentation/size", json!(0), expected);
    let expected = "`format` is \"mcedge/2\", this version of mcedge reads \"mcedge/1\"";
    check("/format", json!("mcedge/2"), expected);
    let mut gru = caching("grm");
    gru["query"] = json!("q");
    let config = config(json!({"kind": "gru"}), gru);
    let error = Spec::parse(config.to_string().as_bytes()).unwrap_err().to_string();
    let expected = "`blocks[0].caching.query` is q, expected u: a memory of kind gru has no projection q";
    assert_eq!(error, expected);
}

#[test]
fn every_channel_has_a_name_of_its_own() {
    let parse = |names: &[&str]| {
        let mut config = config(json!({"kind": "linear"}), caching("grm"));
        (config["input"]["size"], config["input"]["names"]) = (json!(3), json!(names));
        config["input"].as_object_mut().unwrap().retain(|key, _| ["kind", "size", "names"].contains(&&**key));
        Spec::parse(config.to_string().as_bytes()).map_err(|error| error.to_string())
    };
    parse(&["x", "y", "X"]).unwrap();
    parse(&[]).unwrap();
    let repeated = "`input.names[2]` is \"x\", expected a name that no channel before it has";
    assert_eq!(parse(&["x", "y", "x"]).unwrap_err(), repeated);
    let empty = "`input.names[1]` is \"\", expected a name that is not empty";
    assert_eq!(parse(&["x", "", ""]).unwrap_err(), empty);
}

#[test]
fn the_models_of_this_repository_are_good_configs() {
    let mut models = 0;
    for folder in fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
        let config = folder.unwrap().path().join("config.json");
        if config.exists() {
            let parsed = Spec::parse(&fs::read(&config).unwrap());
            parsed.unwrap_or_else(|error| panic!("{}: {error}", config.display()));
            models += 1;
        }
    }
    assert!(models > 0);
}

#[test]
fn a_coefficient_that_is_not_finite_is_named_as_in_the_config() {
    let swla = json!({"kind": "swla", "alpha": 1, "beta": 1, "lambda": 1});
    let delta = json!({"kind": "gated_delta", "alpha": 1, "beta": 1});
    let mut dla = common::titans();
    dla["kind"] = json!("dla");
    for (memory, keys) in [
        (common::titans(), &["step_size", "retention"][..]),
        (dla, &["step_size", "retention"]),
        (swla, &["alpha", "beta", "lambda"]),
        (delta, &["alpha", "beta"]),
    ] {
        for key in keys {
            let mut memory = memory.clone();
            // More than an f32 holds.
            memory[key] = json!(1e39);
            let error = Spec::parse(config(memory, caching("grm")).to_string().as_bytes()).unwrap_err();
            let expected = format!("`blocks[0].memory.{key}` is inf, expected a finite number");
            assert_eq!(error.to_string(), expected);
        }
    }
}

#[test]
fn a_config_ends_where_its_json_does() {
    let config = config(json!({"kind": "linear"}), caching("grm")).to_string();
    Spec::parse(format!("{config}\n ").as_bytes()).unwrap();
    let error = Spec::parse(format!("{config}}}").as_bytes()).unwrap_err().to_string();
    assert!(error.starts_with("at `.`: trailing characters at line 1 column"), "{error}");
}

#[test]
fn a_number_is_read_as_it_is_written() {
    let mut config = config(json!({"kind": "linear"}), caching("grm"));
    config["input"]["rate_hz"] = json!(936.2395387648645);
    let Input::Features { rate_hz, .. } = spec(&config).input else { panic!("it takes features") };
    assert_eq!(rate_hz, Some(936.2395387648645));
}

#[test]
fn no_config_panics() {
    let config = config(common::titans(), caching("ssc")).to_string();
    mutate(config.as_bytes(), 20_000, |bytes| drop(Spec::parse(bytes)));
    let nested = ["[".repeat(100_000), "{\"blocks\":".repeat(100_000)];
    nested.iter().for_each(|text| assert!(Spec::parse(text.as_bytes()).is_err()));
}
