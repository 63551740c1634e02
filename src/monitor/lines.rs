//! A line a second, where there is no terminal.

use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Zoned;

use super::screen::number;
use super::view::{Count, Section, View};

/// From one line to the next.
const EVERY: Duration = Duration::from_secs(1);
/// Channels that a line has room for.
const CHANNELS: usize = 8;

/// What has been printed.
pub struct Lines {
    due: Instant,
    notices: u64,
    has_header: bool,
}

impl Lines {
    /// Nothing yet.
    pub fn new() -> Self {
        Lines { due: Instant::now() + EVERY, notices: 0, has_header: false }
    }

    /// Prints what is due.
    pub fn show(&mut self, view: &View) -> Result<()> {
        if !std::mem::replace(&mut self.has_header, true) {
            say!("{}", header(view));
        }
        let fresh = (view.notices_total - self.notices).min(view.notices.len() as u64) as usize;
        self.notices = view.notices_total;
        for (time, notice) in view.notices.iter().skip(view.notices.len() - fresh) {
            say!("{time} {notice}");
        }
        if Instant::now() >= self.due {
            self.due = Instant::now() + EVERY;
            say!("{} {}", Zoned::now().strftime("%H:%M:%S"), line(view));
        }
        stdout().flush()?;
        Ok(())
    }

    /// The rest.
    pub fn close(&mut self, view: &View) -> Result<()> {
        self.show(view)?;
        say!("{}", summary(view));
        stdout().flush()?;
        Ok(())
    }
}

fn header(view: &View) -> String {
    let channel = |channel: &super::view::Channel| match channel.unit.as_str() {
        "" => channel.name.clone(),
        unit => format!("{} [{unit}]", channel.name),
    };
    let channels: Vec<String> = view.channels.iter().map(channel).collect();
    let rate = if view.has_spoken { format!(", {} Hz", view.nominal_hz) } else { String::new() };
    format!("{}{rate}: {}", view.name, channels.join(", "))
}

/// What comes now.
fn line(view: &View) -> String {
    let rate = view.measured_hz.map_or("-".into(), |rate_hz| format!("{rate_hz:.2}"));
    let drift = view.clock.map_or(String::new(), |clock| format!(", {:+.1} ppm", clock.drift_ppm));
    let of = |channel: &super::view::Channel| {
        let value = channel.last.map_or("-".into(), number);
        format!(" {}={}", channel.name, value)
    };
    let values: String = view.channels.iter().take(CHANNELS).map(of).collect();
    let more = if view.channels.len() > CHANNELS { " …" } else { "" };
    format!(
        "{}, {rate} Hz, {} samples, {} missing, {} bad{drift},{values}{more}",
        view.state(),
        view.samples,
        view.missing,
        view.bad
    )
}

/// What it was in all.
pub fn summary(view: &View) -> String {
    let count = |count: &Count| format!("{} {}", count.name, count.count);
    let section = |section: &Section| {
        let counts: Vec<String> = section.counts.iter().map(count).collect();
        format!("; {}: {}", section.name, counts.join(", "))
    };
    let sections: String = view.sections.iter().map(section).collect();
    format!("{} samples in {:.1} s{sections}", view.samples, view.elapsed.as_secs_f64())
}
