//! Exports a model directory or checkpoint, `export MODEL BUNDLE [CAPACITY] [f16]`, and prints the graph's text form.

use std::env;
use std::error::Error;
use std::path::Path;

use mcedge_export::{Options, bundle, step_graph};
use mcedge_models::Model;
use mcedge_models::contract::Dtype;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, target, options @ ..] = &arguments[..] else {
        return Err("expected MODEL BUNDLE [CAPACITY] [f16]".into());
    };
    let Model { spec, weights } = Model::load(Path::new(model))?;
    let capacity = options.first().map_or(Ok(Options::default().capacity), |capacity| capacity.parse())?;
    let cache_dtype =
        if options.get(1).is_some_and(|dtype| dtype == "f16") { Dtype::F16 } else { Dtype::F32 };
    let options = Options { capacity, cache_dtype, ..Options::default() };
    println!("{}", step_graph(&spec, &weights, options)?);
    let bundle = bundle(&spec, &weights, options)?;
    bundle.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    bundle.write(Path::new(target))?;
    Ok(())
}
