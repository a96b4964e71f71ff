//! What moves connections to other workers: requests that would wait here while somebody there is idle, connections
//! beyond this worker's share, and whatever waits for its client when this worker retires.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use mio::unix::SourceFd;

use super::Worker;
use super::clock::now;
use super::connection::{Connection, Phase, Spare};
use super::migrate::{Letter, MAX_HOPS};
use super::reactor::{Event, MAILBOX, Reactor, What};
use crate::mailbox::MAX_LETTER;
use crate::net::stream::Stream;

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
        if let Err(connection) = self.move_away(worker, connection) {
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
    pub(super) fn relieve(&self, worker: &Arc<Worker>) {
        loop {
            let mut state = self.lock();
            if state.requests.len() <= state.asleep {
                // Who put them there may have gone into the application since.
                state.requests.iter().for_each(|_| self.wake.notify_one());
                return;
            }
            // The youngest: the others are nearer to their turn here.
            let Some(connection) = state.requests.pop_back() else { return };
            drop(state);
            if let Err(connection) = self.move_away(worker, connection) {
                self.keep_request(worker, connection);
                return;
            }
        }
    }

    /// Gives a connection to a worker that is idle. It comes back when there is none or it cannot move.
    pub(super) fn move_away(&self, worker: &Arc<Worker>, connection: Box<Connection>) -> Result<(), Box<Connection>> {
        let alone = worker.mailboxes.len() < 2 && !worker.is_retiring();
        if alone || connection.hops >= MAX_HOPS {
            return Err(connection);
        }
        let Some(letter) = connection.letter(connection.hops + 1) else { return Err(connection) };
        let heirs = self.lock().heirs;
        let target = match worker.scoreboard.claim_idle(worker.id) {
            Some(idle) => idle,
            // Its successor, who came to serve.
            None if worker.id <= heirs => worker.id,
            None => return Err(connection),
        };
        self.post(worker, connection, target, &letter)
    }

    /// A retiring worker gives connections that wait for a request to the others, so that no client meets a close. It comes
    /// back, in a hurry, when nobody takes it.
    pub(super) fn bequeath(&self, mut connection: Box<Connection>) -> Option<Box<Connection>> {
        let worker = Arc::clone(&connection.worker);
        let heirs = self.lock().heirs;
        if heirs > 0
            && matches!(connection.phase, Phase::Preface | Phase::Idle | Phase::Head)
            && let Some(letter) = connection.letter(connection.hops)
        {
            // Its own number first: that is where its successor is.
            for step in 0..heirs {
                let target = (worker.id - 1 + step) % heirs + 1;
                match self.post(&worker, connection, target, &letter) {
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
        letter: &[u8],
    ) -> Result<(), Box<Connection>> {
        // The registration belongs to the open file, which lives on elsewhere: its events would haunt this worker.
        if let Some(token) = connection.token.take() {
            let _ = self.registry.deregister(&mut SourceFd(&connection.io.stream.as_raw_fd()));
            self.lock().slots.remove(token);
        }
        // First, so that it is not kept before it is given.
        worker.scoreboard.promise(target);
        match worker.mailboxes.put(target, letter, connection.io.stream.as_fd()) {
            Ok(()) => {
                // Not cut, whoever still holds the descriptor here: it lives on elsewhere.
                drop(connection);
                self.closed(worker, self.lock());
                Ok(())
            }
            Err(error) => {
                worker.scoreboard.withdraw_promise(target);
                log::debug!("worker {}: the mailbox of worker {target} takes nothing: {error}", worker.id);
                Err(connection)
            }
        }
    }

    /// Takes one connection out of this worker's mailbox.
    pub(super) fn take_letter(&self, worker: &Arc<Worker>, spare: &mut Spare) -> Option<Box<Connection>> {
        let mut buffer = vec![0; MAX_LETTER];
        let (len, fd) = match worker.mailboxes.take(worker.id, &mut buffer) {
            Ok(Some(found)) => found,
            Ok(None) => return None,
            Err(error) => {
                log::error!("worker {}: a connection that another worker gave away is lost: {error}", worker.id);
                return None;
            }
        };
        worker.slot().keep_promise();
        let mut state = self.lock();
        state.live += 1;
        worker.slot().set_connections(state.live);
        state.events.push_back(Event { token: MAILBOX, what: What::Ready { half_closed: false } });
        drop(state);
        let Some(letter) = Letter::decode(&buffer[..len]) else {
            log::error!("worker {}: a connection came with a letter that cannot be read, closed", worker.id);
            self.lock().live -= 1;
            return None;
        };
        let listener = worker.listener_named(letter.listener, letter.protocol);
        let mut connection = Connection::adopt(worker, Stream::new(fd), listener, &letter);
        let step = connection.step(spare);
        self.settle(connection, step)
    }
}
