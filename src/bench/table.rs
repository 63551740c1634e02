//! A record as text, for a terminal of 80 columns.

use std::fmt::Write;

use super::plot::floor_us;
use super::record::{GOLDEN, PLAIN, Record, Run};
use super::words::{
    bytes, down, jitter_us, or_dash, p99, p999, printable, scientific, series, tokens_per_second,
};

/// Widths of the columns behind a backend's name.
const COLUMNS: [(&str, usize); 10] = [
    ("p50", 7),
    ("p90", 7),
    ("p99", 7),
    ("p99.9", 7),
    ("max", 7),
    ("min", 7),
    ("tok/s", 7),
    ("ratio", 7),
    ("read", 5),
    ("end", 7),
];
/// Width of a backend's name.
const NAME: usize = 12;

/// What was measured, and what it was measured on.
pub fn table(record: &Record) -> String {
    let mut text = head(record);
    for group in record.runs.chunk_by(|a, b| settings(a) == settings(b)) {
        let _ = writeln!(text, "\n{}; µs", heading(&group[0]));
        let _ = write!(text, "{:NAME$}", "");
        COLUMNS.iter().for_each(|(name, width)| text.push_str(&right(name, *width)));
        text.push('\n');
        for runs in group.chunk_by(|a, b| a.fill == b.fill) {
            let _ = writeln!(text, "{}", floor(&runs[0]));
            runs.iter().for_each(|run| text.push_str(&row(run, &runs[0])));
        }
    }
    text.push_str(&legend(record));
    text
}

/// The model and the machine.
fn head(record: &Record) -> String {
    let (model, machine) = (&record.model, &record.machine);
    let segment = model.segment.map(|segment| format!(", segments of {segment} tokens")).unwrap_or_default();
    let virtual_machine = machine.hypervisor.iter().map(|vendor| format!(", virtual ({vendor} hypervisor)"));
    let pinned = machine.pinned.map(|cpu| format!(", pinned to CPU {cpu}"));
    let rest: String = virtual_machine.chain(pinned).collect();
    let count = record.runs.first().map_or(0, |run| run.rounds_us.len());
    format!(
        "{}: {} numbers{segment}\n{}, {}{rest}\n{count} rounds, {}\n",
        printable(&model.name),
        model.parameters,
        machine.cpu,
        machine.instructions,
        record.date
    )
}

/// What a table is of.
fn settings(run: &Run) -> (&str, usize, usize) {
    (&run.cache_dtype, run.batch, run.chunk)
}

fn heading(run: &Run) -> String {
    let tokens = if run.chunk == 1 { "one token".to_owned() } else { format!("{} tokens", run.chunk) };
    let streams = if run.batch == 1 { String::new() } else { format!(" of each of {} streams", run.batch) };
    let threads = if run.threads == 1 { String::new() } else { format!(", {} threads", run.threads) };
    format!("{tokens}{streams} a run, {} cache{threads}", run.cache_dtype)
}

/// What a run takes at least, by what has to be read.
fn floor(run: &Run) -> String {
    let bandwidth = run.bandwidth_bytes_per_second / 1e9;
    let floor = floor_us(run)
        .map(|floor| format!(", {} µs at the {bandwidth:.1} GB/s one core reads", down(floor)))
        .unwrap_or_default();
    let plural = if run.fill == 1 { "" } else { "s" };
    format!("{} checkpoint{plural}: {} touched{floor}", run.fill, bytes(run.touched.total()))
}

fn row(run: &Run, first: &Run) -> String {
    let Run { ordinary, segment_end, .. } = run;
    let [p50, p90, max, min] = [ordinary.p50, ordinary.p90, ordinary.max, ordinary.min].map(Some);
    let times = [p50, p90, p99(ordinary), p999(ordinary), max, min];
    let mut cells: Vec<String> = times.map(|time| or_dash(time, micros)).to_vec();
    cells.push(or_dash(tokens_per_second(run), count));
    cells.push(ratio(ordinary.p50 / first.ordinary.p50));
    cells.push(floor_us(run).map_or("-".into(), |floor| percent(floor / run.ordinary.p50)));
    cells.push(segment_end.as_ref().map_or("-".into(), |end| micros(end.p50)));
    if ordinary.count == 0 {
        cells[..6].fill("-".into());
        cells[7..9].fill("-".into());
    }
    let mut line = format!(" {:<1$}", series(run), NAME - 1);
    if line.chars().count() > NAME {
        line = format!(
            "{}
{:NAME$}",
            line.trim_end(),
            ""
        );
    }
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        line.push_str(&right(cell, width));
    }
    line + "\n"
}

