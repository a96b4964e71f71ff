//! What `children` decides, told as little histories of deaths, reloads and stops; nothing forks here.

use super::decide::YOUNG_MERCY;
use super::*;
use crate::scoreboard::LANES;

/// What workers have by default to retire.
const MERCY: Millis = 60_000;

/// Carries decisions out at once, as a system would in which forks take no time.
pub(super) struct World {
    pub(super) children: Children,
    pub(super) now: Millis,
    next_pid: i32,
    /// Workers become ready when they are forked.
    pub(super) healthy: bool,
    log: Vec<Action>,
}

impl World {
    pub(super) fn new(plan: impl Into<Plan>) -> World {
        World { children: Children::new(plan), now: 1000, next_pid: 100, healthy: true, log: Vec::new() }
    }

    /// A world in which generation 1 serves.
    pub(super) fn serving(plan: impl Into<Plan>) -> World {
        let mut world = World::new(plan);
        world.settle();
        assert!(world.children.booted());
        world.log.clear();
        world
    }

    /// Decides until there is nothing left to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..100 {
            let actions = self.children.decide(self.now);
            if actions.is_empty() {
                return;
            }
            for action in actions {
                self.log.push(action);
                match action {
                    Action::SpawnZygote { generation } => {
                        self.children.zygote_spawned(generation, self.now);
                        self.children.zygote_ready(generation, self.now);
                    }
                    Action::KillZygote { generation } => {
                        assert_eq!(self.children.zygote_died(generation, self.now), [])
                    }
                    Action::Fork { generation, key, id, .. } => {
                        self.next_pid += 1;
                        assert_eq!(self.children.forked(generation, id, self.next_pid), Some(key));
                        if self.healthy {
                            self.children.worker_ready(key, self.next_pid, self.now);
                        }
                    }
                    Action::Finished => return,
                    _ => {}
                }
            }
        }
        panic!("never settles: {:?}", self.log);
    }

    pub(super) fn key(&self, id: u32) -> u32 {
        let mut found =
            self.children.workers().iter().filter(|w| w.id == id && w.phase != Phase::Retiring && !w.leaving);
        found.next().unwrap().key
    }

    pub(super) fn forks(&self) -> usize {
        self.log.iter().filter(|action| matches!(action, Action::Fork { .. })).count()
    }

    pub(super) fn retired(&self) -> Vec<u32> {
        let keys = self.log.iter().filter_map(|action| match action {
            Action::Retire { key, .. } => Some(*key),
            _ => None,
        });
        keys.collect()
    }

    pub(super) fn did(&self, action: Action) -> bool {
        self.log.contains(&action)
    }

    /// Lets the time pass until `end`, with everything that is asked for dying before it is ready.
    pub(super) fn pass_with_failing_workers(&mut self, end: Millis) {
        self.healthy = false;
        while self.now < end {
            self.settle();
            let keys: Vec<u32> =
                self.children.workers().iter().filter(|w| w.phase == Phase::Starting).map(|w| w.key).collect();
            for key in keys {
                self.children.worker_died(key, self.now);
            }
            self.now = self.children.deadline(self.now).unwrap_or(end);
        }
    }
}

#[test]
fn boot_forks_a_zygote_and_every_worker() {
    let mut world = World::new(3);
    world.settle();
    assert_eq!(world.log[0], Action::SpawnZygote { generation: 1 });
    assert_eq!(world.forks(), 3);
    assert!(world.did(Action::Complete { generation: 1 }));
}

#[test]
fn a_ready_worker_that_dies_is_replaced_at_once() {
    let mut world = World::serving(2);
    world.now += 10;
    world.children.worker_died(world.key(2), world.now);
    world.settle();
    assert!(matches!(world.log[..], [Action::Fork { id: 2, .. }]), "{:?}", world.log);
}

#[test]
fn one_that_dies_again_and_again_just_after_it_was_ready_is_slowed_down() {
    let mut world = World::serving(1);
    let end = world.now + 30_000;
    while world.now < end {
        world.children.worker_died(world.key(1), world.now);
        world.settle();
        world.now = match world.children.deadline(world.now) {
            Some(time) => time,
            None => world.now + 1,
        };
        world.settle();
    }
    assert!(world.forks() < 20, "{}", world.forks());
}

