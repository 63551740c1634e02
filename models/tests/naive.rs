//! The reference against oracles that compute each token from the whole stream, with no state between tokens.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;

use std::ops::Range;

use common::{Xorshift, caching, config, random_tensors, spec};
use mcedge_models::reference::{Stream, run};
use mcedge_models::spec::Spec;
use mcedge_models::{Tensor, Weights};
use ndarray::{Array1, Array2, s};
use serde_json::{Value, json};

const HEADS: usize = 2;
const TOKENS: usize = 40;

type Vector = Array1<f64>;

/// A block alone, without norm and residual, over a random stream; the memory starts at zero.
struct Bare {
    spec: Spec,
    weights: Weights,
    input: Array2<f32>,
}

impl Bare {
    fn new(memory: Value, caching: Value) -> Self {
        let mut config = config(memory, caching);
        config["blocks"][0]["norm"] = json!("none");
        config["blocks"][0]["residual"] = json!(false);
        let spec = spec(&config);
        let mut tensors = random_tensors(&spec, 7);
        tensors.remove("blocks.0.memory.init.m");
        let weights = Weights::new(tensors, &spec).unwrap();
        let mut random = Xorshift(3);
        Bare { spec, weights, input: Array2::from_shape_fn((TOKENS, 3), |_| random.unit()) }
    }

    fn run(&self) -> Array2<f64> {
        run(&self.spec, &self.weights, Stream::Features(self.input.view()), None).unwrap()
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.weights.get(name).unwrap()
    }

    fn matrix(&self, name: &str) -> Array2<f64> {
        let tensor = self.tensor(name);
        let data = tensor.data.iter().map(|&x| f64::from(x)).collect();
        Array2::from_shape_vec((tensor.shape[0], tensor.shape[1]), data).unwrap()
    }

    fn vector(&self, name: &str) -> Vector {
        self.tensor(name).data.iter().map(|&x| f64::from(x)).collect()
    }

    /// One head of a projection of every token, `[T, dh]`.
    fn project(&self, name: &str, head: usize) -> Array2<f64> {
        let x = self.input.mapv(f64::from).dot(&self.matrix("input.weight").t()) + self.vector("input.bias");
        let dh = x.ncols() / HEADS;
        let projected = x.dot(&self.matrix(&format!("blocks.0.mix.{name}.weight")).t());
        projected.slice(s![.., head * dh..(head + 1) * dh]).to_owned()
    }

    /// Holds a run against `expected`, which gives the read `[T, dh]` of one head.
    #[track_caller]
    fn check(&self, expected: impl Fn(usize) -> Array2<f64>) {
        let reads: Vec<_> = (0..HEADS).map(expected).collect();
        let views: Vec<_> = reads.iter().map(|read| read.view()).collect();
        let y = ndarray::concatenate(ndarray::Axis(1), &views).unwrap();
        let out = y.dot(&self.matrix("blocks.0.mix.o.weight").t()).dot(&self.matrix("head.weight").t());
        let expected = out + self.vector("head.bias");
        let error = (self.run() - &expected).mapv(f64::abs).fold(0.0, |a: f64, &b| a.max(b));
        assert!(error < 1e-9, "off by {error:.1e}");
        assert!(expected.iter().all(|y| y.is_finite()));
    }
}

/// Σ softmax(scores) of the rows of `values`.
fn weighed(scores: &Vector, values: &Array2<f64>) -> Vector {
    let powers = scores.mapv(f64::exp);
    powers.dot(values) / powers.sum()
}

#[test]
fn attention_sees_the_last_tokens_and_no_segments() {
    let check = |window: usize, init: &str| {
        let mut caching = caching("none");
        caching["init"] = json!(init);
        let bare = Bare::new(json!({"kind": "attention", "window": window}), caching);
        bare.check(|head| {
            let [q, k, v] = ["q", "k", "v"].map(|name| bare.project(name, head));
            let mut reads = Array2::zeros(q.dim());
            for t in 0..TOKENS {
                let seen: Range<usize> = (t + 1).saturating_sub(window)..t + 1;
                let scores = k.slice(s![seen.clone(), ..]).dot(&q.row(t)) / (q.ncols() as f64).sqrt();
                reads.row_mut(t).assign(&weighed(&scores, &v.slice(s![seen, ..]).to_owned()));
            }
            reads
        });
    };
    for (window, init) in [(1, "continue"), (6, "continue"), (6, "restart"), (100, "restart")] {
        check(window, init);
    }
}
