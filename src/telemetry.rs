//! This machine's own load as a sensor: ten channels from the counters Linux keeps in `/proc`.
//!
//! Heavy-tailed rates come as log10(1 + rate), so that a mean and a standard deviation describe them. Disks are
//! whole disks that hold data: partitions, loop, RAM, stacked (`dm-*`, `md*`) devices are left out, for their
//! traffic is counted on the disk below. The network is every interface, `lo` included: what services of one
//! machine tell each other is load too, and on many edge machines it is most of the traffic.

use std::fs;
use std::io;
use std::time::Instant;

/// Name and unit of every channel, in the order of [`Telemetry::sample`].
pub const CHANNELS: [(&str, &str); 10] = [
    ("cpu_user", "share of CPU time"),
    ("cpu_system", "share of CPU time"),
    ("cpu_iowait", "share of CPU time"),
    ("load1", "tasks"),
    ("memory_used", "share of memory"),
    ("disk_read", "log10(1 + KiB/s)"),
    ("disk_write", "log10(1 + KiB/s)"),
    ("net_received", "log10(1 + KiB/s)"),
    ("net_sent", "log10(1 + KiB/s)"),
    ("context_switches", "log10(1 + 1/s)"),
];

const STAT: &str = "/proc/stat";
const LOADAVG: &str = "/proc/loadavg";
const MEMINFO: &str = "/proc/meminfo";
const DISKSTATS: &str = "/proc/diskstats";
const NET_DEV: &str = "/proc/net/dev";

/// The unit of `/proc/diskstats`, whatever the disk's own sector size.
const SECTOR_BYTES: f64 = 512.0;

/// The counters of this machine, and what they were at the last sample.
pub struct Telemetry {
    last: Reading,
    last_at: Instant,
}

impl Telemetry {
    /// Takes the first reading, from which the first sample's rates count.
    ///
    /// # Errors
    ///
    /// Names the file, and the field in it, that is missing or is not what Linux writes there.
    pub fn open() -> io::Result<Self> {
        Ok(Self { last: Reading::take()?, last_at: Instant::now() })
    }

    /// One value per channel of [`CHANNELS`]; rates and shares are over the time since the previous call.
    ///
    /// `now` is when the call is made. Where no time, or no clock tick of the CPU, has passed since the last
    /// call, the rates and the CPU shares are 0.
    ///
    /// # Errors
    ///
    /// As [`Telemetry::open`]. The next sample then counts from the last one that succeeded.
    pub fn sample(&mut self, now: Instant) -> io::Result<[f32; CHANNELS.len()]> {
        let reading = Reading::take()?;
        let elapsed_s = now.saturating_duration_since(self.last_at).as_secs_f64();
        let channels = reading.since(&self.last, elapsed_s);

        self.last = reading;
        self.last_at = now;
        Ok(channels)
    }
}

/// What the five files say at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reading {
    stat: Stat,
    load1: f64,
    memory_used: f64,
    disk_sectors: Flow,
    net_bytes: Flow,
}

impl Reading {
    fn take() -> io::Result<Self> {
        Ok(Self {
            stat: parse_stat(&read(STAT)?)?,
            load1: parse_load1(&read(LOADAVG)?)?,
            memory_used: parse_memory_used(&read(MEMINFO)?)?,
            disk_sectors: parse_disks(&read(DISKSTATS)?)?,
            net_bytes: parse_interfaces(&read(NET_DEV)?)?,
        })
    }

    fn since(&self, last: &Self, elapsed_s: f64) -> [f32; CHANNELS.len()] {
        let ticks = self.stat.total.saturating_sub(last.stat.total);
        let share = |now, before| per(now, before, ticks as f64);
        let kib = |now, before, bytes: f64| (1.0 + per(now, before, elapsed_s) * bytes / 1024.0).log10();
        let switches = per(self.stat.context_switches, last.stat.context_switches, elapsed_s);
        [
            share(self.stat.user, last.stat.user),
            share(self.stat.system, last.stat.system),
            share(self.stat.iowait, last.stat.iowait),
            self.load1,
            self.memory_used,
            kib(self.disk_sectors.inward, last.disk_sectors.inward, SECTOR_BYTES),
            kib(self.disk_sectors.outward, last.disk_sectors.outward, SECTOR_BYTES),
            kib(self.net_bytes.inward, last.net_bytes.inward, 1.0),
            kib(self.net_bytes.outward, last.net_bytes.outward, 1.0),
            (1.0 + switches).log10(),
        ]
        .map(|value| value as f32)
    }
}

