//! The two operations around the memory functions that a step waits for: tract makes many small ones of a layer norm, and lays a
//! product's operands out anew each time. Here each is one, made of the kernel's loops.

use mcedge_kernel::{Product, layer_norm};
use tract_onnx::model::{Onnx, ParsingContext};
use tract_onnx::pb::NodeProto;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::*;
use tract_onnx::tract_hir::ops::expandable::{Expansion, expand};
use tract_onnx::tract_hir::ops::matmul::MatMulInference;

/// Takes these operators over.
pub(super) fn register(framework: &mut Onnx) {
    framework.op_register.insert("LayerNormalization", layer_norm_op);
    framework.op_register.insert("MatMul", product_op);
}

fn layer_norm_op(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let axis = node.get_attr_opt::<isize>("axis")?.unwrap_or(-1);
    let epsilon = node.get_attr_opt::<f32>("epsilon")?.unwrap_or(1e-5);
    let (inputs, outputs) = (node.input.len(), node.output.len());
    ensure!(
        (axis, inputs, outputs) == (-1, 3, 1),
        "a LayerNormalization over axis {axis} of {inputs} inputs and {outputs} outputs, expected axis -1, 3 and 1"
    );
    Ok((expand(LayerNorm { epsilon: epsilon.to_bits() }), vec![]))
}

fn product_op(_: &ParsingContext, _: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(ProductExpansion(MatMulInference::default())), vec![]))
}

/// Layer norm over the last axis.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LayerNorm {
    /// The bits of an f32, which is no `Eq`.
    epsilon: u32,
}

impl Expansion for LayerNorm {
    fn name(&self) -> StaticName {
        "LayerNorm".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        check_input_arity(inputs, 3)?;
        check_output_arity(outputs, 1)?;
        for tensor in inputs.iter().chain(outputs) {
            solver.equals(&tensor.datum_type, f32::datum_type())?;
        }
        solver.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        model.wire_node(prefix, self.clone(), inputs)
    }
}

impl Op for LayerNorm {
    fn name(&self) -> StaticName {
        "LayerNorm".into()
    }

    op_as_typed_op!();
}

impl EvalOp for LayerNorm {
    not_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, weight, bias) = args_3!(inputs);
        let size = x.shape().last().copied().unwrap_or_default();
        let parameters = [&weight, &bias];
        ensure!(
            parameters.iter().all(|tensor| tensor.shape() == [size]),
            "a layer norm of {:?} with a weight of {:?} and a bias of {:?}",
            x.shape(),
            weight.shape(),
            bias.shape()
        );
        // SAFETY: every element is written below.
        let mut y = unsafe { Tensor::uninitialized::<f32>(x.shape())? };
        let [weight, bias] = parameters.map(|tensor| floats(tensor));
        layer_norm(floats(&x), weight, bias, f32::from_bits(self.epsilon), floats_mut(&mut y));
        Ok(tvec!(y.into_tvalue()))
    }
}

impl TypedOp for LayerNorm {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(inputs[0].shape.clone())))
    }
}

/// A product on the way in: one of rows and a matrix becomes ours, any other stays tract's.
#[derive(Clone, Debug)]
struct ProductExpansion(MatMulInference);

impl Expansion for ProductExpansion {
    fn name(&self) -> StaticName {
        self.0.name()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        self.0.rules(solver, inputs, outputs)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let [x, w] = [model.outlet_fact(inputs[0])?, model.outlet_fact(inputs[1])?];
        let is_ours =
            x.rank() >= 2 && w.rank() == 2 && [x, w].iter().all(|fact| fact.datum_type == DatumType::F32);
        match w.shape.as_concrete() {
            Some(&[depth, columns]) if is_ours && depth > 0 && columns > 0 => {
                model.wire_node(prefix, ProductOp { depth, columns }, inputs)
            }
            _ => self.0.wire(prefix, model, inputs),
        }
    }
}

/// x W of rows `[…, depth]` and W `[depth, columns]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ProductOp {
    depth: usize,
    columns: usize,
}

impl Op for ProductOp {
    fn name(&self) -> StaticName {
        "Product".into()
    }

    op_as_typed_op!();
}

impl EvalOp for ProductOp {
    not_out_of_plan!();

    fn state(&self, _: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        Ok(Some(Box::new(ProductState { columns: self.columns, product: Product::new(self.depth) })))
    }
}

impl TypedOp for ProductOp {
    as_op!();

    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let mut shape = inputs[0].shape.clone();
        shape.set(shape.rank() - 1, self.columns.to_dim());
        Ok(tvec!(f32::fact(shape)))
    }
}

/// The room that a product works in.
#[derive(Clone, Debug)]
struct ProductState {
    columns: usize,
    product: Product,
}

impl OpState for ProductState {
    fn eval(&mut self, _: &EvalContext, _: &dyn Op, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let (x, w) = args_2!(inputs);
        let mut shape: TVec<usize> = x.shape().into();
        let last = shape.last_mut().context("a product of a scalar")?;
        ensure!(
            w.shape() == [*last, self.columns] && *last == self.product.depth(),
            "a product of rows of {last} and {:?}",
            w.shape()
        );
        *last = self.columns;
        // SAFETY: every element is written below.
        let mut y = unsafe { Tensor::uninitialized::<f32>(&shape)? };
        self.product.run(floats(&x), floats(&w), floats_mut(&mut y));
        Ok(tvec!(y.into_tvalue()))
    }

    fn reset_lanes(&mut self, _lanes: &[LaneId]) -> TractResult<()> {
        Ok(())
    }
}

fn floats(tensor: &Tensor) -> &[f32] {
    match super::cells(tensor) {
        super::Cells::F32(cells) => cells,
        _ => &[],
    }
}

fn floats_mut(tensor: &mut Tensor) -> &mut [f32] {
    // SAFETY: the tensor was made as f32.
    unsafe { tensor.as_slice_mut_unchecked::<f32>() }
}
