//! The option table: one row per option, and all that is known about it. The command line, the files,
//! the environment, help and error messages read this table; nothing else lists options.
//!
//! Every option that uWSGI knows has a row, so that none is ignored in silence: it is honoured,
//! accepted because rsgi does what it asks anyway, named in a warning, or refused with what to do
//! instead. The rows stand in files by area. How a value is read is in `draft`.

mod config;
mod fleet;
mod foreign;
mod logging;
mod network;
mod process;
mod python;
mod routing;
mod services;

use std::collections::HashMap;
use std::sync::LazyLock;

use super::draft::{Draft, Setting};

/// What the value of an option is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// A whole number, in decimal digits.
    Number,
    /// Octal digits.
    Octal,
    /// True or false.
    Bool,
    /// Anything.
    Text,
    /// A file or directory.
    Path,
    /// A socket address.
    Address,
    /// `name=value`.
    Pair,
    /// A user or group, by name or number.
    Owner,
}

impl Type {
    /// The word for it in help.
    pub fn name(self) -> &'static str {
        match self {
            Type::Number => "NUMBER",
            Type::Octal => "OCTAL",
            Type::Bool => "BOOL",
            Type::Text => "TEXT",
            Type::Path => "PATH",
            Type::Address => "ADDRESS",
            Type::Pair => "NAME=VALUE",
            Type::Owner => "OWNER",
        }
    }
}

/// Whether an option takes a value on the command line. In files every option may have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// True when present; a value only as `--name=value`.
    Flag,
    /// A value only as `--name=value`, or none.
    Optional(Type),
    /// `--name value` or `--name=value`.
    Required(Type),
}

