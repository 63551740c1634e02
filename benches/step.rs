//! What one token costs, by backend and by live checkpoints, alone and in a chunk: medians over interleaved rounds, and
//! ratios.
//!
//! `cargo bench --bench step [-- linear/64]`. Every backend runs the same stream, and their outputs are compared, so that what is
//! timed is also right.

mod common;
#[path = "common/race.rs"]
#[allow(dead_code, reason = "other races compare in other ways")]
mod race;

use common::{Error, LINEAR, Shape, TITANS, config, wanted};
use mcedge_export::Options;
use mcedge_runtime::{Backend, Model, OnnxRuntime, Ort, OrtOptions, Tract};
use race::{ROUNDS, Runner, engine, race};

/// Live checkpoints at which steps are timed.
const FILLS: [usize; 3] = [0, 64, 256];
/// Tokens in a segment, and of a chunk. The median of a round is an ordinary step: one in 32 also ends a segment.
const SEGMENT: usize = 32;
const STEPS: usize = 6 * SEGMENT;

fn main() -> Result<(), Error> {
    println!(
        "d_model 128, 4 heads, 2 blocks, byte vocabulary; one thread; a token's time, median of {ROUNDS} rounds of {STEPS}"
    );
    let delta = r#"{"kind": "gated_delta", "alpha": "input", "beta": "input"}"#;
    let gru = r#"{"kind": "gru"}"#;
    for (name, memory) in [("linear", LINEAR), ("titans", TITANS), ("gated_delta", delta), ("gru", gru)] {
        for fill in FILLS {
            if wanted(&format!("{name}/{fill}")) {
                bench(name, memory, fill)?;
            }
        }
    }
    Ok(())
}

/// One line a backend and way: its median, and how many times that of the first.
fn bench(name: &str, memory: &str, fill: usize) -> Result<(), Error> {
    let segment = if fill == 0 { 1 << 20 } else { SEGMENT };
    let options = Options { capacity: fill.max(1), ..Options::default() };
    let model = race::model(&config(&Shape { memory, segment, ..Shape::default() }), options)?;
    let mut runners = Vec::new();
    add(&mut runners, "tract", &model, || Tract::new(&model), Tract::chunks(&model)?, fill)?;
    if OnnxRuntime::load(None).is_ok() {
        for (name, plain) in [("ort", false), ("ort plain", true)] {
            let options = OrtOptions { plain, ..Default::default() };
            let chunks = Ort::chunks(&model, &options)?;
            add(&mut runners, name, &model, || Ort::new(&model, &options), chunks, fill)?;
        }
    }
    let times = race(&mut runners)?;
    for (runner, time) in runners.iter().zip(&times) {
        let times_first = time / times[0];
        println!("{name:<12} {fill:>4} checkpoints  {:<16} {time:>8.1} µs  {times_first:>5.2}×", runner.name);
    }
    Ok(())
}

/// A backend's two runners: one steps, the other runs chunks.
fn add<'a, B: Backend + 'a>(
    runners: &mut Vec<Runner<'a>>,
    name: &str,
    model: &Model,
    load: impl Fn() -> Result<B, mcedge_runtime::Error>,
    chunks: Option<B>,
    fill: usize,
) -> Result<(), Error> {
    let stepping = engine(model, load()?, None, fill, SEGMENT)?;
    runners.push(Runner::steps(&format!("{name}, step"), stepping, STEPS));
    let chunking = engine(model, load()?, chunks, fill, SEGMENT)?;
    runners.push(Runner::chunks(&format!("{name}, chunk"), chunking, SEGMENT, STEPS / SEGMENT));
    Ok(())
}
