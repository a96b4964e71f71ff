//! Reloads that take time: a chain reload, which replaces one worker after the other, and an import that hangs.

use super::{Action, Children, Generation, Millis, Phase, Plan, Worker};

/// After its time an import gets so much more, in which the zygote writes where it hangs.
const LAST_WORDS: Millis = 2_000;

impl Children {
    /// Prepares generation `number`, whose workers take the places of the old ones one after the other.
    pub fn begin_chain_reload(&mut self, number: u32, plan: impl Into<Plan>) {
        self.begin_reload(number, plan);
        if let Some(incoming) = &mut self.incoming {
            incoming.chained = Some(0);
        }
    }

    fn is_ready(&self, generation: u32, id: u32) -> bool {
        self.holder(generation, id).is_some_and(|worker| worker.phase == Phase::Ready)
    }

    /// Lets the chain go on behind the worker that has become ready.
    pub(super) fn chain(&mut self, out: &mut Vec<Action>) {
        let Some((number, wanted, Some(mut chained))) =
            self.incoming.as_ref().map(|incoming| (incoming.number, incoming.target, incoming.chained))
        else {
            return;
        };
        while chained < wanted && self.is_ready(number, chained + 1) {
            chained += 1;
            out.push(Action::Chained { generation: number, id: chained });
        }
        if let Some(incoming) = &mut self.incoming {
            incoming.chained = Some(chained);
        }
    }

    /// How many workers a chain reload has replaced.
    fn chained(&self) -> u32 {
        self.incoming.as_ref().and_then(|incoming| incoming.chained).unwrap_or(0)
    }

    /// Whether a worker of the generation that serves has lost its place to one of a chain reload.
    pub(super) fn is_taken_over(&self, worker: &Worker) -> bool {
        worker.generation == self.serving.number && worker.id <= self.chained()
    }

    /// Whether a generation is to have a worker `id` and nobody bears the number.
    pub(super) fn lacks(&self, generation: &Generation, id: u32) -> bool {
        let wanted = match generation.chained {
            Some(chained) => id <= chained + 1,
            None => generation.number != self.serving.number || id > self.chained(),
        };
        wanted && id <= generation.target && self.holder(generation.number, id).is_none()
    }

    /// Workers of a chain reload that was given up, whose numbers nobody of the serving generation bears yet.
    pub(super) fn kept_for_now(&self) -> Vec<u32> {
        let serving = &self.serving;
        let kept = |worker: &&Worker| {
            worker.generation > serving.number
                && worker.phase == Phase::Ready
                && worker.id <= serving.target
                && !self.is_ready(serving.number, worker.id)
        };
        self.workers.iter().filter(kept).map(|worker| worker.key).collect()
    }

    /// When the import under way in a reload has taken too long.
    pub(super) fn import_deadline(&self) -> Option<Millis> {
        let incoming = self.incoming.as_ref().filter(|incoming| incoming.plan.import_timeout > 0)?;
        let zygote = self.zygotes.iter().find(|zygote| zygote.generation == incoming.number)?;
        let began = match zygote.ready_at {
            None => Some(zygote.spawned_at),
            Some(_) => {
                let starting = |worker: &&Worker| {
                    worker.generation == incoming.number && matches!(worker.phase, Phase::Asked | Phase::Starting)
                };
                self.workers.iter().filter(starting).map(|worker| worker.asked_at).min()
            }
        };
        Some(began? + incoming.plan.import_timeout + LAST_WORDS)
    }

