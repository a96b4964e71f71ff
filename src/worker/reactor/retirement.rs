//! The end of a worker: it retires, answers what it has, gives what waits to its heirs, and seals its mailbox when nothing
//! is left.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use super::{Reactor, State};
use crate::control::Retire;
use crate::sys;
use crate::worker::Worker;
use crate::worker::clock::{Millis, now};
use crate::worker::connection::{Connection, Phase, Step};

/// Connections that a worker accepts at most from a listener that others go on serving, when it retires.
const DRAINED_FOR_OTHERS: u32 = 4096;

/// How long a worker that is done waits for a connection that somebody promised and did not send (he may be dead), and
/// how often it looks.
const PROMISE_MERCY: Millis = 3_000;
pub(super) const SEAL_TICK: Millis = 2;

impl Reactor {
    /// Whether a retiring worker has nothing left to do.
    pub(in crate::worker) fn is_done(&self) -> bool {
        self.lock().is_done()
    }

    pub(super) fn retire(&self, worker: &Arc<Worker>, how: Retire, heirs: u32, orphaned: bool) {
        // Its requests are answered before it goes.
        self.resume(worker);
        let mut state = self.lock();
        if orphaned && state.retiring != Some(Retire::Stop) {
            if nix::unistd::getppid() == worker.parent {
                log::info!("worker {} is not wanted any more; it exits", worker.id);
            } else {
                log::error!("worker {}: the master is gone; requests in flight are finished, then it exits", worker.id);
            }
            // Nobody else would end one that is stuck. Whoever the parent is: a dying master's sockets are closed before its
            // children are given away.
            sys::process::end_in(worker.options.mercy.as_secs() as u32);
        }
        for index in 0..state.doors.len() {
            let Some(listener) = &state.doors[index].listener else { continue };
            if orphaned || how == Retire::Stop && listener.inherited {
                // A new master may want to bind the addresses of a dead one right away. And what waits in a queue that others
                // have as well is for the next server.
                self.close_door(&mut state, index);
                state.draining.retain(|(draining, _)| *draining != index);
            } else if !state.draining.iter().any(|(draining, _)| *draining == index) {
                // An exclusive wake-up that came to this worker came to no other: whoever is in the queue now is accepted
                // here, also when others go on serving the listener. They need no end to be found: who comes later wakes them.
                let at_most = if how == Retire::Stop { u32::MAX } else { DRAINED_FOR_OTHERS };
                self.watch_door(&mut state, index, false);
                state.draining.push_back((index, at_most));
            }
        }
        state.heirs = if orphaned || how == Retire::Stop { 0 } else { heirs };
        state.heirs_elsewhere = how == Retire::ReplacedElsewhere;
        state.reads_mailbox = worker.id > state.heirs;
        if state.heirs == 0 {
            worker.closing.store(true, Ordering::Relaxed);
        }
        if state.retiring.is_none() {
            state.retiring = Some(how);
            worker.slot().set_state(crate::scoreboard::State::Retiring);
            worker.retiring.store(true, Ordering::Relaxed);
        }
        let waiting = state.take_waiting();
        drop(state);
        // Each is given to another worker, or hurried where there is none.
        for connection in waiting {
            self.settle(connection, Step::Wait);
        }
        self.finish_if_done(self.lock());
    }

    pub(super) fn finish_if_done(&self, state: MutexGuard<'_, State>) {
        if state.has_nothing() {
            drop(state);
            self.finish();
        }
    }

    /// The worker is done: everybody who waits must see it.
    pub(super) fn finish(&self) {
        self.wake.notify_all();
        self.interrupt();
    }

    /// Whether a retiring worker has nothing left but so many connections.
    pub(in crate::worker) fn has_only(&self, connections: usize) -> bool {
        let state = self.lock();
        state.live <= connections && state.draining.is_empty()
    }
}

impl State {
    /// Takes the connections that wait for a request of their clients.
    #[expect(clippy::vec_box, reason = "connections live in boxes wherever they are kept")]
    pub(super) fn take_waiting(&mut self) -> Vec<Box<Connection>> {
        let idle =
            |connection: &mut Box<Connection>| matches!(connection.phase, Phase::Preface | Phase::Idle | Phase::Head);
        self.slots.iter_mut().filter_map(|(_, slot)| slot.connection.take_if(idle)).collect()
    }

    /// A retiring worker has neither connections nor listeners.
    pub(super) fn has_nothing(&self) -> bool {
        self.retiring.is_some() && self.live == 0 && self.draining.is_empty()
    }

    pub(super) fn is_done(&self) -> bool {
        self.sealed
    }

    /// Whether there is nothing left to do. A worker that reads its mailbox waits for what was promised to it: with
    /// it a connection would be lost.
    pub(super) fn seal(&mut self, worker: &Worker) -> bool {
        if self.sealed {
            return true;
        }
        if !self.has_nothing() {
            // What is promised from now on is waited for anew.
            self.seal_by = None;
            return false;
        }
        let by = *self.seal_by.get_or_insert(now() + PROMISE_MERCY);
        self.sealed = !self.reads_mailbox || worker.slot().seal() || now() > by;
        if self.sealed {
            worker.slot().seal_now();
        }
        self.sealed
    }
}
