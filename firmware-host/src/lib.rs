//! The host end of a sensor link: what a board sends over a serial line becomes timed samples.
//!
//! Nothing is here yet: the wire protocol, the ports and the drivers are the next work on this crate. It knows no
//! model and depends on no other crate of the workspace.

#[cfg(target_os = "linux")]
pub mod sim;
