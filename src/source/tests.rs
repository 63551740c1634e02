use std::io::{self, Cursor, Read, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::bytes::LINE_MAX;
use super::*;

/// A record, kept.
#[derive(Debug, PartialEq)]
struct Kept {
    index: u64,
    time: Option<String>,
    sample: Vec<f32>,
    tokens: Vec<i64>,
    line: Option<Vec<u8>>,
}

fn keep(record: &Record) -> Kept {
    let (sample, tokens, line) = match record.data {
        Data::Sample(sample) => (sample.to_vec(), vec![], None),
        Data::Tokens { tokens, line } => (vec![], tokens.to_vec(), line.map(<[u8]>::to_vec)),
    };
    Kept { index: record.index, time: record.time.map(str::to_owned), sample, tokens, line }
}

fn features(names: &[&str], size: usize) -> Input {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    Input::Features { size, names, units: vec![], rate_hz: None }
}

fn tokens(vocab_size: usize) -> Input {
    Input::Tokens { vocab_size }
}

fn columns(names: &[&str]) -> Options {
    Options { columns: Some(names.iter().map(|&name| name.to_owned()).collect()), ..Options::default() }
}

fn format(format: Format) -> Options {
    Options { format: Some(format), ..Options::default() }
}

fn skip(options: Options) -> Options {
    Options { on_bad: OnBad::Skip, ..options }
}

impl Source {
    /// The next record, whenever it comes; none at the end.
    fn next(&mut self) -> Result<Option<Record<'_>>> {
        loop {
            match self.advance()? {
                Next::Record => return Ok(Some(self.record())),
                Next::Wait => std::thread::park_timeout(POLL),
                Next::Again => {}
                Next::End => return Ok(None),
            }
        }
    }
}

/// Opens contents as a file of that name.
fn over(path: &str, contents: &[u8], input: &Input, options: &Options) -> Result<Source> {
    let total = Some(contents.len() as u64);
    let bytes = Bytes::file(Cursor::new(contents.to_vec()), total, Arc::clone(&options.stop));
    Source::over(path, path, bytes, input, options)
}

fn read_all(source: &mut Source) -> Result<Vec<Kept>> {
    let mut kept = Vec::new();
    while let Some(record) = source.next()? {
        kept.push(keep(&record));
    }
    Ok(kept)
}

fn read(path: &str, contents: &[u8], input: &Input, options: &Options) -> Result<Vec<Kept>> {
    read_all(&mut over(path, contents, input, options)?)
}

/// An `.npy`, version 1.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    npy_of(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"), data)
}

fn npy_of(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u16).to_le_bytes();
    [npy::MAGIC, &[1, 0], &length, header.as_bytes(), data].concat()
}

