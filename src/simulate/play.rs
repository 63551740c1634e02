//! What the flags say, played.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use mcedge_firmware_host::Channel;
use mcedge_firmware_host::sim::{self, Answer, Element, Faults, Format, Simulator, Source};

use super::recording::Recording;
use super::{Args, ElementArg, FaultArgs, Period, Talk};
use crate::Usage;
use crate::run::stop_on_ctrl_c;

/// The rate of a signal, where none is said.
const RATE_HZ: f64 = 100.0;
/// The most bytes of a name on the wire.
const NAME_BYTES: usize = 24;

type AllRows = Box<dyn Iterator<Item = Vec<f32>>>;

/// Plays until all was played and the host has hung up, or somebody stops it.
pub fn play(args: &Args) -> Result<ExitCode> {
    ensure!(
        args.faults.unplug.is_none() || args.link.is_some(),
        Usage("--unplug: the pseudo-terminal that comes back has another name, expected --link".into())
    );
    let (source, rows) = args.source()?;
    let options = sim::SimOptions {
        link: args.link.clone(),
        format: match args.line.format {
            Talk::Frames => Format::Frames { samples: args.line.samples_per_frame },
            Talk::Csv => Format::Csv,
            Talk::EdgeImpulse => Format::EdgeImpulse,
        },
        speed: args.line.speed,
        baud: args.line.baud,
        free_run: args.line.free_run,
        grace: args.line.grace,
        faults: args.faults.faults(f64::from(source.rate_hz)),
    };
    let stop = stop_on_ctrl_c()?;
    let rate_hz = source.rate_hz;
    let mut simulator = Simulator::new(source, rows, options)?;
    let answers = args.predictions.as_deref().map(Answers::create).transpose()?;
    if let Some(answers) = &answers {
        let answers = Arc::clone(answers);
        simulator.on_answer(move |answer| {
            if let Ok(mut answers) = answers.lock() {
                answers.write(answer);
            }
        });
    }
    say!("serial://{}", simulator.path().display());
    io::stdout().flush()?;
    eprintln!("plays at {rate_hz} Hz; Ctrl-C ends it");
    let ledger = simulator.run(&stop)?;
    eprintln!("{ledger}");
    if let Some(path) = &args.ledger {
        fs::write(path, ledger.to_json()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let (Some(answers), Some(path)) = (answers, &args.predictions)
        && let Ok(mut answers) = answers.lock()
    {
        answers.finish().with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// What is played, and its description.
    fn source(&self) -> Result<(Source, AllRows)> {
        let most = self.rows.samples.unwrap_or(u64::MAX);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let Some(path) = &self.rows.input else {
            let (signal, rate_hz) = (self.rows.signal, self.rows.rate.unwrap_or(RATE_HZ));
            let channel = |&(name, unit): &(&str, &str)| self.channel(name, unit, signal.largest());
            let channels = signal.channels().iter().map(channel).collect();
            let rows = (0..).map(move |sample| signal.row(sample, rate_hz)).take(most);
            return Ok((self.describe("signal", rate_hz, channels), Box::new(rows)));
        };
        let recording = Recording::read(path, &self.rows.columns)?;
        let rate_hz = self.rows.rate.or(recording.rate_hz).ok_or_else(|| {
            Usage(format!("input {}: no times say its rate, expected --rate", path.display()))
        })?;
        let named = |(at, name): (usize, &String)| self.channel(name, "", recording.largest(at));
        let channels: Vec<Channel> = recording.channels.iter().enumerate().map(named).collect();
        let width = channels.len();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let source = self.describe(&name, rate_hz, channels);
        let rows = (0..recording.values.len() / width)
            .map(move |row| recording.values[row * width..][..width].to_vec())
            .take(most);
        Ok((source, Box::new(rows)))
    }

    fn describe(&self, name: &str, rate_hz: f64, channels: Vec<Channel>) -> Source {
        let element = match self.line.element {
            ElementArg::F32 => Element::F32,
            ElementArg::I16 => Element::I16,
            ElementArg::I32 => Element::I32,
        };
        // A recording was made at its rate.
        let has_any_rate = self.rows.input.is_none();
        let rate_hz = rate_hz as f32;
        Source { stream: 0, name: fit(name), rate_hz, has_any_rate, element, channels }
    }

    fn channel(&self, name: &str, unit: &str, largest: f32) -> Channel {
        let most = match self.line.element {
            ElementArg::F32 => 0.0,
            ElementArg::I16 => f32::from(i16::MAX),
            ElementArg::I32 => i32::MAX as f32,
        };
        // A power of two: scaling back rounds nothing.
        let scale = if most > 0.0 && largest > 0.0 { (largest / most).log2().ceil().exp2() } else { 1.0 };
        let scale = if scale.is_normal() { scale } else { 1.0 };
        Channel { name: fit(name), unit: unit.into(), scale }
    }
}

impl FaultArgs {
    fn faults(&self, rate_hz: f64) -> Faults {
        let rows = |period| match period {
            Period::Samples(samples) => samples,
            Period::Time(time) => ((time.as_secs_f64() * rate_hz).round() as u64).max(1),
        };
        let every = |every: super::Every| sim::Every { rows: rows(every.period), time: every.time };
        Faults {
            seed: self.seed,
            flip: self.flip,
            lose: self.lose,
            duplicate: self.duplicate,
            garbage: self.garbage,
            oversized: self.oversized,
            drop: self.drop,
            stall: self.stall.map(every),
            unplug: self.unplug.map(every),
            cut: self.cut,
            power_cycle: self.power_cycle,
            reset: self.reset.map(rows),
            drift_ppm: self.drift,
            jitter_us: self.jitter,
        }
    }
}

/// As much of a name as the wire has room for.
fn fit(name: &str) -> String {
    let end = (0..=NAME_BYTES.min(name.len())).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
    name[..end].replace('\0', "?")
}

/// The file of the model's answers.
struct Answers {
    file: BufWriter<File>,
    has_header: bool,
    /// The first failure; nothing is written behind it.
    failed: Option<io::Error>,
}

impl Answers {
    fn create(path: &Path) -> Result<Arc<Mutex<Self>>> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Arc::new(Mutex::new(Answers { file: BufWriter::new(file), has_header: false, failed: None })))
    }

    fn write(&mut self, answer: &Answer) {
        if self.failed.is_none() {
            self.failed = self.line(answer).err();
        }
    }

    fn line(&mut self, answer: &Answer) -> io::Result<()> {
        if !std::mem::replace(&mut self.has_header, true) {
            let values: String = (0..answer.values.len()).map(|at| format!(",y{at}")).collect();
            writeln!(self.file, "sequence,time_us,is_right,score{values}")?;
        }
        let Answer { sequence, time_us, score, values, is_right } = answer;
        let score = score.map_or(String::new(), |score| score.to_string());
        write!(self.file, "{sequence},{time_us},{is_right},{score}")?;
        values.iter().try_for_each(|value| write!(self.file, ",{value}"))?;
        writeln!(self.file)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.failed.take().map_or_else(|| self.file.flush(), Err)
    }
}
