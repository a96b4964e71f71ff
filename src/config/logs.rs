//! What is configured about logs: where lines go, how they look, which requests have one.

mod read;

use std::path::PathBuf;
use std::time::Duration;

use regex::bytes::Regex;

use super::error::Origin;

/// Where lines of a logger go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Where the log goes without loggers: standard error, or the file of `logto`.
    Usual,
    /// A descriptor that the server was started with.
    Descriptor(i32),
    /// A file.
    File(LogFile),
    /// Datagrams, as they are or behind a word.
    Socket {
        /// To whom.
        address: Receiver,
        /// What stands before each line.
        prefix: Option<String>,
    },
    /// Datagrams as RFC 3164 has them.
    Syslog {
        /// To whom.
        address: Receiver,
        /// What stands before the colon.
        tag: String,
        /// Facility and severity.
        priority: u32,
        /// Longest datagram in bytes; none: as long as the line.
        limit: Option<usize>,
        /// What is longer is sent in several.
        split: bool,
    },
}

/// Who receives datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`, looked up when the logger is opened.
    Udp(String),
}

/// A log file, and when it gives way to a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// As written.
    pub path: PathBuf,
    /// From so many bytes on it is renamed; 0 is without limit.
    pub most: u64,
    /// Its name then; none: its own and the second of the epoch.
    pub backup: Option<PathBuf>,
}

/// `logger` or `req-logger`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logger {
    /// Its name, by which routes and encoders mean it. One with a name gets only what is routed to it.
    pub name: Option<String>,
    /// Where lines go.
    pub to: Destination,
    /// Where it was asked for, as messages begin.
    pub place: String,
}

/// What an encoder does with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// `prefix`: text before it.
    Prefix(String),
    /// `suffix`: text after it.
    Suffix(String),
    /// `nl`: a line end after it.
    LineEnd,
    /// `format`: a template that holds it.
    Format(Vec<Piece>),
    /// `json`: the same, with everything but the template's own text escaped for JSON.
    Json(Vec<Piece>),
}

/// A piece of an encoder's template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text as it stands.
    Text(String),
    /// `${msg}`: the line without its end.
    Message,
    /// `${msgnl}`: the line with its end.
    MessageWithEnd,
    /// `${unix}`: second of the epoch.
    Seconds,
    /// `${millis}`: millisecond of the epoch.
    Millis,
    /// `${micros}`: microsecond of the epoch.
    Micros,
    /// `${strftime:...}`: local time.
    Time(String),
}

/// `log-encoder` or `log-req-encoder`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoder {
    /// The logger it is for; none: for all.
    pub only: Option<String>,
    /// What it does.
    pub deed: Deed,
}

/// A regular expression of bytes, equal to another when its text is.
#[derive(Clone, Debug)]
pub struct Pattern(pub Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// `log-route` or `log-req-route`: lines that a logger with a name gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The name.
    pub logger: String,
    /// Which lines.
    pub pattern: Pattern,
    /// Where it was asked for.
    pub origin: Origin,
}

/// Requests that have a line although `disable-logging` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Also {
    /// `log-4xx`.
    pub refused: bool,
    /// `log-5xx`.
    pub failed: bool,
    /// `log-zero`: without a body.
    pub empty: bool,
    /// `log-sendfile`: sent by `wsgi.file_wrapper`.
    pub files: bool,
    /// `log-ioerror`: reading and writing both failed.
    pub errors: bool,
    /// `log-slow`: that took so long.
    pub slow: Option<Duration>,
    /// `log-big`: whose body has so many bytes.
    pub big: Option<u64>,
}

impl Also {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Also::default()
    }
}

/// Everything about logs but `logto`, `log-format` and `disable-logging`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// `logto2`, as written: it is opened after the privileges are given up.
    pub late_file: Option<PathBuf>,
    /// `log-maxsize`; 0 is without limit.
    pub most: u64,
    /// `log-backupname`.
    pub backup: Option<PathBuf>,
    /// `log-truncate`.
    pub truncate: bool,
    /// `log-reopen`.
    pub reopen: bool,
    /// `logfile-chown`.
    pub chown: bool,
    /// `logfile-chmod`.
    pub mode: Option<u32>,
    /// `log-date`: a format for strftime, empty for the one of ctime; none: rsgi's own.
    pub date: Option<String>,
    /// `logformat-strftime`: `%(ftime)` is written as `log-date` says.
    pub date_in_format: bool,
    /// `log-micros`.
    pub micros: bool,
    /// `memory-report`.
    pub memory: bool,
    /// `log-x-forwarded-for`.
    pub forwarded: bool,
    /// Requests logged in spite of `disable-logging`.
    pub also: Also,
    /// `log-master`: a process of its own writes what all others have to say.
    pub master: bool,
    /// `log-master-bufsize`: longest message in bytes.
    pub longest: usize,
    /// `logger` and its like.
    pub loggers: Vec<Logger>,
    /// `req-logger`.
    pub request_loggers: Vec<Logger>,
    /// `log-encoder`.
    pub encoders: Vec<Encoder>,
    /// `log-req-encoder`.
    pub request_encoders: Vec<Encoder>,
    /// `log-route`.
    pub routes: Vec<Route>,
    /// `log-req-route`.
    pub request_routes: Vec<Route>,
    /// `log-drain`: lines that are dropped.
    pub drain: Vec<Pattern>,
    /// `log-filter`: when there is one, only lines that fit one are kept.
    pub filter: Vec<Pattern>,
    /// `rsyslog-packet-size`.
    pub packet: usize,
    /// `rsyslog-split-messages`.
    pub split: bool,
}

impl Default for Logs {
    fn default() -> Logs {
        Logs {
            late_file: None,
            most: 0,
            backup: None,
            truncate: false,
            reopen: false,
            chown: false,
            mode: None,
            date: None,
            date_in_format: false,
            micros: false,
            memory: false,
            forwarded: false,
            also: Also::default(),
            master: false,
            longest: 8192,
            loggers: Vec::new(),
            request_loggers: Vec::new(),
            encoders: Vec::new(),
            request_encoders: Vec::new(),
            routes: Vec::new(),
            request_routes: Vec::new(),
            drain: Vec::new(),
            filter: Vec::new(),
            packet: 1024,
            split: false,
        }
    }
}

impl Logs {
    /// Whether lines go through a process of its own, which writes them where they belong.
    pub fn need_relay(&self) -> bool {
        self.master
            || !self.loggers.is_empty()
            || !self.request_loggers.is_empty()
            || !self.encoders.is_empty()
            || !self.drain.is_empty()
            || !self.filter.is_empty()
    }
}

/// Whether `logto` means a receiver of datagrams.
pub(super) fn is_address(text: &str) -> bool {
    text.contains(':') && !text.contains('/')
}
