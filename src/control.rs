//! The words that master, zygote and workers say to each other, one datagram (SOCK_SEQPACKET) each.
//!
//! Pure: encoding and decoding only. The end of file on such a socket is a word as well: the other
//! side is gone, and a worker or zygote that loses its master finishes and exits.

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
    },
}

/// Zygote to master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromZygote {
    /// The application is imported (or, with `lazy-apps`, the interpreter is up); workers can be forked.
    Ready,
    /// The application could not be loaded: the cause in one line, and after it the traceback (which is in the log) or its end.
    LoadFailed(String),
    /// The files of the imported modules; the message carries a descriptor of their list.
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

/// Why a worker is asked to retire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retire {
    /// Others go on serving the listeners: stop accepting, finish what is in flight, exit.
    Replaced,
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
            ToZygote::Fork { id, lane } => number(b'f', &[id, lane], ""),
        }
    }

    /// The value of a datagram; `None` for one that no version of this program sends.
    pub fn decode(bytes: &[u8]) -> Option<ToZygote> {
        match bytes.first()? {
            b'f' => Some(ToZygote::Fork { id: u32_at(bytes, 1)?, lane: u32_at(bytes, 5)? }),
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
            ToWorker::Retire { how: Retire::Stop, heirs } => number(b's', &[heirs], ""),
        }
    }

    /// The value of a datagram.
    pub fn decode(bytes: &[u8]) -> Option<ToWorker> {
        let how = match bytes.first()? {
            b'r' => Retire::Replaced,
            b's' => Retire::Stop,
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
        ] {
            assert_eq!(FromWorker::decode(&message.encode()), Some(message));
        }
        for limit in [Limit::Requests(1), Limit::Resident(2), Limit::AddressSpace(u32::MAX)] {
            assert_eq!(FromWorker::decode(&FromWorker::Reached(limit).encode()), Some(FromWorker::Reached(limit)));
        }
        for how in [Retire::Replaced, Retire::Stop] {
            let message = ToWorker::Retire { how, heirs: 12 };
            assert_eq!(ToWorker::decode(&message.encode()), Some(message));
        }
        assert_eq!(
            ToZygote::decode(&ToZygote::Fork { id: 3, lane: 2 }.encode()),
            Some(ToZygote::Fork { id: 3, lane: 2 })
        );
        assert!(FromZygote::LoadFailed(long).encode().len() <= MAX_MESSAGE);
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
