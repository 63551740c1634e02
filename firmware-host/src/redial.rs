//! A port that has gone and comes back.

use std::time::{Duration, Instant};

use crate::address::{PortName, SerialAddress};
use crate::serial::Port;

/// How long is waited before a port is looked for: at first and at last. The stream goes on within a second of its return.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// A port that has lived for so long is no longer one that comes and goes at once.
const LIVED: Duration = Duration::from_secs(5);

/// Looks for a port that has gone.
pub struct Redial {
    /// How long is waited before the next look.
    next: Duration,
    opened: Instant,
}

impl Redial {
    /// For a port that has just been opened.
    pub fn new() -> Self {
        Redial { next: BACKOFF.0, opened: Instant::now() }
    }

    /// Looks for the port until it is there again, anew each time: by its USB device, its name, or where a link leads now.
    ///
    /// `has_spoken`: something good has come since it was opened. One from which nothing has come, and that has gone soon,
    /// is looked for as seldom as before: it may do that for ever. `pause` waits and says no to give up; `say` hears why
    /// the port does not open, once for each reason.
    pub fn wait(
        &mut self,
        address: &SerialAddress,
        has_spoken: bool,
        mut pause: impl FnMut(Duration) -> bool,
        mut say: impl FnMut(String),
    ) -> Option<(Port, Duration)> {
        let gone = Instant::now();
        if has_spoken || self.opened.elapsed() >= LIVED {
            self.next = BACKOFF.0;
        }
        let mut said = String::new();
        while pause(self.next) {
            self.next = (self.next * 2).min(BACKOFF.1);
            match Port::open(address) {
                Ok(port) => {
                    self.opened = Instant::now();
                    return Some((port, gone.elapsed()));
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != said {
                        say(error.clone());
                        said = error;
                    }
                }
            }
        }
        None
    }
}

/// Why a port is not waited for, where that would be wrong: the number of a pseudo-terminal that has gone is given to the
/// next one, which may be somebody's shell. A link leads to the right one, or to none.
pub fn refusal(name: &PortName) -> Option<String> {
    let PortName::Path(path) = name else { return None };
    let path = std::path::absolute(path).ok()?;
    let is_number = path.starts_with("/dev/pts") && !path.is_symlink();
    is_number.then(|| {
        format!(
            "{} is not waited for: its number may be another terminal's next; a link to one would be",
            path.display()
        )
    })
}

/// What a person is told then.
pub fn back(port: &Port, after: Duration) -> String {
    format!("{} is back after {:.2} s", port.path().display(), after.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use serialport::{SerialPort, TTYPort};

    use super::*;

    #[test]
    fn a_port_that_comes_and_goes_at_once_is_looked_for_more_and_more_seldom() {
        let (_board, port) = TTYPort::pair().unwrap();
        let mut address = SerialAddress::new(PortName::Path(port.name().unwrap().into()));
        address.low_latency = false;
        drop(port);
        let mut redial = Redial::new();
        let mut paused_ms = |has_spoken| {
            let mut pauses = Vec::new();
            let pause = |pause: Duration| {
                pauses.push(pause.as_millis());
                true
            };
            redial.wait(&address, has_spoken, pause, |error| panic!("{error}")).unwrap();
            pauses
        };
        let found: Vec<_> = (0..6).flat_map(|_| paused_ms(false)).collect();
        assert_eq!(found, [50, 100, 200, 400, 500, 500]);
        assert_eq!((paused_ms(true), paused_ms(false)), (vec![50], vec![100]));
    }

    #[test]
    fn the_number_of_a_pseudo_terminal_is_not_waited_for_and_a_link_to_it_is() {
        let link = std::env::temp_dir().join(format!("mcedge-refusal-{}", std::process::id()));
        let _ = std::fs::remove_file(&link);
        symlink("/dev/pts/7777", &link).unwrap();
        let is_refused = |path: PathBuf| refusal(&PortName::Path(path)).is_some();
        assert!(is_refused("/dev/pts/7777".into()));
        assert!(!is_refused(link.clone()));
        assert!(!is_refused("/dev/ttyUSB0".into()));
        assert_eq!(refusal(&PortName::ById("usb-Uno".into())), None);
        std::fs::remove_file(link).unwrap();
    }
}
