//! Where the lines of this process go, and what becomes of those that find no place there.
//!
//! Nobody waits for a log: what a full pipe, a reader that stands still or a full disk does not take is dropped, counted for
//! all processes together, and told of as soon as something is taken again. Each line is one write, so that
//! lines of several processes do not mix; one that was taken in part is ended before the next.
//!
//! A pipe or a terminal is opened once more, since the flag for not waiting belongs to an open description that is shared with
//! strangers. Where that is not allowed (it belongs to another user) it is asked before each piece.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, Ordering};

use crate::sys::clock::monotonic_ms;
use crate::sys::fd::{self, Kind, PIECE};
use crate::sys::memory::SharedRows;

/// How often lost lines are told of, in milliseconds.
const PAUSE: u64 = 1_000;

/// Ways to write.
const WRITE: u8 = 0;
const SEND: u8 = 1;
const ASK_FIRST: u8 = 2;

/// What is dropped, counted by all processes.
struct Losses {
    words: SharedRows<8>,
}

const LOST_REQUESTS: usize = 0;
const LOST_MESSAGES: usize = 1;
const TOLD: usize = 2;
const TOLD_AT: usize = 3;
/// One bit for each outlet whose last line was taken in part.
const TORN: usize = 4;

static LOSSES: OnceLock<Option<Losses>> = OnceLock::new();

impl Losses {
    fn get() -> Option<&'static Losses> {
        // Without memory for them they are not counted; the log goes on.
        let make = || SharedRows::create(c"rsgi-log", 1).ok().map(|words| Losses { words });
        LOSSES.get_or_init(make).as_ref()
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words.rows()[0][at]
    }
}

/// Lost lines that are to be told of now, and the line that does.
struct Debt {
    line: String,
    count: u64,
}

impl Losses {
    /// What is to be told of, if this process is to do it now.
    fn due(&self) -> Option<Debt> {
        let told = self.word(TOLD);
        let before = told.load(Ordering::Relaxed);
        let (requests, others) = (self.word(LOST_REQUESTS).load(Ordering::Relaxed), self.word(LOST_MESSAGES));
        let others = others.load(Ordering::Relaxed);
        let all = requests + others;
        if all == before || !TELLS.load(Ordering::Relaxed) {
            return None;
        }
        let (at, now) = (self.word(TOLD_AT), monotonic_ms());
        let last = at.load(Ordering::Relaxed);
        let is_due = last == 0 || last + PAUSE <= now;
        if !is_due || at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return None;
        }
        told.compare_exchange(before, all, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        Some(Debt { line: super::render_loss(all - before, requests, others), count: all - before })
    }

    /// It was not told.
    fn still_owe(&self, debt: &Debt) {
        self.word(TOLD).fetch_sub(debt.count, Ordering::Relaxed);
    }
}

/// Tells of lost lines through `write`, which says whether the line was taken.
pub(super) fn tell_of_losses(write: impl FnOnce(&[u8]) -> bool) {
    if let Some(losses) = Losses::get()
        && let Some(debt) = losses.due()
        && !write(debt.line.as_bytes())
    {
        losses.still_owe(&debt);
    }
}

/// Makes the counters. To be called before the first fork.
pub(super) fn prepare() {
    let _ = Losses::get();
}

/// Lines that were dropped: those of requests, and others.
pub fn lost() -> (u64, u64) {
    let word = |at| Losses::get().map_or(0, |losses| losses.word(at).load(Ordering::Relaxed));
    (word(LOST_REQUESTS), word(LOST_MESSAGES))
}

/// Counts lines that were dropped.
pub(super) fn lose(requests: bool, lines: u64) {
    if let Some(losses) = Losses::get() {
        losses.word(if requests { LOST_REQUESTS } else { LOST_MESSAGES }).fetch_add(lines, Ordering::Relaxed);
    }
}

/// Where lines go.
pub(super) struct Outlet {
    number: AtomicI32,
    way: AtomicU8,
    /// Whether the number was made for this outlet.
    own: AtomicBool,
    /// Its bit in [`TORN`].
    bit: u64,
}

/// Lines of the server.
pub(super) static MESSAGES: Outlet = Outlet::new(2, 1);
/// Lines of requests.
pub(super) static REQUESTS: Outlet = Outlet::new(2, 1);
/// Whether this process tells of lost lines: not where another one passes on what it says.
static TELLS: AtomicBool = AtomicBool::new(true);

