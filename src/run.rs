//! `mcedge run`: a bundle on files or live streams.

mod backlog;
mod gates;
mod inputs;
mod runner;

use std::io::{IsTerminal, stderr};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use mcedge_models::contract::{Contract, Input};
use mcedge_runtime::{EngineOptions, Model, Policy, cache_bytes};

use crate::Usage;
use crate::bundle::BundleArg;
use crate::export;
use crate::sink::{self, Layout, Sink};
use crate::source::{self, Next, OnBad, POLL};
use crate::stream::{BackendArg, Placement, Stream, policy};
use backlog::Backlog;
use gates::Gates;
use inputs::Inputs;
use runner::{OnDivergence, Outputs, Runner};

/// Flags of `mcedge run`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    bundle: BundleArg,
    /// What to read: a path, a file:// URI, or - for standard input. Said several times, each is a stream of its own
    #[arg(long, value_name = "URI", required = true)]
    input: Vec<String>,
    /// Where predictions go: a path, a file:// URI, or - for standard output
    #[arg(long, value_name = "URI", default_value = "-")]
    output: String,
    /// Where to write who was read, token by token: an .npy of [T, blocks, heads, checkpoints + 1] for `inspect --gates`
    #[arg(long, value_name = "FILE.npy")]
    gates: Option<String>,
    /// What to run it on
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    backend: BackendArg,
    #[command(flatten)]
    placement: Placement,
    #[command(flatten)]
    reading: Reading,
    /// Format of the output, where the extension does not say
    #[arg(long, value_enum)]
    output_format: Option<sink::Format>,
    /// Which checkpoint goes when the cache is full
    #[arg(long, value_name = "POLICY", default_value_t, value_parser = policy())]
    evict: Policy,
    /// What a sample does that makes the model diverge: numbers that are not finite, or past --max-norm
    #[arg(long, value_enum, default_value_t = OnDivergence::RollBack)]
    on_divergence: OnDivergence,
    /// The largest norm of a memory or an output that is still sound
    #[arg(long, value_name = "X", value_parser = max_norm)]
    max_norm: Option<f32>,
    /// Say nothing on standard error unless something is wrong
    #[arg(short, long)]
    quiet: bool,
}

/// How the input is read.
#[derive(clap::Args)]
#[command(next_help_heading = "Reading the input")]
struct Reading {
    /// Format of the input, where neither extension nor content says
    #[arg(long, value_enum)]
    format: Option<source::Format>,
    /// The columns that are the model's channels, in its order; else those named as in the model
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    columns: Option<Vec<String>>,
    /// The column of the time; else one with a usual name
    #[arg(long, value_name = "NAME")]
    time_column: Option<String>,
    /// The column that says which stream a row belongs to, for --batch B of them at most
    #[arg(long, value_name = "NAME")]
    stream_column: Option<String>,
    /// What separates the columns of a CSV: , ; or tab; else the first line tells
    #[arg(long, value_parser = delimiter, value_name = "CHAR")]
    delimiter: Option<u8>,
    /// What a row that cannot be used does
    #[arg(long, value_enum, default_value_t = OnBad::Stop)]
    on_bad: OnBad,
}

