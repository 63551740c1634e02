//! What the end of a segment costs when the cache is full, by policy and by live checkpoints, in ordinary steps.
//!
//! `cargo bench --bench evict [-- titans/64/merge]`. Every step that is timed as an end has made a checkpoint for which there
//! was no room, and left as many as the cache holds.

mod common;

use std::time::{Duration, Instant};

use common::{Error, LINEAR, Shape, TITANS, config, median, wanted};
use mcedge_export::Options;
use mcedge_models::Weights;
use mcedge_models::spec::Spec;
use mcedge_runtime::{Engine, EngineOptions, Model, Policy, Tract};

/// Live checkpoints.
const FILLS: [usize; 2] = [64, 256];
/// Tokens in a segment.
const SEGMENT: usize = 8;
/// Segments whose ends are timed.
const ENDS: usize = 150;

fn main() -> Result<(), Error> {
    println!(
        "d_model 128, 4 heads, 2 blocks, byte vocabulary; tract, one thread; medians of {ENDS} segments\n"
    );
    println!(
        "| memory | checkpoints | policy | step, µs | segment's end, µs | in steps |\n|---|---|---|---|---|---|"
    );
    for (name, memory) in [("linear", LINEAR), ("titans", TITANS)] {
        for fill in FILLS {
            let shape = Shape { memory, segment: SEGMENT, init: "continue", ..Shape::default() };
            let spec = Spec::parse(config(&shape).as_bytes())?;
            let options = Options { capacity: fill, gates: true, ..Options::default() };
            let bundle = mcedge_export::bundle(&spec, &Weights::made_up(&spec), options)?;
            let model = Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state)?;
            for policy in Policy::ALL {
                if wanted(&format!("{name}/{fill}/{policy}")) {
                    let (step, end) = times(&model, policy, fill)?;
                    let (step, end) = (step.as_secs_f64() * 1e6, end.as_secs_f64() * 1e6);
                    println!("| {name} | {fill} | `{policy}` | {step:.1} | {end:.1} | {:.2} |", end / step);
                }
            }
        }
    }
    Ok(())
}

/// The median time of a step, and how much longer one takes that ends a segment.
fn times(model: &Model, policy: Policy, fill: usize) -> Result<(Duration, Duration), Error> {
    let options = EngineOptions { policy, ..EngineOptions::default() };
    let mut engine = Engine::new(model, Tract::new(model)?, options)?;
    let (mut steps, mut ends) = (Vec::new(), Vec::new());
    // The first segments past the capacity are not timed: what a policy keeps of its results it has to compute once.
    for token in 0..(fill + 5 + ENDS) * SEGMENT {
        let pushed = engine.cache().pushed();
        let start = Instant::now();
        let output = engine.push_token((token * token % 251) as i64)?;
        let time = start.elapsed();
        assert!(output.iter().all(|x| x.is_finite()), "{policy}: token {token}");
        if token < (fill + 5) * SEGMENT {
            continue;
        }
        let is_end = token % SEGMENT == SEGMENT - 1;
        assert_eq!(engine.cache().pushed(), pushed + u64::from(is_end), "{policy}: token {token}");
        assert_eq!(engine.cache().len(), fill, "{policy}: the cache stays full");
        if is_end { &mut ends } else { &mut steps }.push(time);
    }
    let step = median(&mut steps);
    Ok((step, median(&mut ends).saturating_sub(step)))
}
