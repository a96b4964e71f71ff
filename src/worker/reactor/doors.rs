//! The listening sockets of a worker: accepting, leaving out for a while, closing.
//!
//! They are watched level-triggered and exclusively: the kernel wakes one worker for a new connection. An exclusive wake-up
//! that came to this worker came to no other, so it is never declined: who cannot be served here moves on.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Reactor;
use super::state::{Event, LISTENERS, MAILBOX, State, What};
use crate::gateway::Peer;
use crate::net::address::Address;
use crate::net::stream::{Stream, peer_names};
use crate::sys;
use crate::worker::Worker;
use crate::worker::clock::{Millis, now};
use crate::worker::connection::Connection;
use crate::worker::work::Spare;

/// How long nobody is let in when descriptors have run out.
const SHORTAGE: Millis = 100;

/// The log is told of it only so often.
const COMPLAIN_EVERY: Millis = 10_000;

impl Reactor {
    pub(super) fn accept(&self, worker: &Arc<Worker>, spare: &mut Spare, index: usize) -> Option<Box<Connection>> {
        let listener = self.lock().doors[index].listener.clone()?;
        let accepted = match listener.address {
            Address::Unix(_) | Address::Abstract(_) => {
                sys::accept::accept_unnamed(listener.fd.as_fd()).map(|fd| (fd, Peer::default()))
            }
            _ => sys::accept::accept(listener.fd.as_fd()).map(|(fd, address)| {
                let (addr, port) = peer_names(&address);
                (fd, Peer { addr, port })
            }),
        };
        match accepted {
            Ok((fd, peer)) => {
                {
                    let mut state = self.lock();
                    state.live += 1;
                    worker.slot().set_connections(state.live);
                    if state.live == 2 {
                        worker.standby.hurry();
                    }
                    self.count_drained(&mut state, index);
                    if worker.options.processes > 1 && state.doors[index].watched {
                        // The kernel wakes exclusive waiters in the order they came and does not rotate them: without
                        // going to the end of the line the first worker takes every connection of a burst.
                        self.watch_door(&mut state, index, false);
                        self.watch_door(&mut state, index, true);
                    }
                }
                let mut connection = Connection::new(worker, Stream::new(fd), index, peer);
                // The first worker that gets a processor can empty the queue before the others that were woken run.
                if worker.options.processes > 1
                    && !worker.is_retiring()
                    && let Some(lighter) = worker.scoreboard.lighter(worker.id)
                    && let Some(mut packed) = connection.pack(0)
                {
                    match self.post(worker, connection, lighter, &mut packed) {
                        Ok(()) => return None,
                        Err(kept) => connection = kept,
                    }
                }
                let step = connection.step(spare);
                return self.settle(connection, step);
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => self.found_empty(index),
                // The client was faster: nothing happened.
                Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO) => {}
                _ => self.run_short(&listener.address, &error),
            },
        }
        None
    }

    /// Requests that wait in any worker, and connections that nobody has accepted (the kernel tells of TCP alone).
    pub(in crate::worker) fn queue(&self, worker: &Worker) -> u64 {
        let board = &worker.scoreboard;
        let in_workers: u64 = (1..=board.workers() as u32).map(|id| board.worker(id).waiting()).sum();
        let state = self.lock();
        let listeners = state.doors.iter().filter_map(|door| door.listener.as_ref());
        let unaccepted = listeners.filter_map(|listener| sys::fd::listen_queue(&listener.fd).ok());
        in_workers + unaccepted.map(|(waiting, _)| waiting).sum::<u64>()
    }

    /// Nobody waits at a listener; if it is served to its end, that is its end.
    pub(super) fn found_empty(&self, index: usize) {
        let mut state = self.lock();
        if state.draining.front().is_some_and(|(front, _)| *front == index) {
            state.draining.pop_front();
            self.close_door(&mut state, index);
            self.finish_if_done(state);
        }
    }

    /// Another connection of a listener that is served to its end was accepted.
    fn count_drained(&self, state: &mut State, index: usize) {
        if let Some((front, left)) = state.draining.front_mut()
            && *front == index
        {
            *left -= 1;
            if *left == 0 {
                state.draining.pop_front();
                self.close_door(state, index);
            }
        }
    }

    /// No descriptors are left (or the like): those who wait stay in the queue until some are.
    fn run_short(&self, address: &Address, error: &io::Error) {
        let mut state = self.lock();
        if state.complain_at <= now() {
            let advice = if error.raw_os_error() == Some(libc::EMFILE) { " (max-fd raises the limit)" } else { "" };
            log::error!("accepting on {address} failed: {error}; new connections wait in the listen queue{advice}");
            state.complain_at = now() + COMPLAIN_EVERY;
        }
        self.begin_shortage(&mut state);
    }

    /// Takes nobody in for a while. Connections that are kept alive make room with their next response.
    pub(super) fn begin_shortage(&self, state: &mut State) {
        state.short_until = Some(now() + SHORTAGE);
        self.crowded.store(true, Ordering::Relaxed);
        for index in 0..state.doors.len() {
            self.watch_door(state, index, false);
        }
        // Whoever waits for events already does not know how long he may.
        self.interrupt();
    }

    /// Takes newcomers in again, and letters; in a worker that is paused by the operator letters alone.
    pub(super) fn open_doors(&self, state: &mut State) {
        state.short_until = None;
        self.crowded.store(false, Ordering::Relaxed);
        // Letters may have come, and stayed.
        state.events.push_back(Event { token: MAILBOX, what: What::Ready { half_closed: false } });
        for index in 0..state.doors.len() {
            if state.shut {
                break;
            }
            // Those that are served to their end are looked at without being watched.
            if !state.draining.iter().any(|(draining, _)| *draining == index) {
                self.watch_door(state, index, true);
            }
        }
    }

    pub(super) fn watch_door(&self, state: &mut State, index: usize, watch: bool) {
        let door = &mut state.doors[index];
        let Some(listener) = &door.listener else { return };
        if door.watched == watch {
            return;
        }
        let fd = listener.fd.as_raw_fd();
        let done = match watch {
            true => sys::epoll::watch_listener(self.epoll, fd, LISTENERS - index),
            false => sys::epoll::forget(self.epoll, fd),
        };
        match done {
            Ok(()) => door.watched = watch,
            Err(error) => log::error!("{} cannot be watched: {error}", listener.address),
        }
    }

    pub(super) fn close_door(&self, state: &mut State, index: usize) {
        self.watch_door(state, index, false);
        state.doors[index].listener = None;
    }
}
