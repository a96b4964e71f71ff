//! Reads what is configured about logs: loggers, encoders, routes, formats of the time.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use regex::bytes::Regex;

use super::{Deed, Destination, Encoder, LogFile, Logger, Logs, Pattern, Piece, Receiver, Route, is_address};
use crate::config::draft::{Draft, Setting, before_comment};
use crate::config::error::{Error, Origin, Warning};

const LOGGERS: &str = "file, socket, syslog, rsyslog, stdio or fd";
const ENCODERS: &str = "prefix, suffix, nl, format or json";

/// Loggers of uWSGI that there are none of, and what to do instead.
const REFUSED: &[(&str, &str)] = &[
    (
        "redislog",
        "rsgi speaks to no database; write to a file or a socket and let a log shipper (vector, fluent-bit) feed it",
    ),
    (
        "mongodblog",
        "rsgi speaks to no database; write to a file or a socket and let a log shipper (vector, fluent-bit) feed it",
    ),
    ("zeromq", "rsgi has no ZeroMQ; send datagrams with socket:HOST:PORT"),
    ("zmq", "rsgi has no ZeroMQ; send datagrams with socket:HOST:PORT"),
    ("python", "the process that writes logs runs no Python; the application's own logging module does that better"),
    ("pipe", "rsgi starts no program for its log; log to standard error and start it as `rsgi ... 2>&1 | program`"),
    ("systemd", "standard error of a unit is in the journal; leave logger out"),
    ("graylog2", "send datagrams with socket:HOST:PORT and a json log-encoder"),
    ("crypto", "rsgi encrypts no logs; send them through a tunnel"),
];

const FACILITIES: &[(&str, u32)] = &[
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// Severity "info".
const INFO: u32 = 6;

/// What is wrong with a format for strftime.
fn time_mistake(format: &str) -> Option<String> {
    let now = Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC);
    jiff::fmt::strtime::format(format, &now).err().map(|error| error.to_string())
}

fn receiver(text: &str) -> Option<Receiver> {
    if text.starts_with('/') {
        return Some(Receiver::Unix(text.into()));
    }
    let (host, port) = text.rsplit_once(':')?;
    let fits = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
    fits.then(|| Receiver::Udp(text.into()))
}

fn template(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, behind)) = after.split_once('}') else {
            return Err("a } behind each ${".into());
        };
        if !before.is_empty() {
            pieces.push(Piece::Text(before.into()));
        }
        pieces.push(match name {
            "msg" => Piece::Message,
            "msgnl" => Piece::MessageWithEnd,
            "unix" => Piece::Seconds,
            "millis" => Piece::Millis,
            "micros" => Piece::Micros,
            _ => match name.strip_prefix("strftime:") {
                Some(format) => match time_mistake(format) {
                    None => Piece::Time(format.into()),
                    Some(mistake) => return Err(format!("a format for strftime ({mistake})")),
                },
                None => return Err("msg, msgnl, unix, millis, micros or strftime:FORMAT between ${ and }".into()),
            },
        });
        rest = behind;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.into()));
    }
    Ok(pieces)
}

/// `[NAME ]KIND[:ARGUMENT]`
fn split_name(text: &str) -> (Option<String>, &str) {
    match text.split_once(' ') {
        Some((name, rest)) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            (Some(name.into()), rest.trim_start())
        }
        _ => (None, text),
    }
}

