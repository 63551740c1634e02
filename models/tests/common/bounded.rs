//! An allocator that has nothing for whoever asks for much at once: a small file must not.

use std::alloc::{GlobalAlloc, Layout, System};

/// The most bytes of one allocation. What the corpus honestly asks for is a small part of it.
const MAX_BYTES: usize = 1 << 29;

struct Bounded;

// SAFETY: a call is passed on as it came, or answered as one that fails.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MAX_BYTES {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static BOUNDED: Bounded = Bounded;
