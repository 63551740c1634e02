//! The door of `.pt`: what a checkpoint becomes, every way to be wrong, and that no bytes panic or run.

#![allow(clippy::unwrap_used, reason = "a test panics when it fails")]

mod common;
#[path = "common/checkpoint.rs"]
mod make;

use common::mutate;
use make::{Checkpoint, Item, View, archive, dict, global, pickle, text};
use mcedge_models::Model;
use mcedge_models::spec::Spec;
use serde_json::{Value, json};

fn message(checkpoint: &Checkpoint) -> String {
    error(&checkpoint.bytes())
}

fn error(bytes: &[u8]) -> String {
    Model::from_checkpoint(bytes).unwrap_err().to_string()
}

/// The message of a checkpoint that was good before `change`.
fn changed(change: impl FnOnce(&mut Checkpoint)) -> String {
    let mut checkpoint = Checkpoint::new("linear", "grm");
    change(&mut checkpoint);
    message(&checkpoint)
}

/// The message of an archive around a pickle of these opcodes.
fn opcodes(opcodes: &[u8]) -> String {
    error(&Checkpoint::new("linear", "grm").around(opcodes.to_vec()))
}

fn block(checkpoint: &Checkpoint) -> Value {
    let spec: Spec = Model::from_checkpoint(&checkpoint.bytes()).unwrap().spec;
    serde_json::to_value(&spec.blocks[0]).unwrap()
}

#[test]
fn a_checkpoint_becomes_a_spec_and_weights() {
    let model = Model::from_checkpoint(&Checkpoint::new("linear", "grm").bytes()).unwrap();
    let expected = json!({
        "format": "mcedge/1", "name": "by hand", "d_model": 4, "final_norm": true,
        "input": {"kind": "tokens", "vocab_size": 7}, "head": {"kind": "logits", "size": 7},
        "blocks": [{
            "norm": "none", "residual": false, "num_heads": 2, "memory": {"kind": "linear"},
            "caching": {"aggregation": "grm", "context": "sum",
                        "segmentation": {"kind": "constant", "size": 3}, "init": "continue"},
        }],
    });
    assert_eq!(model.spec, Spec::parse(expected.to_string().as_bytes()).unwrap());
    assert_eq!(model.weights.get("head.bias"), None);
    assert_eq!(model.weights.get("blocks.0.mix.k.weight").unwrap().data[..3], [2.0, 2.01, 2.02]);
    assert_eq!(model.weights.get("norm.bias").unwrap().data, [7.0, 7.01, 7.02, 7.03]);
}

#[test]
fn absent_settings_are_the_packages_defaults() {
    let memory = |backend: &str| block(&Checkpoint::new(backend, "soup"))["memory"].clone();
    let deep = |kind: &str, objective: &str, momentum: f32| {
        json!({"kind": kind, "depth": 2, "width": 64, "bias": true, "skip": false, "objective": objective,
               "step_size": 0.05f32, "momentum": momentum, "retention": 1.0})
    };
    assert_eq!(memory("dla"), deep("dla", "dot", 0.0));
    let mut titans = deep("titans", "l2", 0.9);
    titans["sign"] = json!("paper");
    assert_eq!(memory("titans"), titans);
    assert_eq!(memory("swla"), json!({"kind": "swla", "alpha": 1.0, "beta": 0.0, "lambda": 1.0}));
    let mut bare = Checkpoint::new("titans", "soup");
    bare.set("titans", Item::None);
    assert_eq!(block(&bare)["memory"], titans);
}

#[test]
fn every_setting_is_converted() {
    let checkpoint = Checkpoint::with_every_key();
    let block = block(&checkpoint);
    let memory = json!({"kind": "titans", "depth": 3, "width": 12, "bias": true, "skip": false,
        "objective": "dot", "step_size": 0.25, "momentum": 0.0, "retention": 0.75, "sign": "descent"});
    assert_eq!(block["memory"], memory);
    let caching = json!({"aggregation": "ssc", "query": "q", "context": "sum", "temperature": 0.5, "top_k": 5,
        "segmentation": {"kind": "constant", "size": 3}, "init": "restart"});
    assert_eq!(block["caching"], caching);
    let mut swla = Checkpoint::new("swla", "residual");
    let lam = [("alpha", Item::Float(0.5)), ("beta", Item::Float(-0.25)), ("lam", Item::Int(2))];
    swla.set("swla", dict(lam));
    swla.set("segmentation", text("logarithmic"));
    let block = self::block(&swla);
    assert_eq!(block["memory"], json!({"kind": "swla", "alpha": 0.5, "beta": -0.25, "lambda": 2.0}));
    assert_eq!(block["caching"]["segmentation"], json!({"kind": "logarithmic"}));
}

