//! Recordings: a CSV, all of it, checked.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use csv::{ReaderBuilder, StringRecord, Trim};
use jiff::civil;

use crate::source::{is_time_name, list, shown};

/// Rows whose times say what the rate is.
const TIMED: usize = 100;

/// Which columns are played.
#[derive(clap::Args)]
pub struct Columns {
    /// The columns to play, in this order; else all but the time
    #[arg(long, value_delimiter = ',', value_name = "NAMES", requires = "input")]
    columns: Option<Vec<String>>,
    /// The column of the time; else one with a usual name
    #[arg(long, value_name = "NAME", requires = "input")]
    time_column: Option<String>,
}

/// A recording.
#[derive(Debug)]
pub struct Recording {
    /// Names of the channels.
    pub channels: Vec<String>,
    /// `[samples, channels]`.
    pub values: Vec<f32>,
    /// As its times say.
    pub rate_hz: Option<f64>,
}

impl Recording {
    /// Reads all of the file.
    pub fn read(path: &Path, columns: &Columns) -> Result<Self> {
        let read = || {
            let mut file = BufReader::new(File::open(path)?);
            let delimiter = delimiter(file.fill_buf()?);
            let mut reader = ReaderBuilder::new();
            let reader = reader.has_headers(false).delimiter(delimiter).trim(Trim::All).from_reader(file);
            Self::of(reader.into_records(), columns)
        };
        read().with_context(|| format!("input {}", path.display()))
    }

    fn of(mut records: impl Iterator<Item = csv::Result<StringRecord>>, columns: &Columns) -> Result<Self> {
        let first = records.next().context("is empty")??;
        let has_header = first.iter().any(|cell| cell.parse::<f64>().is_err() && instant(cell, "").is_none());
        let names: Vec<String> = match has_header {
            true => first.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect(),
            false => (1..=first.len()).map(|number| number.to_string()).collect(),
        };
        let time = columns.time(&names, (!has_header).then_some(&first))?;
        let played = columns.played(&names, time)?;
        let mut recording = Recording {
            channels: played.iter().map(|&at| names[at].clone()).collect(),
            values: Vec::new(),
            rate_hz: None,
        };
        let mut times = Vec::new();
        let first = (!has_header).then_some(Ok(first));
        for (row, record) in first.into_iter().chain(records).enumerate() {
            let record = record?;
            for &at in &played {
                let cell = record.get(at).unwrap_or_default();
                let value = cell.parse().ok().filter(|value: &f32| value.is_finite());
                recording.values.push(value.ok_or_else(|| {
                    anyhow!("row {}, column {}: {:?} is no finite number", row + 1, names[at], shown(cell))
                })?);
            }
            if let Some(at) = time.filter(|_| row < TIMED) {
                times.extend(record.get(at).and_then(|cell| instant(cell, &names[at])));
            }
        }
        ensure!(!recording.values.is_empty(), "has no rows");
        recording.rate_hz = rate_hz(&times);
        Ok(recording)
    }

    /// What no number of a channel is past.
    pub fn largest(&self, channel: usize) -> f32 {
        let values = self.values.iter().skip(channel).step_by(self.channels.len());
        values.fold(0.0, |largest, value| value.abs().max(largest))
    }
}

impl Columns {
    fn time(&self, names: &[String], first: Option<&StringRecord>) -> Result<Option<usize>> {
        if let Some(name) = &self.time_column {
            return find(names, name).map(Some);
        }
        let is_asked = |name: &String| self.columns.as_ref().is_some_and(|columns| columns.contains(name));
        Ok(match first {
            // Without a header, a date says that it is one.
            Some(first) => first.iter().position(|cell| cell.parse::<f64>().is_err()),
            None => names.iter().position(|name| is_time_name(name) && !is_asked(name)),
        })
    }

    fn played(&self, names: &[String], time: Option<usize>) -> Result<Vec<usize>> {
        let played: Vec<usize> = match &self.columns {
            Some(columns) => columns.iter().map(|name| find(names, name)).collect::<Result<_>>()?,
            None => (0..names.len()).filter(|&at| Some(at) != time).collect(),
        };
        if played.is_empty() {
            bail!("has no column but that of the time");
        }
        Ok(played)
    }
}

