//! The engine over a toy backend, against a naive stream.

use std::cell::Cell;
use std::rc::Rc;

use mcedge_models::contract::{Contract, METADATA_KEY};
use prost::Message;
use serde_json::json;

use super::*;

/// A tensor in ordinary memory.
#[derive(Clone, Debug)]
enum Plain {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Buffer for Plain {
    fn cells(&self) -> Cells<'_> {
        match self {
            Plain::F32(cells) => Cells::F32(cells),
            Plain::I64(cells) => Cells::I64(cells),
        }
    }

    fn cells_mut(&mut self) -> CellsMut<'_> {
        match self {
            Plain::F32(cells) => CellsMut::F32(cells),
            Plain::I64(cells) => CellsMut::I64(cells),
        }
    }
}

/// `present = past + input`, `output = present + Σ live cache slots + 1000 · segment.length`.
struct Sum {
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// Whether the next run fails, after it has written half of its outputs.
    fails: Rc<Cell<bool>>,
}

impl Backend for Sum {
    type Tensor = Plain;

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &[String] {
        &self.outputs
    }

    fn zeros(&self, element: Element, shape: &[usize]) -> Result<Plain, Error> {
        let elements = shape.iter().product();
        Ok(if element == Element::I64 {
            Plain::I64(vec![0; elements])
        } else {
            Plain::F32(vec![0.0; elements])
        })
    }

    fn run<'a>(
        &mut self,
        inputs: impl Iterator<Item = &'a Plain>,
        outputs: &mut [Plain],
    ) -> Result<(), Error> {
        let inputs: Vec<&Plain> = inputs.collect();
        let (x, past, inside) = (f32s(inputs[0])[0], f32s(inputs[1])[0], inputs[2].cells());
        let (cache, live) = (f32s(inputs[3]), inputs[4].cells());
        let (Cells::I64(inside), Cells::I64(live)) = (inside, live) else { panic!("lengths are integers") };
        if self.fails.take() {
            return Err(Error::Backend { backend: "toy", message: "told to".into() });
        }
        let sum: f32 = cache[..live[0] as usize].iter().sum();
        outputs[0] = Plain::F32(vec![past + x]);
        outputs[1] = Plain::F32(vec![past + x + sum + 1000.0 * inside[0] as f32]);
        Ok(())
    }
}

fn contract(capacity: usize, segment: usize, reset: &str, scale: &str) -> Contract {
    let json = json!({
        "schema": "mcedge.contract/1", "name": "toy", "batch": 1, "capacity": capacity, "chunk": 1,
        "input": {"kind": "features", "size": 1}, "output": {"kind": "regression", "size": 1},
        "segmentation": {"kind": "constant", "size": segment}, "init": "continue",
        "state": [{"past": "past.0.m", "present": "present.0.m", "shape": [1, 1], "dtype": "f32", "reset": reset}],
        "cache": [{"name": "cache.0.m", "from": "present.0.m", "shape": [1, capacity, 1], "slot_axis": 1,
                   "dtype": "f32", "scale": scale}],
    });
    Contract::parse(&json.to_string()).unwrap()
}

/// An ONNX file with nothing in it but the contract: all that a [`Model`] looks at.
fn onnx(contract: &Contract) -> Vec<u8> {
    #[derive(Clone, PartialEq, Message)]
    struct Entry {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(string, tag = "2")]
        value: String,
    }
    #[derive(Clone, PartialEq, Message)]
    struct File {
        #[prost(message, repeated, tag = "14")]
        metadata_props: Vec<Entry>,
    }
    let entry = Entry { key: METADATA_KEY.into(), value: contract.to_json() };
    File { metadata_props: vec![entry] }.encode_to_vec()
}

fn engine(contract: &Contract, initial: f32) -> (Engine<Sum>, Rc<Cell<bool>>) {
    let (engine, fails) = try_engine(contract, initial);
    (engine.unwrap(), fails)
}

fn try_engine(contract: &Contract, initial: f32) -> (Result<Engine<Sum>, Error>, Rc<Cell<bool>>) {
    let bytes = initial.to_le_bytes();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1, 1], &bytes).unwrap();
    let initial_state = safetensors::serialize([("past.0.m", view)], None).unwrap();
    let model = Model::from_bytes(onnx(contract), &initial_state).unwrap();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let fails = Rc::new(Cell::new(false));
    let backend = Sum {
        inputs: names(&["input", "past.0.m", "segment.length", "cache.0.m", "cache.length"]),
        outputs: names(&["present.0.m", "output"]),
        fails: Rc::clone(&fails),
    };
    (Engine::new(&model, backend, Policy::Oldest), fails)
}

