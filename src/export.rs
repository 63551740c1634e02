//! `mcedge export`: a trained model becomes a bundle.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use mcedge_models::Model;
use mcedge_models::contract::Dtype;

use crate::bundle;

/// Checkpoints that a cache holds, unless asked otherwise.
const CAPACITY: u32 = 64;

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
}

/// What an export fixes besides the model: shapes and types of the cache.
#[derive(clap::Args, Clone)]
pub struct Options {
    /// Checkpoints that the cache holds
    #[arg(long, default_value_t = CAPACITY, value_parser = clap::value_parser!(u32).range(1..))]
    pub capacity: u32,
    /// Element type of the cached checkpoints
    #[arg(long, value_enum, default_value_t = CacheDtype::F32)]
    pub cache_dtype: CacheDtype,
}

/// Element type of the cached checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CacheDtype {
    /// IEEE binary32.
    F32,
    /// IEEE binary16: half the bytes, read as they are.
    F16,
}

impl Options {
    /// Whether nothing else was asked for.
    pub fn are_default(&self) -> bool {
        (self.capacity, self.cache_dtype) == (CAPACITY, CacheDtype::F32)
    }

    pub fn export(&self) -> mcedge_export::Options {
        let cache_dtype = match self.cache_dtype {
            CacheDtype::F32 => Dtype::F32,
            CacheDtype::F16 => Dtype::F16,
        };
        mcedge_export::Options { capacity: self.capacity as usize, cache_dtype, ..Default::default() }
    }
}

/// Exports and says what was written.
pub fn export(args: &Args) -> Result<ExitCode> {
    let model = Model::load(&args.source)?;
    let bundle = bundle::make(&model, &args.options)?;
    let output = &args.output;
    bundle.write(output).with_context(|| format!("cannot write the bundle {}", output.display()))?;
    say!("{}: {}", output.display(), model.spec.name);
    for file in output.read_dir()?.flatten() {
        say!("  {:<28} {:>10} bytes", file.file_name().to_string_lossy(), file.metadata()?.len());
    }
    say!("check it with: mcedge verify {}", output.display());
    Ok(ExitCode::SUCCESS)
}
