//! The whole lines of a text board that comes and goes, against a plain reading of the rules.
//!
//! The first byte: bit 0 says how a session begins, bit 1 what its lines are, the others how long the pieces are. Then the
//! bytes; 0xff hangs up.
#![no_main]

#[allow(dead_code)]
#[path = "../../src/lines.rs"]
mod lines;

use lines::{Begin, LineKind, Lines};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let begin = if first & 1 == 1 { Begin::Anywhere } else { Begin::Whole };
    let kind = if first & 2 == 2 { LineKind::Any } else { LineKind::Rows };
    let sessions: Vec<&[u8]> = bytes.split(|&byte| byte == 0xff).collect();
    let expected = match kind {
        LineKind::Any => any(begin, &sessions),
        LineKind::Rows => rows(begin, &sessions),
    };
    for step in [1, usize::from(first >> 2) + 2, usize::MAX] {
        assert_eq!(given(begin, kind, &sessions, step), expected);
    }
});

/// What the crate gives.
fn given(begin: Begin, kind: LineKind, sessions: &[&[u8]], step: usize) -> Vec<u8> {
    let (mut lines, mut given, mut room) = (Lines::new(begin, kind), Vec::new(), [0; 7]);
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

/// The lines of a session that end, with their ends.
fn ended(session: &[u8]) -> Vec<&[u8]> {
    let lines = session.split_inclusive(|&byte| byte == b'\n');
    lines.filter(|line| line.ends_with(b"\n")).collect()
}

/// What should be of any lines: all of them, less each session's first one where it may be cut.
fn any(begin: Begin, sessions: &[&[u8]]) -> Vec<u8> {
    let cut = usize::from(begin == Begin::Anywhere);
    let given = sessions.iter().flat_map(|session| ended(session).into_iter().skip(cut));
    given.flatten().copied().collect()
}

/// What should be of rows: of each session all from its first row on, after what stood above it where that is a header, or
/// must be refused; less the header when it comes again.
fn rows(begin: Begin, sessions: &[&[u8]]) -> Vec<u8> {
    let (mut given, mut header) = (Vec::new(), None::<Vec<u8>>);
    for session in sessions {
        let (mut above, mut has_rows) = (None::<(usize, &[u8])>, false);
        for (at, line) in ended(session).into_iter().enumerate() {
            if header.as_deref() == Some(line.trim_ascii_end()) {
                above = None;
            } else if has_rows {
                given.extend(line);
            } else if !is_row(line, above.map(|above| above.1), header.as_deref()) {
                let is_blank = line.trim_ascii().is_empty();
                above = if is_blank { above } else { Some((at, line)) };
            } else if at > 0 || begin == Begin::Whole {
                has_rows = true;
                if let Some((place, names)) = above {
                    let may_be_cut = place == 0 && begin == Begin::Anywhere;
                    let is_first = given.is_empty();
                    if is_first && fit(names, line) {
                        header = Some(names.trim_ascii_end().to_vec());
                        given.extend(names);
                    } else if !is_first && are_refused(names, line, may_be_cut, header.as_deref()) {
                        given.extend(names);
                    }
                }
                given.extend(line);
            }
        }
    }
    given
}

/// After rows have been given, names that are, or may be the end of, a header other than the one before.
fn are_refused(names: &[u8], row: &[u8], may_be_cut: bool, header: Option<&[u8]>) -> bool {
    match header.filter(|_| may_be_cut) {
        Some(header) => are_names(names) && !header.ends_with(names.trim_ascii_end()),
        None => fit(names, row),
    }
}

/// What is between the commas, semicolons and tabs that have an even number of quotes before them.
fn cells(line: &[u8]) -> Option<Vec<String>> {
    let line = String::from_utf8(line.trim_ascii().to_vec()).ok()?;
    let (mut cells, mut quotes) = (vec![String::new()], 0);
    for letter in line.chars() {
        quotes += usize::from(letter == '"');
        match letter {
            ',' | ';' | '\t' if quotes % 2 == 0 => cells.push(String::new()),
            letter => cells.last_mut().unwrap().push(letter),
        }
    }
    Some(cells)
}

fn words(cells: &[String]) -> Vec<String> {
    cells.concat().split_whitespace().map(str::to_owned).collect()
}

fn is_number(cell: &String) -> bool {
    cell.trim().trim_matches('"').parse::<f64>().is_ok()
}

fn is_row(line: &[u8], above: Option<&[u8]>, header: Option<&[u8]>) -> bool {
    let Some(cells_here) = cells(line) else { return false };
    if cells_here.len() == 1 {
        let words = words(&cells_here);
        return !words.is_empty() && words.iter().all(is_number);
    }
    let is_like =
        |other: Option<&[u8]>| other.and_then(cells).is_some_and(|other| other.len() == cells_here.len());
    let is_plain = cells_here.iter().all(|cell| is_number(cell) || cell.trim().is_empty());
    cells_here.iter().any(is_number) && (is_plain || is_like(above) || is_like(header))
}

/// Names, as many as the row has numbers.
fn fit(names: &[u8], row: &[u8]) -> bool {
    let (Some(names_cells), Some(row)) = (cells(names), cells(row)) else { return false };
    let (names_words, row_words) = (words(&names_cells).len(), words(&row).len());
    let is_one = row.len() == 1 && (row_words == 1 || names_words == row_words);
    are_names(names) && names_cells.len() == row.len() && (row.len() > 1 || is_one)
}

/// Letters, and nothing that a row of numbers or JSON has.
fn are_names(line: &[u8]) -> bool {
    let Some(cells) = cells(line) else { return false };
    let text = cells.concat();
    let has_letter = text.chars().filter(|letter| letter.is_alphabetic()).count() > 0;
    let has_other = text.contains(['{', '}']) || text.replace('\t', "").contains(char::is_control);
    has_letter && !has_other && !cells.iter().any(is_number)
}
