//! `mcedge run`: a bundle on a file or a live stream.

use std::io::{IsTerminal, stderr};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use mcedge_runtime::{Model, cache_bytes};

use crate::bundle::BundleArg;
use crate::forecaster::Forecaster;
use crate::sink::{self, Layout, Row, Sink};
use crate::source::{self, Data, OnBad, Record, Source};
use crate::stream::{BackendArg, Placement, Stream};

/// Flags of `mcedge run`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    bundle: BundleArg,
    /// What to read: a path, a file:// URI, or - for standard input
    #[arg(long, value_name = "URI")]
    input: String,
    /// Where predictions go: a path, a file:// URI, or - for standard output
    #[arg(long, value_name = "URI", default_value = "-")]
    output: String,
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
    #[arg(long, value_enum, default_value_t = Evict::Oldest)]
    evict: Evict,
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
    /// What separates the columns of a CSV: , ; or tab; else the first line tells
    #[arg(long, value_parser = delimiter, value_name = "CHAR")]
    delimiter: Option<u8>,
    /// What a row that cannot be used does
    #[arg(long, value_enum, default_value_t = OnBad::Stop)]
    on_bad: OnBad,
}

/// The policy of `--evict`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Evict {
    /// The oldest: the cache is a sliding window over segments
    Oldest,
}

/// Runs until the input ends or somebody stops it.
pub fn run(args: &Args) -> Result<ExitCode> {
    let model = Model::open(&args.bundle.directory()?)?;
    let stream = Stream::open(&model, args.backend, &args.placement)?;
    let options = args.reading.options(stop_on_ctrl_c()?);
    let source = source::open(&args.input, &model.contract().input, &options)?;
    let output = &model.contract().output;
    let layout = Layout::new(output, source.fields());
    let mut sink = Sink::open(&args.output, &args.input, args.output_format, layout, output.size)?;
    if !args.quiet {
        eprintln!("{}", introduction(&model, &stream));
    }
    let mut forecaster = Forecaster::new(stream);
    let progress = if args.quiet { ProgressBar::hidden() } else { progress(&source, &args.output) };
    let result = drain(source, &mut forecaster, &mut sink, &progress);
    progress.finish_and_clear();
    // What was done so far is kept, whatever ended it.
    sink.finish()?;
    let bad = result?;
    if !args.quiet {
        eprintln!("{}; {bad} bad rows skipped", forecaster.summary());
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `source` to its end; the number of rows that were skipped.
fn drain(
    mut source: Source,
    forecaster: &mut Forecaster,
    sink: &mut Sink,
    progress: &ProgressBar,
) -> Result<u64> {
    while let Some(record) = source.read()? {
        match record.data {
            Data::Sample(features) => sample(&record, features, forecaster, sink)?,
            Data::Tokens { tokens, line } => tokens_of(&record, tokens, line, forecaster, sink)?,
        }
        // A reader at the other end of a pipe gets a row when it is made; a file is written in blocks.
        if source.would_wait() {
            sink.flush()?;
        }
        progress.set_position(source.bytes_read());
    }
    Ok(source.bad())
}

fn sample(record: &Record<'_>, features: &[f32], forecaster: &mut Forecaster, sink: &mut Sink) -> Result<()> {
    let score = forecaster.sample(features)?;
    sink.step(forecaster.output())?;
    let residual = score.map(|_| forecaster.residual());
    sink.row(&Row { residual, score, ..row(record, forecaster, 1) })
}

fn tokens_of(
    record: &Record<'_>,
    tokens: &[i64],
    line: Option<&[u8]>,
    forecaster: &mut Forecaster,
    sink: &mut Sink,
) -> Result<()> {
    let (mut total, mut scored) = (0.0, 0u64);
    for &token in tokens {
        if let Some(bits) = forecaster.token(token)? {
            total += bits;
            scored += 1;
        }
        sink.step(forecaster.output())?;
    }
    let bits = (scored > 0).then(|| total / scored as f64);
    let line = line.unwrap_or_default();
    sink.row(&Row { bits, line, ..row(record, forecaster, tokens.len() as u64) })
}

fn row<'a>(record: &Record<'a>, forecaster: &'a Forecaster, tokens: u64) -> Row<'a> {
    let (index, time, output) = (record.index, record.time, forecaster.output());
    Row { index, time, output, residual: None, score: None, tokens, bits: None, line: &[] }
}

impl Reading {
    fn options(&self, stop: Arc<AtomicBool>) -> source::Options {
        source::Options {
            format: self.format,
            columns: self.columns.clone(),
            time_column: self.time_column.clone(),
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
    format!(
        "{} on {}: {} checkpoints of cache; weights {} KiB, state {} KiB, cache {} KiB",
        contract.name,
        stream.place(),
        if contract.cache.is_empty() { 0 } else { contract.capacity },
        model.step().len().div_ceil(1024),
        state.div_ceil(1024),
        cache_bytes(contract).div_ceil(1024),
    )
}

/// A bar when somebody watches, the length is known, and rows do not go to the same terminal.
fn progress(source: &Source, output: &str) -> ProgressBar {
    let to_terminal = output == "-" && std::io::stdout().is_terminal();
    match source.bytes_total() {
        Some(total) if stderr().is_terminal() && !to_terminal => {
            let style = ProgressStyle::with_template("{bar:40} {percent}% {bytes}/{total_bytes}, {eta} left");
            ProgressBar::new(total).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        }
        _ => ProgressBar::hidden(),
    }
}
