//! The reference against outputs that other code computed: the cases of `tests/cases`, whose scripts are beside them,
//! and those of `shared/oracle` where they are at hand, or of the folder that `MCEDGE_ORACLE_CASES` names.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

use std::path::{Path, PathBuf};
use std::{env, fs};

use mcedge_models::{Golden, Model, reference};

/// Largest error allowed, relative to max(1, |expected|): the files hold f32.
const TOLERANCE: f64 = 2e-6;

/// The directories in `folder`.
fn cases(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        println!("skipped: no oracle cases at {}", folder.display());
        return Vec::new();
    };
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.retain(|case| case.join("golden.safetensors").exists());
    cases.sort();
    cases
}

fn largest_error(found: &ndarray::Array2<f64>, expected: &ndarray::Array2<f32>) -> f64 {
    assert_eq!(found.dim(), expected.dim());
    let pairs = found.iter().zip(expected).map(|(&found, &expected)| (found, f64::from(expected)));
    pairs.map(|(found, expected)| (found - expected).abs() / expected.abs().max(1.0)).fold(0.0, f64::max)
}

fn check(folder: &Path) -> usize {
    let mut wrong = Vec::new();
    let cases = cases(folder);
    for case in &cases {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        let checkpoint = case.join("checkpoint.pt");
        let Model { spec, weights } =
            Model::load(if checkpoint.exists() { &checkpoint } else { case }).unwrap();
        let golden = Golden::from_safetensors(&fs::read(case.join("golden.safetensors")).unwrap()).unwrap();
        let output = reference::run(&spec, &weights, golden.input.stream(), None).unwrap();
        let error = largest_error(&output, &golden.output);
        println!("{name:28} largest error {error:.1e}");
        if error.is_nan() || error > TOLERANCE {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "out of tolerance: {wrong:?}");
    cases.len()
}

#[test]
fn the_reference_agrees_with_the_oracle() {
    let at_hand = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle/cases");
    check(&env::var_os("MCEDGE_ORACLE_CASES").map_or_else(at_hand, PathBuf::from));
}

#[test]
fn the_reference_agrees_with_a_second_writing_and_with_the_published_models() {
    assert_eq!(check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")), 42);
}
