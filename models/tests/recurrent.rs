//! Plain GRUs and LSTMs: what PyTorch computes is what the model computes, and what no model is made of is refused.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;
#[path = "common/checkpoint.rs"]
mod make;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Xorshift, mutate};
use make::{Checkpoint, Item, View, dict, pickle, text};
use mcedge_models::reference::{Stream, run};
use mcedge_models::spec::{Aggregation, Head, Init, Input, Memory, Spec};
use mcedge_models::{
    ConvertError, HeadKind, Model, Settings, Tensor, recurrent_from_state_dict, write_safetensors,
};
use ndarray::Array2;
use safetensors::SafeTensors;

/// Absolute; the reference and PyTorch compute in f64 from the same f32 weights.
const TOLERANCE: f64 = 1e-12;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recurrent")
}

fn settings(aggregation: Aggregation) -> Settings {
    let mut settings = Settings::new("test");
    settings.aggregation = Some(aggregation);
    settings
}

/// A model of one of the cases.
fn convert(file: &str, settings: &Settings) -> Model {
    Model::convert(cases().join(file), settings).unwrap().model
}

/// What PyTorch computed.
struct Golden {
    input: Vec<u8>,
    hidden: Array2<f64>,
    output: Array2<f64>,
}

impl Golden {
    fn of(file: &str) -> Self {
        let stem = file.split('.').next().unwrap();
        let bytes = fs::read(cases().join(format!("{stem}.golden.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let array = |name: &str| {
            let view = tensors.tensor(name).unwrap();
            let data = view.data().as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)).collect();
            Array2::from_shape_vec((view.shape()[0], view.shape()[1]), data).unwrap()
        };
        let input = tensors.tensor("input").unwrap().data().to_vec();
        Golden { input, hidden: array("hidden"), output: array("output") }
    }

    /// The model's output over the same input.
    fn run(&self, model: &Model) -> Array2<f64> {
        let Model { spec, weights } = model;
        match spec.input {
            Input::Tokens { .. } => {
                let tokens: Vec<i64> =
                    self.input.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
                run(spec, weights, Stream::Tokens(&tokens), None).unwrap()
            }
            Input::Features { size, .. } => {
                let samples = self.input.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
                let samples = Array2::from_shape_vec((self.hidden.nrows(), size), samples).unwrap();
                run(spec, weights, Stream::Features(samples.view()), None).unwrap()
            }
        }
    }
}

#[track_caller]
fn close(found: &Array2<f64>, expected: &Array2<f64>) {
    assert_eq!(found.dim(), expected.dim());
    let errors = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    let error = errors.fold(0.0, f64::max);
    assert!(error <= TOLERANCE, "{error}");
}

#[test]
fn without_a_cache_the_model_computes_what_pytorch_computes() {
    let check = |file: &str, found: &str, d_model: usize| {
        let converted = Model::convert(cases().join(file), &settings(Aggregation::None)).unwrap();
        assert_eq!(converted.found, found);
        let (model, golden) = (converted.model, Golden::of(file));
        assert_eq!(model.spec.d_model, d_model);
        close(&golden.run(&model), &golden.output);
    };
    check("gru.pt", "a GRU of 2 layers, 6 units, 3 channels, no head", 6);
    check("gru-one-layer.safetensors", "a GRU of 1 layer, 4 units, 2 channels, no head", 4);
    let wide = "a GRU of 2 layers, 4 units, 6 channels, 3 outputs (`fc`)";
    check("gru-no-bias-wide-input.safetensors", wide, 6);
    check("gru-parameters.pt", "a GRU of 1 layer, 4 units, 3 channels, 3 outputs (`out`)", 4);
    let lstm =
        "an LSTM of 2 layers, 6 units, 11 tokens (`encoder.embedding`), 11 outputs (`encoder.decoder`)";
    check("lstm.pth", lstm, 6);
    let wide = "an LSTM of 2 layers, 4 units, 5 tokens (`embed`), 2 outputs (`classifier`)";
    check("lstm-wide-embedding.safetensors", wide, 7);
    check("lstm-one-layer.pt", "an LSTM of 1 layer, 6 units, 2 channels, no head", 6);
}

