//! Carries out how many workers there are to be: looks at the scoreboard, asks [`super::scaling`], wakes up for the
//! first connection, goes to sleep when nothing comes.

use std::os::fd::AsFd;

use super::children::Phase;
use super::scaling::{Sample, Scaler};
use super::{Generation, Master, words};
use crate::config::{Algorithm, Cheaper};
use crate::mailbox::MAX_LETTER;
use crate::net::address::Address;
use crate::net::listener::Listener;
use crate::sys::clock::monotonic_ms;
use crate::sys::{fd, process};

/// What is known since the last look.
pub(super) struct Resize {
    /// The generation that was looked at.
    generation: u32,
    scaler: Scaler,
    next_look: u64,
    last_look: u64,
    busy_ms: u64,
    /// Requests so far, and since when there were no more.
    requests: u64,
    quiet_since: u64,
}

impl Resize {
    /// Nothing was to be seen until now.
    pub(super) fn begin_anew(&mut self, now: u64) {
        *self = Resize { generation: self.generation, ..Resize::new(now) };
    }

    pub(super) fn new(now: u64) -> Resize {
        Resize {
            generation: 0,
            scaler: Scaler::default(),
            next_look: 0,
            last_look: now,
            busy_ms: 0,
            requests: 0,
            quiet_since: now,
        }
    }
}

/// Whether workers come and go by what is seen.
fn looks(rules: &Cheaper) -> bool {
    rules.least > 0 && (rules.algorithm != Algorithm::Manual || rules.hard_resident > 0)
}

/// Workers to start for the first connection.
fn awake(generation: &Generation) -> u32 {
    match generation.settings.cheaper.initial {
        0 => generation.settings.processes,
        initial => initial,
    }
}

impl Master {
    pub(super) fn serving_generation(&self) -> Option<&Generation> {
        let serving = self.children.serving();
        self.generations.iter().find(|known| known.number == serving)
    }

    /// When to look next.
    pub(super) fn resize_at(&self, now: u64) -> Option<u64> {
        let rules = &self.serving_generation()?.settings.cheaper;
        if self.paused || self.children.stopping() || !self.children.booted() || self.children.target() == 0 {
            return None;
        }
        let look = looks(rules).then(|| self.resize.next_look.max(now));
        let idle = (!rules.idle.is_zero()).then(|| self.resize.quiet_since + rules.idle.as_millis() as u64);
        [look, idle].into_iter().flatten().min()
    }

    /// Looks, if it is time.
    pub(super) fn resize(&mut self) {
        let now = monotonic_ms();
        if self.resize_at(now).is_none_or(|at| now < at) {
            return;
        }
        let Some(generation) = self.serving_generation() else { return };
        let (number, settings) = (generation.number, std::sync::Arc::clone(&generation.settings));
        if self.resize.generation != number {
            self.resize = Resize { generation: number, ..Resize::new(now) };
        }
        self.look_for_idleness(&settings.cheaper, now);
        // A reload decides for itself how many it needs.
        if looks(&settings.cheaper) && now >= self.resize.next_look && self.children.incoming().is_none() {
            let sample = self.sample(now);
            self.resize.next_look = now + settings.cheaper.every.as_millis() as u64;
            if let Some((wanted, why)) = self.resize.scaler.decide(&settings.cheaper, &sample) {
                self.scale_to(wanted, &why);
            }
            self.forward_letters();
        } else if looks(&settings.cheaper) {
            self.resize.next_look = self.resize.next_look.max(now + 100);
        }
    }

    fn sample(&mut self, now: u64) -> Sample {
        let mut sample = Sample { target: self.children.target(), ..Sample::default() };
        let mut busy_ms = 0;
        let Some(generation) = self.serving_generation() else { return sample };
        sample.most = generation.settings.processes;
        let limited = generation.settings.cheaper.soft_resident > 0 || generation.settings.cheaper.hard_resident > 0;
        let threads = u64::from(generation.settings.threads);
        for worker in self.children.workers().iter().filter(|worker| worker.generation == generation.number) {
            let slot = generation.scoreboard.slot(worker.id, worker.lane);
            busy_ms += slot.busy_ms(now);
            if worker.phase == Phase::Ready && worker.id <= sample.target {
                sample.ready += 1;
                sample.free += u32::from(slot.busy_threads() < slot.threads());
                sample.waiting += slot.waiting();
                if limited {
                    sample.resident += process::memory_of(worker.pid).map_or(0, |memory| memory.resident);
                }
            }
        }
        sample.waiting += generation.listeners.iter().map(queue).sum::<u64>();
        let time = (now - self.resize.last_look) * threads * u64::from(sample.ready);
        let spent = busy_ms.saturating_sub(self.resize.busy_ms);
        sample.busy = (spent * 100).checked_div(time).unwrap_or(0).min(100) as u32;
        (self.resize.busy_ms, self.resize.last_look) = (busy_ms, now);
        sample
    }

