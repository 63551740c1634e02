//! Boards that send lines of text, and at what rate these come.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use mcedge_firmware_host::{Address, LineCounters, LineKind, RateGuess, SerialText};
use mcedge_models::contract::Input;

use super::bytes::Bytes;
use super::link::tell;
use super::{Format, Options};

/// How far the rate of rows may be from the model's, as a part of it. It is guessed from when they come.
const RATE_TOLERANCE: f64 = 0.2;

/// The lines of a board, timed as they come.
struct Timed {
    lines: SerialText,
    name: String,
    opened: Instant,
    guess: RateGuess,
    /// Rows a second that the model takes; none where rows are taken as they come, whatever their rate.
    model_hz: Option<f64>,
    has_told: bool,
}

/// Opens the lines of the board at `address`, and what counts them.
///
/// # Errors
///
/// It is no serial port, or does not open; the format is none of lines.
pub fn open(
    address: &str,
    format: Format,
    input: &Input,
    options: &Options,
) -> Result<(Bytes, Arc<LineCounters>)> {
    let Address::Serial(serial) = address.parse()? else {
        bail!("a sensor gives samples, expected no --format")
    };
    if matches!(format, Format::Npy | Format::Bytes | Format::Frames) {
        bail!("a board sends frames, or lines of csv, jsonl or text");
    }
    let kind = if format == Format::Csv { LineKind::Rows } else { LineKind::Any };
    let lines = SerialText::open(&serial, kind, Arc::clone(&options.stop), tell)?;
    let counters = lines.counters();
    let model_hz = match input {
        Input::Features { rate_hz, .. } => rate_hz.filter(|_| !options.any_rate),
        Input::Tokens { .. } => None,
    };
    let (name, opened, guess) = (address.to_owned(), Instant::now(), RateGuess::new());
    let timed = Timed { lines, name, opened, guess, model_hz, has_told: false };
    Ok((Bytes::live(timed, Arc::clone(&options.stop))?, counters))
}

/// What came and what did not, in one line.
pub fn summary(counters: &LineCounters) -> String {
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let LineCounters { lines, cut, too_long, headers, reconnects, .. } = counters;
    format!(
        "{} lines came; dropped {} that may be cut, {} too long, {} headers; {} reconnects",
        of(lines),
        of(cut),
        of(too_long),
        of(headers),
        of(reconnects)
    )
}

impl Timed {
    /// Tells the rate, once it can be guessed.
    fn tell_rate(&mut self) -> io::Result<()> {
        let Some(rate_hz) = self.guess.rate_hz() else { return Ok(()) };
        self.has_told = true;
        tell(&format!("{}: about {rate_hz:.3} rows a second", self.name));
        match self.model_hz {
            Some(model_hz) if (rate_hz / model_hz - 1.0).abs() > RATE_TOLERANCE => {
                Err(io::Error::other(format!(
                    "rows come at about {rate_hz:.3} a second, the model takes {model_hz}; --any-rate takes them as they come"
                )))
            }
            _ => Ok(()),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.lines.read(room)?;
        if !self.has_told {
            let now_us = i64::try_from(self.opened.elapsed().as_micros()).unwrap_or(i64::MAX);
            let rows = room[..count].iter().filter(|&&byte| byte == b'\n').count();
            (0..rows).for_each(|_| self.guess.push(now_us));
            self.tell_rate()?;
        }
        Ok(count)
    }
}
