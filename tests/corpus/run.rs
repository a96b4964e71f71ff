//! Runs the cases of `tests/corpus/{http,uwsgi}`: each input is fed whole, byte by byte and split at every
//! position, and must come to the same outcome each time. The form of the files is told in
//! `tests/corpus/README.md`.

use std::fmt::Write;
use std::path::Path;

use super::body::{self, Reader};
use super::http::head::{self, Limits};
use super::request::{BodyLength, Parsed, Refusal, Request};
use super::uwsgi::{self, Packet};

/// Limits of all cases; small, so that cases can pass them.
const LIMITS: Limits = Limits { max_head: 4096, max_line: 1024 };
const LIMIT_POST: u64 = 1000;

struct Case {
    place: String,
    input: Vec<u8>,
    expected: Vec<Vec<String>>,
}

type Parse = fn(&[u8], usize, &mut Request) -> Option<Result<(), String>>;

/// A connection that takes bytes as they come and notes what they mean.
struct Connection {
    parse: Parse,
    one_request: bool,
    buffer: Vec<u8>,
    seen: usize,
    request: Request,
    body: Option<(Reader, Vec<u8>)>,
    events: Vec<Vec<String>>,
    over: bool,
}

fn parse_http(buf: &[u8], seen: usize, out: &mut Request) -> Option<Result<(), String>> {
    match head::parse(buf, seen, &LIMITS, out) {
        Parsed::Complete => Some(Ok(())),
        Parsed::Partial => None,
        Parsed::Refused(refusal) => Some(Err(refused(refusal))),
    }
}

fn parse_uwsgi(buf: &[u8], _seen: usize, out: &mut Request) -> Option<Result<(), String>> {
    match uwsgi::parse(buf, &LIMITS, out) {
        Packet::Request => Some(Ok(())),
        Packet::Partial => None,
        Packet::Ping => Some(Err("ping".to_owned())),
        Packet::Unsupported { modifier1 } => Some(Err(format!("unsupported {modifier1}"))),
        Packet::Refused(refusal) => Some(Err(refused(refusal))),
    }
}

fn refused(refusal: Refusal) -> String {
    format!("refused {}", refusal.status)
}

/// Bytes as the corpus writes them.
fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

fn describe(request: &Request, head: &[u8]) -> Vec<String> {
    let mut event = vec!["request".to_owned()];
    let mut add = |name: &str, value: String| event.push(format!("{name}={value}"));
    add("method", show(request.method.of(head)));
    add("target", show(request.target.of(head)));
    add("path", show(&request.path));
    add("query", show(request.query.of(head)));
    add("version", request.version.name()[5..].to_owned());
    add("host", request.host.map_or("none".to_owned(), |host| show(host.of(head))));
    let body = match request.body {
        BodyLength::Absent => "none".to_owned(),
        BodyLength::Length(length) => length.to_string(),
        BodyLength::Chunked => "chunked".to_owned(),
    };
    add("body", body);
    add("keep-alive", if request.keep_alive { "yes" } else { "no" }.to_owned());
    add("expect", if request.expect_continue { "yes" } else { "no" }.to_owned());
    add("modifier", request.modifier1.to_string());
    let mut fields = String::new();
    for field in &request.fields {
        let _ = write!(fields, "[{}: {}]", show(field.name.of(head)), show(field.value.of(head)));
    }
    add("fields", fields);
    event
}

