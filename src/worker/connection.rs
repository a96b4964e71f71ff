//! One client connection: what it is waiting for, and how bytes turn into requests.
//!
//! A connection is a value that exactly one party owns: the reactor while it waits for the client, an
//! application thread while a request of it runs. Nothing here blocks, and nothing here knows Python.
//! The response side is `exchange.rs`, the buffers are in `work.rs`; `packing` is for its way to another worker.

mod packing;

use std::io;
use std::sync::Arc;

use super::Worker;
use super::clock::{Millis, NEVER, after, now};
use super::mux::{Branch, Mux};
use super::output::Io;
use super::work::{READ, SLACK, Spare, Work};
use crate::gateway::{Local, Peer};
use crate::net::stream::Stream;
use crate::protocol::Protocol;

/// How long a connection that is closed with unread input is drained, so that the client can read the
/// answer before a reset destroys it (RFC 9112 section 9.6): without a byte, and in all.
const LINGER: Millis = 5_000;
const LINGER_IN_ALL: Millis = 30_000;

/// So many pieces of a body are read before others have their turn.
const READS_A_TURN: u32 = 32;

/// So many pipelined requests are answered before others have their turn.
const REQUESTS_A_TURN: u32 = 16;

/// What the connection does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The header of the PROXY protocol is to come.
    Preface,
    /// Nothing of a request is read yet.
    Idle,
    /// A part of a head is read.
    Head,
    /// The head is whole, the body is collected.
    Body,
    /// A request runs, or is ready to run.
    Application,
    /// The response is made; the rest of it is being written.
    Drain,
    /// Closed for writing; what the client still sends is thrown away.
    Linger,
}

/// What comes next for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A complete request: run it.
    Request,
    /// Wait for the client, at most until the connection's deadline.
    Wait,
    /// There is more to do, but others have waited long enough: come back to it.
    Again,
    /// Drop the connection.
    Close,
}

pub(super) enum Filled {
    Some,
    Nothing,
    /// The client has ended its side.
    End,
    /// The client is gone.
    Gone,
}

pub(super) struct Connection {
    pub(super) worker: Arc<Worker>,
    pub(super) io: Arc<Io>,
    /// Index of the listener it came by.
    listener: usize,
    pub(super) peer: Peer,
    /// Place in the reactor; none until it has to wait for the first time.
    pub(super) token: Option<usize>,
    pub(super) phase: Phase,
    /// The socket may have more to read (edge-triggered: cleared only when it was seen empty).
    pub(super) readable: bool,
    /// The client has ended its side: a short read no longer means an empty socket.
    pub(super) half_closed: bool,
    /// When the reactor must look at it again.
    pub(super) deadline: Millis,
    /// The end of lingering, however much still comes.
    linger_end: Millis,
    /// Output may wait in the queue; false spares the look.
    pub(super) pending: bool,
    /// Bytes that the client had taken when the write deadline was set last.
    seen_delivered: u64,
    pub(super) work: Option<Box<Work>>,
    /// How often the present request moved from worker to worker.
    pub(super) hops: u8,
    /// Requests answered without waiting for the client between them.
    in_a_row: u32,
    /// The connection closes when the response is written.
    pub(super) last: bool,
    /// The response is incomplete: the connection is cut, not closed in order.
    pub(super) cut: bool,
    /// FastCGI: the requests under way on this connection.
    pub(super) mux: Option<Box<Mux>>,
    /// FastCGI: this value is one request of a connection.
    pub(super) branch: Option<Branch>,
}

impl Connection {
    pub(super) fn new(worker: &Arc<Worker>, stream: Stream, listener: usize, peer: Peer) -> Box<Connection> {
        Box::new(Connection::with(worker, Arc::new(Io::new(stream)), listener, peer))
    }

    /// A value for one request of this connection, which shares the socket and the output.
    pub(super) fn twin(&self) -> Box<Connection> {
        Box::new(Connection {
            readable: false,
            deadline: NEVER,
            pending: true,
            ..Connection::with(&self.worker, Arc::clone(&self.io), self.listener, Peer::default())
        })
    }

    fn with(worker: &Arc<Worker>, io: Arc<Io>, listener: usize, peer: Peer) -> Connection {
        Connection {
            worker: Arc::clone(worker),
            io,
            listener,
            peer,
            token: None,
            phase: if worker.proxied[listener] { Phase::Preface } else { Phase::Idle },
            readable: true,
            half_closed: false,
            deadline: after(now(), worker.options.timeouts.head),
            linger_end: NEVER,
            pending: false,
            seen_delivered: 0,
            work: None,
            hops: 0,
            in_a_row: 0,
            last: false,
            cut: false,
            mux: None,
            branch: None,
        }
    }

    pub(super) fn local(&self) -> &Local {
        &self.worker.locals[self.listener]
    }

    /// A connection that carries several requests.
    fn is_trunk(&self) -> bool {
        self.branch.is_none() && self.protocol() == Protocol::FastCgi
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.local().protocol
    }

