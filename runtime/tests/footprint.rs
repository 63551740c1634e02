//! An engine holds what its footprint says: this file has the process, and so the allocator, to itself.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

#[path = "common/counting.rs"]
mod counting;
#[path = "../fuzz/src/plain.rs"]
mod plain;

use std::collections::BTreeMap;

use counting::{ALLOCATIONS, LIVE_BYTES};
use mcedge_kernel::{Kernel, Mixer};
use mcedge_models::Weights;
use mcedge_models::contract::{BlockFunction, Contract, Dtype};
use mcedge_models::spec::Spec;
use mcedge_runtime::{Backend, Backlog, Element, Engine, EngineOptions, Error, Footprint, Model};
use plain::Plain;
use serde_json::{Value, json};

/// Gives zeros of the sizes that the contract declares.
struct Zeros {
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// One an output: its elements, and whether that is for each token.
    sizes: Vec<(usize, bool)>,
    /// Numbers of a token of all streams.
    sample: usize,
}

impl Zeros {
    fn new(contract: &Contract) -> Self {
        let state = contract.state.iter().map(|state| state.past.clone());
        let cache = contract.cache.iter().flat_map(|cache| [Some(cache.name.clone()), cache.steps.clone()]);
        let lengths = ["input", "segment.length", "cache.length"].map(str::to_owned);
        let mut named = BTreeMap::new();
        for state in &contract.state {
            named.insert(state.present.clone(), (state.shape.iter().product(), false));
        }
        for cache in &contract.cache {
            let slot = cache.shape.iter().product::<usize>() / contract.capacity;
            named.insert(cache.from.clone(), (slot, false));
        }
        for block in contract.blocks.iter().filter(|block| block.memory.has_gates()) {
            let weights = contract.batch * block.memory.num_heads * (contract.capacity + 1);
            named.insert(format!("gates.{}", block.block), (weights, true));
        }
        named.insert("output".into(), (contract.batch * contract.output.size, true));
        named.insert("surprise".into(), (contract.batch, true));
        Zeros {
            inputs: lengths.into_iter().chain(state).chain(cache.flatten()).collect(),
            outputs: named.keys().cloned().collect(),
            sizes: named.values().copied().collect(),
            sample: contract.batch * contract.input.size(),
        }
    }
}

impl Backend for Zeros {
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
        mut inputs: impl Iterator<Item = &'a Plain>,
        outputs: &mut [Plain],
    ) -> Result<(), Error> {
        let Some(Plain::F32(input)) = inputs.next() else { panic!("the input is the first, of f32") };
        let tokens = input.len() / self.sample;
        for (output, &(elements, is_of_a_token)) in outputs.iter_mut().zip(&self.sizes) {
            *output = Plain::F32(vec![0.0; elements * if is_of_a_token { tokens } else { 1 }]);
        }
        Ok(())
    }
}

fn constant() -> Value {
    json!({"kind": "constant", "size": 24})
}

fn model(memory: &Value, aggregation: &str, segmentation: &Value, options: mcedge_export::Options) -> Model {
    let config = json!({
        "format": "mcedge/1", "name": "footprint", "input": {"kind": "features", "size": 30}, "d_model": 128,
        "blocks": [{"norm": "layer_norm", "num_heads": 2, "memory": memory,
                    "caching": {"aggregation": aggregation, "init": "continue",
                                "segmentation": segmentation}}],
        "head": {"kind": "regression", "size": 50},
    });
    let spec = Spec::parse(config.to_string().as_bytes()).unwrap();
    let bundle = mcedge_export::bundle(&spec, &Weights::made_up(&spec), options).unwrap();
    Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state).unwrap()
}

/// Bytes that an engine holds when each graph has had its longest run.
fn held(model: &Model, chunks: bool) -> usize {
    let contract = model.contract();
    let before = LIVE_BYTES.get();
    let mut engine = Engine::new(model, Zeros::new(contract), EngineOptions::default()).unwrap();
    if chunks {
        engine = engine.with_chunks(Zeros::new(contract)).unwrap();
    }
    for tokens in [contract.chunk, 1] {
        let values = vec![0.5; contract.batch * tokens * contract.input.size()];
        engine.catch_up(Backlog::Features(&values), &mut Vec::new()).unwrap();
    }
    LIVE_BYTES.get() - before
}

