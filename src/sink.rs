//! Where predictions go: CSV, JSON lines or `.npy`, in a file or on standard output.
//!
//! | layout | columns of a CSV; keys of a JSON line |
//! |---|---|
//! | [`Layout::Forecast`] | `index` or `time`, `<channel>.prediction`…, `<channel>.residual`…, `score`; `prediction` and `residual` are objects by channel |
//! | [`Layout::Values`] | `index` or `time`, `y0`…; `output` is an array |
//! | [`Layout::Classes`] | `index` or `time`, `label`, `p.<label>`…; `p` is an object by label |
//! | [`Layout::Surprise`] of text | `line` from 1, `bytes`, `bits_per_byte`, `text` |
//! | [`Layout::Surprise`] of tokens | `index` or `time`, `tokens`, `bits_per_token` |
//!
//! Where there are several streams, `stream` comes before all that. A cell with nothing to say (the first sample's
//! residual) is empty, `null` in JSON. An `.npy` is the graph's output, `[T, O]` f32, whatever the layout.

mod npy;
mod publish;
mod rotate;
mod saved;
mod table;
mod target;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail, ensure};
use clap::ValueEnum;
use mcedge_models::contract::{Output, OutputKind};

use crate::Usage;
use crate::source::uri::{Uri, told};
use crate::source::{Fields, Ticket, local_path};
use npy::Npy;
use publish::Publisher;
use rotate::{Rotating, Rotation};
pub use saved::Saved;
use table::Table;
use target::{Rows, Target};

/// Why an `.npy` is for one stream.
const NO_STREAMS: &str = "an .npy has no place to say which stream a row is of: write .csv or .jsonl, or run the streams \
                          one by one";

/// What an output is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A header and a row for each record.
    Csv,
    /// A NumPy array of all outputs, `[T, O]` f32.
    Npy,
    /// An object on each line.
    Jsonl,
}

/// How an output is written, besides its layout.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// What is read: no output goes there.
    pub inputs: &'a [String],
    /// What the output is; by its extension when not given.
    pub format: Option<Format>,
    /// Whether rows say which stream they are of.
    pub streams: bool,
    /// How far the output was written before, by a snapshot: it is gone on with there.
    pub saved: Option<&'a Saved>,
    /// Whether whole rows that a file has behind the snapshot stay: nothing makes them once more.
    pub keeps_rows: bool,
    /// Whether snapshots are made.
    pub snapshots: bool,
}

/// What there is to say about each record.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// A regression as wide as its sample predicts the next one: prediction, residual, score.
    Forecast {
        /// `[O]`.
        channels: Vec<String>,
        /// Whether records have a time.
        time: bool,
    },
    /// The outputs as they are.
    Values {
        /// O.
        size: usize,
        /// Whether records have a time.
        time: bool,
    },
    /// The likeliest class, and the softmax of the outputs.
    Classes {
        /// `[O]`.
        labels: Vec<String>,
        /// Whether records have a time.
        time: bool,
    },
    /// How well the tokens were predicted.
    Surprise {
        /// Whether a record is a line of text.
        text: bool,
        /// Whether records have a time.
        time: bool,
    },
}

/// One record's results. The layout says which of them are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Row<'a> {
    /// The stream that it is of, where rows say so.
    pub stream: &'a str,
    /// Number of the record, from 0.
    pub index: u64,
    /// By what its board knows it again; no part of what is written.
    pub ticket: Option<Ticket>,
    /// Its time.
    pub time: Option<&'a str>,
    /// The output after the record's last token, `[O]`.
    pub output: &'a [f32],
    /// The sample less the prediction made for it one step before, `[O]`.
    pub residual: Option<&'a [f32]>,
    /// The anomaly score of the residual.
    pub score: Option<f64>,
    /// Tokens of the record.
    pub tokens: u64,
    /// Mean bits of the record's tokens that were predicted: all but the first of a stream.
    pub bits: Option<f64>,
    /// The record's line.
    pub line: &'a [u8],
}

