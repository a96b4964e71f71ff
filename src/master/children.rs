//! Whom to fork, whom to retire, whom to kill and when: the master's decisions, without a system call.
//!
//! [`Children`] is told what happened (the methods named after events) and asked what to do
//! ([`Children::decide`]); the time is an argument in milliseconds. Two generations can live at once: the one
//! that serves and, during a reload, the one that comes. A worker of any other generation is on its way out.

mod attempts;
mod chain;
mod decide;
mod recycle;
mod succession;

pub use recycle::Why;
pub use succession::Snapshot;

use serde::{Deserialize, Serialize};

use crate::config::Settings;
use crate::control::Retire;
use attempts::Attempts;

/// Milliseconds of the shared clock.
pub type Millis = u64;

/// A group signal reaches the workers within that time of the master.
const SAME_SIGNAL: Millis = 500;

/// What a generation is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Workers at most.
    pub workers: u32,
    /// Workers at first.
    pub first: u32,
    /// How long a worker that was told to retire may take (`worker-reload-mercy`).
    pub mercy: Millis,
    /// No worker that is younger is recycled.
    pub min_lifetime: Millis,
    /// A worker is recycled after it; 0: never.
    pub max_lifetime: Millis,
    /// Up to so much later, by chance.
    pub max_lifetime_delta: Millis,
    /// Workers at most that are being recycled (`recycle-at-once`).
    pub at_once: u32,
    /// How long an import may take in a reload (`reload-import-timeout`).
    pub import_timeout: Millis,
}

impl From<&Settings> for Plan {
    fn from(settings: &Settings) -> Plan {
        let ms = |duration: std::time::Duration| duration.as_millis() as Millis;
        let recycle = &settings.recycle;
        Plan {
            workers: settings.processes,
            first: match &settings.cheaper {
                cheaper if cheaper.cheap => 0,
                cheaper if cheaper.least > 0 => cheaper.initial,
                _ => settings.processes,
            },
            mercy: ms(recycle.mercy),
            min_lifetime: ms(recycle.min_lifetime),
            max_lifetime: ms(recycle.max_lifetime),
            max_lifetime_delta: ms(recycle.max_lifetime_delta),
            at_once: recycle.at_once,
            import_timeout: ms(recycle.import_timeout),
        }
    }
}

/// So many workers, and for the rest the defaults.
impl From<u32> for Plan {
    fn from(workers: u32) -> Plan {
        Plan { workers, first: workers, ..Plan::from(&Settings::default()) }
    }
}

/// What the master has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fork the zygote of a generation.
    SpawnZygote {
        /// Which one.
        generation: u32,
    },
    /// End the zygote of a generation. It holds no requests.
    KillZygote {
        /// Which one.
        generation: u32,
    },
    /// Ask a zygote for a worker.
    Fork {
        /// The zygote's generation.
        generation: u32,
        /// The master's name for the new child.
        key: u32,
        /// Worker number.
        id: u32,
        /// Scoreboard lane.
        lane: u32,
    },
    /// A worker is to be replaced: somebody else is forked for its number.
    Replace {
        /// The worker.
        key: u32,
        /// Why.
        why: Why,
    },
    /// In a chain reload a worker of the new generation took the place of an old one.
    Chained {
        /// The new generation.
        generation: u32,
        /// Worker number.
        id: u32,
    },
    /// The import of a generation that a reload prepares takes too long.
    GiveUp {
        /// Which one.
        generation: u32,
        /// How long it may take.
        limit: Millis,
    },
    /// Tell a worker to retire.
    Retire {
        /// The worker.
        key: u32,
        /// Why.
        how: Retire,
    },
    /// Kill a worker: its time is over.
    Kill {
        /// The worker.
        key: u32,
        /// It was told to retire and did not; false when everything stops at once.
        overdue: bool,
    },
    /// Every worker of the generation that serves is ready for the first time.
    Complete {
        /// Which one.
        generation: u32,
    },
    /// A reload succeeded: the new generation serves, the old one retires.
    Promote {
        /// The new one.
        generation: u32,
    },
    /// Everybody is gone; the master can exit.
    Finished,
}

/// Where a worker stands, as the master knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The zygote was asked for it.
    Asked,
    /// It runs and is not ready.
    Starting,
    /// It serves.
    Ready,
    /// It was told to retire.
    Retiring,
}

/// A worker process, or one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Name of this process for its whole life.
    pub key: u32,
    /// Worker number, from 1.
    pub id: u32,
    /// Scoreboard lane.
    pub lane: u32,
    /// Generation.
    pub generation: u32,
    /// Process id, 0 until it is known.
    pub pid: i32,
    /// Where it stands.
    pub phase: Phase,
    /// It is to retire; somebody else must hold its number first.
    leaving: bool,
    /// It is to be recycled then, or when others that are replaced are done.
    #[serde(skip)]
    due: Option<(Millis, Why)>,
    /// It is killed on purpose.
    condemned: bool,
    /// It retires, and gives its connections to others.
    #[serde(default)]
    has_heirs: bool,
    mercy: Millis,
    asked_at: Millis,
    ready_at: Millis,
    retired_at: Millis,
    kill_at: Option<Millis>,
}