    pub(super) fn give_up(&self, now: Millis, out: &mut Vec<Action>) {
        if let Some(incoming) = &self.incoming
            && self.import_deadline().is_some_and(|at| at <= now)
        {
            out.push(Action::GiveUp { generation: incoming.number, limit: incoming.plan.import_timeout });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::World;
    use super::*;

    fn of(world: &World, generation: u32) -> Vec<(u32, Phase)> {
        let workers = world.children.workers().iter().filter(|worker| worker.generation == generation);
        workers.map(|worker| (worker.id, worker.phase)).collect()
    }

    fn start(world: &mut World, generation: u32, id: u32) {
        let found = world.children.workers().iter().find(|w| w.generation == generation && w.id == id).unwrap();
        let (key, pid) = (found.key, found.pid);
        world.children.worker_ready(key, pid, world.now);
        world.settle();
    }

    #[test]
    fn a_chain_reload_replaces_one_worker_after_the_other() {
        let mut world = World::serving(3);
        let old = [1, 2, 3].map(|id| world.key(id));
        world.healthy = false;
        world.children.begin_chain_reload(2, 3);
        world.settle();
        for id in 1..=3 {
            assert_eq!(of(&world, 2).len(), id as usize);
            assert_eq!(world.retired(), old[..id as usize - 1]);
            start(&mut world, 2, id);
            assert!(world.did(Action::Chained { generation: 2, id }));
        }
        assert_eq!(world.retired(), old);
        assert_eq!(world.children.serving(), 2);
    }

    #[test]
    fn a_chain_reload_after_another_forks_no_more_workers_than_the_first() {
        let mut world = World::serving(3);
        for generation in 2..4 {
            let before = world.forks();
            world.healthy = false;
            world.children.begin_chain_reload(generation, 3);
            world.settle();
            (1..=3).for_each(|id| start(&mut world, generation, id));
            assert_eq!((world.forks() - before, world.children.serving()), (3, generation));
        }
    }

    #[test]
    fn an_old_worker_that_dies_is_replaced_by_its_like_until_the_chain_comes_to_it() {
        let mut world = World::serving(2);
        let old = [1, 2].map(|id| world.key(id));
        world.healthy = false;
        world.children.begin_chain_reload(2, 2);
        world.settle();
        start(&mut world, 2, 1);
        world.children.worker_died(old[0], world.now);
        world.children.worker_died(old[1], world.now);
        world.settle();
        assert_eq!(of(&world, 1), [(2, Phase::Starting)]);
    }

    #[test]
    fn a_chain_reload_that_fails_goes_back_without_a_gap() {
        let mut world = World::serving(2);
        world.healthy = false;
        world.children.begin_chain_reload(2, 2);
        world.settle();
        start(&mut world, 2, 1);
        world.children.abort_reload();
        world.settle();
        assert_eq!(of(&world, 2), [(1, Phase::Ready), (2, Phase::Retiring)]);
        let again = world.children.workers().iter().find(|w| w.generation == 1 && w.phase == Phase::Starting).unwrap();
        let (key, pid) = (again.key, again.pid);
        world.children.worker_ready(key, pid, world.now);
        world.settle();
        assert_eq!(of(&world, 2), [(1, Phase::Retiring), (2, Phase::Retiring)]);
        assert_eq!(of(&world, 1).iter().filter(|(_, phase)| *phase == Phase::Ready).count(), 2);
    }

    #[test]
    fn a_chain_to_more_or_fewer_workers_ends_with_as_many_as_wanted() {
        for wanted in [1, 4] {
            let mut world = World::serving(2);
            world.children.begin_chain_reload(2, wanted);
            world.settle();
            assert_eq!(world.children.serving(), 2);
            assert_eq!(of(&world, 2).len(), wanted as usize);
            assert_eq!(world.retired().len(), 2);
        }
    }

    #[test]
    fn an_import_that_hangs_is_given_up() {
        let mut world = World::serving(1);
        world.children.begin_reload(2, 1);
        assert_eq!(world.children.decide(world.now), [Action::SpawnZygote { generation: 2 }]);
        world.children.zygote_spawned(2, world.now);
        assert_eq!(world.children.deadline(world.now), Some(world.now + 60_000 + LAST_WORDS));
        world.now += 60_000 + LAST_WORDS;
        assert_eq!(world.children.decide(world.now), [Action::GiveUp { generation: 2, limit: 60_000 }]);
        world.children.abort_reload();
        world.settle();
        assert!(world.did(Action::KillZygote { generation: 2 }));
    }

    #[test]
    fn the_import_of_a_worker_is_given_up_too_but_not_at_the_first_start() {
        let mut world = World::serving(1);
        world.healthy = false;
        world.children.begin_reload(2, 1);
        world.settle();
        assert_eq!(world.children.deadline(world.now), Some(world.now + 60_000 + LAST_WORDS));
        let mut first = World::new(1);
        first.healthy = false;
        first.settle();
        assert_eq!(first.children.deadline(first.now), None);
    }
}
