//! What a bad cable does to bytes.

use mcedge_wire::MAX_FRAME;

use super::random::Random;
use super::{Faults, Ledger};

/// Most bytes of garbage at one place.
const GARBAGE_BYTES: u64 = 64;

/// Puts `frame` behind `out` as it comes out of the cable. What happens to it is decided by the seed and by `thing`, its
/// number, alone.
pub fn damage(faults: &Faults, thing: u64, frame: &[u8], out: &mut Vec<u8>, ledger: &mut Ledger) {
    let mut random = Random::of(faults.seed, thing);
    if random.happens(faults.garbage) {
        let count = 1 + random.below(GARBAGE_BYTES);
        out.extend((0..count).map(|_| random.bits() as u8));
        ledger.garbage_bytes += count;
    }
    if random.happens(faults.oversized) {
        let count = MAX_FRAME as u64 + random.below(MAX_FRAME as u64);
        out.extend((0..count).map(|_| 1 + random.below(255) as u8));
        out.push(0);
        ledger.oversized += 1;
    }
    let copies = if random.happens(faults.duplicate) { 2 } else { 1 };
    ledger.duplicated += copies - 1;
    for _ in 0..copies {
        pass(faults, &mut random, frame, out, ledger);
    }
}

/// One copy of the frame: bytes of it go, bits of it turn.
fn pass(faults: &Faults, random: &mut Random, frame: &[u8], out: &mut Vec<u8>, ledger: &mut Ledger) {
    let mut flip = random.passed(faults.flip);
    let mut lose = random.passed(faults.lose);
    for (at, &byte) in frame.iter().enumerate() {
        let mut byte = byte;
        if at == flip {
            byte ^= 1 << random.below(8);
            ledger.flips += 1;
            flip = (at + 1).saturating_add(random.passed(faults.flip));
        }
        if at == lose {
            ledger.lost_bytes += 1;
            lose = (at + 1).saturating_add(random.passed(faults.lose));
        } else {
            out.push(byte);
        }
    }
}
