//! Checkpoints as `torch.save` writes them, put together by hand so that a test can get any part of one wrong.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A plain Python value.
#[derive(Clone)]
pub enum Item {
    None,
    Bool(bool),
    Int(i32),
    Float(f64),
    Text(String),
    Dict(Vec<(String, Item)>),
    Tensor(View),
    /// Opcodes as they are.
    Raw(Vec<u8>),
}

/// A tensor over the storage `data/{key}`.
#[derive(Clone)]
pub struct View {
    pub class: &'static str,
    pub key: String,
    pub elements: i32,
    pub offset: i32,
    pub size: Vec<i32>,
    pub stride: Vec<i32>,
}

pub fn text(text: &str) -> Item {
    Item::Text(text.to_owned())
}

pub fn dict<'a>(entries: impl IntoIterator<Item = (&'a str, Item)>) -> Item {
    Item::Dict(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// Protocol 2.
pub fn pickle(item: &Item) -> Vec<u8> {
    let mut out = vec![0x80, 2];
    write(&mut out, item);
    out.push(b'.');
    out
}

fn write(out: &mut Vec<u8>, item: &Item) {
    match item {
        Item::None => out.push(b'N'),
        Item::Bool(flag) => out.push(if *flag { 0x88 } else { 0x89 }),
        Item::Int(n) => {
            out.push(b'J');
            out.extend(n.to_le_bytes());
        }
        Item::Float(x) => {
            out.push(b'G');
            out.extend(x.to_be_bytes());
        }
        Item::Text(text) => {
            out.push(b'X');
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        }
        Item::Dict(entries) => {
            out.extend(b"}(");
            for (key, value) in entries {
                write(out, &text(key));
                write(out, value);
            }
            out.push(b'u');
        }
        Item::Tensor(view) => tensor(out, view),
        Item::Raw(opcodes) => out.extend(opcodes),
    }
}

fn tensor(out: &mut Vec<u8>, view: &View) {
    let tuple = |out: &mut Vec<u8>, items: &[i32]| {
        out.push(b'(');
        items.iter().for_each(|&n| write(out, &Item::Int(n)));
        out.push(b't');
    };
    out.extend(global("torch._utils", "_rebuild_tensor_v2"));
    out.extend(b"((");
    write(out, &text("storage"));
    out.extend(global("torch", view.class));
    write(out, &text(&view.key));
    write(out, &text("cpu"));
    write(out, &Item::Int(view.elements));
    out.extend(b"tQ");
    write(out, &Item::Int(view.offset));
    tuple(out, &view.size);
    tuple(out, &view.stride);
    out.push(0x89);
    out.extend(global("collections", "OrderedDict"));
    out.extend(b")RtR");
}

/// A zip of stored entries.
pub fn archive(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in entries {
        zip.start_file(name.as_str(), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The parts of a good checkpoint: vocabulary 7, d_model 4, two heads.
#[derive(Clone)]
pub struct Checkpoint {
    pub model_spec: Vec<(String, Item)>,
    pub model_state: Vec<(String, Item)>,
    /// By key.
    pub storages: Vec<(String, Vec<u8>)>,
}

impl Checkpoint {
    /// A `titans` with `ssc`, every setting said and none of them what it is when left out.
    pub fn with_every_key() -> Self {
        let mut checkpoint = Checkpoint::new("titans", "ssc");
        checkpoint.set("ssc_top_k", Item::Int(5));
        checkpoint.set("state_init_mode", text("restart"));
        checkpoint.set("use_q_as_u", Item::Bool(true));
        checkpoint.set("softmax_temperature", Item::Float(0.5));
        let titans = [
            ("memory_width", Item::Int(12)),
            ("memory_depth", Item::Int(3)),
            ("objective", text("dot")),
            ("inner_update_mode", text("differentiable")),
            ("step_size", Item::Float(0.25)),
            ("momentum", Item::Int(0)),
            ("retention_alpha", Item::Float(0.75)),
            ("update_convention", text("gradient_descent")),
        ];
        checkpoint.set("titans", dict(titans));
        checkpoint
    }

    pub fn new(backend: &str, aggregation: &str) -> Self {
        let model_spec = [
            ("model_family", text("tiny_mc_lm")),
            ("vocab_size", Item::Int(7)),
            ("d_model", Item::Int(4)),
            ("num_heads", Item::Int(2)),
            ("backend", text(backend)),
            ("aggregation", text(aggregation)),
            ("segment_size", Item::Int(3)),
        ];
        let shapes: [(&str, &[i32]); 9] = [
            ("embed.weight", &[7, 4]),
            ("mc.q_proj.weight", &[4, 4]),
            ("mc.k_proj.weight", &[4, 4]),
            ("mc.v_proj.weight", &[4, 4]),
            ("mc.u_proj.weight", &[4, 4]),
            ("mc.o_proj.weight", &[4, 4]),
            ("norm.weight", &[4]),
            ("norm.bias", &[4]),
            ("head.weight", &[7, 4]),
        ];
        let mut checkpoint = Checkpoint {
            model_spec: model_spec.map(|(key, item)| (key.to_owned(), item)).into(),
            model_state: Vec::new(),
            storages: Vec::new(),
        };
        for (i, (name, shape)) in shapes.into_iter().enumerate() {
            let elements = shape.iter().product();
            // Storage i holds i.0, i.01, i.02, …
            let data = (0..elements).flat_map(|j| (i as f32 + j as f32 / 100.0).to_le_bytes()).collect();
            checkpoint.storages.push((i.to_string(), data));
            let stride = if shape.len() == 2 { vec![shape[1], 1] } else { vec![1] };
            let (key, size) = (i.to_string(), shape.to_vec());
            let view = View { class: "FloatStorage", key, elements, offset: 0, size, stride };
            checkpoint.model_state.push((name.to_owned(), Item::Tensor(view)));
        }
        checkpoint
    }

    pub fn set(&mut self, key: &str, item: Item) {
        self.model_spec.retain(|(found, _)| found != key);
        self.model_spec.push((key.to_owned(), item));
    }

    pub fn view(&mut self, name: &str) -> &mut View {
        match self.model_state.iter_mut().find(|(found, _)| found == name) {
            Some((_, Item::Tensor(view))) => view,
            _ => panic!("no tensor {name}"),
        }
    }

    pub fn pickle(&self) -> Vec<u8> {
        pickle(&dict([
            ("schema_version", Item::Int(1)),
            ("run_name", text("by hand")),
            ("model_spec", Item::Dict(self.model_spec.clone())),
            ("model_state", Item::Dict(self.model_state.clone())),
        ]))
    }

    /// The archive around `pickle`.
    pub fn around(&self, pickle: Vec<u8>) -> Vec<u8> {
        let mut entries = vec![("hand/data.pkl".to_owned(), pickle)];
        entries.push(("hand/byteorder".to_owned(), b"little".to_vec()));
        let data = self.storages.iter().map(|(key, data)| (format!("hand/data/{key}"), data.clone()));
        entries.extend(data);
        archive(&entries)
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.around(self.pickle())
    }
}