#[test]
fn half_precision_and_other_strides_are_read() {
    let mut checkpoint = Checkpoint::new("linear", "grm");
    let view = checkpoint.view("mc.q_proj.weight");
    (view.stride, view.offset) = (vec![1, 4], 0);
    checkpoint.view("norm.bias").class = "HalfStorage";
    let halves = [0.5f32, -1.0, 2.0, 0.0].map(|x| half::f16::from_f32(x).to_le_bytes());
    checkpoint.storages[7].1 = halves.concat();
    let view = checkpoint.view("norm.weight");
    (view.key, view.elements, view.offset) = ("8".into(), 28, 24);
    let model = Model::from_checkpoint(&checkpoint.bytes()).unwrap();
    let q = &model.weights.get("blocks.0.mix.q.weight").unwrap().data;
    assert_eq!(q[..5], [1.0, 1.04, 1.08, 1.12, 1.01]);
    assert_eq!(model.weights.get("norm.bias").unwrap().data, [0.5, -1.0, 2.0, 0.0]);
    assert_eq!(model.weights.get("norm.weight").unwrap().data, [8.24, 8.25, 8.26, 8.27]);
}

#[test]
fn a_foreign_class_is_named_and_not_executed() {
    let flag = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("executed");
    let command = format!("touch {}", flag.display());
    let mut call = global("posix", "system");
    call.push(b'(');
    call.extend(&pickle(&text(&command))[2..]);
    call.pop();
    call.extend(b"tR");
    let expected = "the pickle names \"posix\" \"system\", which is not on the list of what plain checkpoints hold; nothing was executed";
    let found = changed(|checkpoint| checkpoint.set("note", Item::Raw(call)));
    assert_eq!(found, expected);
    assert!(!flag.exists());
    // The same through the opcode of later protocols.
    let found = opcodes(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.");
    assert!(found.starts_with("the pickle names \"builtins\" \"eval\", which"), "{found}");
    for (module, name) in
        [("torch", "load"), ("torch.storage", "_load_from_bytes"), ("collections", "defaultdict")]
    {
        let found = changed(|checkpoint| checkpoint.set("note", Item::Raw(global(module, name))));
        assert!(found.starts_with(&format!("the pickle names {module:?} {name:?}, which")), "{found}");
    }
    let build = opcodes(b"\x80\x02)\x81.");
    assert_eq!(
        build,
        "the pickle has opcode 0x81 at byte 3, which is not on the list of those that are read"
    );
}

#[test]
fn each_fault_of_the_payload_has_its_own_message() {
    let plain = Checkpoint::new("linear", "grm");
    let payload = |item: Item| error(&plain.around(pickle(&item)));
    let whose = "expected the dictionary that a training checkpoint of memory-caching 0.1.0 has";
    assert_eq!(payload(Item::Int(3)), "the checkpoint's `payload` is 3, expected a dictionary");
    assert_eq!(payload(dict([])), format!("the checkpoint's `model_spec` is absent, {whose}"));
    let listed = dict([("model_spec", Item::Raw(b"]".into()))]);
    assert_eq!(payload(listed), format!("the checkpoint's `model_spec` is a list, {whose}"));
    let check = |key: &str, item: Item, expected: &str| {
        let found = changed(|checkpoint| checkpoint.set(key, item));
        assert_eq!(found, format!("the checkpoint's `model_spec.{expected}"));
    };
    check("model_family", text("tiny_lm"), "model_family` is \"tiny_lm\", expected \"tiny_mc_lm\"");
    check("backend", text("gla"), "backend` is \"gla\", expected one of linear, dla, titans, swla");
    check("d_model", text("4"), "d_model` is \"4\", expected a whole number, 0 or more");
    check("num_heads", Item::Int(-1), "num_heads` is -1, expected a whole number, 0 or more");
    check("use_q_as_u", Item::Int(1), "use_q_as_u` is 1, expected True or False");
    check("softmax_temperature", Item::None, "softmax_temperature` is None, expected a number");
    check("state_init_mode", Item::None, "state_init_mode` is None, expected a string");
    let heads = changed(|checkpoint| checkpoint.set("num_heads", Item::Int(3)));
    let expected = "the checkpoint's `model_spec` makes no model: `blocks[0].num_heads` is 3, expected a divisor of d_model, 4";
    assert_eq!(heads, expected);
    let huge = changed(|checkpoint| checkpoint.set("vocab_size", Item::Int(i32::MAX)));
    assert!(huge.contains("`input.vocab_size` is 2147483647, expected 1 to"), "{huge}");
    let mut swla = Checkpoint::new("swla", "grm");
    swla.set("swla", dict([("gamma", Item::Int(1))]));
    let expected =
        "the checkpoint's `model_spec.swla` is a dictionary with \"gamma\", expected alpha, beta, lam";
    assert_eq!(message(&swla), expected);
    swla.set("swla", text("x"));
    assert_eq!(message(&swla), "the checkpoint's `model_spec.swla` is \"x\", expected a dictionary");
    swla.set("swla", Item::None);
    swla.set("segmentation", text("logarithmic"));
    swla.set("state_init_mode", text("restart"));
    assert!(message(&swla).contains("only linear states of restarted segments add"), "{}", message(&swla));
}

#[test]
fn each_fault_of_a_tensor_has_its_own_message() {
    let missing = changed(|checkpoint| drop(checkpoint.model_state.remove(1)));
    assert_eq!(missing, "the checkpoint's `model_state` has no `mc.q_proj.weight`");
    let extra = changed(|checkpoint| checkpoint.model_state.push(("head.bias".into(), Item::None)));
    let expected = "the checkpoint's `model_state` has \"head.bias\", which a TinyMemoryCachingLM has not";
    assert_eq!(extra, expected);
    let number = changed(|checkpoint| checkpoint.model_state[6].1 = Item::Int(1));
    assert_eq!(number, "the checkpoint's `model_state.norm.weight` is 1, expected a tensor");
    let shape = changed(|checkpoint| {
        let view = checkpoint.view("mc.q_proj.weight");
        (view.size, view.stride) = (vec![2, 8], vec![8, 1]);
    });
    let expected = "the checkpoint's weights, under mcedge's names: `blocks.0.mix.q.weight` has shape [2, 8], the model declares [4, 4]";
    assert_eq!(shape, expected);
    let double = changed(|checkpoint| checkpoint.view("norm.weight").class = "DoubleStorage");
    assert_eq!(double, "the checkpoint's `norm.weight` has type F64, expected F32, F16 or BF16");
    let nan = changed(|checkpoint| checkpoint.storages[6].1[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    let expected = "the checkpoint's weights, under mcedge's names: `norm.weight` holds NaN at element 0, expected finite numbers";
    assert_eq!(nan, expected);
    let short = changed(|checkpoint| checkpoint.storages[6].1.truncate(12));
    assert_eq!(short, "the archive's `data/6` has 3 elements, the pickle declares 4");
    let absent = changed(|checkpoint| drop(checkpoint.storages.remove(6)));
    assert_eq!(absent, "the archive has no entry `data/6`, expected what torch.save writes");
}

#[test]
fn a_view_stays_inside_its_storage() {
    let check = |change: fn(&mut View)| {
        let found = changed(|checkpoint| change(checkpoint.view("mc.q_proj.weight")));
        assert!(found.starts_with("the checkpoint's `mc.q_proj.weight` is a view of size"), "{found}");
    };
    check(|view| view.offset = 1);
    check(|view| view.offset = i32::MAX);
    check(|view| view.stride = vec![5, 1]);
    check(|view| view.stride = vec![i32::MAX, i32::MAX]);
    check(|view| (view.size, view.stride) = (vec![i32::MAX; 4], vec![0; 4]));
    // Seventeen numbers out of sixteen, all of them inside.
    check(|view| (view.size, view.stride) = (vec![17], vec![0]));
    let negative = changed(|checkpoint| checkpoint.view("mc.q_proj.weight").offset = -1);
    assert!(negative.contains("expected a tensor's arguments"), "{negative}");
    let axes = changed(|checkpoint| checkpoint.view("mc.q_proj.weight").size.push(1));
    assert!(axes.contains("expected a tensor's arguments"), "{axes}");
    let key = changed(|checkpoint| checkpoint.view("mc.q_proj.weight").key = "../../x".into());
    assert!(key.contains("expected a storage's id"), "{key}");
}

#[test]
fn each_fault_of_the_archive_has_its_own_message() {
    assert!(error(b"").starts_with("not a checkpoint of torch.save (a zip): "), "{}", error(b""));
    assert!(error(b"\x80\x02}q\x00.").starts_with("not a checkpoint of torch.save (a zip): "));
    let other = error(&archive(&[("readme.txt".into(), b"hello".into())]));
    assert_eq!(other, "the archive has no entry `data.pkl`, expected what torch.save writes");
    let big = error(&archive(&[("x/data.pkl".into(), vec![]), ("x/byteorder".into(), b"big".into())]));
    assert_eq!(big, "the archive's byteorder is big, expected little");
    let mut flipped = Checkpoint::new("linear", "grm").bytes();
    let k = 2.01f32.to_le_bytes();
    let at = flipped.windows(4).position(|window| window == k).unwrap();
    flipped[at] ^= 1;
    let found = error(&flipped);
    assert!(found.contains("hand/data/2: ") && found.contains("checksum"), "{found}");
}

#[test]
fn pickles_that_no_pickler_writes_are_refused() {
    let check = |bytes: &[u8], expected: &str| {
        let found = opcodes(bytes);
        assert!(found.contains(expected), "{bytes:?}: {found}");
    };
    check(b"", "ends at byte 0, before its STOP");
    check(b"\x80\x02", "ends at byte 2, before its STOP");
    check(b"X\xff\xff\xff\xffab", "ends at byte 7, before its STOP");
    check(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab", "before its STOP");
    check(b"cposix", "ends at byte 6, before its STOP");
    check(b".", "malformed at byte 1: expected something on the stack");
    check(b"N(.", "expected something on the stack");
    check(b"t.", "expected a MARK");
    check(b"h\x07.", "expected a memo entry of that index");
    check(b"NNa.", "expected a list to append to");
    check(b"}(NNNu.", "expected keys and values in pairs");
    check(b"N(NNu.", "expected a dictionary to put items in");
    check(b"NQ.", "expected a storage's id");
    check(b"N)R.", "expected a name on the list to REDUCE with");
    check(b"ctorch\nFloatStorage\n)R.", "expected a storage by its id alone");
    check(b"ctorch._utils\n_rebuild_parameter\n)R.", "expected a tensor in a Parameter");
    check(b"NNb.", "expected a dictionary to BUILD");
    check(b"X\x01\x00\x00\x00\xff.", "expected UTF-8");
    check(b"I1\n.", "opcode 0x49 at byte 0");
}

#[test]
fn bombs_are_bounded_and_cost_no_recursion() {
    let repeat = |head: &[u8], body: &[u8], times: usize, tail: &[u8]| {
        let mut bytes = head.to_vec();
        bytes.extend(body.repeat(times));
        bytes.extend(tail);
        opcodes(&bytes)
    };
    let not_a_dict = |found: String, what: &str| {
        assert_eq!(found, format!("the checkpoint's `payload` is {what}, expected a dictionary"));
    };
    // A list in a list in a list, half a million deep; a tuple the same way; a list that holds itself.
    not_a_dict(repeat(b"", b"]", 500_000, &[vec![b'a'; 499_999], b".".to_vec()].concat()), "a list");
    not_a_dict(repeat(b")", b"\x85", 500_000, b"."), "a tuple");
    not_a_dict(opcodes(b"]q\x00h\x00a."), "a list");
    // Each list holds the one before ten times: 10^1000 elements if anything walked it.
    not_a_dict(
        repeat(b"]q\x00", b"](h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00eq\x00", 1000, b"."),
        "a list",
    );
    let limit = |found: String, what: &str| {
        assert_eq!(found, format!("the pickle has too many {what}, expected at most 1048576"));
    };
    limit(repeat(b"", b"N0", 1 << 21, b"."), "objects");
    limit(repeat(b"Nq\x00", b"h\x00", 1 << 21, b"."), "stack entries");
    limit(repeat(b"", b"(", 1 << 21, b"."), "marks");
    limit(repeat(b"N", b"\x94", 1 << 21, b"."), "memo entries");
    let long = repeat(b"", b"N0", 9 << 20, b".");
    assert!(long.contains("data.pkl: 18874369 bytes, expected at most 16777216"), "{long}");
}

#[test]
fn numbers_are_read_as_python_writes_them() {
    let depth = |bytes: &[u8]| {
        let mut checkpoint = Checkpoint::new("dla", "grm");
        checkpoint.set("dla", dict([("memory_depth", Item::Raw(bytes.to_vec()))]));
        Model::from_checkpoint(&checkpoint.bytes())
            .map(|model| model.spec.blocks[0].memory.deep().unwrap().depth)
            .map_err(|error| error.to_string())
    };
    assert_eq!(depth(b"K\x03"), Ok(3));
    assert_eq!(depth(b"M\x04\x00"), Ok(4));
    assert_eq!(depth(b"\x8a\x01\x05"), Ok(5));
    assert_eq!(depth(b"\x8a\x08\x06\x00\x00\x00\x00\x00\x00\x00"), Ok(6));
    assert_eq!(depth(b"\x8b\x02\x00\x00\x00\x07\x00"), Ok(7));
    let message = |found: &str| {
        let key = "the checkpoint's `model_spec.dla.memory_depth`";
        Err(format!("{key} is {found}, expected a whole number, 0 or more"))
    };
    assert_eq!(depth(b"\x8a\x01\xff"), message("-1"));
    assert_eq!(depth(b"J\xfe\xff\xff\xff"), message("-2"));
    assert_eq!(depth(b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01"), message("another object"));
}

#[test]
fn no_bytes_panic() {
    let checkpoint = Checkpoint::new("titans", "ssc");
    mutate(&checkpoint.bytes(), 4_000, |bytes| drop(Model::from_checkpoint(bytes)));
    // The archive's checksums keep flips from the pickle, so these go in before it is written.
    mutate(&checkpoint.pickle(), 4_000, |pickle| {
        drop(Model::from_checkpoint(&checkpoint.around(pickle.to_vec())));
    });
}
