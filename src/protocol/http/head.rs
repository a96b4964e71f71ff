//! HTTP/1.1 and 1.0 request heads (RFC 9112 sections 2 to 6), strict.
//!
//! Rules that keep every split of the same bytes at the same outcome:
//! - A line is judged when its LF is there; only the first bytes of the request line are judged
//!   earlier, so that a TLS or garbage client is refused at once.
//! - The request line and the syntax of each field are judged line by line; what concerns several fields (Host,
//!   body framing, Expect) is judged when the blank line is there.
//! - Nothing behind `max_head` bytes is looked at.

use super::super::bytes;
use super::super::path;
use super::super::request::{BodyLength, Field, Parsed, Refusal, Request, Span, Version};

/// Bounds of a request head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole head, blank line included; above it 431.
    pub max_head: usize,
    /// Bytes of the request line without its CRLF; above it 414.
    pub max_line: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_head: 64 * 1024, max_line: 16 * 1024 }
    }
}

/// Bytes of a request line that are judged before the line is whole.
const EARLY: usize = 24;

/// A step either has a value, or needs more bytes (`None`), or refuses.
type Step<T> = Result<Option<T>, Refusal>;

/// Parses the request head that `buf` begins with. `seen` is the length of `buf` at the previous call, if that call
/// answered [`Parsed::Partial`] for the same head, else 0. `out` is meaningful only on [`Parsed::Complete`].
pub fn parse(buf: &[u8], seen: usize, limits: &Limits, out: &mut Request) -> Parsed {
    let view = &buf[..buf.len().min(limits.max_head)];
    if seen > 0 && seen <= view.len() && may_wait(view, seen, limits) {
        return partial(buf, view, limits);
    }
    match whole(view, limits, out) {
        Ok(Some(())) => Parsed::Complete,
        Ok(None) => partial(buf, view, limits),
        Err(refusal) => Parsed::Refused(refusal),
    }
}

/// The answer for a head without an end.
fn partial(buf: &[u8], view: &[u8], limits: &Limits) -> Parsed {
    if buf.len() <= limits.max_head {
        return Parsed::Partial;
    }
    let start = if view.starts_with(b"\r\n") { 2 } else { 0 };
    Parsed::Refused(match memchr::memchr(b'\n', &view[start..]) {
        Some(_) => HEAD_TOO_LONG,
        None => LINE_TOO_LONG,
    })
}

const LINE_TOO_LONG: Refusal = Refusal::new(414, "request line over the limit");
const HEAD_TOO_LONG: Refusal = Refusal::new(431, "request head over buffer-size");
const BAD_METHOD: Refusal = Refusal::new(400, "method is not a token");
const BAD_LINE_END: Refusal = Refusal::new(400, "line does not end in CRLF");
const BAD_TARGET: Refusal = Refusal::new(400, "invalid request target");
const BAD_VERSION: Refusal = Refusal::new(400, "invalid HTTP version");
const BAD_HOST: Refusal = Refusal::new(400, "invalid host");

/// Whether the bytes from `seen` on cannot change the outcome: no line that became whole with them is wrong or
/// blank. Keeps the work for a head that trickles in linear.
fn may_wait(view: &[u8], seen: usize, limits: &Limits) -> bool {
    let mut at = memchr::memrchr(b'\n', &view[..seen]).map_or(0, |lf| lf + 1);
    if at <= 2 {
        // Within the request line: it is judged in one place only.
        return seen >= EARLY + 2 && view.len() <= limits.max_line && memchr::memchr(b'\n', &view[seen..]).is_none();
    }
    loop {
        if memchr::memchr(b'\n', &view[at.max(seen)..]).is_none() {
            return true;
        }
        match field_line(view, at) {
            Ok(Some(line)) => at = line.next,
            _ => return false,
        }
    }
}

/// What the fields say together.
#[derive(Default)]
struct Facts {
    hosts: u32,
    host: Span,
    lengths: u32,
    length: Span,
    codings: u32,
    coding: Span,
    expects_continue: bool,
    expects_else: bool,
    close: bool,
    keep_alive: bool,
}

