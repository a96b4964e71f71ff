//! What is configured about the rights of the server, the limits it sets for itself, and its place in the system:
//! groups, capabilities, a new root, pid files, the background.

use std::path::PathBuf;

use super::Settings;
use super::draft::{Draft, Setting};

/// Whom the server becomes besides `uid` and `gid`, and what it keeps and limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// `add-gid`.
    pub groups: Vec<u32>,
    /// `no-initgroups`: the groups that the system knows for the user are left out.
    pub no_initgroups: bool,
    /// `master-as-root`: the workers alone become another user, each at its birth.
    pub master_as_root: bool,
    /// `drop-after-apps`: the first import is done as root.
    pub drop_after_apps: bool,
    /// `immediate-uid`, and the user's login name.
    pub immediate_uid: Option<(u32, Option<String>)>,
    /// `immediate-gid`.
    pub immediate_gid: Option<u32>,
    /// `chroot`.
    pub chroot: Option<PathBuf>,
    /// `cap`: numbers of the capabilities that are kept; none is without the option.
    pub capabilities: Option<Vec<u8>>,
    /// `limit-as`, in bytes.
    pub limit_as: Option<u64>,
    /// `limit-nproc`.
    pub limit_nproc: Option<u64>,
    /// `cpu-affinity`: processors for each worker; 0: as it comes.
    pub cpu_affinity: u32,
}

impl Privileges {
    /// Whether the master becomes another user before anything of the application runs.
    pub fn given_up_at_once(&self) -> bool {
        !self.master_as_root && !self.drop_after_apps
    }
}

/// Pid files besides `pidfile`, absolute.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidFiles {
    /// `pidfile2`: made when privileges were given up.
    pub second: Option<PathBuf>,
    /// `safe-pidfile`: made before that, and written when all workers are ready.
    pub safe: Option<PathBuf>,
    /// `safe-pidfile2`: made after that, and written when all workers are ready.
    pub safe_second: Option<PathBuf>,
}

/// When whoever started the server gets the terminal back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// `daemonize`: when the sockets are bound.
    WhenBound,
    /// `daemonize2`: when the workers are ready.
    WhenReady,
}

/// Capabilities by their numbers (capabilities(7)), without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

fn capability(name: &str) -> Option<u8> {
    let name = name.trim().to_ascii_lowercase();
    let name = name.strip_prefix("cap_").unwrap_or(&name);
    CAPABILITIES.iter().position(|known| *known == name).map(|number| number as u8)
}

impl Draft<'_> {
    pub(super) fn add_gid(&mut self, s: &Setting) {
        let group = self.find_group(s, &s.value);
        self.settings.privileges.groups.extend(group);
    }

    pub(super) fn immediate_uid(&mut self, s: &Setting) {
        if let Some(user) = self.find_user(s, &s.value) {
            self.settings.privileges.immediate_uid = Some(user);
        }
    }

    pub(super) fn immediate_gid(&mut self, s: &Setting) {
        if let Some(group) = self.find_group(s, &s.value) {
            self.settings.privileges.immediate_gid = Some(group);
        }
    }

    pub(super) fn capabilities(&mut self, s: &Setting) {
        let kept = &mut self.settings.privileges.capabilities;
        let mut numbers = kept.take().unwrap_or_default();
        for name in s.value.split(',') {
            match capability(name) {
                Some(number) => numbers.push(number),
                None => {
                    let expected = "names of capabilities (capabilities(7)) with commas between, as net_bind_service";
                    return self.error(s, expected);
                }
            }
        }
        self.settings.privileges.capabilities = Some(numbers);
    }

    /// A limit of the system in units of `unit`; 0 is without one.
    pub(super) fn limit(&mut self, s: &Setting, unit: u64, field: fn(&mut Settings) -> &mut Option<u64>) {
        if let Some(number) = self.number::<u64>(s, 0..=u64::MAX / unit) {
            *field(&mut self.settings) = (number > 0).then_some(number * unit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_the_numbers_of_the_kernel() {
        for (name, number) in [("chown", 0), ("net_bind_service", 10), ("CAP_SYS_PTRACE", 19), ("bpf", 39)] {
            assert_eq!(capability(name), Some(number), "{name}");
        }
        assert_eq!(capability("everything"), None);
    }
}