impl Connection {
    fn new(protocol: &str) -> Connection {
        let uwsgi = protocol == "uwsgi";
        Connection {
            parse: if uwsgi { parse_uwsgi } else { parse_http },
            one_request: uwsgi,
            buffer: Vec::new(),
            seen: 0,
            request: Request::default(),
            body: None,
            events: Vec::new(),
            over: false,
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        while !self.over && self.step() {}
    }

    fn end(&mut self, event: String) {
        self.events.push(vec![event]);
        self.over = true;
    }

    /// One step of work on what has arrived; false when more bytes are needed.
    fn step(&mut self) -> bool {
        if let Some((reader, data)) = &mut self.body {
            match reader.feed(&self.buffer, data) {
                Ok(fed) => {
                    self.buffer.drain(..fed.consumed);
                    if !fed.done {
                        assert!(self.buffer.is_empty(), "a body that goes on takes all bytes");
                        return false;
                    }
                    let data = show(data);
                    self.events.last_mut().unwrap().push(format!("data={data}"));
                    self.body = None;
                    self.over = self.one_request;
                }
                Err(refusal) => self.end(refused(refusal)),
            }
            return true;
        }
        if self.buffer.is_empty() {
            return false;
        }
        match (self.parse)(&self.buffer, self.seen, &mut self.request) {
            None => {
                self.seen = self.buffer.len();
                false
            }
            Some(Err(event)) => {
                self.end(event);
                true
            }
            Some(Ok(())) => {
                self.events.push(describe(&self.request, &self.buffer));
                self.buffer.drain(..self.request.head_len);
                self.seen = 0;
                match body::admit(self.request.body, LIMIT_POST) {
                    Ok(()) => self.body = Some((Reader::new(self.request.body, LIMIT_POST), Vec::new())),
                    Err(refusal) => self.end(refused(refusal)),
                }
                true
            }
        }
    }

    fn finish(mut self) -> Vec<Vec<String>> {
        if !self.over && (!self.buffer.is_empty() || self.body.is_some()) {
            self.events.push(vec!["partial".to_owned()]);
        }
        self.events
    }
}

/// The bytes that a line of the corpus stands for: `\r \n \t \0 \\ \xNN`, and `\{N*TEXT}` for TEXT N times.
fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let kind = after.chars().next().expect("something behind the backslash");
        rest = &after[kind.len_utf8()..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).expect("two hexadecimal digits"));
                rest = &rest[2..];
            }
            '{' => {
                let (repeat, behind) = rest.split_once('}').expect("a closing brace");
                let (times, text) = repeat.split_once('*').expect("N*TEXT");
                bytes.extend(unescape(text).repeat(times.parse().expect("a number")));
                rest = behind;
            }
            other => panic!("unknown escape \\{other} in {line:?}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// The bytes of a case of the uwsgi protocol: `packet MODIFIER1`, then `NAME=VALUE` lines; `raw BYTES` anywhere.
fn unescape_packets(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut start = None;
    for line in lines {
        if let Some(modifier) = line.strip_prefix("packet ") {
            start = Some(bytes.len());
            bytes.extend_from_slice(&[modifier.parse().expect("a modifier"), 0, 0, 0]);
        } else if let Some(raw) = line.strip_prefix("raw ") {
            bytes.extend(unescape(raw));
        } else {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            for text in [unescape(name), unescape(value)] {
                bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
                bytes.extend_from_slice(&text);
            }
            let start = start.expect("a packet before its variables");
            let size = (bytes.len() - start - 4) as u16;
            bytes[start + 1..start + 3].copy_from_slice(&size.to_le_bytes());
        }
    }
    bytes
}

fn cases(protocol: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(protocol);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for block in text.split("\n== ").skip(1) {
            let mut lines = block.lines();
            let title = lines.next().unwrap();
            let place = format!("{}: {title}", file.file_name().unwrap().to_string_lossy());
            let (mut input, mut expected): (Vec<&str>, Vec<Vec<String>>) = (Vec::new(), Vec::new());
            for line in lines.filter(|line| !line.is_empty() && !line.starts_with("# ")) {
                if let Some(event) = line.strip_prefix("-- ") {
                    expected.push(vec![event.to_owned()]);
                } else if let Some(event) = expected.last_mut() {
                    event.push(line.to_owned());
                } else {
                    input.push(line);
                }
            }
            let input = match protocol {
                "uwsgi" => unescape_packets(&input),
                _ => unescape(&input.concat()),
            };
            cases.push(Case { place, input, expected });
        }
    }
    assert!(!cases.is_empty(), "no cases in {}", folder.display());
    cases
}

fn outcome(protocol: &str, pieces: &[&[u8]]) -> Vec<Vec<String>> {
    let mut connection = Connection::new(protocol);
    for piece in pieces {
        connection.feed(piece);
    }
    connection.finish()
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
    let pools = ["http", "uwsgi"].map(|protocol| {
        let inputs: Vec<_> = cases(protocol).into_iter().map(|case| case.input).filter(|i| i.len() < 600).collect();
        (protocol, inputs)
    });
    let mut runs = 0u64;
    while std::time::Instant::now() < end {
        let (protocol, inputs) = &pools[usize::from(random.below(4) == 0)];
        let mut input = inputs[random.below(inputs.len())].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, &inputs[random.below(inputs.len())], &mut random);
        }
        let whole = outcome(protocol, &[&input]);
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(outcome(protocol, &bytes), whole, "byte by byte: {}", show(&input));
        let (first, second) = (random.below(input.len() + 1), random.below(input.len() + 1));
        let (first, second) = (first.min(second), first.max(second));
        let pieces = [&input[..first], &input[first..second], &input[second..]];
        assert_eq!(outcome(protocol, &pieces), whole, "split at {first} and {second}: {}", show(&input));
        runs += 1;
    }
    assert!(runs > 0);
}
