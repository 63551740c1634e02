//! The axes of a sweep's picture: which numbers lie where, and which have a label.

use std::fmt::Write;

use crate::budget::readable;
use crate::svg::text;

/// Steps of a linear axis, about.
const STEPS: f64 = 5.0;
/// The least distance between two labels of the axis across, in pixels.
const APART: f64 = 84.0;

/// The frame that the lines are drawn in, in pixels.
#[derive(Clone, Copy)]
pub struct Frame {
    pub left: usize,
    pub right: usize,
    pub top: usize,
    pub bottom: usize,
    pub font: usize,
}

/// Bytes across, on a logarithmic scale, and values up.
pub struct Axes {
    frame: Frame,
    /// The logarithms of the bytes at both ends.
    across: (f64, f64),
    up: Up,
}

/// The axis up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Up {
    /// From the bottom to the top in steps.
    Linear { bottom: f64, top: f64, step: f64 },
    /// Powers of ten, from the bottom's to the top's.
    Powers { bottom: i32, top: i32 },
}

impl Axes {
    /// Up are `values` on a linear scale, of which those beyond `limits` may be cut off.
    pub fn linear(frame: Frame, bytes: &[f64], values: &[f64], limits: (f64, f64)) -> Self {
        let (least, most) = ends(values);
        let (least, most) = (least.max(limits.0), most.min(limits.1));
        let step = round_step((most - least).max(1e-9) / STEPS);
        let up = Up::Linear { bottom: (least / step).floor() * step, top: (most / step).ceil() * step, step };
        Self { frame, across: across(bytes), up }
    }

    /// Up are `values`, but for those that are not positive, on a logarithmic scale.
    pub fn powers(frame: Frame, bytes: &[f64], values: &[f64]) -> Self {
        let positive: Vec<f64> = values.iter().copied().filter(|value| *value > 0.0).collect();
        let (least, most) = if positive.is_empty() { (1.0, 1.0) } else { ends(&positive) };
        let (bottom, top) = (least.log10().floor() as i32, most.log10().ceil() as i32);
        Self { frame, across: across(bytes), up: Up::Powers { bottom, top: top.max(bottom + 1) } }
    }

    /// Pixels from the left.
    pub fn x(&self, bytes: f64) -> f64 {
        let part = (bytes.ln() - self.across.0) / (self.across.1 - self.across.0);
        self.frame.left as f64 + part * (self.frame.right - self.frame.left) as f64
    }

    /// Pixels from the top; none of what has no place on a logarithmic scale.
    pub fn y(&self, value: f64) -> Option<f64> {
        let part = match self.up {
            Up::Linear { bottom, top, .. } => (value - bottom) / (top - bottom),
            Up::Powers { bottom, top } => (value.log10() - f64::from(bottom)) / f64::from(top - bottom),
        };
        let height = (self.frame.bottom - self.frame.top) as f64;
        part.is_finite().then_some(self.frame.bottom as f64 - part * height)
    }

    /// Draws the frame, a grid and labels: at each budget of `bytes` that has room for one, and at round values.
    pub fn draw(&self, svg: &mut String, bytes: &[f64]) {
        let Frame { left, right, top, bottom, font } = self.frame;
        let grid = "stroke=\"#ddd\" stroke-width=\"1\"";
        for (value, label) in self.labels() {
            let Some(y) = self.y(value) else { continue };
            let _ = writeln!(svg, "<path d=\"M{left} {y:.1}H{right}\" {grid}/>");
            text(svg, left - 8, y as usize + font / 3, "end", &label);
        }
        let mut bytes: Vec<usize> = bytes.iter().map(|&bytes| bytes as usize).collect();
        bytes.sort_unstable();
        bytes.dedup();
        for bytes in &bytes {
            let _ = writeln!(svg, "<path d=\"M{:.1} {top}V{bottom}\" {grid}/>", self.x(*bytes as f64));
        }
        for bytes in self.labelled(&bytes) {
            text(svg, self.x(bytes as f64) as usize, bottom + font + 5, "middle", &readable(bytes));
        }
        let (width, height) = (right - left, bottom - top);
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#999\"/>"
        );
    }

    /// Of `bytes` in order, those whose labels have room: the last, and what is far enough from it and from each other.
    fn labelled(&self, bytes: &[usize]) -> Vec<usize> {
        let Some((&last, others)) = bytes.split_last() else { return Vec::new() };
        let (end, mut before) = (self.x(last as f64), f64::NEG_INFINITY);
        let mut labelled: Vec<usize> = Vec::new();
        for &bytes in others {
            let x = self.x(bytes as f64);
            if x - before >= APART && end - x >= APART {
                labelled.push(bytes);
                before = x;
            }
        }
        labelled.push(last);
        labelled
    }

    /// The values that have a label.
    fn labels(&self) -> Vec<(f64, String)> {
        match self.up {
            Up::Linear { bottom, top, step } => {
                let places = (-step.log10().floor()).max(0.0) as usize;
                let steps = ((top - bottom) / step).round() as usize;
                let value = |i: usize| bottom + i as f64 * step;
                // No −0.
                let shown = |value: f64| if value.abs() < step / 2.0 { 0.0 } else { value };
                (0..=steps).map(|i| (value(i), format!("{:.places$}", shown(value(i))))).collect()
            }
            Up::Powers { bottom, top } => {
                let label = |power: i32| {
                    let places = usize::try_from(-power).unwrap_or_default();
                    let value = 10f64.powi(power);
                    (value, if power < -3 { format!("{value:e}") } else { format!("{value:.places$}") })
                };
                (bottom..=top).map(label).collect()
            }
        }
    }
}

