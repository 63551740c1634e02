//! The mixer around a memory: norm and projections before it, output projection and residual after it, for the tokens of
//! many streams at once.
//!
//! A token alone costs the reading of the weights: for one row they stream by in the order of memory, eight rows of W side
//! by side, and y stays close. Many rows share each reading: W is copied strip by strip to where it stays close, and a
//! tile of y is summed in registers.

use mcedge_models::contract::{MemoryFunction, Role};
use mcedge_models::spec::Norm;

use super::simd::{Simd, Task, WIDE};
use super::{Isa, math, matvec, ops};

/// Rows that go together where there are more: as many as share the reading of a weight well, few enough to stay close.
const ROWS: usize = 64;
/// Wide vectors across a strip.
const ACROSS: usize = 2;
/// Columns of a strip.
const STRIP: usize = ACROSS * WIDE;

/// One row of a strip.
type StripRow = [[f32; WIDE]; ACROSS];

/// The weights of a [mixer](mcedge_models::contract::Mixer), those that it has; D is d_model, C the columns of all
/// [projections](MemoryFunction::projected).
#[derive(Clone, Copy, Debug, Default)]
pub struct MixerWeights<'a> {
    /// `[D]`.
    pub norm: &'a [f32],
    /// `[D]`, of a layer norm.
    pub norm_bias: &'a [f32],
    /// `[D, C]`.
    pub projections: &'a [f32],
    /// `[C]`.
    pub projection_bias: &'a [f32],
    /// `[D, D]`.
    pub output: &'a [f32],
}

/// What stands around a memory function's memory, with the room that it works in.
///
/// # Invariants
///
/// `rows` is `[R, D]` and `projected` `[R, C]` for the R of the last [`Mixer::project`]; both grow to the most that
/// there were.
#[derive(Clone, Debug)]
pub struct Mixer {
    norm: Norm,
    output: bool,
    residual: bool,
    d_model: usize,
    parts: Vec<Part>,
    /// h after the norm, then what the memory answers.
    rows: Vec<f32>,
    /// Part by part, each `[R, columns]`.
    projected: Vec<f32>,
    product: Product,
}

/// Products of rows with a matrix, with the room that they work in.
#[derive(Clone, Debug)]
pub struct Product {
    isa: Isa,
    /// `[depth, STRIP]`.
    strip: Box<[StripRow]>,
}

impl Product {
    /// Of rows of `depth`, at least 1, with the best instructions of this CPU.
    pub fn new(depth: usize) -> Self {
        Self { isa: Isa::detect(), strip: vec![StripRow::default(); depth].into_boxed_slice() }
    }

    /// The length of a row.
    pub fn depth(&self) -> usize {
        self.strip.len()
    }

    /// y `[R, C]` = x W for x `[R, depth]`, W `[depth, C]`.
    ///
    /// # Panics
    ///
    /// When these are not their lengths.
    pub fn run(&mut self, x: &[f32], w: &[f32], y: &mut [f32]) {
        let (rows, columns) = (x.len() / self.depth(), w.len() / self.depth());
        assert_eq!(
            (x.len(), w.len(), y.len()),
            (rows * self.depth(), self.depth() * columns, rows * columns),
            "elements of x, W and y"
        );
        y.fill(0.0);
        self.add(x, w, y);
    }

    /// y += x W.
    fn add(&mut self, x: &[f32], w: &[f32], y: &mut [f32]) {
        let columns = w.len() / self.depth();
        let w = Columns { w, stride: columns, first: 0, columns };
        let tiles = Tiles::of(self.isa);
        self.isa.run(ProductTask { x, w, y, strip: &mut self.strip, tiles });
    }
}

/// The layer norm of each row of x `[R, D]` into y, for a weight and a bias `[D]`.
///
/// # Panics
///
/// When these are not their lengths.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, y: &mut [f32]) {
    assert_eq!((x.len(), weight.len()), (y.len(), bias.len()), "elements of y and of the bias");
    assert!(x.is_empty() || x.len().is_multiple_of(weight.len()), "{} in rows of {}", x.len(), weight.len());
    let norm = Normalization { norm: Norm::LayerNorm, epsilon, weight, bias };
    Isa::detect().run(NormTask { norm, x, y });
}

