//! The fused kernel: one block's memory, written and read, for one stream.
//!
//! What it computes is a [`MemoryFunction`]: per head, each token is written to the online memory, and then the
//! memory and its cached checkpoints are read (DESIGN.md section 3). It replaces the body of an ONNX function in
//! any backend, so nothing in here knows of a graph.
//!
//! A head's tokens are written one after the other and the heads likewise, so a head's part of the cache, which is
//! contiguous, streams by once a token. The least time a token can take is that of reading the state and the live
//! checkpoints once and writing the state once. Of a run of many tokens, blocks read the checkpoints together, as products of
//! matrices, where all are read and each is a matrix or a deep memory.
//!
//! Matrix memories (linear, SWLA, gated delta) are run as the deep memory of one layer that they are: the gradient of
//! ½‖M k‖² with v in the place of M k is v kᵀ. A GRU or an LSTM steps all heads at once, so there tokens go outside and
//! heads inside.

mod ahead;
mod attention;
mod cell;
mod checkpoints;
mod chunk;
mod math;
mod matmul;
mod matvec;
mod ops;
mod parameters;
mod plan;
mod project;
mod read;
mod simd;
mod write;

use std::fmt;

use half::f16;
use mcedge_models::contract::MemoryFunction;

pub use project::{Mixer, MixerWeights, Product, layer_norm};

use plan::{Kind, Plan, Scratch};
use simd::{Simd, Task};

/// The instructions that a kernel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every CPU of the target has.
    Portable,
    /// AVX2, FMA and F16C, on x86-64.
    Avx2,
    /// AVX-512F besides these.
    Avx512,
    /// NEON, on aarch64.
    Neon,
}

impl Isa {
    /// The best that this CPU has.
    pub fn detect() -> Self {
        Self::available().last().unwrap_or(Isa::Portable)
    }

    /// All that this CPU has, from [`Isa::Portable`] to the best.
    pub fn available() -> impl Iterator<Item = Self> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon].into_iter().filter(|isa| isa.is_available())
    }
}

/// For people: `AVX2 + FMA + F16C`.
impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "AVX2 + FMA + F16C",
            Isa::Avx512 => "AVX-512F + AVX2 + FMA + F16C",
            Isa::Neon => "NEON",
        })
    }
}

/// Elements of a cached tensor, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Cells<'a> {
    /// As computed.
    F32(&'a [f32]),
    /// Rounded to half the bytes; each is widened as it is read.
    F16(&'a [f16]),
    /// Rounded to a quarter of the bytes, with what an element of 1 stands for, memory by memory: for a cache
    /// `[H, N, …]`, steps `[H, N]`.
    I8(&'a [i8], &'a [f32]),
}

impl<'a> Cells<'a> {
    /// Elements.
    pub fn len(self) -> usize {
        match self {
            Cells::F32(cells) => cells.len(),
            Cells::F16(cells) => cells.len(),
            Cells::I8(cells, _) => cells.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Where it is, and the bytes of an element.
    #[inline(always)]
    fn memory(self) -> (*const u8, usize) {
        match self {
            Cells::F32(cells) => (cells.as_ptr().cast(), 4),
            Cells::F16(cells) => (cells.as_ptr().cast(), 2),
            Cells::I8(cells, _) => (cells.as_ptr().cast(), 1),
        }
    }

    /// What an element of 1 stands for in the first memory.
    #[inline(always)]
    fn step(self) -> f32 {
        match self {
            Cells::F32(_) | Cells::F16(_) => 1.0,
            Cells::I8(_, steps) => steps[0],
        }
    }

    /// Elements `index * len..` of which there are `len`: all that memory `index` has of this tensor.
    #[inline(always)]
    fn block(self, index: usize, len: usize) -> Cells<'a> {
        self.blocks(index, 1, len)
    }

    /// The [blocks](Cells::block) of `count` memories, from `index` on.
    #[inline(always)]
    fn blocks(self, index: usize, count: usize, len: usize) -> Cells<'a> {
        let part = index * len..(index + count) * len;
        match self {
            Cells::F32(cells) => Cells::F32(&cells[part]),
            Cells::F16(cells) => Cells::F16(&cells[part]),
            Cells::I8(cells, steps) => Cells::I8(&cells[part], &steps[index..index + count]),
        }
    }

    /// `count` rows of `cols` elements, from row `start` on, of a matrix of one memory or with a memory a row.
    #[inline(always)]
    fn rows(self, start: usize, count: usize, cols: usize) -> Cells<'a> {
        match self {
            Cells::I8(cells, steps @ [_]) => Cells::I8(&cells[start * cols..][..count * cols], steps),
            cells => cells.blocks(start, count, cols),
        }
    }
}

