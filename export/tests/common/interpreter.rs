//! Runs an ONNX graph with its local functions, operation by operation as the ONNX standard words them.

use std::collections::HashMap;

use ndarray::{ArrayD, Axis, Dimension, IxDyn, Slice, Zip, concatenate};

use super::proto::{self, Model, Node};

/// A tensor. f16 is held as the f32 numbers that it can be, i8 as int64.
#[derive(Clone, Debug)]
pub enum Value {
    F(ArrayD<f32>),
    I(ArrayD<i64>),
    B(ArrayD<bool>),
}

/// The same operation on whatever elements.
macro_rules! each {
    ($value:expr, $x:ident => $made:expr) => {
        match $value {
            Value::F($x) => Value::F($made),
            Value::I($x) => Value::I($made),
            Value::B($x) => Value::B($made),
        }
    };
}

type Scope = HashMap<String, Value>;

impl Value {
    pub fn f(&self) -> &ArrayD<f32> {
        let Value::F(array) = self else { panic!("expected f32, found {self:?}") };
        array
    }

    pub fn shape(&self) -> &[usize] {
        match self {
            Value::F(x) => x.shape(),
            Value::I(x) => x.shape(),
            Value::B(x) => x.shape(),
        }
    }

    fn i(&self) -> &ArrayD<i64> {
        let Value::I(array) = self else { panic!("expected int64, found {self:?}") };
        array
    }

    fn b(&self) -> &ArrayD<bool> {
        let Value::B(array) = self else { panic!("expected bool, found {self:?}") };
        array
    }
}

/// Runs `model` once; `scope` holds its inputs, the result everything it made.
pub fn run(model: &Model, mut scope: Scope) -> Scope {
    let graph = model.graph.as_ref().unwrap();
    for tensor in &graph.initializers {
        scope.insert(tensor.name.clone(), constant(tensor));
    }
    run_nodes(model, &graph.nodes, &mut scope);
    scope
}

fn run_nodes(model: &Model, nodes: &[Node], scope: &mut Scope) {
    for node in nodes {
        let inputs: Vec<Value> = node.inputs.iter().map(|name| scope[name].clone()).collect();
        let outputs = match node.domain.as_str() {
            "" if node.op == "Scan" => scan(model, node, inputs, scope),
            "" => evaluate(node, &inputs),
            domain => call(model, domain, &node.op, inputs),
        };
        assert_eq!(outputs.len(), node.outputs.len(), "{}", node.op);
        for (name, value) in node.outputs.iter().zip(outputs) {
            assert!(scope.insert(name.clone(), value).is_none(), "{name} is given twice");
        }
    }
}

/// `Scan` along axis 1 of inputs and outputs, its states first in both.
fn scan(model: &Model, node: &Node, inputs: Vec<Value>, scope: &Scope) -> Vec<Value> {
    let attribute = |name: &str| node.attributes.iter().find(|attribute| attribute.name == name).unwrap();
    let body = attribute("body").graph.as_ref().unwrap();
    let scanned = attribute("num_scan_inputs").int as usize;
    let mut states = inputs;
    let rows = states.split_off(states.len() - scanned);
    let given = body.outputs.len() - states.len();
    assert_eq!(attribute("scan_input_axes").ints, vec![1; scanned]);
    assert_eq!(attribute("scan_output_axes").ints, vec![1; given]);
    let mut stacks: Vec<Vec<ArrayD<f32>>> = vec![Vec::new(); given];
    for t in 0..rows[0].shape()[1] {
        let mut inner = scope.clone();
        let token = rows.iter().map(|row| each!(row, x => x.index_axis(Axis(1), t).to_owned()));
        for (formal, value) in body.inputs.iter().zip(states.iter().cloned().chain(token)) {
            assert!(inner.insert(formal.name.clone(), value).is_none(), "{} is given twice", formal.name);
        }
        run_nodes(model, &body.nodes, &mut inner);
        let made: Vec<Value> = body.outputs.iter().map(|output| inner[&output.name].clone()).collect();
        for (stack, value) in stacks.iter_mut().zip(&made[states.len()..]) {
            stack.push(value.f().clone());
        }
        states = made[..states.len()].to_vec();
    }
    let stacked = |stack: &Vec<ArrayD<f32>>| {
        let views: Vec<_> = stack.iter().map(|row| row.view()).collect();
        Value::F(ndarray::stack(Axis(1), &views).unwrap())
    };
    states.extend(stacks.iter().map(stacked));
    states
}

