//! The screen.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::{Timestamp, tz::TimeZone};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph};
use ratatui::{DefaultTerminal, Frame};

use super::Wish;
use super::view::{Channel, Count, Section, View};

/// From one picture to the next.
const PICTURE: Duration = Duration::from_millis(100);
/// Keys that may wait to be looked at.
const EVENTS: usize = 64;
/// Columns of a number.
const NUMBER: usize = 9;
/// Columns that all counters take.
const ROOMY: u16 = 80;
/// Rows of notices that a tall screen keeps free.
const NOTICES: u16 = 8;
/// The most rows of a channel's past.
const BAR_ROWS: u16 = 4;
/// The eighths of a line's height.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The terminal; dropped, it is as it was.
pub struct Screen {
    terminal: DefaultTerminal,
    /// Keys and changes of size, from a thread that waits for them: one whose terminal has gone waits without an end.
    events: Receiver<Event>,
    due: Instant,
}

impl Screen {
    /// Takes the terminal.
    pub fn open() -> Result<Self> {
        // A panic gives it back too: that is this function's doing.
        let terminal =
            ratatui::try_init().context("cannot draw on the terminal, expected one; --lines needs none")?;
        let (send, events) = sync_channel(EVENTS);
        let screen = Screen { terminal, events, due: Instant::now() };
        thread::Builder::new()
            .name("mcedge-keys".into())
            .spawn(move || while event::read().is_ok_and(|event| send.send(event).is_ok()) {})
            .context("no thread can be started at the terminal")?;
        Ok(screen)
    }

