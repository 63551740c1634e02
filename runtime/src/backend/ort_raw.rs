//! ONNX Runtime's own interface, where a step waits for it: `ort` copies the shape and the names of the sizes of every tensor that it
//! hands over, and has ONNX Runtime make every output anew, which for a score of tensors costs more than the kernels.

use std::ffi::{CString, c_char, c_void};
use std::ptr;

use half::f16;
use ort::operator::ComputeContext;
use ort::session::Session;
use ort::sys::{self, ONNXTensorElementDataType as Type};
use ort::value::DynValue;
use ort::{AsPointer, Error};

use super::Cells;
use super::call::{Shape, Short};

/// What a custom operator is given.
#[derive(Clone, Copy)]
pub(super) struct Context<'a>(pub(super) &'a ComputeContext);

/// One of its inputs.
pub(super) struct Input<'a> {
    pub(super) cells: Cells<'a>,
    pub(super) shape: Shape<i64>,
}

impl<'a> Context<'a> {
    /// Input `index`.
    pub(super) fn input(self, index: usize) -> ort::Result<Input<'a>> {
        let api = ort::api();
        let (mut value, mut info) = (ptr::null(), ptr::null_mut());
        // SAFETY: the context is that of this computation, and every pointer is to a place of the right type.
        unsafe {
            check((api.KernelContext_GetInput)(self.0.ptr(), index, &mut value))?;
            if value.is_null() {
                return Err(Error::new(format!("a memory function lacks input {index}")));
            }
            check((api.GetTensorTypeAndShape)(value, &mut info))?;
            let input = read(value, info);
            (api.ReleaseTensorTypeAndShapeInfo)(info);
            input
        }
    }

    /// Output `index`, f32 of this shape.
    pub(super) fn output(self, index: usize, shape: &[i64]) -> ort::Result<&'a mut [f32]> {
        let api = ort::api();
        let (mut value, mut data) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: as in `input`; the operator declares f32, and each output is asked for once.
        unsafe {
            let context = self.0.ptr().cast_mut();
            check((api.KernelContext_GetOutput)(context, index, shape.as_ptr(), shape.len(), &mut value))?;
            if value.is_null() {
                return Err(Error::new(format!("a memory function lacks output {index}")));
            }
            check((api.GetTensorMutableData)(value, &mut data))?;
            let len = shape.iter().product::<i64>() as usize;
            Ok(if len == 0 { &mut [] } else { std::slice::from_raw_parts_mut(data.cast(), len) })
        }
    }
}

/// # Safety
///
/// `value` is a tensor that stays as it is for `'a`, and `info` is its own.
unsafe fn read<'a>(
    value: *const sys::OrtValue,
    info: *const sys::OrtTensorTypeAndShapeInfo,
) -> ort::Result<Input<'a>> {
    let api = ort::api();
    let (mut element, mut rank, mut data) =
        (Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, 0, ptr::null_mut());
    // SAFETY: by the caller's promise; the slice is of the type and the length that the tensor says.
    unsafe {
        check((api.GetTensorElementType)(info, &mut element))?;
        check((api.GetDimensionsCount)(info, &mut rank))?;
        let mut shape: Shape<i64> = Shape::from_elem(0, rank);
        check((api.GetDimensions)(info, shape.as_mut_ptr(), rank))?;
        check((api.GetTensorMutableData)(value.cast_mut(), &mut data))?;
        let len = shape.iter().product::<i64>() as usize;
        let cells = match element {
            Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT => Cells::F32(slice(data, len)),
            Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 => Cells::F16(slice::<f16>(data, len)),
            Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 => Cells::I8(slice(data, len)),
            Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 => Cells::I64(slice(data, len)),
            _ => {
                return Err(Error::new(
                    "a memory function is given an input that is no f32, f16, i8 or int64",
                ));
            }
        };
        Ok(Input { cells, shape })
    }
}

/// # Safety
///
/// `data` is `len` elements of `T` that stay as they are for `'a`; it may be null when there are none.
unsafe fn slice<'a, T>(data: *const c_void, len: usize) -> &'a [T] {
    // SAFETY: by the caller's promise.
    if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data.cast(), len) } }
}

/// The names of a graph's inputs and outputs, as ONNX Runtime wants them.
pub(super) struct Names {
    inputs: Vec<CString>,
    outputs: Vec<CString>,
}

impl Names {
    /// Of names that came from ONNX Runtime.
    pub(super) fn new(inputs: &[String], outputs: &[String]) -> Self {
        let list =
            |names: &[String]| names.iter().map(|name| CString::new(&name[..]).unwrap_or_default()).collect();
        Self { inputs: list(inputs), outputs: list(outputs) }
    }

    /// Runs the graph into these outputs, which have the shapes that it gives: anything else is an error.
    pub(super) fn run(
        &self,
        session: &mut Session,
        inputs: &[&DynValue],
        outputs: &mut [DynValue],
    ) -> ort::Result<()> {
        assert_eq!(
            (inputs.len(), outputs.len()),
            (self.inputs.len(), self.outputs.len()),
            "inputs and outputs"
        );
        let names =
            |names: &[CString]| names.iter().map(|name| name.as_ptr()).collect::<Short<*const c_char>>();
        let (input_names, output_names) = (names(&self.inputs), names(&self.outputs));
        let inputs: Short<*const sys::OrtValue> = inputs.iter().map(|value| value.ptr()).collect();
        let mut values: Short<*mut sys::OrtValue> =
            outputs.iter().map(|value| value.ptr().cast_mut()).collect();
        let session = session.ptr().cast_mut();
        // SAFETY: the names and values are as many as are said, and all of them outlive the call; the outputs are borrowed to be
        // written, and a value that is given is not replaced.
        unsafe {
            check((ort::api().Run)(
                session,
                ptr::null(),
                input_names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                output_names.as_ptr(),
                output_names.len(),
                values.as_mut_ptr(),
            ))
        }
    }
}

/// # Safety
///
/// The status is one that ONNX Runtime has just given.
unsafe fn check(status: sys::OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: by the caller's promise.
    unsafe { Error::result_from_status(status) }
}
