//! What a `Spec` must be before anything relies on it: values in bounds, and combinations that mean something.

use std::collections::HashSet;

use super::{
    Aggregation, Block, Caching, FORMAT, Head, Init, Input, Memory, Query, Segmentation, Spec, SpecError,
};

/// The largest size of any one dimension: far past what an edge machine holds, near enough to keep products of
/// a few of them inside 64 bits.
pub(crate) const MAX_SIZE: usize = 1 << 20;
const MAX_BLOCKS: usize = 256;
const MAX_DEPTH: usize = 8;
/// The most losses that a segmentation by surprise looks back on: each is read again at every token.
const MAX_WINDOW: usize = 4096;

impl Spec {
    /// Checks a `Spec` that was put together in code.
    ///
    /// # Errors
    ///
    /// As [`Spec::parse`].
    pub fn check(&self) -> Result<(), SpecError> {
        if self.format != FORMAT {
            return Err(SpecError::Format { found: self.format.clone() });
        }
        size("d_model", self.d_model)?;
        self.check_input()?;
        self.check_head()?;
        if self.blocks.is_empty() || self.blocks.len() > MAX_BLOCKS {
            return Err(value("blocks", self.blocks.len(), format!("1 to {MAX_BLOCKS} blocks")));
        }
        for (i, block) in self.blocks.iter().enumerate() {
            block.check(&format!("blocks[{i}]"), self.d_model)?;
            self.check_clock(i)?;
        }
        let surprises = matches!(self.segmentation(), Segmentation::Surprise { .. });
        if surprises && !self.blocks.iter().any(|block| block.memory.has_loss()) {
            let expected = "constant or logarithmic: no block's memory has a loss to be surprised by";
            return Err(value("blocks[0].caching.segmentation.kind", "surprise", expected));
        }
        Ok(())
    }

    fn check_input(&self) -> Result<(), SpecError> {
        match &self.input {
            Input::Features { size: channels, mean, std, names, units, rate_hz } => {
                size("input.size", *channels)?;
                scale("input", *channels, mean, std)?;
                length("input.names", names.len(), *channels)?;
                if let Some((i, expected)) = wrong_name(names) {
                    return Err(value(format!("input.names[{i}]"), format!("{:?}", names[i]), expected));
                }
                length("input.units", units.len(), *channels)?;
                match rate_hz {
                    Some(rate) if !(rate.is_finite() && *rate > 0.0) => {
                        Err(value("input.rate_hz", rate, "a positive number"))
                    }
                    _ => Ok(()),
                }
            }
            Input::Tokens { vocab_size } => size("input.vocab_size", *vocab_size),
        }
    }

    fn check_head(&self) -> Result<(), SpecError> {
        size("head.size", self.head.size())?;
        match &self.head {
            Head::Logits { .. } => Ok(()),
            Head::Regression { size, mean, std } => {
                scale("head", *size, mean, std)?;
                if mean.is_empty() != std.is_empty() {
                    return Err(value("head.mean", mean.len(), "as many numbers as `head.std`"));
                }
                Ok(())
            }
            Head::Classification { size, labels } => length("head.labels", labels.len(), *size),
        }
    }

    /// One clock: every block is cut where block 0 is, and starts its segments alike.
    fn check_clock(&self, i: usize) -> Result<(), SpecError> {
        let (first, caching) = (&self.blocks[0].caching, &self.blocks[i].caching);
        let key = |name| format!("blocks[{i}].caching.{name}");
        if caching.segmentation != first.segmentation {
            let (found, expected) =
                (format!("{:?}", caching.segmentation), format!("{:?}", first.segmentation));
            return Err(value(key("segmentation"), found, format!("that of block 0, {expected}")));
        }
        if caching.init != first.init {
            let (found, expected) = (format!("{:?}", caching.init), format!("{:?}", first.init));
            return Err(value(key("init"), found, format!("that of block 0, {expected}")));
        }
        Ok(())
    }
}

impl Block {
    fn check(&self, at: &str, d_model: usize) -> Result<(), SpecError> {
        let heads = self.num_heads;
        if heads == 0 || heads > d_model || !d_model.is_multiple_of(heads) {
            return Err(value(format!("{at}.num_heads"), heads, format!("a divisor of d_model, {d_model}")));
        }
        if let Some(mlp) = &self.mlp {
            size(&format!("{at}.mlp.width"), mlp.width)?;
        }
        self.memory.check(&format!("{at}.memory"))?;
        self.caching.check(&format!("{at}.caching"), &self.memory)
    }
}

impl Memory {
    pub(crate) fn check(&self, at: &str) -> Result<(), SpecError> {
        let coefficients = match self.deep() {
            // The weights have the letters of the equations, the config has words.
            Some(deep) => vec![("step_size", deep.step_size), ("retention", deep.retention)],
            None => self.coefficients(),
        };
        for (key, coefficient) in coefficients {
            if let Some(found) = coefficient.constant().filter(|x| !x.is_finite()) {
                return Err(value(format!("{at}.{key}"), found, "a finite number"));
            }
        }
        match self {
            Memory::GatedDelta { alpha, beta, .. } => {
                for (name, coefficient) in [("alpha", alpha), ("beta", beta)] {
                    if let Some(found) = coefficient.constant().filter(|&x| !(x > 0.0 && x <= 1.0)) {
                        return Err(value(format!("{at}.{name}"), found, "more than 0, at most 1"));
                    }
                }
            }
            Memory::Attention { window } => size(&format!("{at}.window"), *window)?,
            _ => {}
        }
        let Some(deep) = self.deep() else { return Ok(()) };
        if deep.depth < 2 || deep.depth > MAX_DEPTH {
            return Err(value(format!("{at}.depth"), deep.depth, format!("2 to {MAX_DEPTH}")));
        }
        size(&format!("{at}.width"), deep.width)?;
        if deep.sign.is_some() && matches!(self, Memory::Dla(_)) {
            return Err(value(format!("{at}.sign"), "present", "no such key with `dla`"));
        }
        if !(0.0..1.0).contains(&deep.momentum) {
            return Err(value(format!("{at}.momentum"), deep.momentum, "0 or more, below 1"));
        }
        if deep.retention.constant().is_some_and(|x| !(0.0..=1.0).contains(&x)) {
            return Err(value(format!("{at}.retention"), format!("{:?}", deep.retention), "0 to 1"));
        }
        Ok(())
    }
}

