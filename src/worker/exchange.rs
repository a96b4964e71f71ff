//! The response side of a connection: what the application sends becomes framed bytes. Here is the framing; `put` has
//! the way of the bytes to the socket or into the queue.
//!
//! Whole responses go out with one system call, head and body together. Pieces of a longer response
//! are collected and written together: PEP 3333 asks that transmission goes on while the application works,
//! which the standby thread sees to (it writes what waits within a millisecond or two), not for
//! one system call a piece.

mod put;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use super::clock::{self, after, now};
use super::connection::{Connection, Phase};
use super::incoming::SharedBody;
use super::mux::Branch;
use crate::gateway::{Body, Exchange, FilePart, Kept, Local, Payload, Peer, Sent, Told};
use crate::protocol::Protocol;
use crate::protocol::request::{Request, Version};
use crate::protocol::response::{self, BodyFraming, Facts, Head};

/// A body up to this size is copied behind the head: one plain write is cheaper than a gathered one.
const SMALL: usize = 4 * 1024;

/// The response of the running request.
#[derive(Debug, Default)]
pub(super) struct Response {
    /// The head is fixed; `framing` holds.
    pub(super) head_sent: bool,
    framing: Option<BodyFraming>,
    /// Body bytes that the framing still allows, where it says a length.
    remaining: Option<u64>,
    pub(super) status: u16,
    pub(super) head_bytes: u64,
    pub(super) fields: u32,
    pub(super) body_bytes: u64,
    /// The client left before it was whole.
    pub(super) gone: bool,
    /// Pieces that the application gave.
    pub(super) pieces: u32,
    /// The body is a file.
    pub(super) is_file: bool,
    /// The standby thread knows that there is something to write out.
    announced: bool,
    warned_long: bool,
}

impl Response {
    /// Whether the client gets nothing more than what is sent or on its way.
    pub(super) fn is_complete(&self) -> bool {
        self.remaining == Some(0) || self.framing == Some(BodyFraming::Nothing)
    }

    pub(super) fn ends_by_close(&self) -> bool {
        self.framing == Some(BodyFraming::UntilClose)
    }
}

impl Connection {
    /// Prepares for a request that is about to run on app thread `core`.
    pub(super) fn begin_response(&mut self, core: usize) {
        self.phase = Phase::Application;
        self.begin_application();
        self.cut = false;
        self.last = true;
        let work = self.work_mut();
        work.response = Response::default();
        work.core = core;
    }

    /// Whether the connection may take another request after the response that begins now.
    fn may_go_on(&self) -> bool {
        // `http-keepalive = 0`: every response ends its connection.
        let keep_alive = !self.worker.is_closing() && !self.worker.options.timeouts.keep_alive.is_zero();
        let work = self.work();
        if let Some(body) = &work.streamed {
            body.forget_continue();
        }
        // The close must be announced in the head; what the application will still read is not known now.
        keep_alive && work.request.keep_alive && work.streamed.as_ref().is_none_or(SharedBody::has_arrived)
    }

    fn fix_head(&mut self, head: &mut Head, total: Option<u64>) {
        let date = clock::date();
        let keep_alive = self.may_go_on();
        let protocol = self.local().protocol;
        let work = self.work_mut();
        let facts = Facts {
            version: work.request.version,
            head_request: work.request.is_head(work.head()),
            protocol,
            keep_alive,
            total,
            date: &date,
        };
        let framing = head.finish(&facts);
        let response = &mut work.response;
        response.head_sent = true;
        response.status = head.status();
        response.fields = head.fields();
        response.head_bytes = head.bytes().len() as u64;
        response.remaining = match framing.body {
            BodyFraming::Length(len) => Some(len),
            _ => None,
        };
        response.framing = Some(framing.body);
        if response.ends_by_close()
            && let Some(harakiri) = self.worker.harakiri.get()
        {
            harakiri.ends_by_close(self.work().core);
        }
        self.last = !framing.keep_alive;
    }

