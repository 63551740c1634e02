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

/// Text that is no markup, without the characters that XML 1.0 does not know and other control characters.
pub fn escape(text: &str) -> String {
    let is_known = |char: char| !char.is_control() && !matches!(char, '\u{FFFE}' | '\u{FFFF}');
    let text: String =
        text.chars().map(|char| if is_known(char) { char } else { char::REPLACEMENT_CHARACTER }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_neither_markup_nor_what_xml_forbids() {
        let mut svg = start(1, 1, 1, "a<b>&\u{0}\u{1b}[1m\n\u{FFFE}\u{85}ü");
        assert!(
            svg.contains("<title>a&lt;b&gt;&amp;\u{FFFD}\u{FFFD}[1m\u{FFFD}\u{FFFD}\u{FFFD}ü</title>"),
            "{svg}"
        );
        text(&mut svg, 0, 0, "start", "\u{8}");
        assert!(!svg.contains('\u{8}'), "{svg}");
    }
}
