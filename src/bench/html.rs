//! A record as one page: HTML with its style and its pictures in it, which asks nothing of a network and runs no script.
//!
//! What comes from a record stands between tags alone, escaped: never in a tag, a style or an attribute.

use std::fmt::Write;

use super::conditions::held_down;
use super::plot::{self, DARK, LIGHT, Size};
use super::record::{Conditions, Latency, Machine, Record, Run};
use super::words::{self, bytes, down, series, up};
use crate::svg::escape;

mod table;

const STYLE: &str = include_str!("html/style.css");
/// The pictures' sizes: about as wide as a telephone, so that text is as large there as it is meant.
const LATENCY: Size = Size { width: 400.0, height: 300.0, font: 12.0 };
/// Where there is room and nothing else to see.
const WIDE: Size = Size { width: 860.0, height: 400.0, font: 14.0 };
const SPREAD: Size = Size { width: 340.0, height: 210.0, font: 11.0 };

/// The page.
pub fn page(record: &Record) -> String {
    let mut html = String::with_capacity(1 << 16);
    head(&mut html, record);
    notes(&mut html, record);
    tiles(&mut html, record);
    latency(&mut html, record);
    floors(&mut html, record);
    section(
        &mut html,
        "Runs",
        "Times in µs, of one run of the graph: a step, or a chunk, of all streams of the batch. Those that end a segment are apart, as end.",
    );
    table::runs(&mut html, record);
    spread(&mut html, record);
    machine(&mut html, record);
    html.push_str("</body></html>\n");
    html
}

fn head(html: &mut String, record: &Record) {
    let model = escape(&record.model.name);
    let _ = write!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{model} – mcedge bench</title><style>{STYLE}{LIGHT}.paper{{fill:var(--card)}}figure .paper{{fill:var(--paper)}}\
         @media(prefers-color-scheme:dark){{{DARK}.paper{{fill:var(--card)}}figure .paper{{fill:var(--paper)}}}}</style></head><body>\
         <h1>Latency of {model}</h1>"
    );
    let text = format!(
        "{} on {}, mcedge {}, {}",
        record.date,
        record.machine.cpu,
        record.version,
        counted(record.runs.len(), "run")
    );
    let _ = write!(html, "<p class=\"quiet\">{}</p>", escape(&text));
    let _ = write!(html, "<p><code>mcedge {}</code></p>", escape(&record.command.join(" ")));
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn section(html: &mut String, title: &str, what: &str) {
    let _ = write!(html, "<h2>{}</h2><p class=\"quiet\">{}</p>", escape(title), escape(what));
}

/// What makes the times worth less.
fn notes(html: &mut String, record: &Record) {
    let unchecked = record.runs.iter().filter_map(unchecked);
    let reasons: Vec<&str> = held_down(&record.conditions).into_iter().collect();
    let slowed = (!reasons.is_empty())
        .then(|| format!("The clock was held down in the bench: {}", reasons.join(", ")));
    let notes: Vec<String> = unchecked.chain(slowed).chain(disturbed(record)).collect();
    if notes.is_empty() {
        return;
    }
    html.push_str("<ul class=\"notes\">");
    for note in notes {
        let _ = write!(html, "<li>{}</li>", escape(&note));
    }
    html.push_str("</ul>");
}

fn unchecked(run: &Run) -> Option<String> {
    let what = match run.check.tokens {
        0 => "not checked",
        _ if run.check.error <= run.check.tolerance => return None,
        _ => "wrong",
    };
    Some(format!("{}: the outputs are {what}", words::name(run)))
}

/// What else has the processor, or slows it.
fn disturbed(record: &Record) -> Vec<String> {
    let Machine { hypervisor, governor, cpus, .. } = &record.machine;
    let shared = hypervisor.as_ref().map(|name| {
        format!("On a hypervisor ({name}): it takes the processor away at times, and the longest times tell of that too")
    });
    let governor = governor.as_ref().filter(|governor| *governor != "performance");
    let governed =
        governor.map(|governor| format!("The frequency governor is {governor}: clocks follow the load"));
    let load =
        record.conditions.first().and_then(|first| first.load).filter(|load| *load > 0.5 * *cpus as f64);
    let cpus = counted(*cpus, "CPU");
    let busy = load.map(|load| format!("The machine was busy when the bench began: load {load} on {cpus}"));
    [shared, governed, busy].into_iter().flatten().collect()
}

