use std::path::{Path, PathBuf};

use std::io::Write;

use super::*;

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mcedge-sink-{}-{test}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path that is text").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn output(kind: OutputKind, size: usize, labels: &[&str]) -> Output {
    Output { kind, size, labels: names(labels), std: vec![] }
}

fn fields(channels: &[&str], time: bool, text: bool) -> Fields {
    Fields { channels: names(channels), time, text, answers: false }
}

#[test]
fn rows_say_what_the_layout_has() {
    let folder = Folder::new("rows");
    let check = |layout: &Layout, file: &str, rows: &[Row], expected: &str| {
        let path = folder.path(file);
        let mut sink = Sink::open(&path, &Options::default(), layout.clone(), 2).unwrap();
        for row in rows {
            sink.step(row.output).unwrap();
            sink.row(row).unwrap();
        }
        sink.flush().unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), expected, "{file} {layout:?}");
    };

    let first = Row { index: 0, time: Some("10:00"), output: &[1.0, -2.5e-9], ..Row::default() };
    let second =
        Row { index: 7, output: &[0.1, 3.0], residual: Some(&[0.5, 1e20]), score: Some(1.25), ..first };
    let failed = Row { time: Some("a,\"b\""), output: &[f32::NAN, f32::INFINITY], ..second };
    let rows = [first, second, failed];
    let layout = Layout::new(&output(OutputKind::Regression, 2, &[]), &fields(&["x", "y,z"], true, false));
    check(
        &layout,
        "f.csv",
        &rows,
        "time,x.prediction,\"y,z.prediction\",x.residual,\"y,z.residual\",score\n10:00,1.0,-2.5e-9,,,\n\
         10:00,0.1,3.0,0.5,1e20,1.25\n\"a,\"\"b\"\"\",,inf,0.5,1e20,1.25\n",
    );
    check(
        &layout,
        "f.jsonl",
        &rows,
        "{\"time\":\"10:00\",\"prediction\":{\"x\":1.0,\"y,z\":-2.5e-9},\"residual\":null,\"score\":null}\n\
         {\"time\":\"10:00\",\"prediction\":{\"x\":0.1,\"y,z\":3.0},\"residual\":{\"x\":0.5,\"y,z\":1e20},\"score\":1.25}\n\
         {\"time\":\"a,\\\"b\\\"\",\"prediction\":{\"x\":null,\"y,z\":null},\"residual\":{\"x\":0.5,\"y,z\":1e20},\"score\":1.25}\n",
    );

    let rows = rows.map(|row| Row { time: None, ..row });
    let layout = Layout::new(&output(OutputKind::Regression, 2, &[]), &fields(&["x"], false, false));
    check(&layout, "v.tsv", &rows, "index\ty0\ty1\n0\t1.0\t-2.5e-9\n7\t0.1\t3.0\n7\t\tinf\n");
    check(&layout, "v.jsonl", &rows[1..2], "{\"index\":7,\"output\":[0.1,3.0]}\n");
    let layout = Layout::new(&output(OutputKind::Logits, 2, &[]), &fields(&["x"], false, false));
    check(&layout, "l.csv", &rows[1..2], "index,y0,y1\n7,0.1,3.0\n");

    let even = Row { output: &[4.0, 4.0], ..Row::default() };
    let sure = Row { output: &[-1000.0, 1000.0], ..even };
    let layout = Layout::new(
        &output(OutputKind::Classification, 2, &["ok", "worn out"]),
        &fields(&["x"], false, false),
    );
    check(&layout, "c.csv", &[even, sure], "index,label,p.ok,p.worn out\n0,ok,0.5,0.5\n0,worn out,0.0,1.0\n");
    check(
        &layout,
        "c.jsonl",
        &[sure],
        "{\"index\":0,\"label\":\"worn out\",\"p\":{\"ok\":0.0,\"worn out\":1.0}}\n",
    );
    let layout = Layout::new(&output(OutputKind::Classification, 2, &[]), &fields(&[], false, true));
    check(&layout, "c.csv", &[even], "index,label,p.0,p.1\n0,0,0.5,0.5\n");

    let empty = Row { tokens: 1, line: b"\n", ..Row::default() };
    let quoted = Row { index: 1, tokens: 9, bits: Some(0.125), line: b"\"a\", b\xFF\r\n", ..Row::default() };
    let layout = Layout::new(&output(OutputKind::Logits, 256, &[]), &fields(&[], false, true));
    check(
        &layout,
        "t.csv",
        &[empty, quoted],
        "line,bytes,bits_per_byte,text\n1,1,,\n2,9,0.125,\"\"\"a\"\", b\u{FFFD}\"\n",
    );
    check(
        &layout,
        "t.jsonl",
        &[empty, quoted],
        "{\"line\":1,\"bytes\":1,\"bits_per_byte\":null,\"text\":\"\"}\n\
         {\"line\":2,\"bytes\":9,\"bits_per_byte\":0.125,\"text\":\"\\\"a\\\", b\u{FFFD}\"}\n",
    );
    let layout = Layout::new(&output(OutputKind::Logits, 9, &[]), &fields(&[], false, false));
    check(&layout, "k.csv", &[quoted], "index,tokens,bits_per_token\n1,9,0.125\n");
    check(&layout, "k.jsonl", &[quoted], "{\"index\":1,\"tokens\":9,\"bits_per_token\":0.125}\n");
}

