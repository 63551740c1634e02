//! The format: what is written is read, and nothing else is.

use super::*;

/// A snapshot of three sections, of which one is longer than a page.
fn snapshot() -> Vec<u8> {
    let mut draft = Draft::default();
    // What was in the buffer before is gone.
    draft.clear();
    draft.section("before");
    draft.clear();
    draft.section("numbers");
    draft.flag(true);
    draft.u32(0xdead_beef);
    draft.u64(1 << 40);
    draft.count(7);
    draft.f64(-0.1);
    draft.f32s(&[1.5, -0.0, f32::MIN_POSITIVE]);
    draft.text("§ über");
    draft.section("empty");
    draft.section("long");
    draft.bytes(&(0..5000).map(|i| (i * 31 % 251) as u8).collect::<Vec<_>>());
    draft.finish().to_vec()
}

#[test]
fn what_is_written_is_read() {
    let bytes = snapshot();
    let snapshot = Snapshot::parse(&bytes).unwrap();
    let mut numbers = snapshot.section("numbers").unwrap();
    assert!(numbers.flag("flag").unwrap());
    assert_eq!(numbers.u32("u32").unwrap(), 0xdead_beef);
    assert_eq!(numbers.counter("counter").unwrap(), 1 << 40);
    assert_eq!(numbers.count("count", 7).unwrap(), 7);
    assert_eq!(numbers.f64("f64").unwrap(), -0.1);
    let floats: Vec<u32> = numbers.f32s("f32s", 3).unwrap().iter().map(|x| x.to_bits()).collect();
    assert_eq!(floats, [0x3fc0_0000, 0x8000_0000, 0x0080_0000]);
    assert_eq!(numbers.text("text").unwrap(), "§ über");
    numbers.end().unwrap();
    snapshot.section("empty").unwrap().end().unwrap();
    assert_eq!(snapshot.section("long").unwrap().bytes("all", 5000).unwrap()[4999], (4999 * 31 % 251) as u8);
    let missing = snapshot.section("before").unwrap_err().to_string();
    assert_eq!(missing, "section `before` of the snapshot has no such section, expected one");
}

/// The file's layout as the module's words have it, by hand.
#[test]
fn the_file_is_as_its_table_says() {
    let mut draft = Draft::default();
    draft.clear();
    draft.section("a");
    draft.u32(5);
    let found = draft.finish();
    let mut expected = b"mcedge\x1a\n\x02\0\0\0\x01\0\0\0".to_vec();
    expected.extend((8 + 4 + 4 + 8 + (8 + 1 + 8 + 4 + 4) + 32u64).to_le_bytes());
    expected.extend(b"\x01\0\0\0\0\0\0\0a\x04\0\0\0\0\0\0\0");
    // CRC-32 of 05 00 00 00, by Python's zlib.
    expected.extend(CRC_OF_FIVE.to_le_bytes());
    expected.extend(5u32.to_le_bytes());
    assert_eq!(found[..found.len() - 32], expected);
}

/// `zlib.crc32(b"\x05\0\0\0")`.
const CRC_OF_FIVE: u32 = 0x169a_2f2e;

#[test]
fn a_file_cut_off_anywhere_is_an_error() {
    let bytes = snapshot();
    for length in 0..bytes.len() {
        let error = Snapshot::parse(&bytes[..length]).unwrap_err();
        assert!(matches!(error, SnapshotError::Truncated { .. }), "{length}: {error}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(Snapshot::parse(&longer), Err(SnapshotError::Truncated { .. })));
}

#[test]
fn a_bit_flipped_anywhere_is_an_error() {
    let bytes = snapshot();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = Snapshot::parse(&flipped).unwrap_err();
        match bit / 8 {
            0..8 => assert!(matches!(error, SnapshotError::Foreign { .. }), "{bit}: {error}"),
            // A file that is whole is of the version that it says; this one is not.
            8..12 => assert!(matches!(error, SnapshotError::Damaged { .. }), "{bit}: {error}"),
            _ => {}
        }
    }
}

/// A file of `version` whose checksum holds.
pub(super) fn of_version(version: u8, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len() - DIGEST_BYTES].to_vec();
    bytes[8] = version;
    let digest = Sha256::digest(&bytes);
    [&bytes[..], &digest].concat()
}

