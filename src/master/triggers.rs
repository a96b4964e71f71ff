//! Wishes of the operator that come by other ways than signals: letters in the fifo, files that change.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::Master;
use super::command::{self, Command};
use super::reload::How;
use crate::config::hooks::Deed;
use crate::config::{Settings, Touch};
use crate::control::{Imported, ToWorker};
use crate::logging::relay::Renewal;
use crate::sys;
use crate::sys::clock::monotonic_ms;
use crate::sys::fd;
use crate::sys::process::{self, End, Spawn};

/// A deployment changes many files: the reload waits until so long nothing has changed,
const QUIET: u64 = 200;
/// but no longer than that.
const PATIENCE: u64 = 2_000;

/// A reload because files changed, once they are quiet.
pub(super) struct Planned {
    cause: String,
    at: u64,
    latest: u64,
}

impl Master {
    /// Watches what the generation that serves wants to have watched.
    pub(super) fn watch_files(&mut self) {
        let serving = self.children.serving();
        let Some(generation) = self.generations.iter().find(|known| known.number == serving) else { return };
        let triggers = &generation.settings.triggers;
        let dir = generation.settings.chdir.as_ref().unwrap_or(&self.start_dir);
        let touch = triggers.touch.iter().map(|(path, what)| (dir.join(path), *what)).collect();
        let folders = triggers.folders.iter().map(|path| dir.join(path)).collect();
        let changed = self.watch.set(touch, folders, &generation.modules);
        self.plan(changed);
    }

    /// A list of imported modules came.
    pub(super) fn hear_modules(&mut self, number: u32, list: Option<OwnedFd>) {
        let mut bytes = Vec::new();
        // One that sends a list without a file, or a huge one, is not worth more than a line.
        let read = list.is_some_and(|list| File::from(list).take(1 << 24).read_to_end(&mut bytes).is_ok());
        if !read {
            log::warn!("the modules of generation {number} cannot be read");
            return;
        }
        let Some(generation) = self.generation(number) else { return };
        let known: HashSet<&Path> = generation.modules.iter().map(|module| module.path.as_path()).collect();
        let mut new = Imported::decode_all(&bytes);
        new.retain(|file| !known.contains(file.path.as_path()));
        generation.modules.extend(new.iter().cloned());
        if number == self.children.serving() {
            let is_first = self.watch.descriptor().is_none();
            match is_first {
                true => self.watch_files(),
                false => {
                    let changed = self.watch.add_modules(&new);
                    self.plan(changed);
                }
            }
        }
    }

    pub(super) fn hear_files(&mut self) {
        let seen = self.watch.look();
        self.plan(seen.changed);
        for (path, what) in seen.touched {
            let command = match what {
                Touch::Reload => Command::Reload,
                Touch::Chain => Command::ChainReload,
                Touch::Workers => Command::ReloadWorkers,
                Touch::Daemon(index) => {
                    self.touch_daemon(index, &path);
                    continue;
                }
                Touch::Hook(index) => {
                    self.run_touch_hook(index, &path);
                    continue;
                }
                Touch::ReopenLog => Command::ReopenLog,
                Touch::RotateLog => Command::RotateLog,
            };
            self.obey(command, &format!("{} was touched", path.display()));
        }
    }

    /// Carries out a hook because a file was touched. A program runs beside the server: the master waits for nobody.
    fn run_touch_hook(&mut self, index: usize, path: &Path) {
        let Some(settings) = self.serving_generation().map(|known| std::sync::Arc::clone(&known.settings)) else {
            return;
        };
        let Some(hook) = settings.hooks.get(index) else { return };
        log::info!("{} was touched: {}", path.display(), hook.shown);
        match &hook.deed {
            Deed::Exec(command, _) => self.run_command(command),
            _ => {
                if let Err(why) = (self.hooks.deed)(hook) {
                    log::error!("{}: {why}", hook.shown);
                }
            }
        }
    }

    /// Starts a program that nobody waits for.
    fn run_command(&mut self, command: &str) {
        match fd::with_original_limit(|| process::spawn_shell(command, Spawn { attached: true, ..Spawn::default() })).0
        {
            Ok(pid) => self.commands.push((pid, command.to_owned())),
            Err(error) => log::error!("{command:?} cannot be started: {}", sys::describe(&error)),
        }
    }

    /// A process ended: true when it was one of those programs.
    pub(super) fn bury_command(&mut self, pid: i32, end: End) -> bool {
        let Some(at) = self.commands.iter().position(|(known, _)| *known == pid) else { return false };
        let (_, command) = self.commands.swap_remove(at);
        match end {
            End::Code(0) => log::info!("{command:?} (pid {pid}) is done"),
            _ => log::warn!("{command:?} (pid {pid}) {end}"),
        }
        true
    }

    /// A file has changed: a reload follows when it's quiet.
    fn plan(&mut self, changed: Option<PathBuf>) {
        let now = monotonic_ms();
        if let Some(path) = changed {
            let planned = self.planned.get_or_insert_with(|| Planned {
                cause: format!("{} has changed", path.display()),
                at: 0,
                latest: now + PATIENCE,
            });
            planned.at = (now + QUIET).min(planned.latest);
        }
    }

