//! What a sweep runs: which policies, and with how many checkpoints each.

use std::str::FromStr;

use anyhow::{Result, bail};
use mcedge_models::contract::Contract;
use mcedge_models::spec::Segmentation;
use mcedge_runtime::{Policy, checkpoint_bytes};

use crate::Usage;
use crate::budget::Budget;

/// The most checkpoints that a cache is exported for, and their most bytes, 1 GiB: what comes after is left to who asks
/// for it by `--capacity`.
const MOST_CHECKPOINTS: usize = 1 << 16;
const MOST_BYTES: usize = 1 << 30;

/// `--budgets`: a part of the unbounded cache, or bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// As it was written.
    label: String,
    amount: Amount,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Amount {
    /// Over 0, at most 100.
    Percent(f64),
    Bytes(Budget),
}

/// As many checkpoints as one budget allows, or several that come to the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    pub slots: usize,
    /// The budgets as they were written.
    pub budgets: Vec<String>,
}

/// `--evict`: policies by name, or all that have a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evict {
    All,
    One(Policy),
}

/// The policies of a sweep, and those that are left out, with why.
#[derive(Debug)]
pub struct Chosen {
    pub policies: Vec<Policy>,
    pub left_out: Vec<(Policy, String)>,
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let amount = match text.strip_suffix('%') {
            Some(percent) => match percent.trim().parse::<f64>() {
                Ok(percent) if percent > 0.0 && percent <= 100.0 => Amount::Percent(percent),
                _ => return Err("expected over 0% and at most 100%".into()),
            },
            None => Amount::Bytes(text.parse().map_err(|error| format!("{error}, or a part, as 25%"))?),
        };
        Ok(Share { label: text.to_owned(), amount })
    }
}

impl FromStr for Evict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Evict::All),
            name => name.parse().map(Evict::One).map_err(|error| format!("{error}, or all")),
        }
    }
}

/// What each of `shares` allows of the `full` checkpoints, 1 to `full`, few ones first.
///
/// # Errors
///
/// As [`Budget::checkpoints`].
pub fn levels(shares: &[Share], full: usize, contract: &Contract) -> Result<Vec<Level>> {
    let mut levels: Vec<Level> = Vec::new();
    for share in shares {
        let allowed = match share.amount {
            Amount::Percent(percent) => (percent * full as f64 / 100.0) as usize,
            Amount::Bytes(budget) => budget.checkpoints(contract)?.unwrap_or(full),
        };
        let slots = allowed.clamp(1, full);
        match levels.iter_mut().find(|level| level.slots == slots) {
            Some(level) if level.budgets.contains(&share.label) => {}
            Some(level) => level.budgets.push(share.label.clone()),
            None => levels.push(Level { slots, budgets: vec![share.label.clone()] }),
        }
    }
    levels.sort_by_key(|level| level.slots);
    Ok(levels)
}

/// The policies that were asked for and have a meaning for `contract`. `gates` is whether its graphs can say who was read.
///
/// # Errors
///
/// [`Usage`] when one that was asked for by its name has none.
pub fn choose(evict: &[Evict], contract: &Contract, gates: bool) -> Result<Chosen> {
    let all = evict.contains(&Evict::All);
    let mut chosen = Chosen { policies: Vec::new(), left_out: Vec::new() };
    for policy in Policy::ALL {
        let is_named = evict.contains(&Evict::One(policy));
        match reason_against(policy, contract, gates) {
            None if all || is_named => chosen.policies.push(policy),
            Some(reason) if is_named => bail!(Usage(reason)),
            Some(reason) if all => chosen.left_out.push((policy, reason)),
            _ => {}
        }
    }
    Ok(chosen)
}

fn reason_against(policy: Policy, contract: &Contract, gates: bool) -> Option<String> {
    let cached = contract.blocks.iter().filter(|block| block.memory.is_cached());
    let cached = cached.map(|block| (&block.memory.memory, &block.memory.caching));
    match policy.check(contract.init, cached) {
        Err(error) => Some(error.to_string()),
        Ok(()) if policy.needs_gates() && !gates => Some(format!(
            "policy `{policy}` follows who was read, and the bundle's graphs do not say: export it with --gates"
        )),
        Ok(()) => None,
    }
}

/// The most checkpoints that a stream of `tokens` tokens can have at a time, when none goes.
pub fn most_checkpoints(segmentation: Segmentation, tokens: usize) -> usize {
    match segmentation {
        Segmentation::Constant { size } => tokens / size,
        Segmentation::Surprise { min_size, .. } => tokens / min_size,
        // One for each bit of a token's number.
        Segmentation::Logarithmic {} => (tokens + 1).ilog2() as usize,
    }
}