#[test]
fn workers_that_die_before_they_are_ready_are_tried_fewer_than_20_times_in_30_s() {
    for workers in [1, 2, 4, 16] {
        let mut world = World::new(workers);
        world.pass_with_failing_workers(31_000);
        assert!(world.forks() < 20, "{workers} workers: {} forks", world.forks());
        assert!(world.forks() > workers as usize, "{workers} workers: {} forks", world.forks());
    }
}

#[test]
fn a_zygote_that_dies_without_a_word_is_tried_fewer_than_20_times_in_30_s() {
    let mut children = Children::new(1);
    let (mut now, mut spawned) = (0, 0);
    while now < 30_000 {
        for action in children.decide(now) {
            assert_eq!(action, Action::SpawnZygote { generation: 1 });
            children.zygote_spawned(1, 0);
            children.zygote_died(1, now);
            spawned += 1;
        }
        now = children.deadline(now).unwrap();
    }
    assert!((3..20).contains(&spawned), "{spawned}");
}

#[test]
fn readiness_ends_the_back_off() {
    let mut world = World::new(4);
    world.pass_with_failing_workers(10_000);
    world.healthy = true;
    world.now = world.children.deadline(world.now).unwrap_or(world.now);
    world.settle();
    assert!(world.children.booted());
}

#[test]
fn a_dead_zygote_is_replaced_and_its_workers_stay() {
    let mut world = World::serving(2);
    world.now += 60_000;
    assert_eq!(world.children.zygote_died(1, world.now), []);
    world.settle();
    assert_eq!(world.log, [Action::SpawnZygote { generation: 1 }]);
    world.children.worker_died(world.key(1), world.now);
    world.settle();
    assert_eq!(world.forks(), 1);
}

#[test]
fn what_a_dead_zygote_was_asked_for_is_asked_again() {
    let mut children = Children::new(1);
    children.decide(0);
    children.zygote_spawned(1, 0);
    children.zygote_ready(1, 0);
    assert!(matches!(children.decide(0)[..], [Action::Fork { .. }]));
    let lost = children.zygote_died(1, 5000);
    assert_eq!((lost.len(), lost[0].id), (1, 1));
    assert_eq!(children.decide(5000), [Action::SpawnZygote { generation: 1 }]);
}

#[test]
fn a_reload_retires_the_old_workers_when_all_new_ones_are_ready() {
    let mut world = World::serving(2);
    let old = [world.key(1), world.key(2)];
    world.healthy = false;
    world.children.begin_reload(2, 3);
    world.settle();
    let new: Vec<(u32, i32)> =
        world.children.workers().iter().filter(|w| w.generation == 2).map(|w| (w.key, w.pid)).collect();
    assert_eq!(new.len(), 3);
    for (key, pid) in &new {
        assert!(world.retired().is_empty());
        world.children.worker_ready(*key, *pid, world.now);
        world.settle();
    }
    assert!(world.did(Action::Promote { generation: 2 }));
    assert_eq!(world.retired(), old);
    assert!(world.did(Action::Retire { key: old[0], how: Retire::Replaced }));
    assert!(world.did(Action::KillZygote { generation: 1 }));
}

#[test]
fn old_and_new_processes_of_one_number_have_different_lanes() {
    let mut world = World::serving(2);
    for generation in 2..=LANES {
        world.children.begin_reload(generation, 2);
        world.settle();
    }
    // Every lane is taken by a process that is not gone yet: the next generation waits.
    world.children.begin_reload(LANES + 1, 2);
    world.settle();
    assert_eq!(world.children.serving(), LANES);
    let mut lanes: Vec<u32> = world.children.workers().iter().filter(|w| w.id == 1).map(|w| w.lane).collect();
    lanes.sort_unstable();
    assert_eq!(lanes, (0..LANES).collect::<Vec<_>>());
    for key in world.children.workers().iter().map(|w| w.key).take(2).collect::<Vec<_>>() {
        world.children.worker_died(key, world.now);
    }
    world.settle();
    assert_eq!(world.children.serving(), LANES + 1);
}

