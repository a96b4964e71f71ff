//! The master: owns sockets, configuration, scoreboard and children; serves nothing, never runs Python.
//!
//! One thread waits for signals and for the words of its children, tells them to [`children`], and carries
//! out what is decided there. It blocks nowhere else. What a child runs is a function given by `boot`.

mod attempts;
pub mod children;
pub mod command;
mod daemons;
mod desk;
mod fifo;
pub mod handoff;
mod hear;
mod logs;
mod memory;
pub mod notify;
mod operator;
mod reload;
mod resize;
mod scaling;
mod survey;
mod triggers;
mod upgrade;
mod watch;
mod words;

pub use logs::{log_file, making, plan, style};
pub use reload::{bind_options, enter, open};
pub use upgrade::Origin;
pub use words::listens;

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::hooks::Hook;
use crate::config::{Report, Settings};
use crate::control::{Imported, Retire, ToWorker, ToZygote};
use crate::exit;
use crate::logging::relay::{Channel, Plan, Relay};
use crate::mailbox::Mailboxes;
use crate::net::address::Address;
use crate::net::listener::{Listener, SocketFile};
use crate::scoreboard::{Scoreboard, State};
use crate::stats::Reloads;
use crate::sys::clock::monotonic_ms;
use crate::sys::fd;
use crate::sys::process::{self, End, Fork};
use crate::sys::signal::{Blocked, Signal};
use crate::sys::socket::somebody_connects_to;

use children::{Action, Children};
use daemons::Daemons;
use desk::{Desk, Door};
use fifo::Fifos;
use handoff::Handoff;
use logs::Log;
use notify::Notifier;
use operator::Operator;
use resize::Resize;
use triggers::Planned;
use upgrade::Trial;
use watch::Watch;

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
    /// Gives the master the title that a configuration asks for.
    pub entitle: fn(&Settings),
    /// Carries out a hook that waits for nobody.
    pub deed: fn(&Hook) -> Result<(), String>,
    /// Gives the relay the title that a configuration asks for.
    pub entitle_relay: fn(&Settings),
    /// Runs a zygote; gives its exit code.
    pub zygote: Box<dyn Fn(Task) -> u8>,
    /// Called once, when all workers are ready for the first time.
    pub ready: Option<Box<dyn FnOnce()>>,
}

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

/// What the master begins with.
pub struct Start {
    /// The configuration.
    pub settings: Settings,
    /// Its sockets, bound.
    pub sockets: Sockets,
    /// Descriptors that systemd passed.
    pub passed: Vec<RawFd>,
    /// Where relative paths of the configuration begin.
    pub start_dir: PathBuf,
    /// The pipes to the relay and what it does, where there is to be one.
    pub log: Option<(Channel, Plan)>,
    /// See [`Hooks`].
    pub hooks: Hooks,
    /// For upgrades.
    pub origin: Origin,
}

/// A configuration with its sockets and its zygote.
struct Generation {
    number: u32,
    settings: Arc<Settings>,
    listeners: Vec<Listener>,
    /// Sockets of the master itself.
    doors: Vec<Door>,
    mailboxes: Arc<Mailboxes>,
    scoreboard: Arc<Scoreboard>,
    zygote: Option<Zygote>,
    /// How long the import took.
    import_ms: u64,
    /// Files of the application that are watched for changes.
    modules: Vec<Imported>,
    /// Numbers of the workers that have been ready.
    have_served: HashSet<u32>,
    /// What the relay does once this generation serves.
    plan: Option<Plan>,
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
    watch: Watch,
    fifos: Fifos,
    planned: Option<Planned>,
    resize: Resize,
    desk: Desk,
    notifier: Notifier,
    operator: Operator,
    reloads: Reloads,
    daemons: Daemons,
    /// Programs that were started for a touched file, as long as they run.
    commands: Vec<(i32, String)>,
    /// The workers begin no requests.
    paused: bool,
    log: Log,
    origin: Origin,
    /// An upgrade that is tried.
    trial: Option<Trial>,
    /// Generations of another program whose words are not ours: their workers are only told to retire.
    foreign: Vec<u32>,
    /// Processes of the control group killed for want of memory, as of the last look.
    oom_kills: Option<u64>,
    /// What the workers have of the memory, as told last and when.
    shares: std::cell::RefCell<std::collections::HashMap<i32, (u64, u64)>>,
    /// When memory is looked at next.
    next_sample: u64,
    /// Ports of our own that take nobody any more, while handshakes are under way there.
    opening: Vec<u16>,
    code: Option<u8>,
}

/// How long a stop waits for clients whose connections are being made, and how often it looks.
const HANDSHAKE: u64 = 1_500;
const HANDSHAKE_TICK: u64 = 20;

/// How the server ended.
pub struct Outcome {
    /// Exit code.
    pub code: u8,
    /// The files of sockets that could not be given up in order.
    pub files: Vec<SocketFile>,
    /// Whether the files of the server are to be removed.
    pub vacuum: bool,
    /// The pipes to the relay, and the relay, which writes on until it is told that all was said.
    pub log: (Option<Channel>, Option<Relay>),
}

