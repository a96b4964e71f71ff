//! What every worker and every app thread is doing, in memory that all processes share.
//!
//! Workers write, the master and the statistics read. All of it is atomics: nobody waits for anybody, and a
//! process that dies in the middle of a write leaves nothing locked.
//!
//! While a worker is being replaced two processes bear the same worker number. Each number therefore has
//! [`LANES`] slots; the master names the lane when it asks for a fork, and the new process calls
//! [`Scoreboard::settle`] once, so that [`Scoreboard::worker`] gives everybody his own slot.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::sys::memory::SharedRows;

/// How many processes can bear one worker number at a time.
pub const LANES: u32 = 4;

const WORKER_WORDS: usize = 64;
const PID: usize = 0;
const STATE: usize = 1;
const GENERATION: usize = 2;
const REQUESTS: usize = 3;
const EXCEPTIONS: usize = 4;
const TX_BYTES: usize = 5;
const IDLE: usize = 6;
const CONNECTIONS: usize = 7;
const PROMISED: usize = 8;
const BUSY: usize = 9;
const WAITING: usize = 10;
const SEALED: usize = 15;
const RUNNING: usize = 16;
const AVERAGE: usize = 17;
const BORN: usize = 18;
const BIRTHS: usize = 19;
const BEFORE: usize = 20;
const HARAKIRIS: usize = 21;
/// One word for each of [`DURATIONS`], and one for what took longer.
const SPANS: usize = 24;
/// Microseconds that requests waited for a thread.
const WAITED: usize = 40;
/// The same words as [`SPANS`], for requests that waited.
const WAITS: usize = 41;

/// Bounds by which requests are counted, in microseconds.
pub const DURATIONS: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

const THREAD_WORDS: usize = 48;
const SEQUENCE: usize = 0;
const STARTED: usize = 1;
const SERVED: usize = 2;
const LENGTHS: usize = 3;
const METHOD: usize = 4;
const METHOD_WORDS: usize = 2;
const PEER: usize = METHOD + METHOD_WORDS;
const PEER_WORDS: usize = 6;
const URI: usize = PEER + PEER_WORDS;
const URI_WORDS: usize = 28;
const WRITE_ERRORS: usize = URI + URI_WORDS;

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

/// What one worker process tells. A cheap value: take it as often as needed.
#[derive(Clone, Copy)]
pub struct WorkerSlot<'a> {
    words: &'a [AtomicU64; WORKER_WORDS],
    threads: &'a [[AtomicU64; THREAD_WORDS]],
}

/// What one app thread tells. Only the thread itself writes to it.
#[derive(Clone, Copy)]
pub struct ThreadSlot<'a> {
    words: &'a [AtomicU64; THREAD_WORDS],
}

