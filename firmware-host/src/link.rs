//! A link to a board, or to a sensor of this machine.
//!
//! One thread reads the device into a bounded queue. Everything else (what is new, what is missing, when it was) happens
//! on the thread that polls.

mod event;
mod feed;
pub(crate) mod inbox;
pub(crate) mod notices;
mod outbox;
mod reader;
mod responder;
pub(crate) mod shared;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod sim_tests;
mod talk;
#[cfg(test)]
mod tests;

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mcedge_wire::{Body, Record};
use thiserror::Error;

pub use self::event::{BadFrames, Channel, Counters, Event, Gap, GapCause, Sample, Stream};
use self::feed::Feed;
use self::inbox::{Inbox, Item};
use self::notices::Kind;
use self::reader::Reader;
pub use self::responder::Responder;
use self::shared::{Incoming, Shared};
use self::talk::command;
use crate::address::{Address, SerialAddress, StreamName};
use crate::clock::ClockFit;
use crate::port::PortError;
use crate::sensor::{self, AnySensor, Sampler, SensorError};
use crate::serial::Port;

/// How a link is to be.
#[derive(Clone, Copy, Debug)]
pub struct LinkOptions {
    /// Frames that may wait to be polled.
    pub queue_frames: usize,
    /// Bytes of samples that may wait to be polled.
    pub queue_bytes: usize,
    /// Told what a person wants to know before there is a link to poll: what comes in place of a board.
    pub notice: fn(&str),
}

/// Why there is no link, or none any more.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum LinkError {
    /// The port does not open.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The sensor of this machine cannot be read.
    #[error(transparent)]
    Sensor(#[from] SensorError),
    /// The board speaks another version of the protocol.
    #[error("the board speaks version {found} of the protocol, expected version {expected}")]
    Version {
        /// The board's.
        found: u8,
        /// This one's.
        expected: u8,
    },
    /// The board has several streams, and none was chosen.
    #[error("the board has several streams, expected a choice: ?stream= one of {found}")]
    Streams {
        /// Them.
        found: String,
    },
    /// The board has other streams than the one that was chosen.
    #[error("the board has no stream `{wanted}`, expected one of {found}")]
    NoStream {
        /// The one that was chosen.
        wanted: StreamName,
        /// Those that it has.
        found: String,
    },
    /// The stream has become another one.
    #[error("the board now sends {found}, expected {expected} as before")]
    Channels {
        /// What it is now.
        found: String,
        /// What it was.
        expected: String,
    },
    /// The input ended before the stream was known.
    #[error("{port} has gone before the board said what it sends, expected a descriptor")]
    Gone {
        /// The port.
        port: String,
    },
    /// `stop` was set before the stream was known.
    #[error("stopped before the board said what it sends")]
    Stopped,
    /// The thread at the device has panicked.
    #[error("the thread at the device has failed, which is a fault of this program; it has said where")]
    Failed,
    /// No thread, or no pipe to it.
    #[error("no thread can be started at the device: {reason}")]
    Thread {
        /// What the machine says.
        reason: String,
    },
}

/// A link to a board, or to a sensor of this machine.
pub struct Link {
    worker: Worker,
    /// Nothing where it is a sensor of this machine.
    address: Option<SerialAddress>,
    feed: Feed,
    /// What has been taken from the shared inbox at once, and how far it is done: items, and bytes of samples.
    inbox: Inbox,
    items_done: usize,
    bytes_done: usize,
    /// When the board should have said what it is, after the port came back or it started over.
    patience: Option<Instant>,
    /// Samples that nothing is known of are next: they wait until the board says what they are.
    held: Option<Held>,
    end: Option<Result<(), LinkError>>,
}

/// Samples that wait for their descriptor, and with them all that came behind.
struct Held {
    since: Instant,
    /// What had come beside samples when the descriptor was last looked for.
    others: usize,
    /// The end, or a hangup, is among it: no descriptor may ever come.
    may_stay_so: bool,
}

/// The thread at the device, which goes with the link.
struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How long a board may take to say what it is before a person is told.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the descriptors of other streams are waited for behind the first.
const SETTLE: Duration = Duration::from_millis(100);

impl Default for LinkOptions {
    fn default() -> Self {
        LinkOptions { queue_frames: 1 << 14, queue_bytes: 1 << 20, notice: |_| {} }
    }
}

impl LinkOptions {
    fn inbox(&self) -> Inbox {
        Inbox::new(self.queue_frames, self.queue_bytes)
    }
}

