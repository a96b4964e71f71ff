//! What moves connections to other workers: requests that would wait here while somebody there is idle, connections
//! beyond this worker's share, and whatever waits for its client when this worker retires.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, PoisonError};

use mio::Registry;
use mio::unix::SourceFd;

use super::Reactor;
use super::state::{Event, MAILBOX, What};
use crate::mailbox::{ENCLOSED, MAX_LETTER};
use crate::net::stream::Stream;
use crate::worker::Worker;
use crate::worker::clock::now;
use crate::worker::connection::{Connection, Phase};
use crate::worker::migrate::{Letter, MAX_HOPS, Packed, promised_to};
use crate::worker::work::Spare;

/// A connection that did not go, and why.
pub(super) enum Stays {
    NobodyIdle(Box<Connection>),
    CannotMove(Box<Connection>),
}

impl Reactor {
    /// Gives a complete request to a sleeping app thread, or to another worker when there is none; else it waits here.
    pub(super) fn hand_out(&self, worker: &Arc<Worker>, connection: Box<Connection>) {
        let mut state = self.lock();
        if state.asleep > state.requests.len() {
            state.queue(worker, connection);
            self.wake.notify_one();
            return;
        }
        drop(state);
        if let Err(Stays::NobodyIdle(connection) | Stays::CannotMove(connection)) = self.move_away(worker, connection) {
            self.keep_request(worker, connection);
        }
    }

    /// A request that nobody else takes waits here. An app thread may have gone to sleep since the last look.
    pub(super) fn keep_request(&self, worker: &Worker, connection: Box<Connection>) {
        let mut state = self.lock();
        state.queue(worker, connection);
        if state.asleep > 0 {
            self.wake.notify_one();
        }
    }

    /// Requests that wait for an app thread go to other workers as those become idle.
    pub(in crate::worker) fn relieve(&self, worker: &Arc<Worker>) {
        let mut kept = 0;
        loop {
            let mut state = self.lock();
            if state.requests.len() <= state.asleep {
                // Who put them there may have gone into the application since.
                state.requests.iter().for_each(|_| self.wake.notify_one());
                return;
            }
            // The youngest: the others are nearer to their turn here.
            let Some(index) = state.requests.len().checked_sub(1 + kept) else { return };
            let Some(connection) = state.requests.remove(index) else { return };
            drop(state);
            let Err(stays) = self.move_away(worker, connection) else { continue };
            let (connection, others_may) = match stays {
                Stays::NobodyIdle(connection) => (connection, false),
                Stays::CannotMove(connection) => (connection, true),
            };
            let mut state = self.lock();
            let index = index.min(state.requests.len());
            state.requests.insert(index, connection);
            if state.asleep > 0 {
                self.wake.notify_one();
            }
            if !others_may {
                return;
            }
            kept += 1;
        }
    }

    /// Gives a connection to a worker that is idle. It comes back when there is none or it cannot move.
    pub(super) fn move_away(&self, worker: &Arc<Worker>, connection: Box<Connection>) -> Result<(), Stays> {
        if worker.mailboxes.len() < 2 && !worker.is_retiring() {
            return Err(Stays::NobodyIdle(connection));
        }
        let heirs = self.lock().heirs;
        // Its successor came to serve. Here nobody may ever come to it.
        let inherited = worker.is_retiring() && worker.id <= heirs;
        if connection.hops >= MAX_HOPS && !inherited {
            return Err(Stays::CannotMove(connection));
        }
        let Some(mut packed) = connection.pack(connection.hops.saturating_add(1)) else {
            return Err(Stays::CannotMove(connection));
        };
        let target = match worker.scoreboard.claim_idle(worker.id) {
            Some(idle) => idle,
            None if inherited => worker.id,
            None => return Err(Stays::NobodyIdle(connection)),
        };
        self.post(worker, connection, target, &mut packed).map_err(Stays::NobodyIdle)
    }

    /// A retiring worker gives connections that wait for a request to the others, so that no client meets a close. It comes
    /// back, in a hurry, when nobody takes it.
    pub(super) fn bequeath(&self, mut connection: Box<Connection>) -> Option<Box<Connection>> {
        let worker = Arc::clone(&connection.worker);
        let heirs = self.lock().heirs;
        if heirs > 0
            && matches!(connection.phase, Phase::Preface | Phase::Idle | Phase::Head)
            && let Some(mut packed) = connection.pack(connection.hops)
        {
            // Its own number first: that is where its successor is.
            for step in 0..heirs {
                let target = (worker.id - 1 + step) % heirs + 1;
                match self.post(&worker, connection, target, &mut packed) {
                    Ok(()) => return None,
                    Err(kept) => connection = kept,
                }
            }
        }
        connection.hurry(now());
        Some(connection)
    }