/// What the toy stream is, with a cache that keeps everything and is cut to its last `capacity`.
fn naive(inputs: &[f32], contract: &Contract, initial: f32) -> Vec<f32> {
    let segment = contract.segment_tokens().unwrap();
    let restarts = contract.state[0].reset != Reset::Never;
    let mean = contract.cache[0].scale == mcedge_models::contract::Scale::Mean;
    let (mut past, mut checkpoints, mut outputs) = (initial, Vec::new(), Vec::new());
    for (t, x) in inputs.iter().enumerate() {
        past += x;
        let live: f32 = checkpoints.iter().rev().take(contract.capacity).sum();
        outputs.push(past + live + 1000.0 * (t % segment) as f32);
        if (t + 1) % segment == 0 {
            checkpoints.push(if mean { past / segment as f32 } else { past });
            past = if restarts { initial } else { past };
        }
    }
    outputs
}

#[test]
fn a_stream_is_its_naive_model_past_the_capacity() {
    let inputs: Vec<f32> = (0..40).map(|t| (t % 7) as f32).collect();
    for (capacity, segment) in [(1, 1), (1, 4), (3, 2), (4, 5), (64, 3)] {
        for (reset, scale) in [("never", "none"), ("restart", "none"), ("segment", "mean")] {
            let contract = contract(capacity, segment, reset, scale);
            let (mut engine, _) = engine(&contract, 0.5);
            let expected = naive(&inputs, &contract, 0.5);
            for (x, expected) in inputs.iter().zip(&expected) {
                let found = engine.push(&[*x]).unwrap()[0];
                assert!((found - expected).abs() < 1e-3, "{found} {expected} with {contract:?}");
            }
            assert_eq!(engine.tokens(), 40);
            assert_eq!(engine.cache().pushed(), 40 / segment as u64);
            assert_eq!(engine.cache().len(), capacity.min(40 / segment));
        }
    }
}

#[test]
fn a_cache_that_nothing_fills_is_refused() {
    let refused = |change: &dyn Fn(&mut Contract)| {
        let mut contract = contract(2, 3, "never", "none");
        change(&mut contract);
        let contract = Contract::parse(&contract.to_json()).unwrap();
        try_engine(&contract, 0.0).0.err().unwrap().to_string()
    };
    let nowhere = refused(&|contract| contract.cache[0].from = "present.1.m".into());
    let expected =
        "the model has `cache.0.m`, copied from `present.1.m`, this engine runs copies of the state";
    assert_eq!(nowhere, expected);
    let i8 = refused(&|contract| {
        let cache = &mut contract.cache[0];
        (cache.dtype, cache.steps) = (Dtype::I8, Some("cache.0.m.steps".into()));
        (cache.shape, cache.slot_axis) = (vec![1, 1, 2], 2);
    });
    assert_eq!(i8, "the model has `cache.0.m` of type i8, this engine runs f32 and f16 caches");
}

#[test]
fn a_failed_step_leaves_the_stream_as_it_was() {
    let contract = contract(2, 3, "restart", "mean");
    let (mut sure, _) = engine(&contract, 0.0);
    let (mut flaky, fails) = engine(&contract, 0.0);
    for t in 0..20 {
        let expected = sure.push(&[t as f32]).unwrap()[0];
        fails.set(true);
        assert!(matches!(flaky.push(&[t as f32]), Err(Error::Backend { .. })));
        assert!(matches!(flaky.push(&[0.0, 0.0]), Err(Error::Length { found: 2, expected: 1 })));
        assert!(matches!(flaky.push_token(0), Err(Error::Kind { .. })));
        assert_eq!(flaky.tokens(), t);
        assert_eq!(flaky.push(&[t as f32]).unwrap()[0], expected);
    }
}

#[test]
fn an_output_that_is_not_finite_is_an_error_and_leaves_the_stream_as_it_was() {
    let contract = contract(2, 2, "never", "none");
    let (mut sure, _) = engine(&contract, 0.0);
    let (mut tried, _) = engine(&contract, 0.0);
    for t in 0..9 {
        assert!(matches!(tried.push(&[f32::INFINITY]), Err(Error::Diverged { token }) if token == t));
        assert_eq!(tried.push(&[t as f32]).unwrap()[0], sure.push(&[t as f32]).unwrap()[0]);
    }
}

#[test]
fn a_reset_stream_is_a_new_one() {
    let contract = contract(2, 2, "never", "none");
    let (mut engine, _) = engine(&contract, 1.0);
    let mut run = || (0..9).map(|t| engine_output(&mut engine, t)).collect::<Vec<_>>();
    let first = run();
    engine.reset();
    let mut run = || (0..9).map(|t| engine_output(&mut engine, t)).collect::<Vec<_>>();
    assert_eq!(run(), first);
}

fn engine_output(engine: &mut Engine<Sum>, t: usize) -> f32 {
    engine.push(&[t as f32]).unwrap()[0]
}
