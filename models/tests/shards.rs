//! Weights over several files: what an index and its shards must agree on.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{caching, config, mutate, random_tensors, random_weights, spec};
use mcedge_models::{Model, Tensor, Weights, write_safetensors};
use serde_json::{Value, json};

const INDEX: &str = "model.safetensors.index.json";

/// A model of three shards, as tensors and as what its index says.
struct Sharded {
    config: Value,
    shards: BTreeMap<String, BTreeMap<String, Tensor>>,
    index: Value,
}

impl Sharded {
    fn new() -> Self {
        let config = config(json!({"kind": "linear"}), caching("grm"));
        let mut shards: BTreeMap<String, BTreeMap<String, Tensor>> = BTreeMap::new();
        let mut map = BTreeMap::new();
        for (i, (name, tensor)) in random_tensors(&spec(&config), 1).into_iter().enumerate() {
            let shard = format!("model-{:05}-of-00003.safetensors", i % 3 + 1);
            map.insert(name.clone(), shard.clone());
            shards.entry(shard).or_default().insert(name, tensor);
        }
        Sharded { config, shards, index: json!({"metadata": {"total_size": 1}, "weight_map": map}) }
    }

    fn map(&mut self, tensor: &str) -> &mut Value {
        &mut self.index["weight_map"][tensor]
    }

    fn shard(&mut self, i: usize) -> &mut BTreeMap<String, Tensor> {
        self.shards.values_mut().nth(i - 1).unwrap()
    }

    /// Writes it into a directory of that name.
    fn write(&self, name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shards").join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        fs::write(folder.join(INDEX), self.index.to_string()).unwrap();
        for (shard, tensors) in &self.shards {
            fs::write(folder.join(shard), write_safetensors(tensors).unwrap()).unwrap();
        }
        folder
    }
}

fn message(folder: &Path) -> String {
    let message = Model::load(folder).unwrap_err().to_string();
    message.strip_prefix(&format!("{}/", folder.display())).unwrap().to_owned()
}

/// The message of a model that was good before `change`, behind its directory.
fn changed(name: &str, change: impl FnOnce(&mut Sharded)) -> String {
    let mut sharded = Sharded::new();
    change(&mut sharded);
    message(&sharded.write(name))
}

#[test]
fn shards_hold_the_model_that_one_file_holds() {
    let sharded = Sharded::new();
    let folder = sharded.write("good");
    let model = Model::load(&folder).unwrap();
    assert_eq!(model.weights, random_weights(&spec(&sharded.config), 1));
    let mut expected = vec!["config.json", INDEX];
    expected.extend(sharded.shards.keys().map(String::as_str));
    let names = |folder: &Path| -> Vec<String> {
        let name = |file: PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
        Model::files(folder).unwrap().into_iter().map(name).collect()
    };
    assert_eq!(names(&folder), expected);
    // One file goes before the index.
    let other: Weights = random_weights(&spec(&sharded.config), 2);
    fs::write(folder.join("model.safetensors"), other.to_safetensors().unwrap()).unwrap();
    assert_eq!(Model::load(&folder).unwrap().weights, other);
    assert_eq!(names(&folder), ["config.json", "model.safetensors"]);
}

#[test]
fn index_and_shards_agree_on_every_tensor() {
    let (k, one, two) =
        ("blocks.0.mix.k.weight", "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors");
    let home = Sharded::new().map(k).as_str().unwrap().to_owned();
    assert_eq!(home, two, "the cases below know where k is");
    let missing = changed("not-in-shard", |model| drop(model.shard(2).remove(k)));
    assert_eq!(missing, format!("{INDEX}: `{k}` is said to be in `{two}`, which has no such tensor"));
    let unnamed = changed("not-in-index", |model| {
        model.shard(1).insert("spare".into(), Tensor { shape: vec![1], data: vec![0.0] });
    });
    let expected = format!("`spare` is in `{one}`, and nowhere in the index, expected every tensor there");
    assert_eq!(unnamed, format!("{INDEX}: {expected}"));
    let twice = changed("in-two-shards", |model| {
        let tensor = model.shard(2)[k].clone();
        model.shard(1).insert(k.into(), tensor);
    });
    let expected = format!("`{k}` is in `{one}`, expected it in `{two}` alone, where the index places it");
    assert_eq!(twice, format!("{INDEX}: {expected}"));
    let absent = changed("no-shard", |model| drop(model.shards.remove(two)));
    assert!(absent.ends_with(&format!("is said to be in `{two}`, which is not there")), "{absent}");
    assert!(absent.starts_with(&format!("{INDEX}: `blocks.0.")), "{absent}");
}

