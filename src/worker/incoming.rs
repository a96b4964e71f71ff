//! Request bodies on their way in: collected whole in memory or in an unlinked temporary file, or, with
//! `post-buffering = 0`, read from the connection by the application thread.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::clock;
use super::output::Io;
use super::pace::allowance;
use crate::config::Timeouts;
use crate::gateway::{Body, BodySource};
use crate::protocol::body::Reader;
use crate::protocol::request::{BodyLength, Refusal};
use crate::protocol::response;

/// Why a body cannot be collected.
pub(crate) enum Broken {
    /// The client broke the framing or the limit.
    Refused(Refusal),
    /// The temporary file cannot be made or written.
    Disk(io::Error),
}

/// How much of a body stays in memory when no descriptor is free for a file.
const IN_MEMORY_AT_MOST: u64 = 4 << 20;

enum Store {
    Memory(Vec<u8>),
    File(File, u64),
}

/// A body that is being collected.
pub(crate) struct Incoming {
    reader: Reader,
    store: Store,
    threshold: u64,
}

impl Incoming {
    /// `limit`: longest body in bytes; `threshold`: bytes kept in memory.
    pub(crate) fn new(length: BodyLength, limit: u64, threshold: u64) -> Result<Incoming, Broken> {
        let (mut store, mut threshold) = (Store::Memory(Vec::new()), threshold);
        if let BodyLength::Length(len) = length {
            match temporary(len > threshold)? {
                Some(file) => store = Store::File(file, 0),
                None if len > threshold => threshold = IN_MEMORY_AT_MOST,
                None => store = Store::Memory(Vec::with_capacity(len as usize)),
            }
        }
        Ok(Incoming { reader: Reader::new(length, limit), store, threshold })
    }

    /// Takes bytes; returns how many of them belong to the body and whether it is whole.
    pub(crate) fn feed(&mut self, input: &[u8]) -> Result<(usize, bool), Broken> {
        let fed = match &mut self.store {
            Store::Memory(bytes) => {
                let fed = self.reader.feed(input, bytes).map_err(Broken::Refused)?;
                if bytes.len() as u64 > self.threshold {
                    match temporary(true)? {
                        Some(mut file) => {
                            file.write_all(bytes).map_err(Broken::Disk)?;
                            clock::has_waited();
                            self.store = Store::File(file, bytes.len() as u64);
                        }
                        None if self.threshold < IN_MEMORY_AT_MOST => self.threshold = IN_MEMORY_AT_MOST,
                        None => return Err(Broken::Disk(io::Error::from_raw_os_error(libc::EMFILE))),
                    }
                }
                fed
            }
            Store::File(file, len) => {
                let mut piece = Vec::with_capacity(input.len());
                let fed = self.reader.feed(input, &mut piece).map_err(Broken::Refused)?;
                file.write_all(&piece).map_err(Broken::Disk)?;
                clock::has_waited();
                *len += piece.len() as u64;
                fed
            }
        };
        Ok((fed.consumed, fed.done))
    }

    /// How many bytes are still to come, where that is known.
    pub(crate) fn remaining(&self) -> Option<u64> {
        self.reader.remaining()
    }

    /// The whole body, from its start.
    pub(crate) fn into_body(self) -> Result<Body, Broken> {
        match self.store {
            Store::Memory(bytes) if bytes.is_empty() => Ok(Body::Empty),
            Store::Memory(bytes) => Ok(Body::Memory(bytes)),
            Store::File(mut file, len) => {
                file.seek(SeekFrom::Start(0)).map_err(Broken::Disk)?;
                Ok(Body::File { file, len })
            }
        }
    }
}

/// A temporary file, if one is needed and a descriptor is free.
fn temporary(needed: bool) -> Result<Option<File>, Broken> {
    if !needed {
        return Ok(None);
    }
    match tempfile::tempfile() {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => Ok(None),
        Err(error) => Err(Broken::Disk(error)),
    }
}

/// A body read from the connection while the application runs. Shared by the connection and the
/// application's `wsgi.input`, which may outlive the exchange.
pub(super) struct Streamed {
    /// None when the exchange is over: what the application keeps must not keep the connection.
    io: Option<Arc<Io>>,
    reader: Reader,
    /// Bytes received and not yet decoded.
    raw: Vec<u8>,
    /// Bytes decoded and not yet given to the application.
    decoded: Vec<u8>,
    given: usize,
    done: bool,
    closed: bool,
    /// `Expect: 100-continue` that is still to be answered.
    continue_due: bool,
    timeouts: Timeouts,
    /// Bytes received since the application began to read, and how long it waited for them.
    received: u64,
    waited: Duration,
}