/// The mean, or with `sum` the sum, of the hidden state and those at the ends of the segments before it.
fn read(hidden: &Array2<f64>, segment_tokens: usize, sum: bool) -> Array2<f64> {
    let mut output = hidden.clone();
    for t in 0..hidden.nrows() {
        let mut row = hidden.row(t).to_owned();
        let segments = t / segment_tokens;
        for segment in 0..segments {
            row += &hidden.row((segment + 1) * segment_tokens - 1);
        }
        output.row_mut(t).assign(&if sum { row } else { row / (segments + 1) as f64 });
    }
    output
}

#[test]
fn with_a_cache_the_model_reads_the_states_at_the_ends_of_segments() {
    for file in ["gru-one-layer.safetensors", "lstm-one-layer.pt"] {
        for (aggregation, sum) in [(Aggregation::Mean, false), (Aggregation::Residual, true)] {
            for (heads, segment_tokens) in [(1, 3), (2, 4), (2, 1)] {
                let mut settings = settings(aggregation);
                (settings.heads, settings.segment_tokens) = (Some(heads), Some(segment_tokens));
                let golden = Golden::of(file);
                let found = golden.run(&convert(file, &settings));
                close(&found, &read(&golden.hidden, segment_tokens, sum));
            }
        }
    }
}

#[test]
fn settings_reach_the_config() {
    let mut settings = settings(Aggregation::Mean);
    (settings.heads, settings.segment_tokens, settings.init) = (Some(3), Some(64), Init::Restart);
    (settings.rate_hz, settings.head) = (Some(50.0), Some(HeadKind::Classification));
    settings.names = ["x", "y", "z", "u", "v", "w"].map(String::from).into();
    let model = convert("gru-no-bias-wide-input.safetensors", &settings);
    let expected = r#"{
        "format": "mcedge/1", "name": "test", "d_model": 6,
        "input": {"kind": "features", "size": 6, "names": ["x", "y", "z", "u", "v", "w"], "rate_hz": 50},
        "blocks": [BLOCK, BLOCK], "head": {"kind": "classification", "size": 3}}"#;
    let block = r#"{"norm": "none", "residual": false, "num_heads": 3, "memory": {"kind": "gru"}, "caching":
        {"aggregation": "mean", "segmentation": {"kind": "constant", "size": 64}, "init": "restart"}}"#;
    assert_eq!(model.spec, Spec::parse(expected.replace("BLOCK", block).as_bytes()).unwrap());
    let lstm = convert("lstm.pth", &self::settings(Aggregation::None)).spec;
    assert_eq!(lstm.blocks[1].memory, Memory::Lstm {});
    assert_eq!((lstm.blocks[0].num_heads, lstm.head), (1, Head::Logits { size: 11 }));
}

/// The state dictionary of a GRU of 3 inputs and 4 units, to get any part of it wrong.
fn gru() -> BTreeMap<String, Tensor> {
    let mut random = Xorshift(5);
    let mut tensor = |shape: &[usize]| Tensor {
        shape: shape.to_vec(),
        data: (0..shape.iter().product()).map(|_| random.unit()).collect(),
    };
    let names = [
        ("rnn.weight_ih_l0", tensor(&[12, 3])),
        ("rnn.weight_hh_l0", tensor(&[12, 4])),
        ("rnn.bias_ih_l0", tensor(&[12])),
        ("rnn.bias_hh_l0", tensor(&[12])),
        ("fc.weight", tensor(&[2, 4])),
        ("fc.bias", tensor(&[2])),
    ];
    names.map(|(name, tensor)| (name.to_owned(), tensor)).into()
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor { shape: shape.to_vec(), data: vec![0.0; shape.iter().product()] }
}