fn le(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn samples_are_the_same_however_they_are_written() {
    let check = |path: &str, contents: &[u8], input: &Input, options: &Options| {
        let kept = read(path, contents, input, options).unwrap_or_else(|err| panic!("{path}: {err:#}"));
        let samples: Vec<&[f32]> = kept.iter().map(|kept| kept.sample.as_slice()).collect();
        assert_eq!(samples, [[1.0, -2.5], [3e-5, 4.0]], "{path}: {}", String::from_utf8_lossy(contents));
        assert!(kept.iter().all(|kept| kept.time.is_none()), "{path}");
    };
    let none = Options::default();
    let (named, plain) = (features(&["a", "b"], 2), features(&[], 2));
    for input in [&named, &plain] {
        check("x.csv", b"a,b\n1,-2.5\n3e-5,4\n", input, &none);
        check("x.csv", b"1,-2.5\n3e-5,4", input, &none);
        check("x.CSV", b"\xEF\xBB\xBFa;b\r\n1;-2.5\r\n\r\n3e-5;4\r\n", input, &none);
        check("x.tsv", b"\n a\tb \n 1\t -2.5\n+3E-5\t4.0\n", input, &none);
        check("-", b"\"a\",\"b\"\n\"1\",\"-2.5\"\n3e-5,4\n", input, &none);
        check("sensor.dat", b"1;-2.5\n.00003;4.\n", input, &none);
        check("x.jsonl", b"[1, -2.5]\n\n[3e-5, 4]\n", input, &none);
        check("-", b" {\"features\": [1, -2.5]}\r\n[3e-5, 4]", input, &none);
        check("x.npy", &npy("<f4", "(2, 2)", &le(&[1.0, -2.5, 3e-5, 4.0])), input, &none);
        let doubles: Vec<u8> =
            [1.0f64, -2.5, 3e-5, 4.0].iter().flat_map(|number| number.to_le_bytes()).collect();
        check("-", &npy("<f8", "(2,2)", &doubles), input, &none);
    }
    check("x.csv", b"b,c,a,d\n-2.5,text,1,\n4,text,3e-5,nan\n", &named, &none);
    check("x.csv", b"p,q,a,b\n0,0,1,-2.5\n0,0,3e-5,4\n", &named, &none);
    check("x.csv", b"p,q,a,b\n-2.5,1,0,0\n4,3e-5,0,0\n", &named, &columns(&["q", "p"]));
    check("x.csv", b"0,1,0,-2.5\n0,3e-5,0,4\n", &named, &columns(&["2", "4"]));
    check("x.csv", b"1|-2.5\n3e-5|4\n", &named, &Options { delimiter: Some(b'|'), ..none.clone() });
    check("x.csv", b"\"a;x;y\",b\n1,-2.5\n3e-5,4\n", &plain, &none);
    check("x.csv", b"t,date\n1,-2.5\n3e-5,4\n", &features(&["t", "date"], 2), &none);
    check("x.csv", b"a,\"b\"\"\"\n1,-2.5\n3e-5,4\n", &plain, &columns(&["a", "b\""]));
    check("x.jsonl", b"{\"a\":1,\"b\":-2.5,\"c\":null}\n{\"b\":4,\"a\":3e-5}\n", &named, &none);
    check("x.txt", b"{\"u\":1,\"v\":-2.5}\n{\"u\":3e-5,\"v\":4}\n", &plain, &columns(&["u", "v"]));
    let integers: Vec<u8> = [1i32, 2].iter().flat_map(|number| number.to_le_bytes()).collect();
    let kept = read("x.npy", &npy("<i4", "(2,)", &integers), &features(&["a"], 1), &none).unwrap();
    assert_eq!(kept.iter().map(|kept| kept.sample[0]).collect::<Vec<_>>(), [1.0, 2.0]);
}

#[test]
fn a_time_column_is_found_or_named() {
    let check = |path: &str, contents: &str, input: &Input, time_column: Option<&str>, expected: &str| {
        let options = Options { time_column: time_column.map(str::to_owned), ..Options::default() };
        let mut source = over(path, contents.as_bytes(), input, &options).unwrap();
        assert!(source.fields().time, "{contents}");
        let kept = read_all(&mut source).unwrap();
        assert_eq!(kept[0].time.as_deref(), Some(expected), "{contents}");
        assert_eq!(kept[0].sample, [1.0, 2.0], "{contents}");
    };
    let (named, plain) = (features(&["a", "b"], 2), features(&[], 2));
    for input in [&named, &plain] {
        check("x.csv", "datetime;a;b\n2020-03-09 10:14:33;1;2\n", input, None, "2020-03-09 10:14:33");
        check("x.csv", "a,b,Timestamp\n1,2,1583748873\n", input, None, "1583748873");
        check("x.csv", "when,a,b\nTuesday,1,2\n", input, None, "Tuesday");
        check("x.csv", "clock,a,b\n5,1,2\n", input, Some("clock"), "5");
        check("x.csv", "2020-03-09 10:14:33,1,2\n", input, None, "2020-03-09 10:14:33");
        check("x.csv", "0.25,1,2\n", input, Some("1"), "0.25");
        check("x.jsonl", "{\"features\":[1,2],\"time\":\"now\"}", input, None, "now");
        check("x.jsonl", "{\"features\":[1,2],\"at\":7}", input, Some("at"), "7");
    }
    check("x.csv", "time,0,1\n5,1,2\n", &plain, None, "5");
    check("x.csv", "time,a,time_s,b\n0,1,9,2\n", &named, Some("time_s"), "9");
    check("x.jsonl", "{\"ts\":1.5,\"a\":1,\"b\":2}", &named, None, "1.5");
    check("x.csv", "ts,t,date\n12:00,1,2\n", &features(&["t", "date"], 2), None, "12:00");
}

#[test]
fn channels_have_names() {
    let check = |path: &str, contents: &str, input: &Input, options: &Options, expected: &[&str]| {
        let source = over(path, contents.as_bytes(), input, options).unwrap();
        assert_eq!(source.fields().channels, expected, "{contents}");
    };
    let none = Options::default();
    check("x.csv", "p,q\n1,2\n", &features(&[], 2), &none, &["p", "q"]);
    check("x.csv", "p,q\n1,2\n", &features(&[], 1), &columns(&["q"]), &["q"]);
    check("x.csv", "p,q\n1,2\n", &features(&["a"], 1), &columns(&["q"]), &["a"]);
    check("x.csv", "p,q;r\n1,2\n", &features(&[], 2), &none, &["p", "q;r"]);
    check("x.csv", "1,2\n", &features(&["a", "b"], 2), &none, &["a", "b"]);
    check("x.csv", "1,2\n", &features(&[], 2), &none, &["x0", "x1"]);
    check("x.jsonl", "[1,2]\n", &features(&[], 2), &none, &["x0", "x1"]);
    check("x.jsonl", "{}\n", &features(&[], 2), &columns(&["p", "q"]), &["p", "q"]);
    check("x.txt", "text\n", &tokens(256), &none, &[]);
}

#[test]
fn tokens_are_the_same_however_they_are_written() {
    let check = |path: &str, contents: &[u8], input: &Input, options: &Options, expected: &[&[i64]]| {
        let kept = read(path, contents, input, options).unwrap_or_else(|err| panic!("{path}: {err:#}"));
        let found: Vec<&[i64]> = kept.iter().map(|kept| kept.tokens.as_slice()).collect();
        assert_eq!(found, expected, "{path}");
    };
    let none = Options::default();
    let each: [&[i64]; 3] = [&[7], &[0], &[255]];
    let wide: Vec<u8> = [7i64, 0, 255].iter().flat_map(|token| token.to_le_bytes()).collect();
    for vocab_size in [256, 5000] {
        let input = &tokens(vocab_size);
        check("x.npy", &npy("<i8", "(3,)", &wide), input, &none, &each);
        check("-", &npy("|u1", "(3,)", &[7, 0, 255]), input, &none, &each);
        check("x.jsonl", b"7\n0\n255\n", input, &none, &each);
        check("x.jsonl", b"[7]\n{\"tokens\": 0}\n{\"tokens\": [255]}\n", input, &none, &each);
        check("x.jsonl", b"[7, 0, 255]\n[1]", input, &none, &[&[7, 0, 255], &[1]]);
        check("x.csv", b"time,token\n1,7\n2,0\n3,255\n", input, &none, &each);
        check("x.csv", b"7\n0\n255\n", input, &none, &each);
        check("x.csv", b"a,b\n1,7\n2,0\n3,255\n", input, &columns(&["b"]), &each);
    }
    check("-", b"7\n0\n255\n", &tokens(5000), &none, &each);
    check("x.bin", &[7, 0, 255], &tokens(256), &none, &each);
    check("x.csv", &[7, 0, 255], &tokens(256), &format(Format::Bytes), &each);
    check("-", b"\x00\xFF\n\nab", &tokens(256), &none, &[&[0, 255, 10], &[10], &[97, 98]]);
    check("x.log", b"[ok]\r\n", &tokens(256), &none, &[&[91, 111, 107, 93, 13, 10]]);
}

#[test]
fn lines_of_text_are_delivered_whole() {
    let kept = read("x.log", b"one\n\xFFtwo", &tokens(256), &Options::default()).unwrap();
    let lines: Vec<_> = kept.iter().map(|kept| (kept.index, kept.line.as_deref())).collect();
    assert_eq!(lines, [(0, Some(b"one\n".as_slice())), (1, Some(b"\xFFtwo".as_slice()))]);
}

#[test]
fn input_that_cannot_be_used_says_why() {
    let check = |path: &str, contents: &[u8], input: &Input, options: &Options, expected: &str| {
        let err = read(path, contents, input, options).expect_err(expected);
        assert_eq!(
            format!("{err:#}").strip_prefix(&format!("input {path}: ")).unwrap_or(&format!("{err:#}")),
            expected
        );
    };
    let none = Options::default();
    let (ab, plain) = (&features(&["a", "b"], 2), &features(&[], 2));

    check("x.csv", b"", ab, &none, "is empty");
    check("x.csv", b"\n \n", ab, &none, "has no rows");
    check("x.csv", b"a,b\n", ab, &none, "has a header and no rows: `a`, `b`");
    check("x.csv", b"\xFF\xFEa\0,\0b\0\n\0", ab, &none, "is UTF-16, expected UTF-8");
    check("x.csv", b"a,b\n1,2\n3,high\n", ab, &none, "line 3: column `b`: \"high\" is not a number");
    check(
        "x.csv",
        b"a,b\n1,2\n3,\xFF\x1B[2J\n",
        ab,
        &none,
        "line 3: column `b`: \"\u{FFFD}\\u{1b}[2J\" is not a number",
    );
    check("x.csv", b"a;b\n1,5;2\n", ab, &none, "line 2: column `a`: \"1,5\" is not a number");
    check("x.csv", b"a,b\nNaN,2\n", ab, &none, "line 2: column `a`: NaN is not a finite number");
    check("x.csv", b"a,b\n1,-inf\n", ab, &none, "line 2: column `b`: -inf is not a finite number");
    check("x.csv", b"a,b\n1,1e39\n", ab, &none, "line 2: column `b`: inf is not a finite number");
    check("x.csv", b"a,b\n1,\n", ab, &none, "line 2: column `b`: is empty, expected a number");
    check("x.csv", b"a,b\n1\n", ab, &none, "line 2: has 1 columns, expected 2");
    check("x.csv", b"1,2\n1,2,3\n", ab, &none, "line 2: has 3 columns, expected 2");
    check("x.csv", b"a,b\n1,\"2\n3,4\n", ab, &none, "line 2: has a quote that is not closed");
    check("x.csv", b"a,b\r1,2\r3,4", ab, &none, "line 1: has a carriage return inside");
    check(
        "x.csv",
        b"time,a,c\n1,2,3\n",
        ab,
        &none,
        "no column `b`: has columns `time`, `a`, `c`; the model takes `a`, `b`; choose columns with --columns",
    );
    check(
        "x.csv",
        b"a,b,a\n1,2,3\n",
        ab,
        &none,
        "more than one column `a`: has columns `a`, `b`, `a`; the model takes `a`, `b`; choose columns with --columns",
    );
    check(
        "x.csv",
        b"1,2,3\n",
        ab,
        &none,
        "has 3 columns of numbers, `1`, `2`, `3`; the model takes 2; choose with --columns and --time-column",
    );
    check(
        "x.csv",
        b"ts,a,note\n1,2,x\n",
        plain,
        &none,
        "has 1 columns of numbers, `a` besides the time `ts`; the model takes 2; choose with --columns and --time-column",
    );
    check("x.csv", b"a,b\n1,2\n", ab, &columns(&["a"]), "1 columns were asked for, `a`; the model takes 2");
    let time = Options { time_column: Some("at".into()), ..none.clone() };
    check("x.csv", b"a,b\n1,2\n", ab, &time, "no column `at`");
    check(
        "x.csv",
        b"token\n300\n",
        &tokens(256),
        &none,
        "line 2: column `token`: token 300 is not in the vocabulary, 0 to 255",
    );
    check("x.csv", b"token\n1.5\n", &tokens(256), &none, "line 2: column `token`: \"1.5\" is not a token");

    check("x.jsonl", b"{\"a\":1,\"b\":null}", ab, &none, "line 1: key `b`: null is not a number");
    check("x.jsonl", b"{\"a\":1,\"b\":\"x\"}", ab, &none, "line 1: key `b`: \"x\" is not a number");
    check("x.jsonl", b"{\"a\":1,\"b\":1e39}", ab, &none, "line 1: key `b`: inf is not a finite number");
    check("x.jsonl", b"{\"a\":1}", ab, &none, "line 1: no key `b` among `a`; the model takes `a`, `b`");
    check("x.jsonl", b"[1,2,3]", ab, &none, "line 1: has 3 numbers, the model takes 2");
    check("x.jsonl", b"7", ab, &none, "line 1: is a number, expected an object or an array");
    check("x.jsonl", b"{\"a\":1,\"b\":2}", ab, &time, "line 1: no time in key `at`");
    check(
        "x.jsonl",
        b"{\"a\":1,\"b\":2}",
        plain,
        &none,
        "line 1: the model does not name its channels: choose keys with --columns, or give `features`",
    );
    check("x.jsonl", b"[1,2]\nhello", ab, &none, "line 2: is not JSON: expected value at line 1 column 1");
    check("x.jsonl", b"[]", &tokens(9), &none, "line 1: has no tokens");
    check("x.jsonl", b"[1,9]", &tokens(9), &none, "line 1: token 9 is not in the vocabulary, 0 to 8");
    check("x.jsonl", b"[-1]", &tokens(9), &none, "line 1: token -1 is not in the vocabulary, 0 to 8");
    check("x.jsonl", b"{\"ids\":[1]}", &tokens(9), &none, "line 1: no key `tokens` among `ids`");

    let text = "text and bytes need a model of bytes, this one takes samples of 2 channels";
    check("x.txt", b"text", ab, &format(Format::Text), text);
    let text = "text and bytes need a model with a vocabulary of 256, this one has 9";
    check("x.txt", b"text", &tokens(9), &format(Format::Bytes), text);

    let data = &le(&[1.0, 2.0, f32::NAN, 4.0]);
    check("x.npy", b"a,b\n1,2\n", ab, &none, "is not an .npy file");
    check("x.npy", &npy("<f4", "(2, 2)", data), ab, &none, "row 1: column 0: NaN is not a finite number");
    check("x.npy", &npy("<f4", "(3, 2)", data), ab, &none, "has 16 bytes of data, expected 24 for F4 [3, 2]");
    check("x.npy", &npy("<f4", "(1, 2)", data), ab, &none, "has 16 bytes of data, expected 8 for F4 [1, 2]");
    let most = "has 16 bytes of data, expected more than there can be for F4 [18446744073709551615, 2]";
    check("x.npy", &npy("<f4", "(18446744073709551615, 2)", data), ab, &none, most);
    check("x.npy", &npy("<f4", "(4, 1)", data), ab, &none, "has shape [4, 1], the model takes [T, 2]");
    check("x.npy", &npy("<f4", "(0, 2)", &[]), ab, &none, "has no rows: its shape is [0, 2]");
    check("x.npy", &npy("<f4", "()", &data[..4]), ab, &none, "has shape [], the model takes [T, 2]");
    let floats = "has shape [4] and elements F4, the model takes integers [T]";
    check("x.npy", &npy("<f4", "(4,)", data), &tokens(9), &none, floats);
    check(
        "x.npy",
        &npy("<f4", "(2, 2)", data),
        ab,
        &columns(&["a", "b"]),
        "columns are not chosen from an .npy array",
    );
    check("x.npy", b"\x93NUMPY\x09\0\0\0", ab, &none, "is .npy version 9, expected 1 to 3");
    check("x.npy", b"\x93NUMPY\x02\0\xFF\xFF\xFF\xFF", ab, &none, "has an .npy header of 4294967295 bytes");
    check("x.npy", b"\x93NUMPY\x01\0\x20\0{", ab, &none, "ends inside its .npy header");
    let header = |header: &str, expected: &str| {
        check("x.npy", &npy_of(header, data), ab, &none, &format!("its .npy header: {expected}"));
    };
    header("{}", "has no `descr`");
    header("{'descr': '>f4'}", "has elements \">f4\", expected <f4, <f8, <i4, <i8 or |u1");
    header("{'descr': [('a', 7)]}", "has records, expected plain numbers");
    let fortran = "is in Fortran order: save it with np.ascontiguousarray";
    header("{'descr': '<f4', 'shape': (2, 2), 'fortran_order': True}", fortran);
    header("{'descr': '<f4'}", "has no `shape`");
    header("{'descr': '<f4', 'shape': 7}", "has no shape");
    header(
        "{'descr': '<f4', 'shape': (x)}",
        "has a shape that is not numbers: invalid digit found in string",
    );
}

#[test]
fn rows_that_cannot_be_used_are_left_out_when_asked() {
    let check = |path: &str, contents: &[u8], input: &Input, bad: u64, expected: &[u64]| {
        let mut source = over(path, contents, input, &skip(Options::default())).unwrap();
        let indices: Vec<u64> = read_all(&mut source).unwrap().iter().map(|kept| kept.index).collect();
        assert_eq!((source.bad(), indices.as_slice()), (bad, expected), "{path}");
    };
    let ab = features(&["a", "b"], 2);
    check("x.csv", b"a,b\n1,2\nnan,2\n\n1\n\"3,4\n5,six\n7,8\n", &ab, 4, &[0, 5]);
    check("x.csv", b"a,b\n1,\"2\n3,4\n", &ab, 1, &[1]);
    check("x.csv", b"a,b\nnan,2\n", &ab, 1, &[]);
    check("x.jsonl", b"{\"a\":1,\"b\":2}\n{\"a\":1}\n{{\n{\"a\":1,\"b\":2}\n", &ab, 2, &[0, 3]);
    check("x.npy", &npy("<f4", "(2, 2)", &le(&[1.0, f32::NAN, 3.0, 4.0])), &ab, 1, &[1]);
    check("x.csv", b"token\n7\n-1\n8\n", &tokens(256), 1, &[0, 2]);
}

#[test]
fn what_is_no_file_says_so() {
    let directory = std::env::temp_dir();
    let directory = directory.to_str().expect("a path that is text");
    let check = |uri: &str, expected: &str| {
        let err = open(uri, &tokens(256), &Options::default(), None).err().expect(expected);
        assert_eq!(format!("{err:#}"), expected);
    };
    check(directory, &format!("input {directory}: is a directory, expected a file"));
    check("no/such.csv", "input no/such.csv: No such file or directory (os error 2)");
    check("file://no/such.csv", "input no/such.csv: No such file or directory (os error 2)");
    let schemes =
        "`serial://`, `i2c://`, `tail://`, `journal://`, `tcp-listen://`, `tcp://`, `unix://`, `mqtt://`";
    let expected = format!(
        "input \"kafka://x\": expected a path, a file:// URI, - for standard input, or one of {schemes}"
    );
    check("kafka://x", &expected);
    check("mqtt://x", "input mqtt://x: is not mqtt://[user:password@]HOST[:PORT]/TOPIC");
    check(
        "tail:///dev/null",
        "input tail:///dev/null: is no file, which alone can be followed: give its path as it is",
    );
    check("tcp-listen://here", "input tcp-listen://here: has address \"here\", expected HOST:PORT");
    check("unix:///dev/null", "input unix:///dev/null: /dev/null is no socket");
}

/// The same bytes for ever.
struct Endless(&'static [u8], usize);

impl Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        for byte in &mut *out {
            *byte = self.0[self.1 % self.0.len()];
            self.1 += 1;
        }
        Ok(out.len())
    }
}