/// An output, open.
pub struct Sink {
    name: String,
    /// What its rows are, in words.
    shape: String,
    writer: Writer,
}

enum Writer {
    Csv(Table),
    Jsonl(Table),
    Npy(Npy),
}

impl Layout {
    /// What a model with `output` has to say about records with `fields`.
    pub fn new(output: &Output, fields: &Fields) -> Self {
        let (size, time) = (output.size, fields.time);
        let tokens = fields.channels.is_empty();
        match output.kind {
            OutputKind::Regression if fields.channels.len() == size => {
                Layout::Forecast { channels: fields.channels.clone(), time }
            }
            OutputKind::Logits if tokens => Layout::Surprise { text: fields.text, time },
            OutputKind::Classification => {
                let numbered = |labels: usize| (0..labels).map(|label| label.to_string()).collect();
                let labels = if output.labels.is_empty() { numbered(size) } else { output.labels.clone() };
                Layout::Classes { labels, time }
            }
            _ => Layout::Values { size, time },
        }
    }
}

impl Sink {
    /// Opens `uri`, for outputs `[size]`: a path, a `file://` URI, `-` for standard output, or `mqtt://` for messages.
    ///
    /// A file is made anew, or cut off where the snapshot ends, or its rows: open the inputs first, so that nothing is lost
    /// for want of one.
    ///
    /// # Errors
    ///
    /// The file cannot be written or is an input; its extension is no known format and none is given; or an `.npy`,
    /// whose header needs the count of rows that only the end knows, is to go where there is no going back, or to have
    /// the rows of several streams; or a snapshot is of other rows, or of more than there are.
    pub fn open(uri: &str, options: &Options, layout: Layout, size: usize) -> Result<Self> {
        Self::named_open(uri, |path| {
            let Options { format, streams, saved, .. } = *options;
            let format = match format {
                Some(format) => format,
                None if is_broker(uri) => Format::Jsonl,
                None => by_extension(path)?,
            };
            ensure!(!streams || format != Format::Npy, Usage(NO_STREAMS.into()));
            if format == Format::Npy {
                return array(uri, options, &[size]);
            }
            let delimiter = delimiter(path);
            let columns = layout.columns(delimiter, streams);
            let shape = format!("{format:?}: {columns}");
            saved.map_or(Ok(()), |saved| saved.check_shape(&shape))?;
            let rows = if format == Format::Csv { Rows::Csv } else { Rows::Lines };
            let target = if is_broker(uri) {
                let parsed = Uri::parse(uri)?.context("is no URI")?;
                Target::Messages(Publisher::open(parsed, path)?)
            } else {
                let header = if format == Format::Csv { format!("{columns}\n") } else { String::new() };
                create_rows(uri, options, rows, &header)?
            };
            // Messages have no beginning.
            let has_header = format == Format::Csv && saved.is_none() && !is_broker(uri);
            let mut table = Table::new(BufWriter::new(target), layout, delimiter, streams);
            if has_header {
                table.header(columns)?;
            }
            Ok((shape, if format == Format::Csv { Writer::Csv(table) } else { Writer::Jsonl(table) }))
        })
    }

    /// Opens `uri` for an `.npy` `[T, …]` of steps of `shape`, whatever its extension.
    ///
    /// # Errors
    ///
    /// As [`Sink::open`].
    pub fn array(uri: &str, options: &Options, shape: &[usize]) -> Result<Self> {
        Self::named_open(uri, |_| array(uri, options, shape))
    }

    fn named_open(uri: &str, open: impl FnOnce(&str) -> Result<(String, Writer)>) -> Result<Self> {
        let safe = told(uri);
        let path = if is_broker(uri) { &safe } else { path_of(uri) };
        let name = if path == "-" { "standard output" } else { path };
        let opened = check_path(uri).and_then(|()| open(path));
        let (shape, writer) = opened.with_context(|| format!("output {name}"))?;
        Ok(Sink { name: name.into(), shape, writer })
    }

