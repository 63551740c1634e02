//! A stream that goes on from a snapshot, bit for bit.

use super::*;
use crate::snapshot::{Draft, Section, Snapshot, SnapshotError};
use crate::{Backlog, Policy};

/// Every segmentation, type of cache and number of streams, over every capacity, and every policy.
fn kinds() -> impl Iterator<Item = Setup> {
    let kinds = setups().into_iter().enumerate().map(|(i, setup)| Setup {
        dtype: ["f32", "f16", "i8"][i % 3],
        batch: [1, 3][i / 2 % 2],
        chunk: if [constant(1), logarithmic()].contains(&setup.segmentation) { 1 } else { [1, 4][i / 3 % 2] },
        // Contexts that gates weigh are f32, the toy's are of the type of its cache.
        gates: i % 2 == 0 && i % 3 != 1,
        tokens: i % 7 == 0,
        ..setup
    });
    kinds.chain(policies::setups_of_policies())
}

fn engine(setup: &Setup) -> Engine<Toy> {
    if setup.chunk > 1 { setup.chunked().0 } else { setup.engine().0 }
}

fn saved(engine: &Engine<Toy>) -> Vec<u8> {
    let mut draft = Draft::default();
    draft.clear();
    engine.save(&mut draft).unwrap();
    draft.finish().to_vec()
}

/// Runs `steps` pieces of some streams each, and gives the bits of what came.
fn run(engine: &mut Engine<Toy>, setup: &Setup, random: &mut Random, steps: usize) -> Vec<u32> {
    let mut bits = Vec::new();
    for _ in 0..steps {
        let who: Vec<bool> = (0..setup.batch).map(|_| random.below(3) > 0).collect();
        let tokens = 1 + random.below(6);
        let values: Vec<f32> = (0..setup.batch * tokens * 2).map(|_| random.x()).collect();
        let ids: Vec<i64> =
            values[..setup.batch * tokens].iter().map(|x| (x.abs() * 9.0) as i64 % 10).collect();
        if random.below(9) == 0 {
            bits.extend(match engine.roll_back(random.below(setup.batch)) {
                RolledBack::ToSegment { tokens } => Some(tokens as u32),
                RolledBack::ToStart => None,
            });
        }
        let backlog = if setup.tokens { Backlog::Tokens(&ids) } else { Backlog::Features(&values) };
        let mut output = Vec::new();
        engine.catch_up_some(&who, backlog, &mut output).unwrap();
        for (row, output) in output.chunks(toy::O).enumerate() {
            bits.extend(output.iter().filter(|_| who[row % setup.batch]).map(|x| x.to_bits()));
        }
        let gates = (0..setup.batch).flat_map(|stream| engine.gates(stream));
        bits.extend(gates.flat_map(|gates| gates.weights).map(|weight| weight.to_bits()));
        bits.extend((0..setup.batch).map(|stream| engine.tokens_of(stream) as u32));
    }
    bits
}

#[test]
fn a_restored_engine_goes_on_bit_for_bit() {
    for (seed, setup) in (0..).zip(kinds()) {
        let random = &mut Random(seed);
        let steps = random.below(40);
        let mut undisturbed = engine(&setup);
        run(&mut undisturbed, &setup, random, steps);
        let snapshot = saved(&undisturbed);
        assert!(snapshot.len() <= undisturbed.snapshot_bytes() + 56, "{setup:?}");
        // One that is new, and one that remembers something else.
        let restored = [0, 9].map(|before| {
            let mut restored = engine(&setup);
            run(&mut restored, &setup, &mut Random(seed + 1), before);
            restored.restore(&Snapshot::parse(&snapshot).unwrap()).unwrap();
            assert!(saved(&restored) == snapshot, "{setup:?}");
            assert_eq!(restored.cache().len(), undisturbed.cache().len());
            assert_eq!(restored.cache().pushed(), undisturbed.cache().pushed());
            for stream in 0..setup.batch {
                assert_eq!(tokens_by_age(&restored, stream), tokens_by_age(&undisturbed, stream));
                assert!(restored.gates(stream).eq(undisturbed.gates(stream)), "{setup:?}");
            }
            run(&mut restored, &setup, &mut Random(seed + 2), 30)
        });
        let expected = run(&mut undisturbed, &setup, &mut Random(seed + 2), 30);
        assert!(restored.iter().all(|found| *found == expected), "{setup:?}");
    }
}

/// An engine and a snapshot of it, some way on.
fn some(setup: &Setup) -> (Engine<Toy>, Vec<u8>) {
    let mut engine = engine(setup);
    run(&mut engine, setup, &mut Random(3), 20);
    let snapshot = saved(&engine);
    (engine, snapshot)
}