/// Shape and numbers of an `.npy`, read by its specification.
fn read_npy(path: &str) -> (String, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes[..8], *b"\x93NUMPY\x01\x00");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert!(start.is_multiple_of(64) && bytes[start - 1] == b'\n');
    let header = std::str::from_utf8(&bytes[10..start]).unwrap().trim_end().to_owned();
    (header, bytes[start..].chunks(4).map(|number| f32::from_le_bytes(number.try_into().unwrap())).collect())
}

#[test]
fn an_array_is_whole_after_a_flush_and_after_a_failed_run() {
    let folder = Folder::new("npy");
    let path = folder.path("out.npy");
    let header = |rows: usize| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, 2), }}");
    let layout = Layout::Values { size: 2, time: false };
    let mut sink = Sink::open(&path, &Options::default(), layout, 2).unwrap();
    sink.flush().unwrap();
    assert_eq!(read_npy(&path), (header(0), vec![]));
    sink.step(&[1.0, 2.0]).unwrap();
    sink.row(&Row::default()).unwrap();
    sink.step(&[3.0, f32::INFINITY]).unwrap();
    sink.flush().unwrap();
    assert_eq!(read_npy(&path), (header(2), vec![1.0, 2.0, 3.0, f32::INFINITY]));
    sink.step(&[5.0, 6.0]).unwrap();
    drop(sink);
    assert_eq!(read_npy(&path), (header(3), vec![1.0, 2.0, 3.0, f32::INFINITY, 5.0, 6.0]));
}

#[test]
fn rows_of_several_streams_begin_with_their_stream() {
    let folder = Folder::new("streams");
    let check = |file: &str, expected: &str| {
        let path = folder.path(file);
        let options = Options { streams: true, ..Options::default() };
        let layout = Layout::Values { size: 1, time: true };
        let mut sink = Sink::open(&path, &options, layout, 1).unwrap();
        sink.row(&Row { stream: "pump, \"a\"", output: &[1.5], time: Some("9"), ..Row::default() }).unwrap();
        sink.row(&Row { stream: "2", output: &[2.5], ..Row::default() }).unwrap();
        sink.flush().unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), expected);
    };
    check("s.csv", "stream,time,y0\n\"pump, \"\"a\"\"\",9,1.5\n2,,2.5\n");
    check(
        "s.jsonl",
        "{\"stream\":\"pump, \\\"a\\\"\",\"time\":\"9\",\"output\":[1.5]}\n{\"stream\":\"2\",\"index\":0,\"output\":[2.5]}\n",
    );
    let options = Options { streams: true, ..Options::default() };
    let path = folder.path("s.npy");
    let err = Sink::open(&path, &options, Layout::Values { size: 1, time: false }, 1).err().unwrap();
    assert!(err.is::<Usage>() && err.root_cause().to_string().contains("write .csv or .jsonl"), "{err:#}");
    assert!(!Path::new(&path).exists());
}

