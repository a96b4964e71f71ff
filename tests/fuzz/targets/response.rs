//! Heads of applications' responses.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rsgi_fuzz::check_response(input));
