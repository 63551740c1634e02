//! A small model with everything that an engine must keep right, over tensors in ordinary memory.

#[path = "../../../../models/fuzz/src/onnx.rs"]
mod file;
#[path = "../../../fuzz/src/plain.rs"]
mod plain;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use mcedge_models::contract::Contract;
use serde_json::{Value, json};

pub use plain::Plain;

use crate::backend::{Backend, Element};
use crate::{Engine, EngineOptions, Error, Model, Policy};

pub const HEADS: usize = 2;
pub const DH: usize = 3;
/// Elements of a memory, of a context, of an output.
pub const M: usize = HEADS * DH * DH;
pub const C: usize = HEADS * DH;
pub const O: usize = 2;
/// A sample of this explodes the memory with the next token, when it is then still there.
pub const FUSE: f32 = 1e15;
/// A sample of this makes the output infinite and leaves the memory alone.
pub const BAD_OUTPUT: f32 = 4321.0;
/// A sample of this has an infinite loss and leaves the memory alone.
pub const BAD_LOSS: f32 = 5432.0;

impl Plain {
    /// As numbers, without the steps of quantised ones.
    pub fn numbers(&self) -> Vec<f32> {
        match self {
            Plain::F32(cells) => cells.clone(),
            Plain::F16(cells) => cells.iter().map(|x| x.to_f32()).collect(),
            Plain::I8(cells) => cells.iter().map(|&x| f32::from(x)).collect(),
            Plain::I64(cells) => cells.iter().map(|&x| x as f32).collect(),
        }
    }
}

/// What one stream of the model carries from token to token.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    pub m: Vec<f32>,
    pub context: Vec<f32>,
}

/// What one checkpoint is read as.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub m: Vec<f32>,
    pub context: Vec<f32>,
    pub gate: Vec<f32>,
}

impl Memory {
    /// How far off the memory is before it has seen `x`.
    pub fn loss(&self, x: f32) -> f32 {
        if x == BAD_LOSS { f32::INFINITY } else { (x - 2.0 * self.m[0]).abs() }
    }

    pub fn write(&mut self, x: f32) {
        let explodes = self.m[0].abs() > FUSE / 8.0;
        let x = if x == BAD_OUTPUT || x == BAD_LOSS { 0.0 } else { x };
        for (i, m) in self.m.iter_mut().enumerate() {
            *m = if explodes { f32::INFINITY } else { 0.5 * *m + x + 0.25 * (i % 7) as f32 };
        }
        self.context.iter_mut().enumerate().for_each(|(j, c)| *c += x + j as f32);
    }

    /// What only a checkpoint needs.
    pub fn gate(&self) -> Vec<f32> {
        self.m.iter().take(C).map(|m| 2.0 * m + 1.0).collect()
    }

    /// The output for `x`, which has been written. Nothing in it depends on the order of the checkpoints.
    pub fn read(&self, x: f32, checkpoints: &[Checkpoint], inside: i64) -> Vec<f32> {
        let weigh = |values: &[f32]| -> f64 {
            values.iter().enumerate().map(|(i, v)| f64::from(*v) / (1 + i % 5) as f64).sum()
        };
        let memories = checkpoints.iter().map(|checkpoint| weigh(&checkpoint.m));
        let contexts = checkpoints.iter().map(|checkpoint| {
            weigh(&checkpoint.context)
                + 0.5 * weigh(&checkpoint.gate)
                + 0.1 * f64::from(checkpoint.m[0]) * f64::from(checkpoint.context[0])
        });
        let first = weigh(&self.m) + memories.sum::<f64>();
        let second = weigh(&self.context) + contexts.sum::<f64>() + 10.0 * inside as f64;
        let bad = if x == BAD_OUTPUT { f32::INFINITY } else { 0.0 };
        vec![first as f32 + bad, second as f32]
    }
}

/// What the model is to be.
#[derive(Clone, Debug)]
pub struct Setup {
    pub batch: usize,
    pub capacity: usize,
    pub chunk: usize,
    pub segmentation: Value,
    pub init: &'static str,
    pub context: &'static str,
    pub dtype: &'static str,
    pub gates: bool,
    pub tokens: bool,
    pub policy: Policy,
    /// Checkpoints that are kept, where not as many as the capacity.
    pub slots: Option<usize>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            batch: 1,
            capacity: 3,
            chunk: 1,
            segmentation: constant(4),
            init: "continue",
            context: "mean",
            dtype: "f32",
            gates: false,
            tokens: false,
            policy: Policy::Oldest,
            slots: None,
        }
    }
}

pub fn constant(size: usize) -> Value {
    json!({"kind": "constant", "size": size})
}

pub fn logarithmic() -> Value {
    json!({"kind": "logarithmic"})
}

pub fn surprise() -> Value {
    json!({"kind": "surprise", "window": 6, "threshold": 0.8, "min_size": 2, "max_size": 11})
}

