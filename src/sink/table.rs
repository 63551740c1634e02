//! Rows of CSV and JSON lines.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, BufWriter, Write};

use super::target::Target;
use super::{Layout, Row};

/// Writes records in a layout.
pub struct Table {
    out: BufWriter<Target>,
    layout: Layout,
    delimiter: char,
    /// Whether rows begin with their stream.
    streams: bool,
    /// The channels or labels as JSON strings, `[O]` or empty.
    keys: Vec<String>,
    /// The row in the making.
    row: String,
    /// Softmax of an output, `[O]`.
    shares: Vec<f32>,
}

impl Table {
    /// No rows yet, and no header.
    pub fn new(out: BufWriter<Target>, layout: Layout, delimiter: char, streams: bool) -> Self {
        let keys = match &layout {
            Layout::Forecast { channels: names, .. } | Layout::Classes { labels: names, .. } => {
                names.as_slice()
            }
            Layout::Values { .. } | Layout::Surprise { .. } => &[],
        };
        let keys = keys.iter().map(|name| json(name)).collect();
        Table { out, layout, delimiter, streams, keys, row: String::new(), shares: Vec::new() }
    }

    /// Writes a CSV's header: [`Layout::columns`].
    pub fn header(&mut self, columns: String) -> io::Result<()> {
        self.row = columns;
        self.row.push('\n');
        self.end()
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Where it goes.
    pub fn target(&self) -> &Target {
        self.out.get_ref()
    }

    /// Ends it: as [`Target::finish`].
    pub fn finish(&mut self) -> io::Result<()> {
        self.out.get_mut().finish()
    }

    /// Brings what was flushed to the disk: as [`Target::sync`].
    pub fn sync(&mut self, path: &str) -> io::Result<Option<u64>> {
        self.out.get_mut().sync(path)
    }

    pub fn csv_row(&mut self, row: &Row) -> io::Result<()> {
        if self.streams {
            self.text(row.stream);
        }
        match self.layout.time() {
            _ if self.layout.is_text() => self.cell(row.index + 1),
            true => self.text(row.time.unwrap_or_default()),
            false => self.cell(row.index),
        }
        match &self.layout {
            Layout::Forecast { channels, .. } => {
                let size = channels.len();
                self.numbers(row.output);
                match row.residual {
                    Some(residual) => self.numbers(residual),
                    None => (0..size).for_each(|_| self.cell("")),
                }
                self.optional(row.score);
            }
            Layout::Values { .. } => self.numbers(row.output),
            Layout::Classes { labels, .. } => {
                softmax(row.output, &mut self.shares);
                let label =
                    likeliest(row.output).and_then(|label| labels.get(label)).cloned().unwrap_or_default();
                self.text(&label);
                let shares = std::mem::take(&mut self.shares);
                self.numbers(&shares);
                self.shares = shares;
            }
            Layout::Surprise { text, .. } => {
                let text = *text;
                self.cell(row.tokens);
                self.optional(row.bits);
                if text {
                    self.text(&String::from_utf8_lossy(line(row.line)));
                }
            }
        }
        self.end_csv()
    }

    pub fn json_row(&mut self, row: &Row) -> io::Result<()> {
        let Table { layout, keys, row: out, shares, streams, .. } = self;
        out.push('{');
        if *streams {
            push(out, format_args!("\"stream\":{},", json(row.stream)));
        }
        match row.time {
            _ if layout.is_text() => push(out, format_args!("\"line\":{}", row.index + 1)),
            Some(time) => push(out, format_args!("\"time\":{}", json(time))),
            None => push(out, format_args!("\"index\":{}", row.index)),
        }
        match layout {
            Layout::Forecast { .. } => {
                out.push_str(",\"prediction\":");
                push_object(out, keys, row.output);
                out.push_str(",\"residual\":");
                match row.residual {
                    Some(residual) => push_object(out, keys, residual),
                    None => out.push_str("null"),
                }
                push(out, format_args!(",\"score\":{}", JsonNumber(row.score)));
            }
            Layout::Values { .. } => {
                out.push_str(",\"output\":[");
                for (i, &number) in row.output.iter().enumerate() {
                    push(out, format_args!("{}{}", if i == 0 { "" } else { "," }, JsonNumber(Some(number))));
                }
                out.push(']');
            }
            Layout::Classes { .. } => {
                let label =
                    likeliest(row.output).and_then(|label| keys.get(label)).map_or("null", String::as_str);
                push(out, format_args!(",\"label\":{label},\"p\":"));
                softmax(row.output, shares);
                push_object(out, keys, shares);
            }
            Layout::Surprise { text: true, .. } => {
                push(
                    out,
                    format_args!(",\"bytes\":{},\"bits_per_byte\":{}", row.tokens, JsonNumber(row.bits)),
                );
                push(out, format_args!(",\"text\":{}", json(&String::from_utf8_lossy(line(row.line)))));
            }
            Layout::Surprise { text: false, .. } => {
                push(
                    out,
                    format_args!(",\"tokens\":{},\"bits_per_token\":{}", row.tokens, JsonNumber(row.bits)),
                );
            }
        }
        out.push_str("}\n");
        self.end()
    }

    /// A cell that needs no quotes.
    fn cell(&mut self, value: impl Display) {
        push(&mut self.row, format_args!("{value}{}", self.delimiter));
    }

    fn text(&mut self, text: &str) {
        self.cell(quoted(text));
    }

    fn numbers(&mut self, numbers: &[f32]) {
        for number in numbers {
            // Where there is no answer there is nothing to say.
            match number.is_nan() {
                true => self.cell(""),
                false => self.cell(format_args!("{number:?}")),
            }
        }
    }

    fn optional(&mut self, number: Option<f64>) {
        match number {
            Some(number) => self.cell(format_args!("{:?}", number as f32)),
            None => self.cell(""),
        }
    }

    fn end_csv(&mut self) -> io::Result<()> {
        // The delimiter after the last cell.
        self.row.pop();
        self.row.push('\n');
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let written = self.write();
        self.row.clear();
        written
    }

    /// Writes the row where it goes: a file that is full is left between two.
    fn write(&mut self) -> io::Result<()> {
        let (row, waiting) = (self.row.as_bytes(), self.out.buffer().len());
        match self.out.get_mut() {
            Target::Messages(publisher) => {
                publisher.row(row.strip_suffix(b"\n").unwrap_or(row));
                return Ok(());
            }
            Target::Rotating(rotating) if rotating.is_full(waiting, row.len()) => {
                self.out.flush()?;
                if let Target::Rotating(rotating) = self.out.get_mut() {
                    rotating.rotate()?;
                }
            }
            Target::File(_) | Target::Rotating(_) | Target::Stream(_) => {}
        }
        self.out.write_all(row)
    }
}

impl Layout {
    fn time(&self) -> bool {
        match self {
            Layout::Forecast { time, .. }
            | Layout::Values { time, .. }
            | Layout::Classes { time, .. }
            | Layout::Surprise { time, .. } => *time,
        }
    }

