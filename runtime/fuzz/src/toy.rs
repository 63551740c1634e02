//! A backend of any contract that computes nothing.

use mcedge_models::contract::Contract;
use mcedge_models::spec::Segmentation;
use mcedge_runtime::{Backend, Buffer, Element, Error};

use super::plain::Plain;

/// The graph that a contract declares, but that it leaves the state as it was and has one answer to everything else.
///
/// # Invariants
///
/// The first input is `input`, the next are the state's, in the order of the first outputs, which `sizes` begins with.
pub struct Toy {
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// Of each output: its elements for all streams, and for one token where there is a row a token.
    sizes: Vec<(usize, PerToken)>,
    /// Elements of `input` for one token.
    input: usize,
    runs: usize,
}

type PerToken = bool;

impl Toy {
    /// The graph of `contract`, whose input has `input` elements a token over all streams.
    pub fn new(contract: &Contract, input: usize) -> Self {
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        let past = contract.state.iter().map(|state| state.past.clone());
        let caches = contract.cache.iter().flat_map(|cache| std::iter::once(&cache.name).chain(&cache.steps));
        let inputs = ["input".to_owned()].into_iter().chain(past).chain(caches.cloned());
        let present =
            contract.state.iter().map(|state| (state.present.clone(), (elements(&state.shape), false)));
        let mut outputs: Vec<_> = present.collect();
        let mut add = |name: String, size| {
            // A name has one tensor, whatever the contract says of it.
            if outputs.iter().all(|(found, _)| *found != name) {
                outputs.push((name, size));
            }
        };
        for cache in &contract.cache {
            add(cache.from.clone(), (elements(&cache.shape) / contract.capacity, false));
        }
        if matches!(contract.segmentation, Segmentation::Surprise { .. }) {
            add("surprise".into(), (contract.batch, true));
        }
        for block in &contract.blocks {
            // Of a block that weighs nothing the name means nothing.
            let row =
                if block.memory.has_gates() { block.memory.num_heads * (contract.capacity + 1) } else { 1 };
            add(format!("gates.{}", block.block), (contract.batch * row, true));
        }
        add("output".into(), (contract.batch * contract.output.size, true));
        let (outputs, sizes) = outputs.into_iter().unzip();
        let lengths = ["segment.length", "cache.length"].map(str::to_owned);
        Toy { inputs: inputs.chain(lengths).collect(), outputs, sizes, input, runs: 0 }
    }
}

impl Backend for Toy {
    type Tensor = Plain;

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &[String] {
        &self.outputs
    }

    fn zeros(&self, element: Element, shape: &[usize]) -> Result<Plain, Error> {
        Ok(Plain::zeros(element, shape))
    }

    fn run<'a>(
        &mut self,
        mut inputs: impl Iterator<Item = &'a Plain>,
        outputs: &mut [Plain],
    ) -> Result<(), Error> {
        let tokens = inputs.next().map_or(0, |input| input.cells().len()) / self.input;
        // Losses that surprise now and then.
        self.runs += 1;
        let answer = if self.runs.is_multiple_of(5) { 9.0 } else { 0.25 };
        for (output, (elements, per_token)) in outputs.iter_mut().zip(&self.sizes) {
            let elements = elements * if *per_token { tokens } else { 1 };
            *output = match inputs.next() {
                Some(Plain::F32(past)) if !per_token && past.len() == elements => Plain::F32(past.clone()),
                _ => Plain::F32(vec![answer; elements]),
            };
        }
        Ok(())
    }
}
