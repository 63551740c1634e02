//! Eight and sixteen lanes of f32 on each instruction set.
//!
//! An implementation of [`Simd`] is a token: a value of it exists only where the CPU has been asked and has the
//! instructions, so its methods are safe to call. Everything generic over a token is `#[inline(always)]`: it has
//! to end up inside the one function that carries `#[target_feature]`, or the instructions would not be used.

use half::f16;

use super::Isa;

/// Lanes of a vector, on every instruction set.
pub(super) const LANES: usize = 8;

/// Lanes of a wide vector, on every instruction set.
pub(super) const WIDE: usize = 2 * LANES;

/// Vectors of [`LANES`] f32, and of [`WIDE`].
pub(super) trait Simd: Copy {
    /// A vector.
    type V: Copy;
    /// A wide vector: one register where there is one so wide, else several.
    type W: Copy;
    /// Whether a wide vector is one register: loops that have the choice go by wide vectors then.
    const IS_WIDE: bool = false;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// The lanes of `x`.
    fn load(self, x: &[f32; LANES]) -> Self::V;
    /// The lanes of `x`, exactly, as f32.
    fn load_f16(self, x: &[f16; LANES]) -> Self::V;
    /// The lanes of `x`, exactly, as f32.
    fn load_i8(self, x: &[i8; LANES]) -> Self::V;
    /// Writes the lanes to `x`.
    fn store(self, v: Self::V, x: &mut [f32; LANES]);
    /// a · b.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once or twice.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The sum over each vector's lanes: lane r of the answer is that of `v[r]`.
    fn sum_each(self, v: [Self::V; LANES]) -> Self::V;
    /// The sum over the lanes.
    fn sum(self, v: Self::V) -> f32;

    /// All lanes `x`.
    fn wide_splat(self, x: f32) -> Self::W;
    /// The lanes of `x`.
    fn wide_load(self, x: &[f32; WIDE]) -> Self::W;
    /// The lanes of `x`, exactly, as f32.
    fn wide_load_f16(self, x: &[f16; WIDE]) -> Self::W;
    /// The lanes of `x`, exactly, as f32.
    fn wide_load_i8(self, x: &[i8; WIDE]) -> Self::W;
    /// Writes the lanes to `x`.
    fn wide_store(self, w: Self::W, x: &mut [f32; WIDE]);
    /// a · b.
    fn wide_mul(self, a: Self::W, b: Self::W) -> Self::W;
    /// a · b + c, rounded once or twice.
    fn wide_mul_add(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W;
    /// The first eight lanes plus the last eight.
    fn wide_fold(self, w: Self::W) -> Self::V;

    /// Runs the task as a function of its own, on the same instructions: what many places share is compiled once.
    fn apart(self, task: impl Task);

    /// Asks for the cache line that `x` begins in to be brought near. It changes nothing that can be seen but time, so
    /// `x` may point anywhere.
    fn prefetch<T>(self, x: *const T);
}

/// The wide half of [`Simd`], of two vectors side by side.
macro_rules! wide_is_a_pair {
    () => {
        type W = [Self::V; 2];

        #[inline(always)]
        fn wide_splat(self, x: f32) -> Self::W {
            [self.splat(x); 2]
        }

        #[inline(always)]
        fn wide_load(self, x: &[f32; WIDE]) -> Self::W {
            let [low, high] = halves(x);
            [self.load(low), self.load(high)]
        }

        #[inline(always)]
        fn wide_load_f16(self, x: &[f16; WIDE]) -> Self::W {
            let [low, high] = halves(x);
            [self.load_f16(low), self.load_f16(high)]
        }

        #[inline(always)]
        fn wide_load_i8(self, x: &[i8; WIDE]) -> Self::W {
            let [low, high] = halves(x);
            [self.load_i8(low), self.load_i8(high)]
        }

        #[inline(always)]
        fn wide_store(self, w: Self::W, x: &mut [f32; WIDE]) {
            let (halves, _) = x.as_chunks_mut::<LANES>();
            self.store(w[0], &mut halves[0]);
            self.store(w[1], &mut halves[1]);
        }

        #[inline(always)]
        fn wide_mul(self, a: Self::W, b: Self::W) -> Self::W {
            [self.mul(a[0], b[0]), self.mul(a[1], b[1])]
        }

        #[inline(always)]
        fn wide_mul_add(self, a: Self::W, b: Self::W, c: Self::W) -> Self::W {
            [self.mul_add(a[0], b[0], c[0]), self.mul_add(a[1], b[1], c[1])]
        }

        #[inline(always)]
        fn wide_fold(self, w: Self::W) -> Self::V {
            self.mul_add(w[0], self.splat(1.0), w[1])
        }
    };
}

/// The first and the last eight.
#[inline(always)]
fn halves<T>(x: &[T; WIDE]) -> [&[T; LANES]; 2] {
    let (halves, _) = x.as_chunks::<LANES>();
    [&halves[0], &halves[1]]
}

/// Work that is the same on every instruction set, up to rounding.
pub(super) trait Task {
    /// Does the work; `#[inline(always)]`, as everything it calls with the token.
    fn run<S: Simd>(self, simd: S);
}

impl Isa {
    /// Runs the task on these instructions.
    ///
    /// # Panics
    ///
    /// When the CPU has not got them.
    pub(super) fn run(self, task: impl Task) {
        match self {
            Isa::Portable => task.run(Portable),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                let token = x86::Avx2::new().expect("a CPU with AVX2, FMA and F16C");
                // SAFETY: the token proves that the CPU has the features of the function.
                unsafe { x86::run(token, task) }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                let token = x86::Avx512::new().expect("a CPU with AVX-512F, AVX2, FMA and F16C");
                // SAFETY: the token proves that the CPU has the features of the function.
                unsafe { x86::run_wide(token, task) }
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => {
                let token = arm::Neon::new().expect("a CPU with NEON");
                // SAFETY: the token proves that the CPU has the features of the function.
                unsafe { arm::run(token, task) }
            }
            #[allow(unreachable_patterns)]
            _ => panic!("{self} on another architecture"),
        }
    }

