//! FastCGI connections. One of them carries several requests at once, and each of these may run on an app thread of its own.
//!
//! The connection itself (the trunk) stays with the reactor: it is read while requests of it run, so that an abort is heard
//! and the next request begins. Every request becomes a connection value of its own (a branch), without a place in the
//! reactor, that shares the trunk's socket and output queue. Records are queued whole under the queue's lock, so they
//! never mix. When a branch is over, its END_REQUEST is queued and the trunk is told by an event.

mod branch;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::clock::{self, NEVER, after, now};
use super::connection::{Connection, Filled, Phase, Step};
use super::incoming::{Broken, Incoming};
use super::pace::Pace;
use super::pipe::Pipe;
use super::work::{Spare, Work};
use crate::gateway::Body;
use crate::protocol::body::admit;
use crate::protocol::fastcgi::{self, Demux, Ended, Event, render_end, render_finish, render_stdout};
use crate::protocol::request::{BodyLength, Refusal, Version};
use crate::protocol::{Protocol, response};

use branch::lock;

pub(super) use branch::{Branch, Family};

/// Requests at a time on one connection.
const MAX_REQUESTS: usize = 64;

/// What GET_VALUES is told of connections: more than any web server opens to one address.
const MAX_CONNECTIONS: u32 = 10_000;

/// Pieces read in one turn, so that one front end does not keep the thread from the others.
const READS_A_TURN: usize = 32;

/// A trunk's state.
pub(super) struct Mux {
    demux: Demux,
    /// Requests whose body is still coming.
    coming: Vec<(u16, Box<Work>)>,
    /// The only request, whose body is read by the application.
    stream: Option<(u16, Arc<Pipe>)>,
    /// As long as it was not begun: what has come with it may be all of its body.
    opening: Option<Box<Work>>,
    family: Arc<Family>,
    answers: Vec<u8>,
    /// Requests that are complete, until the reactor takes them.
    born: VecDeque<Box<Connection>>,
    /// The web server sends nothing more.
    ended: bool,
    /// A request ended before its body did; more of that may come.
    unread: bool,
}

impl Mux {
    fn of(connection: &Connection) -> Box<Mux> {
        let options = &connection.worker.options;
        // A body that the application reads holds up all that stands behind it on the connection.
        let max_requests = if options.post_buffering.is_none() { 1 } else { MAX_REQUESTS };
        Box::new(Mux::with(fastcgi::Options {
            max_params: options.limits.max_head,
            max_requests,
            server_connections: MAX_CONNECTIONS,
            server_requests: options.threads * options.processes.max(1),
        }))
    }

    fn with(options: fastcgi::Options) -> Mux {
        Mux {
            demux: Demux::new(options),
            coming: Vec::new(),
            stream: None,
            opening: None,
            family: Arc::default(),
            answers: Vec::new(),
            born: VecDeque::new(),
            ended: false,
            unread: false,
        }
    }

    /// Requests whose end is on its way to the web server: their ids may come again.
    fn forget_ended(&mut self) {
        for id in lock(&self.family.ended).drain(..) {
            self.unread |= self.demux.end(id);
            self.stream.take_if(|(streamed, _)| *streamed == id);
        }
    }

    /// The body that the application reads, if it is this request's.
    fn stream_of(&self, id: u16) -> Option<&Arc<Pipe>> {
        self.stream.as_ref().filter(|(streamed, _)| *streamed == id).map(|(_, pipe)| pipe)
    }

    /// Whether the application must read first.
    fn stalls(&self) -> bool {
        self.stream.as_ref().is_some_and(|(_, pipe)| pipe.stalls())
    }

    /// The web server sends no more of a body.
    fn break_stream(&self) {
        if let Some((_, pipe)) = &self.stream {
            pipe.break_off(io::ErrorKind::UnexpectedEof, "the client left before the end of the body");
        }
    }

    fn take_coming(&mut self, id: u16) -> Option<Box<Work>> {
        if self.stream_of(id).is_some() && self.opening.is_some() {
            self.stream = None;
            return self.opening.take();
        }
        let at = self.coming.iter().position(|(known, _)| *known == id)?;
        Some(self.coming.swap_remove(at).1)
    }