#[derive(Debug)]
struct Generation {
    number: u32,
    /// All its workers have been ready at the same time.
    complete: bool,
    /// Workers that it is to have now: numbers 1 to this.
    target: u32,
    plan: Plan,
    attempts: Attempts,
    /// In a chain reload: workers 1 to this number have taken the places of old ones.
    chained: Option<u32>,
    /// Of another program: it has no zygote any more, and never will.
    barren: bool,
}

impl Generation {
    fn new(number: u32, plan: Plan) -> Generation {
        let (attempts, target) = (Attempts::new(plan.workers), plan.first);
        Generation { number, complete: false, target, attempts, plan, chained: None, barren: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Zygote {
    generation: u32,
    spawned_at: Millis,
    ready_at: Option<Millis>,
    killed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Running,
    Stopping,
    /// Everybody is killed.
    Ending,
}

/// All children of the master.
#[derive(Debug)]
pub struct Children {
    mode: Mode,
    serving: Generation,
    incoming: Option<Generation>,
    zygotes: Vec<Zygote>,
    workers: Vec<Worker>,
    next_key: u32,
    /// A stop: workers that serve go on until then, or until it is said that they need not.
    serve_until: Millis,
    /// Until then wishes to retire are echoes of a signal that the master had as well.
    echo_until: Millis,
}

impl Children {
    /// Nobody lives yet; generation 1 is to be like `plan`.
    pub fn new(plan: impl Into<Plan>) -> Children {
        Children {
            mode: Mode::Running,
            serving: Generation::new(1, plan.into()),
            incoming: None,
            zygotes: Vec::new(),
            workers: Vec::new(),
            next_key: 1,
            serve_until: 0,
            echo_until: 0,
        }
    }

    /// All workers, dying ones included.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// One worker.
    pub fn worker(&self, key: u32) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.key == key)
    }

    /// The generation that serves.
    pub fn serving(&self) -> u32 {
        self.serving.number
    }

    /// The generation that a reload prepares.
    pub fn incoming(&self) -> Option<u32> {
        self.incoming.as_ref().map(|generation| generation.number)
    }

    /// Whether the server has ever been complete.
    pub fn booted(&self) -> bool {
        self.serving.complete
    }

    /// Whether a stop was asked for.
    pub fn stopping(&self) -> bool {
        self.mode != Mode::Running
    }

    fn generation(&mut self, number: u32) -> Option<&mut Generation> {
        [Some(&mut self.serving), self.incoming.as_mut()].into_iter().flatten().find(|g| g.number == number)
    }

    fn get(&mut self, key: u32) -> Option<&mut Worker> {
        self.workers.iter_mut().find(|worker| worker.key == key)
    }

    /// Who bears number `id` in a generation and is not about to go.
    fn holder(&self, generation: u32, id: u32) -> Option<&Worker> {
        self.workers
            .iter()
            .find(|w| w.generation == generation && w.id == id && !w.leaving && w.phase != Phase::Retiring)
    }

    // What happened.

    /// A zygote was forked.
    pub fn zygote_spawned(&mut self, generation: u32, now: Millis) {
        self.zygotes.push(Zygote { generation, spawned_at: now, ready_at: None, killed: false });
    }

    /// A zygote could not be forked.
    pub fn zygote_not_spawned(&mut self, generation: u32, now: Millis) {
        if let Some(generation) = self.generation(generation) {
            generation.attempts.zygote_failed(None, now);
        }
    }

    /// A zygote can fork workers.
    pub fn zygote_ready(&mut self, generation: u32, now: Millis) {
        if let Some(zygote) = self.zygotes.iter_mut().find(|zygote| zygote.generation == generation) {
            zygote.ready_at = Some(now);
        }
    }

    /// A zygote ended. Gives the workers that it was asked for and that are known no further: their
    /// control sockets are to be closed, so that one that was born after all ends by itself.
    pub fn zygote_died(&mut self, number: u32, now: Millis) -> Vec<Worker> {
        let ready_at = self.zygotes.iter().find(|zygote| zygote.generation == number).and_then(|z| z.ready_at);
        self.zygotes.retain(|zygote| zygote.generation != number);
        if let Some(generation) = self.generation(number) {
            generation.attempts.zygote_failed(ready_at, now);
        }
        let (lost, known) = self.workers.drain(..).partition(|w| w.generation == number && w.pid == 0);
        self.workers = known;
        lost
    }

    /// A zygote forked worker `id`. Gives its key; none when nobody waits for it.
    pub fn forked(&mut self, generation: u32, id: u32, pid: i32) -> Option<u32> {
        // Its own word came first, and another one of its number is asked for already.
        if let Some(known) = self.workers.iter().find(|worker| worker.generation == generation && worker.pid == pid) {
            return Some(known.key);
        }
        let worker = self.workers.iter_mut().find(|w| w.generation == generation && w.id == id && w.pid == 0)?;
        worker.pid = pid;
        if worker.phase == Phase::Asked {
            worker.phase = Phase::Starting;
        }
        Some(worker.key)
    }

    /// A zygote could not fork worker `id`. Gives the key that is free now.
    pub fn fork_failed(&mut self, number: u32, id: u32, now: Millis) -> Option<u32> {
        let key = self.workers.iter().find(|w| w.generation == number && w.id == id && w.pid == 0)?.key;
        self.workers.retain(|worker| worker.key != key);
        if let Some(generation) = self.generation(number) {
            generation.attempts.worker_failed(id, now);
        }
        Some(key)
    }

    /// A worker serves. `pid` helps when its zygote has not told it yet.
    pub fn worker_ready(&mut self, key: u32, pid: i32, now: Millis) {
        let Some(worker) = self.get(key) else { return };
        worker.ready_at = now;
        if worker.pid == 0 {
            worker.pid = pid;
        }
        match worker.phase {
            Phase::Asked | Phase::Starting => worker.phase = Phase::Ready,
            // It was told to retire while its word was on the way: it may hold requests.
            Phase::Retiring => worker.kill_at = worker.kill_at.map(|_| worker.retired_at + worker.mercy),
            Phase::Ready => {}
        }
        let (number, id) = (worker.generation, worker.id);
        if let Some(generation) = self.generation(number) {
            generation.attempts.worker_ready(id);
        }
        self.set_lifetime(key, now);
    }

    /// A worker asks to be replaced. False: it's not the time, a stop or a reload sees to it anyway.
    pub fn worker_asks(&mut self, key: u32, now: Millis) -> bool {
        if self.stopping() || self.incoming.is_some() || now < self.echo_until {
            return false;
        }
        match self.get(key) {
            Some(worker) if worker.phase != Phase::Retiring => {
                worker.leaving = true;
                true
            }
            _ => false,
        }
    }

    /// A worker ended. Gives what is known of it.
    pub fn worker_died(&mut self, key: u32, now: Millis) -> Option<Worker> {
        let index = self.workers.iter().position(|worker| worker.key == key)?;
        let worker = self.workers.remove(index);
        if let Some(generation) = self.generation(worker.generation) {
            match worker.phase {
                Phase::Asked | Phase::Starting => generation.attempts.worker_failed(worker.id, now),
                Phase::Ready => generation.attempts.worker_fell(worker.id, worker.ready_at, now),
                Phase::Retiring => {}
            }
        }
        Some(worker)
    }

    /// The key of a process.
    pub fn key_of(&self, pid: i32) -> Option<u32> {
        self.workers.iter().find(|worker| worker.pid == pid).map(|worker| worker.key)
    }

    /// Whether a worker was asked for whose process is not known yet.
    pub fn expects_births(&self) -> bool {
        self.workers.iter().any(|worker| worker.pid == 0)
    }

    // What the operator wants.

    /// The master had a signal that may have gone to the whole group.
    pub fn heard_signal(&mut self, now: Millis) {
        self.echo_until = now + SAME_SIGNAL;
    }

    /// Prepares generation `number`. One that was being prepared is given up.
    pub fn begin_reload(&mut self, number: u32, plan: impl Into<Plan>) {
        let mut incoming = Generation::new(number, plan.into());
        // As many as are needed just now.
        incoming.target = incoming.target.max(self.serving.target.min(incoming.plan.workers));
        self.incoming = Some(incoming);
    }

    /// Gives the generation up that is being prepared.
    pub fn abort_reload(&mut self) {
        self.incoming = None;
    }

    /// How many workers the generation that serves is to have now.
    pub fn target(&self) -> u32 {
        self.serving.target
    }

    /// From now on the generation that serves is to have workers 1 to `target`.
    pub fn set_target(&mut self, target: u32) {
        self.serving.target = target.min(self.serving.plan.workers);
    }

    /// Stops in order: every worker retires.
    pub fn stop(&mut self) {
        if self.mode == Mode::Running {
            self.mode = Mode::Stopping;
        }
        self.incoming = None;
    }

    /// In a stop, workers that serve go on until `time` at most: clients may still come.
    pub fn serve_until(&mut self, time: Millis) {
        self.serve_until = time;
    }

    /// Stops at once.
    pub fn end(&mut self) {
        self.mode = Mode::Ending;
        self.incoming = None;
    }
}

#[cfg(test)]
mod tests;
