//! What a process takes of a machine's memory.

use std::fs;

/// Resident memory of this process, or none where `/proc` does not tell.
pub fn resident_kib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
