//! An axis: which value lies at which pixel, and which have a label.

/// From this ratio of the largest to the least on, an axis is logarithmic.
const WIDE: f64 = 8.0;
/// Values nearer than this are spread a little, for there is nothing between equals.
const NARROW: f64 = 1.05;
/// The most labels of an axis, about.
const LABELS: usize = 6;

/// Values between two ends, along pixels.
#[derive(Clone, Debug)]
pub struct Axis {
    is_log: bool,
    /// The values at both ends; the second is larger.
    ends: (f64, f64),
    pixels: (f64, f64),
    /// Values that have a label.
    ticks: Vec<f64>,
}

impl Axis {
    /// Those of `values` that are positive: on a logarithmic scale when they spread far, else from 0.
    pub fn fitting(values: &[f64], pixels: (f64, f64)) -> Self {
        match ends(values) {
            Some((least, most)) if most / least < WIDE => Self::from_zero(most, pixels),
            Some(_) => Self::log(values, pixels),
            None => Self::from_zero(1.0, pixels),
        }
    }

    /// From 0 to `most`, which is positive.
    fn from_zero(most: f64, pixels: (f64, f64)) -> Self {
        let step = round_up(most / (LABELS - 1) as f64);
        let steps = (most / step - 1e-9).ceil().max(1.0);
        let ticks: Vec<f64> = (0..=steps as usize).map(|i| i as f64 * step).collect();
        Self { is_log: false, ends: (0.0, steps * step), pixels, ticks }
    }

    /// Those of `values` that are positive, on a logarithmic scale.
    pub fn log(values: &[f64], pixels: (f64, f64)) -> Self {
        let (least, most) = ends(values).unwrap_or((1.0, 1.0));
        let (least, most) =
            if most / least < NARROW { (least / NARROW, most * NARROW) } else { (least, most) };
        // A little room at both ends, the more the wider.
        let room = (most / least).powf(0.03);
        Self::span(least / room, most * room, pixels)
    }

    /// From `least`, which is positive, to `most`, which is larger, on a logarithmic scale.
    pub fn span(least: f64, most: f64, pixels: (f64, f64)) -> Self {
        Self { is_log: true, ends: (least, most), pixels, ticks: log_ticks((least, most)) }
    }

    /// The largest value.
    pub fn end(&self) -> f64 {
        self.ends.1
    }

    /// In pixels.
    pub fn length(&self) -> f64 {
        (self.pixels.1 - self.pixels.0).abs()
    }

    /// The pixel of a value; what is beyond an end is at it.
    pub fn at(&self, value: f64) -> f64 {
        let (least, most) = self.ends;
        // A NaN is at the start.
        let value = value.max(least).min(most);
        let part = match self.is_log {
            true => (value / least).ln() / (most / least).ln(),
            false => (value - least) / (most - least),
        };
        self.pixels.0 + part * (self.pixels.1 - self.pixels.0)
    }

    /// Whether a value lies between the ends.
    pub fn has(&self, value: f64) -> bool {
        (self.ends.0..=self.ends.1).contains(&value)
    }

    /// The values that have a label.
    pub fn ticks(&self) -> &[f64] {
        &self.ticks
    }

    /// `count` bins that cover the axis, as values: start and end.
    pub fn bins(&self, count: usize) -> Vec<(f64, f64)> {
        let (least, most) = self.ends;
        let edge = |i: usize| match self.is_log {
            true => least * (most / least).powf(i as f64 / count as f64),
            false => least + (most - least) * i as f64 / count as f64,
        };
        (0..count).map(|i| (edge(i), edge(i + 1))).collect()
    }
}

