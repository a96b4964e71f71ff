//! The desk: sockets on which the master tells whoever asks how the server is.
//!
//! The master never waits here. All of the desk is one epoll instance, which the master watches with everything else;
//! a visitor who neither asks nor reads is shown out after [`STAY`], and there are at most [`SEATS`] of them.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::SockRef;

use crate::config::Report;
use crate::net::listener::Listener;
use crate::sys;

/// How long a visitor may stay, in milliseconds.
const STAY: u64 = 5_000;
/// Visitors at the same time; the next one takes the place of the first.
const SEATS: usize = 64;
/// Visitors who are let in before the master looks after other things.
const BATCH: usize = 16;
/// Longest request of a visitor.
const LONGEST: usize = 8192;
/// After an error of accepting the doors stay shut so long.
const PAUSE: u64 = 1_000;

/// Numbers below are those of doors.
const FIRST_VISITOR: u64 = 1 << 32;

/// A socket of the desk, and what is told there.
pub(super) type Door = (Report, Listener);

struct Visitor {
    number: u64,
    stream: OwnedFd,
    report: Report,
    heard: Vec<u8>,
    /// What he is told, and how much of it he has.
    told: Option<(Vec<u8>, usize)>,
    /// Bytes that he sent and nobody wants.
    noise: usize,
    until: u64,
}

/// What becomes of a visitor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// He stays, and is watched for this.
    Stays(EpollFlags),
    Goes,
}

/// Listening sockets by number, and visitors.
#[derive(Default)]
pub(super) struct Desk {
    epoll: Option<Epoll>,
    doors: Vec<Door>,
    visitors: Vec<Visitor>,
    last: u64,
    shut_until: Option<u64>,
}

impl Desk {
    /// Opens these doors instead of the ones before. Visitors stay.
    ///
    /// # Errors
    /// The system's, when there are no descriptors left.
    pub(super) fn open(&mut self, doors: &[Door]) -> io::Result<()> {
        if doors.is_empty() && self.visitors.is_empty() {
            *self = Desk::default();
            return Ok(());
        }
        let doors = doors
            .iter()
            .map(|(report, listener)| Ok((*report, listener.try_clone()?)))
            .collect::<io::Result<Vec<Door>>>()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for visitor in &self.visitors {
            let flags = if visitor.told.as_ref().is_some_and(|(text, sent)| *sent < text.len()) {
                EpollFlags::EPOLLOUT
            } else {
                EpollFlags::EPOLLIN
            };
            epoll.add(&visitor.stream, EpollEvent::new(flags, visitor.number))?;
        }
        (self.epoll, self.doors, self.shut_until) = (Some(epoll), doors, None);
        self.unlock()
    }

    fn unlock(&self) -> io::Result<()> {
        let Some(epoll) = &self.epoll else { return Ok(()) };
        for (number, (_, listener)) in self.doors.iter().enumerate() {
            epoll.add(&listener.fd, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        }
        Ok(())
    }

    fn shut(&mut self, now: u64) {
        if let Some(epoll) = &self.epoll {
            for (_, listener) in &self.doors {
                let _ = epoll.delete(&listener.fd);
            }
        }
        self.shut_until = Some(now + PAUSE);
    }

    /// Readable when somebody is to be looked after.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.epoll.as_ref().map(|epoll| epoll.0.as_fd())
    }

    /// When the desk is to be looked at if nothing happens.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.visitors.iter().map(|visitor| visitor.until).chain(self.shut_until).min()
    }

    /// Shows those out who have stayed too long, and opens doors that were shut.
    pub(super) fn keep_time(&mut self, now: u64) {
        self.visitors.retain(|visitor| now < visitor.until);
        if self.shut_until.is_some_and(|at| at <= now) {
            self.shut_until = None;
            if self.unlock().is_err() {
                self.shut(now);
            }
        }
    }

    /// Looks after everybody who has something to say. `answer` gives what a visitor is told: to his request, or
    /// without one where none is waited for.
    pub(super) fn look(&mut self, now: u64, mut answer: impl FnMut(Report, &[u8]) -> Vec<u8>) {
        let mut events = [EpollEvent::empty(); 64];
        let Some(epoll) = &self.epoll else { return };
        let count = epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in &events[..count] {
            match event.data() {
                door if door < FIRST_VISITOR => self.let_in(door as usize, now, &mut answer),
                number => self.look_after(number, &mut answer),
            }
        }
    }

    fn let_in(&mut self, door: usize, now: u64, answer: &mut impl FnMut(Report, &[u8]) -> Vec<u8>) {
        for _ in 0..BATCH {
            let Some((report, listener)) = self.doors.get(door) else { return };
            let stream = match sys::accept::accept(listener.fd.as_fd()) {
                Ok((stream, _)) => stream,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return,
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => continue,
                    _ => {
                        log::warn!("{}: cannot accept: {}", report.option(), sys::describe(&error));
                        return self.shut(now);
                    }
                },
            };
            self.last += 1;
            let number = FIRST_VISITOR + self.last;
            let mut visitor =
                Visitor { number, stream, report: *report, heard: Vec::new(), told: None, noise: 0, until: now + STAY };
            if let (Next::Stays(flags), Some(epoll)) = (visitor.go_on(answer), &self.epoll)
                && epoll.add(&visitor.stream, EpollEvent::new(flags, number)).is_ok()
            {
                if self.visitors.len() >= SEATS {
                    self.visitors.remove(0);
                }
                self.visitors.push(visitor);
            }
        }
    }

    fn look_after(&mut self, number: u64, answer: &mut impl FnMut(Report, &[u8]) -> Vec<u8>) {
        let Some(index) = self.visitors.iter().position(|visitor| visitor.number == number) else { return };
        let visitor = &mut self.visitors[index];
        let next = visitor.go_on(answer);
        let watched = match (next, &self.epoll) {
            (Next::Stays(flags), Some(epoll)) => {
                epoll.modify(&visitor.stream, &mut EpollEvent::new(flags, number)).is_ok()
            }
            _ => false,
        };
        if !watched {
            self.visitors.remove(index);
        }
    }
}

