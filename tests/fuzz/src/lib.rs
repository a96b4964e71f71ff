//! What the fuzz targets share: `src/protocol` itself, and the connections of the corpus that feed it.

use std::path::Path;

#[path = "../../corpus/cases.rs"]
#[allow(dead_code)]
mod cases;
#[path = "../../corpus/drive.rs"]
mod drive;
#[path = "../../../src/protocol/mod.rs"]
pub mod protocol;

/// Inputs up to this length are split at every position, longer ones at some.
const SHORT: usize = 48;

/// Feeds `input` whole, byte by byte and split.
///
/// # Panics
/// When the outcome is not the same each time.
pub fn check(protocol: &str, input: &[u8]) {
    if input.len() <= SHORT {
        for cut in 0..=input.len() {
            drive::check(protocol, input, (cut, input.len()));
        }
        return;
    }
    // Cuts that depend on the input, so that a finding can be repeated.
    let sum = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let cut = |sum: u64| sum as usize % (input.len() + 1);
    for turn in 0..3 {
        let sum = sum.rotate_left(turn * 16);
        drive::check(protocol, input, (cut(sum), cut(sum >> 24)));
    }
}

/// The inputs of the corpus: target, number and bytes.
pub fn seeds() -> Vec<(&'static str, usize, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let mut seeds = Vec::new();
    for protocol in cases::PROTOCOLS {
        for (number, case) in cases::cases(&corpus, protocol).into_iter().enumerate() {
            if protocol == "http"
                && let Some(at) = case.input.windows(4).position(|window| window == b"\r\n\r\n")
                && case.input.windows(7).any(|window| window.eq_ignore_ascii_case(b"chunked"))
            {
                seeds.push(("chunked", number, case.input[at + 4..].to_vec()));
            }
            seeds.push((protocol, number, case.input));
        }
    }
    seeds
}
