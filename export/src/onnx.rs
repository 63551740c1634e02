//! Graphs as ONNX protobuf: opset 17, IR version 8, memory functions in domain `org.mcedge`.

#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub, dead_code, rustdoc::all)]
#[rustfmt::skip]
mod generated;
mod initializers;

pub use initializers::{Initializer, NotOnnx, initializers};

use generated::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto,
    tensor_proto, tensor_shape_proto, type_proto,
};
use mcedge_models::contract::{Contract, DOMAIN, METADATA_KEY};
use prost::Message;

use crate::graph::{Attribute, Constant, Data, Element, Graph, Node, Type, Value, is_dynamic};

const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;
const DOMAIN_VERSION: i64 = 1;
/// The name of a chunk's tokens among the sizes.
const DYNAMIC: &str = "T";

/// The bytes of an `.onnx` file with `contract` in its metadata.
pub fn encode(main: &Graph, functions: &[Graph], contract: &Contract) -> Vec<u8> {
    let metadata =
        StringStringEntryProto { key: Some(METADATA_KEY.to_owned()), value: Some(contract.to_json()) };
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        opset_import: opsets(!functions.is_empty()),
        producer_name: Some("mcedge".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        doc_string: Some(format!("{}: one {}, with explicit cache state", contract.name, main.name())),
        graph: Some(graph(main)),
        metadata_props: vec![metadata],
        functions: functions.iter().map(function).collect(),
        ..Default::default()
    };
    model.encode_to_vec()
}

/// The operator sets of a model or function: ours only where there are functions.
fn opsets(functions: bool) -> Vec<OperatorSetIdProto> {
    let opset = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.to_owned()),
        version: Some(version),
    };
    let mut opsets = vec![opset("", OPSET)];
    opsets.extend(functions.then(|| opset(DOMAIN, DOMAIN_VERSION)));
    opsets
}

fn graph(graph: &Graph) -> GraphProto {
    GraphProto {
        name: Some(graph.name().to_owned()),
        input: graph.inputs().iter().map(value_info).collect(),
        initializer: graph.constants().iter().map(tensor).collect(),
        node: graph.nodes().iter().map(node).collect(),
        output: graph.outputs().iter().map(value_info).collect(),
        ..Default::default()
    }
}

/// The body of a `Scan`: inside a function there are no initializers.
fn body(graph: &Graph) -> GraphProto {
    GraphProto {
        name: Some(graph.name().to_owned()),
        input: graph.inputs().iter().map(value_info).collect(),
        node: nodes(graph),
        output: graph.outputs().iter().map(value_info).collect(),
        ..Default::default()
    }
}

/// Constants first.
fn nodes(graph: &Graph) -> Vec<NodeProto> {
    graph.constants().iter().map(constant_node).chain(graph.nodes().iter().map(node)).collect()
}

fn function(graph: &Graph) -> FunctionProto {
    let names = |values: &[Value]| values.iter().map(|value| value.name.clone()).collect();
    FunctionProto {
        name: Some(graph.name().to_owned()),
        domain: Some(DOMAIN.to_owned()),
        doc_string: Some("A memory's write, then its read.".to_owned()),
        opset_import: opsets(true),
        input: names(graph.inputs()),
        output: names(graph.outputs()),
        node: nodes(graph),
        ..Default::default()
    }
}

fn node(node: &Node) -> NodeProto {
    NodeProto {
        name: Some(node.outputs[0].name.clone()),
        domain: Some(node.domain.to_owned()),
        op_type: Some(node.op.clone()),
        input: node.inputs.clone(),
        output: node.outputs.iter().map(|value| value.name.clone()).collect(),
        attribute: node.attributes.iter().map(|(name, x)| attribute(name, x)).collect(),
        ..Default::default()
    }
}

/// A function has no initializers.
fn constant_node(constant: &Constant) -> NodeProto {
    let value = AttributeProto {
        name: Some("value".to_owned()),
        r#type: Some(attribute_proto::AttributeType::Tensor.into()),
        t: Some(tensor(constant)),
        ..Default::default()
    };
    NodeProto {
        name: Some(constant.value.name.clone()),
        op_type: Some("Constant".to_owned()),
        output: vec![constant.value.name.clone()],
        attribute: vec![value],
        ..Default::default()
    }
}

fn attribute(name: &str, attribute: &Attribute) -> AttributeProto {
    use attribute_proto::AttributeType;
    let mut proto = AttributeProto { name: Some(name.to_owned()), ..Default::default() };
    let kind = match attribute {
        Attribute::Int(x) => {
            proto.i = Some(*x);
            AttributeType::Int
        }
        Attribute::Ints(xs) => {
            proto.ints.clone_from(xs);
            AttributeType::Ints
        }
        Attribute::Float(x) => {
            proto.f = Some(*x);
            AttributeType::Float
        }
        Attribute::Graph(graph) => {
            proto.g = Some(body(graph));
            AttributeType::Graph
        }
    };
    proto.r#type = Some(kind.into());
    proto
}

fn tensor(constant: &Constant) -> TensorProto {
    let raw = match &constant.data {
        Data::F32(xs) => xs.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I64(xs) => xs.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    TensorProto {
        name: Some(constant.value.name.clone()),
        dims: constant.value.shape().iter().map(|&size| size as i64).collect(),
        data_type: Some(element(constant.value.ty.element)),
        raw_data: Some(raw),
        ..Default::default()
    }
}

fn value_info(value: &Value) -> ValueInfoProto {
    ValueInfoProto {
        name: Some(value.name.clone()),
        r#type: Some(tensor_type(&value.ty)),
        ..Default::default()
    }
}

fn tensor_type(ty: &Type) -> TypeProto {
    use tensor_shape_proto::{Dimension, dimension};
    let dim = |&size: &usize| Dimension {
        value: Some(match is_dynamic(size) {
            true => dimension::Value::DimParam(DYNAMIC.to_owned()),
            false => dimension::Value::DimValue(size as i64),
        }),
        ..Default::default()
    };
    let shape = TensorShapeProto { dim: ty.shape.iter().map(dim).collect() };
    let tensor = type_proto::Tensor { elem_type: Some(element(ty.element)), shape: Some(shape) };
    TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }
}

fn element(element: Element) -> i32 {
    use tensor_proto::DataType;
    match element {
        Element::F32 => DataType::Float.into(),
        Element::F16 => DataType::Float16.into(),
        Element::I8 => DataType::Int8.into(),
        Element::I64 => DataType::Int64.into(),
        Element::Bool => DataType::Bool.into(),
    }
}