impl Link {
    /// Opens the device and waits until the board has said what its stream is, or `stop` is set. The calling thread is
    /// unparked when something has come.
    ///
    /// # Errors
    ///
    /// The port does not open, or the sensor does not answer; the board speaks another version of the protocol; it has no
    /// such stream, or several; `stop` was set.
    pub fn open(address: &Address, options: &LinkOptions, stop: Arc<AtomicBool>) -> Result<Link, LinkError> {
        match address {
            Address::Serial(address) => Link::open_serial(address, options, &stop),
            Address::I2c(address) => {
                let sensor = sensor::open(address)?;
                Link::open_sensor(sensor, address.rate_hz, options)
            }
        }
    }

    fn open_serial(
        address: &SerialAddress,
        options: &LinkOptions,
        stop: &AtomicBool,
    ) -> Result<Link, LinkError> {
        let port = Port::open(address)?;
        let worker = Worker::start(options.inbox(), |shared| {
            let reader = Reader::new(shared, address.clone());
            move || reader.run(port)
        })?;
        let (stream, boot) = worker.wait_for_stream(address, options.notice, stop)?;
        let feed = Feed::new(stream, boot, address.stream.clone());
        Ok(Link::new(worker, feed, Some(address.clone()), options))
    }

    pub(crate) fn open_sensor(
        sensor: AnySensor,
        rate_hz: f64,
        options: &LinkOptions,
    ) -> Result<Link, LinkError> {
        let stream = sensor::stream(&*sensor, rate_hz);
        let worker = Worker::start(options.inbox(), |shared| {
            let sampler = Sampler::new(shared, sensor, rate_hz);
            move || sampler.run()
        })?;
        Ok(Link::new(worker, Feed::new(stream, 0, None), None, options))
    }

    fn new(worker: Worker, feed: Feed, address: Option<SerialAddress>, options: &LinkOptions) -> Link {
        worker.shared.outgoing().stream = feed.stream.id;
        Link {
            worker,
            address,
            feed,
            inbox: options.inbox(),
            items_done: 0,
            bytes_done: 0,
            patience: None,
            held: None,
            end: None,
        }
    }

    /// What the stream is.
    pub fn stream(&self) -> &Stream {
        &self.feed.stream
    }

