//! Sweeps: each cell against a run by hand with as many checkpoints.

use serde_json::Value;

use super::*;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tests/cases");

fn path(name: &str) -> String {
    folder("files").join(name).to_str().unwrap().to_owned()
}

/// The first 604 rows of the recording, of which 75 segments of 8 make checkpoints.
fn recording(name: &str) -> String {
    recording_of(name, 604)
}

fn recording_of(name: &str, count: usize) -> String {
    let recording = fs::read_to_string(format!("{TELEMETRY}/recording.csv")).unwrap();
    let rows: Vec<&str> = recording.lines().take(1 + count).collect();
    file(name, rows.join("\n"))
}

/// Sweeps, and gives the JSON and the table.
#[track_caller]
fn sweep(name: &str, args: &[&str]) -> (Value, String) {
    let json = path(&format!("{name}.json"));
    let table = succeeds(&[&["sweep", "--json", &json], args].concat());
    (serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap(), table)
}

/// The outputs of a run by hand.
fn outputs(name: &str, args: &[&str]) -> Vec<f32> {
    let output = path(&format!("{name}.npy"));
    succeeds(&[&["run", "--output", &output], args].concat());
    let bytes = fs::read(output).unwrap();
    bytes[128..].chunks_exact(4).map(|cell| f32::from_le_bytes(cell.try_into().unwrap())).collect()
}

/// ‖a − b‖ / ‖b‖.
fn relative_rms(a: &[f32], b: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let mut differences = a.iter().zip(b).map(|(a, b)| *a as f64 - *b as f64);
    norm(&mut differences) / norm(&mut b.iter().map(|b| *b as f64))
}

#[track_caller]
fn assert_near(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1e-6), "{found}, not {expected}");
}

#[test]
fn a_cell_is_a_run_with_as_many_checkpoints() {
    let (input, svg) = (recording("sweep.csv"), path("sweep.svg"));
    let bytes = (37 * 4 * (64 + 8) * 4 + 5).to_string();
    let budgets = format!("100%,10%,{bytes},50%,9.5%");
    let flags = ["--input", &input, "--budgets", &budgets, "--evict", "oldest,thin", "--svg", &svg];
    let (json, table) = sweep("sweep", &[&[TELEMETRY], &flags[..]].concat());
    assert_eq!(json["schema"], "mcedge.sweep/1");
    assert_eq!((&json["made"], &json["full"], &json["unbounded"]), (&75.into(), &75.into(), &true.into()));
    assert_eq!((&json["tokens"], &json["sequences"]), (&604.into(), &1.into()));
    assert_eq!(json["checkpoint_bytes"], 4 * (64 + 8) * 4);
    let cells = json["cells"].as_array().unwrap();
    let slots: Vec<_> = cells.iter().map(|cell| cell["slots"].as_u64().unwrap()).collect();
    // Budgets of as many checkpoints are one run.
    assert_eq!(slots, [7, 37, 75, 7, 37, 75]);
    assert_eq!(cells[0]["budgets"], serde_json::json!(["10%", "9.5%"]));
    assert_eq!(cells[1]["budgets"], serde_json::json!([bytes, "50%"]));

    let all = outputs("sweep-75", &[TELEMETRY, "--input", &input, "--capacity", "75"]);
    for cell in cells {
        let (slots, policy) = (cell["slots"].to_string(), cell["policy"].as_str().unwrap());
        let args = [TELEMETRY, "--input", &input, "--capacity", &slots, "--evict", policy];
        let found = outputs(&format!("sweep-{slots}-{policy}"), &args);
        let largest = found.iter().zip(&all).map(|(a, b)| (*a as f64 - *b as f64).abs()).fold(0.0, f64::max);
        assert_near(&cell["relative_rms"], relative_rms(&found, &all));
        assert_near(&cell["largest"], largest);
        assert_near(&cell["loss"], forecast_error(&found, &input));
        assert!(table.contains(&format!("{:.3e}", relative_rms(&found, &all))), "{table}");
        if slots == "75" {
            assert_eq!((&cell["relative_rms"], &cell["largest"]), (&0.0.into(), &0.0.into()));
        } else {
            assert!(largest > 0.0, "{slots} checkpoints are not 75");
        }
    }
    assert_near(&json["with_all"]["loss"], forecast_error(&all, &input));
    assert_eq!(json["without"]["slots"], 0);

    let svg = fs::read_to_string(svg).unwrap();
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{svg}");
    for word in [">oldest<", ">thin<", "cache budget", "host-telemetry-linear-ssc", "no cache"] {
        assert!(svg.contains(word), "{word}: {svg}");
    }
    assert!(!svg.contains(">novel<"));
}

