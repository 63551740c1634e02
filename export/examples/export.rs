//! Exports a model directory: `export MODEL BUNDLE [CAPACITY] [f16]`; prints the graph's text form.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use mcedge_export::{Options, bundle, step_graph};
use mcedge_models::Weights;
use mcedge_models::contract::Dtype;
use mcedge_models::spec::Spec;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, target, options @ ..] = &arguments[..] else {
        return Err("expected MODEL BUNDLE [CAPACITY] [f16]".into());
    };
    let model = Path::new(model);
    let spec = Spec::parse(&fs::read(model.join("config.json"))?)?;
    let weights = Weights::from_safetensors(&fs::read(model.join("model.safetensors"))?, &spec)?;
    let capacity = options.first().map_or(Ok(64), |capacity| capacity.parse())?;
    let cache_dtype =
        if options.get(1).is_some_and(|dtype| dtype == "f16") { Dtype::F16 } else { Dtype::F32 };
    let options = Options { capacity, cache_dtype };
    println!("{}", step_graph(&spec, &weights, options)?);
    let bundle = bundle(&spec, &weights, options)?;
    bundle.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    bundle.write(Path::new(target))?;
    Ok(())
}
