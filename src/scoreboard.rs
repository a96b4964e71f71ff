//! What every worker and every app thread is doing, in memory that all processes share.
//!
//! Workers write, the master and the statistics read. All of it is atomics: nobody waits for anybody, and a
//! process that dies in the middle of a write leaves nothing locked.
//!
//! While a worker is being replaced two processes bear the same worker number. Each number therefore has
//! [`LANES`] slots; the master names the lane when it asks for a fork, and the new process calls
//! [`Scoreboard::settle`] once, so that [`Scoreboard::worker`] gives everybody his own slot.
//!
//! Here is the table and where things are in it; `worker` and `thread` have what is told, `promises` who may give connections
//! to whom, `layout` the words.

mod layout;
mod promises;
mod thread;
mod worker;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::memory::SharedRows;

use layout::{THREAD_WORDS, WORKER_WORDS};

pub use layout::DURATIONS;
pub use thread::{Current, ThreadSlot};
pub use worker::WorkerSlot;

/// How many processes can bear one worker number at a time.
pub const LANES: u32 = 4;

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No process.
    Empty,
    /// Forked, not serving yet.
    Starting,
    /// Serving.
    Ready,
    /// Finishes what it has and exits.
    Retiring,
}

impl State {
    /// The name in logs and statistics.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "empty",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Retiring => "retiring",
        }
    }
}

/// The shared table. Made by the master before it forks; clones of the mapping come with each fork.
pub struct Scoreboard {
    totals: SharedRows<8>,
    workers: SharedRows<WORKER_WORDS>,
    threads: SharedRows<THREAD_WORDS>,
    /// This process's idea of each worker's lane.
    lanes: Vec<AtomicU32>,
    threads_per_worker: usize,
}

impl Scoreboard {
    /// A table for `workers` workers of `threads` app threads.
    ///
    /// # Errors
    /// The system's, when there is no memory.
    pub fn create(workers: usize, threads: usize) -> io::Result<Scoreboard> {
        let slots = workers.max(1) * LANES as usize;
        Ok(Scoreboard {
            totals: SharedRows::create(c"rsgi-totals", 1)?,
            workers: SharedRows::create(c"rsgi-workers", slots)?,
            threads: SharedRows::create(c"rsgi-threads", slots * threads.max(1))?,
            lanes: (0..workers.max(1)).map(|_| AtomicU32::new(0)).collect(),
            threads_per_worker: threads.max(1),
        })
    }

    /// The table that another program made in this process; `descriptors` are its [`Scoreboard::descriptors`].
    ///
    /// # Errors
    /// The system's; when it is of another size.
    pub fn adopt(descriptors: [OwnedFd; 3], workers: usize, threads: usize) -> io::Result<Scoreboard> {
        let [totals, rows, cores] = descriptors;
        let slots = workers.max(1) * LANES as usize;
        Ok(Scoreboard {
            totals: SharedRows::adopt(totals, 1)?,
            workers: SharedRows::adopt(rows, slots)?,
            threads: SharedRows::adopt(cores, slots * threads.max(1))?,
            lanes: (0..workers.max(1)).map(|_| AtomicU32::new(0)).collect(),
            threads_per_worker: threads.max(1),
        })
    }

    /// The memory of the table, for [`Scoreboard::adopt`].
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 3] {
        [self.totals.descriptor(), self.workers.descriptor(), self.threads.descriptor()]
    }

    /// How many worker numbers there are.
    pub fn workers(&self) -> usize {
        self.lanes.len()
    }

    /// App threads of each worker.
    pub fn threads_per_worker(&self) -> usize {
        self.threads_per_worker
    }

    /// From now on [`Scoreboard::worker`] of `id` is the slot in `lane`, in this process.
    pub fn settle(&self, id: u32, lane: u32) {
        self.lanes[id as usize - 1].store(lane % LANES, Ordering::Relaxed);
    }

    /// The slot of worker `id`, from 1.
    pub fn worker(&self, id: u32) -> WorkerSlot<'_> {
        self.slot(id, self.lanes[id as usize - 1].load(Ordering::Relaxed))
    }

    /// The slot of worker `id` in a lane that is named.
    pub fn slot(&self, id: u32, lane: u32) -> WorkerSlot<'_> {
        let index = (id as usize - 1) * LANES as usize + (lane % LANES) as usize;
        let first = index * self.threads_per_worker;
        WorkerSlot {
            words: &self.workers.rows()[index],
            threads: &self.threads.rows()[first..first + self.threads_per_worker],
        }
    }

    /// The process that serves as worker `id`.
    fn ready(&self, id: u32) -> Option<WorkerSlot<'_>> {
        (0..LANES).map(|lane| self.slot(id, lane)).find(|slot| slot.state() == State::Ready)
    }

    /// Numbers a request: 1 for the first one of the whole server.
    pub fn count_request(&self) -> u64 {
        self.totals.rows()[0][0].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Requests of the whole server so far.
    pub fn total_requests(&self) -> u64 {
        self.totals.rows()[0][0].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_keep_two_processes_of_one_number_apart() {
        let board = Scoreboard::create(3, 1).unwrap();
        board.worker(2).reset(100, 1);
        board.settle(2, 1);
        board.worker(2).reset(200, 2);
        board.worker(2).set_state(State::Ready);
        assert_eq!((board.slot(2, 0).pid(), board.slot(2, 0).state()), (100, State::Starting));
        assert_eq!((board.slot(2, 1).pid(), board.slot(2, 1).generation()), (200, 2));
        assert_eq!((board.worker(1).pid(), board.worker(3).pid()), (0, 0));
    }
}
