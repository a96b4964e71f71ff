//! The words that master, zygote and workers say to each other, one datagram (SOCK_SEQPACKET) each.
//!
//! Pure: encoding and decoding only. The end of file on such a socket is a word as well: the other
//! side is gone, and a worker or zygote that loses its master finishes and exits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Longest datagram, in bytes. Texts are cut to fit.
pub const MAX_MESSAGE: usize = 4096;

/// Master to zygote. `Fork` carries one descriptor: the worker's end of its control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToZygote {
    /// Fork worker `id` (1-based).
    Fork {
        /// Worker number, from 1.
        id: u32,
        /// The scoreboard lane of the new process.
        lane: u32,
        /// No worker of this number has served in this generation yet.
        first: bool,
    },
    /// The log goes into another file, whose descriptor comes along.
    Log,
}

/// Zygote to master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromZygote {
    /// The application is imported (or, with `lazy-apps`, the interpreter is up); workers can be forked.
    Ready,
    /// The application could not be loaded: the cause in one line, and after it the traceback (which is in the log) or its end.
    LoadFailed(String),
    /// The files of the imported modules; the message carries a descriptor of their list, [`Imported::encode`] one after the other.
    Modules,
    /// The interpreter or the virtualenv is unusable; one line.
    StartFailed(String),
    /// Worker `id` was forked and has process id `pid`.
    Forked {
        /// Worker number, from 1.
        id: u32,
        /// Process id of the worker.
        pid: i32,
    },
    /// Worker `id` could not be forked; one line.
    ForkFailed {
        /// Worker number, from 1.
        id: u32,
        /// The system's reason.
        reason: String,
    },
}

/// A file that was imported. Its time is told by whoever imported it: the master may hear of it when it has changed again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Where it is.
    pub path: PathBuf,
    /// Its modification time, in seconds and nanoseconds; none: it is gone.
    pub time: Option<(i64, i64)>,
}

impl Imported {
    /// Adds it to a list.
    pub fn encode(&self, list: &mut Vec<u8>) {
        if let Some((seconds, nanoseconds)) = self.time {
            list.extend_from_slice(format!("{seconds}.{nanoseconds}").as_bytes());
        }
        list.push(b' ');
        list.extend_from_slice(self.path.as_os_str().as_bytes());
        list.push(0);
    }

    /// The entries of a list, without those that make no sense.
    pub fn decode_all(list: &[u8]) -> Vec<Imported> {
        let decode = |entry: &[u8]| {
            let at = entry.iter().position(|byte| *byte == b' ')?;
            let path = PathBuf::from(OsStr::from_bytes(entry.get(at + 1..).filter(|path| !path.is_empty())?));
            let time = match std::str::from_utf8(&entry[..at]).ok()? {
                "" => None,
                time => {
                    let (seconds, nanoseconds) = time.split_once('.')?;
                    Some((seconds.parse().ok()?, nanoseconds.parse().ok()?))
                }
            };
            Some(Imported { path, time })
        };
        list.split(|byte| *byte == 0).filter_map(decode).collect()
    }
}

/// Why a worker is asked to retire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retire {
    /// Others go on serving the listeners: stop accepting, finish what is in flight, exit.
    Replaced,
    /// The same, by workers on a scoreboard of their own.
    ReplacedElsewhere,
    /// The whole server stops: serve what waits in the listen queue too, then exit.
    Stop,
}

/// Master to worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToWorker {
    /// Retire.
    Retire {
        /// See [`Retire`].
        how: Retire,
        /// Workers 1 to this number read their mailboxes: they inherit connections that wait for their clients. 0: nobody.
        heirs: u32,
    },
    /// The log goes into another file, whose descriptor comes along.
    Log,
    /// Say that you hear this.
    Ping,
    /// Write what every thread is doing into the descriptor that comes with this.
    Stacks,
    /// Accept nothing and begin no request until told otherwise; what is in flight goes on.
    Pause,
    /// Go on.
    Resume,
}

/// Worker to master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromWorker {
    /// Import and post-fork work are done and the listeners are watched.
    Ready,
    /// `lazy-apps`: the application could not be loaded, as [`FromZygote::LoadFailed`].
    LoadFailed(String),
    /// Somebody sent this worker TERM or HUP: it asks to be retired, once a replacement is ready.
    AsksToRetire,
    /// The files of the imported modules, as [`FromZygote::Modules`].
    Modules,
    /// It came to a limit it was given: it is to be replaced when it is old enough.
    Reached(Limit),
    /// A request in it can't be stopped: it is to be replaced at once.
    Stuck,
    /// The answer to [`ToWorker::Ping`].
    Pong,
}

