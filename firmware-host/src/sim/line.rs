//! The line: a pseudo-terminal that can be pulled out and put back.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serialport::{SerialPort, TTYPort};

use super::SimError;

/// What a host that says nothing takes to be ready for bytes, from when it opened the port.
const SILENT_HOST: Duration = Duration::from_millis(500);

/// Bytes that may be on their way. Half of what a terminal's input buffer holds: what does not fit into it stands before it
/// for a moment when it has been emptied, and cannot be seen there.
const IN_FLIGHT: usize = 2048;

/// A pseudo-terminal, the board's end of it.
///
/// # Invariants
///
/// - `slave` is held, so that what a host has not read yet can be seen; nothing is read from it while the line is whole.
/// - At most `in_flight` bytes, at most [`IN_FLIGHT`], have been written and not read.
pub struct Line {
    master: File,
    slave: File,
    /// Tells when a host opens or closes the other end.
    watch: File,
    /// The other end, as a host opens it.
    path: PathBuf,
    link: Option<PathBuf>,
    /// How many have opened the other end.
    openers: usize,
    /// When the first of them did.
    opened: Option<Instant>,
    /// Something has come from it since.
    has_spoken: bool,
    in_flight: usize,
}

impl Line {
    /// Makes a new one; `link` then leads to it.
    pub fn plug(link: Option<&Path>) -> Result<Self, SimError> {
        let (master, slave) = TTYPort::pair().map_err(SimError::Pty)?;
        let path = PathBuf::from(slave.name().unwrap_or_default());
        let failed = |source| SimError::Io { what: path.display().to_string(), source };
        let master = owned(&master).map_err(failed)?;
        let slave = owned(&slave).map_err(failed)?;
        let watch = watch(&path).map_err(failed)?;
        if let Some(link) = link {
            lead(link, &path)
                .map_err(|source| SimError::Io { what: format!("the link {}", link.display()), source })?;
        }
        let link = link.map(Path::to_path_buf);
        Ok(Line {
            master,
            slave,
            watch,
            path,
            link,
            openers: 0,
            opened: None,
            has_spoken: false,
            in_flight: 0,
        })
    }

    /// Where a host finds it.
    pub fn path(&self) -> &Path {
        self.link.as_deref().unwrap_or(&self.path)
    }

    /// Reads what a host says, without a wait; 0: nothing more.
    pub fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        or_none(self.master.read(room))
    }

    /// Writes what there is room for, without a wait.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.in_flight + bytes.len() > IN_FLIGHT && self.is_drained()? {
            self.in_flight = 0;
        }
        let room = bytes.len().min(IN_FLIGHT - self.in_flight);
        let count = or_none(self.master.write(&bytes[..room]))?;
        self.in_flight += count;
        Ok(count)
    }

    /// Whether a host has just gone; and sees those that come. `has_spoken`: something was read since it was last asked.
    pub fn has_lost_its_host(&mut self, has_spoken: bool) -> io::Result<bool> {
        const EVENT: usize = size_of::<libc::inotify_event>();
        let mut has_closed = false;
        let mut events = [0; 64 * EVENT];
        loop {
            let count = or_none(self.watch.read(&mut events))?;
            if count == 0 {
                self.has_spoken |= has_spoken && self.openers > 0;
                return Ok(has_closed);
            }
            // A watched file's events have no name behind them: each has the same size.
            for event in events[..count].chunks_exact(EVENT) {
                let mask = u32::from_ne_bytes([event[4], event[5], event[6], event[7]]);
                if mask & libc::IN_OPEN != 0 {
                    self.openers += 1;
                    self.opened.get_or_insert_with(Instant::now);
                } else if mask & libc::IN_CLOSE != 0 && self.openers > 0 {
                    self.openers -= 1;
                    if self.openers == 0 {
                        has_closed = true;
                        (self.opened, self.has_spoken) = (None, false);
                    }
                }
            }
        }
    }

    /// Whether a host has it open.
    pub fn is_open(&self) -> bool {
        self.openers > 0
    }

    /// Whether what is sent now comes to a host: one has it open and has said something, after which it throws away nothing
    /// that came before; or it is of the silent kind.
    pub fn is_ready(&self) -> bool {
        self.opened.is_some_and(|opened| self.has_spoken || opened.elapsed() >= SILENT_HOST)
    }

    /// Whether a host has read all that was written.
    pub fn is_drained(&self) -> io::Result<bool> {
        // Asking for bytes moves those on their way to where they can be read, so that none are overlooked.
        let mut fds = [poll_fd(self.slave.as_raw_fd(), libc::POLLIN)];
        poll(&mut fds, Duration::ZERO)?;
        Ok(fds[0].revents & libc::POLLIN == 0)
    }

    /// Takes away what no host has read, and says how many bytes that were.
    pub fn take_unread(&mut self) -> io::Result<usize> {
        let (mut room, mut total) = ([0; 4096], 0);
        while !self.is_drained()? {
            let count = or_none(self.slave.read(&mut room))?;
            if count == 0 {
                break;
            }
            total += count;
        }
        self.in_flight = 0;
        Ok(total)
    }

    /// Waits until something comes or changes, for `timeout` at most.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let of = |file: &File| poll_fd(file.as_raw_fd(), libc::POLLIN);
        let mut fds = [of(&self.master), of(&self.watch)];
        poll(&mut fds, timeout)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A link that leads elsewhere by now is somebody else's.
        if let Some(link) = &self.link
            && fs::read_link(link).is_ok_and(|target| target == self.path)
        {
            let _ = fs::remove_file(link);
        }
    }
}

/// `port`'s descriptor, one of our own that never waits.
fn owned(port: &TTYPort) -> io::Result<File> {
    // SAFETY: the descriptor is open as long as `port` is, which outlives the borrow.
    let fd = unsafe { BorrowedFd::borrow_raw(port.as_raw_fd()) }.try_clone_to_owned()?;
    // SAFETY: `fcntl` reads and sets flags of a descriptor that we own.
    let flags = checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(File::from(fd))
}

/// Whoever opens or closes `path` from here on.
fn watch(path: &Path) -> io::Result<File> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `inotify_init1` has no pointers; what it gives is a descriptor that nobody else owns.
    let watch =
        unsafe { File::from_raw_fd(checked(libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC))?) };
    let mask = libc::IN_OPEN | libc::IN_CLOSE;
    // SAFETY: `name` is a C string that lives through the call.
    checked(unsafe { libc::inotify_add_watch(watch.as_raw_fd(), name.as_ptr(), mask) })?;
    Ok(watch)
}

/// Makes `link` lead to `target`, at once; only another such link is replaced.
fn lead(link: &Path, target: &Path) -> io::Result<()> {
    let is_ours = |found: PathBuf| found.starts_with("/dev/pts");
    if link.symlink_metadata().is_ok() && !fs::read_link(link).is_ok_and(is_ours) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "is there already, expected nothing or a link to a pseudo-terminal",
        ));
    }
    let mut fresh = link.as_os_str().to_owned();
    fresh.push(".new");
    let _ = fs::remove_file(&fresh);
    std::os::unix::fs::symlink(target, &fresh)?;
    fs::rename(&fresh, link)
}

/// No bytes in place of a wait.
fn or_none(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        result => result,
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn poll_fd(fd: RawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

fn poll(fds: &mut [libc::pollfd], timeout: Duration) -> io::Result<()> {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().min(3600) as libc::time_t,
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    };
    // SAFETY: `fds` are as many as its length says, and `timeout` and it live through the call.
    let result = unsafe {
        libc::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, &raw const timeout, std::ptr::null())
    };
    match checked(result) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
