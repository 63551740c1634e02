//! tract: pure Rust, for any CPU. Memory functions are ops of their own, with the fused kernel inside; or, to be compared with that,
//! their bodies of standard operations.

mod around;
mod inline;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use half::f16;
use mcedge_models::contract::{Contract, Lead, METADATA_KEY, MemoryFunction, Role};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::*;
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};

use super::call::{Call, Short, rows_of};
use super::{Backend, Buffer, Cells, CellsMut, Element};
use crate::{Error, Model};

/// A graph in tract.
pub struct Tract {
    plan: TypedSimpleState,
    inputs: Vec<String>,
    outputs: Vec<String>,
}

impl Tract {
    /// Loads and optimises a model's step graph.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] with what tract said.
    pub fn new(model: &Model) -> Result<Self, Error> {
        Self::load(model, model.step(), false)
    }

    /// Loads and optimises a model's chunk graph; none when the model has none.
    ///
    /// # Errors
    ///
    /// As [`Tract::new`].
    pub fn chunks(model: &Model) -> Result<Option<Self>, Error> {
        model.chunk().map(|chunk| Self::load(model, chunk, false)).transpose()
    }

    /// As [`Tract::new`], with the memory functions' bodies of standard operations in place of the kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] with what tract said, or with the operation of a body that it cannot run.
    pub fn plain(model: &Model) -> Result<Self, Error> {
        Self::load(model, model.step(), true)
    }

    /// As [`Tract::chunks`], with plain bodies.
    ///
    /// # Errors
    ///
    /// As [`Tract::plain`].
    pub fn plain_chunks(model: &Model) -> Result<Option<Self>, Error> {
        model.chunk().map(|chunk| Self::load(model, chunk, true)).transpose()
    }

    fn load(model: &Model, bytes: &[u8], plain: bool) -> Result<Self, Error> {
        // tract indexes maps of names as it parses, so a graph that names what it does not have panics there.
        let loaded = catch_unwind(AssertUnwindSafe(|| load(model, bytes, plain)));
        let loaded =
            loaded.unwrap_or_else(|panic| Err(format_err!("the graph cannot be: {}", payload(&*panic))));
        loaded.map_err(|error| backend_error(&error))
    }
}

fn load(model: &Model, mut bytes: &[u8], plain: bool) -> TractResult<Tract> {
    let mut framework = onnx();
    let mut proto = framework.proto_model_for_read(&mut bytes)?;
    if plain {
        inline::expand(&mut proto)?;
    } else {
        around::register(&mut framework);
        for block in &model.contract().blocks {
            framework.op_register.0.insert(block.function.clone(), memory_op);
        }
    }
    let parsed = framework.model_for_proto_model(&proto)?;
    let names = |outlets: &[OutletId]| -> Vec<String> {
        outlets.iter().map(|outlet| parsed.node(outlet.node).name.clone()).collect()
    };
    let inputs = names(&parsed.inputs);
    let label = |outlet: &OutletId| parsed.outlet_label(*outlet).unwrap_or_default().to_owned();
    let outputs = parsed.outputs.iter().map(label).collect();
    let plan = parsed.into_optimized()?.into_runnable()?.spawn()?;
    Ok(Tract { plan, inputs, outputs })
}

/// What a panic said.
fn payload(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the parser panics on it")
}

fn backend_error(error: &TractError) -> Error {
    Error::Backend { backend: "tract", message: format!("{error:#}") }
}

impl Backend for Tract {
    type Tensor = Arc<Tensor>;

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &[String] {
        &self.outputs
    }

    fn zeros(&self, element: Element, shape: &[usize]) -> Result<Arc<Tensor>, Error> {
        Tensor::zero_dt(dtype(element), shape).map(Arc::new).map_err(|error| backend_error(&error))
    }

    fn reserve(&self, element: Element, shape: &[usize]) -> Result<Arc<Tensor>, Error> {
        // SAFETY: any bits are a number of these types.
        let tensor = unsafe { Tensor::uninitialized_dt(dtype(element), shape) };
        tensor.map(Arc::new).map_err(|error| backend_error(&error))
    }

