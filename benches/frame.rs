//! How many bytes of frames a second the decoder of the sensor link takes on one core.
//!
//! `cargo bench --bench frame [-- pieces]`. What was decoded, records and numbers, is compared with what was sent before
//! anything is timed. The goal is 200 MB/s.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mcedge_wire::{Body, Decoder, Element, MAX_FRAME, Record, Samples, encode};

/// Bytes of a stream, at least.
const BYTES: usize = 4 << 20;
/// Bytes of a read of a serial port that is in no hurry.
const PIECE: usize = 64;

/// Frames of one kind, and what they say.
struct Stream {
    name: &'static str,
    bytes: Vec<u8>,
    seen: Seen,
}

/// What came out of a stream.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    records: u64,
    numbers: u64,
    sum: f64,
}

impl Seen {
    fn take(&mut self, record: &Record<'_>) {
        if let Body::Samples(samples) = record.body {
            self.records += 1;
            self.numbers += samples.numbers().len() as u64;
            self.sum += samples.numbers().map(f64::from).sum::<f64>();
        }
    }
}

/// Frames of `samples` samples of `channels` channels, whose number `i` is that of `number(i)`.
fn stream<const N: usize>(
    name: &'static str,
    element: Element,
    channels: usize,
    samples: usize,
    number: impl Fn(u64) -> ([u8; N], f64),
) -> Stream {
    let (mut bytes, mut seen, mut room) = (Vec::new(), Seen::default(), [0; MAX_FRAME]);
    while bytes.len() < BYTES {
        let first = seen.numbers;
        let mut data = Vec::new();
        for i in first..first + (channels * samples) as u64 {
            let (number, value) = number(i);
            data.extend_from_slice(&number);
            seen.sum += value;
        }
        seen.numbers += (channels * samples) as u64;
        let sequence = (seen.records * samples as u64) as u32;
        seen.records += 1;
        let span_us = 1250 * (samples as u32 - 1);
        let body = Body::Samples(Samples { span_us, element, channels: channels as u8, data: &data });
        let record = Record { stream: 0, boot: 7, sequence, time_us: u64::from(sequence) * 1250, body };
        bytes.extend_from_slice(encode(&record, &mut room).expect("a record in its ranges"));
    }
    Stream { name, bytes, seen }
}

/// An inertial sensor's: gravity on one axis, a vibration, and noise in the low bits.
fn i16_number(i: u64) -> ([u8; 2], f64) {
    let vibration = ((i / 6) as f64 * 0.1).sin() * 900.0;
    let noise = (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 58) as f64 - 32.0;
    let number = (vibration + noise) as i16 + if i % 6 == 2 { 8192 } else { 0 };
    (number.to_le_bytes(), f64::from(number))
}

fn f32_number(i: u64) -> ([u8; 4], f64) {
    let number = (i as f32 * 0.37).sin() * 25.0 + (i % 9) as f32;
    (number.to_le_bytes(), f64::from(number))
}

fn decode<'s>(pieces: impl Iterator<Item = &'s [u8]>, mut take: impl FnMut(&Record<'_>)) {
    let mut decoder: Decoder = Decoder::new();
    for mut piece in pieces {
        while let Some(decoded) = decoder.next(&mut piece) {
            take(&decoded.expect("a good frame"));
        }
    }
    assert_eq!(decoder.pending(), 0, "bytes are left over");
}

fn frame(criterion: &mut Criterion) {
    let streams = [
        stream("i16x6, 8 samples", Element::I16, 6, 8, i16_number),
        stream("i16x3, 1 sample", Element::I16, 3, 1, i16_number),
        stream("f32x32, 9 samples", Element::F32, 32, 9, f32_number),
    ];
    let mut group = criterion.benchmark_group("decode");
    for Stream { name, bytes, seen } in &streams {
        for length in [bytes.len(), PIECE] {
            let mut found = Seen::default();
            decode(bytes.chunks(length), |record| found.take(record));
            assert_eq!(found.records, seen.records, "{name}");
            assert_eq!(found.numbers, seen.numbers, "{name}");
            assert!(
                (found.sum - seen.sum).abs() <= 1e-9 * seen.numbers as f64,
                "{name}: {found:?}, {seen:?}"
            );
            let pieces = if length == PIECE { "in pieces of 64" } else { "whole" };
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            group.bench_function(format!("{name}, {pieces}"), |bencher| {
                bencher.iter(|| decode(bytes.chunks(length), |record| _ = black_box(record)));
            });
        }
        // The numbers too, as a host reads them.
        group.bench_function(format!("{name}, with its numbers"), |bencher| {
            bencher.iter(|| {
                let mut found = Seen::default();
                decode(bytes.chunks(bytes.len()), |record| found.take(record));
                found
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = frame
}
criterion_main!(benches);