/// Parses a head from its first byte.
fn whole(view: &[u8], limits: &Limits, out: &mut Request) -> Step<()> {
    out.clear();
    // RFC 9112 section 2.2: an empty line before the request line is ignored; one, no more.
    let start = match view {
        [b'\r', b'\n', ..] => 2,
        [] | [b'\r'] => return Ok(None),
        _ => 0,
    };
    let Some((mut at, authority)) = request_line(view, start, limits, out)? else { return Ok(None) };
    let mut facts = Facts::default();
    loop {
        match &view[at..] {
            [b'\r', b'\n', ..] => break,
            [] | [b'\r'] => return Ok(None),
            rest => match field_line(view, at) {
                Ok(Some(line)) => {
                    at = line.next;
                    take_field(view, &line, authority, &mut facts, out);
                }
                Ok(None) => return Ok(None),
                // A line is judged when it is whole.
                Err(_) if memchr::memchr(b'\n', rest).is_none() => return Ok(None),
                Err(refusal) => return Err(refusal),
            },
        }
    }
    out.head_len = at + 2;
    judge_host(view, &facts, authority, out)?;
    judge_body(view, &facts, out)?;
    out.keep_alive = !facts.close && (out.version == Version::Http11 || facts.keep_alive);
    Ok(Some(()))
}

/// Parses the request line at `start`: gives the offset behind it, and the authority of an absolute-form target.
fn request_line(view: &[u8], start: usize, limits: &Limits, out: &mut Request) -> Step<(usize, Option<Span>)> {
    let rest = &view[start..];
    let early = &rest[..rest.len().min(EARLY)];
    let (len, _) = bytes::token_len(early);
    if len < early.len() && (len == 0 || early[len] != b' ') {
        return Err(BAD_METHOD);
    }
    let Some(lf) = memchr::memchr(b'\n', rest) else {
        // The CR of the line's end may be there already.
        return if rest.len() > limits.max_line + 1 { Err(LINE_TOO_LONG) } else { Ok(None) };
    };
    if lf > limits.max_line + 1 {
        return Err(LINE_TOO_LONG);
    }
    let [line @ .., b'\r'] = &rest[..lf] else { return Err(BAD_LINE_END) };

    let method_len = if len < early.len() { len } else { bytes::token_len(line).0 };
    if line.get(method_len) != Some(&b' ') {
        return Err(BAD_METHOD);
    }
    let method = &line[..method_len];
    let line = &line[method_len + 1..];
    let target_len = bytes::target_len(line);
    if target_len == 0 {
        return Err(BAD_TARGET);
    }
    let target = &line[..target_len];
    out.version = match &line[target_len..] {
        b" HTTP/1.1" => Version::Http11,
        b" HTTP/1.0" => Version::Http10,
        [b' ', version @ ..] => other_version(version)?,
        [] => return Err(Refusal::new(400, "HTTP/0.9 request")),
        _ => return Err(BAD_TARGET),
    };
    out.method = Span::new(start, start + method_len);
    let at = start + method_len + 1;
    out.target = Span::new(at, at + target_len);

    let authority = request_target(view, method, target, at, out)?;
    Ok(Some((start + lf + 1, authority)))
}

/// A version that is neither 1.1 nor 1.0 (RFC 9112 section 2.3).
#[cold]
fn other_version(text: &[u8]) -> Result<Version, Refusal> {
    match text {
        // A later minor version is served as the latest one that is known.
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9'] => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', b'2'..=b'9']
        | [b'H', b'T', b'T', b'P', b'/', b'2'..=b'9', b'.', b'0'..=b'9'] => {
            Err(Refusal::new(505, "HTTP version not supported"))
        }
        _ => Err(BAD_VERSION),
    }
}

