//! What a graph gives: which output is what, whether it has the declared size, and whether it is finite.

use mcedge_models::contract::Contract;
use mcedge_models::spec::Segmentation;

use super::gates;
use super::{f32s, part};
use crate::Error;
use crate::backend::{Backend, Buffer, Cells, Element};

/// The exponent's bits of an f32: all are set in an infinity and in a NaN, and in no other.
const EXPONENT: u32 = 0x7f80_0000;

/// The outputs of a graph's last run.
///
/// # Invariants
///
/// - `tensors` has one entry an output of the graph, in the backend's order; every index is one into it.
/// - After [`Outputs::check`] the tensors that `promises` names have the sizes that it says.
pub(super) struct Outputs<T> {
    pub(super) tensors: Vec<T>,
    /// One a state tensor: its `present`.
    pub(super) present: Vec<usize>,
    /// One a cache tensor: what its checkpoints are copied from.
    pub(super) sources: Vec<usize>,
    /// One a gated block: `gates.{i}`.
    pub(super) gates: Vec<usize>,
    output: usize,
    surprise: Option<usize>,
    batch: usize,
    promises: Vec<Promise>,
}

/// An output that leaves the finite or its bound.
pub(super) struct Divergence<'a> {
    pub(super) tensor: &'a str,
    pub(super) stream: usize,
    /// Its norm and the most that it may be, when it is finite.
    pub(super) over: Option<(f32, f32)>,
}

/// What the contract declares of one output.
#[derive(PartialEq)]
struct Promise {
    index: usize,
    name: String,
    /// Elements of one stream, and of one token where there is a row a token.
    elements: usize,
    has_row_a_token: bool,
    is_finite: bool,
}

impl<T: Buffer> Outputs<T> {
    /// Finds the outputs of the contract, and the gates of the blocks `gated`, among those of the graph.
    pub(super) fn new<B: Backend<Tensor = T>>(
        backend: &B,
        contract: &Contract,
        gated: &[usize],
    ) -> Result<Self, Error> {
        let mut promises: Vec<Promise> = Vec::new();
        let mut find = |name: &str, elements: usize, has_row_a_token: bool, is_finite: bool| {
            let found = backend.outputs().iter().position(|output| output == name);
            let index = found.ok_or_else(|| {
                disagree(format!("outputs {:?}", backend.outputs()), format!("output `{name}`"))
            })?;
            let promise = Promise { index, name: name.to_owned(), elements, has_row_a_token, is_finite };
            // A checkpoint of a state tensor is promised twice; two promises that differ cannot both be kept.
            if !promises.contains(&promise) {
                promises.push(promise);
            }
            Ok::<_, Error>(index)
        };
        // The memories before what is read from them: what diverges is named by where it began.
        let rest = |shape: &[usize]| shape.iter().product::<usize>() / contract.batch;
        let present =
            contract.state.iter().map(|state| find(&state.present, rest(&state.shape), false, true));
        let present = present.collect::<Result<_, _>>()?;
        let sources = contract
            .cache
            .iter()
            .map(|cache| find(&cache.from, rest(&cache.shape) / contract.capacity, false, true));
        let sources = sources.collect::<Result<_, _>>()?;
        let surprise = match contract.segmentation {
            Segmentation::Surprise { .. } => Some(find("surprise", 1, true, true)?),
            Segmentation::Constant { .. } | Segmentation::Logarithmic {} => None,
        };
        let gates = gated
            .iter()
            .map(|&block| find(&gates::name(block), gates::elements(contract, block), true, false));
        let gates = gates.collect::<Result<_, _>>()?;
        let output = find("output", contract.output.size, true, true)?;
        let zeros = |(index, _)| match index == output {
            true => backend.zeros(Element::F32, &[contract.batch, 1, contract.output.size]),
            false => backend.zeros(Element::F32, &[1]),
        };
        let tensors = backend.outputs().iter().enumerate().map(zeros).collect::<Result<_, _>>()?;
        Ok(Self { tensors, present, sources, gates, output, surprise, batch: contract.batch, promises })
    }

    /// Whether the outputs of a run of `tokens` tokens have the contract's sizes: a graph that lies about them must not
    /// reach the state.
    pub(super) fn check(&self, tokens: usize) -> Result<(), Error> {
        for promise in &self.promises {
            let Promise { index, name, .. } = promise;
            let expected = self.batch * promise.elements * if promise.has_row_a_token { tokens } else { 1 };
            match self.tensors[*index].cells() {
                Cells::F32(cells) if cells.len() == expected => {}
                Cells::F32(cells) => {
                    return Err(disagree(
                        format!("{} values in `{name}`", cells.len()),
                        expected.to_string(),
                    ));
                }
                _ => return Err(disagree(format!("`{name}` of another type"), "f32".into())),
            }
        }
        Ok(())
    }

    /// What is wrong with the first output that has a number which is not finite or, with a bound, a larger norm, in one
    /// of the streams that are `active`, `[B]`.
    ///
    /// The norm is the Euclidean one of a stream's part of a tensor; of `output`, of each token's row.
    pub(super) fn diverges(&self, active: &[bool], max_norm: Option<f32>) -> Option<Divergence<'_>> {
        self.promises.iter().filter(|promise| promise.is_finite).find_map(|promise| {
            let cells = f32s(&self.tensors[promise.index]);
            if max_norm.is_none() && all_finite(cells) {
                return None;
            }
            let over = |stream: usize| {
                let part = part(cells, stream, self.batch);
                if !active[stream] {
                    return None;
                }
                if !all_finite(part) {
                    return Some(None);
                }
                let most = max_norm?;
                let row = if promise.has_row_a_token { promise.elements } else { part.len() };
                let norms = part.chunks_exact(row.max(1)).map(norm);
                norms.reduce(f32::max).filter(|norm| *norm > most).map(|norm| Some((norm, most)))
            };
            let found = |stream| Some(Divergence { tensor: &promise.name, stream, over: over(stream)? });
            (0..self.batch).find_map(found)
        })
    }

    /// `[B, T, O]`.
    pub(super) fn output(&self) -> &[f32] {
        f32s(&self.tensors[self.output])
    }

    /// The losses of a stream's tokens, `[T]`, under surprise; else empty.
    pub(super) fn losses(&self, stream: usize) -> &[f32] {
        self.surprise.map_or(&[], |index| part(f32s(&self.tensors[index]), stream, self.batch))
    }
}

/// Whether every number is finite. It never stops early, so that it vectorises.
pub(super) fn all_finite(cells: &[f32]) -> bool {
    cells.iter().fold(0, |bad, cell| bad | u32::from(cell.to_bits() & EXPONENT == EXPONENT)) == 0
}

/// ‖cells‖₂, infinite where its square is past f32.
fn norm(cells: &[f32]) -> f32 {
    // Lanes of their own, so that it vectorises.
    let mut sums = [0.0; 8];
    let (chunks, rest) = cells.as_chunks::<8>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, cell)| *sum += cell * cell);
    }
    (sums.iter().sum::<f32>() + rest.iter().map(|cell| cell * cell).sum::<f32>()).sqrt()
}

fn disagree(found: String, expected: String) -> Error {
    Error::Graph { found, expected }
}