/// The logarithms of the least and the largest; one alone is in the middle.
fn across(bytes: &[f64]) -> (f64, f64) {
    let (least, most) = ends(bytes);
    let (least, most) = if least < most { (least, most) } else { (least / 2.0, most * 2.0) };
    (least.ln(), most.ln())
}

/// The least and the largest.
fn ends(values: &[f64]) -> (f64, f64) {
    let wider = |(least, most): (f64, f64), &value: &f64| (least.min(value), most.max(value));
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), wider)
}

/// 1, 2 or 5 times a power of ten, not below `least`, which is positive.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|step| *step >= least);
    step.unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame { left: 100, right: 500, top: 0, bottom: 200, font: 10 };

    #[test]
    fn budgets_lie_on_a_logarithmic_scale() {
        let axes = Axes::linear(FRAME, &[10.0, 1000.0], &[0.0, 100.0], (-50.0, 150.0));
        assert!(
            [(10.0, 100.0), (100.0, 300.0), (1000.0, 500.0)]
                .iter()
                .all(|(b, x)| (axes.x(*b) - x).abs() < 1e-9)
        );
        assert_eq!([0.0, 50.0, 100.0].map(|value| axes.y(value)), [Some(200.0), Some(100.0), Some(0.0)]);
        // One budget alone.
        let axes = Axes::linear(FRAME, &[64.0], &[0.0, 1.0], (0.0, 1.0));
        assert!((axes.x(64.0) - 300.0).abs() < 1e-9);
    }

    #[test]
    fn labels_are_round_and_cover_the_values() {
        let labels = |axes: &Axes| axes.labels().into_iter().map(|(_, label)| label).collect::<Vec<_>>();
        let linear = |values: &[f64]| labels(&Axes::linear(FRAME, &[1.0, 2.0], values, (-50.0, 150.0)));
        assert_eq!(linear(&[0.0, 100.0]), ["0", "20", "40", "60", "80", "100"]);
        assert_eq!(linear(&[-2000.0, 98.0]), ["-50", "0", "50", "100"]);
        assert_eq!(linear(&[0.0, 0.9]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        let powers = |values: &[f64]| labels(&Axes::powers(FRAME, &[1.0, 2.0], values));
        assert_eq!(powers(&[0.0, 0.02, 30.0]), ["0.01", "0.1", "1", "10", "100"]);
        assert_eq!(powers(&[0.0]), ["1", "10"]);
        let axes = Axes::powers(FRAME, &[1.0, 2.0], &[0.1, 10.0]);
        assert_eq!((axes.y(1.0), axes.y(0.0)), (Some(100.0), None));
    }

    #[test]
    fn labels_across_do_not_meet() {
        let bytes: Vec<usize> = (0..40).map(|i| 1000 + 100 * i).collect();
        let axes = Axes::linear(FRAME, &[1000.0, 4900.0], &[0.0, 1.0], (0.0, 1.0));
        let labelled = axes.labelled(&bytes);
        assert_eq!((labelled.first(), labelled.last()), (Some(&1000), Some(&4900)));
        assert!(labelled.windows(2).all(|pair| axes.x(pair[1] as f64) - axes.x(pair[0] as f64) >= APART));
        assert!(labelled.len() > 2);
    }
}
