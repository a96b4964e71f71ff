//! One request of a FastCGI connection: what it shares with the connection, and its responses as records.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::protocol::fastcgi::{
    Ended, MAX_CONTENT, render_end, render_finish, render_stderr, render_stderr_end, render_stdout, stdout_header,
};
use crate::worker::pipe::Pipe;

/// What a trunk and its branches share.
#[derive(Default)]
pub(in crate::worker) struct Family {
    /// The trunk's place in the reactor.
    pub(super) token: AtomicUsize,
    pub(super) running: Mutex<Vec<Running>>,
    /// Requests whose END_REQUEST is queued.
    pub(super) ended: Mutex<Vec<u16>>,
    /// A response of unknown length failed midway: only the end of the connection tells that it is not whole.
    pub(super) broken: AtomicBool,
}

impl Family {
    /// Begins a request.
    pub(super) fn begin(self: &Arc<Family>, id: u16) -> Branch {
        let aborted = Arc::new(AtomicBool::new(false));
        lock(&self.running).push(Running { id, aborted: Arc::clone(&aborted), erred: false, over: false });
        Branch { id, family: Arc::clone(self), aborted, body: None }
    }

    /// The trunk's place in the reactor.
    pub(in crate::worker) fn token(&self) -> usize {
        self.token.load(Ordering::Relaxed)
    }
}

pub(super) struct Running {
    pub(super) id: u16,
    pub(super) aborted: Arc<AtomicBool>,
    /// STDERR records were sent: the stream must be ended.
    erred: bool,
    /// The end of the request is made.
    over: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What makes a connection value one request of a trunk.
#[derive(Clone)]
pub(in crate::worker) struct Branch {
    pub(in crate::worker) id: u16,
    family: Arc<Family>,
    aborted: Arc<AtomicBool>,
    /// Its body, if that is streamed.
    pub(super) body: Option<Arc<Pipe>>,
}

impl Branch {
    /// Whether the web server no longer wants the response.
    pub(in crate::worker) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    /// The trunk's place in the reactor: it must be told when this is over.
    pub(in crate::worker) fn trunk(&self) -> usize {
        self.family.token()
    }

    /// `first` and `piece` as STDOUT records.
    pub(in crate::worker) fn stdout(&self, first: &[u8], piece: &[u8]) -> Vec<u8> {
        let len = first.len() + piece.len();
        let mut out = Vec::with_capacity(len + 64);
        if (1..=MAX_CONTENT).contains(&len) {
            out.extend_from_slice(&stdout_header(self.id, len));
            out.extend_from_slice(first);
            out.extend_from_slice(piece);
        } else {
            render_stdout(self.id, first, &mut out);
            render_stdout(self.id, piece, &mut out);
        }
        out
    }

    /// `text` as STDERR records; nothing when the request is over. To be called under the queue's lock, so that the end of the
    /// request can't come before them.
    pub(in crate::worker) fn stderr(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(running) = lock(&self.family.running).iter_mut().find(|running| self.is(running) && !running.over) {
            running.erred = true;
            render_stderr(self.id, text, &mut out);
        }
        out
    }

    fn is(&self, running: &Running) -> bool {
        // The id may be another's by now.
        Arc::ptr_eq(&running.aborted, &self.aborted)
    }

    /// The records that end the request; [`Branch::settle`] must follow when they are queued. `cut`: the response is not whole,
    /// which nobody is to hear of who does not want it any more.
    pub(in crate::worker) fn finish(&self, cut: bool) -> Vec<u8> {
        let aborted = self.is_aborted();
        let cut = cut && !aborted;
        if let Some(body) = &self.body {
            body.close();
        }
        let mut erred = false;
        if let Some(running) = lock(&self.family.running).iter_mut().find(|running| self.is(running)) {
            running.over = true;
            erred = running.erred;
        }
        // Before they can be sent: the web server may use the id again as soon as it has them.
        lock(&self.family.ended).push(self.id);
        let mut out = Vec::with_capacity(32);
        if erred && !cut {
            render_stderr_end(self.id, &mut out);
        }
        if cut {
            self.family.broken.store(true, Ordering::Relaxed);
        } else if aborted {
            render_end(self.id, 1, Ended::RequestComplete, &mut out);
        } else {
            render_finish(self.id, 0, &mut out);
        }
        out
    }

    /// Everything of the request is queued: not before may the trunk be closed, or be given away.
    pub(in crate::worker) fn settle(&self) {
        lock(&self.family.running).retain(|running| !self.is(running));
    }
}
