//! What was destroyed on the way, found by reading what was sent.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;

use mcedge_wire::MAX_FRAME;

/// Ranges of destroyed rows that are kept; further ones are only counted.
const RANGES: usize = 1 << 20;

/// What a simulator did to the rows that it played.
///
/// A row is destroyed when no intact frame with it was in the bytes that a host could read: this is found by reading these
/// bytes again, by other code than a host's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    /// Rows taken of the recording.
    pub rows: u64,
    /// Rows that never came out whole.
    pub destroyed: u64,
    /// Which ones, counted from 0 through all starts of the board; of 1,048,576 ranges at most.
    pub ranges: Vec<Range<u64>>,
    /// The board's starts, in their order.
    pub boots: Vec<Boot>,
    /// Rows in an intact frame that came a second time.
    pub repeated: u64,
    /// Frames with a record in them.
    pub frames: u64,
    /// Bytes between two zeros that were no record, once for each such place.
    pub bad_frames: u64,
    /// Frames that were begun when the line went.
    pub cut_frames: u64,
    /// Bytes that a host could read.
    pub bytes: u64,
    /// Bits turned.
    pub flips: u64,
    /// Bytes left out.
    pub lost_bytes: u64,
    /// Bytes put in.
    pub garbage_bytes: u64,
    /// Overlong frames put in.
    pub oversized: u64,
    /// Frames sent twice.
    pub duplicated: u64,
    /// Times that nothing was sent for a while.
    pub stalls: u64,
    /// Times that the line was pulled out.
    pub unplugs: u64,
    /// Rows that the board itself had no room for.
    pub dropped: u64,
    /// Frames from the host with a record in them.
    pub commands: u64,
    /// Frames from the host without one.
    pub bad_commands: u64,
    /// Answers of the model.
    pub predictions: u64,
    /// Of these, those that answer no sample that was sent, or not with its time.
    pub wrong_predictions: u64,
}

/// One start of a board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// The number that its records carry.
    pub boot: u8,
    /// The row that its sample 0 is.
    pub first_row: u64,
    /// Rows taken in it.
    pub samples: u64,
    /// Of these, those destroyed.
    pub destroyed: u64,
    /// Of those destroyed, those before its first intact record: in the first start, no host can tell them from samples that
    /// were taken before it came.
    pub before: u64,
    /// Of those destroyed, those behind its last intact record: no host can know of them.
    pub after: u64,
    /// A record of it came out whole.
    is_heard: bool,
    /// One past the last sample that came out whole.
    next: u64,
    /// The highest sequence that a record of it has told.
    told: u64,
}

impl Ledger {
    /// Rows whose loss a host knows exactly, by sequence.
    pub fn knowable(&self) -> u64 {
        let before = self.boots.iter().find(|boot| boot.is_heard).map_or(0, |boot| boot.before);
        self.boots.iter().map(|boot| boot.destroyed - boot.after).sum::<u64>() - before
    }

    /// As JSON, of numbers alone.
    pub fn to_json(&self) -> String {
        let counts = self.counts().map(|(name, count)| format!("  \"{name}\": {count},\n")).concat();
        let boot = |boot: &Boot| {
            let Boot { boot, first_row, samples, destroyed, before, after, .. } = boot;
            format!(
                "    {{\"boot\": {boot}, \"first_row\": {first_row}, \"samples\": {samples}, \
                 \"destroyed\": {destroyed}, \"before\": {before}, \"after\": {after}}}"
            )
        };
        let boots: Vec<String> = self.boots.iter().map(boot).collect();
        let range = |range: &Range<u64>| format!("    [{}, {}]", range.start, range.end);
        let ranges: Vec<String> = self.ranges.iter().map(range).collect();
        format!(
            "{{\n{counts}  \"boots\": [\n{}\n  ],\n  \"destroyed_rows\": [\n{}\n  ]\n}}\n",
            boots.join(",\n"),
            ranges.join(",\n")
        )
    }