impl Visitor {
    /// Hears and tells as much as goes without waiting.
    fn go_on(&mut self, answer: &mut impl FnMut(Report, &[u8]) -> Vec<u8>) -> Next {
        loop {
            let fd = self.stream.as_raw_fd();
            match &mut self.told {
                // Statistics are for everybody who connects.
                None if self.report == Report::Stats => self.told = Some((answer(self.report, b""), 0)),
                None => match self.listen() {
                    Ok(true) => self.told = Some((answer(self.report, &self.heard), 0)),
                    Ok(false) => return Next::Goes,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Stays(EpollFlags::EPOLLIN),
                    Err(_) => return Next::Goes,
                },
                Some((text, sent)) if *sent < text.len() => match sys::socket::send(fd, &text[*sent..]) {
                    Ok(count) => {
                        *sent += count;
                        if *sent == text.len() {
                            // What he sent and was not read yet would turn a close into a reset, and the end of what he is
                            // told might never reach him: he hears that it is all, and leaves himself.
                            let _ = SockRef::from(&self.stream).shutdown(Shutdown::Write);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Stays(EpollFlags::EPOLLOUT),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return Next::Goes,
                },
                Some(_) => {
                    let mut buffer = [0; 1024];
                    match sys::socket::receive(fd, &mut buffer) {
                        Ok(count) if count > 0 && self.noise < 8 * LONGEST => self.noise += count,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            return Next::Stays(EpollFlags::EPOLLIN);
                        }
                        _ => return Next::Goes,
                    }
                }
            }
        }
    }

    /// Reads the head of a request. False: he left, or says too much.
    fn listen(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 1024];
        loop {
            let count = sys::socket::receive(self.stream.as_raw_fd(), &mut buffer)?;
            self.heard.extend_from_slice(&buffer[..count]);
            if memchr::memmem::find(&self.heard, b"\r\n\r\n").is_some() {
                return Ok(true);
            }
            if count == 0 || self.heard.len() > LONGEST {
                return Ok(false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Socket;
    use crate::net::address::Address;
    use crate::net::listener::{BindOptions, bind};
    use crate::protocol::Protocol;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    fn desk(path: &Path, report: Report) -> Desk {
        let address = Address::Unix(path.to_path_buf());
        let socket = Socket { address, protocol: Protocol::Http, proxy_protocol: false, origin: "test".into() };
        let listener = bind(&socket, &BindOptions { backlog: 200, ..BindOptions::default() }).unwrap();
        let mut desk = Desk::default();
        desk.open(&[(report, listener)]).unwrap();
        desk
    }

    fn read_all(mut stream: &UnixStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn whoever_connects_to_the_statistics_is_told_and_leaves_himself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut desk = desk(&path, Report::Stats);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        desk.look(0, |_, _| b"all of it".to_vec());
        assert_eq!(read_all(&client), "all of it");
        assert_eq!(desk.visitors.len(), 1);
        drop(client);
        desk.look(0, |_, _| Vec::new());
        assert!(desk.visitors.is_empty());
    }

    #[test]
    fn a_visitor_who_never_reads_is_shown_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut desk = desk(&path, Report::Stats);
        let client = UnixStream::connect(&path).unwrap();
        desk.look(7, |_, _| vec![b'x'; 10 << 20]);
        assert_eq!(desk.deadline(), Some(7 + STAY));
        desk.keep_time(7 + STAY - 1);
        assert_eq!(desk.visitors.len(), 1);
        desk.keep_time(7 + STAY);
        assert!(desk.visitors.is_empty() && desk.deadline().is_none());
        assert!(read_all(&client).len() < 10 << 20);
    }

    #[test]
    fn a_long_answer_is_told_as_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut desk = desk(&path, Report::Stats);
        let client = UnixStream::connect(&path).unwrap();
        desk.look(0, |_, _| vec![b'x'; 4 << 20]);
        let reader = std::thread::spawn(move || read_all(&client).len());
        while !reader.is_finished() {
            desk.look(0, |_, _| Vec::new());
        }
        assert_eq!(reader.join().unwrap(), 4 << 20);
    }

    #[test]
    fn metrics_wait_for_a_whole_request() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut desk = desk(&path, Report::Metrics);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        desk.look(0, |_, _| panic!("it is not whole"));
        client.write_all(b"\r\n").unwrap();
        desk.look(0, |_, request| request.to_vec());
        assert_eq!(read_all(&client), "GET / HTTP/1.1\r\n\r\n");
        let mut babbler = UnixStream::connect(&path).unwrap();
        babbler.write_all(&[b'x'; LONGEST + 1]).unwrap();
        desk.look(0, |_, _| panic!("it is too long"));
        assert_eq!(read_all(&babbler), "");
    }

    #[test]
    fn the_first_visitor_makes_room_for_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut desk = desk(&path, Report::Metrics);
        let clients: Vec<UnixStream> = (0..SEATS + 3).map(|_| UnixStream::connect(&path).unwrap()).collect();
        for _ in 0..SEATS {
            desk.look(0, |_, _| Vec::new());
        }
        assert_eq!(desk.visitors.len(), SEATS);
        assert_eq!(read_all(&clients[2]), "");
    }
}
