//! What becomes of a record: the model's facts, and each backend's numbers.

use super::case::Case;
use super::record::{Check, GOLDEN, ModelFacts, PLAIN, Paced, Run};
use super::runner::Runner;
use super::tally::latency;
use super::{machine, plan};

/// A histogram's buckets are this many times as wide as the one before.
const BUCKETS: f64 = 1.05;

/// The model of a case.
pub fn facts(case: &Case) -> ModelFacts {
    let contract = case.model.contract();
    ModelFacts {
        name: contract.name.clone(),
        segment: contract.segment_tokens().map(|tokens| tokens as u64),
        parameters: case.parameters,
        digest: case.model.digest().iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// What all backends took, in the order of the table; `bandwidths` are those of the cases.
pub fn runs(
    rate_hz: Option<f64>,
    cases: &[Case],
    runners: &[Vec<Runner<'_>>],
    bandwidths: &[f64],
) -> Vec<Run> {
    let resident_bytes = machine::resident_bytes();
    let cases = cases.iter().zip(runners).zip(bandwidths);
    let runs = cases.flat_map(|((case, runners), &bandwidth)| {
        let first = runners[0].stream().place();
        runners.iter().enumerate().map(move |(index, runner)| Run {
            resident_bytes,
            bandwidth_bytes_per_second: bandwidth.round(),
            ..run(rate_hz, case, runner, (index > 0).then_some(first))
        })
    });
    runs.collect()
}

/// What one backend took; `first` is whom its outputs were held against.
fn run(rate_hz: Option<f64>, case: &Case, runner: &Runner<'_>, first: Option<&str>) -> Run {
    let (stream, tally, contract) = (runner.stream(), &runner.tally, case.model.contract());
    let ordinary = latency(&tally.ordinary);
    let jitter_us = thousandth(ordinary.p99 - ordinary.p50);
    let compared: usize = if first.is_some() { runner.kept.len() * contract.batch * case.chunk } else { 0 };
    Run {
        backend: stream.backend().to_owned(),
        kernels: if stream.is_plain() { "plain" } else { "fused" }.to_owned(),
        device: stream.device().name().to_owned(),
        cache_dtype: plan::name(plan::dtype(contract)).to_owned(),
        fill: case.fill,
        capacity: contract.capacity,
        batch: contract.batch,
        chunk: case.chunk,
        threads: runner.threads,
        check: Check {
            against: against(runner, first).map(str::to_owned).collect(),
            tokens: (runner.checked + compared) as u64,
            error: runner.error,
            tolerance: runner.tolerance,
        },
        load_ms: thousandth(runner.load_ms),
        first_us: thousandth(runner.first_us),
        ordinary,
        segment_end: (tally.ends.count() > 0).then(|| latency(&tally.ends)),
        rounds_us: tally.rounds_us.clone(),
        tokens_per_second: thousandth(tally.tokens_per_second()),
        resident_bytes: None,
        touched: case.touched.clone(),
        bandwidth_bytes_per_second: 0.0,
        paced: rate_hz.map(|rate_hz| Paced {
            rate_hz,
            missed: runner.missed,
            deadlines: runner.deadlines,
            jitter_us,
        }),
        idle_gap_ms: None,
        histogram: tally.ordinary.buckets(BUCKETS),
        timeline: tally.timeline(),
    }
}

/// What the outputs of a run were held against; not against itself.
fn against<'a>(runner: &Runner<'_>, first: Option<&'a str>) -> impl Iterator<Item = &'a str> {
    let plain = (!runner.is_plain()).then_some(PLAIN);
    [GOLDEN].into_iter().chain(plain).chain(first)
}

/// To three digits behind the point: ns, of µs.
fn thousandth(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
