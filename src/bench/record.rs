//! The record of a bench: what was measured, of what, on which machine. JSON of schema `mcedge.bench/1`.
//!
//! Times are µs unless the name says otherwise. Keys are only ever added; readers ignore what they don't know.

use serde::{Deserialize, Serialize};

/// The schema that this program writes.
pub const SCHEMA: &str = "mcedge.bench/1";

/// One `mcedge bench`: runs that were interleaved in one process.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: String,
    /// When it began, RFC 3339, UTC.
    pub date: String,
    /// The program's version.
    pub version: String,
    /// The command line, without the program.
    pub command: Vec<String>,
    /// The machine.
    pub machine: Machine,
    /// Its clocks, temperature and power, at the start and at the end.
    pub conditions: Vec<Conditions>,
    /// The model.
    pub model: ModelFacts,
    /// In the order of the table: by cache dtype, by batch and chunk, by fill, by backend.
    pub runs: Vec<Run>,
}

/// What a result is a result of; what is not known is absent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    /// `Intel(R) Xeon(R) Processor`, `Raspberry Pi 5 Model B`.
    pub cpu: String,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    /// CPUs that the process may use.
    pub cpus: usize,
    /// The kernel's instructions: `AVX2 + FMA + F16C`.
    pub instructions: String,
    /// RAM, bytes.
    pub memory_bytes: Option<u64>,
    /// `Linux 6.1.0`.
    pub os: String,
    /// The hypervisor, where there is one: times there have outliers that are not ours.
    pub hypervisor: Option<String>,
    /// The frequency governor: `performance`.
    pub governor: Option<String>,
    /// The CPU that the process was pinned to.
    pub pinned: Option<usize>,
    /// ONNX Runtime's version.
    pub onnxruntime: Option<String>,
}

/// A moment of the machine, from sysfs or `tegrastats`; what is not to be had is absent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Conditions {
    /// Seconds since the bench began.
    pub at_s: f64,
    /// Each CPU's clock.
    pub clock_mhz: Vec<f64>,
    /// Thermal zones, by name.
    pub temperature_c: Vec<(String, f64)>,
    /// Why the clock is held down: `under-voltage`, `cpu cooling 3 of 7`. Empty when it is not, or nobody says.
    pub throttled: Vec<String>,
    /// Rails, by name.
    pub power_w: Vec<(String, f64)>,
    /// Load average of the last minute.
    pub load: Option<f64>,
}

/// The model that ran.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ModelFacts {
    /// Its name.
    pub name: String,
    /// Tokens in a segment, where that is fixed.
    pub segment: Option<u64>,
    /// Elements of all weights.
    pub parameters: u64,
    /// SHA-256 of the first run's bundle, hexadecimal.
    pub digest: String,
}

/// One backend at one fill.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Run {
    /// `tract`, `ort`.
    pub backend: String,
    /// `fused`, or `plain`: the bodies of standard operations.
    pub kernels: String,
    /// `cpu`, `cuda`, `tensorrt`.
    pub device: String,
    /// `f32`, `f16`, `i8`.
    pub cache_dtype: String,
    /// Checkpoints live at the ordinary steps.
    pub fill: usize,
    /// Slots of the cache.
    pub capacity: usize,
    /// Streams in the batch, B.
    pub batch: usize,
    /// Tokens of a stream in a run of the graph: 1 is `step.onnx`.
    pub chunk: usize,
    /// Threads of the backend.
    pub threads: usize,
    /// How the outputs were checked.
    pub check: Check,
    /// From the bundle's bytes to a backend that is ready, milliseconds.
    pub load_ms: f64,
    /// The first run of the graph.
    pub first_us: f64,
    /// Runs of the graph inside a segment: one step or one chunk of every stream. Where each run ends a segment, all of them.
    pub ordinary: Latency,
    /// Those that end a segment, and leave a checkpoint; absent when none did, or all.
    pub segment_end: Option<Latency>,
    /// Medians of the ordinary runs, round by round: what the noise is told by.
    pub rounds_us: Vec<f64>,
    /// Tokens of all streams, segment ends included, over the seconds in which the graph ran: where runs are paced or follow a
    /// gap, more than come through.
    pub tokens_per_second: f64,
    /// Resident memory of the process after the run, bytes: all runs' together.
    pub resident_bytes: Option<u64>,
    /// What an ordinary run has to read and write at least.
    pub touched: Touched,
    /// What this core reads of a buffer of that many bytes, over and over, bytes a second: the median of one measurement a round,
    /// each of the fastest of several ways to read.
    pub bandwidth_bytes_per_second: f64,
    /// A paced run.
    pub paced: Option<Paced>,
    /// The pause before each run, where there was one.
    #[serde(default)]
    pub idle_gap_ms: Option<f64>,
    /// Ordinary runs by time: upper edge of a bucket in µs, runs in it. Buckets without runs are left out.
    pub histogram: Vec<(f64, u64)>,
    /// Runs in their order, thinned to a few thousand, outliers kept: seconds since the bench began, µs, whether it ended a segment.
    pub timeline: Vec<(f64, f64, bool)>,
}

/// What is in [`Check::against`] of the golden run, which begins with no checkpoints.
pub const GOLDEN: &str = "golden run";
/// And of the graph's bodies of standard operations, on tract, where the streams are filled.
pub const PLAIN: &str = "plain bodies";

/// Outputs against those of the golden run, of plain bodies, and of the first backend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Check {
    /// [`GOLDEN`], [`PLAIN`], and the first backend: what they were held against.
    pub against: Vec<String>,
    /// Tokens that were compared, of all streams.
    pub tokens: u64,
    /// The largest |found − expected| / max(1, |expected|).
    pub error: f64,
    /// What it may be.
    pub tolerance: f64,
}

/// Times in µs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Latency {
    /// Times taken.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// Half are no longer.
    pub p50: f64,
    /// Nine in ten are no longer.
    pub p90: f64,
    /// 99 in 100.
    pub p99: f64,
    /// 999 in 1000.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// Bytes of an ordinary run.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Touched {
    /// Weights, of an embedding the rows that are looked up.
    pub weights: u64,
    /// State, read and written.
    pub state: u64,
    /// Live checkpoints; of `ssc` all contexts, and the memories that are chosen.
    pub cache: u64,
}

impl Touched {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.state + self.cache
    }
}

/// What came of a rate.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Paced {
    /// Runs a second that were asked for.
    pub rate_hz: f64,
    /// Runs that were not done when the next was due, and those that could not begin when they were due.
    pub missed: u64,
    /// Of so many that were due. 0 in records of versions that did not count them.
    #[serde(default)]
    pub deadlines: u64,
    /// p99 − p50 of the ordinary runs.
    pub jitter_us: f64,
}
