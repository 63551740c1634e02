//! What a sweep found, as a table for people.

use std::fmt::Write;

use mcedge_runtime::Policy;

use super::distance::Distances;
use super::loss::{Gain, Kept, Losses, Task};
use super::trial::{Difference, Measured};
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
    /// What it gains over no cache; none where nothing has a loss.
    pub gain: Option<Gain>,
    pub losses: Losses,
    pub distances: Distances,
    /// Why the run ended early, where it did: then nothing of it is known.
    pub failed: Option<String>,
}

impl Cell {
    /// A run with `slots` checkpoints, of no policy and no budget yet; `without` are the losses without a cache.
    pub fn new(slots: usize, measured: &Measured, difference: &Difference<'_>, without: &Losses) -> Self {
        Self {
            policy: None,
            budgets: Vec::new(),
            slots,
            relative_rms: difference.relative(),
            largest: difference.largest(),
            loss: measured.losses.mean(),
            gain: measured.losses.gain_over(without),
            losses: measured.losses.clone(),
            distances: measured.distances.clone(),
            failed: None,
        }
    }

    /// A run with `slots` checkpoints that ended early.
    pub fn failed(slots: usize, why: String) -> Self {
        Self {
            policy: None,
            budgets: Vec::new(),
            slots,
            relative_rms: f64::NAN,
            largest: f64::NAN,
            loss: None,
            gain: None,
            losses: Losses::new(0),
            distances: Distances::default(),
            failed: Some(why),
        }
    }
}

impl Report {
    /// Whether 100 % is a cache that nothing goes from.
    pub fn is_unbounded(&self) -> bool {
        self.full == self.made
    }

    /// What all of the cache gains, where it is more than noise.
    pub fn certain_gain(&self) -> Option<Gain> {
        self.with_all.gain.filter(|gain| gain.is_certain())
    }

    /// The cell that gains most, where that is more than noise and more than all of the cache gains; of several that with
    /// the fewest checkpoints, and of those the first.
    fn best(&self) -> Option<(&Cell, Gain)> {
        let least = self.with_all.gain.map_or(0.0, |gain| gain.mean.max(0.0));
        let gains = self.cells.iter().filter_map(|cell| Some((cell, cell.gain?)));
        let certain = gains.filter(|(_, gain)| gain.is_certain() && gain.mean > least);
        // Of equal ones the last is taken, which is the first.
        let order = |(a, of_a): &(&Cell, Gain), (b, of_b): &(&Cell, Gain)| {
            of_a.mean.total_cmp(&of_b.mean).then(b.slots.cmp(&a.slots))
        };
        certain.rev().max_by(order)
    }

    /// The part of the cache's gain that a cell keeps, where there is a gain: below 0 where it is worse than no cache.
    pub fn kept(&self, cell: &Cell) -> Option<Kept> {
        self.certain_gain()?;
        cell.losses.kept(&self.with_all.losses, &self.without.losses)
    }

