//! The page's tables. On a narrow screen a row is a card: each cell brings its column's name.

use super::*;

/// A column: its name, and what a run has in it.
type Column = (&'static str, fn(&Run) -> String);

/// The column of names, which may be long.
const AGAINST: &str = "checked against";
/// Columns after the name; those that are empty in all runs are left out.
const COLUMNS: [Column; 18] = [
    ("min", |run| up(run.ordinary.min)),
    ("p50", |run| up(run.ordinary.p50)),
    ("p90", |run| up(run.ordinary.p90)),
    ("p99", |run| words::or_dash(words::p99(&run.ordinary), up)),
    ("p99.9", |run| words::or_dash(words::p999(&run.ordinary), up)),
    ("max", |run| up(run.ordinary.max)),
    ("count", |run| run.ordinary.count.to_string()),
    ("end p50", |run| end(run, |ends| up(ends.p50))),
    ("end p99", |run| end(run, |ends| words::or_dash(words::p99(ends), up))),
    ("tokens/s", |run| words::tokens_per_second(run).map(down).unwrap_or_default()),
    ("× floor", |run| plot::floor_us(run).map(|floor| up(run.ordinary.p50 / floor)).unwrap_or_default()),
    ("bytes", |run| bytes(run.touched.total())),
    ("missed", |run| run.paced.as_ref().map(|paced| paced.missed.to_string()).unwrap_or_default()),
    ("jitter", |run| {
        run.paced.as_ref().map(|_| words::or_dash(words::jitter_us(run), up)).unwrap_or_default()
    }),
    ("load, ms", |run| up(run.load_ms)),
    ("first", |run| up(run.first_us)),
    ("error", |run| words::scientific(run.check.error)),
    (AGAINST, |run| run.check.against.join(", ")),
];

fn end(run: &Run, value: fn(&Latency) -> String) -> String {
    run.segment_end.as_ref().map(value).unwrap_or_default()
}

/// All runs, by their settings; each leads to its pictures.
pub fn runs(html: &mut String, record: &Record) {
    let is_used = |column: &&Column| record.runs.iter().any(|run| !column.1(run).is_empty());
    let columns: Vec<&Column> = COLUMNS.iter().filter(is_used).collect();
    html.push_str("<div class=\"scroll\"><table class=\"cards\"><thead><tr><th class=\"name\">run</th>");
    for (name, _) in &columns {
        let class = if *name == AGAINST { " class=\"name\"" } else { "" };
        let _ = write!(html, "<th{class}>{name}</th>");
    }
    html.push_str("</tr></thead>");
    let index = |run: &Run| record.runs.iter().position(|other| std::ptr::eq(other, run)).unwrap_or_default();
    for (setting, runs) in plot::groups(&record.runs) {
        let span = columns.len() + 1;
        let _ = write!(
            html,
            "<tbody><tr class=\"setting\"><th colspan=\"{span}\">{}</th></tr>",
            escape(&setting)
        );
        for run in runs {
            row(html, run, index(run), &columns);
        }
        html.push_str("</tbody>");
    }
    html.push_str("</table></div>");
}

fn row(html: &mut String, run: &Run, index: usize, columns: &[&Column]) {
    let name = format!("{}, fill {}", series(run), run.fill);
    let _ = write!(html, "<tr><td class=\"name\"><a href=\"#run-{index}\">{}</a></td>", escape(&name));
    for (name, value) in columns {
        let class = if *name == AGAINST { " class=\"long\"" } else { "" };
        let _ = write!(html, "<td{class} data-label=\"{name}\">{}</td>", escape(&value(run)));
    }
    html.push_str("</tr>");
}

/// The machine's moments.
pub fn conditions(html: &mut String, moments: &[Conditions]) {
    if moments.is_empty() {
        return;
    }
    html.push_str("<h3>Conditions</h3><div class=\"scroll\"><table class=\"cards\"><thead><tr>");
    let names = ["at", "clocks, MHz", "temperatures, °C", "held down", "power, W", "load"];
    for name in names {
        let _ = write!(html, "<th class=\"name\">{name}</th>");
    }
    html.push_str("</tr></thead><tbody>");
    for moment in moments {
        html.push_str("<tr>");
        for (name, text) in names.into_iter().zip(moment_cells(moment)) {
            let bad = if name == "held down" && !moment.throttled.is_empty() { " bad" } else { "" };
            let _ = write!(html, "<td class=\"long{bad}\" data-label=\"{name}\">{}</td>", escape(&text));
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
}

fn moment_cells(moment: &Conditions) -> [String; 6] {
    let unknown = |text: String| if text.is_empty() { "unknown".into() } else { text };
    let named = |pairs: &[(String, f64)], places: usize| {
        let pair = |(name, value): &(String, f64)| format!("{name} {value:.places$}");
        pairs.iter().map(pair).collect::<Vec<_>>().join(", ")
    };
    // A machine of 128 CPUs has 128 clocks.
    let clocks = &moment.clock_mhz;
    let (least, most) =
        (clocks.iter().copied().fold(f64::INFINITY, f64::min), clocks.iter().copied().fold(0.0, f64::max));
    let clock = match clocks.len() {
        0 => String::new(),
        _ if least == most => format!("{most:.0}"),
        _ => format!("{least:.0} to {most:.0}"),
    };
    [
        format!("{:.1} s", moment.at_s),
        unknown(clock),
        unknown(named(&moment.temperature_c, 1)),
        if moment.throttled.is_empty() { "not that one knows".into() } else { moment.throttled.join(", ") },
        unknown(named(&moment.power_w, 2)),
        unknown(moment.load.map(|load| load.to_string()).unwrap_or_default()),
    ]
}
