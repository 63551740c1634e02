//! Numbers that are finite no longer.

use super::toy::{BAD_LOSS, BAD_OUTPUT, Control, FUSE, O};
use super::*;

fn diverged(error: Error) -> (String, u64, Option<usize>) {
    match error {
        Error::Diverged { tensor, token, stream, over: None } => (tensor, token, stream),
        error => panic!("{error}"),
    }
}

#[test]
fn what_is_not_finite_is_named_and_leaves_the_stream_as_it_was() {
    let setup = Setup { segmentation: constant(3), ..Setup::default() };
    let ((mut sure, _), (mut tried, _)) = (setup.engine(), setup.engine());
    for (t, x) in (0..).zip(xs(1, 20)) {
        let error = tried.push(&[f32::INFINITY, 0.0]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("block 0's memory `m` is not finite after token {t}: the model diverges")
        );
        let error = tried.push(&[BAD_OUTPUT, 0.0]).unwrap_err();
        assert_eq!(error.to_string(), format!("`output` is not finite for token {t}: the model diverges"));
        assert_eq!(diverged(error), ("output".into(), t, None));
        assert_eq!(tried.push(&[x, 0.0]).unwrap(), sure.push(&[x, 0.0]).unwrap());
    }
}

#[test]
fn a_loss_that_is_not_finite_is_no_surprise() {
    let setup = Setup { segmentation: surprise(), ..Setup::default() };
    let (mut engine, _) = setup.engine();
    engine.push(&[0.0; 2]).unwrap();
    let error = engine.push(&[BAD_LOSS, 0.0]).unwrap_err();
    assert_eq!(diverged(error), ("surprise".into(), 1, None));
}

#[test]
fn a_stream_of_a_batch_is_named() {
    let setup = Setup { batch: 3, ..Setup::default() };
    let (mut engine, _) = setup.engine();
    engine.push_batch(&[None, Some(Sample::Features(&[1.0, 0.0])), None]).unwrap();
    let error = engine.push_batch(&[
        None,
        Some(Sample::Features(&[f32::NAN, 0.0])),
        Some(Sample::Features(&[f32::NAN, 0.0])),
    ]);
    let error = error.unwrap_err();
    assert!(error.to_string().starts_with("stream 1: block 0's memory `m` is not finite after token 1:"));
    assert_eq!(diverged(error), ("present.0.m".into(), 1, Some(1)));
}

#[test]
fn the_token_of_a_chunk_is_found_and_what_came_before_it_is_committed() {
    let check = |bad: f32, at: usize, expected: (&str, u64)| {
        let setup = Setup { batch: 2, chunk: 8, segmentation: constant(20), ..Setup::default() };
        let ((mut steps, _), (mut chunks, _, many)) = (setup.engine(), setup.chunked());
        let (first, mut second) = (xs(1, 16), xs(2, 16));
        second[at] = bad;
        let all: Vec<f32> = first.iter().chain(&second).flat_map(|&x| [x, 0.0]).collect();
        let mut found = Vec::new();
        let error = chunks.catch_up(Backlog::Features(&all), &mut found).unwrap_err();
        let (tensor, token, stream) = diverged(error);
        assert_eq!((tensor.as_str(), token, stream), (expected.0, expected.1, Some(1)));
        let done = expected.1 as usize;
        assert_eq!([chunks.tokens_of(0), chunks.tokens_of(1)], [expected.1; 2]);
        assert_eq!(found.len(), done * 2 * O);
        for t in 0..done {
            let features = [[first[t], 0.0], [second[t], 0.0]];
            let samples = [Some(Sample::Features(&features[0])), Some(Sample::Features(&features[1]))];
            assert_eq!(steps.push_batch(&samples).unwrap(), &found[t * 2 * O..(t + 1) * 2 * O]);
        }
        assert_eq!(many.runs.borrow().iter().max(), Some(&8));
    };
    check(f32::NAN, 0, ("present.0.m", 0));
    check(f32::NEG_INFINITY, 5, ("present.0.m", 5));
    check(BAD_OUTPUT, 11, ("output", 11));
    check(FUSE, 11, ("present.0.m", 12));
}

/// Each time the stream diverges it goes on as one whose segment had begun there; too often without the end of one, as one at
/// its start with the checkpoints that there are.
#[test]
fn a_stream_that_goes_back_goes_on_from_its_last_good_state() {
    for init in ["continue", "restart"] {
        let setup = Setup { batch: 2, segmentation: constant(5), init, ..Setup::default() };
        let ((mut engine, _), mut naive) = (setup.engine(), Naive::new(&setup, 1));
        let mut other = Naive::new(&setup, 0);
        let (mut random, mut starts) = (Random(7), 0);
        for (t, x) in xs(3, 400).into_iter().enumerate() {
            let pair = |second: f32| [[x, 0.0], [second, 0.0]];
            // Often enough, at last, that no segment ends any more.
            if random.below(if t < 250 { 7 } else { 2 }) == 0 {
                let samples = pair(if random.below(2) == 0 { f32::NAN } else { BAD_OUTPUT });
                let samples = [Some(Sample::Features(&samples[0])), Some(Sample::Features(&samples[1]))];
                assert!(matches!(engine.push_batch(&samples), Err(Error::Diverged { stream: Some(1), .. })));
                let back = engine.roll_back(1);
                assert_eq!(back, naive.go_back(), "{init} {t}");
                starts += usize::from(back == RolledBack::ToStart);
                continue;
            }
            let samples = pair(x);
            let samples = [Some(Sample::Features(&samples[0])), Some(Sample::Features(&samples[1]))];
            let output = engine.push_batch(&samples).unwrap();
            assert_near(&output[..O], &other.push(x), 1e-5, "the other stream");
            assert_near(&output[O..], &naive.push(x), 1e-5, "the stream that goes back");
        }
        assert!(starts > 0, "{init}");
    }
}

#[test]
fn a_norm_past_its_bound_is_divergence() {
    let setup = Setup { segmentation: constant(100), ..Setup::default() };
    let control = Control::default();
    let options = EngineOptions { max_norm: Some(50.0), ..EngineOptions::default() };
    let mut engine = Engine::new(&setup.model(), Toy::new(&setup, &control), options).unwrap();
    let (mut free, _) = setup.engine();
    let mut norms = Vec::new();
    for x in xs(4, 100) {
        let square: f32 = free.push(&[x, 0.0]).unwrap().iter().map(|y| y * y).sum();
        norms.push(square.sqrt());
        match engine.push(&[x, 0.0]) {
            Ok(_) => assert!(norms.iter().all(|&norm| norm <= 50.1), "{norms:?}"),
            Err(error) => {
                let message = error.to_string();
                assert!(
                    message.contains("has norm ") && message.contains("expected 50 at most"),
                    "{message}"
                );
                return;
            }
        }
    }
    panic!("no norm of {norms:?} or of the state has passed the bound");
}

#[test]
fn every_number_that_is_not_finite_is_seen() {
    for length in [1, 3, 8, 100, 1025] {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)] {
            let fine = [0.0, -0.0, f32::MAX, f32::MIN, 1e-45, 1.5];
            let mut cells: Vec<f32> = (0..length).map(|i| fine[i % fine.len()]).collect();
            assert!(outputs::all_finite(&cells));
            for index in [0, length / 2, length - 1] {
                let kept = std::mem::replace(&mut cells[index], bad);
                assert!(!outputs::all_finite(&cells));
                cells[index] = kept;
            }
        }
    }
}
