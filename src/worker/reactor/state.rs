//! What the reactor knows, under its lock: connections in their slots, events that nobody has looked at, requests that wait
//! for a thread, deadlines. Under the lock there are only moves; nothing here reads, parses or waits.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::BATCH;
use super::coalesce::Coalescing;
use super::held::Held;
use super::retirement::SEAL_TICK;
use crate::control::Retire;
use crate::net::listener::Listener;
use crate::worker::Worker;
use crate::worker::clock::{self, Millis, NEVER, now};
use crate::worker::connection::{Connection, Step};
use crate::worker::work::Spare;

pub(super) const CONTROL: usize = usize::MAX - 1;
pub(super) const SIGNALS: usize = usize::MAX - 2;
pub(super) const WAKER: usize = usize::MAX - 3;
pub(super) const MAILBOX: usize = usize::MAX - 4;
/// Listener `n` has the token `LISTENERS - n`.
pub(super) const LISTENERS: usize = usize::MAX - 1024;

/// Who waits for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Driver {
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
    pub(super) fn meet(self, connection: &mut Connection, spare: &mut Spare) -> Step {
        match self {
            What::Ready { half_closed } => connection.meet(Some(half_closed), spare),
            What::Expired => connection.meet(None, spare),
            What::Ended => connection.step(spare),
        }
    }

    /// This and what happened before it, for a connection that was away.
    pub(super) fn after(self, before: Option<What>) -> What {
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
    pub(super) connection: Option<Box<Connection>>,
    /// It became ready while it was away.
    pub(super) missed: Option<What>,
    /// The earliest entry in the timer heap, `NEVER` for none.
    pub(super) timer: Millis,
}

/// A listening socket as this worker sees it.
pub(super) struct Door {
    /// None once it is closed here.
    pub(super) listener: Option<Arc<Listener>>,
    /// It is in the epoll instance.
    pub(super) watched: bool,
}

pub(super) struct State {
    pub(super) slots: Slab<Slot>,
    pub(super) events: VecDeque<Event>,
    /// Connections that have more to do and let others go first: their turn is after the next look for events.
    pub(super) again: Vec<usize>,
    /// Connections with a response that is sent together with others.
    pub(super) held: Held<Box<Connection>>,
    /// Whether more events are waited for before those that came are looked at.
    pub(super) coalescing: Coalescing,
    /// Complete requests that wait for an app thread.
    pub(super) requests: VecDeque<Box<Connection>>,
    pub(super) timers: BinaryHeap<Reverse<(Millis, usize)>>,
    pub(super) driver: Driver,
    /// When the driver that waits now wakes at the latest.
    pub(super) wakes_at: Millis,
    /// App threads asleep on the condition variable.
    pub(super) asleep: usize,
    /// Open connections, those that no slot knows included.
    pub(super) live: usize,
    pub(super) retiring: Option<Retire>,
    /// Workers 1 to this number take over connections that wait here.
    pub(super) heirs: u32,
    /// They have a scoreboard of their own.
    pub(super) heirs_elsewhere: bool,
    /// False when a successor reads the mailbox instead.
    pub(super) reads_mailbox: bool,
    /// Listeners whose queue is served to its end before they are closed, or so many more connections of it.
    pub(super) draining: VecDeque<(usize, u32)>,
    pub(super) doors: Vec<Door>,
    /// When listeners that were left out for want of descriptors are watched again.
    pub(super) short_until: Option<Millis>,
    /// The operator wants nobody to be let in.
    pub(super) shut: bool,
    /// When the log may be told of it again.
    pub(super) complain_at: Millis,
    /// Nothing is left to do, and nobody puts anything into the mailbox any more.
    pub(super) sealed: bool,
    /// Until then whoever promised a connection may still send it.
    pub(super) seal_by: Option<Millis>,
}

/// What came of letting a connection wait.
pub(super) enum Parked {
    Asleep,
    /// The driver waits already, for longer than this connection can.
    TooLate,
    /// Something happened to it while it was away.
    Missed(Box<Connection>, What),
}

pub(super) enum Pick {
    Request(Box<Connection>),
    Connection(Box<Connection>, What),
    /// Its response is to be sent.
    Held(Box<Connection>),
    Listener(usize),
    Control,
    Signals,
    Mailbox,
    Nothing,
}

impl State {
    pub(super) fn new() -> State {
        State {
            slots: Slab::new(),
            events: VecDeque::with_capacity(BATCH),
            again: Vec::new(),
            held: Held::new(),
            coalescing: Coalescing::new(),
            requests: VecDeque::new(),
            timers: BinaryHeap::new(),
            driver: Driver::Nobody,
            wakes_at: NEVER,
            asleep: 0,
            live: 0,
            retiring: None,
            heirs: 0,
            heirs_elsewhere: false,
            reads_mailbox: true,
            draining: VecDeque::new(),
            doors: Vec::new(),
            short_until: None,
            shut: false,
            complain_at: 0,
            sealed: false,
            seal_by: None,
        }
    }

    /// While the standby thread drives, the worker can take requests of others when an app thread sleeps. (While an app thread
    /// drives it can, and says so itself.)
    pub(super) fn tell_idle(&self, worker: &Worker) {
        if self.driver == Driver::Standby {
            worker.slot().set_idle(self.retiring.is_none() && !worker.is_paused() && self.asleep > self.requests.len());
        }
    }

    /// Lets a connection wait in its slot until something happens to it.
    pub(super) fn park(&mut self, connection: Box<Connection>, token: usize) -> Parked {
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

    /// Whether something is to be done that nobody has begun.
    pub(super) fn has_more(&self) -> bool {
        !self.events.is_empty() || !self.requests.is_empty()
    }

    /// Whether a response that is made now may wait for others.
    pub(super) fn may_hold(&mut self) -> bool {
        self.has_more() && self.held.pays()
    }

    pub(super) fn pick(&mut self, worker: &Worker) -> Pick {
        if let Some(connection) = self.held.next() {
            return Pick::Held(connection);
        }
        if !worker.is_paused()
            && let Some(connection) = self.requests.pop_front()
        {
            return Pick::Request(connection);
        }
        self.pick_io()
    }

    pub(super) fn pick_io(&mut self) -> Pick {
        if let Some(connection) = self.held.next() {
            return Pick::Held(connection);
        }
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
        self.held.release();
        if let Some(connection) = self.held.next() {
            return Pick::Held(connection);
        }
        match self.draining.front() {
            Some(&(index, _)) if self.short_until.is_none() => Pick::Listener(index),
            _ => Pick::Nothing,
        }
    }

    /// How long the driver may wait.
    pub(super) fn timeout(&mut self) -> Option<Duration> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let sealing = if self.has_nothing() { self.seal_by.map(|_| now() + SEAL_TICK) } else { None };
        let next = [timer, self.short_until, sealing].into_iter().flatten().min();
        self.wakes_at = next.unwrap_or(NEVER);
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        Some(Duration::from_millis(next?.saturating_sub(now()).max(1)))
    }

    /// Turns deadlines that have passed into events. Timers are lazy: an entry may be older than the connection's
    /// deadline, which moves with every request; then it is entered anew.
    pub(super) fn expire(&mut self, now: Millis) {
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
}
