//! How a client's bytes become a request: the head, the body, and the refusal of what cannot be accepted.

use std::sync::Arc;

use super::clock::{self, after, now};
use super::connection::{Connection, Filled, Phase, Step};
use super::incoming::{Broken, Incoming, SharedBody, Streamed};
use super::pace::Pace;
use super::work::Spare;
use crate::gateway::Body;
use crate::protocol::Protocol;
use crate::protocol::body::admit;
use crate::protocol::http::head;
use crate::protocol::request::{BodyLength, Parsed, Refusal};
use crate::protocol::{response, scgi, uwsgi};

impl Connection {
    pub(super) fn read_head(&mut self, spare: &mut Spare) -> Option<Step> {
        if let Some(work) = &mut self.work
            && work.filled > work.scanned
        {
            return self.parse_head();
        }
        if !self.readable {
            return Some(Step::Wait);
        }
        match self.fill(spare) {
            Filled::Some => {
                if self.phase == Phase::Idle {
                    self.phase = Phase::Head;
                }
                None
            }
            Filled::Nothing => Some(Step::Wait),
            Filled::End if self.phase == Phase::Head => {
                self.refuse_unfinished("head");
                None
            }
            Filled::End | Filled::Gone => Some(Step::Close),
        }
    }

    pub(super) fn parse_head(&mut self) -> Option<Step> {
        let protocol = self.protocol();
        let limits = self.worker.options.limits;
        let timed = self.worker.options.is_timed();
        let work = self.work_mut();
        let parsed = match protocol {
            Protocol::Http => head::parse(&work.input[..work.filled], work.scanned, &limits, &mut work.request),
            Protocol::Scgi => scgi::parse(&work.input[..work.filled], &limits, &mut work.request),
            Protocol::FastCgi => unreachable!("FastCGI connections are read by `mux`"),
            Protocol::Uwsgi => match uwsgi::parse(&work.input[..work.filled], &limits, &mut work.request) {
                uwsgi::Packet::Request => Parsed::Complete,
                uwsgi::Packet::Partial => Parsed::Partial,
                uwsgi::Packet::Refused(refusal) => Parsed::Refused(refusal),
                uwsgi::Packet::Ping => {
                    self.reply_raw(&uwsgi::PONG);
                    return None;
                }
                uwsgi::Packet::Unsupported { modifier1 } => {
                    log::warn!(
                        "{}: uwsgi modifier1 {modifier1} is not supported (0, 30 and 100 are), answered with 501",
                        self.who()
                    );
                    self.refuse(501);
                    return None;
                }
            },
        };
        match parsed {
            Parsed::Complete => {
                if timed {
                    work.started = clock::micros_lately();
                }
                if self.worker.options.trusted.is_some() {
                    let told = self.hear_proxies(self.work());
                    self.work_mut().told = told;
                }
                self.begin_body()
            }
            Parsed::Partial => {
                let first = work.scanned == 0;
                work.scanned = work.filled;
                if first {
                    // From here on the whole head has so long; most come in one piece and never need to know.
                    self.deadline = after(now(), self.worker.options.timeouts.head);
                }
                None
            }
            Parsed::Refused(refusal) => {
                self.refuse_for(refusal);
                None
            }
        }
    }

    pub(super) fn begin_body(&mut self) -> Option<Step> {
        let request = &self.work().request;
        let (length, head_len) = (request.body, request.head_len);
        if matches!(length, BodyLength::Absent | BodyLength::Length(0)) {
            self.phase = Phase::Application;
            return Some(Step::Request);
        }
        let options = Arc::clone(&self.worker);
        let options = &options.options;
        let io = Arc::clone(&self.io);
        let work = self.work_mut();
        let limit = options.body_limit();
        if let Err(refusal) = admit(length, limit) {
            self.refuse_for(refusal);
            return None;
        }
        if let Some(body) = work.arrived.take() {
            work.body = Some(body);
            self.phase = Phase::Application;
            return Some(Step::Request);
        }
        let arrived = work.filled - head_len;
        let continue_due = work.request.expect_continue && arrived == 0;
        let Some(threshold) = options.post_buffering else {
            let raw = work.input[head_len..work.filled].to_vec();
            work.filled = head_len;
            let timeouts = options.timeouts.clone();
            let body = SharedBody::new(Streamed::new(io, length, limit, raw, continue_due, timeouts));
            work.body = Some(Body::Stream(Box::new(body.clone())));
            work.streamed = Some(body);
            self.phase = Phase::Application;
            return Some(Step::Request);
        };
        match Incoming::new(length, limit, threshold) {
            Ok(incoming) => work.incoming = Some(incoming),
            Err(broken) => {
                self.refuse_broken(broken);
                return None;
            }
        }
        work.pace = Pace::begin(now());
        let due = work.pace.due(&options.timeouts);
        self.phase = Phase::Body;
        self.deadline = due;
        if continue_due {
            self.pending = true;
            let mut queue = self.io.queue();
            queue.push(response::CONTINUE);
            queue.flush(&self.io.stream);
        }
        None
    }

