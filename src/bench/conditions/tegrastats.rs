//! `tegrastats`: what a Jetson says of itself in one line.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{is_measured, number};

/// How long a line is waited for.
pub const LIMIT: Duration = Duration::from_secs(2);
/// The longest line; those of an AGX Orin have 700 bytes.
const LONGEST: u64 = 1 << 14;

/// What a line tells of.
#[derive(Debug, Default, PartialEq)]
pub struct Line {
    /// Clocks of the CPUs that are on.
    pub clock_mhz: Vec<f64>,
    /// Sensors by name.
    pub temperature_c: Vec<(String, f64)>,
    /// Rails by name: the present value, not the mean.
    pub power_w: Vec<(String, f64)>,
}

/// The program, which says a line every half second until it is stopped.
pub fn command() -> Command {
    let mut command = Command::new("tegrastats");
    command.args(["--interval", "500"]);
    command
}

/// The first line of a program that may not exist, say nothing, or never end: it is stopped after `limit`.
pub fn line(mut program: Command, limit: Duration) -> Option<String> {
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = program.spawn().ok()?;
    let output = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    // A thread of its own, for a pipe cannot be waited at for a time. It ends with the program.
    thread::spawn(move || {
        let mut line = Vec::new();
        let read = BufReader::new(output.take(LONGEST)).read_until(b'\n', &mut line);
        let _ = sender.send(read.map(|_| String::from_utf8_lossy(&line).into_owned()));
    });
    let line = receiver.recv_timeout(limit);
    if child.kill().is_ok() {
        let _ = child.wait();
    }
    line.ok()?.ok().filter(|line| !line.trim().is_empty())
}

/// The numbers of a line: `CPU [12%@1190,off]`, `CPU@45.5C`, `VDD_IN 4512mW/4400mW`, in older ones `cpu [1%,2%]@408` and
/// `POM_5V_IN 2003/2003`. Everything else is passed over.
pub fn parse(line: &str) -> Line {
    let mut found = Line { clock_mhz: clocks(line), ..Line::default() };
    let mut before = "";
    for word in line.split_whitespace() {
        if let Some((name, celsius)) = word.strip_suffix('C').and_then(|word| word.split_once('@')) {
            let celsius = number(celsius).filter(|celsius| is_name(name) && is_measured(name, *celsius));
            found.temperature_c.extend(celsius.map(|celsius| (name.to_owned(), celsius)));
        }
        found.power_w.extend(watts(word).filter(|_| is_name(before)).map(|watts| (before.to_owned(), watts)));
        before = word;
    }
    found
}

/// Clocks of the CPUs that are on: each its own, or one for all.
fn clocks(line: &str) -> Vec<f64> {
    let list = ["CPU [", "cpu ["].iter().find_map(|start| line.split_once(start));
    let Some((cpus, rest)) = list.and_then(|(_, rest)| rest.split_once(']')) else { return Vec::new() };
    let shared = rest.strip_prefix('@').and_then(|rest| number(rest.split_whitespace().next()?));
    let clock = |cpu: &str| cpu.split_once('@').map_or(shared, |(_, mhz)| number(mhz));
    cpus.split(',').filter(|cpu| cpu.contains('%')).filter_map(clock).collect()
}

/// `4512mW/4400mW`, `2003/2003`: W at present. A number of memory has another unit.
fn watts(word: &str) -> Option<f64> {
    let milliwatts = |text: &str| text.strip_suffix("mW").unwrap_or(text).parse::<u32>().ok();
    let (present, mean) = word.split_once('/')?;
    milliwatts(mean)?;
    Some(f64::from(milliwatts(present)?) / 1e3)
}

