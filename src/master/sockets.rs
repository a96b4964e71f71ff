//! The listening sockets of the server: how those of a configuration are opened, and how they are closed without losing a
//! client that is just connecting. Accepting is the workers' part, answering at its own sockets the desk's.

use std::os::fd::RawFd;
use std::os::unix::fs::PermissionsExt;

use super::Master;
use super::desk::Door;
use crate::config::{Report, Settings};
use crate::net::address::Address;
use crate::net::listener::{self, BindOptions, Listener, SocketFile};
use crate::sys;
use crate::sys::clock::monotonic_ms;
use crate::sys::socket::somebody_connects_to;

/// How long a stop waits for clients whose connections are being made, and how often it looks.
const HANDSHAKE: u64 = 1_500;
const HANDSHAKE_TICK: u64 = 20;

/// The sockets of a configuration.
#[derive(Default)]
pub struct Sockets {
    /// Those of the application.
    pub listeners: Vec<Listener>,
    /// Those of the master itself: `stats`, `metrics-socket`, `control-socket`.
    pub doors: Vec<(Report, Listener)>,
}

impl Sockets {
    /// The files to remove when they are given up.
    pub fn files(self) -> Vec<SocketFile> {
        let doors = self.doors.into_iter().map(|(_, listener)| listener);
        self.listeners.into_iter().chain(doors).filter_map(|listener| listener.unlink).collect()
    }
}

/// How the sockets of a configuration are bound; a warning when the queue is shorter than asked.
pub fn bind_options(settings: &Settings) -> (BindOptions, Option<String>) {
    let (backlog, warning) = listener::backlog(settings.listen);
    let options = BindOptions {
        backlog,
        mode: settings.chmod_socket,
        chown: settings.chown_socket.as_ref().map(|owner| (owner.uid, owner.gid)),
        runs_as: (settings.uid, settings.gid),
        v6_only: false,
    };
    (options, warning)
}

/// Binds the sockets of a configuration; those of `existing` that are wanted again are cloned.
///
/// # Errors
/// All that went wrong, one line each; nothing is bound then.
pub fn open(
    settings: &Settings,
    passed: &[RawFd],
    existing: &[Listener],
    options: &BindOptions,
) -> Result<Sockets, Vec<String>> {
    let reports = settings.report_sockets();
    let own = reports.iter().map(|(_, socket)| socket.clone());
    let wanted: Vec<_> = settings.sockets.iter().cloned().chain(own).collect();
    let wanted =
        listener::with_systemd(&wanted, passed, settings.inherited_protocol, settings.inherited_proxy_protocol);
    let mut listeners = listener::open(&wanted, existing, options)?;
    let at = settings.sockets.len();
    let doors = listeners.drain(at..at + reports.len());
    let doors: Vec<Door> = reports.iter().map(|(report, _)| *report).zip(doors).collect();
    doors.iter().filter(|(report, _)| *report == Report::Control).for_each(|(_, listener)| keep_private(listener));
    listeners.iter().for_each(|listener| listener.defer_accept(settings.defer_accept));
    Ok(Sockets { listeners, doors })
}

/// For its owner alone, whatever `chmod-socket` says. (Whoever gets by that is asked who he is all the same.)
fn keep_private(listener: &Listener) {
    if let Address::Unix(path) = &listener.address
        && let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
    {
        log::warn!("control-socket: the mode of {} cannot be set: {}", path.display(), sys::describe(&error));
    }
}

pub(super) fn same_file(one: &Listener, other: &Listener) -> bool {
    one.asked == other.asked && one.address == other.address
}

impl Master {
    /// From now on the workers alone have the listeners, and each closes its own when it finds nobody there any more. A
    /// client that came then and met a queue which is only held open would be reset with its request.
    pub(super) fn close_listeners(&mut self) {
        for listener in self.generations.iter_mut().flat_map(|generation| generation.listeners.drain(..)) {
            // Nobody finds it any more: what is in its queue now is all, and is answered.
            listener.turn_newcomers_away();
            if listener.is_own_tcp()
                && let Address::Tcp { port, .. } = listener.address
            {
                // But for who is connecting just now.
                self.opening.push(port);
                self.children.serve_until(monotonic_ms() + HANDSHAKE);
            }
            listener.remove_file();
        }
        self.parked.clear();
    }

    /// When all clients that had asked for a connection have it, the workers can stop. Gives when to look again.
    pub(super) fn look_at_handshakes(&mut self) -> Option<u64> {
        if !self.opening.iter().any(|port| somebody_connects_to(*port)) {
            self.opening.clear();
            self.children.serve_until(0);
            return None;
        }
        Some(monotonic_ms() + HANDSHAKE_TICK)
    }

    /// A generation that was prepared is given up: what was bound for it alone is closed and removed, an inherited
    /// socket is kept for a later one.
    pub(super) fn drop_sockets(&mut self, number: u32) {
        let serving = self.children.serving();
        let sockets = self.generation(number).map(|generation| {
            let doors = std::mem::take(&mut generation.doors).into_iter().map(|(_, listener)| listener);
            std::mem::take(&mut generation.listeners).into_iter().chain(doors).collect::<Vec<_>>()
        });
        let Some(old) = self.generations.iter().find(|generation| generation.number == serving) else { return };
        for listener in sockets.into_iter().flatten() {
            let doors = old.doors.iter().map(|(_, listener)| listener);
            if old.listeners.iter().chain(doors).chain(&self.parked).any(|kept| same_file(kept, &listener)) {
                continue;
            }
            if listener.inherited {
                self.parked.push(listener);
            } else {
                listener.remove_file();
            }
        }
        self.go_home();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_sockets_belong_to_whom_the_workers_run_as() {
        let settings = Settings { uid: Some(33), gid: Some(34), ..Settings::default() };
        let (options, _) = bind_options(&settings);
        assert_eq!((options.runs_as, options.chown), ((Some(33), Some(34)), None));
    }
}
