//! The whole lines of a text board that comes and goes, against a plain reading of the rules.
//!
//! The first byte: bit 0 says how a session begins, the others how long the pieces are. Then the bytes; 0xff hangs up.
#![no_main]

#[allow(dead_code)]
#[path = "../../src/lines.rs"]
mod lines;

use lines::{Begin, Lines};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let begin = if first & 1 == 1 { Begin::Anywhere } else { Begin::Whole };
    let sessions: Vec<&[u8]> = bytes.split(|&byte| byte == 0xff).collect();
    let expected = naive(begin, &sessions);
    for step in [1, usize::from(first >> 1) + 2, usize::MAX] {
        assert_eq!(given(begin, &sessions, step), expected);
    }
});

/// What the crate gives.
fn given(begin: Begin, sessions: &[&[u8]], step: usize) -> Vec<u8> {
    let (mut lines, mut given, mut room) = (Lines::new(begin), Vec::new(), [0; 7]);
    for session in sessions {
        for piece in session.chunks(step) {
            lines.push(piece);
            while !lines.is_empty() {
                let count = lines.take(&mut room);
                given.extend(&room[..count]);
            }
        }
        lines.hang_up();
    }
    given
}

/// What should be: of each session the lines that end; less the first one where it may be cut; less headers but the first.
fn naive(begin: Begin, sessions: &[&[u8]]) -> Vec<u8> {
    let (mut given, mut header) = (Vec::new(), None);
    for (number, session) in sessions.iter().enumerate() {
        let end = session.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        for (at, line) in session[..end].split_inclusive(|&byte| byte == b'\n').enumerate() {
            let text = line.trim_ascii_end().to_vec();
            let is_header = at == 0 && number == 0 && names(&text);
            let is_again = header.as_ref() == Some(&text);
            let is_cut = at == 0 && begin == Begin::Anywhere && !is_header;
            if is_header {
                header = Some(text);
            }
            if !is_again && !is_cut {
                given.extend(line);
            }
        }
    }
    given
}

/// Letters, and nothing that a row of numbers or JSON has.
fn names(line: &[u8]) -> bool {
    let Ok(line) = String::from_utf8(line.to_vec()) else { return false };
    let line = line.trim_matches(|letter: char| letter.is_ascii_whitespace());
    let mut fields = line.split(|letter| matches!(letter, ',' | ';' | '\t'));
    let has_letter = line.chars().filter(|letter| letter.is_alphabetic()).count() > 0;
    let has_other = line.contains(['{', '}']) || line.replace('\t', "").contains(char::is_control);
    let is_number = |field: &str| field.trim().trim_matches('"').parse::<f64>().is_ok();
    has_letter && !has_other && !fields.any(is_number)
}
