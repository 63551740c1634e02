//! What the pictures share: an SVG's frame and its text.

use std::fmt::Write;

/// The beginning of a picture of `width` by `height` pixels on white, which scales, with sans-serif text of `font_size`;
/// `</svg>` ends it.
pub fn start(width: usize, height: usize, font_size: usize, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"{font_size}\" fill=\"#333\">\n\
         <title>{}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        escape(title)
    )
}

/// Writes `text` with its baseline at `y`; `anchor` is what of it is at `x`: `start`, `middle` or `end`.
pub fn text(svg: &mut String, x: usize, y: usize, anchor: &str, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>", escape(text));
}

/// Text that is no markup.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
