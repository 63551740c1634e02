//! What holds for any bytes that come in over a serial line: the body of the fuzz target.
//!
//! The tests of `mcedge-wire` include this file too, and run it on the corpus without a fuzzer.

pub mod naive;

use mcedge_wire::{Counts, Decoder, FrameError, MAX_FRAME, encode};
use naive::Outcome;

/// Bytes of frames that a small decoder takes, as that of a board.
const SMALL: usize = 64;

/// A stream of bytes, which one decoder gets whole and others in pieces: no panic, and the same records, errors and counts
/// as the naive decoder's.
///
/// | bytes | |
/// |---|---|
/// | 1 | how long the pieces are |
/// | 1 | what the next bytes are: 0 as they are, 1 a record, 2 a record whose frame loses its zero, 3 a COBS frame; times 64, bits of the count |
/// | 1 | how many they are, less the bits above |
/// | … | they |
pub fn decode(bytes: &[u8]) {
    let Some((&pieces, entries)) = bytes.split_first() else { return };
    let stream = stream(entries);
    check::<MAX_FRAME>(&stream, pieces);
    check::<SMALL>(&stream, pieces);
}

/// The stream that the entries tell of: a fuzzer finds no CRC of its own.
fn stream(mut entries: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [kind, low, rest @ ..] = entries {
        let length = usize::from(*low) | usize::from(kind & 0x3f) << 8;
        let (data, rest) = rest.split_at(length.min(rest.len()));
        entries = rest;
        match kind >> 6 {
            0 => stream.extend_from_slice(data),
            1 => stream.extend(naive::frame(data)),
            2 => {
                stream.extend(naive::frame(data));
                stream.pop();
            }
            _ => {
                stream.extend(naive::stuff(data));
                stream.push(0);
            }
        }
    }
    stream
}

/// Holds a decoder of frames of `N` bytes to the naive one, with the stream whole, byte by byte, and in other pieces.
pub fn check<const N: usize>(stream: &[u8], pieces: u8) {
    let expected = naive::outcomes(stream, N);
    let whole = outcomes::<N>(stream, &mut || usize::MAX);
    assert_eq!(whole.0, expected);
    assert_eq!(whole.1, counts(&expected, stream.len()));
    assert_eq!(outcomes::<N>(stream, &mut || 1), whole);
    let mut state = u32::from(pieces);
    let mut length = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize % (2 * usize::from(pieces) + 2)
    };
    assert_eq!(outcomes::<N>(stream, &mut length), whole);
}

/// What a decoder makes of `stream`, which it gets in pieces of these lengths; some may be empty.
pub fn outcomes<const N: usize>(stream: &[u8], length: &mut impl FnMut() -> usize) -> (Vec<Outcome>, Counts) {
    let mut decoder: Decoder<N> = Decoder::new();
    let (mut outcomes, mut rest) = (Vec::new(), stream);
    while !rest.is_empty() {
        let mut piece = rest.split_off(..length().min(rest.len())).unwrap_or_default();
        while let Some(decoded) = decoder.next(&mut piece) {
            outcomes.push(match decoded {
                Ok(record) => Outcome::Record(bytes_of(&record)),
                Err(FrameError::Stuffing) => Outcome::Stuffing,
                Err(FrameError::Crc { found, expected }) => {
                    assert_ne!(found, expected);
                    Outcome::Crc
                }
                Err(FrameError::Oversized) => Outcome::Oversized,
                Err(FrameError::Record(_)) => Outcome::NoRecord,
            });
        }
        assert!(piece.is_empty(), "bytes are left over");
        assert!(decoder.pending() <= N);
    }
    (outcomes, *decoder.counts())
}

/// The bytes of a record, by way of its frame.
fn bytes_of(record: &mcedge_wire::Record<'_>) -> Vec<u8> {
    let mut room = [0; MAX_FRAME];
    let frame = encode(record, &mut room).expect("what was decoded can be encoded");
    match naive::outcomes(frame, MAX_FRAME).as_slice() {
        [Outcome::Record(bytes)] => bytes.clone(),
        other => panic!("{record:?} is encoded as {other:?}"),
    }
}

fn counts(outcomes: &[Outcome], bytes: usize) -> Counts {
    let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count() as u64;
    Counts {
        bytes: bytes as u64,
        records: count(|outcome| matches!(outcome, Outcome::Record(_))),
        stuffing: count(|outcome| *outcome == Outcome::Stuffing),
        crc: count(|outcome| *outcome == Outcome::Crc),
        oversized: count(|outcome| *outcome == Outcome::Oversized),
        record: count(|outcome| *outcome == Outcome::NoRecord),
    }
}
