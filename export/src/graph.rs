//! A small typed graph: what is lowered to, what is printed and what is encoded as ONNX.
//!
//! A [`Graph`] is the main graph, a local function or the body of a `Scan`, in static single assignment. Shapes are
//! static but for [`TOKENS`], and the builder's methods ([`ops`]) compute them, so a mistake in a lowering is a panic
//! at the line that made it.

mod ops;
mod text;

use std::collections::HashSet;

use mcedge_models::contract::{DOMAIN, Dtype};

/// T where the graph says it only when it runs: the tokens of a chunk. `TOKENS + n` is T + n, and no size that a
/// contract allows comes near it.
pub const TOKENS: usize = 1 << 30;

/// Whether a size is known only when the graph runs: T, T + n or T − n.
pub fn is_dynamic(size: usize) -> bool {
    size > TOKENS / 2
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// Signed 8-bit integer.
    I8,
    /// Signed 64-bit integer.
    I64,
    /// Truth value.
    Bool,
}

impl From<Dtype> for Element {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::I8 => Element::I8,
        }
    }
}

/// What a value is: its element type and its shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// The element type.
    pub element: Element,
    /// The shape, [`TOKENS`] among the sizes of a chunk; a scalar's is empty.
    pub shape: Vec<usize>,
}

impl Type {
    /// f32 of this shape.
    pub fn f32(shape: &[usize]) -> Self {
        Type { element: Element::F32, shape: shape.to_vec() }
    }

    /// int64 of this shape.
    pub fn i64(shape: &[usize]) -> Self {
        Type { element: Element::I64, shape: shape.to_vec() }
    }
}

/// A named value of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Unique in its graph.
    pub name: String,
    /// Its type.
    pub ty: Type,
}

impl Value {
    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.ty.shape
    }
}

/// The elements of a constant, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// f32.
    F32(Vec<f32>),
    /// int64.
    I64(Vec<i64>),
}

impl Data {
    fn element(&self) -> Element {
        match self {
            Data::F32(_) => Element::F32,
            Data::I64(_) => Element::I64,
        }
    }

    fn len(&self) -> usize {
        match self {
            Data::F32(data) => data.len(),
            Data::I64(data) => data.len(),
        }
    }
}

/// A value known at export: an initializer of the main graph, a `Constant` node of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Its name and type.
    pub value: Value,
    /// Its elements.
    pub data: Data,
}

