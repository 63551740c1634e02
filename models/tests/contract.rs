//! The door of a contract: what it says that no graph can have.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::error::Error;

use mcedge_models::contract::{Contract, ContractError, Role};
use serde_json::{Value, json};

/// Of one state tensor and one cache tensor, and no memory function.
fn contract() -> Value {
    json!({
        "schema": "mcedge.contract/1", "name": "by hand", "batch": 1, "capacity": 4, "chunk": 1,
        "input": {"kind": "features", "size": 2},
        "output": {"kind": "regression", "size": 2, "std": [1, 2.5]},
        "segmentation": {"kind": "constant", "size": 3}, "init": "continue",
        "state": [{"past": "past.0.m", "present": "present.0.m", "shape": [1, 2], "dtype": "f32", "reset": "never"}],
        "cache": [{"name": "cache.0.m", "from": "present.0.m", "shape": [1, 4, 2], "slot_axis": 1,
                   "dtype": "f32", "scale": "none"}],
    })
}

#[test]
fn each_fault_has_its_own_message() {
    Contract::parse(&contract().to_string()).unwrap();
    let check = |pointer: &str, value: Value, expected: &str| {
        let mut contract = contract();
        *contract.pointer_mut(pointer).unwrap() = value;
        let error = Contract::parse(&contract.to_string()).unwrap_err().to_string();
        assert_eq!(error, format!("the contract's `{expected}"));
    };
    check("/output/std", json!([1]), "output.std` is a list of 1, expected 2 entries, or none");
    check("/output/std", json!([0, 1]), "output.std[0]` is 0, expected a positive number");
    check("/batch", json!(4097), "batch` is 4097, expected 1 to 4096");
    let mut wide = contract();
    wide["input"]["size"] = json!(1 << 20);
    (wide["batch"], wide["state"], wide["cache"]) = (json!(1024), json!([]), json!([]));
    let error = Contract::parse(&wide.to_string()).unwrap_err().to_string();
    assert_eq!(error, "the contract's `shape of input` is [1024, 1048576], expected 1 to 536870912 elements");
    // What stands in the words of `config.json` came from no such file.
    let mut endless = contract();
    endless["segmentation"]["size"] = json!(0);
    let error = Contract::parse(&endless.to_string()).unwrap_err();
    assert_eq!(error.to_string(), "the contract has a memory or segments that cannot be");
    let cause = error.source().unwrap().to_string();
    assert_eq!(cause, "`segmentation.size` is 0, expected 1 to 1048576");
    let mut infinite = contract();
    infinite["output"]["std"] = json!([1, 1e39]);
    let error = Contract::parse(&infinite.to_string()).unwrap_err();
    assert!(matches!(error, ContractError::Json(_)), "{error:?}");
    // Each tensor is looked for among all: the time grows with the square of the list.
    let many = |key: &str| vec![contract()[key][0].clone(); (1 << 14) + 1];
    check("/state", json!(many("state")), "state` is a list of 16385, expected at most 16384 tensors");
    check("/cache", json!(many("cache")), "cache` is a list of 16385, expected at most 16384 tensors");
}

/// A block is a memory given its operands, or the whole mixer; another form of it is not half understood.
#[test]
fn a_block_has_a_mixer_of_the_known_form_or_none() {
    let mut contract = contract();
    contract["state"] = json!([{"past": "past.0.m", "present": "present.0.m", "shape": [1, 1, 2, 2], "dtype": "f32",
                                "reset": "never"}]);
    contract["cache"] = json!([]);
    let caching =
        json!({"aggregation": "none", "segmentation": contract["segmentation"], "init": "continue"});
    contract["blocks"] = json!([{"block": 0, "function": "f", "num_heads": 1, "head_size": 2, "normalize_qk": false,
                                 "memory": {"kind": "linear"}, "caching": caching}]);
    let inputs = |contract: &Value| {
        let parsed =
            Contract::parse(&contract.to_string()).map_err(|error| error.source().unwrap().to_string())?;
        assert_eq!(Contract::parse(&parsed.to_json()).unwrap(), parsed);
        Ok::<_, String>(parsed.blocks[0].memory.inputs())
    };
    assert_eq!(inputs(&contract).unwrap(), [Role::Q, Role::K, Role::V, Role::State(0)]);
    contract["blocks"][0]["mixer"] = json!({"norm": "rms_norm", "output": true, "residual": false});
    let whole = [Role::H, Role::NormWeight, Role::ProjectionWeight, Role::OutputWeight, Role::State(0)];
    assert_eq!(inputs(&contract).unwrap(), whole);
    contract["blocks"][0]["mixer"]["convolution"] = json!(4);
    let error = inputs(&contract).unwrap_err();
    assert!(
        error.contains("unknown field `convolution`, expected one of `norm`, `output`, `residual`"),
        "{error}"
    );
}
