//! Samples from a board or from a sensor of this machine, through the sensor link.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use mcedge_firmware_host::{
    Address, Counters, Event, Gap, GapCause, Link, LinkOptions, RateCheck, Resampler, Responder,
};
use mcedge_models::contract::Input;

use super::{Fields, Follows, OnGap, Options, Read, Row, Ticket, channel_names, check_columns, list, shown};

/// Gaps that are told one by one.
const GAPS_TOLD: u64 = 5;
/// The most samples that a gap is filled with: behind a longer one the stream goes on as it is.
const MOST_HELD: u64 = 1 << 10;
/// How far a stream's rate may be from the model's to be taken as it comes, as a part of it.
const RATE_TOLERANCE: f64 = 0.01;

/// What makes a rate no error.
const TAKE_ANY: &str = "not what the model was trained on; --any-rate takes samples as they come";

/// A stream of a board, open at its first sample.
pub struct Linked {
    link: Link,
    /// The numbers of a sample that the model takes, in its order.
    channels: Vec<usize>,
    /// The channels' names.
    names: Vec<String>,
    resampler: Option<Resampler>,
    /// Samples a second of the board, as it says.
    board_hz: f64,
    /// Samples a second that the model takes; none where samples are taken as they come, whatever their rate.
    model_hz: Option<f64>,
    /// Holds the board to what it says.
    check: RateCheck,
    on_gap: OnGap,
    /// The sample last taken off the link, `[size]`; empty before the first.
    last: Vec<f32>,
    last_us: i64,
    /// The sample of the ticket, `[size]`, and when it was taken.
    came: Vec<f32>,
    came_us: i64,
    /// When the last sample before a snapshot was taken, until the first one behind it has come.
    resumed_us: Option<i64>,
    ticket: Ticket,
    /// Samples still to come that stand for missing ones: [`Linked::last`] once more.
    held: u64,
    /// What the next sample is to the one before it.
    follows: Follows,
    ready: Option<Ready>,
    gaps: u64,
}

/// What [`Linked::next`] will give.
enum Ready {
    /// What is in `last`, at `last_us`.
    Row(Follows),
    Bad(Error),
    End,
    Failed(Error),
}

impl Linked {
    /// Opens the link at `address` for a model that takes `input`, and waits for the descriptor of its stream.
    ///
    /// # Errors
    ///
    /// The device cannot be opened; the stream has not the model's channels, or another rate that cannot be brought to the
    /// model's.
    pub fn open(address: &str, input: &Input, options: &Options, fields: &mut Fields) -> Result<Self> {
        let Input::Features { size, names, units, rate_hz } = input else {
            bail!("samples of a link are numbers, the model takes tokens");
        };
        let link_options = LinkOptions { notice: tell, ..LinkOptions::default() };
        let address: Address = address.parse()?;
        let link = Link::open(&address, &link_options, Arc::clone(&options.stop))?;
        let stream = link.stream();
        let found: Vec<&str> = stream.channels.iter().map(|channel| channel.name.as_str()).collect();
        let channels = choose(&found, names, *size, options.columns.as_deref())?;
        for (unit, &channel) in units.iter().zip(&channels) {
            let found = &stream.channels[channel];
            if !unit.is_empty() && !found.unit.is_empty() && *unit != found.unit {
                let (name, found, unit) = (shown(&found.name), shown(&found.unit), shown(unit));
                tell(&format!("warning: channel `{name}` is in {found}, the model was trained in {unit}"));
            }
        }
        let (board_hz, model_hz) = (stream.rate_hz, rate_hz.filter(|_| !options.any_rate));
        let resampler = resampler(board_hz, model_hz, *size)?;
        let chosen: Vec<String> = channels.iter().map(|&channel| found[channel].to_owned()).collect();
        let names = channel_names(names, Some(&chosen), *size);
        fields.channels.clone_from(&names);
        fields.time = true;
        Ok(Self {
            link,
            channels,
            names: chosen,
            resampler,
            board_hz,
            model_hz,
            check: RateCheck::new(board_hz),
            on_gap: options.on_gap,
            last: Vec::with_capacity(*size),
            last_us: 0,
            came: Vec::with_capacity(*size),
            came_us: 0,
            resumed_us: None,
            ticket: Ticket::default(),
            held: 0,
            follows: Follows::Next,
            ready: None,
            gaps: 0,
        })
    }

    /// The names of the channels that the model takes, as the board has them.
    pub fn channels(&self) -> &[String] {
        &self.names
    }

    /// Sends answers to the board.
    pub fn responder(&self) -> Responder {
        self.link.responder()
    }

    /// Bytes that came.
    pub fn bytes_read(&self) -> u64 {
        self.link.bytes_read()
    }

