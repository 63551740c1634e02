//! What a token writes, and M(q): DESIGN.md section 3, **Write**.

use std::collections::VecDeque;

use ndarray::{Zip, s};

use super::math::{Matrix, Vector, gelu, gelu_slope, outer, sigmoid, softmax};
use crate::spec::{Deep, FeatureMap, Memory, Objective, Sign};

/// A block's memory.
#[derive(Clone)]
pub enum State {
    /// One memory a head.
    Heads(Vec<HeadState>),
    /// GRU and LSTM: one cell for the block, of which a head reads its part of `h`. A GRU leaves `c` at zero.
    Cell { h: Vector, c: Vector },
}

impl State {
    /// Adds another state's parameters to its own; what no read uses is left at zero.
    pub fn add(&mut self, memory: &Memory, other: &State) {
        let (State::Heads(heads), State::Heads(others)) = (self, other) else {
            unreachable!("cells do not add")
        };
        for (head, other) in heads.iter_mut().zip(others) {
            *head = HeadState::soup(memory, &[(1.0, head), (1.0, other)]);
        }
    }

    /// What a checkpoint keeps of one of `heads` heads: the tensors that a read uses, each as one vector.
    pub fn kept(&self, memory: &Memory, head: usize, heads: usize) -> Vec<Vector> {
        match self {
            State::Heads(states) => states[head].kept(memory),
            State::Cell { h, .. } => {
                let dh = h.len() / heads;
                vec![h.slice(s![head * dh..(head + 1) * dh]).to_owned()]
            }
        }
    }
}

/// One head's memory.
#[derive(Clone)]
pub enum HeadState {
    /// M `[dh, dh]` and the normaliser z `[dh]`.
    Linear { m: Matrix, z: Vector },
    /// M `[dh, dh]`, and the previous token's key and value `[dh]`.
    Swla { m: Matrix, k: Vector, v: Vector },
    /// M `[dh, dh]`.
    GatedDelta { m: Matrix },
    /// Keys and values `[dh]` of the window's tokens, oldest first.
    Attention { tokens: VecDeque<(Vector, Vector)> },
    /// The MLP, and the momentum S of each of its parameters.
    Mlp { layers: Vec<Layer>, momentum: Vec<Layer> },
}

/// One linear layer; `b` stays zero when the memory has no biases.
#[derive(Clone)]
pub struct Layer {
    /// `[out, in]`.
    pub w: Matrix,
    /// `[out]`.
    pub b: Vector,
}

impl Layer {
    fn zeros_like(&self) -> Self {
        Layer { w: Matrix::zeros(self.w.dim()), b: Vector::zeros(self.b.len()) }
    }
}

/// A token's coefficients for one head, in the order of [`Memory::coefficients`].
pub type Coefficients = Vec<f64>;

impl HeadState {
    /// The initial state around a memory matrix.
    pub fn matrix(memory: &Memory, m: Matrix) -> Self {
        let zero = Vector::zeros(m.nrows());
        match memory {
            Memory::Swla { .. } => HeadState::Swla { m, k: zero.clone(), v: zero },
            Memory::GatedDelta { .. } => HeadState::GatedDelta { m },
            _ => HeadState::Linear { m, z: zero },
        }
    }

    /// The window before the first token.
    pub fn attention() -> Self {
        HeadState::Attention { tokens: VecDeque::new() }
    }

    /// The initial state around an MLP: no momentum yet.
    pub fn mlp(layers: Vec<Layer>) -> Self {
        let momentum = layers.iter().map(Layer::zeros_like).collect();
        HeadState::Mlp { layers, momentum }
    }

