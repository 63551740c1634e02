//! To whom one connects, again and again.

use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::super::assembler::Assembler;
use super::super::bytes::{CHUNK, LINE_MAX, POLL};
use super::super::live::{Came, Origin};
use super::super::tell::Teller;
use super::{Backoff, CONNECT, Stream, has_waited, tcp, unix};

/// To whom to connect.
#[derive(Clone)]
pub enum Address {
    /// As in the URI: names may come to mean another address.
    Tcp(String),
    Unix(PathBuf),
}

impl Address {
    /// Connects, however long that takes.
    fn connect(&self) -> io::Result<Stream> {
        match self {
            Address::Tcp(address) => {
                let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
                for address in address.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT) {
                        Ok(stream) => return tcp(stream),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Address::Unix(path) => unix(UnixStream::connect(path)?),
        }
    }
}

/// One try to connect, on a thread of its own: a name may be looked up for long, and a listener that lets nobody in be waited
/// for without end. Where nobody waits for the thread any more it is left behind.
pub struct Attempt {
    answer: Receiver<io::Result<Stream>>,
    since: Instant,
}

impl Attempt {
    pub fn start(address: &Address) -> io::Result<Self> {
        let (send, answer) = mpsc::sync_channel(1);
        let address = address.clone();
        // Nobody may want the answer any more: then it is hung up.
        let connect = move || drop(send.send(address.connect()));
        thread::Builder::new().name("connect".into()).spawn(connect)?;
        Ok(Self { answer, since: Instant::now() })
    }

    /// The answer, once; none where it takes longer than `most`.
    pub fn wait(&self, most: Duration) -> Option<io::Result<Stream>> {
        match self.answer.recv_timeout(most) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                Some(Err(io::Error::other("the try to connect has failed")))
            }
        }
    }
}

/// Lines of one to whom one connects, again and again.
pub struct Connection {
    address: Address,
    teller: Teller,
    /// None while there is a stream.
    attempt: Option<Attempt>,
    stream: Option<Stream>,
    assembler: Assembler,
    backoff: Backoff,
    reconnects: bool,
    /// Whether it has been told that there is no connection.
    is_told: bool,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn new(address: Address, reconnects: bool, teller: Teller) -> Self {
        Self {
            address,
            teller,
            attempt: None,
            stream: None,
            assembler: Assembler::new(LINE_MAX),
            backoff: Backoff::default(),
            reconnects,
            is_told: false,
            buffer: vec![0; CHUNK],
        }
    }

    /// A connection of `stream`, where that is one already.
    pub fn over(self, stream: Stream) -> Self {
        Self { stream: Some(stream), ..self }
    }

    /// A connection that `attempt` may become.
    pub fn trying(self, attempt: Attempt) -> Self {
        Self { attempt: Some(attempt), ..self }
    }

    /// Waits for a connection, for a few [`POLL`]s at most.
    fn connect(&mut self) {
        if self.attempt.is_none() {
            if !self.backoff.wait() {
                return;
            }
            match Attempt::start(&self.address) {
                Ok(attempt) => self.attempt = Some(attempt),
                Err(error) => return self.fail(&error),
            }
        }
        let Some(attempt) = &self.attempt else { return };
        match attempt.wait(POLL) {
            Some(Ok(stream)) => {
                if self.is_told {
                    self.teller.tell("is connected");
                }
                self.is_told = false;
                (self.attempt, self.stream) = (None, Some(stream));
            }
            Some(Err(error)) => self.fail(&error),
            None if attempt.since.elapsed() >= CONNECT && !self.is_told => {
                self.teller.tell("nobody answers yet; waits");
                self.is_told = true;
            }
            None => {}
        }
    }

    /// There is no connection yet.
    fn fail(&mut self, error: &io::Error) {
        self.attempt = None;
        if !self.is_told {
            self.teller.tell(format_args!("{error}; tries again"));
        }
        self.is_told = true;
        self.backoff.fail();
    }

    fn hang_up(&mut self, why: &str) -> Came {
        self.stream = None;
        self.assembler.cut();
        self.teller.count(&mut self.assembler);
        if !self.reconnects {
            return Came::Over;
        }
        self.teller.tell(format_args!("{why}; connects again"));
        self.is_told = true;
        self.backoff.fail();
        Came::Nothing
    }
}

impl Origin for Connection {
    fn read(&mut self, chunk: &mut Vec<u8>) -> io::Result<Came> {
        let Some(stream) = &mut self.stream else {
            self.connect();
            return Ok(Came::Nothing);
        };
        match stream.read(&mut self.buffer) {
            Ok(0) => Ok(self.hang_up("the other side has hung up")),
            Ok(read) => {
                self.assembler.push_all(&self.buffer[..read], chunk);
                self.teller.count(&mut self.assembler);
                self.backoff.succeed();
                Ok(if chunk.is_empty() { Came::Nothing } else { Came::Chunk(None) })
            }
            Err(error) if has_waited(&error) => Ok(Came::Nothing),
            Err(error) => Ok(self.hang_up(&error.to_string())),
        }
    }
}
