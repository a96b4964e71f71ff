//! What the configuration has to know of the system, and reading it: at the start, again for a reload. The standard
//! input, users and groups are looked at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{self, Argument, Facts, Lookup, Settings};
use crate::logging::access::Format;
use crate::sys::user;

/// What the standard input held, which can be read only once.
static STDIN: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();

/// What was read from the standard input so far.
pub(super) fn stdin_so_far() -> Option<Vec<u8>> {
    STDIN.get().and_then(|read| read.as_ref().ok().cloned())
}

/// What a program before in this process has read from it.
pub(super) fn remember_stdin(bytes: Vec<u8>) {
    let _ = STDIN.set(Ok(bytes));
}

/// What the configuration has to know of the system.
pub(super) fn facts(start_directory: PathBuf, inherited_sockets: bool) -> Facts {
    let (uid, gid) = user::own();
    Facts {
        start_directory,
        environment: std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect(),
        hostname: user::host_name(),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        uid,
        gid,
        user_name: user::name_of(uid).unwrap_or_default(),
        group_name: user::group_name_of(gid).unwrap_or_default(),
        started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        binary: std::env::current_exe().unwrap_or_else(|_| "rsgi".into()),
        inherited_sockets,
        reloading: false,
        stdin: Box::new(|| {
            let read = STDIN.get_or_init(|| {
                let mut bytes = Vec::new();
                io::stdin().read_to_end(&mut bytes).map(|_| bytes).map_err(|error| error.to_string())
            });
            read.clone().map_err(io::Error::other)
        }),
        user: remembered(|text| {
            let (name, uid) = match text.parse() {
                Ok(uid) => (user::name_of(uid)?, uid),
                Err(_) => (text.to_string(), user::by_name(text)?.0),
            };
            Some(config::User { name, uid })
        }),
        group: remembered(user::group_by_name),
        log_format_mistake: |text| Format::parse(text).err(),
    }
}

/// What was found once is not looked for again: inside a `chroot` the system's lists are out of reach.
fn remembered<T: Clone + 'static>(look_up: fn(&str) -> Option<T>) -> Lookup<T> {
    let known: RefCell<HashMap<String, T>> = RefCell::default();
    Box::new(move |text| {
        if let Some(found) = known.borrow().get(text) {
            return Some(found.clone());
        }
        let found = look_up(text)?;
        known.borrow_mut().insert(text.to_string(), found.clone());
        Some(found)
    })
}

/// Reads the configuration again, for a reload.
pub(super) fn reader(arguments: Vec<Argument>, facts: Facts) -> Box<dyn FnMut() -> Result<Settings, Vec<String>>> {
    let facts = Facts { reloading: true, ..facts };
    Box::new(move || {
        let loaded = config::load(&arguments, &facts).map_err(|errors| configuration_errors(&errors))?;
        for warning in &loaded.warnings {
            log::warn!("{warning}");
        }
        Ok(complete(loaded.settings))
    })
}

pub(super) fn configuration_errors(errors: &[config::Error]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// What only the system knows: the group of the user that was named alone. Root's group would be too much for a
/// server that was to run as somebody else.
pub(super) fn complete(mut settings: Settings) -> Settings {
    if let (Some(uid), None) = (settings.uid, settings.gid) {
        settings.gid = user::primary_group(uid);
    }
    let privileges = &mut settings.privileges;
    if let (Some((uid, _)), None) = (&privileges.immediate_uid, privileges.immediate_gid) {
        privileges.immediate_gid = user::primary_group(*uid);
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_alone_brings_his_own_group() {
        let settings = complete(Settings { uid: Some(0), ..Settings::default() });
        assert_eq!(settings.gid, user::primary_group(0));
    }
}
