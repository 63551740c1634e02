//! `--output mqtt://[user:password@]HOST[:PORT]/TOPIC`: each row a message.
//!
//! A row waits until the broker has acknowledged it (`qos=1`, which it is unless the URI says `qos=0`); what was not when a
//! connection breaks is sent again in the next, so that a row may come twice and none is lost on the way.
//!
//! | bound | |
//! |---|---|
//! | rows that wait | [`ROWS`], of [`BYTES`]; then the run waits for [`PATIENCE`], and drops and counts rows while none is taken |
//! | at the end | [`FAREWELL`] for what waits; the rest is lost, and told |
//! | connections | one in [`Backoff`]'s time |

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rumqttc::{Client, Connection, Event, Outgoing, Packet, QoS};

use crate::source::mqtt::{Address, said};
use crate::source::socket::Backoff;
use crate::source::uri::Uri;

/// Rows that wait for the broker.
const ROWS: usize = 4096;
/// Bytes of rows that wait for the broker.
const BYTES: usize = 16 << 20;
/// Rows that are sent and not acknowledged.
const WINDOW: usize = 64;
/// How long a row waits for its place.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a snapshot waits for the rows before it.
const SNAPSHOT: Duration = Duration::from_secs(2);
/// How long the end waits for what waits.
const FAREWELL: Duration = Duration::from_secs(10);

/// Rows on their way to a topic.
pub struct Publisher {
    shared: Arc<Shared>,
    client: Client,
    thread: Option<JoinHandle<()>>,
    /// Rows were dropped since one was taken.
    is_full: bool,
}

/// What the run and the thread that talks to the broker share.
struct Shared {
    address: Address,
    name: String,
    state: Mutex<State>,
    /// Something has changed in `state`.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Rows that are not sent, oldest first.
    waiting: VecDeque<Vec<u8>>,
    /// Rows that are sent and not acknowledged, oldest first.
    sent: VecDeque<Sent>,
    /// Bytes of both.
    bytes: usize,
    is_connected: bool,
    /// No more rows come.
    is_closing: bool,
    /// Rows dropped for want of a place.
    lost: u64,
}

struct Sent {
    row: Vec<u8>,
    /// Its packet's number, once it has one.
    packet: Option<u16>,
}

impl State {
    fn left(&self) -> usize {
        self.waiting.len() + self.sent.len()
    }

    fn is_full(&self) -> bool {
        self.left() >= ROWS || self.bytes >= BYTES
    }

    /// The row at that place of those that were sent has arrived.
    fn arrived(&mut self, at: usize) {
        if let Some(sent) = self.sent.remove(at) {
            self.bytes -= sent.row.len();
        }
    }