/// Runs until the input ends or somebody stops it.
pub fn run(args: &Args) -> Result<ExitCode> {
    args.check()?;
    let model = Model::open(&args.bundle.directory(|options| args.ask(options))?)?;
    let contract = model.contract();
    let stream = Stream::open(&model, args.backend, &args.placement(), args.engine())?;
    let options = args.reading.options(stop_on_ctrl_c()?);
    let mut inputs = Inputs::open(&args.input, &contract.input, &options, contract.batch)?;
    let mut outputs = args.outputs(&inputs, &stream)?;
    if !args.quiet {
        eprintln!("{}", introduction(&model, &stream));
    }
    let mut runner = Runner::new(stream, args.placement().chunks(&model), args.on_divergence);
    let progress = if args.quiet { ProgressBar::hidden() } else { progress(&inputs, &args.output) };
    let result = drain(&mut inputs, &mut Backlog::new(contract), &mut runner, &mut outputs, &progress);
    progress.finish_and_clear();
    // What was done so far is kept, whatever ended it.
    outputs.finish()?;
    result?;
    if !args.quiet {
        eprintln!("{}; {} bad rows skipped", runner.summary(), inputs.bad());
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs all inputs to their end.
fn drain(
    inputs: &mut Inputs,
    backlog: &mut Backlog,
    runner: &mut Runner,
    outputs: &mut Outputs,
    progress: &ProgressBar,
) -> Result<()> {
    loop {
        let next = gather(inputs, backlog);
        let has_run = !backlog.is_empty();
        runner.run(backlog, inputs.names(), outputs)?;
        progress.set_position(inputs.bytes_read());
        match next? {
            Next::Record => {}
            Next::Wait => {
                // A reader at the other end of a pipe gets a row when it is made; a file is written in blocks.
                if has_run {
                    outputs.flush()?;
                }
                thread::park_timeout(POLL);
            }
            Next::End => return Ok(()),
        }
    }
}

/// Takes the records that have come, as many as may wait.
fn gather(inputs: &mut Inputs, backlog: &mut Backlog) -> Result<Next> {
    while !backlog.is_full() {
        let next = inputs.advance()?;
        if next != Next::Record {
            return Ok(next);
        }
        let (stream, record) = inputs.record()?;
        backlog.add(stream, &record);
    }
    Ok(Next::Record)
}

/// Values of a token: the channels of a sample, or 1.
fn width(contract: &Contract) -> usize {
    match contract.input {
        Input::Features { size, .. } => size,
        Input::Tokens { .. } => 1,
    }
}

impl Args {
    /// Whether rows say which stream they are of.
    fn has_streams(&self) -> bool {
        self.input.len() > 1 || self.reading.stream_column.is_some()
    }

    fn check(&self) -> Result<()> {
        let usage = |message: &str| Usage(message.into());
        let by_column = self.reading.stream_column.is_some();
        ensure!(
            !by_column || self.input.len() == 1,
            usage("--stream-column is for one --input: several are a stream each")
        );
        ensure!(
            self.gates.is_none() || !self.has_streams(),
            usage("--gates is for one stream: one --input, and no --stream-column")
        );
        let is_output = |gates: &String| *gates == self.output || sink::is_same_file(gates, &self.output);
        ensure!(!self.gates.as_ref().is_some_and(is_output), usage("--gates and --output are the same file"));
        Ok(())
    }

    /// What this run needs of a model's export: a stream for each input, and gates where they are written or followed.
    fn ask(&self, options: &mut export::Options) -> Result<()> {
        options.gates = self.gates.is_some() || self.evict.needs_gates();
        if self.input.len() > 1 {
            options.batch.get_or_insert(u32::try_from(self.input.len()).unwrap_or(u32::MAX));
        }
        let is_said = self.reading.stream_column.is_none() || options.batch.is_some();
        ensure!(
            is_said,
            Usage("--stream-column does not say how many streams there are, expected --batch".into())
        );
        Ok(())
    }

    /// How the engine keeps its streams.
    fn engine(&self) -> EngineOptions {
        EngineOptions { policy: self.evict, max_norm: self.max_norm, ..EngineOptions::default() }
    }

    /// Gates are those of a single token: with them, each is stepped.
    fn placement(&self) -> Placement {
        let placement = self.placement.clone();
        Placement { no_chunks: placement.no_chunks || self.gates.is_some(), ..placement }
    }

    fn outputs(&self, inputs: &Inputs, stream: &Stream) -> Result<Outputs> {
        let output = &stream.contract().output;
        let layout = Layout::new(output, inputs.fields());
        let options =
            sink::Options { inputs: &self.input, format: self.output_format, streams: self.has_streams() };
        let gates = self.gates.as_ref().map(|uri| Gates::open(uri, &self.input, stream)).transpose()?;
        Ok(Outputs { sink: Sink::open(&self.output, &options, layout, output.size)?, gates })
    }
}

impl Reading {
    fn options(&self, stop: Arc<AtomicBool>) -> source::Options {
        source::Options {
            format: self.format,
            columns: self.columns.clone(),
            time_column: self.time_column.clone(),
            stream_column: self.stream_column.clone(),
            delimiter: self.delimiter,
            on_bad: self.on_bad,
            stop,
        }
    }
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the process.
pub fn stop_on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            process::exit(130);
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}

fn max_norm(text: &str) -> Result<f32, String> {
    let norm = text.parse().ok().filter(|norm: &f32| *norm > 0.0);
    norm.ok_or_else(|| format!("{text:?} is no number above 0"))
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text {
        "," | ";" | "\t" => Ok(text.as_bytes()[0]),
        "tab" | "\\t" => Ok(b'\t'),
        _ => Err(format!("{text:?} is none of , ; tab")),
    }
}

fn introduction(model: &Model, stream: &Stream) -> String {
    let contract = model.contract();
    let state: usize = model.initial().iter().map(|values| values.len() * size_of::<f32>()).sum();
    let streams = if contract.batch == 1 { String::new() } else { format!(", {} streams", contract.batch) };
    format!(
        "{} on {}{streams}: {} checkpoints of cache; weights {} KiB, state {} KiB, cache {} KiB",
        contract.name,
        stream.place(),
        if contract.cache.is_empty() { 0 } else { contract.capacity },
        model.step().len().div_ceil(1024),
        state.div_ceil(1024),
        cache_bytes(contract).div_ceil(1024),
    )
}

/// A bar when somebody watches, the length is known, and rows do not go to the same terminal.
fn progress(inputs: &Inputs, output: &str) -> ProgressBar {
    let to_terminal = output == "-" && std::io::stdout().is_terminal();
    match inputs.bytes_total() {
        Some(total) if stderr().is_terminal() && !to_terminal => {
            let style = ProgressStyle::with_template("{bar:40} {percent}% {bytes}/{total_bytes}, {eta} left");
            ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        }
        _ => ProgressBar::hidden(),
    }
}
