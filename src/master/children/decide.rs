//! What is to be done now, and when to ask again.

use super::{Action, Children, Generation, Millis, Mode, Phase, Worker};
use crate::control::Retire;
use crate::scoreboard::LANES;

/// How long a worker may take to retire that has not begun to serve. Not 0: its word that it has may be on the way.
pub(super) const YOUNG_MERCY: Millis = 1_000;

impl Children {
    /// What is to be done now. Every action is given once.
    pub fn decide(&mut self, now: Millis) -> Vec<Action> {
        let mut out = Vec::new();
        self.give_up(now, &mut out);
        self.chain(&mut out);
        self.promote(&mut out);
        self.replace_due(now, &mut out);
        self.retire(now, &mut out);
        self.kill(now, &mut out);
        if self.stopping() {
            if self.workers.is_empty() && self.zygotes.is_empty() {
                out.push(Action::Finished);
            }
            return out;
        }
        self.spawn(now, &mut out);
        out
    }

    fn is_complete(&self, generation: &Generation) -> bool {
        let is_ready = |id| self.holder(generation.number, id).is_some_and(|worker| worker.phase == Phase::Ready);
        let has_zygote =
            || self.zygotes.iter().any(|zygote| zygote.generation == generation.number && zygote.ready_at.is_some());
        (1..=generation.target).all(is_ready) && (generation.target > 0 || has_zygote())
    }

    fn promote(&mut self, out: &mut Vec<Action>) {
        if self.stopping() {
            return;
        }
        if !self.serving.complete && self.is_complete(&self.serving) {
            self.serving.complete = true;
            out.push(Action::Complete { generation: self.serving.number });
        }
        if self.incoming.as_ref().is_some_and(|incoming| self.is_complete(incoming))
            && let Some(mut incoming) = self.incoming.take()
        {
            incoming.complete = true;
            incoming.chained = None;
            out.push(Action::Promote { generation: incoming.number });
            self.serving = incoming;
        }
    }

    fn retire(&mut self, now: Millis, out: &mut Vec<Action>) {
        let current = [Some(self.serving.number), self.incoming()];
        let replaced: Vec<u32> = self
            .workers
            .iter()
            .filter(|w| {
                let replaced = || self.holder(w.generation, w.id).is_some_and(|holder| holder.phase == Phase::Ready);
                w.leaving && replaced() || self.is_taken_over(w)
            })
            .map(|w| w.key)
            .collect();
        let stopping = self.stopping();
        // A zygote has the listeners too: if it outlived the workers' own, it would leave a queue behind that takes clients
        // and that nobody serves.
        let waits = self.mode == Mode::Stopping && (!self.zygotes.is_empty() || now < self.serve_until);
        let kept = self.kept_for_now();
        let (serving, target) = (self.serving.number, self.serving.target);
        for worker in &mut self.workers {
            if self.mode == Mode::Stopping && worker.has_heirs {
                // Those may be gone before it is.
                worker.has_heirs = false;
                out.push(Action::Retire { key: worker.key, how: Retire::Stop });
            }
            if worker.phase == Phase::Retiring || waits && worker.phase == Phase::Ready {
                continue;
            }
            let gone = !current.contains(&Some(worker.generation)) && !kept.contains(&worker.key);
            let surplus = worker.generation == serving && worker.id > target;
            if !(stopping || gone || surplus || replaced.contains(&worker.key)) {
                continue;
            }
            let mercy = if worker.phase == Phase::Ready { worker.mercy } else { YOUNG_MERCY };
            worker.phase = Phase::Retiring;
            worker.retired_at = now;
            worker.kill_at = Some(now + mercy);
            worker.has_heirs = !stopping;
            out.push(Action::Retire { key: worker.key, how: if stopping { Retire::Stop } else { Retire::Replaced } });
        }
    }

    fn kill(&mut self, now: Millis, out: &mut Vec<Action>) {
        let current = [Some(self.serving.number), self.incoming()];
        let (stopping, ending) = (self.stopping(), self.mode == Mode::Ending);
        for zygote in &mut self.zygotes {
            if !zygote.killed && (stopping || !current.contains(&Some(zygote.generation))) {
                zygote.killed = true;
                out.push(Action::KillZygote { generation: zygote.generation });
            }
        }
        for worker in &mut self.workers {
            // One without a process id is lost with its zygote, which is killed as well.
            if worker.pid != 0 && worker.kill_at.is_some_and(|at| ending || at <= now) {
                worker.kill_at = None;
                out.push(Action::Kill { key: worker.key, overdue: !ending });
            }
        }
    }

    fn spawn(&mut self, now: Millis, out: &mut Vec<Action>) {
        let mut forks = Vec::new();
        for generation in [Some(&self.serving), self.incoming.as_ref()].into_iter().flatten() {
            let zygote = self.zygotes.iter().find(|zygote| zygote.generation == generation.number);
            match zygote {
                _ if generation.barren => {}
                None if generation.attempts.zygote_due(now) => {
                    out.push(Action::SpawnZygote { generation: generation.number });
                }
                Some(zygote) if zygote.ready_at.is_some() && !zygote.killed => self.forks(generation, now, &mut forks),
                _ => {}
            }
        }
        for (generation, id, lane) in forks {
            let mercy = self.generation(generation).map_or(0, |generation| generation.plan.mercy);
            let key = self.next_key;
            self.next_key += 1;
            self.workers.push(Worker {
                key,
                id,
                lane,
                generation,
                pid: 0,
                phase: Phase::Asked,
                leaving: false,
                due: None,
                condemned: false,
                has_heirs: false,
                mercy,
                asked_at: now,
                ready_at: 0,
                retired_at: 0,
                kill_at: None,
            });
            out.push(Action::Fork { generation, key, id, lane });
        }
    }

    /// The workers to fork in a generation: number of the generation, worker and lane.
    fn forks(&self, generation: &Generation, now: Millis, out: &mut Vec<(u32, u32, u32)>) {
        let young = |id| self.holder(generation.number, id).is_some_and(|worker| worker.phase != Phase::Ready);
        for id in generation.attempts.workers_due(|id| self.lacks(generation, id), young, now) {
            let taken = |lane| self.workers.iter().any(|worker| worker.id == id && worker.lane == lane);
            // Without a free lane it waits until an old process of this number is gone.
            if let Some(lane) = (0..LANES).find(|lane| !taken(*lane)) {
                out.push((generation.number, id, lane));
            }
        }
    }

    /// When [`Children::decide`] has to be asked again if nothing happens before. What is due and was not
    /// done waits for an event, not for the time.
    pub fn deadline(&self, now: Millis) -> Option<Millis> {
        let mut times: Vec<Millis> =
            self.workers.iter().filter(|worker| worker.pid != 0).filter_map(|worker| worker.kill_at).collect();
        if self.stopping() {
            times.push(self.serve_until);
        } else {
            times.extend(self.due_times());
            times.extend(self.import_deadline());
            for generation in [Some(&self.serving), self.incoming.as_ref()].into_iter().flatten() {
                if generation.barren {
                    continue;
                }
                let absent = !self.zygotes.iter().any(|zygote| zygote.generation == generation.number);
                times.extend(generation.attempts.times(absent, |id| self.lacks(generation, id)));
            }
        }
        times.into_iter().filter(|time| *time > now).min()
    }
}
