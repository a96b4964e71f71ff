//! What the master hears: signals, the words of zygotes and workers, and deaths.

use super::children::{Phase, Why};
use super::command;
use super::{Master, Zygote, words};
use crate::control::{FromWorker, FromZygote, MAX_MESSAGE};
use crate::exit;
use crate::scoreboard::State;
use crate::sys::cgroup;
use crate::sys::clock::monotonic_ms;
use crate::sys::fd::{self, Received};
use crate::sys::process::{self, End};
use crate::sys::signal::{Blocked, Signal};

impl Master {
    pub(super) fn hear_signals(&mut self) {
        while let Some((signal, sender)) = self.signals.as_ref().and_then(Blocked::next) {
            let from = if sender == 0 { String::new() } else { format!(" from process {sender}") };
            let chosen = self.serving_generation().and_then(|known| command::chosen(&known.settings.hooks, signal));
            if let Some(command) = chosen.or_else(|| command::meaning(signal)) {
                self.obey(command, &format!("{signal}{from}"));
            }
        }
    }

    pub(super) fn hear_zygote(&mut self, number: u32) {
        loop {
            let Some(zygote) = self.generation(number).and_then(|generation| generation.zygote.as_mut()) else {
                return;
            };
            let Some(control) = &zygote.control else { return };
            let mut buffer = [0; MAX_MESSAGE];
            let (message, descriptor) = match fd::receive(control, &mut buffer, false) {
                Ok(Received::Message(len, descriptor)) => (FromZygote::decode(&buffer[..len]), descriptor),
                Ok(Received::End) => {
                    // It ends, or the application closed its descriptors at import: it is of no more use.
                    zygote.control = None;
                    process::send_signal(zygote.pid, Signal::SIGKILL);
                    return;
                }
                Err(_) => return,
            };
            let Some(message) = message else {
                log::warn!("the zygote of generation {number} said something that is not understood");
                continue;
            };
            let now = monotonic_ms();
            match message {
                FromZygote::Ready => {
                    self.note(number, |zygote| zygote.ready = true);
                    if let Some(generation) = self.generation(number) {
                        generation.import_ms = now - generation.began;
                    }
                    self.children.zygote_ready(number, now);
                }
                FromZygote::Modules => self.hear_modules(number, descriptor),
                FromZygote::LoadFailed(cause) => self.start_failed(number, exit::NO_APP, &cause),
                FromZygote::StartFailed(cause) => self.start_failed(number, exit::ERROR, &cause),
                FromZygote::Forked { id, pid } => {
                    let Some(key) = self.children.forked(number, id, pid) else { continue };
                    log::debug!("worker {id} (pid {pid}) was forked by the zygote of generation {number}");
                    if let Some(index) = self.unclaimed.iter().position(|(dead, _)| *dead == pid) {
                        let (_, end) = self.unclaimed.swap_remove(index);
                        self.bury_worker(key, end);
                    }
                }
                FromZygote::ForkFailed { id, reason } => {
                    let text = format!("worker {id} cannot be forked: {reason}");
                    if let Some(key) = self.children.fork_failed(number, id, now) {
                        self.controls.retain(|(known, _)| *known != key);
                    }
                    if !self.generation_failed(number, &text) {
                        log::error!("{text}");
                    }
                }
            }
        }
    }

    fn note(&mut self, number: u32, f: impl FnOnce(&mut Zygote)) {
        if let Some(zygote) = self.generation(number).and_then(|generation| generation.zygote.as_mut()) {
            f(zygote);
        }
    }

    pub(super) fn hear_worker(&mut self, key: u32) {
        loop {
            let Some((_, control)) = self.controls.iter().find(|(known, _)| *known == key) else { return };
            let mut buffer = [0; MAX_MESSAGE];
            let (message, descriptor) = match fd::receive(control, &mut buffer, false) {
                Ok(Received::Message(len, descriptor)) => (FromWorker::decode(&buffer[..len]), descriptor),
                Ok(Received::End) => {
                    // Its death will be heard of; an open socket at its end would wake us for ever.
                    self.controls.retain(|(known, _)| *known != key);
                    return;
                }
                Err(_) => return,
            };
            let now = monotonic_ms();
            let Some(worker) = self.children.worker(key).cloned() else { return };
            if self.foreign.contains(&worker.generation) {
                // Its words may be others.
                continue;
            }
            match message {
                Some(FromWorker::Ready) => {
                    let pid = self.board(worker.generation).map_or(0, |board| board.slot(worker.id, worker.lane).pid());
                    self.children.worker_ready(key, pid, now);
                    log::info!(
                        "worker {} (pid {}) is ready",
                        worker.id,
                        if worker.pid == 0 { pid } else { worker.pid }
                    );
                }
                Some(FromWorker::Modules) => self.hear_modules(worker.generation, descriptor),
                Some(FromWorker::LoadFailed(cause)) => self.start_failed(worker.generation, exit::NO_APP, &cause),
                Some(FromWorker::AsksToRetire) => {
                    if self.children.worker_asks(key, now) {
                        log::info!("worker {} (pid {}) asks to retire: it is replaced first", worker.id, worker.pid);
                    }
                }
                Some(FromWorker::Reached(limit)) => self.children.recycle(key, Why::Reached(limit), now),
                Some(FromWorker::Stuck) => self.children.recycle(key, Why::Stuck, now),
                None => log::warn!("worker {} said something that is not understood", worker.id),
            }
        }
    }

