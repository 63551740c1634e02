//! How a run's times spread: their histogram, and the order in which they came.

use std::fmt::Write;

use super::axis::Axis;
use super::{Frame, Size, draw_across, draw_up, duration, label, mark, open, path, text_width};
use crate::bench::record::Run;
use crate::bench::words::up;
use crate::svg::escape;

/// Bars of a histogram, at most and, but for a short part of it, at least.
const BARS: f64 = 64.0;
const FEW: f64 = 12.0;
/// Times so many times p99 have an axis of their own, and leave this part of the width to the rest.
const TAIL: f64 = 1.6;
const BODY: f64 = 0.66;
/// Pixels of a column of the timeline, and of one in which one segment end is shown.
const COLUMN: f64 = 1.5;
const END_COLUMN: f64 = 8.0;
/// The most outliers that are marked.
const OUTLIERS: usize = 40;
/// A time is an outlier above p99.9, when it is this many times p50 or more.
const FAR: f64 = 1.5;
/// A pause of so many usual distances, and of this part of the whole, is left out.
const PAUSE: (f64, f64) = (20.0, 0.005);
/// The most stretches of a timeline; with more it has its pauses.
const STRETCHES: usize = 12;
/// Pixels between two stretches, and two scales.
const GAP: f64 = 6.0;

/// The ordinary runs by time, both axes logarithmic, with p50, p99 and p99.9.
pub fn histogram(run: &Run, size: Size) -> String {
    let mut svg = open(size, "Ordinary runs by time, logarithmic both ways");
    let font = size.font;
    let frame = frame(size, 3.0 * 1.25 * font + 4.0);
    let parts = parts(run, frame);
    let bars = bars(&run.histogram, &parts);
    // One run alone has a bar that can be seen.
    let most = bars.iter().map(|bar| bar.1).max().unwrap_or_default().max(10) as f64;
    let axis = Axis::log(&[0.5, most], frame.up());
    let count_name = |count: f64| if count.fract() == 0.0 { count.to_string() } else { String::new() };
    draw_up(&mut svg, frame, font, &axis, count_name);
    draw_across(&mut svg, frame, font, &parts.iter().flat_map(places).collect::<Vec<_>>());
    draw_cut(&mut svg, frame, &parts);
    svg.push_str("<g class=\"s0\" fill=\"currentColor\">");
    for ((start, end), count) in bars.iter().copied().filter(|bar| bar.1 > 0) {
        let across = part(&parts, end);
        let (left, right, top) = (across.at(start), across.at(end), axis.at(count as f64));
        let _ = write!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{count} runs of {} to {} µs</title></rect>",
            (right - left - 0.6).max(0.6),
            frame.bottom - top,
            up(start),
            up(end)
        );
    }
    svg.push_str("</g>");
    match bars.iter().any(|bar| bar.1 > 0) {
        true => draw_percentiles(&mut svg, run, frame, font, &parts),
        false => label(&mut svg, (size.width / 2.0, size.height / 2.0), "middle", "muted", "no runs"),
    }
    svg.push_str("</svg>");
    svg
}

/// The axis across: of one part, or, when the longest times would press the rest together, of two, the second beyond p99.
fn parts(run: &Run, frame: Frame) -> Vec<Axis> {
    let times = run.histogram.iter().filter(|bucket| bucket.1 > 0).map(|bucket| bucket.0);
    let times: Vec<f64> = times.chain([run.ordinary.p50, run.ordinary.min]).collect();
    let cut = run.ordinary.p99;
    let most = times.iter().copied().filter(|time| time.is_finite()).fold(0.0, f64::max);
    let is_far = cut > 0.0 && most > TAIL * cut;
    if !is_far {
        return vec![Axis::log(&times, frame.across())];
    }
    let middle = frame.left + BODY * (frame.right - frame.left);
    let body: Vec<f64> = times.into_iter().filter(|time| *time <= cut).chain([cut]).collect();
    let body = Axis::log(&body, (frame.left, middle));
    let tail = Axis::span(body.end(), most * 1.06, (middle + GAP, frame.right));
    vec![body, tail]
}

/// The part of the axis that a time lies on.
fn part(parts: &[Axis], us: f64) -> &Axis {
    let last = &parts[parts.len() - 1];
    parts.iter().find(|part| us <= part.end() * (1.0 + 1e-9)).unwrap_or(last)
}

/// Two strokes where the axis changes its scale.
fn draw_cut(svg: &mut String, frame: Frame, parts: &[Axis]) {
    if let [body, _] = parts {
        let x = body.at(body.end());
        for x in [x, x + GAP] {
            path(svg, "axis", &format!("M{:.1} {:.1}l4 -10", x - 2.0, frame.bottom + 5.0));
        }
    }
}

