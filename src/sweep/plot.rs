//! What a sweep found, as a picture: an SVG with the cache's bytes across and a line a policy.

use std::fmt::Write;

use mcedge_runtime::Policy;

use super::axes::{Axes, Frame};
use super::report::{Cell, Report};
use crate::svg::{self, text};

/// The picture's size, in pixels. Its text can be read where it is shown at half its width.
const WIDTH: usize = 720;
const HEIGHT: usize = 500;
const FRAME: Frame = Frame { left: 76, right: 664, top: 64, bottom: 350, font: 17 };
/// The parts of the gain that are shown at most, in percent: a policy may do much worse than no cache.
const KEPT: (f64, f64) = (-50.0, 150.0);
/// Policies side by side in the legend.
const COLUMNS: usize = 3;
/// One a policy, by its place in [`Policy::ALL`]: told apart by people who see colours differently (Okabe and Ito), and
/// by dashes where there are none.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const DASHES: [&str; 6] = ["none", "9 4", "2 4", "12 4 2 4", "5 3", "14 6"];

impl Report {
    /// The picture of a sweep that has cells: the part of the gain that is kept, where there is a gain; else how far the
    /// outputs are from those with all of the cache.
    pub fn svg(&self) -> String {
        let bytes: Vec<f64> = self.cells.iter().map(|cell| self.bytes(cell)).collect();
        let values = self.cells.iter().map(|cell| self.height(cell)).filter(|height| height.is_finite());
        let is_kept = self.certain_gain().is_some();
        let (what, axes, references) = match is_kept {
            true => {
                let values: Vec<f64> = values.chain([0.0, 100.0]).collect();
                let axes = Axes::linear(FRAME, &bytes, &values, KEPT);
                (
                    "part of the cache's gain that is kept, %",
                    axes,
                    // Lines rise to the right.
                    vec![(0.0, "no cache", "end"), (100.0, "all of it", "start")],
                )
            }
            false => {
                let without = self.height(&self.without);
                let axes = Axes::powers(FRAME, &bytes, &values.chain([without]).collect::<Vec<_>>());
                (
                    "relative RMS from the outputs with all of the cache, % (with all of it 0)",
                    axes,
                    vec![(without, "no cache", "end")],
                )
            }
        };
        let mut svg =
            svg::start(WIDTH, HEIGHT, FRAME.font, &format!("What a smaller cache costs {}", self.name));
        text(&mut svg, 12, 26, "start", &self.name);
        text(&mut svg, 12, 50, "start", what);
        axes.draw(&mut svg, &bytes);
        text(&mut svg, (FRAME.left + FRAME.right) / 2, FRAME.bottom + 50, "middle", "cache budget");
        for (value, name, side) in references {
            reference(&mut svg, axes.y(value), name, side);
        }
        self.lines(&mut svg, &axes);
        svg.push_str("</svg>\n");
        svg
    }

    /// The policies' lines and their legend. What is beyond the axes is cut off.
    fn lines(&self, svg: &mut String, axes: &Axes) {
        let Frame { left, right, top, bottom, .. } = FRAME;
        let (width, height) = (right - left + 16, bottom - top + 16);
        let _ = writeln!(
            svg,
            "<clipPath id=\"frame\"><rect x=\"{}\" y=\"{}\" width=\"{width}\" height=\"{height}\"/></clipPath>",
            left - 8,
            top - 8
        );
        let mut place = 0;
        for policy in Policy::ALL {
            let cells = self.cells.iter().filter(|cell| cell.policy == Some(policy));
            let point = |cell: &Cell| Some((axes.x(self.bytes(cell)), axes.y(self.height(cell))?));
            let points: Vec<(f64, f64)> = cells.clone().filter_map(point).collect();
            if cells.count() == 0 {
                continue;
            }
            line(svg, policy, &points);
            legend(svg, policy, place);
            place += 1;
        }
    }

    /// What a cell's point stands for, in percent; no number where the run failed.
    fn height(&self, cell: &Cell) -> f64 {
        100.0 * self.kept(cell).map_or(cell.relative_rms, |kept| kept.part)
    }

    fn bytes(&self, cell: &Cell) -> f64 {
        (cell.slots * self.checkpoint_bytes) as f64
    }
}

/// A line across, with what it stands for at its `start` or `end`: below it where there is no room above.
fn reference(svg: &mut String, y: Option<f64>, name: &str, side: &str) {
    let Frame { left, right, top, font, .. } = FRAME;
    let Some(y) = y else { return };
    let _ = writeln!(svg, "<path d=\"M{left} {y:.1}H{right}\" stroke=\"#777\" stroke-width=\"1.5\"/>");
    let baseline = if y < (top + 2 * font) as f64 { y as usize + font } else { y as usize - 6 };
    let x = if side == "start" { left + 8 } else { right - 8 };
    text(svg, x, baseline, side, name);
}

/// How a policy is drawn: its colour and its dashes.
fn style(policy: Policy) -> (&'static str, &'static str) {
    let place = Policy::ALL.iter().position(|other| *other == policy).unwrap_or_default();
    (COLOURS[place], DASHES[place])
}

fn line(svg: &mut String, policy: Policy, points: &[(f64, f64)]) {
    if points.is_empty() {
        return;
    }
    let (colour, dashes) = style(policy);
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    let _ = writeln!(svg, "<g clip-path=\"url(#frame)\" stroke=\"{colour}\">");
    let _ = writeln!(
        svg,
        "<path d=\"M{}\" stroke-width=\"3\" stroke-dasharray=\"{dashes}\" fill=\"none\"/>",
        path.join("L")
    );
    for (x, y) in points {
        let _ =
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" stroke-width=\"2\" fill=\"#fff\"/>");
    }
    svg.push_str("</g>\n");
}

fn legend(svg: &mut String, policy: Policy, place: usize) {
    let (colour, dashes) = style(policy);
    let width = (FRAME.right - FRAME.left) / COLUMNS;
    let (x, y) = (FRAME.left + place % COLUMNS * width, FRAME.bottom + 92 + place / COLUMNS * 32);
    let _ = writeln!(
        svg,
        "<path d=\"M{x} {}h44\" stroke=\"{colour}\" stroke-width=\"3\" stroke-dasharray=\"{dashes}\"/>",
        y - FRAME.font / 3
    );
    text(svg, x + 54, y, "start", policy.name());
}
