//! The reactor: connections that wait for their clients, events that nobody has looked at, requests
//! that wait for a thread, deadlines.
//!
//! It is a value that one thread at a time drives. Only *waiting* for events needs the driver's role; whatever
//! is known already may be taken by any thread, and whoever adds to it takes from it before it
//! sleeps. epoll_wait runs outside the lock, reading and parsing too: under the lock there are only moves.
//! `doors` accepts, `moves` gives connections to other workers.
//! No Python reference is ever dropped under it (connections are dropped by the thread that took them).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;

use super::Worker;
use super::clock::{self, Millis, NEVER, now};
use super::connection::{Connection, Phase, Spare, Step};
use super::doors::Door;
use super::stacks;
use crate::control::{FromWorker, MAX_MESSAGE, Retire, ToWorker};
use crate::logging;
use crate::net::listener::Listener;
use crate::sys;
use crate::sys::fd::Received;

const CONTROL: usize = usize::MAX - 1;
const SIGNALS: usize = usize::MAX - 2;
const WAKER: usize = usize::MAX - 3;
pub(super) const MAILBOX: usize = usize::MAX - 4;
/// Listener `n` has the token `LISTENERS - n`.
pub(super) const LISTENERS: usize = usize::MAX - 1024;

/// Events fetched by one epoll_wait.
const BATCH: usize = 256;

/// How soon a request that waits for an app thread is offered to other workers again.
const RELIEF: Duration = Duration::from_millis(1);

/// Connections that a worker accepts at most from a listener that others go on serving, when it retires.
const DRAINED_FOR_OTHERS: u32 = 4096;

/// How long a worker that is done waits for a connection that somebody promised and did not send (he may be dead), and
/// how often it looks.
const PROMISE_MERCY: Millis = 200;
const SEAL_TICK: Millis = 2;

/// Who waits for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    Nobody,
    Thread,
    Standby,
}

/// Something happened to what `token` names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) token: usize,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Bytes came, or there is room for some. `half_closed`: nothing more will come.
    Ready { half_closed: bool },
    /// A deadline passed.
    Expired,
    /// A request of this connection is over.
    Ended,
}

impl What {
    /// Lets the connection do what comes of it.
    fn meet(self, connection: &mut Connection, spare: &mut Spare) -> Step {
        match self {
            What::Ready { half_closed } => connection.meet(Some(half_closed), spare),
            What::Expired => connection.meet(None, spare),
            What::Ended => connection.step(spare),
        }
    }

    /// This and what happened before it, for a connection that was away.
    fn after(self, before: Option<What>) -> What {
        match (before, self) {
            (Some(What::Ready { half_closed: true }), What::Ready { .. } | What::Ended) => {
                What::Ready { half_closed: true }
            }
            (Some(before), What::Ended) => before,
            (_, what) => what,
        }
    }
}

pub(super) struct Slot {
    /// Here while it waits; away while a thread has it.
    connection: Option<Box<Connection>>,
    /// It became ready while it was away.
    missed: Option<What>,
    /// The earliest entry in the timer heap, `NEVER` for none.
    timer: Millis,
}

pub(super) struct State {
    pub(super) slots: Slab<Slot>,
    pub(super) events: VecDeque<Event>,
    /// Connections that have more to do and let others go first: their turn is after the next look for events.
    again: Vec<usize>,
    /// Complete requests that wait for an app thread.
    pub(super) requests: VecDeque<Box<Connection>>,
    timers: BinaryHeap<Reverse<(Millis, usize)>>,
    driver: Driver,
    /// When the driver that waits now wakes at the latest.
    wakes_at: Millis,
    /// App threads asleep on the condition variable.
    pub(super) asleep: usize,
    /// Open connections, those that no slot knows included.
    pub(super) live: usize,
    retiring: Option<Retire>,
    /// Workers 1 to this number take over connections that wait here.
    pub(super) heirs: u32,
    /// False when a successor reads the mailbox instead.
    reads_mailbox: bool,
    /// Listeners whose queue is served to its end before they are closed, or so many more connections of it.
    pub(super) draining: VecDeque<(usize, u32)>,
    pub(super) doors: Vec<Door>,
    /// When listeners that were left out for want of descriptors are watched again.
    pub(super) pause: Option<Millis>,
    /// The operator wants nobody to be let in.
    pub(super) shut: bool,
    /// When the log may be told of it again.
    pub(super) complain_at: Millis,
    /// Nothing is left to do, and nobody puts anything into the mailbox any more.
    sealed: bool,
    /// Until then whoever promised a connection may still send it.
    seal_by: Option<Millis>,
}

