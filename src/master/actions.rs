//! Carries out what `children` decides: forks zygotes, has them fork workers, tells workers to retire, kills.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::children::Action;
use super::desk::Desk;
use super::generation::Zygote;
use super::logs::Log;
use super::notify::Notifier;
use super::operator::Operator;
use super::watch::Watch;
use super::{Master, words};
use crate::config::Settings;
use crate::control::{Retire, ToWorker, ToZygote};
use crate::exit;
use crate::mailbox::Mailboxes;
use crate::net::listener::Listener;
use crate::scoreboard::{Scoreboard, State};
use crate::sys::clock::monotonic_ms;
use crate::sys::fd;
use crate::sys::process::{self, Fork};
use crate::sys::signal::Signal;

/// What a new zygote is given; it runs in a child of the master.
pub struct Task {
    /// Generation of the application, from 1.
    pub generation: u32,
    /// Control socket to the master; its end of file is the master's.
    pub control: OwnedFd,
    /// Process id of the master.
    pub master: i32,
    /// The configuration of the generation.
    pub settings: Arc<Settings>,
    /// Its sockets.
    pub listeners: Vec<Listener>,
    /// Where workers give connections to each other.
    pub mailboxes: Arc<Mailboxes>,
    /// Shared by all processes.
    pub scoreboard: Arc<Scoreboard>,
}