/// Takes the target at offset `at` apart (RFC 9112 section 3.2). Gives the authority of an absolute-form target.
fn request_target(
    view: &[u8],
    method: &[u8],
    target: &[u8],
    at: usize,
    out: &mut Request,
) -> Result<Option<Span>, Refusal> {
    if method == b"CONNECT" {
        let has_port = target.iter().rposition(|&byte| byte == b':').is_some_and(|colon| colon + 1 < target.len());
        return Err(if has_port && bytes::is_host(target) {
            Refusal::new(501, "CONNECT is for proxies")
        } else {
            BAD_TARGET
        });
    }
    let mut authority = None;
    // Where the path begins, counted in the target.
    let mut path_at = 0;
    if target[0] != b'/' {
        if target == b"*" {
            if method != b"OPTIONS" {
                return Err(BAD_TARGET);
            }
        } else if let Some(skip) = scheme_len(target) {
            let rest = &target[skip..];
            let len = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
            if !bytes::is_host(&rest[..len]) {
                return Err(BAD_HOST);
            }
            path_at = skip + len;
            authority = Some(Span::new(at + skip, at + path_at));
        } else if !begins_with_dots(target) {
            return Err(BAD_TARGET);
        }
    }
    let (path_end, query) = match memchr::memchr(b'?', &target[path_at..]) {
        Some(mark) => (path_at + mark, Span::new(at + path_at + mark + 1, at + target.len())),
        None => (target.len(), Span::new(at + target.len(), at + target.len())),
    };
    out.query = query;
    path::normalise(Span::new(at + path_at, at + path_end).of(view), &mut out.path)?;
    if out.path.is_empty() {
        // RFC 9110 section 4.2.3: the empty path of an http URI is the same as `/`.
        out.path.push(b'/');
    }
    Ok(authority)
}

/// The length of `http://` or `https://` at the beginning of `target`.
fn scheme_len(target: &[u8]) -> Option<usize> {
    let begins = |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    [&b"http://"[..], b"https://"].into_iter().find(|scheme| begins(scheme)).map(<[u8]>::len)
}

/// Whether the first segment is `.` or `..`. Not a form of RFC 9112, but harmless, and uWSGI takes `./foo` for `/foo`.
fn begins_with_dots(target: &[u8]) -> bool {
    let len = target.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(target.len());
    matches!(&target[..len], b"." | b"..")
}

/// A field line, and where the next one begins.
struct Line {
    name: Span,
    value: Span,
    underscore: bool,
    next: usize,
}

