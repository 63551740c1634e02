//! Runs: backlogs against steps, several streams against each alone, and who was read.

use super::*;

/// Rows of a CSV.
fn rows(path: &str) -> Vec<Vec<String>> {
    let reader = csv::ReaderBuilder::new().has_headers(false).from_path(path);
    let rows = reader.unwrap().into_records().map(|row| row.unwrap().iter().map(str::to_owned).collect());
    rows.collect()
}

fn path(name: &str) -> String {
    folder("files").join(name).to_str().unwrap().to_owned()
}

/// Runs to a CSV and gives its rows.
#[track_caller]
fn csv_of(name: &str, args: &[&str]) -> Vec<Vec<String>> {
    let output = path(name);
    succeeds(&[&["run", "--output", &output], args].concat());
    rows(&output)
}

/// The same rows, but for roundings; a score is a ratio of small numbers. `ssc` chooses checkpoints: where two scores are
/// equal but for rounding, another way of computing may choose differently, here and there.
#[track_caller]
fn assert_same(found: &[Vec<String>], expected: &[Vec<String>]) {
    assert_eq!((found.len(), &found[0]), (expected.len(), &expected[0]));
    let near = |(a, b): (&String, &String)| match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= 1e-4 * b.abs().max(1.0),
        _ => a == b,
    };
    let header = &expected[0];
    let cells = |row: &[String]| row.len() - usize::from(header.last().is_some_and(|name| name == "score"));
    let differs = |(a, b): &(&Vec<String>, &Vec<String>)| {
        a.len() != b.len() || !a[..cells(a)].iter().zip(&b[..cells(b)]).all(near)
    };
    let differing = found.iter().zip(expected).filter(differs).count();
    assert!(differing <= expected.len() / 1000, "{differing} of {} rows differ", expected.len());
}

/// The recording in three parts of other lengths, and where each begins.
fn parts() -> [String; 3] {
    let recording = fs::read_to_string(format!("{TELEMETRY}/recording.csv")).unwrap();
    let (header, rows) = recording.split_once('\n').unwrap();
    let rows: Vec<&str> = rows.lines().collect();
    let part = |name: &str, rows: &[&str]| file(name, format!("{header}\n{}\n", rows.join("\n")));
    [part("one.csv", &rows[..4000]), part("two.csv", &rows[4000..6500]), part("three.csv", &rows[6500..])]
}

#[test]
fn a_backlog_is_its_steps() {
    let recording = format!("{TELEMETRY}/recording.csv");
    let args = [TELEMETRY, "--input", &recording];
    let steps = csv_of("steps.csv", &[&args[..], &["--no-chunks"]].concat());
    assert_same(&csv_of("chunks.csv", &args), &steps);
    assert_same(&csv_of("threes.csv", &[&args[..], &["--chunk", "3", "--capacity", "64"]].concat()), &steps);
    if has_onnx_runtime() {
        assert_same(&csv_of("ort.csv", &[&args[..], &["--backend", "ort"]].concat()), &steps);
    }
    // Lines of many tokens, of one, and one longer than any piece.
    let text = format!("first\n\nthird line\n{}\nlast, without an end", "long ".repeat(1000));
    let (model, text) = (byte_model(), file("lines.log", text));
    let args = [model.as_str(), "--input", &text];
    let steps = csv_of("text-steps.csv", &[&args[..], &["--no-chunks"]].concat());
    assert_eq!(steps.len(), 6);
    assert_same(&csv_of("text-chunks.csv", &args), &steps);
}

#[test]
fn what_came_before_a_fault_is_written() {
    let check = |name: &str, bad: &str, message: &str| {
        let content = format!("{HEADER}\n{}{bad}\n{ROW}\n", format!("{ROW}\n").repeat(13));
        let (input, output) = (file(name, content), path(&format!("{name}.out.csv")));
        for flags in [&[][..], &["--no-chunks"]] {
            check_fails(
                &[
                    &["run", TELEMETRY, "--input", &input, "--output", &output, "--on-divergence", "stop"],
                    flags,
                ]
                .concat(),
                1,
                message,
            );
            assert_eq!(rows(&output).len(), 14, "{name} {flags:?}");
        }
    };
    check("text-at-14.csv", &ROW.replace("0.1", "much"), "line 15: column `cpu_user`: \"much\"");
    // Finite, and too much for the model.
    check("huge-at-14.csv", &ROW.replace("0.1", "3e38"), "token 13");
    let numbers = path("huge.npy");
    let input = path("huge-at-14.csv");
    let stop = ["--on-divergence", "stop"];
    check_fails(
        &[&["run", TELEMETRY, "--input", &input, "--output", &numbers], &stop[..]].concat(),
        1,
        "diverges",
    );
    assert_eq!(fs::metadata(numbers).unwrap().len(), 128 + 13 * 40);
}

