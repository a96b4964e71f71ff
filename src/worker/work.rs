//! The buffers of a request, and where they are kept between two: an idle connection has none.

use std::sync::{Mutex, PoisonError};

use super::exchange::Response;
use super::incoming::{Incoming, SharedBody};
use super::pace::Pace;
use crate::gateway::{Body, Told};
use crate::protocol::request::Request;

/// Bytes read at once; a request that fits is read with one system call.
pub(super) const READ: usize = 32 * 1024;

/// A waiting connection keeps no more input buffer than this beyond what it holds.
pub(super) const SLACK: usize = 1024;

/// The buffers of a request that is being read or run. Idle connections have none; threads keep spares.
pub(super) struct Work {
    /// Bytes received; `filled` of them are valid.
    pub(super) input: Vec<u8>,
    pub(super) filled: usize,
    /// Bytes that the parser has seen without finding the end of the head.
    pub(super) scanned: usize,
    pub(super) request: Request,
    pub(super) incoming: Option<Incoming>,
    pub(super) body: Option<Body>,
    /// The whole body, which came from another worker: of this request only the head is to be read.
    pub(super) arrived: Option<Body>,
    pub(super) pace: Pace,
    pub(super) streamed: Option<SharedBody>,
    /// What trusted proxies say of the request.
    pub(super) told: Option<Box<Told>>,
    pub(super) response: Response,
    /// App thread that runs the request.
    pub(super) core: usize,
    /// When the head was complete, in microseconds.
    pub(super) started: u64,
    /// Since when the complete request waits for an app thread, on the same clock; 0: it did not wait.
    pub(super) queued: u64,
}

impl Work {
    pub(super) fn new() -> Box<Work> {
        Work::with(vec![0; READ])
    }

    /// Buffers for a request whose head comes in a buffer of its own.
    pub(super) fn bare() -> Box<Work> {
        Work::with(Vec::new())
    }

    fn with(input: Vec<u8>) -> Box<Work> {
        Box::new(Work {
            input,
            filled: 0,
            scanned: 0,
            request: Request::default(),
            incoming: None,
            body: None,
            arrived: None,
            pace: Pace::default(),
            streamed: None,
            told: None,
            response: Response::default(),
            core: 0,
            started: 0,
            queued: 0,
        })
    }

    /// Nothing of one client may be seen by the next.
    fn forget(&mut self) {
        self.filled = 0;
        self.scanned = 0;
        self.request.clear();
        self.incoming = None;
        self.body = None;
        self.arrived = None;
        self.streamed = None;
        self.told = None;
    }

    /// The request is answered. True: bytes of the next one are here.
    pub(super) fn forget_request(&mut self) -> bool {
        let end = self.request.head_len.min(self.filled);
        self.input.copy_within(end..self.filled, 0);
        self.filled -= end;
        self.scanned = 0;
        self.body = None;
        self.incoming = None;
        self.told = None;
        self.filled > 0
    }

    /// The bytes that the request's spans refer to.
    pub(super) fn head(&self) -> &[u8] {
        &self.input[..self.request.head_len]
    }
}

/// Buffers that a thread keeps for the next request.
#[derive(Default)]
pub(super) struct Spare {
    #[expect(clippy::vec_box, reason = "boxes go to and fro between connections and this list, as they are")]
    works: Vec<Box<Work>>,
    /// The thread has the interpreter just now: nothing may wait for a disk.
    pub(super) attached: bool,
}

/// Where requests are read by one thread and run by others, those who have too many buffers leave some to who has none.
#[expect(clippy::vec_box, reason = "see Spare")]
static LEFT: Mutex<Vec<Box<Work>>> = Mutex::new(Vec::new());

/// So many are left at most.
const MOST_LEFT: usize = 8;

impl Spare {
    pub(super) fn take(&mut self) -> Box<Work> {
        self.works.pop().unwrap_or_else(|| {
            let left = LEFT.lock().unwrap_or_else(PoisonError::into_inner).pop();
            left.unwrap_or_else(Work::new)
        })
    }

    pub(super) fn give(&mut self, mut work: Box<Work>) {
        work.forget();
        if work.input.len() != READ {
            return;
        }
        if self.works.len() < 4 {
            self.works.push(work);
            return;
        }
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() < MOST_LEFT {
            left.push(work);
        }
    }
}
