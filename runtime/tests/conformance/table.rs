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
/// The cell of a combination that has no meaning.
const NONE: &str = "–";

/// The largest error of each kind of thing.
#[derive(Default)]
struct Worst(BTreeMap<String, f64>);

impl Worst {
    fn add(&mut self, of: impl Into<String>, error: f64) {
        let worst = self.0.entry(of.into()).or_default();
        *worst = worst.max(error);
    }

    fn cell(&self, of: &str) -> String {
        self.0.get(of).map_or(NONE.into(), |error| format!("{error:.1e}"))
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

/// Errors by combination, by path and by segments.
#[derive(Default)]
struct Table {
    /// Of `memory/read-out`, and of `memory/read-out/init/path`.
    cells: Worst,
    paths: Worst,
    segments: Worst,
    /// Why combinations have no meaning, and how many there are.
    undefined: BTreeMap<String, usize>,
    combinations: usize,
}

impl Table {
    fn fill() -> Self {
        let mut table = Table::default();
        for (name, memory) in models::memories() {
            for (read_out, aggregation) in READ_OUTS {
                for (segmentation, init) in
                    SEGMENTATIONS.into_iter().flat_map(|of| INITS.map(|init| (of, init)))
                {
                    let errors = errors(&memory, aggregation, segmentation, init, Dtype::F32);
                    table.add(&format!("{name}/{read_out}"), segmentation, init, errors);
                }
            }
        }
        table
    }

    fn add(
        &mut self,
        combination: &str,
        segmentation: Segmentation,
        init: Init,
        errors: Result<Vec<(paths::Path, f64)>, String>,
    ) {
        let errors = match errors {
            Ok(errors) => errors,
            Err(reason) => return *self.undefined.entry(reason).or_default() += 1,
        };
        self.combinations += 1;
        for (path, error) in errors {
            self.cells.add(combination, error);
            self.cells.add(format!("{combination}/{init:?}/{path}"), error);
            self.paths.add(path.to_string(), error);
            self.segments.add(format!("{segmentation:?} {init:?}"), error);
        }
    }

    /// A row for each memory, read-out and init, a column for each path.
    fn print_paths(&self) {
        let paths = paths::paths();
        let heads: Vec<String> = paths.iter().map(ToString::to_string).collect();
        println!(
            "| memory | read-out | init | {} |\n|---|---|---{}|",
            heads.join(" | "),
            "|---".repeat(heads.len())
        );
        for (name, _) in models::memories() {
            for (read_out, init) in READ_OUTS.into_iter().flat_map(|(of, _)| INITS.map(|init| (of, init))) {
                let cell = |path: &String| self.cells.cell(&format!("{name}/{read_out}/{init:?}/{path}"));
                let cells: Vec<String> = heads.iter().map(cell).collect();
                if cells[0] != NONE {
                    println!("| {name} | `{read_out}` | {init:?} | {} |", cells.join(" | "));
                }
            }
        }
    }

    /// A row for each memory, a column for each read-out: the largest over inits, segments and paths.
    fn print_read_outs(&self) {
        println!("\n| memory | {} |", READ_OUTS.map(|(name, _)| format!("`{name}`")).join(" | "));
        println!("|---{}|", "|---".repeat(READ_OUTS.len()));
        for (name, _) in models::memories() {
            let row = READ_OUTS.map(|(read_out, _)| self.cells.cell(&format!("{name}/{read_out}")));
            println!("| {name} | {} |", row.join(" | "));
        }
    }

    fn print_rest(&self) {
        println!(
            "\n{} combinations; the largest error of each path and of each kind of segment:\n",
            self.combinations
        );
        let largest = self.paths.0.iter().chain(&self.segments.0);
        largest.for_each(|(of, error)| println!("- {of}: {error:.1e}"));
        println!("\nWithout a meaning:\n");
        self.undefined.iter().for_each(|(reason, count)| println!("- {count} times: {reason}"));
    }
}

#[test]
fn the_table_of_every_memory_read_out_and_init() {
    let table = Table::fill();
    table.print_paths();
    table.print_read_outs();
    table.print_rest();
    let wrong: Vec<_> = table.cells.0.iter().filter(|(_, error)| **error > TOLERANCE).collect();
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
