//! Records that have come and wait to be run, and then what came of them.

use std::collections::VecDeque;
use std::ops::Range;

use anyhow::Result;
use mcedge_models::contract::Contract;
use mcedge_runtime::snapshot::{Draft, Section, SnapshotError};
use mcedge_runtime::{Backlog as Values, Sample};

use crate::forecast::Forecast;
use crate::sink::Row;
use crate::source::{Data, Follows, LINE_MAX, Record, Ticket};

/// Tokens of one stream that wait before they are run, but for those of a single record.
const MOST_TOKENS: usize = 512;
/// The most numbers kept of all records, but for those of one a stream.
const MOST_NUMBERS: usize = 1 << 22;

/// The records of all streams, in the order in which they came.
///
/// # Invariants
///
/// - The records of a stream that have tokens left are in its lane, in order; their tokens left are the lane's from
///   `done` on.
/// - `tokens`, `times`, `lines` and `numbers` are of the records that have come since [`Backlog::clear`].
pub struct Backlog {
    records: Vec<Kept>,
    lanes: Vec<Lane>,
    tokens: usize,
    /// The records' times, one after the other.
    times: String,
    /// The records' lines.
    lines: Vec<u8>,
    /// What came of the records: outputs and residuals.
    numbers: Vec<f32>,
    /// The tokens that are enough.
    most: usize,
    /// Values of a token: channels, or 1.
    width: usize,
}

/// One stream.
struct Lane {
    /// `[T, F]`; empty where there are tokens.
    features: Vec<f32>,
    /// `[T]`; empty where there are features.
    tokens: Vec<i64>,
    /// Tokens run.
    done: usize,
    /// Records with tokens left.
    records: VecDeque<usize>,
    forecast: Forecast,
}

/// One record, and what came of it when no tokens are left.
struct Kept {
    stream: usize,
    index: u64,
    /// Whether it stands for one that is missing: it has no row.
    is_held: bool,
    ticket: Option<Ticket>,
    /// In `times`.
    time: Option<Range<usize>>,
    /// In `lines`.
    line: Range<usize>,
    tokens: usize,
    /// Tokens not run yet.
    left: usize,
    /// In `numbers`, as `residual`; both are empty before.
    output: Range<usize>,
    residual: Range<usize>,
    score: Option<f64>,
    /// Sum over the tokens that were predicted.
    bits: f64,
    predicted: u64,
}

impl Backlog {
    /// Nothing yet, for the batch of streams of `contract`.
    pub fn new(contract: &Contract) -> Self {
        let Contract { batch, ref output, .. } = *contract;
        let lane = |_| Lane {
            features: Vec::new(),
            tokens: Vec::new(),
            done: 0,
            records: VecDeque::new(),
            forecast: Forecast::new(output),
        };
        let width = super::width(contract);
        let most = (MOST_NUMBERS / (width + 2 * output.size)).clamp(batch, MOST_TOKENS.saturating_mul(batch));
        let lanes = (0..batch).map(lane).collect();
        let (records, times, lines, numbers) = (Vec::new(), String::new(), Vec::new(), Vec::new());
        Backlog { records, lanes, tokens: 0, times, lines, numbers, most, width }
    }

    /// Whether it is time to run what there is.
    pub fn is_full(&self) -> bool {
        self.tokens >= self.most || self.times.len() + self.lines.len() >= LINE_MAX
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Takes a record of stream `stream`.
    pub fn add(&mut self, stream: usize, record: &Record<'_>) {
        let lane = &mut self.lanes[stream];
        let (mut tokens, start) = (1, self.lines.len());
        match record.data {
            Data::Sample(features) => lane.features.extend_from_slice(features),
            Data::Tokens { tokens: ids, line } => {
                tokens = ids.len();
                lane.tokens.extend_from_slice(ids);
                self.lines.extend_from_slice(line.unwrap_or_default());
            }
        }
        if tokens > 0 {
            lane.records.push_back(self.records.len());
        }
        self.tokens += tokens;
        self.records.push(Kept {
            stream,
            index: record.index,
            is_held: record.follows == Follows::Held,
            ticket: record.ticket,
            time: record.time.map(|time| {
                self.times.push_str(time);
                self.times.len() - time.len()..self.times.len()
            }),
            line: start..self.lines.len(),
            tokens,
            left: tokens,
            output: 0..0,
            residual: 0..0,
            score: None,
            bits: 0.0,
            predicted: 0,
        });
    }

    /// Writes what is expected of the streams, for [`Backlog::restore`].
    pub fn save(&self, draft: &mut Draft) {
        self.lanes.iter().for_each(|lane| lane.forecast.save(draft));
    }

    /// Takes over what [`Backlog::save`] has written, for outputs of `size`.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Content`] when it cannot be; nothing has then changed.
    pub fn restore(&mut self, size: usize, mut saved: Section<'_>) -> Result<(), SnapshotError> {
        let forecasts = self.lanes.iter().map(|lane| lane.forecast.read(size, &mut saved));
        let forecasts = forecasts.collect::<Result<Vec<_>, _>>()?;
        saved.end()?;
        for (lane, forecast) in self.lanes.iter_mut().zip(forecasts) {
            lane.forecast = forecast;
        }
        Ok(())
    }

    /// Says which streams have tokens left, in `who`, `[B]`, and how many each of them has at least; 0 when none has any.
    pub fn left(&self, who: &mut [bool]) -> usize {
        let mut least = 0;
        for (lane, who) in self.lanes.iter().zip(who) {
            let left = lane.left(self.width);
            *who = left > 0;
            least = if *who && (least == 0 || left < least) { left } else { least };
        }
        least
    }

    /// The next token of every stream that has one, `[B]`.
    pub fn next(&self) -> Vec<Option<Sample<'_>>> {
        self.lanes.iter().map(|lane| lane.next(self.width)).collect()
    }

