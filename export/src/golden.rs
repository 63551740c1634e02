//! The golden run: what the reference answers to a made-up stream, long enough to overflow the cache.

use std::collections::BTreeMap;

use mcedge_models::contract::MemoryFunction;
use mcedge_models::reference;
use mcedge_models::spec::{Head, Input, Memory, Segmentation, Spec};
use mcedge_models::{Golden, Samples, Tensor, Weights};
use ndarray::{Array2, s};

use crate::contract::exported_function;
use crate::error::{Error, Warning};

/// The longest golden run.
const MAX_TOKENS: usize = 4096;
/// The most multiplications that a golden run may cost, about a second of the reference.
const MAX_WORK: usize = 1 << 29;
/// Activations over this are a model that grows without end: f32 soon overflows there.
const MAX_ACTIVATION: f32 = 1e6;
/// Each weight is moved by this part of itself to see what roundings do: 2⁻²², four of f32's.
const NUDGE: f32 = 1.0 / (1 << 22) as f32;
/// Outputs may move by this much then, relative to max(1, |y|): well inside of what a check of the run tolerates.
const MAX_MOVE: f64 = 3e-5;
/// Segments after the cache is full.
const EXTRA_SEGMENTS: usize = 2;
/// Tokens of a run of logarithmic segments, whose checkpoints are few: by then six have become one.
const LOGARITHMIC_TOKENS: usize = 70;

/// Runs the reference with a cache of `capacity` on features around the model's mean and std, or on tokens of its
/// vocabulary; the same model gives the same run.
///
/// The run replaces at least one checkpoint, unless that takes more than [`MAX_TOKENS`] or [`MAX_WORK`]: then it is as
/// long as they allow and a warning says so. It ends early where rounding alone changes what the model answers.
///
/// # Errors
///
/// [`Error::Reference`], and [`Error::Diverges`] when not even the first output is a number.
pub fn golden(spec: &Spec, weights: &Weights, capacity: usize) -> Result<(Golden, Vec<Warning>), Error> {
    let mut warnings = Vec::new();
    let functions: Vec<MemoryFunction> =
        (0..spec.blocks.len()).map(|i| exported_function(spec, weights, i)).collect();
    let is_cached = functions.iter().any(MemoryFunction::is_cached);
    let needed = overflowing_tokens(spec.segmentation(), if is_cached { capacity } else { 0 });
    let tokens = needed.min(MAX_TOKENS).min(affordable_tokens(spec, &functions, capacity));
    let input = samples(&spec.input, tokens);
    let output = reference::run(spec, weights, input.stream(), Some(capacity))?.mapv(|y| y as f32);
    let finite = rows_within(&output, |y, _| y.is_finite());
    if finite == 0 {
        return Err(Error::Diverges { found: largest(&output) });
    }
    let stable = stable_tokens(spec, weights, &input, capacity, &output)?.clamp(1, finite);
    if stable < tokens {
        warnings.push(Warning::Unstable { tokens: stable });
    } else if tokens < needed && is_cached {
        warnings.push(Warning::GoldenTooShort { tokens, needed });
    }
    let output = output.slice(s![..stable, ..]).to_owned();
    Ok((Golden { input: first(input, stable), output }, warnings))
}

/// The tokens of a run that replaces [`EXTRA_SEGMENTS`] checkpoints of `slots` and ends inside a segment, as far as that
/// can be known: logarithmic segments merge before they overflow all but the smallest cache.
fn overflowing_tokens(segmentation: Segmentation, slots: usize) -> usize {
    let size = match segmentation {
        Segmentation::Constant { size } | Segmentation::Surprise { max_size: size, .. } => size,
        Segmentation::Logarithmic {} => return LOGARITHMIC_TOKENS,
    };
    slots.saturating_add(EXTRA_SEGMENTS).saturating_mul(size).saturating_add(size / 2)
}

/// The most checkpoints that there can be after `t` tokens.
fn most_checkpoints(segmentation: Segmentation, t: usize) -> usize {
    match segmentation {
        Segmentation::Constant { size } | Segmentation::Surprise { min_size: size, .. } => t / size,
        Segmentation::Logarithmic {} => t.count_ones() as usize,
    }
}

/// The longest run within [`MAX_WORK`], one token at least.
fn affordable_tokens(spec: &Spec, functions: &[MemoryFunction], capacity: usize) -> usize {
    let (fixed, checkpoint) = work_of_one_token(spec, functions);
    let mut left = MAX_WORK;
    for t in 0..MAX_TOKENS {
        let live = most_checkpoints(spec.segmentation(), t).min(capacity);
        let work = checkpoint.saturating_mul(live).saturating_add(fixed);
        match left.checked_sub(work) {
            Some(rest) => left = rest,
            None => return t.max(1),
        }
    }
    MAX_TOKENS
}

