//! `mcedge simulate`: a recording or a synthetic signal as a board on a pseudo-terminal.

#[cfg(target_os = "linux")]
mod play;
mod recording;
mod signal;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use recording::Columns;
use signal::Signal;

/// Flags of `mcedge simulate`.
#[derive(clap::Args)]
pub struct Args {
    /// What the board stands on
    #[arg(long, value_enum, default_value_t = Port::Pty)]
    port: Port,
    /// A link that leads to the pseudo-terminal, for a name that stays; gone while the line is pulled out
    #[arg(long, value_name = "PATH")]
    link: Option<PathBuf>,
    #[command(flatten)]
    rows: Rows,
    #[command(flatten)]
    line: LineArgs,
    #[command(flatten)]
    faults: FaultArgs,
    /// Where the answers of the model are written, as CSV
    #[arg(long, value_name = "FILE.csv")]
    predictions: Option<PathBuf>,
    /// Where is written what was destroyed, row by row
    #[arg(long, value_name = "FILE.json")]
    ledger: Option<PathBuf>,
}

/// What is played.
#[derive(clap::Args)]
#[command(next_help_heading = "What is played")]
struct Rows {
    /// A recording: rows of numbers with a header or without; , ; or tab between them. A time column is left out
    #[arg(long, value_name = "FILE.csv", conflicts_with = "signal")]
    input: Option<PathBuf>,
    #[command(flatten)]
    columns: Columns,
    /// A signal in place of a recording
    #[arg(long, value_enum, default_value_t = Signal::Sine)]
    signal: Signal,
    /// Samples a second; else as the recording's times say, or 100 of a signal
    #[arg(long, value_name = "HZ", value_parser = positive)]
    rate: Option<f64>,
    /// The most samples to play; else all of a recording, and a signal without an end
    #[arg(long, value_name = "N")]
    samples: Option<u64>,
}

/// How the board talks.
#[derive(clap::Args)]
#[command(next_help_heading = "How the board talks")]
struct LineArgs {
    /// What comes out of it
    #[arg(long, value_enum, default_value_t = Talk::Frames)]
    format: Talk,
    /// Samples that a frame holds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_1)]
    samples_per_frame: usize,
    /// What numbers are sent as; those of i16 and i32 have a scale that fits the largest
    #[arg(long, value_enum, default_value_t = ElementArg::F32)]
    element: ElementArg,
    /// How many times as fast as the rate it plays; 0: as fast as the line takes it
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = at_least_0)]
    speed: f64,
    /// Bits a second of the line, ten of them a byte; else it has no limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10..))]
    baud: Option<u32>,
    /// Does not wait until a host tells it to start
    #[arg(long)]
    free_run: bool,
    /// How long it says at the end that all was played, to a host that stays
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    grace: Duration,
}

/// What goes wrong.
#[derive(clap::Args)]
#[command(next_help_heading = "What goes wrong (probabilities are 0 to 1, EVERY is samples or a time)")]
struct FaultArgs {
    /// What all chance comes from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Of a byte: a bit of it turns
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    flip: f64,
    /// Of a byte: it is lost
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    lose: f64,
    /// Of a frame: it comes twice
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    duplicate: f64,
    /// Of a frame: random bytes come before it
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    garbage: f64,
    /// Of a frame: one comes before it that is too long
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    oversized: f64,
    /// Of a frame: the board has no room for it, and counts that
    #[arg(long, value_name = "P", default_value_t = 0.0, value_parser = probability)]
    drop: f64,
    /// Nothing is sent for a time, and then comes late
    #[arg(long, value_name = "EVERY:TIME", value_parser = every)]
    stall: Option<Every>,
    /// The line is pulled out for a time; what is sampled then is lost
    #[arg(long, value_name = "EVERY:TIME", value_parser = every)]
    unplug: Option<Every>,
    /// Pull it out in the middle of a frame
    #[arg(long, requires = "unplug")]
    cut: bool,
    /// The board loses its power with the line, and starts over
    #[arg(long, requires = "unplug")]
    power_cycle: bool,
    /// The board starts over
    #[arg(long, value_name = "EVERY", value_parser = period)]
    reset: Option<Period>,
    /// How much too fast its clock is, in millionths
    #[arg(long, value_name = "PPM", default_value_t = 0.0, allow_negative_numbers = true, value_parser = drift)]
    drift: f64,
    /// How far times are off, either way, in µs
    #[arg(long, value_name = "US", default_value_t = 0)]
    jitter: u32,
}

