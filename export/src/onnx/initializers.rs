//! What a graph's weights are, read back from its bytes.

use prost::Message;

use super::generated::{GraphProto, ModelProto, TensorProto, tensor_proto::DataType};

/// Bytes that are no ONNX model.
#[derive(Debug, thiserror::Error)]
#[error("not an ONNX model")]
pub struct NotOnnx(#[from] prost::DecodeError);

/// A tensor of numbers that a graph holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initializer {
    /// Its name in the graph.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Bytes of an element.
    pub element_bytes: u64,
    /// Whether rows of it are looked up, and nothing else is made of it: an embedding.
    pub is_looked_up: bool,
}

impl Initializer {
    /// How many numbers it holds.
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |elements, &size| elements.saturating_mul(size))
    }

    /// The bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.elements().saturating_mul(self.element_bytes)
    }

    /// The bytes of one row, `[shape[1], …]`.
    pub fn row_bytes(&self) -> u64 {
        self.bytes() / self.shape.first().copied().unwrap_or(1).max(1)
    }
}

/// The floating-point tensors that the main graph of an `.onnx` file holds: its weights, and what numbers of the config became of.
///
/// # Errors
///
/// [`NotOnnx`].
pub fn initializers(onnx: &[u8]) -> Result<Vec<Initializer>, NotOnnx> {
    let graph = ModelProto::decode(onnx)?.graph.unwrap_or_default();
    let floats = graph.initializer.iter().filter_map(|tensor| Some((tensor, element_bytes(tensor)?)));
    let initializer = |(tensor, element_bytes): (&TensorProto, u64)| {
        let name = tensor.name().to_owned();
        let shape = tensor.dims.iter().map(|&size| u64::try_from(size).unwrap_or(0)).collect();
        let is_looked_up = is_looked_up(&graph, &name);
        Initializer { name, shape, element_bytes, is_looked_up }
    };
    Ok(floats.map(initializer).collect())
}

fn element_bytes(tensor: &TensorProto) -> Option<u64> {
    match DataType::try_from(tensor.data_type()).ok()? {
        DataType::Float => Some(4),
        DataType::Float16 => Some(2),
        _ => None,
    }
}

/// Whether all that takes `name` is a Gather of its rows, and there is one.
fn is_looked_up(graph: &GraphProto, name: &str) -> bool {
    let mut takers = graph.node.iter().filter(|node| node.input.iter().any(|input| input == name)).peekable();
    let rows = |axis: Option<i64>| axis.unwrap_or(0) == 0;
    takers.peek().is_some()
        && takers.all(|node| {
            let axis = node.attribute.iter().find(|attribute| attribute.name() == "axis");
            node.op_type() == "Gather" && node.input[0] == name && rows(axis.map(|axis| axis.i()))
        })
}
