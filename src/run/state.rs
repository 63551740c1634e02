//! `run --state`: what a run remembers, in a file that it goes on from.
//!
//! | section | |
//! |---|---|
//! | `run` | where and how the engine runs, in words; samples without an answer, and tokens before a reset |
//! | `engine`, `stream {b}` | as [`mcedge_runtime::Engine::save`] writes them |
//! | `inputs` | how far each was read and by which columns, whose turn it was, the streams' names |
//! | `forecasts` | what is expected of each stream, and what is usual for it |
//! | `outputs` | how far each was written |
//!
//! A run that goes on gives, byte for byte, what an undisturbed one gives of the files as they are. Of a file that grows
//! between two runs it gives that but for the last bits: where tokens are run many at once, the first run's last piece
//! ends where the file then ended, and one run over all of it cuts its pieces otherwise. Tokens that are run one by one know
//! no pieces.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mcedge_runtime::snapshot::store::{Files, Store};
use mcedge_runtime::snapshot::{Draft, Snapshot};

use super::Flow;
use super::inputs::{Inputs, SavedInputs};
use super::runner::SavedOutputs;
use crate::Usage;
use crate::source;
use crate::stream::Stream;

/// How often a snapshot is made when nobody says.
const EVERY: Duration = Duration::from_secs(30);
const RUN: &str = "run";
/// The most bytes of how the engine runs.
const CONDITIONS: usize = 1 << 10;
const INPUTS: &str = "inputs";
const FORECASTS: &str = "forecasts";
const OUTPUTS: &str = "outputs";

/// Flags of snapshots.
#[derive(clap::Args)]
#[command(next_help_heading = "Surviving a power cut")]
pub struct StateArgs {
    /// Keep what the run remembers in FILE, and the generation before it in FILE.previous
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Go on from --state, or begin where there is none yet. Files go on to the byte; one that has grown goes on as one run
    /// over all of it does but for rounding, with --no-chunks to the byte. Standard output gets the rows since the last
    /// snapshot once more. A stream goes on with what comes: an output that is a file keeps the rows that it has, and the next
    /// are counted on from the last snapshot
    #[arg(long, requires = "state")]
    resume: bool,
    /// How often to make a snapshot, at the least: after so many samples or tokens, or a time such as 500ms, 30s, 5m. One
    /// is made at the end, too [default: 30s]
    #[arg(long, value_name = "N|TIME", requires = "state", value_parser = every)]
    snapshot_every: Option<Every>,
}

/// How often a snapshot is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Every {
    /// After so many tokens.
    Tokens(u64),
    /// After so much time.
    Time(Duration),
}

/// Where a run keeps what it remembers.
pub struct State {
    store: Store<Files>,
    path: PathBuf,
    every: Every,
    draft: Draft,
    /// Where and how the engine runs, in words.
    conditions: String,
    /// The last snapshot's time and tokens.
    last: (Instant, u64),
    /// What the last snapshot ends with, which no other has.
    digest: Option<Vec<u8>>,
    /// Whether there will be no more: the run is in what a later one will do again.
    has_ended: bool,
    made: u64,
    failed: u64,
}

/// The application's part of a snapshot.
pub struct Saved {
    /// Samples without an answer.
    pub diverged: u64,
    /// Tokens of streams that have gone back to their start since.
    pub before_resets: u64,
    conditions: String,
    pub inputs: SavedInputs,
    pub outputs: SavedOutputs,
}

impl StateArgs {
    /// The store that the flags say, if any.
    ///
    /// # Errors
    ///
    /// [`Usage`] when there is a snapshot and nobody says that it is to be gone on from.
    pub fn open(&self) -> Result<Option<State>> {
        let Some(path) = &self.state else { return Ok(None) };
        let store = Store::new(Files, path);
        let [last, previous] = store.generations();
        let there = [&last, &previous].into_iter().find(|path| path.symlink_metadata().is_ok());
        if let Some(there) = there.filter(|_| !self.resume) {
            let (there, last, previous) = (there.display(), last.display(), previous.display());
            return Err(Usage(format!(
                "{there} is there already: --resume goes on from it; to start anew, remove {last} and {previous}"
            ))
            .into());
        }
        Ok(Some(State {
            store,
            path: path.clone(),
            every: self.snapshot_every.unwrap_or(Every::Time(EVERY)),
            draft: Draft::default(),
            conditions: String::new(),
            last: (Instant::now(), 0),
            digest: None,
            has_ended: false,
            made: 0,
            failed: 0,
        }))
    }
}

impl StateArgs {
    /// Every file that is read or written for snapshots.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.state.iter().flat_map(|path| Store::new(Files, path).files())
    }

    /// Says on standard error from where the run goes on, where it might.
    pub fn introduce(&self, is_resumed: bool, inputs: &Inputs) {
        let Some(path) = self.state.as_ref().filter(|_| self.resume) else { return };
        if is_resumed {
            inputs.places().for_each(|place| eprintln!("{place}"));
        } else {
            eprintln!("no snapshot in {} yet: from the beginning", path.display());
        }
    }
}

impl State {
    /// The bytes of the snapshot to go on from; none when there is none yet. Says so where it is not the last one.
    ///
    /// # Errors
    ///
    /// There are some, and none can be read.
    pub fn load(&mut self, stream: &Stream, inputs: usize) -> Result<Option<Vec<u8>>> {
        let batch = stream.contract().batch;
        let forecast = stream.contract().output.size * 3 * size_of::<f64>();
        // A name is of no more than a line.
        let names = batch * (source::LINE_MAX + 64) + (inputs + 1) * source::Saved::most_bytes();
        let most = stream.snapshot_bytes() + CONDITIONS + names + batch * (forecast + 64);
        let loaded = self.store.load(most).context("--state")?;
        let Some(loaded) = loaded else { return Ok(None) };
        if let Some(error) = loaded.instead_of {
            let [_, previous] = self.store.generations();
            let error = anyhow::Error::new(error);
            eprintln!("mcedge: warning: {error:#}; goes on from {}", previous.display());
        }
        self.digest = Some(digest(&loaded.bytes));
        Ok(Some(loaded.bytes))
    }

