//! The serial ports of this machine, and which one is meant.

use std::fmt;
use std::path::{Path, PathBuf};

use serialport::{SerialPortInfo, SerialPortType};
use thiserror::Error;

use crate::address::PortName;

/// A serial port of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortInfo {
    /// `/dev/ttyUSB0`.
    pub path: PathBuf,
    /// The vendor of the USB device, where it is one.
    pub vid: Option<u16>,
    /// The product.
    pub pid: Option<u16>,
    /// Its serial number.
    pub serial_number: Option<String>,
    /// Who made it, by its own words.
    pub manufacturer: Option<String>,
    /// What it is, by its own words.
    pub product: Option<String>,
    /// Its names in `/dev/serial/by-id`, which stay when the path changes.
    pub by_id: Vec<String>,
}

/// Why there is no open port.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PortError {
    /// None is there by this name.
    #[error("there is no port `{name}`, expected one of: {there}")]
    Missing {
        /// The name.
        name: PortName,
        /// Those that are.
        there: Listed,
    },
    /// Several are there by this name.
    #[error("`{name}` is several ports, expected one; name it by its path or by-id: {found}")]
    Several {
        /// The name.
        name: PortName,
        /// Them.
        found: Listed,
    },
    /// Another program has it.
    #[error("{} is open in another program{holder}, expected it to be free", .path.display())]
    Busy {
        /// The port.
        path: PathBuf,
        /// Who has it, as far as it can be seen.
        holder: String,
    },
    /// This user may not.
    #[error("{} may not be opened by this user{advice}", .path.display())]
    Permission {
        /// The port.
        path: PathBuf,
        /// What to do about it.
        advice: String,
    },
    /// It does not open, or is no port.
    #[error("{} does not open as a serial port: {reason}", .path.display())]
    Open {
        /// The port.
        path: PathBuf,
        /// What the machine says.
        reason: String,
    },
}

/// Ports in an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed(pub Vec<PortInfo>);

/// Where `serialport` looks; without this folder it panics.
const TTYS: &str = "/sys/class/tty";
const BY_ID: &str = "/dev/serial/by-id";

/// The serial ports of this machine by their paths.
pub fn ports() -> Vec<PortInfo> {
    let found = if Path::new(TTYS).is_dir() || cfg!(not(target_os = "linux")) {
        serialport::available_ports().unwrap_or_default()
    } else {
        Vec::new()
    };
    named(found, &by_id(Path::new(BY_ID)))
}

/// Where the port of this name is now, links followed.
pub fn find(name: &PortName) -> Result<PathBuf, PortError> {
    let path = match name {
        PortName::Path(path) => path.clone(),
        PortName::ById(id) => Path::new(BY_ID).join(id),
        PortName::Usb { .. } => return the_one(name, ports()),
    };
    std::fs::canonicalize(path).map_err(|_| PortError::Missing { name: name.clone(), there: Listed(ports()) })
}

/// The one of `ports` that a USB name means.
fn the_one(name: &PortName, ports: Vec<PortInfo>) -> Result<PathBuf, PortError> {
    let is_meant = |port: &PortInfo| match *name {
        PortName::Usb { vid, pid } => (port.vid, port.pid) == (Some(vid), Some(pid)),
        _ => false,
    };
    let meant: Vec<_> = ports.iter().filter(|port| is_meant(port)).cloned().collect();
    match &meant[..] {
        [port] => Ok(port.path.clone()),
        [] => Err(PortError::Missing { name: name.clone(), there: Listed(ports) }),
        _ => Err(PortError::Several { name: name.clone(), found: Listed(meant) }),
    }
}

/// The names in a folder of links, each with the port that it leads to.
fn by_id(folder: &Path) -> Vec<(String, PathBuf)> {
    let links = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = |link: std::fs::DirEntry| {
        let target = std::fs::canonicalize(link.path()).ok()?;
        Some((link.file_name().to_string_lossy().into_owned(), target))
    };
    links.filter_map(named).collect()
}

fn named(found: Vec<SerialPortInfo>, by_id: &[(String, PathBuf)]) -> Vec<PortInfo> {
    let port = |found: SerialPortInfo| {
        let path = PathBuf::from(found.port_name);
        let mut names: Vec<_> =
            by_id.iter().filter(|(_, target)| *target == path).map(|(name, _)| name.clone()).collect();
        names.sort();
        let port = PortInfo { path, by_id: names, ..PortInfo::default() };
        match found.port_type {
            SerialPortType::UsbPort(usb) => PortInfo {
                vid: Some(usb.vid),
                pid: Some(usb.pid),
                serial_number: usb.serial_number,
                manufacturer: usb.manufacturer,
                product: usb.product,
                ..port
            },
            _ => port,
        }
    };
    let mut ports: Vec<_> = found.into_iter().map(port).collect();
    ports.sort_by(|a, b| a.path.cmp(&b.path));
    ports
}

impl PortInfo {
    /// `2341:0043`, of a USB device.
    pub fn usb(&self) -> Option<String> {
        Some(format!("{:04x}:{:04x}", self.vid?, self.pid?))
    }
}

