//! Records of an input, and what else may be next of it.

use anyhow::{Error, Result, ensure};
use mcedge_firmware_host::LinkError;

/// What a record is to the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follows {
    /// The next one, as far as the input can tell, or as if it were.
    #[default]
    Next,
    /// It stands for one that is missing: it is run and has no row.
    Held,
    /// Some are missing between them, and what came before is to be forgotten.
    Anew,
}

/// By what a board knows a sample again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    /// Its number.
    pub sequence: u32,
    /// When it was taken, by the board's clock, in µs.
    pub device_us: u64,
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
    /// It may have come: what has been looked at so far was of no use, and others may go first.
    Again,
    /// Nothing.
    End,
}

/// An input was told to end before its first record: that is no failure.
#[derive(Debug)]
pub struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("stopped before the first row")
    }
}

impl std::error::Error for Stopped {}

/// Whether an error says that somebody stopped an input before anything came of it.
pub fn is_stop(error: &Error) -> bool {
    let is_stop = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<Stopped>() || matches!(cause.downcast_ref(), Some(LinkError::Stopped))
    };
    error.chain().any(is_stop)
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
    /// What it is to the one before it.
    pub follows: Follows,
    /// By what its board knows it again.
    pub ticket: Option<Ticket>,
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

/// A record's buffers, used again for each.
#[derive(Default)]
pub struct Row {
    /// Meaningful when `has_time`.
    pub time: String,
    pub has_time: bool,
    pub stream: String,
    pub features: Vec<f32>,
    pub tokens: Vec<i64>,
    /// As long as `tokens` where the records have answers, else empty.
    pub answers: Vec<Option<usize>>,
    pub follows: Follows,
    pub ticket: Option<Ticket>,
}

/// What a reader came to.
pub enum Read {
    /// A record, in the row.
    Row,
    /// A record that cannot be used, and why.
    Bad(Error),
    /// A line that is none: it is empty, or the header once more.
    Nothing,
    End,
}

impl Row {
    pub fn clear(&mut self) {
        self.has_time = false;
        self.stream.clear();
        self.features.clear();
        self.tokens.clear();
        self.answers.clear();
        (self.follows, self.ticket) = (Follows::Next, None);
    }

    pub fn set_time(&mut self, time: &str) {
        self.has_time = true;
        self.time.clear();
        self.time.push_str(time);
    }

    pub fn set_stream(&mut self, stream: &str) -> Result<()> {
        ensure!(!stream.is_empty(), "is empty, expected the name of a stream");
        self.stream.push_str(stream);
        Ok(())
    }
}
