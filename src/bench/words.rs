//! How a bench's numbers and runs are written, on the page and in a comparison.

use super::record::{Latency, Run};

/// Significant digits of a time.
const DIGITS: i32 = 4;
/// What a product of floating point may be above or below a whole number that it stands for.
const SLACK: f64 = 1e-6;

/// A number in four digits, rounded up: a time is never told shorter than it was.
pub fn up(value: f64) -> String {
    rounded(value, f64::ceil, -SLACK)
}

/// A number in four digits, rounded down: what more of is better is never told higher than it was.
pub fn down(value: f64) -> String {
    rounded(value, f64::floor, SLACK)
}

/// A small number as `1.2e-7`, rounded up.
pub fn scientific(value: f64) -> String {
    if !(value > 0.0 && value.is_finite()) {
        return if value == 0.0 { "0".into() } else { "?".into() };
    }
    let unit = 10f64.powf(value.log10().floor() - 1.0);
    format!("{:.1e}", (value / unit - SLACK).ceil() * unit)
}

fn rounded(value: f64, round: fn(f64) -> f64, slack: f64) -> String {
    if !value.is_finite() {
        return "?".into();
    }
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    let places = (DIGITS - 1 - magnitude).clamp(0, 9);
    let scale = 10f64.powi(places);
    // No −0.
    let value = round(value * scale + slack) / scale + 0.0;
    format!("{value:.*}", places as usize)
}

/// By how much `after` is above `before`, in percent with its sign, rounded up; `?` where there is no such number.
pub fn change(before: f64, after: f64) -> String {
    let tenths = ((after / before - 1.0) * 1000.0 - SLACK).ceil();
    match tenths.is_finite() && before > 0.0 {
        true if tenths == 0.0 => "0.0 %".into(),
        true => format!("{:+.1} %", tenths / 10.0),
        false => "?".into(),
    }
}

/// Bytes in units of 1024, rounded to three digits.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let places = if unit == 0 || value >= 99.95 { 0 } else { 1 };
    format!("{value:.places$} {}", units[unit])
}

/// What a line of a plot stands for: `tract`, `ort plain`, `ort plain cuda`.
pub fn series(run: &Run) -> String {
    let kernels = if run.kernels == "fused" { String::new() } else { format!(" {}", run.kernels) };
    let device = if run.device == "cpu" { String::new() } else { format!(" {}", run.device) };
    format!("{}{kernels}{device}", run.backend)
}

/// What is the same along a line of a plot: `f32 cache, batch 1, step, 1 thread`.
pub fn setting(run: &Run) -> String {
    let chunk = if run.chunk == 1 { "step".into() } else { format!("chunk of {}", run.chunk) };
    let threads = if run.threads == 1 { "1 thread".into() } else { format!("{} threads", run.threads) };
    let rate = run.paced.as_ref().map(|paced| format!(", {} Hz", paced.rate_hz)).unwrap_or_default();
    let gap = run.idle_gap_ms.map(|gap| format!(", after {gap} ms idle")).unwrap_or_default();
    format!("{} cache, batch {}, {chunk}, {threads}{rate}{gap}", run.cache_dtype, run.batch)
}

/// Tokens a second, where runs follow one another: of others it is known how long they took, not how many come through.
pub fn tokens_per_second(run: &Run) -> Option<f64> {
    (run.paced.is_none() && run.idle_gap_ms.is_none()).then_some(run.tokens_per_second)
}

/// p99, of times enough that one in a hundred is among them.
pub fn p99(times: &Latency) -> Option<f64> {
    (times.count >= 100).then_some(times.p99)
}

/// p99.9, of times enough that one in a thousand is among them.
pub fn p999(times: &Latency) -> Option<f64> {
    (times.count >= 1000).then_some(times.p999)
}

/// p99 − p50 of a paced run, where there is a p99.
pub fn jitter_us(run: &Run) -> Option<f64> {
    run.paced.as_ref().map(|paced| paced.jitter_us).filter(|_| p99(&run.ordinary).is_some())
}

/// What is known as `told`, and `-` for what is not.
pub fn or_dash(value: Option<f64>, told: fn(f64) -> String) -> String {
    value.map_or("-".into(), told)
}

/// All that tells a run from the others of a bench.
pub fn name(run: &Run) -> String {
    format!("{}, fill {} of {}, {}", series(run), run.fill, run.capacity, setting(run))
}

/// Text for a terminal: nothing of a record moves its cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_rounded_in_our_favour() {
        let check = |value: f64, expected: [&str; 2]| assert_eq!([up(value), down(value)], expected);
        check(44.31, ["44.31", "44.31"]);
        check(44.3101, ["44.32", "44.31"]);
        check(9.99999, ["10.000", "9.999"]);
        check(0.1, ["0.1000", "0.1000"]);
        check(123_456.7, ["123457", "123456"]);
        check(0.0, ["0.000", "0.000"]);
        check(f64::NAN, ["?", "?"]);
        check(-1.23456, ["-1.234", "-1.235"]);
    }

    #[test]
    fn an_error_is_never_told_smaller_than_it_is() {
        let told = [0.0, 1e-7, 1.201e-7, 9.99e-7, 0.5, f64::NAN].map(scientific);
        assert_eq!(told, ["0", "1.0e-7", "1.3e-7", "1.0e-6", "5.0e-1", "?"]);
    }

    #[test]
    fn a_change_has_a_sign_and_is_never_told_better_than_it_is() {
        let check = |before, after, expected: &str| assert_eq!(change(before, after), expected);
        check(100.0, 110.0, "+10.0 %");
        check(100.0, 110.01, "+10.1 %");
        check(100.0, 90.0, "-10.0 %");
        check(100.0, 90.04, "-9.9 %");
        check(100.0, 99.99, "0.0 %");
        check(100.0, 100.0, "0.0 %");
        check(0.0, 1.0, "?");
        check(1.0, f64::INFINITY, "?");
    }

    #[test]
    fn bytes_have_a_unit() {
        assert_eq!([0, 1023, 1024, 4096 * 1000].map(bytes), ["0 B", "1023 B", "1.0 KiB", "3.9 MiB"]);
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
    }

    #[test]
    fn a_terminal_is_not_moved() {
        assert_eq!(printable("a\u{1b}[2J\u{9b}ü\n"), "a\u{FFFD}[2J\u{FFFD}ü\u{FFFD}");
    }
}
