//! The equations of DESIGN.md section 3 as plain loops in f64, for reading and not for speed.

use std::collections::BTreeMap;

use mcedge_models::contract::MemoryFunction;
use mcedge_models::spec::{Aggregation, Context, Deep, FeatureMap, Memory, Objective, Query, Sign};

/// Tensors of one head by their names, row-major.
pub type Head = BTreeMap<String, Vec<f64>>;

/// One head's part of a token; empty where the function takes none.
#[derive(Debug, Default)]
pub struct Token {
    /// `[dh]`.
    pub q: Vec<f64>,
    /// `[dh]`.
    pub k: Vec<f64>,
    /// `[dh]`.
    pub v: Vec<f64>,
    /// `[dh]`.
    pub u: Vec<f64>,
    /// By name, constants too.
    pub coefficients: BTreeMap<&'static str, f64>,
}

/// What all heads and tokens share; empty where the function takes none.
#[derive(Debug, Default)]
pub struct Weights {
    /// W_hh, `[G · D, D]`.
    pub recurrent: Vec<f64>,
    /// b_hh, `[G · D]`.
    pub recurrent_bias: Vec<f64>,
    /// W_g, `[D, 2 D]`.
    pub gate: Vec<f64>,
    /// b_g, `[D]`.
    pub gate_bias: Vec<f64>,
}

/// What one head makes of a token.
#[derive(Debug)]
pub struct Answer {
    /// `[dh]`.
    pub y: Vec<f64>,
    /// `[live + 1]`, the online memory last; empty where nothing is weighed.
    pub gates: Vec<f64>,
    /// At the state before the token; 0 of a memory without.
    pub loss: f64,
}

fn erf(x: f64) -> f64 {
    if x.abs() > 4.0 {
        return x.signum();
    }
    let mut term = x;
    let mut sum = x;
    for n in 1..150 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / 2f64.sqrt()))
}

