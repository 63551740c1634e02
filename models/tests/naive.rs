//! The reference against oracles that compute each token from the whole stream, with no state between tokens.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;

use std::ops::Range;

use common::{Xorshift, caching, config, random_tensors, random_weights, spec};
use mcedge_models::reference::{Stream, run, trace};
use mcedge_models::spec::Spec;
use mcedge_models::{Tensor, Weights, collapses};
use ndarray::{Array1, Array2, ArrayView2, Axis, s};
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

    fn run(&self, capacity: Option<usize>) -> Array2<f64> {
        run(&self.spec, &self.weights, Stream::Features(self.input.view()), capacity).unwrap()
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
        let y = ndarray::concatenate(Axis(1), &views).unwrap();
        let out = y.dot(&self.matrix("blocks.0.mix.o.weight").t()).dot(&self.matrix("head.weight").t());
        let expected = out + self.vector("head.bias");
        let error = distance(&self.run(None), &expected);
        assert!(error < 1e-9, "off by {error:.1e}");
        assert!(expected.iter().all(|y| y.is_finite()));
    }
}

fn distance(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    (a - b).mapv(f64::abs).fold(0.0, |largest, &x| largest.max(x))
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

/// The binary expansion of `tokens`, largest piece first: 37 is 0..32, 32..36 and 36..37.
fn pieces(tokens: usize) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for bit in (0..usize::BITS).rev().map(|bit| 1 << bit).filter(|bit| tokens & bit != 0) {
        pieces.push(start..start + bit);
        start += bit;
    }
    assert_eq!(start, tokens);
    pieces
}

/// What one head's tokens are made of.
struct Tokens {
    k: Array2<f64>,
    v: Array2<f64>,
}

/// A memory matrix and its normaliser.
struct Replayed {
    m: Array2<f64>,
    z: Vector,
}

impl Replayed {
    /// M φ(q), from φ(q).
    fn read(&self, kind: &Kind, query: &Vector) -> Vector {
        let scale = if kind.normalized { self.z.dot(query).max(1e-6) } else { 1.0 };
        self.m.dot(query) / scale
    }
}

type Phi = fn(f64) -> f64;

fn column(x: &Vector) -> ArrayView2<'_, f64> {
    x.view().insert_axis(Axis(1))
}

/// A linear memory that has seen these tokens alone.
fn sum(phi: Phi, tokens: &Tokens, seen: Range<usize>) -> Replayed {
    let keys = tokens.k.slice(s![seen.clone(), ..]).mapv(phi);
    Replayed { m: tokens.v.slice(s![seen, ..]).t().dot(&keys), z: keys.sum_axis(Axis(0)) }
}

/// A gated delta memory, α = 0.75 and β = 0.5, that has seen these tokens alone.
fn delta(_: Phi, tokens: &Tokens, seen: Range<usize>) -> Replayed {
    let dh = tokens.k.ncols();
    let mut m = Array2::<f64>::zeros((dh, dh));
    for t in seen {
        let (k, v) = (tokens.k.row(t).to_owned(), tokens.v.row(t).to_owned());
        let kept = Array2::<f64>::eye(dh) - 0.5 * column(&k).dot(&column(&k).t());
        m = 0.75 * m.dot(&kept) + 0.5 * column(&v).dot(&column(&k).t());
    }
    Replayed { m, z: Vector::zeros(dh) }
}

/// One memory to hold logarithmic segments against.
struct Kind {
    config: Value,
    replay: fn(Phi, &Tokens, Range<usize>) -> Replayed,
    phi: Phi,
    normalized: bool,
}

fn kinds() -> [Kind; 3] {
    let elu1: Phi = |x| if x > 0.0 { x + 1.0 } else { x.exp() };
    let normalized = json!({"kind": "linear", "feature_map": "elu1", "normalized": true});
    let gated = json!({"kind": "gated_delta", "alpha": 0.75, "beta": 0.5});
    [
        Kind { config: json!({"kind": "linear"}), replay: sum, phi: |x| x, normalized: false },
        Kind { config: normalized, replay: sum, phi: elu1, normalized: true },
        Kind { config: gated, replay: delta, phi: |x| x, normalized: false },
    ]
}