    /// What of a piece the framing lets through.
    fn allowed(&mut self, len: usize) -> usize {
        let work = self.work_mut();
        let response = &mut work.response;
        match (response.framing, response.remaining) {
            (Some(BodyFraming::Nothing), _) => 0,
            (_, Some(remaining)) if len as u64 > remaining => {
                if !std::mem::replace(&mut response.warned_long, true) {
                    log::error!(
                        "the application sends more than its Content-Length says ({} {}); the rest is dropped",
                        String::from_utf8_lossy(work.request.method.of(work.head())).escape_debug(),
                        String::from_utf8_lossy(work.request.target.of(work.head())).escape_debug(),
                    );
                }
                remaining as usize
            }
            _ => len,
        }
    }

    /// Whether the web server no longer wants the response of a FastCGI request.
    fn is_aborted(&mut self) -> bool {
        let aborted = self.branch.as_ref().is_some_and(Branch::is_aborted);
        if aborted {
            self.work_mut().response.gone = true;
        }
        aborted
    }

    fn end(&mut self) {
        let work = self.work_mut();
        let core = work.core;
        if work.response.announced {
            self.worker.withdraw_output(core);
        }
    }
}

/// A whole response that says no more than its status.
pub(super) fn plain_answer(
    status: u16,
    protocol: Protocol,
    version: Version,
    head_request: bool,
    keep_alive: bool,
) -> Vec<u8> {
    let date = clock::date();
    let facts = Facts { version, head_request, protocol, keep_alive, total: None, date: &date };
    let mut out = Vec::with_capacity(256);
    response::plain_error(status, &facts, &mut out);
    out
}

impl Exchange for Connection {
    fn request(&self) -> (&Request, &[u8]) {
        let work = self.work();
        (&work.request, work.head())
    }

    fn local(&self) -> &Local {
        Connection::local(self)
    }

    fn peer(&self) -> &Peer {
        self.client()
    }

    fn told(&self) -> Option<&Told> {
        self.told_of_request()
    }

    fn write_error(&mut self, text: &[u8]) {
        self.put_error(text);
    }

    fn take_body(&mut self) -> Body {
        self.work_mut().body.take().unwrap_or(Body::Empty)
    }

    fn send_file(&mut self, head: &mut Head, part: FilePart) -> Sent {
        if self.is_aborted() || !self.may_answer() {
            return Sent::Gone;
        }
        self.fix_head(head, Some(part.len));
        let response = &self.work().response;
        // PEP 3333: no more than the application's Content-Length.
        let len = response.remaining.map_or(part.len, |remaining| part.len.min(remaining));
        if response.framing == Some(BodyFraming::Nothing) || len == 0 {
            self.put(head.bytes(), b"", true, &mut || Box::new([0u8; 0]));
        } else {
            self.put_file(head.bytes(), FilePart { len, ..part });
        }
        if self.work().response.gone { Sent::Gone } else { Sent::Taken }
    }

    fn send(&mut self, head: &mut Head, piece: Payload<'_>, total: Option<u64>) -> Sent {
        if self.is_aborted() {
            return Sent::Gone;
        }
        let response = &mut self.work_mut().response;
        response.pieces += 1;
        let first = !response.head_sent;
        if first {
            if !self.may_answer() {
                return Sent::Gone;
            }
            self.fix_head(head, total);
        } else if piece.bytes.is_empty() {
            return Sent::Taken;
        }
        let allowed = self.allowed(piece.bytes.len());
        let bytes = &piece.bytes[..allowed];
        if first || !bytes.is_empty() {
            let whole =
                total == Some(piece.bytes.len() as u64) || self.work().response.framing == Some(BodyFraming::Nothing);
            if first && whole && !self.pending && bytes.len() <= SMALL && allowed == piece.bytes.len() {
                self.put_whole(head.with_body(bytes), bytes.len());
                return if self.work().response.gone { Sent::Gone } else { Sent::Taken };
            }
            let head_bytes = if first { head.bytes() } else { b"" };
            let mut copy = || -> Kept { Box::new(bytes.to_vec()) };
            if allowed == piece.bytes.len() {
                self.put(head_bytes, bytes, whole, piece.keep);
            } else {
                self.put(head_bytes, bytes, whole, &mut copy);
            }
        }
        let response = &self.work().response;
        if response.gone || response.warned_long {
            return Sent::Gone;
        }
        if response.announced && self.io.queue().len() > self.worker.options.response_buffer {
            return Sent::Full;
        }
        Sent::Taken
    }

