//! Our side of `benches/peers/run`: makes bundles, and steps them when it is told to.
//!
//! `peers export linear|titans|FILE.pt DIR FILL` writes a bundle whose cache holds FILL checkpoints.
//! `peers serve tract|ort|tract-plain|ort-plain DIR FILL` fills that cache and answers lines of stdin with lines of JSON:
//! `check` with the outputs of the next tokens, `round` with the median of as many steps as a round has.

#[path = "../common/mod.rs"]
#[allow(dead_code, reason = "benches that cargo runs share more")]
mod common;

use std::io::{BufRead, stdin};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Error, LINEAR, Shape, TITANS, config, median};
use mcedge_export::Options;
use mcedge_models::spec::Spec;
use mcedge_models::{Model as Trained, Weights};
use mcedge_runtime::{Backend, Backlog, Engine, EngineOptions, Model, Ort, OrtOptions, Tract};
use serde_json::{Value, json};

/// Tokens in a segment: few, so that a cache fills soon. The median of a round is an ordinary step.
const SEGMENT: usize = 8;
/// Tokens whose outputs are compared.
const CHECKED: usize = 8;
/// A round is steps of this long, but no fewer and no more than these.
const ROUND: Duration = Duration::from_millis(40);
const STEPS: std::ops::RangeInclusive<usize> = 24..=512;

fn main() -> Result<(), Error> {
    // cargo adds a flag of its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["export", source, directory, fill] => export(source, Path::new(directory), fill.parse()?),
        ["serve", runner, directory, fill] => serve(runner, Path::new(directory), fill.parse()?),
        _ => {
            println!("benches/peers/run calls this one: it compares with what others have");
            Ok(())
        }
    }
}

fn export(source: &str, directory: &Path, fill: usize) -> Result<(), Error> {
    // No segment ends where no checkpoint is to be.
    let segment = if fill == 0 { 1 << 20 } else { SEGMENT };
    let made_up = |memory| -> Result<_, Error> {
        let spec = Spec::parse(config(&Shape { memory, segment, ..Shape::default() }).as_bytes())?;
        let weights = Weights::made_up(&spec);
        Ok((spec, weights))
    };
    let (spec, weights) = match source {
        "linear" => made_up(LINEAR)?,
        "titans" => made_up(TITANS)?,
        file => {
            let Trained { spec, weights, .. } = Trained::load(file)?;
            (spec, weights)
        }
    };
    let options = Options { capacity: fill.max(1), ..Options::default() };
    Ok(mcedge_export::bundle(&spec, &weights, options)?.write(directory)?)
}

fn serve(runner: &str, directory: &Path, fill: usize) -> Result<(), Error> {
    let model = Model::open(directory)?;
    let ort = |plain| OrtOptions { plain, ..OrtOptions::default() };
    // Whatever the steps run on, the cache is filled in chunks by the kernel.
    let (tract, onnx) = (|| Tract::chunks(&model), || Ort::chunks(&model, &ort(false)));
    match runner {
        "tract" => answer(&model, Tract::new(&model)?, tract()?, fill),
        "tract-plain" => answer(&model, Tract::plain(&model)?, tract()?, fill),
        "ort" => answer(&model, Ort::new(&model, &ort(false))?, onnx()?, fill),
        "ort-plain" => answer(&model, Ort::new(&model, &ort(true))?, onnx()?, fill),
        _ => Err(format!("there is no runner `{runner}`").into()),
    }
}

/// Token `t` of the stream that every peer runs.
fn token(t: u64) -> i64 {
    (t * 31 % 256) as i64
}

fn answer<B: Backend>(model: &Model, step: B, chunks: Option<B>, fill: usize) -> Result<(), Error> {
    let mut engine = Engine::new(model, step, EngineOptions::default())?;
    if let Some(chunks) = chunks {
        engine = engine.with_chunks(chunks)?;
    }
    for segment in 0..fill {
        let tokens: Vec<i64> = (0..SEGMENT).map(|t| token((segment * SEGMENT + t) as u64)).collect();
        engine.catch_up(Backlog::Tokens(&tokens), &mut Vec::new())?;
    }
    println!("{}", json!({ "checkpoints": engine.cache().len(), "state_bytes": state_bytes(model) }));
    for line in stdin().lock().lines() {
        let said = match line?.as_str() {
            "check" => check(&mut engine)?,
            "round" => round(&mut engine)?,
            other => return Err(format!("`{other}` is neither check nor round").into()),
        };
        println!("{said}");
    }
    Ok(())
}

/// What a stream keeps from token to token: state, and the cache's slots, of which there is one at least.
fn state_bytes(model: &Model) -> usize {
    let contract = model.contract();
    let elements = |shape: &[usize]| shape.iter().product::<usize>();
    let state = contract.state.iter().map(|tensor| elements(&tensor.shape) * tensor.dtype.size());
    let cache = contract.cache.iter().map(|tensor| elements(&tensor.shape) * tensor.dtype.size());
    state.chain(cache).sum()
}

fn check<B: Backend>(engine: &mut Engine<B>) -> Result<Value, Error> {
    let mut outputs = Vec::new();
    for _ in 0..CHECKED {
        let next = token(engine.tokens());
        outputs.extend_from_slice(engine.push_token(next)?);
    }
    Ok(json!({ "outputs": outputs }))
}

fn round<B: Backend>(engine: &mut Engine<B>) -> Result<Value, Error> {
    let mut times = Vec::with_capacity(*STEPS.end());
    let round = Instant::now();
    while times.len() < *STEPS.start() || (times.len() < *STEPS.end() && round.elapsed() < ROUND) {
        let next = token(engine.tokens());
        let start = Instant::now();
        engine.push_token(next)?;
        times.push(start.elapsed());
    }
    let steps = times.len();
    Ok(json!({ "median_us": median(&mut times).as_secs_f64() * 1e6, "steps": steps }))
}
