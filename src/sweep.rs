//! `mcedge sweep`: what a smaller cache costs, budget by budget and policy by policy.

mod axes;
mod distance;
mod input;
mod json;
mod loss;
mod plan;
mod plot;
mod report;
mod trial;

use std::fs;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use mcedge_models::contract::Contract;
use mcedge_models::spec::Segmentation;
use mcedge_runtime::{EngineOptions, Error, Model, checkpoint_bytes};

use crate::Usage;
use crate::bundle::{self, BundleArg};
use crate::export::Options;
use crate::run::Reading;
use crate::stream::{BackendArg, Placement, Stream};
use input::Sequence;
use loss::{Losses, Task};
use plan::{Chosen, Evict, Share};
use report::{Cell, Report};
use trial::{Difference, Measured, Trial};

/// Flags of `mcedge sweep`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    bundle: BundleArg,
    /// What to run: a path, a file:// URI, or - for standard input. JSON lines of {"tokens": [..], "answers": [..]} are
    /// sequences with answers, each run from the start of a stream
    #[arg(long, value_name = "URI")]
    input: String,
    /// What the cache may take: parts of the unbounded one, or bytes, as 64KiB
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1%,2%,5%,10%,25%,50%,100%")]
    budgets: Vec<Share>,
    /// Which checkpoint goes when the cache is full: policies by name, or all that have a meaning for the model
    #[arg(long, value_name = "POLICIES", value_delimiter = ',', default_value = "all")]
    evict: Vec<Evict>,
    /// What to run it on
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    backend: BackendArg,
    #[command(flatten)]
    placement: Placement,
    #[command(flatten)]
    reading: Reading,
    /// Where to write what was found as JSON
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// Where to write it as a picture: budget across, what it keeps up
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the input once for each policy and budget, and tells what each cost.
pub fn sweep(args: &Args) -> Result<ExitCode> {
    let contract = args.contract()?;
    let one_stream = contract.batch == 1;
    ensure!(one_stream, Usage(format!("a sweep runs one stream, the export has {}", contract.batch)));
    let sequences = input::read(&args.input, &args.reading, &contract)?;
    let (_, longest) = input::count(&sequences, &contract)?;
    let chosen = plan::choose(&args.evict, &contract, args.can_have_gates(&contract))?;
    let model = Model::open(&args.directory(&contract, longest, &chosen)?)?;
    let report = run(args, &model, &sequences, longest, chosen)?;
    say!("{}", report.text().trim_end());
    if let Some(path) = &args.json {
        write(path, &format!("{:#}\n", report.json()))?;
    }
    match &args.svg {
        Some(_) if report.cells.is_empty() => eprintln!("mcedge: --svg: there is no cache to draw"),
        Some(path) => write(path, &report.svg())?,
        None => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs all cells.
fn run(args: &Args, model: &Model, sequences: &[Sequence], longest: usize, chosen: Chosen) -> Result<Report> {
    let contract = model.contract();
    let (tokens, _) = input::count(sequences, contract)?;
    let task = Task::of(contract, sequences);
    let progress = if args.quiet { ProgressBar::hidden() } else { progress() };
    let Args { backend, placement, .. } = args;
    let trial = Trial { model, backend: *backend, placement, sequences, task: &task, progress: &progress };
    let options = EngineOptions { slots: args.bundle.slots(contract)?, ..EngineOptions::default() };
    let stream = trial.open(options)?;
    let (place, slots) = (stream.place(), stream.slots());
    let (all, made, expected) = with_all(&trial, stream, longest).context("with all of the cache")?;
    // Without a cache nothing is made of what segments leave; and a larger cache than what is made is as large as that.
    let made = if contract.cache.is_empty() { 0 } else { made };
    let full = made.min(slots);
    let levels = if full == 0 { Vec::new() } else { plan::levels(&args.budgets, full, contract)? };
    let smaller = levels.iter().filter(|level| level.slots < made).count();
    progress.set_length(((2 + chosen.policies.len() * smaller) * tokens) as u64);

    let none = EngineOptions { slots: Some(0), ..EngineOptions::default() };
    let (without, differs) = compared(&trial, none, &expected).context("without a cache")?;
    let same = Difference::from(&[]);
    let with_all = Cell::new(full, &all, &same, &without.losses);
    let mut cells = Vec::new();
    for (policy, level) in
        chosen.policies.iter().flat_map(|policy| levels.iter().map(move |level| (*policy, level)))
    {
        let options = EngineOptions { policy, slots: Some(level.slots), ..EngineOptions::default() };
        // Where there is room for all that is made, nothing goes, whatever the policy.
        let cell = if level.slots == made {
            with_all.clone()
        } else {
            let ran = cell(level.slots, compared(&trial, options, &expected), &without.losses);
            ran.with_context(|| format!("policy `{policy}` with {} checkpoints", level.slots))?
        };
        cells.push(Cell { policy: Some(policy), budgets: level.budgets.clone(), ..cell });
    }
    progress.finish_and_clear();
    Ok(Report {
        name: contract.name.clone(),
        place,
        input: args.input.clone(),
        tokens,
        sequences: sequences.len(),
        made,
        full,
        checkpoint_bytes: checkpoint_bytes(contract),
        without: Cell::new(0, &without, &differs, &without.losses),
        with_all,
        cells,
        left_out: chosen.left_out,
        task,
    })
}

/// A run, and how far its outputs are from those `expected`, `[T, O]`.
fn compared<'e>(
    trial: &Trial<'_>,
    options: EngineOptions,
    expected: &'e [f32],
) -> Result<(Measured, Difference<'e>)> {
    let mut difference = Difference::from(expected);
    let measured = trial.run(trial.open(options)?, |found| difference.take(found))?;
    Ok((measured, difference))
}

/// The cell of a run with `slots` checkpoints. One that diverges has failed, and others may still stand.
fn cell(slots: usize, ran: Result<(Measured, Difference<'_>)>, without: &Losses) -> Result<Cell> {
    match ran {
        Ok((measured, difference)) => Ok(Cell::new(slots, &measured, &difference, without)),
        Err(error) => match error.downcast_ref() {
            Some(Error::Diverged { .. }) => Ok(Cell::failed(slots, format!("{error:#}"))),
            _ => Err(error),
        },
    }
}

/// The run with all of the cache: what it measured, the most checkpoints that a sequence would have at a time, if none
/// had to go, and its outputs `[T, O]`.
fn with_all(trial: &Trial<'_>, stream: Stream, longest: usize) -> Result<(Measured, usize, Vec<f32>)> {
    let mut outputs = Vec::new();
    let measured = trial.run(stream, |found| outputs.extend_from_slice(found))?;
    let made = match trial.model.contract().segmentation {
        // Most that are made merge at once.
        segmentation @ Segmentation::Logarithmic {} => plan::most_checkpoints(segmentation, longest),
        Segmentation::Constant { .. } | Segmentation::Surprise { .. } => measured.made,
    };
    Ok((measured, made, outputs))
}

impl Args {
    /// The contract of the bundle, or of what the model is exported to, but for its capacity.
    fn contract(&self) -> Result<Contract> {
        let path = &self.bundle.bundle;
        match self.bundle.is_bundle() {
            true => Ok(Model::open(path)?.contract().clone()),
            false => {
                bundle::contract(&bundle::load(path)?, &Options { capacity: Some(1), ..self.bundle.options })
            }
        }
    }

    /// Whether graphs say who was read, or can be made to.
    fn can_have_gates(&self, contract: &Contract) -> bool {
        !self.bundle.is_bundle() || contract.blocks.iter().any(|block| block.memory.has_gates())
    }

    /// The bundle, or an export of the model that keeps every checkpoint of a sequence of `longest` tokens.
    fn directory(&self, contract: &Contract, longest: usize, chosen: &Chosen) -> Result<PathBuf> {
        self.bundle.directory(|options| {
            if options.capacity.is_none() && options.cache_budget.is_none() {
                let most = plan::most_checkpoints(contract.segmentation, longest);
                let capacity = plan::capacity(most, contract);
                options.capacity = Some(u32::try_from(capacity).unwrap_or(u32::MAX));
            }
            options.gates = chosen.policies.iter().any(|policy| policy.needs_gates());
            Ok(())
        })
    }
}

/// A bar when somebody watches.
fn progress() -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {percent}% of {human_len} tokens, {eta} left");
    ProgressBar::new(u64::MAX).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_run_that_diverges_fails_and_the_sweep_goes_on() {
        let diverged = Error::Diverged { tensor: "present.0.m".into(), over: None, token: 7, stream: None };
        let ran = Err(anyhow!(diverged).context("sequence 3"));
        let found = cell(5, ran, &Losses::new(0)).unwrap();
        let why = found.failed.unwrap();
        assert!(why.starts_with("sequence 3: ") && why.contains("token 7"), "{why}");
        assert_eq!((found.slots, found.loss), (5, None));
        let other = Error::Backend { backend: "tract", message: "out of memory".into() };
        assert!(cell(5, Err(other.into()), &Losses::new(0)).is_err());
    }
}
