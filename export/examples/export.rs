//! Exports a model directory or checkpoint, `export MODEL BUNDLE [CAPACITY] [f32|f16|i8] [BATCH] [gates]`, and prints the
//! graphs' text form.

use std::env;
use std::error::Error;
use std::path::Path;

use mcedge_export::{Options, bundle, chunk_graph, step_graph};
use mcedge_models::Model;
use mcedge_models::contract::Dtype;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, target, options @ ..] = &arguments[..] else {
        return Err("expected MODEL BUNDLE [CAPACITY] [f32|f16|i8] [BATCH] [gates]".into());
    };
    let Model { spec, weights } = Model::load(Path::new(model))?;
    let number = |index: usize, absent| options.get(index).map_or(Ok(absent), |number| number.parse());
    let cache_dtype = match options.get(1).map(String::as_str) {
        Some("f16") => Dtype::F16,
        Some("i8") => Dtype::I8,
        _ => Dtype::F32,
    };
    let absent = Options::default();
    let options = Options {
        capacity: number(0, absent.capacity)?,
        cache_dtype,
        batch: number(2, absent.batch)?,
        gates: options.len() > 3,
        ..absent
    };
    println!("{}", step_graph(&spec, &weights, options)?);
    if let Some(chunk) = chunk_graph(&spec, &weights, options)? {
        println!("{chunk}");
    }
    let bundle = bundle(&spec, &weights, options)?;
    bundle.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    bundle.write(Path::new(target))?;
    Ok(())
}
