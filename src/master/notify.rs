//! What the master tells the service manager (sd_notify(3)): READY when requests are answered, RELOADING, STOPPING, a line
//! of STATUS, and WATCHDOG as long as a worker is ready and makes progress.
//!
//! A worker makes progress when it has answered the master since the last look, and has a thread to spare, or nobody
//! waits for one, or it has finished a request since. Nothing here ever waits: a datagram that is not taken is lost.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Master;
use super::children::{Millis, Phase};
use crate::control::ToWorker;
use crate::sys::clock::{monotonic_micros, monotonic_ms};
use crate::sys::{self, fd};

/// What the environment says of a service manager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manager {
    /// `NOTIFY_SOCKET`.
    pub socket: Option<String>,
    /// `WATCHDOG_USEC`, if it is meant for this process.
    pub watchdog: Option<Duration>,
}

impl Manager {
    /// Reads the variables of the environment.
    pub fn read(own_pid: u32, var: impl Fn(&str) -> Option<String>) -> Manager {
        let meant = var("WATCHDOG_PID").is_none_or(|pid| pid.trim().parse() == Ok(own_pid));
        let every = var("WATCHDOG_USEC").filter(|_| meant).and_then(|text| text.trim().parse().ok());
        Manager {
            socket: var("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()),
            watchdog: every.filter(|micros| *micros > 0).map(Duration::from_micros),
        }
    }
}

/// What a worker had done at a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    key: u32,
    requests: u64,
    /// All its threads are inside requests.
    busy: bool,
    /// Complete requests wait for a thread.
    waited_for: bool,
}

impl Look {
    /// Whether it is of use, if it was like `before` at the look before.
    fn is_progress(&self, before: Option<&Look>) -> bool {
        !self.busy || !self.waited_for || before.is_none_or(|before| before.requests != self.requests)
    }
}

/// What was told last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Ready,
    Reloading,
    Stopping,
}

#[derive(Default)]
pub(super) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    told: Told,
    /// How often the watchdog is told, and when next.
    every: Option<Millis>,
    next: Millis,
    looks: Vec<Look>,
    /// Keys of workers that were heard of since the last look.
    heard: Vec<u32>,
    /// The watchdog was told nothing at the last look.
    withheld: bool,
    /// There was a look.
    looked: bool,
}

fn address(name: &str) -> std::io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

impl Notifier {
    pub(super) fn new(manager: &Manager) -> Notifier {
        let Some(name) = &manager.socket else { return Notifier::default() };
        let open = || {
            let address = address(name)?;
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        };
        match open() {
            Ok(socket) => Notifier {
                socket: Some(socket),
                // As sd_watchdog_enabled(3) advises.
                every: manager.watchdog.map(|limit| (limit.as_millis() as Millis / 2).max(1)),
                ..Notifier::default()
            },
            Err(error) => {
                let error: std::io::Error = error;
                log::warn!("NOTIFY_SOCKET = {name}: {}; the service manager is told nothing", sys::describe(&error));
                Notifier::default()
            }
        }
    }

    fn send(&self, text: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            log::debug!("the service manager is not told {text:?}: {}", sys::describe(&error));
        }
    }

    /// A reload begins.
    pub(super) fn reloading(&mut self, cause: &str) {
        if self.told == Told::Stopping {
            return;
        }
        self.told = Told::Reloading;
        let cause: String = cause.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading: {cause}", monotonic_micros()));
    }

    /// Worker `key` was heard of.
    pub(super) fn heard(&mut self, key: u32) {
        if self.every.is_some() {
            self.heard.push(key);
        }
    }

    /// When the watchdog is to be told.
    pub(super) fn deadline(&self) -> Option<Millis> {
        (self.every.is_some() && self.told != Told::Nothing).then_some(self.next)
    }
}

