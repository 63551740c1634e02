//! Bytes from an interrupt to the loop.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

/// A bounded queue with one end that pushes and one that reads. `N` is a power of two.
///
/// # Invariants
///
/// - `head` and `tail` count all bytes that were pushed and read; `head - tail` of them, at most `N`, are in it.
pub struct Ring<const N: usize> {
    bytes: [AtomicU8; N],
    head: AtomicUsize,
    tail: AtomicUsize,
    lost: AtomicU32,
}

impl<const N: usize> Ring<N> {
    pub const fn new() -> Self {
        assert!(N.is_power_of_two(), "counts wrap");
        Ring {
            bytes: [const { AtomicU8::new(0) }; N],
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            lost: AtomicU32::new(0),
        }
    }

    /// Keeps a byte, or counts it as lost when there is no room.
    pub fn push(&self, byte: u8) {
        let (head, tail) = (self.head.load(Ordering::Relaxed), self.tail.load(Ordering::Acquire));
        if head.wrapping_sub(tail) == N {
            self.lost.store(self.lost.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            return;
        }
        self.bytes[head % N].store(byte, Ordering::Relaxed);
        self.head.store(head.wrapping_add(1), Ordering::Release);
    }

    /// Takes bytes, as many as there are and `to` has room for, and says how many.
    pub fn read(&self, to: &mut [u8]) -> usize {
        let (head, tail) = (self.head.load(Ordering::Acquire), self.tail.load(Ordering::Relaxed));
        let count = head.wrapping_sub(tail).min(to.len());
        for (i, byte) in to[..count].iter_mut().enumerate() {
            *byte = self.bytes[tail.wrapping_add(i) % N].load(Ordering::Relaxed);
        }
        self.tail.store(tail.wrapping_add(count), Ordering::Release);
        count
    }

    /// Bytes for which there was no room.
    pub fn lost(&self) -> u32 {
        self.lost.load(Ordering::Relaxed)
    }
}