/// Growth of a counter per unit of `whole`: 0 when nothing passed, or when the counter went back (a device left).
fn per(now: u64, before: u64, whole: f64) -> f64 {
    if whole > 0.0 { now.saturating_sub(before) as f64 / whole } else { 0.0 }
}

/// CPU time of all processors since boot, in clock ticks, and context switches since boot.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stat {
    /// `user` and `nice`.
    user: u64,
    /// `system`, `irq` and `softirq`.
    system: u64,
    iowait: u64,
    /// Every kind of time, idle and stolen included. Guest time is part of `user` already.
    total: u64,
    context_switches: u64,
}

/// Two counters of one kind: read and written, or received and sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Flow {
    inward: u64,
    outward: u64,
}

impl Flow {
    /// Counters are sums of what the kernel reports, which may wrap; so may these.
    fn plus(self, inward: u64, outward: u64) -> Self {
        Self { inward: self.inward.wrapping_add(inward), outward: self.outward.wrapping_add(outward) }
    }
}

fn parse_stat(text: &str) -> io::Result<Stat> {
    let cpu = line_after(text, "cpu ").ok_or_else(|| missing(STAT, "cpu"))?;
    let fields: Vec<&str> = cpu.split_whitespace().collect();
    let names = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
    let mut ticks = [0; 8];
    for (tick, (i, name)) in ticks.iter_mut().zip(names.into_iter().enumerate()) {
        *tick = number(STAT, &format!("cpu {name}"), fields.get(i).copied())?;
    }
    let [user, nice, system, _, iowait, irq, softirq, _] = ticks;
    let sum = |kinds: &[u64]| kinds.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
    Ok(Stat {
        user: sum(&[user, nice]),
        system: sum(&[system, irq, softirq]),
        iowait,
        total: sum(&ticks),
        context_switches: number(STAT, "ctxt", line_after(text, "ctxt "))?,
    })
}

fn parse_load1(text: &str) -> io::Result<f64> {
    let name = "load over one minute";
    let field = text.split_whitespace().next();
    let load: f64 = number(LOADAVG, name, field)?;
    if load.is_finite() { Ok(load) } else { Err(odd(LOADAVG, name, field.unwrap_or_default())) }
}

/// The share of memory that no new program could have without swapping.
fn parse_memory_used(text: &str) -> io::Result<f64> {
    let kib = |name: &str| {
        let line = line_after(text, &format!("{name}:"));
        number::<u64>(MEMINFO, name, line.and_then(|line| line.split_whitespace().next()))
    };
    let (total, available) = (kib("MemTotal")?, kib("MemAvailable")?);
    if total == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{MEMINFO}: `MemTotal` is 0 KiB")));
    }
    Ok(1.0 - available.min(total) as f64 / total as f64)
}

/// Sectors read and written, over all whole disks.
fn parse_disks(text: &str) -> io::Result<Flow> {
    let mut flow = Flow::default();
    // Linux lists a disk's partitions right after the disk.
    let mut disk = "";
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = *fields.get(2).ok_or_else(|| missing(DISKSTATS, "device name"))?;
        if is_partition(name, disk) {
            continue;
        }
        disk = name;
        if holds_data(name) {
            let sectors = |i, what| number(DISKSTATS, &format!("{name} {what}"), fields.get(i).copied());
            flow = flow.plus(sectors(5, "sectors read")?, sectors(9, "sectors written")?);
        }
    }
    Ok(flow)
}

