//! Harakiri: requests that run for too long are stopped, each for itself.
//!
//! The standby thread watches, without Python: at the deadline it answers with 504, or cuts the connection when the head
//! is out. A thread of its own then waits for the interpreter, takes the stack and raises an exception in the
//! application. What does not end by that costs the worker: the master is told once, and when nothing but stuck
//! requests is left of a retiring worker it exits with them. Their request lines are never written; the entries of
//! harakiri stand for them.
//!
//! Who answers is decided by one atomic, taken by the first of application and watcher. The lock of a watch is held for
//! moves and non-blocking writes only, so that a thread attached to Python may wait for it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::clock::{Millis, lately, now};
use super::connection::Connection;
use super::mux::Branch;
use super::output::Io;
use super::{Worker, exchange};
use crate::control::FromWorker;
use crate::gateway::Exchange;
use crate::logging;
use crate::protocol::Protocol;
use crate::protocol::request::Version;
use crate::scoreboard::State;
use crate::sys;
use crate::wsgi::{Interrupt, Struck};

/// How often a worker with a stuck request looks whether that is all it has.
const STUCK_TICK: Millis = 100;

/// The longest time without a look while a request runs; epoll_wait knows no much longer ones.
const LONGEST_WAIT: Millis = 3_600_000;

/// The clock of deadlines may be late by so much.
const GRAIN: Millis = 5;

/// Bytes of a request's target that the log shows.
const MAX_TARGET: usize = 1000;

/// How long requests may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Before they are stopped; zero: as long as they like, unless the application itself limits them.
    pub limit: Duration,
    /// From there to the replacement of the worker.
    pub grace: Duration,
    /// The log gets the stacks of all threads.
    pub verbose: bool,
    /// Nobody is stopped by `limit` while fewer requests and connections wait.
    pub queue_threshold: u64,
}

/// How often it is looked whether enough of them wait.
const QUEUE_TICK: Millis = 1_000;

/// So much longer may a response take that has begun by the deadline, if it ends before its connection does: its thread may be
/// about to say that it is whole, and have been put off the processor just there.
const LAST_MOMENT: Millis = 20;

/// Nobody has begun a response.
const FREE: u8 = 0;
/// The application's head is fixed.
const APPLICATION: u8 = 1;
/// As well, and only the end of the connection tells the end of the response.
const APPLICATION_UNTIL_CLOSE: u8 = 2;
/// The watcher answers.
const WATCHER: u8 = 3;
/// All that the client is to get of this response is sent or on its way, and the connection may go on.
const SENT: u8 = 4;

/// How a request was stopped, as far as its connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It was answered with 504.
    Answered {
        head_bytes: u64,
        body_bytes: u64,
    },
    Cut,
    /// The client has its whole response, or is being served with it.
    Spared,
    /// The same over FastCGI, where the request was ended for the application.
    Ended,
}

/// What is watched of one app thread.
#[repr(align(64))]
#[derive(Default)]
struct Watch {
    /// When somebody has to look; 0: no request.
    due: AtomicU64,
    head: AtomicU8,
    running: Mutex<Running>,
    interrupt: OnceLock<Arc<Interrupt>>,
}

/// The request that runs. The texts keep their memory from request to request.
#[derive(Default)]
struct Running {
    /// Never 0 while it runs.
    serial: u64,
    began: Millis,
    /// When the application itself wants it stopped; 0: not.
    wanted: Millis,
    io: Option<Arc<Io>>,
    protocol: Option<Protocol>,
    head_request: bool,
    streamed: bool,
    branch: Option<Branch>,
    method: Vec<u8>,
    target: Vec<u8>,
    peer: String,
    stopped: Option<Stopped>,
    /// It has had its last moment.
    had_moment: bool,
    /// The entry in the log is written, or somebody is about to.
    told: Arc<AtomicBool>,
    /// The worker is given up.
    stuck: bool,
}

impl Watch {
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Harakiri {
    limit: Millis,
    grace: Millis,
    verbose: bool,
    queue_threshold: u64,
    watches: Vec<Watch>,
    helpers: Mutex<Vec<JoinHandle<()>>>,
}

impl Harakiri {
    pub(super) fn new(limits: &Limits, threads: usize) -> Harakiri {
        Harakiri {
            limit: limits.limit.as_millis() as Millis,
            grace: limits.grace.as_millis() as Millis,
            verbose: limits.verbose,
            queue_threshold: limits.queue_threshold,
            watches: (0..threads).map(|_| Watch::default()).collect(),
            helpers: Mutex::default(),
        }
    }

