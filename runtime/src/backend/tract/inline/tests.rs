use super::*;

use tract_onnx::pb::{GraphProto, ValueInfoProto};

/// A node `op: inputs -> outputs`.
fn node(text: &str) -> NodeProto {
    let (op, rest) = text.split_once(": ").unwrap();
    let (inputs, outputs) = rest.split_once(" -> ").unwrap();
    let names = |list: &str| list.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
    let (domain, op) = op.split_once('.').unwrap_or(("", op));
    let (input, output) = (names(inputs), names(outputs));
    NodeProto {
        name: output[0].clone(),
        domain: domain.to_owned(),
        op_type: op.to_owned(),
        input,
        output,
        ..Default::default()
    }
}

/// The function of `our.name` that a header says in the same way.
fn function(header: &str, body: &[&str]) -> FunctionProto {
    let NodeProto { op_type, input, output, .. } = node(header);
    FunctionProto {
        name: Some(op_type),
        domain: Some("our".to_owned()),
        input,
        output,
        node: body.iter().map(|text| node(text)).collect(),
        ..Default::default()
    }
}

fn model(nodes: Vec<NodeProto>, functions: Vec<FunctionProto>) -> ModelProto {
    let input = vec![ValueInfoProto { name: "x".to_owned(), ..Default::default() }];
    ModelProto {
        graph: Some(GraphProto { node: nodes, input, ..Default::default() }),
        functions,
        ..Default::default()
    }
}

fn expanded(mut model: ModelProto) -> Vec<String> {
    expand(&mut model).unwrap();
    let text = |node: &NodeProto| {
        format!("{}: {} -> {}", node.op_type, node.input.join(", "), node.output.join(", "))
    };
    model.graph.unwrap().node.iter().map(text).collect()
}

fn refused(mut model: ModelProto) -> String {
    expand(&mut model).unwrap_err().to_string()
}

#[test]
fn each_call_has_names_of_its_own() {
    let square = function("square: a -> b", &["Abs: a -> c", "Mul: c, c -> b"]);
    let calls = vec![node("our.square: x -> y"), node("our.square: y -> z")];
    assert_eq!(
        expanded(model(calls, vec![square])),
        ["Abs: x -> 1/c", "Mul: 1/c, 1/c -> y", "Abs: y -> 2/c", "Mul: 2/c, 2/c -> z"]
    );
}

#[test]
fn a_name_that_is_taken_already_is_not_given_again() {
    let inner = function("f: a -> b", &["Abs: a -> c", "Neg: c -> b"]);
    let nodes = vec![node("Abs: x -> 1/c"), node("our.f: 1/c -> y")];
    assert_eq!(expanded(model(nodes, vec![inner])), ["Abs: x -> 1/c", "Abs: 1/c -> 1//c", "Neg: 1//c -> y"]);
}

#[test]
fn functions_may_call_functions_but_not_themselves() {
    let inner = || function("inner: a -> b", &["Neg: a -> b"]);
    let outer = function("outer: p -> q", &["our.inner: p -> r", "our.inner: r -> q"]);
    let call = || vec![node("our.outer: x -> y")];
    assert_eq!(expanded(model(call(), vec![inner(), outer])), ["Neg: x -> 1/r", "Neg: 1/r -> y"]);
    let circle = function("outer: p -> q", &["our.outer: p -> q"]);
    assert_eq!(refused(model(call(), vec![circle])), "function outer calls itself");
}

#[test]
fn growth_by_powers_of_three_ends() {
    let level = |n: usize| {
        let called = format!("our.f{}", n + 1);
        let calls = ["a -> c", "c -> d", "d -> b"].map(|operands| format!("{called}: {operands}"));
        function(&format!("f{n}: a -> b"), &calls.each_ref().map(|call| &call[..]))
    };
    let mut functions: Vec<_> = (0..14).map(level).collect();
    functions.push(function("f14: a -> b", &["Neg: a -> b"]));
    assert!(refused(model(vec![node("our.f0: x -> y")], functions)).contains("more than 65536"));
}

#[test]
fn neither_a_chain_of_functions_nor_a_row_of_slashes_is_followed_to_its_end() {
    let level = |n: usize| function(&format!("f{n}: a -> b"), &[&format!("our.f{}: a -> b", n + 1)]);
    let functions: Vec<_> = (0..40_000).map(level).collect();
    let found = refused(model(vec![node("our.f0: x -> y")], functions));
    assert_eq!(found, "function f16 is called inside 16 others");
    let slashes = format!("Neg: x -> {}", "/".repeat(1000));
    assert!(refused(model(vec![node(&slashes)], vec![])).contains("64 slashes in a row"));
}

#[test]
fn what_is_optional_may_be_left_out() {
    let both = function("both: a, b -> c, d", &["Clip: a, , b -> c", "Neg: c -> d"]);
    let nodes = vec![node("our.both: x -> y")];
    assert_eq!(expanded(model(nodes, vec![both])), ["Clip: x, ,  -> y", "Neg: y -> 1/d"]);
    let one = function("one: a -> b", &["Neg: a -> b"]);
    let nodes = vec![node("our.one: x, x -> y")];
    assert_eq!(refused(model(nodes, vec![one])), "2 inputs for function one, which has 1");
}

#[test]
fn an_output_that_is_an_input_is_copied() {
    let through = function("through: a -> a", &[]);
    assert_eq!(expanded(model(vec![node("our.through: x -> y")], vec![through])), ["Identity: x -> y"]);
}

#[test]
fn attributes_of_the_call_come_into_the_body() {
    let mut scaled = function("scaled: a -> b", &["Softmax: a -> b"]);
    let of_call =
        AttributeProto { name: "axis".to_owned(), ref_attr_name: "along".to_owned(), ..Default::default() };
    scaled.node[0].attribute.push(of_call);
    let mut call = node("our.scaled: x -> y");
    assert_eq!(refused(model(vec![call.clone()], vec![scaled.clone()])), "no `along` for function scaled");
    call.attribute.push(AttributeProto { name: "along".to_owned(), i: 3, ..Default::default() });
    let mut model = model(vec![call], vec![scaled]);
    expand(&mut model).unwrap();
    let attribute = &model.graph.unwrap().node[0].attribute[0];
    assert_eq!((attribute.name.as_str(), attribute.i), ("axis", 3));
}

#[test]
fn a_graph_inside_and_another_opset_are_refused_by_name() {
    let mut scan = function("tokens: a -> b", &["Scan: a -> b"]);
    scan.node[0].attribute.push(AttributeProto { g: Some(GraphProto::default()), ..Default::default() });
    let call = || vec![node("our.tokens: x -> y")];
    assert_eq!(
        refused(model(call(), vec![scan.clone()])),
        "Scan in the plain body of function tokens has a graph of its own: tract cannot run it"
    );
    scan.opset_import.push(OperatorSetIdProto { domain: String::new(), version: 17 });
    let refused = refused(model(call(), vec![scan]));
    assert_eq!(refused, "function tokens is for version 17 of operators ``, the model for 0");
}