    /// Whether this CPU has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::Avx512::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => arm::Neon::new().is_some(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }
}

/// Plain Rust, on any CPU.
#[derive(Clone, Copy)]
struct Portable;

impl Simd for Portable {
    type V = [f32; LANES];
    wide_is_a_pair!();

    #[inline(never)]
    fn apart(self, task: impl Task) {
        task.run(self);
    }

    #[inline(always)]
    fn prefetch<T>(self, _: *const T) {}

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        *x
    }

    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::V {
        let mut v = [0.0; LANES];
        for (v, x) in v.iter_mut().zip(x) {
            *v = widen(*x);
        }
        v
    }

    #[inline(always)]
    fn load_i8(self, x: &[i8; LANES]) -> Self::V {
        x.map(f32::from)
    }

    #[inline(always)]
    fn store(self, v: Self::V, x: &mut [f32; LANES]) {
        *x = v;
    }

    #[inline(always)]
    fn mul(self, mut a: Self::V, b: Self::V) -> Self::V {
        for (a, b) in a.iter_mut().zip(b) {
            *a *= b;
        }
        a
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, mut c: Self::V) -> Self::V {
        // Not `f32::mul_add`: without FMA that is a library call.
        for ((a, b), c) in a.iter().zip(b).zip(&mut c) {
            *c += a * b;
        }
        c
    }

    #[inline(always)]
    fn sum_each(self, v: [Self::V; LANES]) -> Self::V {
        v.map(|v| self.sum(v))
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]))
    }
}