/// One of the projections.
#[derive(Clone, Copy, Debug)]
struct Part {
    role: Role,
    columns: usize,
    /// Columns of the parts before it.
    before: usize,
}

impl Mixer {
    /// Of a function that has one, with the best instructions of this CPU.
    pub fn new(function: &MemoryFunction) -> Option<Self> {
        Self::with_isa(function, Isa::detect())
    }

    /// As [`Mixer::new`], with these instructions.
    ///
    /// # Panics
    ///
    /// When this CPU has not got them.
    pub fn with_isa(function: &MemoryFunction, isa: Isa) -> Option<Self> {
        assert!(isa.is_available(), "{isa} on a CPU without it");
        let mixer = function.mixer?;
        let d_model = function.num_heads * function.head_size;
        let mut before = 0;
        let part = |(role, columns)| {
            let part = Part { role, columns, before };
            before += columns;
            part
        };
        Some(Self {
            norm: mixer.norm,
            output: mixer.output,
            residual: mixer.residual,
            d_model,
            parts: function.projected().into_iter().map(part).collect(),
            rows: Vec::new(),
            projected: Vec::new(),
            product: Product { isa, ..Product::new(d_model) },
        })
    }

    /// How many streams of a batch to [project](Mixer::project) at once, each with a run of `tokens`.
    pub fn streams_at_once(tokens: usize) -> usize {
        (ROWS / tokens.max(1)).max(1)
    }

    /// Bytes of the memory that it works in, once it has run `tokens` tokens of each of `batch` streams.
    pub fn scratch_bytes(&self, batch: usize, tokens: usize) -> usize {
        let rows = batch.min(Self::streams_at_once(tokens)).saturating_mul(tokens);
        let row = (self.d_model + self.columns()) * size_of::<f32>();
        rows.saturating_mul(row).saturating_add(size_of_val(&self.product.strip[..]))
    }

    fn columns(&self) -> usize {
        self.parts.last().map_or(0, |part| part.before + part.columns)
    }

    /// The projections of h `[R, D]`, which [`Mixer::stream`] then gives. Allocates when there were never as many rows.
    ///
    /// # Panics
    ///
    /// When h is not whole rows, or a weight has another length than the function says.
    pub fn project(&mut self, h: &[f32], weights: &MixerWeights<'_>) {
        assert!(h.len().is_multiple_of(self.d_model), "h has {}, d_model is {}", h.len(), self.d_model);
        self.check(weights);
        let rows = h.len() / self.d_model;
        let projected = rows * self.columns();
        resize(&mut self.rows, h.len());
        resize(&mut self.projected, projected);
        self.product.isa.run(ProjectTask { mixer: self, h, weights });
    }

    fn check(&self, weights: &MixerWeights<'_>) {
        let (d, c) = (self.d_model, self.columns());
        let given = |is_there: bool, elements: usize| if is_there { elements } else { 0 };
        assert_eq!(weights.norm.len(), given(self.norm != Norm::None, d), "the norm's weight");
        assert_eq!(weights.norm_bias.len(), given(self.norm == Norm::LayerNorm, d), "the norm's bias");
        assert_eq!(weights.projections.len(), d * c, "the projections");
        assert!([0, c].contains(&weights.projection_bias.len()), "the projections' bias");
        assert_eq!(weights.output.len(), given(self.output, d * d), "the output projection");
    }

    /// What the memory of stream `stream` of those projected takes, by its role, each `[tokens, columns]`; and where it is
    /// to write what it answers, `[tokens, D]`.
    pub fn stream(
        &mut self,
        stream: usize,
        tokens: usize,
    ) -> (impl Iterator<Item = (Role, &[f32])>, &mut [f32]) {
        let Self { d_model, parts, rows, projected, .. } = self;
        let all = rows.len() / *d_model;
        let y = &mut rows[stream * tokens * *d_model..][..tokens * *d_model];
        let projected = &projected[..];
        let of_stream = move |part: &Part| {
            let start = all * part.before + stream * tokens * part.columns;
            (part.role, &projected[start..][..tokens * part.columns])
        };
        (parts.iter().map(of_stream), y)
    }

