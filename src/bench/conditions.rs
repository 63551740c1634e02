//! A moment of the machine: clocks, temperatures, what holds the clock down, power and load. From sysfs and procfs; what is
//! not there, or not to be read, is absent. On a Jetson `tegrastats` fills in what sysfs keeps to itself.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::record::Conditions;

mod tegrastats;

/// The longest file that is read; `/proc/cpuinfo` of 256 CPUs is below it.
const LONGEST: u64 = 1 << 20;
/// The most entries of a folder that are looked at.
const MOST: usize = 4096;
/// What a sensor may say, °C. Jetsons tell of a part that is off by −256.
const SENSIBLE: std::ops::RangeInclusive<f64> = -60.0..=200.0;

/// Bits of the Raspberry Pi's firmware that hold now; each has a bit 16 places up for "since boot".
const PI: [&str; 4] = ["under-voltage", "clock capped", "throttled", "soft temperature limit"];
const SINCE_BOOT: u32 = 16;
/// What a reason ends with that held before now, and may have before the bench.
const OLD: &str = " since boot";

impl Conditions {
    /// This machine now, in a bench that began at `start`. May take two seconds where there is a `tegrastats`.
    pub fn now(start: Instant) -> Self {
        let mut now = Self::read(Path::new("/"), start.elapsed().as_secs_f64());
        let is_complete =
            !(now.clock_mhz.is_empty() || now.temperature_c.is_empty() || now.power_w.is_empty());
        if !is_complete && let Some(line) = tegrastats::line(tegrastats::command(), tegrastats::LIMIT) {
            now.fill(tegrastats::parse(&line));
        }
        now
    }

    /// The machine whose `/sys` and `/proc` are below `root`, `at_s` seconds after the bench began.
    pub fn read(root: &Path, at_s: f64) -> Self {
        Self {
            at_s,
            clock_mhz: clocks(root),
            temperature_c: temperatures(root),
            throttled: throttled(root),
            power_w: power(root),
            load: text(&root.join("proc/loadavg")).and_then(|text| number(text.split_whitespace().next()?)),
        }
    }

    /// Takes what it does not have of its own: two sources name the same sensor differently.
    fn fill(&mut self, other: tegrastats::Line) {
        let tegrastats::Line { clock_mhz, temperature_c, power_w } = other;
        if self.clock_mhz.is_empty() {
            self.clock_mhz = clock_mhz;
        }
        if self.temperature_c.is_empty() {
            self.temperature_c = temperature_c;
        }
        if self.power_w.is_empty() {
            self.power_w = power_w;
        }
    }
}

/// What held the clock down at some time of a bench: at one of its moments, or between the first and a later one.
pub fn held_down(moments: &[Conditions]) -> BTreeSet<&str> {
    let was_before = |reason: &String| moments.first().is_some_and(|first| first.throttled.contains(reason));
    let reasons = moments.iter().flat_map(|moment| &moment.throttled);
    let in_bench = reasons.filter(|reason| !(reason.ends_with(OLD) && was_before(reason)));
    in_bench.map(|reason| reason.trim_end_matches(OLD)).collect()
}

/// Each CPU's clock, MHz: cpufreq's, else that of `/proc/cpuinfo`, which x86 has.
fn clocks(root: &Path) -> Vec<f64> {
    let khz = |cpu: PathBuf| value(&cpu.join("cpufreq/scaling_cur_freq"));
    let clocks: Vec<f64> =
        list(&root.join("sys/devices/system/cpu"), "cpu").into_iter().filter_map(khz).collect();
    if !clocks.is_empty() {
        return clocks.into_iter().map(|khz| khz / 1e3).collect();
    }
    let info = text(&root.join("proc/cpuinfo")).unwrap_or_default();
    let mhz = |line: &str| number(line.strip_prefix("cpu MHz")?.trim_start().strip_prefix(':')?);
    info.lines().filter_map(mhz).collect()
}

fn temperatures(root: &Path) -> Vec<(String, f64)> {
    let zone = |zone: PathBuf| {
        let celsius = value(&zone.join("temp"))? / 1e3;
        let name = text(&zone.join("type")).unwrap_or_else(|| "zone".into());
        is_measured(&name, celsius).then_some((name, celsius))
    };
    list(&root.join("sys/class/thermal"), "thermal_zone").into_iter().filter_map(zone).collect()
}

/// Whether a sensor measured. The power chip of a Jetson Nano tells the threshold it has passed: 50 or 100 °C, always.
fn is_measured(name: &str, celsius: f64) -> bool {
    SENSIBLE.contains(&celsius) && !name.starts_with("PMIC")
}

/// What holds the clock down.
fn throttled(root: &Path) -> Vec<String> {
    let mut reasons = pi(root);
    for device in list(&root.join("sys/class/thermal"), "cooling_device") {
        // A processor may be a device for each of its cores.
        if let Some(reason) = cooling(&device).filter(|reason| !reasons.contains(reason)) {
            reasons.push(reason);
        }
    }
    reasons
}

