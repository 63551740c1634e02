//! Pictures of a bench, as SVG: what they share. Colours are classes, which the page gives by light and dark; a picture that
//! stands alone brings its own.

use std::fmt::Write;

use self::axis::Axis;
use super::record::Record;
use crate::svg::{self, escape};

mod axis;
mod latency;
mod spread;

pub use self::latency::{floor_us, groups, latency};
pub use self::spread::{histogram, timeline};

/// The classes of a picture in light colours, each at least 3:1 on white.
pub const LIGHT: &str = ".grid{stroke:#e3e3e3}.axis{stroke:#8a8a8a}.text{fill:#333}.muted{fill:#666}.paper{fill:#fff}\
.floor{color:#666}.mark{color:#b3261e}.end{color:#8a6100}\
.s0{color:#0072b2}.s1{color:#c44e00}.s2{color:#00805e}.s3{color:#a23b72}\
.s4{color:#8a6100}.s5{color:#5b4bb0}.s6{color:#4d4d4d}.s7{color:#b3261e}";
/// The same in dark colours.
pub const DARK: &str = ".grid{stroke:#3a3d42}.axis{stroke:#7d828a}.text{fill:#e3e3e3}.muted{fill:#a8adb5}.paper{fill:#1b1d21}\
.floor{color:#a8adb5}.mark{color:#ff8a80}.end{color:#e6c34a}\
.s0{color:#56b4e9}.s1{color:#ff9a4d}.s2{color:#3fd0a4}.s3{color:#e58fc0}\
.s4{color:#e6c34a}.s5{color:#b0a5ff}.s6{color:#c8c8c8}.s7{color:#ff8a80}";
/// Dashes of the lines, for those who see colours differently: with the marks they are told apart without any.
const DASHES: [&str; 8] = ["none", "8 4", "2 3", "10 3 2 3", "5 3", "12 5", "1 4", "6 2 2 2 2 2"];

/// A picture's size and its text's, pixels.
#[derive(Clone, Copy)]
pub struct Size {
    /// Across.
    pub width: f64,
    /// Down.
    pub height: f64,
    /// Of the text.
    pub font: f64,
}

/// What the lines are drawn in, pixels.
#[derive(Clone, Copy)]
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn across(&self) -> (f64, f64) {
        (self.left, self.right)
    }

    fn up(&self) -> (f64, f64) {
        (self.bottom, self.top)
    }
}

/// A picture for a README: latency against fill, a panel a setting, on white.
pub fn latency_svg(record: &Record) -> String {
    let groups = groups(&record.runs);
    let size = Size { width: 720.0, height: 420.0, font: 16.0 };
    let height = (size.height as usize + 34) * groups.len() + 40;
    let title = format!("Latency of {} against live checkpoints", record.model.name);
    let mut svg = svg::start(size.width as usize, height, size.font as usize, &title);
    let _ = write!(svg, "<style>{LIGHT}</style>");
    let machine = format!("{}, {}", record.model.name, record.machine.cpu);
    label(&mut svg, (12.0, 26.0), "start", "text", &machine);
    for (place, (setting, runs)) in groups.iter().enumerate() {
        let top = 40.0 + place as f64 * (size.height + 34.0);
        label(&mut svg, (12.0, top + 20.0), "start", "muted", setting);
        let _ = write!(svg, "<g transform=\"translate(0 {})\">{}</g>", top + 26.0, latency(runs, size));
    }
    svg.push_str("</svg>\n");
    svg
}

/// A picture's beginning; `</svg>` ends it.
fn open(size: Size, title: &str) -> String {
    let Size { width, height, font } = size;
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" font-size=\"{font}\" role=\"img\">\
         <title>{}</title>",
        escape(title)
    )
}

/// Writes `text` with its baseline at a point; `anchor` is what of it is there: `start`, `middle` or `end`.
fn label(svg: &mut String, (x, y): (f64, f64), anchor: &str, class: &str, text: &str) {
    let _ = write!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\" stroke=\"none\">{}</text>",
        escape(text)
    );
}