    /// y `[R, D]`, for the h that was projected and what the memories have answered since.
    ///
    /// # Panics
    ///
    /// When h or y has another length than what was projected, or a weight than the function says.
    pub fn mix(&mut self, h: &[f32], weights: &MixerWeights<'_>, y: &mut [f32]) {
        assert_eq!((h.len(), y.len()), (self.rows.len(), self.rows.len()), "elements of h and of y");
        self.check(weights);
        match (self.residual, self.output) {
            (true, _) => y.copy_from_slice(h),
            (false, true) => y.fill(0.0),
            (false, false) => return y.copy_from_slice(&self.rows),
        }
        if !self.output {
            return y.iter_mut().zip(&self.rows).for_each(|(y, read)| *y += read);
        }
        self.product.add(&self.rows, weights.output, y);
    }
}

/// Of this length, in no more room than that takes.
fn resize(numbers: &mut Vec<f32>, len: usize) {
    numbers.reserve_exact(len.saturating_sub(numbers.len()));
    numbers.resize(len, 0.0);
}

struct ProjectTask<'m, 'a> {
    mixer: &'m mut Mixer,
    h: &'a [f32],
    weights: &'a MixerWeights<'a>,
}

impl Task for ProjectTask<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { mixer, h, weights } = self;
        let (d, stride) = (mixer.d_model, mixer.columns());
        let Mixer { norm, parts, rows, projected, product: Product { isa, strip }, .. } = mixer;
        let (norm, epsilon) = (*norm, norm.epsilon());
        let norm = Normalization { norm, epsilon, weight: weights.norm, bias: weights.norm_bias };
        NormTask { norm, x: h, y: rows }.run(simd);
        let mut rest = &mut projected[..];
        let count = rows.len() / d;
        for part in &*parts {
            let (y, behind) = rest.split_at_mut(count * part.columns);
            match weights.projection_bias.get(part.before..part.before + part.columns) {
                Some(bias) => y.chunks_exact_mut(part.columns).for_each(|y| y.copy_from_slice(bias)),
                None => y.fill(0.0),
            }
            rest = behind;
        }
        if count == 1 {
            // The parts of one row are one row, and W is read as it lies.
            add_row(simd, rows, weights.projections, projected);
        } else {
            let mut rest = &mut projected[..];
            for part in &*parts {
                let (y, behind) = rest.split_at_mut(count * part.columns);
                let w = Columns { w: weights.projections, stride, first: part.before, columns: part.columns };
                add_product(simd, rows, w, y, strip, Tiles::of(*isa));
                rest = behind;
            }
        }
        for part in parts.iter().filter(|part| matches!(part.role, Role::Coefficient(_))) {
            let y = &mut projected[count * part.before..][..count * part.columns];
            y.iter_mut().for_each(|y| *y = math::sigmoid(*y));
        }
    }
}

struct ProductTask<'a> {
    x: &'a [f32],
    w: Columns<'a>,
    y: &'a mut [f32],
    strip: &'a mut [StripRow],
    tiles: Tiles,
}

impl Task for ProductTask<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, w, y, strip, tiles } = self;
        add_product(simd, x, w, y, strip, tiles);
    }
}

/// A norm with its weights, those that it has, `[D]` each.
#[derive(Clone, Copy)]
struct Normalization<'a> {
    norm: Norm,
    epsilon: f32,
    weight: &'a [f32],
    bias: &'a [f32],
}

/// The norm of each row of x into y.
struct NormTask<'a> {
    norm: Normalization<'a>,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Task for NormTask<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Normalization { norm, epsilon, weight, bias } = self.norm;
        if norm == Norm::None || self.x.is_empty() {
            return self.y.copy_from_slice(self.x);
        }
        let d = weight.len();
        for (x, y) in self.x.chunks_exact(d).zip(self.y.chunks_exact_mut(d)) {
            let mean = if norm == Norm::LayerNorm { ops::sum(x) / d as f32 } else { 0.0 };
            for (y, x) in y.iter_mut().zip(x) {
                *y = x - mean;
            }
            let scale = 1.0 / (matvec::dot(simd, y, y) / d as f32 + epsilon).sqrt();
            for (y, weight) in y.iter_mut().zip(weight) {
                *y = *y * scale * weight;
            }
            for (y, bias) in y.iter_mut().zip(bias) {
                *y += bias;
            }
        }
    }
}

