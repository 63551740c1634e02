//! What holds for any bytes that come in as a bundle: the body of the fuzz target.
//!
//! `tests/fuzz_corpus.rs` includes this file too, and runs it on the corpus without a fuzzer.

#[path = "../../../models/fuzz/src/onnx.rs"]
mod onnx;
mod plain;
mod toy;

use std::collections::BTreeMap;

use mcedge_kernel::Kernel;
use mcedge_models::contract::{Contract, Input};
use mcedge_models::{Tensor, write_safetensors};
use mcedge_runtime::{Backlog, Engine, EngineOptions, Error, Model, Policy, Sample, cache_bytes};
use toy::Toy;

/// The most elements of a state or an input, and bytes of a cache, with which a stream is run: what a contract declares
/// it may declare, and the fuzzer's memory is small.
const MAX_ELEMENTS: usize = 1 << 16;
/// Tokens that a stream is given at once.
const BACKLOG: usize = 5;

/// A bundle: what is read runs, over a backend that answers with the state it was given.
///
/// | bytes | |
/// |---|---|
/// | 4 | n, little endian |
/// | n | `step.onnx`, or the JSON of a contract, which goes into one |
/// | the rest | `initial_state.safetensors`; when empty, the zeros that the contract asks for |
///
/// Where the contract declares chunks, the step's bytes are those of `chunk.onnx` too: both have one contract.
pub fn bundle(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let Some((step, initial)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else { return };
    let step = match std::str::from_utf8(step) {
        Ok(json) if json.starts_with('{') => onnx::around(json),
        _ => step.to_vec(),
    };
    let Ok(contract) = Contract::from_onnx(&step) else { return };
    let initial = if initial.is_empty() { zeros(&contract) } else { initial.to_vec() };
    let chunk = (contract.chunk > 1).then(|| step.clone());
    let Ok(model) = Model::from_bytes(step, chunk, &initial) else { return };
    assert_eq!(model.contract(), &contract);
    assert_eq!(model.initial().len(), contract.state.len());
    if is_small(&contract) {
        for block in &contract.blocks {
            Kernel::new(&block.memory, contract.capacity);
        }
        // Finite answers to a sound contract: what is left to go wrong is that a name stands for two things, and that the
        // policy has no meaning.
        for policy in Policy::ALL {
            match run(&model, EngineOptions { policy, ..EngineOptions::default() }) {
                Ok(()) | Err(Error::Graph { .. } | Error::Policy(_) | Error::NoGates { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The initial state that a contract asks for; nothing for a large one.
fn zeros(contract: &Contract) -> Vec<u8> {
    if !is_small(contract) {
        return Vec::new();
    }
    let zeros = |shape: &[usize]| Tensor { shape: shape.to_vec(), data: vec![0.0; shape.iter().product()] };
    let tensors = contract.state.iter().map(|state| (state.past.clone(), zeros(&state.shape)));
    write_safetensors(&BTreeMap::from_iter(tensors)).expect("tensors of their shapes")
}

/// What a contract may still declare then are slots and chunks without any tensor of that size.
fn is_small(contract: &Contract) -> bool {
    let state = contract.state.iter().map(|state| state.shape.iter().product::<usize>());
    let ends = contract.batch * contract.output.size.max(input_size(contract));
    state.sum::<usize>().max(ends).max(cache_bytes(contract)) <= MAX_ELEMENTS
}

/// Elements of a sample.
fn input_size(contract: &Contract) -> usize {
    match contract.input {
        Input::Features { size, .. } => size,
        Input::Tokens { .. } => 1,
    }
}

/// Steps, with every other stream idle by turns, and backlogs; twice, with a reset between.
fn run(model: &Model, options: EngineOptions) -> Result<(), Error> {
    let contract = model.contract();
    let batch = contract.batch;
    let toy = || Toy::new(contract, batch * input_size(contract));
    let mut engine = Engine::new(model, toy(), options)?;
    if contract.chunk > 1 {
        engine = engine.with_chunks(toy())?;
    }
    let (features, tokens) = (vec![0.5; input_size(contract)], vec![0; batch * BACKLOG]);
    let (sample, backlog) = match contract.input {
        Input::Features { .. } => {
            (Sample::Features(&features), Backlog::Features(&features.repeat(batch * BACKLOG)[..]))
        }
        Input::Tokens { .. } => (Sample::Token(0), Backlog::Tokens(&tokens[..])),
    };
    for _ in 0..2 {
        for turn in 0..6 {
            let samples: Vec<_> =
                (0..batch).map(|b| (batch == 1 || (turn + b) % 2 == 0).then_some(sample)).collect();
            assert_eq!(engine.push_batch(&samples)?.len(), batch * contract.output.size);
        }
        let mut output = Vec::new();
        engine.catch_up(backlog, &mut output)?;
        assert_eq!(output.len(), batch * BACKLOG * contract.output.size);
        for b in 0..batch {
            assert_eq!(engine.tokens_of(b), if batch == 1 { 6 } else { 3 } + BACKLOG as u64);
            assert!(engine.cache().stream(b).len() <= contract.capacity);
            engine.gates(b).for_each(|gates| assert!(gates.weights.len() > gates.heads));
        }
        engine.reset();
    }
    Ok(())
}
