//! Where samples and tokens come from: CSV, `.npy`, JSON lines, text or bytes, in a file or on a stream.
//!
//! Nothing is buffered beyond one record, and a record is delivered as soon as its line is complete, so that
//! `tail -f` may stand at the other end; nothing here waits but [`open`].

pub mod assembler;
mod bytes;
mod columns;
mod csv;
pub mod journal;
mod jsonl;
mod link;
pub mod live;
pub mod mqtt;
mod npy;
mod options;
mod record;
mod remote;
pub mod saved;
pub mod socket;
pub mod tail;
pub mod tell;
#[cfg(test)]
mod tests;
mod text_board;
pub mod uri;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Error, Result, bail, ensure};
use mcedge_firmware_host::{LineCounters, Responder};
use mcedge_models::contract::Input;

use crate::Usage;
pub use bytes::{Bytes, LINE_MAX, POLL};
use bytes::{Lines, Need};
use columns::{channel_names, check_columns, check_finite, check_token};
pub use columns::{is_time_name, list, shown};
pub use npy::read as read_array;
pub use options::{Format, OnBad, OnGap, Options};
use options::{at_once, by_content, by_extension, byte_model};
pub use record::{Data, Fields, Follows, Next, Record, Stopped, Ticket, is_stop};
use record::{Read, Row};
pub use remote::{is_link, is_live, local_path, stream_name};
use saved::Reading;
pub use saved::{Position, Saved, checksums};

/// Bad rows that are told one by one.
const BAD_ROWS_TOLD: u64 = 5;
/// Rows of no use that are passed over before other inputs have their turn.
const USELESS: u32 = 512;

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
    /// What counts the lines of a board.
    board: Option<Arc<LineCounters>>,
    stop: Arc<AtomicBool>,
}

enum Reader {
    Csv(Box<csv::Csv>),
    Jsonl(jsonl::Jsonl),
    Npy(npy::Npy),
    Text(Lines),
    Bytes(Bytes),
    Link(Box<link::Linked>),
}

/// An input that may be waited for: others are started before that.
pub struct Started {
    name: String,
    /// What may have an extension.
    path: String,
    what: What,
}

