//! What the two threads of a link share.

use std::io::{Read, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mcedge_wire::{Body, Record};

use super::LinkError;
use super::event::Stream;
use super::inbox::{At, Head, Inbox, Item, Tally};
use super::outbox::Outbox;

/// Held by the thread at the device and by the link.
pub struct Shared {
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outbox>,
    /// The link goes; so does the thread.
    closing: AtomicBool,
    /// A byte into one end wakes the thread at the device, which waits at the other.
    waker: (UnixStream, UnixStream),
    /// The thread that polls.
    owner: Thread,
    /// In [`running`] time.
    opened: Duration,
}

/// What has come.
pub struct Incoming {
    pub inbox: Inbox,
    pub tally: Tally,
    /// The streams of the board by their last descriptors, at most one for each number, of its start `boot`.
    pub streams: Vec<Stream>,
    pub boot: u8,
    /// Nothing will come behind what is in the inbox: the input has ended, or failed.
    pub end: Option<Result<(), LinkError>>,
    /// What came since the last connect, for somebody who wonders why there is no descriptor.
    pub glance: Glance,
}

/// A look at the bytes on the line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Glance {
    pub bytes: u64,
    pub text: u64,
    pub newlines: u64,
    pub zeros: u64,
    pub records: u64,
}

impl Shared {
    /// For the thread that calls, with an inbox that is `room`'s like.
    pub fn new(inbox: Inbox) -> std::io::Result<Self> {
        let waker = UnixStream::pair()?;
        waker.0.set_nonblocking(true)?;
        waker.1.set_nonblocking(true)?;
        let incoming = Incoming {
            inbox,
            tally: Tally::default(),
            streams: Vec::new(),
            boot: 0,
            end: None,
            glance: Glance::default(),
        };
        Ok(Shared {
            incoming: Mutex::new(incoming),
            outgoing: Mutex::new(Outbox::new()),
            closing: AtomicBool::new(false),
            waker,
            owner: std::thread::current(),
            opened: running(),
        })
    }

    /// Nothing that is done under either lock can panic, so that a poisoned one is whole.
    pub fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn outgoing(&self) -> MutexGuard<'_, Outbox> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> At {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        At { mono_us: micros(running().saturating_sub(self.opened)), wall_us: micros(since_epoch) }
    }

    pub fn unpark_owner(&self) {
        self.owner.unpark();
    }

    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake();
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Wakes the thread at the device. A full pipe has woken it already.
    pub fn wake(&self) {
        let _ = (&self.waker.0).write(&[0]);
    }

    pub fn waker(&self) -> BorrowedFd<'_> {
        self.waker.1.as_fd()
    }

    /// Takes what woke the thread.
    pub fn woken(&self) {
        let mut bytes = [0; 64];
        while (&self.waker.1).read(&mut bytes).is_ok_and(|count| count == bytes.len()) {}
    }
}

/// Time that nobody sets and that goes on while this machine sleeps, as a board's does.
#[cfg(target_os = "linux")]
fn running() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes a `timespec` to the one that it is given. Every kernel that Rust runs on has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Time that nobody sets; whether it goes on while this machine sleeps is the system's affair.
#[cfg(not(target_os = "linux"))]
fn running() -> Duration {
    static FIRST: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(std::time::Instant::now).elapsed()
}

fn micros(duration: Duration) -> i64 {
    duration.as_micros().try_into().unwrap_or(i64::MAX)
}

impl Incoming {
    /// Takes a record of a board.
    pub fn take(&mut self, at: At, record: &Record<'_>) {
        let head = Head::new(at, record);
        match &record.body {
            Body::Samples(samples) => {
                if !self.inbox.push_samples(head, samples) {
                    self.tally.queue_overflows += samples.len() as u64;
                }
            }
            Body::Status(status) => {
                self.inbox.push(Item::Status { head, status: *status });
            }
            Body::Descriptor(descriptor) => {
                let stream = Stream::new(record.stream, descriptor);
                self.inbox.push(Item::Descriptor { head, stream: Box::new(stream) });
            }
            // A line that echoes.
            Body::Describe | Body::Start | Body::Stop | Body::Rate(_) | Body::Prediction(_) => {}
        }
    }

    /// Notes what a stream of the board is.
    pub fn note(&mut self, record: &Record<'_>) {
        let Body::Descriptor(descriptor) = &record.body else { return };
        let stream = Stream::new(record.stream, descriptor);
        if mem::replace(&mut self.boot, record.boot) != record.boot {
            self.streams.clear();
        }
        match self.streams.iter_mut().find(|known| known.id == stream.id) {
            Some(known) => *known = stream,
            None => self.streams.push(stream),
        }
    }
}

impl Glance {
    /// Notes bytes that came.
    pub fn note(&mut self, bytes: &[u8]) {
        // Enough to tell; a board that is understood needs no look.
        if self.bytes < 1 << 16 {
            let is_text = |byte: u8| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n');
            self.text += bytes.iter().filter(|&&byte| is_text(byte)).count() as u64;
            self.newlines += bytes.iter().filter(|&&byte| byte == b'\n').count() as u64;
            self.zeros += bytes.iter().filter(|&&byte| byte == 0).count() as u64;
            self.bytes += bytes.len() as u64;
        }
    }

    /// What came in place of a descriptor, for a person.
    pub fn instead(&self, baud: u32) -> String {
        if self.bytes == 0 {
            return "nothing has come: is the board running?".into();
        }
        if self.text * 20 > self.bytes * 19 && self.newlines > 0 {
            return format!(
                "{} bytes have come that look like lines of text: --format csv reads those",
                self.bytes
            );
        }
        if self.records > 0 {
            return format!("{} good frames have come, and none says what the stream is", self.records);
        }
        format!("{} bytes have come and no whole frame: is {baud} the board's baud rate?", self.bytes)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn time_runs_since_the_machine_started_and_not_since_it_woke() {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        if mounts.contains("lxcfs") {
            return eprintln!("skipped: /proc/uptime is that of a container");
        }
        let uptime = || {
            let line = std::fs::read_to_string("/proc/uptime").unwrap();
            Duration::from_secs_f64(line.split(' ').next().unwrap().parse().unwrap())
        };
        // The kernel's line has hundredths of a second.
        let (before, now, after) = (uptime(), running(), uptime() + Duration::from_millis(20));
        assert!(before <= now && now <= after, "{before:?} {now:?} {after:?}");
    }
}
