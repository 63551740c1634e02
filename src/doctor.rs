//! `mcedge doctor`: what this machine can run, and how to get what is missing.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::Result;
use mcedge_runtime::{Device, Isa, Model, OnnxRuntime, Ort, OrtOptions, Tract};

/// Flags of `mcedge doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// ONNX Runtime's library; searched for when not given
    #[arg(long, value_name = "FILE")]
    ort_library: Option<PathBuf>,
}

/// Prints what this machine can run; fails when not even tract does.
pub fn doctor(args: &Args) -> Result<ExitCode> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!("mcedge        {}", env!("CARGO_PKG_VERSION"));
    println!("machine       {} {}, {cores} cores", std::env::consts::OS, std::env::consts::ARCH);
    println!("kernels       {} (of {})", Isa::detect(), list(Isa::available()));
    let model = crate::demo::model()?;
    println!("tract         {}", verdict(Tract::new(&model).map(|_| "runs on the CPU".to_owned())));
    match OnnxRuntime::load(args.ort_library.as_deref()) {
        Ok(runtime) => onnx_runtime(runtime, args, &model),
        Err(error) => println!("onnx runtime  missing: {error}"),
    }
    let tract = Tract::new(&model).is_ok();
    Ok(if tract { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn onnx_runtime(runtime: &OnnxRuntime, args: &Args, model: &Model) {
    println!("onnx runtime  {}", runtime.path().display());
    println!("              {}", runtime.build_info());
    println!("  compiled in {}", runtime.providers().join(", "));
    for device in [Device::Cpu, Device::Cuda, Device::TensorRt] {
        let options = OrtOptions { library: args.ort_library.clone(), device, ..Default::default() };
        let usable = Ort::new(model, &options).map(|_| "usable".to_owned());
        println!("  {:<11} {}", device.name(), verdict(usable));
    }
}

fn verdict(result: Result<String, mcedge_runtime::Error>) -> String {
    result.unwrap_or_else(|error| format!("not usable: {error}"))
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
