//! What is read next, asked for before its turn.
//!
//! A CPU notices that memory is read in order, but forgets it at the end of every page, which is as long as one checkpoint
//! of a head of 32: so the kernel says itself what it reads next.

use super::Cells;
use super::parameters::Order;
use super::simd::Simd;

/// How far before its turn a line is asked for. Less, and it is late; more, and it has gone again from the cache nearest by.
const BYTES: usize = 4096;
/// Of a cache line.
const LINE: usize = 64;

/// Where a reader that is [`BYTES`] ahead is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    /// Where what is read in order ends.
    end: *const u8,
    /// Bytes from there to where reading goes on.
    jump: isize,
}

impl Ahead {
    /// Nothing that is worth asking for.
    pub(super) const NOTHING: Self = Self { end: std::ptr::null(), jump: 0 };

    /// Over memories of `len` elements each in `cells`.
    #[inline(always)]
    pub(super) fn new(cells: Cells<'_>, len: usize, order: Order) -> Self {
        let (base, size) = cells.memory();
        let at = |index: usize| base.wrapping_add(index * len * size);
        Self { end: at(order.end), jump: (at(order.then) as isize).wrapping_sub(at(order.end) as isize) }
    }

    /// Asks for as many bytes as are read now, `cells`, of which there are whole lines.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd, A>(self, simd: S, cells: &[A]) {
        if self.end.is_null() {
            return;
        }
        let mut line = cells.as_ptr().cast::<u8>().wrapping_add(BYTES);
        if line >= self.end {
            line = line.wrapping_offset(self.jump);
        }
        for i in 0..size_of_val(cells) / LINE {
            simd.prefetch(line.wrapping_add(i * LINE));
        }
    }
}

/// Asks for the first of the cells, as many as a reader would otherwise have asked for before it comes to them.
#[inline(always)]
pub(super) fn prefetch_first<S: Simd>(simd: S, cells: Cells<'_>) {
    let (first, size) = cells.memory();
    for line in 0..(cells.len() * size).min(BYTES) / LINE {
        simd.prefetch(first.wrapping_add(line * LINE));
    }
}
