//! ONNX Runtime: any CPU through the fused kernel, CUDA and TensorRT through the graph's plain bodies.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use half::f16;
use mcedge_models::contract::{Contract, DOMAIN, Dtype, MemoryFunction, Role};
use ort::ep;
use ort::logging::LogLevel;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::session::{Session, SessionInputValue, builder::SessionBuilder};
use ort::value::{DynTensor, DynValue, TensorElementType};

use super::call::{Call, Shape, Short, rows_of};
use super::ort_library::OnnxRuntime;
use super::ort_raw::{Context, Names};
use super::{Backend, Buffer, Cells, CellsMut, Element};
use crate::{Error, Model};

/// Where ONNX Runtime puts the graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// NVIDIA's CUDA.
    Cuda,
    /// NVIDIA's TensorRT.
    TensorRt,
}

impl Device {
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
            Device::TensorRt => "tensorrt",
        }
    }
}

/// How a graph is loaded into ONNX Runtime.
#[derive(Clone, Debug, Default)]
pub struct OrtOptions {
    /// The library; searched for when absent.
    pub library: Option<PathBuf>,
    /// The device.
    pub device: Device,
    /// Whether the CPU will do when the device is not to be had.
    pub allow_fallback: bool,
    /// Whether memory functions run as their bodies of standard ops, as they do on a GPU, in place of the kernel.
    pub plain: bool,
    /// Threads that share an operation; one when absent. The kernels run on one whatever it is.
    pub threads: Option<NonZeroUsize>,
}

/// A graph in ONNX Runtime.
pub struct Ort {
    session: Session,
    device: Device,
    /// Why the graph is on the CPU, when another device was asked for.
    fallback: Option<String>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    names: Names,
    /// The type of each output, where a run may write where the one before has: on the CPU, where no output is an input and
    /// none has turned out to be of another shape.
    in_place: Option<Vec<Option<TensorElementType>>>,
    /// Of the inputs of the last run, when it succeeded: see [`shapes`].
    shapes: Option<usize>,
}

impl Ort {
    /// Loads a model's step graph.
    ///
    /// # Errors
    ///
    /// [`Error::NoOnnxRuntime`] when there is no library that will do; [`Error::Device`] when the device is not to
    /// be had and nothing else will do; [`Error::Backend`] with what ONNX Runtime said.
    pub fn new(model: &Model, options: &OrtOptions) -> Result<Self, Error> {
        Self::load(model, model.step(), options)
    }

    /// Loads a model's chunk graph; none when the model has none.
    ///
    /// # Errors
    ///
    /// As [`Ort::new`].
    pub fn chunks(model: &Model, options: &OrtOptions) -> Result<Option<Self>, Error> {
        model.chunk().map(|chunk| Self::load(model, chunk, options)).transpose()
    }

    fn load(model: &Model, bytes: &[u8], options: &OrtOptions) -> Result<Self, Error> {
        let runtime = OnnxRuntime::load(options.library.as_deref())?;
        let device_error =
            |error: ort::Error| Error::Device { device: options.device.name(), message: error.to_string() };
        let threads = options.threads.map_or(1, NonZeroUsize::get);
        let on_cpu = || load(model, bytes, runtime, Device::Cpu, options.plain, threads).map_err(failed);
        let (session, device, fallback) = match options.device {
            Device::Cpu => (on_cpu()?, Device::Cpu, None),
            device => match load(model, bytes, runtime, device, true, threads) {
                Ok(session) => (session, device, None),
                Err(error) if options.allow_fallback => (on_cpu()?, Device::Cpu, Some(error.to_string())),
                Err(error) => return Err(device_error(error)),
            },
        };
        let inputs: Vec<String> = session.inputs().iter().map(|input| input.name().to_owned()).collect();
        let outputs: Vec<String> = session.outputs().iter().map(|output| output.name().to_owned()).collect();
        let names = Names::new(&inputs, &outputs);
        let is_apart = outputs.iter().all(|output| !inputs.contains(output));
        let types = || session.outputs().iter().map(|output| output.dtype().tensor_type()).collect();
        let in_place = (device == Device::Cpu && is_apart).then(types);
        Ok(Self { session, device, fallback, inputs, outputs, names, in_place, shapes: None })
    }

