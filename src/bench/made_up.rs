//! Records that are made up, for tests.

use super::record::{Check, Conditions, Latency, Machine, ModelFacts, Paced, Record, Run, SCHEMA, Touched};

/// Noise of a seed: SplitMix64.
pub struct Noise(pub u64);

impl Noise {
    /// Evenly in 0 to 1.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal: the sum of twelve.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    /// Medians of rounds about `middle`, with a relative deviation.
    pub fn rounds(&mut self, count: usize, middle: f64, deviation: f64) -> Vec<f64> {
        (0..count).map(|_| middle * (deviation * self.normal()).exp()).collect()
    }
}

/// A run without pictures, whose p50 is the middle one of an odd number of rounds.
pub fn run(backend: &str, fill: usize, rounds_us: &[f64]) -> Run {
    let mut sorted = rounds_us.to_vec();
    sorted.sort_by(f64::total_cmp);
    let p50 = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    Run {
        backend: backend.into(),
        kernels: "fused".into(),
        device: "cpu".into(),
        cache_dtype: "f32".into(),
        fill,
        capacity: 256,
        batch: 1,
        chunk: 1,
        threads: 1,
        check: Check { against: vec!["golden run".into()], tokens: 64, error: 1e-7, tolerance: 1e-5 },
        load_ms: 10.0,
        first_us: 100.0,
        ordinary: Latency { count: 1000, p50, p99: 1.5 * p50, ..Latency::default() },
        segment_end: None,
        rounds_us: rounds_us.to_vec(),
        tokens_per_second: 1e6 / p50,
        resident_bytes: None,
        touched: Touched::default(),
        bandwidth_bytes_per_second: 25e9,
        paced: None,
        idle_gap_ms: None,
        histogram: Vec::new(),
        timeline: Vec::new(),
    }
}

/// A record of a machine and a model.
pub fn record(runs: Vec<Run>) -> Record {
    Record {
        schema: SCHEMA.into(),
        date: "2026-11-22T00:00:00Z".into(),
        version: "0.1.0".into(),
        command: ["bench", "model", "--json", "a.json"].map(String::from).to_vec(),
        machine: Machine { cpu: "Xeon".into(), cpus: 2, ..Machine::default() },
        conditions: Vec::new(),
        model: ModelFacts { name: "pump".into(), segment: Some(64), parameters: 1000, digest: "abc".into() },
        runs,
    }
}

/// A run with all there is: `count` steps about `middle_us` in five rounds that begin at `start_s`, with outliers, and a
/// segment end every 64th.
pub fn full(backend: &str, fill: usize, middle_us: f64, count: usize, start_s: f64) -> Run {
    let mut noise = Noise(fill as u64 + backend.len() as u64);
    let mut run = run(backend, fill, &noise.rounds(5, middle_us, 0.01));
    for step in 0..count {
        let at_s = start_s + (step * 5 / count) as f64 * 4.0 + step as f64 * middle_us * 1e-6;
        let is_end = step % 64 == 63;
        let tail = if noise.uniform() < 0.003 {
            1.0 + 4.0 * noise.uniform() / noise.uniform().max(0.02)
        } else {
            1.0
        };
        let us = middle_us * (0.03 * noise.normal()).exp() * tail * if is_end { 1.7 } else { 1.0 };
        run.timeline.push((at_s, us, is_end));
    }
    let times =
        |is_end: bool| run.timeline.iter().filter(move |point| point.2 == is_end).map(|point| point.1);
    run.ordinary = latency(times(false).collect());
    run.segment_end = Some(latency(times(true).collect())).filter(|ends| ends.count > 0);
    run.histogram = histogram(times(false));
    run.touched = Touched { weights: 800_000, state: 66_000, cache: 32_768 * fill as u64 };
    run.resident_bytes = Some(123_456_789);
    run
}

/// A paced run.
pub fn paced(mut run: Run, rate_hz: f64, missed: u64) -> Run {
    run.paced = Some(Paced {
        rate_hz,
        missed,
        deadlines: run.ordinary.count.max(missed),
        jitter_us: run.ordinary.p99 - run.ordinary.p50,
    });
    run
}

/// A moment of a warm machine.
pub fn moment(at_s: f64, throttled: &[&str]) -> Conditions {
    Conditions {
        at_s,
        clock_mhz: vec![2400.0, 2400.0, 1500.0],
        temperature_c: vec![("cpu-thermal".into(), 61.35), ("gpu-thermal".into(), 58.0)],
        throttled: throttled.iter().map(ToString::to_string).collect(),
        power_w: vec![("VDD_IN".into(), 4.512), ("VDD_CPU_GPU_CV".into(), 1.2)],
        load: Some(0.4),
    }
}

fn latency(mut times: Vec<f64>) -> Latency {
    times.sort_by(f64::total_cmp);
    let at = |part: f64| {
        times.get(((times.len() as f64 * part) as usize).min(times.len().max(1) - 1)).copied().unwrap_or(0.0)
    };
    Latency {
        count: times.len() as u64,
        min: at(0.0),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: at(1.0),
    }
}

/// Buckets as wide as a hundredth.
fn histogram(times: impl Iterator<Item = f64>) -> Vec<(f64, u64)> {
    let mut buckets = std::collections::BTreeMap::new();
    for us in times {
        *buckets.entry((us.ln() * 100.0).ceil() as i64).or_insert(0) += 1;
    }
    buckets.into_iter().map(|(bucket, count)| ((bucket as f64 / 100.0).exp(), count)).collect()
}
