//! An open serial port, read and written through its raw descriptor.
//!
//! `serialport` opens and sets the port up. It reads none of it: when a port has gone it reports a broken pipe, and the
//! bytes that came before are lost. Here every read takes what there is until the kernel says that there is no more.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serialport::TTYPort;

use crate::address::SerialAddress;
use crate::port::{self, PortError};

/// A port that is open, and nobody else's.
pub struct Port {
    /// Reads and writes by `read` and `write` themselves; of the descriptor of `_tty`, which it shares.
    file: File,
    /// Gives the port back when it goes.
    _tty: TTYPort,
    /// Where it is, links followed.
    path: PathBuf,
}

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Got {
    /// So many bytes.
    Bytes(usize),
    /// None yet.
    Nothing,
    /// None any more: the port has gone.
    Hangup,
}

/// What a wait ended with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    /// A read will not give [`Got::Nothing`].
    pub read: bool,
    /// A write will take something, or fail.
    pub write: bool,
    /// The other descriptor has something.
    pub waker: bool,
}

impl Port {
    /// Finds the port and opens it: 8 data bits, no parity, one stop bit, no flow control, for this process alone.
    ///
    /// # Errors
    ///
    /// There is no such port or there are several; it is another program's; it may not be opened; it is no port.
    pub fn open(address: &SerialAddress) -> Result<Self, PortError> {
        let path = port::find(&address.port)?;
        let builder = serialport::new(path.to_string_lossy(), address.baud);
        let tty = TTYPort::open(&builder).map_err(|error| open_error(&path, &error))?;
        let port = Port::new(tty, path.clone())
            .map_err(|error| PortError::Open { path, reason: error.to_string() })?;
        if address.low_latency {
            port.ask_for_low_latency();
        }
        Ok(port)
    }

    /// Takes a port that is open already.
    pub fn new(tty: TTYPort, path: PathBuf) -> io::Result<Self> {
        // SAFETY: `tty` owns the descriptor and outlives the borrow, which ends with this statement.
        let fd = unsafe { BorrowedFd::borrow_raw(tty.as_raw_fd()) }.try_clone_to_owned()?;
        let file = File::from(fd);
        set_nonblocking(&file)?;
        Ok(Port { file, _tty: tty, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until there is something to read, something can be written (when `wants_write`), `waker` has something, or
    /// the time is over.
    pub fn wait(&self, waker: Option<BorrowedFd<'_>>, wants_write: bool, timeout: Duration) -> Ready {
        let writes = if wants_write { libc::POLLOUT } else { 0 };
        let none = libc::pollfd { fd: -1, events: 0, revents: 0 };
        let mut fds =
            [libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN | writes, revents: 0 }, none];
        if let Some(waker) = waker {
            fds[1] = libc::pollfd { fd: waker.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        }
        poll(&mut fds, timeout);
        Ready {
            // A hangup or an error is for the next read to say, behind the bytes before it.
            read: fds[0].revents & !libc::POLLOUT != 0,
            write: fds[0].revents & libc::POLLOUT != 0,
            waker: fds[1].revents != 0,
        }
    }

    /// Takes bytes that have come, without a wait.
    pub fn read(&mut self, room: &mut [u8]) -> Got {
        match self.file.read(room) {
            Ok(0) => Got::Hangup,
            Ok(count) => Got::Bytes(count),
            Err(error) if is_later(&error) => Got::Nothing,
            Err(_) => Got::Hangup,
        }
    }

    /// Hands on what the driver has room for, without a wait. A port that has gone takes nothing; a read says so.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.file.write(bytes).unwrap_or(0)
    }

    /// Bytes that the driver has and the line has not yet.
    pub fn unsent(&self) -> usize {
        let mut count: libc::c_int = 0;
        // SAFETY: the descriptor is open, and the request writes one int.
        let rc = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TIOCOUTQ, &mut count) };
        if rc == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
    }

