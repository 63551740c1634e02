//! One block: norm, memory, residual and MLP.

use ndarray::{ArrayView3, Axis, s};

use super::checkpoint::{Checkpoint, Checkpoints};
use super::math::{Matrix, Vector, gelu, sigmoid, unit};
use super::memory::{Cell, Coefficients, HeadState, Layer, State};
use super::read;
use super::source::{Linear, Norm, Source};
use super::{Gates, ReferenceError};
use crate::spec::{self, Aggregation, Coefficient, Init, Memory, Query, Segmentation};

/// One block in the middle of a stream.
pub struct Block<'a> {
    spec: &'a spec::Block,
    norm: Norm,
    mix: Mix,
    cell: Option<Cell>,
    /// Of the aggregation `sigmoid`.
    gate: Option<Linear>,
    /// In the order of [`Memory::coefficients`]; `None` for a number.
    coefficients: Vec<Option<Linear>>,
    mlp: Option<(Norm, Linear, Linear)>,
    initial: State,
    online: Checkpoint,
    checkpoints: Checkpoints<'a>,
}

/// What one token makes of a block.
pub struct Step {
    /// `[D]`.
    pub y: Vector,
    /// ℓ at the state before the token, where a segmentation by surprise follows it and the memory has one.
    pub loss: Option<f64>,
    /// Empty where nothing is gated.
    pub gates: Gates,
}

/// The projections, `[D, D]`; `None` where the block has none.
struct Mix {
    q: Option<Matrix>,
    k: Option<Matrix>,
    v: Option<Matrix>,
    u: Option<Matrix>,
    o: Option<Matrix>,
}

impl<'a> Block<'a> {
    pub fn new(
        spec: &'a spec::Block,
        source: &Source<'_>,
        d: usize,
        capacity: Option<usize>,
    ) -> Result<Self, ReferenceError> {
        let linear_of = |(name, coefficient): (&str, Coefficient)| match coefficient {
            Coefficient::Constant(_) => Ok(None),
            Coefficient::Input(_) => source.linear(&format!("memory.{name}"), d, spec.num_heads).map(Some),
        };
        let sigmoid = spec.caching.aggregation == Aggregation::Sigmoid;
        let mlp = match &spec.mlp {
            Some(mlp) => {
                let norm = source.norm("mlp_norm", spec.norm, d)?;
                let up = source.linear("mlp.up", d, mlp.width)?;
                Some((norm, up, source.linear("mlp.down", mlp.width, d)?))
            }
            None => None,
        };
        let initial = initial_state(spec, source, d)?;
        Ok(Block {
            norm: source.norm("norm", spec.norm, d)?,
            mix: mix(spec, source, d)?,
            cell: cell(&spec.memory, source, d)?,
            gate: if sigmoid { Some(source.linear("memory.gate", 2 * d, d)?) } else { None },
            coefficients: spec.memory.coefficients().into_iter().map(linear_of).collect::<Result<_, _>>()?,
            mlp,
            online: Checkpoint::empty(initial.clone(), spec.num_heads, d / spec.num_heads),
            initial,
            checkpoints: Checkpoints::new(spec, capacity),
            spec,
        })
    }

    /// One token, `[D]` to `[D]`.
    pub fn step(&mut self, input: Vector) -> Step {
        let x = self.norm.apply(&input);
        let (y, loss, gates) = self.mix(&x);
        self.checkpoints.add_gates(&gates);
        let mut x = if self.spec.residual { input + y } else { y };
        if let Some((norm, up, down)) = &self.mlp {
            let hidden = up.apply(&norm.apply(&x)).mapv(gelu);
            x += &down.apply(&hidden);
        }
        Step { y: x, loss, gates }
    }

    /// Write and read: `[D]` to `[D]`, the loss before the write, and the gates of the read.
    fn mix(&mut self, x: &Vector) -> (Vector, Option<f64>, Gates) {
        let (q, k) = (self.heads(&self.mix.q, x, true), self.heads(&self.mix.k, x, true));
        let (v, u) = (self.heads(&self.mix.v, x, false), self.heads(&self.mix.u, x, false));
        let loss = self.loss(&k, &v);
        self.write(x, &k, &v);
        let (y, gates) = self.read(&q, &u);
        let y = match &self.mix.o {
            Some(o) => o.dot(&y),
            None => y,
        };
        (y, loss, gates)
    }

