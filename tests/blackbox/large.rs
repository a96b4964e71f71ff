//! Bodies larger than memory should ever hold, up and down, over each protocol: they arrive to the byte, and the server's memory
//! does not grow with them.
//!
//! In tests/run they are of 96 MiB. The long form is 1 GiB each:
//!
//!     RSGI_BODY_MIB=1024 cargo test --release --test blackbox -- large

use std::io::Write;
use std::time::Duration;

use crate::harness::fastcgi::{self, BEGIN, END, PARAMS, Records, STDIN, STDOUT, pair, record};
use crate::harness::http::Client;
use crate::harness::server::{Server, Setup, Speaks, blocks_ahead, processes_of};
use crate::harness::{Subject, differs, scgi, subject, uwsgi};

/// Growth of any process of the server that is not taken for growth with the body.
const MAY_GROW: u64 = 16 << 20;

const PATIENCE: Duration = Duration::from_secs(300);

const PROTOCOLS: [(Speaks, &str); 4] = [
    (Speaks::Http, "http-socket"),
    (Speaks::Uwsgi, "uwsgi-socket"),
    (Speaks::FastCgi, "fastcgi-socket"),
    (Speaks::Scgi, "scgi-socket"),
];

fn size() -> u64 {
    let mib = std::env::var("RSGI_BODY_MIB").map_or(96, |text| text.parse().expect("RSGI_BODY_MIB is a number"));
    mib << 20
}

/// The pattern of tests/apps/bodies.py, twice: wherever it begins, a whole period follows.
struct Pattern(Vec<u8>, usize);

impl Pattern {
    fn new() -> Pattern {
        let period = (1 << 20) - 251;
        let byte = |n: usize| ((n % period) * 7 + ((n % period) >> 8) * 13) as u8;
        Pattern((0..2 * period).map(byte).collect(), period)
    }

    fn at(&self, position: u64, len: usize) -> &[u8] {
        let start = (position % self.1 as u64) as usize;
        &self.0[start..start + len]
    }
}

/// Checks a body as it comes.
struct Check<'a> {
    pattern: &'a Pattern,
    seen: u64,
}

impl Check<'_> {
    #[track_caller]
    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(1 << 19) {
            assert!(self.pattern.at(self.seen, piece.len()) == piece, "other bytes near {}", self.seen);
            self.seen += piece.len() as u64;
        }
    }
}

/// The value of a line of /proc/PID/status, in bytes.
fn memory(pid: i32, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// Runs `f`, during which no process of the server may take much more memory than before.
#[track_caller]
fn without_growth(server: &Server, what: &str, f: impl FnOnce()) {
    let before: Vec<(i32, u64)> = processes_of(server.pid())
        .into_iter()
        .filter_map(|pid| {
            // The peak is counted from here on.
            std::fs::write(format!("/proc/{pid}/clear_refs"), "5").ok()?;
            Some((pid, memory(pid, "VmRSS")?))
        })
        .collect();
    assert!(before.len() >= 2, "{before:?}");
    f();
    for (pid, before) in before {
        let Some(peak) = memory(pid, "VmHWM") else { continue };
        let grown = peak.saturating_sub(before);
        assert!(grown < MAY_GROW, "{what}: process {pid} grew by {} KiB", grown >> 10);
    }
}

/// The begin of a request with a body of `len` bytes.
fn begin(speaks: Speaks, method: &str, target: &str, len: u64) -> Vec<u8> {
    let length = len.to_string();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let vars = [
        ("CONTENT_LENGTH", length.as_str()),
        ("SCGI", "1"),
        ("REQUEST_METHOD", method),
        ("REQUEST_URI", target),
        ("QUERY_STRING", query),
        ("PATH_INFO", path),
        ("SCRIPT_NAME", ""),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
    ];
    match speaks {
        Speaks::Http => {
            format!("{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n")
                .into()
        }
        Speaks::Uwsgi => uwsgi::packet(0, &vars),
        Speaks::Scgi => scgi::netstring(&vars),
        Speaks::FastCgi => {
            let mut out = record(BEGIN, 1, &[0, 1, 0, 0, 0, 0, 0, 0]);
            let params: Vec<u8> = vars.iter().flat_map(|(name, value)| pair(name, value)).collect();
            out.extend(record(PARAMS, 1, &params));
            out.extend(record(PARAMS, 1, b""));
            if len == 0 {
                out.extend(record(STDIN, 1, b""));
            }
            out
        }
    }
}

/// Reads a response and gives its body to `take`.
#[track_caller]
fn read_response(speaks: Speaks, mut client: Client, mut take: impl FnMut(&[u8])) {
    if speaks == Speaks::FastCgi {
        let mut records = Records::new(client);
        let mut head = Some(Vec::new());
        loop {
            let fastcgi::Record { kind, content, .. } = records.next();
            match (kind, &mut head) {
                (END, _) => return,
                (STDOUT, None) => take(&content),
                (STDOUT, Some(text)) => {
                    text.extend_from_slice(&content);
                    if let Some(end) = text.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                        assert!(text.starts_with(b"Status: 200 "), "{}", text.escape_ascii());
                        take(&text[end + 4..]);
                        head = None;
                    }
                }
                _ => panic!("a record of type {kind}"),
            }
        }
    }
    let head = client.try_head().expect("a head").expect(200);
    if head.field("Transfer-Encoding").is_some() {
        loop {
            let chunk = client.try_chunk().expect("a chunk");
            if chunk.is_empty() {
                return;
            }
            take(&chunk);
        }
    }
    let mut left = head.field("Content-Length").map_or(u64::MAX, |text| text.parse().expect("a number"));
    while left > 0 {
        match client.try_some().expect("the body") {
            piece if piece.is_empty() => {
                assert_eq!(left, u64::MAX, "closed before the end");
                return;
            }
            piece => {
                take(&piece);
                left -= if left == u64::MAX { 0 } else { piece.len() as u64 };
            }
        }
    }
}