impl Caching {
    pub(crate) fn check(&self, at: &str, memory: &Memory) -> Result<(), SpecError> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(value(format!("{at}.temperature"), self.temperature, "a positive number"));
        }
        match (self.aggregation, self.top_k) {
            (Aggregation::Ssc, Some(1..=MAX_SIZE)) => {}
            (Aggregation::Ssc, Some(found)) => {
                return Err(value(format!("{at}.top_k"), found, format!("1 to {MAX_SIZE}")));
            }
            (Aggregation::Ssc, None) => {
                return Err(value(format!("{at}.top_k"), "absent", "a number, with `ssc`"));
            }
            (_, Some(found)) => return Err(value(format!("{at}.top_k"), found, "no such key without `ssc`")),
            (_, None) => {}
        }
        if self.aggregation == Aggregation::Sigmoid && !memory.is_recurrent() {
            let expected = "a memory of kind gru or lstm with it";
            return Err(value(format!("{at}.aggregation"), "sigmoid", expected));
        }
        if memory.is_recurrent() && self.aggregation.is_gated() && self.query == Query::Q {
            let expected = format!("u: a memory of kind {} has no projection q", memory.kind());
            return Err(value(format!("{at}.query"), "q", expected));
        }
        if matches!(memory, Memory::Attention { .. }) && self.aggregation != Aggregation::None {
            let (found, expected) = (format!("{:?}", self.aggregation), "none: attention has no checkpoints");
            return Err(value(format!("{at}.aggregation"), found.to_lowercase(), expected));
        }
        self.segmentation.check(&format!("{at}.segmentation"))?;
        let merges = self.segmentation == (Segmentation::Logarithmic {}) && self.init == Init::Restart;
        if merges && self.aggregation != Aggregation::None && !matches!(memory, Memory::Linear { .. }) {
            let expected =
                "`continue`: logarithmic segments merge, and only linear states of restarted segments add";
            return Err(value(format!("{at}.init"), "restart", expected));
        }
        Ok(())
    }
}

impl Segmentation {
    pub(crate) fn check(&self, at: &str) -> Result<(), SpecError> {
        let at = |name: &str| format!("{at}.{name}");
        match *self {
            Segmentation::Constant { size: tokens } => size(&at("size"), tokens),
            Segmentation::Logarithmic {} => Ok(()),
            Segmentation::Surprise { window, threshold, min_size, max_size } => {
                if !(2..=MAX_WINDOW).contains(&window) {
                    return Err(value(at("window"), window, format!("2 to {MAX_WINDOW}")));
                }
                if !threshold.is_finite() {
                    return Err(value(at("threshold"), threshold, "a finite number"));
                }
                size(&at("min_size"), min_size)?;
                size(&at("max_size"), max_size)?;
                if min_size > max_size {
                    return Err(value(at("min_size"), min_size, format!("at most `max_size`, {max_size}")));
                }
                Ok(())
            }
        }
    }
}

fn value(key: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> SpecError {
    SpecError::Value { key: key.into(), found: found.to_string(), expected: expected.into() }
}

fn size(key: &str, found: usize) -> Result<(), SpecError> {
    if (1..=MAX_SIZE).contains(&found) { Ok(()) } else { Err(value(key, found, format!("1 to {MAX_SIZE}"))) }
}

/// A list that speaks of channels is empty or has one entry a channel.
fn length(key: &str, found: usize, expected: usize) -> Result<(), SpecError> {
    if found == 0 || found == expected {
        return Ok(());
    }
    Err(value(key, format!("a list of {found}"), format!("{expected} entries, one a channel, or none")))
}

/// Index of the first channel's name that no column can be taken by, and what would do.
pub(crate) fn wrong_name(names: &[String]) -> Option<(usize, &'static str)> {
    let mut before = HashSet::new();
    names.iter().enumerate().find_map(|(i, name)| {
        if name.is_empty() {
            Some((i, "a name that is not empty"))
        } else if !before.insert(name) {
            Some((i, "a name that no channel before it has"))
        } else {
            None
        }
    })
}

fn scale(at: &str, channels: usize, mean: &[f32], std: &[f32]) -> Result<(), SpecError> {
    length(&format!("{at}.mean"), mean.len(), channels)?;
    length(&format!("{at}.std"), std.len(), channels)?;
    if let Some(i) = mean.iter().position(|x| !x.is_finite()) {
        return Err(value(format!("{at}.mean[{i}]"), mean[i], "a finite number"));
    }
    if let Some(i) = std.iter().position(|x| !(x.is_finite() && *x > 0.0)) {
        return Err(value(format!("{at}.std[{i}]"), std[i], "a positive number"));
    }
    Ok(())
}