    fn is_text(&self) -> bool {
        matches!(self, Layout::Surprise { text: true, .. })
    }

    /// Names of a CSV's columns, as they stand in its header; with the stream before them where there are several.
    pub fn columns(&self, delimiter: char, streams: bool) -> String {
        let stream = streams.then(|| "stream".to_owned());
        let names: Vec<String> =
            stream.into_iter().chain(self.header()).map(|name| quoted(&name).into_owned()).collect();
        names.join(&delimiter.to_string())
    }

    /// Names of a CSV's columns, but for the stream.
    fn header(&self) -> Vec<String> {
        let first = match self.time() {
            _ if self.is_text() => "line",
            true => "time",
            false => "index",
        };
        let mut header = vec![first.to_owned()];
        match self {
            Layout::Forecast { channels, .. } => {
                header.extend(channels.iter().map(|channel| format!("{channel}.prediction")));
                header.extend(channels.iter().map(|channel| format!("{channel}.residual")));
                header.push("score".into());
            }
            Layout::Values { size, .. } => header.extend((0..*size).map(|i| format!("y{i}"))),
            Layout::Classes { labels, .. } => {
                header.push("label".into());
                header.extend(labels.iter().map(|label| format!("p.{label}")));
            }
            Layout::Surprise { text: true, .. } => {
                header.extend(["bytes", "bits_per_byte", "text"].map(String::from));
            }
            Layout::Surprise { text: false, .. } => {
                header.extend(["tokens", "bits_per_token"].map(String::from))
            }
        }
        header
    }
}

/// A cell of text, in quotes where it needs them.
fn quoted(text: &str) -> Cow<'_, str> {
    match text.contains(['"', '\n', '\r', ',', ';', '\t']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")).into(),
        false => text.into(),
    }
}

/// A number in JSON, which has none that is not finite.
struct JsonNumber<N>(Option<N>);

impl<N: Into<f64> + Copy> Display for JsonNumber<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.map(|number| number.into() as f32) {
            Some(number) if number.is_finite() => write!(f, "{number:?}"),
            _ => f.write_str("null"),
        }
    }
}

fn push(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a string takes everything");
}

fn push_object(out: &mut String, keys: &[String], numbers: &[f32]) {
    for (i, (key, &number)) in keys.iter().zip(numbers).enumerate() {
        push(out, format_args!("{}{key}:{}", if i == 0 { '{' } else { ',' }, JsonNumber(Some(number))));
    }
    out.push('}');
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A line without its newline.
fn line(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Index of the largest number; none where they are no numbers.
fn likeliest(output: &[f32]) -> Option<usize> {
    let larger = |best: usize, i: usize| if output[i] > output[best] { i } else { best };
    (0..output.len()).reduce(larger).filter(|&best| !output[best].is_nan())
}

/// Softmax of `output` into `shares`.
fn softmax(output: &[f32], shares: &mut Vec<f32>) {
    let max = output.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    shares.clear();
    shares.extend(output.iter().map(|&number| (number - max).exp()));
    let sum: f32 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
}
