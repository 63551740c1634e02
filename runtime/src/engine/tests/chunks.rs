//! Catching up, against stepping.

use super::toy::{FUSE, O};
use super::*;

/// `[B, T, 2]` of streams' first channels.
fn backlog(xs: &[Vec<f32>]) -> Vec<f32> {
    xs.iter().flatten().flat_map(|&x| [x, 0.0]).collect()
}

fn step(engine: &mut Engine<Toy>, xs: &[Vec<f32>], token: usize) -> Vec<f32> {
    let features: Vec<_> = xs.iter().map(|xs| [xs[token], 0.0]).collect();
    let samples: Vec<_> = features.iter().map(|features| Some(Sample::Features(features))).collect();
    engine.push_batch(&samples).unwrap().to_vec()
}

#[test]
fn a_backlog_is_its_steps_however_it_is_cut() {
    for (seed, one) in (0u32..).zip(setups()) {
        let setup = Setup { batch: 1 + seed as usize % 3, chunk: 7, gates: false, ..one };
        let random = &mut Random(seed);
        let ((mut steps, _), (mut chunks, single, many)) = (setup.engine(), setup.chunked());
        let mut total = 0;
        for _ in 0..12 {
            let tokens = random.below(20);
            let xs: Vec<Vec<f32>> =
                (0..setup.batch).map(|_| (0..tokens).map(|_| random.x()).collect()).collect();
            let mut found = vec![-1.0];
            chunks.catch_up(Backlog::Features(&backlog(&xs)), &mut found).unwrap();
            let expected: Vec<f32> = (0..tokens).flat_map(|token| step(&mut steps, &xs, token)).collect();
            assert_eq!(found[1..], expected, "{setup:?}");
            // One stream goes on alone, so that the segments of all end apart.
            let alone = random.below(setup.batch);
            let samples: Vec<_> =
                (0..setup.batch).map(|b| (b == alone).then_some(Sample::Features(&[0.5, 0.0]))).collect();
            assert_eq!(
                part(steps.push_batch(&samples).unwrap(), alone, setup.batch),
                part(chunks.push_batch(&samples).unwrap(), alone, setup.batch)
            );
            for b in 0..setup.batch {
                assert_eq!(chunks.tokens_of(b), steps.tokens_of(b));
                assert_eq!(tokens_by_age(&chunks, b), tokens_by_age(&steps, b), "{setup:?}");
            }
            total += tokens;
        }
        assert_eq!(chunks.cache().tensors(), steps.cache().tensors());
        let (single, many) = (single.runs.borrow().len(), many.runs.borrow());
        assert!(many.iter().all(|tokens| (2..=7).contains(tokens)), "{many:?}");
        let stepped = setup.segmentation["kind"] == "logarithmic" || setup.segmentation["size"] == 1;
        assert!(if stepped { many.is_empty() } else { single < 12 + total * 2 / 3 }, "{setup:?} {many:?}");
    }
}

#[test]
fn pieces_end_with_segments_and_chunks() {
    let check = |chunk, size, tokens, expected: &[usize]| {
        let setup = Setup { chunk, segmentation: constant(size), ..Setup::default() };
        let (mut engine, single, many) = setup.chunked();
        let xs = [xs(1, tokens)];
        engine.catch_up(Backlog::Features(&backlog(&xs)), &mut Vec::new()).unwrap();
        assert_eq!(*many.runs.borrow(), expected);
        assert_eq!(single.runs.borrow().len() + expected.iter().sum::<usize>(), tokens);
    };
    check(4, 10, 23, &[4, 4, 2, 4, 4, 2, 3]);
    check(64, 10, 23, &[10, 10, 3]);
    check(4, 5, 11, &[4, 4]);
    check(1000, 1000, 999, &[999]);
    check(4, 10, 1, &[]);
    check(4, 10, 0, &[]);
}