    /// App thread `core` can be interrupted by this.
    pub(super) fn introduce(&self, core: usize, interrupt: Arc<Interrupt>) {
        let _ = self.watches[core].interrupt.set(interrupt);
    }

    /// A request is about to run on app thread `core`, or to wait for the interpreter there.
    pub(super) fn begin(&self, core: usize, connection: &Connection) {
        let watch = &self.watches[core];
        let mut running = watch.running();
        running.serial += 1;
        running.began = lately();
        running.io = Some(Arc::clone(&connection.io));
        running.protocol = Some(connection.protocol());
        running.streamed = connection.work().streamed.is_some();
        running.branch.clone_from(&connection.branch);
        let (request, head) = connection.request();
        running.head_request = request.is_head(head);
        running.method.clear();
        running.method.extend_from_slice(request.method.of(head));
        let target = request.target.of(head);
        running.target.clear();
        running.target.extend_from_slice(&target[..target.len().min(MAX_TARGET)]);
        running.peer.clear();
        running.peer.push_str(connection.who());
        running.stopped = None;
        running.had_moment = false;
        running.stuck = false;
        running.wanted = 0;
        watch.head.store(FREE, Ordering::Release);
        if let Some(interrupt) = watch.interrupt.get() {
            interrupt.begin(running.serial);
        }
        watch.due.store(self.due(&running), Ordering::Release);
    }

    /// When a request is to be stopped; 0: never.
    fn due(&self, running: &Running) -> Millis {
        let configured = (self.limit > 0).then(|| running.began + self.limit);
        let wanted = (running.wanted > 0).then_some(running.wanted);
        configured.into_iter().chain(wanted).min().unwrap_or(0)
    }

    /// The application wants its request on app thread `core` stopped after `limit`; zero: no more.
    fn want(&self, core: usize, limit: Duration) {
        let watch = &self.watches[core];
        let mut running = watch.running();
        if running.stopped.is_some() {
            return;
        }
        running.wanted = match limit.as_millis() as Millis {
            0 if limit.is_zero() => 0,
            limit => now() + limit.max(1),
        };
        watch.due.store(self.due(&running), Ordering::Release);
    }

    /// Whether a request that is late by the configuration is spared because nobody waits for its thread.
    fn spares(&self, worker: &Worker, running: &Running, now: Millis) -> bool {
        let wanted = running.wanted > 0 && running.wanted <= now;
        self.queue_threshold > 0 && !wanted && worker.reactor.queue(worker) < self.queue_threshold
    }

