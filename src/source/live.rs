//! Live inputs: a thread reads each, so that a wait can be given up, and says where reading can be resumed.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::{iter, mem};

use super::bytes::{CHUNK, LINE_MAX, POLL};

/// Pieces of a live stream that wait to be read.
const CHUNKS: usize = 16;
/// The most bytes of a cursor.
pub const CURSOR_MAX: usize = 1024;

/// Where a live input comes from.
pub trait Origin: Send {
    /// Appends what has come to `chunk`, which is empty: whole lines, of [`LINE_MAX`] bytes each and little more than
    /// [`CHUNK`] in all. Waits for it no longer than a few [`POLL`]s.
    ///
    /// # Errors
    ///
    /// Nothing can come any more. Whatever heals by itself is no error.
    fn read(&mut self, chunk: &mut Vec<u8>) -> io::Result<Came>;
}

/// What has come.
#[derive(Debug, PartialEq)]
pub enum Came {
    /// Nothing yet.
    Nothing,
    /// What is in the chunk, and where reading goes on behind it, where that can be said.
    Chunk(Option<Mark>),
    /// Nothing, and nothing will.
    Over,
}

/// Where reading can be resumed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mark {
    /// What is read, or where that goes on: the origin knows.
    pub cursor: String,
    /// The byte of it that is next, where all bytes before it are those of the chunk: any part of the chunk has a mark then.
    pub offset: Option<u64>,
}

/// A stream that may say nothing for hours.
pub struct Live {
    /// None when it is being closed.
    chunks: Option<Receiver<io::Result<Chunk>>>,
    /// Chunks that were read go back to the thread.
    spare: Sender<Vec<u8>>,
    chunk: Chunk,
    /// Bytes of `chunk` handed out.
    read: usize,
    /// Where `chunk` begins.
    before: Option<Mark>,
    /// What came while asking whether enough had; never more than [`LINE_MAX`] bytes and a chunk.
    come: VecDeque<io::Result<Chunk>>,
    /// Bytes in `come`.
    come_bytes: usize,
    /// Nothing will come any more.
    ended: bool,
    stop: Arc<AtomicBool>,
    /// Tells the thread that nobody listens.
    closing: Arc<AtomicBool>,
    /// Where it ends soon after `closing`.
    thread: Option<JoinHandle<()>>,
}

/// Bytes that came at once; none at the end.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    mark: Option<Mark>,
}

/// Bytes of a reader that may wait for ever.
struct Blocking<R>(R);

impl<R: Read + Send> Origin for Blocking<R> {
    fn read(&mut self, chunk: &mut Vec<u8>) -> io::Result<Came> {
        chunk.resize(CHUNK, 0);
        match self.0.read(chunk) {
            Ok(0) => Ok(Came::Over),
            Ok(read) => {
                chunk.truncate(read);
                Ok(Came::Chunk(None))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Came::Nothing),
            Err(error) => Err(error),
        }
    }
}

impl Live {
    /// Reads what may wait for ever: its thread is left behind.
    pub fn blocking(reader: impl Read + Send + 'static, stop: Arc<AtomicBool>) -> io::Result<Self> {
        let mut live = Self::new(Blocking(reader), None, stop)?;
        live.thread = None;
        Ok(live)
    }

    /// Reads `origin`, from `start` on.
    pub fn new(
        origin: impl Origin + 'static,
        start: Option<Mark>,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let (send, chunks) = mpsc::sync_channel(CHUNKS);
        let (spare, spares) = mpsc::channel::<Vec<u8>>();
        let (waiting, closing) = (thread::current(), Arc::new(AtomicBool::new(false)));
        let is_closing = Arc::clone(&closing);
        let mut origin = origin;
        let thread = thread::Builder::new().name("input".into()).spawn(move || {
            let mut bytes = Vec::new();
            while !is_closing.load(Ordering::Relaxed) {
                bytes.clear();
                let came = match origin.read(&mut bytes) {
                    Ok(Came::Nothing) => continue,
                    Ok(Came::Chunk(mark)) => Ok(Chunk { bytes: mem::take(&mut bytes), mark }),
                    Ok(Came::Over) => Ok(Chunk::default()),
                    Err(error) => Err(error),
                };
                let is_last = is_last(&came);
                // Nobody listens any more, or the stream has ended.
                let is_over = send.send(came).is_err() || is_last;
                waiting.unpark();
                if is_over {
                    break;
                }
                bytes = spares.try_recv().unwrap_or_default();
            }
        })?;
        Ok(Live {
            chunks: Some(chunks),
            spare,
            chunk: Chunk { bytes: Vec::new(), mark: start },
            read: 0,
            before: None,
            come: VecDeque::new(),
            come_bytes: 0,
            ended: false,
            stop,
            closing,
            thread: Some(thread),
        })
    }

    /// Whether it says where reading can be resumed.
    pub fn has_marks(&self) -> bool {
        self.before.is_some() || self.chunk.mark.is_some()
    }