#[test]
fn nothing_is_kept_of_an_endless_stream() {
    let long = |path: &str, stream: &'static [u8], input: Input| {
        let options = Options::default();
        let bytes = Bytes::live(Endless(stream, 0), Arc::clone(&options.stop)).unwrap();
        let err = Source::over(path, path, bytes, &input, &options).and_then(|mut source| {
            while source.next()?.is_some() {}
            Ok(())
        });
        assert_eq!(
            err.expect_err(path).root_cause().to_string(),
            format!("line 1 is longer than {LINE_MAX} bytes")
        );
    };
    long("x.csv", b"1", features(&[], 1));
    long("x.csv", b"\"", features(&[], 1));
    long("x.csv", b",", features(&[], 1));
    long("x.jsonl", b"[", features(&[], 1));
    long("x.txt", b"x", tokens(256));

    let options = Options::default();
    let bytes = Bytes::live(Endless(b"1,2\n", 0), Arc::clone(&options.stop)).unwrap();
    let mut source = Source::over("x", "x", bytes, &features(&[], 2), &options).unwrap();
    for _ in 0..200_000 {
        assert!(source.next().unwrap().is_some());
    }
    options.stop.store(true, Ordering::Relaxed);
    assert!(source.next().unwrap().is_none());
}

#[test]
fn a_line_of_a_stream_is_delivered_as_soon_as_it_is_complete() {
    let (reader, mut writer) = io::pipe().unwrap();
    let options = Options::default();
    let bytes = Bytes::live(reader, Arc::clone(&options.stop)).unwrap();
    writer.write_all(b"a,b\n1,2\n3").unwrap();
    let mut source = Source::over("x", "x", bytes, &features(&["a", "b"], 2), &options).unwrap();
    let next = |source: &mut Source| source.next().unwrap().map(|record| keep(&record).sample);
    assert!(!source.would_wait());
    assert_eq!(next(&mut source), Some(vec![1.0, 2.0]));
    assert!(source.would_wait(), "for the rest of a line");
    writer.write_all(b",").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert!(source.would_wait(), "for the rest of a line that goes on");
    writer.write_all(b"4\n5,6\n7").unwrap();
    assert_eq!(next(&mut source), Some(vec![3.0, 4.0]));
    assert_eq!(next(&mut source), Some(vec![5.0, 6.0]));
    assert!(source.would_wait());
    // A wait is given up when told to, and half a line is no row.
    let stop = Arc::clone(&options.stop);
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::Relaxed);
    });
    let start = Instant::now();
    assert_eq!(next(&mut source), None);
    assert!(start.elapsed() < Duration::from_secs(10));
    stopper.join().unwrap();
    drop(writer);
    assert_eq!(next(&mut source), None);
}

