//! Time: a CMSDK timer that counts the board's 25 MHz.

use core::cell::Cell;
use core::mem::MaybeUninit;
use core::ptr;

use embedded_hal::delay::DelayNs;

/// Of the processor and its peripherals.
pub const HZ: u32 = 25_000_000;
const TICKS_PER_US: u64 = HZ as u64 / 1_000_000;
const TIMER: *mut u32 = 0x4000_0000 as *mut u32;
const CONTROL: usize = 0;
const VALUE: usize = 1;
const RELOAD: usize = 2;

/// µs since the start. The timer wraps after 171 s: it wants to be looked at more often.
#[derive(Clone, Copy)]
pub struct Clock {
    state: &'static State,
}

struct State {
    /// Ticks of the last look.
    ticks: Cell<u64>,
}

// SAFETY: the interrupts of this firmware do not look at the clock.
unsafe impl Sync for State {}

static STATE: State = State { ticks: Cell::new(0) };

impl Clock {
    pub fn start() -> Self {
        write(RELOAD, u32::MAX);
        write(VALUE, u32::MAX);
        write(CONTROL, 1);
        Clock { state: &STATE }
    }

    pub fn now_us(self) -> u64 {
        // It counts down.
        // SAFETY: the timer's registers are there on this board.
        let low = u32::MAX - unsafe { ptr::read_volatile(TIMER.add(VALUE)) };
        let before = self.state.ticks.get();
        let passed = low.wrapping_sub(before as u32);
        self.state.ticks.set(before + u64::from(passed));
        self.state.ticks.get() / TICKS_PER_US
    }
}

impl DelayNs for Clock {
    fn delay_ns(&mut self, ns: u32) {
        let end_us = self.now_us() + u64::from(ns.div_ceil(1000));
        while self.now_us() < end_us {}
    }
}

fn write(register: usize, value: u32) {
    // SAFETY: the timer's registers are there on this board.
    unsafe { ptr::write_volatile(TIMER.add(register), value) }
}

/// A number that differs from one start to the next: a count in memory that a reset does not clear. After power-up it
/// begins anywhere.
pub fn boot() -> u8 {
    #[unsafe(link_section = ".uninit.boots")]
    static mut BOOTS: MaybeUninit<u32> = MaybeUninit::uninit();
    let boots = (&raw mut BOOTS).cast::<u32>();
    // SAFETY: nothing else has this memory, and any bits that it begins with are a number.
    unsafe {
        let count = ptr::read_volatile(boots).wrapping_add(1);
        ptr::write_volatile(boots, count);
        (count % 255) as u8 + 1
    }
}