/// A Raspberry Pi's firmware: bits, hexadecimal.
fn pi(root: &Path) -> Vec<String> {
    let platform = root.join("sys/devices/platform");
    // `soc/soc:firmware`; a Pi 5 has `soc@107c000000/soc@107c000000:firmware`.
    let firmware = list(&platform, "soc").into_iter().flat_map(|soc| list(&soc, "soc"));
    let bits = firmware.filter_map(|firmware| text(&firmware.join("get_throttled"))).next();
    let bits = bits.and_then(|bits| u32::from_str_radix(bits.trim_start_matches("0x"), 16).ok());
    let reason = |(bit, reason): (usize, &&str)| match bits.unwrap_or_default() >> bit {
        bits if bits & 1 == 1 => Some(String::from(*reason)),
        bits if bits >> SINCE_BOOT & 1 == 1 => Some(format!("{reason}{OLD}")),
        _ => None,
    };
    PI.iter().enumerate().filter_map(reason).collect()
}

/// A device that cools by making something slower, when it does. A fan does not; nor does what says nothing of a processor:
/// a display, a charger, an offset.
fn cooling(device: &Path) -> Option<String> {
    let name = text(&device.join("type"))?;
    let lower = name.to_lowercase();
    let is_processor =
        ["cpu", "processor", "powerclamp", "gpu", "devfreq"].iter().any(|part| lower.contains(part));
    let state = value(&device.join("cur_state")).filter(|state| *state > 0.0 && is_processor)?;
    let most = value(&device.join("max_state")).map(|most| format!(" of {most}")).unwrap_or_default();
    Some(format!("{name} cooling {state}{most}"))
}

/// Rails, W.
fn power(root: &Path) -> Vec<(String, f64)> {
    let below = |path: &str, prefix: &str| -> Vec<PathBuf> {
        let devices = list(&root.join(path), "");
        devices
            .iter()
            .flat_map(|device| [list(&device.join("hwmon"), prefix), list(device, prefix)].concat())
            .collect()
    };
    let ina3221 =
        below("sys/bus/i2c/drivers/ina3221", "hwmon").into_iter().flat_map(|device| products(&device));
    // JetPack 4's driver for the same chip.
    let ina3221x = below("sys/bus/i2c/drivers/ina3221x", "iio").into_iter().flat_map(|device| rails(&device));
    let hwmon = list(&root.join("sys/class/hwmon"), "hwmon").into_iter().flat_map(|device| powers(&device));
    ina3221.chain(ina3221x).chain(hwmon).collect()
}

/// Rails of an INA3221, which measures mV and mA on channels of its own.
fn products(hwmon: &Path) -> Vec<(String, f64)> {
    let rail = |label: PathBuf| {
        let channel = label.file_name()?.to_str()?.strip_prefix("in")?.strip_suffix("_label")?.to_owned();
        let millivolts = value(&hwmon.join(format!("in{channel}_input")))?;
        let milliamperes = value(&hwmon.join(format!("curr{channel}_input")))?;
        Some((text(&label)?, millivolts * milliamperes / 1e6))
    };
    list(hwmon, "in").into_iter().filter_map(rail).collect()
}

/// Rails of the same chip below JetPack 4: mW.
fn rails(iio: &Path) -> Vec<(String, f64)> {
    let rail = |name: PathBuf| {
        let channel = name.file_name()?.to_str()?.strip_prefix("rail_name_")?.to_owned();
        Some((text(&name)?, value(&iio.join(format!("in_power{channel}_input")))? / 1e3))
    };
    list(iio, "rail_name_").into_iter().filter_map(rail).collect()
}

/// Rails of a chip that tells µW itself. An INA3221 has been told already.
fn powers(hwmon: &Path) -> Vec<(String, f64)> {
    let chip = text(&hwmon.join("name")).unwrap_or_else(|| "hwmon".into());
    let rail = |input: PathBuf| {
        let channel = input.file_name()?.to_str()?.strip_suffix("_input")?.to_owned();
        let label =
            text(&hwmon.join(format!("{channel}_label"))).unwrap_or_else(|| format!("{chip} {channel}"));
        Some((label, value(&input)? / 1e6))
    };
    match chip.as_str() {
        "ina3221" => Vec::new(),
        _ => list(hwmon, "power").into_iter().filter_map(rail).collect(),
    }
}

/// Entries of a folder that begin with `prefix`, `cpu10` after `cpu9`.
fn list(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.take(MOST).filter_map(|entry| Some(entry.ok()?.path()));
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut paths: Vec<PathBuf> = paths.filter(|path| name(path).starts_with(prefix)).collect();
    paths.sort_by_cached_key(|path| {
        let name = name(path);
        (name[prefix.len()..].parse::<u64>().unwrap_or(u64::MAX), name)
    });
    paths
}

/// A file of one number.
fn value(path: &Path) -> Option<f64> {
    number(&text(path)?)
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

/// A file's text without the space around it, when there is any.
fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    // A device tree's strings end with a zero.
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|char: char| char.is_whitespace() || char == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
