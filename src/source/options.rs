//! How an input is read: what was said of it, and what it says itself.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use clap::ValueEnum;
use mcedge_models::contract::Input;

use super::bytes::Bytes;
use super::npy;

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
    /// What happens where samples of a link are missing.
    pub on_gap: OnGap,
    /// Samples of a link are taken as they come, whatever their rate.
    pub any_rate: bool,
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
    /// The frames of a board; what a serial port has unless said otherwise.
    Frames,
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

/// What happens where samples of a link are missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OnGap {
    /// The model is given the last sample once more for each that is missing, without a row
    Hold,
    /// The next sample is taken as if none were missing
    #[default]
    Skip,
    /// The stream's memory goes back to its start
    Reset,
    /// It ends the run with an error
    Stop,
}

/// What a path's extension says; a log is text to a byte model and says nothing of a model of numbers.
pub fn by_extension(path: &str, input: &Input) -> Option<Format> {
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
pub fn at_once(bytes: &Bytes, input: &Input, options: &Options) -> Option<Format> {
    let is_text = bytes.has_lines() && options.answers.is_none() && byte_model(input).is_ok();
    is_text.then_some(Format::Text)
}

/// What the first bytes say.
pub fn by_content(first: &[u8], input: &Input) -> Format {
    let json = matches!(first.trim_ascii_start().first(), Some(b'{' | b'['));
    match input {
        _ if first.starts_with(npy::MAGIC) => Format::Npy,
        Input::Tokens { .. } if byte_model(input).is_ok() => Format::Text,
        _ if json => Format::Jsonl,
        Input::Tokens { .. } => Format::Jsonl,
        Input::Features { .. } => Format::Csv,
    }
}

pub fn byte_model(input: &Input) -> Result<()> {
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