#[test]
fn an_array_may_have_more_axes() {
    let folder = Folder::new("axes");
    let path = folder.path("gates.npy");
    let mut sink = Sink::array(&path, &Options::default(), &[2, 1, 3]).unwrap();
    sink.step(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
    sink.flush().unwrap();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 1, 3), }";
    assert_eq!(read_npy(&path), (header.into(), vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
}

#[test]
fn an_output_that_cannot_be_says_why_and_spares_what_is_there() {
    let folder = Folder::new("errors");
    let input = folder.path("in.csv");
    let check = |path: &str, format: Option<Format>, expected: &str| {
        let layout = Layout::Values { size: 1, time: false };
        let options =
            Options { inputs: &["-".into(), format!("file://{input}")], format, ..Options::default() };
        let err = Sink::open(path, &options, layout, 1).err().expect(expected);
        let name = if path == "-" { "standard output" } else { path };
        assert_eq!(format!("{err:#}"), format!("output {name}: {expected}"));
    };
    fs::write(&input, "1\n").unwrap();
    check(&input, None, "is the input");
    check(&folder.path("../").replace("../", &format!("./{}", "in.csv")), None, "is the input");
    check(&input, Some(Format::Npy), "is the input");
    assert_eq!(fs::read_to_string(&input).unwrap(), "1\n");
    let seek = "an .npy begins with the count of its rows, and needs a file to go back in";
    check("-", Some(Format::Npy), seek);
    check("/dev/null", Some(Format::Npy), seek);
    let unknown = "its extension is not .csv, .tsv, .npy or .jsonl, and no format is given";
    check(&folder.path("out.parquet"), None, unknown);
    check(&folder.path("out"), None, unknown);
    check(&folder.path("no/out.csv"), None, "No such file or directory (os error 2)");
    check(
        "kafka://x.csv",
        None,
        "expected a path, a file:// URI, - for standard output, or mqtt://HOST/TOPIC",
    );
}

/// A reader who has gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_who_has_gone_is_told_from_a_failure() {
    let layout = Layout::Values { size: 1, time: false };
    let table = Table::new(BufWriter::new(Target::Stream(Box::new(Gone))), layout.clone(), ',', false);
    let mut sink =
        Sink { shape: String::new(), name: "standard output".into(), writer: Writer::Jsonl(table) };
    sink.row(&Row { output: &[1.0], ..Row::default() }).unwrap();
    let err = sink.flush().unwrap_err();
    assert!(is_broken_pipe(&err.context("run")));
    let missing = Sink::open("no/out.csv", &Options::default(), layout, 1);
    assert!(!is_broken_pipe(&missing.err().expect("no such folder")));
}

#[test]
fn rows_that_are_whole_end_where_they_end() {
    let path = std::env::temp_dir().join(format!("mcedge-rows-{}", std::process::id()));
    let path = path.to_str().unwrap();
    let check = |rows: Rows, content: &str, from: u64, expected: &str| {
        fs::write(path, content).unwrap();
        assert_eq!(rows.end(path, from).unwrap(), expected.len() as u64, "{content:?}");
    };
    check(Rows::Lines, "a\nb\nc", 2, "a\nb\n");
    check(Rows::Lines, "a\nb", 2, "a\n");
    check(Rows::Lines, "a\n\"b\nc", 2, "a\n\"b\n");
    check(Rows::Csv, "a\n\"b\"\"\nc\",1\n\"d\ne", 2, "a\n\"b\"\"\nc\",1\n");
    check(Rows::Csv, "", 0, "");
    check(Rows::Array { row_bytes: 4 }, "header12345678901", 10, "header12345678");
    fs::remove_file(path).unwrap();
}
