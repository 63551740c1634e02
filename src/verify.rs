//! `mcedge verify`: a golden run on each backend, compared number by number.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use mcedge_models::contract::{Contract, Dtype};
use mcedge_models::{Golden, Samples};
use mcedge_runtime::{Error, Model, Policy};

use crate::Usage;
use crate::bundle::BundleArg;
use crate::stream::{BackendArg, DeviceArg, Placement, Stream};

/// Flags of `mcedge verify`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    bundle: BundleArg,
    /// What to run it on
    #[arg(long, value_enum, default_value_t = Backends::Available)]
    backend: Backends,
    /// `input` and `output` to run and compare; the bundle's own when not given
    #[arg(long, value_name = "FILE.safetensors")]
    golden: Option<PathBuf>,
    /// The largest error that passes, relative to max(1, |expected|) [default: 1e-4; 2e-2 with an f16 cache]
    #[arg(long)]
    atol: Option<f64>,
    #[command(flatten)]
    placement: Placement,
}

/// The backends of `mcedge verify --backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backends {
    /// tract, and ONNX Runtime where there is one
    Available,
    /// tract, ONNX Runtime with the fused kernels, and ONNX Runtime with plain bodies
    All,
    /// tract
    Tract,
    /// ONNX Runtime as --device and --plain say
    Ort,
}

/// The largest errors of one run.
#[derive(Debug, Default)]
struct Errors {
    /// Largest |found − expected|.
    absolute: f64,
    /// Largest |found − expected| / max(1, |expected|).
    relative: f64,
    /// The token of the largest relative error.
    worst: usize,
}

/// Verifies and says how far each backend is from the golden output.
pub fn verify(args: &Args) -> Result<ExitCode> {
    let on_cpu = args.placement.device == DeviceArg::Cpu && !args.placement.plain;
    if !on_cpu && matches!(args.backend, Backends::Available | Backends::All) {
        bail!(Usage("--device and --plain are for --backend ort: name it".into()));
    }
    let directory = args.bundle.directory()?;
    let golden = read_golden(&args.golden.clone().unwrap_or(directory.join("golden.safetensors")))?;
    let model = Model::open(&directory)?;
    let atol = args.atol.unwrap_or_else(|| tolerance(model.contract()));
    ensure!(atol.is_finite() && atol >= 0.0, Usage(format!("--atol is {atol}, expected 0 or more")));
    ensure!(!golden.input.is_empty(), "the golden run has no tokens");
    say!("{}: {} tokens, tolerance {atol:.0e}", model.contract().name, golden.input.len());
    let may_be_missing = args.backend == Backends::Available && args.placement.ort_library.is_none();
    let passed = run_plan(&model, &golden, plan(args), atol, may_be_missing)?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `golden` on the CPU with every backend that this machine has, and says how far off each is.
///
/// Fails when one is out of tolerance.
pub fn verify_available(model: &Model, golden: &Golden) -> Result<()> {
    let passed = run_plan(model, golden, every_cpu(None), tolerance(model.contract()), true)?;
    ensure!(passed, "out of tolerance");
    Ok(())
}

/// Runs `golden` where `plan` says, a line each; whether all are within tolerance. Without an ONNX Runtime the plan ends
/// there, when it `may_be_missing`.
fn run_plan(
    model: &Model,
    golden: &Golden,
    plan: Vec<(BackendArg, Placement)>,
    atol: f64,
    may_be_missing: bool,
) -> Result<bool> {
    let mut passed = true;
    for (backend, placement) in plan {
        let mut stream = match Stream::open(model, backend, &placement, Policy::Oldest) {
            Ok(stream) => stream,
            Err(error) if may_be_missing && is_missing(&error) => {
                say!("{:<28} not run: {error:#}", "ort");
                break;
            }
            Err(error) => return Err(error),
        };
        passed &= report(&mut stream, golden, atol)?;
    }
    Ok(passed)
}

/// The golden run is computed in f64: what a cache rounds to f16 is off by 2⁻¹¹ of its value, and a read adds up
/// many.
fn tolerance(contract: &Contract) -> f64 {
    if contract.cache.iter().any(|cache| cache.dtype == Dtype::F16) { 2e-2 } else { 1e-4 }
}

fn plan(args: &Args) -> Vec<(BackendArg, Placement)> {
    match args.backend {
        Backends::Tract => vec![(BackendArg::Tract, args.placement.clone())],
        Backends::Ort => vec![(BackendArg::Ort, args.placement.clone())],
        Backends::All | Backends::Available => every_cpu(args.placement.ort_library.as_deref()),
    }
}

/// tract, ONNX Runtime with the kernels, and ONNX Runtime with plain bodies.
fn every_cpu(ort_library: Option<&Path>) -> Vec<(BackendArg, Placement)> {
    let cpu = |plain| Placement::cpu(plain, ort_library);
    vec![(BackendArg::Tract, cpu(false)), (BackendArg::Ort, cpu(false)), (BackendArg::Ort, cpu(true))]
}

fn is_missing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::NoOnnxRuntime { .. }))
}

fn read_golden(path: &Path) -> Result<Golden> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Golden::from_safetensors(&bytes).with_context(|| path.display().to_string())
}

/// Runs and prints one line; whether the run is within tolerance.
fn report(stream: &mut Stream, golden: &Golden, atol: f64) -> Result<bool> {
    let errors = compare(stream, golden)?;
    // A NaN is within no tolerance.
    let passed = errors.relative <= atol;
    say!(
        "{:<28} max error {:.2e} absolute, {:.2e} relative (token {}): {}",
        stream.place(),
        errors.absolute,
        errors.relative,
        errors.worst,
        if passed { "ok" } else { "OUT OF TOLERANCE" }
    );
    Ok(passed)
}

fn compare(stream: &mut Stream, golden: &Golden) -> Result<Errors> {
    let found = stream.contract().output.size;
    let expected = golden.output.ncols();
    if found != expected {
        bail!("the golden output has {expected} values a token, the model gives {found}");
    }
    let mut errors = Errors::default();
    for (token, expected) in golden.output.rows().into_iter().enumerate() {
        let found = match &golden.input {
            Samples::Features(features) => stream.push(features.row(token).as_slice().unwrap_or_default())?,
            Samples::Tokens(tokens) => stream.push_token(tokens[token])?,
        };
        for (found, expected) in found.iter().zip(expected) {
            let (found, expected) = (f64::from(*found), f64::from(*expected));
            let absolute = (found - expected).abs();
            let relative = absolute / expected.abs().max(1.0);
            errors.absolute = worse(errors.absolute, absolute);
            if !errors.relative.is_nan() && worse(errors.relative, relative) != errors.relative {
                errors.worst = token;
                errors.relative = worse(errors.relative, relative);
            }
        }
    }
    Ok(errors)
}

/// The larger error; a NaN is larger than any.
fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}
