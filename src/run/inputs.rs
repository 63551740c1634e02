//! What a run reads, and which stream a record belongs to.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use mcedge_firmware_host::Responder;
use mcedge_models::contract::Input;
use mcedge_runtime::snapshot::{Draft, Section, SnapshotError};

use crate::Usage;
use crate::source::uri::told;
use crate::source::{self, Fields, Follows, Next, Options, Position, Record, Source};

/// The inputs of a run, open.
pub struct Inputs {
    sources: Vec<Source>,
    /// One a source: whether it has come to its end.
    ended: Vec<bool>,
    /// The source of the last record.
    turn: usize,
    /// [`Inputs::advance`] has come to a record that is not taken yet.
    is_at_record: bool,
    fields: Fields,
    streams: Streams,
    settled: Settled,
}

/// Where the inputs are between two records.
#[derive(Clone, Default)]
struct Settled {
    /// One a source.
    positions: Vec<Position>,
    turn: usize,
    /// Streams whose names are known.
    names: usize,
}

/// The inputs of a run in a snapshot.
pub struct SavedInputs {
    /// One a source.
    sources: Vec<source::Saved>,
    turn: usize,
    by_column: bool,
    /// The streams' names.
    names: Vec<String>,
}

impl SavedInputs {
    /// What [`Inputs::save`] has written, of `batch` streams at most.
    pub fn read(batch: usize, mut saved: Section<'_>) -> Result<Self, SnapshotError> {
        let sources = (0..saved.count("inputs", batch)?).map(|_| source::Saved::read(&mut saved));
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        let turn = saved.count("the turn of inputs", sources.len().saturating_sub(1))?;
        let by_column = saved.flag("whether a column names streams")?;
        let names = (0..saved.count("names", batch)?).map(|_| saved.text("a name").map(str::to_owned));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        saved.end()?;
        Ok(Self { sources, turn, by_column, names })
    }

    /// Whether it is of inputs of these names, or of those of a column where there are none.
    fn check(&self, names: &[String], inputs: usize, by_column: bool) -> Result<()> {
        let streams = |by_column| if by_column { "named by a column" } else { "one an input" };
        let (found, expected) = (streams(by_column), streams(self.by_column));
        ensure!(by_column == self.by_column, "streams are {found}, in the snapshot {expected}");
        let expected = self.sources.len();
        ensure!(inputs == expected, "found {inputs} inputs, the snapshot is of {expected}");
        let (found, expected) = (source::list(names), source::list(&self.names));
        let is_told = inputs > 1 && names != self.names;
        ensure!(!is_told, "the inputs are {found}, those of the snapshot {expected}");
        Ok(())
    }
}

/// The streams' names: one a source, or those that a column has named so far.
struct Streams {
    names: Vec<String>,
    /// By name, where a column names them.
    known: HashMap<String, usize>,
    /// Whether a column names them.
    by_column: bool,
    /// The most of them.
    batch: usize,
}

impl Inputs {
    /// Opens `uris` for a model that takes `input` and runs `batch` streams side by side.
    ///
    /// # Errors
    ///
    /// As [`source::open`]; more inputs than streams; standard input twice; inputs whose rows are not of one kind; others
    /// than those of the snapshot.
    pub fn open(
        uris: &[String],
        input: &Input,
        options: &Options,
        batch: usize,
        saved: Option<&SavedInputs>,
    ) -> Result<Self> {
        let (names, by_column) = (names(uris), options.stream_column.is_some());
        if let Some(name) = names.get(batch) {
            bail!(Usage(format!("input `{name}` is one too many: the bundle runs {}", side_by_side(batch))));
        }
        ensure!(
            uris.iter().filter(|uri| *uri == "-").count() < 2,
            Usage("there are several --input -, expected one: there is one standard input".into())
        );
        saved.map_or(Ok(()), |saved| saved.check(&names, uris.len(), by_column))?;
        let saved_of = |index: usize| saved.map(|saved| &saved.sources[index]);
        // All are started before the first is waited for.
        let started = uris.iter().enumerate();
        let started = started.map(|(index, uri)| source::start(uri, input, options, saved_of(index)));
        let started = started.collect::<Result<Vec<_>>>()?.into_iter().enumerate();
        let sources = started.map(|(index, started)| started.open(input, options, saved_of(index)));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        let mut fields = sources[0].fields().clone();
        for (uri, source) in uris.iter().zip(&sources).skip(1) {
            agree(&mut fields, source.fields()).with_context(|| {
                format!("inputs {} and {}, whose rows go to one output", told(&uris[0]), told(uri))
            })?;
        }
        let names = match (by_column, saved) {
            (true, Some(saved)) => saved.names.clone(),
            (true, None) => Vec::new(),
            (false, _) => names,
        };
        let known = names.iter().cloned().zip(0..).collect();
        let ended = vec![false; sources.len()];
        let turn = saved.map_or(0, |saved| saved.turn);
        let streams = Streams { names, known, by_column, batch };
        let mut inputs = Inputs {
            sources,
            ended,
            turn,
            is_at_record: false,
            fields,
            streams,
            settled: Settled::default(),
        };
        inputs.settle();
        Ok(inputs)
    }

