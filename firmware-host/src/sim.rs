//! A simulated board: plays rows over a pseudo-terminal, in the protocol or as text, with faults on demand.
//!
//! What it destroys is known exactly: the [`Ledger`] is read back from the bytes that a host could read.

mod board;
mod clock;
mod damage;
mod error;
mod ledger;
mod line;
mod options;
mod play;
mod random;
mod talk;
#[cfg(test)]
mod tests;

use std::io;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use mcedge_wire::Element;
use mcedge_wire::{Decoder, State};

use board::Board;
use clock::Clock;
pub use error::SimError;
use ledger::Account;
pub use ledger::{Boot, Ledger};
use line::Line;
pub use options::{Channel, Every, Faults, Format, SimOptions, Source};

/// A line that nobody reads is given up after this.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the loop waits for a host to read.
const ROOM: Duration = Duration::from_micros(50);
/// How long the loop waits at most.
const TICK: Duration = Duration::from_millis(20);
/// From one status to the next.
const STATUS: Duration = Duration::from_secs(1);
/// From one word that all has been played to the next.
const ENDED: Duration = Duration::from_millis(200);

/// An answer of the model, as the board got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The sample that it answers.
    pub sequence: u32,
    /// That sample's time.
    pub time_us: u64,
    /// The anomaly score, where there is one.
    pub score: Option<f32>,
    /// The model's output.
    pub values: Vec<f32>,
    /// Such a sample was taken at this time.
    pub is_right: bool,
}

/// A board that plays rows.
///
/// # Invariants
///
/// - `out[sent..]` is what is still to be written of what came out of the cable.
/// - `line` is none only while it is pulled out.
pub struct Simulator<R: Iterator<Item = Vec<f32>>> {
    rows: Peekable<R>,
    board: Board,
    line: Option<Line>,
    path: PathBuf,
    options: SimOptions,
    has_any_rate: bool,
    account: Account,
    decoder: Decoder,
    on_answer: Box<dyn FnMut(&Answer) + Send>,
    out: Vec<u8>,
    sent: usize,
    /// Records that were asked for.
    replies: Replies,
    clock: Clock,
    is_running: bool,
    /// The host has said that it must not.
    is_held: bool,
    is_played: bool,
    /// Frames of samples and others that went through the cable: their chances are apart, so that those of samples hang
    /// on nothing else.
    others: u64,
    next_stall: u64,
    next_unplug: u64,
    next_reset: u64,
    /// The line carries nothing until then: pulled out, or stalled.
    still_until: Option<Instant>,
    /// The line is to be pulled out when all has been read, or then.
    pull_by: Option<Instant>,
    last_status: Instant,
    /// Since when a host has been told that all was played.
    ended: Option<Instant>,
    /// When the line is free again, at its rate.
    free_at: Instant,
}

/// What a host is owed.
#[derive(Default)]
struct Replies {
    greeting: bool,
    describe: bool,
    status: bool,
}

/// What the loop does next.
enum Step {
    Again,
    Wait(Duration),
    Done,
}