    /// Requests that are complete. `token`: where they find the trunk.
    pub(super) fn take_born(&mut self, token: usize) -> VecDeque<Box<Connection>> {
        self.family.token.store(token, Ordering::Relaxed);
        std::mem::take(&mut self.born)
    }

    /// Whether requests of this trunk run or are on their way.
    pub(super) fn is_busy(&self) -> bool {
        !self.coming.is_empty() || !self.born.is_empty() || !lock(&self.family.running).is_empty()
    }

    /// Whether nothing of any request is here, nor a part of a record: another worker can begin with an empty mind.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_busy() && self.demux.is_idle() && !self.demux.is_over() && self.answers.is_empty() && !self.ended
    }

    /// The front end is gone: what runs need not finish its response.
    fn abort_all(&self) {
        self.break_stream();
        for running in &*lock(&self.family.running) {
            running.aborted.store(true, Ordering::Relaxed);
        }
    }

    /// Answers a request with an error of our own.
    fn refuse(&mut self, id: u16, status: u16) {
        self.take_coming(id);
        let facts = response::Facts {
            version: Version::Http11,
            head_request: false,
            protocol: Protocol::FastCgi,
            keep_alive: false,
            total: None,
            date: &clock::date(),
        };
        let mut answer = Vec::with_capacity(256);
        response::plain_error(status, &facts, &mut answer);
        render_stdout(id, &answer, &mut self.answers);
        render_finish(id, 0, &mut self.answers);
        self.unread |= self.demux.end(id);
    }
}

impl Connection {
    /// A trunk goes as far as the web server's bytes allow.
    pub(super) fn step_mux(&mut self, spare: &mut Spare) -> Step {
        let mut mux = self.mux.take().unwrap_or_else(|| Mux::of(self));
        let step = self.serve_mux(&mut mux, spare);
        if step == Step::Close {
            mux.abort_all();
        }
        self.mux = Some(mux);
        step
    }

    fn serve_mux(&mut self, mux: &mut Mux, spare: &mut Spare) -> Step {
        mux.forget_ended();
        let mut reads = 0;
        while self.readable && !mux.ended && !mux.demux.is_over() && !mux.stalls() {
            reads += 1;
            if reads > READS_A_TURN {
                return Step::Again;
            }
            match self.fill(spare) {
                Filled::Some => {
                    mux.forget_ended();
                    if self.take_records(mux).is_err() {
                        return Step::Close;
                    }
                }
                Filled::Nothing => break,
                // It may still want the responses to what it sent.
                Filled::End => {
                    mux.ended = true;
                    while let Some((id, _)) = mux.coming.first() {
                        let id = *id;
                        log::debug!(
                            "{}: the web server ended within the body of a request (answered with 400)",
                            self.who()
                        );
                        mux.refuse(id, 400);
                    }
                    mux.break_stream();
                }
                Filled::Gone => return Step::Close,
            }
        }
        let (drained, full) = {
            let mut queue = self.io.queue();
            queue.push(&mux.answers);
            mux.answers.clear();
            if spare.attached && queue.is_at_file() {
                return Step::Again;
            }
            let drained = queue.flush(&self.io.stream);
            if queue.is_gone() {
                return Step::Close;
            }
            (drained, queue.is_full())
        };
        let no_more = (mux.demux.is_over() || mux.ended) && !mux.is_busy();
        let over = no_more || mux.family.broken.load(Ordering::Relaxed);
        if over && drained {
            if !mux.unread || mux.ended {
                return Step::Close;
            }
            // The web server may still send what nobody reads: a reset now would cost it the answer.
            return self.close_in_order(true).unwrap_or_else(|| self.discard());
        }
        let timeouts = &self.worker.options.timeouts;
        self.deadline = if !drained {
            after(now(), timeouts.write)
        } else if let Some(due) = mux.coming.iter().map(|(_, work)| work.pace.due(timeouts)).min() {
            due
        } else if !mux.demux.is_idle() && mux.demux.active() == 0 {
            after(now(), timeouts.body)
        } else if mux.is_busy() {
            NEVER
        } else {
            after(now(), timeouts.keep_alive)
        };
        if self.worker.is_retiring() && !mux.is_busy() {
            self.hurry(now());
        }
        // No event tells of room in a socket that was not found full.
        if drained || full { Step::Wait } else { Step::Again }
    }