    /// The mean of the heads' losses where a segmentation follows it and the memory has one.
    fn loss(&self, k: &[Vector], v: &[Vector]) -> Option<f64> {
        let memory = &self.spec.memory;
        let is_followed = matches!(self.spec.caching.segmentation, Segmentation::Surprise { .. });
        match &self.online.state {
            State::Heads(heads) if is_followed && memory.has_loss() => {
                let losses = heads.iter().zip(k).zip(v).map(|((head, k), v)| head.loss(memory, k, v));
                Some(losses.sum::<f64>() / heads.len() as f64)
            }
            _ => None,
        }
    }

    /// A projection cut into heads, `[H]` of `[dh]`; zeros where the block has none.
    fn heads(&self, weight: &Option<Matrix>, x: &Vector, normalized: bool) -> Vec<Vector> {
        let dh = x.len() / self.spec.num_heads;
        let Some(weight) = weight else { return vec![Vector::zeros(dh); self.spec.num_heads] };
        let projected = weight.dot(x);
        let heads = projected.axis_chunks_iter(Axis(0), dh).map(|head| head.to_owned());
        if normalized && self.spec.normalize_qk {
            heads.map(|head| unit(&head)).collect()
        } else {
            heads.collect()
        }
    }

    fn write(&mut self, x: &Vector, k: &[Vector], v: &[Vector]) {
        let coefficients: Vec<Coefficients> =
            (0..self.spec.num_heads).map(|head| self.coefficients(x, head)).collect();
        match &mut self.online.state {
            State::Heads(states) => {
                for (head, state) in states.iter_mut().enumerate() {
                    state.write(&self.spec.memory, &k[head], &v[head], &coefficients[head]);
                }
            }
            State::Cell { h, c } => match (&self.spec.memory, &self.cell) {
                (Memory::Gru {}, Some(cell)) => cell.gru(x, h),
                (_, Some(cell)) => cell.lstm(x, h, c),
                (_, None) => unreachable!("gru and lstm have a cell"),
            },
        }
        for (sum, k) in self.online.key_sums.iter_mut().zip(k) {
            *sum += k;
        }
        self.online.tokens += 1;
    }

    fn coefficients(&self, x: &Vector, head: usize) -> Coefficients {
        let values = self.spec.memory.coefficients().into_iter().zip(&self.coefficients);
        let value = |((_, coefficient), linear): ((&str, Coefficient), &Option<Linear>)| match linear {
            Some(linear) => sigmoid(linear.weight.row(head).dot(x) + linear.bias[head]),
            None => f64::from(coefficient.constant().unwrap_or_default()),
        };
        values.map(value).collect()
    }

    /// The heads' reads, concatenated, `[D]`, and the gates of each.
    fn read(&self, q: &[Vector], u: &[Vector]) -> (Vector, Gates) {
        let memories: Vec<&Checkpoint> = self.checkpoints.live().iter().chain([&self.online]).collect();
        if let Some(gate) = &self.gate {
            let gates = read::channel_gates(&memories, &gate.weight, &gate.bias);
            return (read::gated_channels(&memories, &gates), self.head_means(&gates));
        }
        let caching = &self.spec.caching;
        let scores = if caching.query == Query::Q { q } else { u };
        let (mut y, mut gates) = (Vec::new(), Gates::new());
        for head in 0..self.spec.num_heads {
            let weights = read::weights(caching, &memories, head, &scores[head]);
            y.extend(read::head(&self.spec.memory, caching, &memories, head, &q[head], &weights));
            gates.extend(caching.aggregation.is_gated().then_some(weights));
        }
        (y.into(), gates)
    }

    /// The mean of every memory's gate `[D]` over each head's channels.
    fn head_means(&self, gates: &[Vector]) -> Gates {
        let dh = self.online.key_sums[0].len();
        let mean = |gate: &Vector, head: usize| gate.slice(s![head * dh..(head + 1) * dh]).sum() / dh as f64;
        (0..self.spec.num_heads).map(|head| gates.iter().map(|gate| mean(gate, head)).collect()).collect()
    }

    /// Keeps a checkpoint of the online memory, which is that of the stream's first `end` tokens, and begins the next
    /// segment.
    pub fn end_segment(&mut self, end: usize) {
        let dh = self.online.key_sums[0].len();
        // Attention's window is of tokens, and goes on through segments' ends.
        let restarts =
            self.spec.caching.init == Init::Restart && !matches!(self.spec.memory, Memory::Attention { .. });
        let state = if restarts { &self.initial } else { &self.online.state }.clone();
        let next = Checkpoint::empty(state, self.spec.num_heads, dh);
        let finished = std::mem::replace(&mut self.online, next);
        self.checkpoints.push(Checkpoint { end, ..finished });
    }

