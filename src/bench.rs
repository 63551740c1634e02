//! `mcedge bench`: what a step takes, by backend and by live checkpoints, next to what this machine's memory allows.

mod bandwidth;
mod case;
mod compare;
mod conditions;
mod fill;
mod html;
mod input;
mod machine;
#[cfg(test)]
mod made_up;
mod plan;
mod plot;
mod record;
mod result;
mod runner;
mod table;
mod tally;
mod touched;
mod words;

use std::env;
use std::fs;
use std::io::{IsTerminal, stderr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use mcedge_models::contract::Contract;
use mcedge_runtime::snapshot::Snapshot;
use mcedge_runtime::{Model, OnnxRuntime};

use crate::Usage;
use crate::bundle;
use crate::export::{CHUNK, CacheDtype, Options};
use crate::stream::{BackendArg, Placement};
use crate::verify::{self, Errors};
use bandwidth::Reader;
use case::Case;
use plan::{Backends, Length, Pacing};
use record::{Conditions, Record, SCHEMA};
use runner::{Runner, Turns};

/// Flags of `mcedge bench`.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle, or a model directory or .pt checkpoint, which is exported for each fill
    #[arg(required_unless_present = "compare")]
    bundle: Option<PathBuf>,
    /// What to run it on
    #[arg(long, value_enum, default_value_t = Backends::Auto)]
    backend: Backends,
    #[command(flatten)]
    placement: Placement,
    /// Live checkpoints of a stream [default: 0,16,64; of a bundle, up to its capacity]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    fill: Vec<usize>,
    /// Streams that run side by side [default: 1; a bundle's own]
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Tokens of a run: 1 is step.onnx, more are chunk.onnx
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    chunk: u32,
    /// Element types of the cached checkpoints [default: f32; a bundle's own]
    #[arg(long, value_name = "LIST", value_enum, value_delimiter = ',')]
    cache_dtype: Vec<CacheDtype>,
    /// Seconds of runs of each backend and fill in a round [default: that all rounds take 10]
    #[arg(long, value_name = "S", value_parser = seconds, conflicts_with = "steps")]
    duration: Option<Duration>,
    /// Runs of each backend and fill in a round
    #[arg(long, value_name = "N")]
    steps: Option<NonZeroUsize>,
    /// Rounds: in each, all backends and fills have their turn
    #[arg(long, value_name = "N", default_value = "5")]
    rounds: NonZeroUsize,
    /// Seconds of runs before those that are timed, in every turn
    #[arg(long, value_name = "S", value_parser = seconds, default_value = "0.02")]
    warm_up: Duration,
    /// Begin HZ runs a second, and count those that are not done when the next is due
    #[arg(long, value_name = "HZ", value_parser = rate, conflicts_with = "idle_gap")]
    rate: Option<f64>,
    /// Sleep so long before each run that is timed: caches and clocks cool
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    idle_gap: Option<Duration>,
    /// The largest error that passes, as in verify [default: 1e-4; 2e-2 with an f16 cache, 1e-1 with i8]
    #[arg(long, value_name = "X", value_parser = tolerance)]
    atol: Option<f64>,
    /// Keep to this CPU
    #[arg(long, value_name = "CPU")]
    pin: Option<usize>,
    /// Where to write all that was measured, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to write it as a page: tables and plots, which need no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Where to write the plot of latency against live checkpoints
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Say what moved between two records that --json wrote, beyond the noise, and run nothing
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"], exclusive = true)]
    compare: Option<Vec<PathBuf>>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    let duration = Duration::try_from_secs_f64(seconds).ok().filter(|time| time.as_secs() < 86_400);
    duration.ok_or_else(|| "expected 0 to 86399 seconds".into())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let milliseconds: f64 = text.parse().map_err(|_| "expected a number of milliseconds".to_owned())?;
    let gap = Duration::try_from_secs_f64(milliseconds / 1e3).ok().filter(|gap| gap.as_secs() <= 60);
    gap.ok_or_else(|| "expected 0 to 60000 ms".into())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.01..=1e6).contains(rate));
    rate.ok_or_else(|| "expected 0.01 to 1000000 runs a second".into())
}

fn tolerance(text: &str) -> Result<f64, String> {
    let tolerance = text.parse().ok().filter(|tolerance: &f64| tolerance.is_finite() && *tolerance >= 0.0);
    tolerance.ok_or_else(|| "expected 0 or more".into())
}

/// What is run, of which bundles.
struct Plan {
    backends: Vec<(BackendArg, Placement)>,
    /// Where the bundle of each case is, and how many checkpoints are live.
    cases: Vec<(PathBuf, usize)>,
    turns: Turns,
}

