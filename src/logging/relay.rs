//! The relay: the process that writes what all others say, where `logger`, `log-master` or one of theirs asks for it.
//!
//! Standard error and standard output of all processes, those of the application included, are then a pipe that keeps messages
//! apart. The relay reads it, and drops, encodes and routes what it reads. It waits for nothing but the disk, so that a
//! `print` of the application waits for nothing else either; the server's own lines never wait. It is a child of the master, which
//! starts it again when it dies: the pipe stays, and with it what was said meanwhile. If the master dies it goes on until
//! nobody is left who could say something.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::encode::encode;
use super::file::Making;
use super::outlet;
use super::target::{FileTarget, Target, Usual};
use crate::config::logs::{Encoder, LogFile, Logs, Pattern, Route};
use crate::sys::fd::{self, PIECE};

/// Room of the pipe in bytes, if the system allows it: each message takes 4096 of them at least. On a busy machine the relay may
/// come late.
const ROOM: i32 = 1 << 23;

/// So many messages are read from one pipe before others have their turn.
const MESSAGES_A_TURN: usize = 512;

/// How long the relay may take for its last lines.
const PATIENCE: Duration = Duration::from_secs(5);

/// Open the files again.
const REOPEN: u8 = b'o';
/// Put the files aside and open new ones.
const ROTATE: u8 = b'r';
/// Another relay takes over.
const LEAVE: u8 = b'l';
/// Read all that was said, then end.
const END: u8 = b'e';

/// What a renewal of log files is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Somebody has moved the file: open its name again.
    Reopen,
    /// Put the file aside, then open its name again.
    Rotate,
}

/// What the relay does, opened.
pub struct Plan {
    usual: Option<Usual>,
    messages: Chain,
    requests: Chain,
    longest: usize,
}

/// What becomes of the lines of one pipe.
struct Chain {
    drain: Vec<Pattern>,
    filter: Vec<Pattern>,
    routes: Vec<Route>,
    encoders: Vec<Encoder>,
    targets: Vec<Target>,
    requests: bool,
}

/// The pipes, as the master holds them.
pub struct Channel {
    messages: OwnedFd,
    requests: Option<OwnedFd>,
    /// Standard error as it was; none when it was the file of `logto`, which may be put aside.
    usual: Option<OwnedFd>,
    logto: Option<(LogFile, Making)>,
}

/// A relay that runs, as the master knows it.
pub struct Relay {
    /// Its process id.
    pub pid: i32,
    control: OwnedFd,
}

impl Plan {
    /// Opens everything that lines go to. `logto` is the file that takes what no logger gets.
    ///
    /// # Errors
    /// All that is wrong, one line each.
    pub fn open(logs: &Logs, logto: Option<&LogFile>, making: &Making) -> Result<Plan, Vec<String>> {
        let mut errors = Vec::new();
        let mut open = |loggers: &[crate::config::logs::Logger], requests| {
            let mut targets = Vec::new();
            for logger in loggers {
                match Target::open(logger, making, requests) {
                    Ok(target) => targets.push(target),
                    Err(error) => errors.push(error),
                }
            }
            targets
        };
        let messages = open(&logs.loggers, false);
        let requests = open(&logs.request_loggers, true);
        let usual = logto.map(|file| FileTarget::open(file, making, false)).transpose();
        let usual = usual.unwrap_or_else(|error| {
            errors.push(error);
            None
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Plan {
            usual: usual.map(Usual::File),
            longest: logs.longest,
            messages: Chain {
                drain: logs.drain.clone(),
                filter: logs.filter.clone(),
                routes: logs.routes.clone(),
                encoders: logs.encoders.clone(),
                targets: messages,
                requests: false,
            },
            requests: Chain {
                drain: Vec::new(),
                filter: Vec::new(),
                routes: logs.request_routes.clone(),
                encoders: logs.request_encoders.clone(),
                targets: requests,
                requests: true,
            },
        })
    }

    /// Everything goes where it would go without loggers.
    pub fn usual() -> Plan {
        Plan {
            usual: None,
            longest: Logs::default().longest,
            messages: Chain::empty(false),
            requests: Chain::empty(true),
        }
    }

    /// Whether lines of requests have a pipe of their own.
    fn parts_requests(&self) -> bool {
        !self.requests.targets.is_empty()
    }
}

impl Chain {
    fn empty(requests: bool) -> Chain {
        let (drain, filter, routes) = (Vec::new(), Vec::new(), Vec::new());
        Chain { drain, filter, routes, encoders: Vec::new(), targets: Vec::new(), requests }
    }