/// Gives up the pipes that lines of this process went to.
pub(super) fn leave_pipes() {
    for outlet in [&MESSAGES, &REQUESTS] {
        let number = outlet.number();
        outlet.set(2, WRITE);
        if outlet.own.swap(false, Ordering::Relaxed) {
            fd::close(number);
        }
    }
}

/// Whether this process tells of lost lines from now on.
pub(super) fn tells(on: bool) {
    TELLS.store(on, Ordering::Relaxed);
}

impl Outlet {
    pub(super) const fn new(number: RawFd, bit: u64) -> Outlet {
        Outlet { number: AtomicI32::new(number), way: AtomicU8::new(WRITE), own: AtomicBool::new(false), bit }
    }

    /// Writes to standard error from now on, in the way that fits what it is.
    pub(super) fn use_standard_error(&self) {
        self.use_number(2);
    }

    /// Writes to descriptor `number` from now on, which must stay open.
    pub(super) fn use_number(&self, number: RawFd) {
        let way = match fd::kind_of(number) {
            Some(Kind::Socket) => SEND,
            Some(Kind::Pipe | Kind::Terminal) => match fd::open_again(number) {
                Ok(own) => return self.use_own(own),
                Err(_) => ASK_FIRST,
            },
            Some(Kind::File) | None => WRITE,
        };
        if !self.stands_for(number, way) {
            self.set(number, way);
        }
    }

    /// Writes to this from now on, a pipe or terminal that does not wait.
    pub(super) fn use_own(&self, own: OwnedFd) {
        if !self.stands_for(own.as_raw_fd(), WRITE) {
            self.set(own.into_raw_fd(), WRITE);
            self.own.store(true, Ordering::Relaxed);
        }
    }

    /// Lets a number of the outlet's own stand for what `other` stands for, and lets go of what it stood for: whoever is
    /// at the other end may wait for that. Other threads may be writing, so it is never closed. False: there is none.
    fn stands_for(&self, other: RawFd, way: u8) -> bool {
        let renewed = self.own.load(Ordering::Relaxed) && fd::replace_own(self.number(), other).is_ok();
        if renewed {
            self.way.store(way, Ordering::Relaxed);
        }
        renewed
    }

    pub(super) fn number(&self) -> RawFd {
        self.number.load(Ordering::Acquire)
    }

    fn set(&self, number: RawFd, way: u8) {
        self.way.store(way, Ordering::Relaxed);
        self.number.store(number, Ordering::Release);
    }

    /// Writes a line, its end included. False: it was dropped, and counted.
    pub(super) fn line(&self, line: &[u8], request: bool) -> bool {
        let Some(losses) = Losses::get() else { return self.put(line).0 };
        let torn = losses.word(TORN);
        let (whole, part) = if torn.load(Ordering::Relaxed) & self.bit == 0 {
            self.put(line)
        } else {
            let after_end = [b"\n", line].concat();
            let (whole, part) = self.put(&after_end);
            if whole || part {
                torn.fetch_and(!self.bit, Ordering::Relaxed);
            }
            (whole, part)
        };
        if whole {
            self.tell(losses);
        } else {
            if part {
                torn.fetch_or(self.bit, Ordering::Relaxed);
            }
            lose(request, 1);
        }
        whole
    }

    /// Tells of lines that were lost, now that some are taken again.
    fn tell(&self, losses: &Losses) {
        let Some(debt) = losses.due() else { return };
        let (whole, part) = self.put(debt.line.as_bytes());
        if !whole {
            losses.still_owe(&debt);
        }
        if !whole && part {
            losses.word(TORN).fetch_or(self.bit, Ordering::Relaxed);
        }
    }