impl Master {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::SpawnZygote { generation } => {
                if let Err(error) = self.spawn_zygote(generation) {
                    let text = format!("the zygote of generation {generation} cannot be forked: {error}");
                    self.children.zygote_not_spawned(generation, monotonic_ms());
                    if !self.generation_failed(generation, &text) {
                        log::error!("{text}");
                    }
                }
            }
            Action::KillZygote { generation } => {
                if let Some(zygote) = self.generation(generation).and_then(|generation| generation.zygote.as_ref()) {
                    process::send_signal(zygote.pid, Signal::SIGKILL);
                }
            }
            Action::Fork { generation, key, id, lane } => {
                if let Err(error) = self.ask_for_worker(generation, key, id, lane) {
                    log::error!("the zygote of generation {generation} cannot be asked for worker {id}: {error}");
                    self.children.fork_failed(generation, id, monotonic_ms());
                }
            }
            Action::Replace { key, why } => {
                if let Some(worker) = self.children.worker(key) {
                    log::info!("worker {} (pid {}) is replaced: {why}", worker.id, worker.pid);
                }
            }
            Action::Retire { key, how } => {
                if let Some(worker) = self.children.worker(key) {
                    log::debug!("worker {} (pid {}) is to retire: {}", worker.id, worker.pid, words::reason(how));
                    if let Some(board) = self.board(worker.generation) {
                        board.slot(worker.id, worker.lane).set_state(State::Retiring);
                    }
                }
                if let Some((_, control)) = self.controls.iter().find(|(known, _)| *known == key) {
                    // One that cannot hear it is dying, or is killed when its time is over.
                    let generation = self.children.worker(key).map(|worker| worker.generation);
                    let foreign = generation.is_some_and(|number| self.foreign.contains(&number));
                    let heirs = if foreign { 0 } else { self.heirs(how) };
                    let elsewhere = heirs > 0 && generation.is_some_and(|number| self.is_elsewhere(number));
                    let how = if elsewhere { Retire::ReplacedElsewhere } else { how };
                    let _ = fd::send(control, &ToWorker::Retire { how, heirs }.encode(), None);
                }
            }
            Action::Kill { key, overdue } => {
                if let Some(worker) = self.children.worker(key) {
                    if overdue {
                        log::warn!("worker {} (pid {}) takes too long to retire: killed", worker.id, worker.pid);
                    }
                    process::send_signal(worker.pid, Signal::SIGKILL);
                }
            }
            Action::Complete { generation } => {
                if let Some(ready) = self.hooks.ready.take() {
                    ready();
                }
                if let Some(generation) = self.generations.iter().find(|known| known.number == generation) {
                    let took = words::duration(monotonic_ms() - generation.began);
                    match self.children.target() {
                        0 => log::info!("ready after {took}; the first connection starts the workers (cheap)"),
                        target => log::info!("{} ready after {took}", words::count(target.into(), "worker")),
                    }
                }
            }
            Action::Chained { generation, id } => {
                log::info!("chain reload: worker {id} of generation {generation} serves, the old one retires");
            }
            Action::GiveUp { generation, limit } => {
                let limit = words::duration(limit);
                let text = format!("the import takes longer than {limit} (reload-import-timeout)");
                self.generation_failed(generation, &text);
            }
            Action::Promote { generation } => self.promote(generation),
            Action::Finished => {}
        }
    }

    fn spawn_zygote(&mut self, number: u32) -> io::Result<()> {
        let (ours, theirs) = fd::message_pair()?;
        let generation = self
            .generations
            .iter_mut()
            .find(|generation| generation.number == number)
            .ok_or_else(|| io::Error::other("no such generation"))?;
        // The rule for every process that forks here: what another thread holds locked stays locked in the child. Only where
        // we are guests of an interpreter can there be others.
        if process::thread_count() != 1 {
            log::warn!("the master forks with other threads beside it: {}", process::other_thread_names().join(", "));
        }
        let master = process::own_id();
        match (self.hooks.fork)()? {
            Fork::Parent(pid) => {
                log::debug!("the zygote of generation {number} is process {pid}");
                generation.zygote = Some(Zygote { pid, control: Some(ours), ready: false, told: false });
                self.children.zygote_spawned(number, monotonic_ms());
                Ok(())
            }
            Fork::Child => {
                drop(ours);
                let task = Task {
                    generation: number,
                    control: theirs,
                    master,
                    settings: Arc::clone(&generation.settings),
                    listeners: std::mem::take(&mut generation.listeners),
                    mailboxes: Arc::clone(&generation.mailboxes),
                    scoreboard: Arc::clone(&generation.scoreboard),
                };
                self.forget();
                // It holds no requests, and an import that hangs does not see that the master is gone. What it forks is not
                // meant: the setting is not inherited.
                if let Err(error) = process::die_with_parent(master) {
                    log::warn!("the zygote may outlive the master: {error}");
                }
                // A panic must not unwind into the master's own work.
                let outcome = catch_unwind(AssertUnwindSafe(|| (self.hooks.zygote)(task)));
                process::exit_now(outcome.unwrap_or(exit::ERROR));
            }
        }
    }

    /// The list of what a child of the master forgets. A sibling's control socket above all: held open here it would
    /// never come to its end.
    pub(super) fn forget(&mut self) {
        for generation in &mut self.generations {
            generation.zygote = None;
            generation.listeners.clear();
            generation.doors.clear();
            generation.plan = None;
        }
        self.controls.clear();
        self.parked.clear();
        self.fifos.forget();
        self.trial = None;
        self.desk = Desk::default();
        self.watch = Watch::default();
        self.log = Log::default();
        self.hooks.ready = None;
        self.notifier = Notifier::default();
        self.operator = Operator::default();
        self.signals = None;
    }

    fn ask_for_worker(&mut self, number: u32, key: u32, id: u32, lane: u32) -> io::Result<()> {
        let (ours, theirs) = fd::message_pair()?;
        let generation = self.generations.iter().find(|generation| generation.number == number);
        let first = generation.is_some_and(|generation| !generation.have_served.contains(&id));
        let (zygote, board) = generation
            .and_then(|generation| Some((generation.zygote.as_ref()?.control.as_ref()?, &generation.scoreboard)))
            .ok_or_else(|| io::Error::other("there is none"))?;
        board.slot(id, lane).reset(0, number);
        fd::send(zygote, &ToZygote::Fork { id, lane, first }.encode(), Some(theirs.as_fd()))?;
        if self.paused {
            // Waiting there, it is the first that the worker hears.
            fd::send(&ours, &ToWorker::Pause.encode(), None)?;
        }
        self.controls.push((key, ours));
        Ok(())
    }

    /// How many workers can take over the idle connections of one that retires.
    pub(super) fn heirs(&self, how: Retire) -> u32 {
        let serving = self.children.serving();
        match how {
            Retire::Stop => 0,
            Retire::Replaced | Retire::ReplacedElsewhere => {
                let known = self.generations.iter().any(|known| known.number == serving);
                if known { self.children.target() } else { 0 }
            }
        }
    }
}