    fn pass(&mut self, message: &[u8], usual: &mut Usual) {
        let fits = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.0.is_match(message));
        if fits(&self.drain) || !self.filter.is_empty() && !fits(&self.filter) {
            return;
        }
        let mut routed = false;
        for route in self.routes.iter().filter(|route| route.pattern.0.is_match(message)) {
            let named = |target: &&mut Target| target.name.as_ref() == Some(&route.logger);
            if let Some(target) = self.targets.iter_mut().find(named) {
                target.write(&encode(&self.encoders, target.name.as_deref(), message), usual);
                routed = true;
            }
        }
        if routed {
            return;
        }
        let mut written = false;
        for target in self.targets.iter_mut().filter(|target| target.name.is_none()) {
            target.write(&encode(&self.encoders, None, message), usual);
            written = true;
        }
        if !written {
            usual.write(&encode(&self.encoders, None, message), self.requests);
        }
    }
}

impl Channel {
    /// Makes the pipes, and points standard output, standard error and the lines of this process to them.
    ///
    /// # Errors
    /// One line.
    pub fn open(plan: &Plan, logto: Option<(LogFile, Making)>) -> Result<Channel, String> {
        let open = || -> io::Result<Channel> {
            let usual = match &logto {
                Some(_) => None,
                None => Some(io::stderr().as_fd().try_clone_to_owned()?),
            };
            let (messages, writer) = fd::message_pipe(ROOM)?;
            fd::set_nonblocking(&messages, true)?;
            let own = fd::open_pipe_again(&writer)?;
            let requests = match plan.parts_requests() {
                true => {
                    let (reader, writer) = fd::message_pipe(ROOM)?;
                    fd::set_nonblocking(&reader, true)?;
                    fd::set_nonblocking(&writer, true)?;
                    outlet::REQUESTS.use_own(writer);
                    Some(reader)
                }
                false => {
                    outlet::REQUESTS.use_own(own.try_clone()?);
                    None
                }
            };
            outlet::MESSAGES.use_own(own);
            outlet::tells(false);
            fd::replace(1, &writer)?;
            fd::replace(2, &writer)?;
            Ok(Channel { messages, requests, usual, logto: logto.clone() })
        };
        open().map_err(|error| format!("the pipe for the log cannot be made: {}", crate::sys::describe(&error)))
    }

    /// Lets standard output and standard error be what they are without the channel, until the value is dropped: for a
    /// program that this process becomes, whose log would go through the relay of this one else, which would never end.
    pub fn step_aside(&self) -> Option<Aside> {
        let usual = self.usual.as_ref()?;
        let aside =
            Aside([io::stdout().as_fd().try_clone_to_owned().ok()?, io::stderr().as_fd().try_clone_to_owned().ok()?]);
        (1..=2).try_for_each(|number| fd::replace(number, usual)).ok()?;
        Some(aside)
    }

    /// Reads what is left in the pipes when there is no relay any more, and writes it where the log would be without loggers.
    pub fn empty(self) {
        let Channel { messages, requests, usual, logto } = self;
        let mut usual = usual_of(usual, logto.as_ref());
        outlet::tells(true);
        for pipe in std::iter::once(messages).chain(requests) {
            let mut pipe = File::from(pipe);
            let mut buffer = vec![0; PIECE];
            while let Ok(count) = pipe.read(&mut buffer) {
                if count == 0 {
                    break;
                }
                usual.write(&buffer[..count], false);
            }
        }
        usual.flush();
    }
}

/// What standard output and standard error are while a [`Channel`] stands aside.
pub struct Aside([OwnedFd; 2]);

impl Drop for Aside {
    fn drop(&mut self) {
        for (number, kept) in (1..).zip(&self.0) {
            // Two numbers that are open.
            let _ = fd::replace(number, kept);
        }
    }
}

/// Where the log goes without loggers.
fn usual_of(descriptor: Option<OwnedFd>, logto: Option<&(LogFile, Making)>) -> Usual {
    let file = logto.and_then(|(file, making)| FileTarget::open(file, making, false).ok());
    match (file, descriptor) {
        (Some(file), _) => Usual::File(file),
        (None, Some(descriptor)) => Usual::descriptor(descriptor),
        // Nothing is left to write to.
        (None, None) => Usual::Nowhere,
    }
}

impl Relay {
    /// The relay that process `pid` is; `control` is our end of its socket.
    pub fn new(pid: i32, control: OwnedFd) -> Relay {
        Relay { pid, control }
    }

    fn say(&self, word: u8) {
        // One that does not hear it has died, which is heard of.
        let _ = fd::send(&self.control, &[word], None);
    }

    /// Has it renew its files.
    pub fn renew(&self, renewal: Renewal) {
        self.say(match renewal {
            Renewal::Reopen => REOPEN,
            Renewal::Rotate => ROTATE,
        });
    }

