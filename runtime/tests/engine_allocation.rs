//! A step allocates nothing in the engine: this file has the process, and so the allocator, to itself.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

#[path = "common/counting.rs"]
mod counting;
#[path = "../../models/fuzz/src/onnx.rs"]
mod onnx;
#[path = "../fuzz/src/plain.rs"]
mod plain;

use counting::ALLOCATIONS;
use mcedge_runtime::contract::Contract;
use mcedge_runtime::{Backend, Backlog, Element, Engine, EngineOptions, Error, Model, Policy, Sample};
use plain::Plain;
use serde_json::{Value, json};

const BATCH: usize = 2;
const CAPACITY: usize = 3;
const CHUNK: usize = 4;

/// Adds the input to the memory, in tensors that have room already.
struct InPlace {
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl Backend for InPlace {
    type Tensor = Plain;

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &[String] {
        &self.outputs
    }

    fn zeros(&self, element: Element, shape: &[usize]) -> Result<Plain, Error> {
        let elements = shape.iter().product();
        let with_room = || {
            let mut cells = Vec::with_capacity(64);
            cells.resize(elements, 0.0);
            cells
        };
        Ok(match element {
            Element::F32 => Plain::F32(with_room()),
            element => Plain::zeros(element, shape),
        })
    }

    fn run<'a>(
        &mut self,
        inputs: impl Iterator<Item = &'a Plain>,
        outputs: &mut [Plain],
    ) -> Result<(), Error> {
        let mut inputs = inputs.map(|input| match input {
            Plain::F32(cells) => &cells[..],
            _ => &[],
        });
        let (x, past) = (inputs.next().unwrap_or_default(), inputs.next().unwrap_or_default());
        let tokens = x.len() / BATCH;
        let per_stream = [1, 1, tokens, tokens, tokens * (CAPACITY + 1)];
        for (output, per_stream) in outputs.iter_mut().zip(per_stream) {
            let Plain::F32(cells) = output else { continue };
            cells.clear();
            for stream in 0..BATCH {
                let x = &x[stream * tokens..(stream + 1) * tokens];
                let sum: f32 = x.iter().sum();
                cells.extend((0..per_stream).map(|i| 0.5 * past[stream] + sum + i as f32));
            }
        }
        Ok(())
    }
}

/// One block of linear memory, of one head of one channel, whose contexts are scored.
fn model(segmentation: &Value, init: &str, dtype: &str) -> Model {
    let state = |name: &str, shape: &[usize], reset: &str| {
        json!({"past": format!("past.0.{name}"), "present": format!("present.0.{name}"), "shape": shape, "dtype": "f32",
               "reset": reset})
    };
    let cache = |name: &str, shape: &[usize], dtype: &str, scale: &str| {
        json!({"name": format!("cache.0.{name}"), "from": format!("present.0.{name}"), "shape": shape, "slot_axis": 2,
               "dtype": dtype, "scale": scale})
    };
    let mut m = cache("m", &[BATCH, 1, CAPACITY, 1, 1], dtype, "none");
    if dtype == "i8" {
        m["steps"] = "steps.0.m".into();
    }
    let caching = json!({"aggregation": "grm", "query": "q", "context": "mean", "temperature": 1.0,
                         "segmentation": segmentation, "init": init});
    let json = json!({
        "schema": "mcedge.contract/1", "name": "toy", "batch": BATCH, "capacity": CAPACITY, "chunk": CHUNK,
        "input": {"kind": "features", "size": 1}, "output": {"kind": "regression", "size": 1},
        "segmentation": segmentation, "init": init,
        "state": [state("m", &[BATCH, 1, 1, 1], if init == "restart" { "restart" } else { "never" }),
                  state("context", &[BATCH, 1, 1], "segment")],
        "cache": [m, cache("context", &[BATCH, 1, CAPACITY, 1], "f32", "mean")],
        "blocks": [{"block": 0, "function": "f", "num_heads": 1, "head_size": 1, "normalize_qk": false,
                    "memory": {"kind": "linear"}, "caching": caching, "cache_dtype": dtype, "gates": true}],
    });
    let graph = onnx::around(&Contract::parse(&json.to_string()).unwrap().to_json());
    let zeros = [0; BATCH * 4];
    let view = |shape| safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &zeros).unwrap();
    let tensors = [("past.0.m", view(vec![BATCH, 1, 1, 1])), ("past.0.context", view(vec![BATCH, 1, 1]))];
    let initial_state = safetensors::serialize(tensors, None).unwrap();
    Model::from_bytes(graph.clone(), Some(graph), &initial_state).unwrap()
}

fn backend(dtype: &str) -> InPlace {
    let mut inputs =
        vec!["input", "past.0.m", "past.0.context", "segment.length", "cache.0.m", "cache.0.context"];
    inputs.push("cache.length");
    inputs.extend((dtype == "i8").then_some("steps.0.m"));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let outputs = names(&["present.0.m", "present.0.context", "output", "surprise", "gates.0"]);
    InPlace { inputs: names(&inputs), outputs }
}

#[test]
fn a_step_allocates_nothing() {
    let surprise = json!({"kind": "surprise", "window": 5, "threshold": 0.5, "min_size": 2, "max_size": 9});
    for segmentation in [json!({"kind": "constant", "size": 3}), json!({"kind": "logarithmic"}), surprise] {
        for (init, dtype) in [("continue", "f32"), ("restart", "i8")] {
            let model = model(&segmentation, init, dtype);
            for policy in Policy::ALL {
                let options = EngineOptions { policy, slots: Some(2), ..EngineOptions::default() };
                let mut engine = Engine::new(&model, backend(dtype), options).unwrap();
                let before = ALLOCATIONS.get();
                (0..200).for_each(|t| step(&mut engine, t));
                engine.reset();
                (0..50).for_each(|t| step(&mut engine, t));
                assert_eq!(ALLOCATIONS.get(), before, "{segmentation} {init} {dtype} {policy}");
                assert!(engine.cache().pushed() > 10 && engine.tokens() == 83, "{}", engine.tokens());
                assert!((0..BATCH).all(|stream| engine.cache().stream(stream).len() <= 2));
            }
        }
    }
}

/// One sample for both streams, and every third time for one.
fn step(engine: &mut Engine<InPlace>, t: usize) {
    let features = [(t * t % 7) as f32];
    let sample = Some(Sample::Features(&features));
    let samples = if t.is_multiple_of(3) { [sample, None] } else { [sample, sample] };
    assert_eq!(engine.push_batch(&samples).unwrap().len(), BATCH);
}

#[test]
fn pieces_of_a_backlog_that_are_as_long_allocate_nothing() {
    let model = model(&json!({"kind": "constant", "size": 8}), "continue", "f32");
    for policy in Policy::ALL {
        let engine =
            Engine::new(&model, backend("f32"), EngineOptions { policy, ..EngineOptions::default() })
                .unwrap();
        let mut engine = engine.with_chunks(backend("f32")).unwrap();
        let (input, mut output) = ([0.5; BATCH * 40], Vec::with_capacity(1000));
        engine.catch_up(Backlog::Features(&input), &mut output).unwrap();
        let before = ALLOCATIONS.get();
        for _ in 0..5 {
            engine.catch_up(Backlog::Features(&input), &mut output).unwrap();
        }
        assert_eq!(ALLOCATIONS.get(), before, "{policy}");
        assert_eq!(output.len(), 6 * 40 * BATCH);
    }
}