/// What the columns mean, how the outputs were checked, and what is not a column.
fn legend(record: &Record) -> String {
    let mut text = String::from(
        "\nratio: p50 by that of the first; read: part of one core's read bandwidth;\nend: p50 of a run that ends a segment\n",
    );
    for run in &record.runs {
        if let Some(paced) = &run.paced {
            let _ = writeln!(
                text,
                "{} at {} checkpoints, {} Hz:\n  {} of {} deadlines missed, p99 − p50 {} µs",
                series(run),
                run.fill,
                paced.rate_hz,
                paced.missed,
                paced.deadlines,
                or_dash(jitter_us(run), micros)
            );
        }
    }
    let mut names: Vec<String> = Vec::new();
    for run in &record.runs {
        let name = series(run);
        if !names.contains(&name) {
            text.push_str(&start(&name, &record.runs));
            names.push(name);
        }
    }
    text.push_str(&outputs(&record.runs));
    if let Some(resident) = record.runs.last().and_then(|run| run.resident_bytes) {
        let _ = writeln!(text, "resident: {}, all of these in one process", bytes(resident));
    }
    text
}

/// What the outputs are like, and the error that is nearest to what it may be.
fn outputs(runs: &[Run]) -> String {
    let part = |run: &&Run| run.check.error / run.check.tolerance;
    let Some(Run { check, .. }) = runs.iter().max_by(|a, b| part(a).total_cmp(&part(b))) else {
        return String::new();
    };
    let against = |is: fn(&str) -> bool| runs.iter().flat_map(|run| &run.check.against).any(|name| is(name));
    let mut like = Vec::new();
    for (held, name) in [
        (against(|name| name == GOLDEN), "the golden run's"),
        (against(|name| name == PLAIN), "the plain bodies'"),
        (against(|name| name != GOLDEN && name != PLAIN), "each other's"),
    ] {
        like.extend(held.then_some(name));
    }
    let like = match like.split_last() {
        None => return "outputs: not checked\n".into(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    };
    let (error, allowed) = (scientific(check.error), check.tolerance);
    format!("outputs: like {like},\n  but for {error} ({allowed:e} allowed)\n")
}

/// How a backend starts, over all of its runs.
fn start(backend: &str, runs: &[Run]) -> String {
    let of = |value: fn(&Run) -> f64| {
        let values = runs.iter().filter(|run| series(run) == backend).map(value);
        values.fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), value| {
            (least.min(value), most.max(value))
        })
    };
    let range = |(least, most): (f64, f64)| match (micros(least), micros(most)) {
        (least, most) if least == most => least,
        (least, most) => format!("{least} to {most}"),
    };
    format!(
        "{backend}: loads in {} ms, first run {} µs\n",
        range(of(|run| run.load_ms)),
        range(of(|run| run.first_us))
    )
}

fn right(text: &str, width: usize) -> String {
    format!("{text:>width$}")
}

/// A time in at most six characters, rounded up: never told shorter than it was.
fn micros(us: f64) -> String {
    let up = |value: f64| (value - 1e-6).ceil();
    match up(us * 10.0) / 10.0 {
        tenths if tenths < 100.0 => format!("{tenths:.1}"),
        _ if up(us) < 1e6 => format!("{:.0}", up(us)),
        _ => format!("{us:.1e}"),
    }
}

/// A count in at most six characters, rounded down: more of it is better.
fn count(count: f64) -> String {
    match count {
        count if count < 1e5 => format!("{:.0}", floored(count)),
        count if count < 1e6 => format!("{:.0}k", floored(count / 1e3)),
        count if count < 100e6 => format!("{:.2}M", floored(count / 1e4) / 100.0),
        count => format!("{:.0}M", floored(count / 1e6)),
    }
}

/// How many times as long as the first, in at most six characters below 99999, rounded down: the first is not told faster.
fn ratio(times: f64) -> String {
    match times {
        times if times < 100.0 => format!("{:.2}×", floored(times * 100.0) / 100.0),
        times => format!("{:.0}×", floored(times)),
    }
}

/// A part in at most five characters, rounded down.
fn percent(part: f64) -> String {
    if part < 10.0 { format!("{:.0}%", floored(100.0 * part)) } else { ">999%".into() }
}