impl<R: Iterator<Item = Vec<f32>>> Simulator<R> {
    /// A board with its line plugged in: [`Simulator::path`] can be opened.
    ///
    /// # Errors
    ///
    /// What the source says of itself cannot be; there is no pseudo-terminal; the link's path is taken.
    pub fn new(source: Source, rows: R, options: SimOptions) -> Result<Self, SimError> {
        let has_any_rate = source.has_any_rate;
        let board = Board::new(source, options.format)?;
        let line = Line::plug(options.link.as_deref())?;
        let mut account = if board.is_text() { Account::of_lines() } else { Account::of_frames() };
        account.start(board.boot());
        let faults = &options.faults;
        let pace = match options.speed {
            speed if speed > 0.0 => 1.0 / (speed * (1.0 + faults.drift_ppm * 1e-6)),
            _ => 0.0,
        };
        let of = |every: Option<Every>| every.map_or(u64::MAX, |every| every.rows.max(1));
        let now = Instant::now();
        Ok(Simulator {
            rows: rows.peekable(),
            path: line.path().to_path_buf(),
            line: Some(line),
            has_any_rate,
            account,
            decoder: Decoder::new(),
            on_answer: Box::new(|_| {}),
            out: Vec::new(),
            sent: 0,
            replies: Replies { greeting: true, ..Replies::default() },
            clock: Clock { start: now, from: 0, from_us: 0, pace },
            is_running: false,
            is_held: false,
            is_played: false,
            others: 0,
            next_stall: of(faults.stall),
            next_unplug: of(faults.unplug),
            next_reset: faults.reset.map_or(u64::MAX, |rows| rows.max(1)),
            still_until: None,
            pull_by: None,
            last_status: now,
            ended: None,
            free_at: now,
            board,
            options,
        })
    }

    /// Where a host finds it: the link, or the pseudo-terminal.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `see` with each answer of the model.
    pub fn on_answer(&mut self, see: impl FnMut(&Answer) + Send + 'static) {
        self.on_answer = Box::new(see);
    }

    /// Plays until all has been played and the host has hung up, or `stop` is set.
    ///
    /// # Errors
    ///
    /// The system fails; a row is of another width than the first.
    pub fn run(mut self, stop: &AtomicBool) -> Result<Ledger, SimError> {
        while !stop.load(Ordering::Relaxed) {
            self.listen()?;
            self.write()?;
            match self.step()? {
                Step::Again => {}
                Step::Wait(time) => self.wait(time)?,
                Step::Done => break,
            }
        }
        let lost = self.drain(Duration::from_millis(500))?;
        Ok(self.account.finish(lost))
    }

    /// What to do now; waits for nothing itself.
    fn step(&mut self) -> Result<Step, SimError> {
        if let Some(step) = self.keep_still()? {
            return Ok(step);
        }
        let Some(line) = &self.line else { return Ok(Step::Again) };
        if !line.is_ready() {
            return if self.is_over() { Ok(Step::Done) } else { self.miss() };
        }
        if self.sent < self.out.len() {
            return Ok(Step::Wait(TICK));
        }
        if self.pull_by.is_some() {
            return self.pull();
        }
        if self.reply()? {
            return Ok(Step::Again);
        }
        self.is_running |= self.start_by_itself();
        match (self.is_played, self.is_running) {
            (true, _) => self.end(),
            (_, false) => Ok(Step::Wait(TICK)),
            (_, true) => self.play(),
        }
    }

    fn start_by_itself(&mut self) -> bool {
        let starts = self.options.free_run || self.board.is_text();
        let starts = starts && !self.is_running && !self.is_held && !self.is_played;
        if starts {
            self.clock.start_at(self.board.next(), Instant::now());
        }
        starts
    }

    /// While the line is pulled out or stalls.
    fn keep_still(&mut self) -> Result<Option<Step>, SimError> {
        let Some(until) = self.still_until else { return Ok(None) };
        let now = Instant::now();
        if now < until {
            if self.line.is_none() && !self.options.faults.power_cycle {
                self.miss()?;
            }
            return Ok(Some(Step::Wait(TICK.min(until - now))));
        }
        self.still_until = None;
        if self.line.is_none() {
            self.line = Some(Line::plug(self.options.link.as_deref())?);
            if self.options.faults.power_cycle {
                self.reset();
            }
        }
        Ok(Some(Step::Again))
    }

    /// All has been played: says so until the host hangs up.
    fn end(&mut self) -> Result<Step, SimError> {
        let is_first = self.ended.is_none();
        if self.is_over() {
            return Ok(Step::Done);
        }
        if self.last_status.elapsed() >= ENDED || is_first {
            self.replies.status = true;
            return Ok(Step::Again);
        }
        Ok(Step::Wait(TICK))
    }

