//! Calls of local functions replaced by the functions' bodies, which tract does not do by itself.

use std::collections::HashMap;
use std::iter::repeat;

use tract_onnx::pb::{AttributeProto, FunctionProto, ModelProto, NodeProto, OperatorSetIdProto};
use tract_onnx::prelude::TractResult;
use tract_onnx::tract_core::internal::{TractErrorContext as _, bail, ensure};

/// Nodes of a graph without calls: functions that call functions twice would otherwise grow it by powers of two.
const MOST_NODES: usize = 1 << 16;
/// Functions inside of each other, at most: every one takes room on the stack.
const MOST_DEPTH: usize = 16;
/// Slashes in a row in a name, at most: one more is what makes other names new.
const MOST_SLASHES: usize = 64;

/// Replaces every call of a local function in the main graph by the function's nodes.
///
/// Fails on what a body may have and no memory function has: an attribute that nobody gives, another version of the operators, or a
/// graph of its own in a node. tract's optimiser does not come back from a `Scan` with a product in its body, so that one is refused here.
pub(super) fn expand(model: &mut ModelProto) -> TractResult<()> {
    let functions = std::mem::take(&mut model.functions);
    let functions = Functions::new(&functions, &model.opset_import)?;
    let graph = model.graph.as_mut().context("the model has no graph")?;
    let values = graph.input.iter().chain(&graph.output).map(|value| &value.name);
    let constants = graph.initializer.iter().map(|constant| &constant.name);
    let made = graph.node.iter().flat_map(|node| [&node.name].into_iter().chain(&node.output));
    let names: Vec<&String> = values.chain(constants).chain(made).collect();
    let mut separator = "/".to_owned();
    while names.iter().any(|name| name.contains(&separator)) {
        separator.push('/');
        ensure!(separator.len() < MOST_SLASHES, "a name of the graph has {MOST_SLASHES} slashes in a row");
    }
    let mut expander = Expander { functions, separator, calls: 0, nodes: Vec::new() };
    for node in graph.node.drain(..) {
        expander.add(node, 0)?;
    }
    graph.node = expander.nodes;
    Ok(())
}

/// Local functions by domain and name.
struct Functions<'a>(HashMap<(&'a str, &'a str), &'a FunctionProto>);

impl<'a> Functions<'a> {
    fn new(functions: &'a [FunctionProto], opsets: &[OperatorSetIdProto]) -> TractResult<Self> {
        for function in functions {
            for own in &function.opset_import {
                let of_model = opsets.iter().find(|opset| opset.domain == own.domain);
                let version = of_model.map_or(0, |opset| opset.version);
                let (name, domain) = (function.name(), &own.domain);
                ensure!(
                    own.version == version,
                    "function {name} is for version {} of operators `{domain}`, the model for {version}",
                    own.version
                );
            }
        }
        Ok(Self(functions.iter().map(|function| ((function.domain(), function.name()), function)).collect()))
    }

    fn called_by(&self, node: &NodeProto) -> Option<&'a FunctionProto> {
        self.0.get(&(node.domain.as_str(), node.op_type.as_str())).copied()
    }
}

/// The nodes of the main graph as they become, in order.
struct Expander<'a> {
    functions: Functions<'a>,
    /// In no name of the main graph: names of bodies get the number of their call and this before them.
    separator: String,
    calls: usize,
    nodes: Vec<NodeProto>,
}

impl Expander<'_> {
    /// Adds a node, or what it calls, inside `depth` functions.
    fn add(&mut self, node: NodeProto, depth: usize) -> TractResult<()> {
        let Some(function) = self.functions.called_by(&node) else {
            ensure!(self.nodes.len() < MOST_NODES, "the graph has more than {MOST_NODES} nodes");
            self.nodes.push(node);
            return Ok(());
        };
        // In a chain of calls longer than there are functions, one calls itself.
        ensure!(depth < self.functions.0.len(), "function {} calls itself", function.name());
        ensure!(depth < MOST_DEPTH, "function {} is called inside {MOST_DEPTH} others", function.name());
        self.calls += 1;
        ensure!(self.calls < MOST_NODES, "the graph has more than {MOST_NODES} calls of functions");
        let call = Call::new(function, &node, format!("{}{}", self.calls, self.separator))?;
        for inner in &function.node {
            self.add(call.node(inner)?, depth + 1)?;
        }
        for copy in call.copies {
            self.add(copy, depth + 1)?;
        }
        Ok(())
    }
}

/// One call of a function: what its formal names are outside.
struct Call<'a> {
    function: &'a FunctionProto,
    attributes: &'a [AttributeProto],
    names: HashMap<&'a str, &'a str>,
    /// What all other names begin with outside.
    prefix: String,
    /// Outputs that are an input, or another output, again.
    copies: Vec<NodeProto>,
}

impl<'a> Call<'a> {
    fn new(function: &'a FunctionProto, node: &'a NodeProto, prefix: String) -> TractResult<Self> {
        for (what, given, formal) in
            [("inputs", &node.input, &function.input), ("outputs", &node.output, &function.output)]
        {
            let (given, formal) = (given.len(), formal.len());
            ensure!(given <= formal, "{given} {what} for function {}, which has {formal}", function.name());
        }
        // An input that is not given is none, inside as outside.
        let inputs = node.input.iter().map(String::as_str).chain(repeat(""));
        let names = function.input.iter().map(String::as_str).zip(inputs).collect();
        let mut call = Self { function, attributes: &node.attribute, names, prefix, copies: Vec::new() };
        let outputs = function.output.iter().zip(&node.output).filter(|(_, actual)| !actual.is_empty());
        for (formal, actual) in outputs {
            match call.names.get(formal.as_str()) {
                None => drop(call.names.insert(formal, actual)),
                Some(&source) => call.copies.push(copy(source, actual)),
            }
        }
        Ok(call)
    }

    /// A node of the body as it is in the main graph.
    fn node(&self, inner: &NodeProto) -> TractResult<NodeProto> {
        let (op, function) = (&inner.op_type, self.function.name());
        if inner.attribute.iter().any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty()) {
            bail!("{op} in the plain body of function {function} has a graph of its own: tract cannot run it")
        }
        let rename = |names: &[String]| names.iter().map(|name| self.name(name)).collect();
        let attributes = inner.attribute.iter().map(|attribute| self.attribute(attribute));
        Ok(NodeProto {
            name: format!("{}{}", self.prefix, inner.name),
            input: rename(&inner.input),
            output: rename(&inner.output),
            attribute: attributes.collect::<TractResult<_>>()?,
            ..inner.clone()
        })
    }

    fn name(&self, inner: &str) -> String {
        match self.names.get(inner) {
            _ if inner.is_empty() => String::new(),
            Some(&name) => name.to_owned(),
            None => format!("{}{inner}", self.prefix),
        }
    }

    /// An attribute of the body; the call's, when the body refers to it.
    fn attribute(&self, inner: &AttributeProto) -> TractResult<AttributeProto> {
        let wanted = &inner.ref_attr_name;
        if wanted.is_empty() {
            return Ok(inner.clone());
        }
        let given = self.attributes.iter().find(|given| given.name == *wanted);
        let given = given.with_context(|| format!("no `{wanted}` for function {}", self.function.name()))?;
        Ok(AttributeProto { name: inner.name.clone(), ..given.clone() })
    }
}

fn copy(source: &str, name: &str) -> NodeProto {
    NodeProto {
        name: name.to_owned(),
        op_type: "Identity".to_owned(),
        input: vec![source.to_owned()],
        output: vec![name.to_owned()],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