    /// Whether the next record is still to come.
    pub fn would_wait(&mut self) -> bool {
        while self.ready.is_none() {
            match self.pump() {
                Ok(true) => {}
                Ok(false) => return true,
                Err(error) => self.ready = Some(Ready::Failed(error)),
            }
        }
        false
    }

    /// The next record, in `row`; the end where none is ready.
    pub fn next(&mut self, row: &mut Row) -> Result<Read> {
        row.clear();
        match self.ready.take().unwrap_or(Ready::End) {
            Ready::Row(follows) => {
                row.features.extend_from_slice(&self.last);
                row.follows = follows;
                row.ticket = Some(self.ticket);
                row.has_time = true;
                row.time.clear();
                let (seconds, us) = (self.last_us.div_euclid(1_000_000), self.last_us.rem_euclid(1_000_000));
                let _ = write!(row.time, "{seconds}.{us:06}");
                Ok(Read::Row)
            }
            Ready::Bad(reason) => Ok(Read::Bad(reason)),
            Ready::End => Ok(Read::End),
            Ready::Failed(error) => Err(error),
        }
    }

    /// Takes one thing off the link; false when there is none yet.
    fn pump(&mut self) -> Result<bool> {
        if let Some((grid_us, values)) = self.resampler.as_mut().and_then(Resampler::next) {
            self.last_us = self.came_us - (self.ticket.device_us as i64 - grid_us);
            self.last.clear();
            self.last.extend_from_slice(values);
            self.ready = Some(Ready::Row(std::mem::take(&mut self.follows)));
            return Ok(true);
        }
        if self.held > 0 {
            self.held -= 1;
            self.last_us += (1e6 / self.rate_hz()) as i64;
            self.ready = Some(Ready::Row(Follows::Held));
            return Ok(true);
        }
        self.follow_rate()?;
        match self.link.poll()? {
            None => return Ok(false),
            Some(Event::Sample(sample)) => {
                self.ticket = Ticket { sequence: sample.sequence, device_us: sample.device_us };
                self.came_us = sample.time_us;
                self.came.clear();
                self.came.extend(self.channels.iter().map(|&channel| sample.values[channel]));
                self.take()?;
            }
            Some(Event::Gap(gap)) => self.gap(&gap)?,
            Some(Event::Notice(notice)) => tell(&notice),
            Some(Event::End) => self.ready = Some(Ready::End),
        }
        Ok(true)
    }

    /// Takes the sample that has come.
    fn take(&mut self) -> Result<()> {
        let Ticket { sequence, device_us } = self.ticket;
        if self.model_hz.is_some() {
            self.check.push(sequence, device_us).context(TAKE_ANY)?;
        }
        if let Some(before_us) = self.resumed_us.take() {
            let us = self.came_us.saturating_sub(before_us);
            if us as f64 * self.board_hz > 1.5e6 {
                self.gap(&Gap { missing: None, us, cause: GapCause::Unplugged })?;
            }
        }
        let mut named = self.names.iter().zip(&self.came);
        if let Some((name, value)) = named.find(|(_, value)| !value.is_finite()) {
            let name = shown(name);
            let reason = anyhow!("sample {sequence}: channel `{name}`: {value} is not a finite number");
            self.ready = Some(Ready::Bad(reason));
        } else if let Some(resampler) = &mut self.resampler {
            // Even by the board's clock: this machine's is only known as well as the fit.
            resampler.push(device_us as i64, &self.came);
        } else {
            self.last.clone_from(&self.came);
            self.last_us = self.came_us;
            self.ready = Some(Ready::Row(std::mem::take(&mut self.follows)));
        }
        Ok(())
    }

    /// The run goes on from a snapshot, behind a sample of this time, as it was written. What came since is missing.
    pub fn resume(&mut self, time: &str) {
        let seconds: Option<f64> = time.parse().ok();
        self.resumed_us = seconds.map(|seconds| (seconds * 1e6) as i64);
    }

    /// Samples a second of what is given.
    fn rate_hz(&self) -> f64 {
        self.model_hz.filter(|_| self.resampler.is_some()).unwrap_or(self.board_hz)
    }

    /// Follows the board to another rate.
    fn follow_rate(&mut self) -> Result<()> {
        let board_hz = self.link.stream().rate_hz;
        if board_hz != self.board_hz {
            self.board_hz = board_hz;
            self.check = RateCheck::new(board_hz);
            self.resampler = resampler(board_hz, self.model_hz, self.channels.len())?;
        }
        Ok(())
    }