/// The memories that token t reads, the online one last, each with its context.
fn memories(kind: &Kind, caching: &Value, tokens: &Tokens, t: usize) -> Vec<(Replayed, Vector)> {
    let memory = |piece: Range<usize>| {
        let keys = tokens.k.slice(s![piece.clone(), ..]).sum_axis(Axis(0));
        let context = if caching["context"] == "sum" { keys } else { keys / piece.len() as f64 };
        let seen = if caching["init"] == "restart" { piece } else { 0..piece.end };
        ((kind.replay)(kind.phi, tokens, seen), context)
    };
    pieces(t).into_iter().chain(std::iter::once(t..t + 1)).map(memory).collect()
}

/// What one head of every token reads of the pieces before it and of the online memory, `[T, dh]`.
fn logarithmic(kind: &Kind, bare: &Bare, caching: &Value, head: usize) -> Array2<f64> {
    let [q, k, v] = ["q", "k", "v"].map(|name| bare.project(name, head));
    let has_u = bare.weights.get("blocks.0.mix.u.weight").is_some();
    let u = if has_u { bare.project("u", head) } else { q.clone() };
    let tokens = Tokens { k, v };
    let mut reads = Array2::zeros(q.dim());
    for (t, mut y) in reads.rows_mut().into_iter().enumerate() {
        let memories = memories(kind, caching, &tokens, t);
        let scores: Vec<f64> = memories.iter().map(|(_, context)| u.row(t).dot(context)).collect();
        let query = q.row(t).mapv(kind.phi);
        let mut soup = Replayed { m: Array2::zeros((y.len(), y.len())), z: Vector::zeros(y.len()) };
        for (gate, (memory, _)) in gates(caching, &scores).into_iter().zip(&memories) {
            y.scaled_add(gate, &memory.read(kind, &query));
            soup.m.scaled_add(gate, &memory.m);
            soup.z.scaled_add(gate, &memory.z);
        }
        if caching["aggregation"] == "soup" {
            y.assign(&soup.read(kind, &query));
        }
    }
    reads
}

/// The weight of each memory, the online one last.
fn gates(caching: &Value, scores: &[f64]) -> Vec<f64> {
    let (online, top_k) = (scores.len() - 1, caching["top_k"].as_u64());
    let better = |i: usize| scores[..online].iter().filter(|&&s| s > scores[i]).count() as u64;
    let is_read = |i: usize| i == online || top_k.is_none_or(|k| better(i) < k);
    let power = |i: usize| match caching["aggregation"].as_str().unwrap() {
        "residual" | "mean" => 1.0,
        _ if is_read(i) => scores[i].exp(),
        _ => 0.0,
    };
    let powers: Vec<f64> = (0..scores.len()).map(power).collect();
    let sum: f64 = if caching["aggregation"] == "residual" { 1.0 } else { powers.iter().sum() };
    powers.iter().map(|power| power / sum).collect()
}

#[test]
fn logarithmic_segments_are_the_binary_expansion_of_the_past() {
    for kind in kinds() {
        for aggregation in ["residual", "mean", "grm", "soup", "ssc"] {
            for (init, context) in
                [("continue", "mean"), ("continue", "sum"), ("restart", "mean"), ("restart", "sum")]
            {
                if init == "restart" && kind.config["kind"] != "linear" {
                    continue;
                }
                let mut caching = caching(aggregation);
                caching["segmentation"] = json!({"kind": "logarithmic"});
                caching["init"] = json!(init);
                caching["context"] = json!(context);
                let bare = Bare::new(kind.config.clone(), caching.clone());
                bare.check(|head| logarithmic(&kind, &bare, &caching, head));
            }
        }
    }
}