/// Rounded down, but for the noise of floating point.
fn floored(value: f64) -> f64 {
    (value + 1e-6).floor()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::made_up::{self, record};
    use crate::bench::record::{Latency, Paced, Touched};

    fn latency(us: f64) -> Latency {
        let [min, p90, p99, p999, max] = [0.9, 1.1, 1.5, 4.0, 900.0].map(|times| us * times);
        Latency { count: 1000, min, p50: us, p90, p99, p999, max }
    }

    fn run(backend: &str, kernels: &str, fill: usize, us: f64) -> Run {
        Run {
            kernels: kernels.into(),
            load_ms: us / 3.0,
            first_us: us * 12.0,
            ordinary: latency(us),
            segment_end: Some(latency(us + 3.0)),
            resident_bytes: Some(50 << 20),
            touched: Touched { weights: 300_000, state: 20_000, cache: 180_000 },
            bandwidth_bytes_per_second: 50e9,
            ..made_up::run(backend, fill, &[us; 5])
        }
    }

    /// The words of the line that begins with `name`.
    fn words<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
        let line = text.lines().find(|line| line.trim_start().starts_with(name));
        line.unwrap().split_whitespace().collect()
    }

    #[test]
    fn a_row_has_what_was_measured() {
        let text = table(&record(vec![run("tract", "fused", 64, 40.0), run("ort", "plain", 64, 100.0)]));
        // 500 kB in 40 µs are 12.5 GB/s, a quarter of 50.
        let expected =
            ["tract", "40.0", "44.0", "60.0", "160", "36000", "36.0", "25000", "1.00×", "25%", "43.0"];
        assert_eq!(words(&text, "tract "), expected, "{text}");
        let plain = words(&text, "ort plain ");
        assert_eq!((plain[9], plain[10]), ("2.50×", "10%"), "{text}");
        assert!(text.contains("10.00 µs at the 50.0 GB/s"), "{text}");
    }

    #[test]
    fn a_quantile_of_too_few_runs_is_not_told() {
        let of = |count| {
            let mut run = run("tract", "fused", 64, 40.0);
            run.ordinary.count = count;
            let text = table(&record(vec![run]));
            words(&text, "tract ")[3..5].iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!([of(99), of(100)], [["-", "-"], ["60.0", "-"]]);
        assert_eq!([of(999), of(1000)], [["60.0", "-"], ["60.0", "160"]]);
    }

    #[test]
    fn outputs_are_said_to_be_like_what_they_were_held_against() {
        let mut run = run("tract", "fused", 64, 40.0);
        (run.check.error, run.check.tolerance) = (1.01e-7, 1e-4);
        let mut check = |against: &[&str], expected: &str| {
            run.check.against = against.iter().map(ToString::to_string).collect();
            assert_eq!(outputs(std::slice::from_ref(&run)), expected);
        };
        let but = "but for 1.1e-7 (1e-4 allowed)";
        check(&[GOLDEN], &format!("outputs: like the golden run's,\n  {but}\n"));
        check(&[GOLDEN, PLAIN], &format!("outputs: like the golden run's and the plain bodies',\n  {but}\n"));
        let three = "the golden run's, the plain bodies' and each other's";
        check(&[GOLDEN, PLAIN, "tract on cpu"], &format!("outputs: like {three},\n  {but}\n"));
        check(&[], "outputs: not checked\n");
    }

    #[test]
    fn eighty_columns_hold_it_whatever_the_numbers() {
        let mut runs = Vec::new();
        for (fill, us) in [(0, 0.02), (1, 99.96), (64, 99_999.7), (65_536, 7e6), (1 << 26, 1e-3)] {
            for (backend, kernels) in [("tract", "fused"), ("ort", "plain")] {
                let paced =
                    Paced { rate_hz: 1e6, missed: u64::MAX >> 20, deadlines: u64::MAX >> 20, jitter_us: us };
                runs.push(Run { paced: Some(paced), ..run(backend, kernels, fill, us) });
            }
        }
        let none = Latency::default();
        runs.push(Run {
            ordinary: none,
            segment_end: None,
            device: "tensorrt".into(),
            ..run("ort", "plain", 5, 1.0)
        });
        let text = table(&record(runs));
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
            assert!(!line.contains("NaN") && !line.contains("inf"), "{line}");
        }
    }

    #[test]
    fn six_characters_hold_any_number() {
        for exponent in -5..12 {
            for number in [1.0, 9.99999, 5.0] {
                let number = number * 10f64.powi(exponent);
                assert!(micros(number).len() <= 6, "{}", micros(number));
                assert!(number > 1e10 || count(number).len() <= 6, "{}", count(number));
                assert!(ratio(number.min(9e4)).chars().count() <= 6, "{}", ratio(number));
                assert!(percent(number).len() <= 5, "{}", percent(number));
            }
        }
        assert_eq!([micros(99.84), micros(99.96), micros(1e6)], ["99.9", "100", "1.0e6"]);
        assert_eq!([count(99_999.4), count(123_456.0), count(4.2e6)], ["99999", "123k", "4.20M"]);
        assert_eq!([count(99_999.9), count(999_999.9), count(4.199e6)], ["99999", "999k", "4.19M"]);
        assert_eq!([ratio(2.999), ratio(99.999), percent(0.999)], ["2.99×", "99.99×", "99%"]);
    }
}
