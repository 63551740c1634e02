//! An entry of the journal in JSON, made a line of a classic log.

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

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
    let fields: Map<String, Value> = serde_json::from_slice(json).ok()?;
    let field = |names: &[&str]| names.iter().find_map(|&name| text(fields.get(name)?));
    let is_cursor = |cursor: &String| {
        // As long as any, with room for what goes before it in a snapshot.
        (1..CURSOR_MAX - 64).contains(&cursor.len()) && cursor.bytes().all(|byte| byte.is_ascii_graphic())
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

/// The text of a field: a string, an array of bytes where they are no text, or an array of its values, the first of which
/// counts.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(values) => {
            let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok());
            let bytes: Option<Vec<u8>> = values.iter().map(byte).collect();
            match bytes {
                Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
                None => values.iter().find_map(text),
            }
        }
        Value::Null | Value::Bool(_) | Value::Object(_) => None,
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
        check("{}", None, None);
        for garbage in ["", "-- Logs begin --", "[]", "{\"MESSAGE\":", "null", "\"x\""] {
            assert_eq!(entry(garbage.as_bytes(), &zone), None, "{garbage}");
        }
    }
}
