//! Carries out what is decided about daemons: starts, looks, signals.

use super::Todo;
use crate::config::daemons::Care;
use crate::master::children::Millis;
use crate::master::{Master, words};
use crate::sys;
use crate::sys::clock::monotonic_ms;
use crate::sys::fd;
use crate::sys::process::{self, End, Spawn};
use crate::sys::signal::Signal;
use crate::sys::user;

impl Master {
    /// The daemons of the generation that serves are wanted; at the end of the server none.
    pub(in crate::master) fn want_daemons(&mut self, any: bool) {
        let Some(settings) = self.serving_generation().map(|known| std::sync::Arc::clone(&known.settings)) else {
            return;
        };
        let mercy = settings.reload_mercy.as_millis() as Millis;
        self.daemons.want(if any { &settings.daemons } else { &[] }, mercy);
    }

    pub(in crate::master) fn daemons_at(&self) -> Option<Millis> {
        self.daemons.deadline()
    }

    pub(in crate::master) fn care_for_daemons(&mut self) {
        let now = monotonic_ms();
        for todo in self.daemons.todo(now) {
            match todo {
                Todo::Start(index) => self.start_daemon(index),
                Todo::Look(index, pid) => {
                    if !process::lives(pid) {
                        self.daemons.found(index, pid, false, now);
                    }
                }
                Todo::Find(index) => self.find_daemon(index, now),
                Todo::Expect(index, pid) => self.expect_daemon(index, pid),
                Todo::Terminate(pid, signal) => signal_daemon(pid, signal),
                Todo::Kill(pid) => {
                    log::warn!("daemon {pid} takes too long to end: killed");
                    process::signal_group(pid, Signal::SIGKILL);
                }
            }
        }
    }

    fn start_daemon(&mut self, index: usize) {
        let now = monotonic_ms();
        let Some(daemon) = self.daemons.entries.get(index).map(|entry| entry.daemon.clone()) else { return };
        if let Some(pid) = living(&daemon.care) {
            log::info!("{:?} runs as process {pid}", daemon.command);
            return self.daemons.found(index, pid, true, now);
        }
        // That the master is root still is for the application's sake (`drop-after-apps`).
        let serving = self.serving_generation().map(|known| &known.settings);
        let late = serving.filter(|settings| settings.privileges.drop_after_apps && user::is_root());
        let uid = daemon.uid.or_else(|| late.and_then(|settings| settings.uid));
        let how = Spawn {
            // It must not outlive a master that is killed.
            attached: matches!(daemon.care, Care::Attached | Care::Control),
            stdin: daemon.stdin,
            uid,
            // Root's would be too much for one that runs as somebody else.
            gid: daemon.gid.or_else(|| match daemon.uid {
                Some(uid) => user::primary_group(uid),
                None => late.and_then(|settings| settings.gid),
            }),
            folder: daemon.folder.as_deref(),
        };
        let (started, _) = fd::with_original_limit(|| process::spawn_shell(&daemon.command, how));
        match started {
            Ok(pid) => {
                log::info!("{:?} is started as process {pid}", daemon.command);
                if let Care::Smart2(file) = &daemon.care
                    && let Err(error) = std::fs::write(file, format!("{pid}\n"))
                {
                    log::error!("smart-attach-daemon2: {}: {}", file.display(), sys::describe(&error));
                }
                self.daemons.started(index, Some(pid), now);
            }
            Err(error) => {
                log::error!("{:?} cannot be started: {}", daemon.command, sys::describe(&error));
                self.daemons.started(index, None, now);
            }
        }
    }

    /// Looks for one that should be in the background by now.
    fn find_daemon(&mut self, index: usize, now: Millis) {
        let Some(daemon) = self.daemons.entries.get(index).map(|entry| entry.daemon.clone()) else { return };
        let Care::Smart(file) = &daemon.care else { return };
        if let Some(pid) = living(&daemon.care) {
            log::info!("{:?} runs as process {pid}", daemon.command);
            self.daemons.found(index, pid, true, now);
        } else if self.daemons.not_found(index, now) {
            let waited = words::duration(daemon.patience.as_millis() as Millis);
            log::warn!(
                "{:?} has ended, and {} names no living process after {waited}; it is started again",
                daemon.command,
                file.display()
            );
        }
    }

    /// One that should be in the background still runs: it may have written its pid file.
    fn expect_daemon(&self, index: usize, pid: i32) {
        let Some(daemon) = self.daemons.entries.get(index).map(|entry| &entry.daemon) else { return };
        if let (Care::Smart(file), None) = (&daemon.care, living(&daemon.care)) {
            log::warn!(
                "{:?} (pid {pid}) does not go into the background, and {} names no living process: let it do both, or use \
                 smart-attach-daemon2",
                daemon.command,
                file.display()
            );
        }
    }

    /// A file that a daemon is to notice was touched.
    pub(in crate::master) fn touch_daemon(&mut self, index: usize, path: &std::path::Path) {
        let daemon = self.serving_generation().and_then(|known| known.settings.daemons.get(index).cloned());
        let Some(daemon) = daemon else { return };
        if let Some((pid, signal)) = self.daemons.touched(&daemon, monotonic_ms()) {
            log::info!("{} was touched: {:?} (pid {pid}) gets signal {signal}", path.display(), daemon.command);
            signal_daemon(pid, signal);
        }
    }

    /// A reload is done.
    pub(in crate::master) fn reload_daemons(&self) {
        for (pid, signal) in self.daemons.reloaded() {
            log::debug!("daemon {pid} gets signal {signal}: the server has reloaded");
            signal_daemon(pid, signal);
        }
    }

    /// A process ended: true when it was a daemon.
    pub(in crate::master) fn bury_daemon(&mut self, pid: i32, end: End) -> bool {
        let Some((daemon, wait)) = self.daemons.ended(pid, end, monotonic_ms()) else { return false };
        let what = format!("{:?} (pid {pid}) {end}", daemon.command);
        match (&daemon.care, wait) {
            (_, None) => log::info!("{what}"),
            (Care::Control, _) => {
                log::info!("{what}: stopping (attach-control-daemon)");
                self.children.stop();
            }
            (Care::Smart(_), Some(_)) if end == End::Code(0) => {
                log::debug!("{what}: it should be in the background now")
            }
            (_, Some(0)) => log::warn!("{what}; it is started again"),
            (_, Some(wait)) => log::warn!("{what}; it is started again in {}", words::duration(wait)),
        }
        true
    }
}

/// The process that a pid file names, if it lives.
fn living(care: &Care) -> Option<i32> {
    let (Care::Smart(file) | Care::Smart2(file)) = care else { return None };
    let pid = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    process::lives(pid).then_some(pid)
}

/// Sends a signal to a daemon and what it has started; to itself alone where it leads no group.
fn signal_daemon(pid: i32, number: i32) {
    let Some(signal) = process::signal_by_number(number) else {
        return log::warn!("daemon {pid} gets no signal {number}: the system does not know it");
    };
    if !process::signal_group(pid, signal) {
        process::send_signal(pid, signal);
    }
}
