//! The ratios that speed is held to, each of two or more runners that race in this process.
//!
//! `cargo bench --workspace --bench ratios [-- chunk]`. Runners of a row run the same stream, and their outputs are
//! compared with those of the row's first, or by type of cache with those of the plain bodies; what `ssc` reads of few and of many
//! checkpoints has nothing in common, and is compared with plain bodies before the race.
//! Rows that need an ONNX Runtime are left out without one. What others make of the same model is in `peers/`.

#[path = "../src/bench/bandwidth.rs"]
mod bandwidth;
mod common;
#[path = "common/race.rs"]
mod race;

use bandwidth::Reader;
use common::{Error, LINEAR, Shape, TITANS, config, median, wanted};
use mcedge_export::Options;
use mcedge_models::contract::Dtype;
use mcedge_runtime::{
    Backlog, Engine, EngineOptions, Footprint, Model, OnnxRuntime, Ort, OrtOptions, Sample, Tract,
};
use race::{Runner, compare, engine, race, token_at};

const STEPS: usize = 192;
/// Segments of a stream that makes no checkpoints.
const ENDLESS: usize = 1 << 20;
/// Streams of a batch.
const STREAMS: usize = 64;

fn main() -> Result<(), Error> {
    println!("d_model 128, 4 heads, 2 blocks, byte vocabulary; one thread; µs a token of a stream\n");
    println!("| measure | times | ratio |\n|---|---|---|");
    for (name, memory) in [("linear", LINEAR), ("titans 64", TITANS)] {
        for fill in [0, 64, 256] {
            backends(name, memory, fill)?;
        }
    }
    dtypes()?;
    top_k()?;
    chunk("linear", LINEAR)?;
    chunk("titans 64", TITANS)?;
    batch()
}

/// A row of the table: the times, and each one's ratio to the first.
fn row(measure: &str, runners: &mut [Runner<'_>]) -> Result<Vec<f64>, Error> {
    let times = race(runners)?;
    let named: Vec<String> =
        runners.iter().zip(&times).map(|(runner, time)| format!("{} {time:.1}", runner.name)).collect();
    let ratios: Vec<String> = times[1..].iter().map(|time| format!("{:.3}×", time / times[0])).collect();
    println!("| {measure} | {} | {} |", named.join(", "), ratios.join(", "));
    Ok(times)
}

/// A row of the table: how long reading a step's bytes takes, in the state in which they are after many steps, and the step's
/// ratio to it. The bandwidth is taken after the race, not in its rounds: a machine that others use may have slowed or
/// quickened since.
fn floor(measure: &str, model: &Model, step_us: f64) {
    let footprint = Footprint::new(model, false);
    // Of the embedding one row is read; the state is read and written.
    let embedding = 255 * 128 * size_of::<f32>();
    let bytes = (footprint.weights - embedding + 2 * footprint.state + footprint.cache) as u64;
    let speed = Reader::new(bytes).bytes_per_second(bytes);
    let floor_us = bytes as f64 / speed * 1e6;
    println!(
        "| {measure}, its {bytes} bytes read at {:.1} GB/s | {floor_us:.1} | step {:.3}× |",
        speed / 1e9,
        step_us / floor_us
    );
}

fn has_onnxruntime() -> bool {
    OnnxRuntime::load(None).is_ok()
}

fn plain() -> OrtOptions {
    OrtOptions { plain: true, ..OrtOptions::default() }
}

fn shape(memory: &str, segment: usize) -> Shape<'_> {
    Shape { memory, segment, ..Shape::default() }
}

/// Ours on tract, ours on ONNX Runtime, and the plain bodies there.
fn backends(name: &str, memory: &str, fill: usize) -> Result<(), Error> {
    let measure = format!("{name}, {fill} checkpoints, step");
    if !wanted(&measure) {
        return Ok(());
    }
    let segment = if fill == 0 { ENDLESS } else { 32 };
    let options = Options { capacity: fill.max(1), ..Options::default() };
    let model = race::model(&config(&shape(memory, segment)), options)?;
    let mut runners =
        vec![Runner::steps("tract", engine(&model, Tract::new(&model)?, None, fill, segment)?, STEPS)];
    if has_onnxruntime() {
        for (name, options) in [("ort", OrtOptions::default()), ("ort plain", plain())] {
            let engine = engine(&model, Ort::new(&model, &options)?, None, fill, segment)?;
            runners.push(Runner::steps(name, engine, STEPS));
        }
    }
    let times = row(&measure, &mut runners)?;
    if fill > 0 {
        floor(&measure, &model, times[0]);
    }
    Ok(())
}

/// Ours by the cache's type, and the plain bodies over each: against those of its own type each is held.
fn dtypes() -> Result<(), Error> {
    const FILL: usize = 256;
    let measure = format!("linear, {FILL} checkpoints, by the cache's type");
    if !wanted(&measure) || !has_onnxruntime() {
        return Ok(());
    }
    let load = |cache_dtype| {
        let options = Options { capacity: FILL, cache_dtype, ..Options::default() };
        race::model(&config(&Shape::default()), options)
    };
    let full = load(Dtype::F32)?;
    let on_ort = |model: &Model, options| engine(model, Ort::new(model, &options)?, None, FILL, 32);
    let mut runners = vec![Runner::steps("ort plain f32", on_ort(&full, plain())?, STEPS)];
    runners.push(Runner::steps("ort f32", on_ort(&full, OrtOptions::default())?, STEPS));
    for (name, dtype) in [("f16", Dtype::F16), ("i8", Dtype::I8)] {
        let model = load(dtype)?;
        let on_tract = engine(&model, Tract::new(&model)?, None, FILL, 32)?;
        let ours = Runner::steps(&format!("ort {name}"), on_ort(&model, OrtOptions::default())?, STEPS);
        let on_tract = Runner::steps(&format!("tract {name}"), on_tract, STEPS);
        let plain = Runner::steps(&format!("ort plain {name}"), on_ort(&model, plain())?, STEPS);
        let like = Some(runners.len() + 2);
        runners.extend([ours.like(like), on_tract.like(like), plain.like(None)]);
    }
    row(&measure, &mut runners)?;
    Ok(())
}

