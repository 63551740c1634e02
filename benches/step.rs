//! What one token costs, by backend and by live checkpoints, alone and in a chunk: medians over interleaved rounds, and
//! ratios.
//!
//! `cargo bench --bench step [-- linear/64]`. Every backend runs the same stream, and their outputs are compared, so that what is
//! timed is also right.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Error, config, median, wanted};
use mcedge_models::Weights;
use mcedge_models::spec::Spec;
use mcedge_runtime::{Backend, Backlog, Engine, EngineOptions, Model, OnnxRuntime, Ort, OrtOptions, Tract};

/// Live checkpoints at which steps are timed.
const FILLS: [usize; 3] = [0, 64, 256];
const ROUNDS: usize = 7;
/// Tokens in a segment, and of a chunk. The median of a round is an ordinary step: one in 32 also ends a segment.
const SEGMENT: usize = 32;
const STEPS: usize = 6 * SEGMENT;

fn main() -> Result<(), Error> {
    println!(
        "d_model 128, 4 heads, 2 blocks, byte vocabulary; one thread; a token's time, median of {ROUNDS} rounds of {STEPS}"
    );
    let linear = r#"{"kind": "linear"}"#;
    let titans = r#"{"kind": "titans", "depth": 2, "width": 64, "objective": "l2", "step_size": 0.01, "momentum": 0.9}"#;
    let delta = r#"{"kind": "gated_delta", "alpha": "input", "beta": "input"}"#;
    let gru = r#"{"kind": "gru"}"#;
    for (name, memory) in [("linear", linear), ("titans", titans), ("gated_delta", delta), ("gru", gru)] {
        for fill in FILLS {
            if wanted(&format!("{name}/{fill}")) {
                bench(name, memory, fill)?;
            }
        }
    }
    Ok(())
}

/// One backend's stream: a round gives the median time of its steps.
struct Runner<'a> {
    name: String,
    round: Box<dyn FnMut() -> Result<Duration, Error> + 'a>,
    medians: Vec<Duration>,
    /// The last output, for comparison.
    output: Rc<RefCell<Vec<f32>>>,
}

fn bench(name: &str, memory: &str, fill: usize) -> Result<(), Error> {
    let segment = if fill == 0 { 1 << 20 } else { SEGMENT };
    let spec = Spec::parse(config(memory, segment, "restart").as_bytes())?;
    let weights = Weights::made_up(&spec);
    let options = mcedge_export::Options { capacity: fill.max(1), ..Default::default() };
    let bundle = mcedge_export::bundle(&spec, &weights, options)?;
    let model = Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state)?;
    let mut runners = vec![
        runner("tract", &model, Tract::new(&model)?, None, fill)?,
        runner("tract", &model, Tract::new(&model)?, Tract::chunks(&model)?, fill)?,
    ];
    if OnnxRuntime::load(None).is_ok() {
        for (name, plain) in [("ort", false), ("ort plain", true)] {
            let options = OrtOptions { plain, ..Default::default() };
            runners.push(runner(name, &model, Ort::new(&model, &options)?, None, fill)?);
            let chunks = Ort::chunks(&model, &options)?;
            runners.push(runner(name, &model, Ort::new(&model, &options)?, chunks, fill)?);
        }
    }
    for _ in 0..ROUNDS {
        for runner in &mut runners {
            let median = (runner.round)()?;
            runner.medians.push(median);
        }
    }
    report(name, fill, &mut runners);
    Ok(())
}

/// Fills the cache with `fill` checkpoints; after that every round is the same tokens for every backend, one by one or,
/// with a graph for them, in chunks.
fn runner<'a, B: Backend + 'a>(
    name: &str,
    model: &Model,
    backend: B,
    chunks: Option<B>,
    fill: usize,
) -> Result<Runner<'a>, Error> {
    let name = format!("{name}, {}", if chunks.is_some() { "chunk" } else { "step" });
    let tokens_a_piece = if chunks.is_some() { SEGMENT } else { 1 };
    let mut engine = Engine::new(model, backend, EngineOptions::default())?;
    if let Some(chunks) = chunks {
        engine = engine.with_chunks(chunks)?;
    }
    for token in 0..fill * SEGMENT {
        engine.push_token((token * 31 % 256) as i64)?;
    }
    let output = Rc::new(RefCell::new(Vec::new()));
    let last = Rc::clone(&output);
    let round = move || {
        let mut times = Vec::with_capacity(STEPS);
        for _ in 0..STEPS / tokens_a_piece {
            let first = engine.tokens();
            let tokens: Vec<i64> =
                (first..first + tokens_a_piece as u64).map(|t| (t * 31 % 256) as i64).collect();
            let mut output = Vec::with_capacity(256 * tokens.len());
            let start = Instant::now();
            match tokens[..] {
                [token] => output.extend_from_slice(engine.push_token(token)?),
                _ => engine.catch_up(Backlog::Tokens(&tokens), &mut output)?,
            }
            times.push(start.elapsed() / tokens_a_piece as u32);
            last.replace(output.split_off(output.len() - 256));
        }
        Ok(median(&mut times))
    };
    Ok(Runner { name, round: Box::new(round), medians: Vec::new(), output })
}

/// One line a backend: its median, and how many times that of the first.
fn report(name: &str, fill: usize, runners: &mut [Runner<'_>]) {
    let expected = runners[0].output.borrow().clone();
    let first = median(&mut runners[0].medians).as_secs_f64();
    for runner in runners {
        let found = runner.output.borrow();
        for (found, expected) in found.iter().zip(&expected) {
            let error = (found - expected).abs() / expected.abs().max(1.0);
            assert!(error < 1e-3, "{} computes {found}, tract computes {expected}", runner.name);
        }
        let time = median(&mut runner.medians).as_secs_f64();
        println!(
            "{name:<12} {fill:>4} checkpoints  {:<16} {:>8.1} µs  {:>5.2}×",
            runner.name,
            time * 1e6,
            time / first
        );
    }
}