/// Some columns of a matrix `[D, stride]`.
#[derive(Clone, Copy)]
struct Columns<'a> {
    w: &'a [f32],
    stride: usize,
    first: usize,
    columns: usize,
}

/// The shape of tiles that fills the registers and no more.
#[derive(Clone, Copy)]
enum Tiles {
    /// Up to 4 rows by a wide vector.
    Narrow,
    /// Up to 8 rows by two, where a wide vector is one of 32 registers.
    Wide,
}

impl Tiles {
    #[inline(always)]
    fn of(isa: Isa) -> Self {
        if isa == Isa::Avx512 { Tiles::Wide } else { Tiles::Narrow }
    }
}

/// y += x W for x `[R, D]`, W `[D, columns]`, y `[R, columns]`; `strip` is room for `[D]`.
#[inline(always)]
fn add_product<S: Simd>(
    simd: S,
    x: &[f32],
    w: Columns<'_>,
    y: &mut [f32],
    strip: &mut [StripRow],
    tiles: Tiles,
) {
    let depth = strip.len();
    if x.len() == depth && w.columns == w.stride {
        return add_row(simd, x, w.w, y);
    }
    for column in (0..w.columns).step_by(STRIP) {
        let width = STRIP.min(w.columns - column);
        pack(simd, w, column, width, strip);
        let tile = Tile { strip, column, width, columns: w.columns };
        match tiles {
            Tiles::Wide => {
                let done = add_tiles::<S, 8, 2>(simd, x, y, 0, tile);
                let done = add_tiles::<S, 4, 2>(simd, x, y, done, tile);
                add_tiles::<S, 1, 2>(simd, x, y, done, tile);
            }
            Tiles::Narrow => {
                let done = add_tiles::<S, 4, 1>(simd, x, y, 0, tile);
                add_tiles::<S, 1, 1>(simd, x, y, done, tile);
            }
        }
    }
}

/// Columns `column..` of W, `width` of them and zeros behind, side by side.
#[inline(always)]
fn pack<S: Simd>(simd: S, w: Columns<'_>, column: usize, width: usize, strip: &mut [StripRow]) {
    /// Rows of W from the one that is copied to one that comes in time.
    const AHEAD: usize = 12;
    let start = w.first + column;
    for (row, to) in w.w.chunks_exact(w.stride).zip(strip) {
        let from = &row[start..start + width];
        let next = from.as_ptr().wrapping_add(AHEAD * w.stride);
        simd.prefetch(next);
        simd.prefetch(next.wrapping_add(WIDE));
        let to = to.as_flattened_mut();
        match from.first_chunk::<STRIP>() {
            Some(from) => to.copy_from_slice(from),
            None => {
                to.fill(0.0);
                to[..width].copy_from_slice(from);
            }
        }
    }
}

/// A strip of W, and where its products go in rows of `columns`.
#[derive(Clone, Copy)]
struct Tile<'a> {
    strip: &'a [StripRow],
    column: usize,
    width: usize,
    columns: usize,
}

/// Adds the products of the rows from `done` on, R at a time while there are R, C wide vectors at a time; how many rows are
/// then done.
#[inline(always)]
fn add_tiles<S: Simd, const R: usize, const C: usize>(
    simd: S,
    x: &[f32],
    y: &mut [f32],
    mut done: usize,
    tile: Tile<'_>,
) -> usize {
    let depth = tile.strip.len();
    let rows = x.len() / depth;
    while done + R <= rows {
        let x = &x[done * depth..][..R * depth];
        let y = &mut y[done * tile.columns..][..R * tile.columns];
        for first in (0..ACROSS).step_by(C) {
            if first * WIDE < tile.width {
                add_tile::<S, R, C>(simd, x, y, first, tile);
            }
        }
        done += R;
    }
    done
}

