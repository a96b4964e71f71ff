//! What becomes of a connection whose request was run: its response is held for a moment or written out, then it waits for its
//! client, has another request, or ends.

use std::sync::{Arc, MutexGuard};

use super::state::{Driver, Event, Parked, State, What};
use super::{Reactor, Step};
use crate::worker::Worker;
use crate::worker::clock;
use crate::worker::connection::Connection;
use crate::worker::work::Spare;

impl Reactor {
    /// Puts a connection back whose request was served. The lock is kept where it had to be taken: the next pick needs it.
    pub(super) fn put_back(
        &self,
        worker: &Worker,
        mut connection: Box<Connection>,
        spare: &mut Spare,
    ) -> Option<MutexGuard<'_, State>> {
        if connection.branch.is_some() {
            return Some(self.end_branch(connection));
        }
        if self.holds() && connection.may_be_held() {
            connection.hold(spare);
            let mut state = self.lock();
            // Whoever waits for events does not see what is added now, nor does a standby thread that naps.
            if state.driver == Driver::Nobody && !worker.standby.is_driving() && state.has_more() {
                state.held.add(connection, clock::exact_micros());
                return Some(state);
            }
        }
        let step = connection.after_response(spare);
        let connection = match (step, connection.token) {
            (Step::Wait, Some(token)) if !worker.is_retiring() => {
                let mut state = self.lock();
                // This one was not worth holding, or not to be held: time goes by for the others.
                state.held.release();
                match state.park(connection, token) {
                    Parked::Asleep => return Some(state),
                    Parked::TooLate => {
                        drop(state);
                        self.interrupt();
                        return None;
                    }
                    Parked::Missed(mut connection, what) => {
                        drop(state);
                        let step = what.meet(&mut connection, spare);
                        self.settle(connection, step)
                    }
                }
            }
            _ => self.settle(connection, step),
        };
        // A pipelined request goes behind those who wait already.
        let mut state = self.lock();
        state.held.release();
        if let Some(connection) = connection {
            state.queue(worker, connection);
        }
        Some(state)
    }

    /// A request of a FastCGI connection is over: the connection must be told.
    fn end_branch(&self, connection: Box<Connection>) -> MutexGuard<'_, State> {
        let trunk = connection.branch.as_ref().map(|branch| branch.trunk());
        let worker = Arc::clone(&connection.worker);
        drop(connection);
        let mut state = self.lock();
        state.held.release();
        state.events.extend(trunk.map(|token| Event { token, what: What::Ended }));
        self.closed(&worker, state);
        self.lock()
    }

    /// A request of a FastCGI connection is answered, though its thread still runs.
    pub(in crate::worker) fn tell_trunk(&self, token: usize) {
        self.lock().events.push_back(Event { token, what: What::Ended });
        self.interrupt();
    }
}
