//! Graphs and bundles that are not what they declare.

use super::toy::{Control, Plain, onnx};
use super::*;
use crate::backend::Element;

fn refused(setup: &Setup, change: impl FnOnce(&mut Toy)) -> String {
    let mut toy = Toy::new(setup, &Control::default());
    change(&mut toy);
    let result = Engine::new(&setup.model(), toy, EngineOptions::default());
    result.err().map_or_else(|| "ran".into(), |error| error.to_string())
}

fn rename(names: &mut [String], from: &str, to: &str) {
    names.iter_mut().filter(|name| *name == from).for_each(|name| to.clone_into(name));
}

#[test]
fn a_graph_without_what_its_contract_declares_is_refused() {
    let setup = Setup { segmentation: surprise(), dtype: "i8", ..Setup::default() };
    assert_eq!(refused(&setup, |_| {}), "ran");
    for output in ["output", "surprise", "present.0.m", "present.0.context", "present.0.gate"] {
        let error = refused(&setup, |toy| rename(&mut toy.outputs, output, "else"));
        assert!(error.contains(&format!("declares output `{output}`")), "{error}");
    }
    for input in ["steps.0.m", "cache.0.m", "input"] {
        let error = refused(&setup, |toy| rename(&mut toy.inputs, input, "else"));
        assert!(error.contains("input `else`"), "{error}");
    }
    // A graph for chunks has the gates that the graph for steps has.
    let setup = Setup { gates: true, ..Setup::default() };
    let mut toy = Toy::new(&setup, &Control::default());
    rename(&mut toy.outputs, "gates.0", "else");
    let error = setup.engine().0.with_chunks(toy).err().unwrap().to_string();
    assert!(error.contains("output `gates.0`"), "{error}");
}

/// A toy whose output `name` is one value short.
struct Short(Toy, &'static str);

impl Backend for Short {
    type Tensor = Plain;

    fn inputs(&self) -> &[String] {
        self.0.inputs()
    }

    fn outputs(&self) -> &[String] {
        self.0.outputs()
    }

    fn zeros(&self, element: Element, shape: &[usize]) -> Result<Plain, Error> {
        self.0.zeros(element, shape)
    }

    fn run<'a>(
        &mut self,
        inputs: impl Iterator<Item = &'a Plain>,
        outputs: &mut [Plain],
    ) -> Result<(), Error> {
        self.0.run(inputs, outputs)?;
        let index = self.0.outputs.iter().position(|output| output == self.1).unwrap();
        if let Plain::F32(cells) = &mut outputs[index] {
            cells.pop();
        }
        Ok(())
    }
}

#[test]
fn a_graph_that_lies_about_a_size_reaches_no_state() {
    let surprised = Setup { segmentation: surprise(), ..Setup::default() };
    let gated = Setup { gates: true, ..Setup::default() };
    let names = ["output", "present.0.m", "present.0.context", "present.0.gate"].map(|name| (&gated, name));
    for (setup, name) in names.into_iter().chain([(&gated, "gates.0"), (&surprised, "surprise")]) {
        let backend = Short(Toy::new(setup, &Control::default()), name);
        let mut engine = Engine::new(&setup.model(), backend, EngineOptions::default()).unwrap();
        let error = engine.push(&[1.0, 0.0]).unwrap_err().to_string();
        assert!(error.contains(&format!("values in `{name}`")), "{error}");
        assert_eq!(engine.tokens(), 0);
    }
}

#[test]
fn an_output_that_is_declared_in_two_sizes_reaches_no_cache() {
    let setup = Setup::default();
    let mut contract = setup.contract();
    let mut second = contract.cache[2].clone();
    second.name = "cache.1.gate".into();
    second.shape.push(2);
    contract.cache.push(second);
    let model = Model::from_bytes(onnx(&contract), None, &setup.initial_state()).unwrap();
    let mut toy = Toy::new(&setup, &Control::default());
    // A cache that the graph does not take would be made room for, and never read.
    let refused =
        Engine::new(&model, Toy::new(&setup, &Control::default()), EngineOptions::default()).err().unwrap();
    assert!(refused.to_string().contains("declares input `cache.1.gate`"), "{refused}");
    toy.inputs.push("cache.1.gate".into());
    let mut engine = Engine::new(&model, toy, EngineOptions::default()).unwrap();
    let error = engine.push(&[1.0, 0.0]).unwrap_err().to_string();
    assert!(error.contains("6 values in `present.0.gate`, its contract declares 12"), "{error}");
}

#[test]
fn a_chunk_graph_is_of_the_step_graphs_export() {
    let setup = Setup { chunk: 8, ..Setup::default() };
    let model = |chunk: Option<&Setup>| {
        let chunk = chunk.map(|setup| onnx(&setup.contract()));
        Model::from_bytes(onnx(&setup.contract()), chunk, &setup.initial_state())
    };
    assert!(model(Some(&setup)).unwrap().chunk().is_some());
    let error = |chunk: Option<&Setup>| model(chunk).err().unwrap().to_string();
    assert!(error(None).contains("no chunk.onnx"));
    assert!(error(None).contains("chunks of 8 tokens"));
    let other = |key: &str, other: Setup| {
        let error = error(Some(&other));
        assert!(error.contains("chunk.onnx") && error.contains("step.onnx"), "{error}");
        assert!(error.contains(&format!("`{key}`")), "{error}");
    };
    other("capacity", Setup { capacity: 4, ..setup.clone() });
    other("chunk", Setup { chunk: 9, ..setup.clone() });
    other("segmentation", Setup { segmentation: constant(9), ..setup.clone() });
    other("input", Setup { tokens: true, ..setup.clone() });
    other("cache", Setup { dtype: "f16", ..setup.clone() });
    other("blocks", Setup { gates: true, ..setup.clone() });
}

#[test]
fn a_bundle_is_read_with_and_without_chunks() {
    let dir = std::env::temp_dir().join(format!("mcedge-bundle-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(dir.join(name), bytes).unwrap();
    let one = Setup::default();
    write("step.onnx", onnx(&one.contract()));
    write("initial_state.safetensors", one.initial_state());
    assert!(Model::open(&dir).unwrap().chunk().is_none());
    write("chunk.onnx", b"not a graph".to_vec());
    assert!(Model::open(&dir).err().unwrap().to_string().contains("chunk.onnx"));
    write("chunk.onnx", onnx(&one.contract()));
    assert!(Model::open(&dir).unwrap().chunk().is_some());
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(matches!(Model::open(&dir), Err(Error::Read { path, .. }) if path.ends_with("step.onnx")));
}