    /// Another one takes over.
    pub fn leave(self) {
        self.say(LEAVE);
    }

    /// Has it write what was said until now, and waits for its end.
    pub fn finish(self) {
        self.say(END);
        // It closes its end when it has ended; what it says until then is nothing.
        let _ = fd::wait_readable(&[self.control.as_fd()], Some(PATIENCE));
    }
}

/// Runs a relay until it is told to go, or nobody is left who could say something. `control` is its end of the socket.
pub fn run(plan: Plan, channel: Channel, control: OwnedFd) {
    let Channel { messages, requests, usual, logto } = channel;
    let Plan { usual: file, messages: mut chain, requests: mut request_chain, longest } = plan;
    let mut usual = file.unwrap_or_else(|| usual_of(usual, logto.as_ref()));
    // The writing ends are other processes' now: else the pipes would never come to their end.
    outlet::leave_pipes();
    let mut own = own_standard_error(&usual, None);
    outlet::tells(true);
    usual.refresh();
    for target in chain.targets.iter_mut().chain(&mut request_chain.targets) {
        target.refresh();
    }
    let mut messages = Some(Source::new(messages));
    let mut requests = requests.map(Source::new);
    let mut control = Some(control);
    let mut ending = false;
    while messages.is_some() || requests.is_some() {
        let fds: Vec<_> = [messages.as_ref().map(Source::fd), requests.as_ref().map(Source::fd)]
            .into_iter()
            .chain([control.as_ref().map(AsFd::as_fd)])
            .flatten()
            .collect();
        if !ending && fd::wait_readable(&fds, None).is_err() {
            return;
        }
        let more = [
            messages.as_mut().map(|source| source.read(longest, |message| chain.pass(message, &mut usual))),
            requests.as_mut().map(|source| source.read(longest, |message| request_chain.pass(message, &mut usual))),
        ];
        for target in chain.targets.iter_mut().chain(&mut request_chain.targets) {
            target.flush();
        }
        usual.flush();
        own = own_standard_error(&usual, own);
        if more[0] == Some(More::Never) {
            messages = None;
        }
        if more[1] == Some(More::Never) {
            requests = None;
        }
        if ending && !more.contains(&Some(More::Now)) {
            return;
        }
        let mut word = [0; 8];
        let Some(socket) = &control else { continue };
        match fd::receive(socket, &mut word, false) {
            Ok(fd::Received::Message(..)) => match word[0] {
                REOPEN | ROTATE => {
                    let rotate = word[0] == ROTATE;
                    usual.renew(rotate);
                    for target in chain.targets.iter_mut().chain(&mut request_chain.targets) {
                        target.renew(rotate);
                    }
                }
                LEAVE => return,
                END => ending = true,
                _ => {}
            },
            // The master is gone. Its workers finish what they have.
            Ok(fd::Received::End) => control = None,
            Err(_) => {}
        }
    }
}

/// Makes standard output and standard error of the relay itself what the log usually is, if that is not `now` already.
fn own_standard_error(usual: &Usual, now: Option<u64>) -> Option<u64> {
    let (descriptor, renewals) = usual.descriptor_of_own();
    if now != Some(renewals) {
        super::use_number(descriptor);
    }
    Some(renewals)
}

/// Whether there is more to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Now,
    Later,
    Never,
}

/// A pipe that is read, and a message of which the end is not read yet.
struct Source {
    pipe: File,
    begun: Vec<u8>,
    buffer: Vec<u8>,
}

impl Source {
    fn new(pipe: OwnedFd) -> Source {
        Source { pipe: pipe.into(), begun: Vec::new(), buffer: vec![0; PIECE] }
    }

    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// Reads messages. One that fills a whole piece and does not end with its line goes on in the next.
    fn read(&mut self, longest: usize, mut pass: impl FnMut(&[u8])) -> More {
        for _ in 0..MESSAGES_A_TURN {
            match self.pipe.read(&mut self.buffer) {
                Ok(0) => {
                    self.end(&mut pass);
                    return More::Never;
                }
                Ok(count) => {
                    let piece = &self.buffer[..count];
                    let goes_on = count == PIECE && piece.last() != Some(&b'\n');
                    if self.begun.is_empty() && !goes_on {
                        pass(piece);
                        continue;
                    }
                    self.begun.extend_from_slice(piece);
                    if !goes_on || self.begun.len() >= longest {
                        self.end(&mut pass);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.end(&mut pass);
                    return More::Later;
                }
                Err(_) => return More::Never,
            }
        }
        More::Now
    }

    fn end(&mut self, pass: &mut impl FnMut(&[u8])) {
        if !self.begun.is_empty() {
            pass(&self.begun);
            self.begun.clear();
        }
    }
}
