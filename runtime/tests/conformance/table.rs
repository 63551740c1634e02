//! README's table: every memory, read-out and init that is defined, on every path, with the largest error of each.

use std::collections::BTreeMap;

use mcedge_export::Options;
use mcedge_models::contract::Dtype;
use mcedge_models::spec::{Aggregation, Init, Memory, Segmentation};

use crate::models::{self, Random};
use crate::{TOLERANCE, export, paths, reference_of};

const READ_OUTS: [(&str, Aggregation); 7] = [
    ("none", Aggregation::None),
    ("residual", Aggregation::Residual),
    ("grm", Aggregation::Grm),
    ("soup", Aggregation::Soup),
    ("ssc", Aggregation::Ssc),
    ("mean", Aggregation::Mean),
    ("sigmoid", Aggregation::Sigmoid),
];
const SEGMENTATIONS: [Segmentation; 3] = [
    Segmentation::Constant { size: 5 },
    Segmentation::Logarithmic {},
    Segmentation::Surprise { window: 8, threshold: 0.7, min_size: 2, max_size: 7 },
];
const INITS: [Init; 2] = [Init::Continue, Init::Restart];
const CAPACITY: usize = 3;

/// The largest error of each kind of thing.
#[derive(Default)]
struct Worst(BTreeMap<String, f64>);

impl Worst {
    fn add(&mut self, of: impl Into<String>, error: f64) {
        let worst = self.0.entry(of.into()).or_default();
        *worst = worst.max(error);
    }

    fn cell(&self, of: &str) -> String {
        self.0.get(of).map_or("–".into(), |error| format!("{error:.1e}"))
    }
}

/// The errors of one combination, path by path, in a cache of `dtype`; why there are none.
fn errors(
    memory: &Memory,
    aggregation: Aggregation,
    segmentation: Segmentation,
    init: Init,
    dtype: Dtype,
) -> Result<Vec<(paths::Path, f64)>, String> {
    let spec = models::one_block(memory.clone(), aggregation, segmentation, init);
    spec.check().map_err(|error| error.to_string())?;
    let random = &mut Random::new(7);
    let weights = models::weights(random, &spec);
    let input = models::samples(random, &spec, models::overflowing(&spec, CAPACITY));
    let expected = reference_of(&spec, &weights, &input, CAPACITY);
    let options = Options { capacity: CAPACITY, cache_dtype: dtype, chunk: 4, ..Options::default() };
    let (model, input) = (export(&spec, &weights, options), [input]);
    let error = |path| paths::error(&paths::run(&model, path, &input, &mut Random::new(9))[0], &expected);
    Ok(paths::paths().into_iter().map(|path| (path, error(path))).collect())
}

#[test]
fn the_table_of_every_memory_read_out_and_init() {
    let (mut cells, mut by_path, mut by_init) = (Worst::default(), Worst::default(), Worst::default());
    let mut undefined: BTreeMap<String, usize> = BTreeMap::new();
    let mut combinations = 0;
    for (name, memory) in models::memories() {
        for (read_out, aggregation) in READ_OUTS {
            for segmentation in SEGMENTATIONS {
                for init in INITS {
                    match errors(&memory, aggregation, segmentation, init, Dtype::F32) {
                        Err(reason) => *undefined.entry(reason).or_default() += 1,
                        Ok(errors) => {
                            combinations += 1;
                            for (path, error) in errors {
                                cells.add(format!("{name}/{read_out}"), error);
                                by_path.add(path.to_string(), error);
                                by_init.add(format!("{segmentation:?} {init:?}"), error);
                            }
                        }
                    }
                }
            }
        }
    }
    println!("| memory | {} |", READ_OUTS.map(|(name, _)| format!("`{name}`")).join(" | "));
    println!("|---{}|", "|---".repeat(READ_OUTS.len()));
    for (name, _) in models::memories() {
        let row = READ_OUTS.map(|(read_out, _)| cells.cell(&format!("{name}/{read_out}")));
        println!("| {name} | {} |", row.join(" | "));
    }
    println!("\n{combinations} combinations; the largest error of each path and of each kind of segment:\n");
    by_path.0.iter().for_each(|(path, error)| println!("- {path}: {error:.1e}"));
    by_init.0.iter().for_each(|(init, error)| println!("- {init}: {error:.1e}"));
    println!("\nWithout a meaning:\n");
    undefined.iter().for_each(|(reason, count)| println!("- {count} times: {reason}"));
    let wrong: Vec<_> = cells.0.iter().filter(|(_, error)| **error > TOLERANCE).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// What rounding the cache costs: README's other table.
#[test]
fn the_table_of_cache_types() {
    println!("| memory | `f16` | `i8` |\n|---|---|---|");
    for (name, memory) in models::memories() {
        let mut worst = Worst::default();
        for (_, aggregation) in READ_OUTS.into_iter().filter(|(_, of)| *of != Aggregation::None) {
            for dtype in [Dtype::F16, Dtype::I8] {
                let errors = errors(&memory, aggregation, SEGMENTATIONS[0], Init::Continue, dtype);
                errors.into_iter().flatten().for_each(|(_, error)| worst.add(format!("{dtype:?}"), error));
            }
        }
        println!("| {name} | {} | {} |", worst.cell("F16"), worst.cell("I8"));
        assert!(worst.0.values().all(|&error| error < 1e-1), "{name}: {:?}", worst.0);
    }
}
