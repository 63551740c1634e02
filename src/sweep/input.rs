//! What a sweep runs again and again: an input, whole, in memory.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use mcedge_models::contract::{Contract, Input, OutputKind};
use mcedge_runtime::Backlog;

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

/// Reads `uri` to its end: of JSON lines with answers a sequence each, of any other input one sequence.
///
/// # Errors
///
/// As [`source::open`] and [`source::Source::advance`]; an input that is too long, or of several streams; answers for a
/// model without logits, or none but null.
pub fn read(uri: &str, reading: &Reading, contract: &Contract) -> Result<Vec<Sequence>> {
    let one_stream = reading.stream_column.is_none();
    ensure!(one_stream, Usage("--stream-column is for run: a sweep runs one stream".into()));
    let options = source::Options { answers: Some(contract.output.size), ..reading.options(Arc::default()) };
    let mut source = source::open(uri, &contract.input, &options, None)?;
    let has_answers = source.fields().answers;
    let has_logits = contract.output.kind == OutputKind::Logits;
    ensure!(
        has_logits || !has_answers,
        "input {uri} has answers, which are looked for in logits; the model gives none"
    );
    let (mut sequences, mut values): (Vec<Sequence>, usize) = (Vec::new(), 0);
    loop {
        match source.advance()? {
            Next::Record if has_answers || sequences.is_empty() => {
                sequences.push(Sequence { values: Values::of(&contract.input), answers: Vec::new() });
            }
            Next::Record => {}
            Next::Wait => {
                std::thread::park_timeout(POLL);
                continue;
            }
            Next::Again => continue,
            Next::End => break,
        }
        if let Some(last) = sequences.last_mut() {
            values += last.extend(&source.record().data, source.answers());
        }
        ensure!(values <= MOST_VALUES, "input {uri} has more than {MOST_VALUES} values: sweep a part of it");
    }
    ensure!(values > 0, "input {uri} has no tokens");
    let any = sequences.iter().any(|sequence| sequence.answers.iter().any(Option::is_some));
    ensure!(any || !has_answers, "input {uri} has no answers but null");
    Ok(sequences)
}

impl Sequence {
    /// Takes what comes next, and says how many values that was.
    fn extend(&mut self, data: &Data<'_>, answers: &[Option<usize>]) -> usize {
        let before = self.values.len();
        self.values.extend(data);
        self.answers.extend_from_slice(answers);
        self.values.len() - before
    }

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
    /// None yet.
    fn of(input: &Input) -> Self {
        match input {
            Input::Features { .. } => Values::Features(Vec::new()),
            Input::Tokens { .. } => Values::Tokens(Vec::new()),
        }
    }

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
