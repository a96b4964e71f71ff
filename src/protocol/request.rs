//! A parsed request head, the same value for every protocol.
//!
//! It holds byte ranges into the head, not copies, so that parsing allocates nothing once its
//! vectors have grown. Whoever holds a `Request` also holds the bytes it was parsed from.

/// A byte range of the buffer the head was parsed from, end exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset behind the last byte.
    pub end: u32,
}

impl Span {
    /// The range `start..end`.
    pub fn new(start: usize, end: usize) -> Span {
        Span { start: start as u32, end: end as u32 }
    }

    /// The bytes of this range.
    #[inline]
    pub fn of(self, head: &[u8]) -> &[u8] {
        &head[self.start as usize..self.end as usize]
    }

    /// Whether the range holds no byte.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// One header field (HTTP) or one CGI variable (uwsgi and its relatives).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name as sent: `Content-Type` over HTTP, `HTTP_HOST` over uwsgi.
    pub name: Span,
    /// Value without surrounding white space.
    pub value: Span,
}

/// How much body follows the head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyLength {
    /// Neither a length nor a transfer coding was given: no body.
    #[default]
    Absent,
    /// Exactly this many bytes (may be 0).
    Length(u64),
    /// The chunked transfer coding (RFC 9112 section 7.1).
    Chunked,
    /// As many bytes as come until the protocol says that it was all (FastCGI's STDIN, without CONTENT_LENGTH).
    UntilEnd,
}

/// HTTP version of the request; over uwsgi, what SERVER_PROTOCOL says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0, and everything older or unknown from a front end.
    Http10,
    /// HTTP/1.1 and later minor versions.
    #[default]
    Http11,
}

impl Version {
    /// `HTTP/1.0` or `HTTP/1.1`.
    pub fn name(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        }
    }
}

/// A complete request head. The parser clears and fills a value that is used again and again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Whether `fields` holds CGI variables (uwsgi, FastCGI, SCGI) and not header fields (HTTP).
    pub cgi: bool,
    /// Bytes of the head, blank line included; the body begins here.
    pub head_len: usize,
    /// Request method, any token.
    pub method: Span,
    /// The request target as sent (REQUEST_URI).
    pub target: Span,
    /// The query without its `?`, raw; empty when there is none.
    pub query: Span,
    /// PATH_INFO: percent-decoded once, dot segments collapsed (HTTP); as sent (uwsgi and its relatives).
    pub path: Vec<u8>,
    /// The front end sent no PATH_INFO: `path` is the whole path of the target, of which a mount point may have to be
    /// taken off. Its SCRIPT_NAME then means nothing and is not among the fields.
    pub path_derived: bool,
    /// The host of the request: the authority of an absolute-form target, else the Host field.
    pub host: Option<Span>,
    /// HTTP version.
    pub version: Version,
    /// Header fields or variables, in the order sent. Over HTTP without `Proxy` and without names that
    /// hold `_` (they would collide with `-` in environ), and with the value of Host taken from an
    /// absolute-form target; CGI variables without HTTP_PROXY, HTTP_CONTENT_TYPE and HTTP_CONTENT_LENGTH.
    pub fields: Vec<Field>,
    /// What follows the head.
    pub body: BodyLength,
    /// Whether the client lets the connection go on after this request.
    pub keep_alive: bool,
    /// `Expect: 100-continue` was sent by an HTTP/1.1 client that has a body to send.
    pub expect_continue: bool,
    /// uwsgi modifier1 (0 for all else): 30 asks to take SCRIPT_NAME off PATH_INFO.
    pub modifier1: u8,
}

impl Request {
    /// Empties the value, keeping its allocations.
    pub fn clear(&mut self) {
        let mut path = std::mem::take(&mut self.path);
        let mut fields = std::mem::take(&mut self.fields);
        path.clear();
        fields.clear();
        *self = Request { path, fields, ..Request::default() };
    }

    /// Whether the method is HEAD, whose response has no body.
    pub fn is_head(&self, head: &[u8]) -> bool {
        self.method.of(head) == b"HEAD"
    }
}

/// Why a head or a body cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status to answer with: 400, 413, 414, 417, 431, 501 or 505.
    pub status: u16,
    /// What was wrong, for the log; a fixed text, never the client's bytes.
    pub reason: &'static str,
}

impl Refusal {
    /// A refusal with `status` because of `reason`.
    pub const fn new(status: u16, reason: &'static str) -> Refusal {
        Refusal { status, reason }
    }
}

/// A body that is longer than it may be.
pub(super) const TOO_LARGE: Refusal = Refusal::new(413, "body over the limit");

/// What a head parser says of the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The head is whole and stands in the `Request`.
    Complete,
    /// More bytes are needed.
    Partial,
    /// The head can't be accepted.
    Refused(Refusal),
}