fn call(model: &Model, domain: &str, name: &str, inputs: Vec<Value>) -> Vec<Value> {
    let function = model.functions.iter().find(|f| f.domain == domain && f.name == name).unwrap();
    assert_eq!(function.inputs.len(), inputs.len(), "{name}");
    let mut scope: Scope = function.inputs.iter().cloned().zip(inputs).collect();
    run_nodes(model, &function.nodes, &mut scope);
    function.outputs.iter().map(|name| scope[name].clone()).collect()
}

fn constant(tensor: &proto::Tensor) -> Value {
    let shape: Vec<usize> = tensor.dims.iter().map(|&dim| dim as usize).collect();
    match tensor.data_type {
        proto::F32 => {
            let data = tensor.raw.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            Value::F(ArrayD::from_shape_vec(shape, data).unwrap())
        }
        proto::I64 => {
            let data = tensor.raw.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
            Value::I(ArrayD::from_shape_vec(shape, data).unwrap())
        }
        other => panic!("a constant of type {other}"),
    }
}

fn evaluate(node: &Node, x: &[Value]) -> Vec<Value> {
    let attribute = |name: &str| node.attributes.iter().find(|attribute| attribute.name == name);
    let int = |name: &str, absent| attribute(name).map_or(absent, |attribute| attribute.int);
    let last = |value: &Value| Axis(value.f().ndim() - 1);
    vec![match node.op.as_str() {
        "Constant" => constant(attribute("value").unwrap().tensor.as_ref().unwrap()),
        "Add" => match &x[0] {
            Value::I(a) => Value::I(broadcast(a, x[1].i(), |a, b| a + b)),
            _ => binary(&x[0], &x[1], |a, b| a + b),
        },
        "Sub" => match &x[0] {
            Value::I(a) => Value::I(broadcast(a, x[1].i(), |a, b| a - b)),
            _ => binary(&x[0], &x[1], |a, b| a - b),
        },
        "Mul" => binary(&x[0], &x[1], |a, b| a * b),
        "Div" => match &x[0] {
            Value::I(a) => Value::I(broadcast(a, x[1].i(), |a, b| a / b)),
            _ => binary(&x[0], &x[1], |a, b| a / b),
        },
        "Max" => match &x[0] {
            Value::I(a) => Value::I(broadcast(a, x[1].i(), |&a, &b| a.max(b))),
            _ => binary(&x[0], &x[1], f32::max),
        },
        "Min" => binary(&x[0], &x[1], f32::min),
        "Identity" => x[0].clone(),
        "Relu" => Value::F(x[0].f().mapv(|x| x.max(0.0))),
        "Log" => Value::F(x[0].f().mapv(f32::ln)),
        "Exp" => Value::F(x[0].f().mapv(f32::exp)),
        "Sigmoid" => Value::F(x[0].f().mapv(|x| 1.0 / (1.0 + (-x).exp()))),
        "Tanh" => Value::F(x[0].f().mapv(f32::tanh)),
        "Sqrt" => Value::F(x[0].f().mapv(f32::sqrt)),
        "Erf" => Value::F(x[0].f().mapv(erf)),
        "Cast" => Value::F(match &x[0] {
            Value::F(x) => x.clone(),
            Value::I(x) => x.mapv(|i| i as f32),
            Value::B(x) => x.mapv(|b| f32::from(u8::from(b))),
        }),
        "Less" => Value::B(match &x[0] {
            Value::I(a) => broadcast(a, x[1].i(), |a, b| a < b),
            _ => broadcast(x[0].f(), x[1].f(), |a, b| a < b),
        }),
        "Unsqueeze" => each!(&x[0], values => values.clone().insert_axis(Axis(x[1].i()[0] as usize))),
        "Equal" => Value::B(broadcast(x[0].i(), x[1].i(), |a, b| a == b)),
        "Not" => Value::B(x[0].b().mapv(|b| !b)),
        "And" => Value::B(broadcast(x[0].b(), x[1].b(), |a, b| a & b)),
        "Shape" => {
            let (start, end) = (int("start", 0) as usize, int("end", x[0].shape().len() as i64) as usize);
            let sizes = x[0].shape()[start..end].iter().map(|&size| size as i64).collect();
            Value::I(ArrayD::from_shape_vec(IxDyn(&[end - start]), sizes).unwrap())
        }
        "Slice" => slice(&x[0], x[1].i()[0], x[2].i()[0], x[3].i()[0]),
        "Expand" => {
            let shape: Vec<usize> = x[1].i().iter().map(|&size| size as usize).collect();
            each!(&x[0], x => x.broadcast(&shape[..]).unwrap().to_owned())
        }
        "Transpose" => {
            let axes: Vec<usize> =
                attribute("perm").unwrap().ints.iter().map(|&axis| axis as usize).collect();
            let standard = |x: ArrayD<f32>| x.as_standard_layout().to_owned();
            Value::F(standard(x[0].f().clone().permuted_axes(&axes[..])))
        }
        "CumSum" => cumulative(x[0].f(), x[1].i().iter().next().copied().unwrap(), int("exclusive", 0) == 1),
        "Where" => {
            let yes = broadcast(x[0].b(), x[1].f(), |&c, &y| c.then_some(y));
            Value::F(broadcast(&yes, x[2].f(), |yes, &no| yes.unwrap_or(no)))
        }
        "MatMul" => Value::F(matmul(x[0].f(), x[1].f())),
        "Reshape" => reshape(&x[0], x[1].i()),
        "Concat" => {
            let axis = Axis(int("axis", 0) as usize);
            Value::F(concatenate(axis, &[x[0].f().view(), x[1].f().view()]).unwrap())
        }
        "Split" => {
            let mut start = 0;
            let part = |&size: &i64| {
                let slice = Slice::from(start..start + size as isize);
                start += size as isize;
                Value::F(x[0].f().slice_axis(last(&x[0]), slice).to_owned())
            };
            return x[1].i().iter().map(part).collect();
        }
        "Softmax" => {
            let mut y = x[0].f().clone();
            for mut row in y.lanes_mut(last(&x[0])) {
                let largest = row.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                row.mapv_inplace(|s| (s - largest).exp());
                let sum = row.sum();
                row.mapv_inplace(|e| e / sum);
            }
            Value::F(y)
        }
        "TopK" => return top_k(x[0].f(), x[1].i()[0] as usize),
        "Gather" => {
            let rows: Vec<usize> = x[1].i().iter().map(|&i| i as usize).collect();
            let shape = [x[1].i().shape(), &x[0].f().shape()[1..]].concat();
            Value::F(x[0].f().select(Axis(0), &rows).into_shape_with_order(shape).unwrap())
        }
        "GatherND" => each!(&x[0], values => gather_slots(values, x[1].i())),
        "ReduceSum" => {
            let axis = Axis(x[1].i()[0].rem_euclid(x[0].f().ndim() as i64) as usize);
            let sum = x[0].f().sum_axis(axis);
            Value::F(if int("keepdims", 1) == 1 { sum.insert_axis(axis) } else { sum })
        }
        "ReduceMean" if int("keepdims", 1) == 0 => Value::F(x[0].f().mean_axis(last(&x[0])).unwrap()),
        "ReduceMean" => reduce(&x[0], |row| row.iter().sum::<f32>() / row.len() as f32),
        "ReduceL2" => reduce(&x[0], |row| row.iter().map(|y| y * y).sum::<f32>().sqrt()),
        "LayerNormalization" => {
            let mean = reduce(&x[0], |row| row.iter().sum::<f32>() / row.len() as f32);
            let centred = binary(&x[0], &mean, |a, b| a - b);
            let epsilon = attribute("epsilon").unwrap().float;
            let deviation = reduce(&centred, |row| {
                (row.iter().map(|y| y * y).sum::<f32>() / row.len() as f32 + epsilon).sqrt()
            });
            let unit = binary(&centred, &deviation, |a, b| a / b);
            binary(&binary(&unit, &x[1], |a, b| a * b), &x[2], |a, b| a + b)
        }
        other => panic!("{other} is no operation that a step graph should need"),
    }]
}