/// The numbers that a reader wants first: of the first setting, the fastest at the least and at the largest fill.
fn tiles(html: &mut String, record: &Record) {
    html.push_str("<div class=\"tiles\">");
    if let Some((setting, runs)) = plot::groups(&record.runs).first() {
        let fills = runs.iter().map(|run| run.fill);
        let mut ends = vec![fills.clone().min().unwrap_or_default(), fills.max().unwrap_or_default()];
        ends.dedup();
        for fill in ends {
            fastest(html, setting, runs, fill);
        }
    }
    rest(html, record);
    html.push_str("</div>");
}

fn fastest(html: &mut String, setting: &str, runs: &[&Run], fill: usize) {
    let of_fill: Vec<&&Run> = runs.iter().filter(|run| run.fill == fill && run.ordinary.count > 0).collect();
    let Some(run) = of_fill.iter().min_by(|a, b| a.ordinary.p50.total_cmp(&b.ordinary.p50)) else { return };
    let name = match of_fill.len() {
        1 => series(run),
        others => format!("{}, fastest of {others}", series(run)),
    };
    tile(
        html,
        &format!("{} µs", up(run.ordinary.p50)),
        &format!("p50 with {}", counted(fill, "checkpoint")),
        &format!(
            "{name}; p99 {} µs{}. {setting}",
            words::or_dash(words::p99(&run.ordinary), up),
            words::tokens_per_second(run)
                .map(|rate| format!("; {} tokens/s", down(rate)))
                .unwrap_or_default()
        ),
    );
    if let Some(floor) = plot::floor_us(run) {
        tile(
            html,
            &format!("{} ×", up(run.ordinary.p50 / floor)),
            &format!("the bandwidth floor with {}", counted(fill, "checkpoint")),
            &format!(
                "{} at {} GB/s take {} µs at least",
                bytes(run.touched.total()),
                down(run.bandwidth_bytes_per_second / 1e9),
                down(floor)
            ),
        );
    }
}

fn rest(html: &mut String, record: &Record) {
    let paced: Vec<&Run> = record.runs.iter().filter(|run| run.paced.is_some()).collect();
    let missed: u64 = paced.iter().filter_map(|run| run.paced.as_ref()).map(|paced| paced.missed).sum();
    if !paced.is_empty() {
        let of: u64 = paced.iter().filter_map(|run| run.paced.as_ref()).map(|paced| paced.deadlines).sum();
        tile(
            html,
            &missed.to_string(),
            "deadlines missed",
            &format!("of {of}, in {}", counted(paced.len(), "paced run")),
        );
    }
    let resident = record.runs.iter().filter_map(|run| run.resident_bytes).max();
    if let Some(resident) = resident {
        tile(html, &bytes(resident), "resident memory", "of the process, with all that ran");
    }
    let tokens: u64 = record.runs.iter().map(|run| run.check.tokens).sum();
    let part = record.runs.iter().map(|run| run.check.error / run.check.tolerance).fold(0.0, f64::max);
    let error = format!("of all runs; the largest error is {} % of what it may be", up(100.0 * part));
    tile(html, &tokens.to_string(), "tokens checked", if tokens > 0 { &error } else { "in no run" });
}

fn tile(html: &mut String, number: &str, what: &str, more: &str) {
    let _ = write!(
        html,
        "<div class=\"tile\"><b>{}</b><span>{}</span><span class=\"quiet\">{}</span></div>",
        escape(number),
        escape(what),
        escape(more)
    );
}

fn latency(html: &mut String, record: &Record) {
    section(
        html,
        "Latency against fill",
        "p50 of the ordinary runs, with a whisker to p99. The floor is what the bytes of weights, state and live cache take at \
         one core's bandwidth, measured in the same process.",
    );
    let groups = plot::groups(&record.runs);
    if let [only] = groups.as_slice() {
        figure(html, "wide", WIDE, only);
        figure(html, "narrow", LATENCY, only);
        return;
    }
    html.push_str("<div class=\"plots\">");
    groups.iter().for_each(|group| figure(html, "", LATENCY, group));
    html.push_str("</div>");
}

fn figure(html: &mut String, class: &str, size: Size, (setting, runs): &(String, Vec<&Run>)) {
    let picture = plot::latency(runs, size);
    let _ = write!(
        html,
        "<figure class=\"{class}\"><figcaption>{}</figcaption>{picture}</figure>",
        escape(setting)
    );
}

