//! Machines made of files.

use std::path::{Path, PathBuf};
use std::{env, fs, process};

use super::*;

/// A folder that goes with the test.
struct Root(PathBuf);

impl Root {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = Self(env::temp_dir().join(format!("mcedge-conditions-{name}-{}", process::id())));
        for (path, text) in files {
            let path = root.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn read(&self) -> Conditions {
        Conditions::read(&self.0, 1.5)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn named(pairs: &[(&str, f64)]) -> Vec<(String, f64)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[test]
fn a_raspberry_pi_tells_clocks_temperature_and_why_it_is_slow() {
    let pi = Root::new(
        "pi",
        &[
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1500000\n"),
            ("sys/devices/system/cpu/cpu10/cpufreq/scaling_cur_freq", "1000000\n"),
            ("sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq", "2400000\n"),
            ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "7\n"),
            ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
            ("sys/class/thermal/thermal_zone0/temp", "61350\n"),
            ("sys/devices/platform/soc/soc:firmware/get_throttled", "80005\n"),
            ("proc/loadavg", "0.52 0.40 0.30 1/200 4242\n"),
            // Not looked at: cpufreq is there.
            ("proc/cpuinfo", "cpu MHz\t\t: 1.0\n"),
        ],
    );
    let found = pi.read();
    assert_eq!((found.at_s, found.load), (1.5, Some(0.52)));
    assert_eq!(found.clock_mhz, [1500.0, 2400.0, 1000.0]);
    assert_eq!(found.temperature_c, named(&[("cpu-thermal", 61.35)]));
    assert_eq!(found.throttled, ["under-voltage", "throttled", "soft temperature limit since boot"]);
    assert!(found.power_w.is_empty());
}

#[test]
fn a_bit_of_the_firmware_is_a_reason_now_or_since_boot() {
    let check = |bits: &str, expected: &[&str]| {
        let firmware = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled";
        let pi = Root::new("bits", &[(firmware, bits)]);
        assert_eq!(pi.read().throttled, expected, "{bits}");
    };
    check("0", &[]);
    check("0x2\n", &["clock capped"]);
    check("20002", &["clock capped"]);
    check("50000", &["under-voltage since boot", "throttled since boot"]);
    check("ffffffff", &["under-voltage", "clock capped", "throttled", "soft temperature limit"]);
    check("fffffffff", &[]);
    check("what", &[]);
}

#[test]
fn a_processor_that_cools_is_throttled_and_a_fan_is_not() {
    let device = |index: usize, name: &str, state: &str, most: &str| {
        let path = |file: &str| format!("sys/class/thermal/cooling_device{index}/{file}");
        [
            (path("type"), name.to_owned()),
            (path("cur_state"), state.to_owned()),
            (path("max_state"), most.to_owned()),
        ]
    };
    let files: Vec<(String, String)> = [
        device(0, "Processor", "0\n", "10\n"),
        device(1, "pwm-fan", "3\n", "4\n"),
        device(2, "cpufreq-cpu0", "3\n", "7\n"),
        device(3, "Processor", "2\n", "10\n"),
        device(4, "Processor", "2\n", "10\n"),
        device(5, "LCD", "5\n", "9\n"),
        device(6, "intel_powerclamp", "-1\n", "50\n"),
        device(7, "TCC Offset", "3\n", "63\n"),
    ]
    .concat();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let found = Root::new("cooling", &files).read();
    assert_eq!(found.throttled, ["cpufreq-cpu0 cooling 3 of 7", "Processor cooling 2 of 10"]);
}

#[test]
fn rails_are_volts_times_amperes_or_what_a_chip_says() {
    let ina = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3";
    let path = |file: &str| format!("{ina}/{file}");
    let files = [
        (path("in1_label"), "VDD_IN\n"),
        (path("in1_input"), "5000\n"),
        (path("curr1_input"), "900\n"),
        (path("in2_label"), "VDD_CPU\0\n"),
        (path("in2_input"), "5008\n"),
        (path("curr2_input"), "250\n"),
        // Not connected, and the sum that has no current of its own.
        (path("in3_label"), "NC\n"),
        (path("in7_label"), "sum of shunt voltages\n"),
        (path("in7_input"), "40\n"),
        ("sys/class/hwmon/hwmon3/name".into(), "ina3221\n"),
        ("sys/class/hwmon/hwmon3/power1_input".into(), "4500000\n"),
        ("sys/class/hwmon/hwmon4/name".into(), "amdgpu\n"),
        ("sys/class/hwmon/hwmon4/power1_input".into(), "12500000\n"),
        ("sys/class/hwmon/hwmon4/power1_cap".into(), "99000000\n"),
        ("sys/class/hwmon/hwmon4/power2_label".into(), "PPT\n"),
        ("sys/class/hwmon/hwmon4/power2_input".into(), "3000000\n"),
        ("sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0".into(), "POM_5V_IN\n"),
        ("sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input".into(), "1750\n"),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let found = Root::new("rails", &files).read();
    let expected =
        [("VDD_IN", 4.5), ("VDD_CPU", 1.252), ("POM_5V_IN", 1.75), ("amdgpu power1", 12.5), ("PPT", 3.0)];
    assert_eq!(found.power_w, named(&expected));
}

#[test]
fn what_was_so_before_the_bench_did_not_hold_it_down() {
    let moment = |reasons: &[&str]| Conditions {
        throttled: reasons.iter().map(ToString::to_string).collect(),
        ..Conditions::default()
    };
    let check = |moments: &[Conditions], expected: &[&str]| {
        assert_eq!(held_down(moments).into_iter().collect::<Vec<_>>(), expected);
    };
    let (none, old, now) = (moment(&[]), moment(&["throttled since boot"]), moment(&["throttled"]));
    check(&[], &[]);
    check(&[none.clone(), none.clone()], &[]);
    check(&[old.clone(), old.clone()], &[]);
    check(&[none.clone(), old.clone()], &["throttled"]);
    check(&[now.clone(), old], &["throttled"]);
    check(&[none, now], &["throttled"]);
}

#[test]
fn a_pc_without_cpufreq_has_its_clocks_from_cpuinfo() {
    let info = "processor\t: 0\ncpu MHz\t\t: 2300.125\nflags\t: fpu\n\nprocessor\t: 1\ncpu MHz\t\t: 800.0\n";
    let found = Root::new("pc", &[("proc/cpuinfo", info)]).read();
    assert_eq!(found.clock_mhz, [2300.125, 800.0]);
}

#[test]
fn what_cannot_be_read_is_absent() {
    let nothing = Conditions { at_s: 1.5, ..Conditions::default() };
    assert_eq!(Conditions::read(Path::new("/nowhere"), 1.5), nothing);
    let odd = Root::new(
        "odd",
        &[
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "<unknown>\n"),
            ("sys/devices/system/cpu/cpu1/cpufreq", "a file"),
            ("sys/class/thermal/thermal_zone0/temp", ""),
            ("sys/class/thermal/thermal_zone1/temp", "-256000\n"),
            ("sys/class/thermal/thermal_zone2/temp", "NaN"),
            ("sys/class/thermal/thermal_zone3/type", "PMIC-Die\n"),
            ("sys/class/thermal/thermal_zone3/temp", "100000\n"),
            ("sys/class/thermal/cooling_device0/cur_state", "4"),
            ("sys/class/hwmon/hwmon0/power1_input", "\u{1}"),
            ("sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/in1_label/x", ""),
            ("proc/cpuinfo", "cpu MHz\ncpu MHz :\ncpu MHz : x\n"),
            ("proc/loadavg", "\n"),
        ],
    );
    assert_eq!(odd.read(), nothing);
}

#[test]
fn tegrastats_fills_in_only_what_sysfs_does_not_tell() {
    let mut found = Conditions { clock_mhz: vec![1.0], ..Conditions::default() };
    found.fill(tegrastats::parse("CPU [1%@2,1%@3] tj@40C VDD_IN 10mW/20mW"));
    assert_eq!(found.clock_mhz, [1.0]);
    assert_eq!(found.temperature_c, named(&[("tj", 40.0)]));
    assert_eq!(found.power_w, named(&[("VDD_IN", 0.01)]));
}

#[test]
fn this_machine_is_read_without_harm() {
    let found = Conditions::now(Instant::now());
    assert!(found.at_s >= 0.0);
    if Path::new("/proc/loadavg").exists() {
        assert!(found.load.is_some());
    }
}
