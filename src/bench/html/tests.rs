//! Pages of made-up records.

use super::*;
use crate::bench::made_up::{full, moment, paced, record, run};

/// Elements that have no end.
const VOID: [&str; 1] = ["meta"];

/// Asserts that what is opened is closed, and that nothing is asked of a network.
fn check(html: &str) {
    let mut open = Vec::new();
    for tag in html.split('<').skip(2) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("<{tag}"));
        let name = tag.split(' ').next().unwrap();
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{tag}"),
            None if tag.ends_with('/') || VOID.contains(&name) => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for odd in ["http", "src=", "url(", "@import", "<script", "<link", "NaN", "inf "] {
        assert!(!html.contains(odd), "{odd}");
    }
}

#[test]
fn a_record_of_any_kind_has_a_page() {
    let many = (0..40).map(|i| full(["tract", "ort"][i % 2], i / 2, 40.0 + i as f64, 300, 0.0)).collect();
    let mut nothing = run("tract", 0, &[]);
    (nothing.ordinary, nothing.tokens_per_second) = (Latency::default(), 0.0);
    let mut warm = record(vec![paced(full("tract", 64, 161.0, 500, 0.0), 1000.0, 2)]);
    warm.conditions = vec![moment(0.0, &[]), moment(20.0, &["under-voltage"])];
    for record in [record(Vec::new()), record(vec![nothing]), record(many), warm] {
        check(&page(&record));
    }
}

#[test]
fn what_a_record_says_is_no_markup() {
    let nasty = "</style><script>alert(1)</script><img src=x onerror='a'>\"&\u{1b}";
    let mut run = paced(full("tract", 64, 161.0, 500, 0.0), 1000.0, 2);
    for text in [&mut run.backend, &mut run.kernels, &mut run.device, &mut run.cache_dtype] {
        *text = nasty.into();
    }
    run.check.against = vec![nasty.into()];
    let mut record = record(vec![run]);
    record.conditions = vec![moment(0.0, &[nasty])];
    record.conditions[0].temperature_c[0].0 = nasty.into();
    record.conditions[0].power_w[0].0 = nasty.into();
    let machine = &mut record.machine;
    for text in [&mut machine.cpu, &mut machine.architecture, &mut machine.instructions, &mut machine.os] {
        *text = nasty.into();
    }
    for text in [&mut machine.hypervisor, &mut machine.governor, &mut machine.onnxruntime] {
        *text = Some(nasty.into());
    }
    for text in [
        &mut record.date,
        &mut record.version,
        &mut record.model.name,
        &mut record.model.digest,
        &mut record.command[1],
    ] {
        *text = nasty.into();
    }
    for html in [page(&record), plot::latency_svg(&record)] {
        assert!(!html.contains("<script") && !html.contains("<img") && !html.contains('\u{1b}'));
        assert_eq!(html.matches("</style>").count(), 1);
        assert!(html.contains("&lt;script&gt;"));
        // Nor is it in a tag: none has a quote of its own.
        assert!(html.split('<').skip(1).all(|tag| !tag.split('>').next().unwrap().contains("alert")));
    }
}

#[test]
fn the_numbers_are_on_the_page() {
    let mut run = full("tract", 64, 161.0, 500, 0.0);
    run.ordinary =
        Latency { count: 1492, min: 150.0, p50: 161.0, p90: 170.0, p99: 180.0, p999: 190.0, max: 2000.0 };
    run.touched = super::super::record::Touched { weights: 1_000_000, state: 0, cache: 1_012_500 };
    let html = page(&record(vec![run]));
    for part in [
        "<b>161.0 µs</b><span>p50 with 64 checkpoints</span>",
        "<b>2.000 ×</b>",
        "50.0 %, 2.000 × the floor",
        "<div style=\"width:50.0%\">",
        "<td data-label=\"p99.9\">190.0</td>",
        "<td data-label=\"max\">2000</td>",
        "<a href=\"#run-0\">",
        "id=\"run-0\"",
        "64 tokens",
    ] {
        assert!(html.contains(part), "{part}");
    }
    // Nothing is paced: no such column.
    assert!(!html.contains("data-label=\"missed\""));
}

#[test]
fn what_makes_times_worth_less_is_told_on_top() {
    let mut record = record(vec![full("tract", 64, 161.0, 500, 0.0), full("ort", 64, 161.0, 500, 0.0)]);
    assert!(!page(&record).contains("class=\"notes\""));
    record.runs[0].check.tokens = 0;
    record.runs[1].check.error = 1.0;
    record.conditions = vec![moment(0.0, &["under-voltage"])];
    record.conditions[0].load = Some(3.5);
    record.machine.hypervisor = Some("kvm".into());
    record.machine.governor = Some("powersave".into());
    let html = page(&record);
    for part in [
        "outputs are not checked</li>",
        "outputs are wrong</li>",
        "held down in the bench: under-voltage</li>",
        "hypervisor (kvm)",
        "governor is powersave",
        "load 3.5 on 2 CPUs",
    ] {
        assert!(html.contains(part), "{part}");
    }
}
