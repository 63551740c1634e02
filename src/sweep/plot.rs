//! What a sweep found, as a picture: an SVG with the cache's bytes across, on a logarithmic scale, and a line a policy.

use std::fmt::Write;

use mcedge_runtime::Policy;

use super::report::{Cell, Report};
use crate::budget::readable;
use crate::svg::{self, text};

/// Sizes, in pixels. The text stays readable where the picture is shown at half its width.
const WIDTH: usize = 720;
const HEIGHT: usize = 500;
const FONT: usize = 17;
/// Space around the axes.
const LEFT: usize = 84;
const RIGHT: usize = 24;
const TOP: usize = 64;
const BOTTOM: usize = 150;
/// The least distance between two labels of the axis across.
const APART: f64 = 78.0;
/// Policies side by side in the legend.
const COLUMNS: usize = 3;
/// Steps of the axis up, about.
const STEPS: f64 = 5.0;
/// One a policy, by its place in [`Policy::ALL`]: told apart by people who see colours differently (Okabe and Ito), and
/// by dashes where there are none.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const DASHES: [&str; 6] = ["none", "9 4", "2 4", "12 4 2 4", "5 3", "14 6"];

/// Where numbers lie in the picture.
struct Axes {
    /// The logarithms of the bytes at both ends.
    across: (f64, f64),
    /// The values at the bottom and at the top, and those that have a label.
    up: (f64, f64),
    step: f64,
}

impl Report {
    /// The picture of a sweep that has cells: the part of the gain that is kept, where there is a gain; else how far the
    /// outputs are from those with all of the cache.
    pub fn svg(&self) -> String {
        let is_kept = self.certain_gain().is_some();
        let value = |cell: &Cell| match self.kept(cell) {
            Some(kept) => 100.0 * kept,
            None => 100.0 * cell.relative_rms,
        };
        let references = if is_kept { [0.0, 100.0] } else { [0.0, value(&self.without)] };
        let values = self.cells.iter().map(value).chain(references).filter(|value| value.is_finite());
        let axes = Axes::new(self.cells.iter().map(|cell| self.bytes(cell)), values);
        let mut svg = svg::start(WIDTH, HEIGHT, FONT, &format!("What a smaller cache costs {}", self.name));
        let what = match is_kept {
            true => "part of the cache's gain that is kept, %",
            false => "relative RMS from the outputs with all of the cache, %",
        };
        text(&mut svg, 12, 26, "start", &self.name);
        text(&mut svg, 12, 50, "start", what);
        axes.draw(&mut svg, &self.cells.iter().map(|cell| self.bytes(cell)).collect::<Vec<_>>());
        let [zero, other] = references;
        let (at_zero, at_other) = if is_kept { ("no cache", "all of it") } else { ("all of it", "no cache") };
        axes.reference(&mut svg, zero, at_zero);
        axes.reference(&mut svg, other, at_other);
        let drawn: Vec<Policy> =
            Policy::ALL.into_iter().filter(|&policy| self.of(policy).next().is_some()).collect();
        for (place, &policy) in drawn.iter().enumerate() {
            let points: Vec<(f64, f64)> = self
                .of(policy)
                .filter(|cell| value(cell).is_finite())
                .map(|cell| (axes.x(self.bytes(cell)), axes.y(value(cell))))
                .collect();
            line(&mut svg, policy, &points);
            legend(&mut svg, policy, place);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn of(&self, policy: Policy) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(move |cell| cell.policy == Some(policy))
    }

    fn bytes(&self, cell: &Cell) -> f64 {
        (cell.slots * self.checkpoint_bytes) as f64
    }
}

impl Axes {
    /// That show all of `bytes` and `values`, one or more each.
    fn new(bytes: impl Iterator<Item = f64>, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = ends(bytes);
        // One budget alone is in the middle.
        let (least, most) = if least < most { (least, most) } else { (least / 2.0, most * 2.0) };
        let (bottom, top) = ends(values);
        let step = round_step((top - bottom).max(1e-9) / STEPS);
        let up = ((bottom / step).floor() * step, (top / step).ceil() * step);
        Self { across: (least.ln(), most.ln()), up, step }
    }

