//! The chunked transfer coding, decoded with little room at a time.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rsgi_fuzz::check("chunked", input));
