//! Bytes to a checked model: the only door into the runtime.

use std::path::Path;

use mcedge_models::contract::{Contract, StateTensor};
use safetensors::{Dtype, SafeTensors};

use crate::Error;

/// A bundle that has been read and checked.
///
/// # Invariants
///
/// The contract is that of `step`, and `initial` has one entry a state tensor, in the contract's order, each with
/// the tensor's number of elements.
pub struct Model {
    step: Vec<u8>,
    contract: Contract,
    initial: Vec<Vec<f32>>,
}

impl Model {
    /// Reads the bundle in the directory `dir`.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], [`Error::Contract`] or [`Error::InitialState`], naming the file.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|source| Error::Read { path, source })
        };
        let step = read("step.onnx")?;
        let contract = Contract::from_onnx(&step)
            .map_err(|source| Error::Contract { path: dir.join("step.onnx"), source })?;
        let initial = initial_state(&read("initial_state.safetensors")?, &contract)?;
        Ok(Self { step, contract, initial })
    }

    /// A bundle that is in memory already: the bytes of `step.onnx` and of `initial_state.safetensors`.
    ///
    /// # Errors
    ///
    /// As [`Model::open`].
    pub fn from_bytes(step: Vec<u8>, initial_state_bytes: &[u8]) -> Result<Self, Error> {
        let contract = Contract::from_onnx(&step)
            .map_err(|source| Error::Contract { path: "step.onnx".into(), source })?;
        let initial = initial_state(initial_state_bytes, &contract)?;
        Ok(Self { step, contract, initial })
    }

    /// What the step graph takes and gives.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// The bytes of `step.onnx`.
    pub fn step(&self) -> &[u8] {
        &self.step
    }

    /// The state at the start of a stream: one entry a state tensor, in the contract's order.
    pub fn initial(&self) -> &[Vec<f32>] {
        &self.initial
    }
}

fn initial_state(bytes: &[u8], contract: &Contract) -> Result<Vec<Vec<f32>>, Error> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| Error::InitialState(error.to_string()))?;
    contract.state.iter().map(|state| initial_tensor(&file, state)).collect()
}

fn initial_tensor(file: &SafeTensors<'_>, state: &StateTensor) -> Result<Vec<f32>, Error> {
    let name = &state.past;
    let view = file.tensor(name).map_err(|_| Error::InitialState(format!("`{name}` is missing")))?;
    if view.dtype() != Dtype::F32 || view.shape() != state.shape {
        let (found, expected) = (view.shape(), &state.shape);
        let message =
            format!("`{name}` is {:?} {found:?}, the contract declares F32 {expected:?}", view.dtype());
        return Err(Error::InitialState(message));
    }
    let (values, _) = view.data().as_chunks::<4>();
    Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