fn frame(size: Size, top: f64) -> Frame {
    let font = size.font;
    Frame { left: 4.6 * font, right: size.width - 1.2 * font, top, bottom: size.height - 1.9 * font }
}

fn places(axis: &Axis) -> Vec<(f64, String)> {
    axis.ticks().iter().map(|tick| (axis.at(*tick), duration(*tick))).collect()
}

/// Bins of the axis and the runs in each.
fn bars(histogram: &[(f64, u64)], parts: &[Axis]) -> Vec<((f64, f64), u64)> {
    let bins = parts.iter().enumerate().flat_map(|(index, part)| {
        let room = BARS * part.length() / parts.iter().map(Axis::length).sum::<f64>();
        // Bars narrower than the buckets would be a comb.
        let buckets = histogram.iter().filter(|bucket| part.has(bucket.0)).count() / 2;
        let most = if index == 0 { (buckets as f64).max(FEW) } else { room };
        part.bins(room.min(most).round().max(1.0) as usize)
    });
    let mut bars: Vec<((f64, f64), u64)> = bins.map(|bin| (bin, 0)).collect();
    for (edge, count) in histogram {
        // The first that ends above; what is no time is in the first.
        let place = bars.partition_point(|((_, end), _)| end < edge).min(bars.len() - 1);
        bars[place].1 = bars[place].1.saturating_add(*count);
    }
    bars
}

/// Lines at p50, p99 and p99.9, each named in a row of its own, the longest in the first: a name is left of its line, where
/// the others' lines are not or begin below, so names meet neither each other nor a line.
fn draw_percentiles(svg: &mut String, run: &Run, frame: Frame, font: f64, parts: &[Axis]) {
    let times = &run.ordinary;
    for (row, (name, us)) in
        [("p99.9", times.p999), ("p99", times.p99), ("p50", times.p50)].into_iter().enumerate()
    {
        let (x, y) = (part(parts, us).at(us), 1.25 * font * (row as f64 + 0.8));
        let name = format!("{name} {} µs", up(us));
        let has_room = x - 4.0 > text_width(&name, font);
        let (anchor, beside) = if has_room { ("end", x - 4.0) } else { ("start", x + 4.0) };
        svg.push_str("<g class=\"mark\" stroke=\"currentColor\" stroke-dasharray=\"3 2\">");
        let _ = write!(svg, "<path d=\"M{x:.1} {:.1}V{:.1}\"/></g>", y - 0.7 * font, frame.bottom);
        label(svg, (beside, y), anchor, "text", &name);
    }
}

