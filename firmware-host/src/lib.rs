//! mcedge: firmware-host.
