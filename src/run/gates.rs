//! `run --gates`: who was read, token by token, in a file.

use anyhow::{Context, Result, bail, ensure};
use mcedge_runtime::BlockGates;
use mcedge_runtime::snapshot::Draft;

use crate::Usage;
use crate::sink::{self, Sink};
use crate::stream::Stream;

/// An `.npy` of `[T, L, H, N + 1]`, for the L blocks that have gates: by age, as [`BlockGates`].
pub struct Gates {
    sink: Sink,
    /// `[L, H, N + 1]` of one token.
    weights: Vec<f32>,
}

impl Gates {
    /// Opens `uri` for the gates of the only stream; behind those that are in it, where there is a snapshot.
    ///
    /// # Errors
    ///
    /// There are no gates, or blocks with other numbers of heads; the file cannot be written or is an input.
    pub fn open(uri: &str, options: &sink::Options, stream: &Stream) -> Result<Self> {
        let shape = shape(stream).with_context(|| format!("--gates {uri}"))?;
        let sink = Sink::array(uri, options, &shape)?;
        Ok(Gates { sink, weights: Vec::with_capacity(shape.iter().product()) })
    }

    /// Takes the gates of the stream's last token.
    pub fn step(&mut self, stream: &Stream) -> Result<()> {
        self.weights.clear();
        stream.gates(0).for_each(|gates| self.weights.extend_from_slice(gates.weights));
        self.sink.step(&self.weights)
    }

    /// As [`Sink::save`].
    pub fn save(&mut self, draft: &mut Draft) -> Result<()> {
        self.sink.save(draft)
    }

    /// As [`Sink::flush`].
    pub fn flush(&mut self) -> Result<()> {
        self.sink.flush()
    }
}

/// `[L, H, N + 1]`.
fn shape(stream: &Stream) -> Result<[usize; 3]> {
    let blocks: Vec<BlockGates<'_>> = stream.gates(0).collect();
    let Some(first) = blocks.first() else {
        let were_asked_for = stream.contract().blocks.iter().any(|block| block.memory.gates);
        bail!(Usage(match were_asked_for {
            true => "no block of the model weighs its checkpoints, so there are none".into(),
            false => "the bundle's graphs do not say who was read: export it with --gates".into(),
        }));
    };
    for other in &blocks {
        ensure!(
            other.heads == first.heads,
            "block {} has {} heads and block {} has {}, expected as many: they go into one array",
            first.block,
            first.heads,
            other.block,
            other.heads,
        );
    }
    Ok([blocks.len(), first.heads, first.weights.len() / first.heads])
}
