//! Bytes in, values out: the parsers of all protocols and the framing of responses.
//!
//! Pure by rule: no I/O, no clock, no log, no Python, nothing of the project outside this folder and
//! no crate but memchr, so that everything here can be fuzzed whole, byte by byte and at every split.
//! A parser answers Complete, Partial or an error with the HTTP status that fits; it neither logs
//! nor answers.

pub mod body;
mod bytes;
pub mod cgi;
// It reads files, so it does not stand in this folder.
#[cfg(test)]
#[path = "../../tests/corpus/run.rs"]
mod corpus;
pub mod fastcgi;
pub mod forwarded;
pub mod http;
pub mod path;
pub mod proxy;
pub mod request;
pub mod response;
pub mod scgi;
pub mod uwsgi;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 and 1.0 (RFC 9112).
    Http,
    /// The uwsgi protocol, a four byte header and a block of variables.
    Uwsgi,
    /// FastCGI 1.0: records of several requests on one connection.
    FastCgi,
    /// SCGI: a netstring of variables.
    Scgi,
}

/// How a response begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `HTTP/1.1 200 OK`.
    StatusLine,
    /// `Status: 200 OK`, as from a CGI program (RFC 3875 section 6.3.3).
    StatusField,
}

impl Protocol {
    /// The name in configuration and logs.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Uwsgi => "uwsgi",
            Protocol::FastCgi => "fastcgi",
            Protocol::Scgi => "scgi",
        }
    }

    /// How responses begin.
    pub fn style(self) -> Style {
        match self {
            Protocol::Http | Protocol::Uwsgi => Style::StatusLine,
            Protocol::FastCgi | Protocol::Scgi => Style::StatusField,
        }
    }
}
