//! Response heads and framing (RFC 9110 section 6, RFC 9112 sections 6, 7 and 9).
//!
//! An application fills a [`Head`] with its status and fields; [`Head::finish`] adds what makes a whole message of
//! them. Nothing reaches the wire unchecked: no field can carry a line end, and framing is ours alone
//! (an application's Connection, Transfer-Encoding and the like are dropped).

mod field;
mod reason;

use std::fmt;

use super::bytes;
use super::request::Version;
use super::{Protocol, Style};
use field::{Meaning, push_field};

pub use field::Prepared;
pub use reason::reason;

/// What every head begins with, until [`Head::finish`] knows better.
const STATUS_LINE: &[u8; 9] = b"HTTP/1.1 ";
/// A byte shorter: the head then begins at its second byte.
const STATUS_FIELD: &[u8; 8] = b"Status: ";

/// What a status or a field of an application is refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The status is not three digits, or three digits, a blank and a reason.
    InvalidStatus,
    /// 1xx and what is below: not for applications to send.
    InterimStatus,
    /// A field name that is not a token.
    InvalidName,
    /// A control byte in a field value.
    InvalidValue,
    /// A Content-Length that is no decimal number.
    InvalidLength,
    /// Two Content-Length fields that differ.
    TwoLengths,
}

impl HeadError {
    /// What is wrong, for the application's traceback.
    pub fn message(self) -> &'static str {
        match self {
            HeadError::InvalidStatus => "status must be three digits, a blank and a reason without control characters",
            HeadError::InterimStatus => "status must be 200 or above",
            HeadError::InvalidName => "header name must be a token",
            HeadError::InvalidValue => "header value must not hold control characters",
            HeadError::InvalidLength => "Content-Length must be a decimal number",
            HeadError::TwoLengths => "two different Content-Length headers",
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for HeadError {}

/// What the framing of a response depends on, beside its head.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// HTTP version of the request.
    pub version: Version,
    /// Whether the method is HEAD.
    pub head_request: bool,
    /// What the connection speaks.
    pub protocol: Protocol,
    /// Whether both the request and the server let the connection go on.
    pub keep_alive: bool,
    /// Length of the body where it is known before the first byte is sent.
    pub total: Option<u64>,
    /// The time for the Date field: 29 bytes, IMF-fixdate.
    pub date: &'a [u8],
}

/// How the body goes onto the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// There is none (HEAD, 204, 205, 304): bytes of the application are discarded.
    Nothing,
    /// Exactly so many bytes; what the application has beyond them is not sent.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// It ends where the connection ends, or over FastCGI the request.
    UntilClose,
}

/// How a response is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// The body.
    pub body: BodyFraming,
    /// Whether the connection takes another request afterwards.
    pub keep_alive: bool,
}

/// A response head under construction, used again and again.
#[derive(Debug, Default)]
pub struct Head {
    bytes: Vec<u8>,
    /// Where the head begins in `bytes`.
    start: usize,
    status: u16,
    fields: u32,
    length: Option<Length>,
    has_date: bool,
    has_status: bool,
    close: bool,
    dropped: Option<&'static str>,
}

/// The beginning of a head (its status line), or all that an application gives of it, checked and rendered once.
#[derive(Debug)]
pub struct PreparedHead {
    bytes: Box<[u8]>,
    /// Everything else.
    rest: Head,
}

/// The application's Content-Length.
#[derive(Clone, Copy, Debug)]
struct Length {
    value: u64,
    /// Where its line stands in the head: 204 and 205 must not carry it.
    start: usize,
    end: usize,
}

impl Head {
    /// An empty head.
    pub fn new() -> Head {
        Head::default()
    }

    /// Empties the head, keeping its allocation.
    pub fn clear(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        *self = Head { bytes, ..Head::default() };
    }

    /// Whether there is a status.
    pub fn is_started(&self) -> bool {
        self.status != 0
    }

    /// Begins the head, dropping what it held. `status` is `200 OK`, or `200` for the standard reason.
    ///
    /// # Errors
    /// When `status` has another form or a control byte, or is below 200.
    pub fn start(&mut self, status: &[u8]) -> Result<(), HeadError> {
        self.clear();
        let (code, rest) = status.split_first_chunk::<3>().ok_or(HeadError::InvalidStatus)?;
        let code = match bytes::decimal(code) {
            Some(code) if code >= 200 => code as u16,
            Some(100..=199) => return Err(HeadError::InterimStatus),
            _ => return Err(HeadError::InvalidStatus),
        };
        let reason = match rest {
            [] => reason(code).as_bytes(),
            [b' ', reason @ ..] if bytes::value_len(reason) == reason.len() => reason,
            _ => return Err(HeadError::InvalidStatus),
        };
        self.bytes.extend_from_slice(STATUS_LINE);
        self.bytes.extend_from_slice(&status[..3]);
        self.bytes.push(b' ');
        self.bytes.extend_from_slice(reason);
        self.bytes.extend_from_slice(b"\r\n");
        self.status = code;
        Ok(())
    }