/// Runs the master until the server has ended.
pub fn run(start: Start) -> Outcome {
    let Start { settings, sockets, passed, start_dir, log, hooks, origin } = start;
    let (channel, plan) = log.unzip();
    let Sockets { listeners, doors } = sockets;
    let settings = Arc::new(settings);
    let made = prepare(&settings);
    let (signals, scoreboard, mailboxes) = match made {
        Ok(made) => made,
        Err(error) => {
            log::error!("the master cannot start: {error}");
            let files = Sockets { listeners, doors }.files();
            return Outcome { code: exit::ERROR, files, vacuum: true, log: (channel, None) };
        }
    };
    let fifos = match Fifos::open(&triggers::fifo_paths(&settings, &start_dir)) {
        Ok(fifos) => fifos,
        Err(error) => {
            log::error!("{error}");
            let files = Sockets { listeners, doors }.files();
            return Outcome { code: exit::ERROR, files, vacuum: true, log: (channel, None) };
        }
    };
    let children = Children::new(&*settings);
    let first = Generation {
        number: 1,
        settings,
        listeners,
        doors,
        mailboxes: Arc::new(mailboxes),
        scoreboard: Arc::new(scoreboard),
        zygote: None,
        import_ms: 0,
        modules: Vec::new(),
        have_served: HashSet::new(),
        plan: None,
        began: monotonic_ms(),
    };
    let mut master = Master::new(signals, children, vec![first], passed, start_dir, hooks, origin);
    master.fifos = fifos;
    master.log = Log::new(channel, plan);
    master.open_up();
    master.serve()
}

/// Goes on as the master of what another program has left in this process, see [`handoff`]. `start.sockets` are
/// not used: they are handed over.
///
/// # Errors
/// One line. Nothing can be undone then: the children see the end of this process and finish.
pub fn resume(start: Start, handoff: Handoff) -> Result<Outcome, String> {
    let Start { settings, passed, start_dir, log, hooks, origin, .. } = start;
    let mute = handoff.words != handoff::words();
    let foreign = mute || handoff.layout != handoff::layout();
    let plan = children::Plan::from(&settings);
    let controls = upgrade::adopt_controls(&handoff)?;
    // Until the reload, which reads the configuration again, the old generation has the new settings but for what is
    // never changed.
    let settings = Arc::new(handoff.kept.clone().applied_to(settings));
    let generations = upgrade::adopt_generations(&handoff, &settings, foreign, mute)?;
    let parked = handoff.parked.iter().map(handoff::Door::adopt).collect::<Result<_, _>>()?;
    let fifos = Fifos::adopt(&handoff.fifos, handoff.fifo)?;
    let signals = process::adopt_orphans().and_then(|()| Blocked::new(command::SIGNALS));
    let signals = signals.map_err(|error| format!("the master cannot start: {error}"))?;
    let children = Children::resume(handoff.children, plan, foreign);
    let all: Vec<u32> = generations.iter().map(|known| known.number).collect();
    let mut master = Master::new(signals, children, generations, passed, start_dir, hooks, origin);
    master.last_generation = handoff.last_generation;
    master.foreign = if mute { all } else { handoff.foreign };
    (master.controls, master.parked, master.fifos, master.daemons) = (controls, parked, fifos, handoff.daemons);
    (master.reloads.done, master.reloads.failed) = handoff.reloads;
    let (channel, plan) = log.unzip();
    master.log = Log::new(channel, plan);
    master.open_up();
    master.begin_succession(&handoff.version, foreign, mute);
    Ok(master.serve())
}

fn prepare(settings: &Settings) -> io::Result<(Blocked, Scoreboard, Mailboxes)> {
    process::adopt_orphans()?;
    process::be_visible()?;
    let workers = settings.processes as usize;
    let scoreboard = Scoreboard::create(workers, settings.threads as usize)?;
    Ok((Blocked::new(command::SIGNALS)?, scoreboard, Mailboxes::create(workers)?))
}

impl Master {
    fn new(
        signals: Blocked,
        children: Children,
        generations: Vec<Generation>,
        passed: Vec<RawFd>,
        start_dir: PathBuf,
        hooks: Hooks,
        origin: Origin,
    ) -> Master {
        Master {
            signals: Some(signals),
            children,
            generations,
            controls: Vec::new(),
            parked: Vec::new(),
            passed,
            start_dir,
            hooks,
            last_generation: 1,
            unclaimed: Vec::new(),
            watch: Watch::default(),
            fifos: Fifos::default(),
            planned: None,
            resize: Resize::new(monotonic_ms()),
            desk: Desk::default(),
            notifier: Notifier::new(&origin.manager),
            operator: Operator::default(),
            reloads: Reloads::default(),
            daemons: Daemons::default(),
            commands: Vec::new(),
            paused: false,
            shares: std::cell::RefCell::default(),
            log: Log::default(),
            origin,
            trial: None,
            foreign: Vec::new(),
            oom_kills: crate::sys::cgroup::oom_kills(),
            next_sample: 0,
            opening: Vec::new(),
            code: None,
        }
    }