#[test]
fn an_engine_holds_what_its_footprint_says() {
    let titans = json!({"kind": "titans", "depth": 2, "width": 16, "bias": true, "objective": "l2",
                        "step_size": 0.05, "momentum": 0.9, "retention": 0.99});
    // The losses of its window are more than what is besides.
    let surprise =
        json!({"kind": "surprise", "window": 4000, "threshold": 2.0, "min_size": 8, "max_size": 24});
    for (memory, aggregation, segmentation) in [
        (json!({"kind": "linear"}), "grm", constant()),
        (titans, "soup", constant()),
        (json!({"kind": "gru"}), "sigmoid", constant()),
        (json!({"kind": "linear"}), "grm", surprise),
    ] {
        for (cache_dtype, capacity, batch, gates) in
            [(Dtype::F32, 40, 1, true), (Dtype::I8, 30, 3, false), (Dtype::F16, 2, 5, true)]
        {
            let options = mcedge_export::Options { capacity, cache_dtype, batch, gates, chunk: 20 };
            let model = model(&memory, aggregation, &segmentation, options);
            for chunks in [false, true] {
                let Footprint { state, cache, buffers, shared, .. } = Footprint::new(&model, chunks);
                // This backend has no kernels.
                let blocks = &model.contract().blocks;
                let kernel = |block: &BlockFunction, tokens| {
                    let mixer = Mixer::new(&block.memory).unwrap().scratch_bytes(batch, tokens);
                    Kernel::new(&block.memory, capacity).scratch_bytes() + mixer
                };
                let runs: &[usize] = if chunks { &[1, 20] } else { &[1] };
                let of_run = |&tokens| blocks.iter().map(|block| kernel(block, tokens)).sum::<usize>();
                let kernels = runs.iter().map(of_run).sum::<usize>();
                let said = state + cache + buffers + shared - kernels;
                // Besides there are names, lists and the contract: less than any copy of a state.
                let besides = held(&model, chunks) as i64 - said as i64;
                assert!(
                    (0..16_000).contains(&besides),
                    "{besides} bytes besides {said}: {memory} {segmentation} {options:?} {chunks}"
                );
            }
        }
    }
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1, "the allocator counts");
}

#[test]
fn the_parts_of_a_footprint_are_those_that_a_person_counts() {
    let options = mcedge_export::Options { capacity: 40, batch: 3, chunk: 20, ..Default::default() };
    let model = model(&json!({"kind": "linear"}), "grm", &constant(), options);
    let footprint = Footprint::new(&model, true);
    // m and context of two heads of 64.
    let memory = 2 * (64 * 64 + 64) * 4;
    assert_eq!(footprint.state, 3 * memory);
    assert_eq!(footprint.cache, 3 * 40 * memory);
    assert_eq!(footprint.weights, model.step().len() + model.chunk().unwrap().len());
    // The state's start, the last good one and a present for each graph; samples and outputs; what is noted of a stream
    // and of its checkpoints.
    let rows = (20 + 1) * (30 + 50) * 4;
    let (lengths, notes) = (2 * 8, 40 * (8 + 6 * 8));
    assert_eq!(footprint.buffers, 3 * (4 * memory + rows + lengths + notes));
    let total = footprint.state + footprint.cache + footprint.weights + footprint.buffers + footprint.shared;
    assert_eq!((footprint.total(), footprint.streams), (total, 3));
    assert_eq!(footprint.of_a_stream(), (footprint.state + footprint.cache + footprint.buffers) / 3);
    let steps = Footprint::new(&model, false);
    // The policy's: three rows of 64 x 64, one of them in f64, and a score for each of 41. The rest are kernels.
    let policy = 64 * 64 * 16 + 41 * 8;
    // Two rows of 128 and one of four projections, of three streams; in a chunk of 20, of 20 tokens of each.
    let mixer = |rows: usize| rows * (128 + 4 * 128) * 4usize;
    assert_eq!(2 * (steps.shared - policy - mixer(3)), footprint.shared - policy - mixer(3) - mixer(60));
    assert_eq!(steps.weights, model.step().len());
}