/// What is read.
enum What {
    Bytes(Bytes),
    /// Lines of a board, and what counts them.
    Text(Bytes, Arc<LineCounters>),
    /// Frames of the link that the path names.
    Link,
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
        "input {:?}: expected a path, a file:// URI, - for standard input, or one of {}",
        uri::told(path),
        list(&remote::SCHEMES.map(|scheme| format!("{scheme}://")))
    );
    let name = if path == "-" { "standard input" } else { path };
    let open = || -> Result<Bytes> {
        saved.map_or(Ok(()), |saved| saved.check(path))?;
        Bytes::open(path, Arc::clone(&options.stop))
    };
    let bytes = open().with_context(|| format!("input {name}"))?;
    Ok(Started { name: name.to_owned(), path: path.to_owned(), what: What::Bytes(bytes) })
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
        let Self { name, path, what } = self;
        let open = || -> Result<Source> {
            let mut source = match what {
                What::Bytes(bytes) => Source::over(&name, &path, bytes, input, options)?,
                What::Text(bytes, counters) => {
                    let source = Source::over(&name, &path, bytes, input, options)?;
                    Source { board: Some(counters), ..source }
                }
                What::Link => Source::linked(&path, input, options)?,
            };
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
                ensure!(!bytes.stopped(), Stopped);
                bail!("is empty");
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
            Format::Frames => bail!(Usage("frames are read from serial:// alone".into())),
        };
        Ok(Source { at, ..Source::new(name, reader, fields, options) })
    }

    fn linked(address: &str, input: &Input, options: &Options) -> Result<Self> {
        let usage =
            |flag: &str| Usage(format!("a link has channels and times of its own, expected no {flag}"));
        ensure!(options.stream_column.is_none(), usage("--stream-column"));
        ensure!(options.time_column.is_none(), usage("--time-column"));
        let mut fields = Fields { channels: Vec::new(), time: false, text: false, answers: false };
        let link = link::Linked::open(address, input, options, &mut fields)?;
        Ok(Source::new(address, Reader::Link(Box::new(link)), fields, options))
    }

    fn new(name: &str, reader: Reader, fields: Fields, options: &Options) -> Self {
        let has_streams = options.stream_column.is_some();
        Source {
            name: name.into(),
            reader,
            fields,
            row: Row::default(),
            has_streams,
            on_bad: options.on_bad,
            rows: 0,
            bad: 0,
            at: Position::default(),
            board: None,
            stop: Arc::clone(&options.stop),
        }
    }

    /// What the records are.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Bytes of the input in all, when known.
    pub fn bytes_total(&self) -> Option<u64> {
        self.bytes()?.total()
    }

    /// Bytes of the input consumed.
    pub fn bytes_read(&self) -> u64 {
        match &self.reader {
            Reader::Link(link) => link.bytes_read(),
            _ => self.bytes().map_or(0, Bytes::consumed),
        }
    }

    /// What came of a board and what did not, in one line.
    pub fn summary(&self) -> Option<String> {
        let summary = match &self.reader {
            Reader::Link(link) => link.summary(),
            _ => text_board::summary(self.board.as_ref()?),
        };
        Some(format!("{}: {summary}", self.name))
    }

    /// What sends answers to the board at the other end of a link.
    pub fn responder(&self) -> Option<Responder> {
        match &self.reader {
            Reader::Link(link) => Some(link.responder()),
            _ => None,
        }
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
        for _ in 0..USELESS {
            if !self.is_stopped() && self.would_wait() {
                return Ok(Next::Wait);
            }
            let read = self.read().with_context(|| format!("input {}", self.name))?;
            match read {
                Read::End => return Ok(Next::End),
                Read::Row => {
                    self.rows += 1;
                    return Ok(Next::Record);
                }
                Read::Bad(reason) => self.skip(reason)?,
                Read::Nothing => {}
            }
        }
        Ok(Next::Again)
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
            follows: self.row.follows,
            ticket: self.row.ticket,
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
            Reader::Csv(csv) => csv.lines.would_wait(),
            Reader::Jsonl(jsonl) => jsonl.lines.would_wait(),
            Reader::Npy(npy) => npy.would_wait(),
            Reader::Text(lines) => lines.would_wait(),
            Reader::Bytes(bytes) => bytes.would_wait(Need::Bytes(1)),
            Reader::Link(link) => link.would_wait(),
        }
    }

    /// Whether somebody has told it to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
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
            Reader::Link(_) if self.stop.load(Ordering::Relaxed) => Ok(Read::End),
            Reader::Link(link) => link.next(row),
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
            Reader::Npy(_) | Reader::Bytes(_) | Reader::Link(_) => None,
        }
    }

    /// The bytes that are read; none of a link, which has frames.
    fn bytes(&self) -> Option<&Bytes> {
        match &self.reader {
            Reader::Csv(csv) => Some(csv.lines.bytes()),
            Reader::Jsonl(jsonl) => Some(jsonl.lines.bytes()),
            Reader::Npy(npy) => Some(npy.bytes()),
            Reader::Text(lines) => Some(lines.bytes()),
            Reader::Bytes(bytes) => Some(bytes),
            Reader::Link(_) => None,
        }
    }

    fn bytes_mut(&mut self) -> Option<&mut Bytes> {
        match &mut self.reader {
            Reader::Csv(csv) => Some(csv.lines.bytes_mut()),
            Reader::Jsonl(jsonl) => Some(jsonl.lines.bytes_mut()),
            Reader::Npy(npy) => Some(npy.bytes_mut()),
            Reader::Text(lines) => Some(lines.bytes_mut()),
            Reader::Bytes(bytes) => Some(bytes),
            Reader::Link(_) => None,
        }
    }
}
