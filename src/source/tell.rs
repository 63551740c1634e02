//! What befalls a live input, for a person: on standard error, and never without a bound.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use super::assembler::Assembler;
use super::bytes::LINE_MAX;

/// Messages told one by one; of those behind them the 8th, 16th, 32nd, …: an input may run for years.
const TOLD: u64 = 5;

/// Tells what befalls one input, and counts the lines that it has lost.
#[derive(Debug)]
pub struct Teller {
    name: String,
    told: AtomicU64,
    too_long: AtomicU64,
    cut: AtomicU64,
}

impl Teller {
    pub fn new(name: &str) -> Self {
        let [told, too_long, cut] = [const { AtomicU64::new(0) }; 3];
        Self { name: name.to_owned(), told, too_long, cut }
    }

    /// Tells something, unless very much has been told.
    pub fn tell(&self, what: impl Display) {
        let count = self.told.fetch_add(1, Ordering::Relaxed) + 1;
        if count <= TOLD || count.is_power_of_two() {
            let times = if count <= TOLD { String::new() } else { format!(" (message {count})") };
            self.say(format_args!("{what}{times}"));
        }
    }

    /// Takes over what an assembler has counted, and tells of it.
    pub fn count(&self, assembler: &mut Assembler) {
        let [too_long, cut] = assembler.take_counts();
        if too_long > 0 {
            self.too_long(too_long);
        }
        if cut > 0 {
            self.cut.fetch_add(cut, Ordering::Relaxed);
            self.tell("the last line was cut off and is dropped");
        }
    }

    /// Counts and tells lines that are too long.
    pub fn too_long(&self, lines: u64) {
        self.too_long.fetch_add(lines, Ordering::Relaxed);
        self.tell(format_args!("dropped a line longer than {LINE_MAX} bytes"));
    }

    fn say(&self, what: impl Display) {
        // A run does not fail for want of somebody to tell.
        let _ = writeln!(std::io::stderr(), "mcedge: input {}: {what}", self.name);
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let [too_long, cut] = [&self.too_long, &self.cut].map(|count| count.load(Ordering::Relaxed));
        if too_long + cut > 0 {
            self.say(format_args!("{too_long} lines were too long and {cut} cut off, all dropped"));
        }
    }
}