    fn counts(&self) -> [(&'static str, u64); 21] {
        [
            ("rows", self.rows),
            ("destroyed", self.destroyed),
            ("knowable", self.knowable()),
            ("repeated", self.repeated),
            ("frames", self.frames),
            ("bad_frames", self.bad_frames),
            ("cut_frames", self.cut_frames),
            ("bytes", self.bytes),
            ("flips", self.flips),
            ("lost_bytes", self.lost_bytes),
            ("garbage_bytes", self.garbage_bytes),
            ("oversized", self.oversized),
            ("duplicated", self.duplicated),
            ("stalls", self.stalls),
            ("unplugs", self.unplugs),
            ("resets", self.boots.len().saturating_sub(1) as u64),
            ("dropped", self.dropped),
            ("commands", self.commands),
            ("bad_commands", self.bad_commands),
            ("predictions", self.predictions),
            ("wrong_predictions", self.wrong_predictions),
        ]
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |count: u64| if count == 1 { "" } else { "s" };
        write!(f, "{} rows played, {} destroyed", self.rows, self.destroyed)?;
        let is_told =
            |name: &str| !matches!(name, "rows" | "destroyed" | "knowable" | "bytes" | "commands" | "frames");
        for (name, count) in self.counts().into_iter().filter(|&(name, count)| count > 0 && is_told(name)) {
            write!(f, "; {}: {count}", name.replace('_', " "))?;
        }
        write!(f, "; {} frame{} of {} bytes", self.frames, s(self.frames), self.bytes)
    }
}

/// What a listener looks for in the bytes.
pub enum Listener {
    /// Frames, between zeros.
    Frames(Piece),
    /// Lines, of which these are still to come.
    Lines(Piece, VecDeque<(Option<u64>, Vec<u8>)>),
}

/// The bytes since the last end of a frame or a line.
#[derive(Default)]
pub struct Piece {
    bytes: Vec<u8>,
    /// There were more than any frame has.
    is_oversized: bool,
}

/// Reads what was sent, as a host could.
///
/// # Invariants
///
/// - `unread` is what was written behind the bytes that `listener` has had: a host may not have read it yet.
pub struct Account {
    pub ledger: Ledger,
    listener: Listener,
    unread: VecDeque<u8>,
    /// Of the ledger's boots, that of the last record heard.
    boot: usize,
}

impl Account {
    pub fn of_frames() -> Self {
        Self::new(Listener::Frames(Piece::default()))
    }

    pub fn of_lines() -> Self {
        Self::new(Listener::Lines(Piece::default(), VecDeque::new()))
    }

    fn new(listener: Listener) -> Self {
        Account { ledger: Ledger::default(), listener, unread: VecDeque::new(), boot: 0 }
    }

    /// The board starts.
    pub fn start(&mut self, boot: u8) {
        let first_row = self.ledger.rows;
        self.ledger.boots.push(Boot { boot, first_row, ..Boot::default() });
    }

    /// The board takes rows of its recording.
    pub fn take(&mut self, rows: u64) {
        self.ledger.rows += rows;
        if let Some(boot) = self.ledger.boots.last_mut() {
            boot.samples += rows;
        }
    }

    /// The line of text that a row, or the header, is sent as, before it is damaged.
    pub fn expect_line(&mut self, row: Option<u64>, line: &[u8]) {
        /// Lines that may be on their way at once: a pseudo-terminal holds fewer.
        const LINES: usize = 1 << 20;
        if let Listener::Lines(_, expected) = &mut self.listener {
            expected.push_back((row, line.strip_suffix(b"\n").unwrap_or(line).to_vec()));
            if expected.len() > LINES {
                expected.pop_front();
            }
        }
    }

    /// Bytes were written.
    pub fn write(&mut self, bytes: &[u8]) {
        /// More than a pseudo-terminal holds.
        const MOST: usize = 1 << 20;
        self.unread.extend(bytes);
        if self.unread.len() > 2 * MOST {
            self.hear(self.unread.len() - MOST);
        }
    }

    /// The line is gone, and with it the last `lost` bytes, and the frame that was on its way.
    pub fn hang_up(&mut self, lost: usize) {
        self.hear(self.unread.len().saturating_sub(lost));
        self.unread.clear();
        let (Listener::Frames(piece) | Listener::Lines(piece, _)) = &mut self.listener;
        let Piece { bytes, is_oversized } = std::mem::take(piece);
        self.ledger.cut_frames += u64::from(is_oversized || !bytes.is_empty());
    }

    /// All has been said.
    pub fn finish(mut self, lost: usize) -> Ledger {
        self.hang_up(lost);
        let Account { mut ledger, .. } = self;
        for index in 0..ledger.boots.len() {
            let Boot { samples, next, told, is_heard, .. } = ledger.boots[index];
            ledger.destroy(index, next, samples);
            let heard = if is_heard { next.max(told).min(samples) } else { 0 };
            ledger.boots[index].after = samples - heard;
        }
        ledger
    }