    fn take_records(&mut self, mux: &mut Mux) -> Result<(), ()> {
        let Some(mut work) = self.work.take() else { return Ok(()) };
        let mut result = Ok(());
        let mut input = &work.input[..work.filled];
        loop {
            match mux.demux.next(&mut input, &mut mux.answers) {
                Ok(Some(event)) => self.take_event(mux, event),
                Ok(None) => break,
                Err(violation) => {
                    log::warn!("{}: {}; the FastCGI connection is closed", self.who(), violation.reason);
                    result = Err(());
                    break;
                }
            }
        }
        work.filled = 0;
        self.work = Some(work);
        self.open_stream(mux);
        result
    }

    fn take_event(&mut self, mux: &mut Mux, event: Event<'_>) {
        let options = &self.worker.options;
        match event {
            Event::Request { id } => {
                let mut work = Work::bare();
                mux.demux.take(&mut work.input, &mut work.request);
                work.filled = work.input.len();
                if options.is_timed() {
                    work.started = clock::micros_lately();
                }
                work.told = self.hear_proxies(&work);
                let limit = options.body_limit();
                let incoming = admit(work.request.body, limit).map_err(Broken::Refused);
                let Some(threshold) = options.post_buffering else {
                    if let Err(broken) = incoming {
                        return self.refuse_branch(mux, id, &broken);
                    }
                    mux.stream = Some((id, Pipe::new(&self.worker, &mux.family, work.request.body)));
                    mux.opening = Some(work);
                    return;
                };
                match incoming.and_then(|()| Incoming::new(work.request.body, limit, threshold)) {
                    Ok(incoming) => work.incoming = Some(incoming),
                    Err(broken) => return self.refuse_branch(mux, id, &broken),
                }
                work.pace = Pace::begin(now());
                mux.coming.push((id, work));
            }
            Event::Body { id, bytes } if mux.stream_of(id).is_some() => {
                let fed = mux.stream_of(id).map_or(Ok(()), |pipe| pipe.feed(bytes));
                if let Err(refusal) = fed {
                    self.refuse_stream(mux, id, refusal);
                }
            }
            Event::BodyEnd { id } if mux.stream_of(id).is_some() => {
                if let Some(pipe) = mux.stream_of(id) {
                    pipe.finish();
                }
            }
            Event::Body { id, bytes } => {
                let Some((_, work)) = mux.coming.iter_mut().find(|(known, _)| *known == id) else { return };
                work.pace.add(now(), bytes.len());
                let Some(incoming) = &mut work.incoming else { return };
                if let Err(broken) = incoming.feed(bytes) {
                    self.refuse_branch(mux, id, &broken);
                }
            }
            Event::BodyEnd { id } => {
                let Some(mut work) = mux.take_coming(id) else { return };
                match work.incoming.take().map(Incoming::into_body) {
                    Some(Ok(body)) => {
                        // Its length is known now: environ gets a CONTENT_LENGTH.
                        if work.request.body == BodyLength::UntilEnd && body.known_len() != Some(0) {
                            work.request.body = BodyLength::Chunked;
                        }
                        work.body = Some(body);
                        let branch = self.branch(mux, id, work);
                        mux.born.push_back(branch);
                    }
                    Some(Err(broken)) => self.refuse_branch(mux, id, &broken),
                    None => {}
                }
            }
            Event::Abort { id } => {
                if mux.take_coming(id).is_some() {
                    render_end(id, 1, Ended::RequestComplete, &mut mux.answers);
                    mux.demux.end(id);
                }
                if mux.stream_of(id).is_some() {
                    mux.break_stream();
                }
                for running in lock(&mux.family.running).iter().filter(|running| running.id == id) {
                    running.aborted.store(true, Ordering::Relaxed);
                }
            }
            Event::Refused { id, refusal } if mux.stream_of(id).is_some() => self.refuse_stream(mux, id, refusal),
            Event::Refused { id, refusal } => self.refuse_branch(mux, id, &Broken::Refused(refusal)),
        }
    }