#[test]
fn a_stream_that_fails_is_named() {
    let rows_of = |rows: &[&str]| format!("{HEADER}\n{}\n", rows.join("\n"));
    let huge = ROW.replace("0.1", "3e38");
    let sound = file("sound.csv", rows_of(&[ROW; 9]));
    let failing = file("failing.csv", rows_of(&[ROW, ROW, ROW, huge.as_str(), ROW]));
    let output = path("named.csv");
    let args = ["run", TELEMETRY, "--output", &output, "--input", &sound, "--input", &failing];
    check_fails(&[&args[..], &["--on-divergence", "stop"]].concat(), 1, "stream `failing`");
    let count = |name: &str| rows(&output).iter().filter(|row| row[0] == name).count();
    assert_eq!((count("sound"), count("failing")), (3, 3));
    let told = run(&args);
    assert!(told.status.success());
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("no answer to row 3: stream `failing`: stream 1: block 0's memory"), "{told}");
    assert_eq!((count("sound"), count("failing")), (9, 5));
}

#[test]
fn a_sample_that_diverges_has_no_answer_and_the_stream_goes_on() {
    let huge = ROW.replace("0.1", "3e38");
    // Segments have 8 tokens: back to where the segment of each began, twice to that of one.
    let mut all = vec![ROW; 40];
    (all[13], all[19], all[21]) = (&huge, &huge, &huge);
    let input = file("huge-now-and-then.csv", format!("{HEADER}\n{}\n", all.join("\n")));
    let csv = csv_of("rolled-back.csv", &[TELEMETRY, "--input", &input]);
    assert_same(&csv_of("rolled-back-steps.csv", &[TELEMETRY, "--no-chunks", "--input", &input]), &csv);
    let (predictions, residuals) = (1..11, 11..21);
    for (t, row) in csv[1..].iter().enumerate() {
        let is_there = |cells: std::ops::Range<usize>| row[cells].iter().all(|cell| !cell.is_empty());
        assert_eq!(is_there(predictions.clone()), ![13, 19, 21].contains(&t), "{row:?}");
        assert_eq!(is_there(residuals.clone()), ![0, 14, 20, 22].contains(&t), "{row:?}");
    }
    let numbers = path("rolled-back.npy");
    succeeds(&["run", TELEMETRY, "--input", &input, "--output", &numbers]);
    let bytes = fs::read(numbers).unwrap();
    let values: Vec<f32> =
        bytes[128..].as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    let nan: Vec<usize> = (0..40).filter(|t| values[t * 10..][..10].iter().all(|y| y.is_nan())).collect();
    assert_eq!((values.len(), nan), (400, vec![13, 19, 21]));
    // A bound that nothing keeps.
    let told = run(&["run", TELEMETRY, "--input", &input, "--max-norm", "1e-9"]);
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("has norm ") && told.contains("; 40 without an answer"), "{told}");
    check_fails(&["run", TELEMETRY, "--input", &input, "--max-norm", "0"], 2, "no number above 0");
}

