//! The board that plays: one loop over its line, its host and its clock.

mod host;

use std::io;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mcedge_wire::{Decoder, State};

use super::board::Board;
use super::clock::{Clock, jitter_us};
use super::damage::damage;
use super::ledger::{Account, Ledger};
use super::line::Line;
use super::options::{Every, Faults, SimOptions, Source};
use super::random::Random;
use super::{Answer, SimError};

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

    /// Nobody listens: what is due is sampled and lost. A recording without a pace waits.
    fn miss(&mut self) -> Result<Step, SimError> {
        while self.clock.pace > 0.0 && self.is_running && !self.is_played {
            if self.due_in() > Duration::ZERO {
                break;
            }
            self.sample(|_, _| Ok(()))?;
        }
        Ok(Step::Wait(TICK))
    }

    /// How long until the next frame is full.
    fn due_in(&self) -> Duration {
        let last = self.board.next() + self.count() - 1;
        self.clock.due(last, self.board.rate_hz()).saturating_duration_since(Instant::now())
    }

    /// Samples of the next frame: none goes across a fault.
    fn count(&self) -> u64 {
        let row = self.account.ledger.rows;
        let faults = [self.next_stall, self.next_unplug, self.next_reset];
        let until = faults.into_iter().filter(|&at| at > row).min().unwrap_or(u64::MAX);
        self.board.samples_per_frame().min(until - row)
    }

    /// The next frame, when it is due and no fault comes first.
    fn play(&mut self) -> Result<Step, SimError> {
        let (row, now) = (self.account.ledger.rows, Instant::now());
        let Faults { stall, unplug, reset, cut, .. } = self.options.faults.clone();
        if row >= self.next_reset {
            self.next_reset = row + reset.unwrap_or(u64::MAX / 2).max(1);
            self.reset();
            return Ok(Step::Again);
        }
        if let Some(unplug) = unplug.filter(|_| row >= self.next_unplug) {
            self.next_unplug = row + unplug.rows.max(1);
            self.pull_by = Some(now + DRAIN);
            if cut {
                self.send_samples()?;
                self.out.truncate(self.out.len() / 2);
            }
            return Ok(Step::Again);
        }
        if let Some(stall) = stall.filter(|_| row >= self.next_stall) {
            self.next_stall = row + stall.rows.max(1);
            self.still_until = Some(now + stall.time);
            self.account.ledger.stalls += 1;
            return Ok(Step::Again);
        }
        let due = self.due_in();
        if due > Duration::ZERO && self.clock.pace > 0.0 {
            return Ok(Step::Wait(due.min(TICK)));
        }
        self.send_samples()?;
        Ok(Step::Again)
    }

    fn send_samples(&mut self) -> Result<(), SimError> {
        let row = self.account.ledger.rows;
        let faults = &self.options.faults;
        let (drops, seed) = (faults.drop, faults.seed);
        if Random::of(seed, !row).happens(drops) {
            let taken = self.sample(|_, _| Ok(()))?;
            self.board.dropped = self.board.dropped.wrapping_add(taken as u32);
            self.account.ledger.dropped += taken;
            return Ok(());
        }
        let mut frame = Vec::new();
        let taken = self.sample(|board, samples| {
            frame.extend(board.samples(&samples.rows, samples.time_us, samples.span_us)?);
            Ok(())
        })?;
        if taken > 0 {
            if self.board.is_text() {
                self.account.expect_line(Some(row), &frame);
            }
            self.put(row << 1, &frame);
        }
        Ok(())
    }

    /// Takes the rows of a frame, after `see` has had them; says how many.
    fn sample(
        &mut self,
        see: impl FnOnce(&mut Board, &Taken) -> Result<(), SimError>,
    ) -> Result<u64, SimError> {
        let (row, width, rate_hz) = (self.account.ledger.rows, self.board.channels(), self.board.rate_hz());
        let most = self.count();
        let (mut rows, mut count) = (Vec::new(), 0);
        for values in self.rows.by_ref().take(most as usize) {
            if values.len() != width {
                return Err(SimError::Row { row: row + count, found: values.len(), expected: width });
            }
            rows.extend(values);
            count += 1;
        }
        self.is_played |= self.rows.peek().is_none();
        if count == 0 {
            return Ok(0);
        }
        let first = self.board.next();
        let jitter_us = jitter_us(&self.options.faults, row);
        let time_of = |sequence| self.clock.time_us(sequence, rate_hz).saturating_add_signed(jitter_us);
        let time_us = time_of(first);
        let span_us = u32::try_from(time_of(first + count - 1) - time_us).unwrap_or(u32::MAX);
        see(&mut self.board, &Taken { rows, time_us, span_us })?;
        let of = |at: u64| time_us + u64::from(span_us) * at / (count - 1).max(1);
        self.board.take((0..count).map(of));
        self.account.take(count);
        Ok(count)
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

    /// Puts a frame into the cable.
    fn put(&mut self, thing: u64, frame: &[u8]) {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        damage(&self.options.faults, thing, frame, &mut self.out, &mut self.account.ledger);
    }

    /// Writes what the line takes now.
    fn write(&mut self) -> Result<(), SimError> {
        if self.still_until.is_some() {
            return Ok(());
        }
        let Some(line) = self.line.as_mut().filter(|line| line.is_ready()) else { return Ok(()) };
        while self.sent < self.out.len() {
            let now = Instant::now();
            let mut piece = &self.out[self.sent..];
            if let Some(baud) = self.options.baud {
                if now < self.free_at {
                    return Ok(());
                }
                // As much as goes in a millisecond: a real line has no larger buffer that empties at once.
                piece = &piece[..piece.len().min((baud as usize / 10_000).max(1))];
            }
            let count = line.write(piece).map_err(line_failed)?;
            if count == 0 {
                return Ok(());
            }
            self.account.write(&piece[..count]);
            self.sent += count;
            if let Some(baud) = self.options.baud {
                // A loop that woke late catches up a little.
                let from = self.free_at.max(now.checked_sub(TICK).unwrap_or(now));
                self.free_at = from + Duration::from_secs_f64(count as f64 * 10.0 / f64::from(baud.max(1)));
            }
        }
        Ok(())
    }

    fn wait(&mut self, time: Duration) -> Result<(), SimError> {
        let now = Instant::now();
        let has_more = self.sent < self.out.len() && self.still_until.is_none();
        match &self.line {
            // Nothing tells when there is room again.
            Some(line) if has_more && line.is_ready() => line.wait(time.min((self.free_at - now).max(ROOM))),
            Some(line) => line.wait(time),
            None => {
                std::thread::sleep(time);
                Ok(())
            }
        }
        .map_err(line_failed)
    }

    /// Gives a host the time to read the rest; says how many bytes it did not.
    fn drain(&mut self, most: Duration) -> Result<usize, SimError> {
        let Some(line) = &mut self.line else { return Ok(0) };
        let by = Instant::now() + most;
        while line.is_open() && !line.is_drained().map_err(line_failed)? && Instant::now() < by {
            line.wait(ROOM).map_err(line_failed)?;
        }
        line.take_unread().map_err(line_failed)
    }
}

/// The rows of a frame.
struct Taken {
    /// `[samples, channels]`.
    rows: Vec<f32>,
    time_us: u64,
    span_us: u32,
}

fn line_failed(source: io::Error) -> SimError {
    SimError::Io { what: "the pseudo-terminal".into(), source }
}
