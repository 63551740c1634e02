//! What a result is a result of: the machine, as Linux describes it. What is not known is left out.

use std::fs;
use std::path::Path;
use std::thread;

use mcedge_runtime::{Isa, OnnxRuntime};

use super::record::Machine;

/// This machine; `cpus` are those that the process might use before it was pinned. ONNX Runtime counts when it has been loaded
/// for this bench.
pub fn describe(cpus: usize, onnxruntime: Option<&OnnxRuntime>) -> Machine {
    let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
    let pinned = only_cpu();
    Machine {
        cpu: cpu(&cpuinfo, read("/proc/device-tree/model").as_deref()),
        architecture: std::env::consts::ARCH.to_owned(),
        cpus,
        instructions: Isa::detect().to_string(),
        memory_bytes: read("/proc/meminfo").and_then(|meminfo| kib(&meminfo, "MemTotal")),
        os: os(read("/proc/sys/kernel/ostype"), read("/proc/sys/kernel/osrelease")),
        hypervisor: hypervisor(&cpuinfo, read("/sys/class/dmi/id/sys_vendor")),
        governor: governor(pinned.unwrap_or(0)),
        pinned,
        onnxruntime: onnxruntime.map(version),
    }
}

/// CPUs that the process may use.
pub fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Resident memory of this process, bytes.
pub fn resident_bytes() -> Option<u64> {
    kib(&read("/proc/self/status")?, "VmRSS")
}

/// Keeps this thread, and those that it starts, on one CPU.
#[cfg(target_os = "linux")]
pub fn pin(cpu: usize) -> std::io::Result<()> {
    // SAFETY: all zeros is a set of no CPU.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= 8 * size_of_val(&set) {
        return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the CPU is within the set; and the set is there, of the size that is said.
    let failed = unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set) != 0
    };
    if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// The only CPU that this thread may use, where it is one, whoever has seen to it.
#[cfg(target_os = "linux")]
fn only_cpu() -> Option<usize> {
    // SAFETY: all zeros is a set of no CPU.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is there, of the size that is said.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0 {
        return None;
    }
    // SAFETY: every CPU that is asked for is within the set.
    let mut cpus = (0..8 * size_of_val(&set)).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) });
    cpus.next().filter(|_| cpus.next().is_none())
}

#[cfg(not(target_os = "linux"))]
pub fn pin(_: usize) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn only_cpu() -> Option<usize> {
    None
}

/// A small file's text, without what ends it.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim_end_matches(['\0', '\n', ' ']).to_owned()).filter(|text| !text.is_empty())
}

/// A board's name where the device tree has one; else the first processor's.
fn cpu(cpuinfo: &str, board: Option<&str>) -> String {
    let processor = field(cpuinfo, "model name").or_else(|| field(cpuinfo, "Model"));
    board.or(processor).unwrap_or("unknown").to_owned()
}

fn os(kind: Option<String>, release: Option<String>) -> String {
    let parts: Vec<String> = [kind, release].into_iter().flatten().collect();
    if parts.is_empty() { std::env::consts::OS.to_owned() } else { parts.join(" ") }
}

/// The vendor of the virtual machine, where the CPU says that it is one.
fn hypervisor(cpuinfo: &str, vendor: Option<String>) -> Option<String> {
    let is_virtual = field(cpuinfo, "flags")?.split_whitespace().any(|flag| flag == "hypervisor");
    is_virtual.then(|| vendor.unwrap_or_else(|| "unknown".into()))
}

fn governor(cpu: usize) -> Option<String> {
    read(format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"))
}

/// The first `key : value` of a file of such lines.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let values = text.lines().filter_map(|line| line.split_once(':'));
    values
        .map(|(name, value)| (name.trim(), value.trim()))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

/// Bytes of a line `key: n kB`.
fn kib(text: &str, key: &str) -> Option<u64> {
    let number = field(text, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    number.checked_mul(1024)
}

/// The version in the name of the library's file, `libonnxruntime.so.1.31.1`, else what the library says of itself.
fn version(runtime: &OnnxRuntime) -> String {
    let path = fs::canonicalize(runtime.path()).unwrap_or_else(|_| runtime.path().to_owned());
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match name.split_once(".so.") {
        Some((_, version)) => version.to_owned(),
        None => runtime.build_info().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Processor\n\
                           flags\t\t: fpu sse2 hypervisor avx2\n\nprocessor\t: 1\nmodel name\t: another\n";

    #[test]
    fn a_processor_goes_by_the_name_of_its_board() {
        assert_eq!(cpu(CPUINFO, None), "Intel(R) Xeon(R) Processor");
        assert_eq!(cpu(CPUINFO, Some("Raspberry Pi 5 Model B")), "Raspberry Pi 5 Model B");
        assert_eq!(cpu("", None), "unknown");
    }

    #[test]
    fn a_hypervisor_is_told_by_the_processor_alone() {
        assert_eq!(hypervisor(CPUINFO, Some("QEMU".into())).as_deref(), Some("QEMU"));
        assert_eq!(hypervisor(CPUINFO, None).as_deref(), Some("unknown"));
        assert_eq!(hypervisor("flags : fpu avx2", Some("Dell Inc.".into())), None);
        assert_eq!(hypervisor("Features : asimd", Some("QEMU".into())), None);
    }

    #[test]
    fn kilobytes_are_bytes_and_nonsense_is_nothing() {
        assert_eq!(kib("MemTotal:       16 kB\nMemFree: 1 kB", "MemTotal"), Some(16384));
        for text in ["", "MemTotal: 16 MB", "MemTotal: kB", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(kib(text, "MemTotal"), None, "{text}");
        }
        assert_eq!(kib(&format!("MemTotal: {} kB", u64::MAX), "MemTotal"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pinned_thread_knows_its_cpu() {
        let pinned = thread::spawn(|| {
            let first = (0..1024).find(|&cpu| pin(cpu).is_ok()).unwrap();
            (first, only_cpu())
        });
        let (cpu, found) = pinned.join().unwrap();
        assert_eq!(found, Some(cpu));
        assert!(thread::spawn(|| pin(1 << 40)).join().unwrap().is_err());
    }
}
