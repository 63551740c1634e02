//! Pictures of made-up runs.

use super::*;
use crate::bench::made_up::{full, moment, paced, record, run};
use crate::bench::record::{Latency, Run, Touched};

const SIZE: Size = Size { width: 400.0, height: 300.0, font: 12.0 };

/// The numbers of a picture's coordinates; asserts that each element that is opened is closed.
fn check(svg: &str) {
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("<{tag}"));
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{svg}"),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split(' ').next().unwrap()),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for odd in ["NaN", "inf"] {
        assert!(!svg.contains(odd), "{svg}");
    }
}

/// Runs of every odd kind.
fn odd() -> Vec<Run> {
    let mut nothing = run("tract", 0, &[]);
    nothing.ordinary = Latency::default();
    nothing.tokens_per_second = 0.0;
    let mut huge = full("ort", 3, 50.0, 500, 0.0);
    huge.ordinary.p99 = f64::INFINITY;
    huge.ordinary.p50 = f64::NAN;
    huge.timeline.push((f64::NAN, 1.0, false));
    huge.timeline.push((1.0, f64::INFINITY, true));
    huge.histogram.push((f64::INFINITY, 2));
    let mut zero = full("a", 7, 1.0, 10, 0.0);
    zero.timeline.iter_mut().for_each(|point| *point = (0.0, 0.0, point.2));
    zero.histogram = vec![(0.0, 0), (-1.0, 5), (1.0, u64::MAX), (1.0, u64::MAX)];
    zero.bandwidth_bytes_per_second = 0.0;
    zero.touched = Touched::default();
    let mut one = full("b", 7, 1.0, 1, 0.0);
    one.histogram.truncate(1);
    vec![nothing, huge, zero, one, paced(full("c", 16, 3.0, 1000, 5.0), 1000.0, 3)]
}

#[test]
fn odd_runs_have_pictures() {
    for run in &odd() {
        check(&latency(&[run], SIZE));
        check(&histogram(run, SIZE));
        check(&timeline(run, SIZE));
    }
    check(&latency(&odd().iter().collect::<Vec<_>>(), SIZE));
    check(&latency(&[], SIZE));
    check(&latency_svg(&record(odd())));
    check(&latency_svg(&record(Vec::new())));
    assert!(moment(0.0, &[]).throttled.is_empty());
}

#[test]
fn a_line_rises_with_the_latency_and_a_slower_backend_is_above() {
    let runs: Vec<Run> = [0, 16, 64, 256]
        .iter()
        .flat_map(|fill| {
            [
                full("tract", *fill, 40.0 + *fill as f64, 2000, 0.0),
                full("ort", *fill, 90.0 + 2.0 * *fill as f64, 2000, 0.0),
            ]
        })
        .collect();
    let svg = latency(&runs.iter().collect::<Vec<_>>(), SIZE);
    let line = |series: usize| -> Vec<(f64, f64)> {
        let group = svg
            .split(&format!(
                "<g class=\"s{series}\" stroke=\"currentColor\"><path fill=\"none\" stroke-width=\"2\""
            ))
            .last()
            .unwrap();
        let d = group.split("d=\"M").nth(1).unwrap().split('"').next().unwrap();
        let point =
            |text: &str| text.split_once(' ').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap();
        d.split('L').map(point).collect()
    };
    let (fast, slow) = (line(0), line(1));
    assert_eq!((fast.len(), slow.len()), (4, 4));
    for line in [&fast, &slow] {
        assert!(line.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 > pair[1].1), "{line:?}");
    }
    assert!(fast.iter().zip(&slow).all(|(fast, slow)| fast.1 > slow.1));
    assert_eq!(svg.matches("<title>tract, 64 checkpoints of 256: p50").count(), 1);
}

#[test]
fn a_plot_of_many_steps_is_bounded() {
    let run = full("tract", 64, 100.0, 20_000, 0.0);
    assert!(timeline(&run, SIZE).len() < 40_000, "{}", timeline(&run, SIZE).len());
    assert!(histogram(&run, SIZE).len() < 20_000);
    assert!(timeline(&run, SIZE).contains("<title>outlier, "));
    assert!(timeline(&run, SIZE).contains("<title>segment end, "));
    // Every other step an outlier.
    let mut wild = run;
    wild.timeline.iter_mut().step_by(2).for_each(|point| point.1 *= 1000.0);
    assert_eq!(timeline(&wild, SIZE).matches("<title>outlier, ").count(), 40);
}

#[test]
fn settings_are_panels_and_backends_are_lines() {
    let mut runs = vec![
        full("tract", 0, 40.0, 100, 0.0),
        full("ort", 0, 50.0, 100, 0.0),
        full("tract", 16, 60.0, 100, 0.0),
    ];
    let mut half = full("tract", 0, 30.0, 100, 0.0);
    half.cache_dtype = "f16".into();
    runs.insert(1, half);
    let groups = groups(&runs);
    let shape: Vec<(&str, usize)> = groups.iter().map(|(name, runs)| (name.as_str(), runs.len())).collect();
    assert_eq!(shape, [("f32 cache, batch 1, step, 1 thread", 3), ("f16 cache, batch 1, step, 1 thread", 1)]);
}

#[test]
fn the_floor_is_bytes_over_bandwidth() {
    let mut run = run("tract", 0, &[1.0]);
    assert_eq!(floor_us(&run), None);
    run.touched = Touched { weights: 10_000, state: 5_000, cache: 10_000 };
    assert_eq!(floor_us(&run), Some(1.0));
    assert_eq!(floor_us(&Run { threads: 2, ..run.clone() }), None);
    assert_eq!(floor_us(&Run { device: "cuda".into(), ..run.clone() }), None);
    run.bandwidth_bytes_per_second = f64::NAN;
    assert_eq!(floor_us(&run), None);
}

#[test]
fn a_floor_far_below_is_neither_drawn_nor_named() {
    let mut run = full("tract", 64, 100.0, 500, 0.0);
    assert!(latency(&[&run], SIZE).contains("floor</text>"));
    run.touched = Touched { weights: 100, state: 0, cache: 0 };
    assert!(!latency(&[&run], SIZE).contains("floor"));
}

#[test]
fn times_are_told_in_the_unit_that_suits_them() {
    let told = [0.0, 0.25, 1.5, 50.0, 999.0, 1500.0, 20_000.0, 2e6].map(duration);
    assert_eq!(told, ["0 µs", "250 ns", "1.5 µs", "50 µs", "999 µs", "1.5 ms", "20 ms", "2 s"]);
}
