//! An entry of the journal in JSON, made a line of a classic log.

use std::fmt;

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::super::live::CURSOR_MAX;

/// What there is of an entry.
#[derive(Debug, PartialEq)]
pub struct Entry {
    /// `Mon DD HH:MM:SS host identifier[pid]: message` and a newline; none where it has no message.
    pub line: Option<String>,
    /// Where the journal goes on behind it.
    pub cursor: Option<String>,
}

/// Reads a line of `journalctl -o json`, for a log of times in `zone`; none where it is no object.
pub fn entry(json: &[u8], zone: &TimeZone) -> Option<Entry> {
    let Fields(fields) = serde_json::from_slice(json).ok()?;
    let field = |names: &[&str]| names.iter().find_map(|&name| fields[index(name)?].clone());
    let is_cursor = |cursor: &String| {
        // As long as any, with room for what goes before it and behind it in a snapshot.
        (1..CURSOR_MAX / 2).contains(&cursor.len()) && cursor.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let cursor = field(&["__CURSOR"]).filter(is_cursor);
    let Some(message) = field(&["MESSAGE"]) else { return Some(Entry { line: None, cursor }) };
    let time = field(&["_SOURCE_REALTIME_TIMESTAMP"]).and_then(|time| local(&time, zone));
    let time = time.or_else(|| local(&field(&["__REALTIME_TIMESTAMP"])?, zone));
    let time = time.unwrap_or_else(|| "Jan  1 00:00:00".to_owned());
    let host = field(&["_HOSTNAME"]).unwrap_or_else(|| "localhost".to_owned());
    let identifier = field(&["SYSLOG_IDENTIFIER", "_COMM"]).unwrap_or_else(|| "unknown".to_owned());
    let pid = field(&["_PID", "SYSLOG_PID"]).map_or(String::new(), |pid| format!("[{pid}]"));
    let line = format!("{time} {host} {identifier}{pid}: {}", message.trim_end());
    // An entry is one line.
    let line = line.replace(['\n', '\r'], " ") + "\n";
    Some(Entry { line: Some(line), cursor })
}

/// Fields that are read; others are passed over, whatever is in them.
const NAMES: [&str; 9] = [
    "__CURSOR",
    "__REALTIME_TIMESTAMP",
    "_SOURCE_REALTIME_TIMESTAMP",
    "_HOSTNAME",
    "SYSLOG_IDENTIFIER",
    "_COMM",
    "_PID",
    "SYSLOG_PID",
    "MESSAGE",
];

fn index(name: &str) -> Option<usize> {
    NAMES.iter().position(|&known| known == name)
}

/// The texts of the fields of [`NAMES`]; of one that is there twice the last.
struct Fields([Option<String>; NAMES.len()]);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an entry of the journal")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields(Default::default());
        while let Some(name) = map.next_key::<String>()? {
            match index(&name) {
                Some(index) => fields.0[index] = map.next_value::<Field>()?.text,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(fields)
    }
}

/// A field, or a value of one that has several.
#[derive(Default)]
struct Field {
    /// A string, an array of bytes where they are no text, or an array of its values, the first of which counts.
    text: Option<String>,
    /// What it is in an array of bytes.
    byte: Option<u8>,
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl FieldVisitor {
    fn number(number: Number) -> Field {
        let byte = number.as_u64().and_then(|byte| u8::try_from(byte).ok());
        Field { text: Some(number.to_string()), byte }
    }
}

/// Nothing is kept of an array but the bytes that it is made of, or the text of its first value.
impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field of an entry")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Field, E> {
        Ok(Field { text: Some(text.to_owned()), byte: None })
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Field, E> {
        Ok(Self::number(number.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Field, E> {
        Ok(Self::number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Field, E> {
        Ok(Number::from_f64(number).map_or_else(Field::default, Self::number))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Field, E> {
        Ok(Field::default())
    }

    fn visit_unit<E: Error>(self) -> Result<Field, E> {
        Ok(Field::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Field, A::Error> {
        let (mut bytes, mut first) = (Some(Vec::new()), None);
        while bytes.is_some() || first.is_none() {
            let Some(value) = values.next_element::<Field>()? else { break };
            match (&mut bytes, value.byte) {
                (Some(bytes), Some(byte)) => bytes.push(byte),
                _ => bytes = None,
            }
            first = first.or(value.text);
        }
        while values.next_element::<IgnoredAny>()?.is_some() {}
        let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Field { text: text.or(first), byte: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::default())
    }
}

/// Microseconds since 1970 as a log has them.
fn local(time_us: &str, zone: &TimeZone) -> Option<String> {
    let time = Timestamp::from_microsecond(time_us.parse().ok()?).ok()?;
    strtime::format("%b %e %H:%M:%S", &time.to_zoned(zone.clone())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_line_of_a_log() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let check = |json: &str, line: Option<&str>, cursor: Option<&str>| {
            let found = entry(json.as_bytes(), &zone).unwrap();
            let line = line.map(|line| format!("{line}\n"));
            assert_eq!(found, Entry { line, cursor: cursor.map(str::to_owned) }, "{json}");
        };
        // 2005-07-05 23:59:59 UTC.
        let base = r#""__REALTIME_TIMESTAMP":"1120607999000000","_HOSTNAME":"combo","SYSLOG_IDENTIFIER":"sshd","_PID":"19939""#;
        let with = |more: &str| format!("{{{base},{more}}}");
        check(
            &with(r#""MESSAGE":"authentication failure","__CURSOR":"s=1;i=2""#),
            Some("Jul  6 01:59:59 combo sshd[19939]: authentication failure"),
            Some("s=1;i=2"),
        );
        let head = "Jul  6 01:59:59 combo sshd[19939]:";
        check(&with(r#""MESSAGE":[104,105,255]"#), Some(&format!("{head} hi\u{FFFD}")), None);
        check(&with(r#""MESSAGE":["two","values"]"#), Some(&format!("{head} two")), None);
        check(&with(r#""MESSAGE":[[104,105],"x"]"#), Some(&format!("{head} hi")), None);
        check(
            &with(r#""MESSAGE":"three\nlines\r\nof text\n""#),
            Some(&format!("{head} three lines  of text")),
            None,
        );
        check(&with(r#""MESSAGE":"""#), Some(&format!("{head} ")), None);
        check(&with(r#""MESSAGE":null,"__CURSOR":"s=1""#), None, Some("s=1"));
        check(&with(r#""__CURSOR":"no line\n""#), None, None);
        check(
            r#"{"MESSAGE":"m","_COMM":["cron","x"],"SYSLOG_PID":["7","8"],"__REALTIME_TIMESTAMP":"0",
                "_SOURCE_REALTIME_TIMESTAMP":"1000000"}"#,
            Some("Jan  1 02:00:01 localhost cron[7]: m"),
            None,
        );
        check(
            r#"{"MESSAGE":"m","__REALTIME_TIMESTAMP":"soon"}"#,
            Some("Jan  1 00:00:00 localhost unknown: m"),
            None,
        );
        check(&with(r#""MESSAGE":[7,"x"],"X":[[{"y":[]}],1e9]"#), Some(&format!("{head} 7")), None);
        check(&with(r#""MESSAGE":[{"y":[1]},null,true,"x",[]]"#), Some(&format!("{head} x")), None);
        check(&with(r#""MESSAGE":-1.5"#), Some(&format!("{head} -1.5")), None);
        check("{}", None, None);
        for garbage in ["", "-- Logs begin --", "[]", "{\"MESSAGE\":", "null", "\"x\""] {
            assert_eq!(entry(garbage.as_bytes(), &zone), None, "{garbage}");
        }
    }

    /// The most memory that this process has had since it was last asked, in bytes.
    fn most_memory() -> Option<usize> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        std::fs::write("/proc/self/clear_refs", "5").ok()?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? << 10)
    }

    #[test]
    fn an_entry_takes_no_more_memory_than_its_bytes_whatever_it_is_made_of() {
        for name in ["MESSAGE", "OTHER"] {
            let bomb = format!("{{\"{name}\":[{}[]],\"__CURSOR\":\"s=1\"}}", "[],".repeat(2_700_000));
            let Some(_) = most_memory() else {
                return println!("skipped: /proc does not say what memory is used");
            };
            let Some(before) = most_memory() else { return };
            let found = entry(bomb.as_bytes(), &TimeZone::UTC).unwrap();
            assert_eq!(found.cursor.as_deref(), Some("s=1"));
            let more = most_memory().unwrap().saturating_sub(before);
            // Other tests run beside this one.
            assert!(more < 48 << 20, "{name}: {more} bytes more");
        }
    }
}