    /// Draws when it is time to; waits for a key, for `wait` at most.
    pub fn show(&mut self, view: &View, wait: Duration) -> Result<Option<Wish>> {
        if Instant::now() >= self.due {
            self.due = Instant::now() + PICTURE;
            self.terminal.draw(|frame| draw(frame, view)).context("cannot draw on the terminal")?;
        }
        match self.events.recv_timeout(wait) {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Ok(wish(key)),
            Ok(Event::Resize(..)) => {
                self.due = Instant::now();
                Ok(None)
            }
            Ok(_) | Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("cannot read the terminal"),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn wish(key: KeyEvent) -> Option<Wish> {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char('s') => Some(Wish::Toggle),
        _ => None,
    }
}

/// All of the view, as much as there is room for: channels first, then what was lost, then notices.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    let counters = counters(view);
    // Where there is no room for all, channels are what it is for; what was lost is then one line.
    let all_rows = counters.len() as u16 + 2;
    let count = view.channels.len().max(1) as u16;
    let is_roomy = area.width >= ROOMY && area.height >= count.saturating_add(all_rows + 5);
    let counters_rows = if is_roomy { all_rows } else { 1 };
    let room = area.height.saturating_sub(2 + counters_rows);
    let bar_rows = (room.saturating_sub(NOTICES + 3) / count).clamp(1, BAR_ROWS);
    let channels_rows = count.saturating_mul(bar_rows).saturating_add(3).min(room);
    let [title, channels, counts, notices, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(channels_rows),
        Constraint::Length(counters_rows),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_title(frame, title, view);
    draw_channels(frame, channels, view, bar_rows.into());
    match is_roomy {
        true => {
            frame.render_widget(Paragraph::new(counters).block(Block::bordered().title(" link ")), counts)
        }
        false => frame.render_widget(losses(view), counts),
    }
    draw_notices(frame, notices, view);
    let toggle = if view.is_stopped { " start the board  " } else { " stop the board  " };
    // Text has no commands.
    let toggle = if view.has_spoken { vec![" s".bold(), toggle.into()] } else { Vec::new() };
    let help = toggle.into_iter().chain([" q".bold(), " quit".into()]);
    frame.render_widget(help.collect::<Line<'_>>().dim(), keys);
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let state = view.state();
    let colour = match state.as_str() {
        "running" => Color::Green,
        "ended" | "stopped" | "waiting" => Color::Yellow,
        _ => Color::Red,
    };
    let time = clock_time(view.elapsed);
    let state = Line::from(vec![
        Span::styled(format!(" {state}"), Style::new().fg(colour).bold()),
        format!("  {time} ").into(),
    ]);
    let width = (state.width() as u16).min(area.width);
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(width)]).areas(area);
    let title = Line::from(vec![" mcedge monitor ".bold(), view.uri.clone().into()]);
    frame.render_widget(title, left);
    frame.render_widget(state, right);
}

fn draw_channels(frame: &mut Frame<'_>, area: Rect, view: &View, bar_rows: usize) {
    let measured = view.measured_hz.map_or("-".into(), |rate_hz| format!("{rate_hz:.2}"));
    let title = match view.has_spoken {
        true => format!(" {}: {} Hz nominal, {measured} Hz measured ", view.name, view.nominal_hz),
        false if view.nominal_hz > 0.0 => {
            format!(" lines of text, about {} Hz ", three_digits(view.nominal_hz))
        }
        false => " lines of text ".into(),
    };
    let block = Block::bordered().title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    if inner.is_empty() {
        return;
    }
    let columns = Columns::of(view, inner.width.into());
    let header = columns.header(view).dim();
    let room = usize::from(inner.height).saturating_sub(1) / bar_rows;
    let fits = view.channels.len() <= room;
    let shown = if fits { view.channels.len() } else { room.saturating_sub(1) };
    let mut lines = vec![header];
    lines.extend(view.channels.iter().take(shown).flat_map(|channel| columns.rows(channel, bar_rows)));
    if !fits {
        lines.push(Line::from(format!(" … {} channels more", view.channels.len() - shown)).dim());
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

/// Widths of the table's columns; 0 where there is no room for one.
struct Columns {
    name: usize,
    unit: usize,
    /// Of the lowest and the highest.
    range: usize,
    spark: usize,
}

impl Columns {
    fn of(view: &View, width: usize) -> Self {
        let longest = |of: fn(&Channel) -> &str, least: usize| {
            let longest = view.channels.iter().map(|channel| Span::raw(of(channel)).width()).max();
            longest.unwrap_or(0).max(least)
        };
        let name = longest(|channel| &channel.name, 7);
        let unit = longest(|channel| &channel.unit, 0);
        let unit = if unit > 0 { unit.max(4) } else { 0 };
        let mut columns = Columns { name, unit, range: NUMBER, spark: 0 };
        if columns.taken() + 12 > width {
            columns.range = 0;
        }
        if columns.taken() + 8 > width {
            columns.unit = 0;
        }
        columns.name = columns.name.min(width.saturating_sub(columns.taken() - columns.name));
        columns.spark = width.saturating_sub(columns.taken() + 2);
        columns
    }

    /// Columns of all but the past: each has a space before it.
    fn taken(&self) -> usize {
        let of = |width: usize| if width > 0 { width + 1 } else { 0 };
        1 + self.name + of(self.unit) + 1 + NUMBER + 2 * of(self.range)
    }

    fn header(&self, view: &View) -> Line<'static> {
        let mut line = format!(" {}", fit("channel", self.name));
        if self.unit > 0 {
            line += &format!(" {}", fit("unit", self.unit));
        }
        line += &format!(" {:>NUMBER$}", "last");
        if self.range > 0 {
            line += &format!(" {:>NUMBER$} {:>NUMBER$}", "min", "max");
        }
        let past =
            view.point_s().map(|point_s| format!("  last {} s", three_digits(self.spark as f64 * point_s)));
        line += &fit(&past.unwrap_or_default(), self.spark + 2);
        Line::from(line)
    }

    /// The channel's row of the table, and as many more as its past has.
    fn rows(&self, channel: &Channel, bar_rows: usize) -> Vec<Line<'static>> {
        let is_known = channel.last.is_some();
        let shown = |value: f32| format!(" {:>NUMBER$}", if is_known { number(value) } else { "-".into() });
        let mut spans = vec![format!(" {}", fit(&channel.name, self.name)).bold()];
        if self.unit > 0 {
            spans.push(format!(" {}", fit(&channel.unit, self.unit)).into());
        }
        spans.push(shown(channel.last.unwrap_or(0.0)).cyan());
        if self.range > 0 {
            spans.push((shown(channel.min) + &shown(channel.max)).into());
        }
        let mut lines = vec![Line::from(spans)];
        lines.resize(bar_rows, Line::from(" ".repeat(self.taken())));
        for (line, bars) in lines.iter_mut().zip(bars(channel, self.spark, bar_rows)) {
            line.push_span(format!("  {bars}").green());
        }
        lines
    }
}

/// The past of a channel in rows of bars, `width` points of it, between the lowest and the highest of them; a gap where
/// samples are missing.
fn bars(channel: &Channel, width: usize, rows: usize) -> Vec<String> {
    let past = channel.past.iter().skip(channel.past.len().saturating_sub(width));
    let known = || past.clone().flatten().copied().filter(|value| value.is_finite());
    let low = known().fold(f32::INFINITY, f32::min);
    let high = known().fold(f32::NEG_INFINITY, f32::max);
    let most = (8 * rows - 1) as f32;
    // In eighths of a row, at least one. Not a number has no height, and casts to 0.
    let height = |value: f32| match high > low {
        true => 1 + ((value - low) / (high - low) * most).round() as usize,
        false => 4 * rows,
    };
    let bar = |row: usize, point: &Option<f32>| {
        let below = 8 * (rows - 1 - row);
        let eighths = point.map_or(0, height).saturating_sub(below);
        eighths.checked_sub(1).map_or(' ', |eighth| BARS[eighth.min(7)])
    };
    (0..rows).map(|row| past.clone().map(|point| bar(row, point)).collect()).collect()
}

/// What was counted, and the clock.
fn counters(view: &View) -> Vec<Line<'static>> {
    let value = |name: &str, value: String, style: Style| {
        [Span::raw(format!("  {name} ")).dim(), Span::styled(value, style)]
    };
    let line = |name: &str, values: Vec<[Span<'static>; 2]>| {
        let mut spans = vec![Span::raw(format!(" {name:<8}")).bold()];
        spans.extend(values.into_iter().flatten());
        Line::from(spans)
    };
    let count = |count: &Count| {
        let is_loss = count.is_bad && count.count > 0;
        let style = if is_loss { Style::new().fg(Color::Red).bold() } else { Style::new() };
        value(count.name, grouped(count.count), style)
    };
    let section = |section: &Section| line(section.name, section.counts.iter().map(count).collect());
    let mut lines: Vec<Line<'static>> = view.sections.iter().map(section).collect();
    if let Some(clock) = &view.clock {
        let plain = Style::new();
        let zero = if clock.samples == 0 { "-".into() } else { time_of_day(clock.offset_us) };
        let jitter = format!("{} ms", three_digits(clock.jitter_us / 1e3));
        let drift = value("drift", format!("{:+.1} ppm", clock.drift_ppm), plain);
        lines
            .push(line("clock", vec![drift, value("jitter", jitter, plain), value("its 0 is", zero, plain)]));
    }
    lines
}