    pub(super) fn work(&self) -> &Work {
        self.work.as_ref().expect("a connection that runs a request has its buffers")
    }

    pub(super) fn work_mut(&mut self) -> &mut Work {
        self.work.as_mut().expect("a connection that runs a request has its buffers")
    }

    /// An event came: readiness (with whether the client has ended its side), or the deadline (`None`).
    pub(super) fn meet(&mut self, ready: Option<bool>, spare: &mut Spare) -> Step {
        match ready {
            Some(half_closed) => {
                self.readable = true;
                self.half_closed |= half_closed;
                self.step(spare)
            }
            None => self.expire(spare),
        }
    }

    /// Goes as far as the client's bytes allow.
    pub(super) fn step(&mut self, spare: &mut Spare) -> Step {
        let mut reads = 0;
        let step = loop {
            let step = match self.phase {
                // A client that sends as fast as it is read must not keep the thread from the others.
                Phase::Body if reads == READS_A_TURN => Some(Step::Again),
                Phase::Preface => self.read_preface(spare),
                Phase::Idle | Phase::Head if self.is_trunk() => Some(self.step_mux(spare)),
                Phase::Idle | Phase::Head => self.read_head(spare),
                Phase::Body => self.read_body(),
                Phase::Application => Some(Step::Request),
                Phase::Drain => self.drain(spare),
                Phase::Linger => Some(self.discard()),
            };
            if let Some(step) = step {
                break step;
            }
            reads += 1;
        };
        match step {
            Step::Wait => self.rest(spare),
            // The next connection takes it over: clearing a new buffer costs more than a small request.
            Step::Close => {
                if let Some(work) = self.work.take() {
                    spare.give(work);
                }
            }
            _ => {}
        }
        step
    }

    /// The deadline passed.
    fn expire(&mut self, spare: &mut Spare) -> Step {
        match self.phase {
            Phase::Idle if self.is_trunk() => self.expire_mux(spare),
            // Its request came in time, and nobody had time to look.
            Phase::Idle if self.io.stream.has_bytes() => {
                self.readable = true;
                self.step(spare)
            }
            Phase::Head | Phase::Body if self.phase == Phase::Body || self.protocol() == Protocol::Http => {
                let what = if self.phase == Phase::Head { "head" } else { "body" };
                log::info!("{}: the request's {what} did not arrive in time, answered with 408", self.who());
                self.refuse(408);
                self.step(spare)
            }
            Phase::Drain if self.io.delivered() != self.seen_delivered => self.step(spare),
            Phase::Drain => {
                log::info!("{}: the client took nothing of the response for too long, cut", self.who());
                // What was written already may look like the whole of a response that ends with its connection.
                self.io.stream.reset_on_close();
                Step::Close
            }
            Phase::Preface | Phase::Head => {
                log::info!("{}: the first bytes of a connection did not become whole in time, closed", self.who());
                Step::Close
            }
            _ => Step::Close,
        }
    }

    /// Who the client is, for the log.
    pub(super) fn who(&self) -> &str {
        let addr = &self.client().addr;
        if addr.is_empty() { "client on a unix socket" } else { addr }
    }

    /// Who the client is, as far as it is known.
    pub(super) fn client(&self) -> &Peer {
        let told = self.work.as_ref().and_then(|work| work.told.as_ref());
        told.and_then(|told| told.client.as_ref()).unwrap_or(&self.peer)
    }

    /// Retiring: an idle connection may bring one more request, but not wait for long.
    pub(super) fn hurry(&mut self, now: Millis) {
        if matches!(self.phase, Phase::Preface | Phase::Idle) && !self.mux.as_ref().is_some_and(|mux| mux.is_busy()) {
            self.deadline = self.deadline.min(now + self.worker.options.timeouts.linger.as_millis() as Millis);
        }
    }

    pub(super) fn fill(&mut self, spare: &mut Spare) -> Filled {
        let work = self.work.get_or_insert_with(|| spare.take());
        if work.filled + SLACK > work.input.len() {
            let size = (work.input.len() * 2).max(READ);
            work.input.resize(size, 0);
        }
        let room = work.input.len() - work.filled;
        match self.io.stream.read(&mut work.input[work.filled..]) {
            Ok(0) => Filled::End,
            Ok(count) => {
                work.filled += count;
                // A short read has emptied the socket: the next byte brings a new event.
                self.readable = count == room || self.half_closed;
                Filled::Some
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Filled::Nothing
            }
            Err(_) => Filled::Gone,
        }
    }