    /// What has been taken has been run: [`Inputs::save`] saves from here.
    pub fn settle(&mut self) {
        let Inputs { sources, settled, .. } = self;
        settled.positions.resize(sources.len(), Position::default());
        for (position, source) in settled.positions.iter_mut().zip(sources) {
            position.clone_from(source.position());
            source.settle();
        }
        (settled.turn, settled.names) = (self.turn, self.streams.names.len());
    }

    /// Writes where the inputs were at the last [`Inputs::settle`], for [`SavedInputs::read`].
    ///
    /// # Errors
    ///
    /// As [`Source::save`].
    pub fn save(&mut self, draft: &mut Draft) -> Result<()> {
        draft.count(self.sources.len());
        for (source, position) in self.sources.iter_mut().zip(&self.settled.positions) {
            source.save(position, draft)?;
        }
        draft.count(self.settled.turn);
        draft.flag(self.streams.by_column);
        let names = &self.streams.names[..self.settled.names];
        draft.count(names.len());
        names.iter().for_each(|name| draft.text(name));
        Ok(())
    }

    /// Whether somebody has told the inputs to end.
    pub fn is_stopped(&self) -> bool {
        self.sources.iter().any(Source::is_stopped)
    }

    /// Where each goes on, in words.
    pub fn places(&self) -> impl Iterator<Item = String> {
        self.sources.iter().map(Source::place)
    }

    /// Whether one can go back in all inputs, so that nothing is lost of what was taken and is not run.
    pub fn can_go_back(&self) -> bool {
        self.sources.iter().all(Source::can_go_back)
    }

    /// Whether all inputs are files: nothing of them comes but once.
    pub fn are_files(&self) -> bool {
        self.sources.iter().all(Source::is_file)
    }

    /// Whether nothing comes any more, and what was taken since the last [`Inputs::settle`] has the last line of a file,
    /// which has no end: if the file grows, so does that line.
    pub fn ends_with_half_a_line(&self) -> bool {
        let is_over = |(source, ended): (&Source, &bool)| *ended || source.position().is_half;
        let is_new = |(source, settled): (&Source, &Position)| source.position().is_half && !settled.is_half;
        let mut sources = self.sources.iter().zip(&self.ended);
        self.can_go_back()
            && sources.all(is_over)
            && self.sources.iter().zip(&self.settled.positions).any(is_new)
    }

    /// What the records of all inputs are.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The streams' names, as far as they are known.
    pub fn names(&self) -> &[String] {
        &self.streams.names
    }

    /// Goes to the next record of any input, each in its turn, without a wait: as [`Source::advance`]. It stays there until
    /// the record is taken.
    pub fn advance(&mut self) -> Result<Next> {
        if self.is_at_record {
            return Ok(Next::Record);
        }
        let mut next = Next::End;
        for step in 1..=self.sources.len() {
            let turn = (self.turn + step) % self.sources.len();
            if self.ended[turn] {
                continue;
            }
            match self.sources[turn].advance()? {
                Next::Record => {
                    (self.turn, self.is_at_record) = (turn, true);
                    return Ok(Next::Record);
                }
                Next::Again => next = Next::Again,
                Next::Wait if next == Next::Again => {}
                Next::Wait => next = Next::Wait,
                Next::End => self.ended[turn] = true,
            }
        }
        Ok(next)
    }

    /// The stream of the record that [`Inputs::advance`] came to, where that stream is to forget what came before it.
    pub fn begins_anew(&self) -> Option<usize> {
        // Records of one input that are of many streams follow each other as they are.
        let record = self.sources[self.turn].record();
        (self.is_at_record && record.follows == Follows::Anew).then_some(self.turn)
    }