/// Bytes received and sent, over all interfaces.
fn parse_interfaces(text: &str) -> io::Result<Flow> {
    let mut flow = Flow::default();
    // Two lines of headings, the only ones without a name and a colon.
    for (name, counters) in text.lines().filter_map(|line| line.split_once(':')) {
        let fields: Vec<&str> = counters.split_whitespace().collect();
        let bytes = |i, what| number(NET_DEV, &format!("{} {what}", name.trim()), fields.get(i).copied());
        flow = flow.plus(bytes(0, "bytes received")?, bytes(8, "bytes sent")?);
    }
    Ok(flow)
}

/// Linux names a partition by its disk and a number, with a `p` between when the disk ends in a digit.
fn is_partition(name: &str, disk: &str) -> bool {
    let Some(rest) = name.strip_prefix(disk).filter(|_| !disk.is_empty()) else { return false };
    let ends_in_digit = disk.ends_with(|c: char| c.is_ascii_digit());
    let number = if ends_in_digit { rest.strip_prefix('p') } else { Some(rest) };
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a block device is a disk of its own, rather than memory or a view of other disks.
fn holds_data(name: &str) -> bool {
    !["loop", "ram", "zram", "dm-", "md"].iter().any(|prefix| name.starts_with(prefix))
}

/// What follows `start` on the first line that begins with it.
fn line_after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(start)).map(str::trim)
}

fn number<T: std::str::FromStr>(file: &str, field: &str, found: Option<&str>) -> io::Result<T> {
    let found = found.ok_or_else(|| missing(file, field))?;
    found.parse().map_err(|_| odd(file, field, found))
}

fn read(file: &str) -> io::Result<String> {
    fs::read_to_string(file).map_err(|err| io::Error::new(err.kind(), format!("{file}: {err}")))
}

fn missing(file: &str, field: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{file}: there is no field `{field}`"))
}