    /// The application is done with the request: writes out the rest, then the next request or the end.
    pub(super) fn after_response(&mut self, spare: &mut Spare) -> Step {
        self.phase = Phase::Drain;
        self.hops = 0;
        if self.pending {
            self.deadline = after(now(), self.worker.options.timeouts.write);
        }
        let streamed = self.work.as_mut().and_then(|work| work.streamed.take());
        if let Some(body) = streamed {
            match body.close() {
                Some(rest) => {
                    let work = self.work_mut();
                    let at = work.request.head_len;
                    work.input.resize(work.input.len().max(at + rest.len() + SLACK), 0);
                    work.input[at..at + rest.len()].copy_from_slice(&rest);
                    work.filled = at + rest.len();
                    self.readable = true;
                }
                None => {
                    self.last = true;
                    // What the client still sends of it must not turn the answer into a reset.
                    self.readable = true;
                }
            }
        }
        self.send_held(spare)
    }

    /// Writes out what waits of the response; then the next request or the end.
    pub(super) fn send_held(&mut self, spare: &mut Spare) -> Step {
        let step = self.step(spare);
        match step {
            Step::Request if self.in_a_row < REQUESTS_A_TURN => self.in_a_row += 1,
            Step::Request => {
                self.in_a_row = 0;
                self.begin_application();
                return Step::Again;
            }
            _ => self.in_a_row = 0,
        }
        step
    }

    /// Whether its response is one of those that may wait for others (`reactor::held`).
    pub(super) fn may_be_held(&self) -> bool {
        self.pending
            && self.branch.is_none()
            && !self.cut
            && !self.worker.is_retiring()
            && self.work().streamed.is_none()
            && self.io.queue().is_short()
    }

    /// Its response may wait for others from now on.
    pub(super) fn hold(&mut self, spare: &mut Spare) {
        self.phase = Phase::Drain;
        self.hops = 0;
        self.deadline = after(now(), self.worker.options.timeouts.write);
        // The next request uses the buffers, but for what the client has sent behind this one.
        if let Some(work) = self.work.take_if(|work| work.filled <= work.request.head_len) {
            spare.give(work);
        }
    }

    fn drain(&mut self, spare: &mut Spare) -> Option<Step> {
        if self.pending {
            let (empty, full, gone) = {
                let mut queue = self.io.queue();
                if spare.attached && queue.is_at_file() {
                    return Some(Step::Again);
                }
                let empty = queue.flush(&self.io.stream);
                (empty, queue.is_full(), queue.is_gone())
            };
            if gone {
                self.io.stream.reset_on_close();
                return Some(Step::Close);
            }
            if !empty {
                let delivered = self.io.delivered();
                if delivered != self.seen_delivered {
                    self.seen_delivered = delivered;
                    self.deadline = after(now(), self.worker.options.timeouts.write);
                }
                return Some(if full { Step::Wait } else { Step::Again });
            }
            self.pending = false;
        }
        if self.cut {
            // Only a reset tells a cut response from a whole one when nothing but the close delimits it.
            if self.work().response.ends_by_close() {
                self.io.stream.reset_on_close();
            }
            return Some(Step::Close);
        }
        let unread = self.work.as_mut().is_some_and(|work| work.forget_request());
        if self.last {
            return self.close_in_order(unread);
        }
        self.phase = if unread { Phase::Head } else { Phase::Idle };
        let timeouts = &self.worker.options.timeouts;
        self.deadline = after(now(), if unread { timeouts.head } else { timeouts.keep_alive });
        if self.worker.is_retiring() {
            self.hurry(now());
        }
        if !unread && let Some(work) = self.work.take() {
            spare.give(work);
        }
        None
    }

    /// Closes at once when nothing of the client's is unread, else lingers.
    pub(super) fn close_in_order(&mut self, unread: bool) -> Option<Step> {
        if !unread && !self.readable {
            return Some(Step::Close);
        }
        self.io.stream.finish_writing();
        self.phase = Phase::Linger;
        self.linger_end = now() + LINGER_IN_ALL;
        self.deadline = now() + LINGER;
        None
    }

    pub(super) fn discard(&mut self) -> Step {
        let mut bin = [0u8; 16 * 1024];
        // A client that never stops sending must not keep the thread.
        for _ in 0..16 {
            match self.io.stream.read(&mut bin) {
                Ok(0) => return Step::Close,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    self.deadline = self.linger_end.min(now() + LINGER);
                    return Step::Wait;
                }
                Err(_) => return Step::Close,
            }
        }
        if now() < self.linger_end { Step::Again } else { Step::Close }
    }

    /// Gives back buffers that a waiting connection does not need.
    fn rest(&mut self, spare: &mut Spare) {
        if let Some(work) = &mut self.work {
            match self.phase {
                Phase::Idle | Phase::Linger => {
                    if let Some(work) = self.work.take() {
                        spare.give(work);
                    }
                }
                // A slow head keeps what it has and little more; the large buffer serves the next connection.
                Phase::Preface | Phase::Head if work.input.len() > work.filled + 2 * SLACK => {
                    work.input.truncate(work.filled + SLACK);
                    work.input.shrink_to_fit();
                }
                _ => {}
            }
        }
    }

    /// No deadline while the application has it.
    pub(super) fn begin_application(&mut self) {
        self.deadline = NEVER;
    }
}
