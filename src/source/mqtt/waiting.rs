//! Messages between the thread that talks to the broker and the run: those that wait to be read, and those that the broker is
//! to be told about when they have been run.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::{Client, Publish, QoS};

use super::super::bytes::LINE_MAX;

/// Bytes that wait to be read, but for those of a single message.
pub const BYTES: usize = 4 * LINE_MAX;
/// Messages that wait to be read.
pub const MESSAGES: usize = 256;
/// Topics whose last message is known again.
const TOPICS: usize = 1 << 16;

/// A message, or one without bytes in the place of one that nobody is to read.
#[derive(Debug, Default, PartialEq)]
pub struct Message {
    pub payload: Vec<u8>,
    /// By what the broker knows it; none where it is not to be told anything.
    pub id: Option<u16>,
    /// The connection on which it came, counted from 1.
    pub connection: u64,
}

/// Messages that wait to be read, in order.
///
/// # Invariants
///
/// - They are [`MESSAGES`] at most; of several the bytes are [`BYTES`] at most.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Message>,
    /// Of all messages.
    bytes: usize,
    /// Nobody reads them any more.
    is_closed: bool,
    /// None will come.
    is_over: bool,
}

impl Waiting {
    fn has_room(&self, bytes: usize) -> bool {
        self.messages.is_empty() || (self.messages.len() < MESSAGES && self.bytes + bytes <= BYTES)
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message behind the others when there is room. One that comes when nobody reads any more is lost.
    pub fn push(&self, message: Message) {
        let is_full = |waiting: &mut Waiting| !waiting.is_closed && !waiting.has_room(message.payload.len());
        let waiting = self.changed.wait_while(self.lock(), is_full);
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        if !waiting.is_closed {
            waiting.bytes += message.payload.len();
            waiting.messages.push_back(message);
        }
        self.changed.notify_all();
    }

    /// The next message, if one comes within `wait`.
    pub fn pop(&self, wait: Duration) -> Option<Message> {
        let is_empty = |waiting: &mut Waiting| waiting.messages.is_empty() && !waiting.is_over;
        let waiting = self.changed.wait_timeout_while(self.lock(), wait, is_empty);
        let (mut waiting, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        let message = waiting.messages.pop_front()?;
        waiting.bytes -= message.payload.len();
        self.changed.notify_all();
        Some(message)
    }

    /// Nobody reads any more.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// None will come.
    pub fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Whether none will come behind those that wait.
    pub fn is_over(&self) -> bool {
        self.lock().is_over
    }
}

/// Messages that the broker keeps until it is told that they have been run.
pub struct Acks {
    client: Client,
    unsettled: Mutex<Unsettled>,
}

/// # Invariants
///
/// - `messages` are of `connection`, in the order in which they came, which is that in which a broker is to be told; each with
///   the bytes that have been run when it has.
#[derive(Debug, Default)]
struct Unsettled {
    messages: VecDeque<(u64, u16)>,
    connection: u64,
    /// Bytes that have been run.
    settled: u64,
}

impl Unsettled {
    /// Takes a message that has been run when `end` bytes have.
    fn add(&mut self, message: &Message, end: u64) {
        let Some(id) = message.id else { return };
        if message.connection > self.connection {
            // What the broker has not been told on another connection comes again.
            (self.connection, self.messages) = (message.connection, VecDeque::new());
        }
        self.messages.push_back((end, id));
    }

    /// Tells of the messages that have been run, as long as `tell` takes them; says whether it has taken all.
    fn tell(&mut self, mut tell: impl FnMut(u16) -> bool) -> bool {
        while let Some(&(end, id)) = self.messages.front() {
            if end > self.settled {
                return true;
            }
            if !tell(id) {
                return false;
            }
            self.messages.pop_front();
        }
        true
    }
}

impl Acks {
    pub fn new(client: Client) -> Self {
        Self { client, unsettled: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Unsettled> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message that has been run when `end` bytes have.
    pub fn add(&self, message: &Message, end: u64) {
        self.lock().add(message, end);
    }

    /// So many bytes of those that were handed on have been run.
    pub fn settle(&self, bytes: u64) {
        self.lock().settled = bytes;
        self.send();
    }

    /// Tells the broker what can be told; says whether that is all.
    pub fn send(&self) -> bool {
        self.lock().tell(|id| {
            let mut message = Publish::new("", QoS::AtLeastOnce, Vec::new());
            message.pkid = id;
            self.client.try_ack(&message).is_ok()
        })
    }
}

/// What the last message of each topic was, as far as there is room.
#[derive(Default)]
pub struct Last(HashMap<u64, u64>);

impl Last {
    /// Remembers a message, and says whether it is `kept` by the broker for who subscribes, and the last one once more.
    pub fn is_again(&mut self, topic: &str, payload: &[u8], kept: bool) -> bool {
        let (topic, payload) = (hash(topic.as_bytes()), hash(payload));
        if self.0.len() >= TOPICS && !self.0.contains_key(&topic) {
            return false;
        }
        self.0.insert(topic, payload) == Some(payload) && kept
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const NOW: Duration = Duration::ZERO;
    const PATIENCE: Duration = Duration::from_secs(30);

    fn message(bytes: usize) -> Message {
        Message { payload: vec![b'x'; bytes], ..Message::default() }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_and_in_messages() {
        for (bytes, most) in
            [(LINE_MAX, 4), (2 * LINE_MAX, 2), (9 * LINE_MAX, 1), (1, MESSAGES), (0, MESSAGES)]
        {
            let queue = Arc::new(Queue::default());
            let pushing = Arc::clone(&queue);
            let thread = thread::spawn(move || (0..most + 1).for_each(|_| pushing.push(message(bytes))));
            let mut taken = 0;
            while queue.lock().messages.len() < most {
                thread::yield_now();
            }
            assert!(!queue.lock().has_room(bytes), "{bytes}");
            while taken <= most {
                assert!(queue.lock().messages.len() <= most);
                taken += usize::from(queue.pop(PATIENCE).is_some());
            }
            thread.join().unwrap();
            assert_eq!((queue.pop(NOW), queue.lock().bytes), (None, 0));
        }
    }

    #[test]
    fn who_waits_for_room_sees_that_nobody_reads_any_more() {
        let queue = Arc::new(Queue::default());
        let pushing = Arc::clone(&queue);
        let thread = thread::spawn(move || (0..9).for_each(|_| pushing.push(message(BYTES))));
        assert!(queue.pop(PATIENCE).is_some());
        queue.close();
        thread.join().unwrap();
        queue.end();
        assert!(queue.is_over() && queue.is_closed());
    }

    #[test]
    fn the_broker_is_told_of_what_has_been_run_alone_and_in_order() {
        let told = |unsettled: &mut Unsettled, settled: u64, most: usize| {
            unsettled.settled = settled;
            let mut told = Vec::new();
            unsettled.tell(|id| {
                let takes = told.len() < most;
                told.extend(takes.then_some(id));
                takes
            });
            told
        };
        let mut unsettled = Unsettled::default();
        let of = |connection, id| Message { id, connection, ..Message::default() };
        for (id, end) in [(1, 10), (2, 10), (3, 25), (4, 30)] {
            unsettled.add(&of(1, Some(id)), end);
        }
        unsettled.add(&of(1, None), 31);
        assert!(told(&mut unsettled, 9, 9).is_empty());
        assert_eq!(told(&mut unsettled, 24, 1), [1]);
        assert_eq!(told(&mut unsettled, 24, 9), [2]);
        // On another connection the broker knows none of these.
        unsettled.add(&of(2, Some(3)), 40);
        assert!(told(&mut unsettled, 39, 9).is_empty());
        assert_eq!(told(&mut unsettled, 40, 9), [3]);
    }

    #[test]
    fn a_kept_message_comes_once() {
        let mut last = Last::default();
        assert!(!last.is_again("a", b"1", true));
        assert!(last.is_again("a", b"1", true));
        assert!(!last.is_again("a", b"1", false));
        // Said while nobody was there, and kept.
        assert!(!last.is_again("a", b"2", true));
        assert!(!last.is_again("b", b"2", true));
        (0..2 * TOPICS).for_each(|topic| {
            last.is_again(&topic.to_string(), b"", false);
        });
        assert!(last.0.len() <= TOPICS && last.is_again("a", b"2", true));
    }
}