    /// Takes the record that [`Inputs::advance`] came to, and its stream.
    ///
    /// # Errors
    ///
    /// It names a stream that is one too many.
    pub fn record(&mut self) -> Result<(usize, Record<'_>)> {
        let source = &mut self.sources[self.turn];
        let stream = match source.record().stream {
            Some(name) => self.streams.index(name)?,
            None => self.turn,
        };
        source.take();
        self.is_at_record = false;
        Ok((stream, source.record()))
    }

    /// What came of links and what did not, a line each.
    pub fn summaries(&self) -> impl Iterator<Item = String> {
        self.sources.iter().filter_map(Source::summary)
    }

    /// What sends answers to the boards of the inputs; none for an input that is none.
    pub fn responders(&self) -> Vec<Option<Responder>> {
        self.sources.iter().map(Source::responder).collect()
    }

    /// Bytes of all inputs, when known.
    pub fn bytes_total(&self) -> Option<u64> {
        self.sources.iter().map(Source::bytes_total).sum()
    }

    /// Bytes consumed.
    pub fn bytes_read(&self) -> u64 {
        self.sources.iter().map(Source::bytes_read).sum()
    }

    /// Rows that were skipped.
    pub fn bad(&self) -> u64 {
        self.sources.iter().map(Source::bad).sum()
    }
}

impl Streams {
    /// The stream of that name, a new one if need be.
    fn index(&mut self, name: &str) -> Result<usize> {
        if let Some(&stream) = self.known.get(name) {
            return Ok(stream);
        }
        let stream = self.names.len();
        if stream == self.batch {
            let name = source::shown(name);
            bail!("stream `{name}` is one too many: the bundle runs {}", side_by_side(self.batch));
        }
        self.names.push(name.to_owned());
        self.known.insert(name.to_owned(), stream);
        Ok(stream)
    }
}

fn side_by_side(batch: usize) -> String {
    format!("{batch} side by side; --batch makes more, here for a model or in its export")
}

/// The names of inputs: the files' without extension; those that are taken get a number behind.
fn names(uris: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for uri in uris {
        let uri = told(uri);
        let stem = Path::new(&uri).file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let stem = source::stream_name(&uri).or(stem);
        let name = if uri == "-" { "stdin".into() } else { stem.unwrap_or_else(|| uri.clone()) };
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        let mut free = std::iter::once(name.clone()).chain(numbered).filter(|name| !names.contains(name));
        names.extend(free.next());
    }
    names
}

/// Rows of one output have one layout. Times may be there or not.
fn agree(all: &mut Fields, one: &Fields) -> Result<()> {
    let kind = |fields: &Fields| if fields.text { "lines of text" } else { "no lines of text" };
    ensure!(all.text == one.text, "are not of one kind: {}, and {}", kind(all), kind(one));
    let list = |fields: &Fields| source::list(&fields.channels);
    ensure!(all.channels == one.channels, "have other channels: {}, and {}", list(all), list(one));
    all.time |= one.time;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_have_names_of_their_own() {
        let check = |uris: &[&str], expected: &[&str]| {
            let uris: Vec<String> = uris.iter().map(|&uri| uri.to_owned()).collect();
            assert_eq!(names(&uris), expected);
        };
        check(&["a/pump.csv", "b/fan.v2.csv", "-"], &["pump", "fan.v2", "stdin"]);
        check(&["x.csv", "y/x.csv", "x-2.csv", "x"], &["x", "x-2", "x-2-2", "x-3"]);
        check(&["file:///logs/x.log", "..", "/"], &["x", "..", "/"]);
        check(&["tail:///var/log/auth.log?from=start", "journal://"], &["auth", "journal"]);
        check(&["journal://?unit=ssh.service&unit=cron.service", "tail://x.csv"], &["ssh", "x"]);
        check(&["tcp-listen://0.0.0.0:5140", "tcp://[::1]:80"], &["0.0.0.0:5140", "[::1]:80"]);
        check(&["mqtts://me:secret@host/t", "MQTT://me:secret@host"], &["t", "host"]);
        check(&["unix:///run/pump.sock", "mqtt://me:secret@host:1/a/+/b?qos=1"], &["pump", "a/+/b"]);
    }
}
