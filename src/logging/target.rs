//! Where the relay writes: files, descriptors, datagrams. Nothing is waited for but the disk; what is not taken is counted.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::ToSocketAddrs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use socket2::{SockAddr, Socket, Type};

use super::file::{self, Making};
use super::outlet::{self, Outlet};
use crate::config::logs::{Destination, LogFile, Logger, Receiver};
use crate::sys;
use crate::sys::clock::monotonic_ms;
use crate::sys::fd;

/// So much is collected for a file before it is written in the middle of a turn.
const ENOUGH: usize = 64 * 1024;

/// A logger that was opened.
pub(super) struct Target {
    /// See [`Logger::name`].
    pub(super) name: Option<String>,
    to: To,
    /// It gets lines of requests alone.
    requests: bool,
}

enum To {
    /// What the log is without loggers.
    Usual,
    Descriptor(Outlet),
    File(FileTarget),
    Datagrams {
        socket: Datagrams,
        prefix: Vec<u8>,
    },
    Syslog {
        socket: Datagrams,
        tag: String,
        priority: u32,
        limit: Option<usize>,
        split: bool,
    },
}

/// A log file that the relay alone writes to.
pub(super) struct FileTarget {
    spec: LogFile,
    making: Making,
    file: File,
    size: u64,
    /// Lines to be written, and where each ends.
    waiting: Vec<u8>,
    ends: Vec<usize>,
    /// The last line was taken in part.
    torn: bool,
    /// How often it was opened again.
    renewals: u64,
}

/// Datagrams to one receiver. One that is behind is waited for a moment: local ones have room for ten datagrams only.
struct Datagrams {
    socket: Socket,
    receiver: SockAddr,
    connected: bool,
    /// Until then it is not waited for again.
    hopeless_until: u64,
}

/// How long a receiver is waited for, and how long it is not waited for after that was in vain, in milliseconds.
const MOMENT: i32 = 100;
const GIVEN_UP: u64 = 2_000;

impl Datagrams {
    fn open(receiver: &Receiver) -> Result<Datagrams, String> {
        let receiver = match receiver {
            Receiver::Unix(path) => SockAddr::unix(path).map_err(|error| format!("{}: {error}", path.display()))?,
            Receiver::Udp(text) => {
                let found = text.to_socket_addrs().map_err(|error| format!("{text}: {error}"))?.next();
                found.ok_or_else(|| format!("{text}: this name has no address"))?.into()
            }
        };
        let open = || {
            let socket = Socket::new(receiver.domain(), Type::DGRAM, None)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|error: std::io::Error| sys::describe(&error))?;
        Ok(Datagrams { socket, receiver, connected: false, hopeless_until: 0 })
    }

    fn send(&mut self, bytes: &[u8]) -> bool {
        // An error may be that of the datagram before, or of a receiver that is another one by now.
        for _ in 0..2 {
            if !self.connected && self.socket.connect(&self.receiver).is_err() {
                return false;
            }
            self.connected = true;
            match self.socket.send(bytes) {
                Ok(_) => return true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.wait_and_send(bytes),
                Err(_) => self.connected = false,
            }
        }
        false
    }

    fn wait_and_send(&mut self, bytes: &[u8]) -> bool {
        let now = monotonic_ms();
        if now < self.hopeless_until {
            return false;
        }
        let sent = fd::takes(self.socket.as_raw_fd(), MOMENT) && self.socket.send(bytes).is_ok();
        if !sent {
            self.hopeless_until = now + GIVEN_UP;
        }
        sent
    }
}

impl Target {
    /// Opens a logger.
    ///
    /// # Errors
    /// One line: where it was asked for, what is wrong.
    pub(super) fn open(logger: &Logger, making: &Making, requests: bool) -> Result<Target, String> {
        let open = || -> Result<To, String> {
            Ok(match &logger.to {
                Destination::Usual => To::Usual,
                Destination::Descriptor(number) => {
                    if fd::kind_of(*number).is_none() {
                        return Err(format!("descriptor {number} is not open; whoever starts the server must open it"));
                    }
                    let outlet = Outlet::new(*number, 0);
                    outlet.use_number(*number);
                    To::Descriptor(outlet)
                }
                Destination::File(spec) => To::File(FileTarget::open(spec, making, false)?),
                Destination::Socket { address, prefix } => To::Datagrams {
                    socket: Datagrams::open(address)?,
                    prefix: prefix.as_ref().map_or_else(Vec::new, |prefix| prefix.clone().into_bytes()),
                },
                Destination::Syslog { address, tag, priority, limit, split } => To::Syslog {
                    socket: Datagrams::open(address)?,
                    tag: tag.clone(),
                    priority: *priority,
                    limit: *limit,
                    split: *split,
                },
            })
        };
        let to = open().map_err(|error| format!("{}: {error}", logger.place))?;
        Ok(Target { name: logger.name.clone(), to, requests })
    }

