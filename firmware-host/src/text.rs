//! A board that sends text: whole lines from a serial port that may go and come back.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::address::SerialAddress;
use crate::lines::{Begin, LineCounters, LineKind, Lines};
use crate::link::notices::{Kind, Notices};
use crate::port::PortError;
use crate::redial::{Redial, back, refusal};
use crate::serial::{Got, Port};

/// The bytes of the whole lines that a board sends.
///
/// What is cut by a hangup, or may be by the port's opening, is dropped: see [`Begin::Anywhere`].
pub struct SerialText {
    /// Nothing once the input has ended.
    port: Option<Port>,
    redial: Redial,
    /// Something has come since the port was opened.
    has_spoken: bool,
    address: SerialAddress,
    lines: Lines,
    stop: Arc<AtomicBool>,
    notice: fn(&str),
    notices: Notices,
    room: Box<[u8]>,
}

const READ_BYTES: usize = 16 << 10;
/// How often a read that waits looks at `stop`.
const LOOK: Duration = Duration::from_millis(50);

impl SerialText {
    /// Opens the port of a board that sends such lines. Reads wait until there are lines, `stop` is set, or the port has gone and is not waited for; `notice`
    /// is told that it has gone and is back.
    ///
    /// # Errors
    ///
    /// The port does not open.
    pub fn open(
        address: &SerialAddress,
        kind: LineKind,
        stop: Arc<AtomicBool>,
        notice: fn(&str),
    ) -> Result<Self, PortError> {
        let port = Some(Port::open(address)?);
        let lines = Lines::new(Begin::Anywhere, kind);
        Ok(SerialText {
            port,
            redial: Redial::new(),
            has_spoken: false,
            address: address.clone(),
            lines,
            stop,
            notice,
            notices: Notices::default(),
            room: vec![0; READ_BYTES].into(),
        })
    }

    /// What has been seen so far.
    pub fn counters(&self) -> Arc<LineCounters> {
        self.lines.counters()
    }

    /// Takes what has come, or waits a little; no at the end.
    fn fetch(&mut self) -> bool {
        let Some(port) = self.port.as_mut().filter(|_| !self.stop.load(Ordering::Relaxed)) else {
            return false;
        };
        if port.wait(None, false, LOOK).read {
            match port.read(&mut self.room) {
                Got::Bytes(count) => {
                    self.has_spoken = true;
                    self.lines.push(&self.room[..count]);
                }
                Got::Nothing => {}
                Got::Hangup => self.hang_up(),
            }
        }
        true
    }

    fn tell(&mut self, kind: Kind, notice: String) {
        if let Some(notice) = self.notices.tell(kind, notice, Instant::now()) {
            (self.notice)(&notice);
        }
    }

    /// The port has gone: looks for it until it is back, where it is waited for.
    fn hang_up(&mut self) {
        self.port = None;
        self.lines.hang_up();
        self.tell(Kind::Gone, format!("{} has gone", self.address.port));
        if !self.address.reconnect {
            return;
        }
        if let Some(refusal) = refusal(&self.address.port) {
            return (self.notice)(&refusal);
        }
        let stop = &self.stop;
        let pause = |pause: Duration| {
            let until = Instant::now() + pause;
            while !stop.load(Ordering::Relaxed) && Instant::now() < until {
                std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
            }
            !stop.load(Ordering::Relaxed)
        };
        let has_spoken = std::mem::take(&mut self.has_spoken);
        let say = |why: String| (self.notice)(&why);
        if let Some((port, after)) = self.redial.wait(&self.address, has_spoken, pause, say) {
            self.lines.come_back();
            self.tell(Kind::Back, back(&port, after));
            self.port = Some(port);
        }
    }
}

impl Read for SerialText {
    /// Waits for whole lines; 0 at the end of the input.
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.lines.is_empty() {
            if !self.fetch() {
                return Ok(0);
            }
        }
        Ok(self.lines.take(room))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use serialport::{SerialPort, TTYPort};

    use super::*;

    /// A board at `path`, and the other end of its pseudo-terminal.
    fn plug(path: &Path) -> (TTYPort, TTYPort) {
        let (board, port) = TTYPort::pair().unwrap();
        let new = path.with_extension("new");
        symlink(port.name().unwrap(), &new).unwrap();
        std::fs::rename(new, path).unwrap();
        (board, port)
    }

    #[test]
    fn lines_go_on_when_the_board_is_back() {
        let folder = std::env::temp_dir().join(format!("mcedge-text-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("board");
        let mut board = plug(&path);
        let stop = Arc::new(AtomicBool::new(false));
        let address = format!("{}?baud=9600", path.display()).parse().unwrap();
        let text = SerialText::open(&address, LineKind::Rows, stop.clone(), |_| {}).unwrap();
        let counters = text.counters();
        let mut lines = BufReader::new(text);
        let mut next = || {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            line
        };
        board.0.write_all(b"t,x\r\n1,2\r\n3,").unwrap();
        assert_eq!((next(), next()), ("t,x\r\n".into(), "1,2\r\n".into()));
        // The line that has begun has been read before the port goes.
        while counters.bytes.load(Ordering::Relaxed) < 12 {
            std::thread::sleep(Duration::from_millis(1));
        }
        board = plug(&path);
        board.0.write_all(b"t,x\r\n7,8\r\n").unwrap();
        assert_eq!(next(), "7,8\r\n");
        stop.store(true, Ordering::Relaxed);
        assert_eq!(next(), "", "the end");
        let counts = [&counters.cut, &counters.headers, &counters.reconnects];
        assert_eq!(counts.map(|counter| counter.load(Ordering::Relaxed)), [1, 1, 1]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_port_that_goes_again_and_again_is_not_told_of_each_time() {
        static TOLD: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let path = std::env::temp_dir().join(format!("mcedge-text-flaps-{}", std::process::id()));
        let _board = plug(&path);
        let address = path.display().to_string().parse().unwrap();
        let notice = |_: &str| {
            TOLD.fetch_add(1, Ordering::Relaxed);
        };
        let mut text = SerialText::open(&address, LineKind::Rows, Arc::default(), notice).unwrap();
        for _ in 0..40 {
            text.has_spoken = true;
            text.hang_up();
            assert!(text.port.is_some());
        }
        assert_eq!(TOLD.load(Ordering::Relaxed), 64);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_port_that_is_not_waited_for_ends_the_text() {
        let (mut board, port) = TTYPort::pair().unwrap();
        let address = format!("{}?reconnect=no", port.name().unwrap()).parse().unwrap();
        let text = SerialText::open(&address, LineKind::Rows, Arc::default(), |_| {}).unwrap();
        let mut lines = BufReader::new(text).lines();
        board.write_all(b"x\n1\n2").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "x");
        assert_eq!(lines.next().unwrap().unwrap(), "1");
        drop(board);
        assert!(lines.next().is_none());
    }
}
