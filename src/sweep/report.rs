//! What a sweep found, as a table for people.

use std::fmt::Write;

use mcedge_runtime::Policy;

use super::distance::Distances;
use super::loss::{Gain, Task};
use crate::budget::readable;

/// Everything that a sweep found.
pub struct Report {
    /// The model's name.
    pub name: String,
    /// What ran where.
    pub place: &'static str,
    pub input: String,
    pub tokens: usize,
    pub sequences: usize,
    /// The most checkpoints that any sequence makes, none of which goes.
    pub made: usize,
    /// The checkpoints that are 100 %.
    pub full: usize,
    /// Of one of them.
    pub checkpoint_bytes: usize,
    pub task: Task,
    /// The model without its cache.
    pub without: Cell,
    /// The model with [`Report::full`] checkpoints.
    pub with_all: Cell,
    /// What the cache gains on this input; none where nothing has a loss.
    pub gain: Option<Gain>,
    /// By policy, then by slots.
    pub cells: Vec<Cell>,
    pub left_out: Vec<(Policy, String)>,
}

/// One run.
#[derive(Clone)]
pub struct Cell {
    /// None without a cache and with all of it.
    pub policy: Option<Policy>,
    /// The budgets that come to it, as they were written.
    pub budgets: Vec<String>,
    pub slots: usize,
    pub relative_rms: f64,
    pub largest: f64,
    pub loss: Option<f64>,
    pub distances: Distances,
}

impl Report {
    /// Whether 100 % is a cache that nothing goes from.
    pub fn is_unbounded(&self) -> bool {
        self.full == self.made
    }

    /// The gain, where it is more than noise.
    pub fn certain_gain(&self) -> Option<Gain> {
        self.gain.filter(|gain| gain.is_certain())
    }

    /// The part of the cache's gain that a cell keeps, where there is a gain: below 0 where it is worse than no cache.
    pub fn kept(&self, cell: &Cell) -> Option<f64> {
        let gain = self.certain_gain()?;
        Some((self.without.loss? - cell.loss?) / gain.mean)
    }

    /// The table and what there is to say about it.
    pub fn text(&self) -> String {
        let mut text = self.head();
        let columns =
            ["policy", "budget", "slots", "bytes", "relative RMS", "largest", self.task.name(), "kept"];
        let mut rows = vec![columns.map(str::to_owned)];
        if self.full > 0 {
            rows.push(self.row("no cache", &self.without));
        }
        let named = |cell: &Cell| cell.policy.map_or("", Policy::name);
        rows.extend(self.cells.iter().map(|cell| self.row(named(cell), cell)));
        rows.push(self.row(if self.is_unbounded() { "unbounded" } else { "all slots" }, &self.with_all));
        let has_loss = self.with_all.loss.is_some();
        let shown = 6 + usize::from(has_loss) + usize::from(has_loss && self.certain_gain().is_some());
        align(&mut text, &rows, shown);
        for (_, reason) in &self.left_out {
            let _ = writeln!(text, "left out: {reason}");
        }
        self.accuracy(&mut text);
        text
    }

    fn head(&self) -> String {
        let Report { name, place, input, tokens, sequences, made, full, .. } = self;
        let sequences = if *sequences == 1 { String::new() } else { format!(" in {sequences} sequences") };
        let mut text = format!("{name} on {place}: {tokens} tokens{sequences} of {input}\n");
        let (each, all) = (readable(self.checkpoint_bytes), readable(self.checkpoint_bytes * full));
        let _ = match self.is_unbounded() {
            _ if self.checkpoint_bytes == 0 => {
                writeln!(text, "no block reads checkpoints: there is no cache to bound")
            }
            _ if *made == 0 => {
                writeln!(
                    text,
                    "the input ends before the first checkpoint is made: there is nothing to bound"
                )
            }
            true => writeln!(text, "100 % is the unbounded cache: {made} checkpoints of {each}, {all}"),
            false => writeln!(
                text,
                "100 % is {full} checkpoints of {each}, {all}, and not unbounded: the input makes {made}, of which the \
                 oldest go"
            ),
        };
        let _ = writeln!(text, "{}: {}", self.task.name(), self.task.meaning());
        if let (Some(gain), Some(without), Some(with)) = (self.gain, self.without.loss, self.with_all.loss) {
            let Gain { mean, error } = gain;
            let told = format!("{without:.5} without the cache, {with:.5} with all of it");
            let _ = match gain.is_certain() {
                _ if self.full == 0 => writeln!(text, "{with:.5}"),
                true => writeln!(text, "{told}: it gains {mean:.5} ± {error:.5}"),
                false => writeln!(
                    text,
                    "{told}: the cache gives no gain on this input ({mean:.5} ± {error:.5}), so none can be kept"
                ),
            };
        }
        text.push('\n');
        text
    }

    fn row(&self, name: &str, cell: &Cell) -> [String; 8] {
        [
            name.to_owned(),
            cell.budgets.join(" "),
            cell.slots.to_string(),
            readable(cell.slots * self.checkpoint_bytes),
            format!("{:.3e}", cell.relative_rms),
            format!("{:.3e}", cell.largest),
            cell.loss.map_or_else(String::new, |loss| format!("{loss:.5}")),
            self.kept(cell).map_or_else(String::new, |kept| format!("{:.1} %", 100.0 * kept)),
        ]
    }

    /// How many of the answers are right with all of the cache, by distance.
    fn accuracy(&self, text: &mut String) {
        for (index, bucket) in self.with_all.distances.buckets().enumerate() {
            if index == 0 {
                text.push_str(
                    "\naccuracy with all of the cache, by tokens since the asking token was last seen\n",
                );
            }
            let distance = match bucket.distance {
                Some((least, most)) if least == most => least.to_string(),
                Some((least, most)) => format!("{least} to {most}"),
                None => "not seen".into(),
            };
            let percent = 100.0 * bucket.tally.accuracy();
            let _ = writeln!(text, "  {distance:<16} {percent:>6.1} % of {}", bucket.tally.answers);
        }
    }
}

/// Writes the first `shown` columns of `rows`: names to the left, numbers to the right.
fn align(text: &mut String, rows: &[[String; 8]], shown: usize) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..shown).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
