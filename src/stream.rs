//! Streams over whichever backend was asked for.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::Usage;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use mcedge_models::contract::Contract;
use mcedge_runtime::snapshot::{Draft, Snapshot, SnapshotError};
use mcedge_runtime::{
    Backend, Backlog, BlockGates, Device, Engine, EngineOptions, Error, Model, Ort, OrtOptions, Policy,
    RolledBack, Sample, Tract,
};

/// Where a graph runs.
#[derive(clap::Args, Clone)]
pub struct Placement {
    /// cpu, or a GPU through ONNX Runtime
    #[arg(long, value_enum, default_value_t = DeviceArg::Cpu)]
    pub device: DeviceArg,
    /// Take the CPU when the device is not to be had
    #[arg(long)]
    pub allow_fallback: bool,
    /// Run the graph's bodies of standard operations, as a GPU does, not the fused kernel
    #[arg(long)]
    pub plain: bool,
    /// Run tokens one by one, also where many wait: leave chunk.onnx out
    #[arg(long)]
    pub no_chunks: bool,
    /// Threads that share an operation of ONNX Runtime
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: u16,
    /// ONNX Runtime's library; searched for when not given
    #[arg(long, value_name = "FILE")]
    pub ort_library: Option<PathBuf>,
}

/// The device of `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceArg {
    /// The CPU.
    Cpu,
    /// CUDA, through ONNX Runtime.
    Cuda,
    /// TensorRT, through ONNX Runtime.
    Tensorrt,
}

/// The backend of `--backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendArg {
    /// tract on a CPU, ONNX Runtime for a GPU or for plain bodies
    Auto,
    /// tract: pure Rust, any CPU
    Tract,
    /// ONNX Runtime
    Ort,
}

/// A policy by its name.
pub fn policy() -> impl TypedValueParser<Value = Policy> {
    PossibleValuesParser::new(Policy::ALL.map(Policy::name)).try_map(|name| name.parse::<Policy>())
}

/// An engine over one of the backends: a batch of streams, often of one.
pub enum Stream {
    /// Over tract, and whether it runs the plain bodies.
    Tract(Box<Engine<Tract>>, bool),
    /// Over ONNX Runtime, where it put the graph, and whether it runs the plain bodies.
    Ort(Box<Engine<Ort>>, Device, bool),
}

/// An engine; a policy that cannot be for this bundle is a wrong flag.
fn engine<B: Backend>(model: &Model, backend: B, options: EngineOptions) -> Result<Engine<B>> {
    Engine::new(model, backend, options).map_err(|error| match error {
        Error::Policy(_) | Error::NoGates { .. } => Usage(error.to_string()).into(),
        error => error.into(),
    })
}

/// The same expression over either engine.
macro_rules! over {
    ($stream:expr, $engine:ident => $expression:expr) => {
        match $stream {
            Stream::Tract($engine, ..) => $expression,
            Stream::Ort($engine, ..) => $expression,
        }
    };
}

impl Stream {
    /// Loads `model` where `backend` and `placement` say.
    pub fn open(
        model: &Model,
        backend: BackendArg,
        placement: &Placement,
        options: EngineOptions,
    ) -> Result<Self> {
        placement.check(backend)?;
        match placement.is_tract(backend) {
            true => Self::tract(model, placement, options),
            false => Self::ort(model, placement, options),
        }
    }

    fn tract(model: &Model, placement: &Placement, options: EngineOptions) -> Result<Self> {
        let step = if placement.plain { Tract::plain(model)? } else { Tract::new(model)? };
        let mut engine = engine(model, step, options)?;
        if placement.chunks(model) {
            let chunks = match placement.plain {
                true => Tract::plain_chunks(model).context("chunk.onnx, which --no-chunks leaves out")?,
                false => Tract::chunks(model)?,
            };
            if let Some(chunks) = chunks {
                engine = engine.with_chunks(chunks)?;
            }
        }
        Ok(Stream::Tract(Box::new(engine), placement.plain))
    }

    fn ort(model: &Model, placement: &Placement, options: EngineOptions) -> Result<Self> {
        let backend = Ort::new(model, &placement.options())?;
        if let Some(reason) = backend.fallback() {
            eprintln!("mcedge: warning: runs on the CPU: {reason}");
        }
        let device = backend.device();
        let mut engine = engine(model, backend, options)?;
        if placement.chunks(model)
            && let Some(chunks) = Ort::chunks(model, &placement.options())?
        {
            engine = engine.with_chunks(chunks)?;
        }
        Ok(Stream::Ort(Box::new(engine), device, placement.plain || device != Device::Cpu))
    }

