//! Records that are made up, held against each other.

use super::super::made_up::{Noise, record, run};
use super::super::record::{Conditions, Paced};
use super::*;

/// The part of `trials` pairs of five rounds that are told to have moved, when `shift` is what moved.
fn found(shift: f64, deviation: f64, trials: usize) -> f64 {
    let mut noise = Noise(7);
    let is_found = |_: &usize| {
        let before = run("tract", 0, &noise.rounds(5, 100.0, deviation));
        let after = run("tract", 0, &noise.rounds(5, 100.0 * (1.0 + shift), deviation));
        let verdict = Pair::new(String::new(), &before, &after).verdict;
        verdict == if shift < 0.0 { Verdict::Faster } else { Verdict::Slower }
            || shift == 0.0 && verdict != Verdict::Same
    };
    (0..trials).filter(is_found).count() as f64 / trials as f64
}

#[test]
fn noise_alone_is_told_to_have_moved_as_rarely_as_is_promised() {
    // Of five and five rounds 2 of 252 deals are as far apart: 0.8 %.
    for deviation in [0.02, 0.1, 0.5] {
        let alarms = found(0.0, deviation, 6_000);
        assert!(alarms <= ALARM, "{alarms} at {deviation}");
        assert!(alarms > 0.004, "{alarms} at {deviation}: the noise is no noise");
    }
}

#[test]
fn a_shift_of_a_tenth_is_found_in_noise_of_a_fiftieth() {
    for shift in [0.1, -0.1] {
        let found = found(shift, 0.02, 1_000);
        assert!(found > 0.95, "{shift}: {found}");
    }
}

#[test]
fn what_moved_by_less_than_a_hundredth_is_left_alone() {
    let (before, after) = (
        run("ort", 4, &[100.0, 100.1, 100.2, 100.3, 100.4]),
        run("ort", 4, &[100.5, 100.6, 100.7, 100.8, 100.9]),
    );
    let pair = Pair::new(String::new(), &before, &after);
    assert!(pair.chance.unwrap() < ALARM);
    assert_eq!(pair.verdict, Verdict::Same);
}

#[test]
fn too_few_rounds_cannot_tell() {
    let verdict = |before: &[f64], after: &[f64]| {
        Pair::new(String::new(), &run("a", 0, before), &run("a", 0, after)).verdict
    };
    assert_eq!(verdict(&[], &[]), Verdict::Unknown);
    assert_eq!(verdict(&[1.0, 1.0], &[2.0; 9]), Verdict::Unknown);
    assert_eq!(verdict(&[1.0, 1.1, 1.2, 1.3], &[2.0, 2.1, 2.2, 2.3]), Verdict::Unknown);
    assert_eq!(verdict(&[1.0, 1.1, 1.2, 1.3, 1.4], &[2.0, 2.1, 2.2, 2.3, 2.4]), Verdict::Slower);
    assert_eq!(verdict(&[1.0; 5], &[f64::NAN; 5]), Verdict::Unknown);
    assert_eq!(verdict(&[0.0; 5], &[0.0; 5]), Verdict::Same);
}

#[test]
fn runs_are_paired_by_all_that_they_are() {
    let rounds = [1.0; 5];
    let of = |change: fn(&mut Run)| {
        let mut run = run("tract", 16, &rounds);
        change(&mut run);
        run
    };
    let plain = of(|_| {});
    let others = [
        of(|run| run.backend = "ort".into()),
        of(|run| run.kernels = "plain".into()),
        of(|run| run.device = "cuda".into()),
        of(|run| run.cache_dtype = "i8".into()),
        of(|run| run.fill = 17),
        of(|run| run.capacity = 64),
        of(|run| run.batch = 2),
        of(|run| run.chunk = 32),
        of(|run| run.threads = 2),
        of(|run| run.paced = Some(Paced { rate_hz: 1000.0, missed: 0, deadlines: 0, jitter_us: 1.0 })),
        of(|run| run.paced = Some(Paced { rate_hz: 100.0, missed: 0, deadlines: 0, jitter_us: 1.0 })),
    ];
    let all: Vec<Run> = others.iter().cloned().chain([plain.clone(), plain.clone()]).collect();
    let comparison = compare(&record(all.clone()), &record(all.iter().rev().cloned().collect()));
    assert_eq!((comparison.pairs.len(), &comparison.alone), (13, &[Vec::new(), Vec::new()]));
    // Each alone has no partner but itself; of two alike one has none.
    for other in others {
        let comparison = compare(&record(vec![plain.clone()]), &record(vec![other.clone()]));
        assert_eq!((comparison.pairs.len(), comparison.alone), (0, [vec![name(&plain)], vec![name(&other)]]));
    }
    let comparison = compare(&record(vec![plain.clone(), plain.clone()]), &record(vec![plain]));
    assert_eq!((comparison.pairs.len(), comparison.alone[0].len()), (1, 1));
}

