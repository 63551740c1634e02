//! One backend at one fill: it runs in turns with the others.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mcedge_models::spec::Segmentation;
use mcedge_runtime::snapshot::Snapshot;

use super::case::{Case, options};
use super::input::Given;
use super::plan::{Length, Pacing, missed};
use super::tally::{Kind, Ran, Tally};
use crate::stream::{BackendArg, Placement, Stream};
use crate::verify::{self, Errors, Way};

/// Before a run is due, the thread stops sleeping and waits awake: it wakes late.
const AWAKE: Duration = Duration::from_millis(1);
/// What the golden run may take, and the fewest tokens of it that count as a check.
const CHECK: Duration = Duration::from_secs(2);
const LEAST_CHECKED: usize = 64;
/// Where segments have fewer runs, the first one after going back is timed too: else there would be none.
const SETTLES: usize = 8;

/// How turns are.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    pub length: Length,
    pub pacing: Pacing,
    pub warm_up: Duration,
}

/// An engine over one backend, and what its runs took.
pub struct Runner<'a> {
    case: &'a Case,
    filled: &'a Snapshot<'a>,
    stream: Stream,
    pub threads: usize,
    /// Tokens that a stream has been given.
    fed: u64,
    given: Given,
    output: Vec<f32>,
    pub tally: Tally,
    pub missed: u64,
    /// Of these: runs, and those that could not begin.
    pub deadlines: u64,
    pub load_ms: f64,
    pub first_us: f64,
    /// Tokens that were compared with the golden run's and with those of plain bodies, of all streams.
    pub checked: usize,
    /// The largest error so far.
    pub error: f64,
    /// What it may be.
    pub tolerance: f64,
    /// Outputs of the 1st, 2nd, 4th, 8th, … run of the last turn.
    pub kept: Vec<Vec<f32>>,
    /// Runs of this turn, all of them.
    runs: u64,
}

