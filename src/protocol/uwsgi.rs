//! The uwsgi protocol: a four byte header, then a block of variables; the body follows raw.
//!
//! Variables are data. Those that make uWSGI load code or change its process (UWSGI_SCRIPT, UWSGI_MODULE,
//! UWSGI_SETENV, ...) have no meaning here: whoever reaches the socket would run what they like.

use super::bytes;
use super::http::head::Limits;
use super::request::{BodyLength, Field, Refusal, Request, Span, Version};

/// The answer to a ping (modifier1 100): modifier2 1, no warning message.
pub const PONG: [u8; 4] = [100, 0, 0, 1];

/// Bytes in front of the variables: modifier1, size (little endian), modifier2.
const HEADER: usize = 4;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A request (modifier1 0 or 30); it stands in the `Request`.
    Request,
    /// A ping, to be answered with [`PONG`].
    Ping,
    /// More bytes are needed.
    Partial,
    /// A packet for a function that is not here.
    Unsupported {
        /// Which function.
        modifier1: u8,
    },
    /// The packet can't be accepted.
    Refused(Refusal),
}

/// Parses the packet that `buf` begins with; `out` is meaningful only on [`Packet::Request`]. Of `limits`,
/// `max_head` bounds the block of variables.
pub fn parse(buf: &[u8], limits: &Limits, out: &mut Request) -> Packet {
    let Some(&[modifier1, low, high, _]) = buf.first_chunk::<HEADER>() else {
        // The first byte tells what the packet is.
        return match buf.first() {
            Some(&modifier1) if !matches!(modifier1, 0 | 30 | 100) => Packet::Unsupported { modifier1 },
            _ => Packet::Partial,
        };
    };
    match modifier1 {
        0 | 30 => {}
        100 => return Packet::Ping,
        _ => return Packet::Unsupported { modifier1 },
    }
    let size = usize::from(u16::from_le_bytes([low, high]));
    if size > limits.max_head {
        return Packet::Refused(Refusal::new(431, "uwsgi packet over buffer-size"));
    }
    let Some(packet) = buf.get(..HEADER + size) else { return Packet::Partial };
    out.clear();
    match variables(packet, out) {
        Ok(()) => {
            out.modifier1 = modifier1;
            Packet::Request
        }
        Err(refusal) => Packet::Refused(refusal),
    }
}

/// A text with its length in front, at `at`.
#[inline]
fn text(packet: &[u8], at: usize) -> Result<Span, Refusal> {
    let len = packet.get(at..at + 2).map(|len| usize::from(u16::from_le_bytes([len[0], len[1]])));
    match len {
        Some(len) if at + 2 + len <= packet.len() => Ok(Span::new(at + 2, at + 2 + len)),
        _ => Err(Refusal::new(400, "uwsgi variable runs over the end of the packet")),
    }
}

/// Reads all variables of a packet, and what they say about the request.
fn variables(packet: &[u8], out: &mut Request) -> Result<(), Refusal> {
    out.cgi = true;
    out.version = Version::Http10;
    out.head_len = packet.len();
    let mut length: Option<Span> = None;
    let mut chunked = false;
    let mut path = Span::default();
    let mut at = HEADER;
    while at < packet.len() {
        let name = text(packet, at)?;
        let value = text(packet, name.end as usize)?;
        at = value.end as usize;
        match name.of(packet) {
            b"" => return Err(Refusal::new(400, "empty uwsgi variable name")),
            b"REQUEST_METHOD" => out.method = value,
            b"REQUEST_URI" => out.target = value,
            b"QUERY_STRING" => out.query = value,
            b"PATH_INFO" => path = value,
            b"HTTP_HOST" => out.host = Some(value),
            b"SERVER_PROTOCOL" => out.version = version(value.of(packet)),
            b"CONTENT_LENGTH" => {
                if let Some(first) = length {
                    if first.of(packet) != value.of(packet) {
                        return Err(Refusal::new(400, "two different CONTENT_LENGTH"));
                    }
                    continue;
                }
                length = Some(value);
            }
            b"HTTP_TRANSFER_ENCODING" => chunked = value.of(packet).eq_ignore_ascii_case(b"chunked"),
            // What a client can set by a field of that name, beside the real variable; and "httpoxy".
            b"HTTP_CONTENT_LENGTH" | b"HTTP_CONTENT_TYPE" | b"HTTP_PROXY" => continue,
            _ => {}
        }
        out.fields.push(Field { name, value });
    }
    if !bytes::is_token(out.method.of(packet)) {
        return Err(Refusal::new(400, "no valid REQUEST_METHOD"));
    }
    let path = path.of(packet);
    if memchr::memchr(0, path).is_some() {
        return Err(Refusal::new(400, "NUL byte in the path"));
    }
    out.path.extend_from_slice(path);
    let length = length.map(|span| span.of(packet)).unwrap_or_default();
    out.body = match length {
        // A front end that passes a chunked body on without a length passes its framing too.
        b"" if chunked => BodyLength::Chunked,
        b"" => BodyLength::Absent,
        digits => BodyLength::Length(bytes::decimal(digits).ok_or(Refusal::new(400, "invalid CONTENT_LENGTH"))?),
    };
    Ok(())
}

/// What the client spoke to the front end. Our answer is HTTP/1.1 to all that is newer.
fn version(protocol: &[u8]) -> Version {
    match protocol {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] | [b'H', b'T', b'T', b'P', b'/', b'2'..=b'9', ..] => {
            Version::Http11
        }
        _ => Version::Http10,
    }
}
