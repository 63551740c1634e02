//! `--cache-budget`: what a cache may take, in bytes, and how many checkpoints that is.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use bytesize::ByteSize;
use mcedge_models::contract::Contract;
use mcedge_runtime::checkpoint_bytes;

use crate::Usage;

/// The most bytes of a cache: of all checkpoints of all streams, with the steps of an i8 cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    pub bytes: u64,
}

impl Budget {
    /// The most checkpoints that each stream of `contract` may keep, 1 or more, whatever its capacity; none when there is
    /// nothing to bound, for no block reads any.
    ///
    /// # Errors
    ///
    /// [`Usage`] when it is too little for one checkpoint a stream.
    pub fn checkpoints(self, contract: &Contract) -> Result<Option<usize>> {
        let least = (checkpoint_bytes(contract) * contract.batch) as u64;
        if least == 0 {
            return Ok(None);
        }
        let checkpoints = self.bytes / least;
        if checkpoints == 0 {
            let each = match contract.batch {
                1 => "a checkpoint takes".to_owned(),
                batch => format!("a checkpoint of each of {batch} streams takes"),
            };
            let least = exactly(least);
            bail!(Usage(format!("a cache budget of {self}: {each} {least}, expected that or more")));
        }
        Ok(Some(usize::try_from(checkpoints).unwrap_or(usize::MAX)))
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().parse::<ByteSize>() {
            Ok(size) => Ok(Budget { bytes: size.as_u64() }),
            Err(_) => Err("expected bytes, as 65536, 64KiB, 8MiB, 1GiB, 500kB or 1MB".into()),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&exactly(self.bytes))
    }
}

/// Bytes as people read them: `512 B`, `1.5 KiB`, `8.0 MiB`.
pub fn readable(bytes: usize) -> String {
    ByteSize::b(bytes as u64).display().iec().to_string()
}

/// Bytes as people read them, and to the last one.
fn exactly(bytes: u64) -> String {
    match bytes {
        1 => "1 byte".into(),
        0..1024 => format!("{bytes} bytes"),
        _ => format!("{} ({bytes} bytes)", ByteSize::b(bytes).display().iec()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics when it fails")]
mod tests;