/// Measures and tells, or compares what was measured before.
pub fn bench(args: &Args) -> Result<ExitCode> {
    if let Some([before, after]) = args.compare.as_deref() {
        let comparison = compare::compare(&read(before)?, &read(after)?);
        say!("{}", comparison.to_string().trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let record = measure(args)?;
    // The files first: who reads the table may have gone, and its end is then ours.
    if let Some(path) = &args.json {
        write(path, &(serde_json::to_string(&record)? + "\n"))?;
    }
    if let Some(path) = &args.html {
        write(path, &html::page(&record))?;
    }
    if let Some(path) = &args.svg {
        write(path, &plot::latency_svg(&record))?;
    }
    say!("{}", table::table(&record).trim_end());
    Ok(ExitCode::SUCCESS)
}

/// Opens and fills, checks, lets all have their turns, and compares what they computed.
fn measure(args: &Args) -> Result<Record> {
    let (began, date) = (Instant::now(), date());
    let cpus = machine::cpus();
    let plan = args.plan()?;
    if let Some(cpu) = args.pin {
        machine::pin(cpu).with_context(|| format!("cannot keep to CPU {cpu}"))?;
    }
    let progress = progress();
    let open = |(directory, fill): &(PathBuf, usize)| {
        progress.set_message(format!("filling {fill} checkpoints"));
        Case::new(directory, *fill, args.chunk as usize, &args.placement)
    };
    let cases = plan.cases.iter().map(open).collect::<Result<Vec<_>>>()?;
    let filled = cases.iter().map(|case| Snapshot::parse(&case.saved)).collect::<Result<Vec<_>, _>>()?;
    let mut runners = Vec::new();
    for (case, filled) in cases.iter().zip(&filled) {
        progress.set_message(format!("checking, {} checkpoints", case.fill));
        let open = |(backend, placement): &(BackendArg, Placement)| {
            Runner::open(case, filled, *backend, placement, args.tolerance(case), began)
        };
        runners.push(plan.backends.iter().map(open).collect::<Result<Vec<_>>>()?);
    }
    let before = Conditions::now(began);
    let bandwidths = rounds(args, &cases, &mut runners, &plan.turns, &progress)?;
    let after = Conditions::now(began);
    progress.finish_and_clear();
    runners.iter_mut().try_for_each(|runners| agree(runners))?;
    let mut runs = result::runs(args.rate, &cases, &runners, &bandwidths);
    let idle_gap_ms = args.idle_gap.map(|gap| gap.as_secs_f64() * 1e3);
    runs.iter_mut().for_each(|run| run.idle_gap_ms = idle_gap_ms);
    Ok(Record {
        schema: SCHEMA.to_owned(),
        date,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect(),
        machine: machine::describe(cpus, args.onnxruntime(&runners)),
        conditions: vec![before, after],
        model: result::facts(&cases[0]),
        runs,
    })
}

/// All rounds; the bandwidth of each case's bytes, taken in every one of them.
fn rounds(
    args: &Args,
    cases: &[Case],
    runners: &mut [Vec<Runner<'_>>],
    turns: &Turns,
    progress: &ProgressBar,
) -> Result<Vec<f64>> {
    let most = cases.iter().map(|case| case.touched.total()).max().unwrap_or(0);
    let reader = Reader::new(most);
    let mut read = vec![Vec::new(); cases.len()];
    for round in 1..=args.rounds.get() {
        progress.set_message(format!("round {round} of {}", args.rounds));
        for (case, read) in cases.iter().zip(&mut read) {
            read.push(reader.bytes_per_second(case.touched.total()));
        }
        for runner in runners.iter_mut().flatten() {
            let place = runner.stream().place();
            runner.turn(turns).with_context(|| format!("timing {place}"))?;
        }
    }
    Ok(read.iter_mut().map(|read| median(read)).collect())
}

/// Holds what each backend made of the same tokens in its turns against the first's.
fn agree(runners: &mut [Runner<'_>]) -> Result<()> {
    let Some((first, others)) = runners.split_first_mut() else { return Ok(()) };
    for other in others {
        let mut errors = Errors::default();
        for (run, (found, expected)) in other.kept.iter().zip(&first.kept).enumerate() {
            errors.add(1 << run, found, expected);
        }
        other.hold(&errors, first.stream().place())?;
    }
    Ok(())
}

impl Args {
    /// What the flags ask for, checked against the model before anything is filled.
    fn plan(&self) -> Result<Plan> {
        self.check_files()?;
        ensure!(
            self.chunk == 1 || !self.placement.no_chunks,
            Usage(format!("--chunk {} runs chunk.onnx, which --no-chunks leaves out", self.chunk))
        );
        let path = self.bundle.as_deref().context("no BUNDLE to time")?;
        let is_bundle = bundle::is_bundle(path);
        let contract = if is_bundle { self.bundle_contract(path)? } else { self.export_contract(path)? };
        let dtypes = plan::dtypes(&self.cache_dtype, is_bundle.then_some(&contract))?;
        let fills = plan::fills(&self.fill, &contract, is_bundle)?;
        plan::check_chunk(self.chunk as usize, &contract)?;
        let backends = plan::backends(self.backend, &self.placement)?;
        let mut cases = Vec::new();
        for &dtype in &dtypes {
            for &fill in &fills {
                let directory = match is_bundle {
                    true => path.to_owned(),
                    false => bundle::directory(path, &self.options(dtype, fill), |_| Ok(()))?,
                };
                cases.push((directory, fill));
            }
        }
        let turns = self.turns(cases.len() * backends.len());
        Ok(Plan { backends, cases, turns })
    }

    fn turns(&self, runs: usize) -> Turns {
        let length = match (self.steps, self.duration) {
            (Some(steps), _) => Length::Steps(steps),
            (None, Some(duration)) => Length::Time(duration),
            (None, None) => plan::length(self.rounds.get(), runs),
        };
        let every = self.rate.map(|rate| Pacing::Every(Duration::from_secs_f64(1.0 / rate)));
        let pacing = every.or(self.idle_gap.map(Pacing::After)).unwrap_or(Pacing::BackToBack);
        Turns { length, pacing, warm_up: self.warm_up }
    }

    /// The contract of the bundle, which has a batch of its own.
    fn bundle_contract(&self, path: &Path) -> Result<Contract> {
        let contract = Model::open(path)?.contract().clone();
        if let Some(batch) = self.batch {
            ensure!(
                contract.batch == batch as usize,
                Usage(format!(
                    "--batch {batch}: the bundle runs {} streams; a model is exported for any",
                    contract.batch
                ))
            );
        }
        Ok(contract)
    }

    /// The contract that an export has, but for capacity and element type.
    fn export_contract(&self, path: &Path) -> Result<Contract> {
        bundle::contract(&bundle::load(path)?, &self.options(CacheDtype::F32, 0))
    }

    /// An export for `fill` live checkpoints: there is room for no more.
    fn options(&self, cache_dtype: CacheDtype, fill: usize) -> Options {
        Options {
            capacity: Some(u32::try_from(fill.max(1)).unwrap_or(u32::MAX)),
            cache_budget: None,
            cache_dtype,
            chunk: self.chunk.max(CHUNK),
            batch: self.batch,
            post_training_mean: None,
            gates: false,
        }
    }

    fn tolerance(&self, case: &Case) -> f64 {
        self.atol.unwrap_or_else(|| verify::tolerance(case.model.contract()))
    }

    /// What cannot be written is told before it is made.
    fn check_files(&self) -> Result<()> {
        for (flag, path) in [("json", &self.json), ("html", &self.html), ("svg", &self.svg)] {
            if let Some(path) = path.as_deref().filter(|path| path.is_dir()) {
                bail!("--{flag}: {} is a directory, expected a file to write", path.display());
            }
            let folder =
                path.as_deref().and_then(Path::parent).filter(|folder| !folder.as_os_str().is_empty());
            if let Some(folder) = folder {
                ensure!(folder.is_dir(), "--{flag}: {} is no directory", folder.display());
            }
        }
        Ok(())
    }

    /// ONNX Runtime, when something ran on it.
    fn onnxruntime(&self, runners: &[Vec<Runner<'_>>]) -> Option<&'static OnnxRuntime> {
        let used = runners.iter().flatten().any(|runner| runner.stream().backend() == "ort");
        OnnxRuntime::load(self.placement.ort_library.as_deref()).ok().filter(|_| used)
    }
}

/// The middle one; the upper of two.
fn median<T: Copy + PartialOrd>(values: &mut [T]) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values[values.len() / 2]
}

/// Now, RFC 3339, to the second.
fn date() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// A record of this schema.
fn read(path: &Path) -> Result<Record> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    let schema = value["schema"].as_str().unwrap_or("none");
    ensure!(schema == SCHEMA, "{}: its schema is {schema}, expected {SCHEMA}", path.display());
    serde_json::from_value(value).with_context(|| path.display().to_string())
}

/// Writes a file whole, or leaves what was there. A device, a pipe or a link stays what it is, and is written into.
fn write(path: &Path, text: &str) -> Result<()> {
    if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return fs::write(path, text).with_context(|| format!("cannot write {}", path.display()));
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", process::id()));
    let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// What is going on, when somebody watches.
fn progress() -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg}");
    ProgressBar::new_spinner().with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
}