    /// Writes: whether all of it, and if not, whether some.
    fn put(&self, bytes: &[u8]) -> (bool, bool) {
        let number = self.number.load(Ordering::Acquire);
        let way = self.way.load(Ordering::Relaxed);
        let mut sent = 0;
        while sent < bytes.len() {
            match attempt(number, way, &bytes[sent..]) {
                Ok(0) => break,
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        (sent == bytes.len(), sent > 0)
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if self.own.swap(false, Ordering::Relaxed) {
            fd::close(self.number());
        }
    }
}

fn attempt(number: RawFd, way: u8, bytes: &[u8]) -> io::Result<usize> {
    match way {
        SEND => fd::send_to(number, bytes),
        ASK_FIRST if !fd::takes(number, 0) => Err(ErrorKind::WouldBlock.into()),
        // A pipe that can be written to has room for so much.
        ASK_FIRST => fd::write_to(number, &bytes[..bytes.len().min(PIECE)]),
        _ => fd::write_to(number, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::sync::Mutex;

    /// The counters are the process's: one test at a time.
    static ONE: Mutex<()> = Mutex::new(());

    fn losses() -> u64 {
        lost().0 + lost().1
    }

    /// Fills what an outlet writes to; how many lines it took.
    fn fill(outlet: &Outlet, line: &[u8]) -> usize {
        (0..100_000).take_while(|_| outlet.line(line, true)).count()
    }

    #[test]
    fn a_full_pipe_drops_and_counts_and_tells_of_it() {
        let _one = ONE.lock();
        let (reader, writer) = fd::pipe().unwrap();
        let outlet = Outlet::new(2, 1 << 40);
        outlet.use_number(writer.as_raw_fd());
        let before = losses();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        let taken = fill(&outlet, &line);
        assert!(taken > 0 && losses() == before + 1);
        assert!(!outlet.line(&line, true));
        assert_eq!(losses(), before + 2);
        let mut reader = File::from(reader);
        let mut buffer = vec![0; taken * line.len()];
        reader.read_exact(&mut buffer).unwrap();
        assert!(buffer.chunks(100).all(|chunk| chunk == line));
        Losses::get().unwrap().word(TOLD_AT).store(0, Ordering::Relaxed);
        assert!(outlet.line(b"again\n", false));
        drop(writer);
        let mut said = vec![0; 200];
        let count = reader.read(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said[..count]).into_owned();
        assert!(said.starts_with("again\n") && said.contains("2 lines of the log were dropped"), "{said}");
    }

    #[test]
    fn a_reader_that_stands_still_behind_a_socket_is_not_waited_for() {
        let _one = ONE.lock();
        let (_reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        let outlet = Outlet::new(2, 1 << 41);
        outlet.use_number(writer.as_raw_fd());
        let before = losses();
        assert!(fill(&outlet, b"a line of some length that says nothing\n") > 10);
        assert_eq!(losses(), before + 1);
    }

    #[test]
    fn what_was_written_to_before_is_let_go() {
        let _one = ONE.lock();
        let (reader, writer) = fd::pipe().unwrap();
        let outlet = Outlet::new(2, 1 << 44);
        outlet.use_number(writer.as_raw_fd());
        drop(writer);
        let mut file = tempfile::tempfile().unwrap();
        outlet.use_number(file.as_raw_fd());
        assert_eq!(File::from(reader).read(&mut [0]).unwrap(), 0, "nobody has it open");
        assert!(outlet.line(b"to the file\n", true));
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "to the file\n");
    }

    #[test]
    fn a_line_taken_in_part_is_ended_before_the_next() {
        let _one = ONE.lock();
        let (reader, writer) = fd::pipe().unwrap();
        let outlet = Outlet::new(2, 1 << 42);
        outlet.use_number(writer.as_raw_fd());
        TELLS.store(false, Ordering::Relaxed);
        let before = losses();
        let long = vec![b'x'; 1 << 20];
        assert!(!outlet.line(&long, true));
        assert_eq!(losses(), before + 1);
        let mut reader = File::from(reader);
        let mut buffer = vec![0; 1 << 20];
        let count = reader.read(&mut buffer).unwrap();
        assert!(count > 0 && count < long.len());
        assert!(outlet.line(b"next\n", true));
        let count = reader.read(&mut buffer).unwrap();
        TELLS.store(true, Ordering::Relaxed);
        assert_eq!(&buffer[..count], b"\nnext\n");
    }

    #[test]
    fn what_cannot_be_opened_again_is_asked_first() {
        let _one = ONE.lock();
        let (_reader, writer) = fd::pipe().unwrap();
        let outlet = Outlet::new(2, 1 << 43);
        outlet.set(writer.as_raw_fd(), ASK_FIRST);
        // It would wait for ever else.
        assert!(fill(&outlet, &[b'x'; 5000]) > 0);
    }
}
