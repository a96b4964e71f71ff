//! The access log: one line for each request, rendered from values.
//!
//! The default line is byte for byte uWSGI's, and `log-format` knows the same variables. What comes from a
//! client or a front end is escaped as nginx does it (`\xNN` for quotes, backslashes and everything that
//! is not printable ASCII), so that nobody forges a line, a field or a terminal sequence.
//! Pure: time, memory and counters come in with the [`Record`]. Writing is done elsewhere.

mod format;
mod time;

use std::io::Write;

use jiff::tz::TimeZone;

use super::json;
use crate::config::logs::{Also, Logs};
use crate::gateway::{Local, Peer, Told};
use crate::protocol::request::{BodyLength, Request};

use time::offset_with_colon;

pub use format::{Format, Known, Part};

/// What is known of a request when its response is finished.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The request.
    pub request: &'a Request,
    /// The bytes its spans refer to.
    pub head: &'a [u8],
    /// The client, over HTTP.
    pub peer: &'a Peer,
    /// What trusted proxies say of the request.
    pub told: Option<&'a Told>,
    /// The listener.
    pub local: &'a Local,
    /// Status of the response, 499 when the client left before it.
    pub status: u16,
    /// Bytes of the response body.
    pub body_bytes: u64,
    /// Bytes of the response head.
    pub head_bytes: u64,
    /// Fields of the response head.
    pub headers: u32,
    /// When the request began, in microseconds since the epoch.
    pub started: u64,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// The time zone of the log.
    pub zone: &'a TimeZone,
    /// Process id of the worker.
    pub pid: u32,
    /// Number of the worker, from 1.
    pub worker: u32,
    /// Number of the app thread, from 0.
    pub core: u32,
    /// Number of the application, -1 when none ran.
    pub app: i32,
    /// Requests that this application has had in this worker, this one included.
    pub app_requests: u64,
    /// Requests that this worker has had, this one included.
    pub total_requests: u64,
    /// Pieces that the application gave.
    pub switches: u32,
    /// How the body was sent when not by plain writes: `sendfile`, `offload`, `route`.
    pub via: Option<&'static str>,
    /// Address space of the worker in bytes, 0 without `memory-report`.
    pub vsz: u64,
    /// Resident memory of the worker in bytes, 0 without `memory-report`.
    pub rss: u64,
    /// Failed writes to the client.
    pub write_errors: u32,
    /// Failed reads from the client.
    pub read_errors: u32,
    /// `log-x-forwarded-for`: that field tells the client, where there is one.
    pub forwarded: bool,
}

/// Which requests have a line, and how it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// How it looks.
    pub format: Format,
    /// All of them, unless `disable-logging` is set.
    all: bool,
    also: Also,
    /// See [`Record::forwarded`].
    pub forwarded: bool,
    /// `memory-report`: the worker's memory is looked at for each line.
    pub memory: bool,
}

impl Access {
    /// As configured; none when no request has a line. The format was checked when the configuration was read.
    pub fn new(all: bool, format: Option<&str>, logs: &Logs) -> Option<Access> {
        if !all && logs.also.is_none() {
            return None;
        }
        let mut parsed = match format {
            Some(text) => Format::parse(text).unwrap_or_default(),
            None => Format::Line { micros: logs.micros, memory: logs.memory },
        };
        if let (Format::Template(parts), true, Some(date)) = (&mut parsed, logs.date_in_format, &logs.date) {
            let date = if date.is_empty() { "%a %b %e %H:%M:%S %Y" } else { date };
            for part in parts.iter_mut().filter(|part| **part == Part::Known(Known::FormattedTime)) {
                *part = Part::Date(date.to_owned());
            }
        }
        let (also, forwarded, memory) = (logs.also.clone(), logs.forwarded, logs.memory);
        Some(Access { format: parsed, all, also, forwarded, memory })
    }

