//! Settings in the making: how values are read, and the few options that need more than one line in
//! the table. Each mistake is noted and reading goes on, so that all are reported at once.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{Error, Origin, Warning};
use super::load::Facts;
use super::{Mount, Owner, Settings};
use crate::net::address::Address;
use crate::protocol::Protocol;

/// One setting with its placeholders replaced.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Name as written.
    pub key: String,
    /// Value.
    pub value: String,
    /// Where it was written.
    pub origin: Origin,
}

/// A socket whose protocol may depend on what comes later.
pub(super) struct DraftSocket {
    pub(super) address: Address,
    pub(super) protocol: Option<Protocol>,
    /// Asked for as `http`, which is a router's socket in uWSGI.
    pub(super) routed: bool,
    pub(super) origin: Origin,
}

/// Deadlines as far as they are written.
#[derive(Default)]
pub(super) struct DraftTimeouts {
    pub(super) all: Option<Duration>,
    pub(super) http: Option<Duration>,
    pub(super) head: Option<Duration>,
    pub(super) keep_alive: Option<Duration>,
    pub(super) linger: Option<Duration>,
}

/// Which HTTP sockets take the PROXY protocol.
#[derive(Default)]
pub(super) struct DraftProxyProtocol {
    /// `http-enable-proxy-protocol`: those of `http`.
    pub(super) routed: bool,
    /// `enable-proxy-protocol`: all others.
    pub(super) own: bool,
}

/// Settings in the making.
pub struct Draft<'a> {
    pub(super) facts: &'a Facts,
    pub(super) settings: Settings,
    pub(super) sockets: Vec<DraftSocket>,
    pub(super) protocol: Option<Protocol>,
    pub(super) timeouts: DraftTimeouts,
    pub(super) proxy_protocol: DraftProxyProtocol,
    /// Unknown names that are near to an option.
    pub(super) misspelt: Vec<(Setting, &'static str)>,
    pub(super) errors: Vec<Error>,
    pub(super) warnings: Vec<Warning>,
    pub(super) notes: Vec<Warning>,
}

/// What uWSGI reads as false; everything else is true.
pub(super) fn is_true(value: &str) -> bool {
    !["false", "off", "no", "0"].iter().any(|no| value.eq_ignore_ascii_case(no))
}