#[test]
fn what_is_no_record_is_not_taken_for_one_that_has_come() {
    let (reader, mut writer) = io::pipe().unwrap();
    let options = skip(Options::default());
    let bytes = Bytes::live(reader, Arc::clone(&options.stop)).unwrap();
    writer.write_all(b"a,b\n1,2\n").unwrap();
    let mut source = Source::over("x", "x", bytes, &features(&["a", "b"], 2), &options).unwrap();
    // Should it wait inside, for a record that never comes.
    let stop = Arc::clone(&options.stop);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(20));
        stop.store(true, Ordering::Relaxed);
    });
    let mut comes_to = |text: &str, expected: Next, bad: u64| {
        writer.write_all(text.as_bytes()).unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            std::thread::sleep(Duration::from_millis(2));
            let next = source.advance().unwrap();
            if next == expected && source.bad() == bad {
                break;
            }
            assert!(next == Next::Wait && Instant::now() < end, "{text:?}: {next:?}");
        }
    };
    comes_to("", Next::Record, 0);
    comes_to("nan,2\n\n \n", Next::Wait, 1);
    comes_to("3,", Next::Wait, 1);
    comes_to("4\n", Next::Record, 1);
    // A line in many pieces.
    for _ in 0..40 {
        comes_to(&" ".repeat(5000), Next::Wait, 1);
    }
    comes_to("5,6", Next::Wait, 1);
    comes_to("\n", Next::Record, 1);
}