#[test]
fn a_live_backlog_is_answered_at_once() {
    let mut child = mcedge(&["run", TELEMETRY, "--input", "-", "--on-bad", "skip"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Twenty rows, of which the last can be used, then a bad one, blank lines and half a row: nothing more is waited for.
    let bad = ROW.replace("0.1", "NaN");
    write!(stdin, "{HEADER}\n{}{bad}\n\n \n{}", format!("{ROW}\n").repeat(20), &ROW[..5]).unwrap();
    for _ in 0..21 {
        lines.next().unwrap().unwrap();
    }
    writeln!(stdin, "{}", &ROW[5..]).unwrap();
    assert!(lines.next().unwrap().unwrap().starts_with('0'));
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn several_inputs_are_each_as_if_alone() {
    let parts = parts();
    let inputs: Vec<&str> = parts.iter().flat_map(|part| ["--input", part.as_str()]).collect();
    let all = csv_of("all.csv", &[&[TELEMETRY][..], &inputs].concat());
    assert_eq!(all[0][..2], ["stream", "time"]);
    let bundle = folder("batch").join("bundle");
    let bundle = bundle.to_str().unwrap();
    succeeds(&["export", TELEMETRY, "-o", bundle, "--batch", "4"]);
    // Fewer inputs than streams will do.
    let fewer = csv_of("fewer.csv", &[&[bundle][..], &inputs].concat());
    let alone_in_four = csv_of("alone.csv", &[bundle, "--input", &parts[2]]);
    for (name, part) in ["one", "two", "three"].into_iter().zip(&parts) {
        let alone = csv_of(&format!("{name}.out.csv"), &[TELEMETRY, "--input", part]);
        for rows in [&all, &fewer] {
            let own = rows.iter().filter(|row| row[0] == name || row[0] == "stream");
            let own: Vec<Vec<String>> = own.map(|row| row[1..].to_vec()).collect();
            assert_same(&own, &alone);
        }
        if name == "three" {
            assert_same(&alone_in_four, &alone);
        }
    }
}

#[test]
fn a_column_says_which_stream_a_row_is_of() {
    let parts = parts();
    let mut contents: Vec<Vec<Vec<String>>> = parts.iter().map(|part| rows(part)[..700].to_vec()).collect();
    let header = contents[0][0].join(",");
    contents.iter_mut().for_each(|rows| drop(rows.remove(0)));
    let (mut csv, mut jsonl, mut x) = (format!("{header},pump\n"), String::new(), 7u32);
    let names: Vec<&str> = header.split(',').collect();
    while contents.iter().any(|rows| !rows.is_empty()) {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let stream = (x >> 8) as usize % 3;
        let rows = &mut contents[stream];
        if rows.is_empty() {
            continue;
        }
        let row = rows.remove(0);
        csv += &format!("{},\"nr, {stream}\"\n", row.join(","));
        let cells: Vec<String> =
            names.iter().zip(&row).map(|(name, cell)| format!("\"{name}\":{cell}")).collect();
        jsonl += &format!("{{\"pump\":{stream},{}}}\n", cells.join(","));
    }
    let flags = ["--stream-column", "pump", "--batch", "3"];
    let (csv, jsonl) = (file("pumps.csv", csv), file("pumps.jsonl", jsonl));
    let all = csv_of("pumps.out.csv", &[&[TELEMETRY, "--input", &csv], &flags[..]].concat());
    // Rows go out as they came in.
    let order = |rows: &[Vec<String>], column: usize| -> Vec<String> {
        rows[1..].iter().map(|row| row[column].clone()).collect()
    };
    assert_eq!(order(&all, 0), order(&rows(&csv), names.len()));
    let from_json = csv_of("pumps.json.csv", &[&[TELEMETRY, "--input", &jsonl], &flags[..]].concat());
    for (stream, part) in parts.iter().enumerate() {
        let alone = csv_of("pump.out.csv", &[TELEMETRY, "--input", part]);
        for (rows, name) in [(&all, format!("nr, {stream}")), (&from_json, stream.to_string())] {
            let own = rows.iter().filter(|row| row[0] == name || row[0] == "stream");
            let own: Vec<Vec<String>> = own.map(|row| row[1..].to_vec()).collect();
            assert_same(&own, &alone[..700]);
        }
    }
    // What came before a stream that is one too many is written.
    let output = path("two-pumps.csv");
    let two =
        ["run", TELEMETRY, "--input", &csv, "--output", &output, "--stream-column", "pump", "--batch", "2"];
    check_fails(&two, 1, "is one too many: the bundle runs 2");
    assert!(rows(&output).len() > 2);
    let args = |flags: &[&'static str]| [&["run", TELEMETRY, "--input", &csv][..], flags].concat();
    check_fails(&args(&["--stream-column", "pump"]), 2, "--batch");
    check_fails(&args(&["--stream-column", "fan", "--batch", "2"]), 1, "no column `fan`");
    check_fails(&args(&["--stream-column", "pump", "--batch", "3", "--input", "-"]), 2, "one --input");
    let text = file("plain.log", "text\n");
    check_fails(
        &["run", &byte_model(), "--input", &text, "--stream-column", "x", "--batch", "2"],
        2,
        "is text",
    );
    let line = file("nobody.jsonl", "{\"pump\":null}\n");
    let nobody = ["run", TELEMETRY, "--input", &line, "--stream-column", "pump", "--batch", "2"];
    check_fails(&nobody, 1, "no name of a stream in key `pump`");
}

#[test]
fn inputs_that_cannot_be_together_say_why() {
    let two = |name: &str| file(name, format!("{HEADER}\n{ROW}\n{ROW}\n"));
    let (a, b) = (two("a.csv"), two("b.csv"));
    let fails = |flags: &[&str], code, message: &str| {
        check_fails(&[&["run", TELEMETRY, "--backend", "tract"], flags].concat(), code, message);
    };
    fails(&["--input", "-", "--input", "-"], 2, "standard input");
    fails(&["--input", &a, "--input", &b, "--batch", "1"], 2, "input `b` is one too many");
    fails(&["--input", &a, "--input", &b, "--output", &path("ab.npy")], 2, "write .csv or .jsonl");
    fails(&["--input", &a, "--input", &b, "--output", &b], 1, "is the input");
    fails(&["--input", &a, "--input", &file("none.csv", "")], 1, "none.csv: is empty");
    fails(&["--input", &a, "--input", "nowhere.csv"], 1, "nowhere.csv");
    fails(&["--input", &a, "--input", &b, "--gates", &path("ab.npy")], 2, "one stream");
    let tokens = file("tokens.jsonl", "[1,2]\n");
    let text = file("text.log", "text\n");
    check_fails(&["run", &byte_model(), "--input", &text, "--input", &tokens], 1, "lines of text");
    // The same file twice is two streams; so is standard input beside a file.
    let twice = csv_of("twice.csv", &[TELEMETRY, "--input", &a, "--input", &a]);
    let streams: Vec<&str> = twice.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(streams.iter().filter(|name| **name == "a").count(), 2);
    assert_eq!(streams.iter().filter(|name| **name == "a-2").count(), 2);
    let mut child = mcedge(&["run", TELEMETRY, "--input", "-", "--input", &b, "--output-format", "jsonl"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    writeln!(stdin, "{HEADER}\n{ROW}").unwrap();
    // The file has ended by the time that standard input goes on.
    let first: Vec<String> = (0..3).map(|_| lines.next().unwrap().unwrap()).collect();
    assert!(first.iter().any(|line| line.starts_with("{\"stream\":\"stdin\",\"time\":\"0\"")), "{first:?}");
    writeln!(stdin, "{ROW}").unwrap();
    assert!(lines.next().unwrap().unwrap().starts_with("{\"stream\":\"stdin\""));
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn who_was_read_is_written_and_drawn() {
    let input = file("forty.csv", format!("{HEADER}\n{}", format!("{ROW}\n").repeat(40)));
    let (gates, output) = (path("gates.npy"), path("gates-run.csv"));
    let run =
        ["run", TELEMETRY, "--capacity", "3", "--input", &input, "--output", &output, "--gates", &gates];
    succeeds(&run);
    assert_eq!(rows(&output).len(), 41);
    let bytes = fs::read(&gates).unwrap();
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("'shape': (40, 1, 4, 4)"));
    let cells = bytes[128..].chunks_exact(4).map(|cell| f32::from_le_bytes(cell.try_into().unwrap()));
    let cells: Vec<f32> = cells.collect();
    // At first the online memory is read alone; weights sum to one.
    assert_eq!(cells[..4], [1.0, 0.0, 0.0, 0.0]);
    assert!(cells.chunks(4).all(|weights| (weights.iter().sum::<f32>() - 1.0).abs() < 1e-5));
    assert!(cells[cells.len() - 4..].iter().all(|&weight| weight > 0.0));
    let picture = path("gates.svg");
    succeeds(&["inspect", "--gates", &gates, "-o", &picture]);
    assert!(fs::read_to_string(picture).unwrap().starts_with("<svg"));

    let bundle = folder("ungated").join("bundle");
    let bundle = bundle.to_str().unwrap();
    succeeds(&["export", TELEMETRY, "-o", bundle]);
    let to = |model: &str, gates: &str, output: &str, code, message: &str| {
        check_fails(&["run", model, "--input", &input, "--gates", gates, "--output", output], code, message);
    };
    to(bundle, &gates, &output, 2, "export it with --gates");
    let ungated = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tests/cases/identity-mean");
    check_fails(
        &["run", ungated, "--input", &file("no.jsonl", "[0,0,0]\n"), "--gates", &gates],
        2,
        "no block of the model weighs its checkpoints",
    );
    to(TELEMETRY, &output, &output, 2, "the same file");
    to(TELEMETRY, &input, &output, 1, "is the input");
    to(TELEMETRY, "-", &output, 1, "needs a file");
}
