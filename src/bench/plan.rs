//! What a bench runs: which backends, element types and fills, each checked against the model.

use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use mcedge_models::contract::{Contract, Dtype};
use mcedge_models::spec::Segmentation;
use mcedge_runtime::OnnxRuntime;

use super::fill::most_tokens;
use crate::Usage;
use crate::export::CacheDtype;
use crate::stream::{BackendArg, DeviceArg, Placement};
use crate::verify::every_cpu;

/// Fills of a model or bundle that are looked at when nobody says which, as far as they fit.
const LADDER: [usize; 6] = [0, 16, 64, 256, 1024, 4096];
/// Those of a model, whose cache is as large as it is to be.
const MODEL_FILLS: [usize; 3] = [0, 16, 64];
/// Those under logarithmic segments: n checkpoints take 2ⁿ − 1 tokens.
const LOGARITHMIC_FILLS: [usize; 3] = [0, 4, 8];
/// The most tokens that filling takes: hours, on a small machine.
const MOST_TOKENS: u64 = 1 << 26;
/// What all timed runs take together, unless asked otherwise.
const TIMED: Duration = Duration::from_secs(10);

/// The backends of `mcedge bench --backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backends {
    /// tract on a CPU, ONNX Runtime for a GPU or for plain bodies
    Auto,
    /// tract as --plain says
    Tract,
    /// ONNX Runtime as --device and --plain say
    Ort,
    /// tract, ONNX Runtime with the fused kernels, and ONNX Runtime with plain bodies
    All,
}

/// How long a backend runs in a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    Steps(NonZeroUsize),
    Time(Duration),
}

/// When runs begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pacing {
    /// Each when the one before has ended.
    BackToBack,
    /// One each period.
    Every(Duration),
    /// After an idle pause.
    After(Duration),
}

/// Deadlines that a run missed, of runs due every `period`, when it was done so long after it was due: its own, and those of
/// runs that could not begin meanwhile.
pub fn missed(done_after: Duration, period: Duration) -> u64 {
    let (done_after, period) = (done_after.as_nanos(), period.as_nanos().max(1));
    u64::try_from(done_after.saturating_sub(1) / period).unwrap_or(u64::MAX)
}

/// Where graphs run, in the order of the table; ONNX Runtime's library is then loaded. Without one, which is said, `all` is
/// tract alone.
pub fn backends(chosen: Backends, placement: &Placement) -> Result<Vec<(BackendArg, Placement)>> {
    let on_cpu = placement.device == DeviceArg::Cpu && !placement.plain;
    let mut backends = match chosen {
        Backends::Auto => vec![(BackendArg::Auto, placement.clone())],
        Backends::Tract => vec![(BackendArg::Tract, placement.clone())],
        Backends::Ort => vec![(BackendArg::Ort, placement.clone())],
        Backends::All if on_cpu => every_cpu(placement),
        Backends::All => bail!(Usage("--device and --plain are for one backend: name it".into())),
    };
    backends.iter().try_for_each(|(backend, placement)| placement.check(*backend))?;
    if !backends.iter().all(|(backend, placement)| placement.is_tract(*backend)) {
        match OnnxRuntime::load(placement.ort_library.as_deref()) {
            Err(error) if chosen == Backends::All && placement.ort_library.is_none() => {
                eprintln!("mcedge: ort not run: {error}");
                backends.truncate(1);
            }
            loaded => drop(loaded?),
        }
    }
    Ok(backends)
}

/// Live checkpoints at which a bundle, or a model (whose capacity is then what it is to be), is looked at.
pub fn fills(asked: &[usize], contract: &Contract, is_bundle: bool) -> Result<Vec<usize>> {
    let is_cached = !contract.cache.is_empty();
    let most = match (is_cached, is_bundle) {
        (false, _) => 0,
        (true, true) => contract.capacity,
        (true, false) => usize::MAX,
    };
    let mut fills: Vec<usize> = match contract.segmentation {
        _ if !asked.is_empty() => asked.to_vec(),
        Segmentation::Logarithmic {} => LOGARITHMIC_FILLS.into_iter().filter(|&fill| fill <= most).collect(),
        _ if is_bundle && is_cached => LADDER.into_iter().filter(|&fill| fill < most).chain([most]).collect(),
        _ => MODEL_FILLS.into_iter().filter(|&fill| fill <= most).collect(),
    };
    fills.sort_unstable();
    fills.dedup();
    for &fill in &fills {
        check_fill(fill, most, contract)?;
    }
    Ok(fills)
}

fn check_fill(fill: usize, most: usize, contract: &Contract) -> Result<()> {
    if most == 0 {
        ensure!(
            fill == 0,
            Usage(format!("--fill {fill}: no block of {} reads checkpoints, expected 0", contract.name))
        );
    }
    ensure!(
        fill <= most,
        Usage(format!("--fill {fill} is more than the bundle's capacity of {most} checkpoints"))
    );
    let tokens = most_tokens(contract, fill);
    ensure!(
        tokens <= MOST_TOKENS,
        Usage(format!("--fill {fill} takes {tokens} tokens to fill, expected at most {MOST_TOKENS}"))
    );
    Ok(())
}

