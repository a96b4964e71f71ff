//! Connections that move to another worker: a request would wait here while somebody there is idle, or this
//! worker retires. What moves is the descriptor and the bytes read so far; the receiver reads them again.

use std::fs::File;

use super::connection::Phase;
use crate::mailbox::MAX_LETTER;
use crate::protocol::Protocol;

/// How often one request may move before it stays where it is.
pub(super) const MAX_HOPS: u8 = 3;

/// A connection on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Letter<'a> {
    pub(super) protocol: Protocol,
    /// Moves since its last response.
    pub(super) hops: u8,
    pub(super) half_closed: bool,
    /// The header of the PROXY protocol is still to come; it may have begun in `bytes`.
    pub(super) awaits_preface: bool,
    /// The listener's address as text: after a reload its number may be another.
    pub(super) listener: &'a str,
    pub(super) peer_addr: &'a str,
    pub(super) peer_port: &'a str,
    /// What of the request's body is not among the bytes as the client sent it.
    pub(super) body: Carried,
    /// Bytes that the client sent and nobody has answered.
    pub(super) bytes: &'a [u8],
}

/// How the body of a complete request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// As the client sent it.
    AsSent,
    /// Decoded: so many bytes at the end of the letter.
    Decoded(u32),
    /// In a file that comes along, and so long.
    File(u64),
}

/// A letter, ready to be sent.
pub(super) struct Packed {
    pub(super) letter: Vec<u8>,
    /// The body, where it was not in a file and is too long for the letter.
    pub(super) spooled: Option<File>,
}

/// To whom a letter is promised that is not.
const NOBODY: i32 = 0;

impl Packed {
    /// Notes the process that waits for it. Another one may take it: mailboxes belong to numbers.
    pub(super) fn promise_to(&mut self, pid: i32) {
        self.letter[..4].copy_from_slice(&pid.to_le_bytes());
    }
}

/// The process that waits for a letter, if one does.
pub(super) fn promised_to(message: &[u8]) -> Option<i32> {
    let pid = i32::from_le_bytes(*message.first_chunk()?);
    (pid != NOBODY).then_some(pid)
}

impl<'a> Letter<'a> {
    /// The message; `None` when it is too long to be sent.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let texts = [self.listener, self.peer_addr, self.peer_port];
        let mut out = Vec::with_capacity(64 + self.bytes.len());
        out.extend_from_slice(&NOBODY.to_le_bytes());
        out.push(match self.protocol {
            Protocol::Http => b'h',
            Protocol::Uwsgi => b'u',
            Protocol::Scgi => b's',
            Protocol::FastCgi => b'f',
        });
        out.push(self.hops);
        out.push(u8::from(self.half_closed) | u8::from(self.awaits_preface) << 1);
        for text in texts {
            out.push(u8::try_from(text.len()).ok()?);
            out.extend_from_slice(text.as_bytes());
        }
        let (kind, len) = match self.body {
            Carried::AsSent => (0, 0),
            Carried::Decoded(len) => (1, u64::from(len)),
            Carried::File(len) => (2, len),
        };
        out.push(kind);
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(self.bytes);
        (out.len() <= MAX_LETTER).then_some(out)
    }

    /// Reads a message; `None` for one that this program does not send.
    pub(super) fn decode(message: &'a [u8]) -> Option<Letter<'a>> {
        let (_, message) = message.split_first_chunk::<4>()?;
        let (&[protocol, hops, flags], mut rest) = message.split_first_chunk::<3>()?;
        let mut texts = [""; 3];
        for text in &mut texts {
            let (&len, after) = rest.split_first()?;
            let (bytes, after) = after.split_at_checked(usize::from(len))?;
            *text = std::str::from_utf8(bytes).ok()?;
            rest = after;
        }
        let protocol = match protocol {
            b'h' => Protocol::Http,
            b'u' => Protocol::Uwsgi,
            b's' => Protocol::Scgi,
            b'f' => Protocol::FastCgi,
            _ => return None,
        };
        let [listener, peer_addr, peer_port] = texts;
        let (&[kind, ref len @ ..], bytes) = rest.split_first_chunk::<9>()?;
        let len = u64::from_le_bytes(*len);
        let body = match kind {
            0 => Carried::AsSent,
            1 if len <= bytes.len() as u64 => Carried::Decoded(len as u32),
            2 => Carried::File(len),
            _ => return None,
        };
        let (half_closed, awaits_preface) = (flags & 1 != 0, flags & 2 != 0);
        Some(Letter { protocol, hops, half_closed, awaits_preface, listener, peer_addr, peer_port, body, bytes })
    }
}

/// Whether a connection in this phase can move at all: nothing of a response is made, nothing of a body is stored.
pub(super) fn may_move(phase: Phase) -> bool {
    matches!(phase, Phase::Preface | Phase::Idle | Phase::Head | Phase::Application)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_survives_the_way() {
        let letter = Letter {
            protocol: Protocol::Http,
            hops: 2,
            half_closed: true,
            awaits_preface: true,
            listener: "127.0.0.1:80",
            peer_addr: "::1",
            peer_port: "4711",
            body: Carried::Decoded(3),
            bytes: b"GET / HTTP/1.1\r\n",
        };
        let message = letter.encode().unwrap();
        assert_eq!(Letter::decode(&message).as_ref(), Some(&letter));
        assert_eq!(promised_to(&message), None);
        let mut packed = Packed { letter: message.clone(), spooled: None };
        packed.promise_to(4711);
        assert_eq!((promised_to(&packed.letter), Letter::decode(&packed.letter)), (Some(4711), Some(letter)));
        let letter = Letter { body: Carried::File(1 << 40), ..letter };
        assert_eq!(Letter::decode(&letter.encode().unwrap()), Some(letter));
        for cut in 0..message.len() - b"GET / HTTP/1.1\r\n".len() {
            assert_eq!(Letter::decode(&message[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn what_is_too_long_stays() {
        let bytes = vec![0; MAX_LETTER];
        let letter = Letter {
            protocol: Protocol::Uwsgi,
            hops: 0,
            half_closed: false,
            awaits_preface: false,
            listener: "",
            peer_addr: "",
            peer_port: "",
            body: Carried::AsSent,
            bytes: &bytes,
        };
        assert_eq!(letter.encode(), None);
    }
}