    /// Takes the output of a step, `[O]`, for every token or sample: an `.npy` is made of these.
    pub fn step(&mut self, output: &[f32]) -> Result<()> {
        let written = match &mut self.writer {
            Writer::Npy(npy) => npy.step(output),
            Writer::Csv(_) | Writer::Jsonl(_) => Ok(()),
        };
        self.named(written)
    }

    /// Takes what there is to say about a record: rows and lines are made of these.
    pub fn row(&mut self, row: &Row) -> Result<()> {
        let written = match &mut self.writer {
            Writer::Npy(_) => Ok(()),
            Writer::Csv(table) => table.csv_row(row),
            Writer::Jsonl(table) => table.json_row(row),
        };
        self.named(written)
    }

    /// Hands on all that was taken, for a reader who waits; a file is whole up to here, an `.npy` too.
    pub fn flush(&mut self) -> Result<()> {
        let flushed = match &mut self.writer {
            Writer::Npy(npy) => npy.flush(),
            Writer::Csv(table) | Writer::Jsonl(table) => table.flush(),
        };
        self.named(flushed)
    }

    /// Whether it leaves a file that is full for a new one.
    pub fn is_rotating(&self) -> bool {
        match &self.writer {
            Writer::Npy(_) => false,
            Writer::Csv(table) | Writer::Jsonl(table) => matches!(table.target(), Target::Rotating(_)),
        }
    }

    /// Ends the output: everything is in its place, or it is said what is not.
    pub fn finish(&mut self) -> Result<()> {
        self.flush()?;
        let finished = match &mut self.writer {
            Writer::Npy(_) => Ok(()),
            Writer::Csv(table) | Writer::Jsonl(table) => table.finish(),
        };
        self.named(finished)
    }

    fn named(&self, written: io::Result<()>) -> Result<()> {
        written.with_context(|| format!("output {}", self.name))
    }
}

/// Whether an error says that the reader of an output has gone, as `head` does: a success.
pub fn is_broken_pipe(err: &Error) -> bool {
    let is_broken = |err: &io::Error| err.kind() == io::ErrorKind::BrokenPipe;
    err.chain().any(|cause| cause.downcast_ref().is_some_and(is_broken))
}

fn check_path(uri: &str) -> Result<()> {
    let is_known = is_broker(uri) || !path_of(uri).contains("://");
    ensure!(is_known, "expected a path, a file:// URI, - for standard output, or mqtt://HOST/TOPIC");
    Ok(())
}

/// Whether rows go to a broker.
fn is_broker(uri: &str) -> bool {
    uri.starts_with("mqtt://")
}

fn by_extension(path: &str) -> Result<Format> {
    if path == "-" {
        return Ok(Format::Csv);
    }
    let extension = path.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    Ok(match extension.as_deref() {
        Some("csv" | "tsv") => Format::Csv,
        Some("npy") => Format::Npy,
        Some("jsonl" | "ndjson") => Format::Jsonl,
        _ => bail!("its extension is not .csv, .tsv, .npy or .jsonl, and no format is given"),
    })
}

fn delimiter(path: &str) -> char {
    if path.to_ascii_lowercase().ends_with(".tsv") { '\t' } else { ',' }
}

/// Opens `path`, made anew or cut off where the snapshot ends, or its rows; the bytes that it has.
fn create(path: &str, options: &Options, rows: Rows) -> Result<(Target, u64)> {
    let Options { inputs, saved, keeps_rows, .. } = *options;
    ensure!(!inputs.iter().any(|input| is_same_file(input, path)), "is the input");
    let keep = match saved.map(|saved| saved.bytes) {
        Some(Some(bytes)) if keeps_rows => Some(rows.end(path, bytes)?),
        Some(bytes) => Some(bytes.unwrap_or_default()),
        None => None,
    };
    Ok((Target::open(path, keep)?, keep.unwrap_or_default()))
}

