//! `mcedge export`: a trained model becomes a bundle.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use mcedge_models::Model;
use mcedge_models::contract::{Contract, Dtype};
use mcedge_runtime::checkpoint_bytes;

use crate::Usage;
use crate::budget::{Budget, readable};
use crate::bundle;

/// Checkpoints that a cache holds, unless asked otherwise.
const CAPACITY: u32 = 64;
/// The most tokens of one run of `chunk.onnx`, unless asked otherwise.
pub const CHUNK: u32 = 64;

/// Flags of `mcedge export`.
#[derive(clap::Args)]
pub struct Args {
    /// A model directory (config.json, model.safetensors) or a `memory-caching` checkpoint (.pt)
    source: PathBuf,
    /// The bundle's directory, made or replaced
    #[arg(short, long, value_name = "BUNDLE")]
    output: PathBuf,
    #[command(flatten)]
    options: Options,
    /// Let the graphs say who was read: outputs `gates.{i}` of blocks that weigh their checkpoints
    #[arg(long)]
    gates: bool,
}

/// What an export fixes besides the model: the shapes and types of its graphs.
#[derive(clap::Args, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Options {
    /// Checkpoints that the cache holds [default: 64; with sweep, as many as the input makes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub capacity: Option<u32>,
    /// The most bytes that the cached checkpoints of all streams take, in place of --capacity: 64KiB, 8MiB, 500kB, 65536
    #[arg(long, value_name = "BYTES")]
    pub cache_budget: Option<Budget>,
    /// Element type of the cached checkpoints
    #[arg(long, value_enum, default_value_t = CacheDtype::F32)]
    pub cache_dtype: CacheDtype,
    /// The most tokens at once in catching up on a backlog; 1 is none
    #[arg(long, value_name = "T", default_value_t = CHUNK, value_parser = clap::value_parser!(u32).range(1..))]
    pub chunk: u32,
    /// Streams that run side by side [default: 1; with run, one for each --input]
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch: Option<u32>,
    /// Give a model that was trained without a cache one: it reads the mean of its states at the ends of segments of SIZE
    /// tokens
    #[arg(long, value_name = "SIZE", value_parser = clap::value_parser!(u32).range(1..))]
    pub post_training_mean: Option<u32>,
    /// Outputs `gates.{i}`; each command has a flag of its own for it.
    #[arg(skip)]
    pub gates: bool,
}

/// Element type of the cached checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum CacheDtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16: half the bytes, read as they are.
    F16,
    /// Integers of 8 bits with a scale for each checkpoint and head: a quarter of the bytes.
    I8,
}

impl Options {
    /// Whether nothing was asked for but a budget, which a bundle can keep to as it is.
    pub fn suit_a_bundle(&self) -> bool {
        *self
            == Options {
                capacity: None,
                cache_budget: self.cache_budget,
                cache_dtype: CacheDtype::F32,
                chunk: CHUNK,
                batch: None,
                post_training_mean: None,
                gates: false,
            }
    }

    /// With the capacity that the budget allows to `model`, where there is a budget and anything to bound.
    ///
    /// # Errors
    ///
    /// As [`Budget::checkpoints`]; `model` cannot be exported.
    pub fn settle(mut self, model: &Model) -> Result<Self> {
        let Some(budget) = self.cache_budget else { return Ok(self) };
        let both =
            "--cache-budget and --capacity cannot stand together, but for `run --spill`: each says how many";
        ensure!(self.capacity.is_none(), Usage(both.into()));
        let contract = bundle::contract(model, &Options { capacity: Some(1), ..self })?;
        if let Some(checkpoints) = budget.checkpoints(&contract)? {
            self.capacity = Some(u32::try_from(checkpoints).unwrap_or(u32::MAX));
        }
        // Budgets that allow as many are one export.
        self.cache_budget = None;
        Ok(self)
    }

    pub fn export(&self) -> mcedge_export::Options {
        let cache_dtype = match self.cache_dtype {
            CacheDtype::F32 => Dtype::F32,
            CacheDtype::F16 => Dtype::F16,
            CacheDtype::I8 => Dtype::I8,
        };
        mcedge_export::Options {
            capacity: self.capacity.unwrap_or(CAPACITY) as usize,
            cache_dtype,
            chunk: self.chunk as usize,
            batch: self.batch.unwrap_or(1) as usize,
            gates: self.gates,
        }
    }
}

/// Exports and says what was written.
pub fn export(args: &Args) -> Result<ExitCode> {
    let model = Model::load(&args.source)?;
    let options = Options { gates: args.gates, ..args.options }.settle(&model)?;
    let bundle = bundle::make(&model, &options)?;
    let output = &args.output;
    bundle.write(output).with_context(|| format!("cannot write the bundle {}", output.display()))?;
    say!("{}: {}", output.display(), bundle.contract.name);
    for file in output.read_dir()?.flatten() {
        say!("  {:<28} {:>10} bytes", file.file_name().to_string_lossy(), file.metadata()?.len());
    }
    if let Some(budget) = args.options.cache_budget {
        say!("{}", within(budget, &bundle.contract));
    }
    if args.gates && bundle.contract.blocks.iter().all(|block| !block.memory.has_gates()) {
        eprintln!("mcedge: warning: --gates: no block weighs its checkpoints, so there are none");
    }
    say!("check it with: mcedge verify {}", output.display());
    Ok(ExitCode::SUCCESS)
}

/// What a budget has come to.
fn within(budget: Budget, contract: &Contract) -> String {
    match checkpoint_bytes(contract) * contract.batch {
        0 => format!("a cache budget of {budget} has nothing to bound: no block reads checkpoints"),
        each => {
            let (slots, bytes) = (contract.capacity, readable(each * contract.capacity));
            format!("within a cache budget of {budget}: {slots} checkpoints, {bytes}")
        }
    }
}
