//! The test vectors of README.md, which `vectors.py` makes from its text, against the crate.

mod common;

use common::checks::naive;
use mcedge_wire::*;

/// A vector: its name, and the bytes of its parts.
struct Vector {
    name: String,
    record: Vec<u8>,
    crc: Vec<u8>,
    frame: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    let readme = include_str!("../../README.md");
    let (_, block) = readme.split_once("```vectors\n").expect("a block of vectors");
    let (block, _) = block.split_once("```").expect("its end");
    let mut vectors: Vec<Vector> = Vec::new();
    let mut part = String::new();
    for line in block.lines() {
        let Some(line) = line.strip_prefix("  ") else {
            let name = line.to_owned();
            vectors.push(Vector { name, record: vec![], crc: vec![], frame: vec![] });
            continue;
        };
        let (label, bytes) = line.split_at(6);
        if !label.trim().is_empty() {
            part = label.trim().to_owned();
        }
        let vector = vectors.last_mut().expect("a name before its bytes");
        let bytes = bytes.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("a byte"));
        match part.as_str() {
            "record" => vector.record.extend(bytes),
            "crc" => vector.crc.extend(bytes),
            "frame" => vector.frame.extend(bytes),
            other => panic!("{other:?} of {}", vector.name),
        }
    }
    vectors
}

/// What a vector stands for.
fn with_meaning(name: &str, check: impl FnOnce(Result<Record<'_>, RecordError>)) {
    let channels = [
        Channel { name: "accel_x", unit: "m/s^2", scale: 9.80665 / 8192.0 },
        Channel { name: "température", unit: "°C", scale: 0.01 },
    ];
    let long: Vec<_> =
        (0..130u16).map(|i| 256 * (1 + i % 100) + 1 + i % 200).flat_map(u16::to_le_bytes).collect();
    let of_all = |body| Ok(Record { stream: ALL_STREAMS, boot: 0, sequence: 0, time_us: 0, body });
    let to_three = |body| Ok(Record { stream: 3, boot: 0, sequence: 0, time_us: 0, body });
    let answer = |score, values| {
        let body = Body::Prediction(Prediction { score, values: Values::Listed(values) });
        Ok(Record { stream: 3, boot: 0, sequence: 4242, time_us: 42_420_000, body })
    };
    let from_three = |sequence, time_us, body| Ok(Record { stream: 3, boot: 7, sequence, time_us, body });
    let samples = |span_us, element, data| Body::Samples(Samples { span_us, element, channels: 2, data });
    check(match name {
        "describe" => of_all(Body::Describe),
        "start" => of_all(Body::Start),
        "stop" => to_three(Body::Stop),
        "rate" => to_three(Body::Rate(200.0)),
        "prediction" => answer(Some(0.75), &[1.5, -2.0, 0.0]),
        "prediction without a score" => answer(None, &[0.5]),
        "descriptor" => {
            let channels = Channels::Listed(&channels);
            let descriptor = Descriptor { name: "imu", rate_hz: 100.0, element: Element::I16, channels };
            from_three(0, 1_000_007, Body::Descriptor(descriptor))
        }
        "samples i16" => {
            let body = samples(10_000, Element::I16, &[1, 0, 0xFF, 0xFF, 0, 1, 0, 0x80]);
            from_three(4242, 42_420_000, body)
        }
        "samples i32" => {
            let body = samples(0, Element::I32, &[0x70, 0x11, 1, 0, 0x90, 0xEE, 0xFE, 0xFF]);
            from_three(u32::MAX, 42_420_000, body)
        }
        "samples f32" => {
            let body = samples(0, Element::F32, &[0, 0, 0xAA, 0x41, 0, 0, 0, 0xBF]);
            from_three(0, 1 << 40, body)
        }
        "samples long" => from_three(4242, 42_420_000, samples(64_000, Element::I16, &long)),
        "status" => {
            let status = Status { state: State::Running, dropped: 5, received: 17, bad: 2 };
            from_three(4244, 42_500_000, Body::Status(status))
        }
        "bad: version" => Err(RecordError::Version { found: 2 }),
        "bad: kind" => Err(RecordError::Kind { found: 0x7F }),
        "bad: length" => Err(RecordError::Length { found: 17 }),
        "bad: rate" => Err(RecordError::Field(Field::Rate)),
        other => panic!("nobody says what vector {other:?} is"),
    });
}

#[test]
fn the_vectors_of_the_readme_are_encoded_and_decoded() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 16);
    for vector in &vectors {
        with_meaning(&vector.name, |meaning| {
            let mut decoder: Decoder = Decoder::new();
            let decoded = decoder.next(&mut &vector.frame[..]).expect("a whole frame");
            assert_eq!(decoded, meaning.map_err(FrameError::Record), "{}", vector.name);
            if let Ok(record) = meaning {
                assert_eq!(common::frame(&record), vector.frame, "{}", vector.name);
            }
        });
    }
}

/// The parts of a vector fit together by the naive decoder too, and by nothing of the crate.
#[test]
fn the_vectors_of_the_readme_are_sound() {
    for Vector { name, record, crc, frame } in vectors() {
        if record.is_empty() {
            let outcomes = naive::outcomes(&frame, MAX_FRAME);
            assert!(matches!(outcomes[..], [naive::Outcome::Record(_)]), "{name}: {outcomes:?}");
            continue;
        }
        assert_eq!(naive::crc32(&record).to_le_bytes(), crc[..], "{name}");
        assert_eq!(naive::frame(&record), frame, "{name}");
    }
}
