//! `mcedge inspect`: what a bundle takes, gives and remembers.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use mcedge_models::contract::{BlockFunction, Contract, Input, StateTensor};
use mcedge_models::spec::Segmentation;
use mcedge_runtime::{Model, cache_bytes};
use serde_json::json;

use crate::bundle;
use crate::export::Options;
use crate::picture::Gates;
use crate::source;

/// Flags of `mcedge inspect`.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle, or a model directory or .pt checkpoint, which is exported into a cache folder first
    #[arg(required_unless_present = "gates")]
    bundle: Option<PathBuf>,
    #[command(flatten, next_help_heading = "When BUNDLE is a model, not a bundle")]
    options: Options,
    /// Print JSON: the contract and the bytes
    #[arg(long)]
    json: bool,
    /// Draw the gates that `run --gates` wrote, in place of a bundle: an SVG heat map, time across, age down
    #[arg(long, value_name = "RUN.npy", conflicts_with_all = ["bundle", "json"])]
    gates: Option<String>,
    /// Where the picture goes
    #[arg(short, long, value_name = "FILE.svg", requires = "gates")]
    output: Option<PathBuf>,
}

/// What a bundle's streams cost in memory, in bytes.
struct Bytes {
    /// `step.onnx`: nearly all of it weights.
    graph: usize,
    /// `chunk.onnx`; 0 when there is none.
    chunk: usize,
    state: usize,
    cache: usize,
}

/// Prints what a bundle is.
pub fn inspect(args: &Args) -> Result<ExitCode> {
    if let Some(gates) = &args.gates {
        return draw(gates, args.output.as_deref());
    }
    let bundle = args.bundle.as_deref().context("no BUNDLE to inspect")?;
    let model = Model::open(&bundle::directory(bundle, &args.options, |_| Ok(()))?)?;
    let contract = model.contract();
    let bytes = Bytes {
        graph: model.step().len(),
        chunk: model.chunk().map_or(0, <[u8]>::len),
        state: contract.state.iter().map(state_bytes).sum(),
        cache: cache_bytes(contract),
    };
    if args.json {
        let json = json!({
            "contract": contract,
            "bytes": {
                "graph": bytes.graph, "chunk": bytes.chunk, "state": bytes.state, "cache": bytes.cache,
            },
        });
        say!("{json:#}");
    } else {
        say!("{}", table(contract, &bytes).trim_end());
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws an array of gates into a file, or on standard output.
fn draw(gates: &str, output: Option<&Path>) -> Result<ExitCode> {
    let drawn = source::read_array(gates).and_then(|(shape, weights)| Gates::new(&shape, weights));
    let svg = drawn.with_context(|| format!("gates {gates}"))?.svg();
    match output {
        Some(path) => fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?,
        None => say!("{}", svg.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

fn state_bytes(state: &StateTensor) -> usize {
    state.shape.iter().product::<usize>() * state.dtype.size()
}

fn table(contract: &Contract, bytes: &Bytes) -> String {
    let mut text = format!("{} ({})\n", contract.name, contract.schema);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    line("input", input(&contract.input));
    line("output", format!("{:?}, {} a token", contract.output.kind, contract.output.size).to_lowercase());
    line("segments", segments(contract));
    line("streams", format!("{} side by side", contract.batch));
    line("chunk", chunk(contract.chunk, bytes.chunk > 0));
    for function in &contract.blocks {
        line(&format!("block {}", function.block), block(function));
    }
    for state in &contract.state {
        line("state", format!("{:<22} {:?}", state.past, state.shape));
    }
    for cache in &contract.cache {
        line("cache", format!("{:<22} {:?} {:?}", cache.name, cache.shape, cache.dtype).to_lowercase());
    }
    let Bytes { graph, chunk, state, cache } = bytes;
    line("memory", format!("step.onnx {graph}, chunk.onnx {chunk}, state {state}, cache {cache} bytes"));
    let slot = cache / contract.capacity / contract.batch;
    line(
        "checkpoint",
        match slot {
            0 => "none: no block reads any".into(),
            _ => format!("{slot} bytes each, {} slots a stream", contract.capacity),
        },
    );
    text
}

fn chunk(tokens: usize, is_there: bool) -> String {
    match is_there {
        true => format!("2 to {tokens} tokens at once, in catching up"),
        false => "none: tokens run one by one".into(),
    }
}

/// A block's memory, how it is read, and what it says of that.
fn block(BlockFunction { block, function, memory }: &BlockFunction) -> String {
    let (heads, size) = (memory.num_heads, memory.head_size);
    let aggregation = format!("{:?}", memory.caching.aggregation).to_lowercase();
    let top = memory.caching.top_k.map(|top_k| format!(" of {top_k}")).unwrap_or_default();
    let gates = if memory.has_gates() { format!("; gates.{block}") } else { String::new() };
    let kind = memory.memory.kind();
    format!("{kind}, read-out {aggregation}{top}, {heads} heads of {size}, as {function}{gates}")
}

fn input(input: &Input) -> String {
    match input {
        Input::Features { size, names, rate_hz, .. } => {
            let rate = rate_hz.map(|rate| format!(" at {rate} Hz")).unwrap_or_default();
            let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
            format!("{size} channels{rate}{names}")
        }
        Input::Tokens { vocab_size } => format!("tokens 0 to {}", vocab_size - 1),
    }
}

fn segments(contract: &Contract) -> String {
    let init = format!("{:?}", contract.init).to_lowercase();
    match contract.segmentation {
        Segmentation::Constant { size } => format!("of {size} tokens, {init}"),
        Segmentation::Logarithmic {} => format!("logarithmic, {init}"),
        Segmentation::Surprise { min_size, max_size, .. } => {
            format!("{min_size} to {max_size} tokens, cut by surprise, {init}")
        }
    }
}