    /// Why the graph is on the CPU, when another device was asked for and `allow_fallback` was set.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Where the graph really is.
    pub fn device(&self) -> Device {
        self.device
    }
}

/// Held while a session is made: two that register the same domain at once fail in ONNX Runtime's map of domains,
/// which the whole process shares.
static LOADING: Mutex<()> = Mutex::new(());

fn load(
    model: &Model,
    bytes: &[u8],
    runtime: &OnnxRuntime,
    device: Device,
    plain: bool,
    threads: usize,
) -> ort::Result<Session> {
    let _loading = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut builder = Session::builder(runtime.environment())?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_log_level(LogLevel::Error)?;
    builder = match device {
        Device::Cpu => builder,
        Device::Cuda => builder.with_execution_providers([ep::CUDA::default().build().error_on_failure()])?,
        Device::TensorRt => builder.with_execution_providers([
            ep::TensorRT::default().build().error_on_failure(),
            ep::CUDA::default().build().error_on_failure(),
        ])?,
    };
    if !plain {
        builder = with_kernels(builder, model.contract())?;
    }
    builder.commit_from_memory(bytes)
}

/// Registers one operator a memory function; a registered operator wins over the function's body.
fn with_kernels(builder: SessionBuilder, contract: &Contract) -> ort::Result<SessionBuilder> {
    if contract.blocks.is_empty() {
        return Ok(builder);
    }
    let mut domain = OperatorDomain::new(DOMAIN)?;
    let mut known: Vec<&str> = Vec::new();
    for block in &contract.blocks {
        if known.contains(&block.function.as_str()) {
            continue;
        }
        known.push(&block.function);
        domain = domain.add(MemoryOperator {
            name: block.function.clone(),
            function: block.memory.clone(),
            capacity: contract.capacity,
        })?;
    }
    Ok(builder.with_operators(domain)?)
}

fn failed(error: ort::Error) -> Error {
    Error::Backend { backend: "ort", message: error.to_string() }
}

impl Backend for Ort {
    type Tensor = DynValue;

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn outputs(&self) -> &[String] {
        &self.outputs
    }

    fn zeros(&self, element: Element, shape: &[usize]) -> Result<DynValue, Error> {
        let mut value = self.reserve(element, shape)?;
        // ONNX Runtime does not promise zeros.
        match value.cells_mut() {
            CellsMut::F32(cells) => cells.fill(0.0),
            CellsMut::F16(cells) => cells.fill(f16::ZERO),
            CellsMut::I8(cells) => cells.fill(0),
            CellsMut::I64(cells) => cells.fill(0),
        }
        Ok(value)
    }

    fn reserve(&self, element: Element, shape: &[usize]) -> Result<DynValue, Error> {
        let element = match element {
            Element::F32 => TensorElementType::Float32,
            Element::F16 => TensorElementType::Float16,
            Element::I8 => TensorElementType::Int8,
            Element::I64 => TensorElementType::Int64,
        };
        let shape: Vec<i64> = shape.iter().map(|&dim| dim as i64).collect();
        Ok(DynTensor::new(self.session.allocator(), element, shape).map_err(failed)?.into_dyn())
    }

    fn run<'a>(
        &mut self,
        inputs: impl Iterator<Item = &'a DynValue>,
        outputs: &mut [DynValue],
    ) -> Result<(), Error> {
        let inputs: Short<&DynValue> = inputs.collect();
        let shapes = shapes(&inputs);
        // What a run gave has the shapes that the next will give, for inputs of the same: it writes where that stood. ONNX
        // Runtime looks at the shapes, not at the types. Where it fails, nothing has been read yet that it could have spoiled.
        let fit = |types: &Vec<_>| types.iter().copied().eq(outputs.iter().map(element_type));
        let in_place = self.shapes == Some(shapes) && self.in_place.as_ref().is_some_and(fit);
        if in_place && self.names.run(&mut self.session, &inputs, outputs).is_ok() {
            return Ok(());
        }
        self.shapes = None;
        let inputs: Short<SessionInputValue<'_>> = inputs.into_iter().map(SessionInputValue::from).collect();
        let values = self.session.run(inputs.as_slice()).map_err(failed)?;
        for (output, (_, value)) in outputs.iter_mut().zip(values) {
            *output = value;
        }
        if in_place {
            // What fails in place and not otherwise will again: it is not to run twice each time.
            self.in_place = None;
        }
        self.shapes = Some(shapes);
        Ok(())
    }
}

