//! The master: owns sockets, configuration, scoreboard and children; serves nothing, never runs Python.
//!
//! One thread waits for signals and for the words of its children, tells them to [`children`], and carries
//! out what is decided there. It blocks nowhere else. What a child runs is a function given by `boot`.

mod actions;
pub mod children;
pub mod command;
mod daemons;
mod desk;
mod fifo;
mod generation;
pub mod handoff;
mod hear;
mod logs;
mod memory;
pub mod notify;
mod operator;
mod reload;
mod resize;
mod scaling;
mod sockets;
mod survey;
mod triggers;
mod upgrade;
mod watch;
mod words;

pub use actions::Task;
pub use logs::{log_file, making, plan, style};
pub use reload::enter;
pub use sockets::{Sockets, bind_options, open};
pub use upgrade::Origin;
pub use words::listens;

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Settings;
use crate::config::hooks::Hook;
use crate::exit;
use crate::logging::relay::{Channel, Plan, Relay};
use crate::mailbox::Mailboxes;
use crate::net::listener::{Listener, SocketFile};
use crate::scoreboard::Scoreboard;
use crate::stats::Reloads;
use crate::sys::clock::monotonic_ms;
use crate::sys::fd;
use crate::sys::process::{self, End, Fork};
use crate::sys::signal::Blocked;

use children::{Action, Children};
use daemons::Daemons;
use desk::Desk;
use fifo::Fifos;
use generation::{Generation, Zygote};
use handoff::Handoff;
use logs::Log;
use notify::Notifier;
use operator::Operator;
use resize::Resize;
use triggers::Planned;
use upgrade::Trial;
use watch::Watch;

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
        apart: false,
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
}
