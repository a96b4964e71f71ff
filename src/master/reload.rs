//! A reload: the configuration is read again, new sockets are bound, a new generation is prepared. What fails
//! on the way leaves the old one as it is.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::desk::Door;
use super::sockets::{Sockets, bind_options, open, same_file};
use super::{Generation, Master, words};
use crate::config::{Privileges, Settings};
use crate::net::listener::Listener;
use crate::scoreboard::Scoreboard;
use crate::sys;
use crate::sys::clock::monotonic_ms;
use crate::sys::process;

/// Goes to the directory of a configuration: `chdir`, else where rsgi was started.
///
/// # Errors
/// One line: where it was asked for, what went wrong.
pub fn enter(settings: &Settings, start_dir: &Path) -> Result<(), String> {
    let (place, dir) = match &settings.chdir {
        Some(dir) => (settings.place("chdir"), dir.as_path()),
        None => ("the directory rsgi was started in", start_dir),
    };
    // Whoever is there already may stay, even where this user could not go.
    if std::env::current_dir().is_ok_and(|now| now == dir) {
        return Ok(());
    }
    std::env::set_current_dir(dir).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "; create it",
            io::ErrorKind::PermissionDenied => "; this user must be able to enter it",
            _ => "",
        };
        format!("{place}: cannot go to {}: {}{hint}", dir.display(), sys::describe(&error))
    })
}

/// Options that a running server keeps although the new configuration has another value.
fn kept(old: &Settings, new: &Settings) -> Vec<&'static str> {
    // Each worker sees to its processors for itself.
    let fixed = |privileges: &Privileges| Privileges { cpu_affinity: 0, ..privileges.clone() };
    [
        ("logto", old.logto != new.logto),
        ("logto2", old.logs.late_file != new.logs.late_file),
        ("log-master (or what needs it, as logger)", old.logs.need_relay() != new.logs.need_relay()),
        (
            "whether there is a req-logger",
            old.logs.need_relay()
                && new.logs.need_relay()
                && old.logs.request_loggers.is_empty() != new.logs.request_loggers.is_empty(),
        ),
        ("pidfile", old.pidfile != new.pidfile),
        ("uid", old.uid != new.uid),
        ("gid", old.gid != new.gid),
        ("add-gid, cap, chroot or limits", fixed(&old.privileges) != fixed(&new.privileges)),
        ("pidfile2 or safe-pidfile", old.pidfiles != new.pidfiles),
        ("daemonize", old.background != new.background),
        ("max-fd", old.max_fd != new.max_fd),
        ("listen (of sockets that stay)", old.listen != new.listen),
        ("chmod-socket (of sockets that stay)", old.chmod_socket != new.chmod_socket),
        ("chown-socket (of sockets that stay)", old.chown_socket != new.chown_socket),
        ("master-fifo", old.triggers.fifos != new.triggers.fifos),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect()
}

/// Whom the processes are was settled at the start: with `master-as-root` by what each worker finds in its settings.
fn keep_identity(old: &Settings, new: &mut Settings) {
    (new.uid, new.gid, new.user_name) = (old.uid, old.gid, old.user_name.clone());
    new.privileges = Privileges { cpu_affinity: new.privileges.cpu_affinity, ..old.privileges.clone() };
}

/// How the workers of the new generation take the places of the old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// All at once.
    Together,
    /// One after the other.
    Chain,
}

impl Master {
    /// Begins a reload; `cause` says who wanted it.
    pub(super) fn reload(&mut self, cause: &str, how: How) {
        self.planned = None;
        if self.trial.is_some() {
            log::info!("{cause}: the upgrade under way is given up for a reload");
            self.give_up_trial();
        }
        if let Some(number) = self.children.incoming() {
            log::info!("{cause}: the reload under way is given up for a new one");
            self.children.abort_reload();
            self.drop_sockets(number);
        } else {
            log::info!("{cause}: reloading");
        }
        self.notifier.reloading(cause);
        if let Err(errors) = self.prepare(how) {
            for error in &errors {
                log::error!("{error}");
            }
            log::error!("reload failed; generation {} goes on serving as before", self.children.serving());
            self.watch.any_module = true;
            self.reloads.fail(&errors.join("; "), "");
            self.go_home();
        }
    }