/// Ports as a table for a person, a line each below the heads; a line that says so where there are none.
#[derive(Clone, Copy, Debug)]
pub struct PortTable<'a>(pub &'a [PortInfo]);

impl fmt::Display for PortTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no serial ports");
        }
        let heads = ["port", "vid:pid", "serial number", "product", "by-id"].map(String::from);
        let rows: Vec<_> = std::iter::once(heads).chain(self.0.iter().map(row)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 4] = std::array::from_fn(width);
        for (at, row) in rows.iter().enumerate() {
            let [path, usb, serial_number, product, by_id] = row;
            let [a, b, c, d] = widths;
            let line = format!("{path:a$}  {usb:b$}  {serial_number:c$}  {product:d$}  {by_id}");
            let end = if at + 1 < rows.len() { "\n" } else { "" };
            write!(f, "{}{end}", line.trim_end())?;
        }
        Ok(())
    }
}

fn row(port: &PortInfo) -> [String; 5] {
    // Who made it says what it is where it does not say itself.
    let product = port.product.clone().or_else(|| port.manufacturer.clone());
    let or_dash = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into());
    let path = port.path.display().to_string();
    let by_id = Some(port.by_id.join(" "));
    [path, or_dash(port.usb()), or_dash(port.serial_number.clone()), or_dash(product), or_dash(by_id)]
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("(no serial ports)");
        }
        for (at, port) in self.0.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{}", port.path.display())?;
            let names =
                [port.usb(), port.product.clone(), port.by_id.first().map(|id| format!("by-id/{id}"))];
            let names: Vec<_> = names.into_iter().flatten().collect();
            if !names.is_empty() {
                write!(f, " ({})", names.join(", "))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serialport::UsbPortInfo;

    use super::*;

    fn usb(path: &str, vid: u16, pid: u16) -> SerialPortInfo {
        let serial_number = Some("85".into());
        let product = Some("Uno".into());
        let usb = UsbPortInfo { vid, pid, serial_number, manufacturer: None, product };
        SerialPortInfo { port_name: path.into(), port_type: SerialPortType::UsbPort(usb) }
    }

    /// Two boards alike, one other, and a port of the machine's own.
    fn some() -> Vec<PortInfo> {
        let own = SerialPortInfo { port_name: "/dev/ttyS0".into(), port_type: SerialPortType::Unknown };
        let found = vec![
            usb("/dev/ttyUSB0", 0x1a86, 0x7523),
            own,
            usb("/dev/ttyACM1", 0x2341, 0x43),
            usb("/dev/ttyACM0", 0x2341, 0x43),
        ];
        named(
            found,
            &[("usb-Uno-if00".into(), "/dev/ttyACM1".into()), ("gone".into(), "/dev/ttyACM7".into())],
        )
    }

    #[test]
    fn a_usb_name_means_one_port_or_says_which_there_are() {
        let find = |vid, pid, ports| {
            the_one(&PortName::Usb { vid, pid }, ports)
                .map(|path| path.display().to_string())
                .map_err(|error| error.to_string())
        };
        assert_eq!(find(0x1a86, 0x7523, some()), Ok("/dev/ttyUSB0".into()));
        let several = "`2341:0043` is several ports, expected one; name it by its path or by-id: \
                       /dev/ttyACM0 (2341:0043, Uno), /dev/ttyACM1 (2341:0043, Uno, by-id/usb-Uno-if00)";
        assert_eq!(find(0x2341, 0x43, some()), Err(several.into()));
        let missing = find(0x2341, 0x44, some()).unwrap_err();
        assert!(
            missing.starts_with("there is no port `2341:0044`, expected one of: /dev/ttyACM0"),
            "{missing}"
        );
        assert!(missing.ends_with("/dev/ttyS0, /dev/ttyUSB0 (1a86:7523, Uno)"), "{missing}");
        let none = find(1, 2, Vec::new()).unwrap_err();
        assert_eq!(none, "there is no port `0001:0002`, expected one of: (no serial ports)");
    }

    #[test]
    fn a_table_has_a_line_for_each_port() {
        let table = "\
port          vid:pid    serial number  product  by-id
/dev/ttyACM0  2341:0043  85             Uno      -
/dev/ttyACM1  2341:0043  85             Uno      usb-Uno-if00
/dev/ttyS0    -          -              -        -
/dev/ttyUSB0  1a86:7523  85             Uno      -";
        assert_eq!(PortTable(&some()).to_string(), table);
        assert_eq!(PortTable(&[]).to_string(), "no serial ports");
    }

    #[test]
    fn names_by_id_are_the_links_that_lead_somewhere() {
        let folder = std::env::temp_dir().join(format!("mcedge-by-id-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        symlink("/dev/null", folder.join("usb-null")).unwrap();
        symlink("/dev/no-such-port", folder.join("usb-gone")).unwrap();
        assert_eq!(by_id(&folder), [("usb-null".to_string(), PathBuf::from("/dev/null"))]);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(by_id(&folder), []);
    }

    #[test]
    fn ports_are_listed_on_any_machine() {
        for port in ports() {
            assert!(port.path.exists(), "{port:?}");
        }
    }
}
