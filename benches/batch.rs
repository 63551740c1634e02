//! What a token of a stream costs in a batch of streams, against as many engines in turn: medians over interleaved rounds.
//!
//! `cargo bench --bench batch [-- tract]`. Both run the same streams, and their outputs are compared.

mod common;

use std::time::{Duration, Instant};

use common::{Error, config, median, wanted};
use mcedge_models::Weights;
use mcedge_models::spec::Spec;
use mcedge_runtime::{Backend, Engine, EngineOptions, Model, OnnxRuntime, Ort, OrtOptions, Sample, Tract};

const STREAMS: usize = 64;
const ROUNDS: usize = 7;
const STEPS: usize = 24;

fn main() -> Result<(), Error> {
    println!(
        "d_model 128, 4 heads, 2 blocks, linear, no checkpoint; {STREAMS} streams, a step of all of them"
    );
    let (one, all) = (model(1)?, model(STREAMS)?);
    if wanted("tract") {
        bench("tract", &all, &one, Tract::new)?;
    }
    if wanted("ort") && OnnxRuntime::load(None).is_ok() {
        let ort = |plain| move |model: &Model| Ort::new(model, &OrtOptions { plain, ..Default::default() });
        bench("ort", &all, &one, ort(false))?;
        bench("ort plain", &all, &one, ort(true))?;
    }
    Ok(())
}

fn model(batch: usize) -> Result<Model, Error> {
    let spec = Spec::parse(config(r#"{"kind": "linear"}"#, 1 << 20, "restart").as_bytes())?;
    let options = mcedge_export::Options { capacity: 1, batch, ..Default::default() };
    let bundle = mcedge_export::bundle(&spec, &Weights::made_up(&spec), options)?;
    Ok(Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state)?)
}

fn bench<B: Backend>(
    name: &str,
    all: &Model,
    one: &Model,
    load: impl Fn(&Model) -> Result<B, mcedge_runtime::Error>,
) -> Result<(), Error> {
    let engine = |model: &Model| Engine::new(model, load(model)?, EngineOptions::default());
    let mut batch = engine(all)?;
    let mut engines = (0..STREAMS).map(|_| engine(one)).collect::<Result<Vec<_>, _>>()?;
    let (mut of_batch, mut of_engines) = (Vec::new(), Vec::new());
    for step in 0..ROUNDS * STEPS {
        let token = |stream: usize| ((step * 31 + stream * 7) % 256) as i64;
        let samples: Vec<_> = (0..STREAMS).map(|stream| Some(Sample::Token(token(stream)))).collect();
        let (mut together, mut apart) = (Vec::new(), Vec::new());
        of_batch.push(timed(|| Ok(together.extend_from_slice(batch.push_batch(&samples)?)))?);
        let in_turn = || {
            for (stream, engine) in engines.iter_mut().enumerate() {
                apart.extend_from_slice(engine.push_token(token(stream))?);
            }
            Ok(())
        };
        of_engines.push(timed(in_turn)?);
        for (found, expected) in together.iter().zip(&apart) {
            let error = (found - expected).abs() / expected.abs().max(1.0);
            assert!(error < 1e-3, "the batch computes {found}, an engine computes {expected}");
        }
    }
    let [of_batch, of_engines] =
        [of_batch, of_engines].map(|mut times| median(&mut times).as_secs_f64() * 1e6);
    println!(
        "{name:<10} a batch {of_batch:>8.0} µs, engines in turn {of_engines:>8.0} µs: {:.1}× as fast",
        of_engines / of_batch
    );
    Ok(())
}

fn timed(run: impl FnOnce() -> Result<(), mcedge_runtime::Error>) -> Result<Duration, Error> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed())
}
