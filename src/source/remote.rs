//! Live inputs by their URIs: what is neither a file nor standard input.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use mcedge_models::contract::Input;

use super::bytes::Bytes;
use super::saved::Saved;
use super::tell::Teller;
use super::uri::{Uri, told};
use super::{Format, Options, Started, What, csv, journal, mqtt, socket, tail, text_board};

/// Schemes of live inputs.
pub const SCHEMES: [&str; 8] = ["serial", "i2c", "tail", "journal", "tcp-listen", "tcp", "unix", "mqtt"];

/// Whether `uri` is of a live input: one that is opened here.
pub fn is_live(uri: &str) -> bool {
    uri.split_once("://").is_some_and(|(scheme, _)| SCHEMES.contains(&scheme))
}

/// Whether samples of `uri` have numbers, by which those that are missing are known: frames of a board, or a sensor.
pub fn is_link(uri: &str, format: Option<Format>) -> bool {
    let is_of_lines = format.is_some_and(|format| format != Format::Frames);
    uri.starts_with("i2c://") || (uri.starts_with("serial://") && !is_of_lines)
}

/// What a stream from a live input is called, where the path's stem does not say.
pub fn stream_name(uri: &str) -> Option<String> {
    let mut uri = Uri::parse(uri).ok().flatten().filter(|_| is_live(uri))?;
    let what = uri.what("").unwrap_or_default();
    let stem = |path: &str| Some(Path::new(path).file_stem()?.to_string_lossy().into_owned());
    match uri.scheme.as_str() {
        "tail" | "unix" | "serial" | "i2c" => stem(&what),
        "journal" => {
            let units = uri.take_all("unit");
            Some(units.first().and_then(|unit| stem(unit)).unwrap_or_else(|| "journal".to_owned()))
        }
        "mqtt" => what.split_once('/').map(|(_, topic)| topic.to_owned()),
        _ => Some(what),
    }
}

/// The file that a URI follows.
pub fn local_path(uri: &str) -> Option<String> {
    let uri = Uri::parse(uri).ok().flatten().filter(|uri| uri.scheme == "tail")?;
    uri.what("PATH").ok()
}

/// A live input as it is told: without a password, and without what is behind the ?.
fn name(uri: &str) -> String {
    let told = told(uri);
    told.split_once('?').map_or(told.as_str(), |(name, _)| name).to_owned()
}

/// Starts to read a live input: as [`super::start`].
pub fn start(text: &str, input: &Input, options: &Options, saved: Option<&Saved>) -> Result<Started> {
    let name = name(text);
    let start = || -> Result<Started> {
        saved.map_or(Ok(()), |saved| saved.check(text))?;
        if text.starts_with("serial://") || text.starts_with("i2c://") {
            let what = match options.format {
                None | Some(Format::Frames) => What::Link,
                Some(format) => {
                    let (bytes, counters) = text_board::open(text, format, input, options)?;
                    What::Text(bytes, counters)
                }
            };
            return Ok(Started { name: name.clone(), path: text.to_owned(), what });
        }
        let uri = Uri::parse(text)?.context("is no URI")?;
        let place = saved.map(Saved::place);
        let is_placed = matches!(uri.scheme.as_str(), "tail" | "journal" | "mqtt");
        let found = place.map_or("", |place| place.cursor.as_str());
        ensure!(is_placed || found.is_empty(), "the snapshot is of another input, {found:?}");
        let path = if uri.scheme == "tail" { uri.what("PATH")? } else { "-".to_owned() };
        let (teller, stop) = (Teller::new(&name), Arc::clone(&options.stop));
        let bytes = match uri.scheme.as_str() {
            "tail" => {
                let is_csv =
                    matches!((input, options.format), (Input::Features { .. }, None | Some(Format::Csv)));
                let is_json = |line: &[u8]| matches!(line.trim_ascii_start(), [b'{' | b'[', ..]);
                let is_header = |line: &[u8]| is_csv && !is_json(line) && csv::has_names(line, options);
                let (tail, start) = tail::Tail::open(uri, place, is_header, tail::Times::default(), teller)?;
                Bytes::lines(tail, Some(start), stop)?
            }
            "journal" => {
                let (journal, start) = journal::Journal::open(uri, place, teller)?;
                Bytes::lines(journal, Some(start), stop)?
            }
            "mqtt" => {
                let what = mqtt::Address::parse(uri.clone(), rumqttc::QoS::AtMostOnce)?.what();
                ensure!(
                    found.is_empty() || found == what,
                    "is {:?}, the snapshot is of another input, {found:?}",
                    what
                );
                let (messages, acks) = mqtt::Messages::open(uri, teller)?;
                Bytes::lines(messages, None, stop)?
                    .named(what)
                    .settling(move |consumed| acks.settle(consumed))
            }
            "tcp-listen" => Bytes::lines(socket::open_tcp_listen(&uri, teller)?, None, stop)?,
            "tcp" => Bytes::lines(socket::open_tcp(uri, teller)?, None, stop)?,
            _ => match socket::open_unix(uri, teller)? {
                socket::UnixEnd::Connection(connection) => Bytes::lines(connection, None, stop)?,
                socket::UnixEnd::Listening(listening) => Bytes::lines(listening, None, stop)?,
            },
        };
        Ok(Started { name: name.clone(), path, what: What::Bytes(bytes) })
    };
    start().with_context(|| format!("input {name}"))
}