impl<'a> Runner<'a> {
    /// Loads a backend, runs it for the first time, and holds it against the golden run.
    pub fn open(
        case: &'a Case,
        filled: &'a Snapshot<'a>,
        backend: BackendArg,
        placement: &Placement,
        tolerance: f64,
        began: Instant,
    ) -> Result<Self> {
        let placement = Placement { no_chunks: case.chunk == 1, ..placement.clone() };
        let start = Instant::now();
        let stream = Stream::open(&case.model, backend, &placement, options(case.fill))?;
        let load_ms = start.elapsed().as_secs_f64() * 1e3;
        let threads = if matches!(stream, Stream::Tract(..)) { 1 } else { placement.threads.into() };
        let given = case.inputs.buffer();
        let mut runner = Self {
            case,
            filled,
            stream,
            threads,
            fed: 0,
            given,
            output: Vec::new(),
            tally: Tally::new(began),
            missed: 0,
            deadlines: 0,
            load_ms,
            first_us: 0.0,
            checked: 0,
            error: 0.0,
            tolerance,
            kept: Vec::new(),
            runs: 0,
        };
        runner.check()?;
        runner.probe()?;
        Ok(runner)
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The first runs, and the golden run, or as much of it as there is time for.
    fn check(&mut self) -> Result<()> {
        self.first_us = self.run()?.time.as_secs_f64() * 1e6;
        let mut least = Duration::MAX;
        for _ in 0..3 {
            let ran = self.run()?;
            least = least.min(ran.time / (ran.tokens as u32).max(1));
        }
        let affordable = CHECK.as_nanos() / least.as_nanos().max(1);
        let affordable = usize::try_from(affordable).unwrap_or(usize::MAX).max(LEAST_CHECKED);
        let (tokens, golden) = (self.case.golden_tokens().min(affordable), &self.case.golden);
        let way = if self.case.chunk == 1 { Way::Step } else { Way::Chunk };
        let errors = verify::compare(&mut self.stream, way, golden, tokens)?;
        self.checked = tokens;
        self.hold(&errors, "the golden run")
    }

    /// Holds the runs where the streams are filled against the plain bodies: the golden run may end long before as many
    /// checkpoints are live.
    fn probe(&mut self) -> Result<()> {
        self.go_back()?;
        let (case, batch) = (self.case, self.stream.contract().batch);
        let size = self.stream.contract().output.size * batch;
        let (mut errors, mut tokens) = (Errors::default(), 0);
        while (tokens + self.tokens()) * size <= case.expected.len() {
            let count = self.tokens();
            self.run()?;
            let expected = &case.expected[tokens * size..(tokens + count) * size];
            ensure!(
                self.output.len() == expected.len(),
                "{} outputs, expected {}",
                self.output.len(),
                expected.len()
            );
            errors.add(tokens, &self.output, expected);
            tokens += count;
        }
        self.hold(&errors, "the plain bodies")?;
        if !self.is_plain() {
            self.checked += tokens * batch;
        }
        Ok(())
    }

    /// Whether it is what outputs are held against itself.
    pub fn is_plain(&self) -> bool {
        matches!(self.stream, Stream::Tract(_, true))
    }

    /// Takes an error, which is within tolerance or is the end of the bench.
    pub fn hold(&mut self, errors: &Errors, against: &str) -> Result<()> {
        let tolerance = self.tolerance;
        // A NaN is within no tolerance.
        ensure!(
            errors.relative <= tolerance,
            "{} at {} checkpoints is off {against} by {:.2e} (token {}), expected at most {tolerance:.0e}: there is nothing \
             to time",
            self.stream.place(),
            self.case.fill,
            errors.relative,
            errors.worst
        );
        self.error = self.error.max(errors.relative);
        Ok(())
    }

    /// Times runs for a round, from where the streams were filled.
    pub fn turn(&mut self, turns: &Turns) -> Result<()> {
        self.go_back()?;
        self.runs = 0;
        self.kept.clear();
        let warm = Instant::now() + turns.warm_up;
        while Instant::now() < warm {
            self.run()?;
            self.stay()?;
        }
        let begin = Instant::now();
        let (mut due, mut timed) = (begin, 0);
        while match turns.length {
            Length::Steps(steps) => timed < steps.get(),
            Length::Time(time) => timed == 0 || begin.elapsed() < time,
        } {
            wait(turns.pacing, due);
            let ran = self.run()?;
            if let Pacing::Every(period) = turns.pacing {
                let ended = Instant::now();
                let missed = missed(ended - due, period);
                self.missed += missed;
                self.deadlines += missed.max(1);
                // One that is late shifts those after it: they do not pile up.
                due = (due + period).max(ended);
            }
            self.tally.add(&ran);
            timed += usize::from(ran.kind != Kind::Short);
            if self.stay()? {
                // Going back is not of the stream: what was due meanwhile is due now.
                due = due.max(Instant::now());
            }
        }
        self.tally.end_round();
        Ok(())
    }

    /// Goes back to where the streams were filled, when they have more or fewer checkpoints than they should. What the
    /// copying has left in the CPU's caches is not of a stream that goes on, so a run follows that is not timed. Whether it went.
    fn stay(&mut self) -> Result<bool> {
        let live = self.stream.position().1;
        if live == self.case.fill * self.stream.contract().batch {
            return Ok(false);
        }
        self.go_back()?;
        let runs = self.stream.contract().segment_tokens().map(|segment| segment / self.case.chunk);
        if runs.is_some_and(|runs| runs >= SETTLES) {
            self.run()?;
        }
        Ok(true)
    }

    fn go_back(&mut self) -> Result<()> {
        self.stream.restore(self.filled).context("going back to where the streams were filled")?;
        self.fed = self.case.fed;
        let (found, expected) = (self.stream.position().1, self.case.fill * self.stream.contract().batch);
        ensure!(found == expected, "{found} checkpoints are live, expected {expected}");
        Ok(())
    }

    /// Runs the graph once.
    fn run(&mut self) -> Result<Ran> {
        let (tokens, batch) = (self.tokens(), self.stream.contract().batch);
        self.case.inputs.fill(&mut self.given, self.fed, tokens);
        let made = self.stream.position().2;
        let (start, time) = if self.case.chunk == 1 { self.step(batch)? } else { self.chunk(batch)? };
        self.fed += tokens as u64;
        self.keep();
        let is_end = match self.stream.contract().segmentation {
            // Where every run ends one, that is the ordinary.
            Segmentation::Constant { size } if size == self.case.chunk => false,
            Segmentation::Constant { size } => self.fed.is_multiple_of(size as u64),
            Segmentation::Surprise { .. } => self.stream.position().2 > made,
            Segmentation::Logarithmic {} => false,
        };
        let kind = match is_end {
            _ if tokens < self.case.chunk => Kind::Short,
            true => Kind::End,
            false => Kind::Ordinary,
        };
        Ok(Ran { start, time, kind, tokens: (tokens * batch) as u64 })
    }

    /// Tokens of the next run: fewer than others where a segment ends.
    fn tokens(&self) -> usize {
        match self.stream.contract().segment_tokens() {
            Some(size) => self.case.chunk.min(size - (self.fed % size as u64) as usize),
            None => self.case.chunk,
        }
    }

    /// One token of every stream.
    fn step(&mut self, batch: usize) -> Result<(Instant, Duration)> {
        let samples = self.given.samples(batch);
        let start = Instant::now();
        let output = self.stream.push_batch(&samples)?;
        let time = start.elapsed();
        self.output.clear();
        self.output.extend_from_slice(output);
        Ok((start, time))
    }

    /// Several tokens of every stream.
    fn chunk(&mut self, batch: usize) -> Result<(Instant, Duration)> {
        let who = vec![true; batch];
        self.output.clear();
        let start = Instant::now();
        self.stream.catch_up_some(&who, self.given.backlog(), &mut self.output)?;
        Ok((start, start.elapsed()))
    }

    /// Keeps the outputs of some runs, for comparison: what each backend makes of the same tokens, near and far.
    fn keep(&mut self) {
        self.runs += 1;
        if self.runs.is_power_of_two() {
            let index = self.runs.trailing_zeros() as usize;
            if index == self.kept.len() {
                self.kept.push(Vec::new());
            }
            self.kept[index].clone_from(&self.output);
        }
    }
}

/// Waits until a run may begin.
fn wait(pacing: Pacing, due: Instant) {
    match pacing {
        Pacing::BackToBack => {}
        Pacing::After(gap) => thread::sleep(gap),
        Pacing::Every(_) => {
            thread::sleep(due.saturating_duration_since(Instant::now()).saturating_sub(AWAKE));
            while Instant::now() < due {
                std::hint::spin_loop();
            }
        }
    }
}