impl Streamed {
    pub(super) fn new(
        io: Arc<Io>,
        length: BodyLength,
        limit: u64,
        raw: Vec<u8>,
        continue_due: bool,
        timeouts: Timeouts,
    ) -> Streamed {
        let reader = Reader::new(length, limit);
        let io = Some(io);
        Streamed {
            io,
            reader,
            raw,
            decoded: Vec::new(),
            given: 0,
            done: false,
            closed: false,
            continue_due,
            timeouts,
            received: 0,
            waited: Duration::ZERO,
        }
    }

    /// Decodes what was received; true when the body is whole.
    fn decode(&mut self) -> io::Result<()> {
        if self.done || self.raw.is_empty() {
            return Ok(());
        }
        self.decoded.clear();
        self.given = 0;
        match self.reader.feed(&self.raw, &mut self.decoded) {
            Ok(fed) => {
                self.raw.drain(..fed.consumed);
                self.done = fed.done;
                Ok(())
            }
            Err(refusal) => {
                self.closed = true;
                Err(io::Error::new(io::ErrorKind::InvalidData, refusal.reason))
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let Some(io) = &self.io else { return Err(io::ErrorKind::NotConnected.into()) };
        if std::mem::take(&mut self.continue_due) {
            let mut queue = io.queue();
            queue.push(response::CONTINUE);
            queue.flush(&io.stream);
        }
        let start = self.raw.len();
        self.raw.resize(start + 64 * 1024, 0);
        let result = loop {
            match io.stream.read(&mut self.raw[start..]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => break result,
            }
            let left = allowance(&self.timeouts, self.received).saturating_sub(self.waited);
            let began = Instant::now();
            let ready = io.stream.wait(false, self.timeouts.body.min(left));
            self.waited += began.elapsed();
            match ready {
                Ok(true) => {}
                Ok(false) => {
                    break Err(io::Error::new(io::ErrorKind::TimedOut, "the client sent too little for too long"));
                }
                Err(error) => break Err(error),
            }
        };
        let count = result.as_ref().copied().unwrap_or(0);
        self.raw.truncate(start + count);
        self.received += count as u64;
        match result {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client left before the end of the body")),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.closed {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "the request is over"));
            }
            if self.given < self.decoded.len() {
                let count = buf.len().min(self.decoded.len() - self.given);
                buf[..count].copy_from_slice(&self.decoded[self.given..self.given + count]);
                self.given += count;
                return Ok(count);
            }
            if self.done || buf.is_empty() {
                return Ok(0);
            }
            if self.raw.is_empty() {
                self.receive()?;
            }
            self.decode()?;
            // A chunk's frame can end in the middle: then nothing came of these bytes.
            if self.decoded.is_empty() && !self.done {
                self.receive()?;
            }
        }
    }
}

/// The connection's handle on a streamed body.
#[derive(Clone)]
pub(super) struct SharedBody(Arc<Mutex<Streamed>>);

impl SharedBody {
    pub(super) fn new(streamed: Streamed) -> SharedBody {
        SharedBody(Arc::new(Mutex::new(streamed)))
    }

    /// Whether all of the body has been received, so that the connection can go on whatever the application reads.
    pub(super) fn has_arrived(&self) -> bool {
        self.0.try_lock().is_ok_and(|streamed| {
            streamed.done || streamed.reader.remaining().is_some_and(|left| left <= streamed.raw.len() as u64)
        })
    }

    /// What was received of it, when nobody has read any.
    pub(super) fn untouched(&self) -> Option<Vec<u8>> {
        let streamed = self.0.try_lock().ok()?;
        let untouched = streamed.decoded.is_empty() && !streamed.done && !streamed.closed;
        untouched.then(|| streamed.raw.clone())
    }

    /// The response has begun: an interim answer would stand in the middle of it.
    pub(super) fn forget_continue(&self) {
        if let Ok(mut streamed) = self.0.try_lock() {
            streamed.continue_due = false;
        }
    }

    /// Ends the exchange: what the application kept gives errors from now on. Returns the bytes behind the body
    /// when it was read to its end, `None` when the connection cannot be used again.
    pub(super) fn close(&self) -> Option<Vec<u8>> {
        match self.0.try_lock() {
            Ok(mut streamed) => {
                // A body that came along whole but was not read is no reason to close.
                while !streamed.done && !streamed.raw.is_empty() && !streamed.closed {
                    let before = streamed.raw.len();
                    if streamed.decode().is_err() || streamed.raw.len() == before {
                        break;
                    }
                }
                streamed.closed = true;
                streamed.io = None;
                streamed.done.then(|| std::mem::take(&mut streamed.raw))
            }
            // Another thread of the application is in the middle of a read: end it.
            Err(_) => None,
        }
    }
}

impl BodySource for SharedBody {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read(buf)
    }
}