    /// All workers go when no request has come for long enough.
    fn look_for_idleness(&mut self, rules: &Cheaper, now: u64) {
        if rules.idle.is_zero() {
            return;
        }
        let Some(generation) = self.serving_generation() else { return };
        let (mut requests, mut busy) = (0, false);
        for worker in self.children.workers() {
            if let Some(board) = self.board(worker.generation) {
                let slot = board.slot(worker.id, worker.lane);
                requests += slot.requests().load(std::sync::atomic::Ordering::Relaxed);
                busy |= slot.busy_threads() > 0;
            }
        }
        let (seconds, die) = (rules.idle.as_secs(), generation.settings.cheaper.die_on_idle);
        if busy || requests != self.resize.requests || self.children.incoming().is_some() {
            (self.resize.requests, self.resize.quiet_since) = (requests, now);
            return;
        }
        if now < self.resize.quiet_since + rules.idle.as_millis() as u64 {
            return;
        }
        self.resize.quiet_since = now;
        let why = format!("no request has come for {seconds} s (idle)");
        if die {
            log::info!("{why}: stopping (die-on-idle)");
            self.children.stop();
        } else {
            self.scale_to(0, &why);
        }
    }

    /// From now on there are to be `wanted` workers.
    pub(super) fn scale_to(&mut self, wanted: u32, why: &str) {
        let now = self.children.target();
        self.children.set_target(wanted);
        let set = self.children.target();
        let workers = words::count(set.into(), "worker");
        match set {
            _ if set == now => log::info!("{why}: it stays at {workers}"),
            0 => log::info!("{why}: all workers go until somebody connects"),
            _ => log::info!("{why}: {workers} from now on, {now} before"),
        }
    }

    /// The listeners, while nobody serves them.
    pub(super) fn doors_to_watch(&self) -> &[Listener] {
        let dormant =
            !self.paused && self.children.target() == 0 && self.children.booted() && !self.children.stopping();
        match self.serving_generation() {
            Some(generation) if dormant => &generation.listeners,
            _ => &[],
        }
    }

    /// Somebody connects while there are no workers.
    pub(super) fn wake_up(&mut self) {
        let Some(workers) = self.serving_generation().map(awake) else { return };
        self.resize.quiet_since = monotonic_ms();
        self.scale_to(workers, "somebody connects");
    }

    /// Connections that were given to a worker that went without a successor go to one that is there.
    pub(super) fn forward_letters(&mut self) {
        let target = self.children.target();
        let Some(generation) = self.serving_generation() else { return };
        if target == 0 {
            return;
        }
        let mut buffer = Vec::new();
        for id in target + 1..=generation.mailboxes.len() as u32 {
            if self.children.workers().iter().any(|worker| worker.id == id) {
                continue;
            }
            buffer.resize(MAX_LETTER, 0);
            while let Ok(Some(taken)) = generation.mailboxes.take(id, &mut buffer) {
                let mut heirs = 1..=target;
                let letter = &buffer[..taken.len];
                let (connection, body) = (taken.connection.as_fd(), taken.body.as_ref().map(AsFd::as_fd));
                if !heirs.any(|heir| generation.mailboxes.put(heir, letter, connection, body).is_ok()) {
                    log::error!("a connection given to worker {id}, which is gone, finds no other");
                }
            }
        }
    }
}

/// Connections that nobody has accepted.
fn queue(listener: &Listener) -> u64 {
    match listener.address {
        Address::Tcp { .. } => fd::listen_queue(&listener.fd).map_or(0, |(waiting, _)| waiting),
        // The kernel does not tell; workers accept early, so what waits is seen in the workers.
        _ => 0,
    }
}
