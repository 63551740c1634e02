//! Bytes to a checked model: the only door into the runtime.

use std::io::ErrorKind;
use std::path::Path;

use mcedge_models::contract::{Contract, StateTensor};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::Error;

/// A bundle that has been read and checked.
///
/// # Invariants
///
/// The contract is that of `step` and of `chunk`; there is a `chunk` when it declares chunks of more than one token.
/// `initial` has one entry a state tensor, in the contract's order, each with the tensor's number of elements.
pub struct Model {
    step: Vec<u8>,
    chunk: Option<Vec<u8>>,
    contract: Contract,
    initial: Vec<Vec<f32>>,
    /// Of the bundle's files, as [`digest`] makes it.
    digest: [u8; 32],
}

impl Model {
    /// Reads the bundle in the directory `dir`.
    ///
    /// # Errors
    ///
    /// [`Error::Read`], [`Error::Contract`] or [`Error::InitialState`], naming the file; [`Error::Chunk`] when
    /// `chunk.onnx` has another contract than `step.onnx`, [`Error::NoChunk`] when it should be there and is not.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|source| Error::Read { path, source })
        };
        let chunk = match read("chunk.onnx") {
            Ok(bytes) => Some(bytes),
            Err(Error::Read { source, .. }) if source.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Self::check(dir, read("step.onnx")?, chunk, || read("initial_state.safetensors"))
    }

    /// A bundle that is in memory already: the bytes of `step.onnx`, of `chunk.onnx` where there is one, and of
    /// `initial_state.safetensors`.
    ///
    /// # Errors
    ///
    /// As [`Model::open`].
    pub fn from_bytes(
        step: Vec<u8>,
        chunk: Option<Vec<u8>>,
        initial_state_bytes: &[u8],
    ) -> Result<Self, Error> {
        Self::check(Path::new(""), step, chunk, || Ok(initial_state_bytes))
    }

    fn check<S: AsRef<[u8]>>(
        dir: &Path,
        step: Vec<u8>,
        chunk: Option<Vec<u8>>,
        initial_state_bytes: impl FnOnce() -> Result<S, Error>,
    ) -> Result<Self, Error> {
        let parse = |name: &str, bytes: &[u8]| {
            Contract::from_onnx(bytes).map_err(|source| Error::Contract { path: dir.join(name), source })
        };
        let contract = parse("step.onnx", &step)?;
        match &chunk {
            Some(chunk) => equal(&parse("chunk.onnx", chunk)?, &contract)?,
            None if contract.chunk > 1 => return Err(Error::NoChunk { tokens: contract.chunk }),
            None => {}
        }
        let initial_state_bytes = initial_state_bytes()?;
        let initial = initial_state(initial_state_bytes.as_ref(), &contract)?;
        let digest = digest([&step, chunk.as_deref().unwrap_or_default(), initial_state_bytes.as_ref()]);
        Ok(Self { step, chunk, contract, initial, digest })
    }

    /// What the step graph takes and gives.
    pub fn contract(&self) -> &Contract {
        &self.contract
    }

    /// The bytes of `step.onnx`.
    pub fn step(&self) -> &[u8] {
        &self.step
    }

    /// The bytes of `chunk.onnx`, where there is one.
    pub fn chunk(&self) -> Option<&[u8]> {
        self.chunk.as_deref()
    }

    /// The state at the start of a stream: one entry a state tensor, in the contract's order.
    pub fn initial(&self) -> &[Vec<f32>] {
        &self.initial
    }

    /// SHA-256 of the bundle's files: which model it is.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

/// SHA-256 of `files`, each with its length before it: no two bundles have one stream of bytes.
fn digest(files: [&[u8]; 3]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for file in files {
        digest.update((file.len() as u64).to_le_bytes());
        digest.update(file);
    }
    digest.finalize().into()
}

/// Two graphs that share a stream's state have one contract.
fn equal(chunk: &Contract, step: &Contract) -> Result<(), Error> {
    let keys = [
        ("name", chunk.name == step.name),
        ("batch", chunk.batch == step.batch),
        ("capacity", chunk.capacity == step.capacity),
        ("chunk", chunk.chunk == step.chunk),
        ("input", chunk.input == step.input),
        ("output", chunk.output == step.output),
        ("segmentation", chunk.segmentation == step.segmentation),
        ("init", chunk.init == step.init),
        ("state", chunk.state == step.state),
        ("cache", chunk.cache == step.cache),
        ("blocks", chunk.blocks == step.blocks),
        // What a later version adds.
        ("schema", chunk == step),
    ];
    match keys.iter().find(|(_, is_equal)| !is_equal) {
        Some(&(key, _)) => Err(Error::Chunk { key }),
        None => Ok(()),
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
    let values: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match values.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(Error::InitialState(format!(
            "`{name}` holds {} at element {i}, expected finite numbers",
            values[i]
        ))),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{TensorView, serialize};
    use serde_json::json;

    use super::*;

    #[test]
    fn each_fault_of_the_initial_state_has_its_own_message() {
        let contract = json!({
            "schema": "mcedge.contract/1", "name": "by hand", "batch": 1, "capacity": 1, "chunk": 1,
            "input": {"kind": "features", "size": 1}, "output": {"kind": "regression", "size": 1},
            "segmentation": {"kind": "constant", "size": 1}, "init": "continue", "cache": [],
            "state": [{"past": "a", "present": "b", "shape": [1, 2], "dtype": "f32", "reset": "never"}],
        });
        let contract = Contract::parse(&contract.to_string()).unwrap();
        let read = |name: &str, shape: &[usize], values: &[f32]| {
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).unwrap();
            initial_state(&serialize([(name, view)], None).unwrap(), &contract)
        };
        assert_eq!(read("a", &[1, 2], &[1.0, -2.0]).unwrap(), [[1.0, -2.0]]);
        let check = |result: Result<Vec<Vec<f32>>, Error>, expected: &str| {
            assert_eq!(result.unwrap_err().to_string(), format!("initial state: {expected}"));
        };
        check(read("b", &[1, 2], &[1.0, 2.0]), "`a` is missing");
        check(read("a", &[2], &[1.0, 2.0]), "`a` is F32 [2], the contract declares F32 [1, 2]");
        let expected = "`a` holds NaN at element 1, expected finite numbers";
        check(read("a", &[1, 2], &[1.0, f32::NAN]), expected);
    }
}