#[test]
fn a_loss_is_the_mean_over_the_heads_at_the_state_before_the_token() {
    for kind in kinds() {
        let mut caching = caching("none");
        caching["segmentation"] =
            json!({"kind": "surprise", "window": 4, "threshold": 1.0, "min_size": 2, "max_size": 9});
        let bare = Bare::new(kind.config.clone(), caching);
        let input = Stream::Features(bare.input.view());
        let losses = trace(&bare.spec, &bare.weights, input, None).unwrap().losses;
        let heads = [0, 1].map(|head| Tokens { k: bare.project("k", head), v: bare.project("v", head) });
        for (t, found) in losses.into_iter().enumerate() {
            let loss = |tokens: &Tokens| {
                let answer =
                    (kind.replay)(kind.phi, tokens, 0..t).read(&kind, &tokens.k.row(t).mapv(kind.phi));
                (answer - tokens.v.row(t)).mapv(|x| x * x).sum()
            };
            assert!((found - (loss(&heads[0]) + loss(&heads[1])) / 2.0).abs() < 1e-9);
        }
    }
}

#[test]
fn the_residual_sum_of_restarted_linear_segments_is_one_matrix_that_is_never_reset() {
    for feature_map in ["identity", "elu1", "relu"] {
        let memory = json!({"kind": "linear", "feature_map": feature_map});
        let endless = Bare::new(memory.clone(), caching("none"));
        let mut caching = caching("residual");
        caching["segmentation"] = json!({"kind": "constant", "size": 4});
        caching["init"] = json!("restart");
        let mut cached = Bare::new(memory, caching);
        let expected = endless.run(None);
        assert!(collapses(&cached.spec, &cached.weights, 0));
        assert!(distance(&cached.run(Some(2)), &expected) < 1e-9);
        assert!(distance(&cached.run(None), &expected) < 1e-9);
        // From another start than zero it is not one matrix, and a bounded cache forgets.
        cached.weights = random_weights(&cached.spec, 7);
        assert!(!collapses(&cached.spec, &cached.weights, 0));
        assert!(distance(&cached.run(Some(2)), &cached.run(None)) > 1e-3);
    }
}

#[test]
fn no_other_block_collapses() {
    let collapsed = |memory: Value, caching: &Value| {
        let bare = Bare::new(memory, caching.clone());
        (0..2).map(|block| collapses(&bare.spec, &bare.weights, block)).collect::<Vec<_>>()
    };
    let mut restart = caching("residual");
    restart["init"] = json!("restart");
    assert_eq!(collapsed(json!({"kind": "linear"}), &restart), [true, false]);
    assert_eq!(collapsed(json!({"kind": "linear", "normalized": true}), &restart), [false; 2]);
    assert_eq!(collapsed(json!({"kind": "gated_delta", "alpha": 1.0, "beta": 1.0}), &restart), [false; 2]);
    for (key, other) in [
        ("init", json!("continue")),
        ("aggregation", json!("mean")),
        ("segmentation", json!({"kind": "logarithmic"})),
        (
            "segmentation",
            json!({"kind": "surprise", "window": 4, "threshold": 1.0, "min_size": 2, "max_size": 9}),
        ),
    ] {
        let mut caching = restart.clone();
        caching[key] = other;
        assert_eq!(collapsed(json!({"kind": "linear"}), &caching), [false; 2]);
    }
}

#[test]
fn an_initial_state_of_zeros_collapses_as_an_absent_one_does() {
    let mut caching = caching("residual");
    caching["init"] = json!("restart");
    let bare = Bare::new(json!({"kind": "linear"}), caching);
    let with = |value| {
        let mut tensors = random_tensors(&bare.spec, 7);
        tensors.get_mut("blocks.0.memory.init.m").unwrap().data.fill(value);
        collapses(&bare.spec, &Weights::new(tensors, &bare.spec).unwrap(), 0)
    };
    assert_eq!([with(0.0), with(-0.0), with(f32::MIN_POSITIVE)], [true, true, false]);
}
