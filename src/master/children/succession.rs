//! What the next program in this process must know of the children.

use serde::{Deserialize, Serialize};

use super::{Children, Generation, Mode, Plan, Worker, Zygote};

/// All children, as of an upgrade.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    serving: u32,
    complete: bool,
    /// Workers that the generation that serves may have, and has.
    most: u32,
    target: u32,
    zygotes: Vec<Zygote>,
    workers: Vec<Worker>,
    next_key: u32,
}

impl Snapshot {
    /// The generation that serves.
    pub fn serving(&self) -> u32 {
        self.serving
    }
}

impl Children {
    /// The children as they are. A generation that a reload prepares is no part of it.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            serving: self.serving.number,
            complete: self.serving.complete,
            most: self.serving.plan.workers,
            target: self.serving.target,
            zygotes: self.zygotes.clone(),
            workers: self.workers.clone(),
            next_key: self.next_key,
        }
    }

    /// Goes on with the children of the program before. A `foreign` generation is one that cannot be spoken to: its
    /// workers serve until there are others, and nobody is forked for it.
    pub fn resume(snapshot: Snapshot, plan: impl Into<Plan>, foreign: bool) -> Children {
        let Snapshot { serving, complete, most, target, zygotes, workers, next_key } = snapshot;
        let plan = Plan { workers: most, ..plan.into() };
        let serving = Generation { complete, target, barren: foreign, ..Generation::new(serving, plan) };
        let zygotes = if foreign { Vec::new() } else { zygotes };
        Children {
            mode: Mode::Running,
            serving,
            incoming: None,
            zygotes,
            workers,
            next_key,
            serve_until: 0,
            echo_until: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::World;
    use super::super::{Action, Phase};
    use super::*;

    fn resumed(world: &World, foreign: bool) -> World {
        let text = serde_json::to_string(&world.children.snapshot()).unwrap();
        let mut next = World::serving(2);
        next.children = Children::resume(serde_json::from_str(&text).unwrap(), 2, foreign);
        next
    }

    #[test]
    fn what_was_known_goes_on() {
        let world = World::serving(2);
        let next = resumed(&world, false);
        assert_eq!(next.children.workers(), world.children.workers());
        assert_eq!((next.children.serving(), next.children.target(), next.children.booted()), (1, 2, true));
    }

    #[test]
    fn a_worker_that_dies_is_replaced_by_the_zygote_of_before() {
        let mut next = resumed(&World::serving(2), false);
        let key = next.key(1);
        next.children.worker_died(key, next.now);
        next.settle();
        assert_eq!(next.children.workers().len(), 2);
        assert_eq!(next.children.serving(), 1);
    }

    #[test]
    fn a_foreign_generation_serves_until_the_next_one_does_and_gets_no_worker() {
        let mut next = resumed(&World::serving(2), true);
        let (first, second) = (next.key(1), next.key(2));
        next.children.worker_died(first, next.now);
        next.settle();
        assert_eq!(next.children.workers().len(), 1);
        assert!(!next.did(Action::SpawnZygote { generation: 1 }));
        next.children.begin_reload(2, 2);
        next.settle();
        assert_eq!(next.children.serving(), 2);
        assert_eq!(next.children.worker(second).map(|worker| worker.phase), Some(Phase::Retiring));
    }
}
