//! The least ONNX file that holds a contract.

use mcedge_models::contract::METADATA_KEY;
use prost::Message;

/// ONNX's `ModelProto`, of which a contract needs one field.
#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<Entry>,
}

/// ONNX's `StringStringEntryProto`.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// An ONNX file with `contract` in its metadata.
pub fn around(contract: &str) -> Vec<u8> {
    let entry = Entry { key: METADATA_KEY.into(), value: contract.into() };
    File { metadata_props: vec![entry] }.encode_to_vec()
}