    /// Writes a line, or collects it until [`Target::flush`].
    pub(super) fn write(&mut self, line: &[u8], usual: &mut Usual) {
        match &mut self.to {
            To::Usual => return usual.write(line, self.requests),
            To::Descriptor(outlet) => {
                outlet.line(line, self.requests);
                return;
            }
            To::File(file) => return file.write(line, self.requests),
            To::Datagrams { .. } | To::Syslog { .. } => {}
        }
        if !self.send(line) {
            outlet::lose(self.requests, 1);
        } else {
            outlet::tell_of_losses(|line| self.send(line));
        }
    }

    fn send(&mut self, line: &[u8]) -> bool {
        match &mut self.to {
            To::Datagrams { socket, prefix } if prefix.is_empty() => socket.send(line),
            To::Datagrams { socket, prefix } => socket.send(&[prefix, line].concat()),
            To::Syslog { socket, tag, priority, limit, split } => {
                let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
                let head = format!("<{priority}>{time} {tag}: ");
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                let room = limit.map_or(usize::MAX, |limit| limit.saturating_sub(head.len()).max(1));
                let mut pieces = line.chunks(room.min(line.len().max(1)));
                let first = pieces.next().unwrap_or_default();
                let rest = if *split { pieces.collect() } else { Vec::new() };
                std::iter::once(first).chain(rest).all(|piece| socket.send(&[head.as_bytes(), piece].concat()))
            }
            _ => true,
        }
    }

    /// Writes what was collected.
    pub(super) fn flush(&mut self) {
        if let To::File(file) = &mut self.to {
            file.flush(self.requests);
        }
    }

    /// Opens its file again, after it was put aside if `rotate`.
    pub(super) fn renew(&mut self, rotate: bool) {
        if let To::File(file) = &mut self.to {
            file.flush(self.requests);
            file.renew(rotate);
        }
    }

    /// Opens its file again if its name means another one by now.
    pub(super) fn refresh(&mut self) {
        if let To::File(file) = &mut self.to {
            file.refresh();
        }
    }
}

/// Where lines go that no logger gets.
pub(super) enum Usual {
    /// Standard error, as the server was started with it.
    Outlet(Outlet),
    /// The file of `logto`.
    File(FileTarget),
    /// There is nothing to write to: what comes is lost, and counted.
    Nowhere,
}

impl Usual {
    /// Standard error was `number`; it stays open.
    pub(super) fn descriptor(fd: OwnedFd) -> Usual {
        use std::os::fd::IntoRawFd;
        let outlet = Outlet::new(2, 0);
        outlet.use_number(fd.into_raw_fd());
        Usual::Outlet(outlet)
    }

    pub(super) fn write(&mut self, line: &[u8], requests: bool) {
        match self {
            Usual::Outlet(outlet) => {
                outlet.line(line, requests);
            }
            Usual::File(file) => file.write(line, requests),
            Usual::Nowhere => outlet::lose(requests, 1),
        }
    }

    pub(super) fn flush(&mut self) {
        if let Usual::File(file) = self {
            file.flush(false);
        }
    }

    pub(super) fn renew(&mut self, rotate: bool) {
        if let Usual::File(file) = self {
            file.flush(false);
            file.renew(rotate);
        }
    }

    pub(super) fn refresh(&mut self) {
        if let Usual::File(file) = self {
            file.refresh();
        }
    }

    /// The descriptor, for this process's own standard error, and how often it has become another.
    pub(super) fn descriptor_of_own(&self) -> (Option<RawFd>, u64) {
        match self {
            Usual::Outlet(outlet) => (Some(outlet.number()), 0),
            Usual::File(file) => (Some(file.file.as_raw_fd()), file.renewals),
            Usual::Nowhere => (None, 0),
        }
    }
}

impl FileTarget {
    pub(super) fn open(spec: &LogFile, making: &Making, truncate: bool) -> Result<FileTarget, String> {
        let file = file::open(&spec.path, making, truncate)?;
        let size = file.metadata().map_or(0, |found| found.len());
        let (waiting, ends) = (Vec::new(), Vec::new());
        let (spec, making) = (spec.clone(), making.clone());
        Ok(FileTarget { spec, making, file, size, waiting, ends, torn: false, renewals: 0 })
    }

    fn write(&mut self, line: &[u8], requests: bool) {
        self.waiting.extend_from_slice(line);
        self.ends.push(self.waiting.len());
        if self.waiting.len() >= ENOUGH || self.spec.most > 0 && self.size + self.waiting.len() as u64 > self.spec.most
        {
            self.flush(requests);
        }
    }

