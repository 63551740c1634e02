//! Runs a backlog: live tokens one by one, many that wait at once.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail};
use clap::ValueEnum;
use mcedge_firmware_host::Responder;
use mcedge_models::contract::Contract;
use mcedge_runtime::snapshot::{Draft, Section, SnapshotError};
use mcedge_runtime::{self as runtime, RolledBack};

use super::backlog::{Backlog, Buffer};
use super::gates::Gates;
use crate::pace::Pace;
use crate::sink::{Row, Saved, Sink};
use crate::stream::Stream;

/// The most numbers of one piece of a backlog, in and out.
const MOST_NUMBERS: usize = 1 << 20;
/// Samples without an answer that are told one by one.
const DIVERGED_TOLD: u64 = 5;

/// How long the last answers may take to go out.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// An engine, and what it has done.
pub struct Runner {
    stream: Stream,
    pace: Pace,
    /// The most tokens of each stream in one piece; 1 when each is stepped.
    most: usize,
    /// The streams that the piece at hand is for, `[B]`.
    who: Vec<bool>,
    piece: Buffer,
    /// `[T, B, O]` of the piece at hand.
    outputs: Vec<f32>,
    on_divergence: OnDivergence,
    /// Samples without an answer.
    diverged: u64,
    /// Tokens of streams that have gone back to their start since.
    before_resets: u64,
}

/// What a sample does that makes the model diverge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnDivergence {
    /// It is told and counted, and the memory goes back to the end of the last segment
    RollBack,
    /// It ends the run with an error
    Stop,
}

/// Where results go.
pub struct Outputs {
    pub sink: Sink,
    pub gates: Option<Gates>,
    /// One a stream, where its board wants to know: what sends it the answers.
    pub answers: Vec<Option<Responder>>,
}

/// Where results went, in a snapshot.
pub struct SavedOutputs {
    pub sink: Saved,
    pub gates: Option<Saved>,
}

impl SavedOutputs {
    /// What [`Outputs::save`] has written.
    pub fn read(mut saved: Section<'_>) -> Result<Self, SnapshotError> {
        let sink = Saved::read(&mut saved)?;
        let has_gates = saved.flag("whether gates are written")?;
        let gates = has_gates.then(|| Saved::read(&mut saved)).transpose()?;
        saved.end()?;
        Ok(Self { sink, gates })
    }

    /// Whether a run with these flags can go on with them. Nothing changes.
    pub fn check(&self, output: &str, gates: Option<&str>) -> Result<()> {
        self.sink.check(output)?;
        match (&self.gates, gates) {
            (Some(saved), Some(gates)) => saved.check(gates),
            (None, None) => Ok(()),
            (Some(_), None) => bail!("the snapshot is of a run with --gates, this one is without"),
            (None, Some(_)) => bail!("the snapshot is of a run without --gates, this one has them"),
        }
    }
}

impl Outputs {
    /// Takes what there is to say about a record of stream `stream`, and gives it to whoever wants to know.
    pub fn row(&mut self, stream: usize, row: &Row<'_>) -> Result<()> {
        if let (Some(Some(responder)), Some(ticket)) = (self.answers.get(stream), row.ticket) {
            let score = row.score.map(|score| score as f32);
            responder.predict(ticket.sequence, ticket.device_us, score, row.output);
        }
        self.sink.row(row)
    }

    /// As [`Sink::is_rotating`].
    pub fn is_rotating(&self) -> bool {
        self.sink.is_rotating()
    }

    /// Hands on all that was taken: as [`Sink::flush`].
    pub fn flush(&mut self) -> Result<()> {
        self.gates.as_mut().map_or(Ok(()), Gates::flush)?;
        self.sink.flush()
    }

    /// Brings all that was taken to the disk, and writes where that is, for [`SavedOutputs::read`].
    pub fn save(&mut self, draft: &mut Draft) -> Result<()> {
        self.sink.save(draft)?;
        draft.flag(self.gates.is_some());
        self.gates.as_mut().map_or(Ok(()), |gates| gates.save(draft))
    }

    /// Ends the outputs: everything is in its place or the run has failed.
    pub fn finish(mut self) -> Result<()> {
        self.answers.iter().flatten().for_each(|responder| responder.flush(LAST_ANSWERS));
        self.flush()?;
        self.sink.finish()
    }
}

impl Runner {
    /// Streams at their start, which catch up many tokens at once if they may.
    pub fn new(stream: Stream, catches_up: bool, on_divergence: OnDivergence) -> Self {
        let contract = stream.contract();
        let numbers = contract.batch * super::width(contract).max(contract.output.size);
        let most = if catches_up { (MOST_NUMBERS / numbers).max(1) } else { 1 };
        let who = vec![false; contract.batch];
        let (pace, piece, outputs) = (Pace::new(), Buffer::default(), Vec::new());
        Runner { stream, pace, most, who, piece, outputs, on_divergence, diverged: 0, before_resets: 0 }
    }

    /// Counts samples without an answer, and tokens before a reset, on from a snapshot's.
    pub fn go_on(&mut self, diverged: u64, before_resets: u64) {
        (self.diverged, self.before_resets) = (diverged, before_resets);
    }

    /// Tokens of streams that have gone back to their start since.
    pub fn before_resets(&self) -> u64 {
        self.before_resets
    }

    /// Tokens so far, over all streams, those without an answer too.
    pub fn taken(&self) -> u64 {
        self.tokens() + self.diverged
    }