/// As `f16::to_f32`, without branches, so that a loop over it becomes vector code.
#[inline(always)]
fn widen(x: f16) -> f32 {
    /// 2 to the difference of the two types' exponent biases.
    const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    let bits = u32::from(x.to_bits());
    let magnitude = bits & 0x7fff;
    // The product is exact, for subnormal numbers as well; infinity and NaN alone need their own exponent.
    let finite = f32::from_bits(magnitude << 13) * REBIAS;
    let exponent = if magnitude >= 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(finite.to_bits() | exponent | (bits & 0x8000) << 16)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::f16;

    use super::{LANES, Simd, Task, WIDE, halves};

    /// The CPU has AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(super) struct Avx2(());

    impl Avx2 {
        pub(super) fn new() -> Option<Self> {
            let available = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            available.then_some(Self(()))
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline(never)]
    pub(super) fn run(token: Avx2, task: impl Task) {
        task.run(token);
    }

    /// The CPU has AVX-512F, and what [`Avx2`] says.
    #[derive(Clone, Copy)]
    pub(super) struct Avx512(Avx2);

    impl Avx512 {
        pub(super) fn new() -> Option<Self> {
            Avx2::new().filter(|_| is_x86_feature_detected!("avx512f")).map(Self)
        }
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline(never)]
    pub(super) fn run_wide(token: Avx512, task: impl Task) {
        task.run(token);
    }

    impl Simd for Avx2 {
        type V = __m256;
        wide_is_a_pair!();

        #[inline(always)]
        fn apart(self, task: impl Task) {
            // SAFETY: the token proves that the CPU has the features of the function.
            unsafe { run(self, task) }
        }

        #[inline(always)]
        fn prefetch<T>(self, x: *const T) {
            // SAFETY: a prefetch faults nowhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(x.cast()) }
        }

        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            // SAFETY: the token proves AVX.
            unsafe { _mm256_set1_ps(x) }
        }

        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> __m256 {
            // SAFETY: the token proves AVX; `x` is 32 readable bytes, and an unaligned load asks no more.
            unsafe { _mm256_loadu_ps(x.as_ptr()) }
        }

        #[inline(always)]
        fn load_f16(self, x: &[f16; LANES]) -> __m256 {
            // SAFETY: the token proves F16C; `x` is 16 readable bytes, and an unaligned load asks no more.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())) }
        }

        #[inline(always)]
        fn load_i8(self, x: &[i8; LANES]) -> __m256 {
            // SAFETY: the token proves AVX2; `x` is eight readable bytes, and the load asks no alignment.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(x.as_ptr().cast()))) }
        }

        #[inline(always)]
        fn store(self, v: __m256, x: &mut [f32; LANES]) {
            // SAFETY: the token proves AVX; `x` is 32 writable bytes, and an unaligned store asks no more.
            unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v) }
        }

        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: the token proves AVX.
            unsafe { _mm256_mul_ps(a, b) }
        }

        #[inline(always)]
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: the token proves FMA.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }

        /// A tree of horizontal adds: each leaves the sums of four vectors side by side, half by half.
        #[inline(always)]
        fn sum_each(self, v: [__m256; LANES]) -> __m256 {
            // SAFETY: the token proves AVX.
            unsafe {
                let low = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
                let high = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
                let first_halves = _mm256_permute2f128_ps::<0x20>(low, high);
                let second_halves = _mm256_permute2f128_ps::<0x31>(low, high);
                _mm256_add_ps(first_halves, second_halves)
            }
        }

        #[inline(always)]
        fn sum(self, v: __m256) -> f32 {
            // SAFETY: the token proves AVX.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
    }

    /// Eight lanes are those of [`Avx2`]; sixteen are a register of their own.
    impl Simd for Avx512 {
        type V = __m256;
        type W = __m512;
        const IS_WIDE: bool = true;

        #[inline(always)]
        fn apart(self, task: impl Task) {
            // SAFETY: the token proves that the CPU has the features of the function.
            unsafe { run_wide(self, task) }
        }

        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            self.0.splat(x)
        }

        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> __m256 {
            self.0.load(x)
        }

        #[inline(always)]
        fn load_f16(self, x: &[f16; LANES]) -> __m256 {
            self.0.load_f16(x)
        }

        #[inline(always)]
        fn load_i8(self, x: &[i8; LANES]) -> __m256 {
            self.0.load_i8(x)
        }

        #[inline(always)]
        fn store(self, v: __m256, x: &mut [f32; LANES]) {
            self.0.store(v, x);
        }

        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            self.0.mul(a, b)
        }

        #[inline(always)]
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            self.0.mul_add(a, b, c)
        }

        #[inline(always)]
        fn sum_each(self, v: [__m256; LANES]) -> __m256 {
            self.0.sum_each(v)
        }

        #[inline(always)]
        fn sum(self, v: __m256) -> f32 {
            self.0.sum(v)
        }

        #[inline(always)]
        fn wide_splat(self, x: f32) -> __m512 {
            // SAFETY: the token proves AVX-512F.
            unsafe { _mm512_set1_ps(x) }
        }

        #[inline(always)]
        fn wide_load(self, x: &[f32; WIDE]) -> __m512 {
            // SAFETY: the token proves AVX-512F; `x` is 64 readable bytes, and an unaligned load asks no more.
            unsafe { _mm512_loadu_ps(x.as_ptr()) }
        }

        #[inline(always)]
        fn wide_load_f16(self, x: &[f16; WIDE]) -> __m512 {
            // Not `_mm512_cvtph_ps`, which suppresses exceptions, and so cannot be one instruction with the load.
            // SAFETY: the token proves AVX-512F; `x` is 32 readable bytes, and an unaligned load asks no more.
            unsafe {
                let cells = _mm256_loadu_si256(x.as_ptr().cast());
                _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(cells)
            }
        }

        #[inline(always)]
        fn wide_load_i8(self, x: &[i8; WIDE]) -> __m512 {
            // SAFETY: the token proves AVX-512F; `x` is 16 readable bytes, and an unaligned load asks no more.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
        }

        #[inline(always)]
        fn wide_store(self, w: __m512, x: &mut [f32; WIDE]) {
            // SAFETY: the token proves AVX-512F; `x` is 64 writable bytes, and an unaligned store asks no more.
            unsafe { _mm512_storeu_ps(x.as_mut_ptr(), w) }
        }

        #[inline(always)]
        fn wide_mul(self, a: __m512, b: __m512) -> __m512 {
            // SAFETY: the token proves AVX-512F.
            unsafe { _mm512_mul_ps(a, b) }
        }

        #[inline(always)]
        fn wide_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the token proves AVX-512F.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        fn wide_fold(self, w: __m512) -> __m256 {
            // SAFETY: the token proves AVX-512F, and AVX.
            unsafe {
                let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(w));
                _mm256_add_ps(_mm512_castps512_ps256(w), _mm256_castpd_ps(high))
            }
        }

        #[inline(always)]
        fn prefetch<T>(self, x: *const T) {
            self.0.prefetch(x);
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;

    use half::f16;

    use super::{LANES, Simd, Task, WIDE, halves};

    /// The CPU has NEON.
    #[derive(Clone, Copy)]
    pub(super) struct Neon(());

    impl Neon {
        pub(super) fn new() -> Option<Self> {
            std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
        }
    }

    #[target_feature(enable = "neon")]
    #[inline(never)]
    pub(super) fn run(token: Neon, task: impl Task) {
        task.run(token);
    }

    /// Eight lanes are a pair of registers, lanes 0..4 and 4..8.
    impl Simd for Neon {
        type V = [float32x4_t; 2];
        wide_is_a_pair!();

        #[inline(always)]
        fn apart(self, task: impl Task) {
            // SAFETY: the token proves that the CPU has the features of the function.
            unsafe { run(self, task) }
        }

        /// By hand, for there is no intrinsic in stable Rust.
        #[inline(always)]
        fn prefetch<T>(self, x: *const T) {
            // SAFETY: a prefetch faults nowhere, and writes no register.
            unsafe { asm!("prfm pldl1keep, [{}]", in(reg) x, options(readonly, nostack, preserves_flags)) }
        }

        #[inline(always)]
        fn splat(self, x: f32) -> Self::V {
            // SAFETY: the token proves NEON.
            unsafe { [vdupq_n_f32(x); 2] }
        }

        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Self::V {
            // SAFETY: the token proves NEON; `x` is eight readable f32.
            unsafe { [vld1q_f32(x.as_ptr()), vld1q_f32(x.as_ptr().add(4))] }
        }

        /// By hand, for `vcvt_f32_f16` came to stable Rust later than the oldest compiler this builds with. The
        /// instructions belong to the base architecture; only arithmetic in f16 is an extension.
        #[inline(always)]
        fn load_f16(self, x: &[f16; LANES]) -> Self::V {
            // SAFETY: the token proves NEON; `x` is eight readable 16-bit words; the instructions read and write
            // the named registers alone.
            unsafe {
                let cells = vld1q_u16(x.as_ptr().cast());
                let (low, high): (float32x4_t, float32x4_t);
                asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) low, in(vreg) cells,
                     options(pure, nomem, nostack, preserves_flags));
                asm!("fcvtl2 {0:v}.4s, {1:v}.8h", out(vreg) high, in(vreg) cells,
                     options(pure, nomem, nostack, preserves_flags));
                [low, high]
            }
        }

        #[inline(always)]
        fn load_i8(self, x: &[i8; LANES]) -> Self::V {
            // SAFETY: the token proves NEON; `x` is eight readable bytes.
            unsafe {
                let words = vmovl_s8(vld1_s8(x.as_ptr()));
                [vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_high_s16(words))]
            }
        }

        #[inline(always)]
        fn store(self, v: Self::V, x: &mut [f32; LANES]) {
            // SAFETY: the token proves NEON; `x` is eight writable f32.
            unsafe {
                vst1q_f32(x.as_mut_ptr(), v[0]);
                vst1q_f32(x.as_mut_ptr().add(4), v[1]);
            }
        }

        #[inline(always)]
        fn mul(self, a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: the token proves NEON.
            unsafe { [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])] }
        }

        #[inline(always)]
        fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: the token proves NEON.
            unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
        }

        /// A tree of pairwise adds.
        #[inline(always)]
        fn sum_each(self, v: [Self::V; LANES]) -> Self::V {
            // SAFETY: the token proves NEON.
            unsafe {
                let four = v.map(|v| vaddq_f32(v[0], v[1]));
                let low = vpaddq_f32(vpaddq_f32(four[0], four[1]), vpaddq_f32(four[2], four[3]));
                let high = vpaddq_f32(vpaddq_f32(four[4], four[5]), vpaddq_f32(four[6], four[7]));
                [low, high]
            }
        }

        #[inline(always)]
        fn sum(self, v: Self::V) -> f32 {
            // SAFETY: the token proves NEON.
            unsafe { vaddvq_f32(vaddq_f32(v[0], v[1])) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Widen<'a> {
        from: [f16; LANES],
        to: &'a mut [f32; LANES],
    }

    impl Task for Widen<'_> {
        fn run<S: Simd>(self, simd: S) {
            simd.store(simd.load_f16(&self.from), self.to);
        }
    }

    struct WidenBytes<'a> {
        from: [i8; LANES],
        to: &'a mut [f32; LANES],
    }

    impl Task for WidenBytes<'_> {
        fn run<S: Simd>(self, simd: S) {
            simd.store(simd.load_i8(&self.from), self.to);
        }
    }

    /// The wide operations on a pattern: (x · y + x) · x folded, and the exact widenings.
    struct Wide<'a> {
        halves: [f16; WIDE],
        bytes: [i8; WIDE],
        x: [f32; WIDE],
        to: &'a mut [[f32; WIDE]; 3],
        folded: &'a mut [f32; LANES],
    }

    impl Task for Wide<'_> {
        fn run<S: Simd>(self, simd: S) {
            simd.prefetch(self.x.as_ptr());
            let x = simd.wide_load(&self.x);
            let sum = simd.wide_mul(simd.wide_mul_add(x, simd.wide_splat(3.0), x), x);
            simd.store(simd.wide_fold(sum), self.folded);
            simd.wide_store(sum, &mut self.to[0]);
            simd.wide_store(simd.wide_load_f16(&self.halves), &mut self.to[1]);
            simd.wide_store(simd.wide_load_i8(&self.bytes), &mut self.to[2]);
        }
    }

    #[test]
    fn wide_vectors_are_sixteen_lanes_in_their_order() {
        for isa in Isa::available() {
            let x: [f32; WIDE] = std::array::from_fn(|lane| lane as f32 - 5.0);
            let (mut to, mut folded) = ([[0.0; WIDE]; 3], [0.0; LANES]);
            let halves = x.map(f16::from_f32);
            let bytes = x.map(|x| (x * 8.0) as i8);
            isa.run(Wide { halves, bytes, x, to: &mut to, folded: &mut folded });
            let expected = x.map(|x| 4.0 * x * x);
            assert_eq!(to, [expected, x, x.map(|x| x * 8.0)], "{isa}");
            let sums = std::array::from_fn(|lane| expected[lane] + expected[lane + LANES]);
            assert_eq!(folded, sums, "{isa}");
        }
    }

    #[test]
    fn every_i8_is_widened_exactly() {
        for isa in Isa::available() {
            for start in i8::MIN..=i8::MAX - 7 {
                let from = std::array::from_fn(|lane| start + lane as i8);
                let mut widened = [0.0; LANES];
                isa.run(WidenBytes { from, to: &mut widened });
                assert_eq!(widened, from.map(f32::from), "{isa}");
            }
        }
    }

    #[test]
    fn every_f16_is_widened_exactly() {
        for isa in Isa::available() {
            for bits in 0..=u16::MAX {
                let (x, mut widened) = (f16::from_bits(bits), [0.0; LANES]);
                isa.run(Widen { from: [x; LANES], to: &mut widened });
                let same =
                    |found: &f32| found.to_bits() == x.to_f32().to_bits() || found.is_nan() && x.is_nan();
                assert!(widened.iter().all(same), "{x} on {isa} is {widened:?}");
            }
        }
    }
}