    /// The state after a token of key `k_t` and value `v_t`, `[dh]` each.
    pub fn write(&mut self, memory: &Memory, k_t: &Vector, v_t: &Vector, coefficients: &Coefficients) {
        match self {
            HeadState::Linear { m, z } => {
                let key = features(memory, k_t);
                *m += &outer(v_t, &key);
                *z += &key;
            }
            HeadState::Swla { m, k, v } => {
                let [alpha, beta, lambda] = coefficients[..] else { unreachable!("swla has three") };
                *m = alpha * &*m + beta * outer(v, k) + lambda * outer(v_t, k_t);
                (*k, *v) = (k_t.clone(), v_t.clone());
            }
            HeadState::GatedDelta { m } => {
                let [alpha, beta] = coefficients[..] else { unreachable!("gated_delta has two") };
                // M (I − β k kᵀ) = M − β (M k) kᵀ.
                let kept = match memory {
                    Memory::GatedDelta { correction: true, .. } => &*m - beta * outer(&m.dot(k_t), k_t),
                    _ => m.clone(),
                };
                *m = alpha * kept + beta * outer(v_t, k_t);
            }
            HeadState::Attention { tokens } => {
                let Memory::Attention { window } = memory else { unreachable!("the window is attention's") };
                tokens.push_back((k_t.clone(), v_t.clone()));
                if tokens.len() > *window {
                    tokens.pop_front();
                }
            }
            HeadState::Mlp { layers, momentum } => {
                let deep = memory.deep().expect("an MLP state belongs to an MLP memory");
                let [step_size, retention] = coefficients[..] else { unreachable!("an MLP memory has two") };
                let gradient = gradient(deep, layers, k_t, v_t);
                // dla adds the gradient to S and takes S from M; titans takes it from S, and adds S to M or,
                // with the paper's sign, takes it.
                let (into_s, into_m) = match (memory, deep.sign.unwrap_or_default()) {
                    (Memory::Dla(_), _) => (step_size, -1.0),
                    (_, Sign::Descent) => (-step_size, 1.0),
                    (_, Sign::Paper) => (-step_size, -1.0),
                };
                for ((layer, s), g) in layers.iter_mut().zip(momentum).zip(gradient) {
                    let mu = f64::from(deep.momentum);
                    s.w = mu * &s.w + into_s * g.w;
                    s.b = mu * &s.b + into_s * g.b;
                    layer.w = retention * &layer.w + into_m * &s.w;
                    layer.b = retention * &layer.b + into_m * &s.b;
                }
            }
        }
    }

    /// M(q), `[dh]`; attention's is of one token at least.
    pub fn read(&self, memory: &Memory, q: &Vector) -> Vector {
        match self {
            HeadState::Linear { m, z } => {
                let query = features(memory, q);
                let y = m.dot(&query);
                match memory {
                    Memory::Linear { normalized: true, .. } => y / z.dot(&query).max(1e-6),
                    _ => y,
                }
            }
            HeadState::Swla { m, .. } | HeadState::GatedDelta { m } => m.dot(q),
            HeadState::Attention { tokens } => {
                let scale = (q.len() as f64).sqrt();
                let scores: Vec<f64> = tokens.iter().map(|(k, _)| q.dot(k) / scale).collect();
                let mut y = Vector::zeros(q.len());
                for (gate, (_, v)) in softmax(&scores).into_iter().zip(tokens) {
                    y.scaled_add(gate, v);
                }
                y
            }
            HeadState::Mlp { layers, .. } => {
                let deep = memory.deep().expect("an MLP state belongs to an MLP memory");
                forward(deep, layers, q).y
            }
        }
    }

    /// ℓ of a token of key `k` and value `v`, at this state: what its write steps down, or would.
    pub fn loss(&self, memory: &Memory, k: &Vector, v: &Vector) -> f64 {
        let y = self.read(memory, k);
        match memory.deep().map(|deep| deep.objective) {
            Some(Objective::Dot) => -y.dot(v),
            Some(Objective::L2) | None => (&y - v).mapv(|x| x * x).sum(),
        }
    }

    /// The memory whose parameters are Σ weight · parameters of each state; what no read uses is left at zero.
    pub fn soup(memory: &Memory, states: &[(f64, &HeadState)]) -> HeadState {
        let mut mixed = states[0].1.emptied();
        for (weight, state) in states {
            match (&mut mixed, state) {
                (HeadState::Linear { m, z }, HeadState::Linear { m: m_i, z: z_i }) => {
                    m.scaled_add(*weight, m_i);
                    z.scaled_add(*weight, z_i);
                }
                (HeadState::Swla { m, .. }, HeadState::Swla { m: m_i, .. })
                | (HeadState::GatedDelta { m }, HeadState::GatedDelta { m: m_i }) => {
                    m.scaled_add(*weight, m_i)
                }
                (HeadState::Mlp { layers, .. }, HeadState::Mlp { layers: layers_i, .. }) => {
                    for (layer, layer_i) in layers.iter_mut().zip(layers_i) {
                        layer.w.scaled_add(*weight, &layer_i.w);
                        layer.b.scaled_add(*weight, &layer_i.b);
                    }
                }
                _ => unreachable!("all states of a {} memory are of one kind", memory.kind()),
            }
        }
        mixed
    }

    fn kept(&self, memory: &Memory) -> Vec<Vector> {
        let flat = |m: &Matrix| Vector::from_iter(m.iter().copied());
        match self {
            HeadState::Linear { m, z } => match memory {
                Memory::Linear { normalized: true, .. } => vec![flat(m), z.clone()],
                _ => vec![flat(m)],
            },
            HeadState::Swla { m, .. } | HeadState::GatedDelta { m } => vec![flat(m)],
            HeadState::Mlp { layers, .. } => {
                layers.iter().flat_map(|layer| [flat(&layer.w), layer.b.clone()]).collect()
            }
            HeadState::Attention { .. } => unreachable!("attention has no checkpoints"),
        }
    }