#[test]
fn a_reload_given_up_leaves_no_orphan_and_the_old_generation_alone() {
    let mut world = World::serving(2);
    world.healthy = false;
    world.children.begin_reload(2, 2);
    world.settle();
    let new: Vec<Worker> = world.children.workers().iter().filter(|w| w.generation == 2).cloned().collect();
    world.children.worker_ready(new[0].key, new[0].pid, world.now);
    world.children.worker_died(new[1].key, world.now);
    world.children.abort_reload();
    world.log.clear();
    world.settle();
    assert_eq!(world.retired(), [new[0].key]);
    assert!(world.did(Action::KillZygote { generation: 2 }));
    assert_eq!(world.children.serving(), 1);
    assert_eq!(world.children.workers().iter().filter(|w| w.phase == Phase::Ready).count(), 2);
    assert_eq!(world.forks(), 0);
}

#[test]
fn a_second_reload_replaces_the_one_under_way() {
    let mut world = World::serving(1);
    world.healthy = false;
    world.children.begin_reload(2, 1);
    world.settle();
    world.healthy = true;
    world.children.begin_reload(3, 1);
    world.settle();
    assert_eq!(world.children.serving(), 3);
    assert!(world.did(Action::KillZygote { generation: 2 }) && world.did(Action::KillZygote { generation: 1 }));
    assert!(world.children.workers().iter().all(|w| w.generation == 3 || w.phase == Phase::Retiring));
}

#[test]
fn a_retired_worker_is_killed_after_its_mercy_and_not_before() {
    let mut world = World::serving(1);
    let old = world.key(1);
    world.children.begin_reload(2, 1);
    world.settle();
    assert_eq!(world.children.deadline(world.now), Some(world.now + MERCY));
    world.now += MERCY - 1;
    world.settle();
    assert!(!world.did(Action::Kill { key: old, overdue: true }));
    world.now += 1;
    world.settle();
    assert!(world.did(Action::Kill { key: old, overdue: true }));
    assert_eq!(world.children.deadline(world.now), None);
}

#[test]
fn a_stop_waits_for_the_workers_and_forks_nobody() {
    let mut world = World::serving(2);
    let keys = [world.key(1), world.key(2)];
    world.children.stop();
    world.settle();
    assert!(keys.iter().all(|key| world.did(Action::Retire { key: *key, how: Retire::Stop })));
    assert!(!world.did(Action::Finished));
    for key in keys {
        world.children.worker_died(key, world.now);
        world.settle();
    }
    assert!(world.did(Action::Finished));
    assert_eq!(world.forks(), 0);
}

#[test]
fn workers_hear_of_a_stop_when_nobody_else_has_the_listeners() {
    let mut world = World::serving(1);
    let key = world.key(1);
    world.children.stop();
    assert_eq!(world.children.decide(world.now), [Action::KillZygote { generation: 1 }]);
    assert_eq!(world.children.decide(world.now), []);
    world.children.zygote_died(1, world.now);
    assert_eq!(world.children.decide(world.now), [Action::Retire { key, how: Retire::Stop }]);
}

#[test]
fn workers_serve_on_while_clients_may_come() {
    let mut world = World::serving(1);
    let key = world.key(1);
    world.children.stop();
    world.children.serve_until(world.now + 500);
    world.settle();
    assert!(!world.did(Action::Retire { key, how: Retire::Stop }));
    assert_eq!(world.children.deadline(world.now), Some(world.now + 500));
    world.now += 500;
    world.settle();
    assert!(world.did(Action::Retire { key, how: Retire::Stop }));
}

#[test]
fn a_second_stop_kills_at_once() {
    let mut world = World::serving(1);
    let key = world.key(1);
    world.children.stop();
    world.settle();
    world.children.end();
    world.settle();
    assert!(world.did(Action::Kill { key, overdue: false }));
}

/// A server that is told to stop while its only worker starts; that one's key.
fn stopped_during_start() -> (World, u32) {
    let mut world = World::new(1);
    world.healthy = false;
    world.settle();
    let key = world.key(1);
    world.children.stop();
    world.settle();
    (world, key)
}

#[test]
fn a_stop_during_start_does_not_wait_for_the_import() {
    let (mut world, key) = stopped_during_start();
    world.now += YOUNG_MERCY;
    world.settle();
    assert!(world.did(Action::Kill { key, overdue: true }));
}

#[test]
fn one_that_turns_out_to_serve_gets_its_full_mercy() {
    let (mut world, key) = stopped_during_start();
    world.children.worker_ready(key, 0, world.now);
    world.now += YOUNG_MERCY;
    world.settle();
    assert!(!world.did(Action::Kill { key, overdue: true }));
    assert!(world.children.deadline(world.now).is_some());
}

