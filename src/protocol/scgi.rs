//! SCGI: a netstring of variables, then the body. One request a connection; the response ends where the connection does.
//!
//! As the specification has it, CONTENT_LENGTH comes first and `SCGI` is `1`. Its rule against repeated names is not
//! kept up, since web servers send repeated header fields as such; only CONTENT_LENGTH may not differ from itself.

use super::bytes;
use super::cgi::Vars;
use super::http::head::Limits;
use super::request::{BodyLength, Parsed, Refusal, Request, Span};

const NOT_SCGI: Refusal = Refusal::new(400, "not an SCGI netstring");
const TOO_LONG: Refusal = Refusal::new(431, "SCGI netstring over buffer-size");
const UNPAIRED: Refusal = Refusal::new(400, "SCGI name without a value");

/// Parses the request that `buf` begins with; `out` is meaningful only on [`Parsed::Complete`]. Of `limits`, `max_head` bounds
/// the netstring's content.
pub fn parse(buf: &[u8], limits: &Limits, out: &mut Request) -> Parsed {
    match whole(buf, limits, out) {
        Ok(true) => Parsed::Complete,
        Ok(false) => Parsed::Partial,
        Err(refusal) => Parsed::Refused(refusal),
    }
}

fn whole(buf: &[u8], limits: &Limits, out: &mut Request) -> Result<bool, Refusal> {
    let digits = buf.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // No length begins with 0 but 0, and an empty netstring is no request.
    if buf.first() == Some(&b'0') {
        return Err(NOT_SCGI);
    }
    let size = match bytes::decimal(&buf[..digits]) {
        Some(size) if size <= limits.max_head as u64 => size as usize,
        None if buf.is_empty() => return Ok(false),
        None if digits == 0 => return Err(NOT_SCGI),
        _ => return Err(TOO_LONG),
    };
    match buf.get(digits) {
        Some(b':') => {}
        Some(_) => return Err(NOT_SCGI),
        None => return Ok(false),
    }
    let start = digits + 1;
    let end = start + size;
    match buf.get(end) {
        Some(b',') => {}
        Some(_) => return Err(NOT_SCGI),
        None => return Ok(false),
    }
    variables(&buf[..=end], start, out)?;
    Ok(true)
}

/// Reads the variables between `start` and the comma that `head` ends with.
fn variables(head: &[u8], start: usize, out: &mut Request) -> Result<(), Refusal> {
    let mut vars = Vars::begin(head.len(), out);
    let end = head.len() - 1;
    let text = |at: usize| match memchr::memchr(0, &head[at..end]) {
        Some(len) => Ok(Span::new(at, at + len)),
        None => Err(UNPAIRED),
    };
    let mut scgi = false;
    let mut at = start;
    while at < end {
        let name = text(at)?;
        let value = text(name.end as usize + 1)?;
        let is_length = name.of(head) == b"CONTENT_LENGTH";
        if at == start && !is_length {
            return Err(Refusal::new(400, "SCGI variables do not begin with CONTENT_LENGTH"));
        }
        scgi |= name.of(head) == b"SCGI" && value.of(head) == b"1";
        at = value.end as usize + 1;
        vars.take(head, name, value, out)?;
    }
    if !scgi {
        return Err(Refusal::new(400, "no SCGI variable of value 1"));
    }
    vars.finish(head, out)?;
    match out.body {
        BodyLength::Length(_) => Ok(()),
        _ => Err(Refusal::new(400, "empty CONTENT_LENGTH")),
    }
}
