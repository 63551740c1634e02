//! What columns, keys and channels are called, and what may be in them.

use anyhow::{Result, anyhow, bail, ensure};
use mcedge_models::contract::Input;

/// Names that a time column goes by, in lower case.
const TIME_NAMES: [&str; 15] = [
    "time",
    "timestamp",
    "datetime",
    "date",
    "ts",
    "t",
    "epoch",
    "date_time",
    "time_stamp",
    "time_s",
    "time_ms",
    "time_us",
    "time_ns",
    "timestamp_ms",
    "@timestamp",
];
/// Characters of a bad cell that a message shows.
const SHOWN: usize = 40;

/// Whether a column's or key's name says that it is a time.
pub fn is_time_name(name: &str) -> bool {
    TIME_NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The channels' names: the model's own; else the columns that were asked for; else `x0`, `x1`, ….
pub fn channel_names(names: &[String], columns: Option<&[String]>, size: usize) -> Vec<String> {
    match (names, columns) {
        ([], Some(columns)) => columns.to_vec(),
        ([], None) => (0..size).map(|channel| format!("x{channel}")).collect(),
        _ => names.to_vec(),
    }
}

/// As many columns were asked for as the model has channels.
pub fn check_columns(columns: Option<&[String]>, size: usize) -> Result<()> {
    match columns {
        Some(columns) if columns.len() != size => {
            bail!("{} columns were asked for, {}; the model takes {size}", columns.len(), list(columns))
        }
        _ => Ok(()),
    }
}

pub fn check_finite(value: f32) -> Result<f32> {
    ensure!(value.is_finite(), "{value} is not a finite number");
    Ok(value)
}

pub fn check_token(token: i64, input: &Input) -> Result<i64> {
    let vocab_size = input.size();
    let known = usize::try_from(token).is_ok_and(|token| token < vocab_size);
    known
        .then_some(token)
        .ok_or_else(|| anyhow!("token {token} is not in the vocabulary, 0 to {}", vocab_size - 1))
}

/// Names for a message, in back quotes.
pub fn list<S: AsRef<str>>(names: &[S]) -> String {
    const MOST: usize = 32;
    let mut list: Vec<String> =
        names.iter().take(MOST).map(|name| format!("`{}`", shown(name.as_ref()))).collect();
    if names.len() > MOST {
        list.push(format!("… ({} in all)", names.len()));
    }
    list.join(", ")
}

/// Text for a message: short, and nothing in it that a terminal would obey.
pub fn shown(text: &str) -> String {
    let mut shown = String::new();
    for char in text.chars().take(SHOWN) {
        match char {
            '"' | '\'' | '\\' => shown.push(char),
            _ => shown.extend(char.escape_debug()),
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
