//! A line a second, where there is no terminal.

use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use anyhow::Result;
use jiff::Zoned;

use super::screen::number;
use super::view::View;

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
    format!("{}, {} Hz: {}", view.name, view.nominal_hz, channels.join(", "))
}

/// What comes now.
fn line(view: &View) -> String {
    let counters = &view.counters;
    let rate = view.measured_hz.map_or("-".into(), |rate_hz| format!("{rate_hz:.2}"));
    let of = |channel: &super::view::Channel| {
        let value = channel.last.map_or("-".into(), number);
        format!(" {}={}", channel.name, value.trim())
    };
    let values: String = view.channels.iter().take(CHANNELS).map(of).collect();
    let more = if view.channels.len() > CHANNELS { " …" } else { "" };
    format!(
        "{}, {rate} Hz, {} samples, {} missing, {} bad frames, {:+.1} ppm,{values}{more}",
        view.state(),
        counters.samples,
        counters.missing,
        counters.bad_frames.sum(),
        view.clock.drift_ppm
    )
}

/// What it was in all.
pub fn summary(view: &View) -> String {
    let counters = &view.counters;
    let bad = &counters.bad_frames;
    format!(
        "{} samples in {:.1} s; {} missing, {} duplicate, {} late; {} bad frames ({} stuffing, {} CRC, {} oversized, \
         {} record, {} cut); {} overflowed, {} dropped by the board; {} reconnects, {} restarts",
        counters.samples,
        view.elapsed.as_secs_f64(),
        counters.missing,
        counters.duplicates,
        counters.late,
        bad.sum(),
        bad.stuffing,
        bad.crc,
        bad.oversized,
        bad.record,
        bad.cut,
        counters.queue_overflows,
        counters.dropped_by_board,
        counters.reconnects,
        counters.restarts
    )
}