/// What a board stands on.
#[derive(Clone, Copy, ValueEnum)]
enum Port {
    /// A pseudo-terminal
    Pty,
}

/// How a board talks.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Talk {
    /// Frames of the sensor link's protocol
    Frames,
    /// A header, then lines of numbers with commas
    Csv,
    /// Such lines without a header, as the Edge Impulse data forwarder takes them
    EdgeImpulse,
}

/// What numbers are sent as.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ElementArg {
    F32,
    I16,
    I32,
}

/// How often, in samples or in the recording's time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Period {
    Samples(u64),
    Time(Duration),
}

/// How often, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Every {
    period: Period,
    time: Duration,
}

/// Plays until all was played and the host has hung up, or somebody stops it.
#[cfg(target_os = "linux")]
pub fn simulate(args: &Args) -> Result<ExitCode> {
    play::play(args)
}

/// There are no pseudo-terminals that a board could stand on.
#[cfg(not(target_os = "linux"))]
pub fn simulate(_: &Args) -> Result<ExitCode> {
    anyhow::bail!("simulated boards are for Linux")
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| format!("{text:?} is no number above 0"))
}

fn at_least_0(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number >= 0.0 && number.is_finite());
    number.ok_or_else(|| format!("{text:?} is no number of 0 or more"))
}

fn at_least_1(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| format!("{text:?} is no count above 0"))
}

fn probability(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| format!("{text:?} is no probability, expected 0 to 1"))
}

fn drift(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.abs() < 1e6);
    number.ok_or_else(|| format!("{text:?} is no drift, expected millionths"))
}

/// `200ms`, `0.5s`, `50us`; a number alone is seconds.
fn time(text: &str) -> Result<Duration, String> {
    let (number, seconds) = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0), ("", 1.0)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .unwrap_or((text, 1.0));
    let time = number.parse().ok().map(|number: f64| number * seconds).filter(|time| *time <= 1e9);
    let time = time.and_then(|time| Duration::try_from_secs_f64(time).ok());
    time.ok_or_else(|| format!("{text:?} is no time, expected such as 200ms or 0.5s"))
}

/// `1000` samples, or a time with its unit.
fn period(text: &str) -> Result<Period, String> {
    let samples = text.parse().ok().filter(|&samples: &u64| samples > 0).map(Period::Samples);
    let is_time = text.ends_with('s');
    let time = || time(text).ok().filter(|time| is_time && !time.is_zero()).map(Period::Time);
    samples
        .or_else(time)
        .ok_or_else(|| format!("{text:?} is neither a count of samples nor a time such as 5s"))
}

fn every(text: &str) -> Result<Every, String> {
    let (often, long) = text.split_once(':').ok_or("expected EVERY:TIME, such as 1000:200ms or 5s:0.5s")?;
    Ok(Every { period: period(often)?, time: time(long)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_comes_after_samples_or_after_a_time() {
        let ms = Duration::from_millis;
        let of = |period, time| Ok(Every { period, time });
        assert_eq!(every("1000:200ms"), of(Period::Samples(1000), ms(200)));
        assert_eq!(every("5s:0.5"), of(Period::Time(ms(5000)), ms(500)));
        assert_eq!(every("250ms:50us"), of(Period::Time(ms(250)), Duration::from_micros(50)));
        for bad in ["", "5", "0:1s", "5:", "5:x", "0s:1s", "-1:1s", "1:-1s", "5:1e99s", "5:nan", "1.5:1s"] {
            assert!(every(bad).is_err(), "{bad}");
        }
    }
}