/// Parses the field line at `at` (RFC 9112 section 5). An error is only final when the line has its LF.
#[inline]
fn field_line(view: &[u8], at: usize) -> Step<Line> {
    let (len, underscore) = bytes::token_len(&view[at..]);
    let colon = at + len;
    match view.get(colon) {
        Some(b':') if len > 0 => {}
        None => return Ok(None),
        Some(&byte) => return Err(bad_name(len, byte)),
    }
    let mut start = colon + 1;
    while let Some(b' ' | b'\t') = view.get(start) {
        start += 1;
    }
    let cr = start + bytes::value_len(&view[start..]);
    match &view[cr..] {
        [b'\r', b'\n', ..] => {}
        [] | [b'\r'] => return Ok(None),
        [b'\r' | b'\n', ..] => return Err(BAD_LINE_END),
        _ => return Err(Refusal::new(400, "control byte in a field value")),
    }
    let mut end = cr;
    while end > start && matches!(view[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    Ok(Some(Line { name: Span::new(at, colon), value: Span::new(start, end), underscore, next: cr + 2 }))
}

/// Why a line that has `byte` behind `len` bytes of name is no field.
#[cold]
fn bad_name(len: usize, byte: u8) -> Refusal {
    Refusal::new(
        400,
        match (len, byte) {
            (0, b' ' | b'\t') => "folded field line",
            (0, b':') => "empty field name",
            (_, b' ' | b'\t') => "white space before the colon of a field",
            (_, b'\r' | b'\n') => "field line without a colon",
            _ => "invalid byte in a field name",
        },
    )
}

/// Keeps a field, and notes what it says about the request.
#[inline]
fn take_field(view: &[u8], line: &Line, authority: Option<Span>, facts: &mut Facts, out: &mut Request) {
    // `X_Name` and `X-Name` have the same name in environ: a client could pass the one off as the other.
    if line.underscore {
        return;
    }
    let mut field = Field { name: line.name, value: line.value };
    let name = line.name.of(view);
    match name.len() {
        4 if name.eq_ignore_ascii_case(b"host") => {
            facts.hosts += 1;
            facts.host = line.value;
            field.value = authority.unwrap_or(line.value);
        }
        // No application may take it for the environment variable of CGI clients ("httpoxy").
        5 if name.eq_ignore_ascii_case(b"proxy") => return,
        6 if name.eq_ignore_ascii_case(b"expect") => {
            for expectation in bytes::list(line.value.of(view)) {
                let known = expectation.eq_ignore_ascii_case(b"100-continue");
                facts.expects_continue |= known;
                facts.expects_else |= !known;
            }
        }
        10 if name.eq_ignore_ascii_case(b"connection") => {
            for option in bytes::list(line.value.of(view)) {
                facts.close |= option.eq_ignore_ascii_case(b"close");
                facts.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        14 if name.eq_ignore_ascii_case(b"content-length") => {
            facts.lengths += 1;
            facts.length = line.value;
        }
        17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
            facts.codings += 1;
            facts.coding = line.value;
        }
        _ => {}
    }
    out.fields.push(field);
}

/// RFC 9112 section 3.2: exactly one valid Host in HTTP/1.1, at most one in HTTP/1.0.
fn judge_host(view: &[u8], facts: &Facts, authority: Option<Span>, out: &mut Request) -> Result<(), Refusal> {
    match facts.hosts {
        0 if out.version == Version::Http11 => return Err(Refusal::new(400, "no Host field")),
        0 => {}
        1 => {
            let host = facts.host.of(view);
            if !host.is_empty() && !bytes::is_host(host) {
                return Err(BAD_HOST);
            }
            out.host = Some(facts.host);
        }
        _ => return Err(Refusal::new(400, "repeated Host field")),
    }
    if authority.is_some() {
        out.host = authority;
    }
    Ok(())
}

/// RFC 9112 section 6 and RFC 9110 section 10.1.1: how much body follows, and whether the client waits with it.
fn judge_body(view: &[u8], facts: &Facts, out: &mut Request) -> Result<(), Refusal> {
    if facts.lengths > 1 {
        return Err(Refusal::new(400, "repeated Content-Length"));
    }
    if facts.lengths == 1 {
        let length = bytes::decimal(facts.length.of(view)).ok_or(Refusal::new(400, "invalid Content-Length"))?;
        out.body = BodyLength::Length(length);
    }
    if facts.codings > 0 {
        if facts.lengths > 0 {
            return Err(Refusal::new(400, "Transfer-Encoding beside Content-Length"));
        }
        if out.version == Version::Http10 {
            return Err(Refusal::new(400, "Transfer-Encoding in HTTP/1.0"));
        }
        if facts.codings > 1 {
            return Err(Refusal::new(400, "repeated Transfer-Encoding"));
        }
        let coding = facts.coding.of(view);
        if !coding.eq_ignore_ascii_case(b"chunked") {
            return Err(refuse_codings(coding));
        }
        out.body = BodyLength::Chunked;
    }
    if out.version == Version::Http11 {
        if facts.expects_else {
            return Err(Refusal::new(417, "unknown expectation"));
        }
        out.expect_continue = facts.expects_continue && !matches!(out.body, BodyLength::Absent | BodyLength::Length(0));
    }
    Ok(())
}

/// RFC 9112 section 6.1: codings that are not known are 501. But when the last one is not chunked, or chunked
/// comes twice, the body has no end that can be trusted: 400.
#[cold]
fn refuse_codings(codings: &[u8]) -> Refusal {
    let mut members = codings.split(|&byte| byte == b',').map(bytes::trim);
    let chunked = members.clone().filter(|member| member.eq_ignore_ascii_case(b"chunked")).count();
    let last = members.next_back().unwrap_or_default();
    if !members.all(bytes::is_token) || !bytes::is_token(last) {
        return Refusal::new(400, "invalid Transfer-Encoding");
    }
    match chunked {
        0 => Refusal::new(501, "transfer coding not supported"),
        1 if last.eq_ignore_ascii_case(b"chunked") => Refusal::new(501, "transfer coding not supported"),
        _ => Refusal::new(400, "chunked is not the last transfer coding"),
    }
}