#[test]
fn a_snapshot_of_something_else_is_told_and_changes_nothing() {
    let own = Setup { batch: 2, ..Setup::default() };
    let check = |other: Setup, options: EngineOptions, expected: &str| {
        let (_, snapshot) = some(&other);
        let control = toy::Control::default();
        let mut engine = Engine::new(&own.model(), Toy::new(&own, &control), options).unwrap();
        run(&mut engine, &own, &mut Random(1), 9);
        let before = saved(&engine);
        let error = engine.restore(&Snapshot::parse(&snapshot).unwrap()).unwrap_err();
        assert!(matches!(error, SnapshotError::Other { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}, not {expected}");
        assert!(saved(&engine) == before, "{expected}");
    };
    let options = EngineOptions::default();
    check(
        Setup { batch: 3, ..own.clone() },
        options.clone(),
        "the snapshot is of 3 streams, expected 2 streams",
    );
    let message = "the snapshot is of model `toy` (its files: ";
    check(Setup { segmentation: constant(3), ..own.clone() }, options.clone(), message);
    let fewer = EngineOptions { slots: Some(2), ..options };
    let message = "the snapshot is of a cache of 3 checkpoints, expected a cache of 2 checkpoints";
    check(own.clone(), fewer, message);
    // The toy has no policy besides: another's name is written over its own.
    let (mut engine, snapshot) = some(&own);
    let other = edited(&snapshot, "engine", |bytes| {
        let at = bytes.windows(6).position(|name| name == Policy::Oldest.name().as_bytes()).unwrap();
        bytes[at..at + 6].copy_from_slice(b"newest");
    });
    let error = engine.restore(&Snapshot::parse(&other).unwrap()).unwrap_err().to_string();
    assert_eq!(error, "the snapshot is of policy `newest`, expected policy `oldest`");
}

/// The snapshot with a section changed, and checksums that hold.
fn edited(snapshot: &[u8], section: &str, edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let parsed = Snapshot::parse(snapshot).unwrap();
    let mut draft = Draft::default();
    draft.clear();
    for name in ["engine", "stream 0", "stream 1"] {
        draft.section(name);
        let mut bytes = rest(parsed.section(name).unwrap());
        if name == section {
            edit(&mut bytes);
        }
        draft.bytes(&bytes);
    }
    draft.finish().to_vec()
}

fn rest(mut section: Section<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Ok(byte) = section.bytes("a byte", 1) {
        bytes.extend(byte);
    }
    bytes
}

/// A file whose checksums hold may still say anything.
#[test]
fn what_cannot_be_changes_nothing() {
    for segmentation in [constant(4), logarithmic(), surprise()] {
        let setup = Setup { batch: 2, dtype: "i8", gates: true, segmentation, ..Setup::default() };
        let (mut engine, snapshot) = some(&setup);
        let (mut refused, mut random) = (0, Random(5));
        run(&mut engine, &setup, &mut random, 7);
        for round in 0..3000 {
            let before = saved(&engine);
            let section = ["engine", "stream 0", "stream 1"][round % 3];
            let (kind, at, byte) = (random.below(4), random.next() as usize, random.next() as u8);
            let other = edited(&snapshot, section, |bytes| {
                let at = at % bytes.len();
                match kind {
                    0 => bytes.truncate(at),
                    1 => bytes[at] = byte,
                    2 => bytes[at..].fill(0xff),
                    _ => bytes.insert(at, byte),
                }
            });
            match engine.restore(&Snapshot::parse(&other).unwrap()) {
                // Another number in the place of a number: it may be too much for the model.
                Ok(()) => drop(engine.catch_up(Backlog::Features(&[0.5; 8]), &mut Vec::new())),
                Err(_) => {
                    refused += 1;
                    assert!(saved(&engine) == before);
                }
            }
        }
        assert!(refused > 1500, "{refused}");
    }
}

#[test]
fn every_invariant_is_checked() {
    let setup = Setup { batch: 2, gates: true, ..Setup::default() };
    let (mut engine, snapshot) = some(&setup);
    let before = saved(&engine);
    // tokens, start, no losses; the state, what to go back to, how often; then the slots, of 40 bytes each.
    let slots = 24 + 2 * 4 * (toy::M + toy::C) + 4;
    let mut check = |offset: usize, value: u64, expected: &str| {
        let other = edited(&snapshot, "stream 1", |bytes| {
            bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        });
        let error = engine.restore(&Snapshot::parse(&other).unwrap()).unwrap_err().to_string();
        assert!(error.contains("section `stream 1`") && error.contains(expected), "{error}, not {expected}");
        assert!(saved(&engine) == before);
    };
    check(0, 0, "expected one of fewer than 4 tokens");
    check(0, u64::MAX, "tokens, expected");
    check(16, 1, "1 losses, expected 0 at most");
    check(24, f32::INFINITY.to_bits().into(), "past.0.m that is not finite at 0");
    check(slots, 2, "2 checkpoints made, expected 3 at least");
    check(slots + 8, 4, "4 live checkpoints, expected 3 at most");
    check(slots + 16, 3, "3 a slot, expected 2 at most");
    check(slots + 24, 0, "a checkpoint of 0 tokens that ends with token ");
    check(slots + 24, 1 << 40, "a checkpoint of 1099511627776 tokens");
    check(slots + 32, 1 << 40, "that ends with token 1099511627776, expected one of tokens from 0 to ");
    check(slots + 40, f64::NAN.to_bits(), "a checkpoint's gates NaN");
    let second = u64::from_le_bytes(part_of(&snapshot, slots + 56));
    check(slots + 16, second, "twice, expected each once");
    check(slots + 136, f32::NAN.to_bits().into(), "a checkpoint that is not finite");
}

fn part_of(snapshot: &[u8], offset: usize) -> [u8; 8] {
    let stream = rest(Snapshot::parse(snapshot).unwrap().section("stream 1").unwrap());
    stream[offset..offset + 8].try_into().unwrap()
}
