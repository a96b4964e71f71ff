//! CGI variables (RFC 3875 section 4.1), as uwsgi, FastCGI and SCGI carry them and as CGI programs have them in their environment:
//! from the variables to the `Request`.
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

/// Reads the environment of a CGI program; `head` becomes the bytes that the request's spans refer to.
///
/// SCRIPT_NAME is the program and PATH_INFO what stands behind it, also when it is not there (section 4.1.5). Without
/// CONTENT_LENGTH there is no body (section 4.2), but for a chunked one, which web servers that accept it decode.
///
/// # Errors
/// 400 for variables that no request has.
pub fn environment<'a>(
    variables: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    head: &mut Vec<u8>,
    out: &mut Request,
) -> Result<(), Refusal> {
    head.clear();
    let mut put = |text: &[u8]| {
        let start = head.len();
        head.extend_from_slice(text);
        Span::new(start, head.len())
    };
    let all: Vec<_> = variables.into_iter().map(|(name, value)| (put(name), put(value))).collect();
    let mut vars = Vars::begin(head.len(), out);
    for (name, value) in all {
        vars.take(head, name, value, out)?;
    }
    vars.path.get_or_insert_default();
    vars.caddy = false;
    vars.finish(head, out)?;
    if out.body == BodyLength::Chunked {
        out.body = BodyLength::UntilEnd;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<(Vec<u8>, Request), Refusal> {
        let (mut head, mut request) = (Vec::new(), Request::default());
        let bytes = variables.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        environment(bytes, &mut head, &mut request).map(|()| (head, request))
    }

    #[test]
    fn an_environment_is_a_request() {
        let (head, request) = read(&[
            ("PATH", "/bin"),
            ("REQUEST_METHOD", "POST"),
            ("SCRIPT_NAME", "/cgi-bin/app"),
            ("PATH_INFO", "/a b"),
            ("QUERY_STRING", "c=d"),
            ("CONTENT_LENGTH", "7"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("HTTP_PROXY", "http://evil/"),
        ])
        .unwrap();
        assert_eq!((request.method.of(&head), request.query.of(&head)), (&b"POST"[..], &b"c=d"[..]));
        assert_eq!(
            (&request.path[..], request.body, request.version),
            (&b"/a b"[..], BodyLength::Length(7), Version::Http11)
        );
        let names: Vec<_> = request.fields.iter().map(|field| field.name.of(&head)).collect();
        assert!(names.contains(&&b"SCRIPT_NAME"[..]) && names.contains(&&b"PATH"[..]));
        assert!(!names.contains(&&b"HTTP_PROXY"[..]), "httpoxy");
    }

    #[test]
    fn without_path_info_the_path_is_empty_whatever_else_is_there() {
        let more = [("DOCUMENT_URI", "/x"), ("REQUEST_URI", "/cgi-bin/app"), ("SERVER_SOFTWARE", "Caddy/2")];
        for path in [None, Some(("PATH_INFO", ""))] {
            let base = [("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", "/cgi-bin/app")];
            let all: Vec<_> = base.into_iter().chain(more).chain(path).collect();
            let (_, request) = read(&all).unwrap();
            assert_eq!((&request.path[..], request.path_derived, request.body), (&b""[..], false, BodyLength::Absent));
        }
    }

    #[test]
    fn what_no_request_has_is_refused() {
        let chunked = [("REQUEST_METHOD", "PUT"), ("CONTENT_LENGTH", ""), ("HTTP_TRANSFER_ENCODING", "chunked")];
        assert_eq!(read(&chunked).unwrap().1.body, BodyLength::UntilEnd);
        assert_eq!(read(&[("PATH_INFO", "/")]).unwrap_err().status, 400);
        assert_eq!(read(&[("REQUEST_METHOD", "GET"), ("CONTENT_LENGTH", "-1")]).unwrap_err().status, 400);
    }
}