/// A run's times in their order, pauses left out: from the least to the longest in each column of pixels, outliers and
/// segment ends marked.
pub fn timeline(run: &Run, size: Size) -> String {
    let mut svg = open(size, "Times in their order, with outliers and segment ends");
    let frame = frame(size, size.font);
    let points: Vec<(f64, f64, bool)> =
        run.timeline.iter().copied().filter(|(at_s, us, _)| at_s.is_finite() && us.is_finite()).collect();
    let values: Vec<f64> = points.iter().map(|point| point.1).collect();
    let axis = Axis::fitting(&values, frame.up());
    draw_up(&mut svg, frame, size.font, &axis, duration);
    if points.is_empty() {
        label(&mut svg, (size.width / 2.0, size.height / 2.0), "middle", "muted", "no runs");
    }
    let clock = Clock::new(&points, frame.across());
    clock.draw(&mut svg, frame, size.font);
    draw_columns(&mut svg, &points, &clock, &axis);
    for (at_s, us, _) in ends(&points, &clock) {
        draw_mark(
            &mut svg,
            "end",
            2,
            (clock.at(at_s), axis.at(us)),
            &format!("segment end, {} µs at {at_s:.2} s", up(us)),
        );
    }
    for (at_s, us, _) in outliers(run, &points) {
        draw_mark(
            &mut svg,
            "mark",
            0,
            (clock.at(at_s), axis.at(us)),
            &format!("outlier, {} µs at {at_s:.2} s", up(us)),
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Ordinary times: a line from the least to the longest in each column.
fn draw_columns(svg: &mut String, points: &[(f64, f64, bool)], clock: &Clock, axis: &Axis) {
    let mut columns: Vec<(i64, f64, f64)> = Vec::new();
    for (at_s, us, _) in points.iter().filter(|point| !point.2) {
        let column = (clock.at(*at_s) / COLUMN) as i64;
        match columns.last_mut() {
            Some((last, least, most)) if *last == column => (*least, *most) = (least.min(*us), most.max(*us)),
            _ => columns.push((column, *us, *us)),
        }
    }
    let mut d = String::new();
    for (column, least, most) in columns {
        // A point, too, is as high as the line is wide.
        let (low, high) = (axis.at(least), axis.at(most).min(axis.at(least) - COLUMN));
        let _ = write!(d, "M{:.1} {low:.1}V{high:.1}", (column as f64 + 0.5) * COLUMN);
    }
    let _ = write!(svg, "<g class=\"s0\" stroke=\"currentColor\" stroke-width=\"{COLUMN}\">");
    path(svg, "", &d);
    svg.push_str("</g>");
}

fn draw_mark(svg: &mut String, class: &str, shape: usize, at: (f64, f64), hint: &str) {
    let _ = write!(svg, "<g class=\"{class}\"><title>{}</title>", escape(hint));
    mark(svg, shape, at, 3.0);
    svg.push_str("</g>");
}

/// Segment ends, of each few pixels the longest.
fn ends(points: &[(f64, f64, bool)], clock: &Clock) -> Vec<(f64, f64, bool)> {
    let mut ends: Vec<(f64, f64, bool)> = Vec::new();
    let column = |point: &(f64, f64, bool)| (clock.at(point.0) / END_COLUMN) as i64;
    for point in points.iter().filter(|point| point.2) {
        match ends.last_mut() {
            Some(last) if column(last) == column(point) => {
                *last = if point.1 > last.1 { *point } else { *last }
            }
            _ => ends.push(*point),
        }
    }
    ends
}

/// The longest of the ordinary times that are far above the rest.
fn outliers(run: &Run, points: &[(f64, f64, bool)]) -> Vec<(f64, f64, bool)> {
    let limit = run.ordinary.p999.max(FAR * run.ordinary.p50);
    let mut far: Vec<(f64, f64, bool)> =
        points.iter().copied().filter(|point| !point.2 && point.1 > limit && limit > 0.0).collect();
    far.sort_by(|a, b| b.1.total_cmp(&a.1));
    far.truncate(OUTLIERS);
    far
}

/// Seconds across, in stretches without the pauses between: other runs had their turn in these.
struct Clock {
    /// Start, end, and where it begins and ends in pixels; in order.
    stretches: Vec<(f64, f64, f64, f64)>,
}

impl Clock {
    fn new(points: &[(f64, f64, bool)], pixels: (f64, f64)) -> Self {
        let spans = spans(points);
        let room = pixels.1 - pixels.0 - GAP * spans.len().saturating_sub(1) as f64;
        let total: f64 = spans.iter().map(|(start, end)| end - start).sum();
        // None is too narrow to be seen.
        let weight = |(start, end): &(f64, f64)| (end - start).max(0.02 * total).max(1e-9);
        let weights: f64 = spans.iter().map(weight).sum();
        let mut left = pixels.0;
        let stretch = |span: &(f64, f64)| {
            let right = left + room * weight(span) / weights;
            let stretch = (span.0, span.1, left, right);
            left = right + GAP;
            stretch
        };
        Self { stretches: spans.iter().map(stretch).collect() }
    }

    fn at(&self, at_s: f64) -> f64 {
        let place = self.stretches.partition_point(|stretch| stretch.1 < at_s);
        let Some((start, end, left, right)) = self.stretches.get(place).or(self.stretches.last()) else {
            return 0.0;
        };
        let part = if end > start { ((at_s - start) / (end - start)).clamp(0.0, 1.0) } else { 0.5 };
        left + part * (right - left)
    }

    /// When each stretch begins, the last's end, and where pauses were.
    fn draw(&self, svg: &mut String, frame: Frame, font: f64) {
        let seconds = |at_s: f64| format!("{at_s:.*} s", if at_s < 10.0 { 2 } else { 1 });
        for (_, _, left, _) in self.stretches.iter().skip(1) {
            path(svg, "grid", &format!("M{:.1} {:.1}V{:.1}", left - GAP / 2.0, frame.top, frame.bottom));
        }
        let starts = self.stretches.iter().map(|stretch| (stretch.2, seconds(stretch.0)));
        let end = self.stretches.last().filter(|stretch| stretch.1 > stretch.0);
        let end = end.map(|stretch| (stretch.3, seconds(stretch.1)));
        draw_across(svg, frame, font, &starts.chain(end).collect::<Vec<_>>());
    }
}

/// The stretches of time in which there are points.
fn spans(points: &[(f64, f64, bool)]) -> Vec<(f64, f64)> {
    let mut times: Vec<f64> = points.iter().map(|point| point.0).collect();
    times.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (times.first().copied(), times.last().copied()) else {
        return Vec::new();
    };
    let mut apart: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    apart.sort_by(f64::total_cmp);
    let usual = apart.get(apart.len() / 2).copied().unwrap_or_default();
    let pause = (PAUSE.0 * usual).max(PAUSE.1 * (last - first));
    let mut spans = vec![(first, first)];
    for time in times {
        match spans.last_mut() {
            Some(span) if time - span.1 <= pause => span.1 = time,
            _ => spans.push((time, time)),
        }
    }
    if spans.len() > STRETCHES { vec![(first, last)] } else { spans }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(times_s: &[f64]) -> Vec<(f64, f64, bool)> {
        times_s.iter().map(|at_s| (*at_s, 1.0, false)).collect()
    }

    #[test]
    fn pauses_are_left_out_and_steady_steps_are_not() {
        let mut times: Vec<f64> = (0..100).map(|i| 1.0 + f64::from(i) * 1e-3).collect();
        times.extend((0..100).map(|i| 9.0 + f64::from(i) * 1e-3));
        let found = spans(&points(&times));
        assert_eq!(found.len(), 2);
        assert!((found[0].1 - 1.099).abs() < 1e-9 && (found[1].0 - 9.0).abs() < 1e-9);
        let steady: Vec<f64> = (0..50).map(f64::from).collect();
        assert_eq!(spans(&points(&steady)), [(0.0, 49.0)]);
        assert_eq!((spans(&[]), spans(&points(&[3.0]))), (vec![], vec![(3.0, 3.0)]));
    }

    #[test]
    fn time_runs_from_left_to_right_within_the_frame() {
        let mut times: Vec<f64> = (0..100).map(|i| 1.0 + f64::from(i) * 1e-3).collect();
        times.extend((0..300).map(|i| 9.0 + f64::from(i) * 1e-3));
        let clock = Clock::new(&points(&times), (40.0, 340.0));
        let places: Vec<f64> = times.iter().map(|time| clock.at(*time)).collect();
        assert!(places.is_sorted());
        assert!((places[0] - 40.0).abs() < 1e-9 && (places[399] - 340.0).abs() < 1e-9, "{places:?}");
        // The pause is as wide as a gap; the second stretch three times as wide as the first.
        assert!((places[100] - places[99] - GAP).abs() < 1e-9);
        assert!(places[399] - places[100] > 2.9 * (places[99] - places[0]));
    }

    #[test]
    fn a_long_tail_has_a_scale_of_its_own_and_loses_nothing() {
        let mut run = crate::bench::made_up::full("tract", 4, 100.0, 5000, 0.0);
        run.histogram.push((20_000.0, 1));
        let frame = Frame { left: 0.0, right: 300.0, top: 0.0, bottom: 100.0 };
        let parts = parts(&run, frame);
        assert_eq!(parts.len(), 2);
        let bars = bars(&run.histogram, &parts);
        let all: u64 = run.histogram.iter().map(|bucket| bucket.1).sum();
        assert_eq!(bars.iter().map(|bar| bar.1).sum::<u64>(), all);
        // From left to right, without a hole but for the gap.
        let place = |us: f64, end: f64| part(&parts, end).at(us);
        let holes =
            bars.windows(2).map(|pair| place(pair[1].0.0, pair[1].0.1) - place(pair[0].0.1, pair[0].0.1));
        let holes: Vec<f64> = holes.filter(|hole| hole.abs() > 1e-6).collect();
        assert!(holes.len() == 1 && (holes[0] - GAP).abs() < 1e-6, "{holes:?}");
        assert!(part(&parts, run.ordinary.p50).at(run.ordinary.p50) < BODY * 300.0);
        assert!(part(&parts, 20_000.0).at(20_000.0) > 250.0);
    }

    #[test]
    fn every_run_of_the_histogram_is_in_a_bar() {
        let histogram = [(1.0, 3), (1.001, 4), (50.0, 1), (1000.0, 2), (f64::NAN, 1), (0.0, 1)];
        let times: Vec<f64> = histogram.iter().map(|bucket| bucket.0).collect();
        let bars = bars(&histogram, &[Axis::log(&times, (0.0, 100.0))]);
        assert_eq!(bars.iter().map(|bar| bar.1).sum::<u64>(), 12);
        assert!(bars.iter().any(|((start, end), count)| *count == 1 && (*start..=*end).contains(&50.0)));
        let full = self::bars(&[(1.0, u64::MAX), (1.0, u64::MAX)], &[Axis::log(&[1.0], (0.0, 100.0))]);
        assert_eq!(full.iter().map(|bar| bar.1).max(), Some(u64::MAX));
    }
}