/// Multiplications of one token, about: those without a checkpoint, and those of each checkpoint.
fn work_of_one_token(spec: &Spec, functions: &[MemoryFunction]) -> (usize, usize) {
    let d = spec.d_model;
    // Five projections, or the two of each gate of a cell.
    let wide = |memory: &Memory| memory.cell_gates().map_or(5, |gates| 2 * gates + 2) * d;
    let layers =
        spec.blocks.iter().map(|block| d * (wide(&block.memory) + 2 * block.mlp.map_or(0, |mlp| mlp.width)));
    let elements = |function: &MemoryFunction, cached: bool| {
        let tensors = function.tensors().into_iter().filter(|tensor| tensor.cached || !cached);
        function.num_heads * tensors.map(|tensor| tensor.shape.iter().product::<usize>()).sum::<usize>()
    };
    let online: usize = functions.iter().map(|function| 4 * elements(function, false)).sum();
    let checkpoint = functions.iter().map(|function| elements(function, true)).sum();
    let ends = d * (spec.input.size() + spec.head.size());
    (layers.sum::<usize>() + online + ends, checkpoint)
}

fn samples(input: &Input, tokens: usize) -> Samples {
    let mut noise = Noise(0x6D63_6564_6765);
    match input {
        Input::Tokens { vocab_size } => {
            let token = |_| (noise.next() % *vocab_size as u64) as i64;
            Samples::Tokens((0..tokens).map(token).collect())
        }
        Input::Features { size, mean, std, .. } => {
            let sample = |(_, channel): (usize, usize)| {
                let at = |list: &[f32], absent| list.get(channel).copied().unwrap_or(absent);
                at(mean, 0.0) + at(std, 1.0) * noise.gaussian()
            };
            Samples::Features(Array2::from_shape_fn((tokens, *size), sample))
        }
    }
}

/// Tokens that f32 and f64 agree on. Memories that learn can be chaotic or grow without end, and a loss near the
/// threshold cuts a segment here and not there: no two ways of computing them then give the same numbers for long.
fn stable_tokens(
    spec: &Spec,
    weights: &Weights,
    input: &Samples,
    capacity: usize,
    output: &Array2<f32>,
) -> Result<usize, Error> {
    let surprises = matches!(spec.segmentation(), Segmentation::Surprise { .. });
    if !surprises && spec.blocks.iter().all(|block| is_tame(&block.memory)) {
        return Ok(output.nrows());
    }
    let run = |spec: &Spec, weights: &Weights| reference::run(spec, weights, input.stream(), Some(capacity));
    let moved = run(spec, &edited(spec, weights, |_| true, nudge)?)?;
    let agrees = |y: f32, at| (f64::from(y) - moved[at]).abs() <= MAX_MOVE * f64::from(y.abs()).max(1.0);
    let stable = rows_within(output, agrees);
    // A final norm hides how large the activations are.
    let bare = Spec { final_norm: false, head: Head::Logits { size: spec.head.size() }, ..spec.clone() };
    let activations = run(&bare, &edited(&bare, weights, |name| !name.starts_with("norm."), |_| {})?)?;
    let bounded = rows_within(&activations.mapv(|y| y as f32), |y, _| y.abs() <= MAX_ACTIVATION);
    Ok(stable.min(bounded))
}

/// Whether a memory cannot feed on itself: its state is a plain sum or bounded, whatever the weights.
fn is_tame(memory: &Memory) -> bool {
    match memory {
        Memory::Linear { .. } | Memory::Attention { .. } | Memory::Gru {} | Memory::Lstm {} => true,
        Memory::Swla { .. } | Memory::GatedDelta { .. } | Memory::Dla(_) | Memory::Titans(_) => false,
    }
}

/// The weights whose names `keep` keeps, changed.
fn edited(
    spec: &Spec,
    weights: &Weights,
    keep: impl Fn(&str) -> bool,
    change: impl Fn(&mut Tensor),
) -> Result<Weights, Error> {
    let kept = weights.iter().filter(|(name, _)| keep(name));
    let mut tensors: BTreeMap<String, Tensor> =
        kept.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    tensors.values_mut().for_each(change);
    Ok(Weights::new(tensors, spec)?)
}

/// Moves every number by a few of f32's roundings, up and down in turn.
fn nudge(tensor: &mut Tensor) {
    let signs = [1.0, -1.0].into_iter().cycle();
    tensor.data.iter_mut().zip(signs).for_each(|(x, sign)| *x *= 1.0 + sign * NUDGE);
}

/// Rows before the first that has a number, at `[row, column]`, which is not `fine`.
fn rows_within(output: &Array2<f32>, fine: impl Fn(f32, [usize; 2]) -> bool) -> usize {
    let rows = output.rows().into_iter().enumerate();
    rows.take_while(|(t, row)| row.iter().enumerate().all(|(i, &y)| fine(y, [*t, i]))).count()
}

/// The number furthest from zero; NaN when there is one.
fn largest(output: &Array2<f32>) -> f32 {
    output.iter().copied().fold(0.0, |largest: f32, y| if y.abs() <= largest.abs() { largest } else { y })
}

fn first(input: Samples, tokens: usize) -> Samples {
    match input {
        Samples::Tokens(ids) => Samples::Tokens(ids[..tokens].to_vec()),
        Samples::Features(rows) => Samples::Features(rows.slice(s![..tokens, ..]).to_owned()),
    }
}

/// The SplitMix64 sequence: the same numbers on every machine.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// About N(0, 1): twelve uniform numbers in [0, 1), less 6.
    fn gaussian(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64).sum();
        (sum - 6.0) as f32
    }
}