/// A request that is being served, as its thread noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// When it began, on [`crate::sys::clock::monotonic_ms`].
    pub started_ms: u64,
    /// Request method, cut to 16 bytes.
    pub method: Vec<u8>,
    /// Request target, cut to 224 bytes.
    pub uri: Vec<u8>,
    /// The client, cut to 48 bytes.
    pub peer: Vec<u8>,
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

    /// The process that serves as worker `id`.
    fn ready(&self, id: u32) -> Option<WorkerSlot<'_>> {
        (0..LANES).map(|lane| self.slot(id, lane)).find(|slot| slot.state() == State::Ready)
    }

    /// Whether a process is ready as worker `id`.
    pub fn is_served(&self, id: u32) -> bool {
        id as usize <= self.workers() && self.ready(id).is_some()
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

    /// Numbers a request: 1 for the first one of the whole server.
    pub fn count_request(&self) -> u64 {
        self.totals.rows()[0][0].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Requests of the whole server so far.
    pub fn total_requests(&self) -> u64 {
        self.totals.rows()[0][0].load(Ordering::Relaxed)
    }
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

    /// The worker does not read its mailbox any more, whatever was promised.
    pub fn seal_now(self) {
        self.words[SEALED].store(1, Ordering::SeqCst);
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

    /// Connections that the worker has, or finds in its mailbox.
    pub fn connections(self) -> u64 {
        self.words[CONNECTIONS].load(Ordering::Relaxed) + self.words[PROMISED].load(Ordering::Relaxed)
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

impl ThreadSlot<'_> {
    /// A request begins, at `now_ms` of [`crate::sys::clock::monotonic_ms`].
    pub fn enter(self, now_ms: u64, method: &[u8], uri: &[u8], peer: &[u8]) {
        // A sequence lock with one writer: odd while the words change.
        let sequence = self.words[SEQUENCE].load(Ordering::Relaxed);
        self.words[SEQUENCE].store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let method = write(&self.words[METHOD..METHOD + METHOD_WORDS], method);
        let peer = write(&self.words[PEER..PEER + PEER_WORDS], peer);
        let uri = write(&self.words[URI..URI + URI_WORDS], uri);
        self.words[LENGTHS].store((method | peer << 16 | uri << 32) as u64, Ordering::Relaxed);
        // 0 is idle.
        self.words[STARTED].store(now_ms.max(1), Ordering::Relaxed);
        self.words[SEQUENCE].store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// The request is over.
    pub fn leave(self) {
        self.words[STARTED].store(0, Ordering::Release);
        let served = self.words[SERVED].load(Ordering::Relaxed);
        self.words[SERVED].store(served + 1, Ordering::Relaxed);
    }

    /// When the request that is being served began.
    fn started(self) -> Option<u64> {
        Some(self.words[STARTED].load(Ordering::Relaxed)).filter(|began| *began != 0)
    }

    /// The client left before it had the whole response.
    pub fn add_write_error(self) {
        self.words[WRITE_ERRORS].fetch_add(1, Ordering::Relaxed);
    }

    /// Responses that clients did not wait for.
    pub fn write_errors(self) -> u64 {
        self.words[WRITE_ERRORS].load(Ordering::Relaxed)
    }

    /// Requests that this thread has served.
    pub fn requests(self) -> u64 {
        self.words[SERVED].load(Ordering::Relaxed)
    }

    /// The request that is being served, if any. Torn reads are never returned; a thread that
    /// changes requests too fast to be read, or that was killed in the act, counts as idle.
    pub fn current(self) -> Option<Current> {
        for _ in 0..64 {
            let before = self.words[SEQUENCE].load(Ordering::Acquire);
            if before % 2 == 1 {
                std::hint::spin_loop();
                continue;
            }
            let started_ms = self.words[STARTED].load(Ordering::Relaxed);
            if started_ms == 0 {
                return None;
            }
            let lengths = self.words[LENGTHS].load(Ordering::Relaxed) as usize;
            let current = Current {
                started_ms,
                method: read(&self.words[METHOD..METHOD + METHOD_WORDS], lengths & 0xffff),
                peer: read(&self.words[PEER..PEER + PEER_WORDS], lengths >> 16 & 0xffff),
                uri: read(&self.words[URI..URI + URI_WORDS], lengths >> 32 & 0xffff),
            };
            fence(Ordering::Acquire);
            if self.words[SEQUENCE].load(Ordering::Relaxed) == before {
                return Some(current);
            }
        }
        None
    }
}

/// Stores as much of `bytes` as fits; how much that was.
fn write(words: &[AtomicU64], bytes: &[u8]) -> usize {
    let len = bytes.len().min(words.len() * 8);
    let mut chunks = bytes[..len].chunks_exact(8);
    let mut words = words.iter();
    for (chunk, word) in chunks.by_ref().zip(words.by_ref()) {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        word.store(u64::from_ne_bytes(eight), Ordering::Relaxed);
    }
    let rest = chunks.remainder();
    if let Some(word) = words.next()
        && !rest.is_empty()
    {
        let mut eight = [0; 8];
        eight[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_ne_bytes(eight), Ordering::Relaxed);
    }
    len
}

fn read(words: &[AtomicU64], len: usize) -> Vec<u8> {
    let len = len.min(words.len() * 8);
    let mut out = Vec::with_capacity(len + 8);
    for word in &words[..len.div_ceil(8)] {
        out.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    out.truncate(len);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_seen_while_it_runs() {
        let board = Scoreboard::create(2, 2).unwrap();
        let thread = board.worker(2).thread(1);
        assert_eq!(thread.current(), None);
        thread.enter(7, b"POST", b"/import", b"10.0.0.1");
        let current = board.worker(2).oldest().unwrap();
        assert_eq!((current.method.as_slice(), current.uri.as_slice()), (&b"POST"[..], &b"/import"[..]));
        assert_eq!((current.peer.as_slice(), current.started_ms), (&b"10.0.0.1"[..], 7));
        assert_eq!(board.worker(1).oldest(), None);
        thread.leave();
        assert_eq!((thread.current(), thread.requests()), (None, 1));
    }

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

    #[test]
    fn long_texts_are_cut_and_short_ones_exact() {
        let board = Scoreboard::create(1, 1).unwrap();
        let thread = board.worker(1).thread(0);
        let long = [b'x'; 1000];
        thread.enter(0, &long, &long, &long);
        let current = thread.current().unwrap();
        assert_eq!((current.method.len(), current.uri.len(), current.peer.len()), (16, 224, 48));
        for len in 0..=224 {
            thread.enter(1, b"GET", &long[..len], b"");
            assert_eq!(thread.current().unwrap().uri, &long[..len]);
        }
    }

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
    fn a_process_killed_in_the_act_locks_nothing() {
        let board = Scoreboard::create(1, 1).unwrap();
        let thread = board.worker(1).thread(0);
        thread.words[SEQUENCE].store(1, Ordering::Relaxed);
        assert_eq!(thread.current(), None);
        board.worker(1).reset(5, 1);
        thread.enter(3, b"GET", b"/", b"");
        assert!(thread.current().is_some());
    }

    #[test]
    fn a_reader_never_sees_two_requests_mixed() {
        let board = Scoreboard::create(1, 1).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in 0..20_000_u64 {
                    let byte = [b'a' + (n % 26) as u8; 100];
                    board.worker(1).thread(0).enter(n, &byte[..10], &byte, &byte[..20]);
                }
            });
            while !writer.is_finished() {
                if let Some(current) = board.worker(1).thread(0).current() {
                    let first = current.uri[0];
                    assert!(current.uri.iter().chain(&current.method).chain(&current.peer).all(|b| *b == first));
                }
            }
        });
    }
}
