//! What a process may do: users, groups, capabilities, limits, the root of the file system.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid};

/// Whom a process is to become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User; none: as it is.
    pub uid: Option<u32>,
    /// Group; none: as it is.
    pub gid: Option<u32>,
    /// The user whose supplementary groups are taken; without one there is none but `gid`.
    pub login: Option<String>,
    /// Supplementary groups besides.
    pub groups: Vec<u32>,
    /// Capabilities that are kept, by number; none: what the change of the user leaves.
    pub capabilities: Option<Vec<u8>>,
}

fn own() -> (u32, u32) {
    (Uid::effective().as_raw(), Gid::effective().as_raw())
}

impl Identity {
    /// Whether that is somebody else than this process is now.
    fn is_other(&self) -> bool {
        let now = own();
        self.uid.is_some_and(|uid| uid != now.0) || self.gid.is_some_and(|gid| gid != now.1)
    }

    /// Whether this process is, or can become, that.
    ///
    /// # Errors
    /// One line: why not.
    pub fn may_be_taken(&self) -> Result<(), String> {
        let now = own();
        match !self.is_other() || now.0 == 0 {
            true => Ok(()),
            false => Err(format!(
                "this process runs as {}:{}, and only root can become another user; start it as root or \
                 remove uid and gid",
                now.0, now.1
            )),
        }
    }

    /// Becomes that for good.
    ///
    /// # Errors
    /// One line: which step, and what the system said.
    pub fn take(&self) -> Result<(), String> {
        let why = |step: &str, error: nix::Error| match error {
            nix::Error::EPERM => format!("{step}: only root can do that"),
            other => format!("{step}: {}", other.desc()),
        };
        if self.is_other() {
            self.take_groups().map_err(|error| why("cannot set supplementary groups", error))?;
            if self.capabilities.is_some() {
                nix::sys::prctl::set_keepcaps(true).map_err(|error| why("cannot keep capabilities", error))?;
            }
            if let Some(gid) = self.gid {
                nix::unistd::setgid(Gid::from_raw(gid))
                    .map_err(|error| why(&format!("cannot take gid {gid}"), error))?;
            }
            if let Some(uid) = self.uid {
                nix::unistd::setuid(Uid::from_raw(uid))
                    .map_err(|error| why(&format!("cannot take uid {uid}"), error))?;
                if uid != 0 && nix::unistd::setuid(Uid::from_raw(0)).is_ok() {
                    return Err(format!("uid {uid} was taken, but root can be had back"));
                }
            }
        } else if !self.groups.is_empty() {
            self.add_groups().map_err(|error| why("cannot set supplementary groups (add-gid)", error))?;
        }
        match &self.capabilities {
            Some(kept) => set_capabilities(kept).map_err(|error| {
                format!(
                    "cannot keep these capabilities alone (cap): {}; only root has all of them",
                    super::describe(&error)
                )
            }),
            None => Ok(()),
        }
    }

    fn take_groups(&self) -> nix::Result<()> {
        let group = Gid::from_raw(self.gid.unwrap_or(own().1));
        match self.login.as_deref().and_then(|login| CString::new(login).ok()) {
            Some(login) => nix::unistd::initgroups(&login, group)?,
            None => nix::unistd::setgroups(&[group])?,
        }
        if self.groups.is_empty() { Ok(()) } else { self.add_groups() }
    }

    fn add_groups(&self) -> nix::Result<()> {
        let mut all = nix::unistd::getgroups()?;
        let before = all.len();
        for group in self.groups.iter().map(|group| Gid::from_raw(*group)) {
            if !all.contains(&group) {
                all.push(group);
            }
        }
        if all.len() == before { Ok(()) } else { nix::unistd::setgroups(&all) }
    }
}

/// `_LINUX_CAPABILITY_VERSION_3` (capset(2)): 64 bits in two words.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHead {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Keeps these capabilities of the ones that this thread has, and no other.
fn set_capabilities(kept: &[u8]) -> io::Result<()> {
    let head = CapabilityHead { version: CAPABILITY_VERSION, pid: 0 };
    let mut words = [CapabilityWord::default(); 2];
    for number in kept {
        let word = &mut words[usize::from(*number) / 32 % 2];
        let bit = 1 << (number % 32);
        word.effective |= bit;
        word.permitted |= bit;
        word.inheritable |= bit;
    }
    // SAFETY: the kernel reads a head and, for this version, two words, which live until the call returns.
    match unsafe { libc::syscall(libc::SYS_capset, &raw const head, words.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What [`limit`] limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// Bytes of address space.
    AddressSpace,
    /// Processes and threads of the user.
    Processes,
}

/// Sets a limit for good, also for what is started later.
///
/// # Errors
/// The system's: raising the hard limit needs privileges.
pub fn limit(what: Limited, wanted: u64) -> io::Result<()> {
    let resource = match what {
        Limited::AddressSpace => Resource::RLIMIT_AS,
        Limited::Processes => Resource::RLIMIT_NPROC,
    };
    // As in uWSGI the limit is a firm one.
    Ok(setrlimit(resource, wanted, wanted)?)
}

/// The soft limit, for messages.
pub fn limit_of(what: Limited) -> Option<u64> {
    let resource = match what {
        Limited::AddressSpace => Resource::RLIMIT_AS,
        Limited::Processes => Resource::RLIMIT_NPROC,
    };
    getrlimit(resource).ok().map(|(soft, _)| soft)
}

/// Makes `folder` the root of the file system, and goes there.
///
/// # Errors
/// The system's: that needs privileges.
pub fn change_root(folder: &Path) -> io::Result<()> {
    nix::unistd::chroot(folder)?;
    std::env::set_current_dir("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_made_what_he_is() {
        let now = own();
        let same = Identity { uid: Some(now.0), gid: Some(now.1), ..Identity::default() };
        assert_eq!((same.may_be_taken(), same.take()), (Ok(()), Ok(())));
        assert_eq!(Identity::default().take(), Ok(()));
    }
}