/// Whether a word is a sensor's or a rail's name, not a number.
fn is_name(word: &str) -> bool {
    word.starts_with(char::is_alphabetic)
        && word.chars().all(|char| char.is_alphanumeric() || "_-.".contains(char))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as the boards print them.
    const NANO: &str = "RAM 1655/3956MB (lfb 311x4MB) SWAP 0/1978MB (cached 0MB) IRAM 0/252kB(lfb 252kB) \
        CPU [12%@102,10%@204,off,off] EMC_FREQ 3%@1600 GR3D_FREQ 0%@76 APE 25 PLL@36.5C CPU@39C iwlwifi@44C \
        PMIC@50C GPU@37C AO@47.5C thermal@38C POM_5V_IN 2132/2132 POM_5V_GPU 78/78 POM_5V_CPU 275/290";
    const TX1: &str = "RAM 3607/3983MB (lfb 47x4MB) SWAP 873/8192MB (cached 281MB) cpu [17%,11%,off,0%]@1734 \
        EMC 1%@1600 APE 25 GR3D 39%@76";
    const XAVIER: &str = "RAM 2500/7774MB (lfb 1044x4MB) SWAP 0/3887MB (cached 0MB) \
        CPU [8%@1190,1%@1190,off,off,off,off] EMC_FREQ 0%@1600 GR3D_FREQ 0%@114 APE 150 MTS fg 0% bg 0% AO@31.5C \
        GPU@32C PMIC@100C AUX@31.5C CPU@32.5C thermal@31.85C VDD_IN 2952/2952 VDD_CPU_GPU_CV 329/329 VDD_SOC 905/905";
    const ORIN_NANO: &str = "08-24-2026 11:19:00 RAM 3172/6284MB (lfb 44x4MB) SWAP 0/3142MB (cached 0MB) \
        CPU [6%@1510,29%@729] EMC_FREQ 0%@2133 GR3D_FREQ 26%@[306] NVDEC off NVJPG off VIC_FREQ off APE 200 \
        cpu@46.406C cv0@-256C soc2@45.343C gpu@46.031C tj@46.406C VDD_IN 4900mW/5000mW VDD_CPU_GPU_CV 924mW/939mW \
        VDD_SOC 1500mW/1600mW";
    const AGX_ORIN: &str = "11-21-2025 08:49:48 RAM 13983/62780MB (lfb 424x4MB) SWAP 126/31390MB (cached 0MB) \
        CPU [90%@2201,100%@2201] EMC_FREQ 1%@2133 GR3D_FREQ 14%@[407,407] VIC_FREQ 115 NVDLA0_FREQ @1600 APE 174 \
        CV0@73.625C CPU@77.281C Tboard@62C SOC2@70C tj@77.281C VDD_GPU_SOC 3150mW/2971mW VDD_CPU_CV 14312mW/12415mW \
        VIN_SYS_5V0 4968mW/5048mW VDDQ_VDD2_1V8AO 1091mW/1091mW";

    fn check(line: &str, clocks: &[f64], temperatures: &[(&str, f64)], rails: &[(&str, f64)]) {
        let named =
            |pairs: &[(&str, f64)]| pairs.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        let expected =
            Line { clock_mhz: clocks.to_vec(), temperature_c: named(temperatures), power_w: named(rails) };
        assert_eq!(parse(line), expected, "{line}");
    }

    #[test]
    fn lines_of_every_generation_are_understood() {
        check(
            NANO,
            &[102.0, 204.0],
            &[
                ("PLL", 36.5),
                ("CPU", 39.0),
                ("iwlwifi", 44.0),
                ("GPU", 37.0),
                ("AO", 47.5),
                ("thermal", 38.0),
            ],
            &[("POM_5V_IN", 2.132), ("POM_5V_GPU", 0.078), ("POM_5V_CPU", 0.275)],
        );
        check(TX1, &[1734.0; 3], &[], &[]);
        check(
            XAVIER,
            &[1190.0, 1190.0],
            &[("AO", 31.5), ("GPU", 32.0), ("AUX", 31.5), ("CPU", 32.5), ("thermal", 31.85)],
            &[("VDD_IN", 2.952), ("VDD_CPU_GPU_CV", 0.329), ("VDD_SOC", 0.905)],
        );
        check(
            ORIN_NANO,
            &[1510.0, 729.0],
            &[("cpu", 46.406), ("soc2", 45.343), ("gpu", 46.031), ("tj", 46.406)],
            &[("VDD_IN", 4.9), ("VDD_CPU_GPU_CV", 0.924), ("VDD_SOC", 1.5)],
        );
        check(
            AGX_ORIN,
            &[2201.0, 2201.0],
            &[("CV0", 73.625), ("CPU", 77.281), ("Tboard", 62.0), ("SOC2", 70.0), ("tj", 77.281)],
            &[
                ("VDD_GPU_SOC", 3.15),
                ("VDD_CPU_CV", 14.312),
                ("VIN_SYS_5V0", 4.968),
                ("VDDQ_VDD2_1V8AO", 1.091),
            ],
        );
    }

    #[test]
    fn what_is_no_such_line_tells_nothing_and_breaks_nothing() {
        let odd = [
            "",
            "CPU [",
            "CPU []@",
            "CPU [%@]",
            "cpu [1%]@",
            "@C",
            "x@C",
            "a/b",
            "1/2 3/4",
            "V 1/",
            "V /1",
            "é@1ßC",
            "CPU [1%@nan]",
            "a@infC",
            "RAM 1/2MB",
        ];
        for line in odd {
            assert_eq!(parse(line), Line::default(), "{line}");
        }
        // Every beginning of a good line.
        for end in 0..AGX_ORIN.len() {
            parse(&AGX_ORIN[..end]);
        }
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_gives_its_first_line_and_is_not_waited_for() {
        let minute = Duration::from_secs(60);
        // It would sleep for longer than the test may take.
        assert_eq!(
            line(shell("echo RAM 1; echo RAM 2; exec sleep 1000"), minute).as_deref(),
            Some("RAM 1\n")
        );
        assert_eq!(line(shell("exec sleep 1000"), Duration::from_millis(50)), None);
        assert_eq!(line(shell("exit 1"), minute), None);
        assert_eq!(line(Command::new("/nowhere/tegrastats"), minute), None);
    }

    #[test]
    fn a_line_without_end_is_cut_off() {
        let line = line(shell("exec cat /dev/zero"), Duration::from_secs(60));
        assert_eq!(line.unwrap().len(), LONGEST as usize);
    }
}
