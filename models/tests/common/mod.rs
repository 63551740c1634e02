//! What the tests share: specs, random weights, and a small source of numbers.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;

use mcedge_models::spec::Spec;
use mcedge_models::{Tensor, Weights, parameters};
use serde_json::{Value, json};

/// Marsaglia's xorshift64.
pub struct Xorshift(pub u64);

impl Xorshift {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Uniform in -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A one-block model of 3 channels and 2 outputs, d_model 8 and 2 heads.
pub fn config(memory: Value, caching: Value) -> Value {
    json!({
        "format": "mcedge/1", "name": "test", "d_model": 8,
        "input": {"kind": "features", "size": 3},
        "blocks": [{"norm": "layer_norm", "num_heads": 2, "memory": memory, "caching": caching}],
        "head": {"kind": "regression", "size": 2},
    })
}

pub fn caching(aggregation: &str) -> Value {
    let mut caching = json!({
        "aggregation": aggregation, "segmentation": {"kind": "constant", "size": 4}, "init": "continue",
    });
    if aggregation == "ssc" {
        caching["top_k"] = json!(2);
    }
    caching
}

pub fn titans() -> Value {
    json!({"kind": "titans", "depth": 2, "width": 6, "bias": true, "objective": "l2", "step_size": 0.05,
           "momentum": 0.5, "retention": 0.9})
}

pub fn spec(config: &Value) -> Spec {
    Spec::parse(config.to_string().as_bytes()).unwrap()
}

/// Every parameter of the spec, optional ones too, uniform in ±0.5.
pub fn random_tensors(spec: &Spec, seed: u64) -> BTreeMap<String, Tensor> {
    let mut random = Xorshift(seed);
    let tensor = |shape: Vec<usize>, random: &mut Xorshift| {
        let data = (0..shape.iter().product()).map(|_| random.unit() * 0.5).collect();
        Tensor { shape, data }
    };
    parameters(spec).into_iter().map(|p| (p.name, tensor(p.shape, &mut random))).collect()
}

pub fn random_weights(spec: &Spec, seed: u64) -> Weights {
    Weights::new(random_tensors(spec, seed), spec).unwrap()
}

/// Hands every proper prefix of `bytes`, then `flips` copies with one to three random bits flipped, to `read`.
pub fn mutate(bytes: &[u8], flips: usize, mut read: impl FnMut(&[u8])) {
    for length in 0..bytes.len() {
        read(&bytes[..length]);
    }
    let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
    for _ in 0..flips {
        let mut copy = bytes.to_vec();
        for _ in 0..1 + random.below(3) {
            copy[random.below(bytes.len())] ^= 1 << random.below(8);
        }
        read(&copy);
    }
}