#[test]
fn pieces_end_with_the_segments_of_every_stream() {
    let setup = Setup { batch: 2, chunk: 64, segmentation: constant(10), ..Setup::default() };
    let (mut engine, _, many) = setup.chunked();
    for _ in 0..4 {
        engine.push_batch(&[None, Some(Sample::Features(&[1.0, 0.0]))]).unwrap();
    }
    engine.catch_up(Backlog::Features(&[0.5; 2 * 25 * 2]), &mut Vec::new()).unwrap();
    assert_eq!(*many.runs.borrow(), [6, 4, 6, 4, 5]);
}

#[test]
fn what_runs_past_a_surprise_is_run_again() {
    let setup = Setup { chunk: 16, segmentation: surprise(), init: "restart", ..Setup::default() };
    let (mut engine, _, many) = setup.chunked();
    let mut naive = Naive::new(&setup, 0);
    let xs = [xs(9, 100)];
    let mut found = Vec::new();
    engine.catch_up(Backlog::Features(&backlog(&xs)), &mut found).unwrap();
    let expected: Vec<f32> = xs[0].iter().flat_map(|&x| naive.push(x)).collect();
    assert_near(&found, &expected, 1e-4, "surprise");
    assert_eq!(tokens_by_age(&engine, 0), naive.tokens());
    let runs = many.runs.borrow();
    assert!(runs.windows(2).any(|pair| pair[0] == 11 && pair[1] < 11), "{runs:?}");
    assert!(runs.iter().sum::<usize>() > 100, "{runs:?}");
}

#[test]
fn without_a_graph_for_chunks_a_backlog_is_stepped() {
    let setup = Setup { chunk: 16, segmentation: constant(50), ..Setup::default() };
    let ((mut engine, control), mut naive) = (setup.engine(), Naive::new(&setup, 0));
    let xs = [xs(1, 30)];
    let mut found = Vec::new();
    engine.catch_up(Backlog::Features(&backlog(&xs)), &mut found).unwrap();
    let expected: Vec<f32> = xs[0].iter().flat_map(|&x| naive.push(x)).collect();
    assert_near(&found, &expected, 1e-4, "steps");
    assert_eq!(*control.runs.borrow(), [1; 30]);
}