    /// Adds a field of the application. Hop-by-hop fields are dropped.
    ///
    /// # Errors
    /// When the name is no token, the value holds a control byte other than tab, or a Content-Length is
    /// no number or not the one given before.
    pub fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        match Meaning::of(name, value)? {
            Meaning::Close => self.close = true,
            Meaning::Nothing => {}
            Meaning::HopByHop(name) => {
                self.dropped.get_or_insert(name);
            }
            Meaning::Length(value) => self.add_length(value)?,
            meaning => {
                self.has_date |= meaning == Meaning::Date;
                self.has_status |= meaning == Meaning::Status;
                push_field(&mut self.bytes, name, value);
                self.fields += 1;
            }
        }
        Ok(())
    }

    /// Adds a field that was checked before.
    ///
    /// # Errors
    /// A Content-Length that is not the one given before.
    #[inline]
    pub fn add_prepared(&mut self, field: &Prepared) -> Result<(), HeadError> {
        if let Meaning::Length(value) = field.meaning {
            return self.add_length(value);
        }
        self.has_date |= field.meaning == Meaning::Date;
        self.has_status |= field.meaning == Meaning::Status;
        self.add(&field.line);
        Ok(())
    }

    /// Begins the head with what was checked before.
    #[inline]
    pub fn start_prepared(&mut self, prepared: &PreparedHead) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&prepared.bytes);
        let bytes = std::mem::take(&mut self.bytes);
        *self = Head { bytes, ..prepared.rest };
    }

    /// The head as it stands, to be used again; `None` when a field of it concerns the connection.
    ///
    /// To be called before [`Head::finish`].
    pub fn prepare(&self) -> Option<PreparedHead> {
        let nothing = !self.close && self.dropped.is_none();
        let rest = Head { bytes: Vec::new(), ..*self };
        nothing.then(|| PreparedHead { bytes: self.bytes.clone().into_boxed_slice(), rest })
    }

    fn add_length(&mut self, value: u64) -> Result<(), HeadError> {
        if let Some(first) = self.length {
            return if first.value == value { Ok(()) } else { Err(HeadError::TwoLengths) };
        }
        let start = self.bytes.len();
        push_number_field(&mut self.bytes, b"Content-Length: ", value);
        self.length = Some(Length { value, start, end: self.bytes.len() });
        self.fields += 1;
        Ok(())
    }

    /// The status code, 0 before [`Head::start`].
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How many fields stand in the head.
    pub fn fields(&self) -> u32 {
        self.fields
    }

    /// The Content-Length that the application gave.
    pub fn content_length(&self) -> Option<u64> {
        self.length.map(|length| length.value)
    }

    /// Whether the application asked for the end of the connection.
    pub fn wants_close(&self) -> bool {
        self.close
    }

    /// The first hop-by-hop field that was dropped, for one warning.
    pub fn dropped(&self) -> Option<&'static str> {
        self.dropped
    }

    /// The head as it stands; whole after [`Head::finish`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The finished head with a small body behind it, to be written with one plain system call.
    pub fn with_body(&mut self, body: &[u8]) -> &[u8] {
        self.bytes.extend_from_slice(body);
        self.bytes()
    }

    /// Decides the framing, and adds its fields and the blank line.
    pub fn finish(&mut self, facts: &Facts<'_>) -> Framing {
        let http = facts.protocol == Protocol::Http;
        if facts.protocol.style() == Style::StatusField
            && let Some(status) = self.bytes.get_mut(1..STATUS_LINE.len())
        {
            status.copy_from_slice(STATUS_FIELD);
            self.start = 1;
            if self.has_status {
                self.drop_status_fields();
            }
        }
        let bodiless = facts.head_request || matches!(self.status, 204 | 205 | 304);
        let mut keep_alive = http && facts.keep_alive && !self.close;
        let body = if bodiless {
            self.finish_bodiless(facts);
            BodyFraming::Nothing
        } else if let Some(length) = self.length {
            BodyFraming::Length(length.value)
        } else if let Some(total) = facts.total {
            self.add_number(b"Content-Length: ", total);
            BodyFraming::Length(total)
        } else if http && facts.version == Version::Http11 {
            self.add(b"Transfer-Encoding: chunked\r\n");
            BodyFraming::Chunked
        } else {
            keep_alive = false;
            BodyFraming::UntilClose
        };
        if http {
            // RFC 9110 section 6.6.1: an origin server with a clock sends Date.
            if !self.has_date {
                self.bytes.extend_from_slice(b"Date: ");
                self.bytes.extend_from_slice(facts.date);
                self.add(b"\r\n");
            }
            if !keep_alive {
                self.add(b"Connection: close\r\n");
            } else if facts.version == Version::Http10 {
                self.add(b"Connection: keep-alive\r\n");
            }
        }
        self.bytes.extend_from_slice(b"\r\n");
        Framing { body, keep_alive }
    }

    /// A head without a body: RFC 9110 section 8.6 forbids Content-Length with 204; with HEAD and 304 it
    /// tells what GET would give, so a length of 0 that only means "nothing came" is not stated. 205 has no content either
    /// (section 15.3.6), but clients look for its end as for that of any other response.
    fn finish_bodiless(&mut self, facts: &Facts<'_>) {
        if let (204 | 205, Some(length)) = (self.status, self.length) {
            self.bytes.drain(length.start..length.end);
            self.fields -= 1;
        }
        match (self.status, self.length, facts.total) {
            (205, ..) => self.add_number(b"Content-Length: ", 0),
            (204 | 304, ..) | (_, Some(_), _) => {}
            (_, None, Some(total)) if total > 0 => self.add_number(b"Content-Length: ", total),
            _ => {}
        }
    }

    /// Where the status is a field, one of the application's would be a second status (RFC 3875 section 6.3: each field once).
    fn drop_status_fields(&mut self) {
        let mut at = memchr::memmem::find(&self.bytes, b"\r\n").map_or(self.bytes.len(), |end| end + 2);
        while at < self.bytes.len() {
            let end = memchr::memmem::find(&self.bytes[at..], b"\r\n").map_or(self.bytes.len(), |len| at + len + 2);
            if !self.bytes[at..end].get(..7).is_some_and(|name| name.eq_ignore_ascii_case(b"status:")) {
                at = end;
                continue;
            }
            self.bytes.drain(at..end);
            self.fields -= 1;
            self.dropped.get_or_insert("Status");
            if let Some(length) = self.length.as_mut().filter(|length| length.start >= end) {
                length.start -= end - at;
                length.end -= end - at;
            }
        }
    }

    fn add(&mut self, line: &[u8]) {
        self.bytes.extend_from_slice(line);
        self.fields += 1;
    }

    fn add_number(&mut self, name: &[u8], value: u64) {
        push_number_field(&mut self.bytes, name, value);
        self.fields += 1;
    }
}

