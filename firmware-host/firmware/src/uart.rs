//! The board's UARTs: Arm's CMSDK ones.

use core::convert::Infallible;
use core::{fmt, ptr};

use cortex_m::interrupt::InterruptNumber;
use embedded_io::{ErrorType, Write};

use crate::clock::HZ;

/// The number of UART 0's interrupt when a byte has come.
pub const RECEIVED_IRQ: u16 = 0;
const BAUD: u32 = 921_600;

const DATA: usize = 0;
const STATE: usize = 1;
const CONTROL: usize = 2;
const INTERRUPT: usize = 3;
const DIVIDER: usize = 4;

const SENDING_FULL: u32 = 1;
const RECEIVED_FULL: u32 = 1 << 1;
const SEND: u32 = 1;
const RECEIVE: u32 = 1 << 1;
const INTERRUPT_WHEN_RECEIVED: u32 = 1 << 3;
const RECEIVED: u32 = 1 << 1;

/// A UART that is set up.
#[derive(Clone, Copy)]
pub struct Uart(*mut u32);

/// An interrupt by its number.
#[derive(Clone, Copy)]
pub struct Interrupt(pub u16);

// SAFETY: the board has interrupts of these numbers.
unsafe impl InterruptNumber for Interrupt {
    fn number(self) -> u16 {
        self.0
    }
}

impl Uart {
    /// The one of the link.
    pub fn zero() -> Self {
        Uart(0x4000_4000 as *mut u32).set_up(SEND | RECEIVE | INTERRUPT_WHEN_RECEIVED)
    }

    /// The one of the text.
    pub fn one() -> Self {
        Uart(0x4000_5000 as *mut u32).set_up(SEND)
    }

    fn set_up(self, control: u32) -> Self {
        self.write(DIVIDER, HZ / BAUD);
        self.write(CONTROL, control);
        self
    }

    /// In the interrupt: gives the bytes that have come.
    pub fn received(self, mut take: impl FnMut(u8)) {
        self.write(INTERRUPT, RECEIVED);
        while self.read(STATE) & RECEIVED_FULL != 0 {
            take(self.read(DATA) as u8);
        }
    }

    fn read(self, register: usize) -> u32 {
        // SAFETY: the UART's registers are there on this board.
        unsafe { ptr::read_volatile(self.0.add(register)) }
    }

    fn write(self, register: usize, value: u32) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(self.0.add(register), value) }
    }
}

impl ErrorType for Uart {
    type Error = Infallible;
}

impl Write for Uart {
    /// Waits for room for each byte.
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        for &byte in bytes {
            while self.read(STATE) & SENDING_FULL != 0 {}
            Uart::write(*self, DATA, byte.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        while self.read(STATE) & SENDING_FULL != 0 {}
        Ok(())
    }
}

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write_all(text.as_bytes()).map_err(|_| fmt::Error)
    }
}