    /// Puts a connection into a mailbox and forgets it.
    pub(super) fn post(
        &self,
        worker: &Arc<Worker>,
        mut connection: Box<Connection>,
        target: u32,
        packed: &mut Packed,
    ) -> Result<(), Box<Connection>> {
        // First, so that it is not kept before it is given.
        let promised = worker.scoreboard.promise(target);
        if promised.is_none() && !self.has_heirs_elsewhere(target) {
            return Err(connection);
        }
        // The registration belongs to the open file, which lives on elsewhere: its events would haunt this worker.
        if let Some(token) = connection.token.take() {
            let _ = self.registry.deregister(&mut SourceFd(&connection.io.stream.as_raw_fd()));
            self.lock().slots.remove(token);
        }
        packed.promise_to(promised.map_or(0, |slot| slot.pid()));
        let body = packed.spooled.as_ref().or(connection.body_file()).map(AsFd::as_fd);
        match worker.mailboxes.put(target, &packed.letter, connection.io.stream.as_fd(), body) {
            Ok(()) => {
                // Not cut, whoever still holds the descriptor here: it lives on elsewhere.
                drop(connection);
                self.closed(worker, self.lock());
                Ok(())
            }
            Err(error) => {
                if let Some(promised) = promised {
                    promised.keep_promise();
                }
                log::debug!("worker {}: the mailbox of worker {target} takes nothing: {error}", worker.id);
                Err(connection)
            }
        }
    }

    /// Whether `target` inherits what waits here, though this worker does not see it: after a reload with other numbers, or an
    /// upgrade, the heirs are on a scoreboard of their own. The master has said that they are there.
    fn has_heirs_elsewhere(&self, target: u32) -> bool {
        let state = self.lock();
        state.heirs_elsewhere && target <= state.heirs
    }

    /// Takes one connection out of this worker's mailbox.
    pub(super) fn take_letter(&self, worker: &Arc<Worker>, spare: &mut Spare) -> Option<Box<Connection>> {
        let mut buffer = vec![0; MAX_LETTER];
        // What comes with a letter is lost when no descriptor is free for it: it stays where it is until some are.
        if !self.make_room() {
            self.begin_shortage(&mut self.lock());
            return None;
        }
        let taken = worker.mailboxes.take(worker.id, &mut buffer);
        self.keep_room();
        let taken = match taken {
            Ok(Some(taken)) => taken,
            Ok(None) => return None,
            Err(error) => {
                log::error!("worker {}: a connection that another worker gave away is lost: {error}", worker.id);
                self.lock().events.push_back(Event { token: MAILBOX, what: What::Ready { half_closed: false } });
                return None;
            }
        };
        let mut state = self.lock();
        state.live += 1;
        worker.slot().set_connections(state.live);
        if state.live == 2 {
            worker.standby.hurry();
        }
        if let Some(pid) = promised_to(&buffer[..taken.len]) {
            worker.scoreboard.keep_promise(worker.id, pid);
        }
        state.events.push_back(Event { token: MAILBOX, what: What::Ready { half_closed: false } });
        drop(state);
        let Some(letter) = Letter::decode(&buffer[..taken.len]) else {
            log::error!("worker {}: a connection came with a letter that cannot be read, closed", worker.id);
            self.closed(worker, self.lock());
            return None;
        };
        let listener = worker.listener_named(letter.listener, letter.protocol);
        let file = taken.body.map(File::from);
        let mut connection = Connection::adopt(worker, Stream::new(taken.connection), listener, &letter, file);
        let step = connection.step(spare);
        self.settle(connection, step)
    }

    /// Frees the descriptors that are kept for what comes with a letter. False: there are none to be had.
    fn make_room(&self) -> bool {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill_room(&mut room);
        let enough = room.len() == ENCLOSED;
        if enough {
            room.clear();
        }
        enough
    }

    fn keep_room(&self) {
        self.fill_room(&mut self.room.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn fill_room(&self, room: &mut Vec<Registry>) {
        while room.len() < ENCLOSED {
            let Ok(another) = self.registry.try_clone() else { return };
            room.push(another);
        }
    }
}
