//! `mcedge demo`: the shipped host-telemetry model, from its weights to what it finds.

use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mcedge_export::Bundle;
use mcedge_models::spec::Spec;
use mcedge_models::{Golden, Weights};
use mcedge_runtime::{EngineOptions, Model};

use crate::forecast::Forecast;
use crate::pace::Pace;
use crate::run::stop_on_ctrl_c;
use crate::stream::{BackendArg, Placement, Stream};
use crate::telemetry::{CHANNELS, Telemetry};
use crate::verify::verify_available;

const CONFIG: &[u8] = include_bytes!("../models/host-telemetry-linear-ssc/config.json");
const WEIGHTS: &[u8] = include_bytes!("../models/host-telemetry-linear-ssc/model.safetensors");
const RECORDING: &[u8] = include_bytes!("../models/host-telemetry-linear-ssc/recording.csv");

/// Peaks of the score that a replay tells.
const TOLD: usize = 5;
/// Seconds between two peaks that are told: nearer ones are one event.
const APART_S: f64 = 10.0;
/// The model's rate.
const RATE_HZ: f64 = 10.0;
/// The score that a live sample is told from.
const ALARM: f64 = 8.0;

/// Flags of `mcedge demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Watch this machine (Linux) in place of the recording, until Ctrl-C
    #[arg(long)]
    live: bool,
}

/// A sample that stood out.
#[derive(Clone, Copy)]
struct Finding {
    time_s: f64,
    score: f64,
    /// The channel whose residual is largest on its own scale.
    channel: usize,
}

/// A stream of samples of a machine, and what is made of it.
struct Watch {
    stream: Stream,
    forecast: Forecast,
    pace: Pace,
}

/// Exports, verifies, then replays the recording or watches this machine.
pub fn demo(args: &Args) -> Result<ExitCode> {
    let bundle = shipped()?;
    let contract = &bundle.contract;
    say!(
        "model      {}, {} KiB as ONNX, {} checkpoints of cache",
        contract.name,
        kib(&bundle.step),
        contract.capacity
    );
    let golden = Golden::from_safetensors(&bundle.golden)?;
    let model = Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state)?;
    say!("\nverifying {} tokens against the reference", golden.input.len());
    verify_available(&model, &golden)?;
    let stream =
        Stream::open(&model, BackendArg::Auto, &Placement::cpu(false, None), EngineOptions::default())?;
    say!("\nrunning on {}", stream.place());
    let forecast = Forecast::new(&stream.contract().output);
    let mut watch = Watch { stream, forecast, pace: Pace::new() };
    if args.live {
        watch.live()?
    } else {
        watch.replay()?
    }
    let (tokens, live, pushed) = watch.stream.position();
    say!("{tokens} samples, {pushed} checkpoints made, {live} live; {}", watch.pace);
    Ok(ExitCode::SUCCESS)
}

/// The shipped model as a runtime takes it, for whoever needs any model that is known to work.
pub fn model() -> Result<Model> {
    let bundle = shipped()?;
    Ok(Model::from_bytes(bundle.step, bundle.chunk, &bundle.initial_state)?)
}

fn shipped() -> Result<Bundle> {
    let spec = Spec::parse(CONFIG)?;
    let weights = Weights::from_safetensors(WEIGHTS, &spec)?;
    Ok(mcedge_export::bundle(&spec, &weights, mcedge_export::Options::default())?)
}

fn kib(bytes: &[u8]) -> usize {
    bytes.len().div_ceil(1024)
}

impl Watch {
    /// Replays the recording and tells what stood out.
    fn replay(&mut self) -> Result<()> {
        let mut findings = Vec::new();
        let mut samples = 0u64;
        let mut reader = csv::Reader::from_reader(RECORDING);
        for row in reader.deserialize() {
            let values: Vec<f64> = row.context("the shipped recording")?;
            let (time_s, features) =
                values.split_first().context("the shipped recording has an empty row")?;
            let features: Vec<f32> = features.iter().map(|&value| value as f32).collect();
            samples += 1;
            findings.extend(self.sample(*time_s, &features)?);
        }
        say!("replayed {samples} samples of a Linux machine's counters; what stood out:");
        for finding in peaks(findings) {
            say!("  {finding}");
        }
        Ok(())
    }

    /// Watches this machine until Ctrl-C and tells each sample that stands out.
    fn live(&mut self) -> Result<()> {
        let stop = stop_on_ctrl_c()?;
        let mut telemetry = Telemetry::open()?;
        let start = Instant::now();
        say!("watching this machine at {RATE_HZ} Hz; a score over {ALARM} is told; Ctrl-C ends");
        for tick in 1.. {
            let due = start + Duration::from_secs_f64(f64::from(tick) / RATE_HZ);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let features = telemetry.sample(Instant::now())?;
            let finding = self.sample(start.elapsed().as_secs_f64(), &features)?;
            if let Some(finding) = finding.filter(|finding| finding.score > ALARM) {
                say!("  {finding}");
            }
        }
        Ok(())
    }

    /// Runs a sample; what there is to say of it, once the model had an expectation.
    fn sample(&mut self, time_s: f64, features: &[f32]) -> Result<Option<Finding>> {
        let start = Instant::now();
        let output = self.stream.push(features)?;
        self.pace.step(start.elapsed());
        let score = self.forecast.sample(features, output);
        Ok(score.map(|score| Finding { time_s, score, channel: self.worst_channel() }))
    }

    /// The channel whose residual is largest, in standard deviations of the channel.
    fn worst_channel(&self) -> usize {
        let std = &self.stream.contract().output.std;
        let size =
            |(channel, residual): (usize, &f32)| residual.abs() / std.get(channel).copied().unwrap_or(1.0);
        let sizes = self.forecast.residual().iter().enumerate().map(|item| (item.0, size(item)));
        sizes.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(channel, _)| channel)
    }
}

/// The highest scores, no two within [`APART_S`], in the order of time.
fn peaks(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut peaks: Vec<Finding> = Vec::new();
    for finding in findings {
        if peaks.len() == TOLD {
            break;
        }
        if peaks.iter().all(|peak| (peak.time_s - finding.time_s).abs() >= APART_S) {
            peaks.push(finding);
        }
    }
    peaks.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
    peaks
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = CHANNELS.get(self.channel).unwrap_or(&("?", ""));
        write!(f, "{:>7.1} s  score {:>6.1}  most of all {name}", self.time_s, self.score)
    }
}
