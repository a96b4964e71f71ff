//! A FastCGI request body that the application reads while it arrives (`post-buffering = 0`).
//!
//! The records of a connection are read by the reactor alone, so a body goes through a bounded buffer from there to the
//! application's thread. When it is full the connection is not read: the web server waits. That would be wrong for other
//! requests on the same connection, so with `post-buffering = 0` a connection carries one at a time (`mux`).

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Worker;
use super::mux::Family;
use crate::gateway::BodySource;
use crate::protocol::body::Reader;
use crate::protocol::request::{BodyLength, Refusal};

/// So many bytes wait for the application before the connection is left unread.
const FULL: usize = 256 * 1024;

enum End {
    /// It is still arriving.
    Open,
    Whole,
    /// Nothing more will come, and why.
    Broken(io::ErrorKind, &'static str),
}

struct State {
    reader: Reader,
    bytes: Vec<u8>,
    end: End,
    /// The connection is not read, and must be told when there is room.
    stalls: bool,
    /// Whom to tell. None when the request is over: what the application keeps must not keep more than itself.
    trunk: Option<(Arc<Worker>, Arc<Family>)>,
}

/// The buffer between the two.
pub(super) struct Pipe {
    state: Mutex<State>,
    came: Condvar,
    timeout: Duration,
}

impl Pipe {
    pub(super) fn new(worker: &Arc<Worker>, family: &Arc<Family>, length: BodyLength) -> Arc<Pipe> {
        let reader = Reader::new(length, worker.options.body_limit());
        let end = if reader.is_done() { End::Whole } else { End::Open };
        let trunk = Some((Arc::clone(worker), Arc::clone(family)));
        Arc::new(Pipe {
            state: Mutex::new(State { reader, bytes: Vec::new(), end, stalls: false, trunk }),
            came: Condvar::new(),
            timeout: worker.options.timeouts.body,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes came.
    pub(super) fn feed(&self, bytes: &[u8]) -> Result<(), Refusal> {
        let mut state = self.lock();
        let state = &mut *state;
        if state.trunk.is_some() {
            if state.reader.feed(bytes, &mut state.bytes)?.done {
                // The end of STDIN may be long in coming.
                state.end = End::Whole;
            }
            self.came.notify_one();
        }
        Ok(())
    }

    /// It was all.
    pub(super) fn finish(&self) {
        self.lock().end = End::Whole;
        self.came.notify_one();
    }

    /// Nothing more will come, though more was to.
    pub(super) fn break_off(&self, kind: io::ErrorKind, why: &'static str) {
        let mut state = self.lock();
        if matches!(state.end, End::Open) {
            state.end = End::Broken(kind, why);
            self.came.notify_one();
        }
    }

    /// The request is over: the application reads no more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.trunk = None;
        state.bytes = Vec::new();
        self.came.notify_one();
    }

    /// Whether the connection must not be read now. Then it will be told when it may.
    pub(super) fn stalls(&self) -> bool {
        let mut state = self.lock();
        state.stalls = state.trunk.is_some() && state.bytes.len() >= FULL;
        state.stalls
    }

    /// All of it, if all has come.
    pub(super) fn take_whole(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        matches!(state.end, End::Whole).then(|| std::mem::take(&mut state.bytes))
    }

    /// The application's end.
    pub(super) fn source(self: &Arc<Pipe>) -> Source {
        Source { pipe: Arc::clone(self), ready: Vec::new(), given: 0 }
    }
}

/// What `wsgi.input` reads from.
pub(super) struct Source {
    pipe: Arc<Pipe>,
    /// Taken out of the pipe, and given to the application as far as `given`.
    ready: Vec<u8>,
    given: usize,
}

impl Source {
    /// Waits for bytes and takes all that came. False at the end.
    fn fetch(&mut self) -> io::Result<bool> {
        let mut state = self.pipe.lock();
        loop {
            if state.trunk.is_none() {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "the request is over"));
            }
            if !state.bytes.is_empty() {
                break;
            }
            match state.end {
                End::Whole => return Ok(false),
                End::Broken(kind, why) => return Err(io::Error::new(kind, why)),
                End::Open => {}
            }
            let waited = self.pipe.came.wait_timeout(state, self.pipe.timeout);
            let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = now;
            if timeout.timed_out() && state.bytes.is_empty() && matches!(state.end, End::Open) && state.trunk.is_some()
            {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the client sent nothing for too long"));
            }
        }
        self.ready.clear();
        self.given = 0;
        std::mem::swap(&mut self.ready, &mut state.bytes);
        let waits = if std::mem::take(&mut state.stalls) { state.trunk.clone() } else { None };
        drop(state);
        if let Some((worker, family)) = waits {
            worker.reactor.tell_trunk(family.token());
        }
        Ok(true)
    }
}

impl BodySource for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() || (self.given == self.ready.len() && !self.fetch()?) {
            return Ok(0);
        }
        let count = buf.len().min(self.ready.len() - self.given);
        buf[..count].copy_from_slice(&self.ready[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}
