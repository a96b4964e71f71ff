//! Whom the server runs as: the user at once and the one after the sockets are bound, another root of the file system, and
//! what root should know. The steps themselves are in `sys::privileges`.

use std::fs::File;
use std::io;

use super::failure;
use super::files::Made;
use crate::config::Settings;
use crate::config::hooks::Phase;
use crate::hooks;
use crate::sys::privileges::{self, Identity};
use crate::sys::user;

/// `immediate-uid` and `immediate-gid`.
pub(super) fn become_at_once(settings: &Settings) -> Result<(), String> {
    let wanted = &settings.privileges;
    let option = if wanted.immediate_uid.is_some() { "immediate-uid" } else { "immediate-gid" };
    let (uid, login) = wanted.immediate_uid.clone().unzip();
    let identity = Identity {
        uid,
        gid: wanted.immediate_gid,
        login: login.flatten().filter(|_| !wanted.no_initgroups),
        ..Identity::default()
    };
    let taken = identity.may_be_taken().and_then(|()| identity.take());
    taken.map_err(|error| format!("{}: {error}", settings.place(option)))
}

/// Whom the configuration wants the server to be.
pub(super) fn identity(settings: &Settings) -> Identity {
    Identity {
        uid: settings.uid,
        gid: settings.gid,
        login: settings.user_name.clone().filter(|_| !settings.privileges.no_initgroups),
        groups: settings.privileges.groups.clone(),
        capabilities: settings.privileges.capabilities.clone(),
    }
}

/// The hooks of the time before privileges are given up, and the new root between them. Whether there is one, and the
/// pid files to be written later: those stand outside of it, as in uWSGI.
pub(super) fn change_root(settings: &Settings, made: &mut Made) -> Result<(bool, Vec<File>), String> {
    hooks::run(&settings.hooks, Phase::Asap)?;
    hooks::run(&settings.hooks, Phase::Files)?;
    hooks::run(&settings.hooks, Phase::PreJail)?;
    let mut safe = Vec::new();
    if let Some(folder) = &settings.privileges.chroot {
        made.make_pidfiles(settings, &mut safe)?;
        privileges::change_root(folder).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("{}: only root can change the root of the file system", settings.place("chroot"))
            }
            _ => failure(settings, "chroot", folder, &error),
        })?;
        log::info!("{} is the root of the file system from now on", folder.display());
    }
    for phase in [Phase::PostJail, Phase::InJail, Phase::BeforeRoot, Phase::AsRoot] {
        hooks::run(&settings.hooks, phase)?;
    }
    Ok((settings.privileges.chroot.is_some(), safe))
}

pub(super) fn settle(settings: &Settings, made: &mut Made, moved: bool, safe: &mut Vec<File>) -> Result<(), String> {
    if !moved {
        made.make_pidfiles(settings, safe)?;
    }
    if let Some(doubt) = user::is_root().then(|| doubt_of_user(settings)).flatten() {
        log::warn!("{doubt}");
    }
    if settings.privileges.given_up_at_once() {
        identity(settings).take().map_err(|error| format!("{}: {error}", place_of_user(settings)))?;
    }
    made.add(settings, "pidfile2", settings.pidfiles.second.as_ref())?;
    safe.extend(made.add_empty(settings, "safe-pidfile2", settings.pidfiles.safe_second.as_ref())?);
    Ok(())
}

/// What root should know of the user that its server will run as.
fn doubt_of_user(settings: &Settings) -> Option<String> {
    match (settings.uid, settings.gid) {
        (None, _) => Some("the application runs as root; name another user with uid and gid".into()),
        (Some(uid), None) => Some(format!(
            "{}: the system knows no user {uid} and so no group of it: root's group is kept; name one with gid",
            settings.place("uid")
        )),
        (Some(_), Some(_)) => None,
    }
}

/// Where the configuration asks for another user or group.
pub(super) fn place_of_user(settings: &Settings) -> &str {
    let privileges = &settings.privileges;
    settings.place(match (settings.uid, settings.gid) {
        (Some(_), _) => "uid",
        (None, Some(_)) => "gid",
        _ if !privileges.groups.is_empty() => "add-gid",
        _ => "cap",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_told_what_it_keeps() {
        let settings = |uid, gid| Settings { uid, gid, ..Settings::default() };
        assert!(doubt_of_user(&settings(None, Some(1))).unwrap().contains("runs as root"));
        assert!(doubt_of_user(&settings(Some(4711), None)).unwrap().contains("no user 4711"));
        assert_eq!(doubt_of_user(&settings(Some(33), Some(33))), None);
    }
}