/// The telemetry model with a read-out of nothing but the online memory.
fn without_a_cache() -> String {
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(format!("{TELEMETRY}/config.json")).unwrap()).unwrap();
    let caching = config["blocks"][0]["caching"].as_object_mut().unwrap();
    caching.retain(|key, _| key == "segmentation" || key == "init");
    caching.insert("aggregation".into(), "none".into());
    let trained = mcedge_models::Model::load(Path::new(TELEMETRY)).unwrap();
    let spec = Spec::parse(config.to_string().as_bytes()).unwrap();
    let kept = trained.weights.iter().filter(|(name, _)| !name.ends_with(".u.weight"));
    let kept = kept.map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    let folder = folder("without-a-cache");
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let weights = Weights::new(kept, &spec).unwrap().to_safetensors().unwrap();
    fs::write(folder.join("model.safetensors"), weights).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn without_a_cache_a_model_is_its_online_memory() {
    let input = recording_of("without.csv", 1003);
    let (json, _) =
        sweep("without", &[TELEMETRY, "--input", &input, "--budgets", "50%,100%", "--evict", "oldest"]);
    let run = |name: &str, model: &str, flags: &[&str]| {
        outputs(name, &[&[model, "--input", &input][..], flags].concat())
    };
    let all = run("without-125", TELEMETRY, &["--capacity", "125"]);
    let half = run("without-62", TELEMETRY, &["--capacity", "62"]);
    let none = run("without-0", &without_a_cache(), &[]);
    assert_near(&json["without"]["relative_rms"], relative_rms(&none, &all));
    let [none, half, all] = [none, half, all].map(|outputs| forecast_error(&outputs, &input));
    assert_near(&json["without"]["loss"], none);
    assert_near(&json["cells"][0]["gain"]["mean"], none - half);
    assert_near(&json["with_all"]["gain"]["mean"], none - all);
    assert_eq!(json["with_all"]["gain"]["certain"], true);
    assert_near(&json["cells"][0]["kept"], (none - half) / (none - all));
    assert!(json["cells"][0]["kept_error"].as_f64().unwrap() > 0.0);
}

/// The mean squared error of outputs `[T, 10]` as forecasts of the next row, in standard deviations.
fn forecast_error(outputs: &[f32], input: &str) -> f64 {
    let json: Value = serde_json::from_str(&succeeds(&["inspect", TELEMETRY, "--json"])).unwrap();
    let std: Vec<f64> = json["contract"]["output"]["std"]
        .as_array()
        .unwrap()
        .iter()
        .map(|std| std.as_f64().unwrap())
        .collect();
    let text = fs::read_to_string(input).unwrap();
    let rows: Vec<Vec<f64>> = text
        .lines()
        .skip(1)
        .map(|row| row.split(',').skip(1).map(|cell| cell.parse().unwrap()).collect())
        .collect();
    let mut sum = 0.0;
    for (t, row) in rows.iter().enumerate().skip(1) {
        for c in 0..10 {
            sum += ((row[c] - outputs[(t - 1) * 10 + c] as f64) / std[c]).powi(2);
        }
    }
    sum / (10 * (rows.len() - 1)) as f64
}

