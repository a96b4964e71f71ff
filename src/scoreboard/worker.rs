//! What one worker process tells: where it stands, and counters. They go on over the lives of the processes that have the
//! slot one after the other.

use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::*;
use super::{Current, State, ThreadSlot};

/// What one worker process tells. A cheap value: take it as often as needed.
#[derive(Clone, Copy)]
pub struct WorkerSlot<'a> {
    pub(super) words: &'a [AtomicU64; WORKER_WORDS],
    pub(super) threads: &'a [[AtomicU64; THREAD_WORDS]],
}

impl<'a> WorkerSlot<'a> {
    /// Begins the life of a new process: its threads are idle. Counters go on from the process before.
    pub fn reset(self, pid: i32, generation: u32) {
        for thread in self.threads {
            // A process that was killed in the middle of `enter` left its sequence odd.
            thread[SEQUENCE].store(0, Ordering::Relaxed);
            thread[STARTED].store(0, Ordering::Relaxed);
        }
        self.words[GENERATION].store(u64::from(generation), Ordering::Relaxed);
        self.words[PID].store(pid as u64, Ordering::Relaxed);
        self.words[CONNECTIONS].store(0, Ordering::Relaxed);
        self.words[PROMISED].store(0, Ordering::Relaxed);
        self.words[SEALED].store(0, Ordering::Relaxed);
        self.set_waiting(0);
        self.set_idle(false);
        self.set_state(State::Starting);
    }

    /// The process lives, since this second of the epoch.
    pub fn begin_life(self, second: u64) {
        self.words[BORN].store(second, Ordering::Relaxed);
        self.words[BEFORE].store(self.words[REQUESTS].load(Ordering::Relaxed), Ordering::Relaxed);
        self.words[BIRTHS].fetch_add(1, Ordering::Relaxed);
    }

    /// The second of the epoch at which the process began.
    pub fn born(self) -> u64 {
        self.words[BORN].load(Ordering::Relaxed)
    }

    /// Processes that this slot has had.
    pub fn births(self) -> u64 {
        self.words[BIRTHS].load(Ordering::Relaxed)
    }

    /// Requests that the process has served.
    pub fn requests_of_life(self) -> u64 {
        self.requests().load(Ordering::Relaxed).saturating_sub(self.words[BEFORE].load(Ordering::Relaxed))
    }

    /// A request ran longer than `harakiri` allows.
    pub fn add_harakiri(self) {
        self.words[HARAKIRIS].fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that ran longer than `harakiri` allows.
    pub fn harakiris(self) -> u64 {
        self.words[HARAKIRIS].load(Ordering::Relaxed)
    }

    /// A request took so many microseconds, from its first byte to the end of its response.
    pub fn add_duration(self, micros: u64) {
        self.add(RUNNING, micros);
        self.add(SPANS + DURATIONS.partition_point(|bound| *bound < micros), 1);
        // As in uWSGI: each request counts as much as all before it.
        let average = self.words[AVERAGE].load(Ordering::Relaxed);
        self.words[AVERAGE].store(average.midpoint(micros), Ordering::Relaxed);
    }

    /// Requests that took no longer than each of [`DURATIONS`] and longer than the one before; the last ones longer than all.
    pub fn durations(self) -> [u64; DURATIONS.len() + 1] {
        std::array::from_fn(|at| self.words[SPANS + at].load(Ordering::Relaxed))
    }

    /// A complete request waited so many microseconds for an app thread.
    pub fn add_wait(self, micros: u64) {
        self.add(WAITED, micros);
        self.add(WAITS + DURATIONS.partition_point(|bound| *bound < micros), 1);
    }

    /// Requests that waited for an app thread, by how long, as [`WorkerSlot::durations`]. Who did not wait is not in it.
    pub fn waits(self) -> [u64; DURATIONS.len() + 1] {
        std::array::from_fn(|at| self.words[WAITS + at].load(Ordering::Relaxed))
    }

    /// Microseconds that all requests waited.
    pub fn waited_micros(self) -> u64 {
        self.words[WAITED].load(Ordering::Relaxed)
    }

    /// Microseconds that all requests took.
    pub fn running_micros(self) -> u64 {
        self.words[RUNNING].load(Ordering::Relaxed)
    }

    /// Microseconds that a request takes, see [`WorkerSlot::add_duration`].
    pub fn average_micros(self) -> u64 {
        self.words[AVERAGE].load(Ordering::Relaxed)
    }

    /// Process id, 0 for none.
    pub fn pid(self) -> i32 {
        self.words[PID].load(Ordering::Relaxed) as i32
    }

    /// Generation of the process.
    pub fn generation(self) -> u32 {
        self.words[GENERATION].load(Ordering::Relaxed) as u32
    }

    /// Where the worker stands.
    pub fn state(self) -> State {
        match self.words[STATE].load(Ordering::Acquire) {
            1 => State::Starting,
            2 => State::Ready,
            3 => State::Retiring,
            _ => State::Empty,
        }
    }

    /// Says where the worker stands.
    pub fn set_state(self, state: State) {
        let value = match state {
            State::Empty => 0,
            State::Starting => 1,
            State::Ready => 2,
            State::Retiring => 3,
        };
        self.words[STATE].store(value, Ordering::Release);
    }

    /// Says whether the worker waits for something to do.
    pub fn set_idle(self, idle: bool) {
        self.words[IDLE].store(u64::from(idle), Ordering::Release);
    }

    /// Says how many connections the worker has.
    pub fn set_connections(self, count: usize) {
        self.words[CONNECTIONS].store(count as u64, Ordering::Relaxed);
    }

    /// Says how many complete requests wait for an app thread.
    pub fn set_waiting(self, count: usize) {
        self.words[WAITING].store(count as u64, Ordering::Relaxed);
    }

    /// Complete requests that wait for an app thread.
    pub fn waiting(self) -> u64 {
        self.words[WAITING].load(Ordering::Relaxed)
    }

    /// A request took so long.
    pub fn add_busy(self, ms: u64) {
        self.words[BUSY].fetch_add(ms, Ordering::Relaxed);
    }

    /// Milliseconds that the threads of this slot have spent in requests, those that run at `now_ms` included.
    pub fn busy_ms(self, now_ms: u64) -> u64 {
        let running = (0..self.threads()).filter_map(|core| self.thread(core).started());
        self.words[BUSY].load(Ordering::Relaxed) + running.map(|began| now_ms.saturating_sub(began)).sum::<u64>()
    }

    /// App threads that are in a request.
    pub fn busy_threads(self) -> usize {
        (0..self.threads()).filter(|core| self.thread(*core).started().is_some()).count()
    }

    /// Requests served by all processes of this slot.
    pub fn requests(self) -> &'a AtomicU64 {
        &self.words[REQUESTS]
    }

