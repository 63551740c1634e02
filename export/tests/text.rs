//! The text form of some graphs, line by line. `MCEDGE_BLESS=1 cargo test -p mcedge-export --test text` writes the
//! files anew; read the difference before you commit it.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;

use std::path::Path;
use std::{env, fs};

use common::{ATTENTION, DELTA, GRU, LINEAR, LSTM, TITANS, block, caching, spec, weights};
use mcedge_export::{ModelGraph, Options, chunk_graph, step_graph};
use mcedge_models::contract::Dtype;
use mcedge_models::spec::Spec;

fn check(name: &str, spec: &Spec, options: Options) {
    check_text(name, &step_graph(spec, &weights(spec), options).unwrap());
}

fn check_chunk(name: &str, spec: &Spec, options: Options) {
    check_text(name, &chunk_graph(spec, &weights(spec), options).unwrap().unwrap());
}

fn check_text(name: &str, graph: &ModelGraph) {
    let text = graph.to_string();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("txt");
    if env::var_os("MCEDGE_BLESS").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let golden = fs::read_to_string(&file).unwrap();
    for (number, (found, expected)) in text.lines().zip(golden.lines()).enumerate() {
        assert_eq!(found, expected, "{name}, line {}", number + 1);
    }
    assert_eq!(text.lines().count(), golden.lines().count(), "lines of {name}");
}

#[test]
fn linear_grm() {
    let spec = spec(&[block(LINEAR, &caching("grm", "continue", ""), "")]);
    check("linear-grm", &spec, Options::default());
}

#[test]
fn titans_ssc() {
    let spec = spec(&[block(TITANS, &caching("ssc", "continue", r#""context": "sum","#), "")]);
    check("titans-ssc", &spec, Options::default());
}

#[test]
fn gru_none() {
    let spec = spec(&[block(GRU, &caching("none", "restart", ""), "")]);
    check("gru-none", &spec, Options::default());
}

#[test]
fn dla_soup_of_an_f16_cache_in_two_blocks() {
    let memory =
        r#"{"kind": "dla", "depth": 2, "width": 5, "bias": true, "objective": "dot", "step_size": 0.03}"#;
    let caching = caching("soup", "restart", r#""temperature": 2.0,"#);
    let block = block(memory, &caching, r#""normalize_qk": true, "mlp": {"width": 8},"#);
    let spec = spec(&[block.clone(), block.replace("layer_norm", "rms_norm")]);
    check("dla-soup-f16", &spec, Options { capacity: 4, cache_dtype: Dtype::F16, ..Options::default() });
}

#[test]
fn delta_residual_of_an_i8_cache() {
    let surprise = r#"{"kind": "surprise", "window": 8, "threshold": 2, "min_size": 2, "max_size": 9}"#;
    let caching = caching("residual", "continue", "").replace(r#"{"kind": "constant", "size": 3}"#, surprise);
    let options = Options { cache_dtype: Dtype::I8, batch: 2, ..Options::default() };
    check("delta-residual-i8", &spec(&[block(DELTA, &caching, "")]), options);
}

#[test]
fn lstm_sigmoid_with_gates() {
    let spec = spec(&[block(LSTM, &caching("sigmoid", "restart", ""), "")]);
    check("lstm-sigmoid", &spec, Options { gates: true, ..Options::default() });
}

#[test]
fn attention() {
    check("attention", &spec(&[block(ATTENTION, &caching("none", "continue", ""), "")]), Options::default());
}

#[test]
fn delta_ssc_in_chunks() {
    let caching = caching("ssc", "restart", "").replace(r#""size": 3"#, r#""size": 8"#);
    let options = Options { chunk: 4, gates: true, ..Options::default() };
    check_chunk("delta-ssc-chunk", &spec(&[block(DELTA, &caching, "")]), options);
}

#[test]
fn gru_grm_in_chunks() {
    check_chunk(
        "gru-grm-chunk",
        &spec(&[block(GRU, &caching("grm", "restart", ""), "")]),
        Options::default(),
    );
}
