//! Where samples and tokens come from: CSV, `.npy`, JSON lines, text or bytes, in a file or on a stream.
//!
//! Nothing is buffered beyond one record, and a record is delivered as soon as its line is complete, so that
//! `tail -f` may stand at the other end; nothing here waits but [`open`].

pub mod assembler;
mod bytes;
mod csv;
pub mod journal;
mod jsonl;
pub mod live;
pub mod mqtt;
mod npy;
mod remote;
pub mod saved;
pub mod socket;
pub mod tail;
pub mod tell;
#[cfg(test)]
mod tests;
pub mod uri;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use clap::ValueEnum;
use mcedge_models::contract::Input;

use crate::Usage;
pub use bytes::{Bytes, LINE_MAX, POLL};
use bytes::{Lines, Need};
pub use npy::read as read_array;
pub use remote::{is_live, local_path, stream_name, without_password};
use saved::Reading;
pub use saved::{Position, Saved, checksums};

/// Names that a time column goes by, in lower case.
const TIME_NAMES: [&str; 15] = [
    "time",
    "timestamp",
    "datetime",
    "date",
    "ts",
    "t",
    "epoch",
    "date_time",
    "time_stamp",
    "time_s",
    "time_ms",
    "time_us",
    "time_ns",
    "timestamp_ms",
    "@timestamp",
];
/// Bad rows that are told one by one.
const BAD_ROWS_TOLD: u64 = 5;
/// Characters of a bad cell that a message shows.
const SHOWN: usize = 40;

/// How an input is read, where it does not say so itself.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What the input is; by its extension or first bytes when not given.
    pub format: Option<Format>,
    /// The columns or keys that are the model's channels, in order; else the model's `input.names`. A CSV without
    /// a header has columns `1`, `2`, ….
    pub columns: Option<Vec<String>>,
    /// The column or key of the time; else one of the usual names.
    pub time_column: Option<String>,
    /// The column or key that says which stream a record belongs to.
    pub stream_column: Option<String>,
    /// What separates the columns of a CSV; `,`, `;` or tab, whichever its first line has most, when not given.
    pub delimiter: Option<u8>,
    /// What a row that cannot be used does.
    pub on_bad: OnBad,
    /// How many answers there are to choose from, where JSON lines of tokens may have them. They have when the first line
    /// has; a text of such lines is JSON lines then, whatever its name, unless `format` says otherwise.
    pub answers: Option<usize>,
    /// Ends the input when set, even while it waits for a stream.
    pub stop: Arc<AtomicBool>,
}

/// What an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Rows of numbers, `,` `;` or tab between them, with or without a header.
    Csv,
    /// A NumPy array `[T, F]`, or `[T]`.
    Npy,
    /// An object or an array on each line.
    Jsonl,
    /// Lines, for a byte model.
    Text,
    /// Bytes one by one, for a byte model.
    Bytes,
}

/// What a row that cannot be used does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnBad {
    /// It ends the run with an error.
    #[default]
    Stop,
    /// It is told and left out.
    Skip,
}

/// What the records of an input are.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    /// Names of the channels, `[size]`; empty when the records are tokens.
    pub channels: Vec<String>,
    /// Whether records have a time.
    pub time: bool,
    /// Whether records are lines of text.
    pub text: bool,
    /// Whether records have answers.
    pub answers: bool,
}

/// What is next of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A record.
    Record,
    /// It has not come yet.
    Wait,
    /// Nothing.
    End,
}

/// One record of an input.
#[derive(Debug, PartialEq)]
pub struct Record<'a> {
    /// Number of the record from 0; rows that were skipped count.
    pub index: u64,
    /// Its time, as it was written.
    pub time: Option<&'a str>,
    /// The stream that it belongs to, where there is a column that says so.
    pub stream: Option<&'a str>,
    /// What the model takes.
    pub data: Data<'a>,
}

