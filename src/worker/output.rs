//! What waits to be written to a client, in order (what it can be is in `segment`).
//!
//! The queue has a lock of its own, so that the standby thread can write out what a running
//! application produced without the interpreter and without the application thread.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clock;
use super::segment::{FileSegment, Records, Segment};
use crate::gateway::{FilePart, Kept};
use crate::net::stream::Stream;

/// Pieces given to one writev(2).
const GATHER: usize = 16;

/// Small pieces are copied together up to this many bytes in one segment.
const SEGMENT: usize = 64 * 1024;

/// What is no longer than this may wait for a moment, to be sent with what others are to get.
pub(super) const SHORT: usize = 32 * 1024;

/// So many bytes are written to one client before others have their turn.
const BYTES_A_TURN: u64 = 4 * 1024 * 1024;

/// Bytes in order, the first of them written in part.
#[derive(Default)]
pub(super) struct Queue {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that are written already.
    offset: usize,
    /// Unwritten bytes in all.
    len: usize,
    /// The client is gone: whatever comes is dropped.
    gone: bool,
    /// The socket took less than it was given at the last attempt: it says when it has room.
    full: bool,
    /// Bytes ever written; a deadline looks whether it moved.
    written: u64,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether something waits that is short.
    pub(super) fn is_short(&self) -> bool {
        0 < self.len && self.len <= SHORT && !self.full && !self.is_at_file()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether an event will tell when the rest can be written.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Appends a copy.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.append(bytes.len(), |out| out.extend_from_slice(bytes));
        }
    }

    /// Appends what `write` appends, at most `room` bytes.
    pub(super) fn append(&mut self, room: usize, write: impl FnOnce(&mut Vec<u8>)) {
        if !matches!(self.segments.back(), Some(Segment::Bytes(last)) if last.len() + room <= SEGMENT) {
            self.segments.push_back(Segment::Bytes(Vec::with_capacity(room.max(4096))));
        }
        let Some(Segment::Bytes(last)) = self.segments.back_mut() else { return };
        if last.len() + room > last.capacity() && last.capacity() < SEGMENT {
            // More than a few pieces: then many, as a rule.
            last.reserve_exact(SEGMENT - last.len());
        }
        let before = last.len();
        write(last);
        self.len += last.len() - before;
    }

    /// Appends the application's bytes without the first `skip`, by reference.
    pub(super) fn push_kept(&mut self, kept: Kept, skip: usize) {
        let len = (*kept).as_ref().len();
        if skip >= len {
            return;
        }
        if self.segments.is_empty() {
            self.offset = skip;
            self.len += len - skip;
            self.segments.push_back(Segment::Kept(kept));
        } else if skip == 0 {
            self.len += len;
            self.segments.push_back(Segment::Kept(kept));
        } else {
            self.push(&(*kept).as_ref()[skip..]);
        }
    }

    /// Appends the application's bytes as FastCGI records of request `id`, by reference.
    pub(super) fn push_records(&mut self, kept: Kept, id: u16) {
        if !(*kept).as_ref().is_empty() {
            self.push_segment(Segment::Records(Box::new(Records::new(kept, id))));
        }
    }

    /// Appends a part of a file; `id`: as records of this FastCGI request; `copies`: not to be sent by the kernel.
    pub(super) fn push_file(&mut self, part: FilePart, id: Option<u16>, copies: bool) {
        self.push_segment(Segment::File(Box::new(FileSegment::new(part, id, copies))));
    }

    fn push_segment(&mut self, segment: Segment) {
        self.len += segment.len();
        self.segments.push_back(segment);
    }

    /// Whether a file is next, for which a write may have to wait for the disk.
    pub(super) fn is_at_file(&self) -> bool {
        matches!(self.segments.front(), Some(Segment::File(_)))
    }

    /// Writes until nothing is left, the socket is full or others have waited long enough. True: nothing is left.
    pub(super) fn flush(&mut self, stream: &Stream) -> bool {
        let end = self.written + BYTES_A_TURN;
        self.full = false;
        while self.len > 0 && !self.gone {
            if self.written >= end {
                return false;
            }
            let written = match self.segments.front_mut() {
                Some(Segment::File(file)) => {
                    let sent = file.send(stream, self.offset);
                    clock::has_waited();
                    sent
                }
                _ => self.write(stream),
            };
            match written {
                Ok(0) => {
                    self.full = true;
                    return false;
                }
                Ok(taken) => self.consume(taken),
                Err(error) => {
                    if self.is_at_file() && !is_of_client(&error) {
                        tell_of_file(&error);
                    }
                    self.give_up();
                }
            }
        }
        true
    }

    /// Writes what stands before the next file with one system call.
    fn write(&self, stream: &Stream) -> io::Result<usize> {
        let mut pieces = [IoSlice::new(&[]); GATHER];
        let mut count = 0;
        let mut skip = self.offset;
        for segment in &self.segments {
            if matches!(segment, Segment::File(_)) && count == 1 {
                // A head, as a rule: it goes with the file's begin.
                return stream.write_more(&pieces[0]);
            }
            if matches!(segment, Segment::File(_)) || count == GATHER {
                break;
            }
            segment.gather(skip, &mut pieces, &mut count);
            skip = 0;
        }
        stream.write(&pieces[..count])
    }

    fn consume(&mut self, mut taken: usize) {
        self.len -= taken;
        self.written += taken as u64;
        while let Some(first) = self.segments.front() {
            let left = first.len() - self.offset;
            if taken < left {
                self.offset += taken;
                return;
            }
            taken -= left;
            self.offset = 0;
            self.segments.pop_front();
        }
    }

    /// The client is gone.
    pub(super) fn give_up(&mut self) {
        self.gone = true;
        self.segments.clear();
        self.offset = 0;
        self.len = 0;
    }
}