/// A client that waits as long as disks may take for a body.
#[track_caller]
fn connect(server: &Server) -> Client {
    let client = server.connect();
    client.socket.set_read_timeout(Some(PATIENCE)).expect("a time");
    client.socket.set_write_timeout(Some(PATIENCE)).expect("a time");
    client
}

#[track_caller]
fn text(server: &Server, speaks: Speaks, target: &str) -> String {
    let mut client = connect(server);
    client.send(begin(speaks, "GET", target, 0));
    let mut body = Vec::new();
    read_response(speaks, client, |bytes| body.extend_from_slice(bytes));
    String::from_utf8(body).expect("text")
}

#[track_caller]
fn upload(server: &Server, speaks: Speaks, pattern: &Pattern, size: u64) {
    let mut client = connect(server);
    client.send(begin(speaks, "POST", "/up", size));
    let most = if speaks == Speaks::FastCgi { 65_528 } else { 1 << 19 };
    let mut sent = 0;
    while sent < size {
        let piece = pattern.at(sent, most.min((size - sent) as usize));
        if speaks == Speaks::FastCgi {
            client.send(record(STDIN, 1, piece));
        } else {
            (&client.socket).write_all(piece).expect("sent");
        }
        sent += piece.len() as u64;
    }
    if speaks == Speaks::FastCgi {
        client.send(record(STDIN, 1, b""));
    }
    let mut body = Vec::new();
    read_response(speaks, client, |bytes| body.extend_from_slice(bytes));
    assert_eq!(String::from_utf8_lossy(&body), format!("{size} same"));
}

#[track_caller]
fn download(server: &Server, speaks: Speaks, page: &str, pattern: &Pattern, size: u64) {
    let mut client = connect(server);
    client.send(begin(speaks, "GET", &format!("{page}?{size}"), 0));
    let mut check = Check { pattern, seen: 0 };
    read_response(speaks, client, |bytes| check.take(bytes));
    assert_eq!(check.seen, size);
}

fn start(speaks: Speaks, option: &str, buffering: &str) -> Server {
    Setup::of("bodies").listen(option, speaks).set("post-buffering", buffering).set("processes", "1").start()
}

fn uploads(buffering: &str) {
    // The bounds are rsgi's own promise; what uWSGI does with bodies is in `bodies.rs`.
    if subject() == Subject::Uwsgi {
        return;
    }
    let (pattern, size) = (Pattern::new(), size());
    for (speaks, option) in PROTOCOLS {
        let server = start(speaks, option, buffering);
        upload(&server, speaks, &pattern, 1 << 20);
        let what = format!("{option}, post-buffering {buffering}, up");
        without_growth(&server, &what, || upload(&server, speaks, &pattern, size));
    }
}

#[test]
fn uploads_that_are_buffered() {
    uploads("65536");
}

#[test]
fn uploads_that_are_streamed() {
    uploads("0");
}

#[test]
fn downloads() {
    let (pattern, size) = (Pattern::new(), size());
    for (speaks, option) in PROTOCOLS {
        let server = start(speaks, option, "65536");
        assert_eq!(text(&server, speaks, &format!("/prepare?{size}")), "made");
        for page in ["/generator", "/wrapper", "/list"] {
            without_growth(&server, &format!("{option}, {page}"), || {
                download(&server, speaks, page, &pattern, size);
            });
        }
    }
}

#[test]
fn a_generator_runs_ahead_only_so_far_over_each_protocol() {
    differs("A generator may run `response-buffer` bytes (1 MiB) ahead of its client before it waits.", || {
        for (speaks, option) in PROTOCOLS {
            let server = Setup::of("responses").listen(option, speaks).set("socket-timeout", "60").start();
            let mut client = server.connect();
            client.send(begin(speaks, "GET", "/ahead", 0));
            let last = blocks_ahead(&server);
            // What the kernel's buffers hold is beside it.
            assert!(last * 65536 < 30_000_000, "{option}: {last} blocks");
            let mut seen = 0;
            read_response(speaks, client, |bytes| seen += bytes.len());
            assert_eq!(seen, 1999 * 65536);
        }
    });
}