    /// Does what a gap does.
    fn gap(&mut self, gap: &Gap) -> Result<()> {
        self.gaps += 1;
        let words = words(gap);
        ensure!(self.on_gap != OnGap::Stop, "{words}; --on-gap hold, skip or reset goes on",);
        if self.gaps <= GAPS_TOLD {
            tell(&words);
        } else if self.gaps == GAPS_TOLD + 1 {
            tell("further gaps are only counted");
        }
        if let Some(resampler) = &mut self.resampler {
            resampler.reset();
        }
        if gap.cause == GapCause::Restarted {
            self.check.reset();
        }
        match self.on_gap {
            OnGap::Hold if !self.last.is_empty() => {
                let by_time = (gap.us as f64 * 1e-6 * self.rate_hz()).round() as u64;
                let missing = match (&self.resampler, gap.missing) {
                    (None, Some(missing)) if gap.cause != GapCause::Paused => missing,
                    // As many as the time between two samples has room for.
                    _ => by_time.saturating_sub(1),
                };
                self.held = if missing > MOST_HELD { 0 } else { missing };
                if missing > MOST_HELD {
                    tell(&format!(
                        "{missing} samples are too many to hold, {MOST_HELD} at most: goes on without"
                    ));
                }
            }
            OnGap::Reset => self.follows = Follows::Anew,
            OnGap::Hold | OnGap::Skip | OnGap::Stop => {}
        }
        Ok(())
    }

    /// What came and what did not, in one line.
    pub fn summary(&self) -> String {
        let counters = self.link.counters();
        let Counters { samples, missing, duplicates, late, reconnects, restarts, .. } = counters;
        let bad = &counters.bad_frames;
        let mut line = format!(
            "{samples} samples came, {missing} missing, {duplicates} twice, {late} late; {} bad frames ({} stuffing, {} CRC, \
             {} oversized, {} no record, {} cut); {} dropped by the board, {} by a full queue; {reconnects} reconnects, \
             {restarts} restarts; clock {:+.1} ppm",
            bad.sum(),
            bad.stuffing,
            bad.crc,
            bad.oversized,
            bad.record,
            bad.cut,
            counters.dropped_by_board,
            counters.queue_overflows,
            self.link.clock().drift_ppm,
        );
        if counters.predictions_sent + counters.predictions_dropped > 0 {
            let _ = write!(
                line,
                "; {} answers sent, {} dropped",
                counters.predictions_sent, counters.predictions_dropped
            );
        }
        line
    }
}

/// The channels that the model takes, among those `found`: those asked for, else those of its names, else all.
fn choose(found: &[&str], names: &[String], size: usize, columns: Option<&[String]>) -> Result<Vec<usize>> {
    check_columns(columns, size)?;
    let wanted = columns.unwrap_or(names);
    if wanted.is_empty() {
        ensure!(
            found.len() == size,
            "has {} channels, {}; the model takes {size}; choose with --columns",
            found.len(),
            list(found)
        );
        return Ok((0..size).collect());
    }
    let position = |name: &String| {
        let mut places = (0..found.len()).filter(|&channel| found[channel] == name);
        match (places.next(), places.next()) {
            (Some(channel), None) => Ok(channel),
            (None, _) => Err(anyhow!("no channel `{}`", shown(name))),
            (Some(_), Some(_)) => Err(anyhow!("more than one channel `{}`", shown(name))),
        }
    };
    let channels: Result<Vec<usize>> = wanted.iter().map(position).collect();
    channels.with_context(|| {
        let (found, wanted) = (list(found), list(wanted));
        format!("has channels {found}; the model takes {wanted}; choose channels with --columns")
    })
}

/// What brings a stream to the rate of the model, where it has another.
fn resampler(found_hz: f64, wanted_hz: Option<f64>, size: usize) -> Result<Option<Resampler>> {
    let Some(wanted_hz) = wanted_hz else { return Ok(None) };
    if (found_hz / wanted_hz - 1.0).abs() <= RATE_TOLERANCE {
        return Ok(None);
    }
    RateCheck::ratio(found_hz, wanted_hz).context(TAKE_ANY)?;
    tell(&format!("resampled: the board sends {found_hz} Hz, the model takes {wanted_hz} Hz"));
    Ok(Some(Resampler::new(wanted_hz, size)))
}

fn words(gap: &Gap) -> String {
    let seconds = gap.us as f64 * 1e-6;
    let what = match gap.missing {
        Some(1) => format!("a sample is missing, {seconds:.3} s"),
        Some(missing) => format!("{missing} samples are missing, {seconds:.3} s"),
        None => format!("{seconds:.3} s are missing"),
    };
    let why = match gap.cause {
        GapCause::Lost => "",
        GapCause::Restarted => ": the board has started over",
        GapCause::Unplugged => ": the port was gone, or nobody read it",
        GapCause::Paused => ": the board has paused",
    };
    format!("{what}{why}")
}

/// Tells somebody, if anybody listens.
pub fn tell(notice: &str) {
    let _ = writeln!(std::io::stderr(), "mcedge: {notice}");
}