    fn head_sent(&self) -> bool {
        self.work().response.head_sent
    }

    fn wait_for_room(&mut self) -> bool {
        let enough = self.worker.options.response_buffer / 2;
        let mut delivered = self.io.delivered();
        let mut deadline = after(now(), self.worker.options.timeouts.write);
        loop {
            {
                let mut queue = self.io.queue();
                queue.flush(&self.io.stream);
                if queue.is_gone() {
                    break;
                }
                if queue.len() <= enough {
                    return true;
                }
            }
            if self.io.delivered() != delivered {
                delivered = self.io.delivered();
                deadline = after(now(), self.worker.options.timeouts.write);
            }
            let left = deadline.saturating_sub(now());
            if left == 0 {
                log::info!("{}: the client took nothing of the response for too long, cut", self.who());
                break;
            }
            if self.io.stream.wait(true, std::time::Duration::from_millis(left)).is_err() {
                break;
            }
        }
        self.io.queue().give_up();
        self.work_mut().response.gone = true;
        false
    }

    fn finish(&mut self, head: &mut Head) {
        if self.was_stopped() {
            return;
        }
        if !self.work().response.head_sent {
            self.fix_head(head, Some(0));
            self.put(head.bytes(), b"", true, &mut || Box::new([0u8; 0]));
        }
        let work = self.work_mut();
        let (framing, remaining, gone) = (work.response.framing, work.response.remaining, work.response.gone);
        match (framing, remaining) {
            (Some(BodyFraming::Chunked), _) => {
                self.pending = true;
                let mut queue = self.io.queue();
                queue.push(response::LAST_CHUNK);
                if !self.is_better_held(queue.len()) {
                    queue.flush(&self.io.stream);
                }
            }
            (_, Some(left)) if left > 0 && !gone => {
                log::error!(
                    "the application sent {left} bytes less than its Content-Length says ({} {}); the connection is cut",
                    String::from_utf8_lossy(work.request.method.of(work.head())).escape_debug(),
                    String::from_utf8_lossy(work.request.target.of(work.head())).escape_debug(),
                );
                self.last = true;
                self.cut = true;
            }
            _ => {}
        }
        self.finish_records();
        self.end();
    }

    fn limit_time(&mut self, limit: Duration, thread: Arc<dyn Any + Send + Sync>) {
        if let Ok(interrupt) = thread.downcast() {
            self.limit_own_time(limit, interrupt);
        }
    }

    fn fail(&mut self, status: u16) {
        if self.was_stopped() {
            return;
        }
        if !self.work().response.head_sent {
            // The request was read to its end: what is wrong is the application, not the connection.
            let keep_alive = self.may_go_on();
            let protocol = self.local().protocol;
            let work = self.work_mut();
            let head_request = work.request.is_head(work.head());
            let out = plain_answer(status, protocol, work.request.version, head_request, keep_alive);
            let response = &mut work.response;
            response.head_sent = true;
            response.status = status;
            response.head_bytes = out.len() as u64;
            self.pending = true;
            match &self.branch {
                Some(branch) => self.io.queue().push(&branch.stdout(&out, b"")),
                None => self.io.queue().push(&out),
            }
            self.last = protocol != Protocol::Http || !keep_alive;
        } else if !self.work().response.is_complete() {
            self.last = true;
            self.cut = true;
        }
        self.finish_records();
        self.end();
    }

    fn count_exception(&mut self) {
        self.worker.count_exception();
    }

    fn is_from_file(&mut self) {
        self.work_mut().response.is_file = true;
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}