    /// The next `tokens` tokens of the streams `who`, `[B, tokens, …]` with zeros for the others, in a buffer.
    pub fn piece<'b>(&self, who: &[bool], tokens: usize, buffer: &'b mut Buffer) -> Values<'b> {
        let Buffer { features, ids } = buffer;
        features.clear();
        ids.clear();
        let are_features = self.lanes.iter().any(|lane| !lane.features.is_empty());
        for (lane, &is_there) in self.lanes.iter().zip(who) {
            let (start, end) = (lane.done * self.width, (lane.done + tokens) * self.width);
            match (are_features, is_there) {
                (true, true) => features.extend_from_slice(&lane.features[start..end]),
                (true, false) => features.resize(features.len() + end - start, 0.0),
                (false, true) => ids.extend_from_slice(&lane.tokens[start..end]),
                (false, false) => ids.resize(ids.len() + end - start, 0),
            }
        }
        if are_features { Values::Features(features) } else { Values::Tokens(ids) }
    }

    /// Nothing is expected of the next token of stream `stream`.
    pub fn forget(&mut self, stream: usize) {
        self.lanes[stream].forecast.forget();
    }

    /// Whether the next token of stream `stream`, which there is, has no place in the output: it stands for a missing one.
    pub fn next_is_held(&self, stream: usize) -> bool {
        self.records[self.lanes[stream].records[0]].is_held
    }

    /// Takes the output `[O]` of the next token of stream `stream`, which has one.
    pub fn take(&mut self, stream: usize, output: &[f32]) {
        let lane = &mut self.lanes[stream];
        let kept = &mut self.records[lane.records[0]];
        if let Some(&token) = lane.tokens.get(lane.done) {
            let bits = lane.forecast.token(token, output);
            kept.bits += bits.unwrap_or_default();
            kept.predicted += u64::from(bits.is_some());
        } else if kept.is_held {
            // What was not measured says nothing of what is usual.
            lane.forecast.expect(output);
        } else {
            let start = lane.done * self.width;
            kept.score = lane.forecast.sample(&lane.features[start..start + self.width], output);
            kept.residual = keep(&mut self.numbers, lane.forecast.residual());
        }
        lane.done += 1;
        kept.left -= 1;
        if kept.left == 0 {
            kept.output = keep(&mut self.numbers, output);
            lane.records.pop_front();
        }
    }

    /// The number of the record that stream `stream`'s next token is of, which there is.
    pub fn next_index(&self, stream: usize) -> u64 {
        self.records[self.lanes[stream].records[0]].index
    }

    /// As [`Backlog::take`] for a token that the model has no answer to: `output` is not a number, and nothing is expected
    /// of the next token.
    pub fn take_none(&mut self, stream: usize, output: &[f32]) {
        self.take(stream, output);
        self.lanes[stream].forecast.forget();
    }

    /// Gives the rows of the records that have been run to `write`, with their streams, and forgets all.
    pub fn write(
        &mut self,
        names: &[String],
        mut write: impl FnMut(usize, &Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut done = self.records.iter().filter(|kept| kept.left == 0 && !kept.is_held);
        let written = done.try_for_each(|kept| write(kept.stream, &self.row(kept, names)));
        self.clear();
        written
    }

    fn row<'a>(&'a self, kept: &Kept, names: &'a [String]) -> Row<'a> {
        Row {
            stream: names.get(kept.stream).map_or("", String::as_str),
            index: kept.index,
            ticket: kept.ticket,
            time: kept.time.clone().map(|time| &self.times[time]),
            output: &self.numbers[kept.output.clone()],
            residual: kept.score.map(|_| &self.numbers[kept.residual.clone()]),
            score: kept.score,
            tokens: kept.tokens as u64,
            bits: (kept.predicted > 0).then(|| kept.bits / kept.predicted as f64),
            line: &self.lines[kept.line.clone()],
        }
    }

    /// Forgets the records that have come.
    pub fn clear(&mut self) {
        self.tokens = 0;
        self.records.clear();
        self.times.clear();
        self.lines.clear();
        self.numbers.clear();
        for lane in &mut self.lanes {
            lane.features.clear();
            lane.tokens.clear();
            lane.records.clear();
            lane.done = 0;
        }
    }
}

/// Appends numbers, and says where they are.
fn keep(numbers: &mut Vec<f32>, more: &[f32]) -> Range<usize> {
    numbers.extend_from_slice(more);
    numbers.len() - more.len()..numbers.len()
}

/// Where a piece lies that is made of several streams.
#[derive(Default)]
pub struct Buffer {
    features: Vec<f32>,
    ids: Vec<i64>,
}

impl Lane {
    /// Tokens not run yet, of `width` values each.
    fn left(&self, width: usize) -> usize {
        self.tokens.len().max(self.features.len() / width) - self.done
    }

    /// The first token not run yet.
    fn next(&self, width: usize) -> Option<Sample<'_>> {
        let token = self.tokens.get(self.done).map(|&token| Sample::Token(token));
        token.or_else(|| self.features.chunks_exact(width).nth(self.done).map(Sample::Features))
    }
}