/// Element types of the cache. A bundle has one.
pub fn dtypes(asked: &[CacheDtype], bundle: Option<&Contract>) -> Result<Vec<CacheDtype>> {
    let Some(contract) = bundle else {
        let mut dtypes: Vec<CacheDtype> = Vec::new();
        for &dtype in asked {
            if !dtypes.contains(&dtype) {
                dtypes.push(dtype);
            }
        }
        return Ok(if dtypes.is_empty() { vec![CacheDtype::F32] } else { dtypes });
    };
    let own = dtype(contract);
    if let Some(other) = asked.iter().find(|&&dtype| dtype != own) {
        let (own, other) = (name(own), name(*other));
        bail!(Usage(format!(
            "--cache-dtype {other}: the bundle's cache is {own}; a model is exported with either"
        )));
    }
    Ok(vec![own])
}

/// The element type of a contract's memories.
pub fn dtype(contract: &Contract) -> CacheDtype {
    let has = |dtype| contract.cache.iter().any(|cache| cache.dtype == dtype);
    match (has(Dtype::I8), has(Dtype::F16)) {
        (true, _) => CacheDtype::I8,
        (false, true) => CacheDtype::F16,
        (false, false) => CacheDtype::F32,
    }
}

/// The word on the command line.
pub fn name(dtype: CacheDtype) -> &'static str {
    match dtype {
        CacheDtype::F32 => "f32",
        CacheDtype::F16 => "f16",
        CacheDtype::I8 => "i8",
    }
}

/// Tokens of a run that a graph can take.
pub fn check_chunk(chunk: usize, contract: &Contract) -> Result<()> {
    let most = contract.chunk;
    ensure!(
        chunk <= most,
        Usage(format!(
            "--chunk {chunk}: a run of {} takes at most {most} tokens of a segment",
            contract.name
        ))
    );
    Ok(())
}

/// What a round takes of `runs` backends and fills, that all rounds take [`TIMED`] together.
pub fn length(rounds: usize, runs: usize) -> Length {
    let each = TIMED.as_secs_f64() / (rounds * runs.max(1)) as f64;
    Length::Time(Duration::from_secs_f64(each.clamp(0.02, 1.0)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stall_misses_every_deadline_that_passes() {
        let missed = |us| missed(Duration::from_micros(us), Duration::from_micros(100));
        assert_eq!([0, 1, 99, 100, 101, 200, 350, 1050].map(missed), [0, 0, 0, 0, 1, 1, 3, 10]);
        assert_eq!(super::missed(Duration::from_nanos(1), Duration::ZERO), 0);
    }

    fn contract(segmentation: serde_json::Value, capacity: usize, is_cached: bool) -> Contract {
        let state =
            json!({"past": "a", "present": "b", "shape": [1, 1, 2], "dtype": "f32", "reset": "never"});
        let cache = json!({"name": "cache.0.m", "from": "b", "shape": [1, 1, capacity, 2], "slot_axis": 2, "dtype": "f16", "scale": "none"});
        let contract = json!({
            "schema": "mcedge.contract/1", "name": "by hand", "batch": 1, "capacity": capacity, "chunk": 4,
            "input": {"kind": "features", "size": 1}, "output": {"kind": "regression", "size": 1},
            "segmentation": segmentation, "init": "continue", "state": [state],
            "cache": if is_cached { vec![cache] } else { vec![] },
        });
        Contract::parse(&contract.to_string()).unwrap()
    }

    #[test]
    fn fills_are_those_asked_for_or_a_ladder_to_the_capacity() {
        let constant = || json!({"kind": "constant", "size": 8});
        let check = |asked: &[usize], contract: &Contract, is_bundle, expected: &[usize]| {
            assert_eq!(fills(asked, contract, is_bundle).unwrap(), expected);
        };
        check(&[64, 3, 3], &contract(constant(), 64, true), true, &[3, 64]);
        check(&[], &contract(constant(), 100, true), true, &[0, 16, 64, 100]);
        check(&[], &contract(constant(), 64, true), true, &[0, 16, 64]);
        check(&[], &contract(constant(), 1, true), true, &[0, 1]);
        check(&[], &contract(constant(), 1, true), false, &[0, 16, 64]);
        check(&[900], &contract(constant(), 1, true), false, &[900]);
        check(&[], &contract(constant(), 64, false), true, &[0]);
        check(&[], &contract(constant(), 64, false), false, &[0]);
        check(&[], &contract(json!({"kind": "logarithmic"}), 5, true), true, &[0, 4]);
    }

    #[test]
    fn what_cannot_be_filled_is_told() {
        let constant = contract(json!({"kind": "constant", "size": 8}), 64, true);
        let check = |asked: usize, contract: &Contract, is_bundle, expected: &str| {
            let error = fills(&[asked], contract, is_bundle).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(expected), "{error}");
        };
        check(65, &constant, true, "capacity of 64");
        check(usize::MAX, &constant, false, "tokens to fill");
        check(1, &contract(json!({"kind": "constant", "size": 8}), 64, false), false, "no block");
        check(40, &contract(json!({"kind": "logarithmic"}), 64, true), true, "tokens to fill");
        assert!(check_chunk(5, &constant).is_err() && check_chunk(4, &constant).is_ok());
    }

    #[test]
    fn a_bundle_has_one_element_type() {
        let bundle = contract(json!({"kind": "constant", "size": 8}), 64, true);
        assert_eq!(dtypes(&[], Some(&bundle)).unwrap(), [CacheDtype::F16]);
        assert!(dtypes(&[CacheDtype::F32], Some(&bundle)).unwrap_err().is::<Usage>());
        let both = [CacheDtype::F32, CacheDtype::I8, CacheDtype::F32];
        assert_eq!(dtypes(&both, None).unwrap(), both[..2]);
        assert_eq!(dtypes(&[], None).unwrap(), [CacheDtype::F32]);
    }
}
