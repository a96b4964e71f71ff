//! The access log: one line for each request, rendered from values.
//!
//! The default line is byte for byte uWSGI's, and `log-format` knows the same variables. What comes from a
//! client or a front end is escaped as nginx does it (`\xNN` for quotes, backslashes and everything that
//! is not printable ASCII), so that nobody forges a line, a field or a terminal sequence.
//! Pure: time, memory and counters come in with the [`Record`]. Writing is done elsewhere.

use std::io::Write;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use crate::gateway::{Local, Peer, Told};
use crate::protocol::request::{BodyLength, Request};

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
    /// How often the request was taken up: 1, and one more for each wait of the application.
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
}

/// How a line looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// uWSGI's line.
    Line {
        /// `log-micros`: the duration in microseconds.
        micros: bool,
        /// `memory-report`: address space and resident memory in front.
        memory: bool,
    },
    /// `log-format`.
    Template(Vec<Part>),
}

/// A piece of a `log-format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it stands.
    Text(String),
    /// One of the variables known by name.
    Known(Known),
    /// `%(var.NAME)`: a request variable.
    Var(String),
    /// Any other name: a variable that the application sets while it serves; `-` when it has not.
    LogVar(String),
}

/// Declares the variables of `log-format` once: the name in the format and the variant.
macro_rules! known {
    ($($name:literal $variant:ident),* $(,)?) => {
        /// A variable of `log-format`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Known {
            $(#[doc = concat!("`%(", $name, ")`")] $variant),*
        }

        impl Known {
            /// Every variable.
            pub const ALL: &'static [Known] = &[$(Known::$variant),*];

            /// Its name in a format.
            pub fn name(self) -> &'static str {
                match self { $(Known::$variant => $name),* }
            }
        }
    };
}

known! {
    "uri" Uri, "method" Method, "user" User, "addr" Addr, "host" Host, "proto" Proto, "uagent" UserAgent,
    "referer" Referer, "status" Status, "rsize" BodySize, "hsize" HeadSize, "size" Size, "cl" ContentLength,
    "micros" Micros, "msecs" Millis, "secs" Seconds, "time" Time, "tmsecs" TimeMillis, "tmicros" TimeMicros,
    "ltime" LogTime, "ftime" FormattedTime, "ctime" CTime, "epoch" Epoch, "pid" Pid, "wid" Worker, "core" Core,
    "switches" Switches, "vars" Vars, "pktsize" PacketSize, "modifier1" Modifier1, "modifier2" Modifier2,
    "headers" Headers, "vsz" Vsz, "rss" Rss, "vszM" VszMegabytes, "rssM" RssMegabytes, "werr" WriteErrors,
    "rerr" ReadErrors, "ioerr" IoErrors,
}

impl Default for Format {
    fn default() -> Format {
        Format::Line { micros: false, memory: false }
    }
}

impl Format {
    /// Parses a `log-format`. An opening `%(` without its `)` is text, as in uWSGI.
    ///
    /// # Errors
    /// What was expected, when a variable has no name.
    pub fn parse(text: &str) -> Result<Format, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("%(") {
            let Some((name, behind)) = after.split_once(')') else { break };
            if name.is_empty() || name == "var." {
                return Err(format!("the name of a variable in \"%({name})\""));
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let known = Known::ALL.iter().find(|known| known.name() == name);
            parts.push(match (known, name.strip_prefix("var.")) {
                (Some(&known), _) => Part::Known(known),
                (None, Some(var)) => Part::Var(var.to_owned()),
                (None, None) => Part::LogVar(name.to_owned()),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Format::Template(parts))
    }

    /// Appends the line for `record`, line end included.
    pub fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match self {
            Format::Line { micros, memory } => record.line(*micros, *memory, out),
            Format::Template(parts) => {
                for part in parts {
                    match part {
                        Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                        Part::Known(known) => record.known(*known, out),
                        Part::Var(name) => text_or_dash(record.var(name), out),
                        Part::LogVar(_) => out.push(b'-'),
                    }
                }
                out.push(b'\n');
            }
        }
    }
}

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
        escaped(self.var("REMOTE_ADDR").unwrap_or_default(), out);
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

    /// Appends one variable of `log-format`.
    fn known(&self, known: Known, out: &mut Vec<u8>) {
        match known {
            Known::Uri => text_or_dash(Some(self.request.target.of(self.head)), out),
            Known::Method => text_or_dash(Some(self.request.method.of(self.head)), out),
            Known::User => text_or_dash(self.var("REMOTE_USER"), out),
            Known::Addr => text_or_dash(self.var("REMOTE_ADDR"), out),
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

    /// Begin of the request in the zone of the log.
    fn local_time(&self) -> (DateTime, Offset) {
        let time = Timestamp::from_second((self.started / 1_000_000) as i64).unwrap_or_default();
        let offset = self.zone.to_offset(time);
        (offset.to_datetime(time), offset)
    }

    /// `Sun Nov 22 12:13:33 2026`
    fn ctime(&self, out: &mut Vec<u8>) {
        const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
        let (time, _) = self.local_time();
        out.extend_from_slice(DAYS[time.weekday().to_monday_zero_offset() as usize].as_bytes());
        out.push(b' ');
        out.extend_from_slice(month(time));
        out.push(b' ');
        if time.day() < 10 {
            out.push(b' ');
        }
        number(time.day(), out);
        out.push(b' ');
        clock(time, out);
        out.push(b' ');
        number(time.year(), out);
    }

    /// `22/Nov/2026:12:31:57 +0000`
    fn log_time(&self, out: &mut Vec<u8>) {
        let (time, offset) = self.local_time();
        padded(time.day() as u64, 2, out);
        out.push(b'/');
        out.extend_from_slice(month(time));
        out.push(b'/');
        number(time.year(), out);
        out.push(b':');
        clock(time, out);
        out.push(b' ');
        let seconds = offset.seconds();
        out.push(if seconds < 0 { b'-' } else { b'+' });
        let minutes = u64::from(seconds.unsigned_abs()) / 60;
        padded(minutes / 60, 2, out);
        padded(minutes % 60, 2, out);
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

/// The month's English abbreviation.
fn month(time: DateTime) -> &'static [u8] {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    MONTHS[time.month() as usize - 1].as_bytes()
}

/// `12:13:33`
fn clock(time: DateTime, out: &mut Vec<u8>) {
    padded(time.hour() as u64, 2, out);
    out.push(b':');
    padded(time.minute() as u64, 2, out);
    out.push(b':');
    padded(time.second() as u64, 2, out);
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