    /// Reads, goes to the new directory, binds, and puts the new generation in place.
    fn prepare(&mut self, how: How) -> Result<(), Vec<String>> {
        let mut settings = (self.hooks.read)()?;
        enter(&settings, &self.start_dir).map_err(|error| vec![error])?;
        process::set_umask(settings.umask);
        let serving = self.children.serving();
        let existing: Vec<Listener> = self
            .generations
            .iter()
            .filter(|generation| generation.number == serving)
            .flat_map(|g| g.listeners.iter().chain(g.doors.iter().map(|(_, listener)| listener)))
            .chain(&self.parked)
            .map(Listener::try_clone)
            .collect::<Result<_, _>>()
            .map_err(|error| vec![format!("no descriptors left for a reload: {error}")])?;
        let (options, warning) = bind_options(&settings);
        if let Some(warning) = warning {
            log::warn!("{warning}");
        }
        let plan = super::plan(&settings, &self.start_dir)?;
        let Sockets { listeners, doors } = open(&settings, &self.passed, &existing, &options)?;
        let Some(old) = self.generations.iter().find(|generation| generation.number == serving) else {
            return Err(vec!["no generation serves".into()]);
        };
        let kept = kept(&old.settings, &settings);
        if !kept.is_empty() {
            log::warn!("a reload does not change {}: restart the server for that", kept.join(", "));
        }
        keep_identity(&old.settings, &mut settings);
        let shared = || -> io::Result<_> {
            let workers = settings.processes as usize;
            // By its size: after an upgrade the settings of old are not known.
            let sizes = (old.scoreboard.workers(), old.scoreboard.threads_per_worker());
            let same = sizes == (workers.max(1), settings.threads.max(1) as usize);
            let board = match same {
                true => Arc::clone(&old.scoreboard),
                false => Arc::new(Scoreboard::create(workers, settings.threads as usize)?),
            };
            let mut mailboxes = Arc::clone(&old.mailboxes);
            if mailboxes.len() < workers {
                let mut more = mailboxes.try_clone()?;
                more.extend(workers)?;
                mailboxes = Arc::new(more);
            }
            Ok((board, mailboxes))
        };
        let (scoreboard, mailboxes) =
            shared().map_err(|error| vec![format!("no room for {} workers: {error}", settings.processes)])?;
        self.last_generation += 1;
        match how {
            How::Together => self.children.begin_reload(self.last_generation, &settings),
            How::Chain => self.children.begin_chain_reload(self.last_generation, &settings),
        }
        self.generations.push(Generation {
            number: self.last_generation,
            settings: Arc::new(settings),
            listeners,
            doors,
            mailboxes,
            scoreboard,
            zygote: None,
            import_ms: 0,
            modules: Vec::new(),
            apart: false,
            have_served: std::collections::HashSet::new(),
            plan,
            began: monotonic_ms(),
        });
        Ok(())
    }

    /// Back to the directory and the mask of the generation that serves.
    pub(super) fn go_home(&self) {
        let serving = self.children.serving();
        let Some(generation) = self.generations.iter().find(|known| known.number == serving) else { return };
        process::set_umask(generation.settings.umask);
        if let Err(error) = enter(&generation.settings, &self.start_dir) {
            log::error!("{error}");
        }
    }

    /// The new generation serves: what only the old one had is given up.
    pub(super) fn promote(&mut self, number: u32) {
        let Some(index) = self.generations.iter().position(|generation| generation.number == number) else { return };
        let old: Vec<Listener> = self
            .generations
            .iter_mut()
            .filter(|generation| generation.number != number)
            .flat_map(|generation| std::mem::take(&mut generation.listeners))
            .collect();
        let old_doors: Vec<Door> = self
            .generations
            .iter_mut()
            .filter(|generation| generation.number != number)
            .flat_map(|generation| std::mem::take(&mut generation.doors))
            .collect();
        self.reloads.succeed();
        let generation = &self.generations[index];
        let took = words::duration(monotonic_ms() - generation.began);
        let workers = words::count(self.children.target().into(), "worker");
        log::info!("reload done after {took}: generation {number} serves with {workers}, the old workers retire");
        for listener in &generation.listeners {
            if !old.iter().any(|known| same_file(known, listener)) {
                log::info!("{}", words::listens(listener));
            }
        }
        (self.hooks.entitle)(&generation.settings);
        self.parked.retain(|parked| !generation.listeners.iter().any(|listener| same_file(listener, parked)));
        for listener in old {
            let doors = generation.doors.iter().map(|(_, listener)| listener);
            if generation.listeners.iter().chain(doors).any(|kept| same_file(kept, &listener)) {
                continue;
            }
            log::info!("{} is no longer listened on", listener.address);
            listener.turn_newcomers_away();
            if listener.inherited {
                self.parked.push(listener);
            } else {
                listener.remove_file();
            }
        }
        for (report, listener) in old_doors {
            let doors = generation.doors.iter().map(|(_, listener)| listener);
            if generation.listeners.iter().chain(doors).any(|kept| same_file(kept, &listener)) {
                continue;
            }
            log::info!("{} on {} is no longer answered", report.option(), listener.address);
            if listener.inherited {
                self.parked.push(listener);
            } else {
                listener.remove_file();
            }
        }
        for (report, listener) in &generation.doors {
            log::debug!("{} on {}", report.option(), listener.address);
        }
        let (plan, reopen) = match self.generation(number) {
            Some(generation) => (generation.plan.take(), generation.settings.logs.reopen),
            None => (None, false),
        };
        self.follow_log(plan, reopen);
        self.open_desk();
        self.watch_files();
        self.want_daemons(true);
        self.reload_daemons();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_cannot_change_is_named() {
        let old = Settings::default();
        let new = Settings { uid: Some(1), pidfile: Some("/run/x.pid".into()), processes: 4, ..Settings::default() };
        assert_eq!(kept(&old, &new), ["pidfile", "uid"]);
        assert!(kept(&old, &old).is_empty());
    }

    #[test]
    fn workers_of_a_root_master_are_the_same_user_after_a_reload() {
        let privileges = Privileges { master_as_root: true, ..Privileges::default() };
        let old = Settings { uid: Some(33), gid: Some(44), privileges: privileges.clone(), ..Settings::default() };
        let mut new = Settings { processes: 4, ..Settings::default() };
        new.privileges.cpu_affinity = 2;
        keep_identity(&old, &mut new);
        assert_eq!((new.uid, new.gid, new.processes), (Some(33), Some(44), 4));
        assert_eq!(new.privileges, Privileges { cpu_affinity: 2, ..privileges });
    }
}
