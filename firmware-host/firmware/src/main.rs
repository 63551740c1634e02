//! A board in QEMU (`-M mps2-an386`): a synthetic IMU behind the real driver, frames out over UART 0, and predictions back,
//! which are checked. What it saw of them goes to UART 1 once a second, as a line of text.
#![no_std]
#![no_main]

mod checks;
mod clock;
mod imu;
mod ring;
mod uart;

use core::fmt::Write as _;
use core::panic::PanicInfo;

use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::peripheral::{NVIC, Peripherals};
use cortex_m_rt::{entry, exception};
use mcedge_board::{Board, Mpu6050, Stream};

use crate::checks::Checks;
use crate::clock::{Clock, HZ};
use crate::imu::Imu;
use crate::ring::Ring;
use crate::uart::{Interrupt, RECEIVED_IRQ, Uart};

const STREAM: u8 = 0;
const RATE_HZ: f32 = 100.0;
/// What a sample waits for others of its frame at most.
const DELAY_US: u32 = 80_000;
/// How often the checks are told.
const TELL_US: u64 = 1_000_000;

/// What has come over UART 0: predictions of several frames at once.
static RECEIVED: Ring<4096> = Ring::new();

#[entry]
fn main() -> ! {
    start_interrupts();
    let clock = Clock::start();
    let mut text = Uart::one();
    let failed = match Mpu6050::new(Imu::new(), imu::ADDRESS, clock) {
        Ok(mut sensor) => match Stream::new(&mut sensor, STREAM, RATE_HZ, DELAY_US) {
            Ok(stream) => run(stream, clock, text),
            Err(error) => error,
        },
        Err(error) => error,
    };
    // A text line has nobody to tell of its own failure.
    let _ = writeln!(text, "failed: {failed}");
    loop {
        cortex_m::asm::wfi();
    }
}

/// Samples, sends and checks for ever.
fn run(stream: Stream<'_>, clock: Clock, mut text: Uart) -> ! {
    let mut streams = [stream];
    let mut board: Board<_> = Board::new(Uart::zero(), clock::boot(), &mut streams);
    let mut checks = Checks::new();
    let (mut bytes, mut tell_us) = ([0; 64], 0);
    loop {
        let now_us = clock.now_us();
        board.poll(now_us);
        checks.sent(board.streams()[0].sequence(), now_us);
        while let count @ 1.. = RECEIVED.read(&mut bytes) {
            board.receive(&bytes[..count], now_us, |answer| checks.check(answer));
        }
        if now_us >= tell_us {
            tell_us = now_us + TELL_US;
            let (received, bad) = board.commands();
            let (dropped, lost) = (board.streams()[0].dropped(), RECEIVED.lost());
            let _ = writeln!(
                text,
                "{checks}, commands {received}, bad frames {bad}, dropped {dropped}, overrun {lost}"
            );
        }
        // Until a byte comes, or the next millisecond.
        cortex_m::asm::wfi();
    }
}

/// SysTick each millisecond, which ends the loop's wait, and UART 0 when a byte has come.
fn start_interrupts() {
    // SAFETY: `main` runs once, before anything else has the peripherals.
    let mut core = unsafe { Peripherals::steal() };
    core.SYST.set_clock_source(SystClkSource::Core);
    core.SYST.set_reload(HZ / 1000 - 1);
    core.SYST.clear_current();
    core.SYST.enable_counter();
    core.SYST.enable_interrupt();
    // SAFETY: no critical section is broken: there is none.
    unsafe { NVIC::unmask(Interrupt(RECEIVED_IRQ)) };
}

#[exception]
fn SysTick() {}

#[exception]
unsafe fn DefaultHandler(_irq: i16) {
    Uart::zero().received(|byte| RECEIVED.push(byte));
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Uart::one(), "{info}");
    loop {
        cortex_m::asm::wfi();
    }
}