fn is_bool(value: &str) -> bool {
    !is_true(value) || value.is_empty() || ["true", "on", "yes", "1"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

/// A value without the comment that uWSGI's atoi would not have seen either.
pub(super) fn before_comment(value: &str) -> Option<&str> {
    let at = value.find([';', '#'])?;
    let kept = value[..at].trim_end_matches([' ', '\t']);
    (kept.len() < at && !kept.is_empty()).then_some(kept)
}

impl<'a> Draft<'a> {
    pub(super) fn new(facts: &'a Facts) -> Draft<'a> {
        Draft {
            facts,
            settings: Settings::default(),
            sockets: Vec::new(),
            protocol: None,
            timeouts: DraftTimeouts::default(),
            proxy_protocol: DraftProxyProtocol::default(),
            misspelt: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, s: &Setting, expected: impl Into<String>) {
        let found = if s.value.is_empty() { "nothing".to_owned() } else { format!("{:?}", s.value) };
        let error = Error::new(&s.origin, &s.key, expected, found);
        self.errors.push(match hint_for(&s.value) {
            Some(hint) => error.hint(hint),
            None => error,
        });
    }

    pub(super) fn warn(&mut self, s: &Setting, message: impl Into<String>) {
        self.warnings.push(Warning::new(&s.origin, message));
    }

    pub(super) fn warn_whole(&mut self, message: impl Into<String>) {
        self.warnings.push(Warning::new(&Origin::Whole, message));
    }

    pub(super) fn flag(&mut self, s: &Setting) -> bool {
        if !is_bool(&s.value) {
            let message = format!("{} = {} is read as true; false is written false, off, no or 0", s.key, s.value);
            self.warn(s, message);
        }
        is_true(&s.value)
    }

    pub(super) fn number<T: TryFrom<u64>>(&mut self, s: &Setting, range: RangeInclusive<u64>) -> Option<T> {
        let mut digits = s.value.as_str();
        if let Some(kept) = before_comment(digits) {
            let message = format!("{} = {} is read as {kept}; comments stand on lines of their own", s.key, s.value);
            digits = kept;
            self.warn(s, message);
        }
        let number = match digits.bytes().all(|b| b.is_ascii_digit()) {
            true => digits.parse::<u64>().ok().filter(|number| range.contains(number)),
            false => None,
        };
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(number) => Some(number),
            None => {
                let expected = match (*range.start(), *range.end()) {
                    (0, end) if end > u64::from(u16::MAX) => "a whole number".to_owned(),
                    (start, end) if end > u64::from(u16::MAX) => format!("a whole number of at least {start}"),
                    (start, end) => format!("a whole number from {start} to {end}"),
                };
                self.error(s, expected);
                None
            }
        }
    }

    pub(super) fn fill_number<T: TryFrom<u64>>(
        &mut self,
        s: &Setting,
        range: RangeInclusive<u64>,
        field: fn(&mut Settings) -> &mut T,
    ) {
        if let Some(number) = self.number(s, range) {
            *field(&mut self.settings) = number;
        }
    }

    pub(super) fn seconds(&mut self, s: &Setting) -> Option<Duration> {
        self.number(s, 1..=i32::MAX as u64).map(Duration::from_secs)
    }

    pub(super) fn text(&mut self, s: &Setting) -> Option<String> {
        if s.value.is_empty() {
            self.error(s, "a value");
            return None;
        }
        Some(s.value.clone())
    }

    pub(super) fn named(&mut self, s: &Setting) -> Option<(String, String)> {
        self.text(s).map(|text| (text, s.origin.to_string()))
    }

    pub(super) fn path_from_start(&mut self, s: &Setting) -> Option<PathBuf> {
        self.text(s).map(|text| self.facts.start_directory.join(text))
    }

    fn pair(&mut self, s: &Setting, expected: &str) -> Option<(String, String)> {
        match s.value.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Some((name.trim().into(), value.trim().into())),
            _ => {
                self.error(s, expected);
                None
            }
        }
    }

    fn octal(&self, text: &str) -> Option<u32> {
        let fits = !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
        u32::from_str_radix(text, 8).ok().filter(|mode| fits && *mode <= 0o777)
    }
}

/// What a value that does not fit often means.
fn hint_for(value: &str) -> Option<String> {
    if value.contains("${") {
        return Some("a variable of the environment is written $(NAME)".into());
    }
    for (sign, what) in [("$(", "no such variable in the environment"), ("%(", "no setting of this name")] {
        if let Some((_, rest)) = value.split_once(sign)
            && let Some((name, _)) = rest.split_once(')')
        {
            return Some(format!("{what}: {name}"));
        }
    }
    before_comment(value).map(|_| "comments stand on lines of their own".into())
}

/// Setters of single options.
impl Draft<'_> {
    pub(super) fn socket(&mut self, s: &Setting, protocol: Option<Protocol>) {
        if s.value.starts_with('=') {
            self.error(s, "an address (shared-socket is not supported yet)");
            return;
        }
        match Address::parse(&s.value) {
            Ok(address) => {
                self.sockets.push(DraftSocket { address, protocol, routed: false, origin: s.origin.clone() })
            }
            Err(expected) => self.error(s, expected),
        }
    }

    /// `http`.
    pub(super) fn routed_socket(&mut self, s: &Setting) {
        let before = self.sockets.len();
        self.socket(s, Some(Protocol::Http));
        if let Some(socket) = self.sockets.get_mut(before) {
            socket.routed = true;
        }
    }

    pub(super) fn trusted_proxies(&mut self, s: &Setting) {
        if let Some(text) = self.text(s)
            && let Err(why) = self.settings.trusted_proxies.add(&text)
        {
            self.error(s, format!("networks as 10.0.0.0/8 or fd00::/8, addresses, or the word unix ({why})"));
        }
    }

    pub(super) fn protocol(&mut self, s: &Setting) {
        match s.value.as_str() {
            "uwsgi" => self.protocol = Some(Protocol::Uwsgi),
            "http" | "http11" => self.protocol = Some(Protocol::Http),
            "scgi" => self.protocol = Some(Protocol::Scgi),
            "fastcgi" => self.protocol = Some(Protocol::FastCgi),
            "fastcgi-nph" | "scgi-nph" => {
                self.error(s, "uwsgi, http, fastcgi or scgi (responses begin with `Status:`)")
            }
            "raw" | "puwsgi" | "suwsgi" | "https" | "uwsgidump" => {
                self.error(s, format!("uwsgi, http, fastcgi or scgi ({} is not supported yet)", s.value));
            }
            _ => self.error(s, "uwsgi, http, fastcgi or scgi"),
        }
    }

    pub(super) fn chmod_socket(&mut self, s: &Setting) {
        let digits = before_comment(&s.value).unwrap_or(&s.value);
        self.settings.chmod_socket = match digits {
            "" | "1" => Some(0o666),
            text if text.len() == 3 || text.len() == 4 && text.starts_with('0') => self.octal(text),
            _ => None,
        };
        if self.settings.chmod_socket.is_none() {
            self.error(s, "three octal digits, as 660");
        }
    }

    pub(super) fn umask(&mut self, s: &Setting) {
        self.settings.umask = self.octal(&s.value);
        if self.settings.umask.is_none() {
            self.error(s, "octal digits up to 777, as 022");
        }
    }

    fn find_user(&mut self, s: &Setting, name: &str) -> Option<(u32, Option<String>)> {
        if let Some(user) = (self.facts.user)(name) {
            return Some((user.uid, Some(user.name)));
        }
        match number(name) {
            Some(uid) => Some((uid, None)),
            None => {
                self.error(s, "a user of this system, or a number");
                None
            }
        }
    }

    fn find_group(&mut self, s: &Setting, name: &str) -> Option<u32> {
        let found = number(name).or_else(|| (self.facts.group)(name));
        if found.is_none() {
            self.error(s, "a group of this system, or a number");
        }
        found
    }

    pub(super) fn uid(&mut self, s: &Setting) {
        if let Some((uid, name)) = self.find_user(s, &s.value) {
            self.settings.uid = Some(uid);
            self.settings.user_name = name;
        }
    }

    pub(super) fn gid(&mut self, s: &Setting) {
        if let Some(gid) = self.find_group(s, &s.value) {
            self.settings.gid = Some(gid);
        }
    }

    pub(super) fn chown_socket(&mut self, s: &Setting) {
        let (user, group) = match s.value.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (s.value.as_str(), None),
        };
        let Some((uid, _)) = self.find_user(s, user) else { return };
        let gid = match group {
            None => None,
            Some(group) => match self.find_group(s, group) {
                Some(gid) => Some(gid),
                None => return,
            },
        };
        self.settings.chown_socket = Some(Owner { uid: Some(uid), gid });
    }

    pub(super) fn mount(&mut self, s: &Setting) {
        let Some((path, what)) = self.pair(s, "/path=application") else { return };
        if !path.starts_with('/') || what.is_empty() {
            self.error(s, "/path=application");
            return;
        }
        let path = path.trim_end_matches('/').to_owned();
        self.settings.mounts.push(Mount { path, what, origin: s.origin.to_string() });
    }

    pub(super) fn pythonpath(&mut self, s: &Setting) {
        let text = self.text(s);
        self.settings.pythonpath.extend(text);
    }

    pub(super) fn env(&mut self, s: &Setting) {
        if let Some(pair) = self.pair(s, "NAME=value") {
            self.settings.env.push(pair);
        }
    }

    pub(super) fn buffer_size(&mut self, s: &Setting) {
        let Some(asked) = self.number::<usize>(s, 0..=u32::MAX.into()) else { return };
        let least = Settings::default().buffer_size;
        if asked < least {
            let note = format!("{} = {asked} is below what is always allowed; {least} it stays", s.key);
            self.notes.push(Warning::new(&s.origin, note));
        }
        self.settings.buffer_size = asked.max(least);
    }

    pub(super) fn post_buffering(&mut self, s: &Setting) {
        if let Some(bytes) = self.number::<u64>(s, 0..=u64::MAX) {
            self.settings.post_buffering = (bytes > 0).then_some(bytes);
        }
    }

    pub(super) fn response_buffer(&mut self, s: &Setting) {
        self.fill_number(s, 1..=u32::MAX.into(), |x| &mut x.response_buffer);
    }

    pub(super) fn keep_alive(&mut self, s: &Setting) {
        let default = Settings::default().timeouts.keep_alive;
        self.timeouts.keep_alive = match s.value.as_str() {
            // 1 switches it on in uWSGI; nobody means one second.
            "" | "1" => Some(default),
            value if !value.starts_with(|c: char| c.is_ascii_digit()) && is_bool(value) => {
                self.warn(s, format!("{} takes a number of seconds; {value} is read as {}", s.key, is_true(value)));
                Some(if is_true(value) { default } else { Duration::ZERO })
            }
            _ => self.number(s, 0..=i32::MAX as u64).map(Duration::from_secs),
        };
    }

    pub(super) fn logto(&mut self, s: &Setting) {
        if s.value.contains(':') && !s.value.contains('/') {
            self.error(s, "a file (logs over UDP are not supported yet)");
            return;
        }
        self.settings.logto = self.path_from_start(s);
    }

    pub(super) fn log_format(&mut self, s: &Setting) {
        if let Some(expected) = (self.facts.log_format_mistake)(&s.value) {
            // What stands in %( ) here is no setting, so no hint of that kind.
            self.errors.push(Error::new(&s.origin, &s.key, expected, format!("{:?}", s.value)));
            return;
        }
        self.settings.log_format = self.text(s);
    }

    pub(super) fn plugins(&mut self, s: &Setting) {
        for name in s.value.split(',').map(str::trim).filter(|name| !name.is_empty() && !is_built_in(name)) {
            self.warn(s, format!("there is no plugin {name:?} in rsgi; it goes on without"));
        }
    }

    pub(super) fn needed_plugins(&mut self, s: &Setting) {
        if s.value.split(',').map(str::trim).any(|name| !name.is_empty() && !is_built_in(name)) {
            self.error(s, "plugins that are part of rsgi");
        }
    }
}

fn number(text: &str) -> Option<u32> {
    // The system takes the greatest number for "leave it as it is".
    text.parse().ok().filter(|number| *number != u32::MAX && text.bytes().all(|b| b.is_ascii_digit()))
}

/// True for plugins of uWSGI whose work, as far as rsgi does it, needs no plugin.
pub(super) fn is_built_in(plugin: &str) -> bool {
    let name = plugin.rsplit('/').next().unwrap_or(plugin);
    let name = name.strip_suffix(".so").unwrap_or(name);
    let name = name.strip_suffix("_plugin").unwrap_or(name);
    let families = ["python", "router_", "cheaper_", "stats_pusher_", "transformation_"];
    let single = [
        "http",
        "corerouter",
        "logfile",
        "logsocket",
        "logpipe",
        "syslog",
        "rsyslog",
        "cache",
        "spooler",
        "carbon",
        "zergpool",
        "gevent",
        "rpc",
        "signal",
        "ping",
        "nagios",
        "dumbloop",
        "symcall",
        "ugreen",
        "fastrouter",
        "rawrouter",
        "sslrouter",
        "rrdtool",
    ];
    families.iter().any(|family| name.starts_with(family)) || single.contains(&name)
}
