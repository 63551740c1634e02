//! Several streams in one engine, against an engine for each.

use super::toy::O;
use super::*;

#[test]
fn a_batch_is_its_streams_apart() {
    for (seed, one) in (0u32..).zip(setups()) {
        for dtype in if one.capacity == 3 { &["f32", "i8"][..] } else { &["f32"] } {
            let setup = Setup { batch: 3, dtype, ..one.clone() };
            let random = &mut Random(seed);
            let (mut batch, _) = setup.engine();
            let mut naive: Vec<Naive> = (0..3).map(|stream| Naive::new(&setup, stream)).collect();
            let mut counts = [0; 3];
            for _ in 0..60 {
                let features: [[f32; 2]; 3] = std::array::from_fn(|_| [random.x(), 0.0]);
                let given: [bool; 3] = std::array::from_fn(|_| random.below(3) > 0);
                let samples: Vec<_> =
                    (0..3).map(|b| given[b].then_some(Sample::Features(&features[b]))).collect();
                let found = batch.push_batch(&samples).unwrap().to_vec();
                assert_eq!(found.len(), 3 * O);
                for b in (0..3).filter(|&b| given[b]) {
                    let expected = naive[b].push(features[b][0]);
                    let tolerance = if *dtype == "i8" { 2e-1 } else { 1e-4 };
                    assert_near(&found[b * O..(b + 1) * O], &expected, tolerance, &format!("{setup:?}"));
                    counts[b] += 1;
                }
                if random.below(20) == 0 {
                    let b = random.below(3);
                    batch.reset_stream(b);
                    (naive[b], counts[b]) = (Naive::new(&setup, b), 0);
                }
                for b in 0..3 {
                    assert_eq!(batch.tokens_of(b), counts[b]);
                    assert_eq!(tokens_by_age(&batch, b), naive[b].tokens(), "{setup:?}");
                }
                assert_eq!(batch.tokens(), counts.iter().sum::<u64>());
            }
        }
    }
}

/// All that an engine holds for its streams: state, live checkpoints, and what the graph is told of positions.
fn remembered(engine: &Engine<Toy>) -> String {
    let streams = &engine.streams;
    let clocks = (0..3).map(|b| (streams.clock(b).tokens(), streams.clock(b).inside()));
    let cache = (0..3).map(|b| (tokens_by_age(engine, b), engine.cache().stream(b).pushed()));
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        streams.past(),
        engine.cache().tensors(),
        engine.cache().steps(),
        streams.segment_length(),
        streams.cache_length(),
        clocks.collect::<Vec<_>>(),
        cache.collect::<Vec<_>>()
    )
}

#[test]
fn a_wrong_sample_of_one_stream_changes_none() {
    for segmentation in [constant(2), logarithmic(), surprise()] {
        let setup = Setup { batch: 3, segmentation, init: "restart", dtype: "i8", ..Setup::default() };
        let (mut engine, control) = setup.engine();
        let (good, short, bad) = ([0.5, 0.0], [0.5], [f32::NAN, 0.0]);
        let sample = |features| Some(Sample::Features(features));
        for _ in 0..9 {
            let before = remembered(&engine);
            let unchanged = |engine: &Engine<Toy>| assert_eq!(remembered(engine), before);
            let error = engine.push_batch(&[sample(&good), None, sample(&short)]).unwrap_err();
            assert_eq!(error.to_string(), "stream 2");
            let Error::Stream { stream: 2, source } = error else { panic!("{error}") };
            assert!(matches!(*source, Error::Length { found: 1, expected: 2 }));
            unchanged(&engine);
            assert!(matches!(
                engine.push_batch(&[sample(&good), Some(Sample::Token(1)), None]),
                Err(Error::Stream { stream: 1, .. })
            ));
            unchanged(&engine);
            assert!(matches!(engine.push(&good), Err(Error::Batch { found: 1, expected: 3 })));
            unchanged(&engine);
            control.fails.set(true);
            assert!(engine.push_batch(&[sample(&good), None, sample(&good)]).is_err());
            unchanged(&engine);
            assert!(matches!(
                engine.push_batch(&[sample(&good), sample(&bad), None]),
                Err(Error::Diverged { stream: Some(1), .. })
            ));
            unchanged(&engine);
            let runs = control.runs.borrow().len();
            assert_eq!(engine.push_batch(&[None; 3]).unwrap().len(), 3 * O);
            assert_eq!(control.runs.borrow().len(), runs, "nothing to run");
            unchanged(&engine);
            // What the idle stream was last given is not finite.
            engine.push_batch(&[sample(&good), None, sample(&good)]).unwrap();
        }
        assert_eq!([0, 1, 2].map(|stream| engine.tokens_of(stream)), [9, 0, 9]);
    }
}

#[test]
fn the_gates_of_an_idle_stream_are_those_of_its_last_token() {
    let setup = Setup { batch: 2, capacity: 3, segmentation: constant(1), gates: true, ..Setup::default() };
    let (mut engine, _) = setup.engine();
    let of = |engine: &Engine<Toy>, stream| {
        engine.gates(stream).flat_map(|g| g.weights.to_vec()).collect::<Vec<_>>()
    };
    for x in xs(8, 8) {
        let features = [x, 0.0];
        let both = [Some(Sample::Features(&features)); 2];
        engine.push_batch(&both).unwrap();
        let (first, second) = (of(&engine, 0), of(&engine, 1));
        assert_ne!(first, second, "their memories differ from the start");
        engine.push_batch(&[None, both[1]]).unwrap();
        assert_eq!(of(&engine, 0), first);
        assert_ne!(of(&engine, 1), second);
    }
}