impl Setup {
    pub fn contract(&self) -> Contract {
        let (b, n, h, d) = (self.batch, self.capacity, HEADS, DH);
        let reset = if self.init == "restart" { "restart" } else { "never" };
        let scale = if self.context == "mean" { "mean" } else { "none" };
        let state = |name: &str, shape: Vec<usize>, reset: &str| {
            json!({"past": format!("past.0.{name}"), "present": format!("present.0.{name}"), "shape": shape,
                   "dtype": "f32", "reset": reset})
        };
        let cache = |name: &str, shape: Vec<usize>, dtype: &str, scale: &str| {
            let mut tensor = json!({"name": format!("cache.0.{name}"), "from": format!("present.0.{name}"),
                                    "shape": shape, "slot_axis": 2, "dtype": dtype, "scale": scale});
            if dtype == "i8" {
                tensor["steps"] = format!("steps.0.{name}").into();
            }
            tensor
        };
        let contexts = if self.dtype == "f16" { "f16" } else { "f32" };
        let caching = json!({"aggregation": "grm", "query": "q", "context": self.context, "temperature": 1.0,
                             "segmentation": self.segmentation, "init": self.init});
        let function = json!({"block": 0, "function": "f", "num_heads": h, "head_size": d, "normalize_qk": false,
                              "memory": {"kind": "linear"}, "caching": caching, "cache_dtype": self.dtype,
                              "gates": true});
        let input = match self.tokens {
            true => json!({"kind": "tokens", "vocab_size": 10}),
            false => json!({"kind": "features", "size": 2}),
        };
        let json = json!({
            "schema": "mcedge.contract/1", "name": "toy", "batch": b, "capacity": n, "chunk": self.chunk,
            "input": input, "output": {"kind": "regression", "size": O},
            "segmentation": self.segmentation, "init": self.init,
            "state": [state("m", vec![b, h, d, d], reset), state("context", vec![b, h, d], "segment")],
            "cache": [cache("m", vec![b, h, n, d, d], self.dtype, "none"),
                      cache("context", vec![b, h, n, d], contexts, scale),
                      cache("gate", vec![b, h, n, d], self.dtype, "none")],
            "blocks": if self.gates { vec![function] } else { vec![] },
        });
        Contract::parse(&json.to_string()).unwrap()
    }

    pub fn model(&self) -> Model {
        let contract = self.contract();
        let chunk = (self.chunk > 1).then(|| onnx(&contract));
        Model::from_bytes(onnx(&contract), chunk, &self.initial_state()).unwrap()
    }

    /// `past.0.m` of stream b is 1 + b everywhere, its context 0.
    pub fn initial_state(&self) -> Vec<u8> {
        let m = (0..self.batch * M).flat_map(|i| initial(i / M).to_le_bytes()).collect::<Vec<_>>();
        let context = vec![0; self.batch * C * 4];
        let view = |shape: Vec<usize>, bytes| {
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, bytes).unwrap()
        };
        let tensors = [
            ("past.0.m", view(vec![self.batch, HEADS, DH, DH], &m)),
            ("past.0.context", view(vec![self.batch, HEADS, DH], &context)),
        ];
        safetensors::serialize(tensors, None).unwrap()
    }

    /// The engine, stepping alone.
    pub fn engine(&self) -> (Engine<Toy>, Control) {
        let control = Control::default();
        let options = EngineOptions { policy: self.policy, slots: self.slots, ..EngineOptions::default() };
        (Engine::new(&self.model(), Toy::new(self, &control), options).unwrap(), control)
    }

    /// The engine with a graph for chunks, the second control's.
    pub fn chunked(&self) -> (Engine<Toy>, Control, Control) {
        let (engine, step) = self.engine();
        let chunk = Control::default();
        (engine.with_chunks(Toy::new(self, &chunk)).unwrap(), step, chunk)
    }
}

/// What every element of stream `stream`'s first memory is.
pub fn initial(stream: usize) -> f32 {
    1.0 + stream as f32
}

/// An ONNX file with nothing in it but the contract: all that a [`Model`] looks at.
pub fn onnx(contract: &Contract) -> Vec<u8> {
    file::around(&contract.to_json())
}

/// A test's hand on a backend.
#[derive(Clone, Default)]
pub struct Control {
    /// Whether the next run fails.
    pub fails: Rc<Cell<bool>>,
    /// Tokens of every run so far.
    pub runs: Rc<RefCell<Vec<usize>>>,
}

/// The model in a backend of its own. Shapes that it is not told it takes from the setup.
pub struct Toy {
    setup: Setup,
    control: Control,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
}