#[test]
fn a_worker_that_asks_to_retire_is_replaced_first() {
    let mut world = World::serving(2);
    let old = world.key(1);
    world.healthy = false;
    assert!(world.children.worker_asks(old, world.now));
    world.settle();
    assert_eq!((world.forks(), world.retired()), (1, vec![]));
    let new = world.key(1);
    world.children.worker_ready(new, 0, world.now);
    world.settle();
    assert_eq!(world.retired(), [old]);
    assert!(world.did(Action::Retire { key: old, how: Retire::Replaced }));
}

#[test]
fn echoes_of_a_group_signal_are_not_heard() {
    let mut world = World::serving(1);
    world.children.heard_signal(world.now);
    assert!(!world.children.worker_asks(world.key(1), world.now + 1));
    assert!(world.children.worker_asks(world.key(1), world.now + SAME_SIGNAL));
    let mut world = World::serving(1);
    world.children.stop();
    assert!(!world.children.worker_asks(world.key(1), world.now + SAME_SIGNAL));
}

#[test]
fn a_birth_announced_after_the_word_of_the_newborn_is_the_same_worker() {
    let mut children = Children::new(1);
    children.decide(0);
    children.zygote_spawned(1, 0);
    children.zygote_ready(1, 0);
    let Action::Fork { key, .. } = children.decide(0)[0] else { panic!("no fork") };
    assert!(children.expects_births());
    children.worker_ready(key, 0, 1);
    assert_eq!(children.forked(1, 1, 77), Some(key));
    assert_eq!((children.key_of(77), children.worker(key).unwrap().phase), (Some(key), Phase::Ready));
    assert!(!children.expects_births());
}

/// A plan for at most `workers` workers, `first` at first.
fn plan(workers: u32, first: u32) -> Plan {
    Plan { first, ..Plan::from(workers) }
}

#[test]
fn births_announced_late_are_not_taken_for_those_of_successors() {
    let mut children = Children::new(plan(2, 1));
    children.decide(0);
    children.zygote_spawned(1, 0);
    children.zygote_ready(1, 0);
    children.decide(0);
    children.worker_ready(1, 77, 1);
    children.set_target(0);
    children.decide(1);
    children.set_target(1);
    assert!(matches!(children.decide(1)[..], [Action::Fork { key: 2, id: 1, .. }]));
    assert_eq!(children.forked(1, 1, 77), Some(1));
    assert_eq!(children.forked(1, 1, 78), Some(2));
}

#[test]
fn fewer_workers_are_wanted_the_last_ones_retire() {
    let mut world = World::serving(4);
    let (third, fourth) = (world.key(3), world.key(4));
    world.children.set_target(2);
    world.settle();
    assert_eq!(world.retired(), [third, fourth]);
    world.children.worker_died(third, world.now);
    world.settle();
    assert_eq!(world.forks(), 0);
    world.children.set_target(9);
    world.settle();
    assert_eq!((world.forks(), world.children.target()), (2, 4));
}

#[test]
fn a_server_that_starts_small_is_complete_with_its_first_workers() {
    let mut world = World::serving(plan(4, 1));
    assert_eq!(world.children.workers().len(), 1);
    world.children.set_target(3);
    world.settle();
    assert_eq!(world.forks(), 2);
    // A reload needs as many as there were.
    world.children.begin_reload(2, plan(4, 1));
    world.settle();
    assert_eq!((world.children.serving(), world.children.target(), world.forks()), (2, 3, 5));
}

#[test]
fn a_server_without_workers_has_its_application_ready() {
    let mut world = World::new(plan(2, 0));
    assert_eq!(world.children.decide(world.now), [Action::SpawnZygote { generation: 1 }]);
    world.children.zygote_spawned(1, world.now);
    assert!(world.children.decide(world.now).is_empty() && !world.children.booted());
    world.children.zygote_ready(1, world.now);
    world.settle();
    assert!(world.children.booted());
    assert_eq!(world.forks(), 0);
    world.children.set_target(2);
    world.settle();
    assert_eq!(world.forks(), 2);
    world.children.set_target(0);
    world.settle();
    assert_eq!(world.retired().len(), 2);
    assert_eq!(world.children.deadline(world.now), Some(world.now + MERCY));
}