/// Opens the file of `uri` for rows, behind those of earlier runs where it is left when it is full.
fn create_rows(uri: &str, options: &Options, rows: Rows, header: &str) -> Result<Target> {
    let (path, rotation) = (path_of(uri), Rotation::parse(uri)?);
    let Some(rotation) = rotation else { return Ok(create(path, options, rows)?.0) };
    ensure!(!options.inputs.iter().any(|input| is_same_file(input, path)), "is the input");
    let is_file = path != "-" && fs::metadata(path).map_or(true, |metadata| metadata.is_file());
    ensure!(is_file, Usage("is no file, which alone can be left for a new one: leave ?rotate= out".into()));
    let file = match options.saved {
        None => {
            rotate::leave(path, rotation, header.len())?;
            Target::open(path, None)?
        }
        Some(saved) => {
            let number = saved.find(path, rotation.keep)?;
            if number > 0 && options.keeps_rows {
                // Rows behind the snapshot stay, in the files that they are in.
                Target::open(path, Some(rows.end(path, 0)?))?
            } else {
                rotate::undo(path, rotation.keep, number)?;
                create(path, options, rows)?.0
            }
        }
    };
    let Target::File(file) = file else { bail!("is no file") };
    let rotating = Rotating::new(file, path, rotation, header.as_bytes(), options.snapshots)?;
    Ok(Target::Rotating(rotating))
}

fn array(uri: &str, options: &Options, shape: &[usize]) -> Result<(String, Writer)> {
    let (path, saved) = (path_of(uri), options.saved);
    const WHY: &str = "an .npy begins with the count of its rows, and needs a file to go back in";
    ensure!(!is_broker(uri), WHY);
    let is_whole = Rotation::parse(uri)?.is_none();
    ensure!(is_whole, Usage("an .npy is one file: leave ?rotate= out".into()));
    let words = format!("an array of {shape:?}");
    saved.map_or(Ok(()), |saved| saved.check_shape(&words))?;
    let is_file = || path != "-" && fs::metadata(path).map_or(true, |metadata| metadata.is_file());
    ensure!(is_file(), WHY);
    let row_bytes = npy::row_bytes(shape);
    let (Target::File(file), bytes) = create(path, options, Rows::Array { row_bytes })? else { bail!(WHY) };
    let npy = match saved {
        Some(_) => Npy::resume(file, shape, bytes.saturating_sub(npy::HEADER_BYTES as u64) / row_bytes),
        None => Npy::new(file, shape)?,
    };
    Ok((words, Writer::Npy(npy)))
}

/// The path of a URI, without what is behind a `?` of `file://`.
fn path_of(uri: &str) -> &str {
    match uri.strip_prefix("file://") {
        Some(rest) => rest.split_once('?').map_or(rest, |(path, _)| path),
        None => uri,
    }
}

/// Whether two URIs are of one file, there or not.
pub fn is_same_file(a: &str, b: &str) -> bool {
    place(a).is_some_and(|a| place(b) == Some(a))
}

/// Where the file of a URI is, or would be: see [`place_of`].
pub fn place(uri: &str) -> Option<PathBuf> {
    let followed = local_path(uri);
    if uri == "-" { None } else { place_of(Path::new(followed.as_deref().unwrap_or(path_of(uri)))) }
}

/// Where a file is, or would be, however its path is written; none of what is there and no file, and in no folder.
pub fn place_of(path: &Path) -> Option<PathBuf> {
    if let Ok(place) = fs::canonicalize(path) {
        return Some(place).filter(|place| fs::metadata(place).is_ok_and(|metadata| metadata.is_file()));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Some(fs::canonicalize(folder.unwrap_or(Path::new("."))).ok()?.join(path.file_name()?))
}
