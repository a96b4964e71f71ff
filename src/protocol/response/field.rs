//! The fields of an application: what is refused, what a field means for the framing, and fields that are checked once and
//! sent again and again.

use super::HeadError;
use crate::protocol::bytes;

/// A field of the application that is checked and rendered once and sent again and again.
#[derive(Debug)]
pub struct Prepared {
    pub(super) line: Box<[u8]>,
    pub(super) meaning: Meaning,
}

impl Prepared {
    /// Checks and renders a field; `None` for one that concerns the connection and so stands in no head.
    ///
    /// # Errors
    /// As for [`Head::field`].
    pub fn new(name: &[u8], value: &[u8]) -> Result<Option<Prepared>, HeadError> {
        let meaning = Meaning::of(name, value)?;
        if matches!(meaning, Meaning::Close | Meaning::Nothing | Meaning::HopByHop(_)) {
            return Ok(None);
        }
        let mut line = Vec::with_capacity(name.len() + value.len() + 4);
        push_field(&mut line, name, value);
        Ok(Some(Prepared { line: line.into_boxed_slice(), meaning }))
    }
}

/// What a field of the application means for the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Plain,
    Date,
    Status,
    Length(u64),
    /// `Connection: close`.
    Close,
    /// `Connection: keep-alive`: the server decides.
    Nothing,
    /// Belongs to the connection, which is the server's.
    HopByHop(&'static str),
}

impl Meaning {
    pub(super) fn of(name: &[u8], value: &[u8]) -> Result<Meaning, HeadError> {
        if !bytes::is_token(name) {
            return Err(HeadError::InvalidName);
        }
        if bytes::value_len(value) != value.len() {
            return Err(HeadError::InvalidValue);
        }
        Ok(match Known::of(name) {
            None => Meaning::Plain,
            Some(Known::Date) => Meaning::Date,
            Some(Known::Status) => Meaning::Status,
            Some(Known::HopByHop(name)) => Meaning::HopByHop(name),
            Some(Known::ContentLength) => {
                Meaning::Length(bytes::decimal(bytes::trim(value)).ok_or(HeadError::InvalidLength)?)
            }
            Some(Known::Connection) => {
                let is = |option: &[u8], word: &str| option.eq_ignore_ascii_case(word.as_bytes());
                if bytes::list(value).any(|option| is(option, "close")) {
                    Meaning::Close
                } else if bytes::list(value).all(|option| is(option, "keep-alive")) {
                    Meaning::Nothing
                } else {
                    Meaning::HopByHop("Connection")
                }
            }
        })
    }
}

/// A field name that means something for the framing.
enum Known {
    Connection,
    ContentLength,
    Date,
    Status,
    HopByHop(&'static str),
}

impl Known {
    /// Most names are told apart by their length alone.
    #[inline]
    fn of(name: &[u8]) -> Option<Known> {
        let is = |known: &'static str| name.eq_ignore_ascii_case(known.as_bytes());
        let hop = |known: &'static str| is(known).then_some(Known::HopByHop(known));
        match name.len() {
            2 => hop("TE"),
            4 if is("Date") => Some(Known::Date),
            6 if is("Status") => Some(Known::Status),
            7 => hop("Upgrade").or_else(|| hop("Trailer")),
            8 => hop("Trailers"),
            10 if is("Connection") => Some(Known::Connection),
            10 => hop("Keep-Alive"),
            14 if is("Content-Length") => Some(Known::ContentLength),
            16 => hop("Proxy-Connection"),
            17 => hop("Transfer-Encoding"),
            18 => hop("Proxy-Authenticate"),
            19 => hop("Proxy-Authorization"),
            _ => None,
        }
    }
}

/// `name: value`, CRLF.
pub(super) fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