fn gelu_slope(x: f64) -> f64 {
    0.5 * (1.0 + erf(x / 2f64.sqrt())) + x * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// W x for W `[rows, cols]`, row-major.
fn product(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).map(|row| dot(row, x)).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    assert_eq!(x.len(), y.len());
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn normalized(x: &[f64]) -> Vec<f64> {
    let norm = dot(x, x).sqrt().max(1e-6);
    x.iter().map(|x| x / norm).collect()
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().cloned().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}

fn weighted(weights: &[f64], vectors: &[Vec<f64>]) -> Vec<f64> {
    let at = |i: usize| weights.iter().zip(vectors).map(|(w, x)| w * x[i]).sum();
    (0..vectors[0].len()).map(at).collect()
}

/// φ(x).
fn features(map: FeatureMap, x: &[f64]) -> Vec<f64> {
    let phi = |&x: &f64| match map {
        FeatureMap::Identity => x,
        FeatureMap::Elu1 if x > 0.0 => x + 1.0,
        FeatureMap::Elu1 => x.exp(),
        FeatureMap::Relu => x.max(0.0),
    };
    x.iter().map(phi).collect()
}

/// M(x), and every layer's input and output.
fn forward(deep: &Deep, head: &Head, x: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let (mut inputs, mut outputs) = (vec![x.to_vec()], Vec::new());
    for j in 1..=deep.depth {
        let mut y = product(&head[&format!("w{j}")], inputs.last().unwrap());
        if deep.bias {
            add(&mut y, &head[&format!("b{j}")]);
        }
        if j < deep.depth {
            inputs.push(y.iter().map(|&y| gelu(y)).collect());
        }
        outputs.push(y);
    }
    let mut y = outputs.last().unwrap().clone();
    if deep.skip {
        add(&mut y, x);
    }
    (y, inputs, outputs)
}

/// The gradient of the loss by every parameter.
pub fn gradient(deep: &Deep, head: &Head, k: &[f64], v: &[f64]) -> Head {
    let (y, inputs, outputs) = forward(deep, head, k);
    let mut error: Vec<f64> = match deep.objective {
        Objective::L2 => y.iter().zip(v).map(|(y, v)| 2.0 * (y - v)).collect(),
        Objective::Dot => v.iter().map(|v| -v).collect(),
    };
    let mut gradient = Head::new();
    for j in (1..=deep.depth).rev() {
        let input = &inputs[j - 1];
        let w = error.iter().flat_map(|e| input.iter().map(move |x| e * x)).collect();
        gradient.insert(format!("w{j}"), w);
        if deep.bias {
            gradient.insert(format!("b{j}"), error.clone());
        }
        if j > 1 {
            let w = &head[&format!("w{j}")];
            let cols = input.len();
            let back = |c: usize| error.iter().enumerate().map(|(r, e)| w[r * cols + c] * e).sum::<f64>();
            error = (0..cols).map(|c| back(c) * gelu_slope(outputs[j - 2][c])).collect();
        }
    }
    gradient
}

/// M(x).
fn answer(function: &MemoryFunction, head: &Head, x: &[f64]) -> Vec<f64> {
    match &function.memory {
        Memory::Linear { feature_map, normalized } => {
            let x = features(*feature_map, x);
            let divisor = if *normalized { dot(&head["z"], &x).max(1e-6) } else { 1.0 };
            product(&head["m"], &x).iter().map(|y| y / divisor).collect()
        }
        Memory::Swla { .. } | Memory::GatedDelta { .. } => product(&head["m"], x),
        Memory::Dla(deep) | Memory::Titans(deep) => forward(deep, head, x).0,
        Memory::Gru {} | Memory::Lstm {} => head["h"].clone(),
        Memory::Attention { window } => attend(*window, head, x),
    }
}

fn attend(window: usize, head: &Head, q: &[f64]) -> Vec<f64> {
    let rows =
        |name: &str, of: &Head| -> Vec<Vec<f64>> { of[name].chunks(q.len()).map(<[_]>::to_vec).collect() };
    let live: Vec<usize> = (0..window).filter(|&j| head["live"][j] == 1.0).collect();
    let (k, v) = (rows("k", head), rows("v", head));
    let scores: Vec<f64> = live.iter().map(|&j| dot(q, &k[j]) / (q.len() as f64).sqrt()).collect();
    let v: Vec<Vec<f64>> = live.iter().map(|&j| v[j].clone()).collect();
    weighted(&softmax(&scores), &v)
}

/// The loss of a write of k and v to the memory.
pub fn loss(function: &MemoryFunction, head: &Head, k: &[f64], v: &[f64]) -> f64 {
    if matches!(function.memory, Memory::Gru {} | Memory::Lstm {} | Memory::Attention { .. }) {
        return 0.0;
    }
    let y = answer(function, head, k);
    match &function.memory {
        Memory::Dla(Deep { objective: Objective::Dot, .. })
        | Memory::Titans(Deep { objective: Objective::Dot, .. }) => -dot(&y, v),
        _ => y.iter().zip(v).map(|(y, v)| (y - v) * (y - v)).sum(),
    }
}

fn write(function: &MemoryFunction, head: &mut Head, k: &[f64], token: &Token) {
    let (v, c) = (&token.v, &token.coefficients);
    match &function.memory {
        Memory::Linear { feature_map, normalized } => {
            let k = features(*feature_map, k);
            step_matrix(head, |m, i, j| m(i, j) + v[i] * k[j]);
            if *normalized {
                add(head.get_mut("z").unwrap(), &k);
            }
        }
        Memory::Swla { .. } => {
            let (alpha, beta, lambda) = (c["alpha"], c["beta"], c["lambda"]);
            let (before_k, before_v) = (head["k"].clone(), head["v"].clone());
            step_matrix(head, |m, i, j| {
                alpha * m(i, j) + beta * before_v[i] * before_k[j] + lambda * v[i] * k[j]
            });
            head.insert("k".into(), k.to_vec());
            head.insert("v".into(), v.clone());
        }
        Memory::GatedDelta { correction, .. } => {
            let (alpha, beta) = (c["alpha"], c["beta"]);
            step_matrix(head, |m, i, j| {
                let taken = |l: usize| f64::from(u8::from(l == j)) - beta * k[l] * k[j];
                let kept = (0..k.len()).map(|l| m(i, l) * taken(l)).sum();
                alpha * if *correction { kept } else { m(i, j) } + beta * v[i] * k[j]
            });
        }
        Memory::Dla(deep) => {
            let eta = c["eta"];
            descend(deep, head, k, token, |s, gradient| s + eta * gradient, -1.0);
        }
        Memory::Titans(deep) => {
            let theta = c["theta"];
            let sign = if deep.sign.unwrap_or_default() == Sign::Paper { -1.0 } else { 1.0 };
            descend(deep, head, k, token, |s, gradient| s - theta * gradient, sign);
        }
        Memory::Attention { .. } => {
            for (name, row) in [("k", k), ("v", v), ("live", &[1.0])] {
                let rows = head.get_mut(name).unwrap();
                rows.drain(..row.len());
                rows.extend(row);
            }
        }
        Memory::Gru {} | Memory::Lstm {} => {}
    }
}

/// M ← new(M, i, j) at every row i and column j of the square matrix M, all at once.
fn step_matrix(head: &mut Head, new: impl Fn(&dyn Fn(usize, usize) -> f64, usize, usize) -> f64) {
    let m = head["m"].clone();
    let size = m.len().isqrt();
    let at = |i: usize, j: usize| m[i * size + j];
    let stepped = (0..m.len()).map(|n| new(&at, n / size, n % size)).collect();
    head.insert("m".into(), stepped);
}

/// S ← momentum(μ S, ∇ℓ), M ← α M + sign · S.
fn descend(
    deep: &Deep,
    head: &mut Head,
    k: &[f64],
    token: &Token,
    momentum: impl Fn(f64, f64) -> f64,
    sign: f64,
) {
    let alpha = token.coefficients["alpha"];
    for (name, gradient) in gradient(deep, head, k, &token.v) {
        let momentum_name = format!("s_{name}");
        let mut s = head.get(&momentum_name).cloned().unwrap_or(vec![0.0; gradient.len()]);
        let m = head.get_mut(&name).unwrap();
        for i in 0..gradient.len() {
            s[i] = momentum(f64::from(deep.momentum) * s[i], gradient[i]);
            m[i] = alpha * m[i] + sign * s[i];
        }
        if deep.momentum != 0.0 {
            head.insert(momentum_name, s);
        }
    }
}

/// PyTorch's GRU and LSTM on x = W_ih x + b_ih, `[G · D]`, over all heads.
fn step_cell(function: &MemoryFunction, weights: &Weights, heads: &mut [Head], x: &[f64]) {
    let whole =
        |name: &str, heads: &[Head]| heads.iter().flat_map(|head| head[name].clone()).collect::<Vec<_>>();
    let h = whole("h", heads);
    let d = h.len();
    let mut from_h = product(&weights.recurrent, &h);
    add(&mut from_h, &weights.recurrent_bias);
    let gate = |index: usize, i: usize| (x[index * d + i], from_h[index * d + i]);
    let sum = |(a, b): (f64, f64)| a + b;
    let put = |heads: &mut [Head], name: &str, i: usize, value: f64| {
        heads[i / function.head_size].get_mut(name).unwrap()[i % function.head_size] = value;
    };
    let c = if matches!(function.memory, Memory::Lstm {}) { whole("c", heads) } else { Vec::new() };
    for i in 0..d {
        if matches!(function.memory, Memory::Gru {}) {
            let (r, z) = (sigmoid(sum(gate(0, i))), sigmoid(sum(gate(1, i))));
            let (n_x, n_h) = gate(2, i);
            let n = (n_x + r * n_h).tanh();
            put(heads, "h", i, (1.0 - z) * n + z * h[i]);
        } else {
            let (input, forget) = (sigmoid(sum(gate(0, i))), sigmoid(sum(gate(1, i))));
            let (cell, output) = (sum(gate(2, i)).tanh(), sigmoid(sum(gate(3, i))));
            let c = forget * c[i] + input * cell;
            put(heads, "c", i, c);
            put(heads, "h", i, output * c.tanh());
        }
    }
    if function.caching.aggregation == Aggregation::Sigmoid {
        let h = whole("h", heads);
        for i in 0..d {
            put(heads, "gate", i, dot(&weights.gate[i * 2 * d + d..][..d], &h));
        }
    }
}

/// Gates over `memories`, the online one last.
fn gates(function: &MemoryFunction, memories: &[Head], tokens: usize, u: &[f64]) -> Vec<f64> {
    let caching = &function.caching;
    let online = memories.len() - 1;
    let score = |(i, memory): (usize, &Head)| {
        let mut context = memory["context"].clone();
        if i == online && caching.context == Context::Mean {
            context.iter_mut().for_each(|c| *c /= tokens as f64);
        }
        dot(&context, u) / f64::from(caching.temperature)
    };
    let mut scores: Vec<f64> = memories.iter().enumerate().map(score).collect();
    if let Some(top_k) = caching.top_k {
        let mut order: Vec<usize> = (0..online).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        for &dropped in order.iter().skip(top_k) {
            scores[dropped] = f64::NEG_INFINITY;
        }
    }
    softmax(&scores)
}

/// The memory whose tensors are the gated sums.
fn soup(gates: &[f64], memories: &[Head]) -> Head {
    let everywhere =
        memories[0].keys().filter(|name| memories.iter().all(|memory| memory.contains_key(*name)));
    let mean = |name: &String| {
        let parts: Vec<Vec<f64>> = memories.iter().map(|memory| memory[name].clone()).collect();
        (name.clone(), weighted(gates, &parts))
    };
    everywhere.map(mean).collect()
}

/// h + Σ σ(W_g [h; h_i] + b_g) ⊙ h_i for the head of `size` channels from `start` on, where a checkpoint's `gate` is the
/// part of W_g [h; h_i] that is h_i's; and the gates' means over the channels, 1 for the online memory.
fn read_sigmoid(
    weights: &Weights,
    h: &[f64],
    (start, size): (usize, usize),
    checkpoints: &[Head],
) -> (Vec<f64>, Vec<f64>) {
    let d = h.len();
    let mut y = h[start..][..size].to_vec();
    let mut gates = Vec::new();
    for checkpoint in checkpoints {
        let gate = |i: usize| {
            let from_h = dot(&weights.gate[(start + i) * 2 * d..][..d], h);
            sigmoid(from_h + checkpoint["gate"][i] + weights.gate_bias[start + i])
        };
        for i in 0..size {
            y[i] += gate(i) * checkpoint["h"][i];
        }
        gates.push((0..size).map(gate).sum::<f64>() / size as f64);
    }
    gates.push(1.0);
    (y, gates)
}

/// A token of all heads: written to `states`, then read with each head's `checkpoints`. `tokens` are those in the
/// online segment, this one included; `x` is `[G · D]` of a GRU or an LSTM.
pub fn token(
    function: &MemoryFunction,
    weights: &Weights,
    states: &mut [Head],
    checkpoints: &[Vec<Head>],
    tokens: usize,
    (heads, x): (&[Token], &[f64]),
) -> Vec<Answer> {
    if function.memory.is_recurrent() {
        step_cell(function, weights, states, x);
    }
    let h: Vec<f64> = states.iter().flat_map(|state| state.get("h").cloned().unwrap_or_default()).collect();
    let mut answers = Vec::new();
    for (head, token) in heads.iter().enumerate() {
        let mut answer = head_token(function, &mut states[head], &checkpoints[head], tokens, token);
        if function.caching.aggregation == Aggregation::Sigmoid {
            let channels = (head * function.head_size, function.head_size);
            (answer.y, answer.gates) = read_sigmoid(weights, &h, channels, &checkpoints[head]);
        }
        answers.push(answer);
    }
    answers
}

fn head_token(
    function: &MemoryFunction,
    state: &mut Head,
    checkpoints: &[Head],
    tokens: usize,
    token: &Token,
) -> Answer {
    let (mut q, mut k) = (token.q.clone(), token.k.clone());
    if function.normalize_qk {
        (q, k) = (normalized(&q), normalized(&k));
    }
    let loss = loss(function, state, &k, &token.v);
    write(function, state, &k, token);
    if let Some(context) = state.get_mut("context") {
        add(context, &k);
    }
    let u = if function.caching.query == Query::U { &token.u } else { &q };
    let memories: Vec<Head> = checkpoints.iter().chain([&*state]).cloned().collect();
    let answers: Vec<Vec<f64>> = memories.iter().map(|memory| answer(function, memory, &q)).collect();
    let (n, online) = (answers.len(), answers.last().unwrap().clone());
    let (y, gates) = match function.caching.aggregation {
        Aggregation::None | Aggregation::Sigmoid => (online, Vec::new()),
        Aggregation::Residual => (weighted(&vec![1.0; n], &answers), Vec::new()),
        Aggregation::Mean => (weighted(&vec![1.0 / n as f64; n], &answers), Vec::new()),
        Aggregation::Grm | Aggregation::Ssc => {
            let gates = gates(function, &memories, tokens, u);
            (weighted(&gates, &answers), gates)
        }
        Aggregation::Soup => {
            let gates = gates(function, &memories, tokens, u);
            (answer(function, &soup(&gates, &memories), &q), gates)
        }
    };
    Answer { y, gates, loss }
}