    /// What was sent is to be sent again.
    fn disconnected(&mut self) {
        self.is_connected = false;
        while let Some(sent) = self.sent.pop_back() {
            self.waiting.push_front(sent.row);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is locked panics; if it did, rows would still be rows.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what waits, as far as the window allows.
    fn send(&self, state: &mut State, client: &Client) {
        while state.is_connected && state.sent.len() < WINDOW {
            let Some(row) = state.waiting.front() else { return };
            let Address { topic, qos, .. } = &self.address;
            if client.try_publish(topic, *qos, false, row.as_slice()).is_err() {
                return;
            }
            let row = state.waiting.pop_front().unwrap_or_default();
            state.sent.push_back(Sent { row, packet: None });
        }
    }

    /// Waits until `is_so`, or for `time`; whether it is so.
    fn wait(&self, time: Duration, is_so: impl Fn(&State) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.state(), time, |state| !is_so(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        is_so(&state)
    }

    fn tell(&self, what: impl Display) {
        // A run does not fail for want of somebody to tell.
        let _ = writeln!(io::stderr(), "mcedge: output {}: {what}", self.name);
    }

    /// Talks to the broker until the end.
    fn serve(&self, mut connection: Connection, client: &Client) {
        let (mut backoff, mut is_told) = (Backoff::default(), false);
        while let Ok(event) = connection.recv() {
            let mut state = self.state();
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    state.is_connected = true;
                    backoff.succeed();
                    if std::mem::take(&mut is_told) {
                        self.tell("is connected");
                    }
                }
                Ok(Event::Outgoing(Outgoing::Publish(packet))) => {
                    let next = state.sent.iter().position(|sent| sent.packet.is_none());
                    match next {
                        Some(at) if self.address.qos == QoS::AtMostOnce => state.arrived(at),
                        Some(at) => state.sent[at].packet = Some(packet),
                        None => {}
                    }
                }
                Ok(Event::Incoming(Packet::PubAck(ack))) => {
                    let acknowledged = state.sent.iter().position(|sent| sent.packet == Some(ack.pkid));
                    acknowledged.into_iter().for_each(|at| state.arrived(at));
                }
                Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
                Ok(_) => {}
                Err(error) => {
                    // What the client still has is sent again from here: it would forget it with a broker that does.
                    connection.eventloop.clean();
                    connection.eventloop.pending.clear();
                    state.disconnected();
                    if state.is_closing {
                        return;
                    }
                    drop(state);
                    if !is_told {
                        self.tell(format_args!("{}; tries again", said(&error)));
                    }
                    is_told = true;
                    backoff.fail();
                    while !backoff.wait() && !self.state().is_closing {}
                    continue;
                }
            }
            self.send(&mut state, client);
            self.changed.notify_all();
        }
    }
}

impl Publisher {
    /// Opens `mqtt://…`, which is told as `name`.
    ///
    /// # Errors
    ///
    /// The URI is none of a topic; there is no thread to be had. A broker that is not there is waited for.
    pub fn open(uri: Uri, name: &str) -> Result<Self> {
        let address = Address::parse(uri, QoS::AtLeastOnce)?;
        let is_topic = rumqttc::valid_topic(&address.topic);
        ensure!(is_topic, "has topic {:?}, expected one without + and #", address.topic);
        let mut options = address.options();
        // Rows that were not acknowledged are kept here.
        options.set_clean_session(true);
        let (client, connection) = Client::new(options, WINDOW);
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { address, name: name.to_owned(), state, changed });
        let (serving, sender) = (Arc::clone(&shared), client.clone());
        let thread = thread::Builder::new().name("mqtt".into());
        let thread = thread.spawn(move || serving.serve(connection, &sender))?;
        Ok(Self { shared, client, thread: Some(thread), is_full: false })
    }

    /// Takes a row, given without its newline.
    pub fn row(&mut self, row: &[u8]) {
        let patience = if self.is_full { Duration::ZERO } else { PATIENCE };
        let was_full = self.is_full;
        self.is_full = !self.shared.wait(patience, |state| !state.is_full());
        let mut state = self.shared.state();
        if self.is_full {
            state.lost += 1;
            if !was_full {
                self.shared.tell("the broker takes no rows: drops those that come");
            }
            return;
        }
        state.bytes += row.len();
        state.waiting.push_back(row.to_vec());
        self.shared.send(&mut state, &self.client);
    }

    /// Waits a while for what was taken to arrive.
    ///
    /// # Errors
    ///
    /// It has not.
    pub fn sync(&mut self) -> io::Result<()> {
        let time = if self.shared.state().is_connected { SNAPSHOT } else { Duration::ZERO };
        if self.shared.wait(time, |state| state.left() == 0) {
            return Ok(());
        }
        let left = self.shared.state().left();
        Err(io::Error::other(format!("{left} rows are not acknowledged by the broker yet")))
    }

    /// Ends it when all has arrived, or it has been waited for long enough.
    ///
    /// # Errors
    ///
    /// Rows are lost.
    pub fn finish(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.wait(FAREWELL, |state| state.left() == 0);
        let (left, lost) = {
            let mut state = self.shared.state();
            state.is_closing = true;
            (state.left(), state.lost)
        };
        // It says goodbye where it can, and is waited for no longer than that takes.
        let (_, start) = (self.client.try_disconnect(), Instant::now());
        while left == 0 && !thread.is_finished() && start.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(5));
        }
        if left as u64 + lost == 0 {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "lost rows: {left} that the broker has not acknowledged, {lost} dropped while it took none"
        )))
    }
}