/// An attribute of a node.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A number.
    Float(f32),
    /// The body of a `Scan`.
    Graph(Box<Graph>),
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Node {
    /// The operator set: empty for ONNX's own.
    pub domain: &'static str,
    /// The operator or function.
    pub op: String,
    /// Names of its inputs.
    pub inputs: Vec<String>,
    /// What it makes.
    pub outputs: Vec<Value>,
    /// Its attributes.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// A graph, or the body of a function: `Display` is its text form.
///
/// # Invariants
///
/// Every name is given once; a node's inputs are inputs, constants or outputs of nodes before it, or, in the body of a
/// `Scan`, values of the graph around it.
#[derive(Clone, Debug)]
pub struct Graph {
    name: String,
    /// What every name begins with: nothing, but in the body of a `Scan`, whose names are none of the graph's around it.
    prefix: String,
    inputs: Vec<Value>,
    constants: Vec<Constant>,
    nodes: Vec<Node>,
    outputs: Vec<Value>,
    /// All names given.
    names: HashSet<String>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph {
            name: name.into(),
            prefix: String::new(),
            inputs: Vec::new(),
            constants: Vec::new(),
            nodes: Vec::new(),
            outputs: Vec::new(),
            names: HashSet::new(),
        }
    }

    /// An empty body of a `Scan` in this graph, whose values it may use.
    pub fn body(&self, name: &str) -> Self {
        let prefix = format!("{name}.");
        assert!(self.names.iter().all(|taken| !taken.starts_with(&prefix)), "names in %{prefix} are taken");
        Graph { prefix, ..Graph::new(name) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its inputs, in order.
    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    /// Its constants, in order.
    pub fn constants(&self) -> &[Constant] {
        &self.constants
    }

    /// Its nodes, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Its outputs, in order.
    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    /// Adds an input, whose name must be new.
    pub fn input(&mut self, name: impl Into<String>, ty: Type) -> Value {
        let value = Value { name: self.claim(name.into()), ty };
        self.inputs.push(value.clone());
        value
    }

    /// Makes a value an output.
    pub fn output(&mut self, value: &Value) {
        self.outputs.push(value.clone());
    }

    /// Adds a named constant, whose name must be new.
    pub fn constant(&mut self, name: impl Into<String>, shape: &[usize], data: Data) -> Value {
        let name = self.claim(name.into());
        self.add_constant(name, shape, data)
    }

    fn add_constant(&mut self, name: String, shape: &[usize], data: Data) -> Value {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "elements of %{name} of shape {shape:?}");
        let value = Value { name, ty: Type { element: data.element(), shape: shape.to_vec() } };
        self.constants.push(Constant { value: value.clone(), data });
        value
    }

    /// The f32 scalar `x`; the same number is one constant.
    pub fn scalar(&mut self, x: f32) -> Value {
        self.shared("scalar", &[], Data::F32(vec![x]))
    }

    /// The int64 vector `xs`; equal vectors are one constant.
    pub fn ints(&mut self, xs: &[i64]) -> Value {
        self.shared("ints", &[xs.len()], Data::I64(xs.to_vec()))
    }

    fn shared(&mut self, name: &str, shape: &[usize], data: Data) -> Value {
        let known = |constant: &&Constant| constant.value.shape() == shape && constant.data == data;
        if let Some(constant) = self.constants.iter().find(known) {
            return constant.value.clone();
        }
        let name = self.fresh(name);
        self.add_constant(name, shape, data)
    }

    /// Calls a function; `names` are the names of its outputs here.
    pub fn call(&mut self, function: &Graph, inputs: &[Value], names: &[String]) -> Vec<Value> {
        let types = |values: &[Value]| values.iter().map(|value| value.ty.clone()).collect::<Vec<_>>();
        assert_eq!(types(inputs), types(function.inputs()), "inputs of {}", function.name);
        assert_eq!(names.len(), function.outputs.len(), "outputs of {}", function.name);
        let outputs: Vec<Value> = names
            .iter()
            .zip(function.outputs())
            .map(|(name, formal)| Value { name: self.claim(name.clone()), ty: formal.ty.clone() })
            .collect();
        self.nodes.push(Node {
            domain: DOMAIN,
            op: function.name.clone(),
            inputs: inputs.iter().map(|value| value.name.clone()).collect(),
            outputs: outputs.clone(),
            attributes: Vec::new(),
        });
        outputs
    }

    /// Runs `body` once a token and gives its last states, then what it gives a token, stacked along axis 1; `names` are
    /// their names here. The body's inputs are the states, then one token `[B, …]` of each of `tokens` `[B, T, …]`; its
    /// outputs are the states, then what it gives.
    pub fn scan(&mut self, body: Graph, states: &[Value], tokens: &[Value], names: &[String]) -> Vec<Value> {
        assert_eq!(body.inputs.len(), states.len() + tokens.len(), "inputs of {}", body.name);
        let stacked = |(index, value): (usize, &Value)| {
            let mut ty = value.ty.clone();
            if index >= states.len() {
                ty.shape.insert(1, TOKENS);
            }
            ty
        };
        let types: Vec<Type> = body.outputs.iter().enumerate().map(stacked).collect();
        let given = body.outputs.len() - states.len();
        let attributes = vec![
            ("num_scan_inputs", Attribute::Int(tokens.len() as i64)),
            ("scan_input_axes", Attribute::Ints(vec![1; tokens.len()])),
            ("scan_output_axes", Attribute::Ints(vec![1; given])),
            ("body", Attribute::Graph(Box::new(body))),
        ];
        let named = names.iter().zip(types);
        let outputs: Vec<Value> =
            named.map(|(name, ty)| Value { name: self.claim(name.clone()), ty }).collect();
        self.nodes.push(Node {
            domain: "",
            op: "Scan".to_owned(),
            inputs: states.iter().chain(tokens).map(|value| value.name.clone()).collect(),
            outputs: outputs.clone(),
            attributes,
        });
        outputs
    }

    /// Gives the value that was made last a name of its own, which must be new.
    pub fn label(&mut self, value: Value, name: impl Into<String>) -> Value {
        let name = self.claim(name.into());
        let made = self.nodes.last_mut().and_then(|node| node.outputs.first_mut());
        let made = made.filter(|made| **made == value);
        made.unwrap_or_else(|| panic!("%{} is not the value made last", value.name)).name = name.clone();
        self.names.remove(&value.name);
        Value { name, ..value }
    }

    /// Adds a standard operation with one output.
    fn push(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: Vec<(&'static str, Attribute)>,
        ty: Type,
    ) -> Value {
        self.push_all(op, inputs, attributes, vec![ty]).swap_remove(0)
    }

    fn push_all(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: Vec<(&'static str, Attribute)>,
        types: Vec<Type>,
    ) -> Vec<Value> {
        let name = op.to_lowercase();
        let outputs: Vec<Value> = types.into_iter().map(|ty| Value { name: self.fresh(&name), ty }).collect();
        self.add_node(op, inputs, attributes, outputs)
    }

    /// Adds a standard operation whose outputs have these names, which must be new.
    fn push_named(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: Vec<(&'static str, Attribute)>,
        types: Vec<Type>,
        names: Vec<String>,
    ) -> Vec<Value> {
        let named = names.into_iter().zip(types);
        let outputs = named.map(|(name, ty)| Value { name: self.claim(name), ty }).collect();
        self.add_node(op, inputs, attributes, outputs)
    }

    fn add_node(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: Vec<(&'static str, Attribute)>,
        outputs: Vec<Value>,
    ) -> Vec<Value> {
        self.nodes.push(Node {
            domain: "",
            op: op.to_owned(),
            inputs: inputs.iter().map(|value| value.name.clone()).collect(),
            outputs: outputs.clone(),
            attributes,
        });
        outputs
    }

    /// A name not given yet: `name`, then `name_2`, `name_3`, ….
    fn fresh(&mut self, name: &str) -> String {
        let name = format!("{}{name}", self.prefix);
        let mut candidate = name.clone();
        let mut count = 1;
        while !self.names.insert(candidate.clone()) {
            count += 1;
            candidate = format!("{name}_{count}");
        }
        candidate
    }

    fn claim(&mut self, name: String) -> String {
        let name = format!("{}{name}", self.prefix);
        assert!(self.names.insert(name.clone()), "the name %{name} is taken");
        name
    }
}
