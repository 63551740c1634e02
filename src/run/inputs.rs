//! What a run reads, and which stream a record belongs to.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use mcedge_models::contract::Input;

use crate::Usage;
use crate::source::{self, Fields, Next, Options, Record, Source};

/// The inputs of a run, open.
pub struct Inputs {
    sources: Vec<Source>,
    /// One a source: whether it has come to its end.
    ended: Vec<bool>,
    /// The source that was asked last.
    turn: usize,
    fields: Fields,
    streams: Streams,
}

/// The streams' names: one a source, or those that a column has named so far.
struct Streams {
    names: Vec<String>,
    /// By name, where a column names them.
    known: HashMap<String, usize>,
    /// The most of them.
    batch: usize,
}

impl Inputs {
    /// Opens `uris` for a model that takes `input` and runs `batch` streams side by side.
    ///
    /// # Errors
    ///
    /// As [`source::open`]; more inputs than streams; standard input twice; inputs whose rows are not of one kind.
    pub fn open(uris: &[String], input: &Input, options: &Options, batch: usize) -> Result<Self> {
        let (names, by_column) = (names(uris), options.stream_column.is_some());
        if let Some(name) = names.get(batch) {
            bail!(Usage(format!("input `{name}` is one too many: the bundle runs {}", side_by_side(batch))));
        }
        ensure!(
            uris.iter().filter(|uri| *uri == "-").count() < 2,
            Usage("there are several --input -, expected one: there is one standard input".into())
        );
        let sources = uris.iter().map(|uri| source::open(uri, input, options)).collect::<Result<Vec<_>>>()?;
        let mut fields = sources[0].fields().clone();
        for (uri, source) in uris.iter().zip(&sources).skip(1) {
            agree(&mut fields, source.fields())
                .with_context(|| format!("inputs {} and {uri}, whose rows go to one output", uris[0]))?;
        }
        let names = if by_column { Vec::new() } else { names };
        let ended = vec![false; sources.len()];
        Ok(Inputs {
            sources,
            ended,
            turn: 0,
            fields,
            streams: Streams { names, known: HashMap::new(), batch },
        })
    }

    /// What the records of all inputs are.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The streams' names, as far as they are known.
    pub fn names(&self) -> &[String] {
        &self.streams.names
    }

    /// Goes to the next record of any input, each in its turn, without a wait: as [`Source::advance`].
    pub fn advance(&mut self) -> Result<Next> {
        let mut next = Next::End;
        for _ in 0..self.sources.len() {
            self.turn = (self.turn + 1) % self.sources.len();
            if self.ended[self.turn] {
                continue;
            }
            match self.sources[self.turn].advance()? {
                Next::Record => return Ok(Next::Record),
                Next::Wait => next = Next::Wait,
                Next::End => self.ended[self.turn] = true,
            }
        }
        Ok(next)
    }

    /// The record that [`Inputs::advance`] came to, and its stream.
    ///
    /// # Errors
    ///
    /// It names a stream that is one too many.
    pub fn record(&mut self) -> Result<(usize, Record<'_>)> {
        let record = self.sources[self.turn].record();
        let stream = match record.stream {
            Some(name) => self.streams.index(name)?,
            None => self.turn,
        };
        Ok((stream, record))
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
        let stem = Path::new(uri).file_stem().map(|stem| stem.to_string_lossy().into_owned());
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
    }
}