    /// Tokens with an answer, those of streams that have been reset too.
    fn tokens(&self) -> u64 {
        self.stream.position().0 + self.before_resets
    }

    /// Takes stream `stream` back to its start.
    pub fn reset(&mut self, stream: usize) {
        let before = self.stream.position().0;
        self.stream.reset_stream(stream);
        self.before_resets += before - self.stream.position().0;
    }

    /// Samples without an answer.
    pub fn diverged(&self) -> u64 {
        self.diverged
    }

    /// The streams.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Runs all that waits, and writes what came of it.
    ///
    /// # Errors
    ///
    /// The engine fails: what came before is written. The output fails.
    pub fn run(&mut self, backlog: &mut Backlog, names: &[String], outputs: &mut Outputs) -> Result<()> {
        let ran = self.run_all(backlog, names, outputs);
        backlog.write(names, |stream, row| outputs.row(stream, row))?;
        ran
    }

    fn run_all(&mut self, backlog: &mut Backlog, names: &[String], outputs: &mut Outputs) -> Result<()> {
        loop {
            let tokens = backlog.left(&mut self.who).min(self.most);
            self.outputs.clear();
            let ran = match tokens {
                0 => return Ok(()),
                1 => self.step(backlog),
                _ => self.catch_up(backlog, tokens),
            };
            self.hand_out(backlog, outputs)?;
            match ran {
                Err(error @ runtime::Error::Diverged { stream, .. })
                    if self.on_divergence == OnDivergence::RollBack =>
                {
                    self.roll_back(stream.unwrap_or_default(), &named(error, names), backlog, outputs)?;
                }
                ran => ran.map_err(|error| named(error, names))?,
            }
        }
    }

    /// Goes on behind the next token of a stream, to which the model has no answer.
    fn roll_back(
        &mut self,
        stream: usize,
        error: &Error,
        backlog: &mut Backlog,
        outputs: &mut Outputs,
    ) -> Result<()> {
        let back = match self.stream.roll_back(stream) {
            RolledBack::ToSegment { tokens } => format!("rolled back by {tokens} tokens"),
            RolledBack::ToStart => "rolled back to the start, after so many".to_owned(),
        };
        self.diverged += 1;
        // A run does not fail for want of somebody to tell.
        let mut err = std::io::stderr();
        if self.diverged <= DIVERGED_TOLD {
            let row = backlog.next_index(stream);
            let _ = writeln!(err, "mcedge: no answer to row {row}: {error:#}; {back}");
        } else if self.diverged == DIVERGED_TOLD + 1 {
            let _ = writeln!(err, "mcedge: further rows without an answer are only counted");
        }
        let none = vec![f32::NAN; self.stream.contract().output.size];
        let is_held = backlog.next_is_held(stream);
        backlog.take_none(stream, &none);
        if !is_held {
            outputs.sink.step(&none)?;
        }
        outputs.gates.as_mut().map_or(Ok(()), |gates| gates.step(&self.stream))
    }

    /// Runs the next token of every stream that has one.
    fn step(&mut self, backlog: &Backlog) -> Result<(), runtime::Error> {
        let samples = backlog.next();
        let start = Instant::now();
        let output = self.stream.push_batch(&samples)?;
        self.pace.step(start.elapsed());
        self.outputs.extend_from_slice(output);
        Ok(())
    }

    /// Runs the next tokens of every stream that has any, as many for each.
    fn catch_up(&mut self, backlog: &Backlog, tokens: usize) -> Result<(), runtime::Error> {
        let piece = backlog.piece(&self.who, tokens, &mut self.piece);
        let start = Instant::now();
        let ran = self.stream.catch_up_some(&self.who, piece, &mut self.outputs);
        let time = start.elapsed();
        let streams = self.who.iter().filter(|&&is_there| is_there).count();
        let Contract { batch, ref output, .. } = *self.stream.contract();
        self.pace.catch_up((self.outputs.len() / batch / output.size * streams) as u64, time);
        ran
    }

    /// Gives the outputs of the last piece to those who wait for them.
    fn hand_out(&mut self, backlog: &mut Backlog, outputs: &mut Outputs) -> Result<()> {
        let Contract { batch, ref output, .. } = *self.stream.contract();
        for (row, output) in self.outputs.chunks_exact(output.size).enumerate() {
            let stream = row % batch;
            if self.who[stream] {
                let is_held = backlog.next_is_held(stream);
                backlog.take(stream, output);
                if !is_held {
                    outputs.sink.step(output)?;
                }
            }
        }
        match &mut outputs.gates {
            Some(gates) if !self.outputs.is_empty() => gates.step(&self.stream),
            _ => Ok(()),
        }
    }

    /// One line on what was done.
    pub fn summary(&self) -> String {
        let (_, live, pushed) = self.stream.position();
        let tokens = self.tokens();
        let diverged = match self.diverged {
            0 => String::new(),
            count => format!("; {count} without an answer"),
        };
        format!("{tokens} tokens{diverged}, {pushed} checkpoints made, {live} live; {}", self.pace)
    }
}

/// An error of the engine, with the name of the stream that it is about.
fn named(error: runtime::Error, names: &[String]) -> Error {
    let stream = match error {
        runtime::Error::Stream { stream, .. } | runtime::Error::Diverged { stream: Some(stream), .. } => {
            names.get(stream)
        }
        _ => None,
    };
    match stream {
        Some(name) => Error::new(error).context(format!("stream `{name}`")),
        None => error.into(),
    }
}