/// How near each run is to the floor: a bar that is full at it.
fn floors(html: &mut String, record: &Record) {
    section(
        html,
        "Distance from the bandwidth floor",
        "The part of one core's read bandwidth that a run's p50 makes use of. A full bar is the floor.",
    );
    html.push_str("<div class=\"floors\">");
    for run in &record.runs {
        let name = format!("{}, fill {}", series(run), run.fill);
        let Some(floor) = plot::floor_us(run).filter(|_| run.ordinary.p50 > 0.0) else { continue };
        let part = floor / run.ordinary.p50;
        let touched = &run.touched;
        let _ = write!(
            html,
            "<div><div class=\"what\"><span>{}</span><span>{} %, {} × the floor</span></div>\
             <div class=\"track\"><div style=\"width:{:.1}%\"></div></div><small>{}</small></div>",
            escape(&name),
            percent(part),
            up(1.0 / part),
            (100.0 * part).clamp(0.0, 100.0),
            escape(&format!(
                "{}: weights {}, state {}, cache {}, at {} GB/s {} µs; p50 {} µs",
                words::setting(run),
                bytes(touched.weights),
                bytes(touched.state),
                bytes(touched.cache),
                down(run.bandwidth_bytes_per_second / 1e9),
                down(floor),
                up(run.ordinary.p50)
            ))
        );
    }
    html.push_str("</div>");
}

/// A part in whole tenths of a percent, rounded down.
fn percent(part: f64) -> String {
    format!("{:.1}", (1000.0 * part).floor() / 10.0)
}

/// The spread of each run.
fn spread(html: &mut String, record: &Record) {
    section(
        html,
        "Spread of each run",
        "Left the ordinary runs by time, both axes logarithmic. Right the times in their order, in seconds since the bench began, \
         without the pauses in which other runs had their turn: a bar from the least to the longest in each column; circles are \
         outliers, beyond p99.9 and half again p50; triangles are segment ends.",
    );
    html.push_str("<div class=\"runs\">");
    for (index, run) in record.runs.iter().enumerate() {
        let ends = run.segment_end.as_ref().map(|ends| format!("; segment ends p50 {} µs", up(ends.p50)));
        let text = format!("{}{}", words::setting(run), ends.unwrap_or_default());
        let _ = write!(
            html,
            "<div class=\"run\" id=\"run-{index}\"><h4>{}</h4><p class=\"quiet\">{}</p><div class=\"pair\">{}{}</div></div>",
            escape(&format!("{}, fill {} of {}", series(run), run.fill, run.capacity)),
            escape(&text),
            plot::histogram(run, SPREAD),
            plot::timeline(run, SPREAD)
        );
    }
    html.push_str("</div>");
}

/// The machine, the model, and their conditions.
fn machine(html: &mut String, record: &Record) {
    let Machine {
        cpu,
        architecture,
        cpus,
        instructions,
        memory_bytes,
        os,
        hypervisor,
        governor,
        pinned,
        onnxruntime,
    } = &record.machine;
    let known = |text: &Option<String>| text.clone().unwrap_or_default();
    html.push_str("<h2>Machine and model</h2><dl class=\"facts\">");
    for (name, text) in [
        ("CPU", cpu.clone()),
        ("architecture", architecture.clone()),
        ("CPUs", cpus.to_string()),
        ("instructions", instructions.clone()),
        ("memory", memory_bytes.map(bytes).unwrap_or_default()),
        ("system", os.clone()),
        ("hypervisor", known(hypervisor)),
        ("governor", known(governor)),
        ("pinned to CPU", pinned.map(|cpu| cpu.to_string()).unwrap_or_default()),
        ("ONNX Runtime", known(onnxruntime)),
        ("model", record.model.name.clone()),
        ("parameters", record.model.parameters.to_string()),
        ("segment", record.model.segment.map(|tokens| format!("{tokens} tokens")).unwrap_or_default()),
        ("step graph", format!("sha256 {}", record.model.digest)),
    ] {
        if !text.is_empty() {
            let _ = write!(html, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(&text));
        }
    }
    html.push_str("</dl>");
    table::conditions(html, &record.conditions);
}

#[cfg(test)]
mod tests;