/// A limit of a worker, and what it has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Requests served.
    Requests(u32),
    /// Resident memory, in MiB.
    Resident(u32),
    /// Address space, in MiB.
    AddressSpace(u32),
}

fn text(tag: u8, text: &str) -> Vec<u8> {
    let mut end = text.len().min(MAX_MESSAGE - 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = vec![tag];
    out.extend_from_slice(&text.as_bytes()[..end]);
    out
}

fn number(tag: u8, numbers: &[u32], rest: &str) -> Vec<u8> {
    let mut out = vec![tag];
    for n in numbers {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.extend_from_slice(&text(0, rest)[1..]);
    out
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl ToZygote {
    /// The datagram.
    pub fn encode(self) -> Vec<u8> {
        match self {
            ToZygote::Fork { id, lane, first } => number(b'f', &[id, lane, first.into()], ""),
            ToZygote::Log => vec![b'l'],
        }
    }

    /// The value of a datagram; `None` for one that no version of this program sends.
    pub fn decode(bytes: &[u8]) -> Option<ToZygote> {
        match bytes.first()? {
            b'f' => {
                let (id, lane, first) = (u32_at(bytes, 1)?, u32_at(bytes, 5)?, u32_at(bytes, 9)? != 0);
                Some(ToZygote::Fork { id, lane, first })
            }
            b'l' => Some(ToZygote::Log),
            _ => None,
        }
    }
}

impl FromZygote {
    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            FromZygote::Ready => vec![b'R'],
            FromZygote::Modules => vec![b'M'],
            FromZygote::LoadFailed(why) => text(b'L', why),
            FromZygote::StartFailed(why) => text(b'S', why),
            FromZygote::Forked { id, pid } => number(b'F', &[*id, *pid as u32], ""),
            FromZygote::ForkFailed { id, reason } => number(b'E', &[*id], reason),
        }
    }

    /// The value of a datagram.
    pub fn decode(bytes: &[u8]) -> Option<FromZygote> {
        Some(match bytes.first()? {
            b'R' => FromZygote::Ready,
            b'M' => FromZygote::Modules,
            b'L' => FromZygote::LoadFailed(string(&bytes[1..])),
            b'S' => FromZygote::StartFailed(string(&bytes[1..])),
            b'F' => FromZygote::Forked { id: u32_at(bytes, 1)?, pid: u32_at(bytes, 5)? as i32 },
            b'E' => FromZygote::ForkFailed { id: u32_at(bytes, 1)?, reason: string(bytes.get(5..)?) },
            _ => return None,
        })
    }
}

impl ToWorker {
    /// The datagram.
    pub fn encode(self) -> Vec<u8> {
        match self {
            ToWorker::Retire { how: Retire::Replaced, heirs } => number(b'r', &[heirs], ""),
            ToWorker::Retire { how: Retire::ReplacedElsewhere, heirs } => number(b'e', &[heirs], ""),
            ToWorker::Retire { how: Retire::Stop, heirs } => number(b's', &[heirs], ""),
            ToWorker::Log => vec![b'l'],
            ToWorker::Ping => vec![b'p'],
            ToWorker::Stacks => vec![b'k'],
            ToWorker::Pause => vec![b'h'],
            ToWorker::Resume => vec![b'g'],
        }
    }

    /// The value of a datagram.
    pub fn decode(bytes: &[u8]) -> Option<ToWorker> {
        let how = match bytes.first()? {
            b'r' => Retire::Replaced,
            b'e' => Retire::ReplacedElsewhere,
            b's' => Retire::Stop,
            b'l' => return Some(ToWorker::Log),
            b'p' => return Some(ToWorker::Ping),
            b'k' => return Some(ToWorker::Stacks),
            b'h' => return Some(ToWorker::Pause),
            b'g' => return Some(ToWorker::Resume),
            _ => return None,
        };
        Some(ToWorker::Retire { how, heirs: u32_at(bytes, 1)? })
    }
}

impl FromWorker {
    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            FromWorker::Ready => vec![b'R'],
            FromWorker::Modules => vec![b'M'],
            FromWorker::LoadFailed(why) => text(b'L', why),
            FromWorker::AsksToRetire => vec![b'T'],
            FromWorker::Stuck => vec![b'S'],
            FromWorker::Pong => vec![b'P'],
            FromWorker::Reached(Limit::Requests(n)) => number(b'n', &[*n], ""),
            FromWorker::Reached(Limit::Resident(n)) => number(b'm', &[*n], ""),
            FromWorker::Reached(Limit::AddressSpace(n)) => number(b'a', &[*n], ""),
        }
    }

    /// The value of a datagram.
    pub fn decode(bytes: &[u8]) -> Option<FromWorker> {
        match bytes.first()? {
            b'R' => Some(FromWorker::Ready),
            b'M' => Some(FromWorker::Modules),
            b'L' => Some(FromWorker::LoadFailed(string(&bytes[1..]))),
            b'T' => Some(FromWorker::AsksToRetire),
            b'S' => Some(FromWorker::Stuck),
            b'P' => Some(FromWorker::Pong),
            b'n' => Some(FromWorker::Reached(Limit::Requests(u32_at(bytes, 1)?))),
            b'm' => Some(FromWorker::Reached(Limit::Resident(u32_at(bytes, 1)?))),
            b'a' => Some(FromWorker::Reached(Limit::AddressSpace(u32_at(bytes, 1)?))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_survives_encoding() {
        let long = "é".repeat(MAX_MESSAGE);
        for message in [
            FromZygote::Ready,
            FromZygote::Modules,
            FromZygote::LoadFailed("ImportError: no".into()),
            FromZygote::StartFailed(String::new()),
            FromZygote::Forked { id: 7, pid: 123_456 },
            FromZygote::ForkFailed { id: 1, reason: "EAGAIN".into() },
        ] {
            assert_eq!(FromZygote::decode(&message.encode()), Some(message));
        }
        for message in [
            FromWorker::Ready,
            FromWorker::Modules,
            FromWorker::LoadFailed("x".into()),
            FromWorker::AsksToRetire,
            FromWorker::Stuck,
            FromWorker::Pong,
        ] {
            assert_eq!(FromWorker::decode(&message.encode()), Some(message));
        }
        for limit in [Limit::Requests(1), Limit::Resident(2), Limit::AddressSpace(u32::MAX)] {
            assert_eq!(FromWorker::decode(&FromWorker::Reached(limit).encode()), Some(FromWorker::Reached(limit)));
        }
        for how in [Retire::Replaced, Retire::ReplacedElsewhere, Retire::Stop] {
            let message = ToWorker::Retire { how, heirs: 12 };
            assert_eq!(ToWorker::decode(&message.encode()), Some(message));
        }
        for message in [ToWorker::Ping, ToWorker::Stacks, ToWorker::Pause, ToWorker::Resume] {
            assert_eq!(ToWorker::decode(&message.encode()), Some(message));
        }
        for first in [false, true] {
            let message = ToZygote::Fork { id: 3, lane: 2, first };
            assert_eq!(ToZygote::decode(&message.encode()), Some(message));
        }
        assert_eq!(ToZygote::decode(&ToZygote::Log.encode()), Some(ToZygote::Log));
        assert_eq!(ToWorker::decode(&ToWorker::Log.encode()), Some(ToWorker::Log));
        assert!(FromZygote::LoadFailed(long).encode().len() <= MAX_MESSAGE);
    }

    #[test]
    fn lists_of_files_survive_encoding_and_nonsense_does_not() {
        let files = [("/a b/c.py", Some((-1, 5))), ("/gone", None), ("d", Some((1 << 40, 999_999_999)))];
        let files = files.map(|(path, time)| Imported { path: path.into(), time });
        let mut list = Vec::new();
        files.iter().for_each(|file| file.encode(&mut list));
        assert_eq!(Imported::decode_all(&list), files);
        assert_eq!(Imported::decode_all(b"\x00/old\x001 /no-point\x001.x /no-number\x001.1 \x00"), []);
        assert_eq!(Imported::decode_all(b""), []);
    }

    #[test]
    fn garbage_is_no_message() {
        for bytes in [&b""[..], b"?", b"F\x01", b"f\x01\x00"] {
            assert_eq!(FromZygote::decode(bytes), None);
            assert_eq!(ToZygote::decode(bytes), None);
            assert_eq!(FromWorker::decode(bytes), None);
            assert_eq!(ToWorker::decode(bytes), None);
        }
    }
}