#[test]
fn a_whole_file_of_another_version_says_so() {
    let error = Snapshot::parse(&of_version(9, &snapshot())).unwrap_err();
    assert!(matches!(error, SnapshotError::Version { found: 9, expected: VERSION }), "{error}");
}

#[test]
fn a_sector_lost_anywhere_is_an_error() {
    let bytes = snapshot();
    for start in (0..bytes.len()).step_by(512) {
        for fill in [0, 0xff, b'm'] {
            let mut torn = bytes.clone();
            let end = bytes.len().min(start + 512);
            torn[start..end].fill(fill);
            assert!(Snapshot::parse(&torn).is_err(), "{start} {fill}");
        }
    }
}

/// Whatever the bytes say, under checksums that hold or not.
#[test]
fn random_bytes_are_an_error_and_no_panic() {
    let mut x = 7u64;
    let mut random = |below: usize| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) as usize % below
    };
    let good = snapshot();
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = (0..random(200)).map(|_| random(256) as u8).collect();
        if random(2) == 0 {
            // A header that holds, so that what comes behind is looked at.
            let length = (HEADER_BYTES + bytes.len() + DIGEST_BYTES) as u64;
            let header = [&good[..12], &(1 + random(3) as u32).to_le_bytes(), &length.to_le_bytes()].concat();
            bytes.splice(0..0, header);
            // Lengths from 0 to the largest there is.
            for _ in 0..random(3) {
                let at = HEADER_BYTES + random(bytes.len() - HEADER_BYTES + 1);
                bytes.splice(at..at, (1u64 << random(64)).to_le_bytes());
            }
            let digest = Sha256::digest(&bytes);
            bytes.extend(digest);
        }
        assert!(Snapshot::parse(&bytes).is_err());
    }
}

#[test]
fn sections_are_read_within_their_bounds() {
    let bytes =
        [&[2][..], &u64::MAX.to_le_bytes(), &f64::NAN.to_le_bytes(), &f32::NAN.to_le_bytes()].concat();
    let section = Section::new("s", &bytes);
    let check = |result: Result<(), SnapshotError>, expected: &str| {
        let message = result.unwrap_err().to_string();
        assert_eq!(message, format!("section `s` of the snapshot has {expected}"));
    };
    check(section.clone().flag("answer").map(drop), "answer 2, expected 0 or 1");
    let mut rest = section.clone();
    rest.bytes("a byte", 1).unwrap();
    check(rest.clone().count("slots", 3).map(drop), "18446744073709551615 slots, expected 3 at most");
    check(rest.clone().text("name").map(drop), "12 bytes left, expected 18446744073709551615 of name");
    let huge = rest.clone().counter("tokens").unwrap_err().to_string();
    assert!(huge.contains("18446744073709551615 tokens"), "{huge}");
    check(
        rest.clone().f32s("weights", usize::MAX).map(drop),
        &format!("20 bytes left, expected {} of weights", usize::MAX),
    );
    rest.bytes("a number", 8).unwrap();
    check(rest.clone().f64("mean").map(drop), "mean NaN, expected a finite number");
    rest.bytes("a number", 8).unwrap();
    check(
        rest.clone().f32s("weights", 1).map(drop),
        "weights that is not finite at 0, expected finite numbers",
    );
    check(rest.clone().u64("tokens").map(drop), "4 bytes left, expected 8 of tokens");
    check(rest.end(), "4 bytes more, expected its end");
}

#[test]
fn two_sections_of_a_name_are_an_error() {
    let mut draft = Draft::default();
    draft.clear();
    draft.section("a");
    draft.section("a");
    let error = Snapshot::parse(draft.finish()).unwrap_err().to_string();
    assert!(error.contains("two sections `a`"), "{error}");
}

#[test]
fn many_sections_take_no_longer_than_their_bytes() {
    let mut draft = Draft::default();
    draft.clear();
    (0..200_000).for_each(|number| draft.section(&number.to_string()));
    let start = std::time::Instant::now();
    Snapshot::parse(draft.finish()).unwrap();
    // Every name compared with every other takes minutes.
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}
