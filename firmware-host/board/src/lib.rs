//! The board end of the sensor link, for firmware: sensors over `embedded-hal` in, frames out. Nothing is here yet.
#![no_std]