/// Whether a write failed because of the client: nothing that the log should tell.
fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | TimedOut)
}

fn tell_of_file(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            log::error!("a file became shorter while it was sent by wsgi.file_wrapper; the connection is cut");
        }
        _ => log::error!("a file that is sent by wsgi.file_wrapper cannot be read ({error}); the connection is cut"),
    }
}

/// A connection's socket and its output, shared by whoever may write.
pub(super) struct Io {
    pub(super) stream: Stream,
    queue: Mutex<Queue>,
}

impl Io {
    pub(super) fn new(stream: Stream) -> Io {
        Io { stream, queue: Mutex::default() }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that the client has taken: a slow one may be long in emptying what the kernel holds for it.
    pub(super) fn delivered(&self) -> u64 {
        self.queue().written().saturating_sub(self.stream.undelivered())
    }

    /// Writes out what waits. True: nothing is left.
    pub(super) fn flush(&self) -> bool {
        self.queue().flush(&self.stream)
    }

    /// Sends bytes, copying what the socket does not take. Nothing may be waiting before them. True: all are sent.
    pub(super) fn send_copied(&self, bytes: &[u8]) -> io::Result<bool> {
        let taken = self.stream.write_one(bytes).inspect_err(|_| self.queue().give_up())?;
        if taken < bytes.len() {
            self.queue().push(&bytes[taken..]);
        }
        Ok(taken == bytes.len())
    }

    /// As [`Io::send_copied`], for the last bytes of a connection over TCP: they wait for the end of the stream, which
    /// follows at once, and travel with it. A packet costs more than the call.
    pub(super) fn send_last(&self, bytes: &[u8]) -> io::Result<bool> {
        let taken = self.stream.write_more(bytes).inspect_err(|_| self.queue().give_up())?;
        if taken < bytes.len() {
            self.queue().push(&bytes[taken..]);
        } else {
            self.stream.finish_writing();
        }
        Ok(taken == bytes.len())
    }

    /// Sends head and body with one system call when nothing waits before them; what the socket
    /// does not take goes to the queue.
    pub(super) fn send(&self, first: &[u8], piece: &[u8], keep: &mut dyn FnMut() -> Kept) -> io::Result<()> {
        let mut queue = self.queue();
        if queue.gone {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut taken = 0;
        if queue.len == 0 {
            match self.stream.write(&[IoSlice::new(first), IoSlice::new(piece)]) {
                Ok(n) => taken = n,
                Err(error) => {
                    queue.give_up();
                    return Err(error);
                }
            }
            queue.written += taken as u64;
        }
        if taken < first.len() {
            queue.push(&first[taken..]);
            taken = first.len();
        }
        if taken - first.len() < piece.len() {
            queue.push_kept(keep(), taken - first.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (Io, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Io::new(Stream::new(OwnedFd::from(ours))), theirs)
    }

    #[test]
    fn everything_arrives_in_order_however_little_the_socket_takes() {
        let (io, mut client) = pair();
        let big: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            all
        });
        let owner = big.clone();
        io.send(b"head", &big, &mut || Box::new(owner.clone())).unwrap();
        io.queue().push(b"tail");
        io.send(b"", b"end", &mut || Box::new(*b"end")).unwrap();
        while !io.flush() {
            io.stream.wait(true, std::time::Duration::from_secs(10)).unwrap();
        }
        io.stream.finish_writing();
        let all = reader.join().unwrap();
        assert_eq!(all.len(), 4 + big.len() + 7);
        assert_eq!(&all[..4], b"head");
        assert_eq!(&all[4..4 + big.len()], &big[..]);
        assert_eq!(&all[4 + big.len()..], b"tailend");
    }

    #[test]
    fn the_last_bytes_are_followed_by_the_end_of_the_stream() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        let io = Io::new(Stream::new(OwnedFd::from(ours)));
        // Nobody closes: the client may still say something, and the application is not hurried.
        assert!(io.send_last(b"the answer").unwrap());
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"the answer");
        client.write_all(b"more").unwrap();
        assert!(io.stream.wait(false, std::time::Duration::from_secs(60)).unwrap());
        assert_eq!(io.stream.read(&mut [0; 9]).unwrap(), 4);
    }

