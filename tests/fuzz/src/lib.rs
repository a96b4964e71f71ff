//! What the fuzz targets share: `src/protocol` itself, and the connections of the corpus that feed it.

use std::path::Path;

use protocol::Protocol;
use protocol::request::Version;
use protocol::response::{BodyFraming, Facts, Framing, Head, Prepared};

#[path = "../../corpus/cases.rs"]
#[allow(dead_code)]
mod cases;
#[path = "../../corpus/drive.rs"]
mod drive;
#[path = "../../../src/protocol/mod.rs"]
pub mod protocol;

/// Bytes that are parsed for the splits of one input. So inputs up to 256 bytes are split at every position, and longer ones at
/// fewer, another set for another input: else a long one costs as much as a thousand short ones (`tests/corpus/run.rs` splits all of
/// the corpus everywhere).
const SPLIT_BYTES: usize = 64 * 1024;

/// Feeds `input` whole, byte by byte, split at every position, and in three pieces.
///
/// # Panics
/// When the outcome is not the same each time.
pub fn check(protocol: &str, input: &[u8]) {
    // Cuts that depend on the input, so that a finding can be repeated.
    let sum = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let cut = |sum: u64| sum as usize % (input.len() + 1);
    let whole = drive::check(protocol, input, (cut(sum), cut(sum >> 24)));
    let splits = (SPLIT_BYTES / input.len().max(1)).max(1);
    let step = input.len().div_ceil(splits).max(1);
    for at in (sum as usize % step..input.len()).step_by(step) {
        let (front, back) = input.split_at(at);
        assert_eq!(
            drive::outcome(protocol, &[front, back]),
            whole,
            "{protocol}, split at {at}: {}",
            drive::show(input)
        );
    }
}

/// What must hold of every path, whatever the target.
///
/// # Panics
/// When it does not.
pub fn check_path(raw: &[u8]) {
    let mut path = b"left over".to_vec();
    let Ok(()) = protocol::path::normalise(raw, &mut path) else {
        let text = raw.escape_ascii();
        assert!(raw.contains(&0) || raw.windows(3).any(|three| three == b"%00"), "refused without a NUL byte: {text}");
        return;
    };
    assert!(!path.contains(&0));
    // A last `..` leaves a slash that may not have been there.
    assert!(path.len() <= raw.len() + 1);
    if raw.contains(&b'%') {
        return;
    }
    let dots = |segment: &[u8]| matches!(segment, b"." | b"..");
    assert!(!path.split(|&byte| byte == b'/').any(dots), "{}", raw.escape_ascii());
    let mut again = Vec::new();
    assert_eq!(protocol::path::normalise(&path, &mut again).map(|()| again), Ok(path));
}

/// What separates the parts of an input of [`check_response`].
const SEPARATOR: u8 = 0xff;

/// A response head of an application: flags, status, then names and values. Whatever they are, what goes out is one head with
/// one framing.
///
/// # Panics
/// When it is not.
pub fn check_response(input: &[u8]) {
    let Some((&flags, script)) = input.split_first() else { return };
    let mut parts = script.split(|&byte| byte == SEPARATOR);
    let flag = |bit: u32| flags >> bit & 1 == 1;
    let (mut head, mut prepared) = (Head::new(), Head::new());
    if head.start(parts.next().unwrap_or_default()).is_err() {
        return;
    }
    let Some(status) = head.prepare() else { panic!("a status line concerns no connection") };
    prepared.start_prepared(&status);
    let mut closes = false;
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        let added = head.field(name, value);
        match (added, Prepared::new(name, value)) {
            (_, Ok(Some(field))) => assert_eq!(prepared.add_prepared(&field), added),
            (Ok(()), Ok(None)) => {}
            (added, Err(error)) => assert_eq!(added, Err(error)),
            (Err(error), Ok(None)) => panic!("{error} for a field of the connection"),
        }
        closes = head.wants_close();
    }
    let mut whole = Head::new();
    let is_whole = head.prepare().map(|prepared| whole.start_prepared(&prepared)).is_some();
    assert_eq!(is_whole, !closes && head.dropped().is_none());
    let facts = Facts {
        version: if flag(0) { Version::Http11 } else { Version::Http10 },
        head_request: flag(1),
        protocol: [Protocol::Http, Protocol::Uwsgi, Protocol::FastCgi, Protocol::Scgi][usize::from(flags >> 2 & 3)],
        keep_alive: flag(4),
        total: flag(5).then_some(u64::from(flags)),
        date: b"Sun, 06 Nov 1994 08:49:37 GMT",
    };
    let framing = head.finish(&facts);
    if !closes {
        assert_eq!(prepared.finish(&facts), framing);
        assert_eq!(prepared.bytes(), head.bytes());
    }
    if is_whole {
        assert_eq!(whole.finish(&facts), framing);
        assert_eq!(whole.bytes(), head.bytes());
    }
    judge_head(&head, &framing, &facts);
}

