//! What a master hands to the program that takes its place in the same process (an upgrade): a text in a file in memory, and
//! descriptors by their numbers.
//!
//! An older or newer program reads the text, so fields are only added, with a default. What the text points at has versions
//! instead. Where the [`layout`] of the scoreboard differs, a fresh one is begun and the old zygote goes: the old workers
//! serve until there are others. Where the [`words`] differ too, they are told nothing but to retire (`ToWorker::Retire`
//! without heirs means the same in all releases).

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::children::Snapshot;
use super::daemons::Daemons;
use super::notify::Manager;
use crate::config::{Owner, Report, Settings};
use crate::net::address::Address;
use crate::net::listener::{Listener, SocketFile};
use crate::protocol::Protocol;
use crate::sys::{fd, memory};

/// The variable that tells a program what it is to do with which descriptor.
pub const VARIABLE: &str = "RSGI_HANDOFF";

const MARK: usize = 12;

/// A mark and sixteen hexadecimal digits (FNV-1a of the sources).
const fn fingerprint(mark: &[u8; MARK], sources: &[&[u8]]) -> [u8; MARK + 16] {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut source = 0;
    while source < sources.len() {
        let mut at = 0;
        while at < sources[source].len() {
            hash = (hash ^ sources[source][at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        source += 1;
    }
    let mut text = [0; MARK + 16];
    let mut at = 0;
    while at < text.len() {
        text[at] = match at < MARK {
            true => mark[at],
            false => b"0123456789abcdef"[(hash >> (60 - 4 * (at - MARK))) as usize & 15],
        };
        at += 1;
    }
    text
}

static LAYOUT: [u8; MARK + 16] = fingerprint(
    b"rsgi layout ",
    &[
        include_bytes!("../scoreboard.rs"),
        include_bytes!("../scoreboard/layout.rs"),
        include_bytes!("../scoreboard/promises.rs"),
        include_bytes!("../scoreboard/thread.rs"),
        include_bytes!("../scoreboard/worker.rs"),
    ],
);
static WORDS: [u8; MARK + 16] =
    fingerprint(b"rsgi words  ", &[include_bytes!("../control.rs"), include_bytes!("../worker/migrate.rs")]);

/// The version of the scoreboard: the same for the same source, whatever the release is called.
pub fn layout() -> String {
    // Read from the program's file and never computed in advance: tests change it there.
    String::from_utf8_lossy(std::hint::black_box(&LAYOUT)).into_owned()
}

/// The version of what processes say to each other: words on control sockets, letters in mailboxes.
pub fn words() -> String {
    String::from_utf8_lossy(std::hint::black_box(&WORDS)).into_owned()
}

/// A listening socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Door {
    fd: RawFd,
    address: String,
    asked: String,
    protocol: String,
    inherited: bool,
    proxy_protocol: bool,
    unlink: Option<SocketFile>,
    /// The option, of one that the master answers.
    report: Option<String>,
}

/// A scoreboard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Board {
    pub(super) workers: usize,
    pub(super) threads: usize,
    pub(super) fds: [RawFd; 3],
}

/// A generation: its sockets, its zygote, and which of the boards and mailboxes are its.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) number: u32,
    pub(super) listeners: Vec<Door>,
    pub(super) doors: Vec<Door>,
    pub(super) board: usize,
    pub(super) mailboxes: usize,
    /// Process id, control socket, and whether it is ready.
    pub(super) zygote: Option<(i32, RawFd, bool)>,
    pub(super) import_ms: u64,
    pub(super) began: u64,
}

/// Options that a running server keeps, see [`super::reload`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    logto: Option<PathBuf>,
    pidfile: Option<PathBuf>,
    uid: Option<u32>,
    gid: Option<u32>,
    max_fd: Option<u64>,
    listen: u32,
    chmod_socket: Option<u32>,
    chown_socket: Option<(Option<u32>, Option<u32>)>,
    fifos: Vec<PathBuf>,
}

