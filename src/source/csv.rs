//! Rows of numbers, with or without a header.

use std::borrow::Cow;

use anyhow::{Context, Result, anyhow, bail, ensure};
use mcedge_models::contract::Input;

use super::bytes::Lines;
use super::{
    Fields, Options, Read, Reading, Row, channel_names, check_columns, check_finite, check_token,
    is_time_name, list, shown,
};

/// What may separate columns, the likeliest first.
const DELIMITERS: [u8; 3] = [b',', b';', b'\t'];
/// The column of tokens.
const TOKEN: &str = "token";

/// A CSV, open at its first row.
pub struct Csv {
    pub lines: Lines,
    cells: Cells,
    columns: Columns,
    has_header: bool,
    /// The header of a stream: it comes again where a file is rotated or a board starts over.
    header: Vec<u8>,
    input: Input,
}

/// The columns, by the header or numbered from 1.
struct Columns {
    /// `[width]`.
    names: Vec<String>,
    /// The columns that the model takes, in its order; always below the width.
    channels: Vec<usize>,
    /// The column of the time; always below the width.
    time: Option<usize>,
    /// The column of the stream's name; always below the width.
    stream: Option<usize>,
}

impl Csv {
    pub fn open(mut lines: Lines, input: &Input, options: &Options, fields: &mut Fields) -> Result<Self> {
        ensure!(lines.advance_to_text()?, lines.nothing("has no rows".into()));
        if let [0xFE, 0xFF, ..] | [0xFF, 0xFE, ..] = lines.line() {
            bail!("is UTF-16, expected UTF-8");
        }
        let mut cells = Cells::new(options.delimiter.unwrap_or_else(|| delimiter(lines.text())));
        cells.split(lines.text()).with_context(|| format!("line {}", lines.number()))?;
        let first: Vec<String> = (0..cells.len()).map(|column| cells.text(column).into_owned()).collect();
        let header = is_header(&first);
        let mut again = Vec::new();
        if header {
            if lines.bytes().has_lines() {
                again.extend_from_slice(lines.text());
            }
            let has_row = lines.advance_to_text()?;
            ensure!(has_row, lines.nothing(format!("has a header and no rows: {}", list(&first))));
            // A row that cannot be split says so in its turn.
            let _ = cells.split(lines.text());
        }
        lines.put_back();
        let columns = Columns::find(first, header, &cells, input, options)?;
        fields.time = columns.time.is_some();
        fields.channels = columns.channel_names(header, input, options);
        Ok(Csv { lines, cells, columns, has_header: header, header: again, input: input.clone() })
    }

    /// What of a line is taken for what.
    pub fn reading(&self) -> Reading {
        let Columns { names, channels, time, stream } = &self.columns;
        let name = |&column: &usize| names[column].clone();
        Reading {
            delimiter: self.cells.delimiter,
            has_header: self.has_header,
            time: time.as_ref().map(name),
            stream: stream.as_ref().map(name),
            channels: channels.iter().map(name).collect(),
        }
    }

    pub fn next(&mut self, row: &mut Row) -> Result<Read> {
        row.clear();
        if !self.lines.advance()? {
            return Ok(Read::End);
        }
        let line = self.lines.text();
        let is_header = !self.header.is_empty() && line == self.header;
        if is_header || line.trim_ascii().is_empty() {
            return Ok(Read::Nothing);
        }
        let parsed = self.parse(row).with_context(|| format!("line {}", self.lines.number()));
        Ok(parsed.map_or_else(Read::Bad, |()| Read::Row))
    }

    fn parse(&mut self, row: &mut Row) -> Result<()> {
        self.cells.split(self.lines.text())?;
        let width = self.columns.names.len();
        ensure!(self.cells.len() == width, "has {} columns, expected {width}", self.cells.len());
        if let Some(time) = self.columns.time {
            row.set_time(&self.cells.text(time));
        }
        if let Some(stream) = self.columns.stream {
            let set = row.set_stream(&self.cells.text(stream));
            set.with_context(|| format!("column `{}`", shown(&self.columns.names[stream])))?;
        }
        for &column in &self.columns.channels {
            let cell = self.cells.get(column);
            let parsed = match self.input {
                Input::Features { .. } => number(cell).map(|number| row.features.push(number)),
                Input::Tokens { .. } => token(cell, &self.input).map(|token| row.tokens.push(token)),
            };
            parsed.with_context(|| format!("column `{}`", shown(&self.columns.names[column])))?;
        }
        Ok(())
    }
}