    /// Its checkpoints.
    pub fn checkpoints(&self) -> &Checkpoints<'a> {
        &self.checkpoints
    }

    /// As [`Block::checkpoints`], to change.
    pub fn checkpoints_mut(&mut self) -> &mut Checkpoints<'a> {
        &mut self.checkpoints
    }

    /// The contexts of a checkpoint, head by head; empty where nothing is scored by them.
    pub fn contexts(&self, checkpoint: &Checkpoint) -> Vec<Vector> {
        let caching = &self.spec.caching;
        let heads = if caching.aggregation.is_gated() { self.spec.num_heads } else { 0 };
        (0..heads).map(|head| checkpoint.context(caching.context, head)).collect()
    }

    /// All that a cache keeps of a checkpoint: of every head every tensor, what a gate of it needs, and its context.
    pub fn kept(&self, checkpoint: &Checkpoint) -> Vec<Vector> {
        let heads = self.spec.num_heads;
        let mut kept = self.contexts(checkpoint);
        kept.extend((0..heads).flat_map(|head| checkpoint.state.kept(&self.spec.memory, head, heads)));
        if let Some(gate) = &self.gate
            && let State::Cell { h, .. } = &checkpoint.state
        {
            // The part of W_g [h; h_i] that is h_i's.
            let d = h.len();
            let part = gate.weight.slice(s![.., d..]).dot(h);
            kept.extend(part.axis_chunks_iter(Axis(0), d / heads).map(|head| head.to_owned()));
        }
        kept
    }
}

/// The projections that [`parameters`](crate::parameters) lists.
fn mix(spec: &spec::Block, source: &Source<'_>, d: usize) -> Result<Mix, ReferenceError> {
    let gated = spec.caching.aggregation.is_gated();
    let attends = !spec.memory.is_recurrent();
    let matrix = |name: &str, present: bool| match present {
        true => source.matrix(&format!("mix.{name}.weight"), d, d).map(Some),
        false => Ok(None),
    };
    let has_o = attends || source.data("mix.o.weight", &[d, d])?.is_some();
    Ok(Mix {
        q: matrix("q", attends)?,
        k: matrix("k", attends || gated)?,
        v: matrix("v", attends)?,
        u: matrix("u", gated && spec.caching.query == Query::U)?,
        o: matrix("o", has_o)?,
    })
}

fn cell(memory: &Memory, source: &Source<'_>, d: usize) -> Result<Option<Cell>, ReferenceError> {
    let rows = match memory {
        Memory::Gru {} => 3 * d,
        Memory::Lstm {} => 4 * d,
        _ => return Ok(None),
    };
    Ok(Some(Cell {
        weight_ih: source.matrix("memory.weight_ih", rows, d)?,
        weight_hh: source.matrix("memory.weight_hh", rows, d)?,
        bias_ih: source.vector("memory.bias_ih", rows)?,
        bias_hh: source.vector("memory.bias_hh", rows)?,
    }))
}

fn initial_state(block: &spec::Block, source: &Source<'_>, d: usize) -> Result<State, ReferenceError> {
    let heads = block.num_heads;
    let dh = d / heads;
    let Some(deep) = block.memory.deep() else {
        if block.memory.is_recurrent() {
            return Ok(State::Cell { h: Vector::zeros(d), c: Vector::zeros(d) });
        }
        if let Memory::Attention { .. } = block.memory {
            return Ok(State::Heads(vec![HeadState::attention(); heads]));
        }
        let m = source.zeros_when_absent("memory.init.m", &[heads, dh, dh])?;
        let head = |m: &[f64]| HeadState::matrix(&block.memory, square(m, dh));
        return Ok(State::Heads(m.chunks_exact(dh * dh).map(head).collect()));
    };
    let mut states = vec![Vec::new(); heads];
    for (j, io) in deep.layer_sizes(dh).windows(2).enumerate() {
        let (inputs, outputs) = (io[0], io[1]);
        let w = source.zeros_when_absent(&format!("memory.init.w{}", j + 1), &[heads, outputs, inputs])?;
        let w = ArrayView3::from_shape((heads, outputs, inputs), &w).expect("data has its shape's length");
        let b = match deep.bias {
            true => source.zeros_when_absent(&format!("memory.init.b{}", j + 1), &[heads, outputs])?,
            false => vec![0.0; heads * outputs],
        };
        for (head, layers) in states.iter_mut().enumerate() {
            let b = Vector::from(b[head * outputs..(head + 1) * outputs].to_vec());
            layers.push(Layer { w: w.slice(s![head, .., ..]).to_owned(), b });
        }
    }
    Ok(State::Heads(states.into_iter().map(HeadState::mlp).collect()))
}

fn square(data: &[f64], n: usize) -> Matrix {
    Matrix::from_shape_vec((n, n), data.to_vec()).expect("data has its shape's length")
}