/// `ssc`: a step by live checkpoints. These are streams of several lengths: their outputs have nothing in common.
fn top_k() -> Result<(), Error> {
    let measure = "linear, ssc top 4, 64 and 4096 checkpoints, step";
    if !wanted(measure) {
        return Ok(());
    }
    let shape = Shape { aggregation: r#""ssc", "top_k": 4"#, segment: 8, ..Shape::default() };
    let mut runners = Vec::new();
    for fill in [64, 4096] {
        let options = Options { capacity: fill, ..Options::default() };
        let model = race::model(&config(&shape), options)?;
        let name = format!("tract at {fill}");
        let mut ours = engine(&model, Tract::new(&model)?, None, fill, 8)?;
        step_as_plain(&name, &mut ours, &model, fill)?;
        runners.push(Runner::steps(&name, ours, STEPS).like(None));
    }
    row(measure, &mut runners)?;
    Ok(())
}

/// Steps an engine for a few tokens, across the end of a segment, beside the plain bodies. Their cache is filled in chunks, by
/// the kernel: plain steps over thousands of slots would take minutes for it.
fn step_as_plain(name: &str, ours: &mut Engine<Tract>, model: &Model, fill: usize) -> Result<(), Error> {
    const TOKENS: usize = 12;
    let chunks = Tract::chunks(model)?.ok_or("there is no graph of chunks")?;
    let mut plain =
        Engine::new(model, Tract::plain(model)?, EngineOptions::default())?.with_chunks(chunks)?;
    let tokens: Vec<i64> = (0..ours.tokens()).map(token_at).collect();
    plain.catch_up(Backlog::Tokens(&tokens), &mut Vec::new())?;
    assert_eq!(plain.cache().len(), fill, "live checkpoints");
    for _ in 0..TOKENS {
        let token = token_at(ours.tokens());
        compare(name, ours.push_token(token)?, plain.push_token(token)?);
    }
    Ok(())
}

/// A segment of 64 tokens as one chunk, and as 64 steps.
fn chunk(name: &str, memory: &str) -> Result<(), Error> {
    const TOKENS: usize = 64;
    let measure = format!("{name}, 64 checkpoints, a chunk of {TOKENS}, and {TOKENS} steps");
    if !wanted(&measure) {
        return Ok(());
    }
    let options = Options { capacity: 64, chunk: TOKENS, ..Options::default() };
    let model = race::model(&config(&shape(memory, TOKENS)), options)?;
    let mut runners = Vec::new();
    let stepping = engine(&model, Tract::new(&model)?, None, 64, TOKENS)?;
    let chunking = engine(&model, Tract::new(&model)?, Tract::chunks(&model)?, 64, TOKENS)?;
    runners.push(Runner::chunks("tract, chunk", chunking, TOKENS, 3));
    runners.push(Runner::chunks("tract, steps", stepping, TOKENS, 3));
    if has_onnxruntime() {
        let (ours, plain) = (OrtOptions::default(), plain());
        for (name, options) in [("ort", &ours), ("ort plain", &plain)] {
            let stepping = engine(&model, Ort::new(&model, options)?, None, 64, TOKENS)?;
            let chunks = Ort::chunks(&model, options)?;
            let chunking = engine(&model, Ort::new(&model, options)?, chunks, 64, TOKENS)?;
            runners.push(Runner::chunks(&format!("{name}, chunk"), chunking, TOKENS, 3));
            runners.push(Runner::chunks(&format!("{name}, steps"), stepping, TOKENS, 3));
        }
    }
    row(&measure, &mut runners)?;
    Ok(())
}

/// Streams in a batch, and as many engines in turn.
fn batch() -> Result<(), Error> {
    let measure = format!("linear, no checkpoints, a batch of {STREAMS}, and {STREAMS} engines in turn");
    if !wanted(&measure) {
        return Ok(());
    }
    let config = config(&shape(LINEAR, ENDLESS));
    let one = Options { capacity: 1, ..Options::default() };
    let many = race::model(&config, Options { batch: STREAMS, ..one })?;
    let one = race::model(&config, one)?;
    let mut together = Engine::new(&many, Tract::new(&many)?, EngineOptions::default())?;
    let mut apart = Vec::new();
    for _ in 0..STREAMS {
        apart.push(engine(&one, Tract::new(&one)?, None, 0, ENDLESS)?);
    }
    let together = Runner::new("tract, batch", STREAMS, 24, move |output| {
        let samples: [_; STREAMS] =
            std::array::from_fn(|stream| Some(byte(together.tokens_of(stream), stream)));
        output.clear();
        output.extend_from_slice(together.push_batch(&samples)?);
        Ok(())
    });
    let apart = Runner::new("tract, in turn", STREAMS, 24, move |output| {
        output.clear();
        for (stream, engine) in apart.iter_mut().enumerate() {
            let sample = byte(engine.tokens(), stream);
            output.extend_from_slice(engine.push_batch(&[Some(sample)])?);
        }
        Ok(())
    });
    row(&measure, &mut [together, apart])?;
    Ok(())
}

/// A stream's token.
fn byte(index: u64, stream: usize) -> Sample<'static> {
    Sample::Token(((index * 31 + stream as u64 * 7) % 256) as i64)
}