/// `name`, `value`, CRLF.
fn push_number_field(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    push_decimal(out, value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal.
fn push_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// What stands behind the data of each chunk.
pub const CHUNK_SUFFIX: &[u8] = b"\r\n";

/// The chunk that ends a chunked body, and an empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The interim response that lets a client send its body.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Appends the size line of a chunk of `len` bytes. There is no chunk of 0 bytes: it would end the body.
pub fn chunk_prefix(len: usize, out: &mut Vec<u8>) {
    debug_assert!(len > 0, "a chunk of 0 bytes ends the body");
    let digits = (usize::BITS - (len | 1).leading_zeros()).div_ceil(4);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[len >> (place * 4) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a whole response of our own: the reason as plain text.
pub fn plain_error(status: u16, facts: &Facts<'_>, out: &mut Vec<u8>) {
    let text = reason(status);
    out.extend_from_slice(match facts.protocol.style() {
        Style::StatusLine => STATUS_LINE,
        Style::StatusField => STATUS_FIELD,
    });
    push_decimal(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\nContent-Type: text/plain\r\n");
    push_number_field(out, b"Content-Length: ", text.len() as u64 + 1);
    if facts.protocol == Protocol::Http {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(facts.date);
        out.extend_from_slice(match (facts.keep_alive, facts.version) {
            (false, _) => b"\r\nConnection: close\r\n",
            (true, Version::Http10) => b"\r\nConnection: keep-alive\r\n",
            (true, Version::Http11) => &b"\r\n"[..],
        });
    }
    out.extend_from_slice(b"\r\n");
    if !facts.head_request {
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests;
