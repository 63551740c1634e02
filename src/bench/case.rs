//! A model at a fill: what all of its backends begin with.

use std::path::Path;

use anyhow::{Context, Result};
use mcedge_export::Initializer;
use mcedge_models::Golden;
use mcedge_models::spec::Segmentation;
use mcedge_runtime::snapshot::{Draft, Snapshot};
use mcedge_runtime::{EngineOptions, Model};

use super::input::Inputs;
use super::record::Touched;
use super::{fill, touched};
use crate::stream::{BackendArg, Placement, Stream};
use crate::verify;

/// Tokens whose outputs are held against plain bodies where the streams are filled; a chunk may be longer.
const PROBED: usize = 8;

/// A bundle, its streams with as many checkpoints as are asked for, and what they are given from there on.
pub struct Case {
    pub model: Model,
    pub golden: Golden,
    pub inputs: Inputs,
    /// Checkpoints that are live in each stream.
    pub fill: usize,
    /// Tokens of a stream in a run of the graph.
    pub chunk: usize,
    /// Tokens that each stream has been given at most.
    pub fed: u64,
    /// A snapshot of the streams after that.
    pub saved: Vec<u8>,
    /// Outputs of the next tokens, `[T, B, O]`, as the graph's bodies of standard operations compute them: no kernel is shared
    /// with what is timed.
    pub expected: Vec<f32>,
    pub touched: Touched,
    /// Numbers in the graph.
    pub parameters: u64,
}

impl Case {
    /// Opens the bundle in `directory` and fills its streams, through the chunk graph where there is one, on tract: a snapshot
    /// restores into any backend.
    pub fn new(directory: &Path, fill: usize, chunk: usize, placement: &Placement) -> Result<Self> {
        let model = Model::open(directory)?;
        let golden = verify::read_golden(&directory.join("golden.safetensors"))?;
        let contract = model.contract();
        let inputs = Inputs::like(&golden.input, &contract.input, contract.batch);
        let (weights, parameters): (Vec<Initializer>, u64) = touched::weights(model.step())?;
        let touched = touched::touched(&weights, contract, fill, chunk);
        let on_cpu = Placement { no_chunks: placement.no_chunks, ..Placement::cpu(false, None) };
        let mut stream = Stream::open(&model, BackendArg::Tract, &on_cpu, options(fill))?;
        let fed =
            fill::fill(&mut stream, &inputs, fill).with_context(|| format!("filling {fill} checkpoints"))?;
        let mut draft = Draft::default();
        draft.clear();
        stream.save(&mut draft)?;
        let saved = draft.finish().to_vec();
        let expected = expect(&model, &inputs, (fill, fed), &saved, PROBED.max(chunk))
            .with_context(|| format!("running the plain bodies at {fill} checkpoints"))?;
        Ok(Self { model, golden, inputs, fill, chunk, fed, saved, expected, touched, parameters })
    }

    /// Tokens of the golden run that say nothing of a smaller cache than it was made with: those before a checkpoint goes.
    pub fn golden_tokens(&self) -> usize {
        let contract = self.model.contract();
        let all = self.golden.input.len();
        if self.fill == 0 || self.fill >= contract.capacity {
            return all;
        }
        let kept = match contract.segmentation {
            Segmentation::Constant { size } | Segmentation::Surprise { min_size: size, .. } => {
                size.saturating_mul(self.fill + 1)
            }
            Segmentation::Logarithmic {} => {
                usize::try_from(fill::most_tokens(contract, self.fill + 1)).unwrap_or(usize::MAX)
            }
        };
        all.min(kept)
    }
}

/// What plain bodies on tract make of the `tokens` tokens after those that filled the streams, one by one.
fn expect(
    model: &Model,
    inputs: &Inputs,
    (fill, fed): (usize, u64),
    saved: &[u8],
    tokens: usize,
) -> Result<Vec<f32>> {
    let plain = Placement { no_chunks: true, ..Placement::cpu(true, None) };
    let mut stream = Stream::open(model, BackendArg::Tract, &plain, options(fill))?;
    stream.restore(&Snapshot::parse(saved)?)?;
    let (mut given, mut expected) = (inputs.buffer(), Vec::new());
    for token in 0..tokens as u64 {
        inputs.fill(&mut given, fed + token, 1);
        expected.extend_from_slice(stream.push_batch(&given.samples(model.contract().batch))?);
    }
    Ok(expected)
}

/// No more checkpoints than are to be live: where one goes when one comes, their number stays.
pub fn options(fill: usize) -> EngineOptions {
    EngineOptions { slots: (fill > 0).then_some(fill), ..EngineOptions::default() }
}
