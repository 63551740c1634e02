//! `mcedge monitor`: what comes from a board, for whoever has just plugged it in.

mod feed;
mod lines;
mod screen;
mod text;
mod view;

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use clap::ValueEnum;

use crate::run::stop_on_ctrl_c;
use crate::source::uri::told;
use feed::Feed;
use lines::Lines;
use screen::Screen;
use view::View;

/// From one look at the link to the next.
const TICK: Duration = Duration::from_millis(25);

/// Flags of `mcedge monitor`.
#[derive(clap::Args)]
pub struct Args {
    /// Where samples come from, such as serial:///dev/ttyUSB0?baud=921600 or i2c:///dev/i2c-1?sensor=mpu6050
    #[arg(value_name = "URI")]
    input: String,
    /// Print a line a second, as where standard output is no terminal
    #[arg(long)]
    lines: bool,
    /// What the board sends
    #[arg(long, value_enum, default_value_t = Talk::Frames)]
    format: Talk,
    /// End after so many seconds
    #[arg(long, value_name = "N", value_parser = seconds)]
    seconds: Option<Duration>,
}

/// What a board sends.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Talk {
    /// Frames of the sensor link's protocol
    Frames,
    /// Lines of numbers, with or without a header: their columns are shown, their rate is guessed
    Csv,
}

/// What somebody at the screen wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    /// Start the board, or stop it.
    Toggle,
}

/// Where the view is shown.
enum Surface {
    Screen(Box<Screen>),
    Lines(Lines),
}

/// Shows what comes until it ends, or somebody has seen enough.
pub fn monitor(args: &Args) -> Result<ExitCode> {
    let stop = stop_on_ctrl_c()?;
    let input = told(&args.input);
    eprintln!("waits for a board at {input}");
    let feed = Feed::open(&args.input, args.format == Talk::Csv, &stop);
    let mut feed =
        feed.map_err(|error| without_login(error, &args.input)).with_context(|| format!("input {input}"))?;
    let began = Instant::now();
    let mut view = View::new(&input, feed.stream(), args.format == Talk::Frames);
    let mut surface = match args.lines || !stdout().is_terminal() {
        true => Surface::Lines(Lines::new()),
        false => Surface::Screen(Box::new(Screen::open()?)),
    };
    let is_over = || args.seconds.is_some_and(|seconds| began.elapsed() >= seconds);
    while !stop.load(Ordering::Relaxed) && !is_over() {
        feed.follow(&mut view)?;
        match surface.show(&view)? {
            Some(Wish::Quit) => break,
            Some(Wish::Toggle) => feed.toggle(&mut view),
            None => {}
        }
        if view.has_ended && matches!(surface, Surface::Lines(_)) {
            break;
        }
    }
    surface.close(&view)?;
    Ok(ExitCode::SUCCESS)
}

impl Surface {
    /// Shows the view, when it is time to, and waits a little.
    fn show(&mut self, view: &View) -> Result<Option<Wish>> {
        match self {
            Surface::Screen(screen) => screen.show(view, TICK),
            Surface::Lines(lines) => {
                lines.show(view)?;
                thread::park_timeout(TICK);
                Ok(None)
            }
        }
    }

    /// Leaves the terminal as it was.
    fn close(self, view: &View) -> Result<()> {
        match self {
            Surface::Screen(screen) => {
                drop(screen);
                eprintln!("{}", lines::summary(view));
                Ok(())
            }
            Surface::Lines(mut lines) => lines.close(view),
        }
    }
}

/// An error that may show the whole URI, without a password in it.
fn without_login(error: Error, uri: &str) -> Error {
    match told(uri) {
        told if told == uri => error,
        told => anyhow!("{}", format!("{error:#}").replace(uri, &told)),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("{text:?} is no number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_told_of_what_is_no_board() {
        let uri = "mqtt://me:secret@host/topic";
        let error = Feed::open(uri, false, &Default::default()).err().map(|error| without_login(error, uri));
        let error = format!("{:#}", error.unwrap());
        assert!(error.contains("mqtt://host/topic") && !error.contains("secret"), "{error}");
    }
}
