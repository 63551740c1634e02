//! Blocks, and all that stands around them.

use std::collections::VecDeque;

use ndarray::{Array1, ArrayView1, ArrayView3, Axis, s};

use super::ReferenceError;
use super::math::{Matrix, Vector, gelu, layer_norm, rms_norm, sigmoid, unit};
use super::memory::{Cell, Coefficients, HeadState, Layer, State};
use super::read::{self, Checkpoint};
use crate::spec::{self, Aggregation, Coefficient, Context, Init, Input, Memory, Query, Segmentation, Spec};
use crate::tensor::elements;
use crate::weights::Weights;

/// A model in the middle of a stream.
pub struct Model<'a> {
    spec: &'a Spec,
    /// `[V, D]` of `embed`, or `[D, F]` of `input`.
    embed: Matrix,
    /// `[D]`, zeros for tokens.
    embed_bias: Vector,
    blocks: Vec<Block<'a>>,
    final_norm: Norm,
    head: Linear,
}

/// W `[out, in]` and b `[out]`.
struct Linear {
    weight: Matrix,
    bias: Vector,
}

impl Linear {
    fn apply(&self, x: &Vector) -> Vector {
        self.weight.dot(x) + &self.bias
    }
}

enum Norm {
    Layer(Vector, Vector),
    Rms(Vector),
    None,
}

impl Norm {
    fn apply(&self, x: &Vector) -> Vector {
        match self {
            Norm::Layer(weight, bias) => layer_norm(x, weight, bias),
            Norm::Rms(weight) => rms_norm(x, weight),
            Norm::None => x.clone(),
        }
    }
}