impl Kept {
    pub(super) fn of(settings: &Settings) -> Kept {
        Kept {
            logto: settings.logto.clone(),
            pidfile: settings.pidfile.clone(),
            uid: settings.uid,
            gid: settings.gid,
            max_fd: settings.max_fd,
            listen: settings.listen,
            chmod_socket: settings.chmod_socket,
            chown_socket: settings.chown_socket.as_ref().map(|owner| (owner.uid, owner.gid)),
            fifos: settings.triggers.fifos.clone(),
        }
    }

    /// The settings with what is kept.
    pub(super) fn applied_to(self, mut settings: Settings) -> Settings {
        settings.logto = self.logto;
        settings.pidfile = self.pidfile;
        (settings.uid, settings.gid) = (self.uid, self.gid);
        settings.max_fd = self.max_fd;
        settings.listen = self.listen;
        settings.chmod_socket = self.chmod_socket;
        settings.chown_socket = self.chown_socket.map(|(uid, gid)| Owner { uid, gid });
        settings.triggers.fifos = self.fifos;
        settings
    }
}

/// Everything.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handoff {
    /// See [`layout`].
    pub layout: String,
    /// See [`words`].
    pub words: String,
    /// Release of the program that hands over.
    pub version: String,
    /// Process id of the master.
    pub master: i32,
    /// The name of its process.
    pub name: String,
    /// Where relative paths of the configuration begin.
    pub start_dir: PathBuf,
    /// The limit of open descriptors before it was raised.
    pub limit: Option<(u64, u64)>,
    /// What was read from the standard input, for `--ini -`.
    pub stdin: Option<Vec<u8>>,
    /// Descriptors that systemd passed.
    pub passed: Vec<RawFd>,
    /// The pid file that was made, and its inode.
    pub pidfiles: Vec<(PathBuf, u64)>,
    /// Who wants to know how the server is.
    pub manager: Manager,
    pub(super) kept: Kept,
    pub(super) last_generation: u32,
    pub(super) children: Snapshot,
    /// Control sockets of workers, by key.
    pub(super) controls: Vec<(u32, RawFd)>,
    pub(super) generations: Vec<Known>,
    pub(super) boards: Vec<Board>,
    pub(super) mailboxes: Vec<Vec<(RawFd, RawFd)>>,
    pub(super) parked: Vec<Door>,
    pub(super) fifos: Vec<(PathBuf, u64, RawFd)>,
    pub(super) fifo: usize,
    pub(super) daemons: Daemons,
    /// Generations that are not spoken to.
    pub(super) foreign: Vec<u32>,
    /// Reloads that were done, and that failed.
    pub(super) reloads: (u64, u64),
}

impl Handoff {
    /// The generation after the last one.
    pub fn next_generation(&self) -> u32 {
        self.last_generation + 1
    }

    /// What the sockets are known as that the successor need not bind.
    pub fn known_sockets(&self) -> Vec<Address> {
        let serving = self.generations.iter().filter(|known| known.number == self.children.serving());
        let doors = serving.flat_map(|known| known.listeners.iter().chain(&known.doors)).chain(&self.parked);
        doors.filter_map(|door| Address::parse(&door.asked).ok()).collect()
    }

    /// Writes the text.
    ///
    /// # Errors
    /// The system's; for a path that is no text.
    pub(super) fn write(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(memory::file(c"rsgi-handoff")?);
        file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
        file.rewind()?;
        Ok(file.into())
    }

    /// Reads the text.
    ///
    /// # Errors
    /// One line: the system's; for what no program of ours wrote.
    pub fn read(file: OwnedFd) -> Result<Handoff, String> {
        let mut bytes = Vec::new();
        let mut file = File::from(file);
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(|error| error.to_string())?;
        serde_json::from_slice(&bytes)
            .map_err(|error| format!("what the old program handed over is not understood: {error}"))
    }
}

