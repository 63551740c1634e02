//! The ways through which an output can come: a backend, with kernels or plain bodies, by steps or by chunks.

use std::fmt::{self, Display};

use mcedge_models::Samples;
use mcedge_runtime::{
    Backend, Backlog, Engine, EngineOptions, Error, Model, OnnxRuntime, Ort, OrtOptions, Sample, Tract,
};
use ndarray::{Array2, s};

use crate::models::Random;

/// One way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    pub runner: Runner,
    /// Whether tokens run in chunks where they can.
    pub chunks: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Runner {
    Tract,
    Ort,
    OrtPlain,
}

impl Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runner = match self.runner {
            Runner::Tract => "tract",
            Runner::Ort => "ort",
            Runner::OrtPlain => "ort plain",
        };
        write!(f, "{runner}, {}", if self.chunks { "chunk" } else { "step" })
    }
}

/// All ways of this machine; says so where there is no ONNX Runtime.
pub fn paths() -> Vec<Path> {
    let runners = match OnnxRuntime::load(None) {
        Ok(_) => &[Runner::Tract, Runner::Ort, Runner::OrtPlain][..],
        Err(error @ Error::NoOnnxRuntime { .. }) => {
            println!("skipped ONNX Runtime: {error}");
            &[Runner::Tract]
        }
        Err(error) => panic!("{error}"),
    };
    runners.iter().flat_map(|&runner| [false, true].map(|chunks| Path { runner, chunks })).collect()
}

/// The outputs `[T, O]` of the streams of `inputs`, as many as the model's batch, of one length.
///
/// In chunks, backlogs are cut at random, and every third piece is stepped.
pub fn run(model: &Model, path: Path, inputs: &[Samples], random: &mut Random) -> Vec<Array2<f32>> {
    run_with(EngineOptions::default(), model, path, inputs, random)
}

/// As [`run`], in engines that keep their streams so.
pub fn run_with(
    keeping: EngineOptions,
    model: &Model,
    path: Path,
    inputs: &[Samples],
    random: &mut Random,
) -> Vec<Array2<f32>> {
    let options = OrtOptions { plain: path.runner == Runner::OrtPlain, ..Default::default() };
    match path.runner {
        Runner::Tract => {
            let chunks = path.chunks.then(|| Tract::chunks(model).unwrap()).flatten();
            drive(engine(keeping, model, Tract::new(model).unwrap(), chunks), path.chunks, inputs, random)
        }
        Runner::Ort | Runner::OrtPlain => {
            let chunks = path.chunks.then(|| Ort::chunks(model, &options).unwrap()).flatten();
            drive(
                engine(keeping, model, Ort::new(model, &options).unwrap(), chunks),
                path.chunks,
                inputs,
                random,
            )
        }
    }
}

pub fn engine<B: Backend>(keeping: EngineOptions, model: &Model, step: B, chunks: Option<B>) -> Engine<B> {
    let engine = Engine::new(model, step, keeping).unwrap();
    match chunks {
        Some(chunks) => engine.with_chunks(chunks).unwrap(),
        None => engine,
    }
}

pub fn drive<B: Backend>(
    mut engine: Engine<B>,
    chunks: bool,
    inputs: &[Samples],
    random: &mut Random,
) -> Vec<Array2<f32>> {
    let (tokens, outputs) = (inputs[0].len(), engine.contract().output.size);
    let mut found = vec![Array2::zeros((tokens, outputs)); inputs.len()];
    let mut start = 0;
    while start < tokens {
        let count = if chunks { (1 + random.below(23)).min(tokens - start) } else { 1 };
        let mut rows = Vec::new();
        if count == 1 || random.below(3) == 0 {
            for token in start..start + count {
                let row: Vec<_> = inputs.iter().map(|input| Some(sample(input, token))).collect();
                rows.extend_from_slice(engine.push_batch(&row).unwrap());
            }
        } else {
            catch_up(&mut engine, inputs, start, count, &mut rows);
        }
        let rows = Array2::from_shape_vec((count * inputs.len(), outputs), rows).unwrap();
        for (i, row) in rows.rows().into_iter().enumerate() {
            found[i % inputs.len()].row_mut(start + i / inputs.len()).assign(&row);
        }
        start += count;
    }
    found
}

fn catch_up<B: Backend>(
    engine: &mut Engine<B>,
    inputs: &[Samples],
    start: usize,
    count: usize,
    rows: &mut Vec<f32>,
) {
    let (mut features, mut tokens) = (Vec::new(), Vec::new());
    for input in inputs {
        match input {
            Samples::Features(samples) => features.extend(samples.slice(s![start..start + count, ..])),
            Samples::Tokens(ids) => tokens.extend_from_slice(&ids[start..start + count]),
        }
    }
    let backlog = if tokens.is_empty() { Backlog::Features(&features) } else { Backlog::Tokens(&tokens) };
    engine.catch_up(backlog, rows).unwrap();
}

pub fn sample(input: &Samples, token: usize) -> Sample<'_> {
    match input {
        Samples::Features(samples) => Sample::Features(samples.row(token).to_slice().unwrap()),
        Samples::Tokens(ids) => Sample::Token(ids[token]),
    }
}

/// The largest error, relative to max(1, |expected|); what is not finite counts as infinite.
pub fn error(found: &Array2<f32>, expected: &Array2<f64>) -> f64 {
    let errors = found.iter().zip(expected).map(|(&found, &expected)| {
        let error = (f64::from(found) - expected).abs() / expected.abs().max(1.0);
        if error.is_finite() { error } else { f64::INFINITY }
    });
    errors.fold(0.0, f64::max)
}
