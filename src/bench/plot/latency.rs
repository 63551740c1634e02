//! Latency against fill: a line a backend through p50, whiskers to p99, and the floor that bandwidth sets.

use std::cmp::Ordering;
use std::fmt::Write;

use super::axis::Axis;
use super::{DASHES, Frame, Size, draw_across, draw_up, duration, label, mark, open, text_width};
use crate::bench::record::Run;
use crate::bench::words::{down, or_dash, p99, p999, series, setting, up};
use crate::svg::escape;

/// Fills that spread farther than this are on a logarithmic scale, with 0 a step left of the least.
const WIDE: f64 = 8.0;
/// The floor stretches the axis to this part of the least p50 and not beyond: a tiny model's is far below.
const DEEP: f64 = 0.2;
/// Pixels between two lines at one fill.
const APART: f64 = 6.0;
/// The floor's name in the legend.
const FLOOR: &str = "bandwidth floor";

/// Runs that share a plot, in the record's order, by what is the same along its lines.
pub fn groups(runs: &[Run]) -> Vec<(String, Vec<&Run>)> {
    let mut groups: Vec<(String, Vec<&Run>)> = Vec::new();
    for run in runs {
        let setting = setting(run);
        match groups.iter_mut().find(|(other, _)| *other == setting) {
            Some((_, group)) => group.push(run),
            None => groups.push((setting, vec![run])),
        }
    }
    groups
}

/// The least time of a run, µs: its bytes over one core's bandwidth. None where that is not known, nor on more than one core, nor
/// on another device.
pub fn floor_us(run: &Run) -> Option<f64> {
    if run.device != "cpu" || run.threads != 1 {
        return None;
    }
    let us = run.touched.total() as f64 / run.bandwidth_bytes_per_second * 1e6;
    (us.is_finite() && us > 0.0).then_some(us)
}

/// One setting's plot.
pub fn latency(runs: &[&Run], size: Size) -> String {
    let mut svg = open(size, "Latency against live checkpoints: p50, with a whisker to p99");
    let runs: Vec<&Run> = runs.iter().copied().filter(|run| run.ordinary.p50 > 0.0).collect();
    let (runs, floors) = (runs.as_slice(), floors(&runs));
    let names = names(runs);
    let font = size.font;
    let floor = (!floors.is_empty()).then_some(FLOOR);
    let legend: Vec<&str> = names.iter().map(String::as_str).chain(floor).collect();
    let rows = legend_rows(&legend, size);
    let frame = Frame {
        left: 4.6 * font,
        right: size.width - 1.2 * font,
        top: 8.0 + 1.5 * font * rows.len() as f64,
        bottom: size.height - 3.1 * font,
    };
    draw_legend(&mut svg, &rows, names.len(), font);
    let across = Fills::new(runs, (frame.left + 2.0 * font, frame.right - 2.0 * font));
    let axis = Axis::fitting(&values(runs, &floors), frame.up());
    draw_up(&mut svg, frame, font, &axis, duration);
    draw_across(&mut svg, frame, font, &across.places());
    let middle = (frame.left + frame.right) / 2.0;
    label(&mut svg, (middle, size.height - 0.5 * font), "middle", "muted", "live checkpoints");
    draw_floor(&mut svg, &floors, &across, &axis);
    for (index, name) in names.iter().enumerate() {
        let shift = (index as f64 - (names.len() - 1) as f64 / 2.0) * APART;
        let of_name: Vec<&Run> = runs.iter().copied().filter(|run| series(run) == *name).collect();
        draw_series(&mut svg, index, &of_name, |run| (across.at(run.fill) + shift, &axis));
    }
    svg.push_str("</svg>");
    svg
}

