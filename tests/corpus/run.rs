//! Runs the cases of `tests/corpus/*/*.txt`: each input is fed whole, byte by byte and split at every
//! position, and must come to the same outcome each time; then
//! mutated inputs, which must at least come to one outcome.

use std::fmt::Write;
use std::path::Path;

use cases::{Case, PROTOCOLS};
use drive::{check, outcome};

#[path = "cases.rs"]
mod cases;
#[path = "drive.rs"]
mod drive;

fn cases(protocol: &str) -> Vec<Case> {
    cases::cases(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus"), protocol)
}

/// What is wrong with an outcome: the events must be the same, and have all properties that the case names.
fn mismatch(expected: &[Vec<String>], found: &[Vec<String>]) -> Option<String> {
    let differs = expected.len() != found.len()
        || expected.iter().zip(found).any(|(expected, found)| expected.iter().any(|line| !found.contains(line)));
    differs.then(|| format!("expected {expected:#?}\nfound {found:#?}"))
}

fn run(protocol: &str) {
    let mut failures = String::new();
    for case in cases(protocol) {
        let whole = outcome(protocol, &[&case.input]);
        if let Some(mismatch) = mismatch(&case.expected, &whole) {
            let _ = writeln!(failures, "{}\n{mismatch}\n", case.place);
        }
        let bytes: Vec<&[u8]> = case.input.chunks(1).collect();
        if outcome(protocol, &bytes) != whole {
            let _ = writeln!(failures, "{}\nbyte by byte: {:#?}\n", case.place, outcome(protocol, &bytes));
        }
        for at in 1..case.input.len() {
            let (front, back) = case.input.split_at(at);
            if outcome(protocol, &[front, back]) != whole {
                let _ = writeln!(failures, "{}\nsplit at {at}: {:#?}", case.place, outcome(protocol, &[front, back]));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn http_cases_have_their_outcome_at_every_split() {
    run("http");
}

#[test]
fn uwsgi_cases_have_their_outcome_at_every_split() {
    run("uwsgi");
}

#[test]
fn fastcgi_cases_have_their_outcome_at_every_split() {
    run("fastcgi");
}

#[test]
fn scgi_cases_have_their_outcome_at_every_split() {
    run("scgi");
}

#[test]
fn proxy_protocol_cases_have_their_outcome_at_every_split() {
    run("proxy");
}

#[test]
fn cases_of_trusted_proxies_have_their_outcome() {
    run("forwarded");
}

/// Where cases come from.
const SOURCES: [&str; 7] =
    ["RFC ", "FastCGI 1.0, ", "SCGI, ", "PROXY protocol ", "uwsgi, ", "uWSGI: ", "trusted-proxies: "];

#[test]
fn every_case_names_the_clause_it_comes_from() {
    let nameless: Vec<String> = PROTOCOLS
        .into_iter()
        .flat_map(cases)
        .map(|case| case.place)
        .filter(|place| !SOURCES.iter().any(|source| place.contains(&format!(": {source}"))))
        .collect();
    assert!(nameless.is_empty(), "{nameless:#?}");
}

/// Random numbers (xorshift64*): the same ones at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % bound.max(1)
    }
}

/// Changes an input in one of the ways that break parsers.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    const PIECES: [&[u8]; 24] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"_",
        b"%00",
        b"%2e%2e/",
        b"#",
        b"?",
        b"\x7f",
        b"\xff",
        b"0\r\n\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: g\r\n",
        b"Expect: 100-continue\r\n",
        b"HTTP/1.0",
        b"ffffffffffffffff",
    ];
    let at = random.below(input.len() + 1);
    let end = (at + random.below(12)).min(input.len());
    match random.below(6) {
        0 => drop(input.drain(at..end)),
        1 => drop(input.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
        2 => drop(input.splice(at..end, PIECES[random.below(PIECES.len())].iter().copied())),
        3 if at < input.len() => input[at] = random.below(256) as u8,
        4 => drop(input.splice(at.., other[random.below(other.len() + 1).min(other.len())..].iter().copied())),
        _ => {
            let again = input[at..end].to_vec();
            input.splice(end..end, again);
        }
    }
}

/// Mutated cases, for `RSGI_FUZZ_SECONDS` (1 by default): no panic, and one outcome however the input is split.
#[test]
fn mutated_cases_have_one_outcome() {
    let seconds = std::env::var("RSGI_FUZZ_SECONDS").map_or(1, |text| text.parse().expect("a number of seconds"));
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let pools = PROTOCOLS.map(|protocol| {
        let inputs: Vec<_> = cases(protocol).into_iter().map(|case| case.input).filter(|i| i.len() < 600).collect();
        (protocol, inputs)
    });
    let mut runs = 0u64;
    while std::time::Instant::now() < end {
        let (protocol, inputs) = &pools[random.below(pools.len())];
        let mut input = inputs[random.below(inputs.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, &inputs[random.below(inputs.len())], &mut random);
        }
        check(protocol, &input, (random.below(input.len() + 1), random.below(input.len() + 1)));
        runs += 1;
    }
    assert!(runs > 0);
}
