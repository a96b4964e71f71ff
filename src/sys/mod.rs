//! System calls, wrapped and small. Every `unsafe` of the project that is not CPython's stands in this
//! folder, each with the fact it relies on; nothing here knows anything else of the project.

pub mod accept;
pub mod cgroup;
pub mod clock;
pub mod epoll;
pub mod exec;
pub mod fd;
pub mod inotify;
pub mod memory;
pub mod mount;
pub mod privileges;
pub mod process;
pub mod scheduler;
pub mod signal;
pub mod socket;
pub mod user;
pub mod worker_signals;

/// A system error in the system's words, without Rust's `(os error N)`.
pub fn describe(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().into(),
        None => error.to_string(),
    }
}

/// Why a file that this process made could not be removed at its end.
pub fn why_it_stays(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "permission denied; with uid, its directory should be one that this user may write to".into()
        }
        _ => describe(error),
    }
}