    /// What ran where.
    pub fn place(&self) -> &'static str {
        match self {
            Stream::Tract(_, true) => "tract on cpu, plain bodies",
            Stream::Tract(_, false) => "tract on cpu, fused kernels",
            Stream::Ort(_, Device::Cpu, true) => "ort on cpu, plain bodies",
            Stream::Ort(_, Device::Cpu, false) => "ort on cpu, fused kernels",
            Stream::Ort(_, Device::Cuda, _) => "ort on cuda, plain bodies",
            Stream::Ort(_, Device::TensorRt, _) => "ort on tensorrt, plain bodies",
        }
    }

    /// The backend's word on the command line.
    pub fn backend(&self) -> &'static str {
        match self {
            Stream::Tract(..) => "tract",
            Stream::Ort(..) => "ort",
        }
    }

    /// The device that the graph is on.
    pub fn device(&self) -> Device {
        match self {
            Stream::Tract(..) => Device::Cpu,
            Stream::Ort(_, device, _) => *device,
        }
    }

    /// Whether memory functions run as their bodies of standard operations, and not as kernels.
    pub fn is_plain(&self) -> bool {
        matches!(self, Stream::Tract(_, true) | Stream::Ort(_, _, true))
    }

    /// As [`Engine::push`].
    pub fn push(&mut self, features: &[f32]) -> Result<&[f32], Error> {
        over!(self, engine => engine.push(features))
    }

    /// As [`Engine::push_batch`].
    pub fn push_batch(&mut self, samples: &[Option<Sample<'_>>]) -> Result<&[f32], Error> {
        over!(self, engine => engine.push_batch(samples))
    }

    /// As [`Engine::catch_up_some`].
    pub fn catch_up_some(
        &mut self,
        who: &[bool],
        backlog: Backlog<'_>,
        output: &mut Vec<f32>,
    ) -> Result<(), Error> {
        over!(self, engine => engine.catch_up_some(who, backlog, output))
    }

    /// As [`Engine::reset`].
    pub fn reset(&mut self) {
        over!(self, engine => engine.reset());
    }

    /// As [`Engine::reset_stream`].
    pub fn reset_stream(&mut self, stream: usize) {
        over!(self, engine => engine.reset_stream(stream));
    }

    /// As [`Engine::roll_back`].
    pub fn roll_back(&mut self, stream: usize) -> RolledBack {
        over!(self, engine => engine.roll_back(stream))
    }

    /// As [`Engine::save`].
    pub fn save(&self, draft: &mut Draft) -> Result<(), SnapshotError> {
        over!(self, engine => engine.save(draft))
    }

    /// As [`Engine::restore`].
    pub fn restore(&mut self, snapshot: &Snapshot<'_>) -> Result<(), SnapshotError> {
        over!(self, engine => engine.restore(snapshot))
    }

    /// As [`Engine::snapshot_bytes`].
    pub fn snapshot_bytes(&self) -> usize {
        over!(self, engine => engine.snapshot_bytes())
    }

    /// As [`Engine::gates`].
    pub fn gates(&self, stream: usize) -> Box<dyn Iterator<Item = BlockGates<'_>> + '_> {
        over!(self, engine => Box::new(engine.gates(stream)))
    }

    /// As [`Engine::contract`].
    pub fn contract(&self) -> &Contract {
        over!(self, engine => engine.contract())
    }

    /// The most checkpoints that a stream keeps.
    pub fn slots(&self) -> usize {
        over!(self, engine => engine.cache().stream(0).capacity())
    }

    /// Checkpoints of stream `stream`, `0..B`, that are live now.
    pub fn live(&self, stream: usize) -> usize {
        over!(self, engine => engine.cache().stream(stream).len())
    }

    /// Tokens so far, checkpoints live now, and checkpoints ever made; over all streams.
    pub fn position(&self) -> (u64, usize, u64) {
        over!(self, engine => (engine.tokens(), engine.cache().len(), engine.cache().pushed()))
    }
}

impl Placement {
    /// The CPU, with ONNX Runtime's library where it is found.
    pub fn cpu(plain: bool, ort_library: Option<&Path>) -> Self {
        Self {
            device: DeviceArg::Cpu,
            allow_fallback: false,
            plain,
            no_chunks: false,
            threads: 1,
            ort_library: ort_library.map(Path::to_owned),
        }
    }

    /// Whether it is tract that a backend stands for here.
    pub fn is_tract(&self, backend: BackendArg) -> bool {
        match backend {
            BackendArg::Tract => true,
            BackendArg::Auto => self.device == DeviceArg::Cpu && !self.plain,
            BackendArg::Ort => false,
        }
    }

    /// Whether a backend can be placed so.
    ///
    /// # Errors
    ///
    /// [`Usage`]: tract runs on the CPU, on one thread.
    pub fn check(&self, backend: BackendArg) -> Result<()> {
        if !self.is_tract(backend) {
            return Ok(());
        }
        let message = "--backend tract runs on the CPU alone, expected --device cpu";
        ensure!(self.device == DeviceArg::Cpu, Usage(message.into()));
        ensure!(self.threads == 1, Usage("--threads is for --backend ort: tract runs on one".into()));
        Ok(())
    }

    /// Whether a stream of `model` takes many tokens at once where they wait.
    pub fn chunks(&self, model: &Model) -> bool {
        !self.no_chunks && model.chunk().is_some()
    }

    fn options(&self) -> OrtOptions {
        let device = match self.device {
            DeviceArg::Cpu => Device::Cpu,
            DeviceArg::Cuda => Device::Cuda,
            DeviceArg::Tensorrt => Device::TensorRt,
        };
        OrtOptions {
            library: self.ort_library.clone(),
            device,
            allow_fallback: self.allow_fallback,
            plain: self.plain,
            threads: NonZeroUsize::new(self.threads.into()),
        }
    }
}