    /// Whether a request has a line.
    pub fn wants(&self, status: u16, body_bytes: u64, micros: u64, via: Option<&str>, io_errors: bool) -> bool {
        let also = &self.also;
        self.all
            || also.refused && (400..500).contains(&status)
            || also.failed && (500..600).contains(&status)
            || also.empty && body_bytes == 0
            || also.files && via == Some(SENDFILE)
            || also.errors && io_errors
            || also.slow.is_some_and(|slow| u128::from(micros / 1000) >= slow.as_millis())
            || also.big.is_some_and(|big| body_bytes >= big)
    }
}

/// [`Record::via`] of a response that `wsgi.file_wrapper` made of a file.
pub const SENDFILE: &str = "sendfile";

/// A variable's value: bytes of the request, or text of ours.
type Value<'a> = Option<&'a [u8]>;

impl<'a> Record<'a> {
    /// uWSGI's request line.
    fn line(&self, micros: bool, memory: bool, out: &mut Vec<u8>) {
        if memory {
            out.extend_from_slice(b"{address space usage: ");
            number(self.vsz, out);
            out.extend_from_slice(b" bytes/");
            number(self.vsz >> 20, out);
            out.extend_from_slice(b"MB} {rss usage: ");
            number(self.rss, out);
            out.extend_from_slice(b" bytes/");
            number(self.rss >> 20, out);
            out.extend_from_slice(b"MB} ");
        }
        let (vars, packet) = self.vars();
        out.extend_from_slice(b"[pid: ");
        number(self.pid, out);
        out.extend_from_slice(b"|app: ");
        number(self.app, out);
        out.extend_from_slice(b"|req: ");
        if self.app < 0 {
            out.extend_from_slice(b"-1");
        } else {
            number(self.app_requests, out);
        }
        out.push(b'/');
        number(self.total_requests, out);
        out.extend_from_slice(b"] ");
        escaped(self.client(), out);
        out.extend_from_slice(b" (");
        escaped(self.var("REMOTE_USER").unwrap_or_default(), out);
        out.extend_from_slice(b") {");
        number(vars, out);
        out.extend_from_slice(b" vars in ");
        number(packet, out);
        out.extend_from_slice(b" bytes} [");
        self.ctime(out);
        out.extend_from_slice(b"] ");
        escaped(self.request.method.of(self.head), out);
        out.push(b' ');
        escaped(self.request.target.of(self.head), out);
        out.extend_from_slice(b" => generated ");
        number(self.body_bytes, out);
        out.extend_from_slice(b" bytes in ");
        if micros {
            number(self.micros, out);
            out.extend_from_slice(b" micros");
        } else {
            number(self.micros / 1000, out);
            out.extend_from_slice(b" msecs");
        }
        if let Some(via) = self.via {
            out.extend_from_slice(b" via ");
            out.extend_from_slice(via.as_bytes());
            out.extend_from_slice(b"()");
        }
        out.extend_from_slice(b" (");
        escaped(self.var("SERVER_PROTOCOL").unwrap_or_default(), out);
        out.push(b' ');
        number(self.status, out);
        out.extend_from_slice(b") ");
        number(self.headers, out);
        out.extend_from_slice(b" headers in ");
        number(self.head_bytes, out);
        out.extend_from_slice(b" bytes (");
        number(self.switches, out);
        out.extend_from_slice(b" switches on core ");
        number(self.core, out);
        out.extend_from_slice(b")\n");
    }

