//! The standard operations (opset 17) that lowerings use, one method each, with their shapes.

use std::ops::Range;

use super::{Attribute, Data, Element, Graph, Type, Value, is_dynamic};

impl Graph {
    /// a + b, broadcast.
    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Add", a, b)
    }

    /// a − b, broadcast.
    pub fn sub(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Sub", a, b)
    }

    /// a · b element by element, broadcast.
    pub fn mul(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Mul", a, b)
    }

    /// a / b, broadcast.
    pub fn div(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Div", a, b)
    }

    /// max(a, b), broadcast.
    pub fn max(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Max", a, b)
    }

    /// min(a, b), broadcast.
    pub fn min(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("Min", a, b)
    }

    /// factor · a; `a` itself when the factor is 1.
    pub fn scale(&mut self, a: &Value, factor: f32) -> Value {
        if factor == 1.0 {
            return a.clone();
        }
        let factor = self.scalar(factor);
        self.mul(a, &factor)
    }

    /// a < b, broadcast.
    pub fn less(&mut self, a: &Value, b: &Value) -> Value {
        let shape = broadcast(a.shape(), b.shape());
        self.push("Less", &[a, b], vec![], Type { element: Element::Bool, shape })
    }

    /// a = b, broadcast.
    pub fn equal(&mut self, a: &Value, b: &Value) -> Value {
        let shape = broadcast(a.shape(), b.shape());
        self.push("Equal", &[a, b], vec![], Type { element: Element::Bool, shape })
    }

    /// Whether a and b, positions, are in the same block of `size`; broadcast.
    pub fn same_block(&mut self, a: &Value, b: &Value, size: usize) -> Value {
        let size = self.ints(&[size as i64]);
        let (a, b) = (self.div(a, &size), self.div(b, &size));
        self.equal(&a, &b)
    }

    /// Where `a` does not hold.
    pub fn not(&mut self, a: &Value) -> Value {
        self.push("Not", &[a], vec![], a.ty.clone())
    }

    /// Where both hold, broadcast.
    pub fn and(&mut self, a: &Value, b: &Value) -> Value {
        self.binary("And", a, b)
    }

    /// `yes` where `condition` holds, the scalar `no` elsewhere: whatever `yes` holds there, NaN too, is dropped.
    pub fn select(&mut self, condition: &Value, yes: &Value, no: f32) -> Value {
        assert_eq!(condition.ty.element, Element::Bool, "%{}", condition.name);
        let no = self.scalar(no);
        let ty = Type::f32(&broadcast(condition.shape(), yes.shape()));
        self.push("Where", &[condition, yes, &no], vec![], ty)
    }

    /// a, under a name of its own.
    pub fn identity(&mut self, a: &Value) -> Value {
        self.push("Identity", &[a], vec![], a.ty.clone())
    }

    /// exp(a).
    pub fn exp(&mut self, a: &Value) -> Value {
        self.push("Exp", &[a], vec![], a.ty.clone())
    }

    /// ln(a).
    pub fn log(&mut self, a: &Value) -> Value {
        self.push("Log", &[a], vec![], a.ty.clone())
    }

    /// erf(a).
    pub fn erf(&mut self, a: &Value) -> Value {
        self.push("Erf", &[a], vec![], a.ty.clone())
    }

    /// 1 / (1 + exp(−a)).
    pub fn sigmoid(&mut self, a: &Value) -> Value {
        self.push("Sigmoid", &[a], vec![], a.ty.clone())
    }

    /// tanh(a).
    pub fn tanh(&mut self, a: &Value) -> Value {
        self.push("Tanh", &[a], vec![], a.ty.clone())
    }

    /// max(a, 0).
    pub fn relu(&mut self, a: &Value) -> Value {
        self.push("Relu", &[a], vec![], a.ty.clone())
    }

    /// √a.
    pub fn sqrt(&mut self, a: &Value) -> Value {
        self.push("Sqrt", &[a], vec![], a.ty.clone())
    }

    /// The same numbers as f32; `a` itself when it is f32.
    pub fn f32_of(&mut self, a: &Value) -> Value {
        const FLOAT: i64 = 1;
        if a.ty.element == Element::F32 {
            return a.clone();
        }
        self.push("Cast", &[a], vec![("to", Attribute::Int(FLOAT))], Type::f32(a.shape()))
    }

    /// The matrix product over the last two axes, the others broadcast.
    pub fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        let ([lead_a @ .., m, inner_a], [lead_b @ .., inner_b, n]) = (a.shape(), b.shape()) else {
            panic!("MatMul of {a} and {b}")
        };
        assert_eq!(inner_a, inner_b, "MatMul of {a} and {b}");
        let mut shape = broadcast(lead_a, lead_b);
        shape.extend([*m, *n]);
        self.push("MatMul", &[a, b], vec![], Type::f32(&shape))
    }

    /// `a` `[B, …]` as `[B, tail…]`; `a` itself when it is so already. The batch stays open in the operation.
    pub fn reshape(&mut self, a: &Value, tail: &[usize]) -> Value {
        if a.shape()[1..] == *tail {
            return a.clone();
        }
        let product = |sizes: &[usize]| sizes.iter().filter(|&&size| !is_dynamic(size)).product::<usize>();
        assert_eq!(product(&a.shape()[1..]), product(tail), "Reshape of {a} to [B, {tail:?}]");
        let shape = [&a.shape()[..1], tail].concat();
        // A 0 copies the size of the same axis.
        let copied = |axis: usize| axis == 0 || is_dynamic(shape[axis]);
        let dims: Vec<i64> =
            (0..shape.len()).map(|axis| if copied(axis) { 0 } else { shape[axis] as i64 }).collect();
        let moved = (0..shape.len()).find(|&axis| copied(axis) && a.shape().get(axis) != Some(&shape[axis]));
        assert_eq!(moved, None, "Reshape of {a} to {shape:?}: an open size stays where it is");
        let dims = self.ints(&dims);
        self.push("Reshape", &[a, &dims], vec![], Type { element: a.ty.element, shape })
    }

    /// a and b behind each other along `axis`.
    pub fn concat(&mut self, a: &Value, b: &Value, axis: usize) -> Value {
        let mut ty = a.ty.clone();
        ty.shape[axis] += b.shape()[axis];
        self.push("Concat", &[a, b], vec![("axis", Attribute::Int(axis as i64))], ty)
    }

    /// The axes in another order.
    pub fn transpose(&mut self, a: &Value, order: &[usize]) -> Value {
        let shape = order.iter().map(|&axis| a.shape()[axis]).collect();
        let order = order.iter().map(|&axis| axis as i64).collect();
        let attributes = vec![("perm", Attribute::Ints(order))];
        self.push("Transpose", &[a], attributes, Type { element: a.ty.element, shape })
    }

    /// `a` with an axis of 1 before its axis `axis`. A [`Graph::reshape`] cannot move an open size.
    pub fn unsqueeze(&mut self, a: &Value, axis: usize) -> Value {
        let mut ty = a.ty.clone();
        ty.shape.insert(axis, 1);
        let axis = self.ints(&[axis as i64]);
        self.push("Unsqueeze", &[a, &axis], vec![], ty)
    }

    /// Sizes of `a`, an int64 vector.
    pub fn shape_of(&mut self, a: &Value, axes: Range<usize>) -> Value {
        let bounds = [("start", axes.start), ("end", axes.end)];
        let attributes = bounds.map(|(name, axis)| (name, Attribute::Int(axis as i64))).to_vec();
        self.push("Shape", &[a], attributes, Type::i64(&[axes.len()]))
    }

    /// The first entries of a vector, as many as `end` `[1]` says: `size`.
    pub fn prefix(&mut self, a: &Value, end: &Value, size: usize) -> Value {
        let zero = self.ints(&[0]);
        let ty = Type { element: a.ty.element, shape: vec![size] };
        self.push("Slice", &[a, &zero, end, &zero], vec![], ty)
    }

    /// All entries of `axis` but the last.
    pub fn all_but_last(&mut self, a: &Value, axis: usize) -> Value {
        let mut ty = a.ty.clone();
        ty.shape[axis] -= 1;
        let bounds = [0, -1, axis as i64].map(|bound| self.ints(&[bound]));
        let [start, end, axes] = &bounds;
        self.push("Slice", &[a, start, end, axes], vec![], ty)
    }

    /// The sum over `axis` up to each entry; with `before`, without it.
    pub fn cumulative(&mut self, a: &Value, axis: usize, before: bool) -> Value {
        let axis = self.shared("axis", &[], Data::I64(vec![axis as i64]));
        let attributes = vec![("exclusive", Attribute::Int(i64::from(before)))];
        self.push("CumSum", &[a, &axis], attributes, a.ty.clone())
    }

    /// The last `size` entries of `axis`.
    pub fn last(&mut self, a: &Value, axis: usize, size: usize) -> Value {
        let mut ty = a.ty.clone();
        ty.shape[axis] = size;
        let bounds = [-(size as i64), i64::MAX, axis as i64].map(|bound| self.ints(&[bound]));
        let [start, end, axes] = &bounds;
        self.push("Slice", &[a, start, end, axes], vec![], ty)
    }

    /// `a` broadcast to `shape`.
    pub fn expand(&mut self, a: &Value, shape: &[usize]) -> Value {
        let sizes: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        let sizes = self.ints(&sizes);
        self.push("Expand", &[a, &sizes], vec![], Type { element: a.ty.element, shape: shape.to_vec() })
    }

    /// The scalar `a` in the shape of the first axes of `like`.
    pub fn expand_like(&mut self, a: &Value, like: &Value, axes: usize) -> Value {
        let sizes = self.shape_of(like, 0..axes);
        let ty = Type { element: a.ty.element, shape: like.shape()[..axes].to_vec() };
        self.push("Expand", &[a, &sizes], vec![], ty)
    }

    /// The first `head` entries of the last axis, and the rest.
    pub fn split_last(&mut self, a: &Value, head: usize) -> (Value, Value) {
        let last = a.shape().len() - 1;
        let rest = a.shape()[last] - head;
        let [first, second] = [head, rest].map(|size| {
            let mut ty = a.ty.clone();
            ty.shape[last] = size;
            ty
        });
        let sizes = self.ints(&[head as i64, rest as i64]);
        let attributes = vec![("axis", Attribute::Int(-1))];
        let mut parts = self.push_all("Split", &[a, &sizes], attributes, vec![first, second]);
        let second = parts.swap_remove(1);
        (parts.swap_remove(0), second)
    }

    /// The last axis in parts of these names and sizes, whose names must be new.
    pub fn split_each(&mut self, a: &Value, parts: &[(String, usize)]) -> Vec<Value> {
        let last = a.shape().len() - 1;
        let ty = |size: usize| {
            let mut ty = a.ty.clone();
            ty.shape[last] = size;
            ty
        };
        let sizes: Vec<i64> = parts.iter().map(|&(_, size)| size as i64).collect();
        let sizes = self.ints(&sizes);
        let types = parts.iter().map(|&(_, size)| ty(size)).collect();
        let parts = parts.iter().map(|(name, _)| name.clone()).collect();
        self.push_named("Split", &[a, &sizes], vec![("axis", Attribute::Int(-1))], types, parts)
    }

    /// Softmax over the last axis.
    pub fn softmax(&mut self, a: &Value) -> Value {
        self.push("Softmax", &[a], vec![("axis", Attribute::Int(-1))], a.ty.clone())
    }

    /// The `k` largest of the last axis, in no particular order, and where they were.
    pub fn top_k(&mut self, a: &Value, k: usize) -> (Value, Value) {
        let mut shape = a.shape().to_vec();
        *shape.last_mut().expect("TopK of a scalar") = k;
        let k = self.ints(&[k as i64]);
        let attributes = vec![("axis", Attribute::Int(-1)), ("sorted", Attribute::Int(0))];
        let mut outputs =
            self.push_all("TopK", &[a, &k], attributes, vec![Type::f32(&shape), Type::i64(&shape)]);
        let indices = outputs.swap_remove(1);
        (outputs.swap_remove(0), indices)
    }

    /// `a` `[B, H, N, …]` at `indices` `[B, H, K, 1]` along N, each batch and head its own: `[B, H, K, …]`.
    pub fn gather_slots(&mut self, a: &Value, indices: &Value) -> Value {
        let mut ty = a.ty.clone();
        ty.shape[2] = indices.shape()[2];
        self.push("GatherND", &[a, indices], vec![("batch_dims", Attribute::Int(2))], ty)
    }

    /// Entries of the vector `table` at `indices` `[…]`.
    pub fn gather(&mut self, table: &Value, indices: &Value) -> Value {
        let ty = Type { element: table.ty.element, shape: indices.shape().to_vec() };
        self.push("Gather", &[table, indices], vec![("axis", Attribute::Int(0))], ty)
    }

    /// Rows of `table` `[V, D]` at `indices` `[…]`: `[…, D]`.
    pub fn gather_rows(&mut self, table: &Value, indices: &Value) -> Value {
        let mut shape = indices.shape().to_vec();
        shape.push(table.shape()[1]);
        self.push("Gather", &[table, indices], vec![("axis", Attribute::Int(0))], Type::f32(&shape))
    }

    /// The sum over `axis`, which goes.
    pub fn reduce_sum(&mut self, a: &Value, axis: usize) -> Value {
        let axes = self.ints(&[axis as i64]);
        let mut ty = a.ty.clone();
        ty.shape.remove(axis);
        self.push("ReduceSum", &[a, &axes], vec![("keepdims", Attribute::Int(0))], ty)
    }

    /// The sum over the last axis, which stays with size 1.
    pub fn sum_last(&mut self, a: &Value) -> Value {
        let axes = self.ints(&[-1]);
        let mut ty = a.ty.clone();
        *ty.shape.last_mut().expect("a reduction of a scalar") = 1;
        self.push("ReduceSum", &[a, &axes], vec![("keepdims", Attribute::Int(1))], ty)
    }

    /// The mean over the last axis, which goes.
    pub fn mean_of_last(&mut self, a: &Value) -> Value {
        let mut ty = a.ty.clone();
        ty.shape.pop();
        let attributes = vec![("axes", Attribute::Ints(vec![-1])), ("keepdims", Attribute::Int(0))];
        self.push("ReduceMean", &[a], attributes, ty)
    }

    /// The mean over the last axis, which stays with size 1.
    pub fn mean_last(&mut self, a: &Value) -> Value {
        self.reduce_last("ReduceMean", a)
    }

    /// The Euclidean norm over the last axis, which stays with size 1.
    pub fn norm_last(&mut self, a: &Value) -> Value {
        self.reduce_last("ReduceL2", a)
    }

    /// Layer norm over the last axis.
    pub fn layer_norm(&mut self, a: &Value, weight: &Value, bias: &Value, epsilon: f32) -> Value {
        let attributes = vec![("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(epsilon))];
        self.push("LayerNormalization", &[a, weight, bias], attributes, a.ty.clone())
    }

    /// The int64 constant 0, 1, …, `size` − 1 of this shape.
    pub fn range(&mut self, name: &str, shape: &[usize]) -> Value {
        let size = shape.iter().product::<usize>() as i64;
        self.constant(name, shape, Data::I64((0..size).collect()))
    }

    /// As [`Graph::range`], but equal ones are one constant.
    pub fn shared_range(&mut self, shape: &[usize]) -> Value {
        let size = shape.iter().product::<usize>() as i64;
        self.shared("slots", shape, Data::I64((0..size).collect()))
    }

    fn reduce_last(&mut self, op: &str, a: &Value) -> Value {
        let mut ty = a.ty.clone();
        *ty.shape.last_mut().expect("a reduction of a scalar") = 1;
        let attributes = vec![("axes", Attribute::Ints(vec![-1])), ("keepdims", Attribute::Int(1))];
        self.push(op, &[a], attributes, ty)
    }

    fn binary(&mut self, op: &str, a: &Value, b: &Value) -> Value {
        assert_eq!(a.ty.element, b.ty.element, "{op} of {a} and {b}");
        let ty = Type { element: a.ty.element, shape: broadcast(a.shape(), b.shape()) };
        self.push(op, &[a, b], vec![], ty)
    }
}

/// The shape that two shapes broadcast to.
fn broadcast(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let size =
        |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |own| shape[own]);
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (x, y) if x == y => x,
            (1, y) => y,
            (x, 1) => x,
            _ => panic!("{a:?} and {b:?} do not broadcast"),
        })
        .collect()
}