#[test]
fn a_column_or_key_names_the_stream() {
    let named = |name: &str| Options { stream_column: Some(name.into()), ..Options::default() };
    let check = |path: &str, contents: &str, input: &Input, name: &str, expected: &[&str]| {
        let mut source = over(path, contents.as_bytes(), input, &named(name)).unwrap();
        let mut streams = Vec::new();
        while let Some(record) = source.next().unwrap() {
            assert_eq!(record.data, Data::Sample(&[1.0, 2.0]), "{contents}");
            streams.extend(record.stream.map(str::to_owned));
        }
        assert_eq!(streams, expected, "{contents}");
    };
    let (ab, plain) = (&features(&["a", "b"], 2), &features(&[], 2));
    for input in [ab, plain] {
        check("x.csv", "who,a,b\npump,1,2\n\"a, b\",1,2\n", input, "who", &["pump", "a, b"]);
        check("x.csv", "a,7,b\n1,8,2\n", input, "7", &["8"]);
        check("x.csv", "1,9,2\n1,10,2\n", input, "2", &["9", "10"]);
        check("x.csv", "time,a,b,ts\n5,1,2,8\n", input, "time", &["5"]);
        check(
            "x.jsonl",
            "{\"id\":3,\"features\":[1,2]}\n{\"id\":\"x\",\"features\":[1,2]}",
            input,
            "id",
            &["3", "x"],
        );
    }
    let fails = |path: &str, contents: &[u8], expected: &str| {
        let err = read(path, contents, ab, &named("who")).expect_err(expected);
        assert!(format!("{err:#}").ends_with(expected), "{err:#}");
    };
    fails("x.csv", b"a,b\n1,2\n", "no column `who`");
    fails("x.csv", b"who,a,b\n,1,2\n", "line 2: column `who`: is empty, expected the name of a stream");
    fails("x.jsonl", b"[1,2]", "line 1: no name of a stream in key `who`");
    fails("x.jsonl", b"{\"who\":\"\"}", "line 1: key `who`: is empty, expected the name of a stream");
    let array = npy("<f4", "(1, 2)", &le(&[1.0, 2.0]));
    let err = over("x.npy", &array, ab, &named("who")).err().unwrap();
    assert!(err.is::<Usage>(), "{err:#}");
}

