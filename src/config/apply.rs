//! The option table applied to the settings that were collected, and the checks of the whole.

use std::collections::{HashMap, HashSet};

use super::draft::{Draft, Setting, before_comment, is_true};
use super::error::{Error, Origin, Warning};
use super::gather::{Entry, Gathered, State};
use super::load::{Facts, Loaded};
use super::options::{self, Action, Kind, Row, Type};
use super::{Socket, Timeouts};
use crate::net::address::Address;
use crate::protocol::Protocol;

pub(super) fn apply(mut gathered: Gathered, facts: &Facts) -> Result<Loaded, Vec<Error>> {
    let mut draft = Draft::new(facts);
    draft.errors.append(&mut gathered.errors);
    draft.warnings.append(&mut gathered.warnings);
    let mut not_yet: Vec<(String, Origin)> = Vec::new();
    let mut unknown: HashSet<&str> = HashSet::new();
    let mut last: HashMap<&'static str, Setting> = HashMap::new();
    for entry in gathered.entries.iter().filter(|entry| entry.state == State::Plain) {
        let setting = Setting { key: entry.key.clone(), value: entry.value.clone(), origin: entry.origin.clone() };
        if setting.value.contains('\0') {
            draft.errors.push(Error::new(&setting.origin, &setting.key, "text", "a NUL byte in it"));
            continue;
        }
        let Some(row) = options::find(&entry.key) else {
            if gathered.strict || (!gathered.used.contains(&entry.key) && unknown.insert(&entry.key)) {
                report_unknown(&mut draft, &setting, gathered.strict);
            }
            continue;
        };
        match row.action {
            Action::Supported(setter) => {
                look_twice(&mut draft, row, &setting);
                if !row.listed
                    && let Some(before) = last.insert(row.name, setting.clone())
                {
                    overridden(&mut draft, &before, &setting);
                }
                draft.settings.places.insert(row.name, setting.origin.place(&setting.key));
                setter(&mut draft, &setting);
            }
            Action::Checked(_, setter) => setter(&mut draft, &setting),
            Action::Always(why) => {
                if !draft.flag(&setting) {
                    draft.warn(&setting, format!("{} = {} has no effect: {why}", setting.key, setting.value));
                }
            }
            Action::NoEffect(why) => {
                let note = Warning::new(&setting.origin, format!("{} has no effect: {why}", setting.key));
                draft.notes.push(note);
            }
            Action::NotYet => {
                if is_asked(row, &setting) && !not_yet.iter().any(|(key, _)| *key == setting.key) {
                    not_yet.push((setting.key.clone(), setting.origin.clone()));
                }
            }
            Action::Refused(_) if !is_asked(row, &setting) => {}
            Action::Refused(instead) => {
                draft.errors.push(Error::plain(&setting.origin, format!("{} is refused: {instead}", setting.key)));
            }
            Action::Early => {
                draft.flag(&setting);
            }
        }
    }
    if !not_yet.is_empty() {
        let names: Vec<_> = not_yet.iter().map(|(key, origin)| format!("{key} ({origin})")).collect();
        let message = format!("options that rsgi knows but does not act on yet: {}", names.join(", "));
        draft.warnings.push(Warning::new(&Origin::Whole, message));
    }
    let keys: Vec<_> = not_yet.iter().map(|(key, _)| key.as_str()).collect();
    finish(&mut draft, &keys);
    if !draft.errors.is_empty() {
        Origin::sort(&mut draft.errors, |error| &error.origin);
        return Err(draft.errors);
    }
    Origin::sort(&mut draft.warnings, |warning| &warning.origin);
    let shown = gathered.entries.iter().any(|entry| entry.key == "show-config" && is_true(&entry.value));
    Ok(Loaded {
        settings: draft.settings,
        warnings: draft.warnings,
        notes: draft.notes,
        files: gathered.files,
        shown: shown.then(|| show(&gathered.entries)),
    })
}

/// False for a flag that asks for nothing.
fn is_asked(row: &Row, setting: &Setting) -> bool {
    row.kind != Kind::Flag || is_true(&setting.value)
}

fn report_unknown(draft: &mut Draft<'_>, setting: &Setting, strict: bool) {
    let near = options::nearest(&setting.key);
    draft.misspelt.extend(near.map(|near| (setting.clone(), near)));
    let hint = near.map(|near| format!("did you mean {near:?}?"));
    if strict {
        let error = Error::new(&setting.origin, "", "an option (strict)", format!("{:?}", setting.key));
        let hint = hint.unwrap_or_else(|| "a placeholder is made with set-placeholder".into());
        draft.errors.push(error.hint(hint));
        return;
    }
    let hint = hint.unwrap_or_else(|| "no %(...) uses it either".into());
    draft.warn(setting, format!("unknown option {:?} is ignored ({hint})", setting.key));
}