/// About how wide a text is.
fn text_width(text: &str, font: f64) -> f64 {
    0.58 * font * text.chars().count() as f64
}

fn path(svg: &mut String, class: &str, d: &str) {
    let _ = write!(svg, "<path class=\"{class}\" fill=\"none\" d=\"{d}\"/>");
}

/// The frame, lines across it at the axis's values up, and what they are.
fn draw_up(svg: &mut String, frame: Frame, font: f64, axis: &Axis, name: fn(f64) -> String) {
    for &tick in axis.ticks() {
        let y = axis.at(tick);
        path(svg, "grid", &format!("M{:.1} {y:.1}H{:.1}", frame.left, frame.right));
        label(svg, (frame.left - 6.0, y + font / 3.0), "end", "muted", &name(tick));
    }
    path(
        svg,
        "axis",
        &format!("M{0:.1} {1:.1}V{2:.1}H{3:.1}", frame.left, frame.top, frame.bottom, frame.right),
    );
}

/// Lines up at values across, with those labels that have room: the ends first, for they tell the most.
fn draw_across(svg: &mut String, frame: Frame, font: f64, places: &[(f64, String)]) {
    let mut taken: Vec<(f64, f64)> = Vec::new();
    let order = places.last().into_iter().chain(places.iter().take(places.len().saturating_sub(1)));
    for (x, name) in order {
        path(svg, "axis", &format!("M{x:.1} {:.1}v4", frame.bottom));
        let half = text_width(name, font) / 2.0;
        let middle = x.min(frame.right + 12.0 - half);
        let is_free =
            taken.iter().all(|(left, right)| middle + half + 5.0 < *left || middle - half - 5.0 > *right);
        if is_free {
            label(svg, (middle, frame.bottom + 5.0 + font), "middle", "muted", name);
            taken.push((middle - half, middle + half));
        }
    }
}

/// A mark of one of eight shapes.
fn mark(svg: &mut String, shape: usize, (x, y): (f64, f64), r: f64) {
    let d = match shape % DASHES.len() {
        0 => format!("M{:.1} {y:.1}a{r} {r} 0 1 0 {1} 0a{r} {r} 0 1 0 -{1} 0z", x - r, 2.0 * r),
        1 => format!("M{:.1} {:.1}h{2}v{2}h-{2}z", x - r, y - r, 2.0 * r),
        2 => format!("M{x:.1} {:.1}l{1} {2}h-{2}z", y - r, r, 2.0 * r),
        3 => format!("M{x:.1} {:.1}l{r} {r}l-{r} {r}l-{r} -{r}z", y - r),
        4 => format!("M{x:.1} {:.1}l{1} -{2}h-{2}z", y + r, r, 2.0 * r),
        5 => format!("M{:.1} {:.1}l{2} {2}M{0:.1} {3:.1}l{2} -{2}", x - r, y - r, 2.0 * r, y + r),
        6 => format!("M{:.1} {y:.1}h{1}M{x:.1} {2:.1}v{1}", x - r, 2.0 * r, y - r),
        _ => format!("M{:.1} {:.1}h{2}l-{2} {2}h{2}l-{2} -{2}z", x - r, y - r, 2.0 * r),
    };
    let _ = write!(svg, "<path class=\"paper\" stroke=\"currentColor\" stroke-width=\"1.8\" d=\"{d}\"/>");
}

/// µs with the unit that suits them: `50 µs`, `1.5 ms`, `2 s`.
fn duration(us: f64) -> String {
    let (value, unit) = match us {
        us if us >= 1e6 => (us / 1e6, "s"),
        us if us >= 1e3 => (us / 1e3, "ms"),
        us if us >= 1.0 || us == 0.0 => (us, "µs"),
        us => (us * 1e3, "ns"),
    };
    // Three digits, without zeros at the end.
    let text = format!(
        "{value:.*}",
        if value >= 100.0 {
            0
        } else if value >= 10.0 {
            1
        } else {
            2
        }
    );
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

#[cfg(test)]
mod tests;