    /// One JSON object.
    fn json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        let (time, offset) = self.local_time();
        // Writing to a vector cannot fail.
        let _ = write!(out, "{time}.{:06}", self.started % 1_000_000);
        offset_with_colon(offset, out);
        out.push(b'"');
        let text = |name: &str, value: Value<'_>, out: &mut Vec<u8>| {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                json::text(name, value, out);
            }
        };
        json::text("kind", b"request", out);
        json::number("pid", self.pid, out);
        json::number("worker", self.worker, out);
        json::number("core", self.core, out);
        json::text("addr", self.client(), out);
        text("user", self.var("REMOTE_USER"), out);
        json::text("method", self.request.method.of(self.head), out);
        json::text("uri", self.request.target.of(self.head), out);
        text("protocol", self.var("SERVER_PROTOCOL"), out);
        text("host", self.var("HTTP_HOST"), out);
        text("referer", self.var("HTTP_REFERER"), out);
        text("user_agent", self.var("HTTP_USER_AGENT"), out);
        if let BodyLength::Length(length) = self.request.body {
            json::number("request_bytes", length, out);
        }
        json::number("status", self.status, out);
        json::number("bytes", self.body_bytes, out);
        json::number("head_bytes", self.head_bytes, out);
        json::number("micros", self.micros, out);
        if self.vsz > 0 {
            json::number("vsz", self.vsz, out);
            json::number("rss", self.rss, out);
        }
        out.extend_from_slice(b"}\n");
    }

    /// The client's address as it is to be told.
    fn client(&self) -> &'a [u8] {
        if self.forwarded
            && let Some(given) = self.var("HTTP_X_FORWARDED_FOR").filter(|given| !given.is_empty())
        {
            return given;
        }
        self.var("REMOTE_ADDR").unwrap_or_default()
    }

    /// Appends one variable of `log-format`.
    fn known(&self, known: Known, out: &mut Vec<u8>) {
        match known {
            Known::Uri => text_or_dash(Some(self.request.target.of(self.head)), out),
            Known::Method => text_or_dash(Some(self.request.method.of(self.head)), out),
            Known::User => text_or_dash(self.var("REMOTE_USER"), out),
            Known::Addr => text_or_dash(Some(self.client()), out),
            Known::Host => text_or_dash(self.var("HTTP_HOST"), out),
            Known::Proto => text_or_dash(self.var("SERVER_PROTOCOL"), out),
            Known::UserAgent => text_or_dash(self.var("HTTP_USER_AGENT"), out),
            Known::Referer => text_or_dash(self.var("HTTP_REFERER"), out),
            Known::Status => number(self.status, out),
            Known::BodySize => number(self.body_bytes, out),
            Known::HeadSize => number(self.head_bytes, out),
            Known::Size => number(self.head_bytes + self.body_bytes, out),
            Known::ContentLength => number(if let BodyLength::Length(n) = self.request.body { n } else { 0 }, out),
            Known::Micros => number(self.micros, out),
            Known::Millis => number(self.micros / 1000, out),
            Known::Seconds => {
                number(self.micros / 1_000_000, out);
                out.push(b'.');
                padded(self.micros % 1_000_000, 6, out);
            }
            Known::Time => number(self.started / 1_000_000, out),
            Known::TimeMillis => number(self.started / 1000, out),
            Known::TimeMicros => number(self.started, out),
            Known::LogTime | Known::FormattedTime => self.log_time(out),
            Known::CTime => self.ctime(out),
            Known::Epoch => number((self.started + self.micros) / 1_000_000, out),
            Known::Pid => number(self.pid, out),
            Known::Worker => number(self.worker, out),
            Known::Core => number(self.core, out),
            Known::Switches => number(self.switches, out),
            Known::Vars => number(self.vars().0, out),
            Known::PacketSize => number(self.vars().1, out),
            Known::Modifier1 => number(self.request.modifier1, out),
            Known::Modifier2 => number(0u8, out),
            Known::Headers => number(self.headers, out),
            Known::Vsz => number(self.vsz, out),
            Known::Rss => number(self.rss, out),
            Known::VszMegabytes => number(self.vsz >> 20, out),
            Known::RssMegabytes => number(self.rss >> 20, out),
            Known::WriteErrors => number(self.write_errors, out),
            Known::ReadErrors => number(self.read_errors, out),
            Known::IoErrors => number(self.write_errors + self.read_errors, out),
        }
    }

    /// The value of a CGI variable as the application sees it.
    pub fn var(&self, name: &str) -> Value<'a> {
        if let Some(told) = self.told.and_then(|told| told_var(told, name)) {
            return Some(told);
        }
        if self.request.cgi {
            // The last one of several counts, as in a dict.
            return self
                .request
                .fields
                .iter()
                .rfind(|field| field.name.of(self.head) == name.as_bytes())
                .map(|field| field.value.of(self.head));
        }
        Some(match name {
            "REQUEST_METHOD" => self.request.method.of(self.head),
            "REQUEST_URI" => self.request.target.of(self.head),
            "QUERY_STRING" => self.request.query.of(self.head),
            "PATH_INFO" => &self.request.path,
            "SCRIPT_NAME" => b"",
            "SERVER_PROTOCOL" => self.request.version.name().as_bytes(),
            "SERVER_NAME" => self.local.server_name.as_bytes(),
            "SERVER_PORT" => self.local.server_port.as_bytes(),
            "REMOTE_ADDR" => self.peer.addr.as_bytes(),
            "REMOTE_PORT" => self.peer.port.as_bytes(),
            "HTTP_HOST" => return self.request.host.map(|host| host.of(self.head)),
            "CONTENT_TYPE" | "CONTENT_LENGTH" => return self.field(name),
            _ => return self.field(name.strip_prefix("HTTP_")?),
        })
    }

    /// The first header field whose name is `name` with `-` for `_`, in any case.
    fn field(&self, name: &str) -> Value<'a> {
        let same = |sent: &[u8]| {
            sent.len() == name.len()
                && sent.iter().zip(name.bytes()).all(|(&sent, asked)| match sent {
                    b'-' => asked == b'_',
                    _ => sent.eq_ignore_ascii_case(&asked) && asked != b'-',
                })
        };
        let fields = &self.request.fields;
        fields.iter().find(|field| same(field.name.of(self.head))).map(|field| field.value.of(self.head))
    }

    /// How many names and values the request has as CGI variables, and the bytes of a uwsgi packet of them.
    fn vars(&self) -> (usize, usize) {
        let fields = &self.request.fields;
        if self.request.cgi {
            return (fields.len() * 2, self.request.head_len.saturating_sub(4));
        }
        const OURS: [&str; 10] = [
            "REQUEST_METHOD",
            "REQUEST_URI",
            "PATH_INFO",
            "QUERY_STRING",
            "SERVER_PROTOCOL",
            "SCRIPT_NAME",
            "SERVER_NAME",
            "SERVER_PORT",
            "REMOTE_ADDR",
            "REMOTE_PORT",
        ];
        let mut bytes = 0;
        for name in OURS {
            bytes += 4 + name.len() + self.var(name).unwrap_or_default().len();
        }
        for field in fields {
            let name = field.name.of(self.head);
            let bare = name.eq_ignore_ascii_case(b"content-type") || name.eq_ignore_ascii_case(b"content-length");
            bytes += 4 + name.len() + field.value.of(self.head).len() + if bare { 0 } else { "HTTP_".len() };
        }
        ((OURS.len() + fields.len()) * 2, bytes)
    }
}

/// The value of a CGI variable that trusted proxies tell.
fn told_var<'a>(told: &'a Told, name: &str) -> Value<'a> {
    match name {
        "REMOTE_ADDR" => told.client.as_ref().map(|client| client.addr.as_bytes()),
        "REMOTE_PORT" => told.client.as_ref().map(|client| client.port.as_bytes()),
        "HTTP_HOST" => told.host.as_deref(),
        _ => None,
    }
}

fn number(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A number with zeros in front, `width` digits or more.
fn padded(value: u64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    out.resize(out.len() + width.saturating_sub(digits.len()), b'0');
    out.extend_from_slice(digits);
}

fn text_or_dash(value: Value<'_>, out: &mut Vec<u8>) {
    match value {
        None | Some(b"") => out.push(b'-'),
        Some(value) => escaped(value, out),
    }
}

/// Appends bytes of a client so that they stay within their place on the line.
fn escaped(value: &[u8], out: &mut Vec<u8>) {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    if value.iter().all(|&byte| plain(byte)) {
        return out.extend_from_slice(value);
    }
    for &byte in value {
        if plain(byte) {
            out.push(byte);
        } else {
            // Writing to a vector cannot fail.
            let _ = write!(out, "\\x{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests;