fn odd(file: &str, field: &str, found: &str) -> io::Error {
    let found: String = found.chars().take(40).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("{file}: `{field}` is `{found}`, expected a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT_TEXT: &str =
        "cpu  70 30 15 800 9 1 4 2 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 5 0 0\nctxt 567956\nbtime 1\n";
    const DISKS_TEXT: &str = "\
   7       0 loop0 5 0 11 0 5 0 11 0 0 0 0
 254       0 vda 14361 5467 4000 29297 47817 51203 6000 135072 0 19920 167914 6324 16 5567888 2739 9881 804
 254       1 vda1 14361 5467 3999 29297 47817 51203 5999 135072 0 19920 167914 0 0 0 0 0 0
 259       0 nvme0n1 1 0 30 0 1 0 50 0 0 0 0
 259       1 nvme0n1p2 1 0 30 0 1 0 50 0 0 0 0
 253       0 dm-0 1 0 70 0 1 0 70 0 0 0 0
 252       0 zram0 1 0 70 0 1 0 70 0 0 0 0
";
    const NET_TEXT: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    3000      29    0    0    0     0          0         0     3000      29    0    0    0     0       0          0
  eth0:2882000     100    0    0    0     0          0         0   244000      90    0    0    0     0       0          0
";

    fn complaint<T: std::fmt::Debug>(result: io::Result<T>) -> String {
        result.expect_err("odd content must be an error").to_string()
    }

    fn reading() -> Reading {
        Reading {
            stat: parse_stat(STAT_TEXT).expect("well-formed"),
            load1: 0.5,
            memory_used: 0.25,
            disk_sectors: Flow { inward: 100, outward: 200 },
            net_bytes: Flow { inward: 1000, outward: 2000 },
        }
    }

    #[test]
    fn cpu_time_is_summed_by_kind() {
        let stat = Stat { user: 100, system: 20, iowait: 9, total: 931, context_switches: 567_956 };
        assert_eq!(parse_stat(STAT_TEXT).expect("well-formed"), stat);
    }

    #[test]
    fn load_and_memory_are_read() {
        assert_eq!(parse_load1("2.13 1.81 0.90 1/82 14982\n").expect("well-formed"), 2.13);
        let text = "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    750 kB\n";
        assert_eq!(parse_memory_used(text).expect("well-formed"), 0.25);
    }

    #[test]
    fn whole_disks_count_and_their_parts_do_not() {
        assert_eq!(parse_disks(DISKS_TEXT).expect("well-formed"), Flow { inward: 4030, outward: 6050 });
        assert_eq!(parse_disks("").expect("no disk is no traffic"), Flow::default());
    }

    #[test]
    fn a_partition_is_told_from_a_disk_of_a_similar_name() {
        for (name, disk, partition) in [
            ("sda1", "sda", true),
            ("sdaa", "sda", false),
            ("sdb", "sda", false),
            ("mmcblk0p1", "mmcblk0", true),
            ("mmcblk0boot0", "mmcblk0", false),
            ("nbd10", "nbd1", false),
            ("xvda1", "", false),
            ("sda", "sda", false),
        ] {
            assert_eq!(is_partition(name, disk), partition, "{name} after {disk}");
        }
    }

    #[test]
    fn every_interface_counts() {
        assert_eq!(
            parse_interfaces(NET_TEXT).expect("well-formed"),
            Flow { inward: 2_885_000, outward: 247_000 }
        );
    }

    #[test]
    fn odd_content_is_an_error_that_names_file_and_field() {
        for (found, expected) in [
            (complaint(parse_stat("")), "/proc/stat: there is no field `cpu`"),
            (complaint(parse_stat("cpu  1 2 3\n")), "/proc/stat: there is no field `cpu idle`"),
            (
                complaint(parse_stat("cpu  1 2 x 4 5 6 7 8\n")),
                "/proc/stat: `cpu system` is `x`, expected a number",
            ),
            (complaint(parse_stat("cpu  1 2 3 4 5 6 7 8\n")), "/proc/stat: there is no field `ctxt`"),
            (complaint(parse_load1("")), "/proc/loadavg: there is no field `load over one minute`"),
            (
                complaint(parse_load1("NaN 1")),
                "/proc/loadavg: `load over one minute` is `NaN`, expected a number",
            ),
            (
                complaint(parse_memory_used("MemTotal: 5 kB\n")),
                "/proc/meminfo: there is no field `MemAvailable`",
            ),
            (
                complaint(parse_memory_used("MemTotal: 0 kB\nMemAvailable: 0 kB\n")),
                "/proc/meminfo: `MemTotal` is 0 KiB",
            ),
            (complaint(parse_disks("8 0\n")), "/proc/diskstats: there is no field `device name`"),
            (
                complaint(parse_disks("8 0 sda 1 2 -3 4 5 6 7\n")),
                "/proc/diskstats: `sda sectors read` is `-3`, expected a number",
            ),
            (
                complaint(parse_disks("8 0 sda 1 2 3\n")),
                "/proc/diskstats: there is no field `sda sectors written`",
            ),
            (
                complaint(parse_interfaces("eth0: 5 6\n")),
                "/proc/net/dev: there is no field `eth0 bytes sent`",
            ),
            (
                complaint(parse_interfaces("eth0:\n")),
                "/proc/net/dev: there is no field `eth0 bytes received`",
            ),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn rates_are_over_the_time_and_the_ticks_that_passed() {
        let before = reading();
        let mut now = before;
        now.stat.user += 10;
        now.stat.iowait += 5;
        now.stat.total += 20;
        now.stat.context_switches += 198;
        now.disk_sectors.outward += 2 * 2 * 99; // 99 KiB/s over 2 s, in half-KiB sectors
        now.net_bytes.inward += 2 * 9 * 1024;
        let expected = [0.5, 0.0, 0.25, 0.5, 0.25, 0.0, 2.0, 1.0, 0.0, 2.0];
        assert_eq!(now.since(&before, 2.0), expected);
    }

    #[test]
    fn no_time_and_counters_that_went_back_give_zero_rates() {
        let mut later = reading();
        later.disk_sectors.inward += 10;
        let still = [0.0, 0.0, 0.0, 0.5, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(later.since(&reading(), 0.0), still);
        assert_eq!(reading().since(&later, 1.0), still);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_can_be_sampled() {
        let mut telemetry = Telemetry::open().expect("Linux has these files");
        let channels = telemetry.sample(Instant::now()).expect("and still has them");
        assert!(channels.iter().all(|value| value.is_finite()), "{channels:?}");
    }
}