    /// The next event, without a wait; nothing when nothing has come yet. Behind the end is the end again.
    ///
    /// # Errors
    ///
    /// The board is another one than before: other channels, another version.
    pub fn poll(&mut self) -> Result<Option<Event<'_>>, LinkError> {
        self.stage();
        if !self.feed.is_empty() {
            return Ok(self.feed.next());
        }
        match &self.end {
            Some(Err(error)) => Err(error.clone()),
            Some(Ok(())) => Ok(Some(Event::End)),
            None => Ok(None),
        }
    }

    /// Whether [`poll`](Link::poll) would give nothing.
    pub fn would_wait(&mut self) -> bool {
        self.stage();
        self.feed.is_empty() && self.end.is_none()
    }

    /// Works items off until there is something to give.
    fn stage(&mut self) {
        if self.feed.has_ended {
            self.end.get_or_insert(Ok(()));
        }
        while self.feed.is_empty() && self.end.is_none() {
            if self.items_done >= self.inbox.parts().0.len() {
                if !self.fetch() {
                    return;
                }
                continue;
            }
            let stream = self.feed.stream.id;
            let is_strange = self.feed.is_strange(&self.inbox.parts().0[self.items_done]);
            let goes_on = if is_strange { self.explain() } else { self.take().map(|()| true) };
            if self.feed.stream.id != stream {
                self.worker.shared.outgoing().stream = self.feed.stream.id;
            }
            match goes_on {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => self.end = Some(Err(error)),
            }
        }
    }

    /// Takes the next item.
    fn take(&mut self) -> Result<(), LinkError> {
        let (items, data) = self.inbox.parts();
        let item = &items[self.items_done];
        let bytes = if let Item::Samples { bytes, .. } = item { *bytes } else { 0 };
        let data = &data[self.bytes_done..][..bytes];
        self.items_done += 1;
        self.bytes_done += bytes;
        self.held = None;
        self.feed.take(item, data)?;
        match item {
            Item::Back { .. } => self.patience = Some(Instant::now() + PATIENCE),
            Item::Descriptor { head, .. } if head.stream == self.feed.stream.id => self.patience = None,
            _ => {}
        }
        Ok(())
    }

    /// Finds what the samples mean that are next: what the first descriptor behind them says, of their own start of the
    /// board where there is one. No while it has not come: they wait, and everything behind them.
    ///
    /// One of the same start, on a port that has been away, is not waited for for ever: the board is the one before, or
    /// would have said. Samples of another start are never taken for what they may not be.
    fn explain(&mut self) -> Result<bool, LinkError> {
        let mine = &self.inbox.parts().0[self.items_done..];
        let Some(item @ Item::Samples { head, element, channels, bytes, .. }) = mine.first() else {
            return Ok(true);
        };
        let incoming = self.worker.shared.incoming();
        let others = incoming.inbox.others();
        let is_new = self.held.as_ref().is_none_or(|held| held.others != others);
        if is_new {
            let behind = || mine.iter().chain(incoming.inbox.parts().0);
            if let Some(stream) = meaning(&self.feed, head.boot, behind()) {
                self.feed.learn(head.boot, stream)?;
                return Ok(true);
            }
            let may_stay_so = behind().any(|item| self.feed.is_last(item));
            let since = self.held.as_ref().map(|held| held.since);
            if since.is_none() {
                self.patience = Some(Instant::now() + PATIENCE);
            }
            self.held = Some(Held { since: since.unwrap_or_else(Instant::now), others, may_stay_so });
        }
        let has_ended = incoming.end.is_some();
        drop(incoming);
        let (is_late, may_stay_so) = self
            .held
            .as_ref()
            .map_or((false, false), |held| (held.since.elapsed() > PATIENCE, held.may_stay_so));
        if (has_ended || is_late) && self.feed.trust(item) {
            return Ok(true);
        }
        if has_ended || may_stay_so && is_late {
            let samples = bytes / (element.bytes() * usize::from(*channels)).max(1);
            self.feed.give_up(*head, samples as u32);
            (self.items_done, self.bytes_done) = (self.items_done + 1, self.bytes_done + bytes);
            return Ok(true);
        }
        self.look_at_the_time();
        Ok(!self.feed.is_empty())
    }

    /// Tells a person of a board that has not said what it is.
    fn look_at_the_time(&mut self) {
        if self.patience.is_some_and(|patience| Instant::now() > patience) {
            self.patience = None;
            let baud = self.address.as_ref().map_or(0, |address| address.baud);
            let instead = self.worker.shared.incoming().glance.instead(baud);
            self.feed.notice(Kind::Other, instead);
        }
    }

    /// Takes what has come since; no when that is nothing.
    fn fetch(&mut self) -> bool {
        self.inbox.clear();
        (self.items_done, self.bytes_done) = (0, 0);
        let mut incoming = self.worker.shared.incoming();
        mem::swap(&mut self.inbox, &mut incoming.inbox);
        let has_choice = self.address.as_ref().is_some_and(|address| address.stream.is_none());
        if has_choice && incoming.streams.len() > 1 {
            self.end = Some(Err(LinkError::Streams { found: names(&incoming.streams) }));
        } else if self.inbox.is_empty() {
            self.end = incoming.end.clone();
        }
        drop(incoming);
        self.look_at_the_time();
        !self.inbox.is_empty() || !self.feed.is_empty()
    }

    /// What sends the model's answers to the board.
    pub fn responder(&self) -> Responder {
        Responder { shared: Arc::clone(&self.worker.shared) }
    }

    /// Asks the board for so many samples a second, above 0, now and whenever it starts over. Its descriptor is the answer.
    pub fn rate(&mut self, hz: f32) {
        if !(hz.is_finite() && hz > 0.0) {
            return;
        }
        let mut outgoing = self.worker.shared.outgoing();
        let wishes = &mut outgoing.wishes;
        (wishes.rate_hz, wishes.rates) = (Some(hz), wishes.rates.wrapping_add(1));
        outgoing.push(&Record { stream: self.feed.stream.id, ..command(Body::Rate(hz)) });
        drop(outgoing);
        self.worker.shared.wake();
    }

    /// Asks the board to send samples, as [`open`](Link::open) has done.
    pub fn start(&mut self) {
        self.run(true, Body::Start);
    }

    /// Asks the board to send no more samples, until [`start`](Link::start).
    pub fn stop_board(&mut self) {
        self.run(false, Body::Stop);
    }

    fn run(&mut self, runs: bool, body: Body<'_>) {
        let mut outgoing = self.worker.shared.outgoing();
        outgoing.wishes.runs = runs;
        outgoing.push(&command(body));
        drop(outgoing);
        self.worker.shared.wake();
    }

    /// What has been seen and done so far.
    pub fn counters(&self) -> Counters {
        let track = *self.feed.track.counts();
        let tally = self.worker.shared.incoming().tally.clone();
        let outgoing = self.worker.shared.outgoing();
        Counters {
            samples: track.used,
            missing: track.missing,
            duplicates: track.duplicates,
            late: track.late,
            frames: tally.frames,
            bad_frames: tally.bad_frames,
            bytes: tally.bytes,
            dropped_by_board: self.feed.dropped_by_board(),
            queue_overflows: tally.queue_overflows,
            sensor_errors: tally.sensor_errors,
            reconnects: tally.reconnects,
            restarts: track.restarts,
            predictions_sent: outgoing.predictions_sent,
            predictions_dropped: outgoing.predictions_dropped,
        }
    }

    /// How the board's clock goes.
    pub fn clock(&self) -> ClockFit {
        self.feed.clock()
    }

    /// Bytes that have come.
    pub fn bytes_read(&self) -> u64 {
        self.worker.shared.incoming().tally.bytes
    }
}

