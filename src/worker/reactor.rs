//! The reactor: connections that wait for their clients, events that nobody has looked at, requests
//! that wait for a thread, deadlines.
//!
//! It is a value that one thread at a time drives. Only *waiting* for events needs the driver's role; whatever
//! is known already may be taken by any thread, and whoever adds to it takes from it before it
//! sleeps. epoll_wait runs outside the lock, reading and parsing too: under the lock there are only moves.
//! `state` is what is known, `held` has responses that are sent together, `coalesce` puts looks for events off, `doors` accepts,
//! `moves` gives connections to other workers, `returns` takes back connections whose requests were run, `orders` hears the
//! master, and `retirement` is the end.
//! No Python reference is ever dropped under the lock (connections are dropped by the thread that took them).

mod coalesce;
mod doors;
mod held;
mod moves;
mod orders;
mod retirement;
mod returns;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};

use super::clock::{self, NEVER, now};
use super::connection::{Connection, Step};
use super::work::Spare;
use super::{Worker, time_slice};
use crate::control::FromWorker;
use crate::net::listener::Listener;
use crate::sys;

use state::{CONTROL, Door, Driver, Event, LISTENERS, MAILBOX, Parked, Pick, SIGNALS, Slot, State, WAKER, What};

/// Events fetched by one epoll_wait.
const BATCH: usize = 256;

/// How soon a request that waits for an app thread is offered to other workers again.
const RELIEF: Duration = Duration::from_millis(1);

struct Poller {
    poll: Poll,
    events: Events,
}

pub(super) struct Reactor {
    poller: Mutex<Poller>,
    registry: Registry,
    epoll: RawFd,
    waker: mio::Waker,
    state: Mutex<State>,
    wake: Condvar,
    signals: Mutex<Option<OwnedFd>>,
    /// There are more workers on our processors than those.
    shares: bool,
    /// No descriptors are left: each response ends its connection.
    pub(super) crowded: AtomicBool,
    /// The response to what was picked last may wait for others.
    holds: AtomicBool,
    /// Descriptors that are kept free for those that come with a letter.
    room: Mutex<Vec<Registry>>,
}

/// What a thread brings back to the reactor.
pub(super) enum Back {
    Nothing,
    /// A connection that ran its request.
    Served(Box<Connection>),
}

/// What came of the standby thread's driving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drove {
    /// Another thread drives.
    Taken,
    /// It waited for events.
    Done,
    /// So it did, and had more to do before than to take requests in.
    Busy,
    /// It only took in requests that wait, and there are timers to look at after so long.
    Full { limit: Option<Duration> },
}

/// How long a thread may look for a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Take what is known, never wait.
    None,
    /// Wait until there is a request or the worker is done.
    Wait,
}

