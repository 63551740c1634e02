//! Two records of a bench: what moved beyond the noise, and what did not.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::conditions::held_down;
use super::record::{Latency, Record, Run};
use super::words::{change, down, name, printable, up};

mod rank;

/// Of pairs in which nothing moved, at most this part is told to have moved.
pub const ALARM: f64 = 0.01;
/// What moved by less is left alone: two processes of one program differ by as much by where their memory lies, which the
/// rounds of one process don't tell.
pub const LEAST: f64 = 0.01;

/// Two records, run by run.
pub struct Comparison {
    /// The dates.
    dates: [String; 2],
    /// Why it may be apples and pears, a line each.
    pub warnings: Vec<String>,
    /// Runs of both.
    pub pairs: Vec<Pair>,
    /// Names of runs that only the first has, and only the second.
    pub alone: [Vec<String>; 2],
}

/// A run before and after.
pub struct Pair {
    /// What ran.
    pub name: String,
    /// What became of it.
    pub verdict: Verdict,
    /// How often rounds of which nothing moved would be as far apart, 0 to 1; absent when it cannot be told.
    pub chance: Option<f64>,
    /// The ordinary runs.
    ordinary: [Latency; 2],
    /// Those that end a segment, where both have them. Not judged: they have no rounds.
    segment_end: Option<[Latency; 2]>,
    /// The least and the largest of the rounds' medians, and how many rounds.
    rounds: [Rounds; 2],
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Longer, beyond the noise.
    Slower,
    /// Shorter, beyond the noise.
    Faster,
    /// Within the noise, or by less than [`LEAST`].
    Same,
    /// Too few rounds.
    Unknown,
}

/// Medians of rounds.
struct Rounds {
    count: usize,
    least: f64,
    middle: f64,
    most: f64,
}

/// Holds `after` against `before`.
pub fn compare(before: &Record, after: &Record) -> Comparison {
    let mut left: Vec<Option<&Run>> = after.runs.iter().map(Some).collect();
    let (mut pairs, mut gone) = (Vec::new(), Vec::new());
    for run in &before.runs {
        let name = name(run);
        // The first of that name that has no partner yet.
        let same = left.iter_mut().find(|other| other.is_some_and(|other| self::name(other) == name));
        match same.and_then(Option::take) {
            Some(other) => pairs.push(Pair::new(name, run, other)),
            None => gone.push(name),
        }
    }
    Comparison {
        dates: [before.date.clone(), after.date.clone()],
        warnings: warnings(before, after),
        pairs,
        alone: [gone, left.into_iter().flatten().map(name).collect()],
    }
}

impl Pair {
    fn new(name: String, before: &Run, after: &Run) -> Self {
        let rounds = [Rounds::new(&before.rounds_us), Rounds::new(&after.rounds_us)];
        let chance = rank::chance(&before.rounds_us, &after.rounds_us)
            .filter(|_| rank::least(rounds[0].count, rounds[1].count) <= ALARM);
        let ends = before.segment_end.clone().zip(after.segment_end.clone());
        Self {
            name,
            verdict: chance.map_or(Verdict::Unknown, |chance| verdict(&rounds, chance)),
            chance,
            ordinary: [before.ordinary.clone(), after.ordinary.clone()],
            segment_end: ends.map(<[Latency; 2]>::from),
            rounds,
        }
    }
}

fn verdict([before, after]: &[Rounds; 2], chance: f64) -> Verdict {
    let change = after.middle / before.middle - 1.0;
    match chance <= ALARM && change.abs() >= LEAST {
        true if change > 0.0 => Verdict::Slower,
        true => Verdict::Faster,
        false => Verdict::Same,
    }
}

impl Rounds {
    fn new(medians_us: &[f64]) -> Self {
        let mut sorted = medians_us.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let middle = (at(count.saturating_sub(1) / 2) + at(count / 2)) / 2.0;
        Self { count, least: at(0), middle, most: at(count.saturating_sub(1)) }
    }
}

/// All that differs but the times, and all that makes a record's times worth less.
fn warnings(before: &Record, after: &Record) -> Vec<String> {
    let mut found = Vec::new();
    differ(&mut found, "", "version", &before.version, &after.version);
    fields(&mut found, "machine", &before.machine, &after.machine);
    fields(&mut found, "model", &before.model, &after.model);
    differ(&mut found, "", "command", &command(before), &command(after));
    for (side, record) in [("before", before), ("after", after)] {
        found.extend(
            held_down(&record.conditions).into_iter().map(|reason| format!("throttled {side}: {reason}")),
        );
        let unchecked = record.runs.iter().filter(|run| !is_checked(run)).count();
        if unchecked > 0 {
            found.push(format!(
                "outputs {side}: {unchecked} of {} runs are not checked, or wrong",
                record.runs.len()
            ));
        }
    }
    found
}

