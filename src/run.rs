//! `mcedge run`: a bundle on files or live streams.

mod backlog;
mod gates;
mod inputs;
mod runner;
mod state;

use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use mcedge_firmware_host::Responder;
use mcedge_models::contract::{Contract, Input};
use mcedge_runtime::snapshot::Snapshot;
use mcedge_runtime::{EngineOptions, Footprint, Model, Policy, Spill};

use crate::Usage;
use crate::budget::readable;
use crate::bundle::BundleArg;
use crate::export;
use crate::sink::{self, Layout, Sink};
use crate::source::{self, Next, OnBad, OnGap, POLL};
use crate::stream::{BackendArg, DeviceArg, Placement, Stream, policy};
use backlog::Backlog;
use gates::Gates;
use inputs::Inputs;
use runner::{OnDivergence, Outputs, Runner};
use state::{Saved, State, StateArgs};

/// Flags of `mcedge run`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    bundle: BundleArg,
    /// What to read: a path, a file:// URI, - for standard input; a board or a sensor: serial://, i2c://; or lines that come:
    /// tail://PATH, journal://?unit=NAME, tcp-listen://HOST:PORT, tcp://HOST:PORT, unix://PATH, mqtt://HOST/TOPIC. Said several
    /// times, each is a stream of its own
    #[arg(long, value_name = "URI", required = true)]
    input: Vec<String>,
    /// Where predictions go: a path, a file:// URI, which may say ?rotate=10MiB&keep=5, - for standard output, or
    /// mqtt://HOST/TOPIC
    #[arg(long, value_name = "URI", default_value = "-")]
    output: String,
    /// Send the model's answers back to the boards that the samples come from
    #[arg(long)]
    answer: bool,
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
    /// Keep the memories that --cache-budget has no room for in this file, for a model that reads with `ssc`; it must not be
    /// there, and is gone with the run
    #[arg(long, value_name = "FILE")]
    spill: Option<PathBuf>,
    /// What a sample does that makes the model diverge: numbers that are not finite, or past --max-norm
    #[arg(long, value_enum, default_value_t = OnDivergence::RollBack)]
    on_divergence: OnDivergence,
    /// The largest norm of a memory or an output that is still sound
    #[arg(long, value_name = "X", value_parser = max_norm)]
    max_norm: Option<f32>,
    #[command(flatten)]
    state: StateArgs,
    /// Say nothing on standard error unless something is wrong
    #[arg(short, long)]
    quiet: bool,
}

/// How the input is read.
#[derive(clap::Args)]
#[command(next_help_heading = "Reading the input")]
pub struct Reading {
    /// Format of the input, where neither extension nor content says
    #[arg(long, value_enum)]
    pub format: Option<source::Format>,
    /// The columns that are the model's channels, in its order; else those named as in the model
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    columns: Option<Vec<String>>,
    /// The column of the time; else one with a usual name
    #[arg(long, value_name = "NAME")]
    time_column: Option<String>,
    /// The column that says which stream a row belongs to, for --batch B of them at most
    #[arg(long, value_name = "NAME")]
    pub stream_column: Option<String>,
    /// What separates the columns of a CSV: , ; or tab; else the first line tells
    #[arg(long, value_parser = delimiter, value_name = "CHAR")]
    delimiter: Option<u8>,
    /// What a row that cannot be used does
    #[arg(long, value_enum, default_value_t = OnBad::Stop)]
    on_bad: OnBad,
    /// What happens where samples of a board or a sensor are missing
    #[arg(long, value_enum, default_value_t = OnGap::Skip)]
    on_gap: OnGap,
    /// Take the samples of a board or a sensor as they come, whatever their rate: no resampling to the model's
    #[arg(long)]
    any_rate: bool,
}

/// All that a sample passes through.
pub struct Flow {
    inputs: Inputs,
    backlog: Backlog,
    runner: Runner,
    outputs: Outputs,
}