impl Toy {
    pub fn new(setup: &Setup, control: &Control) -> Self {
        let quantised = setup.dtype == "i8";
        // Not in the order of the contract.
        let mut inputs = vec!["cache.0.context", "input", "past.0.context", "past.0.m", "segment.length"];
        inputs.extend(["cache.0.gate", "cache.length", "cache.0.m"]);
        inputs.extend(quantised.then_some(["steps.0.gate", "steps.0.m"]).into_iter().flatten());
        let mut outputs = vec!["present.0.gate", "output", "present.0.context", "present.0.m", "unasked"];
        outputs.extend((setup.segmentation["kind"] == "surprise").then_some("surprise"));
        outputs.extend(setup.gates.then_some("gates.0"));
        let names = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        Self {
            setup: setup.clone(),
            control: control.clone(),
            inputs: names(inputs),
            outputs: names(outputs),
        }
    }

    fn input<'a>(&self, inputs: &[&'a Plain], name: &str) -> Option<&'a Plain> {
        self.inputs.iter().position(|input| input == name).map(|index| inputs[index])
    }

    /// The live checkpoints of a stream, slot by slot.
    fn checkpoints(&self, inputs: &[&Plain], stream: usize, live: usize) -> Vec<Checkpoint> {
        let n = self.setup.capacity;
        let slots = |name: &str, inner: usize| -> Vec<Vec<f32>> {
            let cells = self.input(inputs, &format!("cache.0.{name}")).unwrap().numbers();
            let steps = self.input(inputs, &format!("steps.0.{name}")).map(Plain::numbers);
            let slot_of = |slot| {
                let rows = (0..HEADS).map(|h| (stream * HEADS + h) * n + slot);
                let elements = rows.flat_map(|row| (row * inner..(row + 1) * inner).map(move |i| (row, i)));
                elements.map(|(row, i)| cells[i] * steps.as_ref().map_or(1.0, |steps| steps[row])).collect()
            };
            (0..live).map(slot_of).collect()
        };
        let tensors = slots("m", DH * DH).into_iter().zip(slots("context", DH)).zip(slots("gate", DH));
        tensors.map(|((m, context), gate)| Checkpoint { m, context, gate }).collect()
    }
}

/// The weight of a slot in head `head` for the token `x`: how far `x` is from what the slot's memory begins with there. It
/// says which slot it is, and every token weighs them in an order of its own.
pub fn weight(m: &[f32], head: usize, x: f32) -> f32 {
    (m[head * DH * DH] - 2.0 * x).abs() + head as f32
}

impl Backend for Toy {
    type Tensor = Plain;

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &[String] {
        &self.outputs
    }

    fn zeros(&self, element: Element, shape: &[usize]) -> Result<Plain, Error> {
        Ok(Plain::zeros(element, shape))
    }

    fn run<'a>(
        &mut self,
        inputs: impl Iterator<Item = &'a Plain>,
        outputs: &mut [Plain],
    ) -> Result<(), Error> {
        let inputs: Vec<&Plain> = inputs.collect();
        let get = |name: &str| self.input(&inputs, name).unwrap().numbers();
        let (batch, n) = (self.setup.batch, self.setup.capacity);
        let x = get("input");
        let channels = if self.setup.tokens { 1 } else { 2 };
        let tokens = x.len() / batch / channels;
        self.control.runs.borrow_mut().push(tokens);
        if self.control.fails.take() {
            return Err(Error::Backend { backend: "toy", message: "told to".into() });
        }
        let (m, context) = (get("past.0.m"), get("past.0.context"));
        let (inside, live) = (get("segment.length"), get("cache.length"));
        let mut found: [Vec<f32>; 6] = Default::default();
        for b in 0..batch {
            let checkpoints = self.checkpoints(&inputs, b, live[b] as usize);
            let mut memory =
                Memory { m: m[b * M..(b + 1) * M].to_vec(), context: context[b * C..(b + 1) * C].to_vec() };
            for t in 0..tokens {
                let x = x[(b * tokens + t) * channels];
                found[4].push(memory.loss(x));
                memory.write(x);
                found[1].extend(memory.read(x, &checkpoints, inside[b] as i64 + t as i64));
                for head in 0..HEADS {
                    found[5].extend((0..n).map(|slot| match checkpoints.get(slot) {
                        Some(checkpoint) => weight(&checkpoint.m, head, x),
                        None => -99.0,
                    }));
                    found[5].push(weight(&memory.m, head, x));
                }
            }
            found[0].extend(memory.gate());
            found[2].extend(&memory.context);
            found[3].extend(&memory.m);
        }
        let [gate, output, context, m, surprise, gates] = found;
        for (name, tensor) in self.outputs.iter().zip(outputs) {
            *tensor = match name.as_str() {
                "present.0.gate" => Plain::F32(gate.clone()),
                "output" => Plain::F32(output.clone()),
                "present.0.context" => Plain::F32(context.clone()),
                "present.0.m" => Plain::F32(m.clone()),
                "surprise" => Plain::F32(surprise.clone()),
                "gates.0" => Plain::F32(gates.clone()),
                _ => Plain::I64(vec![7]),
            };
        }
        Ok(())
    }
}
