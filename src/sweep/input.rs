//! What a sweep runs again and again: an input, whole, in memory.

use anyhow::{Context, Result, bail, ensure};
use mcedge_models::contract::{Contract, Input};
use mcedge_runtime::Backlog;

use super::answers;
use crate::Usage;
use crate::run::{Reading, width};
use crate::source::{self, Data, Next, POLL};

/// The most values of an input, of tokens or channels: 1 GiB of samples.
const MOST_VALUES: usize = 1 << 28;

/// What is run from the start of a stream.
#[derive(Debug, PartialEq)]
pub struct Sequence {
    /// All tokens.
    pub values: Values,
    /// What is expected of each token's output, `[T]`; empty where the input has no answers.
    pub answers: Vec<Option<usize>>,
}

/// The tokens of a sequence.
#[derive(Debug, PartialEq)]
pub enum Values {
    /// `[T, F]`.
    Features(Vec<f32>),
    /// `[T]`.
    Tokens(Vec<i64>),
}

/// Reads `uri` to its end: sequences with answers, or all of any other input as one sequence.
///
/// # Errors
///
/// As [`source::open`]; an input that is too long, or of several streams; as [`answers::read`].
pub fn read(uri: &str, reading: &Reading, contract: &Contract) -> Result<Vec<Sequence>> {
    let one_stream = reading.stream_column.is_none();
    ensure!(one_stream, Usage("--stream-column is for run: a sweep runs one stream".into()));
    if let Some(text) = answers::text(uri, reading.format)? {
        return answers::read(&text, contract).with_context(|| format!("input {uri}"));
    }
    let mut source = source::open(uri, &contract.input, &reading.options(std::sync::Arc::default()), None)?;
    let mut values = match contract.input {
        Input::Features { .. } => Values::Features(Vec::new()),
        Input::Tokens { .. } => Values::Tokens(Vec::new()),
    };
    loop {
        match source.advance()? {
            Next::Record => values.extend(&source.record().data),
            Next::Wait => std::thread::park_timeout(POLL),
            Next::End => break,
        }
        ensure!(
            values.len() <= MOST_VALUES,
            "input {uri} has more than {MOST_VALUES} values: sweep a part of it"
        );
    }
    ensure!(values.len() > 0, "input {uri} has no tokens");
    Ok(vec![Sequence { values, answers: Vec::new() }])
}

impl Sequence {
    /// T.
    pub fn tokens(&self, contract: &Contract) -> usize {
        self.values.len() / width(contract)
    }

    /// Tokens `start..end`.
    pub fn piece(&self, start: usize, end: usize, contract: &Contract) -> Backlog<'_> {
        let width = width(contract);
        match &self.values {
            Values::Features(features) => Backlog::Features(&features[start * width..end * width]),
            Values::Tokens(tokens) => Backlog::Tokens(&tokens[start..end]),
        }
    }
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Values::Features(features) => features.len(),
            Values::Tokens(tokens) => tokens.len(),
        }
    }

    fn extend(&mut self, data: &Data<'_>) {
        match (self, data) {
            (Values::Features(features), Data::Sample(sample)) => features.extend_from_slice(sample),
            (Values::Tokens(all), Data::Tokens { tokens, .. }) => all.extend_from_slice(tokens),
            _ => unreachable!("a source gives what the model takes"),
        }
    }
}

/// Tokens of all sequences, and of the longest.
///
/// # Errors
///
/// There are so many that their outputs are more than a sweep keeps.
pub fn count(sequences: &[Sequence], contract: &Contract) -> Result<(usize, usize)> {
    /// The most numbers of the outputs that all cells are held against: 1 GiB.
    const MOST_OUTPUTS: usize = 1 << 28;
    let tokens = sequences.iter().map(|sequence| sequence.tokens(contract));
    let (all, longest) = tokens.fold((0, 0), |(all, longest), tokens| (all + tokens, longest.max(tokens)));
    let most = MOST_OUTPUTS / contract.output.size;
    if all > most {
        bail!("the input has {all} tokens, a sweep of this model takes at most {most}: sweep a part of it");
    }
    Ok((all, longest))
}