#[test]
fn a_stream_that_ends_gives_its_last_line() {
    let check = |path: &str, contents: &'static [u8], input: &Input, expected: usize| {
        let options = Options::default();
        let bytes = Bytes::live(Cursor::new(contents), Arc::clone(&options.stop)).unwrap();
        let mut source = Source::over(path, path, bytes, input, &options).unwrap();
        assert_eq!(read_all(&mut source).unwrap().len(), expected);
        assert!(!source.would_wait(), "at the end");
        assert_eq!((source.bytes_total(), source.bytes_read()), (None, contents.len() as u64));
    };
    check("-", b"1\n2\n3", &features(&[], 1), 3);
    check("-", b"one\ntwo", &tokens(256), 2);
    check("x.bin", b"one\ntwo", &tokens(256), 7);
    check("-", b"[1]\n[2]", &features(&[], 1), 2);
}

#[test]
fn an_array_cut_short_on_a_stream_is_an_error() {
    let options = Options::default();
    let array = npy("<f4", "(3, 2)", &le(&[1.0, 2.0, 3.0]));
    let bytes = Bytes::live(Cursor::new(array), Arc::clone(&options.stop)).unwrap();
    let mut source = Source::over("-", "-", bytes, &features(&[], 2), &options).unwrap();
    assert!(source.next().unwrap().is_some());
    assert_eq!(source.next().unwrap_err().root_cause().to_string(), "ends inside row 1 of 3");
}

