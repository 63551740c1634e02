//! Who was read, as a picture: an SVG heat map of a run's gates, time across and checkpoint age down.

use std::fmt::Write;

use anyhow::{Result, ensure};

use crate::svg::{self, text};

/// Width of a panel's cells, in pixels.
const WIDTH: usize = 960;
/// The most columns of a panel: a longer run has several tokens in each.
const MAX_COLUMNS: usize = 480;
/// The most rows of a panel: a larger cache has several ages in each.
const MAX_ROWS: usize = 64;
/// The least height of a row, in pixels; a panel is at least [`MIN_HEIGHT`] high.
const ROW_HEIGHT: usize = 3;
const MIN_HEIGHT: usize = 72;
/// Space around panels, in pixels.
const LEFT: usize = 76;
const RIGHT: usize = 24;
const TOP: usize = 80;
const GAP: usize = 44;
/// Steps of the colour scale, light to dark; a weight of exactly 0 has none.
const COLOURS: [&str; 9] =
    ["#e3eef9", "#cfe1f2", "#b0d2e7", "#89bfdd", "#5fa6d1", "#3b8bc2", "#206fb2", "#0b559f", "#08306b"];

/// The weights of a run: row-major `[T, L, H, N + 1]` for L blocks that have gates, by age: the online memory, then the
/// checkpoints from the youngest to the oldest, then zeros.
pub struct Gates {
    tokens: usize,
    blocks: usize,
    heads: usize,
    ages: usize,
    weights: Vec<f32>,
}

impl Gates {
    /// The array of an `.npy` file.
    ///
    /// # Errors
    ///
    /// Another number of axes, an empty one, or a number that is no weight.
    pub fn new(shape: &[usize], weights: Vec<f32>) -> Result<Self> {
        let &[tokens, blocks, heads, ages] = shape else {
            anyhow::bail!(
                "has shape {shape:?}, expected [T, blocks, heads, checkpoints + 1] of `run --gates`"
            );
        };
        ensure!(!weights.is_empty(), "has shape {shape:?}: there is nothing to draw");
        let wrong = weights.iter().position(|weight| !(weight.is_finite() && *weight >= 0.0));
        if let Some(index) = wrong {
            anyhow::bail!("has {} at element {index}, expected weights, 0 or more", weights[index]);
        }
        Ok(Self { tokens, blocks, heads, ages, weights })
    }

