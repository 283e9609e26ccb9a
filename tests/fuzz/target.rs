//! Every target: which one, the name of the program says.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| payops::fuzz_target(env!("CARGO_BIN_NAME"), data));