/// The least and the largest of the values that are positive numbers.
fn ends(values: &[f64]) -> Option<(f64, f64)> {
    let positive = values.iter().copied().filter(|value| *value > 0.0 && value.is_finite());
    positive.map(|value| (value, value)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// 1, 2 or 5 times a power of ten, not below `least`, which is positive.
fn round_up(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let step =
        [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|step| *step >= least * (1.0 - 1e-9));
    step.unwrap_or(10.0 * power)
}

/// 1, 2 and 5 times the powers of ten between the ends, or the powers alone, or some of them: not more than there is room for.
fn log_ticks((least, most): (f64, f64)) -> Vec<f64> {
    let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
    let ticks = |digits: &[f64], apart: i32| -> Vec<f64> {
        let powers = (low..=high).filter(|power| power % apart == 0);
        let ticks = powers.flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
        ticks.filter(|tick| (least..=most).contains(tick)).collect()
    };
    let choices = [
        ticks(&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0], 1),
        ticks(&[1.0, 2.0, 5.0], 1),
        ticks(&[1.0, 3.0], 1),
        ticks(&[1.0], 1),
        ticks(&[1.0], 2),
        ticks(&[1.0], 4),
    ];
    let ticks = choices.into_iter().find(|ticks| ticks.len() <= LABELS).unwrap_or_default();
    if ticks.len() > 2 { ticks } else { even_ticks((least, most)) }
}

/// Round values at even distances: for ends so near that a power of ten, or a digit, is seldom between them.
fn even_ticks((least, most): (f64, f64)) -> Vec<f64> {
    let step = round_up((most - least) / (LABELS - 1) as f64);
    let first = (least / step).ceil();
    (0..LABELS).map(|i| (first + i as f64) * step).filter(|tick| *tick <= most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_spreads_far_is_logarithmic_and_the_rest_from_zero() {
        let near = Axis::fitting(&[40.0, 100.0], (0.0, 100.0));
        assert_eq!((near.at(0.0), near.at(50.0), near.at(100.0)), (0.0, 50.0, 100.0));
        let far = Axis::fitting(&[1.0, 100.0, 10_000.0], (300.0, 0.0));
        assert!((far.at(100.0) - 150.0).abs() < 1e-9);
        assert!(far.at(1.0) < 300.0 && far.at(10_000.0) > 0.0);
    }

    #[test]
    fn labels_are_round_lie_between_the_ends_and_are_few() {
        let check = |values: &[f64], expected: &[f64]| {
            let axis = Axis::fitting(values, (0.0, 1.0));
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9 * b.abs();
            assert!(
                axis.ticks.len() == expected.len()
                    && axis.ticks.iter().zip(expected).all(|pair| pair.0 == pair.1 || near(pair)),
                "{values:?}: {:?}",
                axis.ticks
            );
        };
        check(&[87.0], &[0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        check(&[40.0, 800.0], &[50.0, 100.0, 200.0, 500.0]);
        check(&[1.0, 100.0], &[1.0, 3.0, 10.0, 30.0, 100.0]);
        check(&[1.0, 20_000.0], &[1.0, 10.0, 100.0, 1000.0, 10_000.0]);
        check(&[], &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        for decade in -6..9 {
            for most in 1..400 {
                let least = 3.7 * 10f64.powi(decade);
                let axis = Axis::log(&[least, least * 1.1f64.powi(most)], (0.0, 1.0));
                assert!(!axis.ticks.is_empty() && axis.ticks.len() <= LABELS, "{axis:?}");
                assert!(axis.ticks.iter().all(|tick| axis.has(*tick)), "{axis:?}");
            }
        }
    }

    #[test]
    fn what_is_no_time_has_a_place_all_the_same() {
        for axis in
            [Axis::fitting(&[0.0, f64::NAN, f64::INFINITY], (0.0, 9.0)), Axis::log(&[-1.0], (0.0, 9.0))]
        {
            for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
                assert!((0.0..=9.0).contains(&axis.at(value)), "{axis:?} {value}");
            }
        }
    }

    #[test]
    fn bins_cover_the_axis() {
        for axis in [Axis::log(&[1.0, 1000.0], (0.0, 1.0)), Axis::fitting(&[3.0], (0.0, 1.0))] {
            let bins = axis.bins(7);
            assert_eq!((bins.len(), bins[0].0), (7, axis.ends.0));
            assert!((bins[6].1 / axis.ends.1 - 1.0).abs() < 1e-12);
            assert!(bins.windows(2).all(|pair| pair[0].1 == pair[1].0));
        }
    }
}