#[test]
fn a_bundle_has_a_full_cache_of_its_own() {
    let (input, bundle) = (recording("of-a-bundle.csv"), folder("swept").join("bundle"));
    let bundle = bundle.to_str().unwrap();
    let args = [bundle, "--input", &input, "--budgets", "50%,100%"];
    succeeds(&["export", TELEMETRY, "-o", bundle, "--capacity", "10"]);
    let (json, table) = sweep("of-ten", &args);
    assert_eq!((&json["full"], &json["made"], &json["unbounded"]), (&10.into(), &75.into(), &false.into()));
    assert!(table.contains("10 checkpoints") && table.contains("not unbounded"), "{table}");
    // Without gates there is one policy less, and another one's ten are not the oldest's ten.
    assert!(table.contains("left out: policy `least-read`") && table.contains("--gates"), "{table}");
    assert_eq!(json["left_out"][0]["policy"], "least-read");
    let full = |policy: &str| {
        let cells = json["cells"].as_array().unwrap();
        let cell = cells.iter().find(|cell| cell["policy"] == policy && cell["slots"] == 10);
        cell.unwrap()["relative_rms"].as_f64().unwrap()
    };
    assert_eq!(full("oldest"), 0.0);
    assert!(full("thin") > 0.0);
    check_fails(&[&["sweep"], &args[..], &["--evict", "least-read"]].concat(), 2, "--gates");
    check_fails(&[&["sweep"], &args[..], &["--capacity", "5"]].concat(), 2, "a bundle has its own");
    // A budget leaves a part of it.
    let budget = (6 * 4 * (64 + 8) * 4).to_string();
    let (json, _) = sweep("of-six", &[&args[..], &["--cache-budget", &budget]].concat());
    assert_eq!((&json["full"], &json["cells"][0]["slots"]), (&6.into(), &3.into()));

    // One with room for all that is made: 100 % is what is made.
    succeeds(&["export", TELEMETRY, "-o", bundle, "--capacity", "100", "--gates"]);
    let (json, table) = sweep("of-a-hundred", &args);
    assert_eq!((&json["full"], &json["made"], &json["unbounded"]), (&75.into(), &75.into(), &true.into()));
    assert!(table.contains("the unbounded cache: 75 checkpoints"), "{table}");
    assert_eq!((&json["left_out"], json["cells"].as_array().unwrap().len()), (&serde_json::json!([]), 12));
}

#[test]
fn text_is_scored_in_bits_as_run_scores_it() {
    let model = byte_model();
    let input = file("one-line.log", "a line of text, a line of text and another line of text");
    let (json, _) = sweep("bits", &[&model, "--input", &input, "--evict", "oldest"]);
    let told = succeeds(&["run", &model, "--input", &input, "--capacity", "11"]);
    let bits: f64 = told.lines().nth(1).unwrap().split(',').nth(2).unwrap().parse().unwrap();
    let found = json["with_all"]["loss"].as_f64().unwrap();
    assert!((found - bits).abs() < 1e-3, "{found}, not {bits}");
    assert_eq!((&json["loss"]["name"], &json["made"]), (&"bits".into(), &11.into()));
}

/// The index of the largest of each row of 256, the first of several: the byte model's rows repeat.
fn argmax(outputs: &[f32]) -> Vec<usize> {
    let row = |row: &[f32]| (0..256).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    outputs.chunks_exact(256).map(row).collect()
}

#[test]
fn answers_are_counted_by_distance_from_the_start_of_each_sequence() {
    let model = byte_model();
    let sequences = [vec![7, 8, 7, 9, 9, 1, 2, 3, 8, 7, 4, 5, 200], vec![9, 9, 7, 30, 31, 32, 33, 7]];
    let mut lines = String::new();
    // What each sequence alone gives, and every third answer wrong.
    let (mut right, mut answers) = (0, 0);
    for (index, tokens) in sequences.iter().enumerate() {
        let input = file(&format!("alone-{index}.jsonl"), format!("{{\"tokens\": {tokens:?}}}\n"));
        let best = argmax(&outputs("alone", &[&model, "--input", &input, "--capacity", "4"]));
        assert_eq!(best.len(), tokens.len());
        let answer = |t: usize| match t % 3 {
            0 => "null".into(),
            1 => best[t].to_string(),
            _ => ((best[t] + 1) % 256).to_string(),
        };
        let told: Vec<String> = (0..tokens.len()).map(answer).collect();
        right += (0..tokens.len()).filter(|t| t % 3 == 1).count();
        answers += (0..tokens.len()).filter(|t| t % 3 != 0).count();
        lines += &format!("{{\"tokens\": {tokens:?}, \"answers\": [{}]}}\n", told.join(", "));
    }
    let input = file("answers.jsonl", lines);
    let (json, table) = sweep("answers", &[&model, "--input", &input, "--evict", "oldest"]);
    assert_eq!((&json["sequences"], &json["tokens"], &json["made"]), (&2.into(), &21.into(), &2.into()));
    assert_near(&json["with_all"]["loss"], 1.0 - right as f64 / answers as f64);
    // By hand: tokens at t = 1, 2, 4, 5, 7, 8, 10, 11 and 1, 2, 4, 5, 7; 7 at t = 2 was last seen two tokens ago, ….
    let expected =
        [(Some(1), Some(1), 2, 2), (Some(2), Some(3), 1, 0), (Some(4), Some(7), 2, 1), (None, None, 8, 4)];
    let found: Vec<_> = json["with_all"]["accuracy"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bucket| {
            let count = |key: &str| bucket[key].as_u64();
            (count("from"), count("to"), count("answers").unwrap(), count("right").unwrap())
        })
        .collect();
    assert_eq!(found, expected);
    assert!(
        table.contains("4 to 7") && table.contains("not seen") && table.contains("50.0 % of 2"),
        "{table}"
    );

    // The same from a pipe, and from a file whose name says nothing or something else.
    let found =
        sweep_of_stdin(&["sweep", &model, "--input", "-", "--evict", "oldest"], &fs::read(&input).unwrap());
    assert_eq!(found.lines().skip(1).collect::<Vec<_>>(), table.lines().skip(1).collect::<Vec<_>>());
    for name in ["answers", "answers.txt"] {
        let input = file(name, fs::read(&input).unwrap());
        let (other, _) = sweep("other-name", &[&model, "--input", &input, "--evict", "oldest"]);
        assert_eq!(other["cells"], json["cells"], "{name}");
    }

    let bad = |name: &str, line: &str, message: &str| {
        let input = file(name, format!("{{\"tokens\": [1], \"answers\": [1]}}\n{line}\n"));
        check_fails(&["sweep", &model, "--input", &input], 1, message);
    };
    bad("lengths.jsonl", "{\"tokens\": [1, 2], \"answers\": [1]}", "line 2: has 2 tokens and 1 answers");
    bad("vocabulary.jsonl", "{\"tokens\": [256], \"answers\": [1]}", "line 2: token 256");
    bad("keys.jsonl", "{\"tokens\": [25]}", "line 2: ");
    check_fails(&["sweep", TELEMETRY, "--input", &input], 1, "answers");
}

