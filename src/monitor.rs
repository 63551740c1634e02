//! `mcedge monitor`: what comes from a board, for whoever has just plugged it in.

mod lines;
mod screen;
mod view;

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mcedge_firmware_host::{Address, Event, Link, LinkOptions};

use crate::run::stop_on_ctrl_c;
use lines::Lines;
use screen::Screen;
use view::View;

/// From one look at the link to the next.
const TICK: Duration = Duration::from_millis(25);
/// Events that are taken before somebody is shown something.
const EVENTS: usize = 100_000;

/// Flags of `mcedge monitor`.
#[derive(clap::Args)]
pub struct Args {
    /// Where samples come from, such as serial:///dev/ttyUSB0?baud=921600 or i2c:///dev/i2c-1?sensor=mpu6050
    #[arg(value_name = "URI")]
    input: String,
    /// Print a line a second, as where standard output is no terminal
    #[arg(long)]
    lines: bool,
    /// End after so many seconds
    #[arg(long, value_name = "N", value_parser = seconds)]
    seconds: Option<Duration>,
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
    let address: Address = args.input.parse()?;
    let stop = stop_on_ctrl_c()?;
    let options = LinkOptions { notice: |notice| eprintln!("mcedge: {notice}"), ..LinkOptions::default() };
    eprintln!("waits for a board at {}", args.input);
    let mut link =
        Link::open(&address, &options, Arc::clone(&stop)).with_context(|| format!("input {}", args.input))?;
    let began = Instant::now();
    let mut view = View::new(&args.input, link.stream());
    let mut surface = match args.lines || !stdout().is_terminal() {
        true => Surface::Lines(Lines::new()),
        false => Surface::Screen(Box::new(Screen::open()?)),
    };
    let is_over = || args.seconds.is_some_and(|seconds| began.elapsed() >= seconds);
    while !stop.load(Ordering::Relaxed) && !is_over() {
        follow(&mut link, &mut view)?;
        match surface.show(&view)? {
            Some(Wish::Quit) => break,
            Some(Wish::Toggle) => toggle(&mut link, &mut view),
            None => {}
        }
        if view.has_ended && matches!(surface, Surface::Lines(_)) {
            break;
        }
    }
    surface.close(&view)?;
    Ok(ExitCode::SUCCESS)
}

/// Takes what has come.
fn follow(link: &mut Link, view: &mut View) -> Result<()> {
    for _ in 0..EVENTS {
        match link.poll()? {
            Some(Event::Sample(sample)) => view.sample(&sample),
            Some(Event::Gap(gap)) => view.gap(&gap),
            Some(Event::Notice(notice)) => view.notice(notice),
            Some(Event::End) => {
                view.end();
                break;
            }
            None => break,
        }
    }
    view.update(link.stream(), link.counters(), link.clock());
    Ok(())
}

fn toggle(link: &mut Link, view: &mut View) {
    view.is_stopped = !view.is_stopped;
    if view.is_stopped {
        link.stop_board();
        view.notice("asked the board to stop".into());
    } else {
        link.start();
        view.notice("asked the board to start".into());
    }
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

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("{text:?} is no number of seconds"))
}
