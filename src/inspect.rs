//! `mcedge inspect`: what a bundle takes, gives and remembers.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use mcedge_models::contract::{BlockFunction, Contract, Input};
use mcedge_models::spec::Segmentation;
use mcedge_runtime::{Footprint, Model, checkpoint_bytes};
use serde_json::{Value, json};

use crate::budget::readable;
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

/// Prints what a bundle is.
pub fn inspect(args: &Args) -> Result<ExitCode> {
    if let Some(gates) = &args.gates {
        return draw(gates, args.output.as_deref());
    }
    let bundle = args.bundle.as_deref().context("no BUNDLE to inspect")?;
    let model = Model::open(&bundle::directory(bundle, &args.options, |_| Ok(()))?)?;
    let footprint = Footprint::new(&model, true);
    let budget = args.options.cache_budget;
    let within = budget.map(|budget| budget.checkpoints(model.contract())).transpose()?.flatten();
    if args.json {
        say!("{:#}", json(&model, &footprint, within));
    } else {
        say!("{}", table(&model, &footprint, within).trim_end());
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

/// `within` is what a budget allows of checkpoints a stream.
fn json(model: &Model, footprint: &Footprint, within: Option<usize>) -> Value {
    let capacity = model.contract().capacity;
    let Footprint { state, cache, weights, buffers, shared, .. } = *footprint;
    json!({
        "contract": model.contract(),
        "slots": within.map_or(capacity, |within| within.min(capacity)),
        "bytes": {
            "graph": model.step().len(), "chunk": model.chunk().map_or(0, <[u8]>::len),
            "weights": weights, "state": state, "cache": cache, "buffers": buffers, "shared": shared,
            "total": footprint.total(), "stream": footprint.of_a_stream(),
            "checkpoint": checkpoint_bytes(model.contract()),
        },
    })
}

/// `within` is what a budget allows of checkpoints a stream.
fn table(model: &Model, footprint: &Footprint, within: Option<usize>) -> String {
    let contract = model.contract();
    let mut text = format!("{} ({})\n", contract.name, contract.schema);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    line("input", input(&contract.input));
    line("output", format!("{:?}, {} a token", contract.output.kind, contract.output.size).to_lowercase());
    line("segments", segments(contract));
    line("streams", format!("{} side by side", contract.batch));
    line("chunk", chunk(contract.chunk, model.chunk().is_some()));
    for function in &contract.blocks {
        line(&format!("block {}", function.block), block(function));
    }
    for state in &contract.state {
        line("state", format!("{:<22} {:?}", state.past, state.shape));
    }
    for cache in &contract.cache {
        line("cache", format!("{:<22} {:?} {:?}", cache.name, cache.shape, cache.dtype).to_lowercase());
    }
    line("checkpoint", checkpoint(contract, within));
    for (part, bytes) in parts(footprint) {
        line("memory", format!("{part:<22} {:>10}", readable(bytes)));
    }
    text
}

/// What a checkpoint takes, and how many there may be.
fn checkpoint(contract: &Contract, within: Option<usize>) -> String {
    let (bytes, slots) = (checkpoint_bytes(contract), contract.capacity);
    match within {
        _ if bytes == 0 => "none: no block reads any".into(),
        Some(within) if within < slots => {
            format!("{} each, {within} of {slots} slots a stream used", readable(bytes))
        }
        _ => format!("{} each, {slots} slots a stream", readable(bytes)),
    }
}

/// The parts of a footprint by name, and their sum.
fn parts(footprint: &Footprint) -> Vec<(&'static str, usize)> {
    let Footprint { streams, state, cache, weights, .. } = *footprint;
    let mut parts = vec![
        ("weights", weights),
        ("state", state),
        ("cache", cache),
        ("scratch", footprint.scratch()),
        ("in all", footprint.total()),
    ];
    if streams > 1 {
        parts.push(("of that, each stream", footprint.of_a_stream()));
    }
    parts
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