struct Poller {
    poll: Poll,
    events: Events,
}

pub(super) struct Reactor {
    poller: Mutex<Poller>,
    pub(super) registry: Registry,
    pub(super) epoll: RawFd,
    waker: mio::Waker,
    state: Mutex<State>,
    pub(super) wake: Condvar,
    signals: Mutex<Option<OwnedFd>>,
    /// No descriptors are left: each response ends its connection.
    pub(super) crowded: AtomicBool,
    /// Descriptors that are kept free for those that come with a letter.
    pub(super) room: Mutex<Vec<Registry>>,
}

/// What a thread brings back to the reactor.
pub(super) enum Back {
    Nothing,
    /// A connection that ran its request.
    Served(Box<Connection>),
}

/// How long a thread may look for a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Take what is known, never wait.
    None,
    /// Wait until there is a request or the worker is done.
    Wait,
}

/// What came of letting a connection wait.
enum Parked {
    Asleep,
    /// The driver waits already, for longer than this connection can.
    TooLate,
    /// Something happened to it while it was away.
    Missed(Box<Connection>, What),
}

enum Pick {
    Request(Box<Connection>),
    Connection(Box<Connection>, What),
    Listener(usize),
    Control,
    Signals,
    Mailbox,
    Nothing,
}

impl Reactor {
    pub(super) fn new() -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let epoll = poll.as_raw_fd();
        let waker = mio::Waker::new(&registry, Token(WAKER))?;
        let state = State {
            slots: Slab::new(),
            events: VecDeque::with_capacity(BATCH),
            again: Vec::new(),
            requests: VecDeque::new(),
            timers: BinaryHeap::new(),
            driver: Driver::Nobody,
            wakes_at: NEVER,
            asleep: 0,
            live: 0,
            retiring: None,
            heirs: 0,
            reads_mailbox: true,
            draining: VecDeque::new(),
            doors: Vec::new(),
            pause: None,
            shut: false,
            complain_at: 0,
            sealed: false,
            seal_by: None,
        };
        Ok(Reactor {
            poller: Mutex::new(Poller { poll, events: Events::with_capacity(BATCH) }),
            registry,
            epoll,
            waker,
            state: Mutex::new(state),
            wake: Condvar::new(),
            signals: Mutex::new(None),
            crowded: AtomicBool::new(false),
            room: Mutex::default(),
        })
    }

    /// Begins to watch the control socket, the signal pipe and the listeners.
    pub(super) fn watch(
        &self,
        control: BorrowedFd<'_>,
        mailbox: Option<BorrowedFd<'_>>,
        signals: OwnedFd,
        listeners: Vec<Listener>,
    ) -> io::Result<()> {
        let readable = Interest::READABLE;
        self.registry.register(&mut SourceFd(&control.as_raw_fd()), Token(CONTROL), readable)?;
        self.registry.register(&mut SourceFd(&signals.as_raw_fd()), Token(SIGNALS), readable)?;
        if let Some(mailbox) = mailbox {
            self.registry.register(&mut SourceFd(&mailbox.as_raw_fd()), Token(MAILBOX), readable)?;
        }
        *self.signals.lock().unwrap_or_else(PoisonError::into_inner) = Some(signals);
        let mut state = self.lock();
        for (index, listener) in listeners.into_iter().enumerate() {
            sys::epoll::watch_listener(self.epoll, listener.fd.as_raw_fd(), LISTENERS - index)?;
            state.doors.push(Door { listener: Some(Arc::new(listener)), watched: true });
        }
        Ok(())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the next request for an app thread. `None`: there is none now, or with [`Patience::Wait`], the worker is done.
    pub(super) fn next(
        &self,
        worker: &Arc<Worker>,
        spare: &mut Spare,
        back: Back,
        patience: Patience,
    ) -> Option<Box<Connection>> {
        let mut held = match back {
            Back::Nothing => None,
            Back::Served(connection) => self.put_back(worker, connection, spare),
        };
        loop {
            let mut state = held.take().unwrap_or_else(|| self.lock());
            match state.pick(worker) {
                Pick::Request(connection) => return Some(connection),
                Pick::Nothing if patience == Patience::None => return None,
                Pick::Nothing if state.seal(worker) => {
                    drop(state);
                    self.wake.notify_all();
                    worker.standby.look();
                    return None;
                }
                Pick::Nothing if state.driver == Driver::Nobody => {
                    state.driver = Driver::Thread;
                    let timeout = state.timeout();
                    let retiring = state.retiring.is_some();
                    // None, but during a pause.
                    let waiting = state.requests.len();
                    drop(state);
                    worker.slot().set_idle(!retiring && !worker.is_paused());
                    worker.slot().set_waiting(waiting);
                    self.wait(timeout, Driver::Thread);
                    worker.slot().set_idle(false);
                }
                Pick::Nothing => {
                    state.asleep += 1;
                    state.tell_idle(worker);
                    let mut state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.asleep -= 1;
                    state.tell_idle(worker);
                }
                pick => {
                    drop(state);
                    if let Some(connection) = self.act(worker, spare, pick) {
                        if !worker.is_paused() {
                            return Some(connection);
                        }
                        self.lock().requests.push_back(connection);
                    }
                }
            }
        }
    }

    /// Puts a connection back whose request was served. The lock is kept where it had to be taken: the next pick needs it.
    fn put_back(
        &self,
        worker: &Worker,
        mut connection: Box<Connection>,
        spare: &mut Spare,
    ) -> Option<MutexGuard<'_, State>> {
        if connection.branch.is_some() {
            return Some(self.end_branch(connection));
        }
        let step = connection.after_response(spare);
        let connection = match (step, connection.token) {
            (Step::Wait, Some(token)) if !worker.is_retiring() => {
                let mut state = self.lock();
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
        state.events.extend(trunk.map(|token| Event { token, what: What::Ended }));
        self.closed(&worker, state);
        self.lock()
    }

    /// A request of a FastCGI connection is answered, though its thread still runs.
    pub(super) fn tell_trunk(&self, token: usize) {
        self.lock().events.push_back(Event { token, what: What::Ended });
        self.interrupt();
    }

    /// The standby thread's turn as driver: does all I/O that is known, hands complete requests to sleeping app
    /// threads, then waits for events, at most `limit`. False: another thread drives.
    pub(super) fn drive(&self, worker: &Arc<Worker>, spare: &mut Spare, limit: Option<Duration>) -> bool {
        loop {
            let mut state = self.lock();
            if state.driver == Driver::Thread {
                return false;
            }
            state.driver = Driver::Standby;
            match state.pick_io() {
                Pick::Nothing if state.seal(worker) => {
                    drop(state);
                    self.finish();
                    return true;
                }
                Pick::Nothing => {
                    // Requests wait here that an idle worker could take: look for one soon.
                    let others = worker.mailboxes.len() > 1 || state.heirs > 0;
                    let limit = if others && state.requests.len() > state.asleep { Some(RELIEF) } else { limit };
                    let timeout = match (state.timeout(), limit) {
                        (Some(a), Some(b)) => Some(a.min(b)),
                        (a, b) => a.or(b),
                    };
                    state.tell_idle(worker);
                    worker.slot().set_waiting(state.requests.len());
                    drop(state);
                    self.wait(timeout, Driver::Standby);
                    return true;
                }
                pick => {
                    drop(state);
                    if let Some(connection) = self.act(worker, spare, pick) {
                        self.hand_out(worker, connection);
                    }
                }
            }
        }
    }

    /// The standby thread has driven long enough: somebody else must, if anybody is free to.
    pub(super) fn hand_over(&self) {
        let mut state = self.lock();
        if state.driver == Driver::Standby {
            state.driver = Driver::Nobody;
        }
        if state.asleep > 0 {
            self.wake.notify_one();
        }
    }

    /// Whether a retiring worker has nothing left to do.
    pub(super) fn is_done(&self) -> bool {
        self.lock().is_done()
    }

    /// Whether a retiring worker has nothing left but so many connections.
    pub(super) fn has_only(&self, connections: usize) -> bool {
        let state = self.lock();
        state.live <= connections && state.draining.is_empty()
    }

    /// Ends a wait for events at once.
    pub(super) fn interrupt(&self) {
        // A waker fails only when its eventfd is full of wake-ups: then the wait ends as well.
        let _ = self.waker.wake();
    }

    /// Waits for events and publishes them; gives up the role of the driver unless it is the standby thread's.
    fn wait(&self, timeout: Option<Duration>, who: Driver) {
        let mut poller = self.poller.lock().unwrap_or_else(PoisonError::into_inner);
        let Poller { poll, events } = &mut *poller;
        if let Err(error) = poll.poll(events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            log::error!("waiting for events failed: {error}");
        }
        let now = now();
        let mut state = self.lock();
        for event in events.iter() {
            let token = event.token().0;
            if token == WAKER {
                continue;
            }
            let half_closed = event.is_read_closed() || event.is_error();
            state.events.push_back(Event { token, what: What::Ready { half_closed } });
        }
        let State { again, events: known, .. } = &mut *state;
        let more = What::Ready { half_closed: false };
        known.extend(again.drain(..).map(|token| Event { token, what: more }));
        state.expire(now);
        if who == Driver::Thread {
            state.driver = Driver::Nobody;
        }
        if state.pause.is_some_and(|until| until <= now) {
            self.resume_accepting(&mut state);
        }
    }

    /// Carries out what was picked; returns a complete request if one came of it.
    fn act(&self, worker: &Arc<Worker>, spare: &mut Spare, pick: Pick) -> Option<Box<Connection>> {
        match pick {
            Pick::Request(connection) => Some(connection),
            Pick::Connection(mut connection, what) => {
                let step = what.meet(&mut connection, spare);
                self.settle(connection, step)
            }
            Pick::Listener(index) => self.accept(worker, spare, index),
            Pick::Control => {
                self.read_control(worker);
                None
            }
            Pick::Mailbox => self.take_letter(worker, spare),
            Pick::Signals => {
                let mut bin = [0u8; 64];
                if let Some(pipe) = &*self.signals.lock().unwrap_or_else(PoisonError::into_inner) {
                    while nix::unistd::read(pipe, &mut bin).is_ok_and(|n| n == bin.len()) {}
                }
                worker.tell(&FromWorker::AsksToRetire);
                None
            }
            Pick::Nothing => None,
        }
    }

    /// Puts a connection where its step says; gives it back when it is a complete request.
    pub(super) fn settle(&self, mut connection: Box<Connection>, mut step: Step) -> Option<Box<Connection>> {
        loop {
            match step {
                Step::Request => return Some(connection),
                Step::Close => {
                    self.close(connection);
                    return None;
                }
                Step::Wait if connection.worker.is_retiring() => match self.bequeath(connection) {
                    Some(kept) => connection = kept,
                    None => return None,
                },
                Step::Wait | Step::Again => {}
            }
            let Some(token) = connection.token else {
                if let Err(error) = self.register(&mut connection) {
                    log::error!("{}: a connection cannot be watched, closed: {error}", connection.who());
                    self.close(connection);
                    return None;
                }
                continue;
            };
            let born = connection.mux.as_mut().map(|mux| mux.take_born(token)).unwrap_or_default();
            let worker = Arc::clone(&connection.worker);
            let mut state = self.lock();
            // Requests of a FastCGI connection: one is run here, others wait for a thread.
            state.live += born.len();
            let mut born = born.into_iter();
            let first = born.next();
            if first.is_some() {
                worker.slot().set_connections(state.live);
                for other in born {
                    state.queue(&worker, other);
                    if state.asleep > 0 {
                        self.wake.notify_one();
                    }
                }
            }
            if step == Step::Again {
                state.slots[token].connection = Some(connection);
                state.again.push(token);
                let waits = state.driver != Driver::Nobody;
                drop(state);
                if waits {
                    self.interrupt();
                }
                return first;
            }
            match state.park(connection, token) {
                Parked::Asleep => return first,
                Parked::TooLate => {
                    drop(state);
                    self.interrupt();
                    return first;
                }
                Parked::Missed(again, what) if first.is_some() => {
                    // Its turn comes; the request that is complete comes first.
                    state.slots[token].connection = Some(again);
                    state.events.push_back(Event { token, what });
                    return first;
                }
                Parked::Missed(again, what) => {
                    drop(state);
                    connection = again;
                    step = what.meet(&mut connection, &mut Spare::default());
                }
            }
        }
    }

    fn register(&self, connection: &mut Connection) -> io::Result<()> {
        let token = self.lock().slots.insert(Slot { connection: None, missed: None, timer: NEVER });
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self.registry.register(&mut SourceFd(&connection.io.stream.as_raw_fd()), Token(token), interest) {
            Ok(()) => {
                connection.token = Some(token);
                Ok(())
            }
            Err(error) => {
                self.lock().slots.remove(token);
                Err(error)
            }
        }
    }

    pub(super) fn close(&self, connection: Box<Connection>) {
        let token = connection.token;
        if Arc::strong_count(&connection.io) > 1 {
            // The application keeps a streamed body: the descriptor stays open, the connection must not.
            if token.is_some() {
                let _ = self.registry.deregister(&mut SourceFd(&connection.io.stream.as_raw_fd()));
            }
            connection.io.stream.cut();
        }
        let worker = Arc::clone(&connection.worker);
        // Closed before the token is free, so that a late event cannot meet its next owner.
        drop(connection);
        let mut state = self.lock();
        if let Some(token) = token {
            state.slots.remove(token);
        }
        self.closed(&worker, state);
    }

    /// One connection less.
    pub(super) fn closed(&self, worker: &Worker, mut state: MutexGuard<'_, State>) {
        state.live -= 1;
        worker.slot().set_connections(state.live);
        self.finish_if_done(state);
    }

    pub(super) fn finish_if_done(&self, state: MutexGuard<'_, State>) {
        if state.has_nothing() {
            drop(state);
            self.finish();
        }
    }

    /// The worker is done: everybody who waits must see it.
    fn finish(&self) {
        self.wake.notify_all();
        self.interrupt();
    }

    fn read_control(&self, worker: &Arc<Worker>) {
        let mut buffer = [0u8; MAX_MESSAGE];
        loop {
            match sys::fd::receive(&worker.control, &mut buffer, false) {
                Ok(Received::Message(len, descriptor)) => match (ToWorker::decode(&buffer[..len]), descriptor) {
                    (Some(ToWorker::Retire { how, heirs }), _) => self.retire(worker, how, heirs, false),
                    (Some(ToWorker::Log), Some(file)) => logging::use_file(file),
                    (Some(ToWorker::Ping), _) => worker.tell(&FromWorker::Pong),
                    (Some(ToWorker::Pause), _) => self.pause(worker),
                    (Some(ToWorker::Resume), _) => self.resume(worker),
                    (Some(ToWorker::Stacks), Some(out)) => stacks::write(worker, out),
                    _ => log::warn!("worker {}: the master said something unknown", worker.id),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(Received::End) | Err(_) => return self.retire(worker, Retire::Replaced, 0, true),
            }
        }
    }

    /// Accepts nothing and begins no request; what is read meanwhile waits.
    pub(super) fn pause(&self, worker: &Worker) {
        let mut state = self.lock();
        if state.retiring.is_some() {
            return;
        }
        worker.paused.store(true, Ordering::Relaxed);
        worker.slot().set_idle(false);
        state.shut = true;
        for index in 0..state.doors.len() {
            self.watch_door(&mut state, index, false);
        }
    }

    pub(super) fn resume(&self, worker: &Worker) {
        let mut state = self.lock();
        if !worker.paused.swap(false, Ordering::Relaxed) {
            return;
        }
        state.shut = false;
        if state.retiring.is_none() {
            self.resume_accepting(&mut state);
        }
        drop(state);
        self.wake.notify_all();
    }

    fn retire(&self, worker: &Arc<Worker>, how: Retire, heirs: u32, orphaned: bool) {
        // Its requests are answered before it goes.
        self.resume(worker);
        let mut state = self.lock();
        if orphaned && state.retiring != Some(Retire::Stop) {
            if nix::unistd::getppid() == worker.parent {
                log::info!("worker {} is not wanted any more; it exits", worker.id);
            } else {
                log::error!("worker {}: the master is gone; requests in flight are finished, then it exits", worker.id);
            }
            // Nobody else would end one that is stuck. Whoever the parent is: a dying master's sockets are closed before its
            // children are given away.
            sys::process::end_in(worker.options.mercy.as_secs() as u32);
        }
        for index in 0..state.doors.len() {
            let Some(listener) = &state.doors[index].listener else { continue };
            if orphaned || how == Retire::Stop && listener.inherited {
                // A new master may want to bind the addresses of a dead one right away. And what waits in a queue that others
                // have as well is for the next server.
                self.close_door(&mut state, index);
                state.draining.retain(|(draining, _)| *draining != index);
            } else if !state.draining.iter().any(|(draining, _)| *draining == index) {
                // An exclusive wake-up that came to this worker came to no other: whoever is in the queue now is accepted
                // here, also when others go on serving the listener. They need no end to be found: who comes later wakes them.
                let at_most = if how == Retire::Stop { u32::MAX } else { DRAINED_FOR_OTHERS };
                self.watch_door(&mut state, index, false);
                state.draining.push_back((index, at_most));
            }
        }
        state.heirs = if orphaned || how == Retire::Stop { 0 } else { heirs };
        state.reads_mailbox = worker.id > state.heirs;
        if state.heirs == 0 {
            worker.closing.store(true, Ordering::Relaxed);
        }
        if state.retiring.is_none() {
            state.retiring = Some(how);
            worker.slot().set_state(crate::scoreboard::State::Retiring);
            worker.retiring.store(true, Ordering::Relaxed);
        }
        let waiting = state.take_waiting();
        drop(state);
        // Each is given to another worker, or hurried where there is none.
        for connection in waiting {
            self.settle(connection, Step::Wait);
        }
        self.finish_if_done(self.lock());
    }

    /// Whether an app thread waits for events right now.
    pub(super) fn thread_drives(&self) -> bool {
        self.lock().driver == Driver::Thread
    }
}

impl State {
    /// While the standby thread drives, the worker can take requests of others when an app thread sleeps. (While an app thread
    /// drives it can, and says so itself.)
    fn tell_idle(&self, worker: &Worker) {
        if self.driver == Driver::Standby {
            worker.slot().set_idle(self.retiring.is_none() && !worker.is_paused() && self.asleep > self.requests.len());
        }
    }

    /// Lets a connection wait in its slot until something happens to it.
    fn park(&mut self, connection: Box<Connection>, token: usize) -> Parked {
        let slot = &mut self.slots[token];
        if let Some(what) = slot.missed.take() {
            return Parked::Missed(connection, what);
        }
        let deadline = connection.deadline;
        slot.connection = Some(connection);
        if deadline >= slot.timer {
            return Parked::Asleep;
        }
        slot.timer = deadline;
        self.timers.push(Reverse((deadline, token)));
        if deadline < self.wakes_at && self.driver != Driver::Nobody { Parked::TooLate } else { Parked::Asleep }
    }

    /// A complete request waits for an app thread.
    pub(super) fn queue(&mut self, worker: &Worker, mut connection: Box<Connection>) {
        let work = connection.work_mut();
        if worker.options.keeps_time && work.queued == 0 {
            work.queued = clock::micros();
        }
        self.requests.push_back(connection);
    }

    fn pick(&mut self, worker: &Worker) -> Pick {
        if !worker.is_paused()
            && let Some(connection) = self.requests.pop_front()
        {
            return Pick::Request(connection);
        }
        self.pick_io()
    }

    fn pick_io(&mut self) -> Pick {
        while let Some(Event { token, what }) = self.events.pop_front() {
            if token == CONTROL {
                return Pick::Control;
            }
            if token == SIGNALS {
                return Pick::Signals;
            }
            if token == MAILBOX {
                if self.reads_mailbox {
                    return Pick::Mailbox;
                }
                continue;
            }
            if token > LISTENERS - 1024 {
                let index = LISTENERS - token;
                if self.doors.get(index).is_some_and(|door| door.watched) {
                    return Pick::Listener(index);
                }
                continue;
            }
            let Some(slot) = self.slots.get_mut(token) else { continue };
            match (slot.connection.take(), what) {
                // It was served in the meantime: the deadline has moved.
                (Some(connection), What::Expired) if connection.deadline > now() => slot.connection = Some(connection),
                (Some(connection), what) => return Pick::Connection(connection, what),
                (None, What::Expired) => {}
                (None, what) => slot.missed = Some(what.after(slot.missed)),
            }
        }
        match self.draining.front() {
            Some(&(index, _)) if self.pause.is_none() => Pick::Listener(index),
            _ => Pick::Nothing,
        }
    }

    /// How long the driver may wait.
    fn timeout(&mut self) -> Option<Duration> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let sealing = if self.has_nothing() { self.seal_by.map(|_| now() + SEAL_TICK) } else { None };
        let next = [timer, self.pause, sealing].into_iter().flatten().min();
        self.wakes_at = next.unwrap_or(NEVER);
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        Some(Duration::from_millis(next?.saturating_sub(now()).max(1)))
    }

    /// Turns deadlines that have passed into events. Timers are lazy: an entry may be older than the connection's
    /// deadline, which moves with every request; then it is entered anew.
    fn expire(&mut self, now: Millis) {
        while let Some(&Reverse((at, token))) = self.timers.peek() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(slot) = self.slots.get_mut(token) else { continue };
            if slot.timer != at {
                continue;
            }
            slot.timer = NEVER;
            let Some(connection) = &mut slot.connection else { continue };
            if connection.deadline > now {
                slot.timer = connection.deadline;
                self.timers.push(Reverse((connection.deadline, token)));
            } else {
                self.events.push_back(Event { token, what: What::Expired });
            }
        }
    }

    /// Takes the connections that wait for a request of their clients.
    #[expect(clippy::vec_box, reason = "connections live in boxes wherever they are kept")]
    fn take_waiting(&mut self) -> Vec<Box<Connection>> {
        let idle =
            |connection: &mut Box<Connection>| matches!(connection.phase, Phase::Preface | Phase::Idle | Phase::Head);
        self.slots.iter_mut().filter_map(|(_, slot)| slot.connection.take_if(idle)).collect()
    }

    /// A retiring worker has neither connections nor listeners.
    fn has_nothing(&self) -> bool {
        self.retiring.is_some() && self.live == 0 && self.draining.is_empty()
    }

    pub(super) fn is_done(&self) -> bool {
        self.sealed
    }

    /// Whether there is nothing left to do. A worker that reads its mailbox waits for what was promised to it: with
    /// it a connection would be lost.
    fn seal(&mut self, worker: &Worker) -> bool {
        if self.sealed || !self.has_nothing() {
            return self.sealed;
        }
        let by = *self.seal_by.get_or_insert(now() + PROMISE_MERCY);
        self.sealed = !self.reads_mailbox || worker.slot().seal() || now() > by;
        if self.sealed {
            worker.slot().seal_now();
        }
        self.sealed
    }
}