    /// Where reading can be resumed if the last `unread` bytes that were handed out have not been taken: a cursor, and the
    /// byte behind it that is next.
    pub fn mark(&self, unread: usize) -> Option<(&str, u64)> {
        let left = unread + self.chunk.bytes.len() - self.read;
        let place = |mark: &'_ Mark| mark.offset.unwrap_or_default();
        match &self.chunk.mark {
            Some(mark) if left == 0 => Some((&mark.cursor, place(mark))),
            Some(Mark { cursor, offset: Some(offset) }) => Some((cursor, offset.saturating_sub(left as u64))),
            _ => self.before.as_ref().map(|mark| (mark.cursor.as_str(), place(mark))),
        }
    }

    /// Takes from the thread what it has read, as far as a record may need it.
    pub fn take_what_has_come(&mut self) {
        while !self.is_over() {
            let came = match self.chunks.as_ref().map(Receiver::try_recv) {
                Some(Ok(chunk)) => chunk,
                Some(Err(TryRecvError::Empty)) => return,
                Some(Err(TryRecvError::Disconnected)) | None => Ok(Chunk::default()),
            };
            self.come_bytes += came.as_ref().map_or(0, |chunk| chunk.bytes.len());
            self.come.push_back(came);
        }
    }

    /// Whether no wait brings more: the stream has ended or failed, or has brought more than any record may have.
    pub fn is_over(&self) -> bool {
        let waiting = self.chunk.bytes.len() - self.read + self.come_bytes;
        self.ended || waiting > LINE_MAX || self.come.back().is_some_and(is_last)
    }

    /// What has come and has not been handed out.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let rest = self.come.iter().flatten().map(|chunk| chunk.bytes.as_slice());
        iter::once(&self.chunk.bytes[self.read..]).chain(rest)
    }

    /// The next chunk; none when the stream has ended or should.
    fn wait(&mut self) -> io::Result<Option<Chunk>> {
        if let Some(next) = self.come.pop_front() {
            self.come_bytes -= next.as_ref().map_or(0, |chunk| chunk.bytes.len());
            return next.map(Some);
        }
        while !self.ended && !self.stop.load(Ordering::Relaxed) {
            match self.chunks.as_ref().map(|chunks| chunks.recv_timeout(POLL)) {
                Some(Ok(next)) => return next.map(Some),
                Some(Err(RecvTimeoutError::Timeout)) => {}
                Some(Err(RecvTimeoutError::Disconnected)) | None => break,
            }
        }
        Ok(None)
    }
}

/// Whether nothing comes behind it.
fn is_last(came: &io::Result<Chunk>) -> bool {
    came.as_ref().map_or(true, |chunk| chunk.bytes.is_empty())
}

impl Read for Live {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.read == self.chunk.bytes.len() {
            let Some(chunk) = self.wait()? else { return Ok(0) };
            self.ended = chunk.bytes.is_empty();
            let Chunk { bytes, mark } = mem::replace(&mut self.chunk, chunk);
            self.before = mark.or(self.before.take());
            self.read = 0;
            // The thread may have ended already, and needs no spare then.
            let _ = self.spare.send(bytes);
        }
        let count = out.len().min(self.chunk.bytes.len() - self.read);
        out[..count].copy_from_slice(&self.chunk.bytes[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

/// What the origin holds goes with it: sockets, a child.
impl Drop for Live {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        // A thread that waits for room in the queue sees that nobody makes any.
        self.chunks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::bytes::Bytes;

    /// Chunks one after the other.
    struct Chunks(VecDeque<(&'static str, Option<Mark>)>);

    impl Origin for Chunks {
        fn read(&mut self, chunk: &mut Vec<u8>) -> io::Result<Came> {
            let Some((bytes, mark)) = self.0.pop_front() else { return Ok(Came::Over) };
            chunk.extend_from_slice(bytes.as_bytes());
            Ok(if bytes.is_empty() { Came::Nothing } else { Came::Chunk(mark) })
        }
    }

    fn mark(cursor: &str, offset: Option<u64>) -> Option<Mark> {
        Some(Mark { cursor: cursor.to_owned(), offset })
    }

    #[test]
    fn a_mark_is_behind_what_has_been_consumed() {
        let chunks = [
            // A header that is in no place of its own.
            ("head\n", None),
            ("", None),
            ("one\ntwo\n", mark("file", Some(108))),
            ("three\n", mark("file", Some(114))),
            ("entry\n", mark("e1", None)),
            ("entry\n", mark("e2", None)),
            ("more\n", None),
            ("more\n", None),
        ];
        let mut bytes = Bytes::lines(Chunks(chunks.into()), mark("file", Some(100)), Arc::default()).unwrap();
        assert!(bytes.can_resume() && bytes.has_lines() && !bytes.can_seek());
        let mut consume = |count: usize, expected: (&str, u64)| {
            bytes.peek().unwrap();
            bytes.consume(count);
            assert_eq!(bytes.mark(), Some(expected));
        };
        consume(0, ("file", 100));
        consume(5, ("file", 100));
        consume(0, ("file", 100));
        consume(4, ("file", 104));
        consume(4, ("file", 108));
        consume(2, ("file", 110));
        consume(4, ("file", 114));
        // Of an entry there are no parts.
        consume(3, ("file", 114));
        consume(3, ("e1", 0));
        consume(6, ("e2", 0));
        consume(5, ("e2", 0));
        consume(5, ("e2", 0));
        let unmarked = Bytes::lines(Chunks(VecDeque::new()), None, Arc::default()).unwrap();
        assert!(!unmarked.can_resume());
        assert_eq!(unmarked.mark(), None);
    }
}