/// Says, however the thread at the device ends, that it has: nobody waits for it then.
struct Leaving(Arc<Shared>);

impl Drop for Leaving {
    fn drop(&mut self) {
        let end = if thread::panicking() { Err(LinkError::Failed) } else { Ok(()) };
        self.0.outgoing().close();
        self.0.incoming().end.get_or_insert(end);
        self.0.unpark_owner();
    }
}

impl Worker {
    fn start<F: FnOnce() + Send + 'static>(
        inbox: Inbox,
        work: impl FnOnce(Arc<Shared>) -> F,
    ) -> Result<Self, LinkError> {
        let no_thread = |error: std::io::Error| LinkError::Thread { reason: error.to_string() };
        let shared = Arc::new(Shared::new(inbox).map_err(no_thread)?);
        let thread = thread::Builder::new().name("mcedge-link".into());
        let (leaving, work) = (Leaving(shared.clone()), work(shared.clone()));
        let run = move || {
            let _leaving = leaving;
            work();
        };
        let thread = Some(thread.spawn(run).map_err(no_thread)?);
        Ok(Worker { shared, thread })
    }

    fn wait_for_stream(
        &self,
        address: &SerialAddress,
        notice: fn(&str),
        stop: &AtomicBool,
    ) -> Result<(Stream, u8), LinkError> {
        let began = Instant::now();
        let (mut settled, mut has_told) = (None, false);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(LinkError::Stopped);
            }
            let incoming = self.shared.incoming();
            if incoming.streams.is_empty() {
                settled = None;
            } else {
                settled.get_or_insert_with(Instant::now);
            }
            let settled = settled.map_or(Duration::ZERO, |settled: Instant| settled.elapsed());
            if let Some(stream) = choose(&incoming, address, settled)? {
                return Ok((stream, incoming.boot));
            }
            if !has_told && began.elapsed() > PATIENCE {
                let instead = incoming.glance.instead(address.baud);
                notice(&format!("{}: no board has said what it sends: {instead}", address.port));
                has_told = true;
            }
            drop(incoming);
            thread::park_timeout(SETTLE / 4);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread does not panic; and if it did, it has said so.
            let _ = thread.join();
        }
    }
}

/// The stream that is meant, once that is sure: `settled` after the first descriptor came.
fn choose(
    incoming: &Incoming,
    address: &SerialAddress,
    settled: Duration,
) -> Result<Option<Stream>, LinkError> {
    if let Some(Err(error)) = &incoming.end {
        return Err(error.clone());
    }
    let streams = &incoming.streams;
    let has_ended = incoming.end.is_some();
    let Some(wanted) = &address.stream else {
        return match &streams[..] {
            [] if has_ended => Err(LinkError::Gone { port: address.port.to_string() }),
            [stream] if has_ended || settled >= SETTLE => Ok(Some(stream.clone())),
            [] | [_] => Ok(None),
            _ => Err(LinkError::Streams { found: names(streams) }),
        };
    };
    let is_wanted = |stream: &&Stream| match wanted {
        StreamName::Id(id) => stream.id == *id,
        StreamName::Name(name) => stream.name == *name,
    };
    match streams.iter().find(is_wanted) {
        Some(stream) => Ok(Some(stream.clone())),
        None if streams.is_empty() && has_ended => Err(LinkError::Gone { port: address.port.to_string() }),
        None if has_ended || settled >= PATIENCE => {
            Err(LinkError::NoStream { wanted: wanted.clone(), found: names(streams) })
        }
        None => Ok(None),
    }
}

/// What samples of start `boot` mean by the items behind them.
fn meaning<'a>(feed: &Feed, boot: u8, behind: impl Iterator<Item = &'a Item>) -> Option<&'a Stream> {
    let mut first = None;
    for item in behind {
        if let Item::Descriptor { head, stream } = item
            && feed.is_mine(*head, stream)
        {
            if head.boot == boot {
                return Some(stream);
            }
            first.get_or_insert(&**stream);
        }
    }
    first
}

/// `imu (0), env (1)`.
fn names(streams: &[Stream]) -> String {
    let names = streams.iter().map(|stream| format!("{} ({})", stream.name, stream.id));
    names.collect::<Vec<_>>().join(", ")
}
