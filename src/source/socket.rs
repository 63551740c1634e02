//! `tcp-listen://HOST:PORT`, `tcp://HOST:PORT` and `unix://PATH`: lines that somebody sends.
//!
//! | bound | |
//! |---|---|
//! | clients at once | [`CLIENTS_MAX`]; one more takes the place of the one whose last whole line is longest ago, [`SILENCE`] at least, or is turned away |
//! | a line | [`LINE_MAX`] bytes; longer ones are dropped and counted |
//! | lines that wait | [`PIECES`] pieces; then clients wait |
//! | tries to connect | one at a time, and one in [`Backoff`]'s time |
//! | a peer that has lost its power | is noticed within a minute (on Linux) |
//!
//! A line that has no end when its connection breaks is dropped and counted: nothing of another connection is put to it.

mod connection;

use std::ffi::c_int;
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::assembler::Assembler;
use super::bytes::{CHUNK, LINE_MAX, POLL};
use super::live::{Came, Origin};
use super::tell::Teller;
use super::uri::Uri;
use connection::{Address, Attempt, Connection};

/// Clients that are listened to at once.
const CLIENTS_MAX: usize = 16;
/// How long a client sends no whole line before another may take its place.
const SILENCE: Duration = Duration::from_secs(10);
/// Pieces of lines that wait to be read.
const PIECES: usize = 16;
/// How long one try to connect may take.
const CONNECT: Duration = Duration::from_secs(1);
/// Seconds without a byte before the other side is asked whether it is still there.
const IDLE_S: c_int = 30;
/// Seconds between two such asks.
const ASK_EVERY_S: c_int = 10;
/// Asks without an answer before it is taken for gone.
const ASKS: c_int = 3;
/// How often somebody who wants to connect is looked for.
const ACCEPT: Duration = Duration::from_millis(20);

/// How long to wait before something is tried again: twice as long each time.
#[derive(Debug)]
pub struct Backoff {
    wait: Duration,
    until: Instant,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { wait: Self::LEAST, until: Instant::now() }
    }
}

impl Backoff {
    const LEAST: Duration = Duration::from_millis(50);
    const MOST: Duration = Duration::from_secs(5);

    /// It has failed.
    pub fn fail(&mut self) {
        self.until = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(Self::MOST);
    }

    /// It has succeeded: the next failure is a first one.
    pub fn succeed(&mut self) {
        self.wait = Self::LEAST;
    }

    /// Waits, for [`POLL`] at most; whether it may be tried now.
    pub fn wait(&self) -> bool {
        let left = self.until.saturating_duration_since(Instant::now());
        thread::sleep(left.min(POLL));
        left <= POLL
    }
}

/// Lines of a client, or to whom one connects.
type Stream = Box<dyn Read + Send>;

fn tcp(stream: TcpStream) -> io::Result<Stream> {
    keep_alive(&stream)?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(POLL))?;
    Ok(Box::new(stream))
}

fn unix(stream: UnixStream) -> io::Result<Stream> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(POLL))?;
    Ok(Box::new(stream))
}

/// Has the system ask, after [`IDLE_S`] without a byte, whether the other side is still there: one that has lost its power
/// does not hang up. Where nobody answers for [`ASKS`] times [`ASK_EVERY_S`], reading fails.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    set_option(stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    #[cfg(target_os = "linux")]
    for (option, value) in
        [(libc::TCP_KEEPIDLE, IDLE_S), (libc::TCP_KEEPINTVL, ASK_EVERY_S), (libc::TCP_KEEPCNT, ASKS)]
    {
        set_option(stream, libc::IPPROTO_TCP, option, value)?;
    }
    Ok(())
}