impl Reactor {
    pub(super) fn new(shares: bool) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let epoll = poll.as_raw_fd();
        let waker = mio::Waker::new(&registry, Token(WAKER))?;
        Ok(Reactor {
            poller: Mutex::new(Poller { poll, events: Events::with_capacity(BATCH) }),
            registry,
            epoll,
            waker,
            state: Mutex::new(State::new()),
            wake: Condvar::new(),
            signals: Mutex::new(None),
            shares,
            crowded: AtomicBool::new(false),
            holds: AtomicBool::new(false),
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

    fn lock(&self) -> MutexGuard<'_, State> {
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
        let mut locked = match back {
            Back::Nothing => None,
            Back::Served(connection) => self.put_back(worker, connection, spare),
        };
        let mut strayed = false;
        loop {
            let mut state = locked.take().unwrap_or_else(|| self.lock());
            if std::mem::take(&mut strayed) {
                state.held.pass_over();
            }
            let pick = state.pick(worker);
            self.holds.store(state.may_hold(), Ordering::Relaxed);
            match pick {
                Pick::Request(connection) => return Some(connection),
                Pick::Nothing if patience == Patience::None => return None,
                Pick::Nothing if state.seal(worker) => {
                    drop(state);
                    self.wake.notify_all();
                    worker.standby.hurry();
                    return None;
                }
                Pick::Nothing if state.driver == Driver::Nobody => {
                    state.driver = Driver::Thread;
                    let timeout = state.timeout();
                    let retiring = state.retiring.is_some();
                    let puts_off =
                        state.coalescing.puts_off(clock::exact_micros(), || worker.slot().requests_of_life())
                            && !retiring
                            && timeout != Some(Duration::ZERO);
                    // None, but during a pause.
                    let waiting = state.requests.len();
                    drop(state);
                    worker.slot().set_idle(!retiring && !worker.is_paused());
                    worker.slot().set_waiting(waiting);
                    self.wait(timeout, Driver::Thread, puts_off);
                    worker.slot().set_idle(false);
                }
                Pick::Nothing => {
                    state.asleep += 1;
                    state.tell_idle(worker);
                    let mut state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    clock::has_waited();
                    state.asleep -= 1;
                    state.tell_idle(worker);
                }
                pick => {
                    drop(state);
                    // A pipelined request behind a response that was held goes behind those who wait already.
                    let waits = matches!(pick, Pick::Held(_));
                    if let Some(connection) = self.act(worker, spare, pick) {
                        if !waits && !worker.is_paused() {
                            return Some(connection);
                        }
                        self.lock().queue(worker, connection);
                    }
                    strayed = true;
                }
            }
        }
    }

    /// The standby thread drives: it does all I/O that is known, hands complete requests to sleeping app
    /// threads, then waits for events, at most `limit`. It does not wait where all of it were requests for which no thread
    /// is free: then nobody drives while it naps.
    pub(super) fn drive(&self, worker: &Arc<Worker>, spare: &mut Spare, limit: Option<Duration>) -> Drove {
        clock::has_waited();
        let (mut full, mut other) = (false, false);
        loop {
            let mut state = self.lock();
            if state.driver == Driver::Thread {
                return Drove::Taken;
            }
            state.driver = Driver::Standby;
            state.held.release();
            match state.pick_io() {
                Pick::Nothing if state.seal(worker) => {
                    drop(state);
                    self.finish();
                    return Drove::Done;
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
                    if full && !other && state.asleep == 0 && !state.requests.is_empty() {
                        state.driver = Driver::Nobody;
                        return Drove::Full { limit: timeout };
                    }
                    drop(state);
                    self.wait(timeout, Driver::Standby, false);
                    return if other { Drove::Busy } else { Drove::Done };
                }
                pick => {
                    drop(state);
                    let known = matches!(pick, Pick::Connection(..));
                    let found = self.act(worker, spare, pick);
                    full |= known && found.is_some();
                    other |= !known || found.is_none();
                    if let Some(connection) = found {
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

    /// Ends a wait for events at once.
    pub(super) fn interrupt(&self) {
        // A waker fails only when its eventfd is full of wake-ups: then the wait ends as well.
        let _ = self.waker.wake();
    }

    /// Waits for events and publishes them; gives up the role of the driver unless it is the standby thread's. `puts_off`: more
    /// of them are let come before it looks.
    fn wait(&self, timeout: Option<Duration>, who: Driver, puts_off: bool) {
        let mut poller = self.poller.lock().unwrap_or_else(PoisonError::into_inner);
        let Poller { poll, events } = &mut *poller;
        let mut look = || {
            if puts_off {
                thread::sleep(coalesce::DELAY);
            }
            poll.poll(events, timeout)
        };
        let waited = if self.shares { time_slice::wait(look) } else { look() };
        if let Err(error) = waited
            && error.kind() != io::ErrorKind::Interrupted
        {
            log::error!("waiting for events failed: {error}");
        }
        clock::has_waited();
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
        if state.short_until.is_some_and(|until| until <= now) {
            self.open_doors(&mut state);
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
            Pick::Held(mut connection) => {
                let step = connection.send_held(spare);
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
    fn settle(&self, mut connection: Box<Connection>, mut step: Step) -> Option<Box<Connection>> {
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

    fn close(&self, connection: Box<Connection>) {
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
    fn closed(&self, worker: &Worker, mut state: MutexGuard<'_, State>) {
        state.live -= 1;
        worker.slot().set_connections(state.live);
        self.finish_if_done(state);
    }

    /// Whether a response that is made now may wait for others.
    #[inline]
    pub(super) fn holds(&self) -> bool {
        self.holds.load(Ordering::Relaxed)
    }

    /// Whether an app thread waits for events right now.
    pub(super) fn thread_drives(&self) -> bool {
        self.lock().driver == Driver::Thread
    }
}
