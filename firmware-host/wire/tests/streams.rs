//! What a decoder makes of a stream of bytes, whatever has become of them on the way.

mod common;

use common::checks::naive::{self, Outcome};
use common::checks::{check, outcomes};
use common::{Xorshift, frame, with_record};
use mcedge_wire::*;

/// Frames, and what a bad cable makes of them: bits flipped, bytes lost, bytes that nobody sent, frames too long.
fn stream(random: &mut Xorshift) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..random.below(12) {
        let mut frame = with_record(random, frame);
        match random.below(10) {
            0 => {
                let at = random.below(frame.len());
                frame[at] ^= 1 << random.below(8);
            }
            1 => {
                let from = random.below(frame.len());
                let to = from + 1 + random.below(frame.len() - from);
                frame.drain(from..to);
            }
            2 => {
                let count = random.below(80);
                frame = random.bytes(count);
            }
            3 => {
                let length = MAX_FRAME + random.below(3 * MAX_FRAME);
                let bytes = random.bytes(length);
                frame = bytes.iter().map(|&byte| byte.max(1)).chain([0]).collect();
            }
            4 => frame = vec![0; random.below(4)],
            5 => frame.truncate(frame.len() - 1),
            _ => {}
        }
        stream.extend(frame);
    }
    stream
}

#[test]
fn any_split_of_any_bytes_gives_what_the_naive_decoder_gives() {
    let mut random = Xorshift(3);
    let mut seen = Vec::new();
    for turn in 0..2000 {
        let stream = stream(&mut random);
        check::<MAX_FRAME>(&stream, turn as u8);
        check::<64>(&stream, (turn * 7) as u8);
        seen.extend(naive::outcomes(&stream, MAX_FRAME).iter().map(std::mem::discriminant));
    }
    for kind in
        [Outcome::Record(vec![]), Outcome::Oversized, Outcome::Stuffing, Outcome::Crc, Outcome::NoRecord]
    {
        assert!(seen.contains(&std::mem::discriminant(&kind)) || kind == Outcome::NoRecord, "no {kind:?}");
    }
}

/// Lengths of frames around the bound, and around the runs of COBS.
#[test]
fn frames_of_every_length_are_as_the_naive_decoder_has_them() {
    for length in (0..40).chain(240..280).chain(490..530).chain(MAX_RECORD - 30..MAX_RECORD + 30) {
        let mut bytes = vec![1, 0x02, 3, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
        let samples = (length as u16).saturating_sub(24) / 2;
        bytes.extend(samples.to_le_bytes());
        bytes.resize(length.max(24), 0xA5);
        bytes.truncate(length);
        let stream = [naive::frame(&bytes), naive::frame(&[1; 16]), naive::frame(&vec![0; length])].concat();
        check::<MAX_FRAME>(&stream, length as u8);
        check::<{ MAX_FRAME - 1 }>(&stream, length as u8);
        check::<256>(&stream, length as u8);
    }
}

#[test]
fn an_oversized_frame_is_one_error_and_its_end_no_record() {
    let mut random = Xorshift(4);
    let good = naive::frame(&[&[1, 0x81, 255][..], &[0; 13]].concat());
    for extra in [1, 2, 30, MAX_FRAME, 10 * MAX_FRAME] {
        // Behind the bytes that are too many stands what would be a frame.
        let mut stream = vec![7; MAX_FRAME + extra];
        stream.extend_from_slice(&good);
        stream.extend_from_slice(&good);
        for most in [1, 2, 3, 64, MAX_FRAME - 1, MAX_FRAME, MAX_FRAME + 1, usize::MAX] {
            let (outcomes, counts) = outcomes::<MAX_FRAME>(&stream, &mut || match most {
                usize::MAX => most,
                most => 1 + random.below(most),
            });
            assert!(matches!(outcomes[..], [Outcome::Oversized, Outcome::Record(_)]), "{outcomes:?}");
            let bytes = stream.len() as u64;
            assert_eq!(counts, Counts { bytes, records: 1, oversized: 1, ..Counts::default() });
        }
    }
}

#[test]
fn garbage_costs_the_frame_it_runs_into_and_no_other() {
    let mut random = Xorshift(5);
    for _ in 0..500 {
        let count = 1 + random.below(300);
        let garbage: Vec<_> = random.bytes(count).into_iter().map(|byte| byte.max(1)).collect();
        let frames = [(); 3].map(|()| with_record(&mut random, frame));
        let stream = [&garbage, &frames[0], &frames[1], &frames[2]].map(|bytes| &bytes[..]).concat();
        let (outcomes, counts) = outcomes::<MAX_FRAME>(&stream, &mut || 16);
        assert_eq!(outcomes.len(), 3);
        assert_eq!(&outcomes[1..], naive::outcomes(&frames[1..].concat(), MAX_FRAME), "{garbage:02x?}");
        assert!(!matches!(outcomes[0], Outcome::Record(_)));
        assert_eq!((counts.records, counts.bad()), (2, 1));
    }
}

/// What a frame that has lost something or has been changed gives: an error, or nothing at all.
fn no_record(bytes: &[u8], what: &str) {
    let mut decoder: Decoder = Decoder::new();
    let mut rest = bytes;
    while let Some(decoded) = decoder.next(&mut rest) {
        assert!(decoded.is_err(), "{what}: {decoded:?}");
    }
}

#[test]
fn a_flipped_bit_or_a_lost_byte_gives_no_record() {
    let mut random = Xorshift(6);
    for _ in 0..40 {
        let frame = with_record(&mut random, frame);
        for at in 0..frame.len() {
            for bit in 0..8 {
                let mut flipped = frame.clone();
                flipped[at] ^= 1 << bit;
                // A zero that is gone takes the next frame along: what comes then is of both.
                flipped.push(0);
                no_record(&flipped, &format!("bit {bit} of byte {at}"));
            }
            let (mut lost, mut cut) = (frame.clone(), frame[..at].to_vec());
            lost.remove(at);
            lost.extend_from_slice(&[1, 0]);
            no_record(&lost, &format!("without byte {at}"));
            if at + 1 < frame.len() {
                cut.push(0);
                no_record(&cut, &format!("only {at} bytes"));
            }
            let (mut tail, mut decoder): (_, Decoder) = (&frame[at + 1..], Decoder::new());
            assert!(!matches!(decoder.next(&mut tail), Some(Ok(_))), "the bytes behind byte {at}");
        }
    }
}

#[test]
fn a_restart_forgets_the_frame_that_has_begun() {
    let good = naive::frame(&[&[1, 0x81, 255][..], &[0; 13]].concat());
    for begun in [1, good.len() - 1, 2 * MAX_FRAME] {
        let mut decoder: Decoder = Decoder::new();
        assert_eq!(decoder.next(&mut &vec![9; begun - 1][..]), None);
        assert_eq!(decoder.next(&mut &[9][..]), None);
        assert_eq!(decoder.pending(), if begun > MAX_FRAME { 0 } else { begun });
        assert!(decoder.has_begun());
        decoder.restart();
        assert_eq!((decoder.pending(), decoder.has_begun()), (0, false));
        assert!(matches!(decoder.next(&mut &good[..]), Some(Ok(_))));
        assert_eq!((decoder.counts().records, decoder.counts().bad()), (1, 0));
    }
}