/// Whether a run's outputs were held against something, and were close to it.
fn is_checked(run: &Run) -> bool {
    run.check.tokens > 0 && run.check.error <= run.check.tolerance
}

/// Field by field, those that only one has included.
fn fields<T: Serialize>(found: &mut Vec<String>, of: &str, before: &T, after: &T) {
    let object = |value: &T| match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (object(before), object(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let field = |fields: &serde_json::Map<String, Value>, name: &str| match fields.get(name) {
        None | Some(Value::Null) => "unknown".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    for name in names {
        differ(found, of, name, &field(&before, name), &field(&after, name));
    }
}

fn differ(found: &mut Vec<String>, of: &str, name: &str, before: &str, after: &str) {
    if before != after {
        let space = if of.is_empty() { "" } else { " " };
        found.push(format!("{of}{space}{name}: `{before}` before, `{after}` after"));
    }
}

/// The command without where its results went, in which two benches differ always.
fn command(record: &Record) -> String {
    let mut words = record.command.iter();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" | "--html" | "--svg" => drop(words.next()),
            word if ["--json=", "--html=", "--svg="].iter().any(|flag| word.starts_with(flag)) => {}
            word => kept.push(word),
        }
    }
    kept.join(" ")
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.warnings.is_empty() {
            writeln!(f, "!! NOT LIKE WITH LIKE: what moved may be this, not the program.")?;
            self.warnings.iter().try_for_each(|warning| writeln!(f, "!!   {}", printable(warning)))?;
            writeln!(f)?;
        }
        writeln!(f, "before {}, after {}", printable(&self.dates[0]), printable(&self.dates[1]))?;
        for (verdict, title) in [
            (Verdict::Slower, "SLOWER"),
            (Verdict::Faster, "faster"),
            (Verdict::Same, "did not move beyond the noise"),
            (Verdict::Unknown, "cannot tell: too few rounds; five before and five after are enough"),
        ] {
            self.group(f, verdict, title)?;
        }
        for (names, title) in self.alone.iter().zip(["only before", "only after"]) {
            list(f, title, names.len(), names.iter().map(|name| format!("  {}", printable(name))))?;
        }
        self.rule(f)
    }
}

impl Comparison {
    /// The pairs of a verdict.
    fn group(&self, f: &mut fmt::Formatter<'_>, verdict: Verdict, title: &str) -> fmt::Result {
        let pairs: Vec<&Pair> = self.pairs.iter().filter(|pair| pair.verdict == verdict).collect();
        list(f, title, pairs.len(), pairs.iter().map(ToString::to_string))
    }

    /// What the verdicts mean.
    fn rule(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let judged = self.pairs.iter().filter(|pair| pair.chance.is_some()).count();
        writeln!(
            f,
            "\nMoved is a run whose rounds' medians lie apart so far that rounds of one and the same program would in at \
             most {:.0} of 100 pairs (exact rank test, two-sided; of {judged} judged pairs about {:.2} by chance alone), and by \
             {:.0} % or more. Rounds tell the noise within a process, not that between two. p99 and segment ends are \
             shown, not judged. Changes are rounded up.",
            100.0 * ALARM,
            judged as f64 * ALARM,
            100.0 * LEAST,
        )
    }
}

/// A title and its lines, when there are any.
fn list(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    count: usize,
    mut lines: impl Iterator<Item = String>,
) -> fmt::Result {
    if count == 0 {
        return Ok(());
    }
    writeln!(f, "\n{title} ({count})")?;
    lines.try_for_each(|line| writeln!(f, "{line}"))
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}", printable(&self.name))?;
        let chance = self.chance.map(|chance| format!(", chance {chance:.3}")).unwrap_or_default();
        let [before, after] = &self.rounds;
        write!(f, "    {}; rounds {before} → {after}{chance}", times(&self.ordinary))?;
        match &self.segment_end {
            Some(ends) => write!(f, "\n    segment ends {}", times(ends)),
            None => Ok(()),
        }
    }
}

/// µs before and after, neither rounded in our favour.
fn times([before, after]: &[Latency; 2]) -> String {
    let shown = |name: &str, before: f64, after: f64| {
        // What is equal looks equal.
        let shown = if before == after { up(before) } else { down(before) };
        format!("{name} {shown} → {} µs {}", up(after), change(before, after))
    };
    format!("{}, {}", shown("p50", before.p50, after.p50), shown("p99", before.p99, after.p99))
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => write!(f, "none"),
            count => write!(f, "{} to {} ({count})", down(self.least), up(self.most)),
        }
    }
}

#[cfg(test)]
mod tests;