/// Tensors of `weights` in f64, by name and expected shape.
struct Source<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl Source<'_> {
    fn data(&self, name: &str, shape: &[usize]) -> Result<Option<Vec<f64>>, ReferenceError> {
        let name = format!("{}{name}", self.prefix);
        match self.weights.get(&name) {
            None => Ok(None),
            Some(tensor) if tensor.shape == shape => {
                Ok(Some(tensor.data.iter().map(|&x| f64::from(x)).collect()))
            }
            Some(_) => Err(ReferenceError::Weights { name, expected: shape.to_vec() }),
        }
    }

    fn required(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>, ReferenceError> {
        self.data(name, shape)?.ok_or_else(|| ReferenceError::Weights {
            name: format!("{}{name}", self.prefix),
            expected: shape.to_vec(),
        })
    }

    fn zeros_when_absent(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>, ReferenceError> {
        Ok(self.data(name, shape)?.unwrap_or_else(|| vec![0.0; elements(shape).unwrap_or_default()]))
    }

    fn vector(&self, name: &str, n: usize) -> Result<Vector, ReferenceError> {
        Ok(Array1::from(self.required(name, &[n])?))
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix, ReferenceError> {
        let data = self.required(name, &[rows, columns])?;
        Ok(Matrix::from_shape_vec((rows, columns), data).expect("data has its shape's length"))
    }

    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, ReferenceError> {
        let weight = self.matrix(&format!("{name}.weight"), outputs, inputs)?;
        Ok(Linear { weight, bias: self.vector(&format!("{name}.bias"), outputs)? })
    }

    fn norm(&self, name: &str, norm: spec::Norm, d: usize) -> Result<Norm, ReferenceError> {
        let weight = || self.vector(&format!("{name}.weight"), d);
        Ok(match norm {
            spec::Norm::LayerNorm => Norm::Layer(weight()?, self.vector(&format!("{name}.bias"), d)?),
            spec::Norm::RmsNorm => Norm::Rms(weight()?),
            spec::Norm::None => Norm::None,
        })
    }
}

impl<'a> Model<'a> {
    pub fn new(spec: &'a Spec, weights: &Weights, capacity: Option<usize>) -> Result<Self, ReferenceError> {
        let mut source = Source { weights, prefix: String::new() };
        let (d, outputs) = (spec.d_model, spec.head.size());
        let (embed, embed_bias) = match spec.input {
            Input::Tokens { vocab_size } => (source.matrix("embed.weight", vocab_size, d)?, Vector::zeros(d)),
            Input::Features { size, .. } => {
                (source.matrix("input.weight", d, size)?, source.vector("input.bias", d)?)
            }
        };
        let norm = if spec.final_norm { spec::Norm::LayerNorm } else { spec::Norm::None };
        let final_norm = source.norm("norm", norm, d)?;
        let bias = source.zeros_when_absent("head.bias", &[outputs])?;
        let head = Linear { weight: source.matrix("head.weight", outputs, d)?, bias: bias.into() };
        let mut blocks = Vec::new();
        for (i, block) in spec.blocks.iter().enumerate() {
            source.prefix = format!("blocks.{i}.");
            blocks.push(Block::new(block, &source, d, capacity)?);
        }
        Ok(Model { spec, embed, embed_bias, blocks, final_norm, head })
    }

    /// The embedding of a token that is in the vocabulary, `[D]`.
    pub fn embed_token(&self, token: usize) -> Vector {
        self.embed.row(token).to_owned()
    }

    /// A sample `[F]` in its channels' units, standardised and projected to `[D]`.
    pub fn embed_sample(&self, sample: ArrayView1<'_, f32>) -> Vector {
        let mut x = sample.mapv(f64::from);
        if let Input::Features { mean, std, .. } = &self.spec.input {
            for (i, x) in x.iter_mut().enumerate() {
                let mean = mean.get(i).map_or(0.0, |&mean| f64::from(mean));
                let std = std.get(i).map_or(1.0, |&std| f64::from(std));
                *x = (*x - mean) / std;
            }
        }
        self.embed.dot(&x) + &self.embed_bias
    }

    /// One token, from its embedding `[D]` to the output `[O]`.
    pub fn step(&mut self, mut x: Vector) -> Vector {
        for block in &mut self.blocks {
            x = block.step(x);
        }
        let y = self.head.apply(&self.final_norm.apply(&x));
        match self.spec.head.scale() {
            Some((mean, std)) => {
                let in_f64 = |list: &[f32]| Vector::from_iter(list.iter().map(|&x| f64::from(x)));
                y * in_f64(std) + in_f64(mean)
            }
            None => y,
        }
    }
}

/// One block in the middle of a stream.
struct Block<'a> {
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
    online: State,
    /// `[H]` of `[dh]`: the sum of the keys of this segment.
    context_sums: Vec<Vector>,
    /// Tokens in this segment.
    segment_length: usize,
    /// Oldest first.
    checkpoints: VecDeque<Checkpoint>,
    capacity: Option<usize>,
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
    fn new(
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
            online: initial.clone(),
            initial,
            context_sums: vec![Vector::zeros(d / spec.num_heads); spec.num_heads],
            segment_length: 0,
            checkpoints: VecDeque::new(),
            capacity,
            spec,
        })
    }

    fn step(&mut self, input: Vector) -> Vector {
        let x = self.norm.apply(&input);
        let y = self.mix(&x);
        let mut x = if self.spec.residual { input + y } else { y };
        if let Some((norm, up, down)) = &self.mlp {
            let hidden = up.apply(&norm.apply(&x)).mapv(gelu);
            x += &down.apply(&hidden);
        }
        x
    }

    /// Write, read, and the segment's end when this token is its last: `[D]` to `[D]`.
    fn mix(&mut self, x: &Vector) -> Vector {
        let (q, k) = (self.heads(&self.mix.q, x, true), self.heads(&self.mix.k, x, true));
        let (v, u) = (self.heads(&self.mix.v, x, false), self.heads(&self.mix.u, x, false));
        self.write(x, &k, &v);
        let y = self.read(&q, &u);
        if let Segmentation::Constant { size } = self.spec.caching.segmentation
            && self.segment_length == size
        {
            self.end_segment();
        }
        match &self.mix.o {
            Some(o) => o.dot(&y),
            None => y,
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
        match &mut self.online {
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
        for (sum, k) in self.context_sums.iter_mut().zip(k) {
            *sum += k;
        }
        self.segment_length += 1;
    }

    fn coefficients(&self, x: &Vector, head: usize) -> Coefficients {
        let values = self.spec.memory.coefficients().into_iter().zip(&self.coefficients);
        let value = |((_, coefficient), linear): ((&str, Coefficient), &Option<Linear>)| match linear {
            Some(linear) => sigmoid(linear.weight.row(head).dot(x) + linear.bias[head]),
            None => f64::from(coefficient.constant().unwrap_or_default()),
        };
        values.map(value).collect()
    }

    fn read(&self, q: &[Vector], u: &[Vector]) -> Vector {
        let online = self.checkpoint();
        let memories: Vec<&Checkpoint> = self.checkpoints.iter().chain([&online]).collect();
        if let Some(gate) = &self.gate {
            return read::sigmoid_gated(&memories, &gate.weight, &gate.bias);
        }
        let caching = &self.spec.caching;
        let scores = if caching.query == Query::Q { q } else { u };
        let mut y = Vec::new();
        for head in 0..self.spec.num_heads {
            y.extend(read::head(&self.spec.memory, caching, &memories, head, &q[head], &scores[head]));
        }
        y.into()
    }

    /// The online memory and the context of its segment so far.
    fn checkpoint(&self) -> Checkpoint {
        let scale = match self.spec.caching.context {
            Context::Sum => 1.0,
            Context::Mean => self.segment_length as f64,
        };
        let contexts = self.context_sums.iter().map(|sum| sum / scale).collect();
        Checkpoint { state: self.online.clone(), contexts }
    }

    fn end_segment(&mut self) {
        let checkpoint = self.checkpoint();
        self.checkpoints.push_back(checkpoint);
        if self.capacity.is_some_and(|capacity| self.checkpoints.len() > capacity) {
            self.checkpoints.pop_front();
        }
        self.context_sums.iter_mut().for_each(|sum| sum.fill(0.0));
        self.segment_length = 0;
        if self.spec.caching.init == Init::Restart {
            self.online = self.initial.clone();
        }
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