    /// The picture.
    pub fn svg(&self) -> String {
        let rows = self.ages.min(MAX_ROWS);
        let height = (rows * ROW_HEIGHT).max(MIN_HEIGHT);
        let panels = self.blocks * self.heads;
        let (width, full) = (LEFT + WIDTH + RIGHT, TOP + panels * (height + GAP));
        let title = format!("Weights of the memories read, {} tokens", self.tokens);
        let mut svg = svg::start(width, full, 12, &title);
        let largest = self.weights.iter().copied().fold(0.0, f32::max);
        self.legend(&mut svg, largest);
        for panel in 0..panels {
            let top = TOP + panel * (height + GAP);
            self.panel(&mut svg, panel / self.heads, panel % self.heads, top, height, largest);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String, largest: f32) {
        text(
            svg,
            LEFT,
            22,
            "start",
            "Who was read: time across, age of the checkpoint down, the online memory on top",
        );
        text(svg, LEFT, 44, "start", "weight 0");
        let (size, start) = (16, LEFT + 58);
        for (i, colour) in COLOURS.iter().enumerate() {
            let x = start + i * size;
            let _ =
                writeln!(svg, "<rect x=\"{x}\" y=\"32\" width=\"{size}\" height=\"14\" fill=\"{colour}\"/>");
        }
        text(
            svg,
            start + COLOURS.len() * size + 8,
            44,
            "start",
            &format!("{largest:.3}, by its square root"),
        );
    }

    fn panel(&self, svg: &mut String, block: usize, head: usize, top: usize, height: usize, largest: f32) {
        let (columns, rows) = (self.tokens.min(MAX_COLUMNS), self.ages.min(MAX_ROWS));
        text(svg, LEFT, top - 6, "start", &format!("gates {block}, head {head}"));
        let (dx, dy) = (WIDTH as f64 / columns as f64, height as f64 / rows as f64);
        let mut paths = vec![String::new(); COLOURS.len()];
        for row in 0..rows {
            let levels: Vec<Option<usize>> = (0..columns)
                .map(|column| level(self.mean(block, head, column, columns, row, rows), largest))
                .collect();
            for (start, end, level) in runs(&levels) {
                let (x, y) = (LEFT as f64 + start as f64 * dx, top as f64 + row as f64 * dy);
                let _ =
                    write!(paths[level], "M{x:.1} {y:.1}h{:.1}v{dy:.1}h-{0:.1}z", (end - start) as f64 * dx);
            }
        }
        for (path, colour) in paths.iter().zip(COLOURS).filter(|(path, _)| !path.is_empty()) {
            let _ = writeln!(svg, "<path fill=\"{colour}\" shape-rendering=\"crispEdges\" d=\"{path}\"/>");
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{height}\" fill=\"none\" stroke=\"#999\"/>"
        );
        text(svg, LEFT - 6, top + 10, "end", "online");
        text(svg, LEFT - 6, top + height, "end", &format!("{} back", self.ages - 1));
        text(svg, LEFT, top + height + 15, "start", "token 0");
        text(svg, LEFT + WIDTH, top + height + 15, "end", &format!("token {}", self.tokens - 1));
    }

    /// The mean weight of a cell of the panel, over its tokens and ages.
    fn mean(&self, block: usize, head: usize, column: usize, columns: usize, row: usize, rows: usize) -> f32 {
        let tokens = column * self.tokens / columns..(column + 1) * self.tokens / columns;
        let ages = row * self.ages / rows..(row + 1) * self.ages / rows;
        let count = (tokens.len() * ages.len()) as f32;
        let of_token = |token: usize| {
            let start = ((token * self.blocks + block) * self.heads + head) * self.ages;
            self.weights[start + ages.start..start + ages.end].iter().sum::<f32>()
        };
        tokens.map(of_token).sum::<f32>() / count
    }
}

/// The colour of a weight; none of exactly 0. On a scale of square roots: most weights are far below the largest, which
/// is the online memory's while there is nothing else to read.
fn level(weight: f32, largest: f32) -> Option<usize> {
    let level = ((weight / largest).sqrt() * COLOURS.len() as f32) as usize;
    (weight > 0.0).then_some(level.min(COLOURS.len() - 1))
}

/// Neighbours of one level: `start..end` and the level.
fn runs(levels: &[Option<usize>]) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for (column, level) in levels.iter().enumerate() {
        match (level, runs.last_mut()) {
            (Some(level), Some((_, end, last))) if *end == column && last == level => *end += 1,
            (Some(level), _) => runs.push((column, column + 1, *level)),
            (None, _) => {}
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_cell_at_its_token_and_age() {
        let mut weights = vec![0.0; 4 * 2 * 5];
        // Token 3, head 1, age 2.
        weights[(3 * 2 + 1) * 5 + 2] = 0.5;
        let svg = Gates::new(&[4, 1, 2, 5], weights).unwrap().svg();
        let (x, y) = (LEFT as f64 + 3.0 * 240.0, (TOP + MIN_HEIGHT + GAP) as f64 + 2.0 * 14.4);
        assert!(svg.contains(&format!("d=\"M{x:.1} {y:.1}h240.0v14.4h-240.0z\"")), "{svg}");
        assert_eq!(svg.matches("<path").count(), 1);
    }

    #[test]
    fn a_long_run_of_a_large_cache_is_averaged_and_stays_small() {
        let (tokens, ages) = (10_000, 257);
        let weights = (0..tokens * ages).map(|i| if i % ages == 0 { 1.0 } else { 0.0 }).collect();
        let svg = Gates::new(&[tokens, 1, 1, ages], weights).unwrap().svg();
        // Four ages a row: the online memory's row is a quarter of it, one run of one colour.
        assert_eq!(svg.matches("<path").count(), 1);
        assert!(svg.len() < 4_000, "{} bytes", svg.len());
    }

    #[test]
    fn what_is_no_array_of_weights_is_an_error() {
        let error = |shape: &[usize], weights| Gates::new(shape, weights).err().unwrap().to_string();
        assert!(error(&[3, 2], vec![0.0; 6]).contains("[3, 2]"));
        assert!(error(&[0, 1, 1, 2], vec![]).contains("nothing to draw"));
        assert!(error(&[1, 1, 1, 2], vec![0.5, f32::NAN]).contains("NaN at element 1"));
    }
}