    /// Begins what goes on beside the workers.
    fn open_up(&mut self) {
        self.watch_files();
        self.open_desk();
        self.want_daemons(true);
    }

    fn serve(mut self) -> Outcome {
        let code = self.work();
        self.fifos.remove();
        self.close_desk();
        let serving = self.children.serving();
        let vacuum = self.generation(serving).is_some_and(|generation| generation.settings.vacuum);
        self.close_listeners();
        let log = (self.log.channel.take(), self.log.relay.take());
        Outcome { code, files: Vec::new(), vacuum, log }
    }

    fn work(&mut self) -> u8 {
        loop {
            self.look_at_memory();
            self.reload_as_planned();
            self.resize();
            self.care_for_daemons();
            self.care_for_log();
            self.go_on_with_upgrade();
            if self.children.stopping() {
                self.close_listeners();
            }
            let handshakes = if self.opening.is_empty() { None } else { self.look_at_handshakes() };
            let actions = self.children.decide(monotonic_ms());
            let mut acted = !actions.is_empty();
            for action in actions {
                if action == Action::Finished {
                    if self.daemons.are_gone() {
                        return self.code.unwrap_or(exit::OK);
                    }
                    // Workers may have needed them until now.
                    self.want_daemons(false);
                    acted = false;
                    continue;
                }
                self.perform(action);
            }
            self.tidy();
            self.notify();
            self.answer_operators();
            let now = monotonic_ms();
            self.desk.keep_time(now);
            let times = [
                self.children.deadline(now),
                self.memory_due(),
                self.planned_at(),
                self.resize_at(now),
                self.desk.deadline(),
                self.daemons_at(),
                self.log_at(),
                self.notifier.deadline(),
                self.operator.deadline(),
                handshakes,
                self.trial_until(),
            ];
            // What was done may call for more, as when a reload is given up.
            let times = times.into_iter().chain([acted.then_some(now)]);
            let limit = times.flatten().min().map(|at| Duration::from_millis(at.saturating_sub(now)));
            if let Err(error) = self.wait(limit) {
                log::error!("the master cannot wait for its children: {error}; stopping at once");
                self.children.end();
                std::thread::sleep(Duration::from_millis(100));
                self.reap();
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
        let pipes = self.operator.pipes().count();
        fds.extend(self.operator.pipes().map(AsFd::as_fd));
        let own = [self.watch.descriptor(), self.fifos.descriptor(), self.desk.descriptor(), self.trial_descriptor()];
        fds.extend(own.iter().flatten());
        let own = own.map(|fd| fd.is_some());
        let doors = self.doors_to_watch();
        fds.extend(doors.iter().map(|listener| listener.fd.as_fd()));
        let readable = fd::wait_readable(&fds, limit)?;
        let mut readable = readable.into_iter();
        // Signals first: what else is heard may be the echo of one that went to the whole group.
        if readable.next() == Some(true) {
            self.hear_signals();
        }
        for (number, _) in zygotes.into_iter().zip(readable.by_ref()).filter(|(_, readable)| *readable) {
            self.hear_zygote(number);
        }
        for (key, _) in workers.into_iter().zip(readable.by_ref()).filter(|(_, readable)| *readable) {
            self.hear_worker(key);
        }
        let told = readable.by_ref().take(pipes).filter(|readable| *readable).count() > 0;
        let [files, fifo, desk, trial] = own.map(|watched| watched && readable.next() == Some(true));
        let knocks = readable.any(|readable| readable);
        if knocks {
            self.wake_up();
        }
        if told {
            self.hear_stacks();
        }
        if files {
            self.hear_files();
        }
        if fifo {
            self.hear_fifo();
        }
        if desk {
            self.look_at_desk();
        }
        if trial {
            self.hear_trial();
        }
        self.reap();
        Ok(())
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
    fn forget(&mut self) {
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

    /// When all clients that had asked for a connection have it, the workers can stop. Gives when to look again.
    fn look_at_handshakes(&mut self) -> Option<u64> {
        if !self.opening.iter().any(|port| somebody_connects_to(*port)) {
            self.opening.clear();
            self.children.serve_until(0);
            return None;
        }
        Some(monotonic_ms() + HANDSHAKE_TICK)
    }

    /// From now on the workers alone have the listeners, and each closes its own when it finds nobody there any more. A
    /// client that came then and met a queue which is only held open would be reset with its request.
    fn close_listeners(&mut self) {
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

    fn generation(&mut self, number: u32) -> Option<&mut Generation> {
        self.generations.iter_mut().find(|generation| generation.number == number)
    }

    /// How many workers can take over the idle connections of one that retires.
    fn heirs(&self, how: Retire) -> u32 {
        let serving = self.children.serving();
        match how {
            Retire::Stop => 0,
            Retire::Replaced => {
                let known = self.generations.iter().any(|known| known.number == serving);
                if known { self.children.target() } else { 0 }
            }
        }
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
}