/// The elements of all inputs: in a graph of ours, another number for inputs of other shapes. In any other ONNX Runtime refuses
/// outputs that do not fit.
fn shapes(inputs: &[&DynValue]) -> usize {
    inputs.iter().map(|input| input.shape().num_elements()).sum()
}

impl Buffer for DynValue {
    fn cells(&self) -> Cells<'_> {
        match element_type(self) {
            Some(TensorElementType::Float32) => Cells::F32(slice(self)),
            Some(TensorElementType::Float16) => Cells::F16(slice(self)),
            Some(TensorElementType::Int8) => Cells::I8(slice(self)),
            _ => Cells::I64(slice(self)),
        }
    }

    fn cells_mut(&mut self) -> CellsMut<'_> {
        match element_type(self) {
            Some(TensorElementType::Float32) => CellsMut::F32(slice_mut(self)),
            Some(TensorElementType::Float16) => CellsMut::F16(slice_mut(self)),
            Some(TensorElementType::Int8) => CellsMut::I8(slice_mut(self)),
            _ => CellsMut::I64(slice_mut(self)),
        }
    }
}

fn element_type(value: &DynValue) -> Option<TensorElementType> {
    value.dtype().tensor_type()
}

fn slice<T: ort::value::PrimitiveTensorElementType>(value: &DynValue) -> &[T] {
    value.try_extract_tensor().map_or(&[], |(_, cells)| cells)
}

fn slice_mut<T: ort::value::PrimitiveTensorElementType>(value: &mut DynValue) -> &mut [T] {
    value.try_extract_tensor_mut().map_or(&mut [], |(_, cells)| cells)
}

/// A memory function as a custom operator.
struct MemoryOperator {
    name: String,
    function: MemoryFunction,
    capacity: usize,
}

impl Operator for MemoryOperator {
    type Kernel<'attr> = MemoryKernel;

    fn name(&self) -> &str {
        &self.name
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let tensors = self.function.tensors();
        let input = |role: &Role| {
            OperatorInput::required(match role {
                Role::SegmentLength | Role::CacheLength => TensorElementType::Int64,
                Role::Cache(index) => match self.function.dtype(&tensors[*index]) {
                    Dtype::F32 => TensorElementType::Float32,
                    Dtype::F16 => TensorElementType::Float16,
                    Dtype::I8 => TensorElementType::Int8,
                },
                _ => TensorElementType::Float32,
            })
        };
        self.function.inputs().iter().map(input).collect::<Vec<_>>()
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let outputs = self.function.outputs();
        outputs.iter().map(|_| OperatorOutput::required(TensorElementType::Float32)).collect::<Vec<_>>()
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<MemoryKernel> {
        Ok(MemoryKernel { call: Call::new(&self.function, self.capacity) })
    }
}

/// The kernel of one node, with its scratch.
struct MemoryKernel {
    call: Call,
}

impl Kernel for MemoryKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let context = Context(context);
        let mut first: Shape<i64> = Shape::new();
        let mut views: Short<Cells<'_>> = Short::new();
        for index in 0..self.call.arity() {
            let input = context.input(index)?;
            views.push(input.cells);
            if index == 0 {
                first = input.shape;
            }
        }
        let sizes: Shape<usize> = first.iter().map(|&size| size as usize).collect();
        let tokens = rows_of(&sizes).map_err(ort::Error::wrap)?;
        let mut rows: Short<&mut [f32]> = Short::new();
        for (index, output) in self.call.outputs().iter().enumerate() {
            rows.push(context.output(index, &output.shape(&first, |size| size as i64))?);
        }
        self.call.run(tokens, &views, &mut rows).map_err(ort::Error::wrap)
    }
}
