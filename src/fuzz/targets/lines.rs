#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcedge_fuzz::lines(bytes));