/// What a model takes from one record.
#[derive(Debug, PartialEq)]
pub enum Data<'a> {
    /// A sample, `[size]`; always finite.
    Sample(&'a [f32]),
    /// One or more tokens; always in the vocabulary.
    Tokens {
        /// `[T]`.
        tokens: &'a [i64],
        /// The line that they are, newline included.
        line: Option<&'a [u8]>,
    },
}

/// An input, open.
pub struct Source {
    name: String,
    reader: Reader,
    fields: Fields,
    row: Row,
    has_streams: bool,
    on_bad: OnBad,
    /// Rows read, bad ones included.
    rows: u64,
    /// Rows skipped.
    bad: u64,
    /// Behind the last record that was taken.
    at: Position,
}

/// A record's buffers, used again for each.
#[derive(Default)]
struct Row {
    /// Meaningful when `has_time`.
    time: String,
    has_time: bool,
    stream: String,
    features: Vec<f32>,
    tokens: Vec<i64>,
    /// As long as `tokens` where the records have answers, else empty.
    answers: Vec<Option<usize>>,
}

/// What a reader came to.
enum Read {
    /// A record, in the row.
    Row,
    /// A record that cannot be used, and why.
    Bad(Error),
    End,
}

enum Reader {
    Csv(Box<csv::Csv>),
    Jsonl(jsonl::Jsonl),
    Npy(npy::Npy),
    Text(Lines),
    Bytes(Bytes),
}

/// An input that may be waited for: others are started before that.
pub struct Started {
    name: String,
    /// What may have an extension.
    path: String,
    bytes: Bytes,
}

/// Starts to read `uri`: a path, a `file://` URI, `-` for standard input, or one of the live inputs of [`remote`]. It is for
/// a model with `input`, and is where `saved` says, of the same input in a snapshot.
///
/// # Errors
///
/// No such file, a directory, a URI that is none of an input, or an input that is not the one in the snapshot any more.
pub fn start(uri: &str, input: &Input, options: &Options, saved: Option<&Saved>) -> Result<Started> {
    if is_live(uri) {
        return remote::start(uri, input, options, saved);
    }
    let path = uri.strip_prefix("file://").unwrap_or(uri);
    ensure!(
        !path.contains("://"),
        "input {uri:?}: expected a path, a file:// URI, - for standard input, or one of {}",
        list(&remote::SCHEMES.map(|scheme| format!("{scheme}://")))
    );
    let name = if path == "-" { "standard input" } else { path };
    let open = || -> Result<Bytes> {
        saved.map_or(Ok(()), |saved| saved.check(path))?;
        Bytes::open(path, Arc::clone(&options.stop))
    };
    let bytes = open().with_context(|| format!("input {name}"))?;
    Ok(Started { name: name.to_owned(), path: path.to_owned(), bytes })
}

/// [`Started::open`] of what [`start`] has started.
///
/// # Errors
///
/// As both.
pub fn open(uri: &str, input: &Input, options: &Options, saved: Option<&Saved>) -> Result<Source> {
    start(uri, input, options, saved)?.open(input, options, saved)
}

impl Started {
    /// Opens the input for a model with `input`.
    ///
    /// This reads up to the first record, and so waits for a stream's, but for one of lines that are text to the model. Then
    /// it goes to where `saved` says, of the same input in a snapshot.
    ///
    /// # Errors
    ///
    /// An empty file, a format that is not the model's kind of input, columns that are not there, and an input that is not
    /// read as the one in the snapshot.
    pub fn open(self, input: &Input, options: &Options, saved: Option<&Saved>) -> Result<Source> {
        let Self { name, path, bytes } = self;
        let open = || -> Result<Source> {
            let mut source = Source::over(&name, &path, bytes, input, options)?;
            saved.map_or(Ok(()), |saved| source.resume(saved))?;
            Ok(source)
        };
        open().with_context(|| format!("input {name}"))
    }
}

