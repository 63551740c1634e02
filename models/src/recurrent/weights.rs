//! The numbers of a state dictionary, in the places where the format has them.

use std::collections::BTreeMap;

use super::ConvertError;
use super::plan::Plan;
use super::source::Source;
use crate::spec::{Input, Spec};
use crate::tensor::Tensor;
use crate::weights::{Weights, check_sizes};

/// Reads every tensor of the plan once.
pub fn read(source: &mut Source<'_>, plan: &Plan, spec: &Spec) -> Result<Weights, ConvertError> {
    check_sizes(spec)?;
    let d = spec.d_model;
    let mut tensors = BTreeMap::new();
    match (&spec.input, &plan.embedding) {
        (Input::Tokens { vocab_size }, Some(embedding)) => {
            let rows = source.tensor(&format!("{}.weight", embedding.name))?;
            tensors.insert(
                "embed.weight".to_owned(),
                padded(&rows.data, 1, [*vocab_size, plan.inputs], [*vocab_size, d]),
            );
        }
        _ => {
            tensors.insert("input.weight".to_owned(), identity([d, plan.inputs]));
            tensors.insert("input.bias".to_owned(), zeros(d));
        }
    }
    for layer in 0..plan.layers {
        for (name, tensor) in self::layer(source, plan, layer, d)? {
            tensors.insert(format!("blocks.{layer}.memory.{name}"), tensor);
        }
    }
    head(source, plan, d, &mut tensors)?;
    Ok(Weights::new(tensors, spec)?)
}

/// A layer of `d` units, of which those past the file's are never anything but zero: with zero weights a GRU's candidate
/// is tanh(0) and its state a mean of zeros, an LSTM's cell σ(0) · 0 + σ(0) tanh(0) and its state σ(0) tanh(0).
fn layer(
    source: &mut Source<'_>,
    plan: &Plan,
    layer: usize,
    d: usize,
) -> Result<[(&'static str, Tensor); 4], ConvertError> {
    let (gates, hidden) = (plan.gates, plan.hidden);
    let inputs = if layer == 0 { plan.inputs } else { hidden };
    let mut matrix = |name: &str, columns| -> Result<Tensor, ConvertError> {
        let tensor = source.tensor(&plan.tensor(name, layer))?;
        Ok(padded(&tensor.data, gates, [hidden, columns], [d, d]))
    };
    let (weight_ih, weight_hh) = (matrix("weight_ih", inputs)?, matrix("weight_hh", hidden)?);
    let mut bias = |name: &str| -> Result<Tensor, ConvertError> {
        if !plan.biased {
            return Ok(zeros(gates * d));
        }
        let tensor = source.tensor(&plan.tensor(name, layer))?;
        Ok(Tensor { shape: vec![gates * d], data: padded(&tensor.data, gates, [hidden, 1], [d, 1]).data })
    };
    let (bias_ih, bias_hh) = (bias("bias_ih")?, bias("bias_hh")?);
    Ok([("weight_ih", weight_ih), ("weight_hh", weight_hh), ("bias_ih", bias_ih), ("bias_hh", bias_hh)])
}

fn head(
    source: &mut Source<'_>,
    plan: &Plan,
    d: usize,
    tensors: &mut BTreeMap<String, Tensor>,
) -> Result<(), ConvertError> {
    let weight = match &plan.head {
        None => identity([plan.hidden, d]),
        Some(head) => {
            if head.biased {
                tensors.insert("head.bias".to_owned(), source.tensor(&format!("{}.bias", head.name))?);
            }
            let weight = source.tensor(&format!("{}.weight", head.name))?;
            padded(&weight.data, 1, [head.rows, plan.hidden], [head.rows, d])
        }
    };
    tensors.insert("head.weight".to_owned(), weight);
    Ok(())
}

/// `count` matrices, one below the other, each at the upper left of a larger one of zeros: `[count · to, to]`.
fn padded(data: &[f32], count: usize, from: [usize; 2], to: [usize; 2]) -> Tensor {
    let mut padded = vec![0.0; count * to[0] * to[1]];
    for (row, values) in data.chunks_exact(from[1].max(1)).enumerate() {
        let at = (row / from[0] * to[0] + row % from[0]) * to[1];
        padded[at..at + from[1]].copy_from_slice(values);
    }
    Tensor { shape: vec![count * to[0], to[1]], data: padded }
}

/// Ones on the diagonal, for as long as it goes.
fn identity(shape: [usize; 2]) -> Tensor {
    let mut data = vec![0.0; shape[0] * shape[1]];
    data.iter_mut().step_by(shape[1] + 1).take(shape[0].min(shape[1])).for_each(|x| *x = 1.0);
    Tensor { shape: shape.to_vec(), data }
}

fn zeros(n: usize) -> Tensor {
    Tensor { shape: vec![n], data: vec![0.0; n] }
}