fn set_option(stream: &TcpStream, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and `value` is there and of that length.
    let result =
        unsafe { libc::setsockopt(stream.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a read has only waited. One that has timed out has not: that is what the system says of a lost connection.
fn has_waited(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Where clients come.
pub enum Listener {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Gone with it.
        _socket: OwnSocket,
    },
}

/// A socket in the file system, gone with its listener.
pub struct OwnSocket {
    path: PathBuf,
    inode: u64,
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        // Somebody else may listen there by now.
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener {
    fn unix(path: PathBuf) -> Result<Self> {
        let listener = UnixListener::bind(&path)?;
        let inode = fs::symlink_metadata(&path)?.ino();
        listener.set_nonblocking(true)?;
        Ok(Listener::Unix { listener, _socket: OwnSocket { path, inode } })
    }

    fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => tcp(listener.accept()?.0),
            Listener::Unix { listener, .. } => unix(listener.accept()?.0),
        }
    }
}

/// Lines of all who connect.
pub struct Listening {
    listener: Listener,
    clients: Vec<Client>,
    /// How long a client sends no whole line before another may take its place.
    silence: Duration,
    send: SyncSender<Vec<u8>>,
    pieces: Receiver<Vec<u8>>,
    teller: Arc<Teller>,
}

/// One who has connected, and is listened to by a thread.
struct Client {
    thread: JoinHandle<()>,
    heard: Arc<Heard>,
}

/// When a client's last whole line came: who sends bytes and ends no line keeps no place.
struct Heard {
    start: Instant,
    /// Since `start`; [`Heard::SPEAKING`] while a line waits for room, which is no silence of the client's.
    last_ms: AtomicU64,
    /// Nobody listens to it any more.
    closing: AtomicBool,
}

impl Heard {
    const SPEAKING: u64 = u64::MAX;

    fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last)
    }

    fn speaks(&self) {
        self.last_ms.store(Self::SPEAKING, Ordering::Relaxed);
    }

    fn has_spoken(&self) {
        self.last_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }
}

impl Listening {
    pub fn new(listener: Listener, silence: Duration, teller: Teller) -> Self {
        let (send, pieces) = mpsc::sync_channel(PIECES);
        Self { listener, clients: Vec::new(), silence, send, pieces, teller: Arc::new(teller) }
    }

