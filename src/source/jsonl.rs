//! JSON lines: on each an object of channels by name, `{"features": […], "time": …}`, `{"tokens": […]}`, an array
//! of numbers, or a token. Where that is asked for, `{"tokens": […], "answers": […]}`, as many of both: an answer is what
//! the logits at its token should be largest for, or null.

use anyhow::{Context, Result, anyhow, bail, ensure};
use mcedge_models::contract::Input;
use serde_json::{Map, Value};

use super::bytes::Lines;
use super::{
    Fields, Options, Read, Reading, Row, channel_names, check_columns, check_finite, check_token,
    is_time_name, list, shown,
};

/// The key of a whole sample.
const FEATURES: &str = "features";
/// The key of several tokens.
const TOKENS: &str = "tokens";
/// The key of as many answers.
const ANSWERS: &str = "answers";

/// JSON lines, open at the first.
pub struct Jsonl {
    pub lines: Lines,
    keys: Keys,
}

/// What to look for in a line.
struct Keys {
    /// The channels, in order; empty when only whole samples are known.
    channels: Vec<String>,
    /// The time, when it was named.
    time: Option<String>,
    /// The stream's name.
    stream: Option<String>,
    answers: Answers,
    input: Input,
}

/// What is done with the key of answers.
#[derive(Clone, Copy)]
enum Answers {
    /// Nothing: it is like any other that is not asked for.
    Ignored,
    /// No line may have it, as the first had not.
    Refused,
    /// Every line must have it. They are below this.
    Expected(usize),
}

/// Whether the next of `lines`, which stays the next, has answers.
pub fn have_answers(lines: &mut Lines) -> Result<bool> {
    if !lines.advance()? {
        return Ok(false);
    }
    let object: Option<Map<String, Value>> = serde_json::from_slice(lines.text()).ok();
    lines.put_back();
    Ok(object.is_some_and(|object| object.contains_key(TOKENS) && object.contains_key(ANSWERS)))
}

impl Jsonl {
    pub fn open(mut lines: Lines, input: &Input, options: &Options, fields: &mut Fields) -> Result<Self> {
        let channels = match (&options.columns, input) {
            (Some(_), Input::Tokens { .. }) => bail!("columns are not chosen from JSON lines of tokens"),
            (Some(columns), _) => columns.clone(),
            (None, Input::Features { names, .. }) => names.clone(),
            (None, Input::Tokens { .. }) => Vec::new(),
        };
        if let Input::Features { size, names, .. } = input {
            check_columns(options.columns.as_deref(), *size)?;
            fields.channels = channel_names(names, options.columns.as_deref(), *size);
        }
        let (time, stream) = (options.time_column.clone(), options.stream_column.clone());
        ensure!(lines.advance_to_text()?, lines.nothing("has no rows".into()));
        let first: Option<Map<String, Value>> = serde_json::from_slice(lines.text()).ok();
        lines.put_back();
        let has_answers = first.as_ref().is_some_and(|object| object.contains_key(ANSWERS));
        let answers = match (input, options.answers) {
            (Input::Tokens { .. }, Some(count)) if has_answers => Answers::Expected(count),
            (Input::Tokens { .. }, Some(_)) => Answers::Refused,
            _ => Answers::Ignored,
        };
        fields.answers = matches!(answers, Answers::Expected(_));
        let keys = Keys { channels, time, stream, answers, input: input.clone() };
        fields.time = first.is_some_and(|object| keys.time(&object).is_some());
        Ok(Jsonl { lines, keys })
    }

    /// What of a line is taken for what.
    pub fn reading(&self) -> Reading {
        let Keys { channels, time, stream, .. } = &self.keys;
        let (channels, time, stream) = (channels.clone(), time.clone(), stream.clone());
        Reading { channels, time, stream, ..Reading::default() }
    }

    pub fn next(&mut self, row: &mut Row) -> Result<Read> {
        row.clear();
        if !self.lines.advance()? {
            return Ok(Read::End);
        }
        if self.lines.text().trim_ascii().is_empty() {
            return Ok(Read::Nothing);
        }
        let parsed = serde_json::from_slice(self.lines.text())
            .context("is not JSON")
            .and_then(|value| self.keys.parse(&value, row))
            .with_context(|| format!("line {}", self.lines.number()));
        Ok(parsed.map_or_else(Read::Bad, |()| Read::Row))
    }
}