impl Source {
    /// Reads `bytes`, of an input of that name and with that path's extension: as [`Started::open`].
    pub fn over(name: &str, path: &str, mut bytes: Bytes, input: &Input, options: &Options) -> Result<Self> {
        let at = Position::start(&bytes);
        let said = options.format.or_else(|| by_extension(path, input));
        let format = match said.or_else(|| at_once(&bytes, input, options)) {
            Some(format @ (Format::Text | Format::Bytes)) if bytes.has_lines() => format,
            Some(Format::Npy) if bytes.has_lines() => bail!("comes line by line, an .npy has no lines"),
            _ if bytes.peek()?.is_empty() => {
                bail!(if bytes.stopped() { "stopped before the first row" } else { "is empty" });
            }
            Some(format) => format,
            None => by_content(&bytes.first(npy::MAGIC.len())?, input),
        };
        if options.stream_column.is_some() && !matches!(format, Format::Csv | Format::Jsonl) {
            let format = format!("{format:?}").to_lowercase();
            bail!(Usage(format!("is {format}; --stream-column is for CSV and JSON lines")));
        }
        let mut fields = Fields { channels: Vec::new(), time: false, text: false, answers: false };
        let reader = match format {
            Format::Csv => {
                let csv = csv::Csv::open(Lines::new(bytes), input, options, &mut fields)?;
                Reader::Csv(Box::new(csv))
            }
            Format::Jsonl => {
                Reader::Jsonl(jsonl::Jsonl::open(Lines::new(bytes), input, options, &mut fields)?)
            }
            Format::Npy => Reader::Npy(npy::Npy::open(bytes, input, options, &mut fields)?),
            Format::Text => {
                byte_model(input)?;
                let mut lines = Lines::new(bytes);
                if options.format.is_none() && options.answers.is_some() && jsonl::have_answers(&mut lines)? {
                    Reader::Jsonl(jsonl::Jsonl::open(lines, input, options, &mut fields)?)
                } else {
                    fields.text = true;
                    Reader::Text(lines)
                }
            }
            Format::Bytes => {
                byte_model(input)?;
                Reader::Bytes(bytes)
            }
        };
        let row = Row::default();
        let has_streams = options.stream_column.is_some();
        let (name, on_bad) = (name.into(), options.on_bad);
        Ok(Source { name, reader, fields, row, has_streams, on_bad, rows: 0, bad: 0, at })
    }

    /// What the records are.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Bytes of the input in all, when known.
    pub fn bytes_total(&self) -> Option<u64> {
        self.bytes().total()
    }

    /// Bytes of the input consumed.
    pub fn bytes_read(&self) -> u64 {
        self.bytes().consumed()
    }

    /// Rows that were skipped.
    pub fn bad(&self) -> u64 {
        self.bad
    }

    /// Goes to the next record, without a wait for one that is still to come. At a record, [`Source::record`] is it.
    ///
    /// A live input wakes the thread that opened it when more has come: [`std::thread::park_timeout`] is the wait for
    /// that, of [`POLL`] at most.
    ///
    /// # Errors
    ///
    /// The input fails; a line is too long; or a row cannot be used and [`OnBad::Stop`] holds. A skipped row is told on
    /// standard error, the first few one by one.
    pub fn advance(&mut self) -> Result<Next> {
        while self.is_stopped() || !self.would_wait() {
            let read = self.read().with_context(|| format!("input {}", self.name))?;
            match read {
                Read::End => return Ok(Next::End),
                Read::Row => {
                    self.rows += 1;
                    return Ok(Next::Record);
                }
                Read::Bad(reason) => self.skip(reason)?,
            }
        }
        Ok(Next::Wait)
    }