/// What was lost, in a line.
fn losses(view: &View) -> Line<'static> {
    let style = match view.missing + view.bad {
        0 => Style::new(),
        _ => Style::new().fg(Color::Red).bold(),
    };
    let losses = format!(" missing {}  bad {}", grouped(view.missing), grouped(view.bad));
    let drift = view.clock.map_or(String::new(), |clock| format!("  {:+.0} ppm", clock.drift_ppm));
    Line::from(vec![Span::styled(losses, style), drift.into()])
}

fn draw_notices(frame: &mut Frame<'_>, area: Rect, view: &View) {
    if area.height < 3 {
        return;
    }
    let rows = usize::from(area.height) - 2;
    let newest = view.notices.iter().skip(view.notices.len().saturating_sub(rows));
    let lines: Vec<Line<'_>> = newest
        .map(|(time, notice)| Line::from(vec![format!(" {time} ").dim(), notice.as_str().into()]))
        .collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" notices ")), area);
}

/// Five digits or so, in [`NUMBER`] columns.
pub fn number(value: f32) -> String {
    let magnitude = value.abs();
    match magnitude {
        _ if value == 0.0 => "0".into(),
        _ if !value.is_finite() => value.to_string(),
        _ if !(1e-3..1e6).contains(&magnitude) => format!("{value:.2e}"),
        _ => {
            let before = magnitude.log10().floor().max(0.0) as usize;
            format!("{value:.*}", 4_usize.saturating_sub(before))
        }
    }
}

/// Three digits, of a number from a thousandth on.
fn three_digits(value: f64) -> String {
    let before = value.abs().max(1e-3).log10().floor() as i32;
    format!("{value:.*}", (2 - before).max(0) as usize)
}

/// `1,234,567`.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1:02:03`, or `2:03`.
fn clock_time(elapsed: Duration) -> String {
    let (hours, minutes, seconds) =
        (elapsed.as_secs() / 3600, elapsed.as_secs() / 60 % 60, elapsed.as_secs() % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// A time of µs since the Unix epoch, here.
fn time_of_day(time_us: i64) -> String {
    match Timestamp::from_microsecond(time_us) {
        Ok(time) => time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string(),
        Err(_) => "-".into(),
    }
}

/// `text` in just `width` columns.
fn fit(text: &str, width: usize) -> String {
    let mut fitted = String::new();
    let mut left = width;
    for char in text.chars() {
        let columns = Span::raw(char.to_string()).width();
        if columns > left {
            break;
        }
        left -= columns;
        fitted.push(char);
    }
    fitted.extend(std::iter::repeat_n(' ', left));
    fitted
}

#[cfg(test)]
mod tests;
