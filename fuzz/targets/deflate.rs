//! See `fuzz::deflate`.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz::deflate::check(input));