impl Master {
    /// Tells the service manager where the server stands, if that has changed, and the watchdog when it is time.
    pub(super) fn notify(&mut self) {
        if self.notifier.socket.is_none() {
            return;
        }
        let target = self.children.target();
        let now = if self.children.stopping() {
            Told::Stopping
        } else if self.children.incoming().is_some() {
            Told::Reloading
        } else if self.children.booted() {
            Told::Ready
        } else {
            Told::Nothing
        };
        if now != self.notifier.told && now != Told::Reloading {
            let serving = self.children.serving();
            match now {
                Told::Stopping => self.notifier.send("STOPPING=1\nSTATUS=stopping; requests in flight are finished"),
                Told::Ready => {
                    let failed = match self.reloads.last {
                        "failed" => format!("; the last reload failed: {}", self.reloads.reason),
                        _ => String::new(),
                    };
                    let workers = super::words::count(target.into(), "worker");
                    self.notifier.send(&format!("READY=1\nSTATUS=generation {serving} serves with {workers}{failed}"));
                }
                _ => {}
            }
            self.notifier.told = now;
        }
        if self.notifier.deadline().is_some_and(|at| at <= monotonic_ms()) {
            self.tell_watchdog();
        }
    }

    fn tell_watchdog(&mut self) {
        let now = monotonic_ms();
        self.notifier.next = now + self.notifier.every.unwrap_or(Millis::MAX);
        let looks: Vec<Look> = self.children.workers().iter().filter_map(|worker| self.look_at(worker)).collect();
        let before = std::mem::take(&mut self.notifier.looks);
        let heard = std::mem::take(&mut self.notifier.heard);
        let fine = |look: &Look| {
            heard.contains(&look.key) && look.is_progress(before.iter().find(|before| before.key == look.key))
        };
        // Nobody is needed, or the first look: nobody was asked yet.
        let first = !std::mem::replace(&mut self.notifier.looked, true);
        let excused = first || self.children.target() == 0 || self.children.stopping();
        if excused || looks.iter().any(fine) {
            self.notifier.withheld = false;
            self.notifier.send("WATCHDOG=1");
        } else if !std::mem::replace(&mut self.notifier.withheld, true) {
            log::error!("no worker makes progress: the watchdog of the service manager is not told that all is well");
        }
        for look in &looks {
            if let Some((_, control)) = self.controls.iter().find(|(key, _)| *key == look.key) {
                // One that cannot hear it does not answer.
                let _ = fd::send(control, &ToWorker::Ping.encode(), None);
            }
        }
        self.notifier.looks = looks;
    }

    fn look_at(&self, worker: &super::children::Worker) -> Option<Look> {
        if worker.phase != Phase::Ready {
            return None;
        }
        let board = self.board(worker.generation)?;
        let slot = board.slot(worker.id, worker.lane);
        Some(Look {
            key: worker.key,
            requests: slot.requests().load(std::sync::atomic::Ordering::Relaxed),
            busy: slot.busy_threads() >= slot.threads(),
            waited_for: slot.waiting() > 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read() {
        let read = |vars: &[(&str, &str)]| {
            Manager::read(7, |name| vars.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string()))
        };
        assert_eq!(read(&[]), Manager::default());
        let found = read(&[("NOTIFY_SOCKET", "@x"), ("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "7")]);
        assert_eq!((found.socket.as_deref(), found.watchdog), (Some("@x"), Some(Duration::from_secs(2))));
        assert_eq!(read(&[("WATCHDOG_USEC", "5"), ("WATCHDOG_PID", "8")]).watchdog, None);
        assert_eq!(read(&[("WATCHDOG_USEC", "0")]).watchdog, None);
    }

    #[test]
    fn a_worker_that_finishes_nothing_while_requests_wait_makes_no_progress() {
        let look = |requests, busy, waited_for| Look { key: 1, requests, busy, waited_for };
        let stuck = look(3, true, true);
        assert!(!stuck.is_progress(Some(&stuck)));
        assert!(stuck.is_progress(None));
        assert!(stuck.is_progress(Some(&look(2, true, true))));
        assert!(look(3, false, true).is_progress(Some(&stuck)));
        assert!(look(3, true, false).is_progress(Some(&stuck)));
    }

    #[test]
    fn datagrams_reach_the_socket_that_was_named() {
        let name = format!("rsgi-notify-{}", std::process::id());
        let there = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut notifier = Notifier::new(&Manager { socket: Some(format!("@{name}")), watchdog: None });
        notifier.reloading("a\nb");
        let mut buffer = [0; 200];
        let len = there.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..len]).unwrap();
        assert!(text.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{text}");
        assert!(text.ends_with("\nSTATUS=reloading: a b"), "{text}");
        assert_eq!(notifier.deadline(), None);
    }
}