/// Names what is legal and probably not meant.
fn look_twice(draft: &mut Draft<'_>, row: &Row, setting: &Setting) {
    let (Kind::Required(of) | Kind::Optional(of)) = row.kind else { return };
    if of == Type::Number || row.name == "log-format" {
        return;
    }
    let value = setting.value.as_str();
    if before_comment(value).is_some() {
        let message = format!("comments stand on lines of their own: the value of {} is {value:?}", setting.key);
        draft.warn(setting, message);
    }
    if value.len() > 1 && ['"', '\''].iter().any(|quote| value.starts_with(*quote) && value.ends_with(*quote)) {
        draft.warn(setting, format!("the quotes are part of the value of {}: {value}", setting.key));
    }
}

/// As in uWSGI, a file named without `--ini` is read after all options, and its values win.
fn overridden(draft: &mut Draft<'_>, before: &Setting, now: &Setting) {
    if let (Origin::Argument(argument), Origin::File(..)) = (&before.origin, &now.origin)
        && before.value != now.value
    {
        let message = format!("{argument} {} has no effect: {} = {} is read later", before.value, now.key, now.value);
        draft.warn(now, message);
    }
}

/// What can be said only when everything is known.
fn finish(draft: &mut Draft<'_>, not_yet: &[&str]) {
    let protocol = draft.protocol.unwrap_or(Protocol::Uwsgi);
    draft.settings.inherited_protocol = protocol;
    draft.settings.inherited_proxy_protocol = draft.proxy_protocol.own && protocol == Protocol::Http;
    for socket in std::mem::take(&mut draft.sockets) {
        let before = draft.settings.sockets.iter().find(|known| known.address == socket.address);
        if let Some(before) = before
            && !matches!(socket.address, Address::Tcp { port: 0, .. })
        {
            let sentence = format!("{} is asked for twice, here and at {}", socket.address, before.origin);
            draft.errors.push(Error::plain(&socket.origin, sentence));
            continue;
        }
        let protocol = socket.protocol.unwrap_or(protocol);
        let asked = if socket.routed { draft.proxy_protocol.routed } else { draft.proxy_protocol.own };
        draft.settings.sockets.push(Socket {
            address: socket.address,
            protocol,
            proxy_protocol: asked && protocol == Protocol::Http,
            origin: socket.origin.to_string(),
        });
    }
    let written = &draft.timeouts;
    let default = draft.settings.timeouts.clone();
    draft.settings.timeouts = Timeouts {
        head: written.head.or(written.all).unwrap_or(default.head),
        body: written.http.or(written.all).unwrap_or(default.body),
        body_rate: default.body_rate,
        write: written.http.or(written.all).unwrap_or(default.write),
        keep_alive: written.keep_alive.or(written.all).unwrap_or(default.keep_alive),
        linger: written.linger.unwrap_or(default.linger),
    };

    draft.check_lifecycle();
    draft.check_cheaper();

    // After mistakes it is not known whether something is missing.
    if !draft.errors.is_empty() {
        return;
    }
    let misspelt = std::mem::take(&mut draft.misspelt);
    let mentioned = |others: &[&str], meant: &[&str]| {
        let found = not_yet.iter().filter(|key| others.contains(key)).map(|key| format!("{key} is not supported yet"));
        let near = misspelt.iter().filter(|(_, near)| meant.contains(near));
        let near = near.map(|(s, near)| format!("{}: did you mean {near:?} by {:?}?", s.origin, s.key));
        let hints: Vec<_> = found.chain(near).collect();
        (!hints.is_empty()).then(|| hints.join("; "))
    };
    let mut missing = |sentence: &str, hint: Option<String>| {
        let error = Error::plain(&Origin::Whole, sentence);
        draft.errors.push(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        });
    };
    let settings = &draft.settings;
    if settings.sockets.is_empty() && !draft.facts.inherited_sockets {
        missing(
            "nothing to serve: add http-socket = 127.0.0.1:8000, or socket = /path/to.sock behind nginx",
            mentioned(OTHER_SOCKETS, SOCKETS),
        );
    }
    if settings.need_app && settings.module.is_none() && settings.wsgi_file.is_none() && settings.mounts.is_empty() {
        missing(
            "no application: add module = package.module:callable, wsgi-file = app.py, or need-app = false",
            mentioned(OTHER_LOADERS, LOADERS),
        );
    }
}

const SOCKETS: &[&str] =
    &["socket", "uwsgi-socket", "http-socket", "http11-socket", "http", "scgi-socket", "fastcgi-socket"];
const LOADERS: &[&str] = &["module", "wsgi", "wsgi-file", "file", "mount"];
const OTHER_SOCKETS: &[&str] = &[
    "https-socket",
    "https",
    "https2",
    "suwsgi-socket",
    "ssl-socket",
    "puwsgi-socket",
    "raw-socket",
    "shared-socket",
    "undeferred-shared-socket",
    "emperor",
];
const OTHER_LOADERS: &[&str] =
    &["paste", "ini-paste", "ini-paste-logged", "eval", "pecan", "web3", "pump", "wsgi-lite", "emperor"];

/// All settings as ini text.
fn show(entries: &[Entry]) -> String {
    let mut text = String::from(";rsgi instance configuration\n[uwsgi]\n");
    for entry in entries {
        text += &format!("{} = {}\n", entry.key, entry.value);
    }
    text + ";end of configuration\n"
}
