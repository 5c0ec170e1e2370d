//! See `fuzz::emulation`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::emulation::check(input));