    /// Forgets what the driver has not sent: closing waits for it, half a minute where a board does not read.
    pub fn discard_unsent(&self) {
        // SAFETY: the descriptor is open; the call has no other argument than a constant.
        unsafe { libc::tcflush(self.file.as_raw_fd(), libc::TCOFLUSH) };
    }

    /// Asks the driver to hand bytes on as they come, not when 16 ms are over. One that knows no such thing says so, which
    /// is no error: the fit of the clocks copes.
    #[cfg(target_os = "linux")]
    fn ask_for_low_latency(&self) {
        let fd = self.file.as_raw_fd();
        let mut settings = SerialSettings([0; SERIAL_SETTINGS_WORDS]);
        // SAFETY: the descriptor is open, and the request writes a `serial_struct`, for which there is room.
        if unsafe { libc::ioctl(fd, libc::TIOCGSERIAL, &mut settings) } != 0 {
            return;
        }
        settings.0[SERIAL_FLAGS_WORD] |= ASYNC_LOW_LATENCY;
        // SAFETY: as above; the request reads what the one before has written.
        unsafe { libc::ioctl(fd, libc::TIOCSSERIAL, &settings) };
    }

    #[cfg(not(target_os = "linux"))]
    fn ask_for_low_latency(&self) {}
}

/// The kernel's `serial_struct`, of which one word matters: `type, line, port, irq, flags, …`, each an int. It has 72 bytes
/// where a pointer has eight, fewer elsewhere; more room does no harm.
#[cfg(target_os = "linux")]
#[repr(C, align(8))]
struct SerialSettings([libc::c_int; SERIAL_SETTINGS_WORDS]);
#[cfg(target_os = "linux")]
const SERIAL_SETTINGS_WORDS: usize = 32;
#[cfg(target_os = "linux")]
const SERIAL_FLAGS_WORD: usize = 4;
#[cfg(target_os = "linux")]
const ASYNC_LOW_LATENCY: libc::c_int = 1 << 13;

/// `poll`, whose timeout is rounded up: less than asked for would be a busy wait.
pub fn poll(fds: &mut [libc::pollfd], timeout: Duration) {
    let timeout_ms = timeout.as_micros().div_ceil(1000).try_into().unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer and the length are those of `fds`. A signal ends the call early with `revents` as they were,
    // zeros: the caller asks again.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
}

/// Waits until `waker` has something, or the time is over.
pub fn wait_for(waker: BorrowedFd<'_>, timeout: Duration) {
    poll(&mut [libc::pollfd { fd: waker.as_raw_fd(), events: libc::POLLIN, revents: 0 }], timeout);
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    let fd: RawFd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the two requests take and give ints.
    let rc = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags < 0 { flags } else { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) }
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// What a person can do about a port that does not open.
fn open_error(path: &Path, error: &serialport::Error) -> PortError {
    let path = path.to_path_buf();
    match error.kind {
        serialport::ErrorKind::NoDevice => PortError::Busy { holder: holder(&path), path },
        serialport::ErrorKind::Io(ErrorKind::PermissionDenied) => {
            PortError::Permission { advice: advice_for(&path), path }
        }
        _ => PortError::Open { path, reason: error.description.clone() },
    }
}

/// How to be let into a device.
pub fn advice_for(path: &Path) -> String {
    let Ok(file) = std::fs::metadata(path) else { return String::new() };
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    match group_name(&groups, file.gid()) {
        // What is root's alone stays so: a rule for udev is due, no group.
        Some("root") | None => String::from("; a rule for udev would let others in"),
        Some(group) => format!("; it is of group {group}: sudo usermod -aG {group} $USER, then log in again"),
    }
}

/// The name of group `id` by the lines of `/etc/group`.
fn group_name(groups: &str, id: u32) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, found) = (fields.next()?, fields.next()?, fields.next()?);
        (found.parse() == Ok(id)).then_some(name)
    })
}

