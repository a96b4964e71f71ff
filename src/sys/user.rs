//! Users and groups of the system.

use nix::unistd::{Uid, User};

/// Whether this process may do everything (root).
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Login name of a user id, for supplementary groups.
pub fn name_of(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

/// User id and primary group of a login name.
pub fn by_name(name: &str) -> Option<(u32, u32)> {
    User::from_name(name).ok().flatten().map(|user| (user.uid.as_raw(), user.gid.as_raw()))
}

/// Group id of a group name.
pub fn group_by_name(name: &str) -> Option<u32> {
    nix::unistd::Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw())
}

/// Primary group of a user id.
pub fn primary_group(uid: u32) -> Option<u32> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.gid.as_raw())
}

/// Name of a group id.
pub fn group_name_of(gid: u32) -> Option<String> {
    nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid)).ok().flatten().map(|group| group.name)
}

/// This process's effective user and group id.
pub fn own() -> (u32, u32) {
    (Uid::effective().as_raw(), nix::unistd::Gid::effective().as_raw())
}

/// Name of this machine.
pub fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned())
}
