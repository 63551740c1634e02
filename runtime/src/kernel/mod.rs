//! The fused kernel: one block's memory, written and read, for one stream.
//!
//! What it computes is a [`MemoryFunction`]: per head, each token is written to the online memory, and then the
//! memory and its cached checkpoints are read (DESIGN.md section 3). It replaces the body of an ONNX function in
//! any backend, so nothing in here knows of a graph.
//!
//! A head's tokens are run one after the other and the heads likewise, so a head's part of the cache, which is
//! contiguous, streams by once a token and stays close between the tokens of a chunk. The least time a token can
//! take is that of reading the state and the live checkpoints once and writing the state once.
//!
//! Linear memory is run as the deep memory of one layer that it is: the gradient of ½‖M k‖² with v in the place of
//! M k is v kᵀ.

mod math;
mod ops;
mod parameters;
mod plan;
mod read;
mod simd;
mod write;

use std::fmt;

use half::f16;
use mcedge_models::contract::MemoryFunction;

use plan::{Plan, Scratch};
use simd::{Simd, Task};

/// The instructions that a kernel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every CPU of the target has.
    Portable,
    /// AVX2, FMA and F16C, on x86-64.
    Avx2,
    /// NEON, on aarch64.
    Neon,
}

impl Isa {
    /// The best that this CPU has.
    pub fn detect() -> Self {
        [Isa::Avx2, Isa::Neon].into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// All that this CPU has, [`Isa::Portable`] first.
    pub fn available() -> impl Iterator<Item = Self> {
        [Isa::Portable, Isa::Avx2, Isa::Neon].into_iter().filter(|isa| isa.is_available())
    }
}

/// For people: `AVX2 + FMA + F16C`.
impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "AVX2 + FMA + F16C",
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
}

impl<'a> Cells<'a> {
    /// Elements.
    pub fn len(self) -> usize {
        match self {
            Cells::F32(cells) => cells.len(),
            Cells::F16(cells) => cells.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Elements `index * len..` of which there are `len`.
    #[inline(always)]
    fn block(self, index: usize, len: usize) -> Cells<'a> {
        match self {
            Cells::F32(cells) => Cells::F32(&cells[index * len..][..len]),
            Cells::F16(cells) => Cells::F16(&cells[index * len..][..len]),
        }
    }
}

/// One stream's tensors for one run over T ≥ 1 tokens, all inside one segment.
///
/// D is d_model, H heads of size dh, N the capacity.
#[derive(Debug)]
pub struct Run<'a, 'b> {
    /// `[T, D]`.
    pub q: &'a [f32],
    /// `[T, D]`.
    pub k: &'a [f32],
    /// `[T, D]`.
    pub v: &'a [f32],
    /// `[T, D]`; present exactly when scores are made with u.
    pub u: Option<&'a [f32]>,
    /// The state before the run, in the order of [`MemoryFunction::tensors`], each `[H, …]`.
    pub past: &'b [&'a [f32]],
    /// The state after it, likewise; what it held does not matter.
    pub present: &'b mut [&'a mut [f32]],
    /// Tokens in the online segment before the run; matters only to scores with mean contexts.
    pub segment_length: usize,
    /// The cached ones of [`MemoryFunction::tensors`], in their order, each `[H, N, …]`.
    pub cache: &'b [Cells<'a>],
    /// Live slots, at most N. Slots beyond are never read.
    pub cache_length: usize,
    /// `[T, D]`: the answer; what it held does not matter.
    pub y: &'b mut [f32],
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
    ///
    /// # Panics
    ///
    /// When the function is [unsupported](MemoryFunction::unsupported).
    pub fn new(function: &MemoryFunction, capacity: usize) -> Self {
        Self::with_isa(function, capacity, Isa::detect())
    }

    /// As [`Kernel::new`], with these instructions.
    ///
    /// # Panics
    ///
    /// When this CPU has not got them, or as [`Kernel::new`].
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
        for head in 0..plan.heads {
            for token in 0..tokens {
                plan.normalize(simd, scratch, &run, head, token);
                write::write(simd, plan, scratch, &mut run, head, token);
                read::read(simd, plan, scratch, &mut run, head, token);
            }
        }
    }
}