fn error_with(settings: &Settings, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> ConvertError {
    let mut tensors = gru();
    change(&mut tensors);
    recurrent_from_state_dict(&write_safetensors(&tensors).unwrap(), settings).unwrap_err()
}

/// The message of a state dictionary that was good before `change`.
fn changed(change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> String {
    error_with(&settings(Aggregation::None), change).to_string()
}

#[test]
fn all_that_has_to_be_said_is_asked_for_at_once() {
    let check = |settings: &Settings, expected: &str| {
        let error = error_with(settings, |_| {});
        assert!(error.is_usage());
        assert_eq!(error.to_string(), expected);
    };
    let file = "the file holds a GRU of 1 layer, 4 units, 3 channels, 2 outputs (`fc`); it does not say";
    let (heads, segment) = ("--heads (a divisor of 4)", "--segment (tokens from one checkpoint to the next)");
    let aggregation = "--aggregation (mean or residual; or none, which needs neither heads nor segment)";
    check(&Settings::new("x"), &format!("{file}: {heads}, {segment}, {aggregation}"));
    let mut settings = Settings::new("x");
    settings.heads = Some(2);
    check(&settings, &format!("{file}: {segment}, {aggregation}"));
    settings.segment_tokens = Some(8);
    check(&settings, &format!("{file}: {aggregation}"));
    settings.aggregation = Some(Aggregation::Mean);
    settings.heads = None;
    check(&settings, &format!("{file}: {heads}"));
}

#[test]
fn a_setting_that_cannot_be_says_what_can() {
    let check = |change: fn(&mut Settings), expected: &str| {
        let mut settings = settings(Aggregation::None);
        change(&mut settings);
        let error = error_with(&settings, |_| {});
        assert!(error.is_usage());
        assert_eq!(error.to_string(), expected);
    };
    check(|s| s.heads = Some(3), "--heads is 3, expected a divisor of 4");
    check(|s| s.segment_tokens = Some(0), "--segment is 0, expected 1 to 1048576 tokens");
    check(|s| s.heads = Some(0), "--heads is 0, expected a divisor of 4");
    for (gated, word) in [
        (Aggregation::Grm, "grm"),
        (Aggregation::Soup, "soup"),
        (Aggregation::Ssc, "ssc"),
        (Aggregation::Sigmoid, "sigmoid"),
    ] {
        let mut settings = settings(gated);
        (settings.heads, settings.segment_tokens) = (Some(1), Some(1));
        let expected = "expected none, residual or mean: the others need trained gates, which a plain GRU or LSTM has not";
        assert_eq!(error_with(&settings, |_| {}).to_string(), format!("--aggregation is {word}, {expected}"));
    }
    check(|s| s.names = vec!["x".into()], "--names is 1 names, expected 3, one a channel");
    let repeated = "--names is \"x\" for channel 2, expected a name that no channel before it has";
    check(|s| s.names = ["x", "y", "x"].map(String::from).into(), repeated);
    let empty = "--names is \"\" for channel 1, expected a name that is not empty";
    check(|s| s.names = ["x", "", "z"].map(String::from).into(), empty);
    check(|s| s.rate_hz = Some(-1.0), "--rate is -1, expected a positive number");
    let logits = "--head is logits, expected regression or classification: logits are of the next token, and `fc` has 2 rows for 3 channels";
    check(|s| s.head = Some(HeadKind::Logits), logits);
    let found = "a name of the file: fc.bias, fc.weight, rnn.bias_hh_l0, rnn.bias_ih_l0, rnn.weight_hh_l0, rnn.weight_ih_l0";
    check(|s| s.ignore = vec!["fx".into()], &format!("--ignore is fx, expected {found}"));
    let mut headless = settings(Aggregation::None);
    headless.head = Some(HeadKind::Logits);
    let found =
        error_with(&headless, |tensors| tensors.retain(|name, _| name.starts_with("rnn"))).to_string();
    assert_eq!(
        found,
        "--head is logits, expected regression: the file has no head, and the output is the hidden state"
    );
    let mut rate = settings(Aggregation::None);
    rate.rate_hz = Some(1.0);
    let found =
        error_with(&rate, |tensors| drop(tensors.insert("emb.weight".into(), zeros(&[9, 3])))).to_string();
    assert_eq!(found, "--rate is 1, expected nothing: `emb` makes a model of tokens, not of channels");
}

#[test]
fn other_recurrent_networks_are_refused_with_the_reason() {
    let check = |name: &str, shape: &[usize], expected: &str| {
        let found = changed(|tensors| drop(tensors.insert(name.into(), zeros(shape))));
        assert_eq!(found, format!("`{name}` has shape {shape:?}: {expected}"));
    };
    let both =
        "the network is bidirectional: it reads the stream from its end too, and a live stream has none";
    check("rnn.weight_ih_l0_reverse", &[12, 3], both);
    let projected = "the LSTM projects its hidden state (proj_size), which the format's lstm does not";
    check("rnn.weight_hr_l0", &[2, 4], projected);
    let plain = "that of a torch.nn.RNN, which is not read; expected a GRU or an LSTM";
    check("rnn.weight_hh_l0", &[4, 4], plain);
    check("rnn.weight_hh_l0", &[8, 4], "expected [3 H, H] of a GRU or [4 H, H] of an LSTM");
    check("rnn.weight_hh_l0", &[12], "expected 2 axes");
    check("rnn.weight_hh_l0", &[0, 0], "expected [3 H, H] of a GRU or [4 H, H] of an LSTM");
    let wide = changed(|tensors| drop(tensors.insert("rnn.weight_ih_l0".into(), zeros(&[12, 4000]))));
    assert!(wide.starts_with("`rnn.weight_ih_l0` has shape [12, 4000]: 4000 inputs for 4 units"), "{wide}");
    let found = changed(|tensors| drop(tensors.remove("rnn.weight_hh_l0")));
    assert!(
        found.starts_with("no tensor is called `weight_hh_l0`, expected the state dictionary"),
        "{found}"
    );
    let found = changed(|tensors| drop(tensors.insert("b.weight_hh_l0".into(), zeros(&[12, 4]))));
    let two = "a recurrent network: `b.weight_hh_l0`, `rnn.weight_hh_l0`";
    assert!(found.contains(two), "{found}");
}

#[test]
fn every_tensor_has_its_place_and_shape() {
    let with = |name: &str, shape: &[usize]| changed(|t| drop(t.insert(name.into(), zeros(shape))));
    let without = |name: &str| changed(|t| drop(t.remove(name)));
    let missing =
        |name: &str, shape: &str| format!("`{name}` is missing, the model declares it with shape {shape}");
    assert_eq!(without("rnn.bias_hh_l0"), missing("rnn.bias_hh_l0", "[12]"));
    assert_eq!(with("rnn.weight_hh_l1", &[12, 4]), missing("rnn.weight_ih_l1", "[12, 4]"));
    let shape = "`rnn.bias_ih_l0` has shape [11], the model declares [12]";
    assert_eq!(with("rnn.bias_ih_l0", &[11]), shape);
    assert_eq!(with("fc.weight", &[2, 5]), "`fc.weight` has shape [2, 5], the model declares [2, 4]");
    assert_eq!(with("embed.weight", &[9, 4]), "`embed.weight` has shape [9, 4], the model declares [9, 3]");
    assert!(with("out.weight", &[2, 4]).contains("a head: `fc.weight`, `out.weight`"));
    let unknown = changed(|tensors| {
        tensors.insert("norm.weight".into(), zeros(&[4]));
        tensors.insert("attention.weight".into(), zeros(&[4, 4]));
        tensors.insert("rnn.bias_ih_l3".into(), zeros(&[12]));
    });
    let names = "`attention.weight` [4, 4], `norm.weight` [4], `rnn.bias_ih_l3` [12]";
    assert!(unknown.starts_with(&format!("no place in the model for {names}; expected")), "{unknown}");
    let nan = changed(|tensors| tensors.get_mut("fc.bias").unwrap().data[1] = f32::NAN);
    assert_eq!(nan, "`fc.bias` holds NaN at element 1, expected finite numbers");
    let mut ignoring = settings(Aggregation::None);
    ignoring.ignore = vec!["norm.weight".into()];
    let mut tensors = gru();
    tensors.insert("norm.weight".into(), zeros(&[4]));
    assert!(recurrent_from_state_dict(&write_safetensors(&tensors).unwrap(), &ignoring).is_ok());
}

/// The same state dictionary in a `.pt`, with that between the tensors.
fn pt(more: Vec<(String, Item)>) -> (Checkpoint, Item) {
    let mut checkpoint = Checkpoint::new("linear", "grm");
    checkpoint.storages.clear();
    let mut entries = more;
    for (i, (name, tensor)) in gru().into_iter().enumerate() {
        checkpoint.storages.push((i.to_string(), tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect()));
        let size: Vec<i32> = tensor.shape.iter().map(|&n| n as i32).collect();
        let stride = if size.len() == 2 { vec![size[1], 1] } else { vec![1] };
        let elements = size.iter().product();
        let view = View { class: "FloatStorage", key: i.to_string(), elements, offset: 0, size, stride };
        entries.push((name, Item::Tensor(view)));
    }
    (checkpoint, Item::Dict(entries))
}

#[test]
fn a_pt_and_a_safetensors_file_make_the_same_model() {
    let settings = settings(Aggregation::None);
    let expected = recurrent_from_state_dict(&write_safetensors(&gru()).unwrap(), &settings).unwrap();
    let (checkpoint, state) = pt(Vec::new());
    let found = recurrent_from_state_dict(&checkpoint.around(pickle(&state)), &settings).unwrap();
    assert_eq!(found, expected);
    for key in ["state_dict", "model_state_dict"] {
        let wrapped = dict([("epoch", Item::Int(3)), (key, state.clone())]);
        let found = recurrent_from_state_dict(&checkpoint.around(pickle(&wrapped)), &settings).unwrap();
        assert_eq!(found, expected);
    }
}

#[test]
fn tensors_may_share_a_storage_as_on_a_gpu() {
    let settings = settings(Aggregation::None);
    let expected = recurrent_from_state_dict(&write_safetensors(&gru()).unwrap(), &settings).unwrap();
    let (mut checkpoint, Item::Dict(mut entries)) = pt(Vec::new()) else { unreachable!() };
    let flat: Vec<u8> = checkpoint.storages.drain(..).flat_map(|(_, data)| data).collect();
    let (all, mut offset) = (flat.len() as i32 / 4, 0);
    for (_, entry) in &mut entries {
        let Item::Tensor(view) = entry else { unreachable!() };
        let own = view.elements;
        (view.key, view.elements, view.offset) = ("0".into(), all, offset);
        offset += own;
    }
    checkpoint.storages = vec![("0".into(), flat)];
    let bytes = checkpoint.around(pickle(&Item::Dict(entries)));
    assert_eq!(recurrent_from_state_dict(&bytes, &settings).unwrap(), expected);
}

#[test]
fn each_fault_of_a_pt_has_its_own_message() {
    let settings = settings(Aggregation::None);
    let message = |bytes: &[u8]| recurrent_from_state_dict(bytes, &settings).unwrap_err().to_string();
    let (checkpoint, state) = pt(vec![("version".into(), text("2"))]);
    let found = message(&checkpoint.around(pickle(&state)));
    assert!(found.starts_with("no place in the model for `version` (\"2\"); expected"), "{found}");
    let trained = message(&Checkpoint::new("linear", "grm").bytes());
    assert!(trained.starts_with("the file is a training checkpoint of memory-caching 0.1.0"), "{trained}");
    let (checkpoint, state) = pt(Vec::new());
    let error = Model::from_checkpoint(&checkpoint.around(pickle(&state))).unwrap_err().to_string();
    assert!(error.starts_with("the file is a state dictionary (it has `rnn.weight_hh_l0`)"), "{error}");
    let module = message(&checkpoint.around(b"\x80\x02ctorch.nn.modules.rnn\nGRU\n)\x81.".to_vec()));
    assert!(
        module.starts_with("the pickle names \"torch.nn.modules.rnn\" \"GRU\", which is not"),
        "{module}"
    );
    assert!(
        module.ends_with("save the tensors alone, with torch.save(model.state_dict(), path)"),
        "{module}"
    );
    let none = message(b"\x80\x02}q\x00.");
    assert!(
        none.starts_with("neither what torch.save writes (a zip, since PyTorch 1.6) nor a saf"),
        "{none}"
    );
}

#[test]
fn views_of_one_storage_do_not_grow_past_the_file() {
    // 200 layers that are all the same 64 by 64 numbers, and no more than once in the file.
    let (mut checkpoint, _) = pt(Vec::new());
    checkpoint.storages = vec![("0".into(), vec![0; 3 * 64 * 64 * 4])];
    let view = View {
        class: "FloatStorage",
        key: "0".into(),
        elements: 3 * 64 * 64,
        offset: 0,
        size: vec![192, 64],
        stride: vec![64, 1],
    };
    let layer = |k: i32| ["ih", "hh"].map(|name| (format!("weight_{name}_l{k}"), Item::Tensor(view.clone())));
    let state = Item::Dict((0..200).flat_map(layer).collect());
    let bytes = checkpoint.around(pickle(&state));
    let error = recurrent_from_state_dict(&bytes, &settings(Aggregation::None)).unwrap_err().to_string();
    assert!(error.contains("are views with more numbers than the file has bytes"), "{error}");
}

#[test]
fn a_saved_model_is_the_model() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("recurrent-save");
    let _ = fs::remove_dir_all(&folder);
    let (gru, lstm) =
        (convert("gru.pt", &settings(Aggregation::None)), convert("lstm.pth", &settings(Aggregation::None)));
    let target = folder.join("deep/model");
    gru.save(&target).unwrap();
    assert_eq!(Model::load(&target).unwrap(), gru);
    lstm.save(&target).unwrap();
    assert_eq!(Model::load(&target).unwrap(), lstm);
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&folder.join("deep")), ["model"], "nothing is left beside it");
    let config = fs::read_to_string(target.join("config.json")).unwrap();
    assert!(config.starts_with("{\n  \"format\": \"mcedge/1\",\n") && config.ends_with("}\n"), "{config}");
    // What is no model stays.
    let card = target.join("README.md");
    fs::write(&card, "mine").unwrap();
    let message = gru.save(&target).unwrap_err().to_string();
    assert!(message.contains("the directory holds `README.md`, expected"), "{message}");
    assert_eq!(Model::load(&target).unwrap(), lstm);
    fs::remove_file(&card).unwrap();
    fs::remove_file(target.join("model.safetensors")).unwrap();
    let message = gru.save(&target).unwrap_err().to_string();
    assert!(message.contains("the directory holds one of a model's two files, expected"), "{message}");
    let file = folder.join("file");
    fs::write(&file, "mine").unwrap();
    assert!(gru.save(&file).is_err());
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    assert_eq!(names(&folder), ["deep", "file"]);
    let empty = folder.join("empty");
    fs::create_dir(&empty).unwrap();
    gru.save(&empty).unwrap();
    assert_eq!(Model::load(&empty).unwrap(), gru);
}

#[test]
fn no_bytes_panic() {
    let settings = settings(Aggregation::None);
    let convert = |bytes: &[u8]| drop(recurrent_from_state_dict(bytes, &settings));
    mutate(&write_safetensors(&gru()).unwrap(), 4_000, convert);
    mutate(&fs::read(cases().join("gru-parameters.pt")).unwrap(), 2_000, convert);
    // The archive's checksums keep flips from the pickle, so these go in before it is written.
    let (checkpoint, state) = pt(Vec::new());
    mutate(&pickle(&state), 4_000, |pickle| convert(&checkpoint.around(pickle.to_vec())));
}