#[test]
fn apples_and_pears_are_told_on_top() {
    let (before, mut after) =
        (record(vec![run("tract", 0, &[1.0; 5])]), record(vec![run("tract", 0, &[1.0; 5])]));
    after.command[3] = "b.json".into();
    assert!(compare(&before, &after).warnings.is_empty());
    after.version = "0.2.0".into();
    after.machine.cpu = "Pi\u{1b}[2J".into();
    after.machine.governor = Some("performance".into());
    after.model.digest = "def".into();
    after.command[1] = "other".into();
    let moment = |reasons: &[&str]| Conditions {
        throttled: reasons.iter().map(ToString::to_string).collect(),
        ..Conditions::default()
    };
    after.conditions = vec![
        moment(&["throttled since boot"]),
        moment(&["throttled since boot", "under-voltage since boot"]),
    ];
    after.runs[0].check.tokens = 0;
    let comparison = compare(&before, &after);
    assert_eq!(
        comparison.warnings,
        [
            "version: `0.1.0` before, `0.2.0` after",
            "machine cpu: `Xeon` before, `Pi\u{1b}[2J` after",
            "machine governor: `unknown` before, `performance` after",
            "model digest: `abc` before, `def` after",
            "command: `bench model` before, `bench other` after",
            "throttled after: under-voltage",
            "outputs after: 1 of 1 runs are not checked, or wrong",
        ]
    );
    let text = comparison.to_string();
    assert!(text.starts_with("!! NOT LIKE WITH LIKE"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn the_text_tells_what_moved_and_by_how_much() {
    let slow = [110.0, 110.1, 110.2, 110.3, 110.41];
    let fine = [100.0, 100.1, 100.2, 100.3, 100.4];
    let mut ended = run("ort", 64, &fine);
    ended.segment_end = Some(Latency { p50: 200.0, p99: 300.0, ..Latency::default() });
    let before = record(vec![
        run("tract", 64, &fine),
        ended.clone(),
        run("tract", 0, &fine[..2]),
        run("gone", 1, &fine),
    ]);
    let after = record(vec![run("tract", 64, &slow), ended, run("tract", 0, &fine), run("new", 2, &fine)]);
    let comparison = compare(&before, &after);
    let text = comparison.to_string();
    for part in [
        "\nSLOWER (1)\n  tract, fill 64 of 256, f32 cache, batch 1, step, 1 thread\n    p50 100.2 → 110.2 µs +10.0 %, p99 150.3 → 165.3 µs +10.0 %; rounds 100.0 to 100.4 (5) → 110.0 to 110.5 (5), chance 0.008\n",
        "\ndid not move beyond the noise (1)\n  ort, fill 64 of 256",
        "chance 1.000\n    segment ends p50 200.0 → 200.0 µs 0.0 %, p99 300.0 → 300.0 µs 0.0 %\n",
        "\ncannot tell: too few rounds; five before and five after are enough (1)\n  tract, fill 0 of 256",
        "\nonly before (1)\n  gone, fill 1",
        "\nonly after (1)\n  new, fill 2",
        "of 2 judged pairs about 0.02 by chance alone",
    ] {
        assert!(text.contains(part), "{part}\n---\n{text}");
    }
    assert!(!text.contains("faster"), "{text}");
}