    fn x(&self, bytes: f64) -> f64 {
        let part = (bytes.ln() - self.across.0) / (self.across.1 - self.across.0);
        LEFT as f64 + part * (WIDTH - LEFT - RIGHT) as f64
    }

    fn y(&self, value: f64) -> f64 {
        let part = (value - self.up.0) / (self.up.1 - self.up.0);
        (HEIGHT - BOTTOM) as f64 - part * (HEIGHT - BOTTOM - TOP) as f64
    }

    /// The frame, a grid and labels: at the bytes of every budget that has room for one, and at round values.
    fn draw(&self, svg: &mut String, bytes: &[f64]) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let grid = "stroke=\"#ddd\" stroke-width=\"1\"";
        let steps = ((self.up.1 - self.up.0) / self.step).round() as usize;
        for i in 0..=steps {
            let value = self.up.0 + i as f64 * self.step;
            let y = self.y(value);
            let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" {grid}/>");
            text(svg, LEFT - 8, y as usize + FONT / 3, "end", &self.label(value));
        }
        let mut bytes: Vec<usize> = bytes.iter().map(|&bytes| bytes as usize).collect();
        bytes.sort_unstable();
        bytes.dedup();
        let mut last = f64::NEG_INFINITY;
        for bytes in bytes {
            let x = self.x(bytes as f64);
            let _ = writeln!(svg, "<path d=\"M{x:.1} {TOP}V{bottom}\" {grid}/>");
            if x - last >= APART {
                let anchor = if x > (right - 20) as f64 { "end" } else { "middle" };
                text(svg, x as usize, bottom + 22, anchor, &readable(bytes));
                last = x;
            }
        }
        text(svg, (LEFT + right) / 2, bottom + 48, "middle", "cache budget");
        let (width, height) = (right - LEFT, bottom - TOP);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#999\"/>"
        );
    }

    /// A value with as many places as tell two steps apart.
    fn label(&self, value: f64) -> String {
        let places = (-self.step.log10().floor()).max(0.0) as usize;
        // No −0.
        format!("{:.places$}", if value.abs() < self.step / 2.0 { 0.0 } else { value })
    }

    /// A line across, with what it stands for.
    fn reference(&self, svg: &mut String, value: f64, name: &str) {
        let (y, right) = (self.y(value), WIDTH - RIGHT);
        let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#777\" stroke-width=\"1.5\"/>");
        // Below the line where there is no room above it.
        let below = y < (TOP + 2 * FONT) as f64;
        let baseline = if below { y as usize + FONT } else { y as usize - 6 };
        text(svg, LEFT + 8, baseline, "start", name);
    }
}

/// The least and the largest.
fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)))
}

/// 1, 2 or 5 times a power of ten, not below `least`, which is positive.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|step| *step >= least);
    step.unwrap_or(10.0 * power)
}

/// How a policy's line is drawn.
fn style(policy: Policy) -> String {
    let place = Policy::ALL.iter().position(|other| *other == policy).unwrap_or_default();
    let (colour, dashes) = (COLOURS[place % COLOURS.len()], DASHES[place % DASHES.len()]);
    format!("stroke=\"{colour}\" stroke-width=\"3\" stroke-dasharray=\"{dashes}\" fill=\"none\"")
}

fn line(svg: &mut String, policy: Policy, points: &[(f64, f64)]) {
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    let _ = writeln!(svg, "<path d=\"M{}\" {}/>", path.join("L"), style(policy));
    for (x, y) in points {
        let dot = style(policy)
            .replace("fill=\"none\"", "fill=\"#fff\"")
            .replace("stroke-width=\"3\"", "stroke-width=\"2\"");
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" {dot}/>");
    }
}

fn legend(svg: &mut String, policy: Policy, place: usize) {
    let width = (WIDTH - LEFT - RIGHT) / COLUMNS;
    let (x, y) = (LEFT + place % COLUMNS * width, HEIGHT - BOTTOM + 84 + place / COLUMNS * 32);
    let _ = writeln!(svg, "<path d=\"M{x} {}h44\" {}/>", y - FONT / 3, style(policy));
    text(svg, x + 54, y, "start", policy.name());
}
