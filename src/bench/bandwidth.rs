//! How fast this core reads memory: what a step can reach at best.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::median;

/// The largest buffer that is read: what is larger is in no cache either.
const MOST_BYTES: u64 = 1 << 30;
/// A time is taken of at least as many bytes, over and over.
const TIMED_BYTES: u64 = 4 << 20;
/// Times taken of each way to read, at a size.
const TIMES: usize = 5;
/// Numbers that are added up side by side: 256 bytes.
const LANES: usize = 32;

/// A way to read: the sum of all numbers.
type Sum = fn(&[u64]) -> u64;

/// Reads a buffer of its own.
pub struct Reader {
    buffer: Vec<u64>,
    ways: Vec<Sum>,
}

impl Reader {
    /// Ready to read up to `most` bytes.
    pub fn new(most: u64) -> Self {
        let numbers = most.clamp(1, MOST_BYTES).div_ceil(8).next_multiple_of(LANES as u64);
        // Written, so that every page is its own: a page of zeros that nobody has written is one for all.
        Self { buffer: (0..numbers).collect(), ways: ways() }
    }

    /// Bytes a second of `bytes` bytes read over and over: the median of several times, in the way that is fastest.
    pub fn bytes_per_second(&self, bytes: u64) -> f64 {
        let numbers = (bytes.max(1).div_ceil(8) as usize).next_multiple_of(LANES).min(self.buffer.len());
        let cells = &self.buffer[..numbers];
        let times = TIMED_BYTES.div_ceil(8 * numbers as u64).max(1);
        let read = 8.0 * numbers as f64 * times as f64;
        self.ways.iter().map(|&way| read / time(way, cells, times).as_secs_f64()).fold(0.0, f64::max)
    }
}

/// The median time of reading `cells` `times` times, when it has been read before.
fn time(way: Sum, cells: &[u64], times: u64) -> Duration {
    black_box(way(black_box(cells)));
    let took = |_| {
        let start = Instant::now();
        for _ in 0..times {
            black_box(way(black_box(cells)));
        }
        start.elapsed()
    };
    median(&mut (0..TIMES).map(took).collect::<Vec<_>>()).max(Duration::from_nanos(1))
}

/// The ways of this CPU. Prefetching by hand helps where a page ends: there the hardware stops.
fn ways() -> Vec<Sum> {
    #[cfg(target_arch = "x86_64")]
    {
        let mut ways: Vec<Sum> = vec![sum::<0>, sum::<512>, sum::<2048>];
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            ways.extend([
                (|cells| unsafe { sum_avx2::<0>(cells) }) as Sum,
                |cells| unsafe { sum_avx2::<512>(cells) },
                |cells| unsafe { sum_avx2::<2048>(cells) },
            ]);
        }
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512F.
            ways.extend([
                (|cells| unsafe { sum_avx512::<0>(cells) }) as Sum,
                |cells| unsafe { sum_avx512::<512>(cells) },
                |cells| unsafe { sum_avx512::<2048>(cells) },
            ]);
        }
        ways
    }
    #[cfg(not(target_arch = "x86_64"))]
    vec![sum::<0>]
}

/// The sum in vectors of whatever width the caller is compiled for, asking for what comes `AHEAD` bytes later; 0 asks for nothing.
#[inline(always)]
fn sum<const AHEAD: usize>(cells: &[u64]) -> u64 {
    let mut sums = [0u64; LANES];
    let (groups, _) = cells.as_chunks::<LANES>();
    for group in groups {
        #[cfg(target_arch = "x86_64")]
        if AHEAD > 0 {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            for line in 0..LANES / 8 {
                let ahead = group.as_ptr().cast::<i8>().wrapping_add(AHEAD + 64 * line);
                // SAFETY: a prefetch reads nothing, whatever the address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead) };
            }
        }
        for (sum, &cell) in sums.iter_mut().zip(group) {
            *sum = sum.wrapping_add(cell);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// As [`sum`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2<const AHEAD: usize>(cells: &[u64]) -> u64 {
    sum::<AHEAD>(cells)
}

/// As [`sum`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512<const AHEAD: usize>(cells: &[u64]) -> u64 {
    sum::<AHEAD>(cells)
}

#[cfg(test)]
mod tests {
    // Each test says what it uses: a bench without a harness that includes this file is compiled as a test, and has none.

    #[test]
    fn every_way_reads_every_number() {
        use super::Reader;
        let reader = Reader::new(100_000);
        let expected: u64 = reader.buffer.iter().sum();
        for way in &reader.ways {
            assert_eq!(way(&reader.buffer), expected);
        }
    }

    #[test]
    fn a_bandwidth_is_a_number_at_any_size() {
        use super::Reader;
        let reader = Reader::new(1 << 16);
        for bytes in [0, 1, 4096, 1 << 16, 1 << 40] {
            let found = reader.bytes_per_second(bytes);
            assert!(found.is_finite() && found > 0.0, "{bytes}: {found}");
        }
    }
}