/// The lines' names in the order of the runs.
fn names(runs: &[&Run]) -> Vec<String> {
    let mut names = Vec::new();
    for run in runs {
        let name = series(run);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The least floor at each fill; one that is far below all is left out.
fn floors(runs: &[&Run]) -> Vec<(usize, f64)> {
    let least = runs.iter().map(|run| run.ordinary.p50).fold(f64::INFINITY, f64::min);
    let mut floors: Vec<(usize, f64)> =
        runs.iter().filter_map(|run| Some((run.fill, floor_us(run)?))).collect();
    floors.sort_by(|a, b| (a.0, a.1).partial_cmp(&(b.0, b.1)).unwrap_or(Ordering::Equal));
    floors.dedup_by_key(|(fill, _)| *fill);
    floors.retain(|(_, floor)| *floor > DEEP * least);
    floors
}

/// All that the axis up has to show.
fn values(runs: &[&Run], floors: &[(usize, f64)]) -> Vec<f64> {
    let times = runs.iter().flat_map(|run| [run.ordinary.p50, run.ordinary.p99]);
    times.chain(floors.iter().map(|(_, floor)| *floor)).collect()
}

/// Where fills lie across.
struct Fills {
    /// In order, each once.
    fills: Vec<usize>,
    is_log: bool,
    pixels: (f64, f64),
}

impl Fills {
    fn new(runs: &[&Run], pixels: (f64, f64)) -> Self {
        let mut fills: Vec<usize> = runs.iter().map(|run| run.fill).collect();
        fills.sort_unstable();
        fills.dedup();
        let least = fills.iter().find(|fill| **fill > 0).copied().unwrap_or(1);
        let is_log = fills.last().is_some_and(|most| *most as f64 > WIDE * least as f64);
        Self { fills, is_log, pixels }
    }

    /// How far right a fill is, in a unit of its own.
    fn place(&self, fill: usize) -> f64 {
        let least = self.fills.iter().find(|fill| **fill > 0).copied().unwrap_or(1);
        match self.is_log {
            true if fill == 0 => 0.0,
            true => 2.0 + (fill as f64 / least as f64).log2(),
            false => fill as f64,
        }
    }

    fn at(&self, fill: usize) -> f64 {
        let place = |fill: Option<&usize>| fill.map_or(0.0, |fill| self.place(*fill));
        let (least, most) = (place(self.fills.first()), place(self.fills.last()));
        // One alone is in the middle.
        let part = if most > least { (self.place(fill) - least) / (most - least) } else { 0.5 };
        self.pixels.0 + part * (self.pixels.1 - self.pixels.0)
    }

    fn places(&self) -> Vec<(f64, String)> {
        self.fills.iter().map(|fill| (self.at(*fill), fill.to_string())).collect()
    }
}

/// A line, its marks, and what they are when pointed at.
fn draw_series<'a>(svg: &mut String, index: usize, runs: &[&Run], place: impl Fn(&Run) -> (f64, &'a Axis)) {
    let mut runs = runs.to_vec();
    runs.sort_by_key(|run| run.fill);
    let _ = write!(svg, "<g class=\"s{}\" stroke=\"currentColor\">", index % DASHES.len());
    let points: Vec<String> = runs
        .iter()
        .map(|run| {
            let (x, axis) = place(run);
            format!("{x:.1} {:.1}", axis.at(run.ordinary.p50))
        })
        .collect();
    let dashes = DASHES[index % DASHES.len()];
    let _ = write!(
        svg,
        "<path fill=\"none\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\" d=\"M{}\"/>",
        points.join("L")
    );
    for run in runs {
        let (x, axis) = place(run);
        let (p50, p99) = (axis.at(run.ordinary.p50), axis.at(run.ordinary.p99));
        let _ = write!(svg, "<g><title>{}</title>", escape(&hint(run)));
        let _ = write!(svg, "<path stroke-width=\"1.2\" d=\"M{x:.1} {p50:.1}V{p99:.1}m-3.5 0h7\"/>");
        mark(svg, index, (x, p50), 4.0);
        svg.push_str("</g>");
    }
    svg.push_str("</g>");
}

/// What a point is.
fn hint(run: &Run) -> String {
    let times = &run.ordinary;
    format!(
        "{}, {} checkpoints of {}: p50 {} µs, p90 {}, p99 {}, p99.9 {}, max {}",
        series(run),
        run.fill,
        run.capacity,
        up(times.p50),
        up(times.p90),
        or_dash(p99(times), up),
        or_dash(p999(times), up),
        up(times.max)
    )
}

fn draw_floor(svg: &mut String, floors: &[(usize, f64)], across: &Fills, axis: &Axis) {
    if floors.is_empty() {
        return;
    }
    let point = |(fill, floor): &(usize, f64)| (across.at(*fill), axis.at(*floor), *floor);
    let points: Vec<(f64, f64, f64)> = floors.iter().map(point).collect();
    svg.push_str("<g class=\"floor\" stroke=\"currentColor\">");
    let line: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1} {y:.1}")).collect();
    let line = line.join("L");
    let _ = write!(svg, "<path fill=\"none\" stroke-width=\"1.5\" stroke-dasharray=\"1 3\" d=\"M{line}\"/>");
    for (x, y, floor) in points {
        let _ = write!(
            svg,
            "<path stroke-width=\"3\" d=\"M{:.1} {y:.1}h12\"><title>{FLOOR} {} µs</title></path>",
            x - 6.0,
            down(floor)
        );
    }
    svg.push_str("</g>");
}

/// Names with where they begin, in as many rows as they need.
fn legend_rows<'a>(names: &[&'a str], size: Size) -> Vec<Vec<(f64, &'a str)>> {
    let (start, mut x) = (0.6 * size.font, f64::INFINITY);
    let mut rows: Vec<Vec<(f64, &str)>> = Vec::new();
    for &name in names {
        let width = 3.2 * size.font + text_width(name, size.font) + size.font;
        match rows.last_mut() {
            Some(row) if x + width <= size.width => row.push((x, name)),
            _ => {
                x = start;
                rows.push(vec![(x, name)]);
            }
        }
        x += width;
    }
    rows
}

/// The legend; what comes after `series` names is the floor.
fn draw_legend(svg: &mut String, rows: &[Vec<(f64, &str)>], series: usize, font: f64) {
    let places = rows.iter().enumerate().flat_map(|(row, names)| names.iter().map(move |name| (row, name)));
    for (index, (row, (x, name))) in places.enumerate() {
        let y = 1.5 * font * (row as f64 + 0.55);
        let (class, dashes) = match index < series {
            true => (format!("s{}", index % DASHES.len()), DASHES[index % DASHES.len()]),
            false => ("floor".into(), "1 3"),
        };
        let _ = write!(svg, "<g class=\"{class}\" stroke=\"currentColor\">");
        let line = format!("M{x:.1} {y:.1}h{:.1}", 2.6 * font);
        let _ = write!(
            svg,
            "<path fill=\"none\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\" d=\"{line}\"/>"
        );
        if index < series {
            mark(svg, index, (x + 1.3 * font, y), 4.0);
        }
        label(svg, (x + 3.1 * font, y + font / 3.0), "start", "text", name);
        svg.push_str("</g>");
    }
}