    /// A file with so many bytes, and what it holds.
    fn file(len: usize) -> (FilePart, Vec<u8>) {
        let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + (n >> 8)) as u8).collect();
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
        (FilePart { file, start: 0, len: len as u64 }, bytes)
    }

    /// Everything that a queue writes, to a client that reads it all.
    fn written(fill: impl FnOnce(&mut Queue)) -> Vec<u8> {
        let (io, mut client) = pair();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            all
        });
        fill(&mut io.queue());
        while !io.flush() {
            io.stream.wait(true, std::time::Duration::from_secs(10)).unwrap();
        }
        assert_eq!(io.queue().len(), 0);
        io.stream.finish_writing();
        reader.join().unwrap()
    }

    #[test]
    fn files_stand_in_their_place() {
        let (part, bytes) = file(3_000_000);
        let part = FilePart { start: 1000, len: 2_500_000, ..part };
        let (other, other_bytes) = file(70_000);
        let all = written(|queue| {
            queue.push(b"head");
            queue.push_file(part, None, false);
            queue.push_file(other, None, true);
            queue.push(b"tail");
            queue.push_kept(Box::new(*b"end"), 0);
        });
        assert!(all == [b"head", &bytes[1000..2_501_000], &other_bytes, b"tailend"].concat());
    }

    #[test]
    fn files_and_large_pieces_are_framed_where_records_are_asked_for() {
        use crate::protocol::fastcgi::render_stdout;
        for copies in [false, true] {
            let (part, bytes) = file(200_000);
            let (kept, owner) = (bytes[..150_000].to_vec(), bytes.clone());
            let all = written(|queue| {
                queue.push_records(Box::new(kept), 3);
                queue.push_file(part, Some(4), copies);
                queue.push_records(Box::new(Vec::new()), 5);
                queue.push_records(Box::new(owner), 6);
            });
            let mut expected = Vec::new();
            render_stdout(3, &bytes[..150_000], &mut expected);
            render_stdout(4, &bytes, &mut expected);
            render_stdout(6, &bytes, &mut expected);
            assert!(all == expected, "{} bytes", all.len());
        }
    }

    #[test]
    fn a_file_that_ends_early_ends_the_connection() {
        let (io, mut client) = pair();
        let (part, bytes) = file(1000);
        let mut queue = io.queue();
        queue.push(b"head");
        queue.push_file(FilePart { len: 1001, ..part }, None, false);
        assert!(queue.flush(&io.stream) && queue.is_gone());
        drop(queue);
        drop(io);
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert!(all == [b"head", &bytes[..]].concat());
    }

    #[test]
    fn a_client_that_left_costs_nothing_more() {
        let (io, client) = pair();
        drop(client);
        assert!(io.send(b"x", b"y", &mut || Box::new(*b"y")).is_err());
        assert!(io.queue().is_gone());
        io.queue().give_up();
        assert!(io.flush());
        assert!(io.send(b"x", b"", &mut || Box::new(*b"")).is_err());
    }
}