    /// The body of the streamed request cannot be accepted.
    fn refuse_stream(&self, mux: &mut Mux, id: u16, refusal: Refusal) {
        if mux.opening.is_some() {
            return self.refuse_branch(mux, id, &Broken::Refused(refusal));
        }
        // The application has the request, and is told where it reads.
        log::info!("{}: {} (the application is told)", self.who(), refusal.reason);
        if let Some(pipe) = mux.stream_of(id) {
            pipe.break_off(io::ErrorKind::InvalidData, refusal.reason);
        }
    }

    /// Begins the streamed request with what has come of it.
    fn open_stream(&self, mux: &mut Mux) {
        let Some(mut work) = mux.opening.take() else { return };
        let Some((id, pipe)) = mux.stream.clone() else { return };
        match pipe.take_whole() {
            Some(bytes) => {
                mux.stream = None;
                if work.request.body == BodyLength::UntilEnd && !bytes.is_empty() {
                    work.request.body = BodyLength::Chunked;
                }
                work.body = Some(if bytes.is_empty() { Body::Empty } else { Body::Memory(bytes) });
            }
            None => work.body = Some(Body::Stream(Box::new(pipe.source()))),
        }
        let mut branch = self.branch(mux, id, work);
        if let Some(branch) = &mut branch.branch {
            branch.body = mux.stream_of(id).cloned();
        }
        mux.born.push_back(branch);
    }

    fn refuse_branch(&self, mux: &mut Mux, id: u16, broken: &Broken) {
        let refusal = match broken {
            Broken::Refused(refusal) => *refusal,
            Broken::Disk(error) => {
                log::error!("a request's body cannot be stored in a temporary file: {error}");
                Refusal::new(500, "the body cannot be stored")
            }
        };
        log::info!("{}: {} (answered with {})", self.who(), refusal.reason, refusal.status);
        mux.refuse(id, refusal.status);
    }

    /// A complete request as a connection value of its own.
    fn branch(&self, mux: &Mux, id: u16, work: Box<Work>) -> Box<Connection> {
        let mut connection = self.twin();
        connection.work = Some(work);
        connection.branch = Some(mux.family.begin(id));
        connection.phase = Phase::Application;
        connection
    }

    /// The deadline of a trunk passed.
    pub(super) fn expire_mux(&mut self, spare: &mut Spare) -> Step {
        let Some(mux) = &mut self.mux else { return Step::Close };
        if mux.coming.is_empty() {
            return Step::Close;
        }
        let (timeouts, now) = (&self.worker.options.timeouts, now());
        let is_late = |(id, work): &(u16, Box<Work>)| (work.pace.due(timeouts) <= now).then_some(*id);
        let late: Vec<u16> = mux.coming.iter().filter_map(is_late).collect();
        for id in late {
            mux.refuse(id, 408);
        }
        self.step(spare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_until_its_last_records_are_queued() {
        let options = fastcgi::Options { max_params: 100, max_requests: 2, server_connections: 1, server_requests: 2 };
        let mut mux = Mux::with(options);
        assert!(mux.is_idle());
        let first = mux.family.begin(1);
        assert!(mux.is_busy() && !first.stderr(b"text").is_empty());
        let end = first.finish(false);
        assert!(!end.is_empty() && first.stderr(b"late").is_empty());
        assert_eq!(*lock(&mux.family.ended), [1], "the id is free before the web server can know");
        assert!(mux.is_busy(), "closed or given away now, the end would be lost");
        mux.forget_ended();
        let second = mux.family.begin(1);
        first.settle();
        assert!(mux.is_busy(), "the next request with that id is another one");
        second.finish(false);
        second.settle();
        mux.forget_ended();
        assert!(mux.is_idle());
    }
}
