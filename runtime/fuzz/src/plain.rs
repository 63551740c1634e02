//! Tensors in ordinary memory, for a backend that is none.

use half::f16;
use mcedge_runtime::{Buffer, Cells, CellsMut, Element};

/// A tensor in ordinary memory.
#[derive(Clone, Debug, PartialEq)]
pub enum Plain {
    F32(Vec<f32>),
    F16(Vec<f16>),
    I8(Vec<i8>),
    I64(Vec<i64>),
}

impl Plain {
    pub fn zeros(element: Element, shape: &[usize]) -> Self {
        let elements = shape.iter().product();
        match element {
            Element::F32 => Plain::F32(vec![0.0; elements]),
            Element::F16 => Plain::F16(vec![f16::ZERO; elements]),
            Element::I8 => Plain::I8(vec![0; elements]),
            Element::I64 => Plain::I64(vec![0; elements]),
        }
    }
}

impl Buffer for Plain {
    fn cells(&self) -> Cells<'_> {
        match self {
            Plain::F32(cells) => Cells::F32(cells),
            Plain::F16(cells) => Cells::F16(cells),
            Plain::I8(cells) => Cells::I8(cells),
            Plain::I64(cells) => Cells::I64(cells),
        }
    }

    fn cells_mut(&mut self) -> CellsMut<'_> {
        match self {
            Plain::F32(cells) => CellsMut::F32(cells),
            Plain::F16(cells) => CellsMut::F16(cells),
            Plain::I8(cells) => CellsMut::I8(cells),
            Plain::I64(cells) => CellsMut::I64(cells),
        }
    }
}