    fn hear(&mut self, count: usize) {
        self.ledger.bytes += count as u64;
        let heard: Vec<u8> = self.unread.drain(..count).collect();
        let end = if matches!(self.listener, Listener::Frames(_)) { 0 } else { b'\n' };
        let mut pieces = heard.split(|&byte| byte == end).peekable();
        while let Some(part) = pieces.next() {
            let (Listener::Frames(piece) | Listener::Lines(piece, _)) = &mut self.listener;
            piece.add(part);
            if pieces.peek().is_some() {
                let Piece { bytes, is_oversized } = std::mem::take(piece);
                self.end(&bytes, is_oversized);
            }
        }
    }

    /// A frame or a line has come to its end.
    fn end(&mut self, bytes: &[u8], is_oversized: bool) {
        if bytes.is_empty() && !is_oversized {
            return;
        }
        let is_known = !is_oversized
            && match &mut self.listener {
                Listener::Frames(_) => self.frame(bytes).is_some(),
                Listener::Lines(_, expected) => match expected.iter().position(|(_, line)| line == bytes) {
                    Some(at) => {
                        let line = expected.drain(..=at).next_back();
                        if let Some((Some(row), _)) = line {
                            self.came(0, row, 1);
                        }
                        true
                    }
                    None => false,
                },
            };
        let counter = if is_known { &mut self.ledger.frames } else { &mut self.ledger.bad_frames };
        *counter += 1;
    }

    /// A frame without its zero: what a host would make of it, if it is one.
    fn frame(&mut self, stuffed: &[u8]) -> Option<()> {
        let bytes = unstuff(stuffed)?;
        let (record, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if crc32(record).to_le_bytes() != *crc || record.len() < 16 || record[0] != 1 {
            return None;
        }
        let boots = &self.ledger.boots;
        self.boot = (self.boot..boots.len()).find(|&index| boots[index].boot == record[3])?;
        let sequence = u64::from(u32::from_le_bytes(record[4..8].try_into().ok()?));
        let boot = &mut self.ledger.boots[self.boot];
        // Counts wrap on the wire.
        let sequence = sequence + ((boot.told + (1 << 31)).saturating_sub(sequence) >> 32 << 32);
        if !std::mem::replace(&mut boot.is_heard, true) {
            boot.before = sequence.min(boot.samples);
        }
        boot.told = boot.told.max(sequence);
        if record[1] == 0x02 {
            let samples = u64::from(u16::from_le_bytes([record[22], record[23]]));
            self.came(self.boot, sequence, samples);
        }
        Some(())
    }

    /// Samples came out whole.
    fn came(&mut self, boot: usize, sequence: u64, samples: u64) {
        let next = self.ledger.boots[boot].next;
        if sequence < next {
            self.ledger.repeated += samples;
            return;
        }
        self.ledger.destroy(boot, next, sequence);
        let boot = &mut self.ledger.boots[boot];
        boot.next = sequence + samples;
        boot.told = boot.told.max(boot.next);
    }
}

impl Piece {
    fn add(&mut self, bytes: &[u8]) {
        self.is_oversized |= self.bytes.len() + bytes.len() > MAX_FRAME;
        if !self.is_oversized {
            self.bytes.extend(bytes);
        }
    }
}

impl Ledger {
    /// Samples `from..to` of a start never came.
    fn destroy(&mut self, boot: usize, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let boot = &mut self.boots[boot];
        boot.destroyed += to - from;
        self.destroyed += to - from;
        let rows = boot.first_row + from..boot.first_row + to;
        match self.ranges.last_mut() {
            Some(last) if last.end == rows.start => last.end = rows.end,
            _ => {
                if self.ranges.len() < RANGES {
                    self.ranges.push(rows);
                }
            }
        }
    }
}

/// COBS backwards.
fn unstuff(stuffed: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut at) = (Vec::with_capacity(stuffed.len()), 0);
    while at < stuffed.len() {
        let code = usize::from(stuffed[at]);
        bytes.extend(stuffed.get(at + 1..at + code)?);
        at += code;
        if code < 255 && at < stuffed.len() {
            bytes.push(0);
        }
    }
    Some(bytes)
}

/// The CRC of zip and Ethernet, as its polynomial says it.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut value, mut bit) = (byte as u32, 0);
            while bit < 8 {
                value = if value & 1 == 1 { (value >> 1) ^ 0xEDB8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &byte| TABLE[((crc ^ u32::from(byte)) & 0xFF) as usize] ^ (crc >> 8))
}
