//! The uwsgi protocol: a four byte header, then a block of variables; the body follows raw. What the variables mean is
//! told in `cgi.rs`.

use super::cgi::Vars;
use super::http::head::Limits;
use super::request::{Refusal, Request, Span};

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
    let mut vars = Vars::begin(packet.len(), out);
    let mut at = HEADER;
    while at < packet.len() {
        let name = text(packet, at)?;
        let value = text(packet, name.end as usize)?;
        at = value.end as usize;
        vars.take(packet, name, value, out)?;
    }
    vars.finish(packet, out)
}
