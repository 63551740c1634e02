//! Boards that send lines of text: their columns are the channels.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use mcedge_firmware_host::{
    Channel, LineCounters, LineKind, RateGuess, Sample, SerialAddress, SerialText, Stream,
};

use super::view::{Count, Section, View};
use crate::source::Stopped;

/// Lines that may wait to be looked at.
const QUEUE: usize = 1 << 14;
/// Columns that are shown.
const COLUMNS: usize = 64;
/// Rows that may come before a look at the clock of the screen.
const ROWS: usize = 100_000;
/// What is told while nobody can be: of a function without a place of its own. A few at most.
static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
const MOST_TOLD: usize = 64;

/// A board that sends lines.
pub struct Text {
    lines: Receiver<Line>,
    counters: Arc<LineCounters>,
    overflowed: Arc<AtomicU64>,
    table: Table,
    stream: Stream,
    rate: RateGuess,
    rows: u64,
    bad_rows: u64,
}

struct Line {
    text: String,
    /// When it came, in µs since the Unix epoch.
    time_us: i64,
}

impl Text {
    /// Opens the port, and waits for the first row.
    pub fn open(address: &SerialAddress, stop: &Arc<AtomicBool>) -> Result<Self> {
        let text = SerialText::open(address, LineKind::Rows, Arc::clone(stop), tell)?;
        let counters = text.counters();
        let overflowed = Arc::new(AtomicU64::new(0));
        let (send, lines) = sync_channel(QUEUE);
        let (dropped, reader) = (Arc::clone(&overflowed), thread::current());
        thread::Builder::new()
            .name("mcedge-lines".into())
            .spawn(move || read(text, &reader, &dropped, |line| send.try_send(line)))
            .context("no thread can be started at the port")?;
        let stream = Stream { id: 0, name: address.port.to_string(), rate_hz: 0.0, channels: Vec::new() };
        let mut text = Text {
            lines,
            counters,
            overflowed,
            table: Table::default(),
            stream,
            rate: RateGuess::new(),
            rows: 0,
            bad_rows: 0,
        };
        text.wait(stop)?;
        Ok(text)
    }

    /// Waits until a row has said how many channels there are.
    fn wait(&mut self, stop: &AtomicBool) -> Result<()> {
        while self.table.width.is_none() {
            if stop.load(Ordering::Relaxed) {
                bail!(Stopped);
            }
            for notice in told() {
                eprintln!("mcedge: {notice}");
            }
            match self.lines.recv_timeout(Duration::from_millis(100)) {
                Ok(line) => {
                    self.table.push(&line.text);
                }
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                    bail!("has gone before the first row")
                }
            }
        }
        let unit = String::new;
        let channel = |name: String| Channel { name, unit: unit(), scale: 1.0 };
        self.stream.channels = self.table.names().into_iter().map(channel).collect();
        Ok(())
    }

    /// What it is; its rate is a guess, and 0 before there is one.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Takes what has come.
    pub fn follow(&mut self, view: &mut View) {
        for notice in told() {
            view.notice(&notice);
        }
        for _ in 0..ROWS {
            let Line { text, time_us } = match self.lines.try_recv() {
                Ok(line) => line,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    view.end();
                    break;
                }
            };
            self.rate.push(time_us);
            match self.table.push(&text) {
                Parsed::Row(values) => {
                    self.rows += 1;
                    view.sample(&Sample { sequence: self.rows as u32, device_us: 0, time_us, values });
                }
                Parsed::Header => {}
                Parsed::Bad => {
                    self.bad_rows += 1;
                    if self.bad_rows == 1 {
                        view.notice(&format!("no row of {} numbers: {text}", self.stream.channels.len()));
                    }
                }
            }
        }
        if let Some(rate_hz) = self.rate.rate_hz() {
            self.stream.rate_hz = rate_hz;
        }
        view.describe(&self.stream);
        view.update(self.sections(), 0, self.bad_rows, None);
    }

    fn sections(&self) -> Vec<Section> {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let LineCounters { bytes, cut, too_long, headers, reconnects, .. } = &*self.counters;
        vec![
            Section::new(
                "rows",
                vec![Count::good("used", self.rows), Count::bad("unreadable", self.bad_rows)],
            ),
            Section::new(
                "lines",
                vec![
                    Count::bad("cut", of(cut)),
                    Count::bad("too long", of(too_long)),
                    Count::good("headers again", of(headers)),
                    Count::bad("dropped by our queue", of(&self.overflowed)),
                ],
            ),
            Section::new(
                "board",
                vec![Count::good("bytes", of(bytes)), Count::bad("reconnects", of(reconnects))],
            ),
        ]
    }
}