impl Columns {
    /// Which columns are which, from the first line and the first row of numbers (the same without a header).
    fn find(first: Vec<String>, header: bool, row: &Cells, input: &Input, options: &Options) -> Result<Self> {
        let names = if header { first } else { (1..=first.len()).map(|n| n.to_string()).collect() };
        let wanted = wanted(header, input, options)?;
        let mut columns = Columns { names, channels: Vec::new(), time: None, stream: None };
        columns.time = options.time_column.as_ref().map(|name| columns.position(name)).transpose()?;
        columns.stream = options.stream_column.as_ref().map(|name| columns.position(name)).transpose()?;
        if let Some(wanted) = wanted {
            let missing = |_| {
                let why = "choose columns with --columns";
                anyhow!("has columns {}; the model takes {}; {why}", list(&columns.names), list(&wanted))
            };
            let channels: Result<Vec<usize>> = wanted.iter().map(|name| columns.position(name)).collect();
            columns.channels = match channels {
                Ok(channels) => channels,
                Err(err) => return Err(missing(()).context(err)),
            };
            columns.time = columns.time.or_else(|| columns.guess_time(header, row));
        } else {
            columns.time = columns.time.or_else(|| columns.guess_time(header, row));
            columns.take_all(header, row, input)?;
        }
        Ok(columns)
    }

    /// The column that looks like a time and is not a channel: by its name, or the first when it holds no number.
    fn guess_time(&self, header: bool, row: &Cells) -> Option<usize> {
        let is_free = |column: &usize| !self.channels.contains(column) && self.stream != Some(*column);
        let is_named = |column: &usize| header && is_time_name(&self.names[*column]) && is_free(column);
        let first = || (row.len() > 1 && is_text(row.get(0))).then_some(0).filter(is_free);
        (0..self.names.len()).find(is_named).or_else(first)
    }

    /// Every column but the time; of a file with a header, those that hold numbers.
    fn take_all(&mut self, header: bool, row: &Cells, input: &Input) -> Result<()> {
        let is_channel = |&column: &usize| {
            let is_taken = [self.time, self.stream].contains(&Some(column));
            let holds_text = header && column < row.len() && is_text(row.get(column));
            !is_taken && !holds_text
        };
        self.channels = (0..self.names.len()).filter(is_channel).collect();
        let size = channels(input);
        if self.channels.len() == size {
            return Ok(());
        }
        let found: Vec<&str> = self.channels.iter().map(|&column| self.names[column].as_str()).collect();
        let time = self
            .time
            .map_or(String::new(), |time| format!(" besides the time `{}`", shown(&self.names[time])));
        bail!(
            "has {} columns of numbers, {}{time}; the model takes {size}; choose with --columns and --time-column",
            found.len(),
            list(&found),
        );
    }

    fn position(&self, name: &str) -> Result<usize> {
        let mut found = (0..self.names.len()).filter(|&column| self.names[column] == name);
        match (found.next(), found.next()) {
            (Some(column), None) => Ok(column),
            (None, _) => bail!("no column `{}`", shown(name)),
            (Some(_), Some(_)) => bail!("more than one column `{}`", shown(name)),
        }
    }

    /// What the channels are called on the way out.
    fn channel_names(&self, header: bool, input: &Input, options: &Options) -> Vec<String> {
        let Input::Features { names, size, .. } = input else { return Vec::new() };
        if header && names.is_empty() {
            return self.channels.iter().map(|&column| self.names[column].clone()).collect();
        }
        channel_names(names, options.columns.as_deref().filter(|_| header), *size)
    }
}

/// Columns that one row gives the model.
fn channels(input: &Input) -> usize {
    match input {
        Input::Features { size, .. } => *size,
        Input::Tokens { .. } => 1,
    }
}

/// The columns that are asked for by name.
fn wanted<'a>(header: bool, input: &'a Input, options: &'a Options) -> Result<Option<Cow<'a, [String]>>> {
    check_columns(options.columns.as_deref(), channels(input))?;
    if let Some(columns) = &options.columns {
        return Ok(Some(Cow::Borrowed(columns)));
    }
    Ok(match input {
        _ if !header => None,
        Input::Features { names, .. } if names.is_empty() => None,
        Input::Features { names, .. } => Some(Cow::Borrowed(names)),
        Input::Tokens { .. } => Some(Cow::Owned(vec![TOKEN.into()])),
    })
}