    fn run<'a>(
        &mut self,
        inputs: impl Iterator<Item = &'a Arc<Tensor>>,
        outputs: &mut [Arc<Tensor>],
    ) -> Result<(), Error> {
        let inputs = inputs.map(|tensor| tensor.clone().into_tvalue()).collect();
        // tract's own operations trust their inputs: a token outside of an embedding panics in there.
        let ran = catch_unwind(AssertUnwindSafe(|| self.plan.run(inputs)));
        let ran = ran.unwrap_or_else(|panic| Err(format_err!("the graph cannot run: {}", payload(&*panic))));
        let values = ran.map_err(|error| backend_error(&error))?;
        for (output, value) in outputs.iter_mut().zip(values) {
            *output = value.into_arc_tensor();
        }
        Ok(())
    }
}

fn dtype(element: Element) -> DatumType {
    match element {
        Element::F32 => DatumType::F32,
        Element::F16 => DatumType::F16,
        Element::I8 => DatumType::I8,
        Element::I64 => DatumType::I64,
    }
}

impl Buffer for Arc<Tensor> {
    fn cells(&self) -> Cells<'_> {
        cells(self)
    }

    fn cells_mut(&mut self) -> CellsMut<'_> {
        if Arc::get_mut(self).is_none() {
            // Somebody else still reads the tensor: write to a copy of our own.
            *self = Arc::new(self.deep_clone());
        }
        let tensor = Arc::get_mut(self).expect("this is the only reference");
        let mut view = tensor.as_plain_ram_mut().expect("the engine's tensors are plain");
        // SAFETY: a view borrows the tensor that it was made from, but its accessors tie the slice to the view;
        // the slice is handed out under the borrow of `self`, which outlives the view.
        unsafe {
            match view.datum_type() {
                DatumType::F32 => CellsMut::F32(extend(view.as_slice_mut().expect("the type was matched"))),
                DatumType::F16 => CellsMut::F16(extend(view.as_slice_mut().expect("the type was matched"))),
                DatumType::I8 => CellsMut::I8(extend(view.as_slice_mut().expect("the type was matched"))),
                _ => CellsMut::I64(extend(
                    view.as_slice_mut().expect("engine tensors are f32, f16, i8 or i64"),
                )),
            }
        }
    }
}

/// # Safety
///
/// The caller makes sure that `slice` stays valid and unshared for `'a`.
unsafe fn extend<'a, T>(slice: &mut [T]) -> &'a mut [T] {
    // SAFETY: by the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(slice.as_mut_ptr(), slice.len()) }
}

fn cells(tensor: &Tensor) -> Cells<'_> {
    let view = tensor.as_plain_ram().expect("the engine's tensors are plain");
    match tensor.datum_type() {
        DatumType::F32 => Cells::F32(view.as_slice::<f32>().expect("the type was matched")),
        DatumType::F16 => Cells::F16(view.as_slice::<f16>().expect("the type was matched")),
        DatumType::I8 => Cells::I8(view.as_slice::<i8>().expect("the type was matched")),
        // A graph may give back anything; what is none of these has no elements that anybody asked for.
        _ => Cells::I64(view.as_slice::<i64>().unwrap_or_default()),
    }
}

/// tract's door for a node of a memory function: its meaning is in the contract, which the model carries.
fn memory_op(
    context: &tract_onnx::model::ParsingContext,
    node: &NodeProto,
) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let entry = context.model.metadata_props.iter().find(|entry| entry.key == METADATA_KEY);
    let contract = Contract::parse(&entry.context("no contract in the model")?.value)?;
    let block = contract.blocks.iter().find(|block| block.function == node.op_type);
    let function =
        block.with_context(|| format!("no function {} in the contract", node.op_type))?.memory.clone();
    Ok((expand(MemoryExpansion { function, capacity: contract.capacity }), vec![]))
}

