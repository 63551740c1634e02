//! How many bytes of frames a second the decoder of the sensor link takes on one core.
//!
//! `cargo bench --bench frame`. What was decoded is compared with what was sent.

fn main() {}