#[inline(always)]
fn add_tile<S: Simd, const R: usize, const C: usize>(
    simd: S,
    x: &[f32],
    y: &mut [f32],
    first: usize,
    tile: Tile<'_>,
) {
    let depth = tile.strip.len();
    let mut rows: [&[f32]; R] = [&[]; R];
    for (row, x) in rows.iter_mut().zip(x.chunks_exact(depth)) {
        *row = x;
    }
    let mut sums = [[simd.wide_splat(0.0); C]; R];
    for (d, w) in tile.strip.iter().enumerate() {
        for (sums, row) in sums.iter_mut().zip(&rows) {
            let x = simd.wide_splat(row[d]);
            for (c, sum) in sums.iter_mut().enumerate() {
                *sum = simd.wide_mul_add(x, simd.wide_load(&w[first + c]), *sum);
            }
        }
    }
    for (sums, y) in sums.iter().zip(y.chunks_exact_mut(tile.columns)) {
        for (c, sum) in sums.iter().enumerate() {
            let offset = (first + c) * WIDE;
            let Some(width) = tile.width.checked_sub(offset) else { continue };
            add_lanes(simd, *sum, &mut y[tile.column + offset..][..width.min(WIDE)]);
        }
    }
}

/// y += the first lanes of `sum`, as many as y has.
#[inline(always)]
fn add_lanes<S: Simd>(simd: S, sum: S::W, y: &mut [f32]) {
    let one = simd.wide_splat(1.0);
    if let Some(y) = y.first_chunk_mut::<WIDE>() {
        return simd.wide_store(simd.wide_mul_add(simd.wide_load(y), one, sum), y);
    }
    let mut lanes = [0.0; WIDE];
    simd.wide_store(sum, &mut lanes);
    for (y, lane) in y.iter_mut().zip(lanes) {
        *y += lane;
    }
}

/// y += x W for one row x `[D]`, W `[D, columns]`, y `[columns]`.
#[inline(always)]
fn add_row<S: Simd>(simd: S, x: &[f32], w: &[f32], y: &mut [f32]) {
    const DEPTH: usize = 8;
    let columns = y.len();
    let (blocks, rest) = x.as_chunks::<DEPTH>();
    let (full, tail) = w.split_at(blocks.len() * DEPTH * columns);
    for (x, w) in blocks.iter().zip(full.chunks_exact(DEPTH * columns)) {
        add_rows_of_w(simd, x, w, y);
    }
    for (x, w) in rest.iter().zip(tail.chunks_exact(columns)) {
        add_rows_of_w(simd, &[*x], w, y);
    }
}

/// y += x W for K rows of W.
#[inline(always)]
fn add_rows_of_w<S: Simd, const K: usize>(simd: S, x: &[f32; K], w: &[f32], y: &mut [f32]) {
    let columns = y.len();
    let (full, tail) = y.as_chunks_mut::<WIDE>();
    let mut scales = [simd.wide_splat(0.0); K];
    let mut rows: [&[[f32; WIDE]]; K] = [&[]; K];
    for (k, row) in w.chunks_exact(columns).take(K).enumerate() {
        scales[k] = simd.wide_splat(x[k]);
        rows[k] = &row.as_chunks::<WIDE>().0[..full.len()];
    }
    let start = columns - tail.len();
    for (i, y) in full.iter_mut().enumerate() {
        let mut sum = simd.wide_load(y);
        for (scale, row) in scales.iter().zip(&rows) {
            let cells = &row[i];
            simd.prefetch(cells.as_ptr().wrapping_add(K * columns));
            sum = simd.wide_mul_add(*scale, simd.wide_load(cells), sum);
        }
        simd.wide_store(sum, y);
    }
    for (x, row) in x.iter().zip(w.chunks_exact(columns)) {
        for (y, w) in tail.iter_mut().zip(&row[start..]) {
            *y += x * w;
        }
    }
}

#[cfg(test)]
mod tests;