    /// The table and what there is to say about it.
    pub fn text(&self) -> String {
        let mut text = self.head();
        let columns =
            ["policy", "budget", "slots", "bytes", "relative RMS", "largest", self.task.name(), "kept"];
        let mut rows = vec![columns.map(str::to_owned)];
        rows.push(self.row("no cache", &self.without));
        let named = |cell: &Cell| cell.policy.map_or("", Policy::name);
        rows.extend(self.cells.iter().map(|cell| self.row(named(cell), cell)));
        if self.full > 0 {
            rows.push(self.row(if self.is_unbounded() { "unbounded" } else { "all slots" }, &self.with_all));
        }
        let has_loss = self.with_all.loss.is_some();
        let shown = 6 + usize::from(has_loss) + usize::from(has_loss && self.certain_gain().is_some());
        align(&mut text, &rows, shown);
        if let Some((cell, Gain { mean, error, .. })) = self.best() {
            let (policy, slots) = (cell.policy.map_or("", Policy::name), cell.slots);
            let _ = writeln!(
                text,
                "least loss: {policy} with {}, a gain of {mean:.5} ± {error:.5} over no cache",
                checkpoints(slots)
            );
        }
        for cell in &self.cells {
            let Some(why) = &cell.failed else { continue };
            let (policy, slots) = (cell.policy.map_or("", Policy::name), cell.slots);
            let _ = writeln!(text, "failed: {policy} with {}: {why}", checkpoints(slots));
        }
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
        if let (Some(gain), Some(without), Some(with)) =
            (self.with_all.gain, self.without.loss, self.with_all.loss)
        {
            let Gain { mean, error, .. } = gain;
            let told = format!("{without:.5} without the cache, {with:.5} with all of it");
            let _ = match gain.is_certain() {
                _ if self.full == 0 => writeln!(text, "{with:.5}"),
                true => writeln!(text, "{told}: it gains {mean:.5} ± {error:.5}"),
                false if !gain.can_be_certain() => {
                    writeln!(text, "{told}: too few losses to tell a gain from chance")
                }
                false => writeln!(
                    text,
                    "{told}: all of it gives no gain on this input ({mean:.5} ± {error:.5}), so there is none to keep"
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
            if cell.failed.is_some() { "failed".into() } else { format!("{:.3e}", cell.relative_rms) },
            if cell.failed.is_some() { String::new() } else { format!("{:.3e}", cell.largest) },
            cell.loss.map_or_else(String::new, |loss| format!("{loss:.5}")),
            self.kept(cell).map_or_else(String::new, |Kept { part, error }| {
                format!("{:.1} ± {:.1} %", 100.0 * part, 100.0 * error)
            }),
        ]
    }

    /// How many of the answers are right with all of the cache, by distance.
    fn accuracy(&self, text: &mut String) {
        for (index, bucket) in self.with_all.distances.buckets().enumerate() {
            if index == 0 {
                let of = if self.full > 0 { " with all of the cache" } else { "" };
                let _ = writeln!(text, "\naccuracy{of}, by tokens since the asking token was last seen");
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

fn checkpoints(count: usize) -> String {
    format!("{count} checkpoint{}", if count == 1 { "" } else { "s" })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of 40 tokens, whose losses are about `loss`.
    fn measured(loss: f64) -> Measured {
        let mut losses = Losses::new(40);
        (0..40).for_each(|token| losses.add(loss + 0.01 * f64::from(token % 7)));
        Measured { losses, distances: Distances::default(), made: 8 }
    }

    /// Of runs with these losses: without a cache, with all of it, and in between by slots.
    fn report(without: f64, with_all: f64, cells: &[(Policy, usize, f64)]) -> Report {
        let none = measured(without);
        let cell = |slots: usize, loss: f64| {
            let mut difference = Difference::from(&[1.0, -2.0]);
            difference.take(&[1.0, if slots == 8 { -2.0 } else { -2.5 }]);
            Cell::new(slots, &measured(loss), &difference, &none.losses)
        };
        Report {
            name: "by hand".into(),
            place: "nowhere",
            input: "none".into(),
            tokens: 40,
            sequences: 1,
            made: 8,
            full: 8,
            checkpoint_bytes: 1024,
            task: Task::NextToken,
            without: cell(0, without),
            with_all: cell(8, with_all),
            cells: cells
                .iter()
                .map(|&(policy, slots, loss)| Cell { policy: Some(policy), ..cell(slots, loss) })
                .collect(),
            left_out: Vec::new(),
        }
    }

    #[test]
    fn a_cell_keeps_its_part_of_the_gain() {
        let cells = [(Policy::Oldest, 1, 3.5), (Policy::Oldest, 4, 2.5), (Policy::Merge, 4, 5.0)];
        let report = report(4.0, 2.0, &cells);
        let kept: Vec<f64> = report.json()["cells"]
            .as_array()
            .unwrap()
            .iter()
            .map(|cell| cell["kept"].as_f64().unwrap())
            .collect();
        let near = |(found, expected): (&f64, &f64)| (found - expected).abs() < 1e-9;
        assert!(kept.iter().zip(&[0.25, 0.75, -0.5]).all(near), "{kept:?}");
        let text = report.text();
        for word in ["kept", "25.0 ± 0.0 %", "75.0 ± 0.0 %", "-50.0 ± 0.0 %", "it gains 2.00000", "4.0 KiB"]
        {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert!(!text.contains("least loss"), "nothing is better than all of it: {text}");
        assert!((report.cells[0].relative_rms - 0.5 / 5f64.sqrt()).abs() < 1e-9);
        let svg = report.svg();
        assert!(svg.contains("gain that is kept") && svg.matches("<circle").count() == 3, "{svg}");
    }

    #[test]
    fn a_cell_that_failed_is_told_and_the_others_stand() {
        for with_all in [2.0, 5.0] {
            let mut report = report(4.0, with_all, &[(Policy::Oldest, 1, 3.5), (Policy::Oldest, 4, 2.5)]);
            let failed = Cell::failed(4, "it diverges".into());
            report.cells[1] = Cell { policy: Some(Policy::Oldest), ..failed };
            let text = report.text();
            assert!(text.contains("failed: oldest with 4 checkpoints: it diverges"), "{text}");
            let json = report.json();
            assert_eq!(json["cells"][0]["failed"], serde_json::Value::Null);
            assert_eq!(json["cells"][1]["failed"], "it diverges");
            for key in ["relative_rms", "largest", "loss", "gain", "kept", "accuracy"] {
                assert!(json["cells"][1][key].is_null(), "{key}: {json}");
            }
            let svg = report.svg();
            assert!(
                svg.matches("<circle").count() == 1 && !svg.contains("NaN") && !text.contains("NaN"),
                "{svg}"
            );
        }
    }

    #[test]
    fn where_there_is_no_gain_none_is_kept() {
        let cells = [(Policy::Oldest, 1, 3.0), (Policy::Thin, 1, 3.0), (Policy::Thin, 4, 4.5)];
        let report = report(4.0, 5.0, &cells);
        let text = report.text();
        assert!(text.contains("no gain on this input") && !text.contains("kept"), "{text}");
        assert!(text.contains("least loss: oldest with 1 checkpoint, a gain of 1.00000"), "{text}");
        assert!(report.json()["cells"].as_array().unwrap().iter().all(|cell| cell["kept"].is_null()));
        assert!(report.svg().contains("relative RMS"));
    }
}
