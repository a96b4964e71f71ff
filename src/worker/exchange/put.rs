//! Bytes of a response on their way: at once to the socket, or into the queue; as they are, as chunks, or as records.

use std::sync::Arc;

use crate::gateway::{FilePart, Kept};
use crate::protocol::response::{self, BodyFraming};
use crate::worker::connection::Connection;
use crate::worker::output::SHORT;

use super::SMALL;

/// A piece at least this large is written at once and by reference.
const LARGE: usize = 16 * 1024;

/// Of a list that its client is slow to take, pieces of this size wait by reference and not as copies.
const WORTH_KEEPING: usize = 512;

/// So many collected bytes are written without waiting for more.
const ENOUGH: usize = 60 * 1024;

/// Longest frame of a chunk: 16 hexadecimal digits and two line ends.
const CHUNK_FRAME: usize = 20;

impl Connection {
    /// Writes or collects a piece behind `first` (the head, or nothing).
    pub(super) fn put(&mut self, first: &[u8], piece: &[u8], whole: bool, keep: &mut dyn FnMut() -> Kept) {
        let response_buffer = self.worker.options.response_buffer;
        self.pending = true;
        let response = &mut self.work_mut().response;
        response.body_bytes += piece.len() as u64;
        if let Some(remaining) = &mut response.remaining {
            *remaining -= piece.len() as u64;
        }
        let complete = whole || response.remaining == Some(0);
        // Over FastCGI the end of the request goes out with it, unless the application may have more to do before: the rest of
        // an iterable that nobody gets to see (HEAD), the close() of a file.
        let ends = whole && response.remaining.is_some() && !response.is_file;
        if let Some(branch) = &self.branch {
            if piece.len() >= LARGE || self.is_far_behind(piece) {
                let (records, id) = (branch.stdout(first, b""), branch.id);
                self.put_records(&records, Some((keep(), id)), ends);
            } else {
                let records = branch.stdout(first, piece);
                self.put_records(&records, None, ends);
            }
            return self.tell_of_end(complete);
        }
        let response = &self.work().response;
        let chunked = response.framing == Some(BodyFraming::Chunked) && !piece.is_empty();
        if complete && !chunked && self.is_better_held(first.len() + piece.len()) {
            let mut queue = self.io.queue();
            queue.push(first);
            if piece.len() <= SMALL {
                queue.push(piece)
            } else {
                queue.push_kept(keep(), 0)
            }
            drop(queue);
            return self.lay_ready();
        }
        if !chunked && (complete || piece.len() >= LARGE) {
            self.tell_of_end(complete);
            if self.io.send(first, piece, keep).is_err() {
                self.work_mut().response.gone = true;
                return;
            }
            if self.io.queue().len() > 0 {
                // Also at the end: what the application does after it must not keep the rest back.
                self.announce();
            }
            return;
        }
        let mut queue = self.io.queue();
        queue.push(first);
        if chunked && piece.len() >= LARGE {
            queue.append(CHUNK_FRAME, |out| response::chunk_prefix(piece.len(), out));
            queue.push_kept(keep(), 0);
            queue.push(response::CHUNK_SUFFIX);
        } else if chunked {
            queue.append(piece.len() + CHUNK_FRAME, |out| {
                response::chunk_prefix(piece.len(), out);
                out.extend_from_slice(piece);
                out.extend_from_slice(response::CHUNK_SUFFIX);
            });
        } else if queue.len() > response_buffer && piece.len() >= WORTH_KEEPING {
            queue.push_kept(keep(), 0);
        } else {
            queue.push(piece);
        }
        if queue.len() >= ENOUGH.min(response_buffer) {
            queue.flush(&self.io.stream);
        }
        let (gone, waiting) = (queue.is_gone(), queue.len());
        drop(queue);
        if gone {
            self.work_mut().response.gone = true;
        } else if waiting > 0 {
            self.announce();
        }
    }

    /// Whether a piece is better kept than copied: it waits for long.
    fn is_far_behind(&self, piece: &[u8]) -> bool {
        piece.len() >= WORTH_KEEPING && self.io.queue().len() > self.worker.options.response_buffer
    }

    /// Collects records of a FastCGI request, and behind them what is to be records of this id.
    fn put_records(&mut self, records: &[u8], large: Option<(Kept, u16)>, ends: bool) {
        let response_buffer = self.worker.options.response_buffer;
        let mut queue = self.io.queue();
        queue.push(records);
        if let Some((kept, id)) = large {
            queue.push_records(kept, id);
        }
        if !ends && queue.len() >= ENOUGH.min(response_buffer) {
            queue.flush(&self.io.stream);
        }
        let (gone, waiting) = (queue.is_gone(), queue.len());
        drop(queue);
        if gone {
            self.work_mut().response.gone = true;
        } else if waiting > 0 && !ends {
            self.announce();
        }
    }

