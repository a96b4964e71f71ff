//! Takes a request body out of the bytes that arrive.
//!
//! The caller owns the buffers: it feeds what it has read and gets the body's bytes appended to its own
//! vector. Bytes that were not consumed belong to the next request.

use super::http::chunked::{Decoded, Decoder};
use super::request::{BodyLength, Refusal, TOO_LARGE};

/// What came of feeding bytes to a [`Reader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Bytes of the input that were used up.
    pub consumed: usize,
    /// Whether the body is whole.
    pub done: bool,
}

/// A body that is being received.
#[derive(Clone, Debug)]
pub struct Reader {
    state: State,
    /// How many body bytes may still come; a chunked body's decoder counts for itself.
    allowed: u64,
}

#[derive(Clone, Debug)]
enum State {
    Length(u64),
    Chunked(Box<Decoder>),
    /// Until the caller is told that it was all.
    Open,
    Done,
}

/// Whether a body of this length may be read at all, before any of it is.
///
/// # Errors
/// 413 when the stated length is above `limit`.
pub fn admit(length: BodyLength, limit: u64) -> Result<(), Refusal> {
    match length {
        BodyLength::Length(length) if length > limit => Err(TOO_LARGE),
        _ => Ok(()),
    }
}

impl Reader {
    /// A reader of a body framed as `length` that takes at most `limit` bytes (`u64::MAX`: no limit).
    pub fn new(length: BodyLength, limit: u64) -> Reader {
        let state = match length {
            BodyLength::Absent | BodyLength::Length(0) => State::Done,
            BodyLength::Length(length) => State::Length(length),
            BodyLength::Chunked => State::Chunked(Box::new(Decoder::limited(limit))),
            BodyLength::UntilEnd => State::Open,
        };
        Reader { state, allowed: limit }
    }

    /// Whether the body is whole; at once for a request without one.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// How many body bytes are still to come; not known for the chunked coding and for an open end.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Chunked(_) | State::Open => None,
            State::Done => Some(0),
        }
    }

    /// An open end has come (the protocol said so): the body is whole.
    pub fn end(&mut self) {
        if matches!(self.state, State::Open) {
            self.state = State::Done;
        }
    }

    /// Takes from `input` and appends the body's bytes to `out`.
    ///
    /// # Errors
    /// 400 when the chunked coding is broken, 413 when the body passes the limit.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Fed, Refusal> {
        self.feed_at_most(input, out, usize::MAX)
    }

    /// Like [`Reader::feed`], but appends no more than `max` bytes.
    ///
    /// # Errors
    /// As for [`Reader::feed`].
    pub fn feed_at_most(&mut self, input: &[u8], out: &mut Vec<u8>, max: usize) -> Result<Fed, Refusal> {
        match &mut self.state {
            State::Done => Ok(Fed { consumed: 0, done: true }),
            State::Length(left) => {
                if *left > self.allowed {
                    return Err(TOO_LARGE);
                }
                let taken = input.len().min(max).min(usize::try_from(*left).unwrap_or(usize::MAX));
                out.extend_from_slice(&input[..taken]);
                *left -= taken as u64;
                self.allowed -= taken as u64;
                let done = *left == 0;
                if done {
                    self.state = State::Done;
                }
                Ok(Fed { consumed: taken, done })
            }
            State::Open => {
                let taken = input.len().min(max);
                self.allowed = self.allowed.checked_sub(taken as u64).ok_or(TOO_LARGE)?;
                out.extend_from_slice(&input[..taken]);
                Ok(Fed { consumed: taken, done: false })
            }
            State::Chunked(decoder) => {
                let Decoded { consumed, done } = decoder.decode_at_most(input, out, max)?;
                if done {
                    self.state = State::Done;
                }
                Ok(Fed { consumed, done })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_body_is_done_at_once() {
        for length in [BodyLength::Absent, BodyLength::Length(0)] {
            let mut reader = Reader::new(length, 0);
            assert!(reader.is_done());
            assert_eq!(reader.remaining(), Some(0));
            let mut out = Vec::new();
            assert_eq!(reader.feed(b"GET /", &mut out), Ok(Fed { consumed: 0, done: true }));
            assert!(out.is_empty());
        }
    }

    #[test]
    fn a_length_takes_exactly_its_bytes() {
        let mut reader = Reader::new(BodyLength::Length(5), u64::MAX);
        let mut out = Vec::new();
        assert_eq!(reader.feed(b"hel", &mut out), Ok(Fed { consumed: 3, done: false }));
        assert_eq!(reader.remaining(), Some(2));
        assert_eq!(reader.feed(b"loGET /", &mut out), Ok(Fed { consumed: 2, done: true }));
        assert_eq!(out, b"hello");
        assert!(reader.is_done());
    }

    #[test]
    fn no_more_than_asked_for_is_taken() {
        let mut out = Vec::new();
        let mut reader = Reader::new(BodyLength::Length(5), u64::MAX);
        assert_eq!(reader.feed_at_most(b"hello", &mut out, 2), Ok(Fed { consumed: 2, done: false }));
        assert_eq!(reader.feed_at_most(b"llo", &mut out, 0), Ok(Fed { consumed: 0, done: false }));

        let mut out = Vec::new();
        let mut reader = Reader::new(BodyLength::Chunked, u64::MAX);
        let input = b"5\r\nhello\r\n0\r\n\r\nnext";
        let first = reader.feed_at_most(input, &mut out, 2).unwrap();
        assert_eq!((out.as_slice(), first.done), (&b"he"[..], false));
        let none = reader.feed_at_most(&input[first.consumed..], &mut out, 0).unwrap();
        assert_eq!(none, Fed { consumed: 0, done: false });
        let rest = reader.feed_at_most(&input[first.consumed..], &mut out, 3).unwrap();
        assert_eq!((out.as_slice(), rest.done), (&b"hello"[..], true));
        assert_eq!(first.consumed + rest.consumed, input.len() - 4);
    }

    #[test]
    fn rfc9110_15_5_14_above_the_limit_is_413() {
        let too_large = |result: Result<Fed, Refusal>| result.unwrap_err().status == 413;
        assert_eq!(admit(BodyLength::Length(11), 10), Err(TOO_LARGE));
        assert_eq!(admit(BodyLength::Length(10), 10), Ok(()));
        assert_eq!(admit(BodyLength::Chunked, 10), Ok(()));
        let mut out = Vec::new();
        assert!(too_large(Reader::new(BodyLength::Length(11), 10).feed(b"x", &mut out)));
        // Two chunks that are fine each, and a size that alone is too large.
        assert!(too_large(Reader::new(BodyLength::Chunked, 10).feed(b"6\r\nabcdef\r\n5\r\n", &mut out)));
        assert!(too_large(Reader::new(BodyLength::Chunked, 10).feed(b"b\r\n", &mut out)));
        assert!(too_large(Reader::new(BodyLength::Chunked, 10).feed(b"ffffffffffffffff\r\n", &mut out)));
    }
}
