//! The fuzz target, on the inputs that fuzzing found worth keeping: `../fuzz/corpus`.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Xorshift, checks, with_record};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/decode")
}

#[test]
fn bytes_are_decoded_alike_in_any_pieces() {
    let files: Vec<_> = fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "no corpus");
    for file in files {
        // Shown when the check panics.
        eprintln!("{}", file.display());
        checks::decode(&fs::read(&file).unwrap());
    }
}

/// Streams of every kind of record, for a corpus to start from.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn write_seeds() {
    fs::create_dir_all(corpus()).unwrap();
    let mut random = Xorshift(7);
    for seed in 0..24 {
        let mut bytes = vec![seed as u8 * 5];
        for _ in 0..1 + random.below(3) {
            let frame = with_record(&mut random, common::frame);
            let outcomes = checks::naive::outcomes(&frame, frame.len());
            let [checks::naive::Outcome::Record(record)] = &outcomes[..] else { panic!("{outcomes:?}") };
            let (kind, data) = match random.below(4) {
                0 => (0, &frame),
                kind => (kind as u8, record),
            };
            bytes.extend([kind << 6 | (data.len() >> 8) as u8, data.len() as u8]);
            bytes.extend_from_slice(data);
        }
        fs::write(corpus().join(format!("seed-{seed}")), bytes).unwrap();
    }
}
