//! A port that has gone and comes back.

use std::time::{Duration, Instant};

use crate::address::SerialAddress;
use crate::serial::Port;

/// How long is waited before a port is looked for: at first and at last. The stream goes on within a second of its return.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Looks for the port until it is there again, anew each time: by its USB device, its name, or where a link leads now.
///
/// `pause` waits and says no to give up; `say` hears why the port does not open, once for each reason.
pub fn redial(
    address: &SerialAddress,
    mut pause: impl FnMut(Duration) -> bool,
    mut say: impl FnMut(String),
) -> Option<(Port, Duration)> {
    let gone = Instant::now();
    let (first, last) = BACKOFF;
    let mut next = first;
    let mut said = String::new();
    while pause(next) {
        match Port::open(address) {
            Ok(port) => return Some((port, gone.elapsed())),
            Err(error) => {
                let error = error.to_string();
                if error != said {
                    say(error.clone());
                    said = error;
                }
            }
        }
        next = (next * 2).min(last);
    }
    None
}

/// What a person is told then.
pub fn back(port: &Port, after: Duration) -> String {
    format!("{} is back after {:.2} s", port.path().display(), after.as_secs_f64())
}