#[test]
fn a_backlog_that_fails_keeps_what_came_before_the_fault() {
    let setup = Setup { chunk: 4, segmentation: constant(6), ..Setup::default() };
    let xs = [xs(3, 20)];
    let all = backlog(&xs);
    for runs in 0..5 {
        let ((mut sure, _), (mut flaky, _, many)) = (setup.engine(), setup.chunked());
        let expected: Vec<f32> = (0..20).flat_map(|token| step(&mut sure, &xs, token)).collect();
        let mut found = Vec::new();
        // Pieces of 4, 2, 4, 2, …
        let done: usize = (0..runs).map(|run| if run % 2 == 0 { 4 } else { 2 }).sum();
        flaky.catch_up(Backlog::Features(&all[..done * 2]), &mut found).unwrap();
        many.fails.set(true);
        let error = flaky.catch_up(Backlog::Features(&all[done * 2..]), &mut found).unwrap_err();
        assert!(matches!(error, Error::Backend { .. }));
        assert_eq!((found.len(), flaky.tokens()), (done * O, done as u64));
        flaky.catch_up(Backlog::Features(&all[done * 2..]), &mut found).unwrap();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_backlog_stops_at_a_token_outside_the_vocabulary() {
    let setup = Setup { chunk: 4, batch: 2, tokens: true, segmentation: constant(6), ..Setup::default() };
    let ((mut steps, _), (mut chunks, _, _)) = (setup.engine(), setup.chunked());
    let mut tokens: Vec<i64> = (0..18).map(|t| t * 7 % 10).collect();
    tokens[9 + 5] = 10;
    let mut found = Vec::new();
    let error = chunks.catch_up(Backlog::Tokens(&tokens), &mut found).unwrap_err();
    let Error::Stream { stream: 1, source } = error else { panic!("{error}") };
    assert!(matches!(*source, Error::Token { found: 10, vocab_size: 10 }));
    let mut expected = Vec::new();
    for t in 0..5 {
        let samples = [tokens[t], tokens[9 + t]].map(|token| Some(Sample::Token(token)));
        expected.extend_from_slice(steps.push_batch(&samples).unwrap());
    }
    assert_eq!(found, expected);
    assert_eq!(chunks.tokens(), 10);
    assert!(matches!(
        chunks.catch_up(Backlog::Tokens(&tokens[..3]), &mut found),
        Err(Error::Backlog { found: 3, multiple: 2 })
    ));
    assert!(matches!(chunks.catch_up(Backlog::Features(&[]), &mut found), Err(Error::Kind { .. })));
    assert_eq!((chunks.tokens(), found.len()), (10, expected.len()));
}

#[test]
fn some_streams_catch_up_and_the_others_stay() {
    for (seed, one) in (0..).zip(setups()) {
        let setup = Setup { batch: 3, chunk: 7, gates: false, ..one };
        let ((mut steps, _), (mut chunks, _, _)) = (setup.engine(), setup.chunked());
        for who in [[true, false, true], [false, true, false], [true; 3], [false; 3], [true, true, false]] {
            // What a stream that stays is given is not looked at.
            let xs: Vec<Vec<f32>> =
                (0..3).map(|b| if who[b] { xs(seed + b as u32, 9) } else { vec![f32::NAN; 9] }).collect();
            let mut found = Vec::new();
            chunks.catch_up_some(&who, Backlog::Features(&backlog(&xs)), &mut found).unwrap();
            for token in 0..9 {
                let features: Vec<_> = xs.iter().map(|xs| [xs[token], 0.0]).collect();
                let samples: Vec<_> =
                    (0..3).map(|b| who[b].then_some(Sample::Features(&features[b]))).collect();
                let expected = steps.push_batch(&samples).unwrap();
                for b in (0..3).filter(|&b| who[b]) {
                    assert_eq!(
                        part(&found[token * 3 * O..][..3 * O], b, 3),
                        part(expected, b, 3),
                        "{setup:?}"
                    );
                }
            }
            (0..3).for_each(|b| assert_eq!(chunks.tokens_of(b), steps.tokens_of(b)));
        }
        assert_eq!(chunks.cache().tensors(), steps.cache().tensors());
    }
    let mut engine = Setup { batch: 2, ..Setup::default() }.engine().0;
    let wrong = engine.catch_up_some(&[true], Backlog::Features(&[]), &mut Vec::new());
    assert!(matches!(wrong, Err(Error::Batch { found: 1, expected: 2 })));
}

#[test]
fn a_chunk_that_diverges_past_a_segments_end_is_none_of_the_streams() {
    let setup = Setup { chunk: 16, segmentation: surprise(), init: "restart", ..Setup::default() };
    let ((mut steps, _), (mut chunks, _, many)) = (setup.engine(), setup.chunked());
    let mut xs = [xs(2, 10)];
    // Ends the segment and is forgotten with it.
    xs[0][6] = FUSE;
    let mut found = Vec::new();
    chunks.catch_up(Backlog::Features(&backlog(&xs)), &mut found).unwrap();
    let expected: Vec<f32> = (0..10).flat_map(|token| step(&mut steps, &xs, token)).collect();
    assert_eq!(found, expected);
    assert!(!many.runs.borrow().is_empty());
}

#[test]
fn the_gates_after_a_backlog_are_those_of_its_last_token() {
    let setup = Setup { chunk: 5, batch: 2, segmentation: constant(5), gates: true, ..Setup::default() };
    let ((mut steps, _), (mut chunks, _, many)) = (setup.engine(), setup.chunked());
    for seed in 0..6 {
        let xs = [xs(seed, 8), xs(seed + 10, 8)];
        chunks.catch_up(Backlog::Features(&backlog(&xs)), &mut Vec::new()).unwrap();
        (0..8).for_each(|token| drop(step(&mut steps, &xs, token)));
        for stream in 0..2 {
            assert!(chunks.gates(stream).eq(steps.gates(stream)));
        }
    }
    assert!(many.runs.borrow().len() > 6);
}