    pub(super) fn read_body(&mut self) -> Option<Step> {
        let work = self.work_mut();
        let head_len = work.request.head_len;
        if work.filled > head_len {
            let incoming = work.incoming.as_mut().expect("a body is collected in this phase");
            match incoming.feed(&work.input[head_len..work.filled]) {
                Ok((consumed, done)) => {
                    work.input.copy_within(head_len + consumed..work.filled, head_len);
                    work.filled -= consumed;
                    if done {
                        let whole = work.incoming.take().map(Incoming::into_body);
                        match whole {
                            Some(Ok(body)) => work.body = Some(body),
                            Some(Err(broken)) => {
                                self.refuse_broken(broken);
                                return None;
                            }
                            None => {}
                        }
                        self.phase = Phase::Application;
                        return Some(Step::Request);
                    }
                }
                Err(broken) => {
                    self.refuse_broken(broken);
                    return None;
                }
            }
        }
        if !self.readable {
            return Some(Step::Wait);
        }
        let before = self.work().filled;
        match self.fill(&mut Spare::default()) {
            Filled::Some => {
                let worker = Arc::clone(&self.worker);
                let work = self.work_mut();
                work.pace.add(now(), work.filled - before);
                self.deadline = work.pace.due(&worker.options.timeouts);
                None
            }
            Filled::Nothing => Some(Step::Wait),
            Filled::End => {
                self.refuse_unfinished("body");
                None
            }
            Filled::Gone => Some(Step::Close),
        }
    }

    pub(super) fn refuse_broken(&mut self, broken: Broken) {
        match broken {
            Broken::Refused(refusal) => self.refuse_for(refusal),
            Broken::Disk(error) => {
                log::error!(
                    "{}: the request's body cannot be stored in a temporary file in {} ({error}), answered with 500; \
                     make room there or set TMPDIR",
                    self.who(),
                    std::env::temp_dir().display()
                );
                self.refuse(500);
            }
        }
    }

    pub(super) fn refuse_for(&mut self, refusal: Refusal) {
        let advice = match refusal.status {
            431 => "; buffer-size raises the limit",
            413 => "; limit-post is the limit",
            _ => "",
        };
        log::info!("{}: {} (answered with {}){advice}", self.who(), refusal.reason, refusal.status);
        self.refuse(refusal.status);
    }

    /// A client that has ended its side in the middle of a request may still wait for an answer (RFC 9112 section 8).
    pub(super) fn refuse_unfinished(&mut self, what: &str) {
        log::debug!("{}: the client ended within the {what} of a request (answered with 400)", self.who());
        self.refuse(400);
    }

    /// Answers with an error of our own and closes.
    pub(super) fn refuse(&mut self, status: u16) {
        let date = clock::date();
        let protocol = self.protocol();
        // What was refused need not be a request that could be asked.
        let asks_for_head = self.work.as_ref().is_some_and(|work| work.input[..work.filled].starts_with(b"HEAD "));
        let facts = response::Facts {
            version: crate::protocol::request::Version::Http11,
            head_request: asks_for_head,
            protocol,
            keep_alive: false,
            total: None,
            date: &date,
        };
        let mut out = Vec::with_capacity(256);
        response::plain_error(status, &facts, &mut out);
        self.reply_raw(&out);
        // The body was not read: whatever of it still comes must not turn the answer into a reset.
        self.readable = true;
    }

    pub(super) fn reply_raw(&mut self, bytes: &[u8]) {
        self.pending = true;
        self.io.queue().push(bytes);
        self.last = true;
        self.phase = Phase::Drain;
        self.deadline = after(now(), self.worker.options.timeouts.write);
        let work = self.work_mut();
        work.request.clear();
        work.incoming = None;
    }
}