    /// Exceptions that the application raised.
    pub fn exceptions(self) -> &'a AtomicU64 {
        &self.words[EXCEPTIONS]
    }

    /// Bytes sent to clients.
    pub fn tx_bytes(self) -> &'a AtomicU64 {
        &self.words[TX_BYTES]
    }

    fn add(self, word: usize, count: u64) -> u64 {
        let word = &self.words[word];
        if self.threads.len() > 1 {
            return word.fetch_add(count, Ordering::Relaxed) + count;
        }
        // The only app thread is the only one that writes.
        let sum = word.load(Ordering::Relaxed) + count;
        word.store(sum, Ordering::Relaxed);
        sum
    }

    /// One request more; its number in this slot.
    pub fn add_request(self) -> u64 {
        self.add(REQUESTS, 1)
    }

    /// One exception more.
    pub fn add_exception(self) {
        self.words[EXCEPTIONS].fetch_add(1, Ordering::Relaxed);
    }

    /// `bytes` more were sent.
    pub fn add_tx_bytes(self, bytes: u64) {
        self.add(TX_BYTES, bytes);
    }

    /// App threads of the worker.
    pub fn threads(self) -> usize {
        self.threads.len()
    }

    /// App thread `core`, from 0.
    pub fn thread(self, core: usize) -> ThreadSlot<'a> {
        ThreadSlot { words: &self.threads[core] }
    }

    /// The request that has been served for longest.
    pub fn oldest(self) -> Option<Current> {
        (0..self.threads()).filter_map(|core| self.thread(core).current()).min_by_key(|current| current.started_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    #[test]
    fn counters_go_on_over_lives_and_those_of_a_life_do_not() {
        let board = Scoreboard::create(1, 1).unwrap();
        let slot = board.worker(1);
        slot.reset(5, 1);
        slot.begin_life(1000);
        for micros in [100, 300] {
            slot.add_request();
            slot.add_duration(micros);
        }
        assert_eq!((slot.running_micros(), slot.average_micros(), slot.requests_of_life()), (400, 175, 2));
        slot.add_duration(1_000);
        slot.add_duration(1_001);
        slot.add_duration(60_000_000);
        let durations = slot.durations();
        assert_eq!((durations[0], durations[1], durations[DURATIONS.len()]), (3, 1, 1));
        slot.reset(6, 1);
        slot.begin_life(2000);
        slot.add_request();
        assert_eq!((slot.born(), slot.births(), slot.requests_of_life()), (2000, 2, 1));
        assert_eq!(slot.requests().load(Ordering::Relaxed), 3);
    }
}