    /// Takes in those who have come.
    fn accept(&mut self) -> io::Result<()> {
        // As many as may be turned away at a time.
        for _ in 0..CLIENTS_MAX {
            match self.listener.accept() {
                Ok(stream) => self.admit(stream)?,
                Err(error) if has_waited(&error) => return Ok(()),
                // One who has left before he was let in, or more files open than may be.
                Err(error) => {
                    self.teller.tell(format_args!("a client is not let in: {error}"));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, stream: Stream) -> io::Result<()> {
        self.clients.retain(|client| !client.thread.is_finished());
        if self.clients.len() == CLIENTS_MAX && !self.make_room() {
            let count = self.clients.len();
            self.teller
                .tell(format_args!("turns a client away: {count} are listened to, none of them silent"));
            return Ok(());
        }
        let start = Instant::now();
        let heard = Arc::new(Heard { start, last_ms: AtomicU64::new(0), closing: AtomicBool::new(false) });
        let (send, teller, is_heard) = (self.send.clone(), Arc::clone(&self.teller), Arc::clone(&heard));
        let thread = thread::Builder::new()
            .name("client".into())
            .spawn(move || listen(stream, &send, &teller, &is_heard))?;
        self.clients.push(Client { thread, heard });
        Ok(())
    }

    /// Hangs up on the client that has been silent longest; whether it has been so for long.
    fn make_room(&mut self) -> bool {
        let silence = |at: &usize| self.clients[*at].heard.silence();
        let silent = (0..self.clients.len()).max_by_key(silence).filter(|at| silence(at) >= self.silence);
        let Some(at) = silent else { return false };
        let client = self.clients.swap_remove(at);
        client.heard.closing.store(true, Ordering::Relaxed);
        let silence = client.heard.silence().as_secs();
        self.teller.tell(format_args!(
            "hangs up on a client that has sent no whole line for {silence} s: another wants its place"
        ));
        true
    }
}

/// Sends on whole lines of a client until it leaves.
fn listen(mut stream: Stream, send: &SyncSender<Vec<u8>>, teller: &Teller, heard: &Heard) {
    let (mut assembler, mut buffer) = (Assembler::new(LINE_MAX), vec![0; CHUNK]);
    while !heard.closing.load(Ordering::Relaxed) {
        let read = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if has_waited(&error) => continue,
            Err(_) => break,
        };
        let mut lines = Vec::new();
        assembler.push_all(&buffer[..read], &mut lines);
        teller.count(&mut assembler);
        if lines.is_empty() {
            continue;
        }
        heard.speaks();
        if send.send(lines).is_err() {
            return;
        }
        heard.has_spoken();
    }
    assembler.cut();
    teller.count(&mut assembler);
}

impl Origin for Listening {
    fn read(&mut self, chunk: &mut Vec<u8>) -> io::Result<Came> {
        self.accept()?;
        let Ok(mut lines) = self.pieces.recv_timeout(ACCEPT) else { return Ok(Came::Nothing) };
        chunk.append(&mut lines);
        while chunk.len() < CHUNK {
            let Ok(mut lines) = self.pieces.try_recv() else { break };
            chunk.append(&mut lines);
        }
        Ok(Came::Chunk(None))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.clients.iter().for_each(|client| client.heard.closing.store(true, Ordering::Relaxed));
        // Those who wait for room in the queue see that nobody makes any.
        self.pieces = mpsc::sync_channel(0).1;
        for client in self.clients.drain(..) {
            let _ = client.thread.join();
        }
    }
}

/// Whether to connect again where somebody hangs up.
fn reconnects(uri: &mut Uri) -> Result<bool> {
    Ok(uri.choose("reconnect", &[("yes", true), ("no", false)])?.unwrap_or(true))
}

fn host_and_port(uri: &Uri) -> Result<String> {
    let address = uri.what("HOST:PORT")?;
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    ensure!(
        port.is_some_and(|port| port.parse::<u16>().is_ok()),
        "has address {:?}, expected HOST:PORT",
        super::shown(&address)
    );
    Ok(address)
}

/// Opens `tcp-listen://HOST:PORT`.
///
/// # Errors
///
/// The URI is none such; the port is taken.
pub fn open_tcp_listen(uri: &Uri, teller: Teller) -> Result<Listening> {
    let address = host_and_port(uri)?;
    uri.end()?;
    let listener = TcpListener::bind(&address).with_context(|| format!("cannot listen on {address}"))?;
    listener.set_nonblocking(true)?;
    let local = listener.local_addr()?;
    if address.ends_with(":0") {
        teller.tell(format_args!("listens on {local}"));
    }
    Ok(Listening::new(Listener::Tcp(listener), SILENCE, teller))
}

/// Opens `tcp://HOST:PORT`.
///
/// # Errors
///
/// The URI is none such. Where nobody listens there yet, that is waited for.
pub fn open_tcp(mut uri: Uri, teller: Teller) -> Result<Connection> {
    let address = Address::Tcp(host_and_port(&uri)?);
    let reconnects = reconnects(&mut uri)?;
    uri.end()?;
    Ok(Connection::new(address, reconnects, teller))
}

/// One end of a socket in the file system.
pub enum UnixEnd {
    Connection(Connection),
    Listening(Listening),
}

/// Opens `unix://PATH`: connects where somebody listens, and listens where nobody does; and says which.
///
/// # Errors
///
/// The URI is none such; the path is something else; the socket is not to be had.
pub fn open_unix(mut uri: Uri, teller: Teller) -> Result<UnixEnd> {
    let path = PathBuf::from(uri.what("PATH")?);
    let reconnects = reconnects(&mut uri)?;
    uri.end()?;
    match fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => bail!(error),
        Ok(metadata) => {
            ensure!(metadata.file_type().is_socket(), "{} is no socket", path.display());
            let attempt = Attempt::start(&Address::Unix(path.clone()))?;
            match attempt.wait(CONNECT) {
                // Whoever listened there has gone and left it behind.
                Some(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(&path)?,
                Some(Err(error)) => bail!(error),
                // Where the answer is long in coming, somebody listens, and others wait too.
                answer => {
                    teller.tell("somebody listens there already: connects to it");
                    let connection = Connection::new(Address::Unix(path), reconnects, teller);
                    return Ok(UnixEnd::Connection(match answer {
                        Some(Ok(stream)) => connection.over(stream),
                        _ => connection.trying(attempt),
                    }));
                }
            }
        }
    }
    let listener =
        Listener::unix(path.clone()).with_context(|| format!("cannot listen on {}", path.display()))?;
    teller.tell("nobody listens there yet: listens");
    Ok(UnixEnd::Listening(Listening::new(listener, SILENCE, teller)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn listening(silence: Duration) -> (Listening, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (Listening::new(Listener::Tcp(listener), silence, Teller::new("test")), address)
    }

    /// Reads until there are so many lines.
    fn lines(origin: &mut impl Origin, count: usize) -> Vec<String> {
        let (start, mut bytes) = (Instant::now(), Vec::new());
        while bytes.iter().filter(|&&byte| byte == b'\n').count() < count {
            assert!(start.elapsed() < Duration::from_secs(30), "{}", String::from_utf8_lossy(&bytes));
            let mut chunk = Vec::new();
            match origin.read(&mut chunk).unwrap() {
                Came::Over => break,
                Came::Nothing => assert!(chunk.is_empty()),
                Came::Chunk(mark) => assert!(mark.is_none() && chunk.ends_with(b"\n")),
            }
            bytes.extend(chunk);
        }
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_of_many_clients_are_whole() {
        let (mut listening, address) = listening(SILENCE);
        let client = |c: usize| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                for i in 0..300 {
                    let line = format!("{c} {i} {}\n", "x".repeat(i * c % 71));
                    // In two pieces, between which others send theirs.
                    let (head, tail) = line.as_bytes().split_at(line.len() / 2);
                    stream.write_all(head).unwrap();
                    thread::yield_now();
                    stream.write_all(tail).unwrap();
                }
                // Cut off, and put to nobody's line.
                stream.write_all(b"half").unwrap();
            })
        };
        // One who says nothing holds nobody up.
        let _silent = TcpStream::connect(address).unwrap();
        let clients: Vec<_> = (0..15).map(client).collect();
        let found = lines(&mut listening, 15 * 300);
        clients.into_iter().for_each(|client| client.join().unwrap());
        for c in 0..15 {
            let own: Vec<&String> =
                found.iter().filter(|line| line.split(' ').next() == Some(&c.to_string())).collect();
            let expected: Vec<String> =
                (0..300).map(|i| format!("{c} {i} {}", "x".repeat(i * c % 71))).collect();
            assert!(own.into_iter().eq(&expected), "client {c}");
        }
        assert_eq!(found.len(), 15 * 300);
    }

    #[test]
    fn clients_are_bounded_and_the_silent_give_way() {
        let check = |silence: Duration, is_heard: bool| {
            let (mut listening, address) = listening(silence);
            let mut clients: Vec<TcpStream> =
                (0..CLIENTS_MAX).map(|_| TcpStream::connect(address).unwrap()).collect();
            for client in &mut clients {
                client.write_all(b"here\n").unwrap();
            }
            assert_eq!(lines(&mut listening, CLIENTS_MAX).len(), CLIENTS_MAX);
            let mut late = TcpStream::connect(address).unwrap();
            late.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let _ = late.write_all(b"late\n");
            if is_heard {
                assert_eq!(lines(&mut listening, 1), ["late"]);
            } else {
                listening.read(&mut Vec::new()).unwrap();
                // The end, at once.
                assert!(matches!(late.read(&mut [0]), Ok(0) | Err(_)));
            }
            assert_eq!(listening.clients.len(), CLIENTS_MAX);
        };
        check(Duration::from_secs(3600), false);
        check(Duration::ZERO, true);
    }

    #[test]
    fn who_ends_no_line_keeps_no_place() {
        let (mut listening, address) = listening(Duration::from_secs(1));
        let mut dripping: Vec<TcpStream> =
            (0..CLIENTS_MAX).map(|_| TcpStream::connect(address).unwrap()).collect();
        let (start, mut heard) = (Instant::now(), Vec::new());
        while heard.is_empty() {
            assert!(start.elapsed() < Duration::from_secs(30), "no place is free");
            // Those whose place was taken are hung up on.
            dripping.iter_mut().for_each(|client| drop(client.write_all(b"x")));
            let mut late = TcpStream::connect(address).unwrap();
            let _ = late.write_all(b"late\n");
            (0..3).for_each(|_| drop(listening.read(&mut heard).unwrap()));
        }
        assert_eq!(heard, b"late\n");
    }

    /// Of the other end of a cable that is cut nothing comes, no end either: the system is to ask.
    #[test]
    fn a_peer_without_power_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let check = |stream: TcpStream| {
            let option = |level, option| {
                let (mut value, mut length) = (0 as c_int, size_of::<c_int>() as libc::socklen_t);
                // SAFETY: the descriptor is open, and the value is there and of that length.
                let result = unsafe {
                    let value = (&raw mut value).cast();
                    libc::getsockopt(stream.as_raw_fd(), level, option, value, &mut length)
                };
                assert_eq!(result, 0);
                value
            };
            let _read = tcp(stream.try_clone().unwrap()).unwrap();
            assert_ne!(option(libc::SOL_SOCKET, libc::SO_KEEPALIVE), 0);
            #[cfg(target_os = "linux")]
            {
                let after_s = option(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE)
                    + option(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL)
                        * option(libc::IPPROTO_TCP, libc::TCP_KEEPCNT);
                assert!(after_s <= 60, "{after_s}");
            }
        };
        check(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        check(listener.accept().unwrap().0);
        // What the system then says of the connection is the end of it.
        assert!(!has_waited(&io::Error::from_raw_os_error(libc::ETIMEDOUT)));
    }

    /// What `run` gives, unless that takes longer than any machine does.
    #[track_caller]
    fn soon<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, given) = mpsc::channel();
        thread::spawn(move || send.send(run()));
        given.recv_timeout(Duration::from_secs(30)).expect("it hangs")
    }