impl Keys {
    fn parse(&self, value: &Value, row: &mut Row) -> Result<()> {
        if let Value::Object(object) = value {
            match (self.time(object), &self.time) {
                (Some(time), _) => row.set_time(&time),
                (None, Some(name)) => bail!("no time in key `{}`", shown(name)),
                (None, None) => {}
            }
        }
        if let Some(name) = &self.stream {
            let text = value.get(name).and_then(text);
            let text = text.ok_or_else(|| anyhow!("no name of a stream in key `{}`", shown(name)))?;
            row.set_stream(&text).with_context(|| format!("key `{}`", shown(name)))?;
        }
        match &self.input {
            Input::Features { size, .. } => self.sample(value, *size, row),
            Input::Tokens { .. } => self.tokens(value, row),
        }
    }

    fn sample(&self, value: &Value, size: usize, row: &mut Row) -> Result<()> {
        match value {
            Value::Array(numbers) => numbers.iter().try_for_each(|value| row.push_number(value))?,
            Value::Object(object) => match object.get(FEATURES) {
                Some(Value::Array(numbers)) => numbers.iter().try_for_each(|value| row.push_number(value))?,
                _ => self.channels(object, row)?,
            },
            other => bail!("is {}, expected an object or an array", kind(other)),
        }
        ensure!(row.features.len() == size, "has {} numbers, the model takes {size}", row.features.len());
        Ok(())
    }

    fn channels(&self, object: &Map<String, Value>, row: &mut Row) -> Result<()> {
        if self.channels.is_empty() {
            bail!("the model does not name its channels: choose keys with --columns, or give `{FEATURES}`");
        }
        for name in &self.channels {
            let value = object.get(name).ok_or_else(|| {
                let found: Vec<&String> = object.keys().collect();
                anyhow!(
                    "no key `{}` among {}; the model takes {}",
                    shown(name),
                    list(&found),
                    list(&self.channels)
                )
            })?;
            row.push_number(value).with_context(|| format!("key `{}`", shown(name)))?;
        }
        Ok(())
    }

    fn tokens(&self, value: &Value, row: &mut Row) -> Result<()> {
        let tokens = match value {
            Value::Object(object) => object.get(TOKENS).ok_or_else(|| {
                let found: Vec<&String> = object.keys().collect();
                anyhow!("no key `{TOKENS}` among {}", list(&found))
            })?,
            other => other,
        };
        let tokens = tokens.as_array().map_or(std::slice::from_ref(tokens), Vec::as_slice);
        ensure!(!tokens.is_empty(), "has no tokens");
        for token in tokens {
            let token =
                token.as_i64().ok_or_else(|| anyhow!("{} is not a token", shown(&token.to_string())))?;
            row.tokens.push(check_token(token, &self.input)?);
        }
        self.answers(value.get(ANSWERS), row)
    }

    fn answers(&self, answers: Option<&Value>, row: &mut Row) -> Result<()> {
        let count = match self.answers {
            Answers::Ignored => return Ok(()),
            Answers::Refused if answers.is_none() => return Ok(()),
            Answers::Refused => bail!("has `{ANSWERS}`, the first line has none"),
            Answers::Expected(count) => count,
        };
        let answers = answers.and_then(Value::as_array);
        let answers = answers.ok_or_else(|| anyhow!("no array `{ANSWERS}`, as the first line has"))?;
        let (found, expected) = (answers.len(), row.tokens.len());
        ensure!(found == expected, "has {expected} tokens and {found} answers, expected as many of both");
        for answer in answers {
            row.answers.push(if answer.is_null() { None } else { Some(checked(answer, count)?) });
        }
        Ok(())
    }

    /// The time of an object: of the key that was named, else of the first with a usual name that is no channel.
    fn time(&self, object: &Map<String, Value>) -> Option<String> {
        let value = match &self.time {
            Some(name) => object.get(name)?,
            None => {
                let is_taken = |name| self.channels.contains(name) || self.stream.as_ref() == Some(name);
                object.get(object.keys().find(|name| is_time_name(name) && !is_taken(name))?)?
            }
        };
        text(value)
    }
}

impl Row {
    fn push_number(&mut self, value: &Value) -> Result<()> {
        let number =
            value.as_f64().ok_or_else(|| anyhow!("{} is not a number", shown(&value.to_string())))?;
        self.features.push(check_finite(number as f32)?);
        Ok(())
    }
}

/// An answer, one of `count`.
fn checked(answer: &Value, count: usize) -> Result<usize> {
    let index = answer.as_u64().and_then(|index| usize::try_from(index).ok()).filter(|&index| index < count);
    let last = count - 1;
    index.ok_or_else(|| {
        anyhow!("answer {} is not one of the model's, 0 to {last}, or null", shown(&answer.to_string()))
    })
}

/// A time or a name, as it was written.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