    /// The record that [`Source::advance`] came to.
    pub fn record(&self) -> Record<'_> {
        let line = match &self.reader {
            Reader::Text(lines) => Some(lines.line()),
            _ => None,
        };
        let data = match self.fields.channels.is_empty() {
            true => Data::Tokens { tokens: &self.row.tokens, line },
            false => Data::Sample(&self.row.features),
        };
        Record {
            index: self.rows - 1,
            time: self.row.has_time.then_some(self.row.time.as_str()),
            stream: self.has_streams.then_some(self.row.stream.as_str()),
            data,
        }
    }

    /// What is expected of the record's tokens, one each; empty where the records have no answers.
    pub fn answers(&self) -> &[Option<usize>] {
        &self.row.answers
    }

    /// Whether the next record is still to come.
    fn would_wait(&mut self) -> bool {
        match &mut self.reader {
            Reader::Csv(csv) => csv.lines.would_wait_for_text(),
            Reader::Jsonl(jsonl) => jsonl.lines.would_wait_for_text(),
            Reader::Npy(npy) => npy.would_wait(),
            Reader::Text(lines) => lines.would_wait(),
            Reader::Bytes(bytes) => bytes.would_wait(Need::Bytes(1)),
        }
    }

    /// Whether somebody has told it to end.
    pub fn is_stopped(&self) -> bool {
        self.bytes().stopped()
    }

    fn read(&mut self) -> Result<Read> {
        let row = &mut self.row;
        match &mut self.reader {
            Reader::Csv(csv) => csv.next(row),
            Reader::Jsonl(jsonl) => jsonl.next(row),
            Reader::Npy(npy) => npy.next(row),
            Reader::Text(lines) => {
                let more = lines.advance()?;
                row.tokens.clear();
                row.tokens.extend(lines.line().iter().map(|&byte| i64::from(byte)));
                Ok(if more { Read::Row } else { Read::End })
            }
            Reader::Bytes(bytes) => {
                let byte = if bytes.stopped() { None } else { bytes.peek()?.first().copied() };
                row.tokens.clear();
                row.tokens.extend(byte.map(i64::from));
                bytes.consume(row.tokens.len());
                Ok(if byte.is_some() { Read::Row } else { Read::End })
            }
        }
    }

    fn skip(&mut self, reason: Error) -> Result<()> {
        let reason = reason.context(format!("input {}", self.name));
        if self.on_bad == OnBad::Stop {
            return Err(reason);
        }
        self.rows += 1;
        self.bad += 1;
        self.row.has_time = false;
        self.take();
        // A run does not fail for want of somebody to tell.
        let mut err = std::io::stderr();
        if self.bad <= BAD_ROWS_TOLD {
            let _ = writeln!(err, "mcedge: skipped: {reason:#}");
        } else if self.bad == BAD_ROWS_TOLD + 1 {
            let _ = writeln!(err, "mcedge: further rows that are skipped are only counted");
        }
        Ok(())
    }

    /// The lines that are read; none where there are no lines.
    fn lines(&self) -> Option<&Lines> {
        match &self.reader {
            Reader::Csv(csv) => Some(&csv.lines),
            Reader::Jsonl(jsonl) => Some(&jsonl.lines),
            Reader::Text(lines) => Some(lines),
            Reader::Npy(_) | Reader::Bytes(_) => None,
        }
    }

    fn bytes(&self) -> &Bytes {
        match &self.reader {
            Reader::Csv(csv) => csv.lines.bytes(),
            Reader::Jsonl(jsonl) => jsonl.lines.bytes(),
            Reader::Npy(npy) => npy.bytes(),
            Reader::Text(lines) => lines.bytes(),
            Reader::Bytes(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut Bytes {
        match &mut self.reader {
            Reader::Csv(csv) => csv.lines.bytes_mut(),
            Reader::Jsonl(jsonl) => jsonl.lines.bytes_mut(),
            Reader::Npy(npy) => npy.bytes_mut(),
            Reader::Text(lines) => lines.bytes_mut(),
            Reader::Bytes(bytes) => bytes,
        }
    }
}

impl Row {
    fn clear(&mut self) {
        self.has_time = false;
        self.stream.clear();
        self.features.clear();
        self.tokens.clear();
        self.answers.clear();
    }

    fn set_time(&mut self, time: &str) {
        self.has_time = true;
        self.time.clear();
        self.time.push_str(time);
    }

    fn set_stream(&mut self, stream: &str) -> Result<()> {
        ensure!(!stream.is_empty(), "is empty, expected the name of a stream");
        self.stream.push_str(stream);
        Ok(())
    }
}

/// What a path's extension says; a log is text to a byte model and says nothing of a model of numbers.
fn by_extension(path: &str, input: &Input) -> Option<Format> {
    let (_, extension) = path.rsplit_once('.')?;
    let byte_model = byte_model(input).is_ok();
    match extension.to_ascii_lowercase().as_str() {
        "csv" | "tsv" => Some(Format::Csv),
        "npy" => Some(Format::Npy),
        "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
        "txt" | "text" | "log" if byte_model => Some(Format::Text),
        "bin" if byte_model => Some(Format::Bytes),
        _ => None,
    }
}

/// What lines are that come one day, where that can be told without one.
fn at_once(bytes: &Bytes, input: &Input, options: &Options) -> Option<Format> {
    let is_text = bytes.has_lines() && options.answers.is_none() && byte_model(input).is_ok();
    is_text.then_some(Format::Text)
}

/// What the first bytes say.
fn by_content(first: &[u8], input: &Input) -> Format {
    let json = matches!(first.trim_ascii_start().first(), Some(b'{' | b'['));
    match input {
        _ if first.starts_with(npy::MAGIC) => Format::Npy,
        Input::Tokens { .. } if byte_model(input).is_ok() => Format::Text,
        _ if json => Format::Jsonl,
        Input::Tokens { .. } => Format::Jsonl,
        Input::Features { .. } => Format::Csv,
    }
}

fn byte_model(input: &Input) -> Result<()> {
    match input {
        Input::Tokens { vocab_size: 256 } => Ok(()),
        Input::Tokens { vocab_size } => {
            bail!("text and bytes need a model with a vocabulary of 256, this one has {vocab_size}")
        }
        Input::Features { size, .. } => {
            bail!("text and bytes need a model of bytes, this one takes samples of {size} channels")
        }
    }
}

/// Whether a column's or key's name says that it is a time.
fn is_time_name(name: &str) -> bool {
    TIME_NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The channels' names: the model's own; else the columns that were asked for; else `x0`, `x1`, ….
fn channel_names(names: &[String], columns: Option<&[String]>, size: usize) -> Vec<String> {
    match (names, columns) {
        ([], Some(columns)) => columns.to_vec(),
        ([], None) => (0..size).map(|channel| format!("x{channel}")).collect(),
        _ => names.to_vec(),
    }
}

/// As many columns were asked for as the model has channels.
fn check_columns(columns: Option<&[String]>, size: usize) -> Result<()> {
    match columns {
        Some(columns) if columns.len() != size => {
            bail!("{} columns were asked for, {}; the model takes {size}", columns.len(), list(columns))
        }
        _ => Ok(()),
    }
}

fn check_finite(value: f32) -> Result<f32> {
    ensure!(value.is_finite(), "{value} is not a finite number");
    Ok(value)
}

fn check_token(token: i64, input: &Input) -> Result<i64> {
    let vocab_size = input.size();
    let known = usize::try_from(token).is_ok_and(|token| token < vocab_size);
    known
        .then_some(token)
        .ok_or_else(|| anyhow!("token {token} is not in the vocabulary, 0 to {}", vocab_size - 1))
}

/// Names for a message, in back quotes.
pub fn list<S: AsRef<str>>(names: &[S]) -> String {
    const MOST: usize = 32;
    let mut list: Vec<String> =
        names.iter().take(MOST).map(|name| format!("`{}`", shown(name.as_ref()))).collect();
    if names.len() > MOST {
        list.push(format!("… ({} in all)", names.len()));
    }
    list.join(", ")
}

/// Text for a message: short, and nothing in it that a terminal would obey.
pub fn shown(text: &str) -> String {
    let mut shown = String::new();
    for char in text.chars().take(SHOWN) {
        match char {
            '"' | '\'' | '\\' => shown.push(char),
            _ => shown.extend(char.escape_debug()),
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
