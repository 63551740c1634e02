//! Where what is shown comes from.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use mcedge_firmware_host::{Address, BadFrames, Counters, Event, Link, LinkOptions, Stream};

use super::text::Text;
use super::view::{Count, Section, View};

/// Events that are taken before somebody is shown something.
const EVENTS: usize = 100_000;

/// A board or a sensor.
pub enum Feed {
    /// One that speaks the protocol, or hangs on a bus.
    Link(Box<Link>),
    /// One that sends lines.
    Text(Box<Text>),
}

impl Feed {
    /// Opens it, and waits until it has said what it is.
    pub fn open(uri: &str, is_text: bool, stop: &Arc<AtomicBool>) -> Result<Self> {
        let address: Address = uri.parse()?;
        match (address, is_text) {
            (Address::Serial(serial), true) => Ok(Feed::Text(Box::new(Text::open(&serial, stop)?))),
            (Address::I2c(_), true) => bail!("a sensor gives samples, expected no --format csv"),
            (address, false) => {
                let options =
                    LinkOptions { notice: |notice| eprintln!("mcedge: {notice}"), ..LinkOptions::default() };
                Ok(Feed::Link(Box::new(Link::open(&address, &options, Arc::clone(stop))?)))
            }
        }
    }

    /// What it sends.
    pub fn stream(&self) -> &Stream {
        match self {
            Feed::Link(link) => link.stream(),
            Feed::Text(text) => text.stream(),
        }
    }

    /// Takes what has come.
    pub fn follow(&mut self, view: &mut View) -> Result<()> {
        match self {
            Feed::Link(link) => follow(link, view)?,
            Feed::Text(text) => text.follow(view),
        }
        Ok(())
    }

    /// Starts the board, or stops it.
    pub fn toggle(&mut self, view: &mut View) {
        let Feed::Link(link) = self else { return };
        view.is_stopped = !view.is_stopped;
        if view.is_stopped {
            link.stop_board();
            view.notice("asked the board to stop");
        } else {
            link.start();
            view.notice("asked the board to start");
        }
    }
}

fn follow(link: &mut Link, view: &mut View) -> Result<()> {
    for _ in 0..EVENTS {
        match link.poll()? {
            Some(Event::Sample(sample)) => view.sample(&sample),
            Some(Event::Gap(gap)) => view.gap(&gap),
            Some(Event::Notice(notice)) => view.notice(&notice),
            Some(Event::End) => {
                view.end();
                break;
            }
            None => break,
        }
    }
    let counters = link.counters();
    view.describe(link.stream());
    view.update(sections(&counters), counters.missing, counters.bad_frames.sum(), Some(link.clock()));
    Ok(())
}

/// What a link has counted, in the order in which a person asks.
pub fn sections(counters: &Counters) -> Vec<Section> {
    let BadFrames { stuffing, crc, oversized, record, cut } = counters.bad_frames;
    vec![
        Section::new(
            "samples",
            vec![
                Count::good("used", counters.samples),
                Count::bad("missing", counters.missing),
                Count::bad("duplicate", counters.duplicates),
                Count::bad("late", counters.late),
            ],
        ),
        Section::new(
            "frames",
            vec![
                Count::good("good", counters.frames),
                Count::bad("CRC", crc),
                Count::bad("stuffing", stuffing),
                Count::bad("oversized", oversized),
                Count::bad("record", record),
                Count::bad("cut", cut),
            ],
        ),
        Section::new(
            "dropped",
            vec![
                Count::bad("by our queue", counters.queue_overflows),
                Count::bad("by the board", counters.dropped_by_board),
            ],
        ),
        Section::new(
            "board",
            vec![Count::bad("reconnects", counters.reconnects), Count::bad("restarts", counters.restarts)],
        ),
    ]
}