#[test]
fn no_bytes_are_a_panic() {
    let pieces: [&[u8]; 24] = [
        b"1",
        b",",
        b";",
        b"\t",
        b"\n",
        b"\r",
        b"\"",
        b"a,b\n",
        b"1,2\n",
        b"nan",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"\"a\"",
        b"\xFF",
        b"\xEF\xBB\xBF",
        b"\0",
        b" ",
        b"-1e9",
        b"{\"tokens\":[1]}\n",
        b"time",
        b"99999999999999999999",
    ];
    let header: [&[u8]; 12] = [
        b"{'descr': '<f4', ",
        b"'fortran_order': False, ",
        b"'shape': (",
        b"2",
        b", ",
        b")",
        b"}",
        b"\n",
        b"'",
        b"\"",
        b"\xC3\xA9",
        b"9999999999999999999",
    ];
    let mut x = 7u32;
    let mut random = |below: usize| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 8) as usize % below
    };
    let inputs = [features(&["a", "b"], 2), features(&[], 1), tokens(256), tokens(9)];
    let mut opened = 0;
    for round in 0..10_000 {
        let mut contents = Vec::new();
        if round % 4 == 0 {
            let parts: Vec<u8> =
                (0..random(12)).flat_map(|_| header[random(header.len())].to_vec()).collect();
            contents = npy_of(&String::from_utf8_lossy(&parts), &[0; 16]);
            contents.truncate(contents.len() - random(4));
        } else {
            (0..random(16)).for_each(|_| contents.extend(pieces[random(pieces.len())]));
        }
        let path = ["x.csv", "x.jsonl", "x.npy", "-", "x.txt", "x.bin"][random(6)];
        let path = if round % 4 == 0 { "x.npy" } else { path };
        let options = Options {
            columns: [None, Some(vec!["a".to_owned()]), Some(vec!["1".into(), "2".into()])][random(3)]
                .clone(),
            time_column: [None, Some("time".to_owned())][random(2)].clone(),
            stream_column: [None, None, None, Some("a".to_owned())][random(4)].clone(),
            on_bad: [OnBad::Stop, OnBad::Stop, OnBad::Skip][random(3)],
            ..Options::default()
        };
        if let Ok(mut source) = over(path, &contents, &inputs[random(inputs.len())], &options) {
            // So many skipped already that no more are told.
            source.bad = 1000;
            opened += 1;
            // Errors are fine.
            let _ = read_all(&mut source);
        }
    }
    assert!(opened > 500, "{opened} opened");
}

#[test]
fn real_recordings_are_read() {
    let data = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/data"));
    if !data.is_dir() {
        eprintln!("skipped: {} is not there", data.display());
        return;
    }
    let check = |file: &str, input: &Input, rows: usize, time: bool| {
        let path = data.join(file);
        let mut source =
            open(path.to_str().expect("a path that is text"), input, &Options::default(), None).unwrap();
        assert_eq!(source.fields().time, time, "{file}");
        assert_eq!(read_all(&mut source).unwrap().len(), rows, "{file}");
        assert_eq!(Some(source.bytes_read()), source.bytes_total(), "{file}");
    };
    let pump =
        ["Accelerometer1RMS", "Accelerometer2RMS", "Current", "Pressure", "Temperature", "Thermocouple"];
    check("skab/valve1/0.csv", &features(&pump, 6), 1147, true);
    check("nab/data/realKnownCause/nyc_taxi.csv", &features(&[], 1), 10320, true);
    check("loghub/Linux_2k.log", &tokens(256), 2000, false);
}