/// Puts the value of a setting into the settings being made.
pub type Setter = fn(&mut Draft<'_>, &Setting);

/// What rsgi does with an option.
#[derive(Clone, Copy)]
pub enum Action {
    /// Honoured.
    Supported(Setter),
    /// Honoured while settings are collected: files, placeholders, logic.
    Early,
    /// A flag for what is always so, and why; false is named in a warning.
    Always(&'static str),
    /// Accepted, does nothing, and why that is safe.
    NoEffect(&'static str),
    /// Accepted, does nothing if the check finds nothing to say, and why that is safe.
    Checked(&'static str, Setter),
    /// Not acted on yet: named in a warning.
    NotYet,
    /// An error, and what to do instead.
    Refused(&'static str),
}

/// One option.
#[derive(Clone, Copy)]
pub struct Row {
    /// Name.
    pub name: &'static str,
    /// Other names of the same option.
    pub aliases: &'static [&'static str],
    /// Letter on the command line.
    pub short: Option<char>,
    /// Whether it takes a value.
    pub kind: Kind,
    /// True if each occurrence adds to those before it; otherwise the last one counts.
    pub listed: bool,
    /// One line.
    pub help: &'static str,
    /// What rsgi does with it.
    pub action: Action,
}

impl Row {
    const fn new(name: &'static str, kind: Kind, help: &'static str) -> Row {
        Row { name, aliases: &[], short: None, kind, listed: false, help, action: Action::NotYet }
    }

    const fn also(mut self, aliases: &'static [&'static str]) -> Row {
        self.aliases = aliases;
        self
    }

    const fn short(mut self, letter: char) -> Row {
        self.short = Some(letter);
        self
    }

    const fn listed(mut self) -> Row {
        self.listed = true;
        self
    }

    const fn set(mut self, setter: Setter) -> Row {
        self.action = Action::Supported(setter);
        self
    }

    const fn early(mut self) -> Row {
        self.action = Action::Early;
        self
    }

    const fn always(mut self, why: &'static str) -> Row {
        self.action = Action::Always(why);
        self
    }

    const fn no_effect(mut self, why: &'static str) -> Row {
        self.action = Action::NoEffect(why);
        self
    }

    const fn check(mut self, why: &'static str, setter: Setter) -> Row {
        self.action = Action::Checked(why, setter);
        self
    }

    const fn refused(mut self, instead: &'static str) -> Row {
        self.action = Action::Refused(instead);
        self
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

// Short words for the rows.
const FLAG: Kind = Kind::Flag;
const NUMBER: Kind = Kind::Required(Type::Number);
const OCTAL: Kind = Kind::Required(Type::Octal);
const TEXT: Kind = Kind::Required(Type::Text);
const PATH: Kind = Kind::Required(Type::Path);
const ADDRESS: Kind = Kind::Required(Type::Address);
const PAIR: Kind = Kind::Required(Type::Pair);
const OWNER: Kind = Kind::Required(Type::Owner);
const OPTIONAL: Kind = Kind::Optional(Type::Text);
const OPTIONAL_NUMBER: Kind = Kind::Optional(Type::Number);
const OPTIONAL_OCTAL: Kind = Kind::Optional(Type::Octal);
const BOOL: Kind = Kind::Required(Type::Bool);
const OPTIONAL_BOOL: Kind = Kind::Optional(Type::Bool);

/// Workers, and threads in each, that can be asked for.
const MOST: std::ops::RangeInclusive<u64> = 1..=65535;

const ONLY_PYTHON: &str = "rsgi hosts Python WSGI applications only";
const ONLY_INI: &str = "rsgi reads ini files; write the same options as `name = value` below `[uwsgi]`";
const ONE_SHOT: &str = "rsgi has no such command; it only serves";
const NO_JAIL: &str =
    "rsgi does not confine itself, and running without would be less safe than asked; use a container or systemd";

/// All rows, by area; what most configurations begin with comes first.
pub static AREAS: &[(&str, &[Row])] = &[
    ("config", config::CONFIG),
    ("python", python::PYTHON),
    ("sockets", network::SOCKETS),
    ("request", network::REQUEST),
    ("response", network::RESPONSE),
    ("http", network::HTTP_ROUTER),
    ("process", process::PROCESS),
    ("threads", process::THREADS),
    ("reload", process::RELOAD),
    ("limits", process::LIMITS),
    ("privileges", process::PRIVILEGES),
    ("logging", logging::LOGGING),
    ("plugins", config::PLUGINS),
    ("misc", config::MISC),
    ("debug", config::DEBUG),
    ("harakiri", process::HARAKIRI),
    ("cheaper", process::CHEAPER),
    ("loops", process::LOOPS),
    ("ssl", network::SSL),
    ("offload", network::OFFLOAD),
    ("websockets", network::WEBSOCKETS),
    ("static", network::STATIC),
    ("exceptions", python::EXCEPTIONS),
    ("stats", logging::STATS),
    ("metrics", logging::METRICS),
    ("alarms", logging::ALARMS),
    ("control", logging::CONTROL),
    ("cache", services::CACHE),
    ("cron", services::CRON),
    ("daemons", services::DAEMONS),
    ("spooler", services::SPOOLER),
    ("mules", services::MULES),
    ("signals", services::SIGNALS),
    ("ipc", services::IPC),
    ("queue", services::QUEUE),
    ("rpc", services::RPC),
    ("snmp", services::SNMP),
    ("multicast", services::MULTICAST),
    ("zerg", services::ZERG),
    ("routing", routing::ROUTING),
    ("corerouters", routing::COREROUTERS),
    ("subscription", routing::SUBSCRIPTION),
    ("emperor", fleet::EMPEROR),
    ("legion", fleet::LEGION),
    ("hooks", fleet::HOOKS),
    ("other-languages", foreign::OTHER_LANGUAGES),
    ("other-plugins", foreign::OTHER_PLUGINS),
];

/// All rows.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    AREAS.iter().flat_map(|(_, rows)| rows.iter())
}

static BY_NAME: LazyLock<HashMap<&'static str, &'static Row>> =
    LazyLock::new(|| rows().flat_map(|row| row.names().map(move |name| (name, row))).collect());

/// The row of an option by one of its names.
pub fn find(name: &str) -> Option<&'static Row> {
    BY_NAME.get(name).copied()
}

/// The row of an option by its letter.
pub fn find_short(letter: char) -> Option<&'static Row> {
    rows().find(|row| row.short == Some(letter))
}

/// The name that was probably meant by one that is not known.
pub fn nearest(name: &str) -> Option<&'static str> {
    let plain = name.replace('_', "-").to_ascii_lowercase();
    if let Some(row) = BY_NAME.get_key_value(plain.as_str()) {
        return Some(row.0);
    }
    let allowed = match plain.chars().count() {
        0..=3 => return None,
        4..=6 => 1,
        _ => 2,
    };
    let rank = |row: &Row| !matches!(row.action, Action::Supported(_) | Action::Early | Action::Always(_));
    rows()
        .flat_map(|row| row.names().map(move |known| (row, known)))
        .map(|(row, known)| (strsim::damerau_levenshtein(&plain, known), rank(row), known))
        .filter(|(distance, ..)| *distance <= allowed)
        .min()
        .map(|(.., known)| known)
}