    fn flush(&mut self, requests: bool) {
        if self.ends.is_empty() {
            return;
        }
        if self.torn {
            // Nothing is lost if this is not taken: it is tried again.
            self.torn = self.file.write(b"\n").is_err();
        }
        let written = if self.torn { 0 } else { self.put() };
        let lost = self.ends.iter().filter(|end| **end > written).count() as u64;
        let whole = self.ends.iter().rev().find(|end| **end <= written).copied().unwrap_or(0);
        self.torn |= written > whole;
        self.waiting.clear();
        self.ends.clear();
        if lost > 0 {
            outlet::lose(requests, lost);
        } else {
            outlet::tell_of_losses(|line| {
                let taken = self.file.write(line).unwrap_or(0);
                self.size += taken as u64;
                self.torn = taken > 0 && taken < line.len();
                taken == line.len()
            });
        }
        if self.spec.most > 0 && self.size > self.spec.most {
            self.renew(true);
        }
    }

    /// Writes what waits; how much of it was taken.
    fn put(&mut self) -> usize {
        let mut written = 0;
        while written < self.waiting.len() {
            match self.file.write(&self.waiting[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.size += written as u64;
        written
    }

    fn renew(&mut self, rotate: bool) {
        if rotate {
            match file::put_aside(&self.spec.path, self.spec.backup.as_deref()) {
                Ok(_) => {}
                // Somebody else has moved it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    log::error!("{}: cannot be put aside: {}", self.spec.path.display(), sys::describe(&error));
                    self.size = 0;
                    return;
                }
            }
        }
        self.open_again();
    }

    fn refresh(&mut self) {
        if !file::is_same(&self.spec.path, &self.file) {
            self.open_again();
        }
    }

    fn open_again(&mut self) {
        match file::open(&self.spec.path, &self.making, false) {
            Ok(file) => {
                self.size = file.metadata().map_or(0, |found| found.len());
                self.file = file;
                self.torn = false;
                self.renewals += 1;
            }
            Err(error) => {
                log::error!("the log file cannot be opened again, the old one is written to: {error}");
                self.size = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::net::UnixDatagram;

    fn usual() -> Usual {
        Usual::descriptor(File::open("/dev/null").unwrap().into())
    }

    fn logger(to: Destination) -> Logger {
        Logger { name: None, to, place: "app.ini:3: logger".into() }
    }

    #[test]
    fn a_file_that_is_full_gives_way_to_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let spec = LogFile { path: path.clone(), most: 30, backup: None };
        let mut target = Target::open(&logger(Destination::File(spec)), &Making::default(), true).unwrap();
        for number in 10..30 {
            target.write(format!("line {number}\n").as_bytes(), &mut usual());
        }
        target.flush();
        let mut lines = Vec::new();
        let mut files = 0;
        for entry in fs::read_dir(dir.path()).unwrap().flatten() {
            files += 1;
            let text = fs::read_to_string(entry.path()).unwrap();
            assert!(text.len() <= 40, "{text}");
            lines.extend(text.lines().map(str::to_owned));
        }
        lines.sort();
        assert_eq!(lines, (10..30).map(|number| format!("line {number}")).collect::<Vec<_>>());
        assert!(files > 4, "{files}");
    }

    #[test]
    fn datagrams_look_as_their_receivers_expect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let mut buffer = [0; 2000];
        let mut said = |target: &mut Target, line: &[u8]| {
            target.write(line, &mut usual());
            let count = receiver.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        };
        let address = || Receiver::Unix(path.clone());
        let open = |to| Target::open(&logger(to), &Making::default(), false).unwrap();
        let mut plain = open(Destination::Socket { address: address(), prefix: None });
        assert_eq!(said(&mut plain, b"text\n"), "text\n");
        let mut marked = open(Destination::Socket { address: address(), prefix: Some("shop".into()) });
        assert_eq!(said(&mut marked, b"text\n"), "shoptext\n");
        let syslog = |limit, split| Destination::Syslog {
            address: address(),
            tag: "host shop".into(),
            priority: 30,
            limit,
            split,
        };
        let text = said(&mut open(syslog(None, false)), b"text\n");
        assert!(text.starts_with("<30>") && text.ends_with(" host shop: text"), "{text}");
        let cut = said(&mut open(syslog(Some(40), false)), &[b'x'; 100]);
        assert_eq!(cut.len(), 40);
        let first = said(&mut open(syslog(Some(40), true)), &[b'z'; 15]);
        let count = receiver.recv(&mut buffer).unwrap();
        let second = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let body = |text: &str| text.matches('z').count();
        assert_eq!((first.len(), body(&first) + body(&second)), (40, 15));
    }

    #[test]
    fn what_cannot_be_opened_is_told_with_its_place() {
        let file = Destination::File(LogFile { path: "/nonexistent/x".into(), most: 0, backup: None });
        for (to, expected) in [
            (file, "app.ini:3: logger: /nonexistent/x: the directory does not exist"),
            (Destination::Descriptor(9999), "app.ini:3: logger: descriptor 9999 is not open"),
        ] {
            let error = Target::open(&logger(to), &Making::default(), false).err().unwrap();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