impl Draft<'_> {
    fn expected(&mut self, s: &Setting, expected: impl Into<String>) {
        // What stands in ${ } or %( ) here is no setting: no hint of that kind.
        self.errors.push(Error::new(&s.origin, &s.key, expected, format!("{:?}", s.value)));
    }

    /// `logger = KIND:...`, or with `kind` the option that is short for it.
    pub(in crate::config) fn logger(&mut self, s: &Setting, kind: Option<&str>, requests: bool) {
        let text = match kind {
            Some(kind) if s.value.is_empty() || s.value == "true" => kind.to_owned(),
            Some(kind) => format!("{kind}:{}", s.value),
            None => s.value.clone(),
        };
        let (name, rest) = split_name(&text);
        let (kind, argument) = match rest.split_once(':') {
            Some((kind, argument)) => (kind, argument),
            None => (rest, ""),
        };
        if let Some((_, instead)) = REFUSED.iter().find(|(known, _)| *known == kind) {
            let sentence = format!("{} = {} is refused: {instead}", s.key, s.value);
            self.errors.push(Error::plain(&s.origin, sentence));
            return;
        }
        let to = match kind {
            "stdio" => Ok(Destination::Usual),
            "fd" => match argument.parse::<i32>() {
                Ok(number) if number >= 0 => Ok(Destination::Descriptor(number)),
                _ => Err("fd:NUMBER".into()),
            },
            "file" => self.log_file(argument).map(Destination::File),
            "socket" => {
                let (address, prefix) = match argument.split_once(',') {
                    Some((address, prefix)) => (address, Some(prefix.to_owned())),
                    None => (argument, None),
                };
                let address = receiver(address).ok_or("socket:HOST:PORT or socket:/path");
                address.map(|address| Destination::Socket { address, prefix }).map_err(str::to_owned)
            }
            "syslog" => syslog(argument),
            "rsyslog" => self.remote_syslog(argument),
            _ => Err(format!("{LOGGERS}, each with its argument behind a colon")),
        };
        match to {
            Ok(to) => {
                let logger = Logger { name, to, place: s.origin.place(&s.key) };
                let logs = &mut self.settings.logs;
                if requests { logs.request_loggers.push(logger) } else { logs.loggers.push(logger) }
            }
            Err(expected) => self.expected(s, expected),
        }
    }

    /// `PATH`, or `logfile=PATH,maxsize=N,backupname=PATH`.
    fn log_file(&self, argument: &str) -> Result<LogFile, String> {
        let dir = &self.facts.start_directory;
        const EXPECTED: &str = "file:PATH or file:logfile=PATH,maxsize=BYTES,backupname=PATH";
        let mut file = LogFile { path: PathBuf::new(), most: 0, backup: None };
        if argument.contains('=') {
            for pair in argument.split(',') {
                match pair.split_once('=') {
                    Some(("logfile", path)) => file.path = dir.join(path),
                    Some(("backupname", path)) => file.backup = Some(dir.join(path)),
                    Some(("maxsize", bytes)) => {
                        file.most = bytes.parse().ok().filter(|most| *most > 0).ok_or("maxsize of at least 1")?;
                    }
                    _ => return Err(EXPECTED.into()),
                }
            }
        } else if !argument.is_empty() {
            file.path = dir.join(argument);
        }
        if file.path.as_os_str().is_empty() { Err(EXPECTED.into()) } else { Ok(file) }
    }

    /// `HOST[:PORT][,TAG[,PRIORITY]]`, or a path for the address.
    fn remote_syslog(&self, argument: &str) -> Result<Destination, String> {
        let mut words = argument.splitn(3, ',');
        let address = words.next().unwrap_or_default();
        let with_port = match address.starts_with('/') || address.contains(':') {
            true => address.to_owned(),
            false => format!("{address}:514"),
        };
        let expected = "rsyslog:HOST[:PORT][,TAG[,PRIORITY]] or rsyslog:/path";
        let address = receiver(&with_port).ok_or(expected)?;
        let own = format!("{} uwsgi", self.facts.hostname);
        let tag = words.next().filter(|tag| !tag.is_empty()).map_or(own, str::to_owned);
        // Facility daemon, severity notice.
        let priority = words.next().map_or(Ok(29), str::parse).ok().filter(|priority| *priority < 192);
        let priority = priority.ok_or("a priority from 0 to 191")?;
        Ok(Destination::Syslog { address, tag, priority, limit: Some(0), split: false })
    }

    pub(in crate::config) fn log_encoder(&mut self, s: &Setting, requests: bool) {
        let (head, arguments) = s.value.split_once(' ').unwrap_or((&s.value, ""));
        let (kind, only) = match head.split_once(':') {
            Some((kind, only)) => (kind, Some(only.to_owned())),
            None => (head, None),
        };
        let text = arguments.to_owned();
        let deed = match kind {
            "prefix" => Ok(Deed::Prefix(text)),
            "suffix" => Ok(Deed::Suffix(text)),
            "nl" => Ok(Deed::LineEnd),
            "format" => template(&text).map(Deed::Format),
            "json" => template(&text).map(Deed::Json),
            "gzip" | "compress" | "msgpack" | "crypto" => {
                let sentence = format!(
                    "{} = {} is refused: rsgi writes text; compress rotated files (logrotate) or in the log shipper",
                    s.key, s.value
                );
                self.errors.push(Error::plain(&s.origin, sentence));
                return;
            }
            _ => Err(format!("{ENCODERS}, with its arguments behind a blank")),
        };
        match deed {
            Ok(deed) => {
                let logs = &mut self.settings.logs;
                let list = if requests { &mut logs.request_encoders } else { &mut logs.encoders };
                list.push(Encoder { only, deed });
            }
            Err(expected) => self.expected(s, expected),
        }
    }

    fn pattern(&mut self, s: &Setting, text: &str) -> Option<Pattern> {
        match Regex::new(text) {
            Ok(regex) if !text.is_empty() => Some(Pattern(regex)),
            Ok(_) => {
                self.expected(s, "a regular expression");
                None
            }
            Err(error) => {
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                self.expected(s, format!("a regular expression ({why})"));
                None
            }
        }
    }

    pub(in crate::config) fn log_route(&mut self, s: &Setting, requests: bool) {
        let Some((logger, text)) = s.value.split_once(' ') else {
            return self.expected(s, "the name of a logger and a regular expression");
        };
        if let Some(pattern) = self.pattern(s, text.trim_start()) {
            let route = Route { logger: logger.into(), pattern, origin: s.origin.clone() };
            let logs = &mut self.settings.logs;
            if requests { logs.request_routes.push(route) } else { logs.routes.push(route) }
        }
    }

    pub(in crate::config) fn log_pattern(&mut self, s: &Setting, list: fn(&mut Logs) -> &mut Vec<Pattern>) {
        if let Some(pattern) = self.pattern(s, &s.value) {
            list(&mut self.settings.logs).push(pattern);
        }
    }

    pub(in crate::config) fn log_date(&mut self, s: &Setting) {
        // Alone it asks for uWSGI's own.
        let format = if s.value == "true" { "" } else { &s.value };
        match time_mistake(format) {
            None => self.settings.logs.date = Some(format.to_owned()),
            Some(mistake) => self.expected(s, format!("a format for strftime ({mistake})")),
        }
    }

    pub(in crate::config) fn log_slow(&mut self, s: &Setting) {
        if let Some(millis) = self.number(s, 0..=u64::from(u32::MAX)) {
            self.settings.logs.also.slow = (millis > 0).then(|| Duration::from_millis(millis));
        }
    }

    pub(in crate::config) fn logto2(&mut self, s: &Setting) {
        if is_address(&s.value) {
            return self.logger(s, Some("socket"), false);
        }
        self.settings.logs.late_file = self.text(s).map(PathBuf::from);
    }

    pub(in crate::config) fn log_mode(&mut self, s: &Setting) {
        let digits = before_comment(&s.value).unwrap_or(&s.value);
        self.settings.logs.mode = match digits.len() {
            3 => u32::from_str_radix(digits, 8).ok(),
            4 if digits.starts_with('0') => u32::from_str_radix(digits, 8).ok(),
            _ => None,
        };
        if self.settings.logs.mode.is_none() {
            self.error(s, "three octal digits, as 640");
        }
    }

    /// What can be said of all of it together.
    pub(in crate::config) fn check_logs(&mut self) {
        let logs = &mut self.settings.logs;
        for logger in logs.loggers.iter_mut().chain(&mut logs.request_loggers) {
            if let Destination::Syslog { limit: limit @ Some(_), split, .. } = &mut logger.to {
                (*limit, *split) = (Some(logs.packet), logs.split);
            }
        }
        let logs = &self.settings.logs;
        let mut errors = Vec::new();
        for (key, routes, loggers, option) in [
            ("log-route", &logs.routes, &logs.loggers, "logger"),
            ("log-req-route", &logs.request_routes, &logs.request_loggers, "req-logger"),
        ] {
            for route in routes {
                if !loggers.iter().any(|logger| logger.name.as_ref() == Some(&route.logger)) {
                    let (expected, found) = (format!("the name of a {option}"), format!("{:?}", route.logger));
                    let error = Error::new(&route.origin, key, expected, found);
                    errors.push(error.hint(format!("give one this name: {option} = {} file:/path", route.logger)));
                }
            }
        }
        self.errors.append(&mut errors);
        let logs = &self.settings.logs;
        let mut idle = Vec::new();
        if logs.request_loggers.is_empty() && !logs.request_encoders.is_empty() {
            idle.push("log-req-encoder has no effect without req-logger");
        }
        if self.settings.logto.is_none() && logs.late_file.is_none() {
            for (set, message) in [
                (logs.most > 0, "log-maxsize has no effect without logto"),
                (logs.truncate, "log-truncate has no effect without logto"),
                (logs.reopen, "log-reopen has no effect without logto"),
            ] {
                if set && !logs.loggers.iter().any(|logger| matches!(logger.to, Destination::File(_))) {
                    idle.push(message);
                }
            }
        }
        if self.settings.log_requests && !logs.also.is_none() {
            self.notes.push(Warning::new(
                &Origin::Whole,
                "log-4xx, log-5xx, log-slow and their like have no effect without disable-logging: every request has a line",
            ));
        }
        idle.into_iter().for_each(|message| self.warn_whole(message));
    }
}

/// `syslog[:IDENT[,FACILITY]]`
fn syslog(argument: &str) -> Result<Destination, String> {
    let (ident, facility) = argument.split_once(',').unwrap_or((argument, "daemon"));
    let known = FACILITIES.iter().find(|(name, _)| *name == facility);
    let Some((_, facility)) = known else {
        return Err("a facility of syslog, as daemon or local0".into());
    };
    Ok(Destination::Syslog {
        address: Receiver::Unix("/dev/log".into()),
        tag: if ident.is_empty() { "uwsgi".into() } else { ident.into() },
        priority: facility * 8 + INFO,
        limit: None,
        split: false,
    })
}
