//! The thread at a serial port: bytes to records, commands to bytes, and a port that goes and comes back.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcedge_wire::{Decoder, FrameError, RecordError, VERSION};

use super::LinkError;
use super::event::BadFrames;
use super::inbox::Item;
use super::shared::Shared;
use super::talk::Talk;
use crate::address::SerialAddress;
use crate::redial::{Redial, back, refusal};
use crate::serial::{Got, Port};

/// What the thread owns.
pub struct Reader {
    shared: Arc<Shared>,
    address: SerialAddress,
    decoder: Decoder,
    talk: Talk,
    redial: Redial,
    /// Records that had come when the port was opened.
    records: u64,
}

/// How long what is still to go out is waited for at the end.
const FAREWELL: Duration = Duration::from_millis(500);
const READ_BYTES: usize = 16 << 10;

/// Why a port is no longer read.
enum Parted {
    Closing,
    Hangup,
}

impl Reader {
    pub fn new(shared: Arc<Shared>, address: SerialAddress) -> Self {
        let talk = Talk::new(address.stream.clone());
        Reader { shared, address, decoder: Decoder::new(), talk, redial: Redial::new(), records: 0 }
    }

    /// Reads until the link closes, or the port goes and is not waited for.
    pub fn run(mut self, mut port: Port) {
        let mut room = vec![0; READ_BYTES];
        loop {
            self.greet();
            match self.read(&mut port, &mut room) {
                Parted::Closing => return self.part(&mut port),
                Parted::Hangup => drop(port),
            }
            self.unplugged();
            if !self.address.reconnect {
                return self.end(Ok(()));
            }
            if let Some(refusal) = refusal(&self.address.port) {
                self.push(Item::Notice(refusal));
                return self.end(Ok(()));
            }
            match self.wait_for_port() {
                Some(found) => port = found,
                None => return,
            }
        }
    }

    /// Begins with a board: ends whatever stood on the line, and asks what there is.
    fn greet(&mut self) {
        self.shared.outgoing().push_zero();
        self.talk.greet();
    }

    fn read(&mut self, port: &mut Port, room: &mut [u8]) -> Parted {
        loop {
            if self.shared.is_closing() {
                return Parted::Closing;
            }
            let until = self.talk.say(&mut self.shared.outgoing(), Instant::now());
            let wants_write = !self.shared.outgoing().is_empty();
            let ready = port.wait(Some(self.shared.waker()), wants_write, until);
            if ready.waker {
                self.shared.woken();
            }
            if ready.write {
                self.write(port);
            }
            if ready.read {
                match port.read(room) {
                    Got::Bytes(count) => self.take(&room[..count]),
                    Got::Nothing => {}
                    Got::Hangup => return Parted::Hangup,
                }
            }
        }
    }

    /// Hands the driver what it takes of what waits.
    fn write(&self, port: &mut Port) {
        let mut outgoing = self.shared.outgoing();
        let sent = port.write(outgoing.first());
        outgoing.sent(sent);
    }

    /// Bytes that have come to items, all under one lock.
    fn take(&mut self, mut bytes: &[u8]) {
        let (at, now) = (self.shared.now(), Instant::now());
        let mut incoming = self.shared.incoming();
        incoming.glance.note(bytes);
        while let Some(record) = self.decoder.next(&mut bytes) {
            match record {
                Ok(record) => {
                    incoming.glance.records += 1;
                    self.talk.hear(&record, now);
                    incoming.note(&record);
                    if self.talk.may_be_mine(&record) {
                        incoming.take(at, &record);
                    }
                }
                Err(FrameError::Record(RecordError::Version { found })) => {
                    incoming.end = Some(Err(LinkError::Version { found, expected: VERSION }));
                }
                Err(_) => {}
            }
        }
        let counts = self.decoder.counts();
        let tally = &mut incoming.tally;
        (tally.bytes, tally.frames) = (counts.bytes, counts.records);
        let cut = tally.bad_frames.cut;
        tally.bad_frames = BadFrames {
            stuffing: counts.stuffing,
            crc: counts.crc,
            oversized: counts.oversized,
            record: counts.record,
            cut,
        };
        drop(incoming);
        self.shared.unpark_owner();
    }

    /// The port has gone: so has the frame that had begun, and what was to go out.
    fn unplugged(&mut self) {
        self.shared.outgoing().clear();
        let mut incoming = self.shared.incoming();
        incoming.tally.bad_frames.cut += u64::from(self.decoder.has_begun());
        self.decoder.restart();
        incoming.glance = Default::default();
        incoming.inbox.push(Item::Unplugged);
        drop(incoming);
        self.shared.unpark_owner();
    }

    /// Looks for the port until it is there again; nothing when the link closes before.
    fn wait_for_port(&mut self) -> Option<Port> {
        let records = self.decoder.counts().records;
        let has_spoken = mem::replace(&mut self.records, records) != records;
        let shared = &self.shared;
        let say = |what| push(shared, Item::Notice(what));
        let (port, after) = self.redial.wait(&self.address, has_spoken, |time| pause(shared, time), say)?;
        // Predictions of the time without a port.
        self.shared.outgoing().clear();
        let mut incoming = self.shared.incoming();
        incoming.tally.reconnects += 1;
        // It may be another board's.
        incoming.streams.clear();
        drop(incoming);
        self.push(Item::Back { notice: back(&port, after) });
        Some(port)
    }

    fn push(&self, item: Item) {
        push(&self.shared, item);
    }

    fn end(&self, end: Result<(), LinkError>) {
        self.shared.incoming().end.get_or_insert(end);
        self.shared.unpark_owner();
    }

    /// The link closes: what is on its way may still go out, for a while.
    fn part(&self, port: &mut Port) {
        let until = Instant::now() + FAREWELL;
        while !self.shared.outgoing().is_empty() || port.unsent() > 0 {
            if Instant::now() >= until {
                return port.discard_unsent();
            }
            self.write(port);
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Waits; no when the link closes meanwhile.
fn pause(shared: &Shared, pause: Duration) -> bool {
    let until = Instant::now() + pause;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if shared.is_closing() || left.is_zero() {
            return !shared.is_closing();
        }
        crate::serial::wait_for(shared.waker(), left);
        shared.woken();
    }
}

fn push(shared: &Shared, item: Item) {
    shared.incoming().inbox.push(item);
    shared.unpark_owner();
}