    /// The application's response begins. False: the request was answered already.
    pub(super) fn application_answers(&self, core: usize) -> bool {
        let head = &self.watches[core].head;
        head.compare_exchange(FREE, APPLICATION, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The end of the application's response is the end of the connection.
    pub(super) fn ends_by_close(&self, core: usize) {
        self.watches[core].head.store(APPLICATION_UNTIL_CLOSE, Ordering::Release);
    }

    /// The response is made to its end; the connection, which may carry the client's next requests, is not to be cut any more.
    pub(super) fn response_is_sent(&self, core: usize) {
        let head = &self.watches[core].head;
        let _ = head.compare_exchange(APPLICATION, SENT, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The application is done with its request, which can't be stopped from now on. Tells how it was stopped before.
    pub(super) fn end(&self, core: usize) -> Option<Stopped> {
        let watch = &self.watches[core];
        if let Some(interrupt) = watch.interrupt.get() {
            interrupt.end();
        }
        let mut running = watch.running();
        watch.due.store(0, Ordering::Release);
        running.io = None;
        running.branch = None;
        running.stuck = false;
        running.stopped.take()
    }

    /// How long nobody needs to look. `inside`: an app thread is in the application, or about to be.
    pub(super) fn nothing_due_for(&self, inside: bool) -> Option<Duration> {
        let due = self.watches.iter().map(|watch| watch.due.load(Ordering::Acquire)).filter(|due| *due > 0).min();
        // Requests that begin meanwhile are not due before that.
        let longest = (self.limit > 0 && (inside || due.is_some())).then_some(self.limit);
        let nearest = due.map(|due| due.saturating_sub(now()));
        let wait = match (longest, nearest) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        Some(Duration::from_millis(wait.min(LONGEST_WAIT) + GRAIN))
    }

    /// Looks at the deadlines. Only the standby thread calls it.
    pub(super) fn look(&self, worker: &Worker) {
        let mut looks_stuck = false;
        for core in 0..self.watches.len() {
            let watch = &self.watches[core];
            let due = watch.due.load(Ordering::Acquire);
            if due == 0 || now() < due {
                continue;
            }
            let mut running = watch.running();
            // It may be over, and the next one have begun.
            let now = now();
            let due = watch.due.load(Ordering::Acquire);
            if due == 0 || now < due {
                continue;
            }
            if running.stopped.is_none() && self.spares(worker, &running, now) {
                watch.due.store(now + QUEUE_TICK, Ordering::Release);
            } else if running.stopped.is_none()
                && watch.head.load(Ordering::Acquire) == APPLICATION
                && !std::mem::replace(&mut running.had_moment, true)
            {
                watch.due.store(now + LAST_MOMENT, Ordering::Release);
            } else if running.stopped.is_none() {
                self.stop(worker, core, &mut running);
                watch.due.store((now + self.grace).max(1), Ordering::Release);
            } else {
                if !std::mem::replace(&mut running.stuck, true) {
                    self.give_up(worker, core, &running);
                }
                if running.stopped == Some(Stopped::Spared)
                    && let Some(io) = running.io.take_if(|io| io.queue().len() == 0)
                {
                    // Nobody will read the client's next request.
                    io.queue().give_up();
                    io.stream.cut();
                }
                looks_stuck = true;
                watch.due.store(now + STUCK_TICK, Ordering::Release);
            }
        }
        if looks_stuck && worker.is_retiring() && worker.reactor.has_only(self.stuck()) {
            log::info!("worker {} exits with a stuck request, everything else is done", worker.id);
            worker.slot().set_state(State::Empty);
            // Neither Python nor its exit handlers can be trusted to return.
            sys::process::exit_now(crate::exit::OK);
        }
    }

    /// Requests that are beyond help and have no output left.
    fn stuck(&self) -> usize {
        let written = |running: &Running| running.io.as_ref().is_none_or(|io| io.queue().len() == 0);
        let beyond = |watch: &&Watch| {
            let running = watch.running();
            running.stuck && written(&running)
        };
        self.watches.iter().filter(beyond).count()
    }

    /// Answers in place of the application, and sends for whom it can be stopped by.
    fn stop(&self, worker: &Worker, core: usize, running: &mut Running) {
        let watch = &self.watches[core];
        let (Some(io), Some(protocol)) = (running.io.clone(), running.protocol) else { return };
        let (stopped, outcome) = match watch.head.compare_exchange(FREE, WATCHER, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                let answer = exchange::plain_answer(504, protocol, Version::Http11, running.head_request, false);
                let head = memchr::memmem::find(&answer, b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
                match &running.branch {
                    Some(branch) => {
                        let bytes = [branch.stdout(&answer, b""), branch.finish(false)].concat();
                        deliver(worker, core, &io, &bytes, Some(branch));
                    }
                    None if deliver(worker, core, &io, &answer, None) => io.stream.finish_writing(),
                    None => {}
                }
                if running.streamed {
                    io.stream.finish_reading();
                }
                let (head_bytes, body_bytes) = (head as u64, (answer.len() - head) as u64);
                (Stopped::Answered { head_bytes, body_bytes }, "it is answered with 504")
            }
            // Who still waits for a body is cut: nothing else ends that.
            Err(SENT) if !running.streamed => {
                let stopped = match &running.branch {
                    Some(branch) => {
                        deliver(worker, core, &io, &branch.finish(false), Some(branch));
                        Stopped::Ended
                    }
                    None => Stopped::Spared,
                };
                (stopped, "its response is sent, the application is stopped")
            }
            Err(head) => {
                if let Some(branch) = &running.branch {
                    branch.finish(true);
                    branch.settle();
                }
                io.queue().give_up();
                if head == APPLICATION_UNTIL_CLOSE {
                    io.stream.abort()
                } else {
                    io.stream.cut()
                }
                (Stopped::Cut, "its response had begun, the connection is cut")
            }
        };
        if let Some(branch) = &running.branch {
            worker.reactor.tell_trunk(branch.trunk());
        }
        running.stopped = Some(stopped);
        worker.slot().add_harakiri();
        // Whoever was sent out for an earlier request may still have his own.
        running.told = Arc::default();
        let entry = format!("{}: {outcome}", self.describe(core, running));
        let Some(interrupt) = watch.interrupt.get().cloned() else { return };
        let (serial, verbose, told) = (running.serial, self.verbose, Arc::clone(&running.told));
        let late = entry.clone();
        let strike = move || {
            let stack = match interrupt.strike(serial, verbose) {
                Struck::At(stack) => stack,
                Struck::Over => "it ended just then\n".into(),
            };
            if !told.swap(true, Ordering::Relaxed) {
                log::error!(target: logging::LINES, "{late}\n{stack}");
            }
        };
        match thread::Builder::new().name("harakiri".into()).spawn(strike) {
            Ok(helper) => {
                let mut helpers = self.helpers.lock().unwrap_or_else(PoisonError::into_inner);
                helpers.retain(|helper| !helper.is_finished());
                helpers.push(helper);
            }
            Err(error) => {
                running.told.store(true, Ordering::Relaxed);
                log::error!("{entry}; it can't be interrupted, no thread can be started: {error}");
            }
        }
    }

    /// The request can't be stopped: the worker is to be replaced.
    fn give_up(&self, worker: &Worker, core: usize, running: &Running) {
        if !running.told.swap(true, Ordering::Relaxed) {
            log::error!(
                "{}: it was stopped, and its stack can't be shown: somebody keeps the interpreter",
                self.describe(core, running)
            );
        }
        log::error!(
            "{}: it does not end, the worker is to be replaced; it may be in a call that waits, outside of Python code",
            self.describe(core, running)
        );
        worker.tell(&FromWorker::Stuck);
    }

    fn describe(&self, core: usize, running: &Running) -> String {
        format!(
            "harakiri: {} {} from {} has run for {:.1} s on thread {core}",
            running.method.escape_ascii(),
            running.target.escape_ascii(),
            running.peer,
            now().saturating_sub(running.began) as f64 / 1000.0,
        )
    }

    /// Waits for the threads that were sent out: none may need the interpreter when it ends.
    pub(super) fn join(&self) {
        let helpers = std::mem::take(&mut *self.helpers.lock().unwrap_or_else(PoisonError::into_inner));
        for helper in helpers {
            let _ = helper.join();
        }
    }
}

/// Queues what ends a request, and writes what the socket takes. True: nothing waits.
fn deliver(worker: &Worker, core: usize, io: &Arc<Io>, bytes: &[u8], branch: Option<&Branch>) -> bool {
    let mut queue = io.queue();
    queue.push(bytes);
    if let Some(branch) = branch {
        branch.settle();
    }
    let all = queue.flush(&io.stream);
    drop(queue);
    if !all {
        worker.announce_output(core, Arc::clone(io));
    }
    all
}

impl Connection {
    /// The application's head is about to be fixed. False: the request was stopped and answered.
    pub(super) fn may_answer(&mut self) -> bool {
        let core = self.work().core;
        let free = self.worker.harakiri.get().is_none_or(|harakiri| harakiri.application_answers(core));
        if !free {
            let response = &mut self.work_mut().response;
            response.head_sent = true;
            response.gone = true;
        }
        free
    }

    /// The application limits the time of its request.
    pub(super) fn limit_own_time(&mut self, limit: Duration, interrupt: Arc<Interrupt>) {
        let core = self.work().core;
        let worker = Arc::clone(&self.worker);
        let threads = worker.options.threads.max(1) as usize;
        let harakiri = worker.harakiri.get_or_init(|| Harakiri::new(&worker.options.harakiri, threads));
        let watch = &harakiri.watches[core];
        if watch.interrupt.get().is_none() {
            // The first time on this thread: its request was not watched until now.
            harakiri.begin(core, self);
            if let Some(current) = worker.slot().thread(core).current() {
                watch.running().began = current.started_ms;
            }
            let response = &self.work().response;
            if response.head_sent {
                watch.head.store(if response.is_complete() { SENT } else { APPLICATION }, Ordering::Release);
                if response.ends_by_close() {
                    harakiri.ends_by_close(core);
                }
            }
            interrupt.join(watch.running().serial);
            harakiri.introduce(core, interrupt);
        }
        harakiri.want(core, limit);
        // Whoever waits may have reckoned with no end.
        worker.standby.hurry();
        worker.reactor.interrupt();
    }

    /// The application is done. True: its request was stopped before, and there is nothing more to send.
    pub(super) fn was_stopped(&mut self) -> bool {
        let core = self.work().core;
        let Some(stopped) = self.worker.harakiri.get().and_then(|harakiri| harakiri.end(core)) else { return false };
        if stopped == Stopped::Spared {
            return false;
        }
        self.last = true;
        self.pending = true;
        self.worker.withdraw_output(core);
        let response = &mut self.work_mut().response;
        response.gone = false;
        if let Stopped::Answered { head_bytes, body_bytes } = stopped {
            response.head_sent = true;
            response.status = 504;
            (response.head_bytes, response.body_bytes) = (head_bytes, body_bytes);
            response.fields = 0;
        }
        true
    }
}

#[cfg(test)]
mod tests;
