//! Inputs with answers: JSON lines, each a sequence of its own, `{"tokens": [..], "answers": [..]}`, both of T entries. An
//! answer is the token that the logits at its place should be largest for, or null.

use std::fs;

use anyhow::{Context, Result, ensure};
use mcedge_models::contract::{Contract, Input, OutputKind};
use serde::Deserialize;

use super::input::{Sequence, Values};
use crate::source::Format;

/// The key that makes of JSON lines an input with answers.
const KEY: &[u8] = b"\"answers\"";

/// One line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    tokens: Vec<i64>,
    answers: Vec<Option<i64>>,
}

/// The text of `uri`, when it is a file of JSON lines with answers; what cannot be read is told where it is opened again.
pub fn text(uri: &str, format: Option<Format>) -> Result<Option<String>> {
    let path = uri.strip_prefix("file://").unwrap_or(uri);
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension).to_ascii_lowercase();
    let by_extension = matches!(extension.as_str(), "jsonl" | "ndjson" | "json");
    if !(format == Some(Format::Jsonl) || format.is_none() && by_extension) || path == "-" {
        return Ok(None);
    }
    match fs::read(path) {
        Ok(bytes) if bytes.windows(KEY.len()).any(|window| window == KEY) => {
            let text = String::from_utf8(bytes).with_context(|| format!("input {uri}: is not UTF-8"))?;
            Ok(Some(text))
        }
        _ => Ok(None),
    }
}

/// The sequences of an input with answers.
///
/// # Errors
///
/// A model without tokens or logits; with its line, a line that is not of that form, or of no tokens, or of other lengths,
/// and tokens or answers that the model does not know; no answers at all.
pub fn read(text: &str, contract: &Contract) -> Result<Vec<Sequence>> {
    let Input::Tokens { vocab_size } = contract.input else {
        anyhow::bail!("has answers, which are tokens; the model takes samples");
    };
    let has_logits = contract.output.kind == OutputKind::Logits;
    ensure!(has_logits, "has answers, which are looked for in logits; the model gives none");
    let lines = text.lines().enumerate();
    let sequences: Vec<Sequence> = lines
        .map(|(index, line)| {
            let parsed = sequence(line, vocab_size, contract.output.size);
            parsed.with_context(|| format!("line {}", index + 1))
        })
        .collect::<Result<_>>()?;
    let any = sequences.iter().any(|sequence| sequence.answers.iter().any(Option::is_some));
    ensure!(any, "has no answers but null");
    Ok(sequences)
}

fn sequence(line: &str, vocab_size: usize, classes: usize) -> Result<Sequence> {
    let Line { tokens, answers } =
        serde_json::from_str(line).context("is not {\"tokens\": [..], \"answers\": [..]}")?;
    ensure!(!tokens.is_empty(), "has no tokens");
    let (found, expected) = (answers.len(), tokens.len());
    ensure!(found == expected, "has {expected} tokens and {found} answers, expected as many of both");
    for token in &tokens {
        known(*token, "token", vocab_size)?;
    }
    let answer = |answer: Option<i64>| answer.map(|answer| known(answer, "answer", classes)).transpose();
    let answers = answers.into_iter().map(answer).collect::<Result<_>>()?;
    Ok(Sequence { values: Values::Tokens(tokens), answers })
}

fn known(value: i64, what: &str, size: usize) -> Result<usize> {
    let index = usize::try_from(value).ok().filter(|&index| index < size);
    index.with_context(|| format!("{what} {value} is not one of the model's, 0 to {}", size - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract(output: &str) -> Contract {
        let json = format!(
            r#"{{"schema": "mcedge.contract/1", "name": "by hand", "batch": 1, "capacity": 1, "chunk": 1,
                "input": {{"kind": "tokens", "vocab_size": 9}}, "output": {{"kind": "{output}", "size": 7}},
                "segmentation": {{"kind": "constant", "size": 4}}, "init": "continue", "state": [], "cache": []}}"#
        );
        Contract::parse(&json).unwrap()
    }

    #[test]
    fn a_line_is_a_sequence() {
        let text = "{\"tokens\": [8, 1], \"answers\": [null, 6]}\n{\"answers\":[0],\"tokens\":[0]}\n";
        let sequences = read(text, &contract("logits")).unwrap();
        let expected =
            |tokens: &[i64], answers| Sequence { values: Values::Tokens(tokens.to_vec()), answers };
        assert_eq!(sequences, [expected(&[8, 1], vec![None, Some(6)]), expected(&[0], vec![Some(0)])]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let check = |line: &str, message: &str| {
            let text = format!("{{\"tokens\": [1], \"answers\": [1]}}\n{line}\n");
            let error = format!("{:#}", read(&text, &contract("logits")).unwrap_err());
            assert!(error.starts_with("line 2: ") && error.contains(message), "{error}");
        };
        check("{\"tokens\": [1, 2], \"answers\": [1]}", "2 tokens and 1 answers");
        check("{\"tokens\": [], \"answers\": []}", "no tokens");
        check("{\"tokens\": [9], \"answers\": [1]}", "token 9 is not one of the model's, 0 to 8");
        check("{\"tokens\": [-1], \"answers\": [1]}", "token -1");
        check("{\"tokens\": [8], \"answers\": [7]}", "answer 7 is not one of the model's, 0 to 6");
        check("{\"tokens\": [8]}", "missing field `answers`");
        check("{\"tokens\": [8], \"answers\": [1], \"note\": 1}", "unknown field `note`");
        check("", "is not {");
        check("[1]", "is not {");
        let none = read("{\"tokens\": [1], \"answers\": [null]}", &contract("logits"));
        assert!(none.unwrap_err().to_string().contains("no answers but null"));
        assert!(read("", &contract("regression")).unwrap_err().to_string().contains("logits"));
    }
}
