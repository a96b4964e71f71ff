//! The master: owns sockets, configuration, scoreboard and children; serves nothing, never runs Python.
//!
//! One thread waits for signals and for the words of its children, tells them to [`children`], and carries
//! out what is decided there. It blocks nowhere else. What a child runs is a function given by `boot`.

pub mod children;
pub mod command;
mod reload;
mod words;

pub use reload::bind_options;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Settings;
use crate::control::{FromWorker, FromZygote, MAX_MESSAGE, ToWorker, ToZygote};
use crate::exit;
use crate::mailbox::Mailboxes;
use crate::net::listener::Listener;
use crate::scoreboard::{Scoreboard, State};
use crate::sys::clock::monotonic_ms;
use crate::sys::fd::{self, Received};
use crate::sys::process::{self, End, Fork};
use crate::sys::signal::{Blocked, Signal};

use children::{Action, Children};
use command::Command;

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

/// What the master is told to run, as it knows nothing of it.
pub struct Hooks {
    /// Reads the configuration again; all errors.
    pub read: Box<dyn FnMut() -> Result<Settings, Vec<String>>>,
    /// Forks; the command installed by pip tells the interpreter it runs in.
    pub fork: fn() -> io::Result<Fork>,
    /// Runs a zygote; gives its exit code.
    pub zygote: Box<dyn Fn(Task) -> u8>,
}

/// What the master begins with.
pub struct Start {
    /// The configuration.
    pub settings: Settings,
    /// Its sockets, bound.
    pub listeners: Vec<Listener>,
    /// Descriptors that systemd passed.
    pub passed: Vec<RawFd>,
    /// Where relative paths of the configuration begin.
    pub start_dir: PathBuf,
    /// See [`Hooks`].
    pub hooks: Hooks,
}

/// A configuration with its sockets and its zygote.
struct Generation {
    number: u32,
    settings: Arc<Settings>,
    listeners: Vec<Listener>,
    mailboxes: Arc<Mailboxes>,
    scoreboard: Arc<Scoreboard>,
    zygote: Option<Zygote>,
    began: u64,
}

struct Zygote {
    pid: i32,
    /// None: it closed its end, and its death is awaited.
    control: Option<OwnedFd>,
    ready: bool,
    /// It said why it ends.
    told: bool,
}

struct Master {
    /// None only in a child that has forgotten it.
    signals: Option<Blocked>,
    children: Children,
    /// The one that serves, the one that comes, and those whose zygote or workers are not gone yet.
    generations: Vec<Generation>,
    /// Control sockets of workers, by key.
    controls: Vec<(u32, OwnedFd)>,
    /// Inherited sockets that the configuration names no more; a later one may name them again.
    parked: Vec<Listener>,
    passed: Vec<RawFd>,
    start_dir: PathBuf,
    hooks: Hooks,
    last_generation: u32,
    /// Ends of processes that may turn out to be workers whose birth was not announced yet.
    unclaimed: Vec<(i32, End)>,
    code: Option<u8>,
}

/// How the server ended.
pub struct Outcome {
    /// Exit code.
    pub code: u8,
    /// The sockets it had then.
    pub listeners: Vec<Listener>,
    /// Whether the files of the server are to be removed.
    pub vacuum: bool,
}

/// Runs the master until the server has ended.
pub fn run(start: Start) -> Outcome {
    let Start { settings, listeners, passed, start_dir, hooks } = start;
    let settings = Arc::new(settings);
    let made = prepare(&settings);
    let (signals, scoreboard, mailboxes) = match made {
        Ok(made) => made,
        Err(error) => {
            log::error!("the master cannot start: {error}");
            return Outcome { code: exit::ERROR, listeners, vacuum: true };
        }
    };
    let processes = settings.processes;
    let first = Generation {
        number: 1,
        settings,
        listeners,
        mailboxes: Arc::new(mailboxes),
        scoreboard: Arc::new(scoreboard),
        zygote: None,
        began: monotonic_ms(),
    };
    let mut master = Master {
        signals: Some(signals),
        children: Children::new(processes),
        generations: vec![first],
        controls: Vec::new(),
        parked: Vec::new(),
        passed,
        start_dir,
        hooks,
        last_generation: 1,
        unclaimed: Vec::new(),
        code: None,
    };
    let code = master.work();
    let serving = master.children.serving();
    let vacuum = master.generation(serving).is_some_and(|generation| generation.settings.vacuum);
    let listeners = master.generations.into_iter().flat_map(|generation| generation.listeners).collect();
    Outcome { code, listeners, vacuum }
}

fn prepare(settings: &Settings) -> io::Result<(Blocked, Scoreboard, Mailboxes)> {
    process::adopt_orphans()?;
    let workers = settings.processes as usize;
    let scoreboard = Scoreboard::create(workers, settings.threads as usize)?;
    Ok((Blocked::new(command::SIGNALS)?, scoreboard, Mailboxes::create(workers)?))
}