    #[test]
    fn a_listener_who_lets_nobody_in_is_waited_for_and_can_be_left() {
        let path = std::env::temp_dir().join(format!("mcedge-full-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        // SAFETY: the descriptor is open, and listens already; one may wait to be let in.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        // What is read meanwhile: nothing, and soon.
        let waits = |mut connection: Connection| {
            soon(move || {
                for _ in 0..20 {
                    assert_eq!(connection.read(&mut Vec::new()).unwrap(), Came::Nothing);
                }
                connection
            })
        };
        let uri = Uri::parse(&format!("unix://{}", path.display())).unwrap().unwrap();
        let first = UnixStream::connect(&path).unwrap();
        let Ok(UnixEnd::Connection(connection)) = soon(|| open_unix(uri, Teller::new("test"))) else {
            panic!("somebody listens there")
        };
        let mut connection = waits(connection);
        drop((listener.accept().unwrap(), first));
        let mut stream = listener.accept().unwrap().0;
        stream.write_all(b"in\n").unwrap();
        assert_eq!(lines(&mut connection, 1), ["in"]);
        // The same when it connects again.
        let _first = UnixStream::connect(&path).unwrap();
        drop(stream);
        let connection = waits(connection);
        soon(move || drop(connection));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_connection_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = thread::spawn(move || {
            for turn in 0..3 {
                let (mut stream, _) = listener.accept().unwrap();
                write!(stream, "{turn}\nha").unwrap();
            }
        });
        let address = Address::Tcp(address.to_string());
        let mut connection = Connection::new(address, true, Teller::new("test"));
        assert_eq!(lines(&mut connection, 3), ["0", "1", "2"]);
        served.join().unwrap();
        // Nobody is there any more, and it waits.
        for _ in 0..5 {
            assert_eq!(connection.read(&mut Vec::new()).unwrap(), Came::Nothing);
        }
    }

    #[test]
    fn a_socket_is_connected_to_or_made() {
        let path = std::env::temp_dir().join(format!("mcedge-socket-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        let open = |query: &str| {
            let uri = Uri::parse(&format!("unix://{}{query}", path.display())).unwrap().unwrap();
            open_unix(uri, Teller::new("test"))
        };
        // Left behind.
        drop(UnixListener::bind(&path).unwrap());
        for _ in 0..2 {
            let Ok(UnixEnd::Listening(mut listening)) = open("") else { panic!("nobody listens there") };
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"one\ntwo\n").unwrap();
            assert_eq!(lines(&mut listening, 2), ["one", "two"]);
            drop(listening);
            assert!(!path.exists());
        }
        let listener = UnixListener::bind(&path).unwrap();
        let Ok(UnixEnd::Connection(mut connection)) = open("?reconnect=no") else {
            panic!("somebody listens there")
        };
        listener.accept().unwrap().0.write_all(b"three\nfo").unwrap();
        assert_eq!(lines(&mut connection, 9), ["three"]);
        drop(connection);
        assert!(path.exists(), "it is another's");
        drop(listener);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert!(open("").err().unwrap().to_string().ends_with("is no socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn waits_grow_to_a_bound() {
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            waits.push(backoff.wait.as_millis());
            backoff.fail();
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.succeed();
        assert_eq!(backoff.wait, Backoff::LEAST);
    }
}