#[test]
fn an_index_names_every_tensor_of_the_model_and_no_other() {
    let k = "blocks.0.mix.k.weight";
    let missing = changed("missing", |model| {
        model.index["weight_map"].as_object_mut().unwrap().remove(k);
    });
    assert_eq!(missing, format!("{INDEX}: `{k}` is missing, the model declares it with shape [8, 8]"));
    let extra = changed("extra", |model| *model.map("spare") = json!("model-00001-of-00003.safetensors"));
    assert_eq!(extra, format!("{INDEX}: `spare` has no place in the model: no such name in the format"));
    let folder = Sharded::new().write("named-twice");
    let text = fs::read_to_string(folder.join(INDEX)).unwrap();
    let text = text.replace("\"weight_map\":{", "\"weight_map\":{\"head.bias\":\"other\",");
    fs::write(folder.join(INDEX), text).unwrap();
    let found = message(&folder);
    assert!(found.starts_with(&format!("{INDEX}: not an index of shards: `head.bias` is in `other` and in")));
    let none = changed("no-map", |model| model.index = json!({"metadata": {}}));
    assert!(none.contains("not an index of shards: missing field `weight_map`"), "{none}");
}

#[test]
fn a_shard_is_a_plain_file_beside_the_index() {
    for shard in ["../x.safetensors", "/etc/passwd", "sub/x", "sub\\x", "..", ".", "", "c:x", "x\0"] {
        let found = changed("plain", |model| *model.map("head.bias") = json!(shard));
        let expected = format!("`head.bias` is said to be in {shard:?}, expected the plain name of a file");
        assert!(found.starts_with(&format!("{INDEX}: {expected}")), "{found}");
    }
    let shard = "model-00002-of-00003.safetensors";
    let folder = Sharded::new().write("directory");
    fs::remove_file(folder.join(shard)).unwrap();
    fs::create_dir(folder.join(shard)).unwrap();
    assert_eq!(message(&folder), format!("{shard}: a directory, expected a file"));
}

#[test]
fn a_fault_in_a_shard_names_the_shard() {
    let (k, shard) = ("blocks.0.mix.k.weight", "model-00002-of-00003.safetensors");
    let shape = changed("shape", |model| model.shard(2).get_mut(k).unwrap().shape = vec![4, 16]);
    assert_eq!(shape, format!("{shard}: `{k}` has shape [4, 16], the model declares [8, 8]"));
    let nan = changed("nan", |model| model.shard(2).get_mut(k).unwrap().data[3] = f32::NAN);
    assert_eq!(nan, format!("{shard}: `{k}` holds NaN at element 3, expected finite numbers"));
    let folder = Sharded::new().write("truncated");
    let bytes = fs::read(folder.join(shard)).unwrap();
    fs::write(folder.join(shard), &bytes[..bytes.len() - 1]).unwrap();
    let found = message(&folder);
    assert!(found.starts_with(&format!("{shard}: not a safetensors file: ")), "{found}");
}

#[test]
fn no_bytes_of_an_index_or_a_shard_panic() {
    let sharded = Sharded::new();
    let folder = sharded.write("mutated");
    mutate(sharded.index.to_string().as_bytes(), 500, |bytes| {
        fs::write(folder.join(INDEX), bytes).unwrap();
        drop(Model::load(&folder));
    });
    fs::write(folder.join(INDEX), sharded.index.to_string()).unwrap();
    let shard = folder.join("model-00003-of-00003.safetensors");
    mutate(&fs::read(&shard).unwrap(), 500, |bytes| {
        fs::write(&shard, bytes).unwrap();
        drop(Model::load(&folder));
    });
}