/// The lines of a head. A bare CR or LF stays within its line.
fn lines(block: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut start = 0;
    for end in memchr::memmem::find_iter(block, b"\r\n").chain([block.len()]) {
        lines.push(&block[start..end]);
        start = end + 2;
    }
    lines
}

fn judge_head(head: &Head, framing: &Framing, facts: &Facts<'_>) {
    let http = facts.protocol == Protocol::Http;
    let Some(block) = head.bytes().strip_suffix(b"\r\n\r\n") else { panic!("no blank line: {:?}", head.bytes()) };
    let mut lines = lines(block).into_iter();
    let first = lines.next().unwrap_or_default();
    let begins: &[u8] = match facts.protocol.style() {
        protocol::Style::StatusLine => b"HTTP/1.1 ",
        protocol::Style::StatusField => b"Status: ",
    };
    assert!(first.starts_with(begins));
    let (mut count, mut lengths, mut codings, mut statuses, mut close) = (0, 0, 0, 0, false);
    for line in lines {
        assert!(line.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)), "a control byte: {line:?}");
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { panic!("no field: {line:?}") };
        let name = line[..colon].to_ascii_lowercase();
        assert!(!name.is_empty() && !name.contains(&b' '));
        count += 1;
        match &name[..] {
            b"content-length" => lengths += 1,
            b"transfer-encoding" => codings += 1,
            b"connection" => close = line.ends_with(b"close"),
            b"status" => statuses += 1,
            _ => {}
        }
    }
    assert_eq!(count, head.fields());
    assert_eq!(codings, u32::from(framing.body == BodyFraming::Chunked));
    assert!(lengths + codings <= 1);
    assert!(framing.body != BodyFraming::Chunked || http && facts.version == Version::Http11);
    assert!(!matches!(framing.body, BodyFraming::Length(_)) || lengths == 1);
    assert!(head.status() != 204 || lengths == 0);
    assert!(statuses <= u32::from(facts.protocol.style() == protocol::Style::StatusLine) * head.fields());
    assert!(framing.body != BodyFraming::UntilClose || !framing.keep_alive);
    assert_eq!(close, http && !framing.keep_alive);
    let bodiless = facts.head_request || matches!(head.status(), 204 | 205 | 304);
    assert_eq!(framing.body == BodyFraming::Nothing, bodiless);
}

/// Seeds of the target `response`.
const RESPONSES: [&[u8]; 9] = [
    b"\x08205 Reset Content\xffSTATUS\xff404 X\xffContent-Length\xff5\xffstatus\xff1\xffX\xff1",
    b"\x31200 OK\xffContent-Type\xfftext/plain\xffX-A\xff1",
    b"\x11404 Not Found\xffContent-Length\xff5\xffContent-Length\xff5",
    b"\x11200\xffContent-Length\xff5\xffcontent-length\xff6",
    b"\x11204 No Content\xffContent-Length\xff0\xffDate\xffSun, 06 Nov 1994 08:49:37 GMT",
    b"\x13304 Not Modified\xffETag\xff\"x\"\xffConnection\xffclose",
    b"\x10200 OK\xffTransfer-Encoding\xffchunked\xffKeep-Alive\xfftimeout=5\xffConnection\xffkeep-alive, upgrade",
    b"\x14500 Oops\xffX\xffa\r\nB: c\xffX Y\xff1\xff\xff",
    b"\x0999 \t\xe9\xffSet-Cookie\xffa=b\xffSet-Cookie\xffc=d\xffProxy-Authenticate\xffBasic",
];

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
            if protocol == "http"
                && let Some(target) = case.input.split(|&byte| byte == b' ').nth(1)
            {
                seeds.push(("path", number, target.to_vec()));
            }
            seeds.push((protocol, number, case.input));
        }
    }
    seeds.extend(RESPONSES.iter().enumerate().map(|(number, seed)| ("response", number, seed.to_vec())));
    seeds
}