    /// When that is. Not before the end of a reload under way: files that change all the time would let none come to its end.
    pub(super) fn planned_at(&self) -> Option<u64> {
        self.planned.as_ref().filter(|_| self.children.incoming().is_none()).map(|planned| planned.at)
    }

    /// Carries out a reload that was put off, when its time has come.
    pub(super) fn reload_as_planned(&mut self) {
        if self.planned_at().is_some_and(|at| at <= monotonic_ms())
            && let Some(planned) = self.planned.take()
        {
            self.obey(Command::Reload, &planned.cause);
        }
    }

    pub(super) fn hear_fifo(&mut self) {
        let mut unknown = 0_usize;
        for byte in self.fifos.read() {
            match command::letter(byte) {
                // What was never meant for the fifo does not fill the log.
                Some(Command::Nothing(_)) if unknown > 0 => unknown += 1,
                Some(command) => {
                    unknown += usize::from(matches!(command, Command::Nothing(_)));
                    self.obey(command, &format!("{} in the master fifo", char::from(byte).escape_default()));
                }
                None => {}
            }
        }
        if unknown > 1 {
            log::warn!(
                "{} more of what was written to the master fifo is ignored",
                super::words::count((unknown - 1) as u64, "letter")
            );
        }
    }

    /// Carries out a command; `cause` says where it came from.
    pub(super) fn obey(&mut self, command: Command, cause: &str) {
        match command {
            Command::Reap => {}
            Command::Nothing(why) => log::warn!("{cause} is ignored: {why}"),
            Command::Status => self.tell_status(),
            Command::Stop if !self.children.stopping() => {
                log::info!("{cause}: stopping; requests in flight are answered first");
                self.children.heard_signal(monotonic_ms());
                self.children.stop();
            }
            Command::Stop | Command::End => {
                log::info!("{cause}: stopping at once");
                self.children.end();
            }
            Command::Reload | Command::ChainReload | Command::ReloadWorkers | Command::Upgrade
                if self.children.stopping() =>
            {
                log::warn!("{cause} is ignored: the server stops");
            }
            Command::Reload | Command::ChainReload if self.ends_on_reload() => {
                log::info!("{cause}: exit-on-reload, so the server stops instead of reloading");
                self.obey(Command::Stop, cause);
            }
            Command::Reload => {
                self.pause(false, cause);
                self.children.heard_signal(monotonic_ms());
                self.reload(cause, How::Together);
            }
            Command::ChainReload => {
                self.pause(false, cause);
                self.reload(cause, How::Chain);
            }
            Command::Upgrade => {
                self.pause(false, cause);
                self.upgrade(cause);
            }
            Command::ReloadWorkers => {
                log::info!("{cause}: all workers are replaced");
                self.children.replace_all();
            }
            Command::Pause => self.pause(!self.paused && !self.children.stopping(), cause),
            Command::More | Command::Less | Command::GoCheap if self.children.stopping() => {}
            Command::More => self.scale_to(self.children.target() + 1, cause),
            Command::Less => self.scale_to(self.children.target().saturating_sub(1).max(1), cause),
            Command::GoCheap => self.scale_to(0, cause),
            Command::WritePidfile => self.write_pidfile(),
            Command::ReopenLog => self.renew_log(cause, Renewal::Reopen),
            Command::RotateLog => self.renew_log(cause, Renewal::Rotate),
            Command::Choose(slot) => match self.fifos.choose(slot) {
                Some(path) => log::info!("{cause}: commands are read from {} now", path.display()),
                None => log::warn!("{cause} is ignored: there is no such fifo"),
            },
        }
    }

    /// Tells all workers to pause or to go on.
    fn pause(&mut self, paused: bool, cause: &str) {
        if std::mem::replace(&mut self.paused, paused) == paused {
            return;
        }
        let word = if paused { ToWorker::Pause } else { ToWorker::Resume };
        for (_, control) in &self.controls {
            // Who cannot hear it is dying.
            let _ = fd::send(control, &word.encode(), None);
        }
        self.resize.begin_anew(monotonic_ms());
        match paused {
            true => log::warn!(
                "{cause}: paused; connections and requests wait until SIGTSTP or p in the master fifo comes again"
            ),
            false => log::info!("{cause}: the pause is over"),
        }
    }

    /// `exit-on-reload`
    fn ends_on_reload(&self) -> bool {
        let serving = self.children.serving();
        self.generations.iter().any(|known| known.number == serving && known.settings.exit_on_reload)
    }

    fn write_pidfile(&self) {
        let serving = self.children.serving();
        let settings = self.generations.iter().find(|known| known.number == serving).map(|known| &known.settings);
        let Some(path) = settings.and_then(|settings| settings.pidfile.as_deref()) else {
            log::warn!("there is no pidfile to write");
            return;
        };
        match std::fs::write(path, format!("{}\n", crate::sys::process::own_id())) {
            Ok(()) => log::info!("{} is written again", path.display()),
            Err(error) => log::error!("pidfile = {}: {}", path.display(), crate::sys::describe(&error)),
        }
    }
}

/// Where the fifos of a configuration are.
pub(super) fn fifo_paths(settings: &Settings, start_dir: &Path) -> Vec<PathBuf> {
    let dir = settings.chdir.as_deref().unwrap_or(start_dir);
    settings.triggers.fifos.iter().map(|path| dir.join(path)).collect()
}
