//! What a token costs when its checkpoints lie in a file: by length of history, in RAM and spilled, with page faults.
//!
//! `cargo bench --workspace --bench spill`. Both run the same stream, and their outputs are compared bit by bit. A history is
//! warm when the system's page cache has it, as after it was written; cold when that was dropped, for which the bench needs
//! to be root.

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use mcedge_models::Weights;
use mcedge_models::spec::Spec;
use mcedge_runtime::{Engine, EngineOptions, Model, Spill, Tract};

/// Checkpoints, of 2 · 64 KiB each: the last are 1 GiB.
const HISTORIES: [usize; 5] = [64, 512, 2048, 4096, 8192];
const BUDGET_BYTES: usize = 16 << 20;
const STEPS: usize = 400;
/// Tokens in a segment, as [`BLOCK`] says.
const SEGMENT: usize = 4;

const CONFIG: &str = r#"{"format": "mcedge/1", "name": "spill", "input": {"kind": "tokens", "vocab_size": 256}, "d_model": 128,
    "blocks": [BLOCK, BLOCK], "final_norm": true, "head": {"kind": "logits", "size": 256}}"#;
const BLOCK: &str = r#"{"norm": "layer_norm", "num_heads": 1, "normalize_qk": true, "memory": {"kind": "linear"},
    "caching": {"aggregation": "ssc", "top_k": 4, "init": "restart", "segmentation": {"kind": "constant", "size": 4}}}"#;

fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "d_model 128, 1 head, 2 blocks, linear, ssc top 4; one thread, tract; median of {STEPS} \
         tokens, of which one in {SEGMENT} makes a checkpoint; spilled with a budget of {} MiB",
        BUDGET_BYTES >> 20
    );
    println!(
        "{:>11}  {:>9}  {:>9}  {:>9}  {:>20}  {:>20}",
        "checkpoints", "history", "in RAM", "spilled", "faults a token", "cold"
    );
    for checkpoints in HISTORIES {
        bench(checkpoints)?;
    }
    Ok(())
}

fn bench(checkpoints: usize) -> Result<(), Box<dyn Error>> {
    let spec = Spec::parse(CONFIG.replace("BLOCK", BLOCK).as_bytes())?;
    let options = mcedge_export::Options { capacity: checkpoints, ..Default::default() };
    let bundle = mcedge_export::bundle(&spec, &Weights::made_up(&spec), options)?;
    let model = Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state)?;
    let path = std::env::current_dir()?.join("target").join(format!("spill-bench-{}", std::process::id()));
    let spill = Spill { path, resident_bytes: BUDGET_BYTES };
    let spilling = EngineOptions { spill: Some(spill), ..EngineOptions::default() };
    let (in_ram, expected, _) = run(&model, checkpoints, EngineOptions::default(), false)?;
    let (spilled, found, warm) = run(&model, checkpoints, spilling.clone(), false)?;
    assert!(
        found.iter().zip(&expected).all(|(f, e)| f.to_bits() == e.to_bits()),
        "a history in a file reads otherwise"
    );
    let cold = match fs::write("/proc/sys/vm/drop_caches", "1") {
        Ok(()) => {
            let (time, _, faults) = run(&model, checkpoints, spilling, true)?;
            format!("{:.1} µs, {:.2} major", time.as_secs_f64() * 1e6, faults.major)
        }
        Err(_) => "not root".into(),
    };
    let us = |time: Duration| format!("{:.1} µs", time.as_secs_f64() * 1e6);
    let faults = format!("{:.1} minor, {:.2} major", warm.minor, warm.major);
    println!(
        "{checkpoints:>11}  {:>5} MiB  {:>9}  {:>9}  {faults:>20}  {cold:>20}",
        checkpoints * 128 / 1024,
        us(in_ram),
        us(spilled),
    );
    Ok(())
}

/// Fills the history and times the tokens after it: their median, the last output, and faults a token.
fn run(
    model: &Model,
    checkpoints: usize,
    options: EngineOptions,
    is_cold: bool,
) -> Result<(Duration, Vec<f32>, Faults), Box<dyn Error>> {
    let mut engine = Engine::new(model, Tract::new(model)?, options)?;
    let token = |t: usize| ((t * t * 7 + t * 31) % 251) as i64;
    for t in 0..checkpoints * SEGMENT {
        engine.push_token(token(t))?;
    }
    if is_cold {
        // What is not on the disk yet stays in the cache.
        std::process::Command::new("sync").status()?;
        fs::write("/proc/sys/vm/drop_caches", "1")?;
    }
    let mut times = Vec::with_capacity(STEPS);
    let before = Faults::so_far();
    let mut output = Vec::new();
    for t in checkpoints * SEGMENT..checkpoints * SEGMENT + STEPS {
        let start = Instant::now();
        let answer = engine.push_token(token(t))?;
        times.push(start.elapsed());
        output.clear();
        output.extend_from_slice(answer);
    }
    let after = Faults::so_far();
    times.sort();
    let per_token = |after: f64, before: f64| (after - before) / STEPS as f64;
    let faults =
        Faults { minor: per_token(after.minor, before.minor), major: per_token(after.major, before.major) };
    Ok((times[STEPS / 2], output, faults))
}

/// Pages that this process missed: those that were in RAM after all, and those that came from the disk.
struct Faults {
    minor: f64,
    major: f64,
}

impl Faults {
    /// Zero where `/proc` does not tell.
    fn so_far() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // Fields count from 3 behind the name, which ends with the last parenthesis.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field =
            |number: usize| fields.get(number - 3).and_then(|field| field.parse().ok()).unwrap_or(0.0);
        Faults { minor: field(10), major: field(12) }
    }
}