/// A memory function on the way in: shapes are known, the op is not wired yet.
#[derive(Clone, Debug)]
struct MemoryExpansion {
    function: MemoryFunction,
    capacity: usize,
}

impl Expansion for MemoryExpansion {
    fn name(&self) -> StaticName {
        "Memory".into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.function.outputs().len())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, self.function.inputs().len())?;
        check_output_arity(outputs, self.function.outputs().len())?;
        for (role, output) in self.function.outputs().into_iter().zip(outputs) {
            solver.equals(&output.datum_type, f32::datum_type())?;
            solver.given(&inputs[0].shape, move |solver, first| {
                solver.equals(&output.shape, shape(&self.function, role, self.capacity, &first))
            })?;
        }
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let op = MemoryOp { function: self.function.clone(), capacity: self.capacity };
        model.wire_node(prefix, op, inputs)
    }
}

/// A memory function with the fused kernel inside.
#[derive(Clone, Debug, PartialEq)]
struct MemoryOp {
    function: MemoryFunction,
    capacity: usize,
}

impl Eq for MemoryOp {}

impl Op for MemoryOp {
    fn name(&self) -> StaticName {
        "Memory".into()
    }

    op_as_typed_op!();
}

impl EvalOp for MemoryOp {
    not_out_of_plan!();

    fn state(&self, _context: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        Ok(Some(Box::new(MemoryState::new(self))))
    }
}

impl TypedOp for MemoryOp {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let fact = |role| f32::fact(shape(&self.function, role, self.capacity, &inputs[0].shape));
        Ok(self.function.outputs().into_iter().map(fact).collect())
    }
}

/// The shape of an output, of which the `first` input, `[B, T, …]`, knows the first two axes.
fn shape<D: Clone + From<usize>>(
    function: &MemoryFunction,
    role: Role,
    capacity: usize,
    first: &[D],
) -> TVec<D> {
    let (lead, tail) = function.shape(role, capacity);
    let lead = match lead {
        Lead::Token => &first[..2],
        Lead::Stream => &first[..1],
        Lead::Whole => &[],
    };
    lead.iter().cloned().chain(tail.into_iter().map(D::from)).collect()
}

/// The kernel of one node, with its scratch.
struct MemoryState {
    call: Call,
}

impl MemoryState {
    fn new(op: &MemoryOp) -> Self {
        Self { call: Call::new(&op.function, op.capacity) }
    }
}

// Between runs a kernel holds no more than its configuration, so a clone starts with scratch of its own.
impl Clone for MemoryState {
    fn clone(&self) -> Self {
        let (function, capacity) = self.call.function();
        Self { call: Call::new(function, capacity) }
    }
}

impl std::fmt::Debug for MemoryState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryState").field("function", self.call.function().0).finish_non_exhaustive()
    }
}

impl OpState for MemoryState {
    fn eval(&mut self, _: &EvalContext, _: &dyn Op, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        ensure!(inputs.len() == self.call.arity(), "a memory function takes {} inputs", self.call.arity());
        let tokens = rows_of(inputs[0].shape())?;
        let mut outputs: TVec<Tensor> = TVec::new();
        for output in self.call.outputs() {
            let shape = output.shape(inputs[0].shape(), |size| size);
            // SAFETY: the kernel writes every element of every output.
            outputs.push(unsafe { Tensor::uninitialized::<f32>(&shape)? });
        }
        let views: Short<Cells<'_>> = inputs.iter().map(|input| cells(input)).collect();
        let mut rows: Short<&mut [f32]> = Short::new();
        for output in &mut outputs {
            // SAFETY: the tensor was made as f32 above.
            rows.push(unsafe { output.as_slice_mut_unchecked::<f32>() });
        }
        self.call.run(tokens, &views, &mut rows)?;
        drop((views, rows));
        Ok(outputs.into_iter().map(IntoTValue::into_tvalue).collect())
    }

    fn reset_lanes(&mut self, _lanes: &[LaneId]) -> TractResult<()> {
        Ok(())
    }
}