impl Master {
    fn work(&mut self) -> u8 {
        loop {
            for action in self.children.decide(monotonic_ms()) {
                if action == Action::Finished {
                    return self.code.unwrap_or(exit::OK);
                }
                self.perform(action);
            }
            self.tidy();
            let now = monotonic_ms();
            let limit = self.children.deadline(now).map(|at| Duration::from_millis(at - now));
            if let Err(error) = self.wait(limit) {
                log::error!("the master cannot wait for its children: {error}");
                self.children.end();
            }
        }
    }

    /// Waits for something to happen, and hears it all.
    fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let mut fds: Vec<BorrowedFd<'_>> = self.signals.iter().map(Blocked::as_fd).collect();
        let heard = |generation: &Generation| generation.zygote.as_ref().is_some_and(|zygote| zygote.control.is_some());
        let zygotes: Vec<u32> = self.generations.iter().filter(|g| heard(g)).map(|g| g.number).collect();
        fds.extend(self.generations.iter().filter_map(|g| g.zygote.as_ref()?.control.as_ref()).map(AsFd::as_fd));
        let workers: Vec<u32> = self.controls.iter().map(|(key, _)| *key).collect();
        fds.extend(self.controls.iter().map(|(_, control)| control.as_fd()));
        let readable = fd::wait_readable(&fds, limit)?;
        let mut readable = readable.into_iter();
        // Signals first: what else is heard may be the echo of one that went to the whole group.
        if readable.next() == Some(true) {
            self.hear_signals();
        }
        for (number, _) in zygotes.into_iter().zip(readable.by_ref()).filter(|(_, readable)| *readable) {
            self.hear_zygote(number);
        }
        for (key, _) in workers.into_iter().zip(readable).filter(|(_, readable)| *readable) {
            self.hear_worker(key);
        }
        self.reap();
        Ok(())
    }

    fn hear_signals(&mut self) {
        while let Some((signal, sender)) = self.signals.as_ref().and_then(Blocked::next) {
            let from = if sender == 0 { String::new() } else { format!(" from process {sender}") };
            match command::meaning(signal) {
                None | Some(Command::Reap) => {}
                Some(Command::Nothing(why)) => log::warn!("{signal}{from} is ignored: {why}"),
                Some(Command::Status) => self.tell_status(),
                Some(Command::Stop) if !self.children.stopping() => {
                    log::info!("{signal}{from}: stopping; requests in flight are answered first");
                    self.children.heard_signal(monotonic_ms());
                    self.children.stop();
                }
                Some(Command::Stop | Command::End) => {
                    log::info!("{signal}{from}: stopping at once");
                    self.children.end();
                }
                Some(Command::Reload) if self.children.stopping() => {
                    log::warn!("{signal}{from} is ignored: the server stops");
                }
                Some(Command::Reload) => {
                    self.children.heard_signal(monotonic_ms());
                    self.reload(&format!("{signal}{from}"));
                }
            }
        }
    }

    fn hear_zygote(&mut self, number: u32) {
        loop {
            let Some(zygote) = self.generation(number).and_then(|generation| generation.zygote.as_mut()) else {
                return;
            };
            let Some(control) = &zygote.control else { return };
            let mut buffer = [0; MAX_MESSAGE];
            let message = match fd::receive(control, &mut buffer, false) {
                Ok(Received::Message(len, _)) => FromZygote::decode(&buffer[..len]),
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
                    self.children.zygote_ready(number, now);
                }
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

    fn hear_worker(&mut self, key: u32) {
        loop {
            let Some((_, control)) = self.controls.iter().find(|(known, _)| *known == key) else { return };
            let mut buffer = [0; MAX_MESSAGE];
            let message = match fd::receive(control, &mut buffer, false) {
                Ok(Received::Message(len, _)) => FromWorker::decode(&buffer[..len]),
                Ok(Received::End) => {
                    // Its death will be heard of; an open socket at its end would wake us for ever.
                    self.controls.retain(|(known, _)| *known != key);
                    return;
                }
                Err(_) => return,
            };
            let now = monotonic_ms();
            let Some(worker) = self.children.worker(key).cloned() else { return };
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
                Some(FromWorker::LoadFailed(cause)) => self.start_failed(worker.generation, exit::NO_APP, &cause),
                Some(FromWorker::AsksToRetire) => {
                    if self.children.worker_asks(key, now) {
                        log::info!("worker {} (pid {}) asks to retire: it is replaced first", worker.id, worker.pid);
                    }
                }
                None => log::warn!("worker {} said something that is not understood", worker.id),
            }
        }
    }

    fn reap(&mut self) {
        while let Some((pid, end)) = process::reap_any() {
            let zygote = self.generations.iter().find(|g| g.zygote.as_ref().is_some_and(|zygote| zygote.pid == pid));
            if let Some(number) = zygote.map(|generation| generation.number) {
                // What it said before it died explains why.
                self.hear_zygote(number);
                self.bury_zygote(number, end);
            } else if let Some(key) = self.children.key_of(pid) {
                self.hear_worker(key);
                self.bury_worker(key, end);
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
        let (bad, text) = words::last_words(&worker, end, current.as_ref(), now);
        let early = matches!(worker.phase, children::Phase::Asked | children::Phase::Starting);
        if early && self.generation_failed(worker.generation, &text) {
            return;
        }
        if bad && !(stopping && matches!(end, End::Killed(9, _))) {
            log::error!("{text}");
        } else {
            log::info!("{text}");
        }
    }

    /// An application or an interpreter that says why it cannot start. At the first boot that is the end.
    fn start_failed(&mut self, number: u32, code: u8, cause: &str) {
        let text = match code {
            exit::NO_APP => format!("the application cannot be loaded: {cause}"),
            _ => cause.to_string(),
        };
        self.note(number, |zygote| zygote.told = true);
        if self.children.stopping() {
            return;
        }
        if self.generation_failed(number, &text) {
            return;
        }
        log::error!("{text}");
        if !self.children.booted() && number == self.children.serving() {
            self.code = Some(code);
            self.children.end();
        }
    }

    /// Something of a generation failed. If a reload prepares it, that is given up; true then, and all is said.
    fn generation_failed(&mut self, number: u32, why: &str) -> bool {
        if self.children.incoming() != Some(number) {
            return false;
        }
        self.children.abort_reload();
        log::error!("reload failed ({why}); generation {} goes on serving as before", self.children.serving());
        self.drop_sockets(number);
        true
    }

    fn perform(&mut self, action: Action) {
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
            Action::Retire { key, how } => {
                if let Some(worker) = self.children.worker(key) {
                    log::debug!("worker {} (pid {}) is to retire: {}", worker.id, worker.pid, words::reason(how));
                    if let Some(board) = self.board(worker.generation) {
                        board.slot(worker.id, worker.lane).set_state(State::Retiring);
                    }
                }
                if let Some((_, control)) = self.controls.iter().find(|(known, _)| *known == key) {
                    // One that cannot hear it is dying, or is killed when its time is over.
                    let _ = fd::send(control, &ToWorker::Retire(how).encode(), None);
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
                if let Some(generation) = self.generations.iter().find(|known| known.number == generation) {
                    let took = words::duration(monotonic_ms() - generation.began);
                    let workers = words::count(generation.settings.processes.into(), "worker");
                    log::info!("{workers} ready after {took}");
                }
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
                self.children.zygote_spawned(number);
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
                // A panic must not unwind into the master's own work.
                let outcome = catch_unwind(AssertUnwindSafe(|| (self.hooks.zygote)(task)));
                process::exit_now(outcome.unwrap_or(exit::ERROR));
            }
        }
    }

    /// The list of what a child of the master forgets. A sibling's control socket above all: held open here it would
    /// never come to its end.
    fn forget(&mut self) {
        for generation in &mut self.generations {
            generation.zygote = None;
            generation.listeners.clear();
        }
        self.controls.clear();
        self.parked.clear();
        self.signals = None;
    }

    fn ask_for_worker(&mut self, number: u32, key: u32, id: u32, lane: u32) -> io::Result<()> {
        let (ours, theirs) = fd::message_pair()?;
        let generation = self.generations.iter().find(|generation| generation.number == number);
        let (zygote, board) = generation
            .and_then(|generation| Some((generation.zygote.as_ref()?.control.as_ref()?, &generation.scoreboard)))
            .ok_or_else(|| io::Error::other("there is none"))?;
        board.slot(id, lane).reset(0, number);
        fd::send(zygote, &ToZygote::Fork { id, lane }.encode(), Some(theirs.as_fd()))?;
        self.controls.push((key, ours));
        Ok(())
    }

    fn generation(&mut self, number: u32) -> Option<&mut Generation> {
        self.generations.iter_mut().find(|generation| generation.number == number)
    }

    fn board(&self, number: u32) -> Option<Arc<Scoreboard>> {
        self.generations.iter().find(|generation| generation.number == number).map(|g| Arc::clone(&g.scoreboard))
    }

    /// Forgets generations of which nothing is left.
    fn tidy(&mut self) {
        let current = [Some(self.children.serving()), self.children.incoming()];
        let workers = self.children.workers();
        self.generations.retain(|generation| {
            current.contains(&Some(generation.number))
                || generation.zygote.is_some()
                || workers.iter().any(|worker| worker.generation == generation.number)
        });
    }

    fn tell_status(&self) {
        let now = monotonic_ms();
        let serving = self.children.serving();
        let Some(generation) = self.generations.iter().find(|generation| generation.number == serving) else { return };
        let requests = words::count(generation.scoreboard.total_requests(), "request");
        log::info!("status: generation {serving}, {requests}");
        for listener in &generation.listeners {
            log::info!("status: {} on {}", listener.protocol.name(), listener.address);
        }
        for worker in self.children.workers() {
            if let Some(board) = self.board(worker.generation) {
                log::info!("status: {}", words::status(worker, &board, now));
            }
        }
    }
}
