//! App threads, and the standby thread.
//!
//! An app thread attaches to Python once for its life and detaches around every wait. It takes a ready request and
//! runs it in place: nobody is woken for a fast application. The standby thread watches the app threads' sequence
//! numbers (odd: inside the application). Finding the same odd number at two ticks, it drives the reactor itself:
//! I/O, deadlines, and complete requests for app threads that are free, until nobody is stuck any more.
//! It needs no interpreter and never touches one.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::reactor::{Back, Patience};
use super::work::Spare;
use super::{Worker, access, clock};
use crate::control::FromWorker;
use crate::gateway::Exchange;
use crate::wsgi::{self, Apps};

/// A request that takes longer than one to two of these leaves the I/O to the standby thread.
const TICK: Duration = Duration::from_millis(1);

/// While every request is over within a tick, the standby thread looks less often: each look costs as much as three requests.
const LONG_TICK: Duration = Duration::from_millis(4);

/// Ticks in which all went fast before they become long: where there are slow requests at all, the next one is found soon.
const FAST_TICKS: u32 = 400;

/// Ticks without work before the standby thread sleeps until somebody enters the application.
const QUIET_TICKS: u32 = 2;

/// How soon output that a socket did not take is tried again while the standby thread drives.
const RETRY: Duration = Duration::from_millis(10);

/// App threads run the application's code on a stack like that of a Python thread.
const STACK: usize = 8 << 20;

/// One sequence number, alone on its cache line.
#[repr(align(64))]
#[derive(Default)]
struct Sequence(AtomicU32);

