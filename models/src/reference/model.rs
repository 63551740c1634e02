//! All that stands around the blocks, and the clock that they share.

use ndarray::ArrayView1;

use super::block::Block;
use super::clock::Clock;
use super::math::{Matrix, Vector};
use super::policy::{self, Decision};
use super::source::{Linear, Norm, Source};
use super::{Cache, Gates, ReferenceError};
use crate::spec::{self, Input, Spec};
use crate::weights::{Weights, collapses};

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
    clock: Clock,
    cache: Cache,
    /// Since the start.
    tokens: usize,
}

/// What one token makes of a model.
pub struct Step {
    /// `[O]`.
    pub output: Vector,
    /// Of each block.
    pub gates: Vec<Gates>,
    /// The mean of the blocks' losses; 0 where no segmentation follows it.
    pub loss: f64,
    /// Tokens of the segment that ended with this one.
    pub segment: Option<usize>,
}

impl<'a> Model<'a> {
    pub fn new(spec: &'a Spec, weights: &Weights, cache: Cache) -> Result<Self, ReferenceError> {
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
            let capacity = if collapses(spec, weights, i) { None } else { cache.capacity };
            blocks.push(Block::new(block, &source, d, capacity)?);
        }
        let clock = Clock::new(spec.segmentation());
        Ok(Model { spec, embed, embed_bias, blocks, final_norm, head, clock, cache, tokens: 0 })
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

    /// One token, from its embedding `[D]`.
    pub fn step(&mut self, mut x: Vector) -> Step {
        let (mut losses, mut gates) = (Vec::new(), Vec::new());
        for block in &mut self.blocks {
            let step = block.step(x);
            x = step.y;
            losses.extend(step.loss);
            gates.push(step.gates);
        }
        let loss = losses.iter().sum::<f64>() / losses.len().max(1) as f64;
        let segment = self.clock.tick(loss);
        self.tokens += 1;
        if segment.is_some() {
            self.blocks.iter_mut().for_each(|block| block.end_segment(self.tokens));
            self.make_room();
        }
        Step { output: self.answer(&x), gates, loss, segment }
    }

    /// Does what the policy decides when the blocks whose caches are bounded have one checkpoint too many, all alike.
    fn make_room(&mut self) {
        let is_bounded = |block: &&Block<'_>| block.checkpoints().bound().is_some();
        let bounded: Vec<&Block<'_>> = self.blocks.iter().filter(is_bounded).collect();
        let too_many =
            |block: &&Block<'_>| Some(block.checkpoints().live().len()) > block.checkpoints().bound();
        let Some(first) = bounded.first().filter(|block| too_many(block)) else { return };
        let decision = match first.checkpoints().live().len() {
            1 => Decision::Goes(0),
            _ => policy::decide(self.cache.policy, &bounded),
        };
        for block in self.blocks.iter_mut().filter(|block| is_bounded(&&**block)) {
            match decision {
                Decision::Goes(position) => block.checkpoints_mut().remove(position),
                Decision::Unites(position) => block.checkpoints_mut().unite(position),
            }
        }
    }

    /// The head's answer to the last block's output `[D]`: `[O]`, in its units.
    fn answer(&self, x: &Vector) -> Vector {
        let y = self.head.apply(&self.final_norm.apply(x));
        match self.spec.head.scale() {
            Some((mean, std)) => {
                let in_f64 = |list: &[f32]| Vector::from_iter(list.iter().map(|&x| f64::from(x)));
                y * in_f64(std) + in_f64(mean)
            }
            None => y,
        }
    }
}
