//! Workers that are replaced while all is well: they reached a limit, or grew old. One at a time if nothing else is wanted,
//! the replacement first; nothing is begun while a reload replaces all of them.

use std::fmt;

use super::{Action, Children, Millis, Phase, Worker};
use crate::control::Limit;

/// Why a worker is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It came to a limit.
    Reached(Limit),
    /// It has lived for so long.
    Lifetime(Millis),
    /// The operator wants new workers.
    Wanted,
    /// A request in it can't be stopped.
    Stuck,
}

impl Why {
    /// Whether it waits neither for its age nor for others that are replaced.
    fn is_urgent(self) -> bool {
        matches!(self, Why::Wanted | Why::Stuck)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Reached(Limit::Requests(n)) => write!(f, "it has served {n} requests (max-requests)"),
            Why::Reached(Limit::Resident(n)) => write!(f, "it has {n} MiB of resident memory (reload-on-rss)"),
            Why::Reached(Limit::AddressSpace(n)) => write!(f, "it has {n} MiB of address space (reload-on-as)"),
            Why::Lifetime(ms) => write!(f, "it has lived for {} s (max-worker-lifetime)", ms / 1000),
            Why::Stuck => f.write_str("a request in it is stuck (harakiri)"),
            Why::Wanted => f.write_str("a reload of the workers is wanted"),
        }
    }
}

/// A number from 0 to `delta` that looks as if by chance.
fn chance(seed: u64, delta: u64) -> u64 {
    // The finish of splitmix64: each bit of the seed changes half of the result.
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31) % (delta + 1)
}

impl Worker {
    /// Whether it is killed on purpose.
    pub fn is_condemned(&self) -> bool {
        self.condemned
    }

    /// It serves, and nobody is forked for its number yet.
    fn stays(&self) -> bool {
        self.phase == Phase::Ready && !self.leaving
    }
}

impl Children {
    /// A worker is to be replaced, as soon as it is old enough and no other is just being replaced.
    pub fn recycle(&mut self, key: u32, why: Why, now: Millis) {
        let Some(worker) = self.worker(key) else { return };
        let (number, ready_at, id) = (worker.generation, worker.ready_at, worker.id);
        let Some(generation) = self.generation(number) else { return };
        // A limit that is reached while the worker still starts counts from then on.
        let due = if why.is_urgent() { now } else { (ready_at + generation.plan.min_lifetime).max(now) };
        if let Some(worker) = self.get(key).filter(|worker| worker.stays()) {
            let sooner = why.is_urgent() || worker.due.is_none_or(|(at, _)| due < at);
            if sooner {
                worker.due = Some((due, why));
                log::debug!("worker {id} is due in {} ms: {why}", due - now);
            }
        }
    }

    /// A worker begins to serve: it is to be replaced when it is old.
    pub(super) fn set_lifetime(&mut self, key: u32, now: Millis) {
        let Some(number) = self.worker(key).map(|worker| worker.generation) else { return };
        let Some(plan) = self.generation(number).map(|generation| generation.plan.clone()) else { return };
        if plan.max_lifetime > 0
            && let Some(worker) = self.get(key)
        {
            let lifetime = plan.max_lifetime + chance(now ^ u64::from(key) << 32, plan.max_lifetime_delta);
            worker.due = Some((now + lifetime, Why::Lifetime(lifetime)));
        }
    }

    /// All workers that serve are replaced, all at once.
    pub fn replace_all(&mut self) {
        let serving = self.serving();
        for worker in self.workers.iter_mut().filter(|worker| worker.generation == serving && worker.stays()) {
            worker.due = Some((0, Why::Wanted));
        }
    }

    /// A worker is about to be killed, on purpose.
    pub fn condemn(&mut self, key: u32) {
        if let Some(worker) = self.get(key) {
            worker.condemned = true;
        }
    }

    /// Replaces those that are due, as many at once as may be; who has been due for longest comes first.
    pub(super) fn replace_due(&mut self, now: Millis, out: &mut Vec<Action>) {
        if self.stopping() || self.incoming.is_some() {
            return;
        }
        let serving = self.serving();
        let is_replaced = |w: &&Worker| w.generation == serving && w.leaving && w.phase != Phase::Retiring;
        let mut replaced = self.workers.iter().filter(is_replaced).count();
        let at_once = self.serving.plan.at_once as usize;
        let mut due: Vec<&mut Worker> = self
            .workers
            .iter_mut()
            .filter(|w| w.generation == serving && w.stays() && w.due.is_some_and(|(at, _)| at <= now))
            .collect();
        due.sort_by_key(|worker| (worker.due.map(|(at, _)| at), worker.key));
        for worker in due {
            let Some((_, why)) = worker.due else { continue };
            if replaced >= at_once && !why.is_urgent() {
                continue;
            }
            replaced += 1;
            worker.leaving = true;
            out.push(Action::Replace { key: worker.key, why });
        }
    }