/// What app threads and the standby thread know of each other.
pub(super) struct Standby {
    sequences: Vec<Sequence>,
    /// It sleeps until it is woken, not until the next tick.
    asleep: AtomicBool,
    /// It looks at long ticks; whoever has output waiting cuts the present one short.
    relaxed: AtomicBool,
    /// It drives, and may be waiting for events: output must be written by whoever makes it.
    waiting: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Standby {
    pub(super) fn new(threads: usize) -> Standby {
        Standby {
            sequences: (0..threads).map(|_| Sequence::default()).collect(),
            asleep: AtomicBool::new(false),
            relaxed: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            thread: OnceLock::new(),
        }
    }

    fn add(&self, core: usize, count: u32) {
        // Only the thread itself writes its number.
        let sequence = &self.sequences[core].0;
        sequence.store(sequence.load(Ordering::Relaxed).wrapping_add(count), Ordering::Release);
    }

    /// App thread `core` goes into the application, or waits to be let into the interpreter.
    fn enter(&self, core: usize) {
        self.add(core, 1);
        self.look();
    }

    /// One request is done, the thread goes on with the next.
    fn advance(&self, core: usize) {
        self.add(core, 2);
    }

    fn leave(&self, core: usize) {
        self.add(core, 1);
    }

    /// Wakes the standby thread from its deep sleep.
    pub(super) fn look(&self) {
        // Dekker's pattern: what the caller changed is stored before the flag is loaded, and the standby thread stores the
        // flag before it looks at what could have changed.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Output waits: the next look must come within a tick. True: whoever made it must write it himself, since the standby
    /// thread may be waiting for events.
    pub(super) fn hurry(&self) -> bool {
        self.look();
        if self.relaxed.load(Ordering::Relaxed)
            && self.relaxed.swap(false, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
        // After the fence in `look`.
        self.waiting.load(Ordering::Relaxed)
    }

    fn sample(&self) -> Vec<u32> {
        self.sequences.iter().map(|sequence| sequence.0.load(Ordering::Acquire)).collect()
    }

    pub(super) fn somebody_is_inside(&self) -> bool {
        self.sequences.iter().any(|sequence| sequence.0.load(Ordering::Acquire) % 2 == 1)
    }

    /// Whether a thread stands where it stood when `sample` was taken, inside the application.
    fn somebody_is_stuck(&self, sample: &[u32]) -> bool {
        self.sequences
            .iter()
            .zip(sample)
            .any(|(now, before)| before % 2 == 1 && now.0.load(Ordering::Acquire) == *before)
    }
}

/// Runs all threads of the worker until it is done; returns the exit code.
pub(super) fn run(worker: &Arc<Worker>, apps: &Arc<Apps>, options: &wsgi::Options) -> u8 {
    let mut others = Vec::new();
    let standby = {
        let worker = Arc::clone(worker);
        thread::Builder::new().name("standby".into()).stack_size(512 << 10).spawn(move || standby(&worker))
    };
    match standby {
        Ok(handle) => others.push(handle),
        Err(error) => {
            log::error!("worker {}: the standby thread cannot be started: {error}", worker.id);
            return crate::exit::ERROR;
        }
    }
    for core in 1..options.threads as usize {
        let (worker_of_thread, apps, own_options) = (Arc::clone(worker), Arc::clone(apps), options.clone());
        let name = format!("app {core}");
        let thread = thread::Builder::new().name(name).stack_size(STACK);
        match thread.spawn(move || app_thread(&worker_of_thread, &apps, &own_options, core)) {
            Ok(handle) => others.push(handle),
            Err(error) => {
                log::error!("worker {}: only {core} of {} threads can be started: {error}", worker.id, options.threads);
                break;
            }
        }
    }
    // The first app thread is the process' main thread, as code that wants to be on it expects.
    app_thread(worker, apps, options, 0);
    for handle in others {
        if handle.join().is_err() {
            return crate::exit::ERROR;
        }
    }
    if let Some(harakiri) = worker.harakiri.get() {
        harakiri.join();
    }
    worker.witness.join();
    crate::exit::OK
}

/// A panic in a thread leaves a request without an answer and maybe a lock without an owner: the worker is not to be
/// trusted any more, and the master replaces it.
struct Unwinding;

impl Drop for Unwinding {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn app_thread(worker: &Arc<Worker>, apps: &Arc<Apps>, options: &wsgi::Options, core: usize) {
    let _unwinding = Unwinding;
    wsgi::with_app_thread(apps, options, core as u32, |app| {
        let mut spare = Spare::default();
        if worker.options.tells_stacks {
            worker.witness.introduce(core, app);
        }
        if let Some(harakiri) = worker.harakiri.get() {
            harakiri.introduce(core, app.interruptible());
        }
        let watch = |connection: &Connection| {
            if let Some(harakiri) = worker.harakiri.get() {
                harakiri.begin(core, connection);
            }
        };
        loop {
            spare.attached = false;
            let first = app.detached(|| {
                let found = worker.reactor.next(worker, &mut spare, Back::Nothing, Patience::Wait);
                if let Some(connection) = &found {
                    // Before attaching: a thread that waits for the interpreter is as good as inside the application.
                    worker.standby.enter(core);
                    watch(connection);
                }
                found
            });
            let Some(mut connection) = first else { return };
            spare.attached = true;
            loop {
                let served = serve(worker, app, core, connection);
                worker.standby.advance(core);
                match worker.reactor.next(worker, &mut spare, Back::Served(served), Patience::None) {
                    Some(next) => {
                        watch(&next);
                        connection = next;
                    }
                    None => break,
                }
            }
            worker.standby.leave(core);
        }
    });
}

fn serve(
    worker: &Worker,
    app: &mut wsgi::AppThread<'_>,
    core: usize,
    mut connection: Box<Connection>,
) -> Box<Connection> {
    connection.begin_response(core);
    let slot = worker.slot();
    let queued = std::mem::take(&mut connection.work_mut().queued);
    if queued > 0 {
        slot.add_wait(clock::micros().saturating_sub(queued));
    }
    let thread = slot.thread(core);
    let began = clock::lately();
    {
        let (request, head) = connection.request();
        let peer = connection.client().addr.as_bytes();
        thread.enter(began, request.method.of(head), request.target.of(head), peer);
    }
    let connection = app
        .serve(connection)
        .into_any()
        .downcast::<Connection>()
        .unwrap_or_else(|_| unreachable!("an exchange comes back as what it went in"));
    if worker.options.measures_busyness {
        slot.add_busy(clock::now().saturating_sub(began));
    }
    thread.leave();
    access::record(worker, &connection, core);
    if let Some(limit) = worker.meter.after_request() {
        worker.tell(&FromWorker::Reached(limit));
    }
    connection
}

fn standby(worker: &Arc<Worker>) {
    let _unwinding = Unwinding;
    let standby = &worker.standby;
    standby.thread.get_or_init(thread::current);
    let mut spare = Spare::default();
    let mut quiet = 0;
    let mut fast = 0;
    while !worker.reactor.is_done() {
        worker.look_at_deadlines();
        let sample = standby.sample();
        if sample.iter().any(|sequence| sequence % 2 == 1) {
            quiet = 0;
        } else {
            quiet += 1;
        }
        let mut waits = worker.flush_outputs();
        // A driving app thread does the I/O, and wakes this one when it goes into the application.
        let covered = |waits: bool| !waits && (!standby.somebody_is_inside() || worker.reactor.thread_drives());
        if (quiet >= QUIET_TICKS || worker.reactor.thread_drives()) && covered(waits) {
            standby.asleep.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            waits = worker.flush_outputs();
            if covered(waits) && !worker.reactor.is_done() {
                match worker.pause() {
                    // What wakes it else, it will find out.
                    Some(pause) => thread::park_timeout(pause),
                    None => {
                        while standby.asleep.load(Ordering::Acquire) {
                            thread::park();
                        }
                    }
                }
            }
            standby.asleep.store(false, Ordering::SeqCst);
            quiet = 0;
            continue;
        }
        // Long and short ones take turns, so that a slow request is found out within the two.
        let relax = fast >= FAST_TICKS && fast % 2 == 0 && !waits;
        standby.relaxed.store(relax, Ordering::Relaxed);
        thread::park_timeout(if relax { LONG_TICK } else { TICK });
        if standby.somebody_is_stuck(&sample) {
            fast = 0;
            drive(worker, &mut spare, sample);
        } else {
            fast += 1;
        }
    }
}

/// Drives the reactor until nobody is stuck.
fn drive(worker: &Arc<Worker>, spare: &mut Spare, mut sample: Vec<u32>) {
    let standby = &worker.standby;
    let mut sampled = Instant::now();
    loop {
        standby.waiting.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        worker.look_at_deadlines();
        let retry = worker.flush_outputs().then_some(RETRY);
        let limit = retry.into_iter().chain(worker.pause()).min();
        worker.reactor.relieve(worker);
        let drove = worker.reactor.drive(worker, spare, limit);
        standby.waiting.store(false, Ordering::SeqCst);
        if !drove {
            return;
        }
        if !standby.somebody_is_stuck(&sample) || worker.reactor.is_done() {
            worker.reactor.hand_over();
            return;
        }
        if sampled.elapsed() >= TICK {
            sample = standby.sample();
            sampled = Instant::now();
        }
    }
}