/// The delimiter that a line has most, outside quotes.
fn delimiter(line: &[u8]) -> u8 {
    let mut counts = [0usize; DELIMITERS.len()];
    let mut quoted = false;
    for byte in line {
        quoted ^= *byte == b'"';
        if let Some(i) = DELIMITERS.iter().position(|delimiter| delimiter == byte && !quoted) {
            counts[i] += 1;
        }
    }
    // The first of equals.
    let most = (0..counts.len()).rev().max_by_key(|&i| counts[i]).unwrap_or(0);
    DELIMITERS[most]
}

/// Whether a first line, with its end, names columns.
pub fn has_names(line: &[u8], options: &Options) -> bool {
    let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut cells = Cells::new(options.delimiter.unwrap_or_else(|| delimiter(line)));
    let is_split = cells.split(line).is_ok();
    is_split && is_header(&(0..cells.len()).map(|column| cells.text(column).into_owned()).collect::<Vec<_>>())
}

/// Whether a first line names columns: it has text in it that is not the time of a first row.
fn is_header(cells: &[String]) -> bool {
    let text = |cell: &String| is_text(cell.as_bytes());
    match cells {
        [] => false,
        [only] => text(only),
        [first, rest @ ..] => {
            let is_time = first.bytes().any(|byte| byte.is_ascii_digit());
            rest.iter().any(text) || (text(first) && (is_time_name(first) || !is_time))
        }
    }
}

/// Neither a number nor empty.
fn is_text(cell: &[u8]) -> bool {
    !cell.is_empty() && parse::<f32>(cell).is_none()
}

fn parse<T: std::str::FromStr>(cell: &[u8]) -> Option<T> {
    std::str::from_utf8(cell).ok()?.parse().ok()
}

fn number(cell: &[u8]) -> Result<f32> {
    ensure!(!cell.is_empty(), "is empty, expected a number");
    let number = parse(cell)
        .ok_or_else(|| anyhow!("\"{}\" is not a number", shown(&String::from_utf8_lossy(cell))))?;
    check_finite(number)
}

fn token(cell: &[u8], input: &Input) -> Result<i64> {
    let token = parse(cell);
    let token =
        token.ok_or_else(|| anyhow!("\"{}\" is not a token", shown(&String::from_utf8_lossy(cell))))?;
    check_token(token, input)
}

/// The cells of one line, without white space around them.
struct Cells {
    parser: csv_core::Reader,
    delimiter: u8,
    /// The cells' text, one after the other.
    text: Vec<u8>,
    /// Where in `text` each cell ends, `[..len]`.
    ends: Vec<usize>,
    len: usize,
}

impl Cells {
    fn new(delimiter: u8) -> Self {
        let parser = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        Cells { parser, delimiter, text: Vec::new(), ends: Vec::new(), len: 0 }
    }

    /// Splits a line, given without its newline.
    fn split(&mut self, line: &[u8]) -> Result<()> {
        use csv_core::ReadRecordResult::{InputEmpty, Record};

        self.parser.reset();
        self.len = 0;
        // As much as the line can need, so that the parser never asks for more.
        self.text.resize(self.text.len().max(line.len() + 1), 0);
        let cells = line.iter().filter(|&&byte| byte == self.delimiter).count() + 1;
        self.ends.resize(self.ends.len().max(cells + 1), 0);

        let mut written = 0;
        for part in [line, b"\n"] {
            let (text, ends) = (&mut self.text[written..], &mut self.ends[self.len..]);
            let (result, read, wrote, ended) = self.parser.read_record(part, text, ends);
            written += wrote;
            self.len += ended;
            match result {
                InputEmpty => {}
                Record if read == part.len() => return Ok(()),
                _ => bail!("has a carriage return inside"),
            }
        }
        self.len = 0;
        bail!("has a quote that is not closed");
    }

    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, column: usize) -> &[u8] {
        let start = if column == 0 { 0 } else { self.ends[column - 1] };
        self.text[start..self.ends[column]].trim_ascii()
    }

    fn text(&self, column: usize) -> Cow<'_, str> {
        String::from_utf8_lossy(self.get(column))
    }
}
