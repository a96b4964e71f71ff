//! CGI variables (RFC 3875 section 4.1), as uwsgi, FastCGI and SCGI carry them: from the variables to the `Request`.
//!
//! Variables are data. Those that make uWSGI load code or change its process (UWSGI_SCRIPT, UWSGI_MODULE,
//! UWSGI_SETENV, ...) have no meaning here: whoever reaches the socket would run what they like.
//!
//! **The path.** Parameter files differ: what nginx ships for FastCGI and SCGI sends the whole path as SCRIPT_NAME and no
//! PATH_INFO, since it was written for scripts in files. Without PATH_INFO the path is DOCUMENT_URI (decoded, and with the
//! front end's rewrites, just what nginx's file for uwsgi sends as PATH_INFO), else the decoded path of REQUEST_URI; SCRIPT_NAME
//! then says nothing and is left out. What part of that path is a mount point is for the application side to
//! find; [`Request::path_derived`] asks for it.

use super::bytes;
use super::path;
use super::request::{BodyLength, Field, Refusal, Request, Span, Version};

/// What the variables of one request have said so far.
#[derive(Debug, Default)]
pub(super) struct Vars {
    length: Option<Span>,
    chunked: bool,
    path: Option<Span>,
    document_uri: Span,
    caddy: bool,
}

impl Vars {
    /// Begins a request whose variables stand in the first `head_len` bytes.
    pub(super) fn begin(head_len: usize, out: &mut Request) -> Vars {
        out.clear();
        out.cgi = true;
        out.version = Version::Http10;
        out.head_len = head_len;
        Vars::default()
    }

    /// Takes one variable.
    #[inline]
    pub(super) fn take(&mut self, head: &[u8], name: Span, value: Span, out: &mut Request) -> Result<(), Refusal> {
        match name.of(head) {
            b"" => return Err(Refusal::new(400, "empty variable name")),
            b"REQUEST_METHOD" => out.method = value,
            b"REQUEST_URI" => out.target = value,
            b"QUERY_STRING" => out.query = value,
            b"PATH_INFO" => self.path = Some(value),
            b"DOCUMENT_URI" => self.document_uri = value,
            b"HTTP_HOST" => out.host = Some(value),
            b"SERVER_PROTOCOL" => out.version = version(value.of(head)),
            b"SERVER_SOFTWARE" => self.caddy = value.of(head).starts_with(b"Caddy"),
            b"CONTENT_LENGTH" => {
                if let Some(first) = self.length {
                    if first.of(head) != value.of(head) {
                        return Err(Refusal::new(400, "two different CONTENT_LENGTH"));
                    }
                    return Ok(());
                }
                self.length = Some(value);
            }
            b"HTTP_TRANSFER_ENCODING" => self.chunked = value.of(head).eq_ignore_ascii_case(b"chunked"),
            // What a client can set by a field of that name, beside the real variable; and "httpoxy".
            b"HTTP_CONTENT_LENGTH" | b"HTTP_CONTENT_TYPE" | b"HTTP_PROXY" => return Ok(()),
            _ => {}
        }
        out.fields.push(Field { name, value });
        Ok(())
    }

    /// All variables are there: judges what they say together.
    pub(super) fn finish(self, head: &[u8], out: &mut Request) -> Result<(), Refusal> {
        if !bytes::is_token(out.method.of(head)) {
            return Err(Refusal::new(400, "no valid REQUEST_METHOD"));
        }
        match self.path {
            // Caddy's FastCGI always sends PATH_INFO, empty unless it was told where scripts end.
            Some(path) if !(path.is_empty() && self.caddy) => out.path.extend_from_slice(path.of(head)),
            _ => self.derive_path(head, out)?,
        }
        if memchr::memchr(0, &out.path).is_some() {
            return Err(Refusal::new(400, "NUL byte in the path"));
        }
        let length = self.length.map(|span| span.of(head)).unwrap_or_default();
        out.body = match length {
            // Caddy's word for a chunked body, which FastCGI carries without its framing.
            b"-1" if self.caddy => {
                out.fields.retain(|field| field.name.of(head) != b"CONTENT_LENGTH");
                BodyLength::Absent
            }
            // A front end that passes a chunked body on without a length passes its framing too.
            b"" if self.chunked => BodyLength::Chunked,
            b"" => BodyLength::Absent,
            digits => BodyLength::Length(bytes::decimal(digits).ok_or(Refusal::new(400, "invalid CONTENT_LENGTH"))?),
        };
        Ok(())
    }

    /// The path of a front end that sends no PATH_INFO.
    fn derive_path(&self, head: &[u8], out: &mut Request) -> Result<(), Refusal> {
        if !self.document_uri.is_empty() {
            out.path.extend_from_slice(self.document_uri.of(head));
        } else if !out.target.is_empty() {
            path::normalise(path_of_target(out.target.of(head)), &mut out.path)?;
            if out.path.is_empty() {
                out.path.push(b'/');
            }
        } else {
            return Ok(());
        }
        out.path_derived = true;
        out.fields.retain(|field| !matches!(field.name.of(head), b"SCRIPT_NAME" | b"PATH_INFO"));
        Ok(())
    }
}

/// The path in a REQUEST_URI; some front ends pass absolute-form targets on as they are.
fn path_of_target(target: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    let target = &target[..end];
    if target.starts_with(b"/") {
        return target;
    }
    match memchr::memmem::find(target, b"://") {
        Some(at) => {
            let rest = &target[at + 3..];
            &rest[memchr::memchr(b'/', rest).unwrap_or(rest.len())..]
        }
        None => target,
    }
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