/// Runs until the input ends or somebody stops it.
pub fn run(args: &Args) -> Result<ExitCode> {
    args.check()?;
    let mut state = args.state.open()?;
    let model = Model::open(&args.bundle.directory(|options| args.ask(options))?)?;
    let stream = Stream::open(&model, args.backend, &args.placement(), args.engine(model.contract())?)?;
    let mut flow = args.open(&model, stream, state.as_mut())?;
    if let Some(state) = &mut state {
        let conditions = args.conditions(&model, flow.runner.stream());
        state.begin(&mut flow, conditions);
    }
    let progress = if args.quiet { ProgressBar::hidden() } else { progress(&flow.inputs, &args.output) };
    let result = drain(&mut flow, state.as_mut(), &progress);
    progress.finish_and_clear();
    // What was done so far is kept, whatever ended it.
    let Flow { inputs, runner, outputs, .. } = flow;
    outputs.finish()?;
    result?;
    if !args.quiet {
        let snapshots = state.map_or(String::new(), |state| format!("; {}", state.summary()));
        inputs.summaries().for_each(|summary| eprintln!("{summary}"));
        eprintln!("{}; {} bad rows skipped{snapshots}", runner.summary(), inputs.bad());
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs all inputs to their end.
fn drain(flow: &mut Flow, mut state: Option<&mut State>, progress: &ProgressBar) -> Result<()> {
    // Whether there are rows that nobody has been handed yet.
    let mut has_run = false;
    loop {
        let next = gather(flow);
        if let Some(state) = &mut state {
            if flow.inputs.is_stopped() && flow.inputs.can_go_back() {
                // Run now, these records would be cut otherwise than in a run that nobody stops, which is told from their
                // last bits. A resumed run reads them again.
                flow.backlog.clear();
                state.keep(flow);
                return next.map(drop);
            }
            if flow.inputs.ends_with_half_a_line() {
                // If the file grows, so does its last line: a resumed run goes on before these records.
                state.keep_last(flow);
            }
        }
        has_run |= !flow.backlog.is_empty();
        flow.runner.run(&mut flow.backlog, flow.inputs.names(), &mut flow.outputs)?;
        flow.inputs.settle();
        progress.set_position(flow.inputs.bytes_read());
        if let Some(state) = &mut state {
            after_run(flow, state, matches!(next, Ok(Next::Record | Next::Wait | Next::Again)));
        }
        let next = next?;
        // A reader at the other end of a pipe gets a row when it is made; a file is written in blocks.
        if matches!(next, Next::Wait | Next::Again) && std::mem::take(&mut has_run) {
            flow.outputs.flush()?;
        }
        match next {
            Next::Record | Next::Again => {}
            Next::Wait => thread::park_timeout(POLL),
            Next::End => return Ok(()),
        }
    }
}

/// All that was taken has been run and written: where a snapshot may stand.
fn after_run(flow: &mut Flow, state: &mut State, goes_on: bool) {
    if goes_on {
        state.keep_if_due(flow);
    } else {
        state.keep(flow);
    }
}

/// Takes the records that have come, as many as may wait. One before which its stream forgets waits until the others have
/// been run.
fn gather(flow: &mut Flow) -> Result<Next> {
    let Flow { inputs, backlog, runner, .. } = flow;
    while !backlog.is_full() {
        let next = inputs.advance()?;
        if next != Next::Record {
            return Ok(next);
        }
        if let Some(stream) = inputs.begins_anew() {
            if !backlog.is_empty() {
                return Ok(next);
            }
            runner.reset(stream);
            backlog.forget(stream);
        }
        let (stream, record) = inputs.record()?;
        backlog.add(stream, &record);
    }
    Ok(Next::Record)
}

/// Values of a token: the channels of a sample, or 1.
pub fn width(contract: &Contract) -> usize {
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
        let has_numbers = self.input.iter().any(|uri| source::is_link(uri, self.reading.format));
        ensure!(
            self.reading.on_gap == OnGap::Skip || has_numbers,
            usage("--on-gap is for samples that have numbers: frames of serial://, or i2c://")
        );
        let both =
            usage("--spill and --state cannot stand together: a snapshot does not hold what is in the file");
        ensure!(self.spill.is_none() || self.state.state.is_none(), both);
        let is_output = |gates: &String| *gates == self.output || sink::is_same_file(gates, &self.output);
        ensure!(!self.gates.as_ref().is_some_and(is_output), usage("--gates and --output are the same file"));
        let files = self.input.iter().chain([&self.output]).chain(&self.gates);
        let taken: Vec<PathBuf> = files.filter_map(|uri| sink::place(uri)).collect();
        for file in self.state.files() {
            let is_taken = sink::place_of(&file).is_some_and(|place| taken.contains(&place));
            ensure!(
                !is_taken,
                Usage(format!("--state: {} is an input or an output of the run", file.display()))
            );
        }
        Ok(())
    }

    /// What this run needs of a model's export: a stream for each input, and gates where they are written or followed.
    fn ask(&self, options: &mut export::Options) -> Result<()> {
        options.gates = self.gates.is_some() || self.evict.needs_gates();
        if self.spill.is_some() {
            let message = "--spill does not say how many checkpoints the file holds, expected --capacity";
            ensure!(options.capacity.is_some(), Usage(message.into()));
            options.cache_budget = None;
        }
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
    fn engine(&self, contract: &Contract) -> Result<EngineOptions> {
        let (policy, max_norm) = (self.evict, self.max_norm);
        Ok(match self.spill()? {
            Some(spill) => EngineOptions { policy, max_norm, slots: None, spill: Some(spill) },
            None => EngineOptions { policy, max_norm, slots: self.bundle.slots(contract)?, spill: None },
        })
    }

    /// Where the memories lie that the budget has no room for.
    fn spill(&self) -> Result<Option<Spill>> {
        let Some(path) = &self.spill else { return Ok(None) };
        let without = |what: &str| Usage(format!("--spill goes without {what}: it is for the fused kernels"));
        let Some(budget) = self.bundle.options.cache_budget else {
            bail!(Usage(
                "--spill does not say how much of the cache may be in RAM, expected --cache-budget".into()
            ));
        };
        ensure!(!self.placement.plain, without("--plain"));
        ensure!(self.placement.device == DeviceArg::Cpu, without("--device cuda or tensorrt"));
        let resident_bytes = usize::try_from(budget.bytes).unwrap_or(usize::MAX);
        Ok(Some(Spill { path: path.clone(), resident_bytes }))
    }

    /// Gates are those of a single token: with them, each is stepped.
    fn placement(&self) -> Placement {
        let placement = self.placement.clone();
        Placement { no_chunks: placement.no_chunks || self.gates.is_some(), ..placement }
    }

    /// Opens all that a sample passes through, over `stream`; where a snapshot stands, if there is one to go on from. The
    /// outputs come last: they change files.
    fn open(&self, model: &Model, mut stream: Stream, state: Option<&mut State>) -> Result<Flow> {
        let contract = model.contract();
        let inputs = self.input.len();
        let bytes = state.map(|state| state.load(&stream, inputs)).transpose()?.flatten();
        let mut backlog = Backlog::new(contract);
        let saved = bytes.map(|bytes| self.restore(&bytes, &mut stream, &mut backlog)).transpose()?;
        let options = self.reading.options(stop_on_ctrl_c()?);
        let saved_inputs = saved.as_ref().map(|saved| &saved.inputs);
        let inputs = Inputs::open(&self.input, &contract.input, &options, contract.batch, saved_inputs)?;
        let outputs = self.outputs(&inputs, &stream, saved.as_ref())?;
        if !self.quiet {
            eprintln!("{}", introduction(model, &stream, self));
            self.state.introduce(saved.is_some(), &inputs);
        }
        if let Some(saved) = &saved {
            saved.warn_of_others(&self.conditions(model, &stream));
        }
        let mut runner = Runner::new(stream, self.placement().chunks(model), self.on_divergence);
        let counts = saved.map_or((0, 0), |saved| (saved.diverged, saved.before_resets));
        runner.go_on(counts.0, counts.1);
        Ok(Flow { inputs, backlog, runner, outputs })
    }

    /// Takes over from a snapshot what is in memory, and says what it has of files.
    fn restore(&self, bytes: &[u8], stream: &mut Stream, backlog: &mut Backlog) -> Result<Saved> {
        let mut restore = || -> Result<Saved> {
            let snapshot = Snapshot::parse(bytes)?;
            state::restore(&snapshot, stream, backlog)?;
            Saved::read(&snapshot, stream.contract().batch)
        };
        let path = self.state.state.as_deref().unwrap_or(Path::new(""));
        restore().with_context(|| format!("--state {}", path.display()))
    }

    /// Where and how the engine runs, in words: what is told from the last bits of its answers.
    fn conditions(&self, model: &Model, stream: &Stream) -> String {
        let cuts = if self.placement().chunks(model) { "many tokens at once" } else { "tokens one by one" };
        let divergence = self.on_divergence.to_possible_value();
        let divergence = divergence.as_ref().map_or("", |value| value.get_name());
        let max_norm = self.max_norm.map_or("none".into(), |norm| norm.to_string());
        format!("{}, {cuts}, --on-divergence {divergence}, --max-norm {max_norm}", stream.place())
    }

    fn outputs(&self, inputs: &Inputs, stream: &Stream, saved: Option<&Saved>) -> Result<Outputs> {
        let saved = saved.map(|saved| &saved.outputs);
        saved.map_or(Ok(()), |saved| saved.check(&self.output, self.gates.as_deref()))?;
        let output = &stream.contract().output;
        let layout = Layout::new(output, inputs.fields());
        let options = sink::Options {
            inputs: &self.input,
            format: self.output_format,
            streams: self.has_streams(),
            saved: saved.map(|saved| &saved.sink),
            keeps_rows: !inputs.can_go_back(),
            snapshots: self.state.state.is_some(),
        };
        let saved = saved.and_then(|saved| saved.gates.as_ref());
        let gates = self.gates.as_ref().map(|uri| {
            let options = sink::Options { saved, ..options };
            Gates::open(uri, &options, stream)
        });
        let gates = gates.transpose()?;
        let answers = if self.answer { self.answers(inputs)? } else { Vec::new() };
        Ok(Outputs { sink: Sink::open(&self.output, &options, layout, output.size)?, gates, answers })
    }

    /// What sends answers to the boards, one for each input that is one.
    fn answers(&self, inputs: &Inputs) -> Result<Vec<Option<Responder>>> {
        let answers = inputs.responders();
        let message = "--answer is for inputs of serial://, of which there is none";
        ensure!(answers.iter().any(Option::is_some), Usage(message.into()));
        Ok(answers)
    }
}

impl Reading {
    /// For [`source::open`]; `stop` ends the input.
    pub fn options(&self, stop: Arc<AtomicBool>) -> source::Options {
        source::Options {
            format: self.format,
            columns: self.columns.clone(),
            time_column: self.time_column.clone(),
            stream_column: self.stream_column.clone(),
            delimiter: self.delimiter,
            on_bad: self.on_bad,
            on_gap: self.on_gap,
            any_rate: self.any_rate,
            answers: None,
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

/// What runs where, and what it takes of the memory.
fn introduction(model: &Model, stream: &Stream, args: &Args) -> String {
    let contract = model.contract();
    let streams = if contract.batch == 1 { String::new() } else { format!(", {} streams", contract.batch) };
    let (slots, capacity) = (stream.slots(), contract.capacity);
    let checkpoints = match slots {
        _ if contract.cache.is_empty() => "no checkpoints: no block reads any".into(),
        _ if slots < capacity => format!("{slots} of {capacity} slots for checkpoints used"),
        _ => format!("{slots} checkpoints of cache"),
    };
    let footprint = Footprint::new(model, args.placement().chunks(model));
    let spilled = match (&args.spill, args.bundle.options.cache_budget) {
        (Some(file), Some(budget)) => {
            format!("; of the cache at most {budget} in RAM, the rest in {}", file.display())
        }
        _ => String::new(),
    };
    format!(
        "{} on {}{streams}: {checkpoints}; {}{spilled}",
        contract.name,
        stream.place(),
        in_memory(&footprint)
    )
}

/// The parts of a sum of memory.
fn in_memory(footprint: &Footprint) -> String {
    let Footprint { streams, state, cache, weights, .. } = *footprint;
    let [state, cache, weights, scratch] = [state, cache, weights, footprint.scratch()].map(readable);
    let total = readable(footprint.total());
    let each = match streams {
        1 => String::new(),
        _ => format!(", {} a stream", readable(footprint.of_a_stream())),
    };
    format!("weights {weights}, state {state}, cache {cache}, scratch {scratch}: {total} in all{each}")
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