    pub(super) fn reap(&mut self) {
        while let Some((pid, end)) = process::reap_any() {
            let zygote = self.generations.iter().find(|g| g.zygote.as_ref().is_some_and(|zygote| zygote.pid == pid));
            if let Some(number) = zygote.map(|generation| generation.number) {
                // What it said before it died explains why.
                self.hear_zygote(number);
                self.bury_zygote(number, end);
            } else if let Some(key) = self.children.key_of(pid) {
                self.hear_worker(key);
                self.bury_worker(key, end);
            } else if self.bury_daemon(pid, end) || self.bury_trial(pid, end) {
            } else if self.children.expects_births() {
                self.unclaimed.push((pid, end));
            } else {
                log::debug!("process {pid}, adopted, {end}");
            }
        }
        if !self.children.expects_births() {
            self.unclaimed.clear();
        }
    }

    fn bury_zygote(&mut self, number: u32, end: End) {
        let now = monotonic_ms();
        let wanted = [Some(self.children.serving()), self.children.incoming()].contains(&Some(number));
        let zygote = self.generation(number).and_then(|generation| generation.zygote.take());
        for lost in self.children.zygote_died(number, now) {
            self.controls.retain(|(key, _)| *key != lost.key);
        }
        if self.children.stopping() || !wanted {
            return;
        }
        let Some(zygote) = zygote else { return };
        let when = if zygote.ready { "" } else { " before it was ready" };
        let text = format!("the zygote of generation {number} (pid {}) {end}{when}", zygote.pid);
        if !self.generation_failed(number, &text) && !zygote.told {
            log::error!("{text}");
        }
        if number == self.children.serving()
            && let Some(at) = self.children.deadline(now)
        {
            log::info!("it is started again in {}", words::duration(at - now));
        }
    }

    fn bury_worker(&mut self, key: u32, end: End) {
        let now = monotonic_ms();
        self.controls.retain(|(known, _)| *known != key);
        let stopping = self.children.stopping();
        let Some(worker) = self.children.worker_died(key, now) else { return };
        let board = self.board(worker.generation);
        let current = board.as_ref().and_then(|board| board.slot(worker.id, worker.lane).oldest());
        if let Some(board) = board {
            board.slot(worker.id, worker.lane).reset(0, 0);
            board.slot(worker.id, worker.lane).set_state(State::Empty);
        }
        let (bad, mut text) = words::last_words(&worker, end, current.as_ref(), now);
        if matches!(end, End::Killed(9, _)) && self.ran_out_of_memory() {
            text.push_str("; the system killed it for want of memory (oom_kill in the cgroup's memory.events)");
        }
        self.forward_letters();
        let early = matches!(worker.phase, Phase::Asked | Phase::Starting);
        if early && self.generation_failed(worker.generation, &text) {
            return;
        }
        if bad && !(stopping && matches!(end, End::Killed(9, _))) {
            log::error!("{text}");
        } else {
            log::info!("{text}");
        }
    }

    /// Whether the system has killed a process of ours for want of memory since the last time it was asked.
    fn ran_out_of_memory(&mut self) -> bool {
        let now = cgroup::oom_kills();
        let before = std::mem::replace(&mut self.oom_kills, now);
        now > before
    }

    /// An application or an interpreter that says why it cannot start. At the first boot that is the end.
    fn start_failed(&mut self, number: u32, code: u8, cause: &str) {
        let (text, traceback) = match code {
            exit::NO_APP => {
                let (cause, traceback) = words::cause_and_traceback(cause);
                (format!("the application cannot be loaded: {cause}"), traceback)
            }
            _ => (cause.to_string(), ""),
        };
        self.note(number, |zygote| zygote.told = true);
        if self.children.stopping() {
            return;
        }
        if self.reload_failed(number, &text, traceback) {
            return;
        }
        log::error!("{text}");
        if !self.children.booted() && number == self.children.serving() {
            self.code = Some(code);
            self.children.end();
        }
    }

    /// Something of a generation failed. If a reload prepares it, that is given up; true then, and all is said.
    pub(super) fn generation_failed(&mut self, number: u32, why: &str) -> bool {
        self.reload_failed(number, why, "")
    }

    fn reload_failed(&mut self, number: u32, why: &str, traceback: &str) -> bool {
        if self.children.incoming() != Some(number) {
            return false;
        }
        self.children.abort_reload();
        self.reloads.fail(why, traceback);
        log::error!("reload failed ({why}); generation {} goes on serving as before", self.children.serving());
        self.drop_sockets(number);
        // What mended it may be a file that was never imported.
        self.watch.any_module = true;
        true
    }

    pub(super) fn tell_status(&self) {
        let now = monotonic_ms();
        let serving = self.children.serving();
        let Some(generation) = self.generations.iter().find(|generation| generation.number == serving) else { return };
        let requests = words::count(generation.scoreboard.total_requests(), "request");
        log::info!("status: generation {serving}, {requests}");
        for listener in &generation.listeners {
            log::info!("status: {}", words::listens(listener));
        }
        for worker in self.children.workers() {
            if let Some(board) = self.board(worker.generation) {
                log::info!("status: {}", words::status(worker, &board, now));
            }
        }
    }
}