#[test]
fn what_cannot_be_swept_is_told() {
    let input = recording("told.csv");
    let fails = |flags: &[&str], code: i32, message: &str| {
        check_fails(&[&["sweep", TELEMETRY, "--input", &input], flags].concat(), code, message);
    };
    for budget in ["0%", "101%", "half", "-5", ""] {
        fails(&["--budgets", &format!("10%,{budget}")], 2, "--budgets");
    }
    fails(&["--budgets", "100"], 2, "expected that or more");
    fails(&["--evict", "youngest"], 2, "logarithmic, or all");
    fails(&["--batch", "2"], 2, "one stream");
    fails(&["--stream-column", "cpu_user"], 2, "one stream");
    check_fails(&["sweep", TELEMETRY, "--input", "nowhere.jsonl"], 1, "nowhere.jsonl");
    check_fails(&["sweep", "nowhere", "--input", &input], 1, "nowhere");

    // No contexts, so nothing is like anything; and no weights.
    let mean = format!("{CASES}/logarithmic-lstm-mean");
    let size = inspected_size(&mean);
    let rows = file("sweep-mean.jsonl", format!("[{}]\n", vec!["0.25"; size].join(",")).repeat(30));
    check_fails(&["sweep", &mean, "--input", &rows, "--evict", "novel"], 2, "no block has contexts");
    let (json, table) = sweep("mean", &[&mean, "--input", &rows, "--budgets", "50%,100%"]);
    assert!(table.contains("left out: policy `novel`"), "{table}");
    // 30 = 11110 in binary, and 31 tokens would be needed for a fifth checkpoint.
    assert_eq!((&json["full"], &json["unbounded"]), (&4.into(), &true.into()));

    // Nothing to bound: a model without a cache, and an input without a checkpoint.
    let none = format!("{CASES}/attention-window");
    let size = inspected_size(&none);
    let rows = file("sweep-none.jsonl", format!("[{}]\n", vec!["0.25"; size].join(",")).repeat(30));
    let svg = path("none.svg");
    let (json, table) = sweep("none", &[&none, "--input", &rows, "--svg", &svg]);
    assert!(table.contains("no block reads checkpoints"), "{table}");
    assert_eq!(
        (&json["full"], &json["cells"], Path::new(&svg).exists()),
        (&0.into(), &serde_json::json!([]), false)
    );
    let short = file("short.csv", format!("{HEADER}\n{ROW}\n{ROW}\n"));
    let (json, table) = sweep("short", &[TELEMETRY, "--input", &short]);
    assert!(table.contains("before the first checkpoint"), "{table}");
    assert_eq!(json["full"], 0);
}

/// What a run prints that reads `input` from a pipe.
fn sweep_of_stdin(args: &[&str], input: &[u8]) -> String {
    let mut child = mcedge(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn inspected_size(model: &str) -> usize {
    let json: Value = serde_json::from_str(&succeeds(&["inspect", model, "--json"])).unwrap();
    json["contract"]["input"]["size"].as_u64().unwrap() as usize
}