/// Who has `path` open, as far as this user may see: ` (minicom, process 1234)`.
fn holder(path: &Path) -> String {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let holds = |process: &PathBuf| {
        // Beside numbers, `self` is another name of one.
        let is_number = process.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok());
        let fds = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        is_number
            && fds.into_iter().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == path))
    };
    let found = processes.map(|process| process.path()).find(holds);
    found.map_or_else(String::new, |process| {
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        let id = process.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let this = if id == std::process::id().to_string() { ", this one" } else { "" };
        format!(" ({}, process {id}{this})", name.trim())
    })
}

#[cfg(test)]
mod tests {
    use serialport::SerialPort;

    use super::*;

    /// Everything up to the hangup, in pieces of `most` bytes.
    fn read_all(port: &mut Port, most: usize) -> Vec<u8> {
        let (mut bytes, mut room) = (Vec::new(), vec![0; most]);
        loop {
            assert!(port.wait(None, false, Duration::from_secs(20)).read, "neither bytes nor a hangup");
            match port.read(&mut room) {
                Got::Bytes(count) => bytes.extend(&room[..count]),
                Got::Nothing => {}
                Got::Hangup => return bytes,
            }
        }
    }

    #[test]
    fn every_byte_before_a_hangup_is_read() {
        // The kernel keeps what stands in a pseudo-terminal for its master alone; a slave's is gone with the master.
        let (master, mut slave) = TTYPort::pair().unwrap();
        let mut port = Port::new(master, PathBuf::new()).unwrap();
        let sent: Vec<u8> = (0..3000_u32).map(|at| at as u8).collect();
        slave.write_all(&sent).unwrap();
        drop(slave);
        assert_eq!(read_all(&mut port, 700), sent);
        assert_eq!(port.read(&mut [0]), Got::Hangup, "it stays one");
    }

    #[test]
    fn a_port_without_bytes_gives_nothing_and_a_full_one_takes_nothing() {
        let (_master, slave) = TTYPort::pair().unwrap();
        let mut port = Port::new(slave, PathBuf::new()).unwrap();
        assert_eq!(port.read(&mut [0; 8]), Got::Nothing);
        assert!(!port.wait(None, false, Duration::from_millis(1)).read);
        let taken = (0..1000).map(|_| port.write(&[0; 1024])).position(|taken| taken == 0);
        assert!(taken.is_some_and(|writes| writes > 0), "{taken:?}");
        assert!(!port.wait(None, true, Duration::ZERO).write);
    }

    #[test]
    fn a_pseudo_terminal_opens_at_any_rate_and_without_its_lines() {
        for baud in [9600, 921_600, 1_000_000] {
            let (_master, slave) = TTYPort::pair().unwrap();
            let path = crate::address::PortName::Path(slave.name().unwrap().into());
            let address = SerialAddress { baud, ..SerialAddress::new(path) };
            drop(slave);
            assert!(Port::open(&address).is_ok(), "{baud}");
        }
    }

    #[test]
    fn what_is_no_port_is_named() {
        let open = |path: &str| {
            let address = SerialAddress::new(crate::address::PortName::Path(path.into()));
            Port::open(&address).map(|_| ()).unwrap_err().to_string()
        };
        let error = open("/dev/null");
        assert!(error.starts_with("/dev/null does not open as a serial port: "), "{error}");
        let error = open("/dev/no-such-port");
        assert!(error.starts_with("there is no port `/dev/no-such-port`, expected one of: "), "{error}");
    }

    #[test]
    fn a_group_is_found_by_its_number() {
        let groups = "root:x:0:\ndialout:x:20:ann,bob\nbroken\nuucp:x:14:\n";
        let cases = [(0, Some("root")), (20, Some("dialout")), (14, Some("uucp")), (21, None)];
        for (id, expected) in cases {
            assert_eq!(group_name(groups, id), expected, "{id}");
        }
    }
}