impl Door {
    pub(super) fn of(listener: &Listener, report: Option<Report>, fds: &mut Keep) -> Door {
        Door {
            fd: fds.number(listener.fd.as_fd()),
            address: listener.address.to_string(),
            asked: listener.asked.to_string(),
            protocol: listener.protocol.name().into(),
            inherited: listener.inherited,
            proxy_protocol: listener.proxy_protocol,
            unlink: listener.unlink.clone(),
            report: report.map(|report| report.option().into()),
        }
    }

    pub(super) fn adopt(&self) -> Result<Listener, String> {
        let protocols = [Protocol::Http, Protocol::Uwsgi, Protocol::FastCgi, Protocol::Scgi];
        let protocol = protocols.into_iter().find(|known| known.name() == self.protocol);
        Ok(Listener {
            fd: take(self.fd)?,
            address: Address::parse(&self.address)?,
            asked: Address::parse(&self.asked)?,
            protocol: protocol.ok_or_else(|| format!("{} is no protocol", self.protocol))?,
            inherited: self.inherited,
            proxy_protocol: self.proxy_protocol,
            unlink: self.unlink.clone(),
        })
    }

    pub(super) fn adopt_report(&self) -> Result<(Report, Listener), String> {
        let known = Report::ALL.into_iter().find(|known| Some(known.option()) == self.report.as_deref());
        Ok((known.ok_or_else(|| format!("{:?} is not known", self.report))?, self.adopt()?))
    }
}

/// Takes a descriptor over.
pub(super) fn take(number: RawFd) -> Result<OwnedFd, String> {
    fd::adopt(number).map_err(|error| format!("descriptor {number}: {error}"))
}

/// Descriptors that outlive the change of the program.
#[derive(Default)]
pub(super) struct Keep(Vec<RawFd>);

impl Keep {
    pub(super) fn number(&mut self, fd: BorrowedFd<'_>) -> RawFd {
        self.0.push(fd.as_raw_fd());
        fd.as_raw_fd()
    }

    /// Lets them stay open in the next program; false: not any more.
    pub(super) fn stay(&self, on: bool) -> io::Result<()> {
        self.0.iter().try_for_each(|number| fd::set_close_on_exec_of(*number, !on))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::children::Children;

    #[test]
    fn versions_are_a_mark_and_a_number() {
        assert_ne!(layout()[MARK..], words()[MARK..]);
        for version in [layout(), words()] {
            assert!(version.starts_with("rsgi ") && u64::from_str_radix(&version[MARK..], 16).is_ok(), "{version}");
        }
    }

    #[test]
    fn what_is_handed_over_is_read_again() {
        let settings = Settings { listen: 7, uid: Some(33), ..Settings::default() };
        let handoff = Handoff {
            layout: layout(),
            words: words(),
            version: "1".into(),
            master: 5,
            name: "rsgi".into(),
            start_dir: "/srv".into(),
            limit: Some((1, 2)),
            stdin: Some(b"[uwsgi]".to_vec()),
            passed: vec![3],
            pidfiles: vec![("/run/pid".into(), 9)],
            manager: Manager { socket: Some("@n".into()), watchdog: None },
            kept: Kept::of(&settings),
            last_generation: 4,
            children: Children::new(2).snapshot(),
            controls: vec![(1, 8)],
            generations: Vec::new(),
            boards: vec![Board { workers: 2, threads: 1, fds: [9, 10, 11] }],
            mailboxes: vec![vec![(12, 13)]],
            parked: Vec::new(),
            fifos: vec![("/run/fifo".into(), 3, 14)],
            fifo: 0,
            daemons: Daemons::default(),
            foreign: Vec::new(),
            reloads: (1, 2),
        };
        let read = Handoff::read(handoff.write().unwrap()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{handoff:?}"));
        assert_eq!(read.kept.applied_to(Settings::default()), settings);
        assert!(Handoff::read(memory::file(c"test").unwrap()).unwrap_err().contains("not understood"));
    }
}
