//! `mcedge ports`: the serial ports of this machine.

use std::process::ExitCode;

use anyhow::Result;
use mcedge_firmware_host::{PortInfo, PortTable, ports};
use serde_json::{Value, json};

/// Flags of `mcedge ports`.
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the ports; that there are none is no failure.
pub fn list(args: &Args) -> Result<ExitCode> {
    let ports = ports();
    if args.json {
        let ports: Vec<_> = ports.iter().map(json).collect();
        say!("{:#}", Value::from(ports));
    } else {
        say!("{}", PortTable(&ports));
    }
    Ok(ExitCode::SUCCESS)
}

/// Vendor and product are hex, as `serial://VID:PID` takes them.
fn json(port: &PortInfo) -> Value {
    let hex = |number: Option<u16>| number.map(|number| format!("{number:04x}"));
    json!({
        "path": port.path.display().to_string(),
        "vid": hex(port.vid),
        "pid": hex(port.pid),
        "serial_number": port.serial_number,
        "manufacturer": port.manufacturer,
        "product": port.product,
        "by_id": port.by_id,
    })
}
