//! Bytes from a peer as the uwsgi corpus has them.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rsgi_fuzz::check("uwsgi", input));
