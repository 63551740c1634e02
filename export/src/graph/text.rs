//! The text form: one line a node, small constants as literals in it.

use std::fmt::{self, Display, Formatter};

use super::{Attribute, Constant, Data, Element, Graph, Node, TOKENS, Type, Value, is_dynamic};

/// Longer constants are named, not printed.
const MAX_PRINTED: usize = 8;

impl Display for Element {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::I8 => "i8",
            Element::I64 => "i64",
            Element::Bool => "bool",
        })
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.shape.iter().map(|&size| printed(size)).collect();
        write!(f, "{}[{}]", self.element, sizes.join(","))
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "%{}: {}", self.name, self.ty)
    }
}

impl Display for Attribute {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Attribute::Int(x) => write!(f, "{x}"),
            Attribute::Ints(xs) => write!(f, "[{}]", list(xs, ",")),
            Attribute::Float(x) => write!(f, "{x:?}"),
            Attribute::Graph(graph) => f.write_str(&graph.to_string().trim_end().replace('\n', "\n  ")),
        }
    }
}

impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}(", self.name)?;
        self.inputs.iter().try_for_each(|input| writeln!(f, "  {input}"))?;
        writeln!(f, ") {{")?;
        for constant in self.constants.iter().filter(|constant| literal(constant).is_none()) {
            writeln!(f, "  {} = …", constant.value)?;
        }
        self.nodes.iter().try_for_each(|node| self.line(f, node))?;
        let outputs: Vec<String> = self.outputs.iter().map(|output| format!("%{}", output.name)).collect();
        writeln!(f, "  return {}", outputs.join(", "))?;
        writeln!(f, "}}")
    }
}

impl Graph {
    fn line(&self, f: &mut Formatter<'_>, node: &Node) -> fmt::Result {
        let inputs: Vec<String> = node.inputs.iter().map(|name| self.operand(name)).collect();
        let dot = if node.domain.is_empty() { "" } else { "." };
        write!(f, "  {} = {}{dot}{}", list(&node.outputs, ", "), node.domain, node.op)?;
        write!(f, "({})", inputs.join(", "))?;
        if !node.attributes.is_empty() {
            let pairs: Vec<String> = node.attributes.iter().map(|(name, x)| format!("{name}={x}")).collect();
            write!(f, " {{{}}}", pairs.join(", "))?;
        }
        writeln!(f)
    }

    /// A small constant as its numbers, everything else by its name.
    fn operand(&self, name: &str) -> String {
        let constant = self.constants.iter().find(|constant| constant.value.name == name);
        constant.and_then(literal).unwrap_or_else(|| format!("%{name}"))
    }
}

/// The numbers of a scalar or of a short int64 vector.
fn literal(constant: &Constant) -> Option<String> {
    match (&constant.data, constant.value.shape()) {
        (Data::F32(xs), []) => Some(format!("{:?}", xs[0])),
        (Data::I64(xs), []) => Some(xs[0].to_string()),
        (Data::I64(xs), [0..=MAX_PRINTED]) => Some(format!("[{}]", list(xs, ","))),
        _ => None,
    }
}

/// A size, or T + n.
fn printed(size: usize) -> String {
    match (is_dynamic(size), size as i64 - TOKENS as i64) {
        (false, _) => size.to_string(),
        (true, 0) => "T".to_owned(),
        (true, more) => format!("T{more:+}"),
    }
}

fn list<T: Display>(items: &[T], separator: &str) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(separator)
}