    /// When workers are due.
    pub(super) fn due_times(&self) -> impl Iterator<Item = Millis> {
        self.workers.iter().filter(|worker| worker.stays()).filter_map(|worker| Some(worker.due?.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Plan;
    use super::super::tests::World;
    use super::*;

    const REQUESTS: Why = Why::Reached(Limit::Requests(5));

    fn world(workers: u32, change: impl FnOnce(&mut Plan)) -> World {
        let mut plan = Plan { min_lifetime: 0, ..Plan::from(workers) };
        change(&mut plan);
        World::serving(plan)
    }

    #[test]
    fn a_worker_at_its_limit_is_replaced_first_and_retires_then() {
        let mut world = world(2, |_| ());
        let old = world.key(1);
        world.healthy = false;
        world.children.recycle(old, REQUESTS, world.now);
        world.settle();
        assert!(world.did(Action::Replace { key: old, why: REQUESTS }));
        assert_eq!((world.forks(), world.retired()), (1, vec![]));
        world.children.worker_ready(world.key(1), 0, world.now);
        world.settle();
        assert_eq!(world.retired(), [old]);
    }

    #[test]
    fn workers_are_replaced_one_after_the_other() {
        let mut world = world(3, |_| ());
        let keys = [world.key(2), world.key(1), world.key(3)];
        world.healthy = false;
        for (wait, key) in keys.iter().enumerate() {
            world.children.recycle(*key, REQUESTS, world.now + wait as Millis);
        }
        world.now += 10;
        for (before, id) in [2, 1, 3].into_iter().enumerate() {
            world.settle();
            assert_eq!((world.forks(), world.retired()), (before + 1, keys[..before].to_vec()));
            world.children.worker_ready(world.key(id), 0, world.now);
        }
        world.settle();
        assert_eq!(world.retired(), keys);
    }

    #[test]
    fn several_workers_are_replaced_at_once_if_wanted() {
        let mut world = world(3, |plan| plan.at_once = 2);
        let keys = [world.key(1), world.key(2), world.key(3)];
        world.healthy = false;
        for key in keys {
            world.children.recycle(key, REQUESTS, world.now);
        }
        world.settle();
        assert_eq!((world.forks(), world.retired()), (2, vec![]));
        world.children.worker_ready(world.key(1), 0, world.now);
        world.settle();
        assert_eq!((world.forks(), world.retired()), (3, keys[..1].to_vec()));
    }

    #[test]
    fn while_the_replacement_does_not_start_the_old_one_goes_on() {
        let mut world = world(1, |_| ());
        let old = world.key(1);
        world.children.recycle(old, REQUESTS, world.now);
        let end = world.now + 5_000;
        world.pass_with_failing_workers(end);
        assert!(world.forks() > 2);
        assert!(world.retired().is_empty());
        world.healthy = true;
        world.now += 60_000;
        world.settle();
        assert_eq!(world.retired(), [old]);
    }

    #[test]
    fn no_limit_counts_before_the_least_lifetime() {
        let mut world = world(1, |plan| plan.min_lifetime = 10_000);
        let born = world.now;
        world.now += 10;
        world.children.recycle(world.key(1), REQUESTS, world.now);
        world.settle();
        assert_eq!(world.forks(), 0);
        assert_eq!(world.children.deadline(world.now), Some(born + 10_000));
        world.now = born + 10_000;
        world.settle();
        assert_eq!((world.forks(), world.retired().len()), (1, 1));
    }

    #[test]
    fn old_workers_are_replaced_one_after_the_other() {
        let mut world = world(2, |plan| plan.max_lifetime = 1000);
        let born = world.now;
        assert_eq!(world.children.deadline(world.now), Some(born + 1000));
        world.now += 999;
        world.settle();
        assert_eq!(world.forks(), 0);
        world.now += 1;
        world.settle();
        assert_eq!((world.forks(), world.retired().len()), (2, 2));
        assert!(world.did(Action::Replace { key: 1, why: Why::Lifetime(1000) }));
    }

    #[test]
    fn lifetimes_differ_by_chance() {
        let mut world = world(50, |plan| (plan.max_lifetime, plan.max_lifetime_delta) = (1000, 100));
        let born = world.now;
        world.now += 999;
        world.settle();
        assert_eq!(world.forks(), 0);
        world.now = born + 1050;
        world.settle();
        assert!((1..50).contains(&world.forks()), "{}", world.forks());
        world.now = born + 1100;
        world.settle();
        assert!(world.forks() >= 50);
    }

    #[test]
    fn a_reload_or_a_stop_comes_first() {
        let mut world = world(1, |_| ());
        world.healthy = false;
        world.children.begin_reload(2, 1);
        world.children.recycle(world.key(1), REQUESTS, world.now);
        world.settle();
        assert_eq!(world.forks(), 1, "only that of the new generation");
        world.children.abort_reload();
        world.settle();
        assert_eq!(world.forks(), 2);
        world.children.stop();
        world.settle();
        assert_eq!(world.forks(), 2);
    }

    #[test]
    fn stuck_workers_wait_for_nothing_but_their_replacements() {
        let mut world = world(3, |plan| plan.min_lifetime = 10_000);
        world.healthy = false;
        let (old, other) = (world.key(1), world.key(2));
        for key in [old, other] {
            world.children.recycle(key, Why::Stuck, world.now);
        }
        world.settle();
        assert_eq!((world.forks(), world.retired()), (2, vec![]));
        world.children.worker_ready(world.key(1), 0, world.now);
        world.settle();
        assert_eq!(world.retired(), [old]);
    }

    #[test]
    fn a_reload_of_the_workers_replaces_all_at_once() {
        let mut world = world(3, |plan| plan.min_lifetime = 10_000);
        world.healthy = false;
        world.children.replace_all();
        world.settle();
        assert_eq!((world.forks(), world.retired()), (3, vec![]));
    }

    #[test]
    fn chance_stays_in_its_bounds() {
        let found: std::collections::HashSet<u64> = (0..200).map(|seed| chance(seed, 3)).collect();
        assert_eq!(found, [0, 1, 2, 3].into());
        assert_eq!(chance(5, 0), 0);
    }
}