/// Reads lines until there are no more, or nobody takes them.
fn read(
    text: SerialText,
    reader: &Thread,
    dropped: &AtomicU64,
    send: impl Fn(Line) -> Result<(), TrySendError<Line>>,
) {
    let (mut lines, mut line) = (BufReader::new(text), Vec::new());
    loop {
        line.clear();
        // A line is whole, and no longer than `SerialText` lets it be.
        if !matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
            return;
        }
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let time_us = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        match send(Line { text, time_us }) {
            Ok(()) => reader.unpark(),
            Err(TrySendError::Full(_)) => {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Disconnected(_)) => return,
        }
    }
}

fn tell(notice: &str) {
    if let Ok(mut told) = TOLD.lock()
        && told.len() < MOST_TOLD
    {
        told.push(notice.to_owned());
    }
}

fn told() -> Vec<String> {
    TOLD.lock().map(|mut told| std::mem::take(&mut *told)).unwrap_or_default()
}

/// Lines to rows: the first row of numbers says how many channels there are, and a line of as many names before it their
/// names.
#[derive(Default)]
struct Table {
    width: Option<usize>,
    /// The last line of names before the first row.
    header: Vec<String>,
    values: Vec<f32>,
}

#[derive(Debug, PartialEq)]
enum Parsed<'a> {
    /// A line before the first row.
    Header,
    /// `[channels]`; a cell that is no number is not a number.
    Row(&'a [f32]),
    /// It is none.
    Bad,
}

impl Table {
    fn push(&mut self, line: &str) -> Parsed<'_> {
        let numbers = || cells(line).map(|cell| cell.parse().unwrap_or(f32::NAN)).take(COLUMNS);
        self.values.clear();
        self.values.extend(numbers());
        let has_numbers = self.values.iter().any(|value| value.is_finite());
        match self.width {
            None if !has_numbers => {
                self.header = cells(line).take(COLUMNS).map(str::to_owned).collect();
                Parsed::Header
            }
            Some(width) if !has_numbers || self.values.len() != width => Parsed::Bad,
            _ => {
                self.width = Some(self.values.len());
                Parsed::Row(&self.values)
            }
        }
    }

    /// Names of the channels; numbers from 1 where there is no header.
    fn names(&self) -> Vec<String> {
        let width = self.width.unwrap_or(0);
        match self.header.len() == width {
            true => self.header.clone(),
            false => (1..=width).map(|number| number.to_string()).collect(),
        }
    }
}

/// The cells of a line: between tabs, semicolons or commas, whichever it has; else between spaces.
fn cells(line: &str) -> Box<dyn Iterator<Item = &str> + '_> {
    match ['\t', ';', ','].into_iter().find(|&delimiter| line.contains(delimiter)) {
        Some(delimiter) => Box::new(line.split(delimiter).map(str::trim)),
        None => Box::new(line.split_whitespace()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbers_under_the_names_before_them() {
        let check = |lines: &[&str], names: &[&str], rows: &[&[f32]], bad: usize| {
            let (mut table, mut found, mut bad_rows) = (Table::default(), Vec::new(), 0);
            for line in lines {
                match table.push(line) {
                    Parsed::Row(row) => found.push(row.to_vec()),
                    Parsed::Bad => bad_rows += 1,
                    Parsed::Header => {}
                }
            }
            assert_eq!((table.names(), bad_rows), (names.iter().map(|&name| name.into()).collect(), bad));
            assert_eq!(found, rows, "{lines:?}");
        };
        check(&["a,b", "1,2", "3, 4"], &["a", "b"], &[&[1.0, 2.0], &[3.0, 4.0]], 0);
        check(&["1\t2", "3\t4"], &["1", "2"], &[&[1.0, 2.0], &[3.0, 4.0]], 0);
        check(&["sensor starts", "x;y;z", "1;2;3"], &["x", "y", "z"], &[&[1.0, 2.0, 3.0]], 0);
        check(
            &["a board says hello", "1 2", "1 2 3", "ouch", "4 -5e1"],
            &["1", "2"],
            &[&[1.0, 2.0], &[4.0, -50.0]],
            2,
        );
        check(&["", "7"], &["1"], &[&[7.0]], 0);
    }
}