fn find(names: &[String], name: &str) -> Result<usize> {
    let at = names.iter().position(|known| known == name);
    at.ok_or_else(|| anyhow!("has no column `{}`, but {}", shown(name), list(names)))
}

/// What the first line has most of.
fn delimiter(start: &[u8]) -> u8 {
    let line = start.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let count = |delimiter: u8| line.iter().filter(|&&byte| byte == delimiter).count();
    // The last of equals is taken: a comma.
    [b'\t', b';', b','].into_iter().max_by_key(|&delimiter| count(delimiter)).unwrap_or(b',')
}

/// A time in seconds: a date, or a number whose unit the column's name says.
fn instant(cell: &str, name: &str) -> Option<f64> {
    if let Ok(number) = cell.parse::<f64>() {
        let name = name.to_ascii_lowercase();
        let unit =
            [("_ms", 1e-3), ("_us", 1e-6), ("_ns", 1e-9)].into_iter().find(|(end, _)| name.ends_with(end));
        return Some(number * unit.map_or(1.0, |(_, seconds)| seconds));
    }
    let at = cell.parse::<civil::DateTime>().ok()?;
    let seconds = at.duration_since(civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    Some(seconds.as_secs_f64())
}

/// The rate that most of the steps have.
fn rate_hz(times: &[f64]) -> Option<f64> {
    let mut steps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    steps.sort_by(f64::total_cmp);
    let step = *steps.get(steps.len() / 2)?;
    // Microseconds are what the wire has.
    (step > 0.0).then(|| 1.0 / ((step * 1e6).round().max(1.0) * 1e-6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, columns: Option<&str>) -> Result<Recording> {
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .delimiter(delimiter(text.as_bytes()))
            .trim(Trim::All)
            .from_reader(text.as_bytes());
        let columns = columns.map(|names| names.split(',').map(str::to_owned).collect());
        Recording::of(reader.into_records(), &Columns { columns, time_column: None })
    }

    #[test]
    fn a_recording_is_its_numbers_without_the_time() {
        let check = |text: &str, channels: &[&str], values: &[f32], rate_hz: Option<f64>| {
            let found = of(text, None).expect(text);
            assert_eq!(
                (&found.channels[..], &found.values[..]),
                (&channels.map_to_strings()[..], values),
                "{text}"
            );
            assert_eq!(found.rate_hz.map(f64::round), rate_hz, "{text}");
        };
        check(
            "time;a;b\n2020-03-09 10:14:33;1;2\n2020-03-09 10:14:34;3;4\n",
            &["a", "b"],
            &[1., 2., 3., 4.],
            Some(1.),
        );
        check("t_x,a\n1,2\n", &["t_x", "a"], &[1., 2.], None);
        check("time_ms\ta\n0\t5\n10\t6\n20\t7\n", &["a"], &[5., 6., 7.], Some(100.));
        check("1,2\n3,4\n", &["1", "2"], &[1., 2., 3., 4.], None);
        check("\u{feff}a\r\n-1e3\r\n", &["a"], &[-1000.], None);
    }

    trait Strings {
        fn map_to_strings(&self) -> Vec<String>;
    }

    impl Strings for [&str] {
        fn map_to_strings(&self) -> Vec<String> {
            self.iter().map(|&text| text.to_owned()).collect()
        }
    }

    #[test]
    fn columns_are_played_in_the_order_asked() {
        let found = of("a,b,c\n1,2,3\n", Some("c,a")).expect("a recording");
        assert_eq!((found.channels, found.values), (vec!["c".to_owned(), "a".to_owned()], vec![3.0, 1.0]));
    }

    #[test]
    fn what_cannot_be_played_is_told() {
        for (text, columns, told) in [
            ("", None, "is empty"),
            ("a,b\n", None, "has no rows"),
            ("time\n1\n", None, "but that of the time"),
            ("a,b\n1,x\n", None, "row 1, column b: \"x\" is no finite number"),
            ("a\nnan\n", None, "no finite number"),
            ("a,b\n1,2\n", Some("d"), "has no column `d`, but `a`, `b`"),
        ] {
            let error = format!("{:#}", of(text, columns).expect_err(text));
            assert!(error.contains(told), "{error}");
        }
    }
}