#[test]
fn lines_have_answers_where_the_first_has_and_they_are_asked_for() {
    let asked = Options { answers: Some(7), ..Options::default() };
    let opened = |path: &str, text: &str, options: &Options| {
        let bytes = Bytes::file(Cursor::new(text.to_owned().into_bytes()), None, Arc::default());
        Source::over(path, path, bytes, &tokens(256), options).unwrap()
    };
    let text = "{\"tokens\": [8, 1], \"answers\": [null, 6]}\n\n{\"answers\": [0], \"tokens\": [0]}\n";
    for path in ["-", "a.txt", "a.log", "a", "a.jsonl"] {
        let mut source = opened(path, text, &asked);
        assert!(source.fields().answers && !source.fields().text, "{path}");
        let mut next = || {
            let kept = source.next().unwrap().map(|record| keep(&record).tokens);
            (kept, source.answers().to_vec())
        };
        assert_eq!(next(), (Some(vec![8, 1]), vec![None, Some(6)]));
        assert_eq!(next(), (Some(vec![0]), vec![Some(0)]));
        assert_eq!(next().0, None);
    }
    // Not asked for, or asked for as something else.
    assert!(!opened("a.jsonl", text, &Options::default()).fields().answers);
    for options in [Options::default(), Options { answers: Some(7), ..format(Format::Text) }] {
        assert!(opened("-", text, &options).fields().text);
    }
    // Other text is text, of whatever it begins with.
    for text in ["\nwords\n", "{\"tokens\": [1]}\n", "{\n"] {
        let mut source = opened("-", text, &asked);
        let mut lines = Vec::new();
        while let Some(record) = source.next().unwrap() {
            lines.extend(keep(&record).line.unwrap());
        }
        assert_eq!(lines, text.as_bytes());
    }
}

#[test]
fn what_is_wrong_with_answers_is_told_with_its_line() {
    let check = |first: &str, line: &str, message: &str| {
        let text = format!("{first}\n{line}\n").into_bytes();
        let options = Options { answers: Some(7), ..Options::default() };
        let bytes = Bytes::file(Cursor::new(text), None, Arc::default());
        let mut source = Source::over("a.jsonl", "a.jsonl", bytes, &tokens(9), &options).unwrap();
        source.next().unwrap();
        let error = format!("{:#}", source.next().unwrap_err());
        assert!(error.contains("line 2: ") && error.contains(message), "{error}");
    };
    let first = "{\"tokens\": [1], \"answers\": [1]}";
    check(first, "{\"tokens\": [1, 2], \"answers\": [1]}", "2 tokens and 1 answers");
    check(first, "{\"tokens\": [], \"answers\": []}", "no tokens");
    check(first, "{\"tokens\": [9], \"answers\": [1]}", "token 9");
    check(first, "{\"tokens\": [8], \"answers\": [7]}", "answer 7 is not one of the model's, 0 to 6");
    check(first, "{\"tokens\": [8], \"answers\": [-1]}", "answer -1");
    check(first, "{\"tokens\": [8]}", "no array `answers`");
    check(first, "[1]", "no array `answers`");
    check("{\"tokens\": [8]}", first, "has `answers`, the first line has none");
}

/// A reader that gives its bytes in pieces of random lengths.
struct Pieces(Cursor<Vec<u8>>, u32);

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let most = out.len().min(1 + (self.1 >> 8) as usize % 9);
        self.0.read(&mut out[..most])
    }
}

#[test]
fn any_pieces_give_the_same_records() {
    let check = |path: &str, contents: &[u8], input: &Input| {
        let expected = read(path, contents, input, &Options::default()).map_err(|error| format!("{error:#}"));
        for seed in 0..20 {
            let options = Options::default();
            let pieces = Pieces(Cursor::new(contents.to_vec()), seed);
            let bytes = Bytes::live(pieces, Arc::clone(&options.stop)).unwrap();
            let found = Source::over(path, path, bytes, input, &options);
            let found = found.and_then(|mut source| read_all(&mut source));
            assert_eq!(found.map_err(|error| format!("{error:#}")), expected, "{path} {contents:?}");
        }
    };
    let ab = features(&["a", "b"], 2);
    check("x.csv", b"\xEF\xBB\xBFtime,a,b\r\n\r\n10:00,1,\"2\"\r\n\n11:00,3,4", &ab);
    check("x.csv", b"a,b\n1,2\n3,four\n", &ab);
    check("x.jsonl", b"{\"a\":1,\"b\":2}\n \n[3,4]\n{}", &ab);
    check("x.npy", &npy("<f4", "(2, 2)", &le(&[1.0, 2.0, 3.0, 4.0])), &ab);
    check("-", b"one\n\n\xFFtwo\nno end", &tokens(256));
    check("x.bin", b"one\n\0", &tokens(256));
    // What it is does not show in the first piece.
    check("-", b" \t\n \n          [1, 2]\n[3, 4]\n", &ab);
    check("-", &npy("<f4", "(1, 2)", &le(&[1.0, 2.0])), &ab);
    check("-", b"          \n  ", &ab);
}