    fn emptied(&self) -> HeadState {
        match self {
            HeadState::Linear { m, z } => {
                HeadState::Linear { m: Matrix::zeros(m.dim()), z: Vector::zeros(z.len()) }
            }
            HeadState::Swla { m, k, v } => HeadState::Swla {
                m: Matrix::zeros(m.dim()),
                k: Vector::zeros(k.len()),
                v: Vector::zeros(v.len()),
            },
            HeadState::GatedDelta { m } => HeadState::GatedDelta { m: Matrix::zeros(m.dim()) },
            HeadState::Attention { .. } => HeadState::attention(),
            HeadState::Mlp { layers, .. } => HeadState::mlp(layers.iter().map(Layer::zeros_like).collect()),
        }
    }
}

/// φ(x) of the linear memory.
fn features(memory: &Memory, x: &Vector) -> Vector {
    let Memory::Linear { feature_map, .. } = memory else { return x.clone() };
    match feature_map {
        FeatureMap::Identity => x.clone(),
        FeatureMap::Elu1 => x.mapv(|x| if x > 0.0 { x + 1.0 } else { x.exp() }),
        FeatureMap::Relu => x.mapv(|x| x.max(0.0)),
    }
}

/// A pass through the MLP.
struct Forward {
    /// Inputs of the layers, `[depth]` of `[in]`.
    inputs: Vec<Vector>,
    /// Outputs of the layers before GELU, `[depth]` of `[out]`.
    sums: Vec<Vector>,
    /// `[dh]`.
    y: Vector,
}

fn forward(deep: &Deep, layers: &[Layer], x: &Vector) -> Forward {
    let (mut inputs, mut sums) = (Vec::new(), Vec::new());
    let mut a = x.clone();
    for (j, layer) in layers.iter().enumerate() {
        let sum = layer.w.dot(&a) + &layer.b;
        let last = j + 1 == layers.len();
        inputs.push(std::mem::replace(&mut a, if last { sum.clone() } else { sum.mapv(gelu) }));
        sums.push(sum);
    }
    let y = if deep.skip { a + x } else { a };
    Forward { inputs, sums, y }
}

/// ∇ℓ with respect to every layer, for the memory M(k) → v.
fn gradient(deep: &Deep, layers: &[Layer], k: &Vector, v: &Vector) -> Vec<Layer> {
    let pass = forward(deep, layers, k);
    let mut delta = match deep.objective {
        Objective::L2 => 2.0 * (pass.y - v),
        Objective::Dot => -v,
    };
    let mut gradient = Vec::new();
    for j in (0..layers.len()).rev() {
        let b = if deep.bias { delta.clone() } else { Vector::zeros(delta.len()) };
        gradient.push(Layer { w: outer(&delta, &pass.inputs[j]), b });
        if j > 0 {
            delta = layers[j].w.t().dot(&delta) * pass.sums[j - 1].mapv(gelu_slope);
        }
    }
    gradient.reverse();
    gradient
}

/// The weights of a GRU or an LSTM, as PyTorch has them.
pub struct Cell {
    /// `[gates · D, D]`.
    pub weight_ih: Matrix,
    /// `[gates · D, D]`.
    pub weight_hh: Matrix,
    /// `[gates · D]`.
    pub bias_ih: Vector,
    /// `[gates · D]`.
    pub bias_hh: Vector,
}

impl Cell {
    /// `torch.nn.GRU`: gates r, z, n.
    pub fn gru(&self, x: &Vector, h: &mut Vector) {
        let d = h.len();
        let from_x = self.weight_ih.dot(x) + &self.bias_ih;
        let from_h = self.weight_hh.dot(&*h) + &self.bias_hh;
        for i in 0..d {
            let r = sigmoid(from_x[i] + from_h[i]);
            let z = sigmoid(from_x[d + i] + from_h[d + i]);
            let n = (from_x[2 * d + i] + r * from_h[2 * d + i]).tanh();
            h[i] = (1.0 - z) * n + z * h[i];
        }
    }

    /// `torch.nn.LSTM`: gates i, f, g, o.
    pub fn lstm(&self, x: &Vector, h: &mut Vector, c: &mut Vector) {
        let d = h.len();
        let gates = self.weight_ih.dot(x) + &self.bias_ih + self.weight_hh.dot(&*h) + &self.bias_hh;
        let gate = |index: usize| gates.slice(s![index * d..(index + 1) * d]);
        Zip::from(&mut *c).and(gate(0)).and(gate(1)).and(gate(2)).for_each(|c, &i, &f, &g| {
            *c = sigmoid(f) * *c + sigmoid(i) * g.tanh();
        });
        Zip::from(h).and(&*c).and(gate(3)).for_each(|h, &c, &o| *h = sigmoid(o) * c.tanh());
    }
}