    /// Counts time and tokens from here on, of a run under these conditions. Of what comes but once a first snapshot is made
    /// at once: without any, a resumed run makes its outputs anew, or leaves what is in them.
    pub fn begin(&mut self, flow: &mut Flow, conditions: String) {
        self.conditions = conditions;
        self.last = (Instant::now(), flow.runner.taken());
        if !flow.inputs.are_files() || flow.outputs.is_rotating() {
            self.keep(flow);
        }
    }

    /// Makes a snapshot if it is time for one. What has been taken has been run and written.
    pub fn keep_if_due(&mut self, flow: &mut Flow) {
        let (time, tokens) = self.last;
        let is_due = match self.every {
            Every::Tokens(count) => flow.runner.taken() - tokens >= count,
            Every::Time(every) => time.elapsed() >= every,
        };
        if is_due {
            self.keep(flow);
        }
    }

    /// Makes the last snapshot of this run: what it does from here on, a later one does again.
    pub fn keep_last(&mut self, flow: &mut Flow) {
        self.has_ended = self.keep(flow);
    }

    /// Makes a snapshot, unless nothing has changed since the last or there are to be no more. Whether there is one, then:
    /// one that fails is told and counted; the run goes on, and tries again when it is time for the next.
    pub fn keep(&mut self, flow: &mut Flow) -> bool {
        if self.has_ended {
            return true;
        }
        self.last = (Instant::now(), flow.runner.taken());
        match self.try_keep(flow) {
            Ok(is_new) => self.made += u64::from(is_new),
            Err(error) => {
                self.failed += 1;
                eprintln!("mcedge: warning: no snapshot at token {}: {error:#}", self.last.1);
                return false;
            }
        }
        true
    }

    fn try_keep(&mut self, flow: &mut Flow) -> Result<bool> {
        let Flow { inputs, backlog, runner, outputs } = flow;
        let draft = &mut self.draft;
        draft.clear();
        draft.section(RUN);
        draft.text(&self.conditions);
        draft.u64(runner.diverged());
        draft.u64(runner.before_resets());
        runner.stream().save(draft)?;
        draft.section(INPUTS);
        inputs.save(draft)?;
        draft.section(FORECASTS);
        backlog.save(draft);
        draft.section(OUTPUTS);
        outputs.save(draft)?;
        let bytes = draft.finish();
        let digest = digest(bytes);
        if self.digest.as_ref() == Some(&digest) {
            return Ok(false);
        }
        self.store.save(bytes)?;
        self.digest = Some(digest);
        Ok(true)
    }

    /// What was made of them, for the summary.
    pub fn summary(&self) -> String {
        let (made, path) = (self.made, self.path.display());
        let failed = if self.failed == 0 { String::new() } else { format!(", {} failed", self.failed) };
        format!("{made} snapshot{} in {path}{failed}", if made == 1 { "" } else { "s" })
    }
}

impl Saved {
    /// The application's part of a snapshot, for a batch of `batch` streams.
    pub fn read(snapshot: &Snapshot<'_>, batch: usize) -> Result<Self> {
        let mut run = snapshot.section(RUN)?;
        let conditions = run.text("how it runs")?.to_owned();
        let diverged = run.counter("samples without an answer")?;
        let before_resets = run.counter("tokens before a reset")?;
        run.end()?;
        let inputs = SavedInputs::read(batch, snapshot.section(INPUTS)?)?;
        let outputs = SavedOutputs::read(snapshot.section(OUTPUTS)?)?;
        Ok(Self { diverged, before_resets, conditions, inputs, outputs })
    }

    /// Says so where what follows is not bit for bit what an undisturbed run gives.
    pub fn warn_of_others(&self, conditions: &str) {
        if self.conditions != conditions {
            let found = &self.conditions;
            eprintln!(
                "mcedge: warning: the snapshot is of a run on {found}; this one is on {conditions}: what follows is not bit for \
                 bit what followed there"
            );
        }
    }
}

/// Takes the streams over from a snapshot, and what is expected of them.
pub fn restore(snapshot: &Snapshot<'_>, stream: &mut Stream, backlog: &mut super::Backlog) -> Result<()> {
    let size = stream.contract().output.size;
    stream.restore(snapshot)?;
    Ok(backlog.restore(size, snapshot.section(FORECASTS)?)?)
}

/// The digest that a snapshot ends with.
fn digest(bytes: &[u8]) -> Vec<u8> {
    bytes[bytes.len().saturating_sub(32)..].to_vec()
}

/// Parses how often: a number of tokens, or of a unit of time.
fn every(text: &str) -> Result<Every> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = number.parse::<u64>().ok().filter(|&number| number > 0);
    let every = number.and_then(|number| match unit {
        "" => Some(Every::Tokens(number)),
        "ms" => Some(Every::Time(Duration::from_millis(number))),
        "s" => Some(Every::Time(Duration::from_secs(number))),
        "m" => Some(Every::Time(Duration::from_secs(number.checked_mul(60)?))),
        "h" => Some(Every::Time(Duration::from_secs(number.checked_mul(3600)?))),
        _ => None,
    });
    every.with_context(|| format!("{text:?} is no count and no time such as 500ms, 30s or 5m"))
}