fn binary(a: &Value, b: &Value, op: impl Fn(f32, f32) -> f32) -> Value {
    Value::F(broadcast(a.f(), b.f(), |&a, &b| op(a, b)))
}

fn common_shape(a: &[usize], b: &[usize]) -> Vec<usize> {
    let rank = a.len().max(b.len());
    let padded = |shape: &[usize]| [&vec![1; rank - shape.len()], shape].concat();
    padded(a).into_iter().zip(padded(b)).map(|(a, b)| a.max(b)).collect()
}

fn broadcast<A, B, C>(a: &ArrayD<A>, b: &ArrayD<B>, op: impl Fn(&A, &B) -> C) -> ArrayD<C> {
    let shape = IxDyn(&common_shape(a.shape(), b.shape()));
    let (a, b) = (a.broadcast(shape.clone()).unwrap(), b.broadcast(shape).unwrap());
    Zip::from(a).and(b).map_collect(op)
}

fn matmul(a: &ArrayD<f32>, b: &ArrayD<f32>) -> ArrayD<f32> {
    let (lead_a, [m, inner]) = a.shape().split_at(a.ndim() - 2) else { panic!("a matrix") };
    let (lead_b, [inner_b, n]) = b.shape().split_at(b.ndim() - 2) else { panic!("a matrix") };
    assert_eq!(inner, inner_b);
    let lead = common_shape(lead_a, lead_b);
    let whole = |x: &ArrayD<f32>, tail: [usize; 2]| {
        let shape = [&lead[..], &tail].concat();
        x.broadcast(shape).unwrap().as_standard_layout().into_owned().into_raw_vec_and_offset().0
    };
    let (a, b) = (whole(a, [*m, *inner]), whole(b, [*inner, *n]));
    let mut y = vec![0.0; lead.iter().product::<usize>() * m * n];
    for (row, y) in y.chunks_mut(*n).enumerate() {
        let b = &b[row / m * inner * n..];
        for (j, a) in a[row * inner..(row + 1) * inner].iter().enumerate() {
            y.iter_mut().zip(&b[j * n..]).for_each(|(y, b)| *y += a * b);
        }
    }
    ArrayD::from_shape_vec([&lead[..], &[*m, *n]].concat(), y).unwrap()
}