    /// All has been played, and there was time to say so.
    fn is_over(&mut self) -> bool {
        let ended = self.is_played.then(|| *self.ended.get_or_insert_with(Instant::now));
        ended.is_some_and(|ended| self.board.is_text() || ended.elapsed() >= self.options.grace)
    }

    fn reset(&mut self) {
        self.board.reset();
        if !self.board.is_text() {
            self.account.start(self.board.boot());
        }
        self.clock = Clock { start: Instant::now(), from: 0, from_us: 0, ..self.clock };
        self.replies.greeting = true;
        // It waits again; one that does not begins by itself.
        (self.is_running, self.is_held) = (false, false);
    }

    /// Pulls the line out, once a host has read all.
    fn pull(&mut self) -> Result<Step, SimError> {
        let by = self.pull_by.unwrap_or_else(Instant::now);
        let Some(line) = &self.line else { return Ok(Step::Again) };
        if !line.is_drained().map_err(line_failed)? && Instant::now() < by {
            return Ok(Step::Wait(ROOM));
        }
        self.hang_up()?;
        (self.pull_by, self.line) = (None, None);
        self.account.ledger.unplugs += 1;
        let time = self.options.faults.unplug.map_or(Duration::ZERO, |unplug| unplug.time);
        self.still_until = Some(Instant::now() + time);
        if self.clock.pace == 0.0 && !self.options.faults.power_cycle {
            self.lose((time.as_secs_f64() * self.board.rate_hz()) as u64)?;
        }
        Ok(Step::Again)
    }

    /// Rows that nobody hears, of a recording that has no pace.
    fn lose(&mut self, rows: u64) -> Result<(), SimError> {
        let until = self.account.ledger.rows + rows;
        while self.account.ledger.rows < until && !self.is_played {
            self.sample(|_, _| Ok(()))?;
        }
        Ok(())
    }

    /// The host is gone: what it did not read is lost, and so is what was on its way.
    fn hang_up(&mut self) -> Result<(), SimError> {
        let lost = match &mut self.line {
            Some(line) => line.take_unread().map_err(line_failed)?,
            None => 0,
        };
        self.account.hang_up(lost);
        self.out.clear();
        self.sent = 0;
        self.decoder.restart();
        Ok(())
    }

    /// Sends a record that is owed, if one is.
    fn reply(&mut self) -> Result<bool, SimError> {
        let now_us = self.now_us();
        let state = match (self.is_played, self.is_running) {
            (true, _) => State::Ended,
            (_, true) => State::Running,
            (_, false) => State::Stopped,
        };
        self.replies.status |= self.last_status.elapsed() >= STATUS;
        if self.board.is_text() {
            (self.replies.status, self.replies.describe) = (false, false);
        }
        let frame = if std::mem::take(&mut self.replies.greeting) {
            let greeting = self.board.greeting(now_us)?;
            self.account.expect_line(None, &greeting);
            greeting
        } else if std::mem::take(&mut self.replies.describe) {
            self.board.describe(now_us)?.to_vec()
        } else if std::mem::take(&mut self.replies.status) {
            self.last_status = Instant::now();
            self.board.status(state, now_us)?.to_vec()
        } else {
            return Ok(false);
        };
        self.others += 1;
        self.put(self.others << 1 | 1, &frame);
        Ok(true)
    }

    /// What the board's clock says.
    fn now_us(&self) -> u64 {
        let next_us = self.clock.time_us(self.board.next(), self.board.rate_hz());
        match self.clock.pace {
            pace if pace > 0.0 && self.is_running => {
                self.clock.from_us + (self.clock.start.elapsed().as_secs_f64() * 1e6 / pace) as u64
            }
            _ => next_us,
        }
    }
}

fn line_failed(source: io::Error) -> SimError {
    SimError::Io { what: "the pseudo-terminal".into(), source }
}
