//! mcedge: Memory-Caching recurrent models as ONNX, run sample by sample on an edge machine.

/// Prints a line on standard output, and hands an error on: a reader who has gone is no panic.
macro_rules! say {
    ($($line:tt)*) => {
        std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($line)*)))?
    };
}

mod bench;
mod budget;
mod bundle;
mod convert;
mod demo;
mod doctor;
mod export;
mod forecast;
mod inspect;
mod monitor;
mod pace;
mod picture;
mod ports;
mod run;
mod simulate;
mod sink;
mod source;
mod stream;
mod svg;
mod sweep;
mod telemetry;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exports trained Memory-Caching models to ONNX and runs them on endless streams.
#[derive(Parser)]
#[command(name = "mcedge", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Turn a plain GRU or LSTM of PyTorch into a model
    Convert(convert::Args),
    /// Turn a trained model into a bundle: ONNX with explicit cache state, its start and a golden run
    Export(export::Args),
    /// Say what a bundle takes, gives and remembers
    Inspect(inspect::Args),
    /// Run a bundle's golden run on each backend and compare
    Verify(verify::Args),
    /// Run a bundle on a file or a live stream
    Run(run::Args),
    /// Say what a smaller cache costs: fidelity against budget, policy by policy
    Sweep(sweep::Args),
    /// Time a bundle's steps: backend by backend, by live checkpoints, against what this machine's memory allows
    Bench(bench::Args),
    /// Show what comes from a board: channels, rates, losses, its clock
    Monitor(monitor::Args),
    /// Play a recording or a signal as a board on a pseudo-terminal, with faults on demand
    Simulate(simulate::Args),
    /// List this machine's serial ports, with the names that stay when they are plugged elsewhere
    Ports(ports::Args),
    /// Say what this machine can run, and how to get what is missing
    Doctor(doctor::Args),
    /// Export, verify and run the shipped host-telemetry model
    Demo(demo::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Convert(args) => convert::convert(&args),
        Command::Export(args) => export::export(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Run(args) => run::run(&args),
        Command::Sweep(args) => sweep::sweep(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Monitor(args) => monitor::monitor(&args),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::Ports(args) => ports::list(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Demo(args) => demo::demo(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) if error.is::<Usage>() => {
            eprintln!("mcedge: {error:#}");
            ExitCode::from(2)
        }
        Err(error) if sink::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if source::is_stop(&error) => {
            eprintln!("mcedge: {error:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("mcedge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Flags that cannot stand together, or a value that cannot be: exit code 2.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