    /// Sends what the application wrote to `wsgi.errors` to the FastCGI web server. One that does not read loses it: the log
    /// has it.
    pub(super) fn put_error(&mut self, text: &[u8]) {
        let Some(branch) = &self.branch else { return };
        let mut queue = self.io.queue();
        if queue.len() <= self.worker.options.response_buffer {
            queue.push(&branch.stderr(text));
            queue.flush(&self.io.stream);
        }
    }

    /// Queues the end of a FastCGI request and writes out what there is.
    pub(super) fn finish_records(&mut self) {
        if let Some(branch) = &self.branch {
            let end = branch.finish(self.cut);
            let mut queue = self.io.queue();
            queue.push(&end);
            branch.settle();
            // What comes from a disk is left to the trunk.
            if !queue.is_at_file() {
                queue.flush(&self.io.stream);
            }
        }
    }

    /// Queues the head and a file behind it, and writes what the socket takes.
    pub(super) fn put_file(&mut self, head: &[u8], part: FilePart) {
        self.pending = true;
        let sendfile = self.worker.options.sendfile;
        let response = &mut self.work_mut().response;
        response.is_file = sendfile;
        response.body_bytes += part.len;
        if let Some(remaining) = &mut response.remaining {
            *remaining -= part.len;
        }
        let complete = response.remaining == Some(0);
        let id = self.branch.as_ref().map(|branch| branch.id);
        let mut queue = self.io.queue();
        match &self.branch {
            Some(branch) => queue.push(&branch.stdout(head, b"")),
            None => queue.push(head),
        }
        queue.push_file(part, id, !sendfile);
        self.tell_of_end(complete);
        let empty = queue.flush(&self.io.stream);
        let gone = queue.is_gone();
        drop(queue);
        if gone {
            self.work_mut().response.gone = true;
            return;
        }
        if !empty {
            // The application's close() comes next, and may take its time.
            self.announce();
        }
    }

    /// Writes a response that is one small piece, head included.
    pub(super) fn put_whole(&mut self, response: &[u8], body: usize) {
        let state = &mut self.work_mut().response;
        state.body_bytes = body as u64;
        if let Some(remaining) = &mut state.remaining {
            *remaining -= body as u64;
        }
        // Clients over TCP have a port. (One that the PROXY protocol tells for a unix socket does no harm.)
        let ends = self.last && !self.peer.port.is_empty();
        if !ends && self.is_better_held(response.len()) {
            self.pending = true;
            self.io.queue().push(response);
            return self.lay_ready();
        }
        // Before the client can have it: who has all of a response is not cut, however long the call takes to return.
        self.tell_of_end(true);
        let sent = if ends { self.io.send_last(response) } else { self.io.send_copied(response) };
        self.pending = !sent.as_ref().is_ok_and(|all| *all);
        let gone = sent.is_err();
        self.work_mut().response.gone = gone;
        if self.pending && !gone {
            self.announce();
        }
    }

    /// Whether the rest of a response, of this length, is to be sent with those of other connections: requests wait that can be
    /// run meanwhile, and the standby thread does not wait for events, but looks after its ticks.
    #[inline]
    pub(super) fn is_better_held(&self, len: usize) -> bool {
        self.worker.reactor.holds() && len <= SHORT && !self.worker.standby.is_driving()
    }

    /// The response is complete in the queue, and is sent when its turn comes. The application's close() may come before and
    /// take its time: then the standby thread sends it at its next tick.
    fn lay_ready(&mut self) {
        self.tell_of_end(true);
        let work = self.work_mut();
        let core = work.core;
        if !std::mem::replace(&mut work.response.announced, true) {
            self.worker.announce_output(core, Arc::clone(&self.io));
        }
        self.worker.standby.look();
        // It found the announcement, or is found here.
        if self.worker.standby.is_driving() && !self.io.flush() {
            self.worker.reactor.interrupt();
        }
    }

    /// From the end of its response on, a request may be stopped, but the connection is not cut for it. What of the response
    /// waits must be announced.
    #[inline]
    fn tell_of_end(&self, complete: bool) {
        if let Some(harakiri) = self.worker.harakiri.get()
            && complete
        {
            harakiri.response_is_sent(self.work().core);
        }
    }

    /// Output of this request waits: the standby thread is to write it out. While that one waits for events itself it
    /// is written here, and what the client does not take makes it look.
    fn announce(&mut self) {
        let work = self.work_mut();
        let core = work.core;
        if !std::mem::replace(&mut work.response.announced, true) {
            self.worker.announce_output(core, Arc::clone(&self.io));
        }
        // It may sleep, also if it knows: while an app thread drives, nothing else keeps it awake. Either it finds the
        // announcement before it waits, or it is found waiting.
        if self.worker.standby.hurry() && !self.io.flush() {
            self.worker.reactor.interrupt();
        }
    }
}