fn reshape(x: &Value, dims: &ArrayD<i64>) -> Value {
    let size = |(axis, &dim): (usize, &i64)| if dim == 0 { x.shape()[axis] } else { dim as usize };
    let shape: Vec<usize> = dims.iter().enumerate().map(size).collect();
    each!(x, x => x.as_standard_layout().into_owned().into_shape_with_order(shape).unwrap())
}

/// One axis, whose bounds may count from its end or lie behind it.
fn slice(x: &Value, start: i64, end: i64, axis: i64) -> Value {
    let axis = if axis < 0 { x.shape().len() as i64 + axis } else { axis } as usize;
    let size = x.shape()[axis] as i64;
    let bound = |at: i64| (if at < 0 { (size + at).max(0) } else { at.min(size) }) as isize;
    let slice = Slice::from(bound(start)..bound(end));
    each!(x, x => x.slice_axis(Axis(axis), slice).to_owned())
}

fn cumulative(x: &ArrayD<f32>, axis: i64, exclusive: bool) -> Value {
    let axis = if axis < 0 { x.ndim() as i64 + axis } else { axis } as usize;
    let mut y = x.clone();
    for mut lane in y.lanes_mut(Axis(axis)) {
        let mut sum = 0.0;
        for x in &mut lane {
            let before = sum;
            sum += *x;
            *x = if exclusive { before } else { sum };
        }
    }
    Value::F(y)
}

fn top_k(x: &ArrayD<f32>, k: usize) -> Vec<Value> {
    let axis = Axis(x.ndim() - 1);
    let mut shape = x.shape().to_vec();
    shape[axis.0] = k;
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for row in x.lanes(axis) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        values.extend(order[..k].iter().map(|&i| row[i]));
        indices.extend(order[..k].iter().map(|&i| i as i64));
    }
    let values = ArrayD::from_shape_vec(shape.clone(), values).unwrap();
    vec![Value::F(values), Value::I(ArrayD::from_shape_vec(shape, indices).unwrap())]
}

/// `GatherND` with two batch axes and indices of one number.
fn gather_slots<T: Clone>(x: &ArrayD<T>, indices: &ArrayD<i64>) -> ArrayD<T> {
    let shape = [indices.shape().split_last().unwrap().1, &x.shape()[3..]].concat();
    ArrayD::from_shape_fn(shape, |at| {
        let mut source = at.slice().to_vec();
        source[2] = indices[[at[0], at[1], at[2], 0].as_slice()] as usize;
        x[&source[..]].clone()
    })
}

/// Each row of the last axis to one number, the axis kept.
fn reduce(x: &Value, op: impl Fn(&[f32]) -> f32) -> Value {
    let x = x.f();
    let axis = Axis(x.ndim() - 1);
    Value::F(x.map_axis(axis, |row| op(&row.to_vec())).insert_axis(axis))
}

/// 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (1 · 3 · … · (2n+1)), whose terms all have one sign.
fn erf(x: f32) -> f32 {
    let x = f64::from(x).clamp(-6.0, 6.0);
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
        if term.abs() < 1e-12 * sum.abs() {
            break;
        }
    }
    (std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum) as f32
}
