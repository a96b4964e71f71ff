//! Who takes over a connection: workers that are idle, or have fewer connections; and the promises that keep a connection out
//! of a mailbox that nobody reads any more.
//!
//! Who posts promises first and then finds out whether the receiver has sealed its mailbox; who is done seals first and then
//! finds out what was promised (Dekker's pattern).

use std::sync::atomic::Ordering;

use super::layout::*;
use super::{LANES, Scoreboard, State, WorkerSlot};

impl Scoreboard {
    /// Finds a ready worker that waits for something to do, other than `except`, and claims it: nobody else finds it
    /// until it waits again.
    pub fn claim_idle(&self, except: u32) -> Option<u32> {
        let count = self.workers() as u32;
        (0..count).map(|step| (except + step) % count + 1).filter(|id| *id != except).find(|id| {
            (0..LANES).any(|lane| {
                let slot = self.slot(*id, lane);
                slot.state() == State::Ready
                    && slot.words[IDLE].compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            })
        })
    }

    /// The worker that has the fewest connections, when `id` has many more than its share of them: half as much again, and then
    /// some, so that small numbers do not count.
    pub fn lighter(&self, id: u32) -> Option<u32> {
        /// So much of an imbalance is not worth a connection's way to another worker.
        const SLACK: u64 = 2;
        let own = self.worker(id).connections();
        if own <= SLACK {
            return None;
        }
        let (mut all, mut count, mut least) = (own, 1, None);
        for other in (1..=self.workers() as u32).filter(|other| *other != id) {
            let Some(slot) = self.ready(other) else { continue };
            let connections = slot.connections();
            all += connections;
            count += 1;
            if least.is_none_or(|(fewest, _)| connections < fewest) {
                least = Some((connections, other));
            }
        }
        least.filter(|_| own > SLACK + all * 3 / (count * 2)).map(|(_, other)| other)
    }

    /// A connection is about to be put into the mailbox of worker `id`. Gives the process that is to take it; none: nobody
    /// would read it.
    pub fn promise(&self, id: u32) -> Option<WorkerSlot<'_>> {
        let slot = if id as usize <= self.workers() { self.ready(id)? } else { return None };
        // Dekker's pattern, see `WorkerSlot::seal`.
        slot.words[PROMISED].fetch_add(1, Ordering::SeqCst);
        if slot.words[SEALED].load(Ordering::SeqCst) == 0 {
            return Some(slot);
        }
        slot.keep_promise();
        None
    }

    /// A connection has come out of the mailbox of worker `id` that was promised to process `pid`.
    pub fn keep_promise(&self, id: u32, pid: i32) {
        if let Some(slot) = (0..LANES).map(|lane| self.slot(id, lane)).find(|slot| slot.pid() == pid) {
            slot.keep_promise();
        }
    }
}

impl WorkerSlot<'_> {
    /// A promised connection has come, see [`Scoreboard::promise`].
    pub fn keep_promise(self) {
        // What lay in the mailbox of a process before was promised to that one.
        let one_less = |count: u64| count.checked_sub(1);
        let _ = self.words[PROMISED].fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }

    /// The worker is done, and reads its mailbox no more. False: it should go on, as somebody is about to put something there.
    pub fn seal(self) -> bool {
        self.words[SEALED].store(1, Ordering::SeqCst);
        if self.words[PROMISED].load(Ordering::SeqCst) == 0 {
            return true;
        }
        self.words[SEALED].store(0, Ordering::SeqCst);
        false
    }

    /// The worker does not read its mailbox any more, whatever was promised.
    pub fn seal_now(self) {
        self.words[SEALED].store(1, Ordering::SeqCst);
    }

    /// Connections that the worker has, or finds in its mailbox.
    pub fn connections(self) -> u64 {
        self.words[CONNECTIONS].load(Ordering::Relaxed) + self.words[PROMISED].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_beyond_a_share_go_to_the_worker_with_the_fewest() {
        let scoreboard = Scoreboard::create(4, 1).unwrap();
        for id in 1..=4 {
            scoreboard.worker(id).reset(100, 1);
            scoreboard.worker(id).set_state(State::Ready);
        }
        scoreboard.worker(1).set_connections(3);
        assert_eq!(scoreboard.lighter(1), None, "three against none is nothing");
        scoreboard.worker(1).set_connections(20);
        scoreboard.worker(2).set_connections(1);
        assert_eq!(scoreboard.lighter(1), Some(3));
        assert!(scoreboard.promise(3).is_some() && scoreboard.promise(3).is_some());
        assert_eq!(scoreboard.lighter(1), Some(4));
        scoreboard.worker(4).set_state(State::Retiring);
        assert_eq!(scoreboard.lighter(1), Some(2));
        scoreboard.worker(3).keep_promise();
        scoreboard.worker(3).keep_promise();
        scoreboard.worker(3).keep_promise();
        assert_eq!(scoreboard.lighter(1), Some(3));
        for id in 2..=3 {
            scoreboard.worker(id).set_connections(15);
        }
        assert_eq!(scoreboard.lighter(1), None);
    }

    #[test]
    fn nothing_is_promised_to_a_worker_that_is_done() {
        let board = Scoreboard::create(2, 1).unwrap();
        assert!(board.promise(1).is_none(), "nobody is there");
        board.worker(1).reset(100, 1);
        board.worker(1).set_state(State::Ready);
        assert!(board.promise(1).is_some());
        assert!(!board.worker(1).seal(), "it is on its way");
        assert!(board.promise(1).is_some());
        board.worker(1).keep_promise();
        board.worker(1).keep_promise();
        assert!(board.worker(1).seal());
        assert!(board.promise(1).is_none());
        assert_eq!(board.worker(1).connections(), 0);
        board.worker(1).reset(101, 1);
        board.worker(1).set_state(State::Ready);
        assert!(board.promise(1).is_some());
    }

    #[test]
    fn a_letter_to_a_process_of_before_keeps_no_promise_to_the_next() {
        let board = Scoreboard::create(1, 1).unwrap();
        for (lane, pid) in [(0, 100), (1, 101)] {
            board.slot(1, lane).reset(pid, 1);
            board.slot(1, lane).set_state(State::Ready);
            assert_eq!(board.promise(1).map(WorkerSlot::pid), Some(pid));
            if pid == 100 {
                board.slot(1, lane).set_state(State::Retiring);
            }
        }
        // The mailbox belongs to the number: the second process takes both.
        board.keep_promise(1, 100);
        assert!(!board.slot(1, 1).seal(), "its own is on its way");
        board.keep_promise(1, 101);
        assert!(board.slot(1, 1).seal());
        board.keep_promise(1, 102);
    }
}