/// One stream's tensors for one run over T ≥ 1 tokens, all inside one segment.
///
/// D is d_model, H heads of size dh, N the capacity. What a function does not take is empty.
#[derive(Debug, Default)]
pub struct Run<'a, 'b> {
    /// `[T, D]`.
    pub q: &'a [f32],
    /// `[T, D]`.
    pub k: &'a [f32],
    /// `[T, D]`.
    pub v: &'a [f32],
    /// `[T, D]`, when scores are made with u.
    pub u: &'a [f32],
    /// `[T, G · D]`, of a GRU or an LSTM.
    pub x: &'a [f32],
    /// `[T, H]` each, in the order of the memory's [coefficients](mcedge_models::spec::Memory::coefficients); empty
    /// for a number, and a list shorter than that ends in numbers.
    pub coefficients: &'b [&'a [f32]],
    /// Of a GRU or an LSTM: W_hh `[G · D, D]`.
    pub recurrent_weight: &'a [f32],
    /// b_hh `[G · D]`.
    pub recurrent_bias: &'a [f32],
    /// Of the aggregation `sigmoid`: W_g `[D, 2 D]`.
    pub gate_weight: &'a [f32],
    /// b_g `[D]`.
    pub gate_bias: &'a [f32],
    /// The state before the run, in the order of [`MemoryFunction::tensors`], each `[H, …]`; empty for one that is not
    /// carried.
    pub past: &'b [&'a [f32]],
    /// The state after it, likewise, all of them; what it held does not matter.
    pub present: &'b mut [&'a mut [f32]],
    /// Tokens in the online segment before the run; matters only to scores with mean contexts.
    pub segment_length: usize,
    /// The cached ones of [`MemoryFunction::tensors`], in their order, each `[H, N, …]`.
    pub cache: &'b [Cells<'a>],
    /// Live slots, at most N. Slots beyond are never read.
    pub cache_length: usize,
    /// `[T, D]`: the answer; what it held does not matter.
    pub y: &'b mut [f32],
    /// `[T, H, N + 1]` when the function [has gates](MemoryFunction::has_gates); what it held does not matter.
    pub gates: &'b mut [f32],
    /// `[T, H]` when the function [has a loss](MemoryFunction::has_loss); what it held does not matter.
    pub loss: &'b mut [f32],
}

/// A memory function for one stream at a time, with all memory it needs.
#[derive(Clone, Debug)]
pub struct Kernel {
    isa: Isa,
    plan: Plan,
    scratch: Scratch,
}

impl Kernel {
    /// For caches of `capacity` slots, with the best instructions of this CPU.
    pub fn new(function: &MemoryFunction, capacity: usize) -> Self {
        Self::with_isa(function, capacity, Isa::detect())
    }

    /// As [`Kernel::new`], with these instructions.
    ///
    /// # Panics
    ///
    /// When this CPU has not got them.
    pub fn with_isa(function: &MemoryFunction, capacity: usize, isa: Isa) -> Self {
        assert!(isa.is_available(), "{isa} on a CPU without it");
        let plan = Plan::new(function, capacity);
        let scratch = Scratch::new(&plan);
        Self { isa, plan, scratch }
    }

    /// The instructions it uses.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Bytes of the memory that it works in, all allocated with it.
    pub fn scratch_bytes(&self) -> usize {
        self.scratch.bytes()
    }

    /// Writes and reads the tokens of the run, one after the other. Allocates nothing.
    ///
    /// # Panics
    ///
    /// When a tensor is missing or has another length than the function says.
    pub fn run(&mut self, run: Run<'_, '_>) {
        self.plan.check(&run);
        self.isa.run(RunTask { plan: &self.plan, scratch: &mut self.scratch, run });
    }
}

struct RunTask<'k, 'a, 'b> {
    plan: &'k Plan,
    scratch: &'k mut Scratch,
    run: Run<'a, 'b>,
}

impl Task for RunTask<'_, '_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { plan, scratch, mut run } = self;
        let tokens = run.y.len() / plan.d_model();
        let is_cell = matches!(plan.kind, Kind::Gru | Kind::Lstm);
        let (outer, inner) = if is_cell { (tokens, plan.heads) } else { (plan.heads, tokens) };
        for (i, j) in pairs(outer, inner) {
            let (head, token) = if is_cell { (j, i) } else { (i, j) };
            plan.normalize(simd, scratch, &run, head, token);
            match plan.kind {
                Kind::Layers => write::write(simd, plan, scratch, &mut run, head, token),
                Kind::Gru | Kind::Lstm => cell::write(simd, plan, scratch, &mut run, head, token),
                Kind::Attention { window } => {
                    attention::step(simd, plan, window, scratch, &mut run, head, token);
                    continue;
                }
            }
            match chunk::block_of(plan, &run, token, tokens) {
                Some(count) => chunk::read(simd, plan, scratch, &mut run, head, token, count),
                None => read::read(simd, plan, scratch, &mut run, head, token),
            }
        }
    }
}

/// All (i, j) with i < `outer`, j < `inner`; j runs faster.
#[inline(always)]
fn pairs(outer: usize, inner: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..outer).flat_map(move |i| (0..inner).map(move |j| (i, j)))
}