/// The capacity of an export that keeps `checkpoints`, 1 or more, or as many of them as a sweep allows itself.
pub fn capacity(checkpoints: usize, contract: &Contract) -> usize {
    let affordable = MOST_BYTES.checked_div(checkpoint_bytes(contract)).unwrap_or(MOST_CHECKPOINTS);
    checkpoints.clamp(1, affordable.min(contract.largest_capacity()).clamp(1, MOST_CHECKPOINTS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract() -> Contract {
        let json = r#"{"schema": "mcedge.contract/1", "name": "by hand", "batch": 1, "capacity": 5, "chunk": 1,
            "input": {"kind": "features", "size": 1}, "output": {"kind": "regression", "size": 1},
            "segmentation": {"kind": "constant", "size": 4}, "init": "continue",
            "state": [{"past": "past.0.m", "present": "present.0.m", "shape": [1, 1, 25], "dtype": "f32", "reset": "never"}],
            "cache": [{"name": "cache.0.m", "from": "present.0.m", "shape": [1, 1, 5, 25], "slot_axis": 2, "dtype": "f32",
                       "scale": "none"}]}"#;
        Contract::parse(json).unwrap()
    }

    #[test]
    fn a_budget_is_rounded_down_and_never_none() {
        let check = |budgets: &str, full: usize, expected: &[(usize, &[&str])]| {
            let shares: Vec<Share> = budgets.split(',').map(|share| share.parse().unwrap()).collect();
            let levels = levels(&shares, full, &contract()).unwrap();
            let found: Vec<(usize, Vec<&str>)> = levels
                .iter()
                .map(|level| (level.slots, level.budgets.iter().map(String::as_str).collect()))
                .collect();
            let expected: Vec<(usize, Vec<&str>)> =
                expected.iter().map(|(slots, labels)| (*slots, labels.to_vec())).collect();
            assert_eq!(found, expected);
        };
        check("1%,2%,5%,100%", 40, &[(1, &["1%", "2%"]), (2, &["5%"]), (40, &["100%"])]);
        check("99.9%,100%,10%,10%", 10, &[(1, &["10%"]), (9, &["99.9%"]), (10, &["100%"])]);
        // What is whole stays whole: 29 / 100 · 100 is less than 29.
        check("29%,57%,58%", 100, &[(29, &["29%"]), (57, &["57%"]), (58, &["58%"])]);
        check("14.3%", 1000, &[(143, &["14.3%"])]);
        // A checkpoint takes 100 bytes.
        check("399,1MiB,50%", 6, &[(3, &["399", "50%"]), (6, &["1MiB"])]);
        check("25%", 1, &[(1, &["25%"])]);
        let small: Share = "99".parse().unwrap();
        assert!(levels(&[small], 6, &contract()).is_err());
        for wrong in ["0%", "-1%", "101%", "NaN%", "%", "", "much"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_capacity_is_one_that_an_export_takes() {
        let contract = |dtype: &str, steps: &str, capacity: usize, heads: usize| {
            let json = format!(
                r#"{{"schema": "mcedge.contract/1", "name": "by hand", "batch": 1, "capacity": {capacity}, "chunk": 1,
                    "input": {{"kind": "features", "size": 1}}, "output": {{"kind": "regression", "size": 1}},
                    "segmentation": {{"kind": "constant", "size": 4}}, "init": "continue",
                    "state": [{{"past": "past.0.m", "present": "present.0.m", "shape": [1, {heads}, 256, 256],
                                "dtype": "f32", "reset": "never"}}],
                    "cache": [{{"name": "cache.0.m", "from": "present.0.m", "shape": [1, {heads}, {capacity}, 256, 256],
                                "slot_axis": 2, "dtype": "{dtype}", "scale": "none"{steps}}}]}}"#
            );
            Contract::parse(&json)
        };
        for (dtype, steps) in [("f32", ""), ("i8", r#", "steps": "steps.0.m""#)] {
            for heads in [1, 3] {
                let large = capacity(1 << 20, &contract(dtype, steps, 1, heads).unwrap());
                contract(dtype, steps, large, heads).unwrap();
                if dtype == "i8" {
                    assert!(contract(dtype, steps, large + 1, heads).is_err(), "{large} is the largest");
                }
            }
        }
        assert_eq!(capacity(12, &contract("f32", "", 1, 1).unwrap()), 12);
    }

    #[test]
    fn a_stream_has_no_more_checkpoints_than_is_said() {
        let constant = Segmentation::Constant { size: 4 };
        assert_eq!([3, 4, 11].map(|tokens| most_checkpoints(constant, tokens)), [0, 1, 2]);
        for tokens in 1..200usize {
            let most = (1..=tokens).map(|t| t.count_ones() as usize).max().unwrap();
            assert_eq!(most_checkpoints(Segmentation::Logarithmic {}, tokens), most, "{tokens}");
        }
    }
}
